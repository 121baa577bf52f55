"""Radix sort of (key, number) pairs, least significant digit first: stable, O(n), without comparisons."""

import numpy as np

from .compiling import njit, njit_no_nrt

DIGIT, DIGITS = 11, 6  # 11 bits a pass: 2,048 places to write to, which fit the second-level cache
_VALUES = 1 << DIGIT


@njit_no_nrt(cache=True)
def ordered(value):
    """Return a uint64 that sorts as the float64 `value` does; -0.0 is equal to 0.0."""
    bits = np.float64(value + 0.0).view(np.int64)
    return np.uint64(bits) ^ (np.uint64(bits >> np.int64(63)) | np.uint64(1 << 63))


@njit(cache=True)
def sort(keys, items, spare_keys, spare_items):
    """Sort keys, uint64 (n,), and items, int32 (n,), by keys. Stable. O(n).

    The spare arrays have the same shapes and dtypes. Returns whether the sorted pairs are in the spare arrays; the
    contents of the other two are undefined.
    """
    counts = np.zeros((DIGITS, _VALUES), np.int32)
    for e in range(keys.shape[0]):
        for digit in range(DIGITS):
            counts[digit, _digit(keys[e], digit)] += 1
    swapped = False
    for digit in range(DIGITS):
        starts = counts[digit]
        if keys.shape[0] == 0 or starts[_digit(keys[0], digit)] == keys.shape[0]:  # the same in all: nothing moves
            continue
        if swapped:
            _scatter(spare_keys, spare_items, keys, items, starts, digit)
        else:
            _scatter(keys, items, spare_keys, spare_items, starts, digit)
        swapped = not swapped
    return swapped


@njit_no_nrt(cache=True)
def _scatter(keys, items, to_keys, to_items, starts, digit):
    """Write the pairs to their places by one digit; `starts` holds the counts of its values, and is used up."""
    total = np.int32(0)
    for value in range(_VALUES):
        count = starts[value]
        starts[value] = total
        total += count
    for e in range(keys.shape[0]):
        value = _digit(keys[e], digit)
        place = starts[value]
        starts[value] = place + 1
        to_keys[place], to_items[place] = keys[e], items[e]


@njit_no_nrt(cache=True, forceinline=True)
def _digit(key, digit):
    """Return a digit of a key, int64."""
    return np.int64((key >> np.uint64(digit * DIGIT)) & np.uint64(_VALUES - 1))
