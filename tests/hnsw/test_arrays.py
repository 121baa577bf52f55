"""`HNSW.arrays` in a user's own compiled loops."""

import numpy as np
import pytest
from numba import njit

from llmds import HNSW
from llmds.kernels import table
from llmds.kernels.hnsw import distance, layout
from tests.hnsw.model import built, clustered


@njit
def reached(arrays, start):
    """How many slots can be reached by links of the lowest layer."""
    nodes, links, arena = arrays.nodes, arrays.links, arrays.arena
    seen, waiting = np.zeros(arena[table.TOP], np.uint8), [start]
    seen[start] = 1
    while len(waiting) > 0:
        slot = waiting.pop()
        for e in range(links.shape[1]):
            other = np.int64(links[slot, e])
            if other < 0:
                break
            if seen[other] == 0 and nodes[other, layout.LEVEL] >= 0:
                seen[other] = 1
                waiting.append(other)
    return seen.sum()


@njit
def swapped(arrays, a, b):
    """Swap the ids of two slots."""
    _, rows, buckets = table.parts(arrays.arena)
    first, second = rows[a, table.KEY], rows[b, table.KEY]
    table.remove(rows, buckets, a)
    table.remove(rows, buckets, b)
    table.insert(rows, buckets, a, second)
    table.insert(rows, buckets, b, first)


@njit
def measured(arrays, bits, metric, ids, queries, out):
    """Distances of queries to ids, by two kernels of the library."""
    slots = np.empty(ids.shape[0], np.int64)
    layout.slots_of(arrays.arena, ids, slots)
    return distance.distances(arrays, bits, metric, slots.reshape(1, -1), queries, out)


def test_a_loop_of_ones_own_walks_the_lowest_layer():
    index = built(clustered(800, 16, 1), kind=(None, "float32"))
    assert reached(index.arrays, index.arrays.arena[layout.ENTRY]) == 800
    index.remove_many(np.arange(0, 800, 3))
    stats = index.stats()
    linked = stats["layers"][0]["nodes"]
    assert reached(index.arrays, index.arrays.arena[layout.ENTRY]) == linked - stats["unreachable"]


def test_the_index_sees_what_a_loop_changes():
    vectors = clustered(50, 16, 2)
    index = built(vectors, kind=(None, "float32"))
    swapped(index.arrays, 3, 8)
    index.check()
    np.testing.assert_array_equal(index.get_vectors([8, 3]), vectors[[3, 8]])
    assert index.search(vectors[3], 1)[0][0] == 8


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_kernels_take_them(quantization):
    vectors = clustered(100, 16, 3)
    index = built(vectors, kind=(quantization, "float32"))
    ids, out = np.array([5, 7, 1000]), np.empty((1, 3), np.float32)
    bits = layout.INT8 if quantization else layout.FULL
    assert measured(index.arrays, bits, layout.L2, ids, vectors[:1], out) == layout.DONE
    np.testing.assert_array_equal(out, index.distances(vectors[:1], ids[None]))


def test_they_are_the_arrays_themselves_until_the_index_grows():
    index = HNSW(4, seed=1)
    index.add([1, 2, 3, 4], 1)
    arrays = index.arrays
    assert all(a is b for a, b in zip(arrays, index.arrays, strict=True)) and arrays.nodes.flags.writeable
    assert arrays._fields == ("vectors", "codes", "terms", "frame", "nodes", "links", "upper", "arena")
    assert sum(array.nbytes for array in arrays) == index.nbytes
    index.reserve(1000)
    assert index.arrays.nodes is not arrays.nodes, "grown"
