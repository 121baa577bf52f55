"""The sequences of a KV cache and their page tables.

State, owned by the caller:
    seqs     a `table` arena, one row a sequence, keyed by its id; retired when something that belongs
             to it (`tables`, or `ids` of the pool) has been exchanged too
    tables   int32 (slots,), the page tables; that of a sequence is tables[row[START]:row[START] + row[PAGES]]

    row[START], row[PAGES], row[ROOM]   its slots in `tables`: first, in use, in all
    row[LENGTH]                         tokens
    row[PREFIX], row[PREFIX_PAGES]      tokens and pages of the named prefix, 0 and 0 where none was named
    row[SALT]                           under which its pages are found

The rest of a sequence begins in the page after its prefix, so a part-filled page may stand in
the middle. Slots are handed out from head[TOP_SLOT] on; those given back below it are
gathered by `resized`.

Kernels over the whole cache take its state first, as (pool, seqs, tables, ids, store), and answer (code, ...):

    OK
    FULL       `resized` must make room first, or it already has (seqs is retired)
    ABSENT     the sequence (or, of several, its index in the call) that is not there
    PRESENT    the new sequence is there already
    NO_PAGES   pages needed, pages available
    OUTSIDE    the present length
    TWICE      index of the sequence that comes twice
    UNPINNED   tokens that are pinned
    UNPREPARED there is no room yet for ids beside the entries (1), or for token ids of which nothing else is kept (0)

Where it is not OK, nothing is changed.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, COUNT, OWN, RETIRED, TOP
from . import layout as kv_layout
from . import pages as kv_pool

OK, FULL, ABSENT, PRESENT, NO_PAGES, OUTSIDE, TWICE, UNPINNED, UNPREPARED = 0, 1, 2, 3, 4, 5, 6, 7, 8
START, PAGES, ROOM, LENGTH, PREFIX, PREFIX_PAGES, SALT, COLUMNS = 2, 3, 4, 5, 6, 7, 8, np.int64(9)
# LIVE: slots in use. A kernel that lacks room leaves in WANTED_* what it needs beyond what is in use.
TOP_SLOT, LIVE, WANTED_ROWS, WANTED_SLOTS = OWN, OWN + 1, OWN + 2, OWN + 3


@njit(cache=True)
def new(capacity):
    """(seqs, tables) without sequences, with room for `capacity` of them and as many pages."""
    return table.new(capacity, np.int64(COLUMNS)), np.zeros(capacity, np.int32)


@njit(cache=True)
def resized(seqs, tables, rows, slots):
    """(seqs, tables) with room for `rows` sequences and `slots` pages, at least as many as are in use. O(both).

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
    """Whether `entries` bring token ids that are to be kept, and there is no room for any yet."""
    return entries.shape[0] > 0 and pool[kv_layout.CONTENT] > 0 and pool[kv_layout.STORED] == 0


@njit_no_nrt(cache=True)
def has_room(head, rows, tables, sequences, slots):
    """Whether so many new sequences and slots fit; if not, they are left in head[WANTED_*]."""
    if head[COUNT] + sequences <= rows.shape[0] and head[TOP_SLOT] + slots <= tables.shape[0]:
        return True
    head[WANTED_ROWS], head[WANTED_SLOTS] = sequences, slots
    return False


@njit_no_nrt(cache=True)
def add(head, rows, buckets, seq):
    """The row of a new sequence, empty; there must be room. Expected O(1)."""
    row = table.take_row(head, rows)
    table.insert(rows, buckets, row, seq)
    for column in range(START, COLUMNS):
        rows[row, column] = 0
    return row


@njit_no_nrt(cache=True)
def give_back_slots(head, rows, row):
    """Its slots are no longer in use. O(1)."""
    head[LIVE] -= rows[row, PAGES]
    if rows[row, START] + rows[row, ROOM] == head[TOP_SLOT]:
        head[TOP_SLOT] = rows[row, START]
    rows[row, START] = rows[row, PAGES] = rows[row, ROOM] = 0


@njit_no_nrt(cache=True)
def release_pages(head, rows, names, memory, shead, srows, tables, row, keep):
    """Let go of all pages of a sequence but the first `keep`, the last one first. O(pages let go)."""
    start = srows[row, START]
    for i in range(srows[row, PAGES] - 1, keep - 1, -1):
        kv_pool.release(head, rows, names, memory, np.int64(tables[start + i]))
    shead[LIVE] -= srows[row, PAGES] - keep
    srows[row, PAGES] = keep


@njit_no_nrt(cache=True)
def wanted_slots(rows, row, pages):
    """The most slots that `widen` may hand out for a table of so many pages."""
    return max(pages, 2 * rows[row, ROOM]) if pages > rows[row, ROOM] else np.int64(0)


@njit_no_nrt(cache=True)
def widen(head, rows, tables, row, pages):
    """Give a page table room for so many pages; there must be `wanted_slots`. Amortised O(pages added)."""
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
    """Pages that so many tokens fill."""
    return (tokens + page_size - 1) // page_size


@njit_no_nrt(cache=True)
def place(rows, row, page_size, position):
    """(index in the page table, slot in the page) of a token."""
    prefix = rows[row, PREFIX]
    if position < prefix:
        return position // page_size, position % page_size
    return rows[row, PREFIX_PAGES] + (position - prefix) // page_size, (position - prefix) % page_size


@njit_no_nrt(cache=True)
def filled(rows, row, page_size, i):
    """Tokens in page number i of a sequence."""
    if i < rows[row, PREFIX_PAGES]:
        return min(page_size, rows[row, PREFIX] - i * page_size)
    return min(page_size, rows[row, LENGTH] - rows[row, PREFIX] - (i - rows[row, PREFIX_PAGES]) * page_size)


@njit(cache=True)
def block_table(pool, seqs, tables, ids, store, seq_ids):
    """The page tables of `seq_ids` int64 (n,), all on the second level unless a prefix was named.

    (OK, FULL or ABSENT; index of the first unknown id; whether a prefix was named; then for prefixes and
    for the rest: indptr int32 (n + 1,), indices int32 (indptr[n],), tokens in the last page int32 (n,)).
    """
    head, srows, sbuckets = table.parts(seqs)
    n, page_size = seq_ids.shape[0], pool[kv_layout.PAGE_SIZE]
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
