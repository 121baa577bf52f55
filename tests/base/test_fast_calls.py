"""Kernels called past the dispatcher give what the kernels give."""

import pytest

from llmds.base.fast_calls import Direct
from llmds.kernels import heap


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
