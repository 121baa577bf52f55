"""What an HNSW index is made of, as one tuple that its readers take and its writer replaces."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .growing import chunks
from .kernels import hnsw as kernels
from .kernels import table

SECONDS_A_CALL = 0.04  # what a kernel call aims at, so that none exceeds 0.1


class State(NamedTuple):
    """The arrays of `kernels.hnsw`, how many of their slots exist, and the slot where searches begin (-1 if none).

    A reader takes the tuple once and holds to it. The writer fills slots from `size` on, links them, then
    publishes a tuple with another `size`; to grow it publishes other arrays, and leaves the old ones alone.
    """

    vectors: np.ndarray
    nodes: np.ndarray
    links: np.ndarray
    upper: np.ndarray
    arena: np.ndarray
    size: int
    entry: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The five arrays, in the order in which kernels take them."""
        return self[:5]

    @property
    def ids(self) -> np.ndarray:
        """The ids by slot, a view of int64 (size,)."""
        return table.parts(self.arena)[1][: self.size, table.KEY]

    @property
    def upper_rows(self) -> int:
        """Rows of `upper` in use."""
        return int(self.arena[kernels.UPPER_TOP])

    def slot(self, vec_id: int) -> int:
        """The slot of an id, or -1."""
        slots = np.empty(1, np.int64)
        kernels.slots_of(self.arena, self.size, np.array([vec_id], np.int64), slots)
        return int(slots[0])

    def resized(self, capacity: int, upper_rows: int) -> "State":
        """The same in arrays with room for `capacity` slots and `upper_rows` rows above, at least those in use."""
        n, arena = self.size, kernels.new_arena(capacity)
        append_ids(arena, np.ascontiguousarray(self.ids))
        arena[table.OWN : table.HEAD] = self.arena[table.OWN : table.HEAD]
        vectors, nodes, links = (copied(array[:n], capacity) for array in self[:3])
        return State(vectors, nodes, links, copied(self.upper[: self.upper_rows], upper_rows), arena, n, self.entry)

    def with_upper_rows(self, needed: int) -> "State":
        """The same with room for `needed` rows above."""
        if needed <= len(self.upper):
            return self
        return self._replace(upper=copied(self.upper[: self.upper_rows], max(2 * len(self.upper), needed)))

    def published(self) -> "State":
        """The same with all slots that have been linked by now."""
        linked = int(self.arena[kernels.LINKED])
        return self if linked == self.size else self._replace(size=linked, entry=int(self.arena[kernels.ENTRY]))

    def take_back_ids(self) -> None:
        """Forget the ids of slots from `size` on."""
        surplus = int(self.arena[table.TOP]) - self.size
        if surplus:
            for part in reversed(list(chunks(surplus))):
                kernels.take_back_ids(self.arena, self.size + part.start)


def empty(capacity: int, dim: int, M: int) -> State:
    """No slots yet, and room for `capacity`."""
    stride = -(-dim // kernels.LANES) * kernels.LANES
    shapes = ((stride, np.float32), (kernels.NODE, np.int32), (2 * M, np.int32), (M, np.int32))
    vectors, nodes, links, upper = (copied(np.empty((0, width), dtype), capacity) for width, dtype in shapes)
    return State(vectors, nodes, links, upper, kernels.new_arena(capacity), 0, -1)


def append_ids(arena: np.ndarray, ids: np.ndarray) -> int:
    """Give ids (n,) the next slots: -1, or the first that is there or comes twice, with some before it in."""
    for part in chunks(len(ids)):
        if (twice := kernels.append_ids(arena, writable(ids[part]))) >= 0:
            return part.start + twice
    return -1


def copied(array: np.ndarray, rows: int) -> np.ndarray:
    """A copy (rows, width) of an array of at most that many, on cache-line boundaries; new int32 rows are -1."""
    size = rows * array.shape[1] * array.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + size].view(array.dtype).reshape(rows, array.shape[1])
    copy[: len(array)] = array
    if array.dtype == np.int32:
        copy[len(array) :] = -1
    return copy


def writable(array: np.ndarray) -> np.ndarray:
    """The array, or a copy if it is read-only: a kernel would be compiled anew for that."""
    return array if array.flags.writeable else array.copy()


def in_pieces(n: int, call: Callable[[slice], object]) -> None:
    """call(slice) for runs of 0..n whose length adapts to how long the last one took."""
    start, size = 0, 1
    while start < n:
        part = slice(start, min(start + size, n))
        began = time.perf_counter()
        call(part)
        took = time.perf_counter() - began
        size = max(1, min(int(size * SECONDS_A_CALL / max(took, 1e-6)), 8 * size))
        start = part.stop


def first_fault(n: int, walk: Callable[[int, int], int]) -> int:
    """The first fault that walk(start, stop) finds in runs of 0..n, -1 if none."""
    faults: list[int] = []
    in_pieces(n, lambda part: faults.append(walk(part.start, part.stop)))
    return next((fault for fault in faults if fault != -1), -1)
