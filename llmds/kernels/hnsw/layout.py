"""The arrays of a navigable small-world graph, and keys of candidates.

A graph is eight arrays, owned by the caller; a slot is a row of vectors, codes, terms, nodes and links:

    vectors  uint8 (capacity, bytes)     float32 or float16 (`distances` tells by the width), zero-padded to whole cache
                                         lines, of length 1 under COSINE; width 0: vectors are not kept
    codes    uint8 (capacity, width)     see `codes`; width 0: not quantised
    terms    float32 (capacity, 2)       see `codes`
    frame    float32 (2, D)              see `codes`
    nodes    int32 (capacity, 6)         node[LEVEL]     the level drawn for it, TWINNED, DEAD or JOINING
                                         node[TIER]      the highest tier it is linked in
                                         node[UPPER]     its row in `upper` for that tier, -1 in tier 0
                                         node[TWIN]      the next slot whose vector is the same, or -1
                                         node[PARENT]    the neighbour whose link to it, and back, is never dropped
                                         node[CHILDREN]  how many have it as parent
    links    int32 (capacity, 2 * M)     its neighbours in tier 0, in any order, then -1
    upper    int32 (rows, M + 1)         the same for the tiers above; the last column is the row of the tier below
                                         (-1 for tier 1), and in a free row the next free row
    arena    int64, see `table`          row `slot` holds its id as KEY, BORN and DIED; head[ENTRY] is the slot where
                                         searches begin, head[UPPER_TOP] the rows of `upper` that were ever used,
                                         head[UPPER_FREE] the first free one, head[UPPER_SPARE] how many are free,
                                         head[LIMBO] and head[LIMBO_END] the first and last of the slots that wait
                                         for their readers (a chain by PARENT), head[REMOVED] how many were removed
                                         since links lead to live slots alone

Tier t holds the nodes of level t * step and above: levels may be drawn more densely than is useful to link, and a
tier that holds one node in M or so of the tier below is what descends fastest.

Twins: among equal vectors only one is linked, the others form a chain behind it. Otherwise thousands of them would
fill one another's neighbour lists and fall out of the graph together. Of a twin, PARENT is whose twin it is and
CHILDREN the one before it in the chain. While a slot is JOINING, CHILDREN is its place in the batch.

Parents: every linked node but one has a parent, of which none is its own ancestor, so links kept for their sake are
a spanning tree of tier 0 and whatever is in can be reached, however the rest is pruned.

Many threads may read while one writes. A reader brings the number of slots it knows and the clock of its state: it
skips links to slots beyond, and reports a slot only if BORN <= clock < DIED. A dead slot keeps what it holds until
its readers have left. Links to it are undone where they are found; where one is left, it leads to a vector that is
just not near.

A candidate is one int64, its key: the order of the float32 distance above, the slot below, and the lowest bit free
for a mark. Keys are compared as they are.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt, optimize_for_size

LEVEL, TIER, UPPER, TWIN, PARENT, CHILDREN, NODE = 0, 1, 2, 3, 4, 5, 6
TWINNED, DEAD, JOINING = -1, -2, -3
BORN, DIED, COLUMNS = 2, 3, np.int64(4)
ENTRY, UPPER_TOP, UPPER_FREE, UPPER_SPARE, LIMBO, LIMBO_END, REMOVED = (table.OWN + i for i in range(7))
L2, COSINE, IP = 0, 1, 2
# A row of vectors is whole cache lines, and no loop over one has a scalar rest.
LANES = 32
# A literal would make a kernel that is called with it compile once more.
ZERO = np.int64(0)
FARTHEST = np.int64(2**63 - 1)
NEVER = np.int64(2**63 - 1)
HIDDEN = np.int64(-(2**63))  # the id of a vector that is to replace another


@njit_no_nrt(cache=True)
def key_of(distance, slot):
    """The key of a candidate at `distance` (float32, no NaN)."""
    bits = np.int64(np.float32(distance).view(np.int32))
    return ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | (slot << 1)


@njit_no_nrt(cache=True)
def distance_of(key):
    """The float32 distance in a key."""
    bits = key >> 32
    return np.int32(bits ^ ((bits >> 63) & 0x7FFFFFFF)).view(np.float32)


@njit_no_nrt(cache=True)
def slot_of(key):
    """The slot in a key."""
    return (key >> 1) & 0x7FFFFFFF


@njit_no_nrt(cache=True)
def row_of(nodes, upper, slot, tier):
    """The row of `links` (tier 0) or of `upper` that holds the neighbours of `slot` in `tier`; -1 if it is not there.

    A link may lead to a slot that has a new tenant, whose rows are in a larger `upper` than this reader's.
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
    """An empty arena of ids. Keys of free rows are -1, so a reader beside a writer cannot take one for its own."""
    optimize_for_size()
    arena = table.new(capacity, COLUMNS)
    rows = table.parts(arena)[1]
    for row in range(capacity):
        rows[row, table.KEY] = -1
    arena[ENTRY] = arena[UPPER_FREE] = arena[LIMBO] = arena[LIMBO_END] = -1
    return arena


@njit(cache=True)
def slots_of(arena, ids, slots):
    """Fill slots (m,) with the slot of each id (int64), -1 if it is unknown, or its vector is not in yet. O(m)."""
    optimize_for_size()
    _, rows, buckets = table.parts(arena)
    for e in range(ids.shape[0]):
        slot = table.find(rows, buckets, ids[e])
        slots[e] = slot if slot >= 0 and rows[slot, BORN] < NEVER else -1


@njit(cache=True)
def rehash(arena, start, stop):
    """Lead the ids of the held rows start..stop-1, copied from another arena, to these rows. O(stop - start)."""
    optimize_for_size()
    _, rows, buckets = table.parts(arena)
    for row in range(start, stop):
        if rows[row, table.BUCKET] >= 0:
            table.insert(rows, buckets, row, rows[row, table.KEY])


@njit_no_nrt(cache=True)
def free_upper(nodes, upper, arena, slot):
    """Give back the rows of `slot` in `upper`, if it has any."""
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
    """Whether `slot` is one of rows[row, :size]."""
    optimize_for_size()
    for e in range(size):
        if rows[row, e] == slot:
            return True
    return False
