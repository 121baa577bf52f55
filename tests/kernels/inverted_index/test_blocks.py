"""Blocks of postings: what is decoded is what was encoded, and any bytes at all are harmless."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmds.kernels import simd
from llmds.kernels.inverted_index import blocks
from llmds.kernels.inverted_index.blocks import BLOCK, MOST, PAD

KERNELS = (blocks.encode, blocks.decode_slots, blocks.decode_tfs, blocks.tf_at)


def encoded(slots, tfs, before=-1, lead=3):
    """The bytes of a block that begins after `lead` others, and where it ends."""
    data, numbers = np.full(lead + 2 * PAD, 0xA5, np.uint8), np.empty(2 * BLOCK, np.int32)
    slots, tfs = np.array(slots, np.int32), np.array(tfs, np.int32)
    end = blocks.encode(slots, tfs, 0, len(slots), before, numbers, data, lead)
    assert (data[:lead] == 0xA5).all() and (data[lead + PAD :] == 0xA5).all() and lead < end <= lead + PAD
    return data, end


def passes_through(gaps, tfs, before=-1):
    """A block with these distances, less 1, comes out as it went in; its size in bytes."""
    n, lead = len(gaps), 3
    slots = before + np.cumsum(np.asarray(gaps, np.int64) + 1)
    data, end = encoded(slots, tfs, before)
    data[end:] = np.random.default_rng(n).integers(0, 256, len(data) - end)  # what follows does not matter
    for row in (0, 5):
        found = np.full(row + BLOCK + 8, -7, np.int32)
        last = blocks.decode_slots(data, lead, n, before, found, row)
        assert last == slots[-1] and found[row : row + n].tolist() == slots.tolist()
        assert (found[:row] == -7).all() and (found[row + BLOCK :] == -7).all()
        found[:] = -7
        blocks.decode_tfs(data, lead, n, found, row)
        assert (found[row : row + n].astype(np.int64) + 1).tolist() == list(tfs)
        assert (found[:row] == -7).all() and (found[row + BLOCK :] == -7).all()
    assert [blocks.tf_at(data, lead, n, i) for i in range(n)] == list(tfs)
    return end - lead


@pytest.mark.parametrize("width", range(31))
def test_every_width_and_size(width):
    chance = np.random.default_rng(width)
    largest = (1 << width) - 1
    for n in (*range(1, 18), 31, 32, 33, 63, 64, 65, 100, 127, 128):
        tfs = chance.integers(0, largest, n, endpoint=True) + 1
        gaps = np.minimum(chance.integers(0, largest, n, endpoint=True), (MOST - 1 - n) // n)
        size = passes_through(gaps, tfs)
        bits = sum(max(int(part.max()).bit_length(), 0) for part in (gaps, tfs - 1))
        assert size <= 2 + 2 * ((n * bits + 15) // 8 + 1), "no larger than plainly packed"


@pytest.mark.parametrize("places", [[0], [127], [3, 64, 126], range(0, 128, 8), range(128)])
def test_exceptions_at_any_place(places):
    places = list(places)
    for low, high in ((0, 1), (0, 200), (1, 1 << 20), (30, 1 << 22), (255, 256)):
        gaps, tfs = np.full(BLOCK, low), np.full(BLOCK, low + 1)
        gaps[places], tfs[places] = high, 2**31 - 1
        passes_through(gaps, tfs, before=17)
        passes_through(gaps, np.full(BLOCK, 1))
        passes_through(np.zeros(BLOCK, int), tfs)


def test_the_largest_numbers_there_are():
    passes_through([MOST - 2], [2**31 - 1])
    passes_through([0], [2**31 - 1], before=MOST - 2)
    passes_through([MOST - 1 - BLOCK, *[0] * 127], [2**31 - 1] * BLOCK)
    passes_through([*[0] * 127, MOST - 1 - BLOCK], [*[1] * 127, 2**31 - 1])
    passes_through([(1 << 23) - 1] * 127, [1 << i for i in range(31)] * 4 + [1] * 3)


@given(
    st.lists(st.integers(0, 3) | st.integers(0, 300) | st.integers(0, 1 << 22), min_size=1, max_size=BLOCK),
    st.randoms(use_true_random=False),
    st.integers(-1, MOST // 4),
)
def test_what_is_decoded_is_what_was_encoded(gaps, chance, before):
    tfs = [1 if chance.random() < 0.7 else chance.randint(1, 2 ** chance.randint(0, 31) - 1 or 1) for _ in gaps]
    passes_through(gaps, tfs, before)


def test_runs_of_one_size_are_packed_tightly():
    assert passes_through([0] * BLOCK, [1] * BLOCK) == 1
    assert passes_through([1] * BLOCK, [1] * BLOCK) == 1 + 16
    assert passes_through([1] * BLOCK, [2] * BLOCK) == 1 + 2 * 16
    assert passes_through([0] * 127 + [1000], [1] * BLOCK) <= 2 + 2 + 1 + 2


@given(st.binary(min_size=1, max_size=60), st.integers(1, BLOCK), st.integers(-1, MOST - 2), st.booleans())
@settings(max_examples=300)
def test_any_bytes_give_ascending_documents_or_none(start, n, before, patched):
    data = np.zeros(len(start) + PAD, np.uint8)
    data[: len(start)] = np.frombuffer(start, np.uint8)
    if patched:  # a header of two bytes, with exceptions
        data[0] |= 0xE0
        data[1] |= 0xC0
    harmless(data, 0, n, before)


def test_random_bytes_are_harmless():
    chance = np.random.default_rng(8)
    for turn in range(3000):
        data = chance.integers(0, 256, PAD, dtype=np.uint8)
        if turn % 3 == 0:
            data[chance.random(PAD) < 0.7] = 0
        if turn % 2 == 0:
            data[0] |= 0xE0
        if turn % 5 == 0:
            data[:] = 255
            data[:6] = chance.integers(0, 256, 6)
        harmless(data, 0, int(chance.integers(1, BLOCK + 1)), int(chance.integers(-1, MOST - 1)))


def harmless(data, at, n, before):
    """Nothing outside is read or written, and documents ascend."""
    slots, tfs = (np.full(3 * BLOCK, -7, np.int32) for _ in range(2))
    last = blocks.decode_slots(data, at, n, before, slots, BLOCK)
    blocks.decode_tfs(data, at, n, tfs, BLOCK)
    for array in (slots, tfs):
        assert (array[:BLOCK] == -7).all() and (array[2 * BLOCK :] == -7).all()
    own = slots[BLOCK : BLOCK + n].astype(np.int64)
    assert last < 0 or (last == own[-1] and own[0] > before and (np.diff(own) > 0).all())
    assert (tfs[BLOCK : BLOCK + n] >= 0).all()
    found = [blocks.tf_at(data, at, n, i) for i in range(n)]
    assert min(found) >= 1 and max(found) <= 2**31


def test_one_compilation_each():
    """Called from here, too: with the types that kernels call them with."""
    encoded([1], [1])
    passes_through([1], [1])
    for kernel in KERNELS:
        assert len(kernel.signatures) == 1


def test_numbers_are_unpacked_and_added_up():
    """What the decoders are made of, beside Python's own arithmetic."""
    chance = np.random.default_rng(9)
    for width in range(17):
        values = chance.integers(0, 1 << width, 8)
        word = sum(int(value) << (width * i) for i, value in enumerate(values))
        data = np.frombuffer(bytearray(word.to_bytes(16, "little") + bytes(range(16))), np.uint8)
        found = np.empty(8, np.int32)
        UNPACKED(data, width, found)
        assert found.tolist() == values.tolist()
        total = ADDED(found, 41)
        assert found.tolist() == (41 + np.cumsum(values + 1)).tolist() and total == found[-1]


def _compiled():
    from llmds.kernels.compiling import njit

    @njit
    def unpacked(data, width, numbers):
        simd.unpack(data, 0, width, numbers, 0)

    @njit
    def added(numbers, before):
        return simd.add_up(numbers, 0, before)

    return unpacked, added


UNPACKED, ADDED = _compiled()
