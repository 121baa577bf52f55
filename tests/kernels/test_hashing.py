"""Hashes stay what they are, and are well mixed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from llmds.kernels import hashing

MASK = 2**64 - 1


def model_mix(value):
    """The finaliser, in integers that never overflow."""
    h = value & MASK
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
    return h ^ (h >> 31)


def model_hash(data, seed):
    """The hash of bytes, likewise."""
    h = seed ^ (len(data) * 0x9E3779B97F4A7C15 & MASK)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        h = (h ^ int.from_bytes(data[at : at + 8], "little")) * 0xC6A4A7935BD1E995 & MASK
        h ^= h >> 29
    return model_mix((h ^ int.from_bytes(data[whole:], "little")) * 0xC6A4A7935BD1E995 & MASK)


@njit
def mixed(values, out):
    for i in range(values.shape[0]):
        out[i] = hashing.mix(values[i])


def mix(values):
    values = np.array(values, np.int64)
    out = np.empty(len(values), np.uint64)
    mixed(values, out)
    return out


def hash_bytes(data, seed=0, start=0, stop=None):
    array = np.frombuffer(bytearray(data), np.uint8)
    return int(hashing.hash_bytes(array, start, len(data) if stop is None else stop, np.uint64(seed)))


# Written down once: saved files rely on them.
@pytest.mark.parametrize(
    "value, expected",
    [
        (0, 0),
        (1, 0x5692161D100B05E5),
        (-1, 0xB4D055FCF2CBBD7B),
        (2**63 - 1, 0x5A682AFE7965DEBD),
        (-(2**63), 0x25C26EA579CEA98A),
    ],
)
def test_mixed_integers_never_change(value, expected):
    assert int(mix([value])[0]) == expected


@pytest.mark.parametrize(
    "data, seed, expected",
    [
        (b"", 0, 0),
        (b"", 1, 0xDDD805B8CBC69B1E),
        (b"a", 0, 0x9711696E69A362EE),
        (b"12345678", 0, 0xC60B5ECA81ED482C),
        (b"123456789", 0, 0xB6CF563CDB8D8637),
        ("東京 is a city of many characters".encode(), 7, 0x7DD7EEDEE26A4CF4),
        (bytes(range(256)), MASK, 0x36BC624BB16BA11E),
    ],
)
def test_hashed_bytes_never_change(data, seed, expected):
    assert hash_bytes(data, seed) == expected


def test_another_process_hashes_alike():
    code = (
        "import numpy as np; from llmds.kernels.hashing import hash_bytes;"
        "print(int(hash_bytes(np.frombuffer(bytearray(b'the same'), np.uint8), 0, 8, np.uint64(3))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == hash_bytes(b"the same", 3) == model_hash(b"the same", 3)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_mix_is_the_finaliser(values):
    assert mix(values).tolist() == [model_mix(value) for value in values]


def test_mix_is_one_to_one():
    """Its inverse, from the inverses of its steps, leads back."""

    def unmix(h):
        h ^= h >> 31 ^ h >> 62
        h = h * pow(0x94D049BB133111EB, -1, 2**64) & MASK
        h ^= h >> 27 ^ h >> 54
        h = h * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
        return h ^ h >> 30 ^ h >> 60

    values = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)
    assert [unmix(int(h)) for h in mix(values)] == [int(value) & MASK for value in values]


@given(st.binary(max_size=40), st.integers(0, MASK))
def test_hash_of_bytes_is_the_model_s(data, seed):
    assert hash_bytes(data, seed) == model_hash(data, seed)


@given(st.binary(max_size=30), st.binary(max_size=10), st.binary(max_size=10))
def test_only_the_bytes_between_start_and_stop_count(data, before, after):
    assert hash_bytes(before + data + after, 5, len(before), len(before) + len(data)) == hash_bytes(data, 5)


def test_zeros_of_different_lengths_differ():
    hashes = {hash_bytes(bytes(length)) for length in range(100)}
    assert len(hashes) == 100


def bits(hashes):
    return np.unpackbits(np.asarray(hashes, np.uint64).view(np.uint8)).reshape(len(hashes), 64)


def test_every_flipped_bit_of_an_integer_flips_every_bit_half_of_the_time():
    values = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 4000)
    plain = mix(values)
    for bit in range(64):
        flips = bits(plain ^ mix(values ^ np.array(1 << bit, np.uint64).view(np.int64))).mean(0)
        assert (abs(flips - 0.5) < 0.05).all(), bit  # six standard deviations


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24])
def test_every_flipped_bit_of_bytes_flips_every_bit_half_of_the_time(length):
    chance = np.random.default_rng(2)
    for at in range(8 * length):
        differences = []
        for _ in range(300):
            data = bytearray(chance.bytes(length))
            plain = hash_bytes(data)
            data[at // 8] ^= 1 << at % 8
            differences.append(plain ^ hash_bytes(data))
        assert (abs(bits(differences).mean(0) - 0.5) < 0.19).all(), at  # six and a half standard deviations


def test_counted_names_fill_buckets_evenly():
    hashes = np.array([hash_bytes(f"document {i}".encode()) for i in range(20000)], np.uint64)
    assert len(set(hashes.tolist())) == 20000
    for part in (hashes & np.uint64(255), hashes >> np.uint64(56)):
        counts = np.bincount(part.astype(np.int64), minlength=256)
        assert abs(counts - 20000 / 256).max() < 6 * (20000 / 256) ** 0.5


def test_seeds_give_hashes_of_their_own():
    assert len({hash_bytes(b"one text", seed) for seed in range(1000)}) == 1000
