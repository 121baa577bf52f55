"""Adding one link to a node whose row of links may be full (Malkov and Yashunin 2018, algorithm 4)."""

from typing import NamedTuple

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..simd import prefetch
from .codes import PARAMETERS
from .distance import fetch, measure, probe_of_slot
from .layout import NODE, PARENT, ZERO, Candidates, Probes

_ONE = np.int64(1)
# A chosen neighbour makes those superfluous that are nearer to it than 1/1.05 of their squared distance from the base.
_SLACK = np.float32(1.05)


class Pruning(NamedTuple):
    """Room to compare neighbours of a node, the base: two probes, and candidates measured from either of them.

    `own` and `others` share slots and keys, and have distances of their own.
    """

    probes: Probes
    own: Candidates
    others: Candidates


@njit(cache=True)
def room_to_prune(width, size):
    """Return `Pruning` for nodes of up to `width` links and probes of `size` bytes."""
    probes = Probes(np.empty((2, size), np.uint8), np.empty((2, PARAMETERS), np.float32))
    slots, keys = np.empty((2, width + 4), np.int64), np.empty(width + 4, np.int64)
    own, others = np.empty(width + 4, np.float32), np.empty(width + 4, np.float32)
    return Pruning(probes, Candidates(slots, own, keys), Candidates(slots, others, keys))


@njit_no_nrt(cache=True)
def tightened(distance, origin):
    """Return below what distance from a chosen neighbour a candidate at `distance` from the base is left out."""
    return origin + (distance - origin) / _SLACK if origin > -np.inf else distance


@njit_no_nrt(cache=True)
def link_to(stored, nodes, rows, row, room, tier, base, slot, pruning):
    """Add `slot`, whose probe is the second of `pruning`, to the neighbours of `base` in rows[row], at most `room`.

    If they are full, it is compared with them by the rule of algorithm 4: it is left out if a neighbour nearer to the
    base is nearer to it than the base is. Otherwise it takes the place of the farthest neighbour that the rule leaves
    out because of it or, if there is none, of the farthest of all. Links to the parent and to children stay.
    """
    m = ZERO
    while m < room and rows[row, m] >= 0:
        if rows[row, m] == slot:
            return
        m += 1
    if m < room:
        rows[row, m] = slot
        return
    slots, own, others = pruning.own.slots, pruning.own.distances, pruning.others.distances
    for e in range(room):
        slots[0, e] = rows[row, e]
        fetch(stored, slots[0, e])
        prefetch(nodes, slots[0, e] * nodes.shape[1], np.int64(NODE))
    slots[0, room] = slot
    probe_of_slot(stored, base, pruning.probes, ZERO)
    measure(stored, pruning.probes, ZERO, pruning.own, ZERO, room + 1)
    measure(stored, pruning.probes, _ONE, pruning.others, ZERO, room)
    kin, near = tier == 0 and _related(nodes, base, slot), own[room]
    far, dropped, at, farthest = np.float32(-np.inf), np.float32(-np.inf), np.int64(-1), np.int64(-1)
    for e in range(room):
        if own[e] < near and others[e] < near and not kin:
            return
        if tier == 0 and _related(nodes, base, slots[0, e]):
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
def _related(nodes, a, b):
    """Return whether one of two nodes is the parent of the other."""
    return nodes[a, PARENT] == b or nodes[b, PARENT] == a
