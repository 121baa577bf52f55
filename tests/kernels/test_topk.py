"""Heaps and pools of the best documents beside sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.kernels import topk

scores = st.lists(st.sampled_from([1e-38, 0.25, 1.0, 1.5, 3.0, 2.0**100]), max_size=60)


def first(found, k):
    return sorted(found, key=lambda item: (-item[1], item[0]))[:k]


def heap(k):
    return np.empty(k, np.int64), np.empty(k, np.float32)


@given(scores, st.integers(1, 70), st.randoms())
def test_a_heap_keeps_the_best(given_scores, k, chance):
    (ids, held), found = heap(k), 0
    offered = [(7 * place, np.float32(score)) for place, score in enumerate(given_scores)]
    for doc_id, score in chance.sample(offered, len(offered)):
        found = topk.push_to_heap(ids, held, found, doc_id, score)
    topk.sort_heap(ids, held, found)
    expected = first(offered, k)
    assert list(zip(ids[:found].tolist(), held[:found], strict=True)) == expected
    assert (ids[found:] == -1).all() and (held[found:] == -np.inf).all()


@given(st.lists(scores, max_size=4), st.sampled_from([1, 7, 8, 9, 70]), st.randoms())
def test_pools_one_after_another_keep_the_best(runs, k, chance):
    """Each run is a segment, whose documents come in the order of their ids, but those of segments do not."""
    (ids, held), found, seen = heap(k), 0, []
    pool = np.empty(topk.pool_size(k), np.int64)
    numbers = chance.sample(range(10_000), sum(map(len, runs)))
    for run in runs:
        documents, numbers = np.array(sorted(numbers[: len(run)]), np.int64), numbers[len(run) :]
        topk.clear_pool(pool)
        for place, score in enumerate(np.array(run, np.float32)):
            limit, bits = topk.pool_limit(pool, k), int(score.view(np.int32))
            told = first(zip(documents[:place].tolist(), run[:place], strict=True), k)
            assert (bits >= limit) == (len(told) < k or score > np.float32(told[-1][1]))
            if bits >= limit:
                topk.push_to_pool(pool, np.int64(place), np.int64(bits))
        found = topk.pool_to_heap(pool, documents, ids, held, found)
        seen += zip(documents.tolist(), map(np.float32, run), strict=True)
    topk.sort_heap(ids, held, found)
    assert list(zip(ids[:found].tolist(), held[:found], strict=True)) == first(seen, k)


@pytest.mark.parametrize("k", [1, 8, 100, topk.POOLED])
def test_a_pool_has_room_for_its_k_up_to_the_most(k):
    pool = np.empty(topk.pool_size(k), np.int64)
    topk.clear_pool(pool)
    assert topk.pool_limit(pool, k) == 1  # whatever is positive gets in
    for place in range(k):
        topk.push_to_pool(pool, np.int64(place), np.int64(1000 - place))
    assert topk.pool_limit(pool, k) == 1002 - k
    assert topk.pool_size(topk.POOLED + 1) == 0
