"""The time in an arena (see `table`), which stays valid when the clock it was read from is gone.

head[EPOCH]   the bits of a float64: the reading of the clock at second 0 of the arena. 0 in a new arena,
              whose seconds are those of the clock; `resume` sets it, since another process
              or machine has another clock
head[LATEST]  the bits of a float64: the latest second seen, -inf at first. Time does not advance
              while a clock runs backwards
"""

import numpy as np

from .compiling import njit, njit_no_nrt
from .table import OWN, RETIRED

EPOCH, LATEST = OWN, OWN + 1


@njit_no_nrt(cache=True)
def advance(seconds, now):
    """Return the second of the arena at the clock's `now` (float64, finite), never less than the latest one. O(1).

    `seconds` is the head, or the whole arena, viewed as float64.
    """
    seconds[LATEST] = max(now - seconds[EPOCH], seconds[LATEST])
    return seconds[LATEST]


@njit(cache=True)
def snapshot(arena, now):
    """Return a copy at the clock's `now` that is independent of any clock: its times are ages before LATEST. O(n).

    It is a kernel so that no other thread changes the arena meanwhile.
    """
    copy = arena.copy()
    seconds = copy.view(np.float64)
    advance(seconds, now)
    seconds[EPOCH] = 0.0
    copy[RETIRED] = 0
    return copy


@njit(cache=True)
def copied(array):
    """Return a copy of an int64 array (n,) that no other thread changes meanwhile. O(n)."""
    return array.copy()


@njit(cache=True)
def resume(arena, now):
    """Make a `snapshot` continue at the clock's `now` from where it stopped. O(1)."""
    seconds = arena.view(np.float64)
    seconds[EPOCH] = now - seconds[LATEST]
