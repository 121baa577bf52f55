"""Copying the graph without its dead slots."""

import numpy as np

from ..compiling import njit, optimize_for_size
from .layout import CHILDREN, LEVEL, PARENT, TIER, TWIN, TWINNED, UPPER, ZERO, row_of


@njit(cache=True)
def live_slots(nodes, top):
    """Return the slots below `top` that are linked or twins, int64, ascending. O(n)."""
    optimize_for_size()
    live, m = np.empty(top, np.int64), 0
    for slot in range(top):
        if nodes[slot, LEVEL] >= TWINNED:
            live[m] = slot
            m += 1
    return live[:m].copy()


@njit(cache=True)
def compact(nodes, links, upper, live, new_nodes, new_links, new_upper):
    """Copy the `live` slots (int64, ascending) to the first rows of the new arrays, with links to the new slots.

    Links to slots that are not live, or not linked in that tier, are left out. The new arrays must be filled with -1.
    Returns how many rows of new_upper are used. O(n M).
    """
    optimize_for_size()
    place = np.full(nodes.shape[0], -1, np.int64)
    for i in range(live.shape[0]):
        place[live[i]] = i
    used = ZERO
    for i in range(live.shape[0]):
        slot = live[i]
        for column in range(nodes.shape[1]):
            new_nodes[i, column] = nodes[slot, column]
        new_nodes[i, TWIN] = place[nodes[slot, TWIN]] if nodes[slot, TWIN] >= 0 else -1
        new_nodes[i, PARENT] = place[nodes[slot, PARENT]] if nodes[slot, PARENT] >= 0 else -1
        if nodes[slot, LEVEL] == TWINNED:
            new_nodes[i, CHILDREN] = place[nodes[slot, CHILDREN]]
        new_nodes[i, UPPER] = -1
        for t in range(np.int64(nodes[slot, TIER]) + 1):
            tier = np.int64(t)
            row = row_of(nodes, upper, slot, tier)
            if tier == 0:
                _relink(nodes, links, row, links.shape[1], tier, place, new_links, i)
            else:
                _relink(nodes, upper, row, upper.shape[1] - 1, tier, place, new_upper, used)
                new_upper[used, upper.shape[1] - 1] = new_nodes[i, UPPER]
                new_nodes[i, UPPER] = used
                used += 1
    return used


@njit(cache=True)
def _relink(nodes, rows, row, room, tier, place, new_rows, new_row):
    """Copy rows[row, :room] to new_rows[new_row], links to a slot becoming links to place[slot]."""
    optimize_for_size()
    m = 0
    for e in range(room):
        other = np.int64(rows[row, e])
        if other < 0:
            break
        if nodes[other, LEVEL] >= 0 and nodes[other, TIER] >= tier:
            new_rows[new_row, m] = place[other]
            m += 1
