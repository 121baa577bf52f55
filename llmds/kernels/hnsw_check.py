"""What must hold of the arrays of `hnsw`. Safe on any contents, in this order: nodes, chains, links, vectors."""

import numpy as np

from .compiling import njit
from .hnsw import COSINE, ENTRY, LEVEL, LINKED, PARENT, TIER, TWIN, UPPER, UPPER_TOP, ZERO


@njit(cache=True)
def first_fault_of_nodes(nodes, arena, step, count):
    """The first slot whose levels, rows, twin or parent are out of range or order; -1 if none. O(n)."""
    entry, top = arena[ENTRY], arena[UPPER_TOP]
    for slot in range(count):
        level, tier, upper = np.int64(nodes[slot, LEVEL]), np.int64(nodes[slot, TIER]), np.int64(nodes[slot, UPPER])
        parent = nodes[slot, PARENT]
        if not -1 <= nodes[slot, TWIN] < count or not 0 <= upper <= upper + tier <= top:
            return slot
        if slot > 0 and upper < np.int64(nodes[slot - 1, UPPER]) + np.int64(nodes[slot - 1, TIER]):
            return slot
        if level < 0:
            if slot == 0 or slot == entry or level != -1 or tier != 0 or parent != -1:
                return slot
            continue
        if level > nodes[entry, LEVEL] or tier != level // step or (slot == 0) != (parent == -1):
            return slot
        if not -1 <= parent < slot or (slot > 0 and nodes[parent, LEVEL] < 0):
            return slot
    return -1


@njit(cache=True)
def first_fault_of_chains(nodes, count):
    """The first slot that hangs on two, or although it is linked; -1 if none, -2 if a twin hangs on none. O(n)."""
    hangs = np.zeros(count, np.uint8)
    for slot in range(count):
        twin = nodes[slot, TWIN]
        if twin >= 0:
            if hangs[twin] or nodes[twin, LEVEL] >= 0:
                return np.int64(twin)
            hangs[twin] = 1
    reached = 0
    for slot in range(count):
        if nodes[slot, LEVEL] >= 0:
            at = np.int64(slot)
            while at >= 0:  # ends: no one hangs on two, and this one on none
                reached += 1
                at = np.int64(nodes[at, TWIN])
    return -1 if reached == count else -2


@njit(cache=True)
def first_fault_of_links(nodes, links, upper, arena, start, stop):
    """The first slot of start..stop-1 with a neighbour that is no other, linked, node of that tier, that comes twice
    or after the end, or whose parent does not link back; -1 if none. O(n M^2)."""
    count, width = arena[LINKED], links.shape[1]
    for slot in range(start, stop):
        if nodes[slot, LEVEL] < 0:
            for e in range(width):
                if links[slot, e] >= 0:
                    return slot
            continue
        if not _sound(nodes, links[slot], slot, ZERO, count):
            return slot
        for tier in range(1, np.int64(nodes[slot, TIER]) + 1):
            if not _sound(nodes, upper[nodes[slot, UPPER] + tier - 1], slot, tier, count):
                return slot
        parent = np.int64(nodes[slot, PARENT])
        if parent >= 0 and not (_among(links[slot], width, parent) and _among(links[parent], width, slot)):
            return slot
    return -1


@njit(cache=True)
def first_fault_of_vectors(vectors, nodes, dim, metric, start, stop):
    """The first slot of start..stop-1 whose vector is not finite, not padded with zeros, not of length 1 under
    COSINE, or not that of its twin; -1 if none. O(n dim)."""
    for slot in range(start, stop):
        squares, twin = 0.0, nodes[slot, TWIN]
        for d in range(vectors.shape[1]):
            value = np.float64(vectors[slot, d])
            if (d >= dim and value != 0) or (twin >= 0 and vectors[slot, d] != vectors[twin, d]):
                return slot
            squares += value * value
        if not squares < np.inf or (metric == COSINE and abs(squares - 1) > 1e-4):
            return slot
    return -1


@njit(cache=True)
def _sound(nodes, row, slot, tier, count):
    ended = False
    for e in range(row.shape[0]):
        other = np.int64(row[e])
        if other == -1:
            ended = True
            continue
        if ended or not 0 <= other < count or other == slot:
            return False
        if nodes[other, LEVEL] < 0 or nodes[other, TIER] < tier or _among(row, e, other):
            return False
    return True


@njit(cache=True)
def _among(row, size, slot):
    for e in range(size):
        if row[e] == slot:
            return True
    return False
