"""The bitset beside Python's set."""

import random

import pytest

from llmds.kernels import bitset


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 4096, 4097, 300_000])
def test_beside_a_set(n):
    chance, model = random.Random(n), set()
    bits, starts = bitset.new(n)
    for _ in range(3000):
        number = chance.choice([0, n - 1, chance.randrange(n), chance.randrange(min(n, 70))])
        if number in model:
            bitset.drop(bits, starts, number)
            model.remove(number)
        else:
            bitset.put(bits, starts, number)
            if chance.random() < 0.1:
                bitset.put(bits, starts, number)  # twice is once
            model.add(number)
        if chance.random() < 0.05:
            while model:
                assert bitset.smallest(bits, starts) == min(model)
                bitset.drop(bits, starts, min(model))
                model.remove(min(model))
            assert not bits.any()
        if model:
            assert bitset.smallest(bits, starts) == min(model)
        for probe in (number, chance.randrange(n)):
            assert bitset.has(bits, probe) == (probe in model)
    assert len(starts) == 1 + (n > 64) + (n > 64**2) + (n > 64**3)
