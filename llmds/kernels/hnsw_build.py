"""Adding to the graph of `hnsw` (Malkov and Yashunin 2018, algorithms 1 and 4), a batch at a time.

A batch is linked in four steps, each over any part of the batch, so that no call is long:

    prepare   (all at once) levels and room; equal vectors in the batch
    find      candidates for every new node, in the graph as it was before the batch and in the batch
    choose    its neighbours among them, written to its own rows
    connect   in order: links back to it, after which it is part of the graph

`find` and `choose` for one node write nothing that they read for another, so their order does not matter.
"""

import numpy as np

from .compiling import njit
from .hashing import hash_bytes
from .hnsw import (
    ENTRY,
    L2,
    LEVEL,
    LINKED,
    PARENT,
    TIER,
    TWIN,
    UPPER,
    UPPER_TOP,
    ZERO,
    distance,
    distance_of,
    key_of,
    prefetch,
    row_of,
    slot_of,
)
from .hnsw_search import descend, merge, walk

# Columns of `batch`, int32 (n, 2): the slot whose vector is the same, or -1; its first row of `found`.
SAME, FOUND, BATCH = 0, 1, 2
_ONE = np.int64(1)


@njit(cache=True)
def prepare(vectors, nodes, links, upper, arena, levels, step, batch):
    """Begin a batch of levels.shape[0] nodes, the slots from arena[LINKED] on, whose vectors are stored.

    levels int32 (n,); `upper` has room for one row for each tier above 0. Fills `batch`. Returns how many
    rows of `found` are needed.
    """
    first, n = arena[LINKED], levels.shape[0]
    top, needed = arena[UPPER_TOP], ZERO
    hashes = np.empty(n, np.uint64)
    for i in range(n):
        slot = first + i
        hashes[i] = hash_bytes(vectors[slot].view(np.uint8), ZERO, vectors.shape[1] * 4, np.uint64(0))
        batch[i, SAME] = -1
        for j in range(i):
            if hashes[j] == hashes[i] and _equal(vectors, first + j, slot):
                batch[i, SAME] = first + j
                break
        tier = ZERO if batch[i, SAME] >= 0 else np.int64(levels[i]) // step
        nodes[slot, LEVEL], nodes[slot, TIER] = levels[i], tier
        nodes[slot, UPPER], nodes[slot, TWIN], nodes[slot, PARENT] = top, -1, -1
        for e in range(links.shape[1]):
            links[slot, e] = -1
        for row in range(top, top + tier):
            for e in range(upper.shape[1]):
                upper[row, e] = -1
        top += tier
        batch[i, FOUND] = needed
        needed += tier + 1
    return needed


@njit(cache=True, nogil=True)
def find(vectors, nodes, links, upper, arena, metric, start, stop, batch, found, sizes):
    """Candidates for the nodes start..stop-1 of the batch: keys in found int64 (rows, ef), counts in sizes (rows,).

    A node that has an equal in the graph gets that as its batch[i, SAME].
    """
    first, entry, product = arena[LINKED], arena[ENTRY], metric != L2
    visited = np.empty((first + 63) // 64, np.int64)
    fresh = np.empty(links.shape[1], np.int64)
    near = np.empty(links.shape[1], np.int64)
    inside = np.empty(batch.shape[0], np.int64)
    for i in range(start, stop):
        slot = first + i
        begin, tier = np.int64(batch[i, FOUND]), np.int64(nodes[slot, TIER])
        for row in range(begin, begin + tier + 1):
            sizes[row] = 0
        if batch[i, SAME] >= 0:
            continue
        if first > 0:
            key = key_of(distance(vectors, slot, vectors, entry, product), entry)
            key = descend(vectors, nodes, upper, first, key, tier, vectors, slot, product)
            for t in range(min(tier, np.int64(nodes[entry, TIER])), -1, -1):
                row = begin + t
                found[row, 0] = key
                own = links if t == 0 else upper
                sizes[row] = walk(
                    vectors, nodes, own, t, first, vectors, slot, product, found[row], visited, fresh, near
                )
                key = found[row, 0] & ~1
            batch[i, SAME] = _same(vectors, slot, product, found[begin], sizes[begin])
            if batch[i, SAME] >= 0:
                continue
        for j in range(i):
            inside[j] = key_of(distance(vectors, slot, vectors, first + j, product), first + j)
        for t in range(tier + 1):
            _add_inside(nodes, t, first, batch, inside, i, found[begin + t], sizes, begin + t, near)


@njit(cache=True, nogil=True)
def choose(vectors, nodes, links, upper, arena, metric, start, stop, batch, found, sizes):
    """Write the neighbours of the nodes start..stop-1 of the batch: at most M in each tier, by algorithm 4."""
    first, most = arena[LINKED], upper.shape[1]
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            continue
        slot = first + i
        for t in range(np.int64(nodes[slot, TIER]) + 1):
            row = np.int64(batch[i, FOUND]) + t
            own = (links if t == 0 else upper)[row_of(nodes, slot, t)]
            _choose(vectors, own, t, most, metric != L2, first, batch, found[row], sizes[row])


@njit(cache=True, nogil=True)
def connect(vectors, nodes, links, upper, arena, metric, start, stop, batch):
    """Make the nodes start..stop-1 of the batch, the next in order, part of the graph."""
    first = arena[LINKED] - start
    keys = np.empty(links.shape[1] + 1, np.int64)
    for i in range(start, stop):
        slot, same = first + i, np.int64(batch[i, SAME])
        if same >= 0:
            nodes[slot, LEVEL], nodes[slot, TIER] = -1, 0
            nodes[slot, TWIN] = nodes[same, TWIN]
            nodes[same, TWIN] = slot
        else:
            for t in range(np.int64(nodes[slot, TIER]), 0, -1):
                row = row_of(nodes, slot, t)
                for e in range(upper.shape[1]):
                    other = np.int64(upper[row, e])
                    if other < 0:
                        break
                    _link_back(vectors, nodes, upper, row_of(nodes, other, t), other, slot, metric != L2, keys)
            if slot > 0:
                _adopt(vectors, nodes, links, slot, metric != L2, upper.shape[1], keys)
            for e in range(links.shape[1]):
                other = np.int64(links[slot, e])
                if other < 0:
                    break
                if other != nodes[slot, PARENT]:
                    _link_back(vectors, nodes, links, other, other, slot, metric != L2, keys)
            if arena[ENTRY] < 0 or nodes[slot, LEVEL] > nodes[arena[ENTRY], LEVEL]:
                arena[ENTRY] = slot
        arena[UPPER_TOP] = nodes[slot, UPPER] + nodes[slot, TIER]
        arena[LINKED] = slot + 1


@njit(cache=True)
def _equal(vectors, a, b):
    for d in range(vectors.shape[1]):
        if vectors[a, d] != vectors[b, d]:
            return False
    return True


@njit(cache=True)
def _same(vectors, slot, product, pool, size):
    """A slot among pool[:size] with the vector of `slot`, or -1."""
    itself = distance(vectors, slot, vectors, slot, product)
    slack = abs(itself) * np.float32(1e-5)  # the loop compiled here may add up in another order
    for c in range(size):
        if distance_of(pool[c]) > itself + slack:
            break
        if distance_of(pool[c]) >= itself - slack and _equal(vectors, slot, slot_of(pool[c])):
            return slot_of(pool[c])
    return np.int64(-1)


@njit(cache=True)
def _add_inside(nodes, tier, first, batch, inside, i, pool, sizes, row, near):
    """Merge those of the i earlier nodes of the batch that stand in `tier`, with keys inside[:i], into the pool."""
    for j in range(i):
        size = np.int64(sizes[row])
        if (
            nodes[first + j, TIER] >= tier
            and not (batch[j, SAME] >= first)
            and (size < pool.shape[0] or inside[j] < pool[size - 1])
        ):
            near[0] = inside[j]
            merge(pool, size, near, _ONE)
            sizes[row] = min(size + 1, pool.shape[0])


@njit(cache=True)
def _choose(vectors, row, tier, most, product, first, batch, pool, size):
    """Algorithm 4 without filling up: a candidate nearer to one already chosen than to the base is left out."""
    chosen = ZERO
    for c in range(size):
        slot = slot_of(pool[c])
        if slot >= first and batch[slot - first, SAME] >= 0:  # it became a twin, whose likeness is in the graph
            slot = np.int64(batch[slot - first, SAME])
            if tier > 0 or _contains(row, chosen, slot):
                continue
        if c + 1 < size:
            prefetch(vectors, slot_of(pool[c + 1]) * vectors.shape[1], vectors.shape[1])
        if _diverse(vectors, row, chosen, slot, distance_of(pool[c]), product):
            row[chosen] = slot
            chosen += 1
            if chosen == most:
                break


@njit(cache=True)
def _diverse(vectors, row, chosen, slot, limit, product):
    """Whether no one in row[:chosen] is nearer to `slot` than `limit`."""
    for e in range(chosen):
        if distance(vectors, slot, vectors, np.int64(row[e]), product) < limit:
            return False
    return True


@njit(cache=True)
def _link_back(vectors, nodes, links, row, base, slot, product, keys):
    """Add `slot` to the neighbours of `base` in links[row]; if that is full, choose anew among all of them.

    Links to the parent and to children stay.
    """
    width = links.shape[1]
    if links[row, width - 1] < 0:
        e = 0
        while links[row, e] >= 0:
            e += 1
        links[row, e] = slot
        return
    kin = 0
    for e in range(width + 1):
        other = slot if e == width else np.int64(links[row, e])
        if e + 1 < width:
            prefetch(vectors, np.int64(links[row, e + 1]) * vectors.shape[1], vectors.shape[1])
        key = key_of(distance(vectors, base, vectors, other, product), other)
        if _kin(nodes, base, other):
            key |= 1
            kin += 1
        place = e
        while place > 0 and keys[place - 1] > key:
            keys[place] = keys[place - 1]
            place -= 1
        keys[place] = key
    chosen = ZERO
    for e in range(width + 1):
        if keys[e] & 1:
            kin -= 1
        elif chosen + kin == width or not _diverse(
            vectors, links[row], chosen, slot_of(keys[e]), distance_of(keys[e]), product
        ):
            continue
        links[row, chosen] = slot_of(keys[e])
        chosen += 1
    for e in range(chosen, width):
        links[row, e] = -1


@njit(cache=True)
def _kin(nodes, a, b):
    return nodes[a, PARENT] == b or nodes[b, PARENT] == a


@njit(cache=True)
def _adopt(vectors, nodes, links, slot, product, most, keys):
    """Give `slot` a parent: the first of its neighbours that has fewer than M children.

    Where all of them have M, the tree is followed down from the first, so there always is one.
    """
    parent = np.int64(-1)
    for e in range(most):
        if links[slot, e] < 0:
            break
        if _children(nodes, links, np.int64(links[slot, e])) < most:
            parent = np.int64(links[slot, e])
            break
    if parent < 0:
        parent = np.int64(links[slot, 0])
        while _children(nodes, links, parent) >= most:
            for e in range(links.shape[1]):
                if nodes[links[parent, e], PARENT] == parent:
                    parent = np.int64(links[parent, e])
                    break
        if not _contains(links[slot], most, parent):
            e = 0
            while e < most - 1 and links[slot, e] >= 0:
                e += 1
            links[slot, e] = parent
    nodes[slot, PARENT] = parent
    _link_back(vectors, nodes, links, parent, parent, slot, product, keys)


@njit(cache=True)
def _children(nodes, links, slot):
    children = 0
    for e in range(links.shape[1]):
        other = links[slot, e]
        if other < 0:
            break
        children += nodes[other, PARENT] == slot
    return children


@njit(cache=True)
def _contains(row, size, slot):
    for e in range(size):
        if row[e] == slot:
            return True
    return False
