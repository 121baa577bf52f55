"""Strings as UTF-8 bytes, many of them end to end in one array, and a table that finds them again.

State, owned by the caller:
    data     uint8 (total,), the bytes of all strings
    offsets  int64 (n + 1,), string i is data[offsets[i]:offsets[i + 1]]
    buckets  int64 (power of 2,), -1 or a row with the TAG_BITS high bits of its string's hash above it;
             open addressing, linear probing, at most half full

A table's strings may be every `stride`-th one of the packed strings: the string of row r is then number
stride * r, and what lies between belongs to whoever put it there. Look-ups compare bytes; the tags
save most comparisons that would fail, and let the buckets grow without reading a string. Nothing
is ever removed.
"""

import numpy as np

from .compiling import njit
from .hashing import hash_bytes

MAX_ROWS = 2**31 - 1
ROW_BITS, TAG_BITS = 31, 32
ABSENT = -1


@njit(cache=True)
def characters_to_bytes(data, offsets):
    """Turn `offsets`, counted in characters, into offsets counted in bytes, in place. O(total).

    `data` must be well-formed UTF-8 of exactly offsets[-1] characters.
    """
    character = 0
    entry = 0
    for position in range(data.shape[0]):
        if data[position] & 0xC0 != 0x80:  # the first byte of a character
            while entry < offsets.shape[0] and offsets[entry] == character:
                offsets[entry] = position
                entry += 1
            character += 1
    while entry < offsets.shape[0]:
        offsets[entry] = data.shape[0]
        entry += 1


@njit(cache=True)
def tag(data, start, stop):
    """The high bits of the hash of data[start:stop], int64 in 0..2**TAG_BITS - 1. O(stop - start)."""
    return np.int64(hash_bytes(data, start, stop, np.uint64(0)) >> np.uint64(64 - TAG_BITS))


@njit(cache=True)
def find(buckets, data, offsets, stride, query, start, stop, query_tag):
    """The row whose string is query[start:stop] (uint8), or ABSENT. Expected O(stop - start).

    `query_tag` is `tag(query, start, stop)`.
    """
    mask = buckets.shape[0] - 1
    bucket = query_tag & mask
    while buckets[bucket] >= 0:
        if buckets[bucket] >> ROW_BITS == query_tag:
            row = buckets[bucket] & MAX_ROWS
            first = offsets[stride * row]
            if offsets[stride * row + 1] - first == stop - start:
                position = start
                while position < stop and query[position] == data[first + position - start]:
                    position += 1
                if position == stop:
                    return row
        bucket = (bucket + 1) & mask
    return np.int64(ABSENT)


@njit(cache=True)
def insert(buckets, row, row_tag):
    """Make the string of `row` (absent), whose `tag` is `row_tag`, found. Needs a free bucket. Expected O(1)."""
    mask = buckets.shape[0] - 1
    bucket = row_tag & mask
    while buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    buckets[bucket] = (row_tag << ROW_BITS) | row


@njit(cache=True)
def find_one(buckets, data, offsets, stride, query):
    """The row whose string is `query` (uint8 (n,)), or ABSENT. Expected O(n)."""
    start, stop = np.int64(0), query.shape[0]
    return find(buckets, data, offsets, stride, query, start, stop, tag(query, start, stop))


@njit(cache=True)
def find_many(buckets, data, offsets, stride, query, query_offsets, rows):
    """rows[i] (int64 (m,)) becomes the row of the i-th of m packed strings, or ABSENT. O(total)."""
    for i in range(rows.shape[0]):
        start, stop = query_offsets[i], query_offsets[i + 1]
        rows[i] = find(buckets, data, offsets, stride, query, start, stop, tag(query, start, stop))


@njit(cache=True)
def first_repeat(buckets, data, offsets, first, stop):
    """Enter packed strings first..stop-1 as rows of those numbers. The first that was there already, or -1.

    Expected O(bytes). What came before the repeated one stays entered.
    """
    for row in range(first, stop):
        row_tag = tag(data, offsets[row], offsets[row + 1])
        if find(buckets, data, offsets, np.int64(1), data, offsets[row], offsets[row + 1], row_tag) >= 0:
            return np.int64(row)
        insert(buckets, row, row_tag)
    return np.int64(-1)


@njit(cache=True)
def rehash(buckets, larger):
    """Enter all of `buckets` into `larger`, which is empty (-1 throughout). O(buckets)."""
    for bucket in range(buckets.shape[0]):
        if buckets[bucket] >= 0:
            insert(larger, buckets[bucket] & MAX_ROWS, buckets[bucket] >> ROW_BITS)


@njit(cache=True)
def first_fault(buckets, data, offsets, stride, count):
    """First of `count` rows that a look-up misses; -1 if there is none, -2 if offsets or buckets are unsound.

    Safe on any contents, if offsets has stride * count + 1 entries or more and buckets a power of two.
    """
    if offsets[0] != 0:
        return np.int64(-2)
    for entry in range(stride * count):
        if offsets[entry + 1] < offsets[entry] or offsets[entry + 1] > data.shape[0]:
            return np.int64(-2)
    used = 0
    for bucket in range(buckets.shape[0]):
        entry = buckets[bucket]
        if entry < -1 or (entry >= 0 and entry & MAX_ROWS >= count):
            return np.int64(-2)
        used += entry >= 0
    if used != count or 2 * count > buckets.shape[0]:
        return np.int64(-2)
    for row in range(count):
        start, stop = offsets[stride * row], offsets[stride * row + 1]
        if find(buckets, data, offsets, stride, data, start, stop, tag(data, start, stop)) != row:
            return np.int64(row)
    return np.int64(-1)


@njit(cache=True)
def splits_no_character(data, offsets):
    """Whether every offset (within 0..len(data)) is where a character of the UTF-8 `data` begins, or its end."""
    for entry in range(offsets.shape[0]):
        if offsets[entry] < data.shape[0] and data[offsets[entry]] & 0xC0 == 0x80:
            return False
    return True
