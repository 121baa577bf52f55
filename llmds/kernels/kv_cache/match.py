"""What of a prompt a KV cache holds already; pages kept by pins. State and answers: `kv_cache.sequences`.

Token ids come as uint8, id_bytes each, end to end, or with `blocks` (a bool) as content ids (int64), one a page.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..simd import word_at
from . import layout as kv
from .hashes import block_key, page_name, root_name, same_bytes
from .pages import acquire, find, release
from .sequences import FULL, NO_PAGES, OK, UNPINNED

_ZERO, _FALSE = np.int64(0), np.bool_(False)


@njit(cache=True)
def match_many(pool, seqs, tables, ids, store, tokens, indptr, salts, blocks, matched):
    """Fill `matched` int64 (n,): how many leading ids of tokens[indptr[e]:indptr[e + 1]] can be found under salts[e].

    Changes nothing. O(tokens), and O(prefixes of less than a page that begin where the full pages end).
    """
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    path, origin = np.empty(0, np.int64), np.empty((0, 3), np.int64)
    head, rows, names, buckets, _ = kv.parts(pool)
    for e in range(matched.shape[0]):
        matched[e], _ = follow(
            head, rows, names, buckets, ids, store, origin, tokens, indptr[e], indptr[e + 1], salts[e], blocks, path
        )
    return OK, _ZERO, _ZERO


@njit(cache=True)
def pin(pool, seqs, tables, ids, store, tokens, count, salt, blocks):
    """One pin more on each page of what of `count` ids can be found: (OK, ids in them), or NO_PAGES. O(count)."""
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    head, rows, names, buckets, memory = kv.parts(pool)
    path, origin = np.empty(count, np.int64), np.empty((0, 3), np.int64)
    matched, pages = follow(head, rows, names, buckets, ids, store, origin, tokens, _ZERO, count, salt, blocks, path)
    fresh = _ZERO
    for i in range(pages):
        fresh += rows[path[i], kv.PINS] == 0
    left = head[kv.MAX_PINNED] - head[kv.PINNED]
    if fresh > left:
        return NO_PAGES, fresh, left
    head[kv.PINNED] += fresh
    for i in range(pages):
        acquire(head, rows, names, memory, path[i])
        rows[path[i], kv.PINS] += 1
    return OK, matched, _ZERO


@njit(cache=True)
def unpin(pool, seqs, tables, ids, store, tokens, count, salt, blocks):
    """One pin less on each page of these ids: OK, or (UNPINNED, ids that are pinned) where no pin is of just these.

    O(count, and pages below).
    """
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    head, rows, names, buckets, memory = kv.parts(pool)
    path, origin = np.empty(count, np.int64), np.empty((0, 3), np.int64)
    matched, pages = follow(head, rows, names, buckets, ids, store, origin, tokens, _ZERO, count, salt, blocks, path)
    pinned = _ZERO
    while pinned < pages and rows[path[pinned], kv.PINS] > 0:
        pinned += 1
    through = _ZERO  # pins of longer prefixes than this
    if pages > 0:
        for chain in (kv.CHILD, kv.PART):
            below = np.int64(rows[path[pages - 1], chain])
            while below >= 0:
                through += rows[below, kv.PINS]
                below = np.int64(rows[below, kv.NEXT])
    if pinned < pages or matched < count or (pages > 0 and rows[path[pages - 1], kv.PINS] <= through):
        return UNPINNED, min(matched, pinned * (1 if blocks else head[kv.PAGE_SIZE])), _ZERO
    for i in range(pages - 1, -1, -1):
        rows[path[i], kv.PINS] -= 1
        head[kv.PINNED] -= rows[path[i], kv.PINS] == 0
        release(head, rows, names, memory, path[i])
    return OK, matched, _ZERO


@njit(cache=True)
def page_names(tokens, size, page_size, salt, hashes):
    """Fill `hashes` int64 (n,) with the chained hashes of the first n pages of `page_size` ids, `size` bytes each."""
    before = root_name(salt)
    for i in range(hashes.shape[0]):
        before = page_name(tokens, i * page_size * size, page_size * size, before)
        hashes[i] = before


@njit_no_nrt(cache=True)
def follow(head, rows, names, buckets, ids, store, origin, tokens, at, stop, salt, blocks, path):
    """(ids, pages) of tokens[at:stop] that can be found; the pages are left in `path` as far as it reaches."""
    page_size, size, parent, key = head[kv.PAGE_SIZE], head[kv.ID_BYTES], head[kv.MAX_PAGES], root_name(salt)
    step, first, pages, count, start = np.int64(1) if blocks else page_size, at, _ZERO, _ZERO, _ZERO
    while stop - at >= step:
        if blocks:
            name = np.int64(word_at(tokens, 8 * at))
            key = block_key(key, name)
        else:
            count, start = page_size, at * size
            key = name = page_name(tokens, start, page_size * size, key)
        page = find(
            head, rows, names, buckets, ids, store, origin, tokens, tokens, parent, salt, key, name, _FALSE, start,
            count,
        )  # fmt: skip
        if page < 0:
            break
        parent = page
        if pages < path.shape[0]:
            path[pages] = page
        pages += 1
        at += step
    best, part = _ZERO, np.int64(-1) if blocks else np.int64(rows[parent, kv.PART])
    while part >= 0:
        count = np.int64(rows[part, kv.COUNT])
        if best < count <= stop - at and names[part, kv.SALT] == salt:
            theirs = ids if rows[part, kv.STATE] & kv.OWN else store
            if same_bytes(theirs, part * page_size * size, tokens, at * size, count * size):
                best = count
                if pages < path.shape[0]:
                    path[pages] = part
        part = np.int64(rows[part, kv.NEXT])
    return at - first + best, pages + (best > 0)
