"""Whether the arrays of a KV cache hold together: what stands between a file, or a bug, and the other kernels.

Every function is safe on any contents of arrays whose sizes are `well_formed`.
"""

import numpy as np

from . import table
from .compiling import njit
from .kv_pool import (
    BLANK,
    BLANKS,
    BUCKET,
    CACHED,
    CHILD,
    COUNT,
    ENTRY_BYTES,
    FINDABLE,
    HEAD,
    MAX_PAGES,
    NAME,
    NEWER,
    NEWEST,
    NEXT,
    OLDER,
    OLDEST,
    PAGE_SIZE,
    PARENT,
    PART,
    PREV,
    REFS,
    SHARED,
    SHARES,
    SHARING,
    STORED,
    TOTAL_REFS,
    find,
    hash_ids,
    parts,
    size,
)
from .kv_tables import COLUMNS, LENGTH, LIVE, PAGES, PREFIX, PREFIX_PAGES, ROOM, START, TOP_SLOT, pages_for
from .table import BUCKET as SEQ_BUCKET
from .table import TOP

_ZERO = np.int64(0)

# What `first_fault` answers, in words; 0 is sound.
FAULTS = (
    "",
    "settings are out of range",
    "a page column leads nowhere",
    "a bucket and its page disagree",
    "the chain of blank pages is broken",
    "the chain of cached pages is broken",
    "a page is referenced, cached or blank more than once, or none of them",
    "the tree of findable pages is broken",
    "a findable page is not found by its key",
    "the table of sequences is broken",
    "a sequence's slots overlap or leave the table",
    "a sequence's length and pages disagree",
    "a page's references are miscounted",
    "a findable page stands at another place in a table, or holds more there than it is named for",
)


@njit(cache=True)
def well_formed(pool, seqs, tables):
    """Whether the arrays, any int64 (n,) and int32 (n,), may be cut by `parts`."""
    limit = 2**31
    return (
        pool.shape[0] >= HEAD
        and 1 <= pool[MAX_PAGES] < limit
        and 1 <= pool[PAGE_SIZE] < limit
        and 0 <= pool[ENTRY_BYTES] < limit
        and pool.shape[0] == size(pool[MAX_PAGES])
        and table.well_formed(seqs, COLUMNS)
        and 0 <= seqs[TOP_SLOT] <= tables.shape[0]
    )


@njit(cache=True)
def first_fault(pool, seqs, tables, ids):
    """The number in FAULTS of the first thing that does not hold, 0 if all does. O(everything)."""
    head, rows, names, buckets = parts(pool)
    n, page_size = head[MAX_PAGES], head[PAGE_SIZE]
    if not (0 <= head[SHARING] <= 1 and 0 <= head[STORED] <= 1):
        return 1
    for counter in range(SHARES, head.shape[0]):
        if head[counter] < 0:
            return 1
    findable = 0
    for page in range(n + 1):
        if not (0 <= rows[page, COUNT] <= page_size and -1 <= rows[page, BUCKET] < buckets.shape[0]):
            return 2
        for column in (PARENT, CHILD, PART, NEXT, PREV, NEWER, OLDER):
            if not -1 <= rows[page, column] <= n - (column != PARENT):
                return 2
        if rows[page, BUCKET] >= 0:
            if buckets[rows[page, BUCKET]] != page or page == n or (rows[page, COUNT] > 0 and page >= ids.shape[0]):
                return 3
            findable += 1
        elif rows[page, COUNT] != 0:
            return 3
    used = 0
    for bucket in range(buckets.shape[0]):
        used += buckets[bucket] != -1
    if findable != used or findable != head[FINDABLE] or rows[n, REFS] != 0:
        return 3
    fault = _free_fault(head, rows)
    if fault:
        return fault
    depth = np.full(n + 1, -1, np.int64)
    fault = _tree_fault(head, rows, names, buckets, ids, depth)
    if fault:
        return fault
    return _sequence_fault(head, rows, seqs, tables, depth)


@njit(cache=True)
def _free_fault(head, rows):
    """Every page is referenced, or in one of two chains."""
    n = head[MAX_PAGES]
    if not (0 <= head[BLANKS] <= n and 0 <= head[CACHED] <= n - head[BLANKS]):
        return 4
    free = np.zeros(n, np.bool_)
    page = head[BLANK]
    for _ in range(head[BLANKS]):
        if page < 0 or page >= n or free[page] or rows[page, REFS] != 0 or rows[page, BUCKET] != -1:
            return 4
        free[page] = True
        page = np.int64(rows[page, NEWER])
    page, before = head[OLDEST], np.int64(-1)
    for _ in range(head[CACHED]):
        if page < 0 or page >= n or free[page] or rows[page, REFS] != 0 or rows[page, BUCKET] < 0:
            return 5
        if rows[page, OLDER] != before:
            return 5
        free[page] = True
        before, page = page, np.int64(rows[page, NEWER])
    if page != -1 or head[NEWEST] != before:
        return 5
    for page in range(n):
        if free[page] != (rows[page, REFS] == 0) or rows[page, REFS] < 0:
            return 6
    return 0


@njit(cache=True)
def _tree_fault(head, rows, names, buckets, ids, depth):
    """Findable pages are a tree below the root, and each is found; depth[page] becomes the pages above it."""
    n, page_size = head[MAX_PAGES], head[PAGE_SIZE]
    origin = np.empty((0, 3), np.int64)
    queue = np.empty(n + 1, np.int64)
    queue[0], filled, done = n, 1, 0
    while done < filled:
        parent = queue[done]
        done += 1
        for chain in (CHILD, PART):
            before, page = np.int64(-1), np.int64(rows[parent, chain])
            while page >= 0:
                full = rows[page, COUNT] == 0 or rows[page, COUNT] == page_size
                if depth[page] >= 0 or rows[page, BUCKET] < 0 or rows[page, PARENT] != parent:
                    return 7
                if rows[page, PREV] != before or full != (chain == CHILD):
                    return 7
                depth[page] = depth[parent] + 1
                queue[filled] = page
                filled += 1
                before, page = page, np.int64(rows[page, NEXT])
        if parent < n and rows[parent, COUNT] > 0 and rows[parent, COUNT] < page_size and rows[parent, CHILD] >= 0:
            return 7
    if filled != head[FINDABLE] + 1:
        return 7
    for at in range(1, filled):
        page = queue[at]
        count = np.int64(rows[page, COUNT])
        tokens = ids[page] if count > 0 else np.empty(0, np.int64)
        if count > 0 and names[page, NAME] != hash_ids(tokens, _ZERO, count):
            return 8
        name, parent = names[page, NAME], np.int64(rows[page, PARENT])
        if find(rows, names, buckets, ids, origin, parent, name, tokens, _ZERO, count) != page:
            return 8
    return 0


@njit(cache=True)
def _sequence_fault(head, rows, seqs, tables, depth):
    """Page tables lie apart, fit the lengths, and account for every reference."""
    n, page_size = head[MAX_PAGES], head[PAGE_SIZE]
    shead, srows, sbuckets = table.parts(seqs)
    if table.first_fault(shead, srows, sbuckets) != -1:
        return 9
    top, live, total = shead[TOP_SLOT], 0, 0
    taken = np.zeros(top, np.bool_)
    refs, seen = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    for row in range(shead[TOP]):
        if srows[row, SEQ_BUCKET] < 0:
            continue
        start, pages, room = srows[row, START], srows[row, PAGES], srows[row, ROOM]
        if srows[row, table.KEY] < 0 or not (0 <= pages <= room and 0 <= start <= top and room <= top - start):
            return 10
        for slot in range(start, start + room):
            if taken[slot]:
                return 10
            taken[slot] = True
        length, prefix, prefix_pages = srows[row, LENGTH], srows[row, PREFIX], srows[row, PREFIX_PAGES]
        if not (0 <= prefix <= length <= pages * page_size and prefix_pages == pages_for(prefix, page_size)):
            return 11
        if pages != prefix_pages + pages_for(length - prefix, page_size):
            return 11
        live += pages
        for i in range(pages):
            page = np.int64(tables[start + i])
            if page < 0 or page >= n or seen[page] == row:
                return 12
            seen[page] = row
            refs[page] += 1
            last = prefix - i * page_size if i < prefix_pages else length - prefix - (i - prefix_pages) * page_size
            count = rows[page, COUNT]
            if depth[page] >= 0 and (depth[page] != i or (count > 0 and min(last, page_size) > count)):
                return 13
    if live != shead[LIVE]:
        return 10
    shared = 0
    for page in range(n):
        if refs[page] != rows[page, REFS]:
            return 12
        shared += refs[page] > 1
        total += refs[page]
    if shared != head[SHARED] or total != head[TOTAL_REFS]:
        return 12
    return 0
