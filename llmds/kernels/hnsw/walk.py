"""Walking the graph (Malkov and Yashunin 2018, algorithm 2): greedily down, then best first in one tier.

Walks of several probes run side by side, each a step at a time: while one computes, what the others will read
next is on its way from memory.

A pool is where a walk keeps the nearest found: a row of int64, keys in ascending order from POOL on, filled up with
FARTHEST. A key whose node has been expanded is marked.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..simd import insert, prefetch
from .distance import fetch, measure
from .layout import FARTHEST, TIER, ZERO, distance_of, row_of, slot_of

POOL = 8  # columns before the keys; the last of them is smaller than any key
WALKS = 6  # walks side by side: enough to hide memory latency, few enough to stay in the fastest cache


@njit(cache=True)
def pool_width(ef):
    """Return the columns of a pool for ef keys."""
    return POOL + (ef + 7) // 8 * 8


@njit_no_nrt(cache=True)
def descend(stored, nodes, upper, count, entry, tier, probes, p, candidates):
    """Return the key of the node that greedy walks from `entry` reach in the tier above `tier`. O(log n M D).

    stored, probes and candidates are groups of `layout`; candidates.slots is (1 or more, M + 3).
    """
    slots, keys, width, one = candidates.slots, candidates.keys, upper.shape[1] - 1, np.int64(1)
    slots[0, 0] = entry
    measure(stored, probes, p, candidates, ZERO, one)
    best = keys[0]
    for t in range(np.int64(nodes[entry, TIER]), tier, -1):
        better = True
        while better:
            better = False
            row = row_of(nodes, upper, slot_of(best), t)
            m = ZERO
            for e in range(width if row >= 0 else 0):
                slot = np.int64(upper[row, e])
                if slot < 0:
                    break
                if slot < count:
                    slots[0, m] = slot
                    m += 1
            for e in range(m):
                fetch(stored, slots[0, e])
            measure(stored, probes, p, candidates, ZERO, m)
            for e in range(m):
                if keys[e] < best and nodes[slot_of(keys[e]), TIER] >= t:
                    best, better = keys[e], True
    return best


@njit(cache=True)
def walk_many(
    stored, nodes, upper, links, tier, count, probes, starts, ef, rank, origin, stretch, pools, candidates
):  # fmt: skip
    """Search one tier best first for n probes: fill pools (n, pool_width(ef)) with the ef nearest found.

    starts int64 (n,) are the keys to begin at; FARTHEST: no walk, an empty pool. `links` is that of the tier, or
    `upper` itself. Candidates farther than the ef nearest are never expanded, so one sorted pool with marks is
    both of the algorithm's heaps.

    A walk also ends when the next to expand is more than `stretch` (float32) times as far from `origin` as the
    rank-th nearest found: what lies farther out is not worth expanding (Al-Jazzazi et al. 2025, adaptive beam search).
    With an origin of -inf no walk ends this way.

    stored, probes and candidates are groups of `layout`; candidates.slots is (WALKS, M' + 3), M' the most links of a
    node.
    """
    slots, keys = candidates.slots, candidates.keys
    n, width = starts.shape[0], links.shape[1] - (tier > 0)
    lanes, words = min(WALKS, n), (count + 63) >> 6
    visited = np.zeros((lanes, words), np.int64)
    log = np.empty((lanes, words + width), np.int64)  # the slots a walk has visited, to clear only these
    room = np.zeros((5, lanes), np.int64)
    probe_of, row_at, place, logged, new = room[0], room[1], room[2], room[3], room[4]
    probe_of[:] = -1
    following, walking = ZERO, True
    while walking:
        for lane in range(lanes):
            if probe_of[lane] >= 0:
                m = new[lane] = _gather(links, row_at[lane], width, count, visited, slots, lane)
                for e in range(m):
                    fetch(stored, slots[lane, e])
                logged[lane] = _append(log, lane, logged[lane], words, slots, m)
                continue
            while following < n and starts[following] == FARTHEST:
                clear(pools, following)
                following += 1
            if following < n:
                _clear_visited(visited, log, lane, logged[lane], words)
                clear(pools, following)
                pools[following, POOL] = starts[following]
                slot = slot_of(starts[following])
                visited[lane, slot >> 6] |= np.int64(1) << (slot & 63)
                log[lane, 0] = slot
                logged[lane], new[lane], place[lane] = 1, 0, POOL
                probe_of[lane] = following
                following += 1
        walking = following < n
        for lane in range(lanes):
            p = probe_of[lane]
            if p < 0:
                continue
            m, nearest = new[lane], FARTHEST
            measure(stored, probes, p, candidates, lane, m)
            for e in range(m):
                if keys[e] < pools[p, POOL + ef - 1]:
                    insert(pools, p * pools.shape[1] + POOL, pools.shape[1] - POOL, keys[e])
                    nearest = min(nearest, keys[e])
            at = place[lane]
            while pools[p, at - 1] >= nearest:
                at -= 1
            while at < POOL + ef and pools[p, at] & 1:
                at += 1
            place[lane] = at
            reach = stretch * (distance_of(pools[p, POOL + rank - 1]) - origin)
            if at < POOL + ef and not distance_of(pools[p, at]) - origin > reach:
                row_at[lane] = row_of(nodes, upper, slot_of(pools[p, at]), tier)
                prefetch(links, max(row_at[lane], ZERO) * links.shape[1], width)
                pools[p, at] |= 1
                walking = True
                if lanes == 1:  # no other walk runs meanwhile: prefetch the row after that, too
                    while at < POOL + ef and pools[p, at] & 1:
                        at += 1
                    if at < POOL + ef:
                        row = row_of(nodes, upper, slot_of(pools[p, at]), tier)
                        prefetch(links, max(row, ZERO) * links.shape[1], width)
            else:
                probe_of[lane] = -1


@njit_no_nrt(cache=True)
def _gather(links, row, width, count, visited, slots, lane):
    """Write the neighbours in links[row] not visited yet to slots[lane], mark them, and return their number."""
    m, bound = np.uint64(0), np.uint64(count)
    for e in range(width if row >= 0 else 0):
        slot = np.uint64(np.int64(links[row, e]))
        if slot >= bound:
            if links[row, e] < 0:
                break
            continue  # newer than this reader's state
        word, bit = visited[lane, slot >> np.uint64(6)], np.int64(1) << np.int64(slot & np.uint64(63))
        slots[lane, m] = slot
        m += np.uint64(word & bit == 0)
        visited[lane, slot >> np.uint64(6)] = word | bit
    return np.int64(m)


@njit_no_nrt(cache=True)
def _append(log, lane, logged, most, slots, m):
    """Append slots[lane, :m] to the log, unless it has `most` or more; return its new length."""
    if logged >= most:
        return logged
    for e in range(m):
        log[lane, logged + e] = slots[lane, e]
    return logged + m


@njit_no_nrt(cache=True)
def clear(pools, p):
    """Make pools[p] an empty pool."""
    for at in range(pools.shape[1]):
        pools[p, at] = FARTHEST
    pools[p, POOL - 1] = -FARTHEST


@njit_no_nrt(cache=True)
def _clear_visited(visited, log, lane, logged, most):
    """Make visited[lane] all zeros: the words that are logged, or all if the log is full."""
    if logged >= most:
        for word in range(visited.shape[1]):
            visited[lane, word] = 0
    else:
        for e in range(logged):
            visited[lane, log[lane, e] >> 6] = 0
