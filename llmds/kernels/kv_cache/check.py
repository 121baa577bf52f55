"""Whether the arrays of a KV cache hold together: what stands between a file, or a bug, and the other kernels.

Every function is safe on any contents of arrays whose sizes are `well_formed`.
"""

import numpy as np

from .. import table
from ..compiling import njit
from . import events as kv_events
from . import layout as kv
from . import sequences as seq
from .eviction import dispatch as kv_eviction
from .hashes import block_key, page_name, root_name
from .pages import find
from .sequences import pages_for

_ZERO = np.int64(0)

# What `first_fault` answers, in words; 0 is sound.
FAULTS = (
    "",
    "settings are out of range",
    "a page column leads nowhere",
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
    "a findable page stands at another place in a table, under another salt, or holds more there than it is named for",
    "pins are miscounted",
)


@njit(cache=True)
def well_formed(pool, seqs, tables):
    """Whether the arrays, any int64 (n,) and int32 (n,), may be cut by `kv_cache.layout.parts`."""
    limit = 2**31
    return (
        pool.shape[0] >= kv.HEAD
        and 1 <= pool[kv.MAX_PAGES] < limit
        and 1 <= pool[kv.PAGE_SIZE] < limit
        and 0 <= pool[kv.ENTRY_BYTES] < limit
        and 0 <= pool[kv.EVENTS] < limit
        and 0 <= pool[kv.POLICY] < kv_eviction.POLICIES
        and pool[kv.MEMORY]
        == kv_eviction.memory_size(pool[kv.POLICY], pool[kv.MAX_PAGES]) + kv_events.EVENT * pool[kv.EVENTS]
        and pool.shape[0] == kv.size(pool[kv.MAX_PAGES], pool[kv.MEMORY])
        and table.well_formed(seqs, seq.COLUMNS)
        and 0 <= seqs[seq.TOP_SLOT] <= tables.shape[0]
    )


@njit(cache=True)
def first_fault(pool, seqs, tables, ids, store):
    """The number in FAULTS of the first thing that does not hold, 0 if all does. O(everything)."""
    head, rows, names, buckets, memory = kv.parts(pool)
    n, page_size = head[kv.MAX_PAGES], head[kv.PAGE_SIZE]
    for flag in (kv.SHARING, kv.CONTENT, kv.STORED, kv.VISIBLE, kv.VERIFY):
        if not 0 <= head[flag] <= 1:
            return 1
    stored, named = n * page_size * head[kv.ENTRY_BYTES], n * page_size * head[kv.ID_BYTES]
    if store.shape[0] != (stored if head[kv.STORED] else 0) or (ids.shape[0] != 0 and ids.shape[0] != named):
        return 1
    if not 1 <= head[kv.ID_BYTES] <= 8 or (head[kv.CONTENT] and head[kv.ID_BYTES] != head[kv.ENTRY_BYTES]):
        return 1
    for counter in range(kv.SHARES, kv.ATTACHED + 1):
        if head[counter] < 0:
            return 1
    if head[kv.READ] > head[kv.TOLD] or not 0 <= head[kv.PINNED] <= head[kv.MAX_PINNED] <= n:
        return 1
    findable, pinned = 0, 0
    for page in range(n + 1):
        if not (0 <= rows[page, kv.COUNT] <= page_size and -1 <= rows[page, kv.BUCKET] < buckets.shape[0]):
            return 2
        for column in (kv.PARENT, kv.CHILD, kv.PART, kv.NEXT, kv.PREV, kv.NEWER, kv.OLDER):
            if not -1 <= rows[page, column] <= n - (column != kv.PARENT):
                return 2
        if rows[page, kv.BUCKET] >= 0:
            own, kept = rows[page, kv.STATE] & kv.OWN, ids.shape[0] > 0
            if not own:
                kept = head[kv.CONTENT] and head[kv.STORED]
            if (
                buckets[rows[page, kv.BUCKET]] & 0xFFFFFFFF != page
                or page == n
                or (rows[page, kv.COUNT] > 0 and not kept)
            ):
                return 3
            findable += 1
        elif rows[page, kv.COUNT] != 0 or rows[page, kv.PINS] != 0:
            return 3
        if rows[page, kv.PINS] < 0:
            return 14
        pinned += rows[page, kv.PINS] > 0
    used = 0
    for bucket in range(buckets.shape[0]):
        used += buckets[bucket] != kv.EMPTY
    if pinned != head[kv.PINNED]:
        return 14
    if findable != used or findable != head[kv.FINDABLE] or rows[n, kv.REFS] != 0:
        return 3
    fault = _free_fault(head, rows, names, memory)
    if fault:
        return fault
    depth = np.full(n + 1, -1, np.int64)
    fault = _tree_fault(head, rows, names, buckets, ids, store, depth)
    if fault:
        return fault
    return _sequence_fault(head, rows, names, seqs, tables, depth)


@njit(cache=True)
def _free_fault(head, rows, names, memory):
    """Every page is referenced, cached or blank, and the policy knows the cached ones."""
    n = head[kv.MAX_PAGES]
    if not (0 <= head[kv.BLANKS] <= n and 0 <= head[kv.CACHED] <= n - head[kv.BLANKS]):
        return 4
    free = np.zeros(n, np.bool_)
    page = head[kv.BLANK]
    for _ in range(head[kv.BLANKS]):
        if page < 0 or page >= n or free[page] or rows[page, kv.REFS] != 0 or rows[page, kv.BUCKET] != -1:
            return 4
        free[page] = True
        page = np.int64(rows[page, kv.NEWER])
    cached, count = np.zeros(n, np.bool_), 0
    for page in range(n):
        cached[page] = rows[page, kv.REFS] == 0 and rows[page, kv.BUCKET] >= 0
        count += cached[page]
        if rows[page, kv.REFS] < 0 or (rows[page, kv.REFS] == 0) != (free[page] or cached[page]):
            return 6
    if count != head[kv.CACHED] or kv_eviction.first_fault(head, rows, names, memory, cached):
        return 5
    return 0


@njit(cache=True)
def _tree_fault(head, rows, names, buckets, ids, store, depth):
    """Findable pages are a tree below the root, and each is found; depth[page] becomes the pages above it."""
    n, page_size = head[kv.MAX_PAGES], head[kv.PAGE_SIZE]
    origin, own, at = np.empty((0, 3), np.int64), False, _ZERO
    queue, keys = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    queue[0], filled, done = n, 1, 0
    while done < filled:
        parent = queue[done]
        done += 1
        for chain in (kv.CHILD, kv.PART):
            before, page = np.int64(-1), np.int64(rows[parent, chain])
            while page >= 0:
                full = rows[page, kv.COUNT] == 0 or rows[page, kv.COUNT] == page_size
                if depth[page] >= 0 or rows[page, kv.BUCKET] < 0 or rows[page, kv.PARENT] != parent:
                    return 7
                if rows[page, kv.PREV] != before or full != (chain == kv.CHILD):
                    return 7
                depth[page] = depth[parent] + 1
                queue[filled] = page
                filled += 1
                before, page = page, np.int64(rows[page, kv.NEXT])
        if (
            parent < n
            and rows[parent, kv.COUNT] > 0
            and rows[parent, kv.COUNT] < page_size
            and rows[parent, kv.CHILD] >= 0
        ):
            return 7
    if filled != head[kv.FINDABLE] + 1:
        return 7
    for at in range(1, filled):
        page = queue[at]
        count = np.int64(rows[page, kv.COUNT])
        name, parent, salt = names[page, kv.NAME], np.int64(rows[page, kv.PARENT]), names[page, kv.SALT]
        if parent != n and names[parent, kv.SALT] != salt:
            return 8
        keys[page] = block_key(root_name(salt) if parent == n else keys[parent], name)
        if count > 0:
            keys[page] = name
            own, at = rows[page, kv.STATE] & kv.OWN != 0, page * page_size * head[kv.ID_BYTES]
            before = root_name(salt) if parent == n else names[parent, kv.NAME]
            if name != page_name(ids if own else store, at, count * head[kv.ID_BYTES], before):
                return 8
        if (
            find(
                head,
                rows,
                names,
                buckets,
                ids,
                store,
                origin,
                ids,
                store,
                parent,
                salt,
                keys[page],
                name,
                own,
                at,
                count,
            )
            != page
        ):
            return 8
    return 0


@njit(cache=True)
def _sequence_fault(head, rows, names, seqs, tables, depth):
    """Page tables lie apart, fit the lengths, and account for every reference."""
    n, page_size = head[kv.MAX_PAGES], head[kv.PAGE_SIZE]
    shead, srows, sbuckets = table.parts(seqs)
    if table.first_fault(shead, srows, sbuckets) != -1:
        return 9
    top, live, total = shead[seq.TOP_SLOT], 0, 0
    taken = np.zeros(top, np.bool_)
    refs, seen = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    for row in range(shead[table.TOP]):
        if srows[row, table.BUCKET] < 0:
            continue
        start, pages, room = srows[row, seq.START], srows[row, seq.PAGES], srows[row, seq.ROOM]
        if srows[row, table.KEY] < 0 or not (0 <= pages <= room and 0 <= start <= top and room <= top - start):
            return 10
        for slot in range(start, start + room):
            if taken[slot]:
                return 10
            taken[slot] = True
        length, prefix, prefix_pages = srows[row, seq.LENGTH], srows[row, seq.PREFIX], srows[row, seq.PREFIX_PAGES]
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
            count = rows[page, kv.COUNT]
            if depth[page] >= 0 and (depth[page] != i or (count > 0 and min(last, page_size) > count)):
                return 13
            if depth[page] >= 0 and names[page, kv.SALT] != srows[row, seq.SALT]:
                return 13
    if live != shead[seq.LIVE]:
        return 10
    shared = 0
    for page in range(n):
        if refs[page] + rows[page, kv.PINS] != rows[page, kv.REFS]:
            return 12
        shared += rows[page, kv.REFS] > 1
        total += rows[page, kv.REFS]
    if shared != head[kv.SHARED] or total != head[kv.TOTAL_REFS]:
        return 12
    return 0
