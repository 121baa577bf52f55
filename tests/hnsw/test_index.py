"""The graph beside every distance computed by NumPy."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmds.hnsw.index import HNSW
from llmds.kernels.hnsw import layout as kernels
from tests.hnsw.model import KINDS, METRICS, agrees, all_distances, built, clustered, exact, kept, recall


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 3, 17, 100, 384, 4096])
def test_a_search_as_wide_as_the_index_is_exact(dim, kind):
    n = 300 if dim < 4096 else 40
    vectors, queries = clustered(n, dim, dim), clustered(4, dim, dim + 1)
    ids = np.arange(n) * 3
    for metric in METRICS:
        index = built(vectors[: n // 2], metric, kind, ids[: n // 2], M=4, ef_construction=20)
        for i in range(n // 2, n):
            index.add(vectors[i], ids[i])
        index.check()
        distances = all_distances(index, vectors, ids, queries)
        close = 3e-3 if kind[1] is None and metric == "l2" else 2e-5
        for k in (1, 10, n, n + 5):
            for query, own in zip(queries, distances, strict=True):
                agrees(index.search(query, k, ef=n), ids.tolist(), own, k, atol=close * max(1, np.abs(own).max()))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_come_back_as_they_are_kept(kind, metric):
    vectors = clustered(300, 24, 1)
    index = built(vectors, metric, kind)
    copies = index.get_vectors(np.arange(300))
    assert copies.dtype == np.float32
    np.testing.assert_array_equal(index.get_vector(np.int32(5)), copies[5])
    if kind[1] is None:
        lost = np.linalg.norm(copies - kept(vectors, metric, None), axis=1) / np.linalg.norm(copies, axis=1)
        assert 0 < lost.max() < (0.03 if kind[0] == "int8" else 0.3)
    else:
        tolerance = 0 if metric != "cosine" else 1e-3 if kind[1] == "float16" else 1e-7
        np.testing.assert_allclose(copies, kept(vectors, metric, kind[1]), rtol=tolerance, atol=tolerance)
    copies[:] = 0
    assert index.get_vector(5).any()
    assert index.get_vectors([]).shape == (0, 24) and index.get_vectors([8, 5]).shape == (2, 24)
    for call in (index.get_vector, lambda vec_id: index.get_vectors([5, vec_id])):
        with pytest.raises(KeyError, match="300"):
            call(300)


@pytest.mark.parametrize(
    "metric, kind, bulk",
    [
        *((metric, kind, True) for metric in METRICS for kind in KINDS),
        ("l2", (None, "float32"), False),
        ("ip", ("int4", "float32"), False),
    ],
)
def test_neighbours_in_clusters_are_found(metric, kind, bulk):
    dim = 128 if kind[0] == "int4" else 32
    vectors, queries = clustered(2500, dim, 2), clustered(100, dim, 2)
    index = built(vectors if bulk else vectors[:0], metric, kind, seed=3)
    if not bulk:
        for i, vector in enumerate(vectors):
            index.add(vector, i)
    index.check()
    found, distances = index.search_batch(queries, 10, ef=80)
    expected = exact(kept(vectors, metric, None), queries, metric)
    least = {("int8", None): 0.9, ("int4", None): 0.5}.get(kind, 0.92 if kind[0] == "int4" else 0.97)
    assert recall(found, expected, 10) > least
    told = all_distances(index, vectors, np.arange(2500), queries)
    np.testing.assert_allclose(distances, np.take_along_axis(told, found, 1), rtol=1e-4, atol=1e-3)


def test_neighbours_of_sentences_are_found(data):
    vectors = np.load(data / "cppdocs" / "corpus_emb.npy")[:4000].astype(np.float32)
    queries = np.load(data / "cppdocs" / "query_emb.npy")[:300].astype(np.float32)
    index = built(vectors, "cosine", ("int4", "float32"))
    expected = 1 - queries @ vectors.T
    assert recall(index.search_batch(queries, 10)[0], expected, 10) > 0.96
    assert recall(index.search_batch(queries, 10, ef=200)[0], expected, 10) > 0.99


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [(None, "float32"), ("int4", "float32"), ("int8", None)])
def test_thousands_of_equal_vectors_hide_nothing(metric, kind):
    others = clustered(1500, 32, 5)
    same = others[0] + 3
    vectors = np.concatenate([others[:700], np.tile(same, (3000, 1)), others[700:], np.tile(same + 1, (1000, 1))])
    ids = np.concatenate([np.arange(3000)[::-1], np.arange(3000, len(vectors))])
    index = built(vectors[:3000], metric, kind, ids[:3000])
    index.add_many(vectors[3000:], ids[3000:])
    index.check()
    assert index.stats()["num_duplicates"] == 3998
    equal = np.sort(ids[(vectors == same).all(1)])
    found = np.array([vec_id for vec_id, _ in index.search(same, 3000, ef=10)])
    if metric != "ip":  # the nearest by inner product is the longest, not the same
        np.testing.assert_array_equal(found[:3000], equal)
        assert [vec_id for vec_id, _ in index.search(same, 7)] == equal[:7].tolist()
    expected = exact(kept(vectors[np.argsort(ids)], metric, None), others[:200], metric)
    assert recall(index.search_batch(others[:200], 10, ef=100)[0], expected, 10) > (0.8 if kind[1] is None else 0.94)


def test_many_copies_of_every_vector_are_all_found():
    vectors = np.repeat(clustered(60, 8, 7), 50, axis=0)
    index = built(vectors, kind=(None, "float32"), ids=np.random.default_rng(0).permutation(3000))
    index.check()
    found, distances = index.search_batch(vectors[::50], 50)
    assert (distances == 0).all() and all(len(set(row)) == 50 for row in found.tolist())
    assert (np.diff(found, axis=1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_of_either_sign_are_equal(kind):
    vectors = np.array([[0.0, 1], [-0.0, 1], [-1e-9, 1], [1e-9, 1]])  # float16 knows no such small numbers
    index = built(vectors if kind[1] == "float16" else vectors[:2], kind=kind)
    assert index.stats()["num_duplicates"] == len(index) - 1
    index.check()


@pytest.mark.parametrize("kind", [("int8", None), ("int4", None)])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_vectors_of_one_direction_are_told_apart_by_codes_alone(metric, kind):
    """Scaled by powers of two, they have equal codes."""
    scaled = np.concatenate([vector * 2.0 ** np.arange(4)[:, None] for vector in clustered(50, 24, 9)])
    vectors = np.concatenate([clustered(600, 24, 8), scaled])
    index = built(vectors, metric, kind)
    index.check()
    ids = np.arange(800)
    expected = all_distances(index, vectors, ids, vectors[600:610])
    for query, own in zip(vectors[600:610], expected, strict=True):
        agrees(index.search(query, 800, ef=800), ids.tolist(), own, 800, atol=5e-3 * np.abs(own).max())
    assert index.stats()["num_duplicates"] == 0


def test_wide_searches_compare_all_and_narrow_ones_walk():
    vectors = clustered(2000, 8, 31)
    index = built(vectors, kind=(None, "float32"), M=2, ef_construction=2)
    expected = exact(vectors, vectors[:50], "l2")
    assert recall(index.search_batch(vectors[:50], 10, ef=250)[0], expected, 10) == 1
    assert recall(index.search_batch(vectors[:50], 10, ef=10)[0], expected, 10) < 0.9


def test_wider_searches_find_more_and_k_is_never_cut():
    vectors, queries = clustered(3000, 32, 13), clustered(100, 32, 14)
    index = built(vectors, M=4, ef_construction=20, ef_search=1)
    expected = exact(vectors, queries, "l2")
    narrow, wide = (recall(index.search_batch(queries, 5, ef=ef)[0], expected, 5) for ef in (None, 300))
    assert narrow < wide
    assert (index.search_batch(queries, 40)[0] >= 0).all()


def test_equal_distances_come_by_smaller_id():
    corners = np.round([[math.cos(a), math.sin(a)] for a in np.arange(8) * math.pi / 2])  # four, twice
    for kind in KINDS[:-1]:  # four bits do not keep them apart
        index = built(corners, kind=kind, ids=[70, 10, 60, 20, 50, 30, 40, 0])
        found = index.search([0, 0], 5)
        assert [vec_id for vec_id, _ in found] == [0, 10, 20, 30, 40]
        assert [distance for _, distance in found] == pytest.approx([1] * 5)


def test_distances_of_far_vectors_are_accurate():
    chance = np.random.default_rng(9)
    vectors = (1e6 + chance.integers(-50, 50, (300, 20))).astype(np.float32)
    for kind in [(None, "float32"), ("int8", "float32"), ("int4", "float32")]:
        index = built(vectors, kind=kind)
        expected = exact(vectors, vectors[:5], "l2")
        for query, own in zip(vectors[:5], expected, strict=True):
            agrees(index.search(query, 10, ef=300), list(range(300)), own, 10)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_codes_tell_vectors_apart_that_all_lie_far_off(quantization):
    vectors, queries = clustered(3000, 32, 41) + 30, clustered(100, 32, 41) + 30
    index = built(vectors, kind=(quantization, "float32"))
    assert recall(index.search_batch(queries, 10, ef=80)[0], exact(vectors, queries, "l2"), 10) > 0.97


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[1] != "float16"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_that_overflow_are_infinite_and_break_nothing(metric, kind):
    vectors = np.random.default_rng(10).choice(np.float32([-3e38, 3e38, 1.0, 1e-38]), (200, 6))
    index = built(vectors, metric, kind)
    index.check()
    found, distances = index.search_batch(vectors[:20], 200, ef=200)
    assert not np.isnan(distances).any() and (np.sort(found, axis=1) == np.arange(200)).all()
    assert not np.isnan(index.distances(vectors[:1], np.arange(200)[None])).any()
    assert (index.search_batch(vectors[:20], 3, ef=3)[0] >= 0).all()
    index.remove_many(np.arange(0, 200, 2))
    index.check()


@pytest.mark.parametrize("kind", KINDS)
def test_short_vectors_have_a_direction(kind):
    index = built(np.array([[1e-30, 0], [1e-30, 1e-30], [0, 1e30]]), "cosine", kind, [0, 1, 2])
    assert [vec_id for vec_id, _ in index.search([1e-35, 0], 3)] == [0, 1, 2]
    np.testing.assert_allclose(index.get_vector(1), [0.5**0.5] * 2, rtol=1e-6 if kind[1] == "float32" else 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_of_given_ids_are_those_of_the_search(kind):
    vectors = clustered(500, 24, 11)
    for metric in METRICS:
        index = built(vectors, metric, kind, np.arange(500) * 2)
        ids, told = index.search_batch(vectors[3:9], 20)
        np.testing.assert_allclose(index.distances(vectors[3:9], ids), told, rtol=1e-5, atol=1e-5)
        own = index.distances(vectors[3:4], [[4, 5, -1, 2**63 - 1, 4]])[0]
        assert own[0] == own[4] and np.isinf(own[1:4]).all() and own.dtype == np.float32
        assert index.distances(vectors[3:5], np.empty((2, 0), int)).shape == (2, 0)
        assert index.distances(vectors[:0], np.empty((0, 3), int)).shape == (0, 3)


@pytest.mark.parametrize("kind", [(None, "float32"), ("int8", None), ("int4", "float16")])
def test_bulk_searches_are_single_ones(kind):
    vectors = clustered(2000, 24, 12)
    index = built(vectors, kind=kind)
    for options in (
        {},
        {"filter": np.arange(0, 2000, 2)},
        {"filter": np.arange(30)},
        {"group_by": np.arange(2000) // 5},
    ):
        found, distances = index.search_batch(vectors[:40], 7, ef=20, **options)
        assert (found.dtype, distances.dtype, found.shape) == (np.int64, np.float32, (40, 7))
        threaded = index.search_batch(vectors[:40], 7, ef=20, threads=3, **options)
        assert np.array_equal(threaded[0], found) and np.array_equal(threaded[1], distances)
        for query, ids, row in zip(vectors, found, distances, strict=False):
            assert index.search(query, 7, ef=20, **options) == list(zip(ids.tolist(), row.tolist(), strict=True))


@given(st.integers(0, 2**70), st.sampled_from([1, 63, 64, 700]), st.floats(0.05, 3))
@settings(max_examples=20)
def test_levels_are_those_of_the_seed(seed, n, ml):
    index, chance = HNSW(1, M=5, ef_construction=3, ml=ml, seed=seed), random.Random(seed)
    index.add_many(np.arange(n)[:, None], np.arange(n))
    index.add([-1.0], n)
    levels = index._to_arrays()["nodes"][:, kernels.LEVEL]
    expected = [math.floor(-math.log(1 - chance.random()) * ml) for _ in range(n + 1)]
    assert np.count_nonzero(levels != expected) <= 1  # a logarithm may differ in the last bit
    stats = index.stats()
    assert stats["num_layers"] == max(levels) + 1 == stats["entry_level"] + 1
    assert levels[stats["entry_point"]] == max(levels)
    assert stats["layers"][0]["nodes"] == n + 1 and all(layer["nodes"] > 0 for layer in stats["layers"])


def test_stats_count_what_is_there():
    index = HNSW(4, seed=1)
    empty = index.stats()
    sizes = empty.pop("bytes")
    assert empty == {
        "num_vectors": 0, "num_layers": 0, "entry_point": None, "entry_level": -1, "total_edges": 0, "avg_degree": 0.0,
        "num_duplicates": 0, "layers": [], "unreachable": 0,
    }  # fmt: skip
    assert sum(sizes.values()) == index.nbytes and sizes["vectors"] > 0 == sizes["codes"]
    index.add([1, 2, 3, 4], 99)
    assert index.stats()["entry_point"] == 99 and index.stats()["total_edges"] == 0
    index.add([1, 2, 3, 5], 98)
    index.add([1, 2, 3, 5], 97)
    stats = index.stats()
    assert stats["num_vectors"] == 3 and stats["num_duplicates"] == 1 and stats["avg_degree"] == 1.0
    assert stats["layers"][0] == {"nodes": 2, "avg_degree": 1.0} and stats["unreachable"] == 0
    assert "3 in" in repr(index) and "dim=4" in repr(index)
    index.remove(99)
    stats = index.stats()
    assert (stats["num_vectors"], stats["total_edges"], stats["layers"][0]["nodes"]) == (2, 0, 1)
    assert stats["entry_point"] in (97, 98)


def test_an_empty_index_gives_empty_results():
    for kind in KINDS:
        index = HNSW(4, quantization=kind[0], vectors=kind[1])
        index.add_many(np.empty((0, 4)), [])
        index.add_many([], [])
        index.remove_many([])
        index.shrink_to_fit()
        index.check()
        assert index.search([1, 2, 3, 4], 5) == [] and len(index) == 0 and 3 not in index
        found, distances = index.search_batch(np.ones((2, 4)), 3)
        assert (found == -1).all() and np.isposinf(distances).all()
        for options in (
            {"filter": [1]},
            {"filter": lambda ids: ids > 3},
            {"group_by": [0]},
            {"group_by": lambda ids: ids},
        ):
            assert (index.search_batch(np.ones((2, 4)), 3, **options)[0] == -1).all()
        assert index.search_batch(np.ones((0, 4)), 3)[0].shape == (0, 3)
        index.add([1, 2, 3, 4], 1)
        assert index.search([1, 2, 3, 4], 0) == [] and [vec_id for vec_id, _ in index.search([1, 2, 3, 4], 9)] == [1]
