"""A metric, number of bits or way of searching that the kernels do not know is refused, and nothing is changed."""

import numpy as np
import pytest

from llmds.hnsw.state import accepted
from llmds.kernels.hnsw import build, codes, distance, layout, remove, search
from llmds.kernels.hnsw.layout import FULL, INT8, REFUSED, Candidates, Probes, Stored
from tests.hnsw.model import built, clustered

UNKNOWN = [(FULL, 3), (FULL, -1), (INT8, 3), (2, layout.L2), (1, layout.IP), (16, layout.COSINE), (-4, 9)]


@pytest.fixture(scope="module")
def index():
    return built(clustered(300, 64, 1), kind=("int8", "float32"))


def unchanged(call, index, *others):
    """Whether `call` is refused, and leaves the arrays as they are."""
    arrays = [*index.arrays, *others]
    before = [array.copy() for array in arrays]
    assert call() == REFUSED
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)
    with pytest.raises(ValueError, match="no kernels"):
        accepted(int(call()))


def searched(index, bits, metric, how):
    ids, distances = np.full((1, 3), 7), np.full((1, 3), 7, np.float32)
    none, chosen = np.empty(0, np.uint8), np.arange(20)
    queries = clustered(1, 64, 2)
    unchanged(
        lambda: search.search(
            index.arrays, 300, index._state.clock, index._state.entry, queries, bits, metric, 20, 3, 5, how, chosen,
            none, ids, distances, chosen[:0],
        ),
        index, ids, distances,
    )  # fmt: skip


@pytest.mark.parametrize("bits, metric", UNKNOWN)
def test_unknown_numbers_are_refused_by_every_kernel(index, bits, metric):
    for how in (search.WALK, search.SCAN, search.SCAN_EXACTLY):
        searched(index, bits, metric, how)
    slots, out = np.arange(4)[None], np.full((1, 4), 7, np.float32)
    unchanged(lambda: distance.distances(index.arrays, bits, metric, slots, clustered(1, 64, 3), out), index, out)
    vectors = np.full((4, 64), 7, np.float32)
    unchanged(lambda: distance.restored(index.arrays, bits, metric, slots[0], vectors), index, vectors)
    frame, own, terms = index.arrays.frame, index.arrays.codes, index.arrays.terms
    unchanged(lambda: codes.encode_many(vectors, 64, frame, own, terms, bits, metric, slots[0]), index)
    unchanged(lambda: remove.remove(index.arrays, bits, metric, np.arange(3), 0, 3, -1, 9, 64), index)
    batch, ef = np.array([[5, -1, 0]]), 20
    pools = build.Pools(np.full((1, 32), 7), np.full((1, 32), 7))
    probes = Probes(np.zeros((1, 64), np.uint8), np.zeros((1, 3), np.float32))
    nothing = (index, batch, *pools, *probes)
    arrays, origin = index.arrays, np.float32(0)
    unchanged(lambda: build.find(arrays, bits, metric, 64, vectors, batch, 0, 1, ef, probes, pools), *nothing)
    unchanged(lambda: build.find_inside(arrays, bits, metric, batch, 0, 1, ef, probes, pools), *nothing)
    unchanged(lambda: build.choose(arrays, bits, metric, batch, 0, 1, ef, origin, pools, 64), *nothing)
    unchanged(lambda: build.link_back(arrays, bits, metric, batch, 0, 64, 64), *nothing)
    index.check()


def test_an_unknown_way_of_searching_is_refused(index):
    for how in (-1, 3, 99):
        searched(index, INT8, layout.L2, how)


@pytest.mark.parametrize("metric", [-1, 3])
def test_an_unknown_metric_has_no_distance(metric):
    assert np.isnan(distance.origin_of(metric)) and np.isnan(distance.reported(np.float32(1), metric))
    source, target = np.ones((1, 3), np.float32), np.full((1, 32), 7, np.float32)
    assert build.load_many(source, metric, target) == REFUSED and (target == 7).all()


def test_unknown_bits_have_no_distance():
    """Even where nobody has checked them before."""
    stored = Stored(np.zeros((2, 64), np.uint8), np.full((2, 64), 9, np.uint8), np.ones((2, 2), np.float32), 2, False)
    probes, work = Probes(np.ones((1, 64), np.uint8), np.ones((1, 3), np.float32)), np.ones((2, 64), np.float32)
    candidates = Candidates(np.zeros((1, 5), np.int64), np.zeros(5, np.float32), np.zeros(5, np.int64))
    zero = np.int64(0)
    codes.estimate(stored, probes, zero, candidates, zero, np.int64(2))
    assert np.isposinf(candidates.distances[:2]).all() and (candidates.keys[:2] == layout.FARTHEST).all()
    assert np.isnan(codes.along(stored.codes, zero, 2, work, zero))
    codes.probe_of_codes(stored, zero, probes, zero)
    assert np.isnan(probes.parameters[0, codes.SHIFT])
    codes.encode(work, zero, np.int64(64), codes.new_frame(64), stored, work.copy(), np.int64(1))
    assert np.isnan(stored.terms[1]).all() and (stored.codes == 9).all()
    codes.decoded(stored, zero, work)
    assert np.isnan(work[0]).all()


@pytest.mark.parametrize("width", [1, 32, 96])
def test_vectors_of_unknown_type_have_no_distance(width):
    vectors, probes, zero = np.zeros((1, width), np.uint8), np.zeros((1, 4 * 32), np.uint8), np.int64(0)
    assert np.isposinf(distance.distance(probes, zero, vectors, zero, False))
    assert np.isnan(distance.number_at(vectors, zero, np.int64(32), zero))
