"""Walking the graph of `hnsw` to the neighbours of a query (Malkov and Yashunin 2018, algorithms 2 and 5)."""

import numpy as np

from . import smallest, table
from .compiling import njit
from .hnsw import (
    COSINE,
    L2,
    LEVEL,
    TIER,
    TWIN,
    ZERO,
    distance,
    distance_of,
    key_of,
    load,
    prefetch,
    reported,
    row_of,
    slot_of,
)

_FARTHEST = np.int64(2**63 - 1)


@njit(cache=True, nogil=True)
def search(vectors, nodes, links, upper, arena, count, entry, queries, metric, ef, ids, distances):
    """Fill ids int64 and distances float32, both (n, k), with the nearest to queries (n, dim) among `count` slots.

    `ef` (at least min(k, count)) candidates are kept on the way; where that is much of all there is, all are
    compared. Rows are best first, equal distances by smaller id; short ones end in -1 and infinity. Returns how many
    the last row holds, or -1 if a query is not fit (see `hnsw.load`); what was filled means nothing then.
    """
    rows = table.parts(arena)[1]
    query = np.empty((1, vectors.shape[1]), np.float32)
    visited = np.empty((count + 63) // 64, np.int64)
    pool = np.empty(ef, np.int64)
    fresh = np.empty(links.shape[1], np.int64)
    near = np.empty(links.shape[1], np.int64)
    filled = ZERO
    for q in range(queries.shape[0]):
        if not load(queries, q, query, metric == COSINE):
            return np.int64(-1)
        filled = ZERO
        if count > 0:
            product = metric != L2
            if ef * 8 >= count or ef * ef >= 256 * count:  # a walk would see most of them, or sort for longer
                size = scan(vectors, nodes, count, query, ZERO, product, pool)
            else:
                key = key_of(distance(query, ZERO, vectors, entry, product), entry)
                pool[0] = descend(vectors, nodes, upper, count, key, ZERO, query, ZERO, product)
                size = walk(vectors, nodes, links, ZERO, count, query, ZERO, product, pool, visited, fresh, near)
            filled = _report(rows, nodes, count, metric, pool, size, ids[q], distances[q])
        for e in range(filled, ids.shape[1]):
            ids[q, e], distances[q, e] = -1, np.inf
    return filled


@njit(cache=True)
def scan(vectors, nodes, count, query, at, product, pool):
    """Fill `pool` (ef,) with the keys of the nearest of all linked slots below `count`, in order; how many."""
    size = ZERO
    for slot in range(count):
        if nodes[slot, LEVEL] >= 0:
            size = smallest.keep(pool, ZERO, size, key_of(distance(query, at, vectors, slot, product), slot))
    smallest.sort(pool, ZERO, size)
    return size


@njit(cache=True)
def descend(vectors, nodes, upper, count, key, tier, query, at, product):
    """The key of the node that greedy walks reach from `key`'s down to the tier above `tier`."""
    for t in range(nodes[slot_of(key), TIER], tier, -1):
        better = True
        while better:
            better = False
            row = row_of(nodes, slot_of(key), t)
            for e in range(upper.shape[1]):
                slot = np.int64(upper[row, e])
                if slot < 0:
                    break
                if slot < count:
                    prefetch(vectors, slot * vectors.shape[1], vectors.shape[1])
            for e in range(upper.shape[1]):
                slot = np.int64(upper[row, e])
                if slot < 0:
                    break
                if slot < count:
                    other = key_of(distance(query, at, vectors, slot, product), slot)
                    if other < key:
                        key, better = other, True
    return key


@njit(cache=True)
def walk(vectors, nodes, links, tier, count, query, at, product, pool, visited, fresh, near):
    """Best-first search in one tier from the key in pool[0]: fills `pool` (ef,) with the nearest found, in order.

    `links` is that of the tier; visited int64 (count / 64,), fresh and near int64 (links a row,) are room to work
    in. Returns how many there are; their keys are marked.

    Algorithm 2: candidates farther than the ef nearest are never expanded, so one sorted array with marks is both of
    its heaps. A wave of neighbours is merged into it at once.
    """
    stride, ef = vectors.shape[1], pool.shape[0]
    for word in range(visited.shape[0]):
        visited[word] = 0
    slot = slot_of(pool[0])
    visited[slot >> 6] |= np.int64(1) << (slot & 63)
    size, at_pool = np.int64(1), ZERO
    while at_pool < size:
        row = row_of(nodes, slot_of(pool[at_pool]), tier)
        pool[at_pool] |= 1
        at_pool += 1
        waiting = ZERO
        for e in range(links.shape[1]):
            slot = np.int64(links[row, e])
            if slot < 0:
                break
            if slot < count:
                word, bit = visited[slot >> 6], np.int64(1) << (slot & 63)
                if not word & bit:
                    visited[slot >> 6] = word | bit
                    fresh[waiting] = slot
                    waiting += 1
        if waiting > 0:
            prefetch(vectors, fresh[0] * stride, stride)
        following = _FARTHEST
        if at_pool < size:
            following = pool[at_pool]
            prefetch(links, row_of(nodes, slot_of(following), tier) * links.shape[1], links.shape[1])
        bound = pool[ef - 1] if size == ef else _FARTHEST
        m = ZERO
        for e in range(waiting):
            if e + 1 < waiting:
                prefetch(vectors, fresh[e + 1] * stride, stride)
            key = key_of(distance(query, at, vectors, fresh[e], product), fresh[e])
            if key < bound:
                if key < following:
                    following = key
                    prefetch(links, row_of(nodes, fresh[e], tier) * links.shape[1], links.shape[1])
                place = m
                while place > 0 and near[place - 1] > key:
                    near[place] = near[place - 1]
                    place -= 1
                near[place] = key
                m += 1
        if m > 0:
            at_pool = min(at_pool, merge(pool, size, near, m))
            size = min(size + m, ef)
        while at_pool < size and pool[at_pool] & 1:
            at_pool += 1
    return size


@njit(cache=True)
def merge(pool, size, near, m):
    """Merge the sorted near[:m] into the sorted pool[:size], dropping what exceeds pool. Where near[0] went (m > 0)."""
    left, right, at = size - 1, m - 1, size + m - 1
    while right >= 0:
        if left >= 0 and pool[left] > near[right]:
            key = pool[left]
            left -= 1
        else:
            key = near[right]
            right -= 1
        if at < pool.shape[0]:
            pool[at] = key
        at -= 1
    return at + 1


@njit(cache=True)
def _report(rows, nodes, count, metric, pool, size, ids, distances):
    """Write the nearest of pool[:size] and of their twins; how many. Equal distances are ordered by id."""
    k, filled, i = ids.shape[0], ZERO, ZERO
    while i < size and filled < k:
        told = reported(distance_of(pool[i]), metric)
        start = filled
        while i < size and reported(distance_of(pool[i]), metric) == told:
            slot = slot_of(pool[i])
            while 0 <= slot < nodes.shape[0]:
                if slot < count:
                    filled = smallest.keep(ids, start, filled, rows[slot, table.KEY])
                slot = np.int64(nodes[slot, TWIN])
            i += 1
        smallest.sort(ids, start, filled)
        for e in range(start, filled):
            distances[e] = told
    return filled
