"""The most frequent items, beside a `sketch`: Space-Saving (Metwally, Agrawal and El Abbadi 2005).

`heavy` is an arena as in `table`, with a row for each item that is watched, found by the hash of it in the sketch
(ints with the same hash are one item, as they are for the sketch, and so are strings):

    row[KEY], row[BUCKET]   as in `table`; KEY the 64 bits of the hash of an int64, or the inverted bits of a string's
    row[TALLY]              no less than the count of the item
    row[EXCESS]             by how much at most TALLY is too high
    row[ITEM], row[LENGTH]  the int64 item and -1; or the start of its UTF-8 bytes in `texts`, and their number
    row[PLACE]              the place of the row in a binary heap with the smallest TALLY at the top
    row[SLOT]               the row at this place of the heap: the heap is stored in the column SLOT

An item that is not watched takes the row of the smallest tally, and inherits the tally: an item that is more frequent
than the total count over the number of rows is always watched.

`texts`, uint8 (n,), is filled up to head[USED]; `refitted` removes bytes that are no longer needed. FULL means that
this must be done first, or is done already (head[ROOM] is the size of the present `texts`; the arena may be retired):
call again with the new arrays. Nothing is changed then.
"""

from typing import NamedTuple

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, COUNT, FREE, KEY, OWN, RETIRED, TOP
from . import counters as sketches
from .counters import MOST

OK, FULL = np.int64(0), np.int64(1)
USED, ROOM = OWN, OWN + 1
TALLY, EXCESS, ITEM, LENGTH, PLACE, SLOT, COLUMNS = 2, 3, 4, 5, 6, 7, np.int64(8)
WHOLE = np.int64(-1)  # LENGTH of an int64
BOTH, OTHERS = np.int64(0), np.int64(1)  # which items `_take_over` puts in
# A `listed` record.
HASH, UPPER, ABOVE, SHOWN, SIZE, RECORD = 0, 1, 2, 3, 4, 5
_LEAST_ROOM = 1 << 14


class Arrays(NamedTuple):
    """The arrays of a sketch: `sketch` as in `counters`, `heavy` and `texts` as here."""

    sketch: np.ndarray
    heavy: np.ndarray
    texts: np.ndarray


@njit(cache=True)
def new(capacity):
    """Return (arena, texts) that watch nothing yet, for up to `capacity` (1 or more) items."""
    heavy = table.new(capacity, COLUMNS)
    heavy[ROOM] = _LEAST_ROOM
    return heavy, np.zeros(_LEAST_ROOM, np.uint8)


@njit_no_nrt(cache=True)
def add_int(sketch, heavy, texts, item, count):
    """Add `count` to an int64 item, here and in the sketch. Returns OK or FULL. O(DEPTH + log rows)."""
    if heavy[RETIRED]:
        return FULL
    _count_int(sketch, heavy, item, count)
    return OK


@njit_no_nrt(cache=True)
def add_string(sketch, heavy, texts, data, count):
    """Add `count` to the string with these UTF-8 bytes, as `add_int` does. O(DEPTH + log rows + len(data))."""
    return _count_string(sketch, heavy, texts, data, np.int64(0), np.int64(len(data)), count)


@njit_no_nrt(cache=True)
def add_ints(sketch, heavy, texts, items, counts, start):
    """Do `add_int` for items[start:], in order; counts (m,), or (1,) for all. Returns how many of m are done."""
    one = counts.shape[0] == 1
    if heavy[RETIRED]:
        return start
    for e in range(start, items.shape[0]):
        _count_int(sketch, heavy, items[e], counts[0 if one else e])
    return items.shape[0]


@njit_no_nrt(cache=True)
def add_strings(sketch, heavy, texts, data, offsets, counts, start):
    """Do `add_string` for data[offsets[e]:offsets[e + 1]] from e = start on. Returns how many of m are done.

    Fewer than m for FULL.
    """
    one = counts.shape[0] == 1
    for e in range(start, offsets.shape[0] - 1):
        count = counts[0 if one else e]
        if _count_string(sketch, heavy, texts, data, offsets[e], offsets[e + 1], count) != OK:
            return e
    return offsets.shape[0] - 1


@njit(cache=True)
def refitted(heavy, texts, more):
    """Return another `texts` with room for `more` bytes, with only the bytes in use. O(len(texts) + rows)."""
    head, rows, _ = table.parts(heavy)
    live = np.int64(0)
    for row in range(head[TOP]):
        live += max(rows[row, LENGTH], 0)
    larger = np.zeros(max(texts.shape[0], 2 * (live + more)), np.uint8)
    used = np.int64(0)
    for row in range(head[TOP]):
        if rows[row, LENGTH] >= 0:
            rows[row, ITEM] = _written(larger, used, texts, rows[row, ITEM], rows[row, ITEM] + rows[row, LENGTH])
            used += rows[row, LENGTH]
    head[USED], head[ROOM] = used, larger.shape[0]
    return larger


@njit(cache=True)
def listed(sketch, heavy, texts):
    """Return a record for each watched item, int64 (n, RECORD), in no order, and their strings end to end, uint8.

    HASH; UPPER, no less than the item's count, the smaller of tally and estimate; ABOVE, by how much at most it is
    too high; SHOWN, the int64 item, or the start of its string in the second array; SIZE, its LENGTH.
    O(rows DEPTH + bytes).
    """
    head, rows, _ = table.parts(heavy)
    records = np.empty((head[TOP], RECORD), np.int64)
    gathered = np.empty(head[USED], np.uint8)
    used = np.int64(0)
    for row in range(head[TOP]):
        hashed = rows[row, KEY] if rows[row, LENGTH] == WHOLE else ~rows[row, KEY]
        upper = min(rows[row, TALLY], sketches.estimate_hash(sketch, np.uint64(hashed)))
        records[row, HASH], records[row, UPPER] = rows[row, KEY], upper
        records[row, ABOVE] = max(upper - (rows[row, TALLY] - rows[row, EXCESS]), 0)
        records[row, SHOWN], records[row, SIZE] = rows[row, ITEM], rows[row, LENGTH]
        if rows[row, LENGTH] >= 0:
            records[row, SHOWN] = _written(gathered, used, texts, rows[row, ITEM], rows[row, ITEM] + rows[row, LENGTH])
            used += rows[row, LENGTH]
    return records, gathered[:used].copy()


@njit_no_nrt(cache=True)
def decay(sketch, heavy):
    """Halve the counts of both, rounding down; the order stays. O(WIDTH DEPTH + rows)."""
    sketches.decay(sketch)
    head, rows, _ = table.parts(heavy)
    for row in range(head[TOP]):
        least = (rows[row, TALLY] - rows[row, EXCESS]) >> 1
        rows[row, TALLY] >>= 1
        rows[row, EXCESS] = rows[row, TALLY] - least


@njit_no_nrt(cache=True)
def reset(sketch, heavy):
    """Set all counts to 0, and watch nothing. O(WIDTH DEPTH + rows)."""
    sketches.reset(sketch)
    head, rows, buckets = table.parts(heavy)
    for row in range(head[TOP]):
        buckets[rows[row, BUCKET]] = -1
        rows[row, BUCKET] = -1
    head[COUNT] = head[TOP] = head[USED] = 0


@njit(cache=True)
def copied(sketch, heavy, texts):
    """Return copies of all three that no other thread changes meanwhile. O(n)."""
    return sketch.copy(), heavy.copy(), texts.copy()


@njit(cache=True)
def merged(heavy, texts, other, other_texts):
    """Return (arena, texts) of the counts of both (Cafaro, Pulimeno and Tempesta 2016), and retire `heavy`.

    An item that one of them does not watch may have been added to it as often as its smallest tally. The items of the
    largest tallies stay: their sum is still no more than the total count, so all guarantees hold.
    O(rows log rows + bytes).
    """
    head, rows, buckets = table.parts(heavy)
    other_head, other_rows, other_buckets = table.parts(other)
    result = table.new(head[table.CAPACITY], COLUMNS)
    joined = np.zeros(max(texts.shape[0], other_texts.shape[0], head[USED] + other_head[USED]), np.uint8)
    result[ROOM] = joined.shape[0]
    _take_over(result, joined, rows, head[TOP], texts, other_rows, other_buckets, _unseen(other_head, other_rows), BOTH)
    _take_over(result, joined, other_rows, other_head[TOP], other_texts, rows, buckets, _unseen(head, rows), OTHERS)
    head[RETIRED] = 1
    return result, joined


@njit_no_nrt(cache=True)
def first_fault(sketch, heavy, texts):
    """Return the first row with wrong contents, -1 if none, -2 if the table or the head is damaged.

    Safe on any contents of a `table.well_formed` arena and a sketch without faults.
    """
    head, rows, buckets = table.parts(heavy)
    if head[FREE] != -1 or head[COUNT] != head[TOP] or not 0 <= head[USED] <= texts.shape[0] == head[ROOM]:
        return np.int64(-2)
    if table.first_fault(head, rows, buckets) != -1:
        return np.int64(-2)
    for row in range(head[TOP]):
        place = rows[row, PLACE]
        if not (0 <= place < head[TOP] and rows[place, SLOT] == row):
            return np.int64(row)
    tallies, bytes_ = np.int64(0), np.int64(0)
    for row in range(head[TOP]):
        place, start, length = rows[row, PLACE], rows[row, ITEM], rows[row, LENGTH]
        if place > 0 and rows[rows[(place - 1) >> 1, SLOT], TALLY] > rows[row, TALLY]:
            return np.int64(row)
        if not 0 <= rows[row, EXCESS] <= rows[row, TALLY] <= sketch[sketches.TOTAL]:
            return np.int64(row)
        if length == WHOLE:
            key = np.int64(sketches.hash_int(sketch, start))
        elif 0 <= length <= head[USED] and 0 <= start <= head[USED] - length:
            key = ~np.int64(sketches.hash_string(sketch, texts, start, start + length))
        else:
            return np.int64(row)
        if key != rows[row, KEY]:
            return np.int64(row)
        if rows[row, TALLY] > sketch[sketches.TOTAL] - tallies and sketch[sketches.TOTAL] < MOST:
            return np.int64(row)
        tallies += rows[row, TALLY] if sketch[sketches.TOTAL] < MOST else np.int64(0)
        bytes_ += max(length, np.int64(0))
        if bytes_ > head[USED]:  # strings overlap, for which `listed` has no room
            return np.int64(row)
    return np.int64(-1)


@njit_no_nrt(cache=True)
def _count_int(sketch, heavy, item, count):
    """Add `count` to an int64 item in the sketch and here."""
    hashed = sketches.hash_int(sketch, item)
    sketches.add_hash(sketch, hashed, count)
    if count == 0:
        return
    _, rows, buckets = table.parts(heavy)
    row = table.find(rows, buckets, np.int64(hashed))
    if row >= 0:
        _raise(heavy, row, count)
    else:
        row = _admit(heavy, np.int64(hashed), count)
        rows[row, ITEM], rows[row, LENGTH] = item, WHOLE


@njit_no_nrt(cache=True)
def _count_string(sketch, heavy, texts, data, start, stop, count):
    """Add `count` to the string data[start:stop] in the sketch and here. Returns OK or FULL."""
    hashed = sketches.hash_string(sketch, data, start, stop)
    head, rows, buckets = table.parts(heavy)
    if head[RETIRED] or head[ROOM] != texts.shape[0]:
        return FULL
    row = table.find(rows, buckets, ~np.int64(hashed))
    if row < 0 and count > 0 and head[USED] + stop - start > texts.shape[0]:
        return FULL
    sketches.add_hash(sketch, hashed, count)
    if row >= 0:
        _raise(heavy, row, count)
    elif count > 0:
        row = _admit(heavy, ~np.int64(hashed), count)
        if stop - start <= rows[row, LENGTH]:  # it fits the bytes of the item before
            _written(texts, rows[row, ITEM], data, start, stop)
        else:
            rows[row, ITEM] = _written(texts, head[USED], data, start, stop)
            head[USED] += stop - start
        rows[row, LENGTH] = stop - start
    return OK


@njit_no_nrt(cache=True)
def _raise(heavy, row, count):
    """Add `count` to a watched item. O(log rows)."""
    head, rows, _ = table.parts(heavy)
    rows[row, TALLY] = _sum(rows[row, TALLY], count)
    _sink(rows, head[TOP], rows[row, PLACE])


@njit_no_nrt(cache=True)
def _admit(heavy, key, count):
    """Return the row that watches `key` from now on; the caller writes the item there. O(log rows)."""
    head, rows, buckets = table.parts(heavy)
    row = table.take_row(head, rows)
    if row < 0:
        row = rows[0, SLOT]
        table.remove(rows, buckets, row)
        rows[row, EXCESS] = rows[row, TALLY]
        rows[row, TALLY] = _sum(rows[row, TALLY], count)
        _sink(rows, head[TOP], np.int64(0))
    else:
        rows[row, EXCESS], rows[row, LENGTH] = 0, WHOLE
        _enter_heap(rows, row, count)
    table.insert(rows, buckets, row, key)
    return row


@njit_no_nrt(cache=True)
def _enter_heap(rows, row, tally):
    """Add `row`, the last one, to the heap with `tally`. O(log rows)."""
    place = row
    while place > 0 and rows[rows[(place - 1) >> 1, SLOT], TALLY] > tally:
        _put(rows, rows[(place - 1) >> 1, SLOT], place)
        place = (place - 1) >> 1
    rows[row, TALLY] = tally
    _put(rows, row, place)


@njit_no_nrt(cache=True)
def _sink(rows, count, place):
    """Move the row at `place` down to its place. O(log rows)."""
    row = rows[place, SLOT]
    tally = rows[row, TALLY]
    while 2 * place + 1 < count:
        child = 2 * place + 1
        if child + 1 < count and rows[rows[child + 1, SLOT], TALLY] < rows[rows[child, SLOT], TALLY]:
            child += 1
        if rows[rows[child, SLOT], TALLY] >= tally:
            break
        _put(rows, rows[child, SLOT], place)
        place = child
    _put(rows, row, place)


@njit_no_nrt(cache=True)
def _put(rows, row, place):
    """Put `row` at `place` of the heap."""
    rows[place, SLOT] = row
    rows[row, PLACE] = place


@njit_no_nrt(cache=True)
def _sum(a, b):
    """Return the sum of two counts, at most MOST."""
    return a + b if a <= MOST - b else np.int64(MOST)


@njit_no_nrt(cache=True)
def _written(texts, at, data, start, stop):
    """Copy data[start:stop] to texts[at:]. Returns `at`."""
    for e in range(stop - start):
        texts[at + e] = data[start + e]
    return at


@njit_no_nrt(cache=True)
def _unseen(head, rows):
    """Return the largest possible count of an item that is not watched."""
    return rows[rows[0, SLOT], TALLY] if head[TOP] == rows.shape[0] else np.int64(0)


@njit_no_nrt(cache=True)
def _take_over(result, joined, rows, count, texts, other_rows, other_buckets, unseen, which):
    """Put the items of `rows` into `result`, with the counts of the other sketch added.

    `which`: BOTH, or OTHERS to leave out items that the other one watches too. While `result` is full, a larger
    tally replaces the smallest.
    """
    head, kept, buckets = table.parts(result)
    for row in range(count):
        key = rows[row, KEY]
        at = table.find(other_rows, other_buckets, key)
        if at >= 0 and which == OTHERS:
            continue
        tally = _sum(rows[row, TALLY], other_rows[at, TALLY] if at >= 0 else unseen)
        excess = _sum(rows[row, EXCESS], other_rows[at, EXCESS] if at >= 0 else unseen)
        if head[TOP] < kept.shape[0]:
            place = table.take_row(head, kept)
            _enter_heap(kept, place, tally)
        else:
            place = kept[0, SLOT]
            if tally <= kept[place, TALLY]:
                continue
            table.remove(kept, buckets, place)
            kept[place, TALLY] = tally
            _sink(kept, head[TOP], np.int64(0))
        table.insert(kept, buckets, place, key)
        kept[place, EXCESS], kept[place, LENGTH] = min(excess, tally), rows[row, LENGTH]
        if rows[row, LENGTH] >= 0:
            start = rows[row, ITEM]
            kept[place, ITEM] = _written(joined, head[USED], texts, start, start + rows[row, LENGTH])
            head[USED] += rows[row, LENGTH]
        else:
            kept[place, ITEM] = rows[row, ITEM]
