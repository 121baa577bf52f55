"""Hashes that are the same in every process and on every machine."""

import numpy as np

from .compiling import njit_no_nrt
from .simd import word_at


@njit_no_nrt(cache=True, forceinline=True)
def mix(value):
    """Map a 64-bit integer (int64) to 64 well-mixed bits, uint64; one to one.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, constants of Stafford's variant 13).
    """
    h = np.uint64(value)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit_no_nrt(cache=True, forceinline=True)
def hash_bytes(data, start, stop, seed):
    """Return the 64-bit hash of data[start:stop] (uint8) under `seed` (uint64), uint64. O(stop - start).

    Eight bytes a round, each round a multiplication and a shift as in MurmurHash64 (Appleby), then `mix`. Not safe
    against an adversary: code that finds an entry by this hash compares the bytes too.
    """
    h = np.uint64(seed) ^ (np.uint64(stop - start) * np.uint64(0x9E3779B97F4A7C15))
    position = start
    if stop - start < 16 and start + 16 <= len(data):  # most words: no round or one, without a branch
        whole = np.uint64(0) - np.uint64((stop - start) >> 3)
        h ^= (h ^ _round(h, word_at(data, position))) & whole
        position += (stop - start) & 8
        rest = np.uint64(8 * (stop - position))
        return _closed(h, word_at(data, position) & ((np.uint64(1) << rest) - np.uint64(1)))
    while position + 8 <= stop:
        h = _round(h, word_at(data, position))
        position += 8
    word = np.uint64(0)
    for byte in range(stop - position):
        word |= np.uint64(data[position + byte]) << np.uint64(8 * byte)
    return _closed(h, word)


@njit_no_nrt(cache=True, forceinline=True)
def _round(h, word):
    """Mix eight bytes (uint64) into the hash `h`."""
    h = (h ^ word) * np.uint64(0xC6A4A7935BD1E995)
    return h ^ (h >> np.uint64(29))


@njit_no_nrt(cache=True, forceinline=True)
def _closed(h, word):
    """Mix the last bytes (uint64, 0 or more of them) into the hash `h`, and finish it."""
    return mix(np.int64((h ^ word) * np.uint64(0xC6A4A7935BD1E995)))
