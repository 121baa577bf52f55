"""The tail of an inverted index: checks of arrays from a file, whose contents may be anything."""

import numpy as np

from ..compiling import njit
from .tail import (
    AT,
    DEAD,
    DF,
    FILL,
    FIRST,
    FORWARD,
    LAST,
    LENGTH,
    LIVE,
    NEVER,
    POOL,
    POSTINGS,
    REMOVED,
    SLOTS,
    TERMS,
    find_slot,
    frequency,
)

WHOLE, COUNTS, DOCUMENTS, CHUNKS, FREQUENCIES, WORDS = 0, 1, 2, 3, 4, 5
FAULTS = (
    "",
    "the counts do not fit the arrays",
    "the table of documents does not add up",
    "a chunk of postings is outside of the pool, overlaps another or is out of order",
    "document or term frequencies do not add up",
    "the postings and the documents' lists of terms differ",
)


@njit(cache=True)
def first_fault(tail, term_count):
    """Return the first of FAULTS of `layout.TailArrays`, or WHOLE. term_count: number of terms in the vocabulary.

    Safe on any contents, if doc_ids, lengths, removed and forward_starts[1:] have the same length, slots and tfs too,
    and the length of id_buckets is a power of two.
    """
    head, doc_ids, lengths, removed, forward_starts = (
        tail.head, tail.doc_ids, tail.lengths, tail.removed, tail.forward_starts,
    )  # fmt: skip
    forward, id_buckets, terms, slots, tfs = tail.forward, tail.id_buckets, tail.terms, tail.slots, tail.tfs
    for e in range(head.shape[0]):
        if head[e] < 0:
            return COUNTS
    if (
        head[SLOTS] != head[LIVE] + head[REMOVED]
        or head[SLOTS] > doc_ids.shape[0]
        or 2 * head[SLOTS] > id_buckets.shape[0]
        or head[POOL] > slots.shape[0]
        or head[FORWARD] > forward.shape[0]
        or term_count > terms.shape[0]
    ):
        return COUNTS
    if not _documents_hold(head, doc_ids, lengths, removed, forward_starts, id_buckets):
        return DOCUMENTS
    owned = np.zeros(head[POOL] + 1, np.uint8)
    for term in range(terms.shape[0]):
        if not _chunks_hold(head, terms, slots, tfs, term, owned):
            return CHUNKS
        if term >= term_count and terms[term, FIRST] != 0:
            return CHUNKS
    for at in range(head[POOL], slots.shape[0]):
        if slots[at] != NEVER or tfs[at] != 0:
            return CHUNKS
    if not _frequencies_hold(head, lengths, removed, forward_starts, terms, slots, tfs):
        return FREQUENCIES
    return WHOLE if _words_hold(head, forward_starts, forward, terms, slots, tfs, term_count) else WORDS


@njit(cache=True)
def _documents_hold(head, doc_ids, lengths, removed, forward_starts, id_buckets):
    numbers = np.zeros(head[REMOVED] + 1, np.uint8)
    total, live = np.int64(0), 0
    if forward_starts[0] != 0 or forward_starts[head[SLOTS]] != head[FORWARD]:
        return False
    for slot in range(head[SLOTS]):
        if doc_ids[slot] < 0 or lengths[slot] < 0 or forward_starts[slot] > forward_starts[slot + 1]:
            return False
        if removed[slot] == NEVER:
            total += lengths[slot]
            live += 1
        elif not 1 <= removed[slot] <= head[REMOVED] or numbers[removed[slot]]:
            return False
        else:
            numbers[removed[slot]] = 1
    if total != head[LENGTH] or live != head[LIVE]:
        return False
    entered = np.zeros(head[SLOTS], np.uint8)
    used = 0
    for bucket in range(id_buckets.shape[0]):
        slot = id_buckets[bucket]
        if slot != -1:
            if not 0 <= slot < head[SLOTS] or entered[slot]:
                return False
            entered[slot] = 1
            used += 1
    if used != head[SLOTS]:
        return False
    for slot in range(head[SLOTS]):
        if removed[slot] == NEVER:
            if find_slot(doc_ids, removed, id_buckets, head[SLOTS], head[REMOVED], doc_ids[slot]) != slot:
                return False
    return True


@njit(cache=True)
def _chunks_hold(head, terms, slots, tfs, term, owned):
    """Check that a term's chunks are in the pool, do not overlap, ascend, and are full except the last."""
    row = terms[term]
    if row[AT] < 0:
        return False
    chunk, last, fill, previous = np.int64(row[FIRST]), 0, 0, -1
    while chunk != 0:
        if chunk < 1 or chunk > head[POOL]:
            return False
        capacity = np.int64(tfs[chunk - 1])
        if capacity < 1 or chunk + capacity > head[POOL]:
            return False
        for at in range(chunk - 1, chunk + capacity):  # what is visited twice is owned already
            if owned[at]:
                return False
            owned[at] = 1
        fill = 0
        for at in range(chunk, chunk + capacity):
            if slots[at] == NEVER:
                break
            if not previous < slots[at] < head[SLOTS] or tfs[at] < 1:
                return False
            previous = slots[at]
            fill += 1
        for at in range(chunk + fill, chunk + capacity):
            if slots[at] != NEVER:
                return False
        last, chunk = chunk, np.int64(slots[chunk - 1])
        if chunk != 0 and fill < capacity:
            return False
    return row[LAST] == last and row[FILL] == fill and (last == 0 or previous >= 0)


@njit(cache=True)
def _frequencies_hold(head, lengths, removed, forward_starts, terms, slots, tfs):
    words, distinct = np.zeros(head[SLOTS], np.int64), np.zeros(head[SLOTS], np.int64)
    postings, used = np.int64(0), 0
    for term in range(terms.shape[0]):
        live, dead = 0, 0
        chunk = np.int64(terms[term, FIRST])
        while chunk != 0:
            for at in range(chunk, chunk + np.int64(tfs[chunk - 1])):
                slot = np.int64(slots[at])
                if slot == NEVER:
                    break
                words[slot] += tfs[at]
                distinct[slot] += 1
                if removed[slot] == NEVER:
                    live += 1
                else:
                    dead += 1
            chunk = np.int64(slots[chunk - 1])
        if terms[term, DF] != live or terms[term, DEAD] != dead:
            return False
        postings += live
        used += live > 0
    for slot in range(head[SLOTS]):
        if words[slot] != lengths[slot] or distinct[slot] != forward_starts[slot + 1] - forward_starts[slot]:
            return False
    return postings == head[POSTINGS] and used == head[TERMS]


@njit(cache=True)
def _words_hold(head, forward_starts, forward, terms, slots, tfs, term_count):
    """Check that each document lists distinct terms that have a posting of it; by their number, it lists all."""
    seen = np.empty(term_count, np.int64)
    for term in range(term_count):
        seen[term] = -1
    for slot in range(head[SLOTS]):
        for at in range(forward_starts[slot], forward_starts[slot + 1]):
            term = np.int64(forward[at])
            if not 0 <= term < term_count or seen[term] == slot or frequency(terms, slots, tfs, term, slot) == 0:
                return False
            seen[term] = slot
    return True
