"""Count-Min Sketch with conservative update, in one int64 array.

    head      int64 (HEAD,)         WIDTH, DEPTH, SEED, TOTAL (the sum of all counts added)
    counters  int64 (DEPTH, WIDTH)  sketch[HEAD:], row after row

An item is a 64-bit hash (`hash_int`, `hash_string`), whose halves a and b give its counter in every row:
a + row * b mod 2**32, scaled to the width. Two hashes serve as well as `depth` independent ones (Kirsch and
Mitzenmacher 2008). Counters and total stop at MOST instead of overflowing.

No function checks its arguments: counts must be 0 or more.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..hashing import hash_bytes, mix

WIDTH, DEPTH, SEED, TOTAL, HEAD = 0, 1, 2, 3, 8
MOST = np.int64(2**63 - 1)
MAX_WIDTH, MAX_DEPTH = 2**31 - 1, 64


@njit_no_nrt(cache=True)
def hash_int(sketch, item):
    """Return the hash of an int64 item, uint64."""
    return mix(np.int64(mix(item) ^ mix(~sketch[SEED])))


@njit_no_nrt(cache=True)
def hash_string(sketch, data, start, stop):
    """Return the hash of the string data[start:stop] (uint8 array or bytes, UTF-8), uint64. O(stop - start)."""
    return hash_bytes(data, start, stop, mix(sketch[SEED]))


@njit_no_nrt(cache=True)
def add_hash(sketch, hashed, count):
    """Add `count` to the item of this hash: only counters below its new estimate rise (Estan and Varghese 2002).

    O(DEPTH).
    """
    width, depth = sketch[WIDTH], sketch[DEPTH]
    if depth == 4:
        _add_to_four(sketch, width, hashed, count)
    else:
        low = MOST
        for row in range(depth):
            low = min(low, sketch[_place(width, row, hashed)])
        raised = _sum(low, count)
        for row in range(depth):
            place = _place(width, row, hashed)
            sketch[place] = max(sketch[place], raised)
    sketch[TOTAL] = _sum(sketch[TOTAL], count)


@njit_no_nrt(cache=True)
def estimate_hash(sketch, hashed):
    """Return the estimate for the item of this hash: never below its true count. O(DEPTH)."""
    width = sketch[WIDTH]
    low = MOST
    for row in range(sketch[DEPTH]):
        low = min(low, sketch[_place(width, row, hashed)])
    return low


@njit_no_nrt(cache=True)
def add_int(sketch, item, count):
    """Add `count` to an int64 item. O(DEPTH)."""
    add_hash(sketch, hash_int(sketch, item), count)


@njit_no_nrt(cache=True)
def estimate_int(sketch, item):
    """Return the estimate for an int64 item. O(DEPTH)."""
    return estimate_hash(sketch, hash_int(sketch, item))


@njit_no_nrt(cache=True)
def add_string(sketch, data, count):
    """Add `count` to the string with these UTF-8 bytes. O(DEPTH + len(data))."""
    add_hash(sketch, hash_string(sketch, data, np.int64(0), np.int64(len(data))), count)


@njit_no_nrt(cache=True)
def estimate_string(sketch, data):
    """Return the estimate for the string with these UTF-8 bytes. O(DEPTH + len(data))."""
    return estimate_hash(sketch, hash_string(sketch, data, np.int64(0), np.int64(len(data))))


@njit_no_nrt(cache=True)
def add_ints(sketch, items, counts):
    """Add counts to int64 items, in order; counts (m,), or (1,) for all. O(m DEPTH)."""
    one = counts.shape[0] == 1
    for e in range(items.shape[0]):
        add_hash(sketch, hash_int(sketch, items[e]), counts[0 if one else e])


@njit_no_nrt(cache=True)
def add_strings(sketch, data, offsets, counts):
    """Add counts to the strings data[offsets[e]:offsets[e + 1]], in order; counts (m,), or (1,) for all."""
    one = counts.shape[0] == 1
    for e in range(offsets.shape[0] - 1):
        add_hash(sketch, hash_string(sketch, data, offsets[e], offsets[e + 1]), counts[0 if one else e])


@njit_no_nrt(cache=True)
def estimate_ints(sketch, items, estimates):
    """Fill estimates (m,) for int64 items (m,). O(m DEPTH)."""
    for e in range(items.shape[0]):
        estimates[e] = estimate_hash(sketch, hash_int(sketch, items[e]))


@njit_no_nrt(cache=True)
def estimate_strings(sketch, data, offsets, estimates):
    """Fill estimates (m,) for the strings data[offsets[e]:offsets[e + 1]]."""
    for e in range(offsets.shape[0] - 1):
        estimates[e] = estimate_hash(sketch, hash_string(sketch, data, offsets[e], offsets[e + 1]))


@njit_no_nrt(cache=True)
def merge(sketch, other):
    """Add all counts of `other` (same WIDTH, DEPTH and SEED). O(WIDTH DEPTH)."""
    for at in range(TOTAL, sketch.shape[0]):
        sketch[at] = _sum(sketch[at], other[at])


@njit_no_nrt(cache=True)
def decay(sketch):
    """Halve all counters and the total, rounding down; a total of MOST stays. O(WIDTH DEPTH)."""
    for at in range(HEAD, sketch.shape[0]):
        sketch[at] >>= 1
    if sketch[TOTAL] < MOST:
        sketch[TOTAL] >>= 1


@njit_no_nrt(cache=True)
def reset(sketch):
    """Set all counts to 0. O(WIDTH DEPTH)."""
    sketch[TOTAL:] = 0


@njit_no_nrt(cache=True)
def first_fault(sketch):
    """Return the first row with a negative counter, or with more than the total; -1 if none, -2 if the head is wrong.

    Safe on any int64 array.
    """
    if sketch.shape[0] < HEAD:
        return np.int64(-2)
    width, depth, total = sketch[WIDTH], sketch[DEPTH], sketch[TOTAL]
    if not (1 <= width <= MAX_WIDTH and 1 <= depth <= MAX_DEPTH and sketch.shape[0] == HEAD + width * depth):
        return np.int64(-2)
    if total < 0:
        return np.int64(-2)
    for row in range(depth):
        room = total
        for at in range(HEAD + row * width, HEAD + (row + 1) * width):
            if sketch[at] < 0 or (sketch[at] > room and total < MOST):
                return np.int64(row)
            room -= sketch[at] if total < MOST else 0
    return np.int64(-1)


@njit_no_nrt(cache=True, forceinline=True)
def _add_to_four(sketch, width, hashed, count):
    """Do `add_hash` where DEPTH is 4, in half the time: each place is computed once, and there is no loop."""
    first, second = _place(width, np.int64(0), hashed), _place(width, np.int64(1), hashed)
    third, fourth = _place(width, np.int64(2), hashed), _place(width, np.int64(3), hashed)
    a, b, c, d = sketch[first], sketch[second], sketch[third], sketch[fourth]
    raised = _sum(min(a, b, c, d), count)
    sketch[first], sketch[second] = max(a, raised), max(b, raised)
    sketch[third], sketch[fourth] = max(c, raised), max(d, raised)


@njit_no_nrt(cache=True, forceinline=True)
def _sum(a, b):
    """Return the sum of two counts, at most MOST."""
    return a + b if a <= MOST - b else MOST


@njit_no_nrt(cache=True, forceinline=True)
def _place(width, row, hashed):
    """Return the index in the sketch of the item's counter in `row`, uint64."""
    mixed = (hashed & np.uint64(0xFFFFFFFF)) + np.uint64(row) * ((hashed >> np.uint64(32)) | np.uint64(1))
    scaled = ((mixed & np.uint64(0xFFFFFFFF)) * np.uint64(width)) >> np.uint64(32)
    return np.uint64(HEAD) + np.uint64(row) * np.uint64(width) + scaled
