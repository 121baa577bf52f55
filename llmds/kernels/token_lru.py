"""Items with a weight, in the order of their last use, under a budget, in one arena (see `table`).

    row[KEY], row[BUCKET]   as in `table`; BUCKET is OUTSIDE where the caller finds the row by other means
                            (a key that is not an int64)
    row[WEIGHT]             tokens >= 0 where the caller keeps a value beside the row; ~tokens < 0 where
                            the token count itself is the value
    OLDER, NEWER            neighbours in the recency list: two int32 in row[LINKS]

The list is a ring of nodes, so that linking needs no branch: row r is node r + FIRST, and node RING, which lies
in the head, is between the newest and the oldest.

TOTAL never exceeds BUDGET, and BUDGET never MOST. A caller that keeps values stores one at `next_row`
before it calls `put`, which puts the item into exactly that row: at no moment does a key lead to the
value of another item. Items that leave are recorded in `left`, int64 (n, RECORD), n >= 2:

    left[ROW], left[ITEM], left[TOKENS]   the row, its KEY and its WEIGHT
    left[WHY]                             EVICTED, or REPLACED (a new value under its key); + UNKEYED for OUTSIDE rows

The row itself is free by then; the caller must drop the value there. A count that replaces a count
is not recorded. Codes: OK; MORE: `left` is full, process its records and call again;
FULL as in `heap`. For both, the new item is not in the arena yet.
"""

import numpy as np

from . import table
from .compiling import njit, njit_no_nrt
from .table import BUCKET, COUNT, FREE, HEAD, KEY, OWN, RETIRED, TOP

OK, MORE, FULL = 0, 1, 2
ABSENT, STALE = -1, -2
MOST = 2**62
OUTSIDE = -2

BUDGET, TOTAL, HITS, MISSES, EVICTIONS = OWN, OWN + 1, OWN + 2, OWN + 3, OWN + 4
# 32 bytes a row: half a cache line, so that one miss brings key, weight and links.
WEIGHT, LINKS, COLUMNS = 2, 3, np.int64(4)
OLDER, NEWER = 2 * LINKS, 2 * LINKS + 1
FIRST = HEAD // COLUMNS
RING = FIRST - 1  # its links are the head's last slot
ROW, ITEM, TOKENS, WHY, RECORD = 0, 1, 2, 3, 4
EVICTED, REPLACED, UNKEYED = np.int64(0), np.int64(1), 2
BAD_TABLE, BAD_ORDER, BAD_TOKENS = 1, 2, 3
# Typed, since Numba compiles a helper again for each literal it is called with.
_ZERO, _INSIDE, _OUTSIDE = np.int64(0), np.int64(0), np.int64(1)


@njit(cache=True)
def new(capacity, budget):
    """Return an empty arena of `capacity` rows for at most `budget` (0..MOST) tokens."""
    lru = table.new(capacity, COLUMNS)
    lru[BUDGET] = budget
    _empty_ring(_ring(lru))
    return lru


@njit_no_nrt(cache=True)
def next_row(lru):
    """Return the row that the next new item will have, -1 if there is no room. O(1)."""
    head, rows, _ = table.parts(lru)
    return _next_row(head, rows)


@njit_no_nrt(cache=True)
def get(lru, key):
    """Find `key` and make it the newest. Expected O(1).

    Returns its row; -3 - tokens if the count is its value; ABSENT; or STALE if the arena is retired.
    """
    head, rows, buckets = table.parts(lru)
    if head[RETIRED]:
        return np.int64(STALE)
    row = _get(head, rows, _ring(lru), buckets, key)
    return row if row < 0 or rows[row, WEIGHT] >= 0 else rows[row, WEIGHT] - 2


@njit_no_nrt(cache=True)
def find(lru, key):
    """Find `key` and return as `get` does, without changing anything. Expected O(1)."""
    _, rows, buckets = table.parts(lru)
    row = table.find(rows, buckets, key)
    return row if row < 0 or rows[row, WEIGHT] >= 0 else rows[row, WEIGHT] - 2


@njit_no_nrt(cache=True)
def get_outside(lru, row):
    """Make the OUTSIDE row `row` (-1: unknown) the newest. Returns whether it is present. O(1)."""
    head, rows, _ = table.parts(lru)
    if row < 0 or rows[row, BUCKET] != OUTSIDE:
        head[MISSES] += 1
        return False
    _touch(_ring(lru), row)
    head[HITS] += 1
    return True


@njit_no_nrt(cache=True)
def put(lru, key, weight, left):
    """Add or replace `key`, whose value the caller has stored at `next_row`; the oldest leave until it fits.

    Returns (code, records in `left`, the next row now, row of the first record). An item of more than BUDGET tokens
    is not added, and only its predecessor leaves. Expected O(1 + records).
    """
    head, rows, buckets = table.parts(lru)
    at = table.find(rows, buckets, key)
    code, n = _put(head, rows, _ring(lru), buckets, at, key, weight, _INSIDE, left, _ZERO)
    return code, n, _next_row(head, rows), left[0, ROW]


@njit_no_nrt(cache=True)
def put_outside(lru, at, weight, left):
    """Put as `put` does for an OUTSIDE key, now in row `at` (-1: absent). O(1 + records)."""
    head, rows, buckets = table.parts(lru)
    code, n = _put(head, rows, _ring(lru), buckets, at, _ZERO, weight, _OUTSIDE, left, _ZERO)
    return code, n, _next_row(head, rows), left[0, ROW]


@njit_no_nrt(cache=True)
def put_many(lru, keys, tokens, start, left):
    """Put keys[start:] with their counts as values, shapes (m,). Returns (code, records, where it stopped). O(m)."""
    head, rows, buckets = table.parts(lru)
    links = _ring(lru)
    n = _ZERO
    if head[RETIRED]:
        return FULL, n, start
    for e in range(start, keys.shape[0]):
        at = table.find(rows, buckets, keys[e])
        if at >= 0 and rows[at, WEIGHT] == ~tokens[e]:  # only its recency changes
            _touch(links, at)
            continue
        code, n = _put(head, rows, links, buckets, at, keys[e], ~tokens[e], _INSIDE, left, n)
        if code != OK:
            return code, n, e
    return OK, n, keys.shape[0]


@njit_no_nrt(cache=True)
def get_many(lru, keys, hits):
    """Get all keys (m,) in order, and fill hits (m,), bool. Returns False if the arena is retired. O(m)."""
    head, rows, buckets = table.parts(lru)
    if head[RETIRED]:
        return False
    links = _ring(lru)
    count = 0
    for e in range(keys.shape[0]):
        row = table.find(rows, buckets, keys[e])
        hits[e] = row >= 0
        if row >= 0:
            _touch(links, row)
            count += 1
    head[HITS] += count
    head[MISSES] += keys.shape[0] - count
    return True


@njit_no_nrt(cache=True)
def evict(lru, target, left):
    """Evict the oldest until TOTAL <= target, recorded in `left`. Returns (OK or MORE, records). O(records)."""
    head, rows, buckets = table.parts(lru)
    links = _ring(lru)
    n = _ZERO
    while head[TOTAL] > target:
        if n == left.shape[0]:
            return MORE, n
        n = _leave(head, rows, links, buckets, _oldest(links), EVICTED, left, n)
    return OK, n


@njit_no_nrt(cache=True)
def take(lru, row, left):
    """Remove the item at `row`, recorded in left[0] as REPLACED. O(1)."""
    head, rows, buckets = table.parts(lru)
    _leave(head, rows, _ring(lru), buckets, row, REPLACED, left, _ZERO)


@njit_no_nrt(cache=True)
def clear(lru):
    """Remove all items, unrecorded, and set hits, misses and evictions to 0. O(capacity)."""
    head, rows, buckets = table.parts(lru)
    for row in range(rows.shape[0]):
        rows[row, BUCKET] = -1
    buckets[:] = -1
    head[COUNT] = head[TOP] = 0
    head[FREE] = -1
    _empty_ring(_ring(lru))
    head[TOTAL] = head[HITS] = head[MISSES] = head[EVICTIONS] = 0


@njit_no_nrt(cache=True)
def row_of(lru, key):
    """Return the row of `key`, or -1. Expected O(1)."""
    _, rows, buckets = table.parts(lru)
    return table.find(rows, buckets, key)


@njit(cache=True)
def oldest_first(lru):
    """Return a record (ROW, ITEM, TOKENS, WHY) for each item in order of last use: int64 (COUNT, RECORD). O(COUNT)."""
    head, rows, _ = table.parts(lru)
    links = _ring(lru)
    items = np.empty((head[COUNT], RECORD), np.int64)
    row = _oldest(links)
    for e in range(items.shape[0]):
        items[e, ROW], items[e, ITEM], items[e, TOKENS] = row, rows[row, KEY], rows[row, WEIGHT]
        items[e, WHY] = UNKEYED if rows[row, BUCKET] == OUTSIDE else EVICTED
        row = np.int64(links[row + FIRST, NEWER]) - FIRST
    return items


@njit(cache=True)
def packed(lru):
    """Return the same items in an arena without spare rows, the e-th oldest in row e. Retires the old one. O(COUNT)."""
    old_head, old_rows, _ = table.parts(lru)
    old_links = _ring(lru)
    count = old_head[COUNT]
    tight = new(count, old_head[BUDGET])
    head, rows, buckets = table.parts(tight)
    links = _ring(tight)
    for slot in (TOTAL, HITS, MISSES, EVICTIONS):
        head[slot] = old_head[slot]
    head[COUNT] = head[TOP] = count
    row = _oldest(old_links)
    for e in range(count):
        if old_rows[row, BUCKET] == OUTSIDE:
            rows[e, KEY], rows[e, BUCKET] = 0, OUTSIDE
        else:
            table.insert(rows, buckets, e, old_rows[row, KEY])
        rows[e, WEIGHT] = old_rows[row, WEIGHT]
        _append(links, e)
        row = np.int64(old_links[row + FIRST, NEWER]) - FIRST
    old_head[RETIRED] = 1
    return tight


@njit(cache=True)
def first_fault(lru):
    """Return which part is damaged, BAD_TABLE, BAD_ORDER or BAD_TOKENS; 0 if none. O(capacity).

    Safe on any contents of a `table.well_formed` arena.
    """
    draft = lru.copy()
    head, rows, buckets = table.parts(draft)
    for row in range(head[TOP]):  # table.first_fault does not know OUTSIDE rows: they are made free for it
        if rows[row, BUCKET] == OUTSIDE:
            rows[row, BUCKET] = -1
            table.free_row(head, rows, row)
    if table.first_fault(head, rows, buckets) != -1:
        return BAD_TABLE
    head, rows, buckets = table.parts(lru)
    links = _ring(lru)
    if not 0 <= head[BUDGET] <= MOST or min(head[HITS], head[MISSES], head[EVICTIONS]) < 0:
        return BAD_TOKENS
    total, count, older, node = np.int64(0), 0, np.int64(RING), np.int64(links[RING, NEWER])
    while node != RING:
        row = node - FIRST
        if not 0 <= row < head[TOP] or rows[row, BUCKET] == -1 or links[node, OLDER] != older or count == head[COUNT]:
            return BAD_ORDER
        tokens = _tokens(rows[row, WEIGHT])
        if tokens > head[BUDGET] - total:
            return BAD_TOKENS
        total += tokens
        count += 1
        older = node
        node = np.int64(links[node, NEWER])
    if count != head[COUNT] or links[RING, OLDER] != older:
        return BAD_ORDER
    return 0 if total == head[TOTAL] else BAD_TOKENS


@njit_no_nrt(cache=True)
def _tokens(weight):
    """Return the tokens of a weight."""
    return weight if weight >= 0 else ~weight


@njit_no_nrt(cache=True)
def _next_row(head, rows):
    """Do `next_row` on the parts of an arena."""
    if head[FREE] >= 0:
        return head[FREE]
    return head[TOP] if head[TOP] < rows.shape[0] else np.int64(-1)


@njit(cache=True, inline="always")
def _ring(lru):
    """Return the nodes, a view of head and rows as int32."""
    return lru[: HEAD + lru[table.CAPACITY] * COLUMNS].view(np.int32).reshape(FIRST + lru[table.CAPACITY], 2 * COLUMNS)


@njit_no_nrt(cache=True)
def _empty_ring(links):
    links[RING, OLDER] = links[RING, NEWER] = RING


@njit_no_nrt(cache=True)
def _oldest(links):
    return np.int64(links[RING, NEWER]) - FIRST


@njit_no_nrt(cache=True)
def _unlink(links, row):
    older, newer = np.uint64(links[row + FIRST, OLDER]), np.uint64(links[row + FIRST, NEWER])
    links[older, NEWER] = newer
    links[newer, OLDER] = older


@njit_no_nrt(cache=True)
def _append(links, row):
    newest = np.uint64(links[RING, OLDER])
    links[row + FIRST, OLDER], links[row + FIRST, NEWER] = newest, RING
    links[newest, NEWER] = links[RING, OLDER] = row + FIRST


@njit_no_nrt(cache=True)
def _touch(links, row):
    _unlink(links, row)
    _append(links, row)


@njit_no_nrt(cache=True)
def _get(head, rows, links, buckets, key):
    row = table.find(rows, buckets, key)
    if row < 0:
        head[MISSES] += 1
    else:
        head[HITS] += 1
        _touch(links, row)
    return row


@njit_no_nrt(cache=True)
def _leave(head, rows, links, buckets, row, why, left, n):
    """Record `row` as left[n] and free it. Returns n + 1."""
    outside = rows[row, BUCKET] == OUTSIDE
    left[n, ROW], left[n, ITEM], left[n, TOKENS] = row, rows[row, KEY], rows[row, WEIGHT]
    left[n, WHY] = why + (UNKEYED if outside else 0)
    _unlink(links, row)
    head[TOTAL] -= _tokens(rows[row, WEIGHT])
    head[EVICTIONS] += why == EVICTED
    if outside:
        rows[row, BUCKET] = -1
    else:
        table.remove(rows, buckets, row)
    table.free_row(head, rows, row)
    return n + 1


@njit_no_nrt(cache=True)
def _put(head, rows, links, buckets, at, key, weight, outside, left, n):
    """Do `put` on the parts of an arena; `at` is the row of the key's present item, or -1. Returns (code, records)."""
    if head[RETIRED]:
        return FULL, n
    if n == left.shape[0]:
        return MORE, n
    tokens = _tokens(weight)
    if tokens > head[BUDGET]:
        if at >= 0:
            n = _leave(head, rows, links, buckets, at, EVICTED, left, n)
        return OK, n
    in_place = at >= 0 and weight < 0
    # The row is taken before others become free, so that it is the one that `next_row` returned.
    row = at if in_place else table.take_row(head, rows)
    if row < 0:
        return FULL, n
    replaced = np.int64(0)
    if at >= 0:
        replaced = _tokens(rows[at, WEIGHT])
        _touch(links, at)  # not to be evicted below
    while head[TOTAL] - replaced > head[BUDGET] - tokens:
        if n + 1 == left.shape[0]:  # the last record is kept for the predecessor
            if not in_place:
                table.free_row(head, rows, row)
            return MORE, n
        n = _leave(head, rows, links, buckets, _oldest(links), EVICTED, left, n)
    if in_place:
        if rows[at, WEIGHT] >= 0:
            left[n, ROW], left[n, ITEM], left[n, TOKENS], left[n, WHY] = at, key, rows[at, WEIGHT], REPLACED
            n += 1
        head[TOTAL] -= replaced
    else:
        if at >= 0:
            n = _leave(head, rows, links, buckets, at, REPLACED, left, n)
        if outside:
            rows[row, KEY], rows[row, BUCKET] = 0, OUTSIDE
        else:
            table.insert(rows, buckets, row, key)
        _append(links, row)
    rows[row, WEIGHT] = weight
    head[TOTAL] += tokens
    return OK, n
