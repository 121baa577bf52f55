"""Immutable segments of an inverted index: how they are made, of growing postings or of two other segments.

A writer's state beside the arrays of a segment (`segments`), which it fills from their beginning on:

    cursor       int64 (6,)       bytes of DICTIONARY and POSTINGS, BLOCKS, TERMS and ENTRIES (postings) written;
                                  BUCKETS: how many rows of `buckets` are
    best         float32 (m,)     what `block_best` is made of
    numbers      int32 (2 * BLOCK,) scratch

Terms must come in the order of segments. Every call is bounded: it returns when `budget` postings are written, or when
room is lacking, and goes on where it was when called again.
"""

import numpy as np

from . import bm25_write
from .blocks import BLOCK, PAD, decode_slots, decode_tfs, encode
from .bm25 import FIRST, NEVER, SLOTS
from .compiling import leaf, njit
from .segments import POSTINGS as WHERE
from .segments import TERMS as BEFORE
from .segments import DICTIONARY, varint
from .simd import word_at
from .tokens import hash_term

POSTINGS, BLOCKS, TERMS, ENTRIES, BUCKETS, CURSOR = 1, 2, 3, 4, 5, 6
DONE, PAUSED, LACKS_DICTIONARY, LACKS_POSTINGS, LACKS_BLOCKS = 0, 1, 2, 3, 4
# Where a source of a merge stands: the next record, its postings, and what it says.
AT, LIST, HASH, WORD, LENGTH, DF, SIZE, SOURCE = 0, 1, 2, 3, 4, 5, 6, 7


@leaf(cache=True)
def put_varint(data, at, number):
    """Write a number of 0 to 2**56 - 1; where it ends."""
    while number >= 128:
        data[at] = np.uint8((number & 127) | 128)
        number >>= 7
        at += 1
    data[at] = np.uint8(number)
    return at + 1


@leaf(cache=True)
def _lacking(cursor, dictionary, postings, block_last, length, df):
    """What lacks room for one more term, or DONE."""
    blocks = (df + BLOCK - 1) >> 7
    if cursor[DICTIONARY] + length + 24 + PAD > dictionary.shape[0]:
        return np.int64(LACKS_DICTIONARY)
    if cursor[POSTINGS] + blocks * PAD + 4 + PAD > postings.shape[0]:
        return np.int64(LACKS_POSTINGS)
    if df > BLOCK and cursor[BLOCKS] + blocks > block_last.shape[0]:
        return np.int64(LACKS_BLOCKS)
    return np.int64(DONE)


@leaf(cache=True)
def _put(
    data, start, length, hashed, slots, tfs, df, lengths, base, slope, cursor, buckets, dictionary, postings, block_last,
    block_at, best, numbers,
):  # fmt: skip
    """Write a term, for which there is room: its bytes data[start:start + length], its df postings, ascending."""
    _open_buckets(cursor, buckets, hashed)
    begin = cursor[POSTINGS]
    at = begin
    if df <= BLOCK:
        at = encode(slots, tfs, np.int64(0), df, np.int64(-1), numbers, postings, at)
    else:
        block = cursor[BLOCKS]
        for byte in range(4):
            postings[at + byte] = np.uint8((block >> (8 * byte)) & 255)
        at += 4
        before = np.int64(-1)
        for first in range(0, df, BLOCK):
            n = min(df - first, np.int64(BLOCK))
            block_at[block] = at
            at = encode(slots, tfs, np.int64(first), n, before, numbers, postings, at)
            before = np.int64(slots[first + n - 1])
            block_last[block] = before
            smallest = np.float32(np.inf)
            for i in range(first, first + n):
                ratio = (base + slope * np.float32(lengths[slots[i]])) / np.float32(tfs[i])
                smallest = min(smallest, ratio)
            best[block] = smallest
            block += 1
        cursor[BLOCKS] = block
    cursor[POSTINGS] = at
    at_term = put_varint(dictionary, cursor[DICTIONARY], length)
    at_term = put_varint(dictionary, at_term, df)
    at_term = put_varint(dictionary, at_term, at - begin)
    for byte in range(length):
        dictionary[at_term + byte] = data[start + byte]
    cursor[DICTIONARY] = at_term + length
    cursor[TERMS] += 1
    cursor[ENTRIES] += df


@leaf(cache=True)
def _open_buckets(cursor, buckets, hashed):
    """Note, for all buckets up to that of a hash, that their terms begin here."""
    bits = np.int64(0)
    while (np.int64(1) << bits) < buckets.shape[0] - 1:
        bits += 1
    while cursor[BUCKETS] <= hashed >> (32 - bits):
        row = cursor[BUCKETS]
        buckets[row, DICTIONARY], buckets[row, WHERE] = cursor[DICTIONARY], cursor[POSTINGS]
        buckets[row, BEFORE] = cursor[TERMS]
        cursor[BUCKETS] = row + 1


@leaf(cache=True)
def finish(cursor, buckets):
    """Note where the last terms end."""
    while cursor[BUCKETS] < buckets.shape[0]:
        row = cursor[BUCKETS]
        buckets[row, DICTIONARY], buckets[row, WHERE] = cursor[DICTIONARY], cursor[POSTINGS]
        buckets[row, BEFORE] = cursor[TERMS]
        cursor[BUCKETS] = row + 1


@njit(cache=True, nogil=True)
def freeze(
    head, terms, tail_slots, tail_tfs, v_data, v_offsets, order, hashes, renumbered, ascending, reached, budget, slots,
    tfs, lengths, base, slope, cursor, buckets, dictionary, postings, block_last, block_at, best, numbers,
):  # fmt: skip
    """Write terms order[reached:] of growing postings (`bm25`); (how far it came, DONE, PAUSED or what lacks room).

    order int32: terms of the vocabulary (`tokens`) as segments have them, hashes uint32 those of each in that
    order. renumbered int32: the slot in the new segment of every old one, -1 where it is to be left out; `ascending` if
    those ascend. slots, tfs int32: scratch, an entry for each of the largest df. lengths: of the new slots.
    """
    written = np.int64(0)
    for i in range(reached, order.shape[0]):
        if written > budget:
            return np.int64(i), np.int64(PAUSED)
        term = np.int64(order[i])
        df = np.int64(0)
        chunk = np.int64(terms[term, FIRST])
        while chunk > 0:
            for at in range(chunk, chunk + np.int64(tail_tfs[chunk - 1])):
                if tail_slots[at] >= head[SLOTS]:
                    break
                slot = renumbered[tail_slots[at]]
                if slot >= 0:
                    slots[df], tfs[df] = slot, tail_tfs[at]
                    df += 1
            chunk = np.int64(tail_slots[chunk - 1])
        if df == 0:
            continue
        length = v_offsets[term + 1] - v_offsets[term]
        lacking = _lacking(cursor, dictionary, postings, block_last, length, df)
        if lacking != DONE:
            return np.int64(i), lacking
        if not ascending:
            sort(slots, tfs, df)
        _put(
            v_data, v_offsets[term], length, np.int64(hashes[i]), slots, tfs, df, lengths, base, slope, cursor,
            buckets, dictionary, postings, block_last, block_at, best, numbers,
        )  # fmt: skip
        written += df + 8
    finish(cursor, buckets)
    return np.int64(order.shape[0]), np.int64(DONE)


@leaf(cache=True)
def sort(slots, tfs, n):
    """Sort n postings by slot, in place: runs in order, then a heap (Williams 1964)."""
    start = n // 2
    end = n
    while end > 1:
        if start > 0:
            start -= 1
        else:
            end -= 1
            slots[0], slots[end] = slots[end], slots[0]
            tfs[0], tfs[end] = tfs[end], tfs[0]
        root = start
        while 2 * root + 1 < end:
            child = 2 * root + 1
            if child + 1 < end and slots[child] < slots[child + 1]:
                child += 1
            if slots[root] >= slots[child]:
                break
            slots[root], slots[child] = slots[child], slots[root]
            tfs[root], tfs[child] = tfs[child], tfs[root]
            root = child
