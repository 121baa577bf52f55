"""The sequences of a KV cache and their page tables.

State, owned by the caller:
    seqs     a `table` arena, one row a sequence, keyed by its id; it is retired when it, or another array of the cache
             (`tables`, `ids` or `store`), has been replaced by a new one
    tables   int32 (slots,), the page tables; that of a sequence is tables[row[START]:row[START] + row[PAGES]]
`parts` cuts both into `Sequences`.

    row[START], row[PAGES], row[ROOM]   its slots in `tables`: the first, how many are in use, how many it has
    row[LENGTH]                         tokens
    row[PREFIX], row[PREFIX_PAGES]      tokens and pages of the named prefix, 0 and 0 where none was named
    row[SALT]                           the salt under which its pages are found

The rest of a sequence begins in the page after its prefix, so a part-filled page may lie in the middle. New slots
are taken from head[TOP_SLOT] on; those given back below it are collected by `resized`.

Kernels over a whole cache take its arrays first, as (pool, seqs, tables, ids, store), and return (code, ...):

    OK
    FULL       `resized` must make room first, or has already done so (seqs is retired)
    ABSENT     the sequence (or, of several, its index in the call) that is unknown
    PRESENT    the new sequence exists already
    NO_PAGES   pages needed, pages available
    OUTSIDE    the present length
    TWICE      index of the sequence that occurs twice
    UNPINNED   tokens that are pinned
    UNPREPARED there is no room yet for ids beside the entries (1), or for token ids that are kept nowhere else (0)

Unless the code is OK, nothing has changed.
"""

from typing import NamedTuple

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, COUNT, OWN, RETIRED, TOP
from . import layout
from .pages import release

OK, FULL, ABSENT, PRESENT, NO_PAGES, OUTSIDE, TWICE, UNPINNED, UNPREPARED = 0, 1, 2, 3, 4, 5, 6, 7, 8
START, PAGES, ROOM, LENGTH, PREFIX, PREFIX_PAGES, SALT, COLUMNS = 2, 3, 4, 5, 6, 7, 8, np.int64(9)
# LIVE: slots in use. A kernel that lacks room leaves in WANTED_* what it needs beyond what is in use.
TOP_SLOT, LIVE, WANTED_ROWS, WANTED_SLOTS = OWN, OWN + 1, OWN + 2, OWN + 3


class Sequences(NamedTuple):
    """The table of sequences, cut as by `table.parts`, and the page tables."""

    head: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray
    tables: np.ndarray


@njit(cache=True)
def new(capacity):
    """Return (seqs, tables) without sequences, with room for `capacity` of them and as many pages."""
    return table.new(capacity, np.int64(COLUMNS)), np.zeros(capacity, np.int32)


@njit(cache=True)
def parts(seqs, tables):
    """Return the `Sequences` of a cache: views, not copies."""
    head, rows, buckets = table.parts(seqs)
    return Sequences(head, rows, buckets, tables)


@njit(cache=True)
def resized(seqs, tables, rows, slots):
    """Return (seqs, tables) with room for `rows` sequences and `slots` pages, at least as many as are in use. O(both).

    The old arena is retired.
    """
    larger = table.resized(seqs, max(rows, seqs[TOP]))
    head, srows, _ = table.parts(larger)
    fresh = np.zeros(max(slots, head[LIVE]), np.int32)
    top = 0
    for row in range(head[TOP]):
        if srows[row, BUCKET] >= 0:
            start, pages = srows[row, START], srows[row, PAGES]
            for i in range(pages):
                fresh[top + i] = tables[start + i]
            srows[row, START], srows[row, ROOM] = top if pages > 0 else 0, pages
            top += pages
    head[TOP_SLOT] = top
    head[WANTED_ROWS] = head[WANTED_SLOTS] = 0
    return larger, fresh


@njit_no_nrt(cache=True)
def unprepared(pool, entries):
    """Return whether `entries` are token ids that must be kept while there is no room for any yet."""
    return entries.shape[0] > 0 and pool[layout.CONTENT] > 0 and pool[layout.STORED] == 0


@njit_no_nrt(cache=True)
def has_room(held, sequences, slots):
    """Return whether so many new sequences and slots fit; if not, leave the numbers in head[WANTED_*].

    `held`: the `Sequences` of a cache, here and below.
    """
    head = held.head
    if head[COUNT] + sequences <= held.rows.shape[0] and head[TOP_SLOT] + slots <= held.tables.shape[0]:
        return True
    head[WANTED_ROWS], head[WANTED_SLOTS] = sequences, slots
    return False


@njit_no_nrt(cache=True)
def add(held, seq):
    """Return the row of a new sequence, empty; there must be room. Expected O(1)."""
    row = table.take_row(held.head, held.rows)
    table.insert(held.rows, held.buckets, row, seq)
    for column in range(START, COLUMNS):
        held.rows[row, column] = 0
    return row


@njit_no_nrt(cache=True)
def remove(pages, held, row):
    """Remove a sequence: its last page becomes the oldest of its own. O(pages).

    `pages`: the `Pages` of the cache.
    """
    release_pages(pages, held, row, np.int64(0))
    give_back_slots(held, row)
    table.remove(held.rows, held.buckets, row)
    table.free_row(held.head, held.rows, row)


@njit_no_nrt(cache=True)
def give_back_slots(held, row):
    """Give back the slots of a sequence. O(1)."""
    head, rows = held.head, held.rows
    head[LIVE] -= rows[row, PAGES]
    if rows[row, START] + rows[row, ROOM] == head[TOP_SLOT]:
        head[TOP_SLOT] = rows[row, START]
    rows[row, START] = rows[row, PAGES] = rows[row, ROOM] = 0


@njit_no_nrt(cache=True)
def release_pages(pages, held, row, keep):
    """Release all pages of a sequence but the first `keep`, the last one first. O(pages released)."""
    rows = held.rows
    start = rows[row, START]
    for i in range(rows[row, PAGES] - 1, keep - 1, -1):
        release(pages, np.int64(held.tables[start + i]))
    held.head[LIVE] -= rows[row, PAGES] - keep
    rows[row, PAGES] = keep


@njit_no_nrt(cache=True)
def wanted_slots(rows, row, pages):
    """Return the most slots that `widen` may take for a table of so many pages."""
    return max(pages, 2 * rows[row, ROOM]) if pages > rows[row, ROOM] else np.int64(0)


@njit_no_nrt(cache=True)
def widen(held, row, pages):
    """Give a page table room for so many pages; there must be `wanted_slots`. Amortised O(pages added)."""
    head, rows, tables = held.head, held.rows, held.tables
    start, room = rows[row, START], rows[row, ROOM]
    if pages <= room:
        return
    wanted = max(pages, 2 * room)
    if start + room == head[TOP_SLOT]:
        head[TOP_SLOT] = start + wanted
    else:
        rows[row, START] = head[TOP_SLOT]
        head[TOP_SLOT] += wanted
        for i in range(rows[row, PAGES]):
            tables[rows[row, START] + i] = tables[start + i]
    rows[row, ROOM] = wanted


@njit_no_nrt(cache=True)
def pages_for(tokens, page_size):
    """Return how many pages so many tokens fill."""
    return (tokens + page_size - 1) // page_size


@njit_no_nrt(cache=True)
def place(rows, row, page_size, position):
    """Return (index in the page table, slot in the page) of a token."""
    prefix = rows[row, PREFIX]
    if position < prefix:
        return position // page_size, position % page_size
    return rows[row, PREFIX_PAGES] + (position - prefix) // page_size, (position - prefix) % page_size


@njit_no_nrt(cache=True)
def filled(rows, row, page_size, i):
    """Return the number of tokens in page number i of a sequence."""
    if i < rows[row, PREFIX_PAGES]:
        return min(page_size, rows[row, PREFIX] - i * page_size)
    return min(page_size, rows[row, LENGTH] - rows[row, PREFIX] - (i - rows[row, PREFIX_PAGES]) * page_size)


@njit(cache=True)
def block_table(pool, seqs, tables, ids, store, seq_ids):
    """Return the page tables of `seq_ids` int64 (n,), all on the second level unless a prefix was named.

    (OK, FULL or ABSENT; index of the first unknown id; whether a prefix was named; then for prefixes and
    for the rest: indptr int32 (n + 1,), indices int32 (indptr[n],), tokens in the last page int32 (n,)). O(pages).
    """
    head, srows, sbuckets = table.parts(seqs)
    n, page_size = seq_ids.shape[0], pool[layout.PAGE_SIZE]
    found = np.empty(n, np.int64)
    starts = np.zeros((2, n + 1), np.int32)
    last = np.zeros((2, n), np.int32)
    code, at, named = FULL if head[RETIRED] else OK, 0, False
    if code == OK:
        for e in range(n):
            row = table.find(srows, sbuckets, seq_ids[e])
            if row < 0:
                code, at = ABSENT, e
                break
            found[e] = row
            named |= srows[row, PREFIX] > 0
            prefix, total = srows[row, PREFIX_PAGES], srows[row, PAGES]
            starts[0, e + 1] = starts[0, e] + prefix
            starts[1, e + 1] = starts[1, e] + total - prefix
            if prefix > 0:
                last[0, e] = filled(srows, row, page_size, prefix - 1)
            if total > prefix:
                last[1, e] = filled(srows, row, page_size, total - 1)
    whole = n if code == OK else 0
    first, second = np.empty(starts[0, whole], np.int32), np.empty(starts[1, whole], np.int32)
    for e in range(whole):
        row = found[e]
        start, prefix = srows[row, START], srows[row, PREFIX_PAGES]
        for i in range(prefix):
            first[starts[0, e] + i] = tables[start + i]
        for i in range(srows[row, PAGES] - prefix):
            second[starts[1, e] + i] = tables[start + prefix + i]
    return code, at, named, starts[0], first, last[0], starts[1], second, last[1]
