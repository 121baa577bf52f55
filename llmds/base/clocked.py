"""Structures in one arena that know what time it is."""

import math
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import clock as kernels
from . import arguments
from . import files as storage
from .arena import Growing

if TYPE_CHECKING:
    from typing_extensions import Self

Clock = Callable[[], float]


class Clocked(Growing):
    """A `Growing` structure whose arena keeps time as `kernels.clock` describes.

    Its times are the seconds of `clock`; a file or a pickle holds ages, so what is loaded goes on where it
    stopped, whatever its new clock shows.
    """

    def __init__(self, arena: np.ndarray, clock: Clock):
        super().__init__(arena)
        self._clock = checked(clock)

    def _now(self) -> float:
        now = self._clock()
        if type(now) is float and -math.inf < now < math.inf:  # the common case, without a call
            return now
        return arguments.real("clock()", now, -sys.float_info.max, sys.float_info.max)

    def _latest(self) -> float:
        """What the clock showed at the latest second seen, -inf before the first."""
        return float(self._arena[kernels.EPOCH : kernels.LATEST + 1].view(np.float64).sum())

    def under(self, clock: Clock) -> "Self":
        """A copy under another clock, to whose present the latest that this one has seen becomes. O(size)."""
        twin = type(self).__new__(type(self))
        with self._lock:
            for name, value in self.__dict__.items():
                setattr(twin, name, value.copy() if isinstance(value, np.ndarray) else value)
        twin._clock, twin._lock = checked(clock), threading.RLock()
        if self._latest() > -math.inf:
            kernels.resume(twin._arena, twin._now())
        return twin

    def _to_arrays(self) -> storage.Arrays:
        return {"arena": kernels.snapshot(self._arena, self._now())}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return (self._arena,)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_arena": kernels.snapshot(self._arena, self._now())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        kernels.resume(self._arena, self._now())


def checked(clock: Any) -> Clock:
    """`clock`, which must be callable."""
    if not callable(clock):
        raise TypeError(f"clock must be a callable that gives seconds, got {clock!r}")
    return clock
