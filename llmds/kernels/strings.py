"""Strings as UTF-8 bytes, many of them end to end in one array, and a hash table that finds them.

State, owned by the caller:
    data     uint8 (total,), the bytes of all strings
    offsets  int64 (n + 1,), string i is data[offsets[i]:offsets[i + 1]]
    buckets  int64 (power of 2,), -1 or a row, with the TAG_BITS high bits of the hash of its string above it;
             open addressing, linear probing, at most half full

A table may hold every `stride`-th of the packed strings: the string of row r is then number
stride * r, and the strings between belong to the caller. Look-ups compare bytes; the tags
avoid most comparisons that would fail, and let the buckets grow without reading a string. Nothing
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
    """Convert `offsets` in place from characters to bytes. O(total).

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
    """Return the high bits of the hash of data[start:stop], int64 in 0..2**TAG_BITS - 1. O(stop - start)."""
    return np.int64(hash_bytes(data, start, stop, np.uint64(0)) >> np.uint64(64 - TAG_BITS))


@njit(cache=True)
def find(buckets, data, offsets, stride, query, start, stop, query_tag):
    """Return the row whose string is query[start:stop] (uint8), or ABSENT. Expected O(stop - start).

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
    """Add `row` with the `tag` of its string (absent). Needs a free bucket. Expected O(1)."""
    mask = buckets.shape[0] - 1
    bucket = row_tag & mask
    while buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    buckets[bucket] = (row_tag << ROW_BITS) | row


@njit(cache=True)
def find_one(buckets, data, offsets, stride, query):
    """Return the row whose string is `query` (uint8 (n,)), or ABSENT. Expected O(n)."""
    start, stop = np.int64(0), query.shape[0]
    return find(buckets, data, offsets, stride, query, start, stop, tag(query, start, stop))


@njit(cache=True)
def find_many(buckets, data, offsets, stride, query, query_offsets, rows):
    """Fill rows (int64 (m,)) with the row of each of m packed strings, or ABSENT. O(total)."""
    for i in range(rows.shape[0]):
        start, stop = query_offsets[i], query_offsets[i + 1]
        rows[i] = find(buckets, data, offsets, stride, query, start, stop, tag(query, start, stop))


@njit(cache=True)
def first_repeat(buckets, data, offsets, first, stop):
    """Add packed strings first..stop-1 as rows of those numbers. Returns the first that was there already, or -1.

    Expected O(bytes). The strings before the repeated one stay in the table.
    """
    for row in range(first, stop):
        row_tag = tag(data, offsets[row], offsets[row + 1])
        if find(buckets, data, offsets, np.int64(1), data, offsets[row], offsets[row + 1], row_tag) >= 0:
            return np.int64(row)
        insert(buckets, row, row_tag)
    return np.int64(-1)


@njit(cache=True)
def rehash(buckets, larger):
    """Add all entries of `buckets` to `larger`, which is empty (-1 throughout). O(buckets)."""
    for bucket in range(buckets.shape[0]):
        if buckets[bucket] >= 0:
            insert(larger, buckets[bucket] & MAX_ROWS, buckets[bucket] >> ROW_BITS)


@njit(cache=True)
def first_fault(buckets, data, offsets, stride, count):
    """Return the first of `count` rows that a look-up does not find; -1 if none, -2 if offsets or buckets are wrong.

    Safe on any contents, if offsets has stride * count + 1 entries or more and the length of buckets is a power of two.
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
    """Return whether every offset (in 0..len(data)) is the start of a character of the UTF-8 `data`, or its end."""
    for entry in range(offsets.shape[0]):
        if offsets[entry] < data.shape[0] and data[offsets[entry]] & 0xC0 == 0x80:
            return False
    return True
