"""The smallest of many int64 values, in order: a heap with the largest on top, in part of an array."""

from .compiling import njit_no_nrt


@njit_no_nrt(cache=True)
def keep(values, start, stop, new):
    """Let `new` into the heap values[start:stop], which may use all of `values`; if that is full, the largest goes.

    Where the heap stops now. There must be a place at `start`. O(log n).
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
def sort(values, start, stop):
    """Put the heap values[start:stop] in ascending order, in place. O(n log n)."""
    for last in range(stop - 1, start, -1):
        values[start], values[last] = values[last], values[start]
        _sink(values, start, last)


@njit_no_nrt(cache=True)
def _sink(values, start, stop):
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
