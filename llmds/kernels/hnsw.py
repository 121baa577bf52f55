"""The arrays of a navigable small-world graph, and distances between its vectors.

A graph is five arrays, owned by the caller; a slot is a row of the first three, given out in order:

    vectors  float32 (capacity, stride)  zero-padded to whole cache lines; of length 1 under COSINE
    nodes    int32 (capacity, 5)         node[LEVEL]   the level drawn for it, -1 for a twin
                                         node[TIER]    the highest tier it is linked in
                                         node[UPPER]   its first row in `upper`, one row a tier from tier 1 on
                                         node[TWIN]    the next slot whose vector is the same, or -1
                                         node[PARENT]  the neighbour whose link to it, and back, is never dropped
    links    int32 (capacity, 2 * M)     its neighbours in tier 0, in any order, then -1
    upper    int32 (rows, M)             the same for the tiers above
    arena    int64, see `table`          row `slot` holds its id as KEY; head[ENTRY] is the slot where
                                         searches begin, head[UPPER_TOP] the rows of `upper` in use,
                                         head[LINKED] the slots that are part of the graph

Tier t holds the nodes of level t * step and above: levels may be drawn more densely than is useful to
link, and a tier that holds one node in M or so of the tier below is what descends fastest.

Twins: among equal vectors only the first to come is linked, the others form a chain behind it. Otherwise
thousands of them would fill one another's neighbour lists and fall out of the graph together.

Parents: every linked node but the first has one, an earlier slot, so links kept for their sake
are a spanning tree of tier 0 and whatever is in can be reached, however the rest is pruned.

Many threads may read while one writes: a reader brings the number of slots it knows, and skips links to others.

A candidate is one int64, its key: the order of the float32 distance above, the slot below, and the lowest bit
free for a mark. Keys are compared as they are.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import table
from .compiling import njit

LEVEL, TIER, UPPER, TWIN, PARENT, NODE = 0, 1, 2, 3, 4, 5
ENTRY, UPPER_TOP, LINKED = table.OWN, table.OWN + 1, table.OWN + 2
L2, COSINE, IP = 0, 1, 2
# A row of vectors is whole cache lines, and no loop over one has a scalar rest.
LANES = 16
# A literal would make a kernel that is called with it compile once more.
ZERO = np.int64(0)
COLUMNS = np.int64(2)

_LINE = 64
_SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@njit(cache=True, fastmath=_SUMS_IN_ANY_ORDER)
def distance(a, row_a, b, row_b, product):
    """How far a[row_a] is from b[row_b] (float32, equal row lengths): squared Euclidean, or the negated inner product.

    Never NaN: infinity where an inner product overflows both ways.
    """
    total = np.float32(0)
    if product:
        for d in range(a.shape[1]):
            total -= a[row_a, d] * b[row_b, d]
    else:
        for d in range(a.shape[1]):
            difference = a[row_a, d] - b[row_b, d]
            total += difference * difference
    return total if total == total else np.float32(np.inf)


@njit(cache=True)
def reported(distance, metric):
    """What callers are told for a `distance`: Euclidean, 1 - cosine (in 0..2), or the negated inner product."""
    if metric == L2:
        return np.sqrt(distance)
    if metric == COSINE:
        return min(max(np.float32(1) + distance, np.float32(0)), np.float32(2))
    return distance + np.float32(0)  # no negative zero


@njit(cache=True)
def key_of(distance, slot):
    """The key of a candidate at `distance` (float32, no NaN)."""
    bits = np.int64(np.float32(distance).view(np.int32))
    return ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | (slot << 1)


@njit(cache=True)
def distance_of(key):
    """The float32 distance in a key."""
    bits = key >> 32
    return np.int32(bits ^ ((bits >> 63) & 0x7FFFFFFF)).view(np.float32)


@njit(cache=True)
def slot_of(key):
    """The slot in a key."""
    return (key >> 1) & 0x7FFFFFFF


@njit(cache=True)
def row_of(nodes, slot, tier):
    """The row of `links` (tier 0) or of `upper` that holds the neighbours of `slot` in `tier`."""
    return slot if tier == 0 else nodes[slot, UPPER] + tier - 1


@njit(cache=True)
def load(source, at, target, cosine):
    """Copy source[at] (float32 (dim,)) to target[0], padded; scaled to length 1 if `cosine`.

    Whether it could be: not if a value is not finite, or all are zero under `cosine`.
    """
    dim = source.shape[1]
    squares = 0.0
    for d in range(dim):
        value = np.float64(source[at, d])
        squares += value * value
        target[0, d] = source[at, d]
    for d in range(dim, target.shape[1]):
        target[0, d] = 0
    if not squares < np.inf or (cosine and squares == 0):
        return False
    if cosine:
        scale = 1 / np.sqrt(squares)
        for d in range(dim):
            target[0, d] = np.float32(source[at, d] * scale)
    return True


@njit(cache=True)
def store(vectors, first, source, cosine):
    """Load all rows of `source` (n, dim) into vectors[first:]. The first that `load` refuses, or -1. O(n dim)."""
    for i in range(source.shape[0]):
        if not load(source, i, vectors[first + i : first + i + 1], cosine):
            return i
    return -1


@njit(cache=True)
def first_zero(vectors):
    """The first row of float32 (n, dim) that is all zeros, or -1. O(n), dimension by dimension only where zeros are."""
    for i in range(vectors.shape[0]):
        d = 0
        while d < vectors.shape[1] and vectors[i, d] == 0:
            d += 1
        if d == vectors.shape[1]:
            return i
    return -1


@njit(cache=True, nogil=True)
def distances(vectors, slots, queries, metric, out):
    """Fill out (n, c) with the reported distances from queries (n, dim) to `slots` (n, c); infinity where one is -1.

    Whether the queries were fit (see `load`). O(n c dim).
    """
    query = np.empty((1, vectors.shape[1]), np.float32)
    for q in range(queries.shape[0]):
        if not load(queries, q, query, metric == COSINE):
            return False
        for e in range(slots.shape[1]):
            slot = slots[q, e]
            out[q, e] = np.inf if slot < 0 else reported(distance(query, ZERO, vectors, slot, metric != L2), metric)
    return True


@njit(cache=True)
def new_arena(capacity):
    """An empty arena of ids. Keys of free rows are -1, so a reader beside a writer cannot take one for its own."""
    arena = table.new(capacity, COLUMNS)
    rows = table.parts(arena)[1]
    for row in range(capacity):
        rows[row, table.KEY] = -1
    arena[ENTRY] = -1
    return arena


@njit(cache=True)
def slots_of(arena, count, ids, slots):
    """Fill slots (m,) with the slot of each id (int64), -1 if it is unknown or not below `count`. O(m)."""
    _, rows, buckets = table.parts(arena)
    for e in range(ids.shape[0]):
        slot = table.find(rows, buckets, ids[e])
        slots[e] = slot if slot < count else -1


@njit(cache=True)
def append_ids(arena, ids):
    """Give `ids` (m,) the next slots, all (-1), or none: the first that is there or comes twice. Room is given."""
    head, rows, buckets = table.parts(arena)
    first = head[table.TOP]
    for e in range(ids.shape[0]):
        if table.find(rows, buckets, ids[e]) >= 0:
            take_back_ids(arena, first)
            return e
        table.insert(rows, buckets, first + e, ids[e])
        head[table.TOP] += 1
        head[table.COUNT] += 1
    return -1


@njit(cache=True)
def take_back_ids(arena, top):
    """Forget the ids of the slots from `top` on."""
    head, rows, buckets = table.parts(arena)
    while head[table.TOP] > top:
        head[table.TOP] -= 1
        head[table.COUNT] -= 1
        table.remove(rows, buckets, head[table.TOP])
        rows[head[table.TOP], table.KEY] = -1


def _prefetch(typingctx, array, offset, size):
    """Ask for the cache lines of `size` items of a contiguous array, from the item at flat `offset` on."""

    def codegen(context, builder, signature, arguments):
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        per_line = context.get_constant(types.int64, _LINE // (signature.args[0].dtype.bitwidth // 8))
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        target = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), "llvm.prefetch.p0"
        )
        stop = builder.add(arguments[1], arguments[2])
        with cgutils.for_range_slice(builder, arguments[1], stop, per_line) as (at, _):
            address = builder.bitcast(builder.gep(values.data, [at]), byte)
            builder.call(target, [address, flag(0), flag(3), flag(1)])  # for reading, to keep, data
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64), codegen


prefetch: Any = intrinsic(_prefetch)
