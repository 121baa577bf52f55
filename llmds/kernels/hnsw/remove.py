"""Removing from the graph: nodes linked to a removed node are linked to a neighbour of it instead.

A removed slot is dead at once for readers of a later clock, and waits in limbo until those before have left; then
`reclaim` frees it.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size
from .distance import fetch, measure, origin_of, probe_of_slot
from .layout import (
    BORN,
    CHILDREN,
    DEAD,
    DIED,
    DONE,
    ENTRY,
    HIDDEN,
    LEVEL,
    LIMBO,
    LIMBO_END,
    NEVER,
    PARENT,
    REFUSED,
    REMOVED,
    TIER,
    TWIN,
    TWINNED,
    ZERO,
    free_upper,
    known,
    row_of,
    stored_of,
)
from .link import link_to, room_to_prune, tightened

_ONE = np.int64(1)
_TRIES = 12  # neighbours of a removed node that are tried as a substitute


@njit(cache=True)
def remove(arrays, bits, metric, ids, start, stop, heir, clock, size):
    """Remove ids[start:stop] (int64), which must be present, as of `clock`. `size` is the bytes of a probe.

    `heir` is -1, or the only one of these ids, which the vector whose id is HIDDEN then gets. Returns DONE, or
    REFUSED.

    O(M^3) comparisons to find the nodes linked to a node, O(M D) for each of those.
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, nodes, links, upper, arena = (
        stored_of(arrays, bits, metric), arrays.nodes, arrays.links, arrays.upper, arrays.arena,
    )  # fmt: skip
    head, rows, buckets = table.parts(arena)
    width, origin = links.shape[1], origin_of(metric)
    pruning, order = room_to_prune(width, size), np.empty(width + 1, np.int64)
    new = table.find(rows, buckets, HIDDEN) if heir >= 0 else np.int64(-1)
    if new >= 0:
        table.remove(rows, buckets, new)
    for i in range(start, stop):
        slot = table.find(rows, buckets, ids[i])  # only now: the removal before may have moved the id to another slot
        table.remove(rows, buckets, slot)
        head[table.COUNT] -= 1
        if new >= 0:
            table.insert(rows, buckets, new, heir)
        dead, twin = slot, np.int64(nodes[slot, TWIN])
        if nodes[slot, LEVEL] == TWINNED:
            _unchain(nodes, slot)
        elif twin >= 0:  # it stays linked, under the id of its twin
            rows[slot, table.KEY], rows[twin, table.KEY] = rows[twin, table.KEY], rows[slot, table.KEY]
            rows[slot, table.BUCKET], rows[twin, table.BUCKET] = rows[twin, table.BUCKET], -1
            buckets[rows[slot, table.BUCKET]] = slot
            _unchain(nodes, twin)
            dead = twin
        else:
            nodes[slot, LEVEL] = DEAD
            for t in range(np.int64(nodes[slot, TIER]), -1, -1):
                tier = np.int64(t)
                rows_of_tier, room = (links, width) if tier == 0 else (upper, width >> 1)
                _unlink(stored, nodes, upper, rows_of_tier, room, tier, slot, origin, pruning, order)
            _hand_over_children(stored, nodes, links, slot, pruning)
            if arena[ENTRY] == slot:
                arena[ENTRY] = _highest(nodes, head[table.TOP])
        nodes[dead, LEVEL] = DEAD
        rows[dead, DIED] = clock
        nodes[dead, PARENT] = -1
        if arena[LIMBO_END] >= 0:
            nodes[arena[LIMBO_END], PARENT] = dead
        else:
            arena[LIMBO] = dead
        arena[LIMBO_END] = dead
        arena[REMOVED] += 1
    return DONE


@njit(cache=True)
def reclaim(nodes, upper, arena, oldest):
    """Free the slots in limbo that no reader of the clock `oldest`, or of a later one, can see. O(1) each."""
    optimize_for_size()
    head, rows, _ = table.parts(arena)
    while arena[LIMBO] >= 0 and rows[arena[LIMBO], DIED] <= oldest:
        slot = arena[LIMBO]
        arena[LIMBO] = nodes[slot, PARENT]
        if arena[LIMBO] < 0:
            arena[LIMBO_END] = -1
        nodes[slot, PARENT] = -1
        free_upper(nodes, upper, arena, slot)
        nodes[slot, TWIN] = -1
        rows[slot, BORN] = NEVER
        rows[slot, table.KEY] = head[table.FREE]
        head[table.FREE] = slot


@njit(cache=True)
def removed_since(nodes, arena, clock):
    """Return the slots (int64) that were removed after this clock, which a reader has. O(slots in limbo)."""
    optimize_for_size()
    rows = table.parts(arena)[1]
    gone, m = np.empty(0, np.int64), 0
    for fill in (False, True):
        m, slot = 0, arena[LIMBO]
        while slot >= 0:
            if rows[slot, DIED] > clock:
                if fill:
                    gone[m] = slot
                m += 1
            slot = np.int64(nodes[slot, PARENT])
        if not fill:
            gone = np.empty(m, np.int64)
    return gone


@njit(cache=True)
def free_slots(arena, most):
    """Return how many of the slots that were ever used are free, at most `most`. O(most)."""
    optimize_for_size()
    head, rows, _ = table.parts(arena)
    slot, free = head[table.FREE], 0
    while slot >= 0 and free < most:
        free += 1
        slot = rows[slot, table.KEY]
    return free


@njit_no_nrt(cache=True)
def _unchain(nodes, twin):
    """Take a twin out of its chain; readers that have reached it still find the rest."""
    before, after = nodes[twin, CHILDREN], nodes[twin, TWIN]
    nodes[before, TWIN] = after
    if after >= 0:
        nodes[after, CHILDREN] = before


@njit(cache=True)
def _highest(nodes, top):
    """Return the first linked slot of the highest level; -1 if none is linked. O(n)."""
    optimize_for_size()
    best = np.int64(-1)
    for slot in range(top):
        if nodes[slot, LEVEL] >= 0 and (best < 0 or nodes[slot, LEVEL] > nodes[best, LEVEL]):
            best = np.int64(slot)
    return best


@njit_no_nrt(cache=True)
def _unlink(stored, nodes, upper, rows, room, tier, slot, origin, pruning, order):
    """Remove the links to `slot` in one tier, from its neighbours and from theirs.

    order int64 (room,) is filled with the neighbours of `slot`, its heirs.
    """
    optimize_for_size()
    row = row_of(nodes, upper, slot, tier)
    heirs = ZERO
    for e in range(room):
        heir = np.int64(rows[row, e])
        if heir < 0:
            break
        if nodes[heir, LEVEL] >= 0 and nodes[heir, TIER] >= tier:
            order[heirs] = heir
            fetch(stored, heir)
            heirs += 1
    for h in range(heirs):
        near = row_of(nodes, upper, order[h], tier)
        for e in range(-1, room):
            base = order[h] if e < 0 else np.int64(rows[near, e])
            if base < 0:
                break
            if nodes[base, LEVEL] < 0:
                continue
            there = row_of(nodes, upper, base, tier)
            if there < 0:
                continue
            for place in range(room):
                if rows[there, place] < 0:
                    break
                if rows[there, place] == slot:
                    _substitute(stored, rows, there, room, place, base, origin, pruning, order, heirs)
                    break


@njit_no_nrt(cache=True)
def _substitute(stored, rows, row, room, place, base, origin, pruning, order, heirs):
    """Replace rows[row, place], a link of `base`, by a link to one of order[:heirs], or else close the gap.

    It is the nearest to the base that is not linked yet and nearer to the base than to the base's other neighbours.
    """
    optimize_for_size()
    probes, slots, own, others = pruning.probes, pruning.own.slots, pruning.own.distances, pruning.others.distances
    last = room - 1
    while rows[row, last] < 0:
        last -= 1
    rows[row, place] = rows[row, last]
    rows[row, last] = -1
    m = ZERO
    for h in range(heirs):
        known = order[h] == base
        for e in range(last):
            known |= rows[row, e] == order[h]
        if not known:
            slots[0, m] = order[h]
            m += 1
    if m == 0:
        return
    probe_of_slot(stored, base, probes, ZERO)
    measure(stored, probes, ZERO, pruning.own, ZERO, m)
    for e in range(last):
        slots[1, e] = rows[row, e]
        fetch(stored, slots[1, e])
    for _ in range(min(m, _TRIES)):
        nearest = ZERO
        for e in range(m):
            if own[e] < own[nearest]:
                nearest = np.int64(e)
        limit = own[nearest]
        own[nearest] = np.inf
        tight = tightened(limit, origin)
        if not limit < np.inf:
            return
        probe_of_slot(stored, slots[0, nearest], probes, _ONE)
        measure(stored, probes, _ONE, pruning.others, _ONE, last)
        nearer = True
        for e in range(last):
            nearer &= others[e] >= tight
        if nearer:
            rows[row, last] = slots[0, nearest]
            return


@njit_no_nrt(cache=True)
def _hand_over_children(stored, nodes, links, slot, pruning):
    """Give the children of `slot` other parents: its own parent, or one another.

    No node becomes its own ancestor: neither that parent nor a child that has a new parent already descends from a
    child that has none. A child stays without a parent only where all of them are full.
    """
    optimize_for_size()
    slots, keys = pruning.own.slots, pruning.own.keys
    width, most = links.shape[1], links.shape[1] >> 1
    parent, hosts = np.int64(nodes[slot, PARENT]), ZERO
    if parent >= 0:
        nodes[parent, CHILDREN] -= 1
        keys[0], hosts = parent, 1
    for e in range(width):
        child = np.int64(links[slot, e])
        if child < 0:
            break
        if nodes[child, LEVEL] < 0 or nodes[child, PARENT] != slot:
            continue
        host = np.int64(-1)
        for limit in (most, width - 1):
            for h in range(hosts):
                if host < 0 and nodes[keys[h], CHILDREN] < limit:
                    host = keys[h]
        nodes[child, PARENT] = host
        if host >= 0:
            nodes[host, CHILDREN] += 1
        keys[hosts] = child
        hosts += 1
    first = np.int64(1 if parent >= 0 else 0)
    for h in range(hosts):
        slots[1, h] = keys[h]  # measuring overwrites keys
    for h in range(first, hosts):
        child = slots[1, h]
        host = np.int64(nodes[child, PARENT])
        if host >= 0:
            for base, other in ((host, child), (child, host)):
                probe_of_slot(stored, other, pruning.probes, _ONE)
                link_to(stored, nodes, links, base, width, ZERO, base, other, pruning)
