"""Which of the vectors that were ever added is a document's present one.

State, owned by the caller:
    arena        `table` rows (KEY: a document's id, NUMBER: the number of its vector), one for each
                 document that has a vector
    document_of  int64 (capacity,), the document whose present vector has this number, -1 if none
"""

import numpy as np

from . import table
from .compiling import njit

NUMBER, COLUMNS = 2, np.int64(3)


@njit(cache=True)
def assign(arena, document_of, documents, numbers):
    """Vector numbers[e] is from now on that of documents[e], in order; -1: it has none. How many were dropped.

    documents and numbers int64 (m,); the arena must have m free rows. O(m).
    """
    head, rows, buckets = table.parts(arena)
    dropped = 0
    for e in range(documents.shape[0]):
        row = table.find(rows, buckets, documents[e])
        if row >= 0:
            document_of[rows[row, NUMBER]] = -1
            dropped += 1
        if numbers[e] < 0:
            if row >= 0:
                table.remove(rows, buckets, row)
                table.free_row(head, rows, row)
            continue
        if row < 0:
            row = table.take_row(head, rows)
            table.insert(rows, buckets, row, documents[e])
        rows[row, NUMBER] = numbers[e]
        document_of[numbers[e]] = documents[e]
    return dropped


@njit(cache=True)
def numbers_of(arena, documents):
    """The vector number of each document, -1 where it has none: int64, shape of `documents` (n, c). O(n c)."""
    _, rows, buckets = table.parts(arena)
    numbers = np.empty(documents.shape, np.int64)
    for q in range(documents.shape[0]):
        for e in range(documents.shape[1]):
            row = table.find(rows, buckets, documents[q, e]) if documents[q, e] >= 0 else np.int64(-1)
            numbers[q, e] = rows[row, NUMBER] if row >= 0 else -1
    return numbers


@njit(cache=True, nogil=True)
def live_first(ids, scores, document_of, depth):
    """Vector numbers, as a search gives them, to document ids, dropped vectors left out.

    ids int64 (n, c) padded with -1, scores float32 (n, c). Returns ids and scores (n, depth), padded with -1
    and -inf, equal scores by smaller id, and whether no row could have had more from a longer search.
    """
    n, width = ids.shape
    live, kept = np.empty((n, depth), np.int64), np.empty((n, depth), np.float32)
    complete = True
    for q in range(n):
        count, seen = 0, 0
        while seen < width and ids[q, seen] >= 0 and count < depth:
            number = ids[q, seen]  # one beyond the array was added after the reader took it
            if number < document_of.shape[0] and document_of[number] >= 0:
                at = count
                while at > 0 and kept[q, at - 1] == scores[q, seen] and live[q, at - 1] > document_of[number]:
                    live[q, at], kept[q, at] = live[q, at - 1], kept[q, at - 1]
                    at -= 1
                live[q, at], kept[q, at] = document_of[number], scores[q, seen]
                count += 1
            seen += 1
        complete &= count == depth or seen < width
        for at in range(count, depth):
            live[q, at], kept[q, at] = -1, -np.inf
    return live, kept, complete


@njit(cache=True)
def first_fault(arena, document_of, count):
    """First number below `count` that no document or another document claims; -1 if none. Safe on any contents of a
    `table.well_formed` arena."""
    head, rows, buckets = table.parts(arena)
    if table.first_fault(head, rows, buckets) != -1 or count > document_of.shape[0]:
        return np.int64(0)
    live = 0
    for number in range(count):
        if document_of[number] == -1:
            continue
        row = table.find(rows, buckets, document_of[number])
        if document_of[number] < 0 or row < 0 or rows[row, NUMBER] != number:
            return np.int64(number)
        live += 1
    return np.int64(-1) if live == head[table.COUNT] else np.int64(count)
