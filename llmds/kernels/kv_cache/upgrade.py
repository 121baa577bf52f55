"""The bookkeeping of KV caches in files of version 1, converted to the present one.

There, a page was a row of 12 int32 after a head of 24 int64, buckets were int32, token ids were int64 and lay beside
the entries wherever a prefix was named, and a row of the table of sequences had 8 columns. Nothing was found by its
entries, and nothing is after the conversion. All functions are safe on any contents of arrays of the sizes they name.
"""

import numpy as np

from .. import table
from ..compiling import njit
from . import layout
from .eviction import dispatch as eviction
from .hashes import block_key, page_name, root_name
from .pages import link

HEAD, COLUMNS, SEQ_COLUMNS = 24, 12, np.int64(8)
MAX_PAGES, PAGE_SIZE, ENTRY_BYTES, SHARING, STORED, BLANK, BLANKS, OLDEST, CACHED = 0, 1, 2, 3, 4, 5, 6, 7, 9
REFS, BUCKET, COUNT, CHILD, PART, NEXT, NEWER = 2, 3, 5, 6, 7, 8, 10
# counts that are still kept: their old index, their new one
COUNTS = (
    (11, layout.SHARED),
    (12, layout.TOTAL_REFS),
    (13, layout.SHARES),
    (14, layout.COPIES),
    (15, layout.EVICTIONS),
    (16, layout.HITS),
    (17, layout.LOOKUPS),
)


@njit(cache=True)
def old_size(max_pages):
    """Return the number of elements of a pool of version 1."""
    return HEAD + (max_pages + 1) * (COLUMNS // 2) + layout.bucket_count(max_pages) // 2


@njit(cache=True)
def upgrade(old, ids, place, pool):
    """Fill an empty `pool` (ids of 8 bytes) with the pages of `old`, int64 (old_size,). False if they are damaged.

    The ids of page p begin at byte place[p] (int64 (max_pages,), -1 if it has none) of `ids`.
    """
    pages = layout.parts(pool)
    head, rows, names = pages.head, pages.rows, pages.names
    n, page_size = head[layout.MAX_PAGES], head[layout.PAGE_SIZE]
    was = old[HEAD : HEAD + (n + 1) * (COLUMNS // 2)].view(np.int32).reshape(n + 1, COLUMNS)
    was_named = old[HEAD : HEAD + (n + 1) * (COLUMNS // 2)].reshape(n + 1, COLUMNS // 2)
    for before, now in COUNTS:
        head[now] = old[before]
    for page in range(n):
        rows[page, layout.REFS] = was[page, REFS]
    if not (0 <= old[BLANKS] <= n and 0 <= old[CACHED] <= n):
        return False
    head[layout.BLANK], head[layout.BLANKS], page = old[BLANK], old[BLANKS], old[BLANK]
    for page_ in range(n):
        rows[page_, layout.NEWER] = -1
    for _ in range(old[BLANKS]):
        if page < 0 or page >= n:
            return False
        after = np.int64(was[page, NEWER])
        rows[page, layout.NEWER] = after if -1 <= after < n else -1
        page = after
    queue, key, seen = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64), np.zeros(n + 1, np.bool_)
    queue[0], filled, done, key[n] = n, 1, 0, root_name(np.int64(0))
    while done < filled:
        parent = queue[done]
        done += 1
        for chain in (CHILD, PART):
            page = np.int64(was[parent, chain])
            while page >= 0:
                if page >= n or seen[page]:
                    return False
                seen[page] = True
                name, count = was_named[page, 0], np.int64(was[page, COUNT])
                if count == 0:
                    key[page] = block_key(key[parent], name)
                elif count < 0 or count > page_size or place[page] < 0:
                    return False
                else:
                    before = root_name(np.int64(0)) if parent == n else names[parent, layout.NAME]
                    key[page] = name = page_name(ids, place[page], count * 8, before)
                full = count == 0 or count == page_size
                link(pages, page, parent, np.int64(0), key[page], name, count, full)
                if count > 0:
                    rows[page, layout.STATE] |= layout.OWN
                queue[filled] = page
                filled += 1
                page = np.int64(was[page, NEXT])
    page = old[OLDEST]
    for _ in range(old[CACHED]):
        if page < 0 or page >= n or not seen[page] or rows[page, layout.REFS] != 0:
            return False
        seen[page] = False
        eviction.enter(pages, page)
        page = np.int64(was[page, NEWER])
    return True


@njit(cache=True)
def widened(seqs, columns):
    """Return a table of sequences of version 1 with `columns` columns, of which the new ones are zeros.

    `seqs`: `table.well_formed` with SEQ_COLUMNS.
    """
    old_head, old_rows, _ = table.parts(seqs)
    wide = table.new(seqs[table.CAPACITY], columns)
    head, rows, buckets = table.parts(wide)
    for slot in range(table.COUNT, table.HEAD):
        head[slot] = old_head[slot]
    for row in range(head[table.TOP]):
        for column in range(columns):
            rows[row, column] = old_rows[row, column] if column < SEQ_COLUMNS else 0
        if rows[row, table.BUCKET] >= 0:
            table.insert(rows, buckets, np.int64(row), rows[row, table.KEY])
    return wide
