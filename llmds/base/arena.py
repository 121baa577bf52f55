"""Structures that are one arena of keyed rows (`kernels.table`), which grows."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels import table
from . import arguments
from . import files as storage
from .structure import Structure

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_ROWS = 2**31 - 1
# Items a kernel takes in one call: it must return within 100 ms, or Ctrl-C waits.
CHUNK = 1 << 17


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cut n items into runs of at most `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class Growing(Structure):
    """A structure whose state is one arena in one attribute.

    A kernel call is atomic, so threads meet only when the arena is exchanged. A kernel that finds its
    arena full, or retired by another thread's growth, changes nothing and says so; the caller
    then calls `_make_room` with the arena it used, and tries again with `self._arena`.
    """

    _schema: ClassVar[storage.Schema] = {"arena": (np.int64, 1)}
    _columns: ClassVar[int]
    # (arena, capacity) -> the larger or smaller one, the old one retired; for an arena that is more than a table
    _resized: ClassVar[Any] = staticmethod(table.resized)

    def __init__(self, arena: np.ndarray):
        self._arena = arena
        self._lock = threading.RLock()

    def reserve(self, n: int) -> None:
        """Make room for n items in all, so that nothing grows before that. O(n)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            if n > self._arena[table.CAPACITY]:
                self._arena = self._resized(self._arena, n)

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used. O(n)."""
        with self._lock:
            self._arena = self._resized(self._arena, int(self._arena[table.TOP]))

    def __len__(self) -> int:
        return int(self._arena[table.COUNT])

    def _make_room(self, seen: np.ndarray, more: int = 1) -> None:
        """Have an arena other than `seen`, with room for `more` rows; nothing to do if another thread was faster."""
        with self._lock:
            if self._arena is seen:
                capacity, needed = int(seen[table.CAPACITY]), int(seen[table.COUNT]) + more
                if needed > MAX_ROWS:
                    raise ValueError(f"{type(self).__name__} holds at most 2**31-1 items, {needed} would be needed")
                self._arena = self._resized(seen, min(max(2 * capacity, needed, 16), MAX_ROWS))

    def _in_chunks(self, n: int, call: Callable[[Any, slice], object]) -> None:
        """call(copy of this structure, slice) for slices of n items; the copy's state is taken over at the end.

        For bulk calls too long for one kernel call: all or nothing, even under Ctrl-C. Other threads'
        changes wait.
        """
        with self._lock:
            arena = self._arena
            draft = copy.copy(self)
            draft._arena = arena.copy()
            arena[table.RETIRED] = 1
            try:
                for part in chunks(n):
                    call(draft, part)
            except BaseException:
                arena[table.RETIRED] = 0
                raise
            self._arena = draft._arena

    def _replace(self, arena: np.ndarray) -> None:
        """Publish another arena. The caller holds the lock."""
        self._arena[table.RETIRED] = 1
        self._arena = arena

    def _to_arrays(self) -> storage.Arrays:
        return {"arena": self._arena}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        arena = arrays["arena"]
        storage.expect(bool(table.well_formed(arena, cls._columns)), "its rows do not add up")
        self = cls.__new__(cls)
        Growing.__init__(self, arena)
        return self
