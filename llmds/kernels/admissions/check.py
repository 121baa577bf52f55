"""Whether arrays from a file are a window of admissions and its tenants (see `admission`)."""

import numpy as np

from .. import clock, table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, CAPACITY, COLUMNS, COUNT, RETIRED, TOP
from .window import (
    ACCEPTED,
    HEAD,
    HELD,
    IN_WINDOW,
    LAST_TICKET,
    MAX_REQUESTS,
    MAX_TOKENS,
    MOST_TOKENS,
    NOBODY,
    OLDEST,
    OWN_REQUESTS,
    OWN_TOKENS,
    REJECTED,
    REQUESTS,
    START,
    TENANT,
    TIME,
    TOKENS,
    UNSET,
    UNSETTLED,
    WIDTH,
    WINDOW,
    counted,
    parts,
    place,
)


@njit_no_nrt(cache=True)
def well_formed(arena):
    """Whether `parts` may cut this array (any int64 array (n,))."""
    return (
        arena.shape[0] >= HEAD
        and 0 <= arena[CAPACITY] < 2**31
        and arena[COLUMNS] == WIDTH
        and arena.shape[0] == HEAD + arena[CAPACITY] * WIDTH
        and arena[RETIRED] == 0
        and 0 <= arena[COUNT] <= arena[CAPACITY]
        and arena[TOP] == arena[COUNT]
    )


@njit(cache=True)
def first_fault(arena, tenants):
    """Place of the first request (oldest is 0) that does not fit what stands before it or in the head.

    -1 if there is none, -2 where the head itself does not add up, -3 where the tenants do not. Safe on any contents
    of a `well_formed` window and a `table.well_formed` arena of tenants.
    """
    head, seconds, ring, times = parts(arena)
    count = head[COUNT]
    if not (
        0 <= head[START] < max(head[CAPACITY], 1)
        and 0 <= head[OLDEST] < 2**62
        and 0 <= head[UNSETTLED] <= head[OLDEST] + count
        and -1 <= head[LAST_TICKET] < head[OLDEST] + count
        and 0 <= head[ACCEPTED] < 2**62
        and 0 <= head[REJECTED] < 2**62
        and head[MAX_REQUESTS] >= 0
        and head[MAX_TOKENS] >= 0
        and 0 < seconds[WINDOW] < np.inf
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
        ticket, entry = head[OLDEST] + e, place(head[START], e, ring.shape[0])
        time, tokens, row = times[entry, TIME], ring[entry, TOKENS], ring[entry, TENANT]
        if not (np.isfinite(time) and before <= time <= seconds[clock.LATEST] and counted(tokens) <= MOST_TOKENS):
            return np.int64(e)
        if tokens < 0 and ticket < head[UNSETTLED]:
            return np.int64(e)
        if row != NOBODY:
            if not 0 <= row < rows.shape[0]:
                return np.int64(e)
            requests[row] += 1
            held[row] += counted(tokens)
        before = time
        total += counted(tokens)
    for row in range(rows.shape[0]):
        idle = row >= their_head[TOP] or rows[row, BUCKET] < 0
        if (requests[row] > 0) if idle else (rows[row, REQUESTS] != requests[row] or rows[row, HELD] != held[row]):
            return np.int64(-3)
        if not idle and requests[row] == 0 and rows[row, OWN_REQUESTS] == UNSET and rows[row, OWN_TOKENS] == UNSET:
            return np.int64(-3)
    return np.int64(-1 if total == head[IN_WINDOW] else -2)
