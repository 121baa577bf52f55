"""The smallest of many values beside sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.kernels.hnsw.nearest import keep_smallest, sort_smallest


@given(st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1)), st.integers(0, 4), st.integers(1, 9))
def test_the_smallest_are_kept_in_order(given, start, k):
    values = np.full(start + k, 77)
    stop = np.int64(start)
    for value in given:
        stop = keep_smallest(values, np.int64(start), stop, np.int64(value))
    sort_smallest(values, np.int64(start), stop)
    assert values[start:stop].tolist() == sorted(given)[:k]
    assert (values[:start] == 77).all(), "what is before the heap is left alone"


@pytest.mark.parametrize("k", [1, 2, 100])
def test_repeats_are_kept(k):
    values, stop = np.zeros(k, np.int64), np.int64(0)
    for _ in range(2 * k):
        stop = keep_smallest(values, np.int64(0), stop, np.int64(3))
    assert stop == k and (values == 3).all()
