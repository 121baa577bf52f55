"""Answering queries: a walk or a scan, exact distances for the nearest, and the ids that the reader may see."""

from typing import NamedTuple

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size
from ..simd import insert, prefetch
from .codes import PARAMETERS
from .distance import Queries, exactly, fetch, load, make_probe, measure, origin_of, padded, probe_bytes, reported
from .layout import (
    BORN,
    COLUMNS,
    COSINE,
    DEAD,
    DIED,
    FARTHEST,
    FULL,
    LEVEL,
    NODE,
    REFUSED,
    TIER,
    TWIN,
    UNFIT,
    ZERO,
    Candidates,
    Probes,
    distance_of,
    key_of,
    known,
    slot_of,
    stored_of,
)
from .nearest import keep_smallest, sort_smallest
from .walk import POOL, WALKS, clear, descend, pool_width, walk_many

# How candidates are found.
WALK, SCAN, SCAN_EXACTLY = 0, 1, 2
_BLOCK = 64  # queries whose walks may run side by side
_SCANNED = 32  # slots measured at once in a scan
# Walks stop at this power of ef / rank times the squared distance of the rank-th nearest: for what lies farther, the
# walk would have to turn back.
_STRETCH = 0.08


class View(NamedTuple):
    """What a reader may see: nodes, the arena's rows, slots and clock of its state, and which slots are allowed.

    allowed is uint8 (size,); of length 0, all are.
    """

    nodes: np.ndarray
    rows: np.ndarray
    size: int
    clock: int
    allowed: np.ndarray


@njit(cache=True, nogil=True)
def search(
    arrays, count, clock, entry, queries, bits, metric, ef, rank, fine, how, chosen, allowed, ids, distances, counts
):
    """Fill ids int64 and distances float32, both (n, k), with the nearest to queries (n, dim) that the clock shows.

    arrays are the graph's (`Arrays`), count, clock and entry those of the state that is read.

    `ef` (at least k and 1) candidates are found, of which `rank` are wanted (see `walk`): by walking (`how`
    WALK), or among the slots `chosen` int64 (m,), by codes (SCAN) or exactly (SCAN_EXACTLY). At least the `fine`
    nearest of them are then measured exactly. allowed uint8 (count,) marks the slots that may be returned, and counts
    int64 (n,) is filled with how many of those a walk or scan by codes found; of length 0, all may.

    Rows are best first, equal distances by smaller id; short ones end in -1 and infinity. Returns how many the last
    row holds; UNFIT if a query cannot be measured (see `distance.load`), and REFUSED: what was filled is then no
    answer.
    """
    if not known(bits, metric) or (how != WALK and how != SCAN and how != SCAN_EXACTLY):
        return REFUSED
    stored, nodes, upper = stored_of(arrays, bits, metric), arrays.nodes, arrays.upper
    vectors, frame, links = arrays.vectors, arrays.frame, arrays.links
    n, dim, codes_alone = queries.shape[0], queries.shape[1], vectors.shape[1] == 0
    stride = padded(dim)
    block = min(n, _BLOCK)
    own = np.empty((block, stride), np.float32)
    turned = np.empty((block, frame.shape[1]), np.float32) if codes_alone else own
    parameters = np.zeros((block, PARAMETERS), np.float32)
    probes = Probes(np.empty((block, probe_bytes(bits, stride, frame)), np.uint8), parameters)
    exact = Queries(own.view(np.uint8), turned, parameters)
    work = np.empty(frame.shape, np.float32)
    starts, pools = np.full(block, FARTHEST, np.int64), np.empty((block, pool_width(ef)), np.int64)
    width = max(links.shape[1], _SCANNED)
    candidates = Candidates(
        np.empty((WALKS, width + 3), np.int64), np.empty(width + 3, np.float32), np.empty(width + 3, np.int64)
    )
    view = View(nodes, table.parts(arrays.arena)[1], np.int64(count), np.int64(clock), allowed)
    fully = bits == FULL or how == SCAN_EXACTLY
    best = np.empty(ef if fully else min(ef, max(np.int64(ids.shape[1]), np.int64(1))), np.int64)
    origin = origin_of(metric)
    stretch = np.float32((ef / rank) ** _STRETCH)
    # The lowest of the tiers above is too large for the fastest cache: there, too, walks run side by side.
    tier = min(np.int64(nodes[entry, TIER]), np.int64(1)) if how == WALK and n > 1 else ZERO
    filled = ZERO
    for first in range(0, n, block):
        m = min(block, n - first)
        for i in range(m):
            if not load(queries, first + i, own, i, metric == COSINE):
                return UNFIT
            make_probe(stored, frame, dim, own, i, work, probes, i)
            if codes_alone:
                for d in range(frame.shape[1]):
                    turned[i, d] = work[0, d]
            if how == WALK:
                starts[i] = descend(stored, nodes, upper, count, entry, tier, probes, i, candidates)
        if how == WALK:
            if tier > 0:
                walk_many(
                    stored, nodes, upper, upper, tier, count, probes, starts[:m], tier, tier, origin, stretch, pools,
                    candidates,
                )  # fmt: skip
                for i in range(m):
                    starts[i] = pools[i, POOL] & ~1
            walk_many(
                stored, nodes, upper, links, ZERO, count, probes, starts[:m], ef, rank, origin, stretch, pools,
                candidates,
            )  # fmt: skip
        for i in range(m):
            if how == SCAN:
                scan(stored, probes, i, chosen, pools, ef, candidates)
            elif how == WALK and bits != FULL and i + 1 < m:
                _fetch_best(vectors, view, pools, i + 1, min(ef, fine))
            q = first + i
            if how == SCAN_EXACTLY:
                size = ZERO
                for e in range(chosen.shape[0]):
                    key = key_of(exactly(stored, chosen[e], exact, i), chosen[e])
                    size = keep_smallest(best, ZERO, size, key)
            else:
                size = _refine(stored, view, pools, i, ef, fine, exact, best)
                if allowed.shape[0] > 0:
                    counts[q] = _count_visible(view, pools, i, ef)
            sort_smallest(best, ZERO, size)
            filled = _report(view, metric, best, size, ids, distances, q)
            for e in range(filled, ids.shape[1]):
                ids[q, e], distances[q, e] = -1, np.inf
    return filled


@njit_no_nrt(cache=True)
def scan(stored, probes, p, chosen, pools, ef, candidates):
    """Fill pools[p] with the ef nearest of the slots `chosen` int64 (m,). O(m (D + ef / 8))."""
    slots, keys = candidates.slots, candidates.keys
    clear(pools, p)
    last = POOL + ef - 1
    for first in range(0, chosen.shape[0], _SCANNED):
        m = min(_SCANNED, chosen.shape[0] - first)
        for e in range(first + m, min(first + 2 * m, chosen.shape[0])):
            fetch(stored, chosen[e])
        for e in range(m):
            slots[0, e] = chosen[first + e]
        measure(stored, probes, p, candidates, ZERO, m)
        for e in range(m):
            if keys[e] < pools[p, last]:
                insert(pools, p * pools.shape[1] + POOL, pools.shape[1] - POOL, keys[e])


@njit_no_nrt(cache=True)
def _fetch_best(vectors, view, pools, p, size):
    """Prefetch what `_refine` will read of the first `size` candidates in pools[p]."""
    nodes, rows = view.nodes, view.rows
    for e in range(POOL, POOL + size):
        if pools[p, e] != FARTHEST:
            slot = slot_of(pools[p, e])
            prefetch(rows, slot * rows.shape[1], COLUMNS)
            prefetch(nodes, slot * nodes.shape[1], np.int64(NODE))
            prefetch(vectors, slot * vectors.shape[1], vectors.shape[1])


@njit_no_nrt(cache=True)
def _refine(stored, view, pools, i, ef, fine, queries, best):
    """Fill `best`, a heap, with exact keys of the nearest visible ones in pools[i]; return how many.

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
        if not _any_visible(view, slot):
            continue
        if stored.bits == FULL:
            key = pools[i, e] & ~1
        else:
            d = exactly(stored, slot, queries, i)
            error = max(error, abs(estimated - d))
            key = key_of(d, slot)
        size = keep_smallest(best, ZERO, size, key)
        measured += 1
    return size


@njit_no_nrt(cache=True)
def _count_visible(view, pools, i, ef):
    """Return how many of pools[i] are visible, themselves or by a twin."""
    visible = ZERO
    for e in range(POOL, POOL + ef):
        if pools[i, e] == FARTHEST:
            break
        visible += _any_visible(view, slot_of(pools[i, e]))
    return visible


@njit_no_nrt(cache=True)
def _any_visible(view, slot):
    """Return whether a slot or a twin of it is visible."""
    while 0 <= slot < view.nodes.shape[0]:
        if _visible(view, slot):
            return True
        slot = np.int64(view.nodes[slot, TWIN])
    return False


@njit_no_nrt(cache=True)
def _visible(view, slot):
    """Return whether a slot is allowed and holds a vector at the reader's clock."""
    rows, clock = view.rows, view.clock
    if slot >= view.size or clock >= rows[slot, DIED] or clock < rows[slot, BORN]:  # BORN last: it is written first
        return False
    return view.allowed.shape[0] == 0 or view.allowed[slot] != 0


@njit(cache=True)
def visible_heads(nodes, arena, count, clock, allowed):
    """Return the linked slots (int64) that are visible at this clock, themselves or by a twin; and those removed since.

    allowed is as in `search`. O(n).
    """
    optimize_for_size()
    view = View(nodes, table.parts(arena)[1], np.int64(count), np.int64(clock), allowed)
    heads, m = np.empty(count, np.int64), 0
    for slot in range(count):
        linked, gone = nodes[slot, LEVEL] >= 0, nodes[slot, LEVEL] == DEAD
        if (linked or gone) and _any_visible(view, slot):
            heads[m] = slot
            m += 1
    return heads[:m].copy()


@njit_no_nrt(cache=True)
def _report(view, metric, best, size, ids, distances, q):
    """Write the nearest of best[:size] and of their twins to row q; return how many. Equal distances go by id."""
    nodes, rows = view.nodes, view.rows
    row, k, filled, i = ids[q], ids.shape[1], ZERO, ZERO
    while i < size and filled < k:
        distance = reported(distance_of(best[i]), metric)
        start = filled
        while i < size and reported(distance_of(best[i]), metric) == distance:
            slot = slot_of(best[i])
            while 0 <= slot < nodes.shape[0]:
                if _visible(view, slot):
                    filled = keep_smallest(row, start, filled, rows[slot, table.KEY])
                slot = np.int64(nodes[slot, TWIN])
            i += 1
        sort_smallest(row, start, filled)
        filled = _distinct(row, start, filled)
        for e in range(start, filled):
            distances[q, e] = distance
    return filled


@njit_no_nrt(cache=True)
def _distinct(row, start, stop):
    """Drop repeated ids of the sorted row[start:stop] (an id moves from twin to twin); return where it stops."""
    kept = start
    for e in range(start, stop):
        if e == start or row[e] != row[kept - 1]:
            row[kept] = row[e]
            kept += 1
    return kept


@njit(cache=True)
def first_of_each(ids, distances, parents, best_ids, best_distances, rows):
    """Write the first of each parent in row i of `ids` to row rows[i] of best_ids, best_distances (., k). O(n c k).

    ids and parents are int64 (n, c), distances float32; rows end at id -1. Returns uint8 (n,): which rows are complete,
    because they hold k, or because ids[i] ends before its width, so that there are no more.
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
