"""Checks of arrays from a file: whether they are a window of admissions and its tenants (see `window`)."""

import numpy as np

from .. import clock, table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, CAPACITY, COLUMNS, COUNT, RETIRED, TOP
from . import window


@njit_no_nrt(cache=True)
def well_formed(arena):
    """Return whether `parts` can cut this array (any int64 array (n,))."""
    return (
        arena.shape[0] >= window.HEAD
        and 0 <= arena[CAPACITY] < 2**31
        and arena[COLUMNS] == window.WIDTH
        and arena.shape[0] == window.HEAD + arena[CAPACITY] * window.WIDTH
        and arena[RETIRED] == 0
        and 0 <= arena[COUNT] <= arena[CAPACITY]
        and arena[TOP] == arena[COUNT]
    )


@njit(cache=True)
def first_fault(arena, tenants):
    """Return the place of the first request (oldest is 0) that does not fit the one before it or the head.

    -1 if there is none, -2 if the head is inconsistent, -3 if the tenants are. Safe on any contents
    of a `well_formed` window and a `table.well_formed` arena of tenants.
    """
    head, seconds, ring, times = window.parts(arena)
    count = head[COUNT]
    if not (
        0 <= head[window.START] < max(head[CAPACITY], 1)
        and 0 <= head[window.OLDEST] < 2**62
        and 0 <= head[window.UNSETTLED] <= head[window.OLDEST] + count
        and -1 <= head[window.LAST_TICKET] < head[window.OLDEST] + count
        and 0 <= head[window.ACCEPTED] < 2**62
        and 0 <= head[window.REJECTED] < 2**62
        and head[window.MAX_REQUESTS] >= 0
        and head[window.MAX_TOKENS] >= 0
        and 0 < seconds[window.WINDOW] < np.inf
        and np.isfinite(seconds[clock.EPOCH])
        and seconds[clock.LATEST] < np.inf
    ):
        return np.int64(-2)
    their_head, rows, buckets = table.parts(tenants)
    if table.first_fault(their_head, rows, buckets) != -1:
        return np.int64(-3)
    requests, held = np.zeros(rows.shape[0], np.int64), np.zeros(rows.shape[0], np.int64)
    before, total = -np.inf, 0
    for e in range(count):
        ticket, entry = head[window.OLDEST] + e, window.place(head[window.START], e, ring.shape[0])
        time, tokens, row = times[entry, window.TIME], ring[entry, window.TOKENS], ring[entry, window.TENANT]
        if not (np.isfinite(time) and before <= time <= seconds[clock.LATEST]):
            return np.int64(e)
        if window.counted(tokens) > window.MOST_TOKENS or (tokens < 0 and ticket < head[window.UNSETTLED]):
            return np.int64(e)
        if row != window.NOBODY:
            if not 0 <= row < rows.shape[0]:
                return np.int64(e)
            requests[row] += 1
            held[row] += window.counted(tokens)
        before = time
        total += window.counted(tokens)
    for row in range(rows.shape[0]):
        if row >= their_head[TOP] or rows[row, BUCKET] < 0:  # a free row
            if requests[row] > 0:
                return np.int64(-3)
            continue
        if rows[row, window.REQUESTS] != requests[row] or rows[row, window.HELD] != held[row]:
            return np.int64(-3)
        limited = rows[row, window.OWN_REQUESTS] != window.UNSET or rows[row, window.OWN_TOKENS] != window.UNSET
        if requests[row] == 0 and not limited:
            return np.int64(-3)
    return np.int64(-1 if total == head[window.IN_WINDOW] else -2)
