"""What an index is asked, allowed and refused: filters, groups, tuning, and calls that change nothing."""

import math

import numpy as np
import pytest

from llmds.hnsw import state as states
from llmds.hnsw.index import HNSW
from llmds.kernels.hnsw import build, check, codes, compact, distance, layout, link, remove, search, walk
from tests import face
from tests.hnsw.model import KINDS, METRICS, built, clustered, exact, recall


def asked(ids, wanted):
    """A function that allows `wanted`, and insists on being called once."""
    calls = []

    def allows(all_ids):
        calls.append(1)
        assert len(calls) == 1 and np.array_equal(np.sort(all_ids), np.sort(ids))
        mask = np.isin(all_ids, wanted)
        all_ids[:] = -7  # they are a copy
        return mask

    return allows


@pytest.mark.parametrize("kind", [(None, "float32"), ("int8", "float32"), ("int8", None), ("int4", "float16")])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 0.99])
def test_a_filtered_search_finds_the_nearest_that_are_allowed(kind, share):
    dim = 128 if kind[0] == "int4" else 24
    vectors, queries = clustered(3000, dim, 1), clustered(60, dim, 1)
    index, chance = built(vectors, kind=kind), np.random.default_rng(2)
    wanted = chance.choice(3000, int(3000 * share), replace=False)
    found, distances = index.search_batch(queries, 10, ef=60, filter=wanted)
    told = found[found >= 0]
    assert np.isin(told, wanted).all() and len(told) == 60 * min(10, len(wanted))
    assert np.isposinf(distances[found < 0]).all()
    expected = np.full((60, 3000), np.inf)
    expected[:, wanted] = exact(vectors[wanted], queries, "l2")
    k = min(10, len(wanted))
    assert recall(found[:, :k], expected, k) > (0.88 if kind[0] == "int4" or kind[1] is None else 0.95)
    again = index.search_batch(queries, 10, ef=60, filter=asked(np.arange(3000), wanted))
    assert np.array_equal(again[0], found) and np.array_equal(again[1], distances)


def test_allowed_vectors_far_from_the_query_are_all_found():
    """A walk that meets nobody who is allowed is followed by a scan."""
    vectors = np.concatenate([clustered(2000, 24, 3), clustered(700, 24, 4) + 100])
    index = built(vectors)
    wanted = np.arange(2000, 2700)
    found = index.search_batch(vectors[:20], 30, ef=30, filter=wanted)[0]
    assert (found >= 2000).all() and all(len(set(row)) == 30 for row in found.tolist())


def test_a_filter_ignores_unknown_ids_and_repeats():
    index = built(np.eye(4), kind=(None, "float32"))
    assert [vec_id for vec_id, _ in index.search([1, 0, 0, 0], 9, filter=[2, 0, 2, -5, 77, 2**63 - 1])] == [0, 2]
    assert index.search([1, 0, 0, 0], 9, filter=[]) == [] == index.search([1, 0, 0, 0], 9, filter=np.array([99]))
    assert index.search([1, 0, 0, 0], 9, filter=lambda ids: ids < 0) == []
    assert [vec_id for vec_id, _ in index.search([1, 0, 0, 0], 2, filter=np.array([3, 0], np.uint8))] == [0, 3]


def test_a_filter_may_allow_some_of_many_equal_vectors():
    vectors = np.concatenate([clustered(900, 8, 5), np.ones((300, 8))])
    index = built(vectors)
    wanted = np.arange(1, 1200, 7)
    found = index.search(np.ones(8), 40, ef=40, filter=wanted)
    twins = [vec_id for vec_id in wanted.tolist() if vec_id >= 900]
    assert [vec_id for vec_id, _ in found] == twins[:40]


@pytest.mark.parametrize("kind", [(None, "float32"), ("int8", "float32"), ("int4", None)])
def test_a_grouped_search_gives_the_nearest_of_each_group(kind):
    vectors, queries = clustered(2000, 24, 6), clustered(50, 24, 6)
    index, parents = built(vectors, kind=kind), np.random.default_rng(7).integers(-9, 90, 2000)
    for k in (1, 10, 99):
        found, distances = index.search_batch(queries, k, ef=2000, group_by=parents)
        assert (found >= 0).all() and (np.sort(distances, axis=1) == distances).all()
        whole, told = index.search_batch(queries, 2000, ef=2000)
        for row in range(50):
            _, first = np.unique(parents[whole[row]], return_index=True)
            np.testing.assert_array_equal(np.sort(distances[row]), told[row][np.sort(first)[:k]])
            assert len(np.unique(parents[found[row]])) == k
        narrow = index.search_batch(queries, k, ef=10, group_by=lambda ids: parents[ids])
        assert all(len(np.unique(parents[row])) == k for row in narrow[0])


def test_more_groups_than_there_are_give_all_of_them():
    index = built(clustered(600, 8, 8))
    found = index.search(np.zeros(8), 50, group_by=np.arange(600) // 200)
    assert sorted(vec_id // 200 for vec_id, _ in found) == [0, 1, 2]
    found, distances = index.search_batch(np.zeros((2, 8)), 5, group_by=np.zeros(600, np.int32), filter=[7, 8])
    assert (found[:, 0] >= 7).all() and (found[:, 1:] == -1).all() and np.isposinf(distances[:, 1:]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_tuning_finds_a_width_that_is_good_enough_and_the_smallest(metric):
    vectors, queries = clustered(3000, 24, 9), clustered(100, 24, 9)
    index = built(vectors, metric, (None, "float32"), M=4, ef_construction=20)
    expected = exact(
        vectors if metric != "cosine" else vectors / np.linalg.norm(vectors, axis=1)[:, None], queries, metric
    )
    ef = index.tune(queries, 0.9, 5)
    assert ef == index.ef_search

    def share(ef):
        return recall(index.search_batch(queries, 5, ef=ef)[0], expected, 5)

    assert share(None) >= 0.9 > share(ef - 1) and 5 < ef < 3000
    assert index.tune(queries, 0.0, 5) == 5 <= index.tune(queries, 0.99) <= index.tune(queries, 1.0) <= 3000
    assert recall(index.search_batch(queries, 10)[0], expected, 10) == 1


def test_tuning_an_empty_index_leaves_the_width_alone():
    index = HNSW(3, ef_search=33)
    assert index.tune(np.ones((2, 3)), 0.9) == 33 == index.ef_search
    index.add_many(np.eye(3), [1, 2, 3])
    assert index.tune(np.ones((2, 3)), 1.0, k=10**6) <= 3


def wrong_mask(ids):
    return np.ones(len(ids) + 1, bool)


CALLS = [
    ("add two numbers", lambda index: index.add([1, 2], 9), ValueError),
    ("add a matrix", lambda index: index.add([[1, 2, 3]], 9), ValueError),
    ("add nan", lambda index: index.add([1, 2, math.nan], 9), ValueError),
    ("add what overflows", lambda index: index.add([1, 2, 1e39], 9), ValueError),
    ("add zeros", lambda index: index.add([0, 0, 0], 9), ValueError),
    ("add text", lambda index: index.add("abc", 9), ValueError),
    ("add a known id", lambda index: index.add([1, 2, 3], 1), ValueError),
    ("add a negative id", lambda index: index.add([1, 2, 3], -1), ValueError),
    ("add the lowest id", lambda index: index.add([1, 2, 3], -(2**63)), ValueError),
    ("add a huge id", lambda index: index.add([1, 2, 3], 2**63), ValueError),
    ("add under a bool", lambda index: index.add([1, 2, 3], True), TypeError),
    ("add under a float", lambda index: index.add([1, 2, 3], 1.0), TypeError),
    ("add an id twice", lambda index: index.add_many(np.ones((3, 3)), [7, 8, 7]), ValueError),
    ("add a known one last", lambda index: index.add_many(np.ones((2, 3)), [7, 1]), ValueError),
    ("add known ones of many", lambda index: index.add_many(np.ones((200, 3)), np.arange(200)), ValueError),
    ("add too few ids", lambda index: index.add_many(np.ones((2, 3)), [7]), ValueError),
    ("add four numbers", lambda index: index.add_many(np.ones((2, 4)), [7, 8]), ValueError),
    ("add zeros last", lambda index: index.add_many([[1, 2, 3], [0, 0, 0]], [7, 8]), ValueError),
    ("add infinity last", lambda index: index.add_many([[1, 2, 3], [math.inf, 0, 0]], [7, 8]), ValueError),
    ("add with odd progress", lambda index: index.add_many(np.ones((1, 3)), [7], progress="yes"), TypeError),
    ("add on no thread", lambda index: index.add_many(np.ones((1, 3)), [7], threads=0), ValueError),
    ("add on half a thread", lambda index: index.add_many(np.ones((1, 3)), [7], threads=0.5), TypeError),
    ("remove an unknown id", lambda index: index.remove(77), KeyError),
    ("remove a removed id", lambda index: index.remove(6), KeyError),
    ("remove the hidden id", lambda index: index.remove(-(2**63)), KeyError),
    ("remove a float", lambda index: index.remove(1.0), TypeError),
    ("remove an unknown one last", lambda index: index.remove_many([1, 2, 77]), KeyError),
    ("remove one twice", lambda index: index.remove_many([1, 2, 1]), ValueError),
    ("remove floats", lambda index: index.remove_many([1.5]), TypeError),
    ("update an unknown id", lambda index: index.update(77, [1, 2, 3]), KeyError),
    ("update to two numbers", lambda index: index.update(1, [1, 2]), ValueError),
    ("update to zeros", lambda index: index.update(1, [0, 0, 0]), ValueError),
    ("update to nan", lambda index: index.update(1, [0, math.nan, 0]), ValueError),
    ("update a bool", lambda index: index.update(True, [1, 2, 3]), TypeError),
    ("search two numbers", lambda index: index.search([1, 2], 1), ValueError),
    ("search zeros", lambda index: index.search([0, 0, 0], 1), ValueError),
    ("search infinity", lambda index: index.search([1, 2, math.inf], 1), ValueError),
    ("search nan float32", lambda index: index.search(np.array([1, math.nan, 1], np.float32), 1), ValueError),
    ("search nan among nobody", lambda index: index.search([1, math.nan, 1], 1, filter=[]), ValueError),
    ("search nan for groups", lambda index: index.search([1, math.nan, 1], 1, group_by=lambda ids: ids), ValueError),
    ("search -1", lambda index: index.search([1, 2, 3], -1), ValueError),
    ("search 1.0", lambda index: index.search([1, 2, 3], 1.0), TypeError),
    ("search with no width", lambda index: index.search([1, 2, 3], 1, ef=0), ValueError),
    ("search a batch of one row", lambda index: index.search_batch([1, 2, 3], 1), ValueError),
    ("search zeros last", lambda index: index.search_batch([[1, 2, 3], [0, 0, 0]], 1), ValueError),
    ("search on no thread", lambda index: index.search_batch([[1, 2, 3]], 1, threads=0), ValueError),
    ("filter of bools", lambda index: index.search([1, 2, 3], 1, filter=np.array([True, False])), TypeError),
    ("filter of floats", lambda index: index.search([1, 2, 3], 1, filter=[1.0]), TypeError),
    ("filter of a matrix", lambda index: index.search([1, 2, 3], 1, filter=[[1]]), TypeError),
    ("filter that gives too many", lambda index: index.search([1, 2, 3], 1, filter=wrong_mask), ValueError),
    ("filter that gives numbers", lambda index: index.search([1, 2, 3], 1, filter=lambda ids: ids), ValueError),
    ("filter that gives nothing", lambda index: index.search([1, 2, 3], 1, filter=lambda ids: None), ValueError),
    ("filter that raises", lambda index: index.search([1, 2, 3], 1, filter=lambda ids: 1 // 0), ZeroDivisionError),
    ("groups too few", lambda index: index.search([1, 2, 3], 3, group_by=[1, 1]), ValueError),
    ("groups of floats", lambda index: index.search([1, 2, 3], 3, group_by=np.ones(9)), TypeError),
    ("groups of bools", lambda index: index.search([1, 2, 3], 3, group_by=np.ones(9, bool)), TypeError),
    ("groups given too few", lambda index: index.search([1, 2, 3], 3, group_by=lambda ids: ids[1:]), ValueError),
    ("groups given floats", lambda index: index.search([1, 2, 3], 3, group_by=lambda ids: ids / 2), TypeError),
    ("tune by nothing", lambda index: index.tune(np.empty((0, 3)), 0.9), ValueError),
    ("tune beyond all", lambda index: index.tune([[1, 2, 3]], 2), ValueError),
    ("tune to nan", lambda index: index.tune([[1, 2, 3]], math.nan), ValueError),
    ("tune for none", lambda index: index.tune([[1, 2, 3]], 0.9, 0), ValueError),
    ("tune by zeros", lambda index: index.tune([[0, 0, 0]], 0.9), ValueError),
    ("distances of zeros", lambda index: index.distances([[0, 0, 0]], [[1]]), ValueError),
    ("distances to floats", lambda index: index.distances([[1, 2, 3]], [[1.5]]), TypeError),
    ("distances of other shape", lambda index: index.distances([[1, 2, 3]], [[1], [2]]), ValueError),
    ("vector of an unknown id", lambda index: index.get_vector(77), KeyError),
    ("vector of a bool", lambda index: index.get_vector(True), TypeError),
    ("reserve -1", lambda index: index.reserve(-1), ValueError),
]


def with_gaps():
    index = HNSW(3, seed=1, metric="cosine", ef_search=20)
    index.add_many([[1, 2, 3], [3, 2, 1], [1, 1, 1], [1, 0, 2], [1, 2, 3], [0, 1, 0]], [1, 2, 3, 4, 5, 6])
    index.remove_many([4, 6])  # the last slot among them
    return index


@pytest.mark.parametrize("call, error", [pytest.param(*case[1:], id=case[0]) for case in CALLS])
def test_a_refused_call_changes_nothing(call, error):
    index, untouched = with_gaps(), with_gaps()
    with pytest.raises(error):
        call(index)
    index.check()
    face.same_arrays(index, untouched)
    assert index.nbytes == untouched.nbytes and len(index) == 4 and index.ef_search == 20
    for each in (index, untouched):
        each.add_many(np.eye(3), [7, 8, 9])
        each.add_many(np.ones((3, 3)), [17, 18, 19])
        each.check()
    face.same_arrays(index, untouched)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_numbers_that_float16_cannot_hold_are_refused(metric):
    index = HNSW(2, seed=1, metric=metric, vectors="float16")
    index.add([65504, -65504], 1)
    for call in (lambda: index.add([65505, 0], 2), lambda: index.add_many([[0, 1], [0, -1e5]], [2, 3]),
                 lambda: index.update(1, [0, 7e4])):  # fmt: skip
        with pytest.raises(ValueError, match="65504"):
            call()
    index.check()
    assert len(index) == 1 and index.get_vector(1).tolist() == [65504, -65504]
    directions = HNSW(2, seed=1, metric="cosine", vectors="float16")  # has numbers up to 1 alone
    directions.add([1e30, 0], 1)
    assert directions.search([1, 0], 1) == [(1, 0.0)]


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"dim": 0}, ValueError),
        ({"dim": 2.0}, TypeError),
        ({"dim": 2**16 + 1}, ValueError),
        ({"M": 0}, ValueError),
        ({"ef_construction": 0}, ValueError),
        ({"ef_search": 0}, ValueError),
        ({"ml": -1.0}, ValueError),
        ({"ml": math.nan}, ValueError),
        ({"seed": "x"}, TypeError),
        ({"seed": True}, TypeError),
        ({"metric": "dot"}, ValueError),
        ({"metric": None}, ValueError),
        ({"quantization": "int2"}, ValueError),
        ({"quantization": 8}, ValueError),
        ({"vectors": "float64"}, ValueError),
        ({"vectors": "auto"}, ValueError),
        ({"vectors": None, "quantization": None}, ValueError),
    ],
)
def test_bad_settings_are_refused(arguments, error):
    with pytest.raises(error):
        HNSW(**{"dim": 3, **arguments})


@pytest.mark.parametrize(
    "table, argument", [("METRICS", "metric"), ("QUANTIZATIONS", "quantization"), ("VECTORS", "vectors")]
)
def test_a_name_without_kernels_is_refused(monkeypatch, table, argument):
    """A new line in a table is not enough: its number must be known to the kernels."""
    monkeypatch.setitem(getattr(states, table), "new", 7)
    with pytest.raises(ValueError, match="no kernels"):
        HNSW(3, **{argument: "new"})


def test_what_walks_measure_by_follows_from_the_dimensions():
    chosen = [HNSW(dim).quantization for dim in (1, 23, 24, 95, 96, 1000)]
    assert chosen == [None, None, "int8", "int8", "int4", "int4"]
    assert [HNSW(dim, vectors=None).quantization for dim in (1, 96, 1000)] == ["int8"] * 3
    assert HNSW(3).vectors == "float32" and HNSW(1000, quantization=None).quantization is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_shares_one_compilation(kind):
    index = HNSW(3, seed=1, quantization=kind[0], vectors=kind[1])
    index.add([1, 2, 3], 1)
    index.add(np.array([1, 2, 4], np.float16), np.uint8(2))
    frozen = np.frombuffer(np.ones((2, 3), np.float32).tobytes(), np.float32).reshape(2, 3)
    some_ids = np.frombuffer(np.array([3, 4]).tobytes(), np.int64)
    index.add_many(frozen, some_ids)
    index.add_many(np.asfortranarray(np.ones((2, 3))), np.array([5, 6], np.int32)[::-1])
    index.search(frozen[0], 2), index.search(np.ones(6, np.float32)[::2], 2), index.search([1, 2, 3], 2)
    index.search(np.ones(3, np.float32), 2), index.search_batch(frozen[:, ::-1], np.int64(2), ef=np.int32(4))
    index.search(frozen[0], 2, filter=some_ids), index.search(frozen[0], 2, group_by=lambda ids: ids.astype(np.int8))
    index.distances(frozen[:1], some_ids[None]), index.get_vectors(some_ids), index.tune(frozen, 0.5, 1)
    index.update(np.int16(1), frozen[0]), index.remove_many(some_ids), index.remove(np.uint64(2))
    index.shrink_to_fit(), index.stats(), index.check()
    for module in (build, check, codes, compact, distance, layout, link, remove, search, walk):
        for name, value in vars(module).items():
            if hasattr(value, "signatures") and value.py_func.__module__ == module.__name__:
                assert len(value.signatures) <= 1, name


def test_progress_counts_to_the_end():
    calls = []
    index = HNSW(4, seed=1)
    index.add_many(clustered(300, 4, 19), np.arange(300), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (300, 300) and [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_progress_that_raises_leaves_a_whole_prefix():
    index, vectors = HNSW(4, seed=1), clustered(300, 4, 19)

    def stops(done, total):
        if done > 200:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        index.add_many(vectors, np.arange(300), progress=stops)
    index.check()
    n = len(index)
    assert 200 < n < 300 and n - 1 in index and n not in index


@pytest.mark.parametrize("value", [0, -1, 2.0, True, 2**40])
def test_widths_set_anew_are_looked_at(value):
    index = HNSW(2)
    for name in ("ef_construction", "ef_search"):
        with pytest.raises((ValueError, TypeError), match=name):
            setattr(index, name, value)
        setattr(index, name, 7)
        assert getattr(index, name) == 7


def test_more_than_there_are_is_all_however_many():
    index = HNSW(2, seed=1)
    index.add_many([[1, 2], [3, 4]], [5, 6])
    assert [vec_id for vec_id, _ in index.search([1, 2], 2**62)] == [5, 6]
    assert [vec_id for vec_id, _ in index.search([1, 2], 2**62, group_by=lambda ids: ids)] == [5, 6]


def test_an_id_that_passes_to_another_slot_is_not_told_by_a_filter():
    index = HNSW(2, seed=1)
    index.add_many([[1, 2], [1, 2], [5, 5]], [10, 100, 3])

    def ten(ids):
        index.remove(10)
        return ids == 10

    assert index.search([1, 2], 3, filter=ten) in ([], [(10, 0.0)])
    assert [vec_id for vec_id, _ in index.search([1, 2], 3)] == [100, 3]


def test_an_index_is_saved_after_adding_not_within(tmp_path):
    index = HNSW(2, seed=1)
    with pytest.raises(RuntimeError, match="add_many"):
        index.add_many(np.ones((300, 2)), np.arange(300), progress=lambda done, total: index.save(tmp_path / "x.npz"))
    index.check()
    assert not list(tmp_path.iterdir())
