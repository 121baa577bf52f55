"""The state of an HNSW index: settings, and arrays as one tuple that readers take and the writer replaces."""

import contextlib
import math
import mmap
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from ..base.arena import chunks
from ..kernels import table
from ..kernels.hnsw import build as build_kernels
from ..kernels.hnsw import check, compact, layout
from ..kernels.hnsw import codes as code_kernels
from ..kernels.hnsw import distance as distance_kernels

# Metrics, quantizations and kinds of kept vectors: the name in the constructor, and the number in the kernels.
METRICS = {"l2": layout.L2, "cosine": layout.COSINE, "ip": layout.IP}
QUANTIZATIONS = {None: layout.FULL, "int8": layout.INT8, "int4": layout.INT4}
VECTORS = {"float32": layout.FLOAT32, "float16": layout.FLOAT16, None: layout.NOT_KEPT}
# The dtype in which each kind of vectors is kept (in memory as bytes).
DTYPES = {layout.FLOAT32: np.float32, layout.FLOAT16: np.float16, layout.NOT_KEPT: np.uint8}

MAX_DIM, MAX_M, MAX_ML = 2**16, 2**10, 2.0**16
# Arrays from this size on use huge pages where the system has them: a walk then misses fewer address translations.
_HUGE, _HUGE_PAGE = 1 << 22, 1 << 21
# From these dimensions on, codes of so few bits separate near vectors well enough to be worth their speed.
_DIM_OF_INT8, _DIM_OF_INT4 = 24, 96
_REFUSED = int(layout.REFUSED)


class Settings(NamedTuple):
    """The settings of an index that kernels need: `metric`, `bits` of a code, and bits of a `kept` number, by number.

    `step` levels make one tier.
    """

    dim: int
    M: int
    metric: int
    bits: int
    kept: int
    step: int

    @classmethod
    def of(cls, dim: int, M: int, metric: int, bits: int, kept: int, ml: float) -> "Settings":
        """Return the settings, with as many levels in a tier as make it about M times as thin as the one below.

        ValueError if there are no kernels for one of the numbers.
        """
        if not layout.known.py_func(bits, metric) or kept not in DTYPES:  # in Python: it is not worth compiling
            raise ValueError(f"no kernels for metric {metric}, codes of {bits} bits, vectors of {kept} bits a number")
        return cls(dim, M, metric, bits, kept, max(1, round(math.log(M) * ml)))

    @property
    def stride(self) -> int:
        """Length that a vector is padded to."""
        return int(distance_kernels.padded(self.dim))

    @property
    def coded(self) -> int:
        """Length that a vector is padded to before it is coded, D: whole lines of 64 bytes; 0 without codes."""
        line = 512 // self.bits if self.bits else 1
        return -(-self.dim // line) * line if self.bits else 0

    @property
    def probe_bytes(self) -> int:
        """Bytes of a probe."""
        return self.coded or 4 * self.stride

    @property
    def origin(self) -> np.float32:
        """The distance of equal vectors, see `kernels.hnsw.distance.origin_of`."""
        return np.float32(distance_kernels.origin_of(self.metric))


class State(NamedTuple):
    """The arrays of an index at one moment, and the numbers that say what a reader sees in them.

    `size` is how many slots were ever used, `clock` the moment, `entry` the slot where searches begin (-1 if there is
    none), `present` how many vectors are in, and `coded` how many there were when the frame of the codes was chosen.

    A reader takes the tuple once and uses it to the end. The writer changes slots that are not visible at the tuple's
    clock, then publishes a tuple with a later clock; to grow it publishes other arrays, and leaves the old ones as they
    are.
    """

    arrays: layout.Arrays
    size: int
    clock: int
    entry: int
    present: int
    coded: int

    @property
    def rows(self) -> np.ndarray:
        """The arena's rows by slot, a view."""
        return table.parts(self.arrays.arena)[1]

    def with_arrays(self, **changed: np.ndarray) -> "State":
        """Return the same state with other arrays of these names."""
        return self._replace(arrays=self.arrays._replace(**changed))

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Return the slots of ids (n,), int64 (n,); -1 where one is unknown."""
        slots = np.empty(len(ids), np.int64)
        for part in chunks(len(ids)):
            layout.slots_of(self.arrays.arena, ids[part], slots[part])
        return slots

    def known_slots(self, ids: np.ndarray) -> np.ndarray:
        """Return the slots of ids (n,), int64 (n,); KeyError if one is unknown."""
        slots = self.slots(ids)
        if len(unknown := ids[slots < 0]):
            raise KeyError(int(unknown[0]))
        return slots

    def live(self) -> np.ndarray:
        """Return the slots whose ids are visible at this state's clock, ascending."""
        rows = self.rows[: self.size]
        return np.flatnonzero((rows[:, layout.BORN] <= self.clock) & (self.clock < rows[:, layout.DIED]))

    def live_ids(self) -> np.ndarray:
        """Return the ids of those, int64."""
        return self.rows[self.live(), table.KEY].copy()

    def published(self, waiting: int = 0) -> "State":
        """Return the state for readers of the next clock: finished vectors are in, removed ones are out.

        `waiting` ids have a slot and are not in yet.
        """
        head = self.arrays.arena[: table.HEAD].tolist()
        present, size = head[table.COUNT] - waiting, head[table.TOP]
        return self._replace(present=present, size=size, clock=self.clock + 1, entry=head[layout.ENTRY])

    def resized(self, capacity: int) -> "State":
        """Return the state in arrays with room for `capacity` slots, at least those ever used."""
        old, top = self.arrays, int(self.arrays.arena[table.TOP])
        arena = layout.new_arena(capacity)
        (old_head, old_rows, _), (head, rows, _) = table.parts(old.arena), table.parts(arena)
        head[table.COUNT :] = old_head[table.COUNT :]
        rows[:top] = old_rows[:top]
        for part in chunks(top):
            layout.rehash(arena, part.start, part.stop)
        return self.with_arrays(
            vectors=grown(old.vectors, top, capacity),
            codes=grown(old.codes, top, capacity),
            terms=grown(old.terms, top, capacity if len(old.frame[0]) else 0),
            nodes=grown(old.nodes, top, capacity),
            links=grown(old.links, top, capacity),
            arena=arena,
        )

    def with_upper_rows(self, more: int) -> "State":
        """Return the state with room for `more` rows of `upper`."""
        arena, upper = self.arrays.arena, self.arrays.upper
        top, spare = int(arena[layout.UPPER_TOP]), int(arena[layout.UPPER_SPARE])
        if top + more - spare <= len(upper):
            return self
        return self.with_arrays(upper=grown(upper, top, max(2 * len(upper), top + more - spare)))

    @property
    def compact(self) -> bool:
        """Whether there are neither dead slots nor free rows of `upper`."""
        return not (self.arrays.arena[layout.REMOVED] or self.arrays.arena[layout.UPPER_SPARE])

    def compacted(self) -> "State":
        """Return the state without dead slots and free rows of `upper`, in arrays of exactly the size."""
        old, top = self.arrays, int(self.arrays.arena[table.TOP])
        if self.compact:
            rows = int(old.arena[layout.UPPER_TOP])
            return self.resized(top).with_arrays(upper=grown(old.upper, rows, rows))
        live = compact.live_slots(old.nodes, top)
        n, arena = len(live), layout.new_arena(len(live))
        nodes, links = array((n, layout.NODE), np.int32), array((n, old.links.shape[1]), np.int32)
        upper = array((int(old.nodes[live, layout.TIER].sum()), old.upper.shape[1]), np.int32)
        used = compact.compact(old.nodes, old.links, old.upper, live, nodes, links, upper)
        append_ids(arena, self.rows[live, table.KEY], np.empty(n, np.int64))
        rows_of_slots = table.parts(arena)[1]
        rows_of_slots[:, layout.BORN] = self.rows[live, layout.BORN]
        rows_of_slots[:, layout.DIED] = layout.NEVER
        entry = int(np.searchsorted(live, old.arena[layout.ENTRY])) if n else -1
        arena[layout.ENTRY], arena[layout.UPPER_TOP] = entry, used
        vectors, codes = taken(old.vectors, live), taken(old.codes, live)
        terms = taken(old.terms, live if len(old.frame[0]) else live[:0])
        new = layout.Arrays(vectors, codes, terms, old.frame, nodes, links, upper, arena)
        return State(new, n, self.clock, entry, n, self.coded)


class Readers:
    """The clocks of the states being read: a removed slot is freed when no reader is left that may still see it."""

    def __init__(self) -> None:
        self._clocks: dict[int, int] = {}
        self._tokens = count()

    def enter(self, clock: int) -> int:
        """Register a reader of a state of this clock or a later one, before it takes that state; return its token."""
        token = next(self._tokens)
        self._clocks[token] = clock
        return token

    def leave(self, token: int) -> None:
        """Remove the reader with this token."""
        del self._clocks[token]

    @contextlib.contextmanager
    def reading(self, clock: int) -> Iterator[None]:
        """Keep the slots of a state of this clock or a later one, taken in the `with` block, from being used again."""
        token = self.enter(clock)
        try:
            yield
        finally:
            self.leave(token)

    def oldest(self, clock: int) -> int:
        """Return the clock of the oldest state that is being read, at most `clock`."""
        return min([clock, *list(self._clocks.values())])

    def __reduce__(self) -> Any:
        """Copy and pickle without the readers, who are not there elsewhere."""
        return Readers, ()


def described(state: State) -> dict[str, Any]:
    """Return the statistics of `HNSW.stats`. O(n M)."""
    arrays, entry = state.arrays, state.entry
    level, tier = (int(arrays.nodes[entry, column]) if entry >= 0 else -1 for column in (layout.LEVEL, layout.TIER))
    layers = check.degrees(arrays.nodes, arrays.links, arrays.upper, state.size, tier + 1)
    levels = arrays.nodes[: state.size, layout.LEVEL]
    return {
        "num_vectors": state.present,
        "num_layers": level + 1,
        "entry_point": int(state.rows[entry, table.KEY]) if entry >= 0 else None,
        "entry_level": level,
        "total_edges": int(layers[:, 1].sum()),
        "avg_degree": float(layers[0, 1] / max(layers[0, 0], 1)) if len(layers) else 0.0,
        "num_duplicates": int(np.count_nonzero(levels == layout.TWINNED)),
        "layers": [{"nodes": int(n), "avg_degree": float(m / max(n, 1))} for n, m in layers],
        "unreachable": int(check.unreachable(arrays.nodes, arrays.links, entry, state.size)) if entry >= 0 else 0,
        "bytes": {name: array.nbytes for name, array in arrays._asdict().items()},
    }


def fitting_quantization(dim: int, vectors_kept: bool) -> str | None:
    """Return the quantization that "auto" chooses."""
    if not vectors_kept:
        return "int8"
    return "int4" if dim >= _DIM_OF_INT4 else "int8" if dim >= _DIM_OF_INT8 else None


def empty(capacity: int, settings: Settings) -> State:
    """Return a state without slots, with room for `capacity`."""
    arrays = layout.Arrays(
        vectors=array((capacity, settings.kept // 8 * settings.stride), np.uint8),
        codes=array((capacity, settings.coded * settings.bits // 8), np.uint8),
        terms=array((capacity if settings.bits else 0, 2), np.float32),
        frame=code_kernels.new_frame(settings.coded),
        nodes=array((capacity, layout.NODE), np.int32),
        links=array((capacity, 2 * settings.M), np.int32),
        upper=array((capacity // 4, settings.M + 1), np.int32),
        arena=layout.new_arena(capacity),
    )
    return State(arrays, size=0, clock=0, entry=-1, present=0, coded=0)


def accepted(code: int) -> int:
    """Return what a kernel returned; ValueError if it refused the settings, which it then has no code for."""
    if code == _REFUSED:
        raise ValueError("no kernels for this metric, quantization or way of searching")
    return code


def append_ids(arena: np.ndarray, ids: np.ndarray, slots: np.ndarray) -> int:
    """Fill slots int64 (n,) with new slots of ids int64 (n,), and return -1.

    If an id is present or repeated, return the index of the first such; then no id gets a slot.
    """
    slots.fill(-1)
    for part in chunks(len(ids)):
        if (twice := int(build_kernels.append_ids(arena, ids[part], slots[part]))) >= 0:
            slots[part] = -1
            take_back_ids(arena, slots[: part.start])
            slots.fill(-1)
            return part.start + twice
    return -1


def take_back_ids(arena: np.ndarray, slots: np.ndarray) -> None:
    """Remove the ids of `slots`, which `append_ids` filled last."""
    for part in reversed(list(chunks(len(slots)))):
        build_kernels.take_back_ids(arena, slots, part.start, part.stop)


def array(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Return an array aligned to cache lines, on huge pages if it is large; zeros, or -1 if it is int32 (slots)."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size + _HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a system may define the constant without having huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
        raw, boundary = np.frombuffer(pages, np.uint8), _HUGE_PAGE
    else:
        raw, boundary = np.zeros(size + 64, np.uint8), 64
    start = -raw.ctypes.data % boundary
    new = raw[start : start + size].view(dtype).reshape(shape)
    if dtype == np.int32:
        new.fill(-1)
    return new


def grown(old: np.ndarray, used: int, rows: int) -> np.ndarray:
    """Return an array of `rows` rows that begins with the first `used` rows of another."""
    new = array((rows, old.shape[1]), old.dtype)
    new[: min(used, rows)] = old[: min(used, rows)]
    return new


def taken(old: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return a copy of the rows `slots` of an array."""
    new = array((len(slots), old.shape[1]), old.dtype)
    np.take(old, slots, axis=0, out=new)
    return new
