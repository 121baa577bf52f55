"""Adding to the graph (Malkov and Yashunin 2018, algorithms 1 and 4), a batch at a time.

A batch is linked in these steps. Those over parts may be cut into any parts, on any threads:

    prepare      levels and room; equal vectors in the batch
    find         over parts of the batch: candidates for every new node, in the graph as it was
    find_inside  the same, among those before it in the batch
    choose       over parts of the batch: its neighbours among them, written to its own rows
    adopt        parents
    link_back    over parts of all slots: links to the new nodes from their neighbours there
    finish       the batch is part of the graph

What one part of a step writes, no other part of it reads. `arrays` are the graph's (`layout.Arrays`).
"""

from typing import NamedTuple

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size
from ..hashing import hash_bytes
from ..simd import insert
from .codes import PARAMETERS
from .distance import equal, fetch, load, make_probe, measure, probe_of_slot
from .layout import (
    BORN,
    CHILDREN,
    COSINE,
    DEAD,
    DIED,
    DONE,
    ENTRY,
    FARTHEST,
    IP,
    JOINING,
    L2,
    LEVEL,
    NEVER,
    PARENT,
    REFUSED,
    TIER,
    TWIN,
    TWINNED,
    UPPER,
    UPPER_FREE,
    UPPER_SPARE,
    UPPER_TOP,
    ZERO,
    Candidates,
    Probes,
    among,
    distance_of,
    free_upper,
    known,
    row_of,
    slot_of,
    stored_of,
)
from .link import link_to, room_to_prune, tightened
from .walk import POOL, WALKS, clear, descend, walk_many

# Columns of `batch`, int64 (n, 3): the slot; the slot that holds an equal vector, or -1; its first row of `high`.
SLOT, SAME, HIGH, BATCH = 0, 1, 2, 3
GROUPS = 64  # parts of the slots, by their lowest bits
_ONE = np.int64(1)
_NOWHERE = np.float32(-np.inf)
_TOGETHER = 16  # candidates compared at once: fewer would cost more calls, more would be compared needlessly


class Pools(NamedTuple):
    """Candidates of a batch: pools (see `walk`), int64, found (n, w) in tier 0 and high (rows, w) in those above."""

    found: np.ndarray
    high: np.ndarray


@njit(cache=True, nogil=True)
def load_many(source, metric, queries):
    """Copy source float32 (n, dim) to queries float32 (n, stride), padded, of length 1 under COSINE. O(n dim).

    Returns DONE, or REFUSED.
    """
    optimize_for_size()
    if metric != L2 and metric != COSINE and metric != IP:
        return REFUSED
    for i in range(source.shape[0]):
        load(source, i, queries, i, metric == COSINE)
    return DONE


@njit(cache=True)
def prepare(arrays, levels, step, batch):
    """Begin a batch of nodes of these levels (int32 (n,)): room for their links, and SAME where two are equal.

    Returns how many rows `Pools.high` needs. O(n^2) in the worst case, with a small constant.
    """
    optimize_for_size()
    vectors, codes, terms = arrays.vectors, arrays.codes, arrays.terms
    nodes, links, upper, arena = arrays.nodes, arrays.links, arrays.upper, arrays.arena
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
def find(arrays, bits, metric, dim, queries, batch, start, stop, ef, probes, pools):
    """Find candidates for the nodes start..stop-1 of the batch, in the graph as it was: fills their rows of `pools`.

    queries float32 (n, stride) are their vectors; fills their rows of probes, too. A node that has an equal in the
    graph gets that as SAME. Returns DONE, or REFUSED. O(n log N ef M D).
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, frame = stored_of(arrays, bits, metric), arrays.frame
    nodes, links, upper, found, high = arrays.nodes, arrays.links, arrays.upper, pools.found, pools.high
    count, entry = arrays.arena[table.TOP], arrays.arena[ENTRY]
    n, width = stop - start, links.shape[1]
    work = np.empty(frame.shape, np.float32)
    slots, distances = np.empty((WALKS, width + 3), np.int64), np.empty(width + 3, np.float32)
    candidates = Candidates(slots, distances, np.empty(width + 3, np.int64))
    starts, here = np.full(n, FARTHEST, np.int64), np.empty(n, np.int64)
    above = np.empty((n, found.shape[1]), np.int64)
    own = Probes(probes.rows[start:stop], probes.parameters[start:stop])
    top = ZERO
    for i in range(start, stop):
        make_probe(stored, frame, dim, queries, i, work, probes, i)
        if batch[i, SAME] < 0 and entry >= 0:
            tier = min(np.int64(nodes[batch[i, SLOT], TIER]), np.int64(nodes[entry, TIER]))
            top = max(top, tier)
            starts[i - start] = descend(stored, nodes, upper, count, entry, tier, probes, i, candidates)
    for t in range(top, -1, -1):
        tier = np.int64(t)
        for i in range(n):
            reached = tier == 0 or nodes[batch[start + i, SLOT], TIER] >= tier
            here[i] = starts[i] if reached else FARTHEST
        walk_many(
            stored, nodes, upper, links if tier == 0 else upper, tier, count, own, here, ef, _ONE, _NOWHERE,
            np.float32(1), found[start:stop] if tier == 0 else above, candidates,
        )  # fmt: skip
        for i in range(n if tier > 0 else ZERO):
            if here[i] != FARTHEST:
                starts[i] = above[i, POOL] & ~1
                for e in range(above.shape[1]):
                    high[batch[start + i, HIGH] + tier - 1, e] = above[i, e]
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            continue
        slots[0, 0] = slot = batch[i, SLOT]
        measure(stored, probes, i, candidates, ZERO, _ONE)
        for e in range(POOL, POOL + ef):
            other = slot_of(found[i, e])
            if found[i, e] == FARTHEST or distance_of(found[i, e]) > distances[0]:
                break
            if distance_of(found[i, e]) == distances[0] and nodes[other, LEVEL] >= 0:
                if equal(stored.vectors, stored.codes, stored.terms, slot, other):
                    batch[i, SAME] = other
                    break
    return DONE


@njit(cache=True, nogil=True)
def find_inside(arrays, bits, metric, batch, start, stop, ef, probes, pools):
    """Add to the candidates of the nodes start..stop-1 of the batch those before them in it. After all of `find`.

    Returns DONE, or REFUSED. O(n^2 D).
    """
    if not known(bits, metric):
        return REFUSED
    stored, nodes, found, high = stored_of(arrays, bits, metric), arrays.nodes, pools.found, pools.high
    n, width, entry = batch.shape[0], found.shape[1], arrays.arena[ENTRY]
    top = np.int64(nodes[entry, TIER]) if entry >= 0 else np.int64(-1)
    slots, keys = np.empty((1, n + 3), np.int64), np.empty(n + 3, np.int64)
    candidates = Candidates(slots, np.empty(n + 3, np.float32), keys)
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            nodes[batch[i, SLOT], LEVEL] = TWINNED
            continue
        m = ZERO
        for j in range(i):
            if batch[j, SAME] < 0:
                slots[0, m] = batch[j, SLOT]
                m += 1
        measure(stored, probes, i, candidates, ZERO, m)
        for tier in range(np.int64(nodes[batch[i, SLOT], TIER]) + 1):
            pool, row = (found, np.int64(i)) if tier == 0 else (high, batch[i, HIGH] + tier - 1)
            if tier > 0 and tier > top:  # no walk was there
                clear(pool, row)
            for e in range(m):
                if keys[e] < pool[row, POOL + ef - 1] and nodes[slots[0, e], TIER] >= tier:
                    insert(pool, row * width + POOL, width - POOL, keys[e])
    return DONE


@njit(cache=True, nogil=True)
def choose(arrays, bits, metric, batch, start, stop, ef, origin, pools, size):
    """Write the neighbours of the nodes start..stop-1 of the batch, at most M in each tier, chosen by algorithm 4.

    Where that chooses fewer than M / 2, the nearest of those it left out are added.

    `size` is the bytes of a probe, `origin` the distance of equal vectors, -inf if there is none such (see
    `distance.origin_of`). Returns DONE, or REFUSED. O(n (ef + M^2) D).
    """
    if not known(bits, metric):
        return REFUSED
    stored, nodes, links, upper = stored_of(arrays, bits, metric), arrays.nodes, arrays.links, arrays.upper
    found, high, most = pools.found, pools.high, upper.shape[1] - 1
    probes = Probes(np.empty((most, size), np.uint8), np.empty((most, PARAMETERS), np.float32))
    slots, distances = np.empty((1, _TOGETHER + 3), np.int64), np.empty(_TOGETHER + 3, np.float32)
    candidates = Candidates(slots, distances, np.empty(_TOGETHER + 3, np.int64))
    limits = np.empty(_TOGETHER, np.float32)
    for i in range(start, stop):
        if batch[i, SAME] >= 0:
            continue
        base = batch[i, SLOT]
        for t in range(np.int64(nodes[base, TIER]) + 1):
            tier = np.int64(t)
            pool, place = (found, np.int64(i)) if tier == 0 else (high, batch[i, HIGH] + tier - 1)
            rows, row = (links, base) if tier == 0 else (upper, row_of(nodes, upper, base, tier))
            chosen, at = ZERO, np.int64(POOL)
            for e in range(POOL, POOL + ef):
                if pool[place, e] != FARTHEST:
                    fetch(stored, slot_of(pool[place, e]))
            while chosen < most and at < POOL + ef and pool[place, at] != FARTHEST:
                m = ZERO
                while m < _TOGETHER and at < POOL + ef and pool[place, at] != FARTHEST:
                    slot = slot_of(pool[place, at])
                    if _may_be_linked(nodes, slot, tier, i):
                        slots[0, m] = slot
                        limits[m] = tightened(distance_of(pool[place, at]), origin)
                        m += 1
                    at += 1
                left = m
                for c in range(chosen):
                    measure(stored, probes, np.int64(c), candidates, ZERO, m)
                    left -= _leave_out(distances, limits, ZERO, m)
                    if left == 0:
                        break
                for j in range(m):
                    if limits[j] == -np.inf or chosen == most or among(rows, row, chosen, slots[0, j]):
                        continue
                    rows[row, chosen] = slots[0, j]
                    probe_of_slot(stored, slots[0, j], probes, chosen)
                    measure(stored, probes, chosen, candidates, ZERO, m)
                    _leave_out(distances, limits, np.int64(j + 1), m)
                    chosen += 1
            at = np.int64(POOL)
            while 2 * chosen < most and at < POOL + ef and pool[place, at] != FARTHEST:
                slot = slot_of(pool[place, at])
                if _may_be_linked(nodes, slot, tier, i) and not among(rows, row, chosen, slot):
                    rows[row, chosen] = slot
                    chosen += 1
                at += 1
    return DONE


@njit_no_nrt(cache=True)
def _may_be_linked(nodes, slot, tier, i):
    """Return whether the i-th node of the batch may be linked to `slot` in this tier.

    An old link may lead to a slot that is dead, or that a lower node or a later one of the batch has taken.
    """
    if nodes[slot, TIER] < tier:
        return False
    return nodes[slot, LEVEL] >= 0 or (nodes[slot, LEVEL] == JOINING and nodes[slot, CHILDREN] < i)


@njit_no_nrt(cache=True)
def _leave_out(distances, limits, start, stop):
    """Lower those of limits[start:stop] to -inf that the distances are below; return how many."""
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
            nodes[batch[i, SLOT], CHILDREN] = 0  # it was the position in the batch
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
    """Return a child of `parent`: a neighbour, or an earlier node of the batch, not linked back yet; else `parent`."""
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
def link_back(arrays, bits, metric, batch, start, stop, size):
    """Link the neighbours of the new nodes back to them, those neighbours that are in the groups start..stop-1.

    A slot is in the group slot % GROUPS. Links that exist already stay as they are. `size` is the bytes of a probe.
    Returns DONE, or REFUSED.
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, nodes, links, upper = stored_of(arrays, bits, metric), arrays.nodes, arrays.links, arrays.upper
    width = links.shape[1]
    pruning = room_to_prune(width, size)
    probes = pruning.probes  # once: a reference is counted each time an array is taken out of a tuple
    for i in range(batch.shape[0]):
        if batch[i, SAME] >= 0:
            continue
        slot = batch[i, SLOT]
        probe_of_slot(stored, slot, probes, _ONE)
        for t in range(np.int64(nodes[slot, TIER]) + 1):
            tier = np.int64(t)
            rows, row = (links, slot) if tier == 0 else (upper, row_of(nodes, upper, slot, tier))
            room = width if tier == 0 else width >> 1
            for e in range(room):
                base = np.int64(rows[row, e])
                if base < 0:
                    break
                if start <= base % GROUPS < stop:
                    link_to(stored, nodes, rows, row_of(nodes, upper, base, tier), room, tier, base, slot, pruning)
    return DONE


@njit(cache=True)
def finish(nodes, upper, arena, levels, batch, clock):
    """Make the batch part of the graph, for readers of this clock and later ones."""
    optimize_for_size()
    rows = table.parts(arena)[1]
    for i in range(batch.shape[0]):
        slot, same = batch[i, SLOT], batch[i, SAME]
        if same >= 0:
            free_upper(nodes, upper, arena, slot)
            if nodes[same, LEVEL] == TWINNED:  # one of the batch that has an equal in the graph
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
    """Undo `prepare`, and the steps after it up to `choose`."""
    optimize_for_size()
    for i in range(batch.shape[0]):
        slot = batch[i, SLOT]
        nodes[slot, LEVEL] = DEAD
        free_upper(nodes, upper, arena, slot)


@njit(cache=True)
def append_ids(arena, ids, slots):
    """Fill slots (int64 (m,)) with a new slot for each of ids (m,), and return -1.

    If an id is present or repeated, none gets one, and the index of the first such is returned. There must be room.
    """
    optimize_for_size()
    head, rows, buckets = table.parts(arena)
    for e in range(ids.shape[0]):
        if table.find(rows, buckets, ids[e]) >= 0:
            take_back_ids(arena, slots, ZERO, np.int64(e))
            return e
        slots[e] = table.take_row(head, rows)
        table.insert(rows, buckets, slots[e], ids[e])
        rows[slots[e], BORN] = NEVER  # DIED stays: it shows that the slot was used before
    return -1


@njit(cache=True)
def take_back_ids(arena, slots, start, stop):
    """Remove the ids of slots[start:stop], which `append_ids` filled last."""
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
