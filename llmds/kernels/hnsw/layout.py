"""The arrays of a navigable small-world graph, the groups in which kernels take them, and keys of candidates.

A graph is eight arrays (`Arrays`), owned by the caller. A slot is a row of vectors, codes, terms, nodes and links:

    vectors  uint8 (capacity, bytes)     float32 or float16 (the width in bytes says which), padded with zeros to whole
                                         cache lines, of length 1 under COSINE; width 0: vectors are not kept
    codes    uint8 (capacity, width)     see `codes`; width 0: not quantised
    terms    float32 (capacity, 2)       see `codes`
    frame    float32 (2, D)              see `codes`
    nodes    int32 (capacity, 6)         node[LEVEL]     the level drawn for it, TWINNED, DEAD or JOINING
                                         node[TIER]      the highest tier it is linked in
                                         node[UPPER]     its row in `upper` for that tier, -1 in tier 0
                                         node[TWIN]      the next slot that holds the same vector, or -1
                                         node[PARENT]    a neighbour; the links to it and back are never dropped
                                         node[CHILDREN]  the number of nodes whose parent it is
    links    int32 (capacity, 2 * M)     its neighbours in tier 0, in any order, then -1
    upper    int32 (rows, M + 1)         the same for the tiers above; the last column is the row of the tier below
                                         (-1 for tier 1), and in a free row the next free row
    arena    int64, see `table`          row `slot` holds its id as KEY, BORN and DIED. In the head: ENTRY, the slot
                                         where searches begin; UPPER_TOP, the rows of `upper` that were ever used;
                                         UPPER_FREE, the first free one; UPPER_SPARE, the number of free ones; LIMBO
                                         and LIMBO_END, the first and last of the slots that wait for their readers (a
                                         chain through PARENT); REMOVED, the number of slots removed since all links
                                         last led to live slots

Tier t holds the nodes of level t * step and above. Levels may be drawn more densely than is useful to link: descent is
fastest where a tier holds about one in M nodes of the tier below.

Twins: of equal vectors only one is linked, and the others form a chain behind it. Otherwise thousands of equal vectors
would fill one another's neighbour lists and lose all links to the rest. In a twin, PARENT is the linked slot and
CHILDREN the slot before it in the chain. While a slot is JOINING, CHILDREN is its position in the batch.

Parents: every linked node but one has a parent, and the parents form a tree. The links between parents and children are
thus a spanning tree of tier 0, and every node can be reached, however the other links are pruned.

Many threads may read while one writes. A reader has the number of slots and the clock of the state that it reads: it
skips links to slots beyond that number, and reports a slot only if BORN <= clock < DIED. A dead slot keeps its
contents until its readers have left. Links to it are removed where they are found; a link that is left leads to a
vector that is not near.

A candidate is one int64, its key: the float32 distance in the upper half, as an integer of the same order, then the
slot, and a mark in the lowest bit. Keys are compared as they are.

The metric is L2, COSINE or IP; `bits` is INT4, INT8 or FULL (not quantised). Kernels called from above check both
(`known`), and return REFUSED for other numbers, with nothing changed.
"""

from typing import NamedTuple

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size

LEVEL, TIER, UPPER, TWIN, PARENT, CHILDREN, NODE = 0, 1, 2, 3, 4, 5, 6
TWINNED, DEAD, JOINING = -1, -2, -3
BORN, DIED, COLUMNS = 2, 3, np.int64(4)
ENTRY, UPPER_TOP, UPPER_FREE, UPPER_SPARE, LIMBO, LIMBO_END, REMOVED = (table.OWN + i for i in range(7))
L2, COSINE, IP = 0, 1, 2  # metric
FULL, INT4, INT8 = 0, 4, 8  # bits of a code
FLOAT32, FLOAT16, NOT_KEPT = 32, 16, 0  # bits of a number of a vector that is kept
# A row of vectors is whole cache lines, and no loop over one has a scalar remainder.
LANES = 32
# A literal would make a kernel that is called with it compile once more.
ZERO = np.int64(0)
FARTHEST = np.int64(2**63 - 1)
NEVER = np.int64(2**63 - 1)
HIDDEN = np.int64(-(2**63))  # the id of a vector that is to replace another
# What a kernel returns that cannot do what it is asked for: a query that cannot be measured (see `distance.load`), a
# metric, number of bits or way of searching that it does not know. DONE where there is nothing else to return.
UNFIT, REFUSED, DONE = np.int64(-1), np.int64(-2), np.int64(0)


class Arrays(NamedTuple):
    """The arrays of a graph; shapes and dtypes are in the docstring of the module."""

    vectors: np.ndarray
    codes: np.ndarray
    terms: np.ndarray
    frame: np.ndarray
    nodes: np.ndarray
    links: np.ndarray
    upper: np.ndarray
    arena: np.ndarray


class Stored(NamedTuple):
    """Stored vectors and how they are measured: three arrays of a graph, `bits`, and whether a distance is a product.

    `product` (bool): the distance is the negated inner product, not the squared Euclidean distance.
    """

    vectors: np.ndarray
    codes: np.ndarray
    terms: np.ndarray
    bits: int
    product: bool


class Probes(NamedTuple):
    """Vectors to measure from: rows uint8 (n, bytes) and parameters float32 (n, 3), see `distance` and `codes`."""

    rows: np.ndarray
    parameters: np.ndarray


class Candidates(NamedTuple):
    """Slots to measure, int64 (rows, m + 3), and room for the distances (float32) and keys (int64) of one row (m + 3,).

    There is room for three more than m, because codes are read four rows at a time.
    """

    slots: np.ndarray
    distances: np.ndarray
    keys: np.ndarray


@njit_no_nrt(cache=True)
def known(bits, metric):
    """Return whether there are kernels for this number of bits and this metric."""
    # `in` would compile a second longer.
    return (bits == FULL or bits == INT4 or bits == INT8) and (metric == L2 or metric == COSINE or metric == IP)  # noqa: SIM109


@njit(cache=True)
def stored_of(arrays, bits, metric):
    """Return the part of `arrays` (`Arrays`) that distances are measured from, as `Stored`."""
    return Stored(arrays.vectors, arrays.codes, arrays.terms, bits, metric != L2)


@njit_no_nrt(cache=True)
def key_of(distance, slot):
    """Return the key of a candidate at `distance` (float32, no NaN)."""
    bits = np.int64(np.float32(distance).view(np.int32))
    return ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | (slot << 1)


@njit_no_nrt(cache=True)
def distance_of(key):
    """Return the float32 distance in a key."""
    bits = key >> 32
    return np.int32(bits ^ ((bits >> 63) & 0x7FFFFFFF)).view(np.float32)


@njit_no_nrt(cache=True)
def slot_of(key):
    """Return the slot in a key."""
    return (key >> 1) & 0x7FFFFFFF


@njit_no_nrt(cache=True)
def row_of(nodes, upper, slot, tier):
    """Return the row of `links` (tier 0) or of `upper` that holds the neighbours of `slot` in `tier`; -1 if none does.

    A link may lead to a slot that was used again, whose rows are in a larger `upper` than this reader's.
    """
    optimize_for_size()
    if tier == 0:
        return slot
    if nodes[slot, TIER] < tier:
        return np.int64(-1)
    row = np.int64(nodes[slot, UPPER])
    for _ in range(nodes[slot, TIER] - tier):
        if not 0 <= row < upper.shape[0]:
            break
        row = np.int64(upper[row, upper.shape[1] - 1])
    return row if 0 <= row < upper.shape[0] else np.int64(-1)


@njit(cache=True)
def new_arena(capacity):
    """Return an empty arena of ids. Keys of free rows are -1, so a reader beside a writer finds no id there."""
    optimize_for_size()
    arena = table.new(capacity, COLUMNS)
    rows = table.parts(arena)[1]
    for row in range(capacity):
        rows[row, table.KEY] = -1
    arena[ENTRY] = arena[UPPER_FREE] = arena[LIMBO] = arena[LIMBO_END] = -1
    return arena


@njit(cache=True)
def slots_of(arena, ids, slots):
    """Fill slots (m,) with the slot of each id (int64), -1 if it is unknown or its vector not linked yet. O(m)."""
    optimize_for_size()
    _, rows, buckets = table.parts(arena)
    for e in range(ids.shape[0]):
        slot = table.find(rows, buckets, ids[e])
        slots[e] = slot if slot >= 0 and rows[slot, BORN] < NEVER else -1


@njit(cache=True)
def rehash(arena, start, stop):
    """Enter the ids of the used rows start..stop-1, copied from another arena, into the buckets. O(stop - start)."""
    optimize_for_size()
    _, rows, buckets = table.parts(arena)
    for row in range(start, stop):
        if rows[row, table.BUCKET] >= 0:
            table.insert(rows, buckets, row, rows[row, table.KEY])


@njit_no_nrt(cache=True)
def free_upper(nodes, upper, arena, slot):
    """Free the rows of `slot` in `upper`, if it has any."""
    optimize_for_size()
    last, row = upper.shape[1] - 1, np.int64(nodes[slot, UPPER])
    while row >= 0:
        following = np.int64(upper[row, last])
        upper[row, last] = arena[UPPER_FREE]
        arena[UPPER_FREE] = row
        arena[UPPER_SPARE] += 1
        row = following
    nodes[slot, UPPER], nodes[slot, TIER] = -1, 0


@njit_no_nrt(cache=True)
def among(rows, row, size, slot):
    """Return whether `slot` is one of rows[row, :size]."""
    optimize_for_size()
    for e in range(size):
        if rows[row, e] == slot:
            return True
    return False
