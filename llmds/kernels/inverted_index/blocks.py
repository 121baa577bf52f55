"""Blocks of up to 128 postings, compressed: ascending documents as gaps, and term frequencies.

Both are packed at a width that suits most of a block; what does not fit is an exception, whose high bits are stored
separately (PFor: Zukowski, Heman, Nes and Boncz 2006; Yan, Ding and Suel 2009). A block is, in bytes:

    the width of gaps, | the width of frequencies << 5, if that is 6 or less and nothing is an exception;
    or the width of gaps | 7 << 5, and the width of frequencies, | 0x40 if gaps have exceptions, | 0x80 if they have
    for gaps, then frequencies, that have exceptions: how many, and the width of their high bits
    for both: low bits of all; places of exceptions, a byte each; their high bits

Packed numbers follow one another from the lowest bit on, each run of them ends with a whole byte. A gap is the
distance to the document before, less 1; frequencies are less 1, too.

Decoders are safe on any bytes, if `PAD` of them follow the place where a block begins. Arrays that a block is
decoded to must have BLOCK items from its place on, whatever its size.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..simd import add_up, unpack, word_at

BLOCK = 128
MOST = 1 << 30
_WIDTH, _LONG = 31, 7
_SMALL = 32  # bits that no exception makes fewer
_FAST = 16  # the widest that `unpack` takes
# Twice low bits, places and high bits, all as wide as can be, and a word that is read past them.
PAD = 6 + 2 * BLOCK * (4 + 1 + 4) + 64


@njit_no_nrt(cache=True)
def encode(slots, tfs, first, n, before, numbers, data, at):
    """Write the n postings from slots[first] and tfs[first] on to data[at:], which has room for PAD. Returns their end.

    slots int32 ascend from above `before` (-1 where there is none), tfs int32 are 1 or more. numbers int32
    (2 * BLOCK,) is scratch.
    """
    for i in range(np.uint64(n)):
        slot = np.int64(slots[np.uint64(first) + i])
        numbers[i], numbers[np.uint64(BLOCK) + i] = slot - before - 1, tfs[np.uint64(first) + i] - 1
        before = slot
    gaps, tfs_from = np.int64(0), np.int64(BLOCK)
    gap_width, gap_exceptions, gap_high = _fitting(numbers, gaps, n)
    tf_width, tf_exceptions, tf_high = _fitting(numbers, tfs_from, n)
    if tf_width < _LONG and gap_exceptions == 0 and tf_exceptions == 0:
        data[at] = gap_width | (tf_width << 5)
        at += 1
    else:
        data[at] = gap_width | (_LONG << 5)
        data[at + 1] = tf_width | (np.int64(gap_exceptions > 0) << 6) | (np.int64(tf_exceptions > 0) << 7)
        at += 2
    for exceptions, high in ((gap_exceptions, gap_high), (tf_exceptions, tf_high)):
        if exceptions > 0:
            data[at], data[at + 1] = exceptions, high
            at += 2
    at = _write(numbers, gaps, n, gap_width, gap_exceptions, gap_high, data, at)
    return _write(numbers, tfs_from, n, tf_width, tf_exceptions, tf_high, data, at)


@njit_no_nrt(cache=True)
def _write(numbers, base, n, width, exceptions, high, data, at):
    """Write low bits, places and high bits. Returns where they end."""
    at = _pack(numbers, base, n, width, data, at)
    if exceptions > 0:
        found = 0
        for i in range(n):
            more = numbers[base + i] >> width
            if more > 0:
                data[at + found], numbers[base + found] = i, more
                found += 1
        at = _pack(numbers, base, exceptions, high, data, at + exceptions)
    return at


@njit_no_nrt(cache=True)
def _header(data, at):
    """Return the width of gaps, whether they have exceptions, the same of frequencies, and where the rest begins."""
    width, tf_width = np.int64(data[at]) & _WIDTH, np.int64(data[at]) >> 5
    if tf_width < _LONG:
        return width, np.int64(0), tf_width, np.int64(0), at + 1
    second = np.int64(data[at + 1])
    return width, (second >> 6) & 1, second & _WIDTH, second >> 7, at + 2


@njit_no_nrt(cache=True)
def decode_slots(data, at, n, before, slots, row):
    """Fill slots[row:row + n] (int32) with the documents of the block of n at data[at:]. Returns the last one.

    before: the last document of the block before, -1 where there is none. Documents are below MOST. From bytes that
    are no block it decodes ascending numbers all the same, or returns a negative one.
    """
    width, patched, _, tf_patched, announced = _header(data, at)
    body = announced + 2 * (patched + tf_patched)
    excess = _unpack_all(data, body, n, width, slots, row)
    if patched:
        excess += _patch(data, announced, body + ((n * width + 7) >> 3), n, width, slots, row)
    if excess >= MOST:  # sums of int32 might overflow
        return np.int64(-1)
    for i in range(0, n & ~7, 8):
        before = add_up(slots, row + i, before)
    for i in range(n & ~7, n):
        before += np.int64(slots[row + i]) + 1
        slots[row + i] = before
    return before


@njit_no_nrt(cache=True)
def decode_tfs(data, at, n, tfs, row):
    """Fill tfs[row:row + n] (int32) with the frequencies of the block of n at data[at:], less 1."""
    width, patched, body, announced = _frequencies(data, at, n)
    _unpack_all(data, body, n, width, tfs, row)
    if patched:
        _patch(data, announced, body + ((n * width + 7) >> 3), n, width, tfs, row)


@njit_no_nrt(cache=True)
def tf_at(data, at, n, i):
    """Return the frequency of posting i of the block of n at data[at:]."""
    width, patched, body, announced = _frequencies(data, at, n)
    found = _number(data, body, i, width)
    if patched:
        places = body + ((n * width + 7) >> 3)
        exceptions, high = min(np.int64(data[announced]), n), np.int64(data[announced + 1]) & _WIDTH
        for j in range(exceptions):
            if data[places + j] == i:
                found |= (_number(data, places + exceptions, j, high) << width) & 0x7FFFFFFF
    return found + 1


@njit_no_nrt(cache=True)
def _frequencies(data, at, n):
    """Return the width of frequencies, if they have exceptions, where low bits begin, and where their number is."""
    width, patched, tf_width, tf_patched, announced = _header(data, at)
    body = announced + 2 * (patched + tf_patched) + ((n * width + 7) >> 3)
    if patched:
        exceptions, high = min(np.int64(data[announced]), n), np.int64(data[announced + 1]) & _WIDTH
        body += exceptions + ((exceptions * high + 7) >> 3)
    return tf_width, tf_patched, body, announced + 2 * patched


@njit_no_nrt(cache=True)
def _fitting(numbers, base, n):
    """Return the width, the number of exceptions and the width of their high bits that take the fewest bits."""
    largest = np.int64(0)
    first, last = np.uint64(base), np.uint64(base + n)  # an index that might be negative costs a test at every step
    for i in range(first, last):
        largest |= np.int64(numbers[i])
    most = _bits(largest)
    if n * most <= _SMALL:
        return most, np.int64(0), np.int64(0)
    best, width, exceptions = n * most, most, np.int64(0)
    for w in range(most - 1, -1, -1):
        beyond = np.int32(0)
        for i in range(first, last):
            beyond += np.int32((numbers[i] >> np.int32(w)) > 0)
        cost = n * w + beyond * (8 + most - w) + 16
        if cost < best:
            best, width, exceptions = cost, w, np.int64(beyond)
        if beyond * 8 > best:
            break
    return width, exceptions, most - width


@njit_no_nrt(cache=True)
def _bits(value):
    """Return how many bits a number of 0 to 2**31 - 1 has."""
    bits = np.int64(0)
    for step in (16, 8, 4, 2, 1):
        if value >> (bits + step) > 0:
            bits += step
    return bits + np.int64(value > 0)


@njit_no_nrt(cache=True)
def _pack(numbers, base, n, width, data, at):
    """Write the low `width` bits of n numbers. Returns where they end."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    word, filled = np.uint64(0), np.int64(0)
    for i in range(np.uint64(base), np.uint64(base + n)):
        word |= (np.uint64(numbers[i]) & mask) << np.uint64(filled)
        filled += width
        if filled >= 32:
            for byte in range(4):  # LLVM makes one store of these
                data[np.uint64(at + byte)] = np.uint8((word >> np.uint64(8 * byte)) & np.uint64(255))
            word >>= np.uint64(32)
            filled -= 32
            at += 4
    while filled > 0:
        data[at] = np.uint8(word & np.uint64(255))
        word >>= np.uint64(8)
        filled -= 8
        at += 1
    return at


@njit_no_nrt(cache=True)
def _unpack_all(data, at, n, width, numbers, row):
    """Fill numbers[row:row + n]. Returns the sum of those that may be large."""
    excess = np.int64(0)
    if width <= _FAST:
        for i in range(0, n, 8):
            unpack(data, at + (i >> 3) * width, width, numbers, row + i)
    else:
        for i in range(n):
            number = _number(data, at, i, width)
            numbers[row + i] = number
            excess += number
    return excess


@njit_no_nrt(cache=True)
def _number(data, at, i, width):
    """Return number i of those packed at data[at:]."""
    bit = i * width
    word = word_at(data, at + (bit >> 3)) >> np.uint64(bit & 7)
    return np.int64(word & ((np.uint64(1) << np.uint64(width)) - np.uint64(1)))


@njit_no_nrt(cache=True)
def _patch(data, announced, places, n, width, numbers, row):
    """Add the high bits of exceptions. Returns the sum of what was added."""
    excess = np.int64(0)
    exceptions, high = min(np.int64(data[announced]), n), np.int64(data[announced + 1]) & _WIDTH
    for j in range(exceptions):
        place = row + (np.int64(data[places + j]) & (BLOCK - 1))
        more = (_number(data, places + exceptions, j, high) << width) & 0x7FFFFFFF
        numbers[place] |= np.int32(more)
        excess += more
    return excess
