"""Fusion kernels beside plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.kernels import fusion

WIDTH = 4
ranked = st.lists(st.integers(0, 9), max_size=WIDTH, unique=True)
scores = st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 1.0, 3.0])
tables = st.lists(st.tuples(scores, scores), min_size=10, max_size=10)


def padded(rows, width=WIDTH):
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)


def room(k):
    return np.empty((1, k), np.int64), np.empty((1, k), np.float32)


@given(st.lists(st.tuples(ranked, ranked), max_size=4))
def test_each_side_learns_where_its_ids_stand_on_the_other(pairs):
    sides = [padded([pair[side] for pair in pairs]) for side in (0, 1)]
    left_at, right_at, right_only = fusion.cross(*sides)
    for q, (left, right) in enumerate(pairs):
        for mine, other, found in ((left, right, left_at), (right, left, right_at)):
            expected = [other.index(key) if key in other else -1 for key in mine]
            assert found[q].tolist() == expected + [-1] * (WIDTH - len(mine))
        assert right_only[q].tolist() == [-1 if key in left else key for key in right] + [-1] * (WIDTH - len(right))


@given(ranked, ranked, st.integers(1, 10))
def test_reciprocal_ranks_add_up(left, right, top_k):
    sides = padded([left]), padded([right])
    places = fusion.cross(*sides)[:2]
    found, fused = room(top_k)
    none = np.empty((1, 0), np.float32)
    dense, text = (fusion.Side(*side, none) for side in zip(sides, (none, none), places, strict=True))
    assert fusion.fuse(fusion.RECIPROCAL_RANK, dense, text, 0.5, found, fused)
    expected = {
        key: sum(np.float32(1 / (61 + side.index(key))) for side in (left, right) if key in side)
        for key in {*left, *right}
    }
    order = sorted(expected, key=lambda key: (-expected[key], key))[:top_k]
    assert found[0].tolist() == order + [-1] * (top_k - len(order))
    assert fused[0, : len(order)].tolist() == pytest.approx([expected[key] for key in order])
    assert (fused[0, len(order) :] == -np.inf).all()


def normalised(values):
    """Of a side's scores by document: from 0 to 1; 0 for all where it is constant, and for those that lack it."""
    held = [value for value in values.values() if value != -math.inf]
    low, high = min(held, default=0), max(held, default=0)
    flat = low == high
    return {key: 0.0 if flat or value == -math.inf else (value - low) / (high - low) for key, value in values.items()}


@given(ranked, ranked, tables, st.sampled_from([0.25, 0.5, 0.75]), st.integers(1, 10))
def test_weighted_sums_are_those_of_both_sides_normalised(near, matched, table, weight, top_k):
    """Each side ranks documents by its column of `table`; of the others it is asked."""
    dense_ids, text_ids = padded([near]), padded([matched])
    dense_at, text_at = fusion.cross(dense_ids, text_ids)[:2]
    columns = np.array(table, np.float32).T
    asked = np.float32(99)  # what must not be looked at
    dense, text = (
        np.where(ids < 0, asked, side[ids]) for ids, side in zip((dense_ids, text_ids), columns, strict=True)
    )
    text_of_dense = np.where((dense_at < 0) & (dense_ids >= 0), columns[1][dense_ids], asked)
    dense_of_text = np.where((text_at < 0) & (text_ids >= 0), columns[0][text_ids], asked)
    found, fused = room(top_k)
    sides = fusion.Side(dense_ids, dense, dense_at, text_of_dense), fusion.Side(text_ids, text, text_at, dense_of_text)
    assert fusion.fuse(fusion.WEIGHTED, *sides, weight, found, fused)
    both = {*near, *matched}
    sides = [normalised({key: float(table[key][side]) for key in both}) for side in (0, 1)]
    expected = {key: np.float32(weight * sides[0][key] + (1 - weight) * sides[1][key]) for key in both}
    order = sorted(both, key=lambda key: (-expected[key], key))[:top_k]
    assert found[0].tolist() == order + [-1] * (top_k - len(order))
    assert fused[0, : len(order)].tolist() == pytest.approx([expected[key] for key in order])


@pytest.mark.parametrize("rule", [-1, 2, 99])
def test_a_rule_without_a_formula_is_refused(rule):
    side = fusion.Side(padded([[1, 2]]), np.ones((1, WIDTH), np.float32), np.full((1, WIDTH), -1, np.int32),
                       np.ones((1, WIDTH), np.float32))  # fmt: skip
    found, fused = np.full((1, 2), -7), np.full((1, 2), -7, np.float32)
    assert not fusion.fuse(rule, side, side, 0.5, found, fused)
    assert (found == -7).all() and (fused == -7).all()
