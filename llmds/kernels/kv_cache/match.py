"""The longest cached prefix of a prompt, and pins. State and codes: `kv_cache.sequences`.

Token ids come as uint8, id_bytes each, end to end, or with `blocks` (a bool) as content ids (int64), one a page.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..simd import word_at
from . import layout
from .hashes import block_key, page_name, root_name, same_bytes
from .pages import acquire, find, release
from .sequences import FULL, NO_PAGES, OK, UNPINNED

_ZERO, _FALSE = np.int64(0), np.bool_(False)


@njit(cache=True)
def match_many(pool, seqs, tables, ids, store, tokens, indptr, salts, blocks, matched):
    """Fill `matched` int64 (n,): how many leading ids of tokens[indptr[e]:indptr[e + 1]] can be found under salts[e].

    Changes nothing else. O(tokens), and O(prefixes of less than a page that begin where the full pages end).
    """
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    pages, data, path = layout.parts(pool), searched(ids, store, tokens), np.empty(0, np.int64)
    for e in range(matched.shape[0]):
        matched[e], _ = follow(pages, data, indptr[e], indptr[e + 1], salts[e], blocks, path)
    return OK, _ZERO, _ZERO


@njit(cache=True)
def pin(pool, seqs, tables, ids, store, tokens, count, salt, blocks):
    """Add a pin to each page that holds some of `count` ids: (OK, ids in them), or NO_PAGES. O(count)."""
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    pages, path = layout.parts(pool), np.empty(count, np.int64)
    head, rows = pages.head, pages.rows
    matched, found = follow(pages, searched(ids, store, tokens), _ZERO, count, salt, blocks, path)
    fresh = _ZERO
    for i in range(found):
        fresh += rows[path[i], layout.PINS] == 0
    left = head[layout.MAX_PINNED] - head[layout.PINNED]
    if fresh > left:
        return NO_PAGES, fresh, left
    head[layout.PINNED] += fresh
    for i in range(found):
        acquire(pages, path[i])
        rows[path[i], layout.PINS] += 1
    return OK, matched, _ZERO


@njit(cache=True)
def unpin(pool, seqs, tables, ids, store, tokens, count, salt, blocks):
    """Remove a pin from each page of these ids: OK, or (UNPINNED, leading ids that are pinned).

    UNPINNED if no pin is of exactly these ids. O(count, and pages below).
    """
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    pages, path = layout.parts(pool), np.empty(count, np.int64)
    head, rows = pages.head, pages.rows
    matched, found = follow(pages, searched(ids, store, tokens), _ZERO, count, salt, blocks, path)
    pinned = _ZERO
    while pinned < found and rows[path[pinned], layout.PINS] > 0:
        pinned += 1
    longer = _ZERO  # pins of longer prefixes than this
    if found > 0:
        for chain in (layout.CHILD, layout.PART):
            below = np.int64(rows[path[found - 1], chain])
            while below >= 0:
                longer += rows[below, layout.PINS]
                below = np.int64(rows[below, layout.NEXT])
    if pinned < found or matched < count or (found > 0 and rows[path[found - 1], layout.PINS] <= longer):
        return UNPINNED, min(matched, pinned * (1 if blocks else head[layout.PAGE_SIZE])), _ZERO
    for i in range(found - 1, -1, -1):
        rows[path[i], layout.PINS] -= 1
        head[layout.PINNED] -= rows[path[i], layout.PINS] == 0
        release(pages, path[i])
    return OK, matched, _ZERO


@njit(cache=True)
def page_names(tokens, size, page_size, salt, hashes):
    """Fill `hashes` int64 (n,) with the chained hashes of the first n pages of `page_size` ids, `size` bytes each."""
    before = root_name(salt)
    for i in range(hashes.shape[0]):
        before = page_name(tokens, i * page_size * size, page_size * size, before)
        hashes[i] = before


@njit(cache=True)
def searched(ids, store, tokens):
    """Return the `Data` with which `follow` looks up `tokens`, uint8."""
    return layout.Data(ids, store, tokens, tokens, np.empty((0, 3), np.int64))


@njit_no_nrt(cache=True)
def follow(pages, data, at, stop, salt, blocks, path):
    """Find the ids from number `at` to `stop` of data.entries, as far as they can be found: (ids, pages).

    `data`: as `searched` returns it. The pages are left in `path` int64 (n,), as far as it reaches. O(ids).
    """
    head, rows, tokens = pages.head, pages.rows, data.entries
    page_size, size = head[layout.PAGE_SIZE], head[layout.ID_BYTES]
    parent, key = head[layout.MAX_PAGES], root_name(salt)
    step, first, found, count, start = np.int64(1) if blocks else page_size, at, _ZERO, _ZERO, _ZERO
    while stop - at >= step:
        if blocks:
            name = np.int64(word_at(tokens, 8 * at))
            key = block_key(key, name)
        else:
            count, start = page_size, at * size
            key = name = page_name(tokens, start, page_size * size, key)
        page = find(pages, data, parent, salt, key, name, _FALSE, start, count)
        if page < 0:
            break
        parent = page
        if found < path.shape[0]:
            path[found] = page
        found += 1
        at += step
    best, part = _ZERO, np.int64(-1) if blocks else np.int64(rows[parent, layout.PART])
    while part >= 0:
        count = np.int64(rows[part, layout.COUNT])
        if best < count <= stop - at and pages.names[part, layout.SALT] == salt:
            theirs = data.ids if rows[part, layout.STATE] & layout.OWN else data.store
            if same_bytes(theirs, part * page_size * size, tokens, at * size, count * size):
                best = count
                if found < path.shape[0]:
                    path[found] = part
        part = np.int64(rows[part, layout.NEXT])
    return at - first + best, found + (best > 0)
