"""A heap whose items are found by key, in one arena (see `table`), the smallest order first.

The first head[COUNT] rows are the heap, four children to a node:

    row[KEY], row[BUCKET]   as in `table`
    row[SCORE]              the bits of a float64, negated in a max-heap, so that smaller leaves first
    row[ORDER]              the number of the insertion, which decides between equal scores

`new` makes an arena. A function that changes the heap answers OK, or why it did not; nothing is
changed then. FULL means that `table.resized` must make room first, or that it already has (the arena
is retired): take the new one and call again.
"""

import numpy as np

from . import table
from .compiling import njit
from .table import BUCKET, COUNT, FREE, KEY, OWN, RETIRED, TOP

OK, FULL, PRESENT, ABSENT, WRONG_WAY, NOT_A_NUMBER = 0, 1, 2, 3, 4, 5
ANY_WAY, DOWN, UP = np.int64(0), np.int64(-1), np.int64(1)

NEXT_ORDER, SIGN = OWN, OWN + 1
SCORE, ORDER, COLUMNS = 2, 3, np.int64(4)
# Four children share two cache lines and halve the depth: pops were 1.3 times as fast as with two.
CHILDREN = 4


@njit(cache=True)
def new(capacity, max_heap):
    """An empty heap arena with room for `capacity` items; the largest score first if `max_heap`."""
    heap = table.new(capacity, COLUMNS)
    heap[SIGN] = -1 if max_heap else 1
    return heap


@njit(cache=True)
def push(heap, key, score):
    """Add `key` (int64, absent) with `score` (float64). OK, PRESENT, FULL or NOT_A_NUMBER. O(log n)."""
    head, rows, buckets = table.parts(heap)
    return _push(head, rows, buckets, key, score, head[NEXT_ORDER])


@njit(cache=True)
def push_in_turn(heap, key, score, order):
    """As `push`, with a place among equals (int64, 0 or more, the lowest first) in place of the last one. O(log n)."""
    head, rows, buckets = table.parts(heap)
    return _push(head, rows, buckets, key, score, order)


@njit(cache=True)
def pop(heap):
    """(OK, score, key) of the item taken off the top, ABSENT in place of OK if there is none, or FULL. O(log n)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return FULL, 0.0, np.int64(0)
    if head[COUNT] == 0:
        return ABSENT, 0.0, np.int64(0)
    return _take_out(head, rows, buckets, np.int64(0))


@njit(cache=True)
def peek(heap):
    """(OK, score, key) of the item at the top, ABSENT in place of OK if there is none. O(1)."""
    head, rows, _ = table.parts(heap)
    if head[COUNT] == 0:
        return ABSENT, 0.0, np.int64(0)
    return OK, head[SIGN] * rows.view(np.float64)[0, SCORE], rows[0, KEY]


@njit(cache=True)
def delete(heap, key):
    """(OK, score, key) of the item taken out, ABSENT in place of OK if there is none, or FULL. O(log n)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return FULL, 0.0, np.int64(0)
    at = table.find(rows, buckets, key)
    if at < 0:
        return ABSENT, 0.0, np.int64(0)
    return _take_out(head, rows, buckets, at)


@njit(cache=True)
def find(heap, key):
    """(whether `key` is there, its score). O(1)."""
    head, rows, buckets = table.parts(heap)
    at = table.find(rows, buckets, key)
    if at < 0:
        return False, 0.0
    return True, head[SIGN] * rows.view(np.float64)[at, SCORE]


@njit(cache=True)
def update(heap, key, score, way):
    """Give `key` a new score; its place among equals stays. O(log n).

    `way`: ANY_WAY, or DOWN / UP if the score may only fall / rise. OK, ABSENT, WRONG_WAY, FULL or
    NOT_A_NUMBER.
    """
    head, rows, buckets = table.parts(heap)
    return _update(head, rows, buckets, key, score, way)


@njit(cache=True)
def push_many(heap, keys, scores):
    """Push all, in order, or none. (OK, m), or (PRESENT, index of the first key that is there or comes twice), or
    (FULL, 0) where room is lacking. Shapes (m,). O(m log n), in practice O(m)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED] or rows.shape[0] - head[COUNT] < keys.shape[0]:
        return FULL, 0
    for e in range(keys.shape[0]):
        if _push(head, rows, buckets, keys[e], scores[e], head[NEXT_ORDER]) != OK:
            for back in range(e):
                _take_out(head, rows, buckets, table.find(rows, buckets, keys[back]))
            head[NEXT_ORDER] -= e
            return PRESENT, e
    return OK, keys.shape[0]


@njit(cache=True)
def pop_many(heap, scores, keys):
    """Fill scores (m,) and keys (m,) from the top, while there is something. How many, or -1 for FULL. O(m log n)."""
    head, rows, buckets = table.parts(heap)
    if head[RETIRED]:
        return -1
    taken = min(keys.shape[0], head[COUNT])
    for e in range(taken):
        _, scores[e], keys[e] = _take_out(head, rows, buckets, np.int64(0))
    return taken


@njit(cache=True)
def update_many(heap, keys, scores):
    """Update all, in order, or none. (OK, m), (ABSENT, index of the first unknown key) or (FULL, 0). O(m log n)."""
    head, rows, buckets = table.parts(heap)
    for e in range(keys.shape[0]):
        if table.find(rows, buckets, keys[e]) < 0:
            return ABSENT, e
    for e in range(keys.shape[0]):
        if _update(head, rows, buckets, keys[e], scores[e], ANY_WAY) == FULL:
            return FULL, 0
    return OK, keys.shape[0]


@njit(cache=True)
def find_many(heap, keys, scores):
    """Fill scores (m,) with the score of each key, NaN for those that are absent. O(m)."""
    head, rows, buckets = table.parts(heap)
    stored = rows.view(np.float64)
    for e in range(keys.shape[0]):
        at = table.find(rows, buckets, keys[e])
        scores[e] = np.nan if at < 0 else head[SIGN] * stored[at, SCORE]


@njit(cache=True)
def heapify(keys, scores, max_heap):
    """(arena, -1) holding exactly these items, or (arena, index of the first key that comes twice).

    O(m) (Floyd 1964).
    """
    heap = new(keys.shape[0], max_heap)
    head, rows, buckets = table.parts(heap)
    stored = rows.view(np.float64)
    for e in range(keys.shape[0]):
        if table.find(rows, buckets, keys[e]) >= 0:
            return heap, e
        table.insert(rows, buckets, e, keys[e])
        stored[e, SCORE] = head[SIGN] * scores[e]
        rows[e, ORDER] = e
    head[COUNT] = head[TOP] = head[NEXT_ORDER] = keys.shape[0]
    for at in range((keys.shape[0] - 2) // CHILDREN, -1, -1):
        _sink(head[COUNT], rows, stored, buckets, at)
    return heap, -1


@njit(cache=True)
def first_fault(heap):
    """First row that is out of order, not found by its key, or no number; -1 if none.

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
        if at > 0 and _before(rows, stored, at, (at - 1) // CHILDREN):
            return np.int64(at)
    return np.int64(-1)


@njit(cache=True)
def _before(rows, stored, a, b):
    """Whether row a leaves before row b."""
    return stored[a, SCORE] < stored[b, SCORE] or (
        stored[a, SCORE] == stored[b, SCORE] and rows[a, ORDER] < rows[b, ORDER]
    )


@njit(cache=True)
def _move(rows, buckets, source, target):
    for column in range(COLUMNS):
        rows[target, column] = rows[source, column]
    table.moved(rows, buckets, target)


@njit(cache=True)
def _float(rows, stored, buckets, at):
    """Let the row at `at` rise to where it belongs."""
    key, bucket, score, order = rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER]
    while at > 0:
        parent = (at - 1) // CHILDREN
        if stored[parent, SCORE] < score or (stored[parent, SCORE] == score and rows[parent, ORDER] < order):
            break
        _move(rows, buckets, parent, at)
        at = parent
    rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER] = key, bucket, score, order
    table.moved(rows, buckets, at)


@njit(cache=True)
def _sink(count, rows, stored, buckets, at):
    """Let the row at `at` fall to where it belongs."""
    key, bucket, score, order = rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER]
    while True:
        first = CHILDREN * at + 1
        if first >= count:
            break
        best = first
        for child in range(first + 1, min(first + CHILDREN, count)):
            if _before(rows, stored, child, best):
                best = child
        if score < stored[best, SCORE] or (score == stored[best, SCORE] and order < rows[best, ORDER]):
            break
        _move(rows, buckets, best, at)
        at = best
    rows[at, KEY], rows[at, BUCKET], stored[at, SCORE], rows[at, ORDER] = key, bucket, score, order
    table.moved(rows, buckets, at)


@njit(cache=True)
def _push(head, rows, buckets, key, score, order):
    if head[RETIRED]:
        return FULL
    if score != score:
        return NOT_A_NUMBER
    if table.find(rows, buckets, key) >= 0:
        return PRESENT
    at = head[COUNT]
    if at == rows.shape[0]:
        return FULL
    stored = rows.view(np.float64)
    table.insert(rows, buckets, at, key)
    stored[at, SCORE] = head[SIGN] * score
    rows[at, ORDER] = order
    head[NEXT_ORDER] = max(head[NEXT_ORDER], order + 1)
    head[COUNT] = head[TOP] = at + 1
    _float(rows, stored, buckets, at)
    return OK


@njit(cache=True)
def _update(head, rows, buckets, key, score, way):
    if head[RETIRED]:
        return FULL
    if score != score:
        return NOT_A_NUMBER
    at = table.find(rows, buckets, key)
    if at < 0:
        return ABSENT
    stored = rows.view(np.float64)
    old, new_ = stored[at, SCORE], head[SIGN] * score
    if (way == DOWN and score > head[SIGN] * old) or (way == UP and score < head[SIGN] * old):
        return WRONG_WAY
    stored[at, SCORE] = new_
    if new_ < old:
        _float(rows, stored, buckets, at)
    elif new_ > old:
        _sink(head[COUNT], rows, stored, buckets, at)
    return OK


@njit(cache=True)
def _take_out(head, rows, buckets, at):
    """(OK, score, key) of the row at `at`, which leaves; the last row takes its place."""
    stored = rows.view(np.float64)
    score, key = head[SIGN] * stored[at, SCORE], rows[at, KEY]
    table.remove(rows, buckets, at)
    last = head[COUNT] - 1
    head[COUNT] = head[TOP] = last
    if at != last:
        _move(rows, buckets, last, at)
        rows[last, BUCKET] = -1
        if at > 0 and _before(rows, stored, at, (at - 1) // CHILDREN):
            _float(rows, stored, buckets, at)
        else:
            _sink(last, rows, stored, buckets, at)
    return OK, score, key
