"""The time in an arena (see `table`), which outlives the clock it was read from.

head[EPOCH]   the bits of a float64: what the clock shows at the arena's second 0. A new arena's
              is 0, so its seconds are the clock's; `resumed` sets it, since another process
              or machine has another clock
head[LATEST]  the bits of a float64: the latest second seen, -inf at first. Time stands still
              while a clock runs back
"""

import numpy as np

from .compiling import njit, njit_no_nrt
from .table import OWN, RETIRED

EPOCH, LATEST = OWN, OWN + 1


@njit_no_nrt(cache=True)
def advance(seconds, now):
    """The arena's second at the clock's `now` (float64, finite), never before one that was seen. O(1).

    `seconds`: the head, or the whole arena, viewed as float64.
    """
    seconds[LATEST] = max(now - seconds[EPOCH], seconds[LATEST])
    return seconds[LATEST]


@njit(cache=True)
def snapshot(arena, now):
    """A copy as of the clock's `now` that belongs to no clock: every time is an age, counted from LATEST. O(n).

    A kernel, so that no other thread changes the arena meanwhile.
    """
    copy = arena.copy()
    seconds = copy.view(np.float64)
    advance(seconds, now)
    seconds[EPOCH] = 0.0
    copy[RETIRED] = 0
    return copy


@njit(cache=True)
def copied(array):
    """A copy of an int64 array (n,) that no other thread changes meanwhile. O(n)."""
    return array.copy()


@njit(cache=True)
def resume(arena, now):
    """Let a `snapshot` go on from where it stopped, at the clock's `now`. O(1)."""
    seconds = arena.view(np.float64)
    seconds[EPOCH] = now - seconds[LATEST]
