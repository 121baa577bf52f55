"""Blocks of up to 128 postings, compressed: ascending documents as gaps, and term frequencies.

Both are packed at a width that suits most of a block; what does not fit is an exception, whose high bits lie
apart (PFor: Zukowski, Heman, Nes and Boncz 2006; Yan, Ding and Suel 2009). A block is, in bytes:

    the width of gaps, | 0x80 if there are exceptions; the same for frequencies
    for each that has exceptions: how many, and the width of their high bits
    for each: low bits of all; places of exceptions, a byte each; their high bits

Packed numbers follow one another from the lowest bit on, each run of them ends with a whole byte. A gap is the
distance to the document before, less 1; frequencies are less 1, too.

Decoders are safe on any bytes, if `PAD` of them follow the place where a block begins. Arrays that a block is
decoded to have BLOCK items from its place on, whatever its size.
"""

import numpy as np

from .compiling import leaf
from .simd import add_up, unpack, word_at

BLOCK = 128
MOST = 1 << 30
_WIDTH, _PATCHED = 31, 0x80
_FAST = 16  # the widest that `unpack` takes
# Twice low bits, places and high bits, all as wide as can be, and a word that is read past them.
PAD = 6 + 2 * BLOCK * (4 + 1 + 4) + 64


@leaf(cache=True)
def encode(slots, tfs, first, n, before, numbers, data, at):
    """Write the n postings from slots[first] and tfs[first] on to data[at:], which has room for PAD. Where they end.

    slots int32 ascend from above `before` (-1 where there is none), tfs int32 are 1 or more. numbers int32
    (2 * BLOCK,) is scratch.
    """
    for i in range(n):
        slot = np.int64(slots[first + i])
        numbers[i], numbers[BLOCK + i] = slot - before - 1, tfs[first + i] - 1
        before = slot
    header = at
    at += 2
    for part in range(2):
        width, exceptions, high = _fitting(numbers, part * BLOCK, n)
        data[header + part] = width
        if exceptions > 0:
            data[header + part] = width | _PATCHED
            data[at], data[at + 1] = exceptions, high
            at += 2
    for part in range(2):
        base, width = part * BLOCK, np.int64(data[header + part]) & _WIDTH
        at = _pack(numbers, base, n, width, data, at)
        if data[header + part] & _PATCHED:
            exceptions, largest = np.int64(0), np.int64(0)
            for i in range(n):
                if numbers[base + i] >> width > 0:
                    data[at + exceptions] = i
                    numbers[base + exceptions] = numbers[base + i] >> width
                    largest = max(largest, numbers[base + exceptions])
                    exceptions += 1
            at = _pack(numbers, base, exceptions, _bits(largest), data, at + exceptions)
    return at


@leaf(cache=True)
def decode_slots(data, at, n, before, slots, row):
    """Fill slots[row:row + n] (int32) with the documents of the block of n at data[at:]. The last one.

    before: the last document of the block before, -1 where there is none. Documents are below MOST. Of other bytes
    come ascending numbers all the same, or the last one is negative.
    """
    head, patched = np.int64(data[at]), np.int64(data[at]) >> 7
    body = at + 2 + 2 * patched + 2 * (np.int64(data[at + 1]) >> 7)
    width = head & _WIDTH
    excess = _unpack_all(data, body, n, width, slots, row)
    if patched:
        excess += _patch(data, at + 2, body + ((n * width + 7) >> 3), n, width, slots, row)
    if excess >= MOST:  # sums of int32 might come round again
        return np.int64(-1)
    for i in range(0, n & ~7, 8):
        before = add_up(slots, row + i, before)
    for i in range(n & ~7, n):
        before += np.int64(slots[row + i]) + 1
        slots[row + i] = before
    return before


@leaf(cache=True)
def decode_tfs(data, at, n, tfs, row):
    """Fill tfs[row:row + n] (int32) with the frequencies of the block of n at data[at:], less 1."""
    head, patched = np.int64(data[at + 1]), np.int64(data[at + 1]) >> 7
    body, after = _frequencies(data, at, n)
    width = head & _WIDTH
    _unpack_all(data, body, n, width, tfs, row)
    if patched:
        _patch(data, after, body + ((n * width + 7) >> 3), n, width, tfs, row)


@leaf(cache=True)
def tf_at(data, at, n, i):
    """The frequency of posting i of the block of n at data[at:]."""
    head, patched = np.int64(data[at + 1]), np.int64(data[at + 1]) >> 7
    body, after = _frequencies(data, at, n)
    width = head & _WIDTH
    found = _number(data, body, i, width)
    if patched:
        places = body + ((n * width + 7) >> 3)
        exceptions, high = min(np.int64(data[after]), n), np.int64(data[after + 1]) & _WIDTH
        for j in range(exceptions):
            if data[places + j] == i:
                found |= (_number(data, places + exceptions, j, high) << width) & 0x7FFFFFFF
    return found + 1


@leaf(cache=True)
def _frequencies(data, at, n):
    """Where the frequencies' low bits begin, and where the number of their exceptions stands."""
    head, patched = np.int64(data[at]), np.int64(data[at]) >> 7
    after = at + 2 + 2 * patched
    body = after + 2 * (np.int64(data[at + 1]) >> 7) + ((n * (head & _WIDTH) + 7) >> 3)
    if patched:
        exceptions, high = min(np.int64(data[at + 2]), n), np.int64(data[at + 3]) & _WIDTH
        body += exceptions + ((exceptions * high + 7) >> 3)
    return body, after


@leaf(cache=True)
def _fitting(numbers, base, n):
    """(width, exceptions, width of their high bits) that take the fewest bits."""
    largest = np.int64(0)
    for i in range(n):
        largest |= np.int64(numbers[base + i])
    most = _bits(largest)
    best, width, exceptions = n * most, most, np.int64(0)
    for w in range(most - 1, -1, -1):
        beyond = np.int32(0)
        for i in range(n):
            beyond += np.int32((numbers[base + i] >> np.int32(w)) > 0)
        cost = n * w + beyond * (8 + most - w) + 16
        if cost < best:
            best, width, exceptions = cost, w, np.int64(beyond)
        if beyond * 8 > best:
            break
    return width, exceptions, most - width


@leaf(cache=True)
def _bits(value):
    bits = np.int64(0)
    while value >> bits > 0:
        bits += 1
    return bits


@leaf(cache=True)
def _pack(numbers, base, n, width, data, at):
    """Write the low `width` bits of n numbers; where they end."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    word, filled = np.uint64(0), np.int64(0)
    for i in range(n):
        word |= (np.uint64(numbers[base + i]) & mask) << np.uint64(filled)
        filled += width
        while filled >= 8:
            data[at] = np.uint8(word & np.uint64(255))
            word >>= np.uint64(8)
            filled -= 8
            at += 1
    if filled > 0:
        data[at] = np.uint8(word)
        at += 1
    return at


@leaf(cache=True)
def _unpack_all(data, at, n, width, numbers, row):
    """Fill numbers[row:row + n]; the sum of those that may be large."""
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


@leaf(cache=True)
def _number(data, at, i, width):
    """Number i of those packed at data[at:]."""
    bit = i * width
    word = word_at(data, at + (bit >> 3)) >> np.uint64(bit & 7)
    return np.int64(word & ((np.uint64(1) << np.uint64(width)) - np.uint64(1)))


@leaf(cache=True)
def _patch(data, announced, places, n, width, numbers, row):
    """Add the high bits of exceptions; the sum of what was added."""
    excess = np.int64(0)
    exceptions, high = min(np.int64(data[announced]), n), np.int64(data[announced + 1]) & _WIDTH
    for j in range(exceptions):
        place = row + (np.int64(data[places + j]) & (BLOCK - 1))
        more = (_number(data, places + exceptions, j, high) << width) & 0x7FFFFFFF
        numbers[place] |= np.int32(more)
        excess += more
    return excess
