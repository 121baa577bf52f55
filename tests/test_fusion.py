"""Fusion kernels beside plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.kernels import fusion

WIDTH = 4
ranked = st.lists(st.integers(0, 9), max_size=WIDTH, unique=True)


def padded(rows, width=WIDTH):
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)


@given(st.lists(st.tuples(ranked, ranked), max_size=4))
def test_a_union_holds_each_id_once_in_order_and_what_each_side_says(pairs):
    sides = [padded([pair[side] for pair in pairs]) for side in (0, 1)]
    scores = [(side * 10 + number).astype(np.float32) for number, side in enumerate(sides)]
    merged, *said = fusion.union(sides[0], scores[0], sides[1], scores[1])
    assert merged.shape == (len(pairs), 2 * WIDTH)
    for row, pair in enumerate(pairs):
        held = sorted({*pair[0], *pair[1]})
        assert merged[row].tolist() == held + [-1] * (2 * WIDTH - len(held))
        for number, side in enumerate(pair):
            expected = [key * 10 + number if key in side else -np.inf for key in held]
            assert said[number][row].tolist() == expected + [-np.inf] * (2 * WIDTH - len(held))
            assert said[2 + number][row].tolist() == [key in side for key in held] + [False] * (2 * WIDTH - len(held))


@given(ranked, ranked, st.integers(0, 10))
def test_reciprocal_ranks_add_up(left, right, top_k):
    both = sorted({*left, *right})
    found, scores = fusion.reciprocal_rank(padded([both], 2 * WIDTH), padded([left]), padded([right]), 60, top_k)
    expected = {
        key: sum(np.float32(1 / (61 + side.index(key))) for side in (left, right) if key in side) for key in both
    }
    order = sorted(both, key=lambda key: (-expected[key], key))[:top_k]
    assert found[0].tolist() == order + [-1] * (top_k - len(order))
    assert scores[0, : len(order)].tolist() == pytest.approx([expected[key] for key in order])


def test_a_constant_side_and_a_missing_side_count_nothing():
    ids = np.array([[2, 5, 9, -1]])
    constant = np.full((1, 4), 3.0, np.float32)
    missing = np.full((1, 4), -np.inf, np.float32)
    varied = np.array([[1.0, 3.0, 2.0, 99.0]], np.float32)
    for other in (constant, missing):
        found, scores = fusion.weighted(ids, other, varied, 0.25, 4)
        assert found.tolist() == [[5, 9, 2, -1]]
        assert scores.tolist() == [[0.75, 0.375, 0.0, -np.inf]]


def test_equal_scores_go_by_smaller_id():
    found, _ = fusion.best(np.array([[1, 4, 6, 8]]), np.array([[0, 1, 0, 1]], np.float32), 3)
    assert found.tolist() == [[4, 8, 1]]
