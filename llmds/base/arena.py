"""Structures whose state is one arena of keyed rows (`kernels.table`), which grows."""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels import table
from . import arguments, files
from .structure import Structure

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_ROWS = 2**31 - 1
# Items that a kernel processes in one call: it must return within 100 ms, or Ctrl-C has to wait.
CHUNK = 1 << 17


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Return slices that divide n items into runs of at most `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class Growing(Structure):
    """A structure whose state is one arena in one attribute.

    A kernel call is atomic, so threads meet only when the arena is replaced. A kernel that finds its
    arena full, or retired because another thread replaced it, changes nothing and returns a code; the caller
    then calls `_make_room` with the arena it used, and tries again with `self._arena`.
    """

    _schema: ClassVar[files.Schema] = {"arena": (np.int64, 1)}
    _columns: ClassVar[int]
    # (arena, capacity) -> an arena of that capacity, the old one retired; replaced where an arena is more than a table
    _resized: ClassVar[Any] = staticmethod(table.resized)

    def __init__(self, arena: np.ndarray):
        self._arena = arena
        self._lock = threading.RLock()

    @property
    def arrays(self) -> Any:
        """The arena, as `Arrays(arena)`: int64 (n,). It is replaced, and the old one is stale, when it grows."""
        return table.Arrays(self._arena)

    def reserve(self, n: int) -> None:
        """Make room for n items in all, so that nothing grows before that. O(n).

        Parameters
        ----------
        n
            Number of items, 0..2**31-1, those present included.
        """
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            if n > self._arena[table.CAPACITY]:
                self._arena = self._resized(self._arena, n)

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(n)."""
        with self._lock:
            self._arena = self._resized(self._arena, int(self._arena[table.TOP]))

    def __len__(self) -> int:
        """Return the number of items. O(1)."""
        return int(self._arena[table.COUNT])

    def _make_room(self, seen: np.ndarray, more: int = 1) -> None:
        """Replace the arena `seen` by one with room for `more` rows, unless another thread has replaced it already."""
        with self._lock:
            if self._arena is seen:
                capacity, needed = int(seen[table.CAPACITY]), int(seen[table.COUNT]) + more
                if needed > MAX_ROWS:
                    raise ValueError(f"{type(self).__name__} holds at most 2**31-1 items, {needed} would be needed")
                self._arena = self._resized(seen, min(max(2 * capacity, needed, 16), MAX_ROWS))

    def _in_chunks(self, n: int, call: Callable[[Any, slice], object]) -> None:
        """Call call(copy of this structure, slice) for slices of n items, then take over the state of the copy.

        For bulk calls too long for one kernel call: they happen as a whole or not at all, even under Ctrl-C. Changes
        by other threads wait.
        """
        with self._lock:
            arena = self._arena
            draft = type(self).__new__(type(self))
            draft.__setstate__(self.__getstate__())
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
        """Replace the arena. The caller holds the lock."""
        self._arena[table.RETIRED] = 1
        self._arena = arena

    def _to_arrays(self) -> files.Arrays:
        return {"arena": self._arena}

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        arena = arrays["arena"]
        files.expect(bool(table.well_formed(arena, cls._columns)), "its rows are inconsistent")
        self = cls.__new__(cls)
        Growing.__init__(self, arena)
        return self
