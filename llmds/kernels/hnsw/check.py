"""Checking the invariants of the graph's arrays, and counting what statistics need.

The checks are safe on any contents, in this order: nodes, chains, links, tree, vectors.
"""

import numpy as np

from .. import table
from ..compiling import njit, optimize_for_size
from ..simd import float_at, half_at
from .distance import equal
from .layout import (
    CHILDREN,
    COSINE,
    DEAD,
    ENTRY,
    LEVEL,
    PARENT,
    TIER,
    TWIN,
    TWINNED,
    UPPER,
    UPPER_FREE,
    UPPER_SPARE,
    UPPER_TOP,
    among,
)


@njit(cache=True)
def first_fault_of_nodes(nodes, upper, arena, step, top):
    """Return the first slot whose numbers are out of range or do not agree with its level; -1 if none. O(n).

    -2: rows of `upper` belong to no node, or to two.
    """
    optimize_for_size()
    entry, rows = arena[ENTRY], arena[UPPER_TOP]
    if not 0 <= rows <= upper.shape[0]:
        return np.int64(-2)
    taken, used = np.zeros(rows, np.uint8), 0
    for slot in range(top):
        level, tier = np.int64(nodes[slot, LEVEL]), np.int64(nodes[slot, TIER])
        if level < DEAD or tier < 0 or not -1 <= nodes[slot, TWIN] < top or not -1 <= nodes[slot, PARENT] < top:
            return np.int64(slot)
        if level >= 0:
            if entry < 0 or level > nodes[entry, LEVEL] or tier != level // step or nodes[slot, CHILDREN] < 0:
                return np.int64(slot)
        elif level == TWINNED:
            if slot == entry or tier != 0 or not 0 <= nodes[slot, CHILDREN] < top or nodes[slot, PARENT] < 0:
                return np.int64(slot)
        row, height = np.int64(nodes[slot, UPPER]), 0
        while row != -1:
            if not 0 <= row < rows or taken[row]:
                return np.int64(slot)
            taken[row] = 1
            used += 1
            height += 1
            row = np.int64(upper[row, upper.shape[1] - 1])
        if height != tier:
            return np.int64(slot)
    row, spare = arena[UPPER_FREE], 0
    while row != -1:
        if not 0 <= row < rows or taken[row]:
            return np.int64(-2)
        taken[row] = 1
        spare += 1
        row = np.int64(upper[row, upper.shape[1] - 1])
    return np.int64(-1 if spare == arena[UPPER_SPARE] and used + spare == rows else -2)


@njit(cache=True)
def first_fault_of_chains(nodes, top):
    """Return the first slot whose chain of twins is broken; -1 if none, -2 if a twin is in no chain. O(n)."""
    optimize_for_size()
    reached, twins = 0, 0
    for slot in range(top):
        if nodes[slot, LEVEL] == TWINNED:
            twins += 1
    for slot in range(top):
        if nodes[slot, LEVEL] < 0:
            continue
        before, at = np.int64(slot), np.int64(nodes[slot, TWIN])
        while at >= 0:  # ends: each twin names the one before it, so none comes twice
            if nodes[at, LEVEL] != TWINNED or nodes[at, CHILDREN] != before or nodes[at, PARENT] != slot:
                return np.int64(slot)
            reached += 1
            if reached > twins:
                return np.int64(slot)
            before, at = at, np.int64(nodes[at, TWIN])
    return np.int64(-1 if reached == twins else -2)


@njit(cache=True)
def first_fault_of_links(nodes, links, upper, top, strict, start, stop):
    """Return the first of the slots start..stop-1 whose links are wrong; -1 if none. O(n M^2).

    A neighbour is out of range, the slot itself, repeated or after the end of the row, or the parent is not linked both
    ways. If `strict`, neighbours must be linked in that tier.
    """
    optimize_for_size()
    width = links.shape[1]
    for slot in range(start, stop):
        if nodes[slot, LEVEL] < 0:
            if strict:
                for e in range(width):
                    if links[slot, e] >= 0:
                        return np.int64(slot)
            continue
        if not _sound(nodes, links, np.int64(slot), width, np.int64(slot), np.int64(0), top, strict):
            return np.int64(slot)
        row = np.int64(nodes[slot, UPPER])
        for tier in range(np.int64(nodes[slot, TIER]), 0, -1):
            if not _sound(nodes, upper, row, width >> 1, np.int64(slot), np.int64(tier), top, strict):
                return np.int64(slot)
            row = np.int64(upper[row, upper.shape[1] - 1])
        parent = np.int64(nodes[slot, PARENT])
        if parent >= 0:
            if not (among(links, np.int64(slot), width, parent) and among(links, parent, width, np.int64(slot))):
                return np.int64(slot)
    return np.int64(-1)


@njit(cache=True)
def first_fault_of_tree(nodes, top):
    """Return the first linked slot that is its own ancestor, has an unlinked parent, or miscounts its children. O(n).

    -1 if there is none.
    """
    optimize_for_size()
    children, seen = np.zeros(top, np.int64), np.full(top, -1, np.int64)
    for slot in range(top):
        if nodes[slot, LEVEL] < 0:
            continue
        parent = np.int64(nodes[slot, PARENT])
        if parent >= 0:
            if nodes[parent, LEVEL] < 0:
                return np.int64(slot)
            children[parent] += 1
        at = np.int64(slot)
        while at >= 0 and seen[at] < 0:
            seen[at] = slot
            at = np.int64(nodes[at, PARENT])
        if at >= 0 and seen[at] == slot:
            return np.int64(slot)
    for slot in range(top):
        if nodes[slot, LEVEL] >= 0 and nodes[slot, CHILDREN] != children[slot]:
            return np.int64(slot)
    return np.int64(-1)


@njit(cache=True)
def first_fault_of_vectors(arrays, dim, stride, metric, start, stop):
    """Return the first live slot of start..stop-1 whose vector is wrong; -1 if none. O(n dim).

    It is not finite, not padded with zeros, not of length 1 under COSINE, or not equal to that of its twin. arrays are
    the graph's (`layout.Arrays`).
    """
    optimize_for_size()
    vectors, codes, terms, nodes = arrays.vectors, arrays.codes, arrays.terms, arrays.nodes
    width, half = vectors.shape[1], vectors.shape[1] == 2 * stride
    if width != 0 and width != 4 * stride and not half:
        return np.int64(start)
    for slot in range(start, stop):
        if nodes[slot, LEVEL] < TWINNED:
            continue
        twin = np.int64(nodes[slot, TWIN])
        if twin >= 0 and not equal(vectors, codes, terms, np.int64(slot), twin):
            return np.int64(slot)
        squares = 0.0
        for d in range(stride if width > 0 else 0):
            at = slot * width + (2 if half else 4) * d
            value = np.float64(half_at(vectors, at) if half else float_at(vectors, at))
            if d >= dim and value != 0:
                return np.int64(slot)
            squares += value * value
        if not squares < np.inf or (width > 0 and metric == COSINE and abs(squares - 1) > (4e-3 if half else 1e-4)):
            return np.int64(slot)
    return np.int64(-1)


@njit(cache=True)
def unreachable(nodes, links, entry, top):
    """Return how many linked slots cannot be reached from `entry` by links of tier 0. O(n M)."""
    optimize_for_size()
    seen, waiting = np.zeros(top, np.uint8), np.empty(top, np.int64)
    seen[entry] = 1
    waiting[0], m, linked = entry, 1, 0
    while m > 0:
        m -= 1
        slot = waiting[m]
        for e in range(links.shape[1]):
            other = np.int64(links[slot, e])
            if other < 0:
                break
            if other < top and not seen[other] and nodes[other, LEVEL] >= 0:
                seen[other] = 1
                waiting[m] = other
                m += 1
    for slot in range(top):
        linked += nodes[slot, LEVEL] >= 0 and not seen[slot]
    return linked


@njit(cache=True)
def degrees(nodes, links, upper, top, tiers):
    """Count the nodes and the links of each tier, float64 (tiers, 2). O(n M)."""
    optimize_for_size()
    found = np.zeros((tiers, 2), np.float64)
    for slot in range(top):
        if nodes[slot, LEVEL] < 0:
            continue
        row = np.int64(nodes[slot, UPPER])
        for tier in range(min(np.int64(nodes[slot, TIER]), tiers - 1), -1, -1):
            m = 0
            if tier > 0:
                while m < upper.shape[1] - 1 and upper[row, m] >= 0:
                    m += 1
                row = np.int64(upper[row, upper.shape[1] - 1])
            else:
                while m < links.shape[1] and links[slot, m] >= 0:
                    m += 1
            found[tier, 0] += 1
            found[tier, 1] += m
    return found


@njit(cache=True)
def arena_fault(arena, top):
    """Return 0 if ids and slots lead to one another, else 1. Slots in limbo are neither used nor free. O(n)."""
    optimize_for_size()
    head, rows, buckets = table.parts(arena)
    live = 0
    for row in range(top):
        if rows[row, table.BUCKET] >= 0:
            live += 1
            if table.find(rows, buckets, rows[row, table.KEY]) != row:
                return 1
    used = 0
    for bucket in range(buckets.shape[0]):
        used += buckets[bucket] >= 0
    return 0 if used == live == head[table.COUNT] and top == head[table.TOP] else 1


@njit(cache=True)
def _sound(nodes, rows, row, room, slot, tier, top, strict):
    """Return whether the links of `slot` in rows[row] are right, see `first_fault_of_links`."""
    optimize_for_size()
    ended = False
    for e in range(room):
        other = np.int64(rows[row, e])
        if other == -1:
            ended = True
            continue
        if ended or not 0 <= other < top or other == slot or among(rows, row, e, other):
            return False
        if strict and (nodes[other, LEVEL] < 0 or nodes[other, TIER] < tier):
            return False
    return True
