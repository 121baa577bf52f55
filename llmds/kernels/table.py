"""Rows found by an int64 key, all in one int64 array: the arena of the small structures.

A call from Python costs time for every array passed, so a small structure is one array,
which `parts` cuts into three:

    head     int64 (HEAD,)        counts and settings; the slots from OWN on belong to the structure
    rows     int64 (capacity, c)  row[KEY] its key, row[BUCKET] its bucket (-1: a free row), the other columns
                                  belong to the structure; one row is one cache line or less
    buckets  int32 (power of 2)   the row found there, or -1; open addressing, linear probing,
                                  at most half full

A row holds the number of its bucket, so that it can be moved (`moved`) or removed (`remove`) without a look-up.
`take_row` gives rows and `free_row` takes them back (free rows are chained through KEY), unless the
structure keeps its rows dense by itself, as the heap does.

`resized` copies the arena into another one and retires the old one: whoever holds the old one must
take the new one before changing anything. The arena belongs to the class above, or to your own code.
"""

from typing import NamedTuple

import numpy as np

from .compiling import njit, njit_no_nrt
from .hashing import mix
from .simd import prefetch

HEAD = 16
CAPACITY, COLUMNS, RETIRED, COUNT, TOP, FREE, OWN = 0, 1, 2, 3, 4, 5, 6
KEY, BUCKET = 0, 1


class Arrays(NamedTuple):
    """The arrays of a structure that is one arena."""

    arena: np.ndarray


@njit(cache=True)
def new(capacity, columns):
    """Return an empty arena of `capacity` rows (0 or more) of `columns` int64 each (2 or more)."""
    size = HEAD + capacity * columns + (bucket_count(capacity) + 1) // 2
    arena = np.empty(size, np.int64)
    for slot in range(size):
        arena[slot] = 0 if slot < HEAD else -1  # both a free row and an empty bucket are -1
    arena[CAPACITY], arena[COLUMNS], arena[FREE] = capacity, columns, -1
    return arena


@njit_no_nrt(cache=True)
def bucket_count(capacity):
    """Return the number of buckets for `capacity` rows: the power of two that keeps them at most half full."""
    buckets = 2
    while buckets < 2 * capacity:
        buckets *= 2
    return buckets


@njit(cache=True, inline="always")
def parts(arena):
    """Return (head, rows, buckets), views of `arena`."""
    capacity, columns = arena[CAPACITY], arena[COLUMNS]
    stop = HEAD + capacity * columns
    return arena[:HEAD], arena[HEAD:stop].reshape(capacity, columns), arena[stop:].view(np.int32)


@njit_no_nrt(cache=True)
def find(rows, buckets, key):
    """Return the row of `key`, or -1. Expected O(1)."""
    mask = buckets.shape[0] - 1
    bucket = np.int64(mix(key)) & mask
    while True:
        row = np.int64(buckets[np.uint64(bucket)])
        if row < 0 or rows[np.uint64(row), KEY] == key:
            return row
        bucket = (bucket + 1) & mask


@njit_no_nrt(cache=True)
def prefetch_rows(rows, buckets, keys, columns):
    """Prefetch the first `columns` of the rows of keys, int64 (m,). For a few dozen keys. O(m)."""
    for e in range(keys.shape[0]):
        prefetch(buckets, home(buckets, keys[e]), np.int64(1))
    for e in range(keys.shape[0]):
        row = np.int64(buckets[home(buckets, keys[e])])  # mostly the right one; another one does no harm
        prefetch(rows, max(row, np.int64(0)) * rows.shape[1], columns)


@njit_no_nrt(cache=True)
def insert(rows, buckets, row, key):
    """Make `row` (free) the row of `key` (absent). Expected O(1)."""
    mask = buckets.shape[0] - 1
    bucket = np.int64(mix(key)) & mask
    while buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    buckets[bucket] = row
    rows[row, KEY] = key
    rows[row, BUCKET] = bucket


@njit_no_nrt(cache=True)
def home(buckets, key):
    """Return the bucket in which the search for `key` begins."""
    return np.int64(mix(key)) & (buckets.shape[0] - 1)


@njit_no_nrt(cache=True)
def claim(rows, buckets, row, key, bucket):
    """Return the row of `key`; or insert it as `row` (free) and return -1. Expected O(1).

    `bucket` is the `home` of `key`.
    """
    while buckets[bucket] >= 0:
        other = np.int64(buckets[bucket])
        if rows[other, KEY] == key:
            return other
        bucket = (bucket + 1) & (buckets.shape[0] - 1)
    buckets[bucket] = row
    rows[row, KEY] = key
    rows[row, BUCKET] = bucket
    return np.int64(-1)


@njit_no_nrt(cache=True)
def remove(rows, buckets, row):
    """Remove `row` from the buckets; its columns other than BUCKET are kept. Expected O(1).

    Later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R), so there are no tombstones.
    """
    mask = buckets.shape[0] - 1
    hole = rows[row, BUCKET]
    rows[row, BUCKET] = -1
    probe = hole
    while True:
        probe = (probe + 1) & mask
        other = np.int64(buckets[probe])
        if other < 0:
            break
        home = np.int64(mix(rows[other, KEY])) & mask
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            buckets[hole] = other
            rows[other, BUCKET] = hole
            hole = probe
    buckets[hole] = -1


@njit_no_nrt(cache=True)
def moved(rows, buckets, row):
    """Update the bucket of a row that was copied to `row`."""
    buckets[rows[row, BUCKET]] = row


@njit_no_nrt(cache=True)
def take_row(head, rows):
    """Return a free row and count it as used; -1 if there is none. O(1)."""
    row = head[FREE]
    if row >= 0:
        head[FREE] = rows[row, KEY]
    elif head[TOP] < rows.shape[0]:
        row = head[TOP]
        head[TOP] += 1
    else:
        return np.int64(-1)
    head[COUNT] += 1
    return row


@njit_no_nrt(cache=True)
def free_row(head, rows, row):
    """Make a row that `remove` has removed from the buckets free. O(1)."""
    rows[row, KEY] = head[FREE]
    head[FREE] = row
    head[COUNT] -= 1


@njit(cache=True)
def resized(arena, capacity):
    """Return the same rows in an arena of another capacity (at least head[TOP]), and retire the old one. O(capacity).

    Rows keep their numbers, so links between them stay valid.
    """
    columns = arena[COLUMNS]
    old_head, old_rows, _ = parts(arena)
    top = old_head[TOP]
    larger = new(capacity, columns)
    head, rows, buckets = parts(larger)
    for slot in range(COUNT, HEAD):
        head[slot] = old_head[slot]
    for row in range(top):
        for column in range(columns):  # a slice assignment would compile for seconds
            rows[row, column] = old_rows[row, column]
        if rows[row, BUCKET] >= 0:
            insert(rows, buckets, row, rows[row, KEY])
    old_head[RETIRED] = 1
    return larger


@njit_no_nrt(cache=True)
def well_formed(arena, columns):
    """Return whether `parts` can cut this array (any int64 array (n,)) into an arena of `columns` columns."""
    if arena.shape[0] < HEAD:
        return False
    capacity = arena[CAPACITY]
    return (
        0 <= capacity < 2**31
        and arena[COLUMNS] == columns
        and arena.shape[0] == HEAD + capacity * columns + (bucket_count(capacity) + 1) // 2
        and arena[RETIRED] == 0
        and 0 <= arena[COUNT] <= arena[TOP] <= capacity
    )


@njit_no_nrt(cache=True)
def first_fault(head, rows, buckets):
    """Return the first row that its bucket, a look-up or the chain of free rows does not lead to; -1 if none.

    -2: buckets or free rows are inconsistent. Safe on any contents of a `well_formed` arena.
    """
    live = 0
    for row in range(rows.shape[0]):
        bucket = rows[row, BUCKET]
        if bucket == -1:
            continue
        if row >= head[TOP] or bucket < 0 or bucket >= buckets.shape[0] or buckets[bucket] != row:
            return row
        live += 1
    used = 0
    for bucket in range(buckets.shape[0]):
        row = np.int64(buckets[bucket])
        if row == -1:
            continue
        if row < 0 or row >= rows.shape[0] or rows[row, BUCKET] != bucket:
            return np.int64(-2)
        used += 1
    if used != live or live != head[COUNT]:
        return np.int64(-2)
    for row in range(head[TOP]):
        if rows[row, BUCKET] >= 0 and find(rows, buckets, rows[row, KEY]) != row:
            return np.int64(row)
    row, free = head[FREE], 0
    while row != -1:
        if row < 0 or row >= head[TOP] or rows[row, BUCKET] != -1 or free > head[TOP] - live:
            return np.int64(-2)
        free += 1
        row = rows[row, KEY]
    if free != head[TOP] - live:
        return np.int64(-2)
    return np.int64(-1)
