"""Structures in one arena that depend on the time."""

import math
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import clock as kernels
from . import arguments, files
from .arena import Growing

if TYPE_CHECKING:
    from typing_extensions import Self

Clock = Callable[[], float]


class Clocked(Growing):
    """A `Growing` structure whose arena keeps time as `kernels.clock` describes.

    Its times are the seconds of `clock`. A file or a pickle holds ages, so a loaded structure continues where it
    stopped, whatever its new clock shows.
    """

    def __init__(self, arena: np.ndarray, clock: Clock):
        super().__init__(arena)
        self._clock = checked(clock)

    def _now(self) -> float:
        """Return the time of the clock, checked."""
        now = self._clock()
        if type(now) is float and -math.inf < now < math.inf:  # the common case, without a call
            return now
        return arguments.real("clock()", now, -sys.float_info.max, sys.float_info.max)

    def _latest(self) -> float:
        """Return the clock's time at the latest second seen, -inf before the first."""
        return float(self._arena[kernels.EPOCH : kernels.LATEST + 1].view(np.float64).sum())

    def under(self, clock: Clock) -> "Self":
        """Return a copy with another clock. O(size).

        Parameters
        ----------
        clock
            Function that returns the time in seconds. Its present is the latest time that this structure has seen.

        Returns
        -------
        Self
            A copy that shares nothing with this structure.
        """
        twin = type(self).__new__(type(self))
        with self._lock:
            for name, value in self.__dict__.items():
                setattr(twin, name, value.copy() if isinstance(value, np.ndarray) else value)
        twin._clock, twin._lock = checked(clock), threading.RLock()
        if self._latest() > -math.inf:
            kernels.resume(twin._arena, twin._now())
        return twin

    def _to_arrays(self) -> files.Arrays:
        return {"arena": kernels.snapshot(self._arena, self._now())}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return (self._arena,)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, with ages in place of times."""
        return {**super().__getstate__(), "_arena": kernels.snapshot(self._arena, self._now())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes of a pickle; the ages are counted back from the present time of the clock."""
        super().__setstate__(state)
        kernels.resume(self._arena, self._now())


def checked(clock: Any) -> Clock:
    """Return the clock, which must be callable."""
    if not callable(clock):
        raise TypeError(f"clock must be a callable that returns seconds, got {clock!r}")
    return clock
