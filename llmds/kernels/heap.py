"""A heap whose items are found by key, in one arena (see `table`). The smallest score leaves first.

The first head[COUNT] rows are the heap, four children to a node:

    row[KEY], row[BUCKET]   as in `table`
    row[SCORE]              the bits of a float64, negated in a max-heap, so that the smaller one leaves first
    row[ORDER]              the number of the insertion, which decides between equal scores

`new` makes an arena; the functions take it as `heap`. A function that changes the heap returns OK, or a code that
names the reason why nothing was changed. FULL means that there is no room, and `table.resized` must make some, or
that it already has (the arena is retired): call again with the new arena.
"""

import numpy as np

from . import radix, table
from .compiling import njit, njit_no_nrt
from .simd import prefetch
from .table import BUCKET, COUNT, FREE, KEY, OWN, RETIRED, TOP

OK, FULL, PRESENT, ABSENT, WRONG_WAY, NOT_A_NUMBER = 0, 1, 2, 3, 4, 5
ANY_WAY, DOWN, UP = np.int64(0), np.int64(-1), np.int64(1)

NEXT_ORDER, SIGN = OWN, OWN + 1
SCORE, ORDER, COLUMNS = 2, 3, np.int64(4)
# Four children share two cache lines and halve the depth: beside two, pops from 100,000 items took .87 of the time and
# pushes the same; with eight, pops took the same as with four, and bulk updates 1.2 times as long.
CHILD_BITS = 2
AHEAD = 32  # items whose buckets are prefetched before the first is needed
# From these shares of all items on, it is quicker to sort all than to pop one by one, and to rebuild the heap
# than to move each item to its place. Not with more than MOST_SORTED items, or the call would take too long.
SORTED_SHARE, REBUILT_SHARE, MOST_SORTED = 0.125, 0.25, 1 << 20


@njit(cache=True)
def new(capacity, max_heap):
    """Return an empty arena with room for `capacity` items. The largest score leaves first if `max_heap`."""
    heap = table.new(capacity, COLUMNS)
    heap[SIGN] = -1 if max_heap else 1
    return heap


@njit_no_nrt(cache=True)
def push(heap, key, score):
    """Add `key` (int64, absent) with `score` (float64). Returns OK, PRESENT, FULL or NOT_A_NUMBER. O(log n)."""
    head, rows, buckets = table.parts(heap)
    return _push(head, rows, buckets, key, score, head[NEXT_ORDER])


@njit_no_nrt(cache=True)
def push_in_turn(heap, key, score, order):
    """Push as `push` does; `order` (int64, 0 or more) decides between equal scores, the lowest first. O(log n)."""
    head, rows, buckets = table.parts(heap)
    return _push(head, rows, buckets, key, score, order)


@njit_no_nrt(cache=True)
def pop(heap):
    """Remove the top item. Returns (OK, score, key), or ABSENT (an empty heap) or FULL in place of OK. O(log n)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return FULL, 0.0, np.int64(0)
    if head[COUNT] == 0:
        return ABSENT, 0.0, np.int64(0)
    return _take_out(head, rows, buckets, np.int64(0))


@njit_no_nrt(cache=True)
def peek(heap):
    """Return (OK, score, key) of the top item, or ABSENT (an empty heap) in place of OK. O(1)."""
    head, rows, _ = table.parts(heap)
    if head[COUNT] == 0:
        return ABSENT, 0.0, np.int64(0)
    return OK, head[SIGN] * rows.view(np.float64)[0, SCORE], rows[0, KEY]


@njit_no_nrt(cache=True)
def delete(heap, key):
    """Remove the item of `key`. Returns (OK, score, key), or ABSENT or FULL in place of OK. O(log n)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return FULL, 0.0, np.int64(0)
    at = table.find(rows, buckets, key)
    if at < 0:
        return ABSENT, 0.0, np.int64(0)
    return _take_out(head, rows, buckets, at)


@njit_no_nrt(cache=True)
def find(heap, key):
    """Return (whether `key` is in the heap, its score). O(1)."""
    head, rows, buckets = table.parts(heap)
    at = table.find(rows, buckets, key)
    if at < 0:
        return False, 0.0
    return True, head[SIGN] * rows.view(np.float64)[at, SCORE]


@njit_no_nrt(cache=True)
def update(heap, key, score, way):
    """Change the score of `key`; its ORDER stays. Returns OK, ABSENT, WRONG_WAY, FULL or NOT_A_NUMBER. O(log n).

    `way` is ANY_WAY, or DOWN or UP if the score may only fall or rise.
    """
    head, rows, buckets = table.parts(heap)
    return _update(head, rows, buckets, key, score, way)


@njit_no_nrt(cache=True)
def push_many(heap, keys, scores):
    """Push keys (m,) with scores (m,) in order, all or none. O(m log n), in practice O(m).

    Returns (OK, m); (PRESENT, index of the first key that is in the heap or occurs twice);
    (NOT_A_NUMBER, index of the first such score); or (FULL, 0) if there is no room.
    """
    return push_many_in_turn(heap, keys, scores, keys[:0])


@njit_no_nrt(cache=True)
def push_many_in_turn(heap, keys, scores, orders):
    """Push as `push_many` does, with orders int64 (m,) as in `push_in_turn`, or (0,): after all items present."""
    head, rows, buckets = table.parts(heap)
    count, m = head[COUNT], keys.shape[0]
    if head[RETIRED] or rows.shape[0] - count < m:
        return FULL, 0
    code, done = _append(head, rows, buckets, keys, scores, orders)
    if code != OK:
        for at in range(count + done - 1, count - 1, -1):
            table.remove(rows, buckets, at)
        return code, done
    head[COUNT] = head[TOP] = count + m
    stored = rows.view(np.float64)
    if m > count:
        _heapify(count + m, rows, stored, buckets)
    else:
        for at in range(count, count + m):
            _float(rows, stored, buckets, at)
    return OK, m


@njit(cache=True)
def pop_many(heap, scores, keys):
    """Fill scores (m,) and keys (m,) with the items removed from the top. Returns how many, or -1 for FULL.

    O(m log n), or O(n) if that is less.
    """
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return -1
    taken = min(keys.shape[0], head[COUNT])
    if taken > SORTED_SHARE * head[COUNT] and head[COUNT] <= MOST_SORTED:
        _pop_sorted(head, rows, buckets, scores[:taken], keys[:taken])
        return taken
    for e in range(taken):
        _, scores[e], keys[e] = _take_out(head, rows, buckets, np.int64(0))
    return taken


@njit(cache=True)
def update_many(heap, keys, scores):
    """Give keys (m,) the new scores (m,) in order, all or none. O(m log n), or O(n) if that is less.

    Returns (OK, m), (ABSENT, index of the first unknown key), (NOT_A_NUMBER, index of the first such score) or
    (FULL, 0).
    """
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return FULL, 0
    found = np.empty(keys.shape[0], np.int32)  # buckets, which stay when rows move
    for e in range(keys.shape[0]):
        at = table.find(rows, buckets, keys[e])
        if at < 0 or scores[e] != scores[e]:
            return ABSENT if at < 0 else NOT_A_NUMBER, e
        found[e] = rows[at, BUCKET]
    stored = rows.view(np.float64)
    if keys.shape[0] > REBUILT_SHARE * head[COUNT]:
        for e in range(keys.shape[0]):
            stored[buckets[found[e]], SCORE] = head[SIGN] * scores[e]
        _heapify(head[COUNT], rows, stored, buckets)
    else:
        for e in range(keys.shape[0]):
            _rescore(head, rows, stored, buckets, np.int64(buckets[found[e]]), head[SIGN] * scores[e])
    return OK, keys.shape[0]


@njit_no_nrt(cache=True)
def find_many(heap, keys, scores):
    """Fill scores (m,) with the score of each key, NaN for those that are absent. O(m)."""
    head, rows, buckets = table.parts(heap)
    stored = rows.view(np.float64)
    for e in range(keys.shape[0]):
        at = table.find(rows, buckets, keys[e])
        scores[e] = np.nan if at < 0 else head[SIGN] * stored[at, SCORE]


@njit(cache=True)
def heapify(keys, scores, max_heap):
    """Return (arena, -1) with exactly these items, or (arena, index of the first repeated key). O(m) (Floyd 1964).

    No score is NaN.
    """
    heap = new(keys.shape[0], max_heap)
    head, rows, buckets = table.parts(heap)
    code, done = _append(head, rows, buckets, keys, scores, keys[:0])
    if code != OK:
        return heap, done
    head[COUNT] = head[TOP] = done
    _heapify(done, rows, rows.view(np.float64), buckets)
    return heap, -1


@njit_no_nrt(cache=True)
def first_fault(heap):
    """Return the first row that is out of order, not found by its key, or not a number; -1 if none, -2 for a bad head.

    Safe on any contents of a `table.well_formed` arena.
    """
    head, rows, buckets = table.parts(heap)
    stored = rows.view(np.float64)
    if head[TOP] != head[COUNT] or head[FREE] != -1 or (head[SIGN] != 1 and head[SIGN] != -1):
        return np.int64(-2)
    fault = table.first_fault(head, rows, buckets)
    if fault != -1:
        return fault
    for at in range(head[COUNT]):
        if np.isnan(stored[at, SCORE]) or not 0 <= rows[at, ORDER] < head[NEXT_ORDER]:
            return np.int64(at)
        if _out_of_order(rows, stored, at):
            return np.int64(at)
    return np.int64(-1)


@njit_no_nrt(cache=True, forceinline=True)
def _before(score, order, other_score, other_order):
    """Return whether an item leaves before another one."""
    return (score < other_score) | ((score == other_score) & (order < other_order))


@njit_no_nrt(cache=True)
def _out_of_order(rows, stored, at):
    """Return whether the row at `at` should leave before its parent."""
    if at == 0:
        return False
    parent = (at - 1) >> CHILD_BITS
    return _before(stored[at, SCORE], rows[at, ORDER], stored[parent, SCORE], rows[parent, ORDER])


@njit_no_nrt(cache=True, forceinline=True)
def _earlier(rows, stored, a, b):
    """Return which of two rows leaves first. Without a branch, which would be mispredicted every other time."""
    a, b = np.uint64(a), np.uint64(b)
    return np.int64(b if _before(stored[b, SCORE], rows[b, ORDER], stored[a, SCORE], rows[a, ORDER]) else a)


@njit_no_nrt(cache=True, forceinline=True)
def _move(rows, buckets, source, target):
    """Copy a row to another place, and update its bucket."""
    source, target = np.uint64(source), np.uint64(target)
    for column in range(COLUMNS):
        rows[target, column] = rows[source, column]
    buckets[np.uint64(rows[target, BUCKET])] = target


@njit_no_nrt(cache=True, forceinline=True)
def _put(rows, stored, buckets, at, key, bucket, score, order):
    """Write a row at `at`, and update its bucket."""
    at = np.uint64(at)
    rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER] = key, bucket, score, order
    buckets[np.uint64(bucket)] = at


@njit_no_nrt(cache=True)
def _float(rows, stored, buckets, at):
    """Move the row at `at` up to its place."""
    key, bucket, score, order = rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER]
    while at > 0:
        parent = np.uint64((at - 1) >> CHILD_BITS)
        if _before(stored[parent, SCORE], rows[parent, ORDER], score, order):
            break
        _move(rows, buckets, np.int64(parent), at)
        at = np.int64(parent)
    _put(rows, stored, buckets, at, key, bucket, score, order)


@njit_no_nrt(cache=True)
def _sink(count, rows, stored, buckets, at):
    """Move the row at `at` down to its place."""
    key, bucket, score, order = rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER]
    while True:
        first = (at << CHILD_BITS) + 1
        if first >= count:
            break
        # the children of one of the four are needed next (with it, pops from 100,000 took .89 of the time)
        prefetch(rows, ((first << CHILD_BITS) + 1) * COLUMNS, COLUMNS << (2 * CHILD_BITS))
        if first + 3 < count:
            best = _earlier(rows, stored, first, first + 1)
            best = _earlier(rows, stored, best, _earlier(rows, stored, first + 2, first + 3))
        else:
            best = first
            for child in range(first + 1, count):
                best = _earlier(rows, stored, best, child)
        if _before(score, order, stored[best, SCORE], rows[best, ORDER]):
            break
        _move(rows, buckets, best, at)
        at = best
    _put(rows, stored, buckets, at, key, bucket, score, order)


@njit_no_nrt(cache=True)
def _heapify(count, rows, stored, buckets):
    """Bring `count` rows in any order into the order of a heap. O(count) (Floyd 1964)."""
    for at in range((count - 2) >> CHILD_BITS, -1, -1):
        _sink(count, rows, stored, buckets, at)


@njit_no_nrt(cache=True)
def _append(head, rows, buckets, keys, scores, orders):
    """Write items behind the last row, in no order. Returns (OK, m), or (code, index) of the item where it stopped."""
    count, order, following = head[COUNT], head[NEXT_ORDER], head[NEXT_ORDER]
    stored = rows.view(np.float64)
    for start in range(0, keys.shape[0], AHEAD):
        stop = min(start + AHEAD, keys.shape[0])
        for e in range(start, stop):
            bucket = table.home(buckets, keys[e])
            prefetch(buckets, bucket, np.int64(1))
            rows[count + e, BUCKET] = bucket
        for e in range(start, stop):
            code = NOT_A_NUMBER if scores[e] != scores[e] else OK
            if code == OK and table.claim(rows, buckets, count + e, keys[e], rows[count + e, BUCKET]) >= 0:
                code = PRESENT
            if code != OK:
                for behind in range(e, stop):
                    rows[count + behind, BUCKET] = -1
                return code, e
            stored[count + e, SCORE] = head[SIGN] * scores[e]
            rows[count + e, ORDER] = orders[e] if orders.shape[0] > 0 else order + e
            following = max(following, rows[count + e, ORDER] + 1)
    head[NEXT_ORDER] = following
    return OK, keys.shape[0]


@njit(cache=True)
def _pop_sorted(head, rows, buckets, scores, keys):
    """Do `pop_many` of m <= COUNT items by sorting all; the rest stays sorted, which is a heap. O(COUNT)."""
    count, taken, stored = head[COUNT], keys.shape[0], rows.view(np.float64)
    values, spare_values = np.empty(count, np.uint64), np.empty(count, np.uint64)
    order, spare = np.empty(count, np.int32), np.empty(count, np.int32)
    for at in range(count):
        values[at], order[at] = np.uint64(rows[at, ORDER]), at
    if radix.sort(values, order, spare_values, spare):
        order, spare = spare, order
    for e in range(count):
        values[e] = radix.ordered(stored[order[e], SCORE])
    if radix.sort(values, order, spare_values, spare):
        order = spare
    for e in range(taken):
        at = order[e]
        scores[e], keys[e] = head[SIGN] * stored[at, SCORE], rows[at, KEY]
    rest = np.empty((count - taken, COLUMNS), np.int64)
    if taken == count:
        for at in range(count):
            buckets[rows[at, BUCKET]] = -1
    else:
        for e in range(taken):
            table.remove(rows, buckets, np.int64(order[e]))
    for e in range(count - taken):
        for column in range(COLUMNS):
            rest[e, column] = rows[order[taken + e], column]
    for at in range(count):
        if at < count - taken:
            for column in range(COLUMNS):
                rows[at, column] = rest[at, column]
            table.moved(rows, buckets, at)
        else:
            rows[at, BUCKET] = -1
    head[COUNT] = head[TOP] = count - taken


@njit_no_nrt(cache=True)
def _push(head, rows, buckets, key, score, order):
    """Do `push` on the parts of an arena, with `order`."""
    if head[RETIRED]:
        return FULL
    if score != score:
        return NOT_A_NUMBER
    at = head[COUNT]
    if at == rows.shape[0]:
        return PRESENT if table.find(rows, buckets, key) >= 0 else FULL
    if table.claim(rows, buckets, at, key, table.home(buckets, key)) >= 0:
        return PRESENT
    stored = rows.view(np.float64)
    stored[at, SCORE] = head[SIGN] * score
    rows[at, ORDER] = order
    head[NEXT_ORDER] = max(head[NEXT_ORDER], order + 1)
    head[COUNT] = head[TOP] = at + 1
    _float(rows, stored, buckets, at)
    return OK


@njit_no_nrt(cache=True)
def _update(head, rows, buckets, key, score, way):
    """Do `update` on the parts of an arena."""
    if head[RETIRED]:
        return FULL
    if score != score:
        return NOT_A_NUMBER
    at = table.find(rows, buckets, key)
    if at < 0:
        return ABSENT
    stored = rows.view(np.float64)
    old = head[SIGN] * stored[at, SCORE]
    if (way == DOWN and score > old) or (way == UP and score < old):
        return WRONG_WAY
    _rescore(head, rows, stored, buckets, at, head[SIGN] * score)
    return OK


@njit_no_nrt(cache=True)
def _rescore(head, rows, stored, buckets, at, score):
    """Write another score, as stored, to the row at `at`, and move the row to its place."""
    old = stored[at, SCORE]
    stored[at, SCORE] = score
    if score < old:
        _float(rows, stored, buckets, at)
    elif score > old:
        _sink(head[COUNT], rows, stored, buckets, at)


@njit_no_nrt(cache=True)
def _take_out(head, rows, buckets, at):
    """Remove the row at `at`; the last row takes its place. Returns (OK, score, key)."""
    stored = rows.view(np.float64)
    score, key = head[SIGN] * stored[at, SCORE], rows[at, KEY]
    table.remove(rows, buckets, at)
    last = head[COUNT] - 1
    head[COUNT] = head[TOP] = last
    if at != last:
        _move(rows, buckets, last, at)
        rows[last, BUCKET] = -1
        if _out_of_order(rows, stored, at):
            _float(rows, stored, buckets, at)
        else:
            _sink(last, rows, stored, buckets, at)
    return OK, score, key
