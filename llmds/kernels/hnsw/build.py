"""Adding to the graph of `hnsw` (Malkov and Yashunin 2018, algorithms 1 and 4), a batch at a time.

A batch is linked in these steps. Those over parts may be cut into any parts, on any threads:

    prepare    levels and room; equal vectors in the batch
    find       over parts of the batch: candidates for every new node, in the graph as it was
    find_inside  the same, among those before it in the batch
    choose     over parts of the batch: its neighbours among them, written to its own rows
    adopt      parents
    link_back  over parts of all slots: links to the new nodes from their neighbours there
    finish     the batch is part of the graph

What one part of a step writes, no other part of it reads.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size
from ..hashing import hash_bytes
from ..simd import insert, prefetch
from . import codes as _codes
from .distance import fetch, load, make_probe, measure, probe_of_slot
from .layout import (
    BORN,
    CHILDREN,
    COSINE,
    DEAD,
    DIED,
    ENTRY,
    FARTHEST,
    JOINING,
    L2,
    LEVEL,
    NEVER,
    NODE,
    PARENT,
    TIER,
    TWIN,
    TWINNED,
    UPPER,
    UPPER_FREE,
    UPPER_SPARE,
    UPPER_TOP,
    ZERO,
    among,
    distance_of,
    free_upper,
    row_of,
    slot_of,
)
from .walk import POOL, WALKS, clear, descend, walk_many

# Columns of `batch`, int64 (n, 3): the slot; the slot whose vector is the same, or -1; its first row of `high`.
SLOT, SAME, HIGH, BATCH = 0, 1, 2, 3
GROUPS = 64  # parts of the slots, by their lowest bits
_ONE = np.int64(1)
_NOWHERE = np.float32(-np.inf)
# Whom a chosen neighbour makes superfluous: those nearer to it than 1/1.05 of their squared distance from the base.
_SLACK = np.float32(1.05)
_TOGETHER = 16  # candidates weighed at once: fewer would cost more calls, more would be weighed in vain


@njit(cache=True, nogil=True)
def load_many(source, metric, queries):
    """Put source float32 (n, dim) into queries float32 (n, stride), padded, of length 1 under COSINE. O(n dim)."""
    optimize_for_size()
    for i in range(source.shape[0]):
        load(source, i, queries, i, metric == COSINE)


@njit(cache=True)
def prepare(vectors, codes, terms, nodes, links, upper, arena, levels, step, batch):
    """Begin a batch of nodes of these levels (int32 (n,)): room for their links, and SAME where two are equal.

    Returns how many rows `high` needs. O(n^2) in the worst case, with a small constant.
    """
    optimize_for_size()
    n, needed = levels.shape[0], ZERO
    stored = vectors if vectors.shape[1] > 0 else codes
    hashes = np.empty(n, np.uint64)
    for i in range(n):
        slot = batch[i, SLOT]
        hashes[i] = hash_bytes(stored[slot], ZERO, stored.shape[1], np.uint64(0))
        batch[i, SAME], batch[i, HIGH] = -1, needed
        for j in range(i):
            if hashes[j] == hashes[i] and equal(vectors, codes, terms, batch[j, SLOT], slot):
                batch[i, SAME] = batch[j, SLOT]
                break
        tier = ZERO if batch[i, SAME] >= 0 else np.int64(levels[i]) // step
        needed += tier
        nodes[slot, LEVEL], nodes[slot, TIER] = JOINING, tier
        nodes[slot, UPPER], nodes[slot, TWIN], nodes[slot, PARENT], nodes[slot, CHILDREN] = -1, -1, -1, i
        for e in range(links.shape[1]):
            links[slot, e] = -1
        for _ in range(tier):
            row = arena[UPPER_FREE]
            if row >= 0:
                arena[UPPER_FREE] = upper[row, upper.shape[1] - 1]
                arena[UPPER_SPARE] -= 1
            else:
                row = arena[UPPER_TOP]
                arena[UPPER_TOP] += 1
            for e in range(upper.shape[1] - 1):
                upper[row, e] = -1
            upper[row, upper.shape[1] - 1] = nodes[slot, UPPER]
            nodes[slot, UPPER] = row
    return needed


@njit(cache=True, nogil=True)
def find(
    vectors, codes, terms, frame, nodes, links, upper, arena, bits, metric, dim, queries, batch, start, stop, ef,
    probes, parameters, found, high,
):  # fmt: skip
    """Candidates for the nodes start..stop-1 of the batch: pools found (n, w) for tier 0, and high (rows, w) above.

    Fills their rows of probes and parameters too. A node that has an equal in the graph gets that as SAME.
    """
    optimize_for_size()
    product, count, entry = metric != L2, arena[table.TOP], arena[ENTRY]
    n, width = stop - start, links.shape[1]
    work = np.empty(frame.shape, np.float32)
    slots, distances = np.empty((WALKS, width + 3), np.int64), np.empty(width + 3, np.float32)
    keys = np.empty(width + 3, np.int64)
    starts, here = np.full(n, FARTHEST, np.int64), np.empty(n, np.int64)
    pools = np.empty((n, found.shape[1]), np.int64)
    top = ZERO
    for i in range(start, stop):
        make_probe(bits, product, frame, dim, queries, i, work, probes, parameters, i)
        if batch[i, SAME] < 0 and entry >= 0:
            tier = min(np.int64(nodes[batch[i, SLOT], TIER]), np.int64(nodes[entry, TIER]))
            top = max(top, tier)
            starts[i - start] = descend(
                bits, product, vectors, codes, terms, nodes, upper, count, entry, tier, probes, parameters, i, slots,
                distances, keys,
            )  # fmt: skip
    for t in range(top, -1, -1):
        tier = np.int64(t)
        for i in range(n):
            reached = tier == 0 or nodes[batch[start + i, SLOT], TIER] >= tier
            here[i] = starts[i] if reached else FARTHEST
        walk_many(
            bits, product, vectors, codes, terms, nodes, upper, links if tier == 0 else upper, tier, count,
            probes[start:stop], parameters[start:stop], here, ef, _ONE, _NOWHERE, np.float32(1),
            found[start:stop] if tier == 0 else pools, slots, distances, keys,
        )  # fmt: skip
        for i in range(n if tier > 0 else ZERO):
            if here[i] != FARTHEST:
                starts[i] = pools[i, POOL] & ~1
                for e in range(pools.shape[1]):
                    high[batch[start + i, HIGH] + tier - 1, e] = pools[i, e]
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            continue
        slots[0, 0] = slot = batch[i, SLOT]
        measure(bits, product, vectors, codes, terms, probes, parameters, i, slots, ZERO, _ONE, distances, keys)
        for e in range(POOL, POOL + ef):
            other = slot_of(found[i, e])
            if found[i, e] == FARTHEST or distance_of(found[i, e]) > distances[0]:
                break
            if distance_of(found[i, e]) == distances[0] and nodes[other, LEVEL] >= 0:
                if equal(vectors, codes, terms, slot, other):
                    batch[i, SAME] = other
                    break


@njit(cache=True, nogil=True)
def find_inside(
    vectors, codes, terms, nodes, arena, bits, metric, batch, start, stop, ef, probes, parameters, found, high
):
    """Let the nodes start..stop-1 of the batch know those before them in it. After all of `find`."""
    n, width, entry = batch.shape[0], found.shape[1], arena[ENTRY]
    top = np.int64(nodes[entry, TIER]) if entry >= 0 else np.int64(-1)
    slots, keys = np.empty((1, n + 3), np.int64), np.empty(n + 3, np.int64)
    distances = np.empty(n + 3, np.float32)
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            nodes[batch[i, SLOT], LEVEL] = TWINNED
            continue
        m = ZERO
        for j in range(i):
            if batch[j, SAME] < 0:
                slots[0, m] = batch[j, SLOT]
                m += 1
        measure(bits, metric != L2, vectors, codes, terms, probes, parameters, i, slots, ZERO, m, distances, keys)
        for tier in range(np.int64(nodes[batch[i, SLOT], TIER]) + 1):
            pools, row = (found, np.int64(i)) if tier == 0 else (high, batch[i, HIGH] + tier - 1)
            if tier > 0 and tier > top:  # no walk was there
                clear(pools, row)
            for e in range(m):
                if keys[e] < pools[row, POOL + ef - 1] and nodes[slots[0, e], TIER] >= tier:
                    insert(pools, row * width + POOL, width - POOL, keys[e])


@njit(cache=True, nogil=True)
def choose(vectors, codes, terms, nodes, links, upper, bits, metric, batch, start, stop, ef, origin, found, high, size):
    """Write the neighbours of the nodes start..stop-1 of the batch: at most M in each tier, by algorithm 4, and the
    nearest of those it leaves out where it chooses fewer than M / 2.

    `size` is the bytes of a probe, `origin` the distance of what is equal, -inf if there is none such.
    """
    most, product = upper.shape[1] - 1, metric != L2
    probes, parameters = np.empty((most, size), np.uint8), np.empty((most, _codes.PARAMETERS), np.float32)
    slots, keys = np.empty((1, _TOGETHER + 3), np.int64), np.empty(_TOGETHER + 3, np.int64)
    distances, limits = np.empty(_TOGETHER + 3, np.float32), np.empty(_TOGETHER, np.float32)
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            continue
        base = batch[i, SLOT]
        for t in range(np.int64(nodes[base, TIER]) + 1):
            tier = np.int64(t)
            pools, pool = (found, np.int64(i)) if tier == 0 else (high, batch[i, HIGH] + tier - 1)
            rows, row = (links, base) if tier == 0 else (upper, row_of(nodes, upper, base, tier))
            chosen, at = ZERO, np.int64(POOL)
            for e in range(POOL, POOL + ef):
                if pools[pool, e] != FARTHEST:
                    fetch(bits, vectors, codes, terms, slot_of(pools[pool, e]))
            while chosen < most and at < POOL + ef and pools[pool, at] != FARTHEST:
                m = ZERO
                while m < _TOGETHER and at < POOL + ef and pools[pool, at] != FARTHEST:
                    slot = slot_of(pools[pool, at])
                    if _may_be_linked(nodes, slot, tier, i):
                        slots[0, m] = slot
                        limits[m] = tightened(distance_of(pools[pool, at]), origin)
                        m += 1
                    at += 1
                left = m
                for c in range(chosen):
                    measure(
                        bits, product, vectors, codes, terms, probes, parameters, np.int64(c), slots, ZERO, m,
                        distances, keys,
                    )  # fmt: skip
                    left -= _leave_out(distances, limits, ZERO, m)
                    if left == 0:
                        break
                for j in range(m):
                    if limits[j] == -np.inf or chosen == most or among(rows, row, chosen, slots[0, j]):
                        continue
                    rows[row, chosen] = slots[0, j]
                    probe_of_slot(bits, product, vectors, codes, terms, slots[0, j], probes, parameters, chosen)
                    measure(
                        bits, product, vectors, codes, terms, probes, parameters, chosen, slots, ZERO, m,
                        distances, keys,
                    )  # fmt: skip
                    _leave_out(distances, limits, np.int64(j + 1), m)
                    chosen += 1
            at = np.int64(POOL)
            while 2 * chosen < most and at < POOL + ef and pools[pool, at] != FARTHEST:
                slot = slot_of(pools[pool, at])
                if _may_be_linked(nodes, slot, tier, i) and not among(rows, row, chosen, slot):
                    rows[row, chosen] = slot
                    chosen += 1
                at += 1


@njit_no_nrt(cache=True)
def _may_be_linked(nodes, slot, tier, i):
    """Whether the i-th node of the batch may be linked to `slot`: an old link may lead to a slot that is dead, or that
    a lower node or a later one of the batch has taken."""
    if nodes[slot, TIER] < tier:
        return False
    return nodes[slot, LEVEL] >= 0 or (nodes[slot, LEVEL] == JOINING and nodes[slot, CHILDREN] < i)


@njit_no_nrt(cache=True)
def tightened(distance, origin):
    """How near to a chosen neighbour a candidate at this distance from the base must be to be left out."""
    return origin + (distance - origin) / _SLACK if origin > -np.inf else distance


@njit_no_nrt(cache=True)
def _leave_out(distances, limits, start, stop):
    """Lower to -inf the limits that the distances of start..stop-1 are below; how many."""
    left_out = ZERO
    for j in range(start, stop):
        if distances[j] < limits[j]:
            limits[j] = -np.inf
            left_out += 1
    return left_out


@njit(cache=True)
def adopt(nodes, links, upper, batch):
    """Give every new node a parent: the first of its neighbours that has fewer than M children.

    Where all of them have M, the tree is followed down from the first, so there always is one.
    """
    optimize_for_size()
    most = upper.shape[1] - 1
    for i in range(batch.shape[0]):
        if batch[i, SAME] < 0:
            nodes[batch[i, SLOT], CHILDREN] = 0  # it was the place in the batch
    for i in range(batch.shape[0]):
        slot = batch[i, SLOT]
        if batch[i, SAME] >= 0 or links[slot, 0] < 0:
            continue
        parent = np.int64(-1)
        for e in range(most):
            if links[slot, e] < 0:
                break
            if nodes[links[slot, e], CHILDREN] < most:
                parent = np.int64(links[slot, e])
                break
        if parent < 0:
            parent = np.int64(links[slot, 0])
            child = _child(nodes, links, batch, i, parent)
            while nodes[parent, CHILDREN] >= most and child != parent:
                parent, child = child, _child(nodes, links, batch, i, child)
            e = ZERO
            while e < most - 1 and links[slot, e] >= 0:
                e += 1
            links[slot, e] = parent
        nodes[slot, PARENT] = parent
        nodes[parent, CHILDREN] += 1


@njit_no_nrt(cache=True)
def _child(nodes, links, batch, i, parent):
    """A child of `parent`: a neighbour, or a node of the batch before the i-th, not linked back yet; else itself."""
    optimize_for_size()
    for e in range(links.shape[1]):
        child = np.int64(links[parent, e])
        if child >= 0 and nodes[child, LEVEL] >= 0 and nodes[child, PARENT] == parent:
            return child
    for j in range(i):
        if batch[j, SAME] < 0 and nodes[batch[j, SLOT], PARENT] == parent:
            return batch[j, SLOT]
    return parent


@njit(cache=True, nogil=True)
def link_back(vectors, codes, terms, nodes, links, upper, bits, metric, batch, start, stop, size):
    """Link the neighbours of the new nodes back to them, as far as they are in the groups start..stop-1.

    A slot is in the group slot % GROUPS. Links that are there already stay as they are.
    """
    optimize_for_size()
    width, product = links.shape[1], metric != L2
    probes, parameters = np.empty((2, size), np.uint8), np.empty((2, _codes.PARAMETERS), np.float32)
    slots, keys = np.empty((1, width + 4), np.int64), np.empty(width + 4, np.int64)
    own, others = np.empty(width + 4, np.float32), np.empty(width + 4, np.float32)
    for i in range(batch.shape[0]):
        if batch[i, SAME] >= 0:
            continue
        slot = batch[i, SLOT]
        probe_of_slot(bits, product, vectors, codes, terms, slot, probes, parameters, _ONE)
        for t in range(np.int64(nodes[slot, TIER]) + 1):
            tier = np.int64(t)
            rows, row = (links, slot) if tier == 0 else (upper, row_of(nodes, upper, slot, tier))
            room = width if tier == 0 else width >> 1
            for e in range(room):
                base = np.int64(rows[row, e])
                if base < 0:
                    break
                if start <= base % GROUPS < stop:
                    link_to(
                        bits, product, vectors, codes, terms, nodes, rows, row_of(nodes, upper, base, tier), room, tier,
                        base, slot, probes, parameters, slots, keys, own, others,
                    )  # fmt: skip


@njit_no_nrt(cache=True)
def link_to(
    bits, product, vectors, codes, terms, nodes, rows, row, room, tier, base, slot, probes, parameters, slots, keys,
    own, others,
):  # fmt: skip
    """Add `slot`, whose probe is the second, to the neighbours of `base` in rows[row], `room` at most.

    If they are full, it is weighed against them by the rule of algorithm 4: left out if one that is nearer to the
    base is nearer to it than the base is; else the farthest goes of those that are left out because of it, or, if
    there is none, the farthest of all. Links to the parent and to children stay.
    """
    m = ZERO
    while m < room and rows[row, m] >= 0:
        if rows[row, m] == slot:
            return
        m += 1
    if m < room:
        rows[row, m] = slot
        return
    for e in range(room):
        slots[0, e] = rows[row, e]
        fetch(bits, vectors, codes, terms, slots[0, e])
        prefetch(nodes, slots[0, e] * nodes.shape[1], np.int64(NODE))
    slots[0, room] = slot
    probe_of_slot(bits, product, vectors, codes, terms, base, probes, parameters, ZERO)
    measure(bits, product, vectors, codes, terms, probes, parameters, ZERO, slots, ZERO, room + 1, own, keys)
    measure(bits, product, vectors, codes, terms, probes, parameters, _ONE, slots, ZERO, room, others, keys)
    kin, near = tier == 0 and _kin(nodes, base, slot), own[room]
    far, dropped, at, farthest = np.float32(-np.inf), np.float32(-np.inf), np.int64(-1), np.int64(-1)
    for e in range(room):
        if own[e] < near and others[e] < near and not kin:
            return
        if tier == 0 and _kin(nodes, base, slots[0, e]):
            continue
        if own[e] >= far:
            far, farthest = own[e], np.int64(e)
        if own[e] > near and others[e] < own[e] and own[e] >= dropped:
            dropped, at = own[e], np.int64(e)
    if at >= 0:
        rows[row, at] = slot
    elif farthest >= 0 and (kin or near < far):
        rows[row, farthest] = slot


@njit_no_nrt(cache=True)
def _kin(nodes, a, b):
    return nodes[a, PARENT] == b or nodes[b, PARENT] == a


@njit(cache=True)
def finish(nodes, upper, arena, levels, batch, clock):
    """Make the batch part of the graph, for readers of this clock and later ones."""
    optimize_for_size()
    rows = table.parts(arena)[1]
    for i in range(batch.shape[0]):
        slot, same = batch[i, SLOT], batch[i, SAME]
        if same >= 0:
            free_upper(nodes, upper, arena, slot)
            if nodes[same, LEVEL] == TWINNED:  # one of the batch, whose own like was in the graph
                same = np.int64(nodes[same, PARENT])
            after = nodes[same, TWIN]
            nodes[slot, PARENT], nodes[slot, CHILDREN], nodes[slot, TWIN] = same, same, after
            if after >= 0:
                nodes[after, CHILDREN] = slot
            nodes[same, TWIN] = slot
        else:
            nodes[slot, LEVEL] = levels[i]
            if arena[ENTRY] < 0 or levels[i] > nodes[arena[ENTRY], LEVEL]:
                arena[ENTRY] = slot
        rows[slot, BORN], rows[slot, DIED] = clock, NEVER


@njit(cache=True)
def abandon(nodes, upper, arena, batch):
    """Undo `prepare`, and what came after it up to `choose`."""
    optimize_for_size()
    for i in range(batch.shape[0]):
        slot = batch[i, SLOT]
        nodes[slot, LEVEL] = DEAD
        free_upper(nodes, upper, arena, slot)


@njit(cache=True)
def append_ids(arena, ids, slots):
    """Give `ids` (m,) slots (int64 (m,), filled), all (-1), or none: the first that is there or comes twice.

    There is room.
    """
    optimize_for_size()
    head, rows, buckets = table.parts(arena)
    for e in range(ids.shape[0]):
        if table.find(rows, buckets, ids[e]) >= 0:
            take_back_ids(arena, slots, ZERO, np.int64(e))
            return e
        slots[e] = table.take_row(head, rows)
        table.insert(rows, buckets, slots[e], ids[e])
        rows[slots[e], BORN] = NEVER  # DIED stays: it tells a slot that was used before
    return -1


@njit(cache=True)
def take_back_ids(arena, slots, start, stop):
    """Forget the ids of slots[start:stop], which `append_ids` gave out last."""
    optimize_for_size()
    head, rows, buckets = table.parts(arena)
    for e in range(stop - 1, start - 1, -1):
        slot = slots[e]
        table.remove(rows, buckets, slot)
        if rows[slot, DIED] < 0:  # the last that was never used before
            rows[slot, table.KEY] = -1
            head[table.TOP] -= 1
            head[table.COUNT] -= 1
        else:
            table.free_row(head, rows, slot)


@njit_no_nrt(cache=True)
def equal(vectors, codes, terms, a, b):
    """Whether two slots hold the same vector or, if vectors are not kept, what is the same by its code."""
    for d in range(vectors.shape[1]):
        if vectors[a, d] != vectors[b, d]:
            return False
    if vectors.shape[1] > 0:
        return True
    for d in range(codes.shape[1]):
        if codes[a, d] != codes[b, d]:
            return False
    return terms[a, 0] == terms[b, 0] and terms[a, 1] == terms[b, 1]
