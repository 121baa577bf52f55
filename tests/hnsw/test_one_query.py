"""Queries one at a time: the short way to the kernel says what the long one says, or leaves it to the long way."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmds import HNSW
from llmds.hnsw import search as searching
from tests.hnsw.model import METRICS, clustered

N, DIM = 2000, 32
QUERIES = clustered(30, DIM, 7)


def filled(n=N, **given):
    index = HNSW(DIM, 8, 60, **{"seed": 1, "metric": "cosine", **given})
    index.add_many(clustered(n, DIM, 5), np.arange(n) * 3)
    return index


def pairs(ids, distances):
    return [pair for pair in zip(ids[0].tolist(), distances[0].tolist(), strict=True) if pair[0] >= 0]


def short_way(index, query, k, ef):
    found = index._single.nearest(index._state, query[None], k, ef)
    return None if found is None else pairs(*found)


def long_way(index, query, k, ef=None):
    """Through the same kernel, by itself as by the short way: walks side by side may end elsewhere."""
    ef, present = max(index.ef_search if ef is None else ef, k), index._state.present
    return pairs(*searching.search(index._state, index._settings, query[None], min(k, present), ef, None, 1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [(None, "float32"), ("int8", "float16"), ("int8", None), ("int4", "float32")])
def test_the_short_way_says_what_the_long_one_says(metric, kind):
    index = filled(metric=metric, quantization=kind[0], vectors=kind[1])
    for k, ef in ((1, 1), (10, 10), (3, 40), (10, 3), (50, 51), (10, 40)):
        for query in QUERIES:
            found = short_way(index, query, k, max(ef, k))
            assert found is not None
            assert found == long_way(index, query, k, ef) == index.search(query, k, ef=ef)
            assert [tuple(map(type, pair)) for pair in found] == [(int, float)] * k


def test_what_the_short_way_cannot_say_takes_the_long_one():
    index = HNSW(DIM, seed=0)
    assert short_way(index, QUERIES[0], 1, 10) is None
    assert index.search(QUERIES[0], 1) == []
    index.add_many(clustered(N, DIM, 5), np.arange(N))
    for k, ef in ((0, 10), (N, N), (N + 1, N + 1), (10, N // 8)):  # nothing to find, or too much for a walk
        assert short_way(index, QUERIES[0], k, ef) is None
        assert index.search(QUERIES[0], k, ef=ef) == long_way(index, QUERIES[0], k, ef)
        assert len(index.search(QUERIES[0], k, ef=ef)) == min(k, N)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_fit_is_refused(bad):
    index, query = filled(), QUERIES[0].copy()
    query[3] = bad
    assert short_way(index, query, 5, 20) is None
    with pytest.raises(ValueError, match="query must be finite"):
        index.search(query, 5)
    with pytest.raises(ValueError, match="query must not be all zeros"):
        index.search(np.zeros(DIM, np.float32), 5)


def test_what_changes_is_seen_by_the_next_query():
    index = filled()
    query = QUERIES[0]
    before = index.search(query, 5)
    index.remove(before[0][0])
    assert before[0][0] not in [vec_id for vec_id, _ in index.search(query, 5)]
    index.add(query, 7)
    assert index.search(query, 1)[0][0] == 7
    index.ef_search = 200
    assert index.search(query, 5) == long_way(index, query, 5)
    index.reserve(5 * N)
    index.add_many(clustered(3 * N, DIM, 9), np.arange(10**6, 10**6 + 3 * N))
    assert index.search(query, 5, ef=60) == long_way(index, query, 5, 60)
    index.remove_many(index.ids()[5:])
    assert sorted(vec_id for vec_id, _ in index.search(query, 10)) == index.ids().tolist()


def test_indexes_do_not_answer_for_one_another():
    few, many = filled(300, quantization="int8"), filled(quantization=None)
    for query in QUERIES:
        for index in (few, many, few):
            assert index.search(query, 4, ef=20) == long_way(index, query, 4, 20)


def test_threads_ask_one_index():
    index = filled()
    jobs = [(query, k, ef) for query in QUERIES for k, ef in ((1, 10), (5, 30), (10, 12))] * 5
    expected = [long_way(index, *job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: index.search(job[0], job[1], ef=job[2]), jobs)) == expected
