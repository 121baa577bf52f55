"""Answering queries from the graph of `hnsw`: a walk or a scan, exact distances for the nearest, and what is told."""

import numpy as np

from .. import smallest, table
from ..compiling import njit, njit_no_nrt, optimize_for_size
from ..simd import insert, prefetch
from . import codes as _codes
from .distance import FULL, exactly, fetch, load, make_probe, measure, origin_of, padded, probe_bytes, reported
from .layout import (
    BORN,
    COLUMNS,
    COSINE,
    DEAD,
    DIED,
    FARTHEST,
    L2,
    LEVEL,
    NODE,
    TIER,
    TWIN,
    ZERO,
    distance_of,
    key_of,
    slot_of,
)
from .walk import POOL, WALKS, clear, descend, pool_width, walk_many

# How candidates are found.
WALK, SCAN, SCAN_EXACTLY = 0, 1, 2
_BLOCK = 64  # queries whose walks may go side by side
_SCANNED = 32  # slots measured at once in a scan
_FULL = np.int64(FULL)
# Walks stop at this power of ef / rank times the squared distance of the rank-th nearest: for what lies farther, the
# walk would have to turn back.
_STRETCH = 0.08


@njit(cache=True, nogil=True)
def search(
    vectors, codes, terms, frame, nodes, links, upper, arena, count, clock, entry, queries, bits, metric, ef, rank,
    fine, how, chosen, allowed, ids, distances, counts,
):  # fmt: skip
    """Fill ids int64 and distances float32, both (n, k), with the nearest to queries (n, dim) that the clock shows.

    `ef` (at least k and 1) candidates are found, of which `rank` are wanted (see `hnsw.walk`): by walking (`how`
    WALK), or among the slots `chosen` int64 (m,), by codes (SCAN) or exactly. At least the `fine` nearest of them are
    then measured exactly. allowed uint8 (count,) marks the slots that may be told, and counts int64 (n,) is filled with
    how many of those a walk or scan by codes found; of length 0, all may.

    Rows are best first, equal distances by smaller id; short ones end in -1 and infinity. Returns how many the last
    row holds, or -1 if a query is not fit (see `hnsw.distance.load`); what was filled means nothing then.
    """
    n, product, dim = queries.shape[0], metric != L2, queries.shape[1]
    stride = padded(dim)
    block = min(n, _BLOCK)
    own = np.empty((block, stride), np.float32)
    own_bytes = own.view(np.uint8)
    turned = own if vectors.shape[1] > 0 else np.empty((block, frame.shape[1]), np.float32)
    probes = np.empty((block, probe_bytes(bits, stride, frame)), np.uint8)
    parameters, work = np.zeros((block, _codes.PARAMETERS), np.float32), np.empty(frame.shape, np.float32)
    starts, pools = np.full(block, FARTHEST, np.int64), np.empty((block, pool_width(ef)), np.int64)
    width = max(links.shape[1], _SCANNED)
    slots, keys = np.empty((WALKS, width + 3), np.int64), np.empty(width + 3, np.int64)
    rows, known = table.parts(arena)[1], np.int64(count)
    room = np.empty(width + 3, np.float32)
    exact = bits == FULL or how == SCAN_EXACTLY
    best = np.empty(ef if exact else min(ef, max(np.int64(ids.shape[1]), np.int64(1))), np.int64)
    origin = origin_of(metric)
    stretch = np.float32((ef / rank) ** _STRETCH)
    # The lowest of the tiers above is too large for the fastest cache: there, too, walks go side by side.
    tier = min(np.int64(nodes[entry, TIER]), np.int64(1)) if how == WALK and n > 1 else ZERO
    filled = ZERO
    for first in range(0, n, block):
        m = min(block, n - first)
        for i in range(m):
            if not load(queries, first + i, own, i, metric == COSINE):
                return np.int64(-1)
            make_probe(bits, product, frame, dim, own, i, work, probes, parameters, i)
            if vectors.shape[1] == 0:
                for d in range(frame.shape[1]):
                    turned[i, d] = work[0, d]
            if how == WALK:
                starts[i] = descend(
                    bits, product, vectors, codes, terms, nodes, upper, count, entry, tier, probes, parameters, i,
                    slots, room, keys,
                )  # fmt: skip
        if how == WALK:
            if tier > 0:
                walk_many(
                    bits, product, vectors, codes, terms, nodes, upper, upper, tier, count, probes, parameters,
                    starts[:m], tier, tier, origin, stretch, pools, slots, room, keys,
                )  # fmt: skip
                for i in range(m):
                    starts[i] = pools[i, POOL] & ~1
            walk_many(
                bits, product, vectors, codes, terms, nodes, upper, links, ZERO, count, probes, parameters, starts[:m],
                ef, rank, origin, stretch, pools, slots, room, keys,
            )  # fmt: skip
        for i in range(m):
            if how == SCAN:
                scan(
                    bits, product, vectors, codes, terms, probes, parameters, i, chosen, pools, ef, slots, room,
                    keys,
                )  # fmt: skip
            elif how == WALK and bits != FULL and i + 1 < m:
                _fetch_best(vectors, codes, terms, nodes, rows, pools, i + 1, min(ef, fine))
            q = first + i
            if how == SCAN_EXACTLY:
                size = ZERO
                for e in range(chosen.shape[0]):
                    d = exactly(
                        bits, product, vectors, codes, terms, chosen[e], own_bytes, i, stride, turned, parameters
                    )
                    size = smallest.keep(best, ZERO, size, key_of(d, chosen[e]))
            else:
                size = _refine(
                    bits, product, vectors, codes, terms, nodes, rows, known, clock, pools, i, ef, fine, own_bytes,
                    stride, turned, parameters, allowed, best,
                )  # fmt: skip
                if allowed.shape[0] > 0:
                    counts[q] = _count_told(nodes, rows, known, clock, pools, i, ef, allowed)
            smallest.sort(best, ZERO, size)
            filled = _report(rows, nodes, known, clock, metric, best, size, allowed, ids, distances, q)
            for e in range(filled, ids.shape[1]):
                ids[q, e], distances[q, e] = -1, np.inf
    return filled


@njit_no_nrt(cache=True)
def scan(bits, product, vectors, codes, terms, probes, parameters, p, chosen, pools, ef, slots, room, keys):
    """Fill pools[p] with the ef nearest of the slots `chosen` int64 (m,). O(m (D + ef / 8))."""
    clear(pools, p)
    last = POOL + ef - 1
    for first in range(0, chosen.shape[0], _SCANNED):
        m = min(_SCANNED, chosen.shape[0] - first)
        for e in range(first + m, min(first + 2 * m, chosen.shape[0])):
            fetch(bits, vectors, codes, terms, chosen[e])
        for e in range(m):
            slots[0, e] = chosen[first + e]
        measure(bits, product, vectors, codes, terms, probes, parameters, p, slots, ZERO, m, room, keys)
        for e in range(m):
            if keys[e] < pools[p, last]:
                insert(pools, p * pools.shape[1] + POOL, pools.shape[1] - POOL, keys[e])


@njit_no_nrt(cache=True)
def _fetch_best(vectors, codes, terms, nodes, rows, pools, p, size):
    for e in range(POOL, POOL + size):
        if pools[p, e] != FARTHEST:
            slot = slot_of(pools[p, e])
            prefetch(rows, slot * rows.shape[1], COLUMNS)
            prefetch(nodes, slot * nodes.shape[1], np.int64(NODE))
            fetch(_FULL, vectors, codes, terms, slot)


@njit_no_nrt(cache=True)
def _refine(
    bits, product, vectors, codes, terms, nodes, rows, count, clock, pools, i, ef, fine, own, stride, turned,
    parameters, allowed, best,
):  # fmt: skip
    """Fill `best`, a heap, with exact keys of the nearest in pools[i] that may be told; how many.

    At least the first `fine` are measured, and more as long as the next one, were its estimate as wrong as the worst so
    far, would be among the best.
    """
    size, measured, error = ZERO, ZERO, np.float32(0)
    for e in range(POOL, POOL + ef):
        if pools[i, e] == FARTHEST:
            break
        slot, estimated = slot_of(pools[i, e]), distance_of(pools[i, e])
        if measured >= fine and size == best.shape[0] and estimated - error > distance_of(best[0]):
            break
        if not _any_told(nodes, rows, slot, count, clock, allowed):
            continue
        if bits == FULL:
            key = pools[i, e] & ~1
        else:
            d = exactly(bits, product, vectors, codes, terms, slot, own, i, stride, turned, parameters)
            error = max(error, abs(estimated - d))
            key = key_of(d, slot)
        size = smallest.keep(best, ZERO, size, key)
        measured += 1
    return size


@njit_no_nrt(cache=True)
def _count_told(nodes, rows, count, clock, pools, i, ef, allowed):
    """How many of pools[i] may be told."""
    told = ZERO
    for e in range(POOL, POOL + ef):
        if pools[i, e] == FARTHEST:
            break
        told += _any_told(nodes, rows, slot_of(pools[i, e]), count, clock, allowed)
    return told


@njit_no_nrt(cache=True)
def _any_told(nodes, rows, slot, count, clock, allowed):
    """Whether a slot or a twin of it is there at this clock, and allowed."""
    while 0 <= slot < nodes.shape[0]:
        if _told(rows, slot, count, clock, allowed):
            return True
        slot = np.int64(nodes[slot, TWIN])
    return False


@njit_no_nrt(cache=True)
def _told(rows, slot, count, clock, allowed):
    if slot >= count or clock >= rows[slot, DIED] or clock < rows[slot, BORN]:  # in this order: BORN is written first
        return False
    return allowed.shape[0] == 0 or allowed[slot] != 0


@njit(cache=True)
def told_heads(nodes, arena, count, clock, allowed):
    """The linked slots (int64) that are told at this clock, or a twin of which is; and those removed since. O(n)."""
    optimize_for_size()
    rows = table.parts(arena)[1]
    heads, m = np.empty(count, np.int64), 0
    for slot in range(count):
        linked, gone = nodes[slot, LEVEL] >= 0, nodes[slot, LEVEL] == DEAD
        if (linked or gone) and _any_told(nodes, rows, slot, count, clock, allowed):
            heads[m] = slot
            m += 1
    return heads[:m].copy()


@njit_no_nrt(cache=True)
def _report(rows, nodes, count, clock, metric, best, size, allowed, ids, distances, q):
    """Write the nearest of best[:size] and of their twins to row q; how many. Equal distances are ordered by id."""
    row, k, filled, i = ids[q], ids.shape[1], ZERO, ZERO
    while i < size and filled < k:
        told = reported(distance_of(best[i]), metric)
        start = filled
        while i < size and reported(distance_of(best[i]), metric) == told:
            slot = slot_of(best[i])
            while 0 <= slot < nodes.shape[0]:
                if _told(rows, slot, count, clock, allowed):
                    filled = smallest.keep(row, start, filled, rows[slot, table.KEY])
                slot = np.int64(nodes[slot, TWIN])
            i += 1
        smallest.sort(row, start, filled)
        filled = _distinct(row, start, filled)
        for e in range(start, filled):
            distances[q, e] = told
    return filled


@njit_no_nrt(cache=True)
def _distinct(row, start, stop):
    """Leave out repeated ids of the sorted row[start:stop]: an id passes from one twin to another. Where it stops."""
    kept = start
    for e in range(start, stop):
        if e == start or row[e] != row[kept - 1]:
            row[kept] = row[e]
            kept += 1
    return kept


@njit(cache=True)
def first_of_each(ids, distances, parents, best_ids, best_distances, rows):
    """Write the first of each parent in row i of `ids` to row rows[i] of the best (., k): uint8 (n,), which are full.

    All int64 but the distances; rows end at id -1. A row that has fewer than its width is full too. O(n c k).
    """
    optimize_for_size()
    full = np.zeros(ids.shape[0], np.uint8)
    k = best_ids.shape[1]
    taken = np.empty(k, np.int64)
    for i in range(ids.shape[0]):
        m, e = 0, 0
        while e < ids.shape[1] and ids[i, e] >= 0 and m < k:
            new = True
            for j in range(m):
                new &= taken[j] != parents[i, e]
            if new:
                taken[m] = parents[i, e]
                best_ids[rows[i], m], best_distances[rows[i], m] = ids[i, e], distances[i, e]
                m += 1
            e += 1
        full[i] = m == k or e < ids.shape[1]
    return full
