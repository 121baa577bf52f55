"""Checks of the arrays of a KV cache: what they find, in a file or after a bug, could crash the other kernels.

Every function is safe on any contents of arrays whose sizes are `well_formed` and whose policy is bound.
"""

import numpy as np

from .. import table
from ..compiling import njit
from . import events, layout, sequences
from .eviction import dispatch as eviction
from .hashes import block_key, page_name, root_name
from .pages import find
from .sequences import pages_for

_ZERO = np.int64(0)

# What the numbers mean that `first_fault` returns; 0: nothing is wrong.
FAULTS = (
    "",
    "settings are out of range",
    "a number in a page's row is out of range",
    "a bucket and its page disagree",
    "the chain of blank pages is broken",
    "the order in which cached pages leave is broken",
    "a page is referenced, cached or blank more than once, or none of them",
    "the tree of findable pages is broken",
    "a findable page is not found by its key",
    "the table of sequences is broken",
    "a sequence's slots overlap or leave the table",
    "a sequence's length and pages disagree",
    "a page's references are miscounted",
    "a findable page has another index in a page table, another salt, or more tokens there than it is named for",
    "pins are miscounted",
)


@njit(cache=True)
def well_formed(pool, seqs, tables, memory):
    """Return whether the arrays, any int64 (n,) and int32 (n,), have sizes by which `parts` may cut them.

    `memory`: the elements that the eviction policy needs for the number of pages in the pool.
    """
    limit = 2**31
    return (
        pool.shape[0] >= layout.HEAD
        and 1 <= pool[layout.MAX_PAGES] < limit
        and 1 <= pool[layout.PAGE_SIZE] < limit
        and 0 <= pool[layout.ENTRY_BYTES] < limit
        and 0 <= pool[layout.EVENTS] < limit
        and pool[layout.MEMORY] == memory + events.EVENT * pool[layout.EVENTS]
        and pool.shape[0] == layout.size(pool[layout.MAX_PAGES], pool[layout.MEMORY])
        and table.well_formed(seqs, sequences.COLUMNS)
        and 0 <= seqs[sequences.TOP_SLOT] <= tables.shape[0]
    )


@njit(cache=True)
def first_fault(pool, seqs, tables, ids, store):
    """Return the number in FAULTS of the first invariant that does not hold, 0 if all hold. O(all arrays)."""
    pages = layout.parts(pool)
    head, rows, buckets = pages.head, pages.rows, pages.buckets
    n, page_size = head[layout.MAX_PAGES], head[layout.PAGE_SIZE]
    for flag in (layout.SHARING, layout.CONTENT, layout.STORED, layout.VISIBLE, layout.VERIFY):
        if not 0 <= head[flag] <= 1:
            return 1
    stored, named = n * page_size * head[layout.ENTRY_BYTES], n * page_size * head[layout.ID_BYTES]
    if store.shape[0] != (stored if head[layout.STORED] else 0) or (ids.shape[0] != 0 and ids.shape[0] != named):
        return 1
    if not 1 <= head[layout.ID_BYTES] <= 8 or (
        head[layout.CONTENT] and head[layout.ID_BYTES] != head[layout.ENTRY_BYTES]
    ):
        return 1
    for counter in range(layout.SHARES, layout.ATTACHED + 1):
        if head[counter] < 0:
            return 1
    if head[layout.READ] > head[layout.RECORDED] or not 0 <= head[layout.PINNED] <= head[layout.MAX_PINNED] <= n:
        return 1
    findable, pinned = 0, 0
    for page in range(n + 1):
        if not (0 <= rows[page, layout.COUNT] <= page_size and -1 <= rows[page, layout.BUCKET] < buckets.shape[0]):
            return 2
        for column in (layout.PARENT, layout.CHILD, layout.PART, layout.NEXT, layout.PREV, layout.NEWER, layout.OLDER):
            if not -1 <= rows[page, column] <= n - (column != layout.PARENT):
                return 2
        if rows[page, layout.BUCKET] >= 0:
            own, kept = rows[page, layout.STATE] & layout.OWN, ids.shape[0] > 0
            if not own:
                kept = head[layout.CONTENT] and head[layout.STORED]
            if (
                buckets[rows[page, layout.BUCKET]] & 0xFFFFFFFF != page
                or page == n
                or (rows[page, layout.COUNT] > 0 and not kept)
            ):
                return 3
            findable += 1
        elif rows[page, layout.COUNT] != 0 or rows[page, layout.PINS] != 0:
            return 3
        if rows[page, layout.PINS] < 0:
            return 14
        pinned += rows[page, layout.PINS] > 0
    used = 0
    for bucket in range(buckets.shape[0]):
        used += buckets[bucket] != layout.EMPTY
    if pinned != head[layout.PINNED]:
        return 14
    if findable != used or findable != head[layout.FINDABLE] or rows[n, layout.REFS] != 0:
        return 3
    fault = _free_fault(pages)
    if fault:
        return fault
    depth = np.full(n + 1, -1, np.int64)
    fault = _tree_fault(pages, ids, store, depth)
    if fault:
        return fault
    return _sequence_fault(pages, sequences.parts(seqs, tables), depth)


@njit(cache=True)
def _free_fault(pages):
    """Check that every page is either referenced, cached or blank, and that the policy knows the cached ones."""
    head, rows = pages.head, pages.rows
    n = head[layout.MAX_PAGES]
    if not (0 <= head[layout.BLANKS] <= n and 0 <= head[layout.CACHED] <= n - head[layout.BLANKS]):
        return 4
    free = np.zeros(n, np.bool_)
    page = head[layout.BLANK]
    for _ in range(head[layout.BLANKS]):
        if page < 0 or page >= n or free[page] or rows[page, layout.REFS] != 0 or rows[page, layout.BUCKET] != -1:
            return 4
        free[page] = True
        page = np.int64(rows[page, layout.NEWER])
    cached, count = np.zeros(n, np.bool_), 0
    for page in range(n):
        cached[page] = rows[page, layout.REFS] == 0 and rows[page, layout.BUCKET] >= 0
        count += cached[page]
        if rows[page, layout.REFS] < 0 or (rows[page, layout.REFS] == 0) != (free[page] or cached[page]):
            return 6
    if count != head[layout.CACHED] or eviction.first_fault(pages, cached):
        return 5
    return 0


@njit(cache=True)
def _tree_fault(pages, ids, store, depth):
    """Check that the findable pages are a tree below the root and that each is found.

    depth[page], int64 (max_pages + 1,), becomes the number of pages above it.
    """
    head, rows, names = pages.head, pages.rows, pages.names
    data = layout.Data(ids, store, ids, store, np.empty((0, 3), np.int64))
    n, page_size = head[layout.MAX_PAGES], head[layout.PAGE_SIZE]
    own, at = False, _ZERO
    queue, keys = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    queue[0], filled, done = n, 1, 0
    while done < filled:
        parent = queue[done]
        done += 1
        for chain in (layout.CHILD, layout.PART):
            before, page = np.int64(-1), np.int64(rows[parent, chain])
            while page >= 0:
                full = rows[page, layout.COUNT] == 0 or rows[page, layout.COUNT] == page_size
                if depth[page] >= 0 or rows[page, layout.BUCKET] < 0 or rows[page, layout.PARENT] != parent:
                    return 7
                if rows[page, layout.PREV] != before or full != (chain == layout.CHILD):
                    return 7
                depth[page] = depth[parent] + 1
                queue[filled] = page
                filled += 1
                before, page = page, np.int64(rows[page, layout.NEXT])
        if (
            parent < n
            and rows[parent, layout.COUNT] > 0
            and rows[parent, layout.COUNT] < page_size
            and rows[parent, layout.CHILD] >= 0
        ):
            return 7
    if filled != head[layout.FINDABLE] + 1:
        return 7
    for at in range(1, filled):
        page = queue[at]
        count = np.int64(rows[page, layout.COUNT])
        name, parent, salt = names[page, layout.NAME], np.int64(rows[page, layout.PARENT]), names[page, layout.SALT]
        if parent != n and names[parent, layout.SALT] != salt:
            return 8
        keys[page] = block_key(root_name(salt) if parent == n else keys[parent], name)
        if count > 0:
            keys[page] = name
            own, at = rows[page, layout.STATE] & layout.OWN != 0, page * page_size * head[layout.ID_BYTES]
            before = root_name(salt) if parent == n else names[parent, layout.NAME]
            if name != page_name(ids if own else store, at, count * head[layout.ID_BYTES], before):
                return 8
        if find(pages, data, parent, salt, keys[page], name, own, at, count) != page:
            return 8
    return 0


@njit(cache=True)
def _sequence_fault(pages, held, depth):
    """Check that page tables do not overlap, fit the lengths, and account for every reference."""
    head, rows, names = pages.head, pages.rows, pages.names
    n, page_size = head[layout.MAX_PAGES], head[layout.PAGE_SIZE]
    shead, srows = held.head, held.rows
    if table.first_fault(shead, srows, held.buckets) != -1:
        return 9
    top, live, total = shead[sequences.TOP_SLOT], 0, 0
    taken = np.zeros(top, np.bool_)
    refs, seen = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    for row in range(shead[table.TOP]):
        if srows[row, table.BUCKET] < 0:
            continue
        start, pages, room = srows[row, sequences.START], srows[row, sequences.PAGES], srows[row, sequences.ROOM]
        if srows[row, table.KEY] < 0 or not (0 <= pages <= room and 0 <= start <= top and room <= top - start):
            return 10
        for slot in range(start, start + room):
            if taken[slot]:
                return 10
            taken[slot] = True
        length, prefix, prefix_pages = (
            srows[row, sequences.LENGTH],
            srows[row, sequences.PREFIX],
            srows[row, sequences.PREFIX_PAGES],
        )
        if not (0 <= prefix <= length <= pages * page_size and prefix_pages == pages_for(prefix, page_size)):
            return 11
        if pages != prefix_pages + pages_for(length - prefix, page_size):
            return 11
        live += pages
        for i in range(pages):
            page = np.int64(held.tables[start + i])
            if page < 0 or page >= n or seen[page] == row:
                return 12
            seen[page] = row
            refs[page] += 1
            last = prefix - i * page_size if i < prefix_pages else length - prefix - (i - prefix_pages) * page_size
            count = rows[page, layout.COUNT]
            if depth[page] >= 0 and (depth[page] != i or (count > 0 and min(last, page_size) > count)):
                return 13
            if depth[page] >= 0 and names[page, layout.SALT] != srows[row, sequences.SALT]:
                return 13
    if live != shead[sequences.LIVE]:
        return 10
    shared = 0
    for page in range(n):
        if refs[page] + rows[page, layout.PINS] != rows[page, layout.REFS]:
            return 12
        shared += rows[page, layout.REFS] > 1
        total += rows[page, layout.REFS]
    if shared != head[layout.SHARED] or total != head[layout.TOTAL_REFS]:
        return 12
    return 0
