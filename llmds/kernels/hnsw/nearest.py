"""The k smallest of many int64 values (keys of candidates, ids), in order: a heap with the largest on top.

Unlike `topk`, which keeps the best scores with their documents, a value here is its own order. A heap is part of an
array.
"""

from ..compiling import njit_no_nrt


@njit_no_nrt(cache=True)
def keep_smallest(values, start, stop, new):
    """Add `new` to the heap values[start:stop], which may use all of `values`; if it is full, the largest is dropped.

    Returns where the heap stops afterwards. There must be a place at `start`. O(log k).
    """
    if stop == values.shape[0]:
        if new < values[start]:
            values[start] = new
            _sink(values, start, stop)
        return stop
    at = stop - start
    while at > 0 and values[start + (at - 1) // 2] < new:
        values[start + at] = values[start + (at - 1) // 2]
        at = (at - 1) // 2
    values[start + at] = new
    return stop + 1


@njit_no_nrt(cache=True)
def sort_smallest(values, start, stop):
    """Sort the heap values[start:stop] in ascending order, in place. O(k log k)."""
    for last in range(stop - 1, start, -1):
        values[start], values[last] = values[last], values[start]
        _sink(values, start, last)


@njit_no_nrt(cache=True)
def _sink(values, start, stop):
    """Move the value at `start` down to where the heap values[start:stop] is in order."""
    size, at = stop - start, 0
    value = values[start]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and values[start + child + 1] > values[start + child]:
            child += 1
        if values[start + child] <= value:
            break
        values[start + at] = values[start + child]
        at = child
    values[start + at] = value
