"""A set of numbers 0..n-1 that finds its smallest member: a bit for each number, and levels of summary bits above.

    bits    uint64   level 0 has a bit for every number; each level above has one for every word of the level below,
                        set if that word is not 0; the last level is one word
    starts  int64    where each level begins in `bits`

`new` makes both; the caller owns them. Operations touch one word per level: O(log n) to the base of 64.
"""

import numpy as np

from . import simd
from .compiling import njit, njit_no_nrt

_ONE = np.uint64(1)


@njit(cache=True)
def new(n):
    """Return (bits, starts) of an empty set of numbers below n (1 or more)."""
    levels, words, total = 0, n, 0
    while levels == 0 or words > 1:
        words = (words + 63) >> 6
        total += words
        levels += 1
    starts = np.zeros(levels, np.int64)
    words = n
    for level in range(1, levels):
        words = (words + 63) >> 6
        starts[level] = starts[level - 1] + words
    return np.zeros(total, np.uint64), starts


@njit_no_nrt(cache=True)
def has(bits, number):
    """Return whether `number` is a member."""
    return (bits[number >> 6] >> np.uint64(number & 63)) & _ONE != 0


@njit_no_nrt(cache=True)
def put(bits, starts, number):
    """Add `number`."""
    for level in range(starts.shape[0]):
        word = starts[level] + (number >> 6)
        before = bits[word]
        bits[word] = before | (_ONE << np.uint64(number & 63))
        if before != 0:
            return
        number >>= 6


@njit_no_nrt(cache=True)
def drop(bits, starts, number):
    """Remove `number`, which must be a member."""
    for level in range(starts.shape[0]):
        word = starts[level] + (number >> 6)
        bits[word] &= ~(_ONE << np.uint64(number & 63))
        if bits[word] != 0:
            return
        number >>= 6


@njit_no_nrt(cache=True)
def smallest(bits, starts):
    """Return the smallest member of a set that is not empty."""
    number = np.int64(0)
    for level in range(starts.shape[0] - 1, -1, -1):
        number = (number << 6) | simd.lowest_bit(bits[starts[level] + number])
    return number
