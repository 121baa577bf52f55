"""Sorting by radix beside sorted()."""

import math

import numpy as np
import pytest

from llmds.kernels import radix


def in_order(keys):
    keys = np.array(keys, np.uint64)
    items, n = np.arange(len(keys), dtype=np.int32), len(keys)
    arrays = keys.copy(), items, np.empty(n, np.uint64), np.empty(n, np.int32)
    found = arrays[2:] if radix.sort(*arrays) else arrays[:2]
    np.testing.assert_array_equal(found[0], np.sort(keys))
    return found[1].tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 3000])
@pytest.mark.parametrize("bits", [1, 10, 12, 23, 64])
def test_equal_keys_stay_as_they_stand(n, bits):
    keys = np.random.default_rng(n + bits).integers(0, 2**bits, n, dtype=np.uint64, endpoint=False) if bits < 64 else (
        np.random.default_rng(n).integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)
    )  # fmt: skip
    assert in_order(keys) == sorted(range(n), key=keys.tolist().__getitem__)


def test_floats_sort_as_floats():
    values = [math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0, 1e308, -1e308, 2.0, 0.0]
    keys = [int(radix.ordered(value)) for value in values]
    assert in_order(keys) == sorted(range(len(values)), key=values.__getitem__)
