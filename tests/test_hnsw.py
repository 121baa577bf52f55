"""The graph beside every distance computed by NumPy."""

import math
import platform
import random
import re
import threading
import time

import face
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds import hnsw_state
from llmds.hnsw import HNSW
from llmds.kernels import hnsw as kernels
from llmds.kernels import hnsw_build, hnsw_search

METRICS = ["l2", "cosine", "ip"]


def exact(vectors, queries, metric):
    """All distances, float64 (queries, vectors)."""
    vectors, queries = np.asarray(vectors, np.float64), np.atleast_2d(np.asarray(queries, np.float64))
    if metric == "l2":
        return np.sqrt(((queries[:, None] - vectors[None]) ** 2).sum(2))
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return 1 - queries @ vectors.T
    return -queries @ vectors.T


def clustered(n, dim, seed, clusters=20, spread=0.3):
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((clusters, dim))
    return (centres[chance.integers(0, clusters, n)] + spread * chance.standard_normal((n, dim))).astype(np.float32)


def recall(found, distances, k):
    """Share of the k nearest that were found; whoever is as near as the k-th counts as one of them."""
    limit = np.sort(distances, axis=1)[:, k - 1 : k]
    return np.mean(np.take_along_axis(distances, found, 1) <= limit + 1e-6)


def reachable(index):
    """Whether the links of the lowest layer lead from the entry point to every linked vector."""
    arrays = index._to_arrays()
    linked = np.flatnonzero(arrays["nodes"][:, kernels.LEVEL] >= 0)
    seen, waiting = {int(arrays["entry"])}, [int(arrays["entry"])]
    while waiting:
        new = set(arrays["links"][waiting.pop()].tolist()) - {-1} - seen
        seen |= new
        waiting.extend(new)
    return seen == set(linked.tolist())


def agrees(result, ids, distances, k, atol=1e-5):
    """The answer is the k nearest, in order, ids paired with their own distances, ties by smaller id."""
    distances = np.asarray(distances, np.float64)
    assert len(result) == min(k, len(ids))
    told = np.array([distance for _, distance in result])
    np.testing.assert_allclose(told, np.sort(distances)[: len(result)], rtol=1e-5, atol=atol)
    own = {vec_id: distance for vec_id, distance in zip(ids, distances, strict=True)}
    np.testing.assert_allclose(told, [own[vec_id] for vec_id, _ in result], rtol=1e-5, atol=atol)
    assert result == sorted(result, key=lambda pair: (pair[1], pair[0]))
    assert len({vec_id for vec_id, _ in result}) == len(result)


# Few values, so that equal vectors and equal distances are the rule; whole numbers, so that distances are exact.
grid = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
new_ids = st.integers(0, 30) | st.sampled_from([2**63 - 1, 2**40])


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as a dict of id -> vector searched whole does."""

    @initialize(metric=st.sampled_from(METRICS), M=st.integers(1, 4), seed=st.integers(0, 3))
    def start(self, metric, M, seed):
        self.index = HNSW(3, M, ef_construction=8, ef_search=10**4, seed=seed, metric=metric)
        self.model, self.metric = {}, metric

    @rule(vector=grid, vec_id=new_ids)
    def add(self, vector, vec_id):
        if vec_id in self.model:
            with pytest.raises(ValueError, match="distinct"):
                self.index.add(vector, vec_id)
        else:
            self.index.add(vector, vec_id)
            self.model[vec_id] = vector

    @rule(items=st.dictionaries(new_ids, grid))
    def add_many(self, items):
        vectors = np.array(list(items.values())).reshape(-1, 3)
        if items.keys() & self.model.keys():
            with pytest.raises(ValueError, match="distinct"):
                self.index.add_many(vectors, list(items))
        else:
            self.index.add_many(vectors, list(items))
            self.model.update(items)

    @rule(query=grid, k=st.integers(0, 40))
    def search(self, query, k):
        result = self.index.search(query, k)
        if not self.model:
            assert result == []
            return
        distances = exact(list(self.model.values()), query, self.metric)[0]
        agrees(result, list(self.model), distances, k)
        if self.metric != "cosine":
            expected = sorted(zip(distances.astype(np.float32).tolist(), self.model, strict=True))[:k]
            assert [vec_id for vec_id, _ in result] == [vec_id for _, vec_id in expected]

    @rule(query=grid)
    def search_narrowly(self, query):
        for vec_id, distance in self.index.search(query, 1, ef=1):
            own = exact([self.model[vec_id]], query, self.metric)[0, 0]
            assert distance == pytest.approx(own, abs=1e-5)
            assert self.index.distances([query], [[vec_id]])[0, 0] == pytest.approx(distance, abs=1e-6)

    @rule()
    def shrink(self):
        self.index.shrink_to_fit()

    @rule(n=st.integers(0, 50))
    def reserve(self, n):
        self.index.reserve(n)

    @invariant()
    def agree(self):
        if not hasattr(self, "index"):
            return
        self.index.check()
        assert not self.model or reachable(self.index)
        assert len(self.index) == len(self.model) == self.index.stats()["num_vectors"]
        for vec_id in (0, 7, 31, 2**40):
            assert (vec_id in self.index) == (vec_id in self.model)


BesideModel.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestBesideModel = BesideModel.TestCase


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 17, 384, 4096])
def test_a_search_as_wide_as_the_index_is_exact(metric, dim):
    n = 400 if dim < 4096 else 60
    vectors, queries = clustered(n, dim, dim), clustered(8, dim, dim + 1)
    index = HNSW(dim, M=4, ef_construction=20, seed=1, metric=metric)
    index.add_many(vectors[: n // 2], np.arange(n // 2) * 3)
    for i in range(n // 2, n):
        index.add(vectors[i], i * 3)
    index.check()
    distances = exact(vectors, queries, metric)
    for k in (1, 10, n, n + 5):
        for query, own in zip(queries, distances, strict=True):
            agrees(index.search(query, k, ef=n), list(range(0, 3 * n, 3)), own, k, atol=1e-5 * np.abs(own).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bulk", [True, False])
def test_neighbours_in_clusters_are_found(metric, bulk):
    vectors, queries = clustered(4000, 24, 2), clustered(200, 24, 2)
    index = HNSW(24, seed=3, metric=metric)
    if bulk:
        index.add_many(vectors, np.arange(4000))
    else:
        for i, vector in enumerate(vectors):
            index.add(vector, i)
    index.check()
    found, distances = index.search_batch(queries, 10, ef=100)
    expected = exact(vectors, queries, metric)
    assert recall(found, expected, 10) > 0.97
    np.testing.assert_allclose(distances, np.take_along_axis(expected, found, 1), rtol=1e-4, atol=1e-4)


def test_neighbours_of_sentences_are_found(data):
    rows = slice(0, 6000)
    vectors = np.load(data / "cppdocs" / "corpus_emb.npy")[rows].astype(np.float32)
    queries = np.load(data / "cppdocs" / "query_emb.npy")[:300].astype(np.float32)
    index = HNSW(384, seed=4, metric="cosine")
    index.add_many(vectors, np.arange(6000))
    expected = 1 - queries @ vectors.T
    assert recall(index.search_batch(queries, 10)[0], expected, 10) > 0.97
    assert recall(index.search_batch(queries, 10, ef=200)[0], expected, 10) > 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_thousands_of_equal_vectors_hide_nothing(metric):
    others = clustered(1500, 16, 5)
    same = others[0] + 3
    vectors = np.concatenate([others[:700], np.tile(same, (3000, 1)), others[700:], np.tile(same + 1, (1000, 1))])
    index = HNSW(16, seed=6, metric=metric)
    index.add_many(vectors[:3000], np.arange(3000)[::-1])
    index.add_many(vectors[3000:], np.arange(3000, len(vectors)))
    index.check()
    assert index.stats()["num_duplicates"] == 3998
    ids = np.concatenate([np.arange(3000)[::-1], np.arange(3000, len(vectors))])
    equal = np.sort(ids[(vectors == same).all(1)])
    found = np.array([vec_id for vec_id, _ in index.search(same, 3000, ef=10)])
    if metric != "ip":  # the nearest by inner product is the longest, not the same
        np.testing.assert_array_equal(found[:3000], equal)
        assert [vec_id for vec_id, _ in index.search(same, 7)] == equal[:7].tolist()
    expected = exact(vectors[np.argsort(ids)], others[:200], metric)
    assert recall(index.search_batch(others[:200], 10, ef=100)[0], expected, 10) > 0.97


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("M", [1, 2, 16])
def test_no_vector_is_cut_off(metric, M):
    chance = np.random.default_rng(30)
    apart = (
        np.repeat(np.eye(12) * 50, 60, axis=0) + chance.standard_normal((720, 12)) * 0.01
    )  # tight, far from each other
    hub = np.concatenate([np.zeros((1, 40)) + 1e-3, np.eye(40), -np.eye(40)])  # the first is everybody's nearest
    for vectors in (apart, hub):
        index = HNSW(vectors.shape[1], M, ef_construction=10, seed=1, metric=metric)
        index.add_many(vectors, np.arange(len(vectors)))
        index.check()
        assert reachable(index)


def test_wide_searches_compare_all_and_narrow_ones_walk():
    vectors = clustered(2000, 8, 31)
    index = HNSW(8, M=2, ef_construction=2, seed=1)
    index.add_many(vectors, np.arange(2000))
    expected = exact(vectors, vectors[:50], "l2")
    assert recall(index.search_batch(vectors[:50], 10, ef=250)[0], expected, 10) == 1
    assert recall(index.search_batch(vectors[:50], 10, ef=10)[0], expected, 10) < 0.9


def test_many_copies_of_every_vector_are_all_found():
    vectors = np.repeat(clustered(60, 8, 7), 50, axis=0)
    index = HNSW(8, seed=8)
    index.add_many(vectors, np.random.default_rng(0).permutation(3000))
    index.check()
    found, distances = index.search_batch(vectors[::50], 50)
    assert (distances == 0).all() and all(len(set(row)) == 50 for row in found.tolist())
    assert (np.diff(found, axis=1) > 0).all()


def test_equal_distances_come_by_smaller_id():
    ring = np.array([[math.cos(a), math.sin(a)] for a in np.arange(8) * math.pi / 2])  # four corners, twice
    corners = np.round(ring)
    index = HNSW(2, seed=0)
    index.add_many(corners, [70, 10, 60, 20, 50, 30, 40, 0])
    assert index.search([0, 0], 5) == [(0, 1.0), (10, 1.0), (20, 1.0), (30, 1.0), (40, 1.0)]


def test_distances_of_far_vectors_are_accurate():
    chance = np.random.default_rng(9)
    vectors = (1e6 + chance.integers(-50, 50, (300, 20))).astype(np.float32)
    index = HNSW(20, seed=1)
    index.add_many(vectors, np.arange(300))
    expected = exact(vectors, vectors[:5], "l2")
    for query, own in zip(vectors[:5], expected, strict=True):
        agrees(index.search(query, 10, ef=300), list(range(300)), own, 10)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_that_overflow_are_infinite_and_break_nothing(metric):
    chance = np.random.default_rng(10)
    vectors = (chance.choice([-3e38, 3e38, 1.0, 1e-38], (200, 6))).astype(np.float32)
    index = HNSW(6, seed=1, metric=metric)
    index.add_many(vectors, np.arange(200))
    index.check()
    found, distances = index.search_batch(vectors[:20], 200, ef=200)
    assert not np.isnan(distances).any() and (np.sort(found, axis=1) == np.arange(200)).all()
    assert not np.isnan(index.distances(vectors[:1], np.arange(200)[None])).any()


def test_short_vectors_have_a_direction():
    index = HNSW(2, seed=1, metric="cosine")
    index.add_many(np.array([[1e-30, 0], [1e-30, 1e-30], [0, 1e30]]), [0, 1, 2])
    assert [vec_id for vec_id, _ in index.search([1e-35, 0], 3)] == [0, 1, 2]
    np.testing.assert_allclose(index.get_vector(1), [0.5**0.5] * 2, rtol=1e-6)


def test_distances_of_given_ids_are_those_of_the_search():
    for metric in METRICS:
        vectors = clustered(500, 12, 11)
        index = HNSW(12, seed=1, metric=metric)
        index.add_many(vectors, np.arange(500) * 2)
        ids, told = index.search_batch(vectors[3:9], 20)
        np.testing.assert_allclose(index.distances(vectors[3:9], ids), told, rtol=1e-6, atol=1e-6)
        own = index.distances(vectors[3:4], [[4, 5, -1, 2**63 - 1, 4]])[0]
        assert own[0] == own[4] and np.isinf(own[1:4]).all() and own.dtype == np.float32
        assert index.distances(vectors[3:5], np.empty((2, 0), int)).shape == (2, 0)
        assert index.distances(vectors[:0], np.empty((0, 3), int)).shape == (0, 3)


def test_an_emptied_index_goes_on_with_the_same_random_numbers():
    vectors = clustered(200, 4, 1)
    first, second = HNSW(4, M=5, seed=3, metric="ip"), HNSW(4, M=5, seed=3, metric="ip")
    first.add_many(vectors[:100], np.arange(100)), second.add_many(vectors[100:], np.arange(100))
    first, second = first.emptied(), second.emptied()
    assert len(first) == 0 and (first.dim, first.M, first.metric) == (4, 5, "ip")
    first.add_many(vectors, np.arange(200)), second.add_many(vectors, np.arange(200))
    face.same_arrays(first, second)


def test_many_vectors_come_back():
    index = HNSW(3, seed=1)
    index.add_many(np.arange(12).reshape(4, 3), [5, 6, 7, 8])
    assert index.get_vectors([8, 5]).tolist() == [[9, 10, 11], [0, 1, 2]]
    assert index.get_vectors([]).shape == (0, 3)
    with pytest.raises(KeyError, match="9"):
        index.get_vectors([5, 9])


def test_vectors_come_back():
    index = HNSW(3, seed=1)
    index.add([1, 2.5, -3], 5)
    copy = index.get_vector(5)
    assert copy.dtype == np.float32 and copy.tolist() == [1, 2.5, -3]
    copy[:] = 0
    assert index.get_vector(np.int32(5)).tolist() == [1, 2.5, -3]
    with pytest.raises(KeyError):
        index.get_vector(6)


def test_bulk_searches_are_single_ones():
    vectors = clustered(1000, 10, 12)
    index = HNSW(10, seed=1)
    index.add_many(vectors, np.arange(1000))
    found, distances = index.search_batch(vectors[:50], 7, ef=20)
    assert (found.dtype, distances.dtype, found.shape) == (np.int64, np.float32, (50, 7))
    for query, ids, row in zip(vectors, found, distances, strict=False):
        assert index.search(query, 7, ef=20) == list(zip(ids.tolist(), row.tolist(), strict=True))


def test_wider_searches_find_more_and_k_is_never_cut():
    vectors, queries = clustered(3000, 32, 13), clustered(100, 32, 14)
    index = HNSW(32, M=4, ef_construction=20, ef_search=1, seed=1)
    index.add_many(vectors, np.arange(3000))
    expected = exact(vectors, queries, "l2")
    narrow, wide = (recall(index.search_batch(queries, 5, ef=ef)[0], expected, 5) for ef in (None, 300))
    assert narrow < wide
    assert (index.search_batch(queries, 40)[0] >= 0).all()


def test_one_seed_makes_one_graph_and_another_makes_another():
    vectors = clustered(1500, 8, 15)

    def built(seed, single=0):
        index = HNSW(8, seed=seed)
        for i in range(single):
            index.add(vectors[i], i)
        index.add_many(vectors[single:], np.arange(single, 1500))
        return index

    face.same_arrays(built(1), built(1))
    face.same_arrays(built(1, 100), built(1, 100))
    assert not np.array_equal(built(1)._to_arrays()["nodes"], built(2)._to_arrays()["nodes"])
    assert not np.array_equal(built(None)._to_arrays()["nodes"], built(None)._to_arrays()["nodes"])


def test_how_a_batch_is_cut_into_calls_changes_nothing(monkeypatch):
    vectors = clustered(800, 8, 16)
    whole, cut = HNSW(8, seed=1), HNSW(8, seed=1)
    whole.add_many(vectors, np.arange(800))
    monkeypatch.setattr(hnsw_state, "SECONDS_A_CALL", 0.0)
    cut.add_many(vectors, np.arange(800))
    face.same_arrays(whole, cut)


@given(st.integers(0, 2**70), st.sampled_from([1, 63, 64, 700]), st.floats(0.05, 3))
@settings(max_examples=20)
def test_levels_are_those_of_the_seed(seed, n, ml):
    index, chance = HNSW(1, M=5, ef_construction=3, ml=ml, seed=seed), random.Random(seed)
    index.add_many(np.arange(n)[:, None], np.arange(n))
    index.add([-1.0], n)
    levels = index._to_arrays()["nodes"][:, kernels.LEVEL]
    expected = [math.floor(-math.log(1 - chance.random()) * ml) for _ in range(n + 1)]
    assert np.count_nonzero(levels != expected) <= 1  # a logarithm may differ in the last bit
    assert index.stats()["num_layers"] == max(levels) + 1 == index.stats()["entry_level"] + 1
    assert levels[index.stats()["entry_point"]] == max(levels)


def test_stats_count_what_is_there():
    index = HNSW(4, seed=1)
    assert index.stats() == {
        "num_vectors": 0, "num_layers": 0, "entry_point": None, "entry_level": -1, "total_edges": 0, "avg_degree": 0.0,
        "num_duplicates": 0,
    }  # fmt: skip
    index.add([1, 2, 3, 4], 99)
    assert index.stats()["entry_point"] == 99 and index.stats()["total_edges"] == 0
    index.add([1, 2, 3, 5], 98)
    index.add([1, 2, 3, 5], 97)
    stats = index.stats()
    assert stats["num_vectors"] == 3 and stats["num_duplicates"] == 1 and stats["avg_degree"] == 1.0
    assert "3 vectors" in repr(index) and "dim=4" in repr(index)


def test_an_empty_index_gives_empty_results():
    index = HNSW(4)
    index.add_many(np.empty((0, 4)), [])
    index.add_many([], [])
    index.shrink_to_fit()
    index.check()
    assert index.search([1, 2, 3, 4], 5) == [] and len(index) == 0 and 3 not in index
    found, distances = index.search_batch(np.ones((2, 4)), 3)
    assert (found == -1).all() and np.isposinf(distances).all()
    assert index.search_batch(np.ones((0, 4)), 3)[0].shape == (0, 3)
    index.add([1, 2, 3, 4], 1)
    assert index.search([1, 2, 3, 4], 0) == [] and index.search([1, 2, 3, 4], 9) == [(1, 0.0)]


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda index: index.add([1, 2], 9), ValueError),
        (lambda index: index.add([[1, 2, 3]], 9), ValueError),
        (lambda index: index.add([1, 2, math.nan], 9), ValueError),
        (lambda index: index.add([1, 2, 1e39], 9), ValueError),
        (lambda index: index.add([0, 0, 0], 9), ValueError),
        (lambda index: index.add("abc", 9), ValueError),
        (lambda index: index.add([1, 2, 3], 1), ValueError),
        (lambda index: index.add([1, 2, 3], -1), ValueError),
        (lambda index: index.add([1, 2, 3], 2**63), ValueError),
        (lambda index: index.add([1, 2, 3], True), TypeError),
        (lambda index: index.add([1, 2, 3], 1.0), TypeError),
        (lambda index: index.add_many(np.ones((3, 3)), [7, 8, 7]), ValueError),
        (lambda index: index.add_many(np.ones((2, 3)), [7, 1]), ValueError),
        (lambda index: index.add_many(np.ones((200, 3)), np.arange(200)), ValueError),
        (lambda index: index.add_many(np.ones((2, 3)), [7]), ValueError),
        (lambda index: index.add_many(np.ones((2, 4)), [7, 8]), ValueError),
        (lambda index: index.add_many([[1, 2, 3], [0, 0, 0]], [7, 8]), ValueError),
        (lambda index: index.add_many([[1, 2, 3], [math.inf, 0, 0]], [7, 8]), ValueError),
        (lambda index: index.add_many(np.ones((1, 3)), [7], progress="yes"), TypeError),
        (lambda index: index.search([1, 2], 1), ValueError),
        (lambda index: index.search([0, 0, 0], 1), ValueError),
        (lambda index: index.search([1, 2, math.inf], 1), ValueError),
        (lambda index: index.search([1, 2, 3], -1), ValueError),
        (lambda index: index.search([1, 2, 3], 1.0), TypeError),
        (lambda index: index.search([1, 2, 3], 1, ef=0), ValueError),
        (lambda index: index.search_batch([1, 2, 3], 1), ValueError),
        (lambda index: index.search_batch([[1, 2, 3], [0, 0, 0]], 1), ValueError),
        (lambda index: index.distances([[0, 0, 0]], [[1]]), ValueError),
        (lambda index: index.distances([[1, 2, 3]], [[1.5]]), TypeError),
        (lambda index: index.get_vector(77), KeyError),
        (lambda index: index.reserve(-1), ValueError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    index, untouched = HNSW(3, seed=1, metric="cosine"), HNSW(3, seed=1, metric="cosine")
    for each in (index, untouched):
        each.add_many([[1, 2, 3], [3, 2, 1], [1, 1, 1]], [1, 2, 3])
    with pytest.raises(error):
        call(index)
    index.check()
    face.same_arrays(index, untouched)
    assert index.nbytes == untouched.nbytes
    for each in (index, untouched):
        each.add_many(np.eye(3), [7, 8, 9])
    face.same_arrays(index, untouched)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"dim": 0}, ValueError),
        ({"dim": 2.0}, TypeError),
        ({"M": 0}, ValueError),
        ({"ef_construction": 0}, ValueError),
        ({"ef_search": 0}, ValueError),
        ({"ml": -1.0}, ValueError),
        ({"ml": math.nan}, ValueError),
        ({"seed": "x"}, TypeError),
        ({"seed": True}, TypeError),
        ({"metric": "dot"}, ValueError),
    ],
)
def test_bad_settings_are_refused(arguments, error):
    with pytest.raises(error):
        HNSW(**{"dim": 3, **arguments})


def test_every_type_shares_one_compilation():
    index = HNSW(3, seed=1)
    index.add([1, 2, 3], 1)
    index.add(np.array([1, 2, 4], np.float16), np.uint8(2))
    frozen = np.frombuffer(np.ones((2, 3), np.float32).tobytes(), np.float32).reshape(2, 3)
    index.add_many(frozen, np.frombuffer(np.array([3, 4]).tobytes(), np.int64))
    index.add_many(np.asfortranarray(np.ones((2, 3))), np.array([5, 6], np.int32)[::-1])
    index.search(frozen[0], 2), index.search(np.ones(6, np.float32)[::2], 2), index.search([1, 2, 3], 2)
    index.search(np.ones(3, np.float32), 2), index.search_batch(frozen[:, ::-1], np.int64(2), ef=np.int32(4))
    index.distances(frozen[:1], np.frombuffer(np.array([3, 4]).tobytes(), np.int64)[None])
    used = [
        hnsw_search.search,
        hnsw_build.find,
        hnsw_build.connect,
        kernels.store,
        kernels.distances,
        kernels.append_ids,
    ]
    assert {len(kernel.signatures) for kernel in used} == {1}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
def test_distance_loops_use_vector_instructions():
    distance = numba.njit(fastmath=kernels.distance.targetoptions["fastmath"])(kernels.distance.py_func)  # not cached
    rows = np.ones((2, 16), np.float32)
    assert distance(rows, 0, rows, 1, True) == -16
    (assembly,) = distance.inspect_asm().values()
    assert len(re.findall(r"v?(?:fn?m\w+ps|mulps|subps)\s.*[xyz]mm", assembly)) >= 2


def test_memory_is_counted_and_given_back():
    index = HNSW(20, seed=1)
    index.reserve(1000)
    before = index.nbytes
    index.add_many(clustered(100, 20, 17), np.arange(100))
    assert index.nbytes - before < 20 * 1000  # the upper layers alone may grow
    index.shrink_to_fit()
    assert index.nbytes < before / 8
    assert index.nbytes == sum(array.nbytes for array in index._state.arrays)
    index.check()
    index.add_many(clustered(100, 20, 18), np.arange(100, 200))
    index.check()


def test_progress_counts_to_the_end():
    calls = []
    index = HNSW(4, seed=1)
    index.add_many(clustered(300, 4, 19), np.arange(300), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (300, 300) and [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("kernel", ["prepare", "find", "choose", "connect"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_leaves_a_whole_prefix(monkeypatch, kernel, when):
    vectors = clustered(600, 6, 20)
    index = HNSW(6, seed=1)
    calls, original = [], getattr(hnsw_build, kernel)

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 120 and when == "before":
            raise KeyboardInterrupt
        result = original(*arguments)
        if len(calls) == 120:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(hnsw_build, kernel, interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.add_many(vectors, np.arange(600))
    index.check()
    n = len(index)
    assert 50 < n < 600 and n - 1 in index and n not in index
    index.add_many(vectors[n:], np.arange(n, 600))
    index.check()
    assert [index.search(vector, 1)[0] for vector in vectors] == [(i, 0.0) for i in range(600)]


def test_readers_beside_a_writer_see_whole_answers():
    n, dim = 6000, 16
    vectors = clustered(n, dim, 21)
    index = HNSW(dim, ef_construction=40, seed=1)
    index.add_many(vectors[:200], np.arange(200))
    faults, rounds, stop = [], [], threading.Event()

    def read(seed):
        chance = np.random.default_rng(seed)
        while not stop.is_set():
            before = len(index)
            queries = chance.integers(0, before, 20)
            found, distances = index.search_batch(vectors[queries], 10, ef=60)
            expected = np.linalg.norm(vectors[found] - vectors[queries][:, None], axis=2)
            if (found < 0).any() or not np.allclose(distances, expected, atol=1e-4):
                faults.append("an id with another's distance")
            if (found[:, 0] == queries).mean() < 0.9:
                faults.append("vectors that are in were not found")
            own = index.distances(vectors[queries[:1]], queries[None])[0]
            if own[0] != 0 or np.isinf(own).any() or int(queries[0]) not in index:
                faults.append("an id that is in was not known")
            np.testing.assert_array_equal(index.get_vector(int(queries[0])), vectors[queries[0]])
            rounds.append(1)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    [reader.start() for reader in readers]
    try:
        index.add_many(vectors[200:3000], np.arange(200, 3000))
        for i in range(3000, 3300):
            index.add(vectors[i], i)
        index.add_many(vectors[3300:], np.arange(3300, n))
        time.sleep(0.05)
    finally:
        stop.set()
        [reader.join() for reader in readers]
    index.check()
    assert not faults and len(rounds) > 10


def test_two_writers_wait_for_one_another():
    vectors = clustered(1200, 8, 22)
    index = HNSW(8, ef_construction=20, seed=1)

    def write(part):
        index.add_many(vectors[part], np.arange(1200)[part])

    threads = [threading.Thread(target=write, args=(slice(start, start + 400),)) for start in (0, 400, 800)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    index.check()
    assert len(index) == 1200 and index.search(vectors[777], 1) == [(777, 0.0)]


@pytest.mark.parametrize("metric", METRICS)
def test_files_and_pickles_keep_everything(tmp_path, metric):
    vectors = np.concatenate([clustered(300, 5, 23), np.ones((20, 5), np.float32)])
    index = HNSW(5, M=6, ef_construction=30, ef_search=17, ml=0.7, seed=9, metric=metric)
    index.add_many(vectors, np.arange(320) * 7)
    more = clustered(50, 5, 24)
    copies = face.keeps_everything(index, tmp_path)
    for each in (index, *copies):
        assert each.stats() == index.stats() and each.search_batch(more, 3)[0].shape == (50, 3)
        assert (each.M, each.ef_search, each.ml, each.metric) == (6, 17, 0.7, metric)
    for each in (index, *copies):
        each.add_many(more, np.arange(5000, 5050))  # the random state came along
        each.check()
    for each in copies:
        face.same_arrays(index, each)


def test_an_empty_index_can_be_kept(tmp_path):
    for other in face.keeps_everything(HNSW(3, seed=1), tmp_path):
        other.add([1, 2, 3], 4)
        assert other.search([1, 2, 3], 1) == [(4, 0.0)]


@pytest.mark.parametrize("metric", METRICS)
def test_no_damaged_file_passes_or_crashes(tmp_path, metric):
    index = HNSW(3, M=3, ef_construction=10, seed=5, ml=1.0, metric=metric)
    index.add_many(np.concatenate([clustered(25, 3, 25), np.ones((3, 3))]), np.arange(28))
    face.survives_damage(index, tmp_path, rounds=200)
    face.refuses_other_files(HNSW, tmp_path)


@pytest.mark.parametrize(
    "name, at, value",
    [
        ("links", (3, 0), 3),
        ("links", (3, 0), 40),
        ("links", (3, 0), -2),
        ("links", (3, 1), "links[3, 0]"),
        ("links", (3, 0), -1),
        ("nodes", (3, kernels.LEVEL), 100),
        ("nodes", (3, kernels.TIER), 1000),
        ("nodes", (3, kernels.UPPER), -5),
        ("nodes", (3, kernels.TWIN), 3),
        ("nodes", (3, kernels.TWIN), 4),
        ("nodes", (3, kernels.TWIN), 1000),
        ("nodes", (3, kernels.PARENT), 3),
        ("nodes", (39, kernels.TWIN), 39),
        ("nodes", (39, kernels.LEVEL), 0),
        ("vectors", (3, 0), np.nan),
        ("vectors", (3, 15), 1.0),
        ("vectors", (39, 0), 5.0),
        ("ids", 3, 4),
        ("ids", 3, -1),
        ("entry", (), 40),
        ("entry", (), -1),
        ("settings", 0, 20),
        ("settings", 4, 3),
        ("random", 624, 1000),
    ],
)
def test_each_invariant_is_guarded(tmp_path, name, at, value):
    index = HNSW(3, M=3, ef_construction=10, seed=5, ml=1.0)
    index.add_many(np.concatenate([clustered(38, 3, 26), np.ones((2, 3))]), np.arange(40))
    arrays = {key: array.copy() for key, array in index._to_arrays().items()}
    arrays[name][at] = eval(value, arrays) if isinstance(value, str) else value
    with pytest.raises(ValueError):
        HNSW._restored(arrays, "here")
