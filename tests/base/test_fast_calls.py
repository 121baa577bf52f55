"""Kernels called past the dispatcher give what the kernels give."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from llmds.base.fast_calls import Direct
from llmds.kernels import heap
from llmds.kernels.compiling import njit_no_nrt


def test_every_call_gives_what_the_kernel_gives():
    direct, arena = Direct(heap), heap.new(4, False)
    assert [direct.push(arena, key, 1.0 / key) for key in (1, 2, 3, 3)] == [heap.OK] * 3 + [heap.PRESENT]
    assert direct.peek(arena) == direct.peek(arena) == heap.peek(arena) == (heap.OK, 1 / 3, 3)


def test_a_scalar_that_does_not_fit_is_refused_without_harm():
    direct, arena = Direct(heap), heap.new(4, False)
    direct.push(arena, 1, 1.0)
    for arguments in [(arena, 2**63, 1.0), (arena, {}, 1.0), (arena, 2, "x"), (arena, 2)]:
        with pytest.raises((TypeError, OverflowError, ValueError)):
            direct.push(*arguments)
    assert heap.peek(arena) == (heap.OK, 1.0, 1)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError):
        Direct(heap).nothing  # noqa: B018


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


@njit_no_nrt
def exchange(pair, at):
    """Exchange an entry of both; the sum."""
    pair.left[at], pair.right[at] = pair.right[at], pair.left[at]
    return pair.left[at] + pair.right[at]


def test_arrays_in_a_named_tuple_are_one_argument():
    module = ModuleType("kernels")
    module.exchange = exchange
    direct, pair = Direct(module), Pair(np.arange(3), np.arange(10, 13))
    assert [direct.exchange(pair, 1), direct.exchange(pair, 1), direct.exchange(pair, 2)] == [12, 12, 14]
    assert pair.left.tolist() == [0, 1, 12] and pair.right.tolist() == [10, 11, 2]
    other = Pair(np.zeros(1, np.int64), np.ones(1, np.int64))
    assert direct.exchange(other, 0) == 1 and other.left.tolist() == [1], "the arrays of each call, not of the first"
    assert len(exchange.signatures) == 1


def test_a_named_tuple_with_a_wrong_array_is_refused_without_harm():
    module = ModuleType("kernels")
    module.exchange = exchange
    direct, pair = Direct(module), Pair(np.arange(3), np.arange(10, 13))
    direct.exchange(pair, 0)
    for wrong in (Pair(pair.left, None), Pair(pair.left, [1, 2, 3])):
        with pytest.raises(TypeError):
            direct.exchange(wrong, 0)
