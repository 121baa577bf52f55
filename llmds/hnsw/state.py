"""What an HNSW index is made of: settings, and arrays as one tuple that readers take and the writer replaces."""

import contextlib
import math
import mmap
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from ..base.arena import chunks
from ..kernels import table
from ..kernels.hnsw import build as hnsw_build
from ..kernels.hnsw import check as hnsw_check
from ..kernels.hnsw import codes as codes_kernels
from ..kernels.hnsw import compact as hnsw_compact
from ..kernels.hnsw import distance as hnsw_distance
from ..kernels.hnsw import layout as kernels

# name -> number in the kernels, bits of a code, bits a kept number has
METRICS = {"l2": kernels.L2, "cosine": kernels.COSINE, "ip": kernels.IP}
QUANTIZATIONS = {None: 0, "int8": codes_kernels.INT8, "int4": codes_kernels.INT4}
VECTORS = {"float32": 32, "float16": 16, None: 0}

# Arrays from this size on lie on huge pages where the system has them: a walk then misses fewer translations.
_HUGE, _HUGE_PAGE = 1 << 22, 1 << 21
# From these dimensions on, codes of so few bits tell near vectors apart well enough to be worth their speed.
_DIM_OF_INT8, _DIM_OF_INT4 = 24, 96


class Settings(NamedTuple):
    """What kernels are told about an index. `bits` a code has, of a number `kept` (0: vectors are not kept)."""

    dim: int
    M: int
    metric: int
    bits: int
    kept: int
    step: int

    @classmethod
    def of(cls, dim: int, M: int, metric: int, bits: int, kept: int, ml: float) -> "Settings":
        """`step` levels make one tier: the number that comes nearest to one tier for a factor M in thinness."""
        return cls(dim, M, metric, bits, kept, max(1, round(math.log(M) * ml)))

    @property
    def stride(self) -> int:
        """Numbers that a vector is padded to."""
        return int(hnsw_distance.padded(self.dim))

    @property
    def coded(self) -> int:
        """Numbers that a code stands for; 0 without codes."""
        line = {codes_kernels.INT4: 128, codes_kernels.INT8: 64}.get(self.bits)
        return 0 if line is None else -(-self.dim // line) * line

    @property
    def probe_bytes(self) -> int:
        """Bytes of a probe."""
        return self.coded or 4 * self.stride

    @property
    def origin(self) -> np.float32:
        """The distance of what is the same, see `kernels.hnsw.distance`."""
        return np.float32(hnsw_distance.origin_of(self.metric))


class State(NamedTuple):
    """The arrays of `kernels.hnsw.layout`, how many slots were ever used, the clock, where searches begin (-1:
    nowhere), and how many vectors are in.

    A reader takes the tuple once and holds to it. The writer changes slots that the tuple's clock does not show, then
    publishes a tuple with another clock; to grow it publishes other arrays, and leaves the old ones alone.
    `coded` is how many vectors there were when the frame of the codes was chosen.
    """

    vectors: np.ndarray
    codes: np.ndarray
    terms: np.ndarray
    frame: np.ndarray
    nodes: np.ndarray
    links: np.ndarray
    upper: np.ndarray
    arena: np.ndarray
    size: int
    clock: int
    entry: int
    present: int
    coded: int

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The eight arrays, in the order in which kernels take them."""
        return self[:8]

    @property
    def stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What distances are measured of: vectors, codes, terms."""
        return self[:3]

    @property
    def rows(self) -> np.ndarray:
        """The arena's rows by slot, a view."""
        return table.parts(self.arena)[1]

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """The slots of ids (n,), int64 (n,); -1 where one is unknown."""
        slots = np.empty(len(ids), np.int64)
        for part in chunks(len(ids)):
            kernels.slots_of(self.arena, ids[part], slots[part])
        return slots

    def live(self) -> np.ndarray:
        """The slots whose ids this state's clock shows, ascending."""
        rows = self.rows[: self.size]
        return np.flatnonzero((rows[:, kernels.BORN] <= self.clock) & (self.clock < rows[:, kernels.DIED]))

    def live_ids(self) -> np.ndarray:
        """The ids of those, int64."""
        return self.rows[self.live(), table.KEY].copy()

    def published(self, waiting: int = 0) -> "State":
        """The same for readers of the next clock: what was finished is in, what was removed is out.

        `waiting` ids have a slot and are not in yet.
        """
        head = self.arena[: table.HEAD].tolist()
        present, size = head[table.COUNT] - waiting, head[table.TOP]
        return self._replace(present=present, size=size, clock=self.clock + 1, entry=head[kernels.ENTRY])

    def resized(self, capacity: int) -> "State":
        """The same in arrays with room for `capacity` slots, at least those ever used."""
        top, arena = int(self.arena[table.TOP]), kernels.new_arena(capacity)
        old, new = table.parts(self.arena), table.parts(arena)
        new[0][table.COUNT :] = old[0][table.COUNT :]
        new[1][:top] = old[1][:top]
        for part in chunks(top):
            kernels.rehash(arena, part.start, part.stop)
        by_slot: dict[str, Any] = {
            name: grown(getattr(self, name), top, capacity) for name in ("vectors", "codes", "nodes", "links")
        }
        by_slot["terms"] = grown(self.terms, top, capacity if len(self.frame[0]) else 0)
        return self._replace(arena=arena, **by_slot)

    def with_upper_rows(self, more: int) -> "State":
        """The same with room for `more` rows above."""
        top, spare = int(self.arena[kernels.UPPER_TOP]), int(self.arena[kernels.UPPER_SPARE])
        if top + more - spare <= len(self.upper):
            return self
        return self._replace(upper=grown(self.upper, top, max(2 * len(self.upper), top + more - spare)))

    @property
    def compact(self) -> bool:
        """Whether there are neither dead slots nor free rows above."""
        return not (self.arena[kernels.REMOVED] or self.arena[kernels.UPPER_SPARE])

    def compacted(self) -> "State":
        """The same without dead slots and free rows above, in arrays of just the size."""
        top = int(self.arena[table.TOP])
        if self.compact:
            state = self.resized(top)
            return state._replace(upper=grown(self.upper, *2 * (int(self.arena[kernels.UPPER_TOP]),)))
        live = hnsw_compact.live_slots(self.nodes, top)
        n, arena = len(live), kernels.new_arena(len(live))
        nodes, links = array((n, kernels.NODE), np.int32), array((n, self.links.shape[1]), np.int32)
        upper = array((int(self.nodes[live, kernels.TIER].sum()), self.upper.shape[1]), np.int32)
        used = hnsw_compact.compact(self.nodes, self.links, self.upper, live, nodes, links, upper)
        append_ids(arena, self.rows[live, table.KEY], np.empty(n, np.int64))
        rows = table.parts(arena)[1]
        rows[:, kernels.BORN], rows[:, kernels.DIED] = self.rows[live, kernels.BORN], kernels.NEVER
        entry = int(np.searchsorted(live, self.arena[kernels.ENTRY])) if n else -1
        arena[kernels.ENTRY], arena[kernels.UPPER_TOP] = entry, used
        vectors, codes = (taken(old, live) for old in (self.vectors, self.codes))
        terms = taken(self.terms, live if len(self.frame[0]) else live[:0])
        return State(vectors, codes, terms, self.frame, nodes, links, upper, arena, n, self.clock, entry, n, self.coded)


class Readers:
    """Who reads which state: a removed slot is free once no one is left who may still see its old tenant."""

    def __init__(self) -> None:
        self._clocks: dict[int, int] = {}
        self._tokens = count()

    def enter(self, clock: int) -> int:
        """Say that this thread will read a state of this clock or a later one, before it takes that state."""
        token = next(self._tokens)
        self._clocks[token] = clock
        return token

    def leave(self, token: int) -> None:
        """Say that it is done."""
        del self._clocks[token]

    def oldest(self, clock: int) -> int:
        """The clock of the oldest state that is being read, or `clock`."""
        return min([clock, *list(self._clocks.values())])

    def __reduce__(self) -> Any:
        return Readers, ()


def described(state: State) -> dict[str, Any]:
    """What `HNSW.stats` says. O(n M)."""
    nodes, entry = state.nodes[: state.size], state.entry
    level, tier = (int(nodes[entry, column]) if entry >= 0 else -1 for column in (kernels.LEVEL, kernels.TIER))
    layers = hnsw_check.degrees(state.nodes, state.links, state.upper, state.size, tier + 1)
    parts = dict(zip(State._fields, state.arrays, strict=False))
    return {
        "num_vectors": state.present,
        "num_layers": level + 1,
        "entry_point": int(state.rows[entry, table.KEY]) if entry >= 0 else None,
        "entry_level": level,
        "total_edges": int(layers[:, 1].sum()),
        "avg_degree": float(layers[0, 1] / max(layers[0, 0], 1)) if len(layers) else 0.0,
        "num_duplicates": int(np.count_nonzero(nodes[:, kernels.LEVEL] == kernels.TWINNED)),
        "layers": [{"nodes": int(n), "avg_degree": float(m / max(n, 1))} for n, m in layers],
        "unreachable": int(hnsw_check.unreachable(state.nodes, state.links, entry, state.size)) if entry >= 0 else 0,
        "bytes": {name: array.nbytes for name, array in parts.items()},
    }


def fitting_quantization(dim: int, vectors_kept: bool) -> str | None:
    """What "auto" stands for."""
    if not vectors_kept:
        return "int8"
    return "int4" if dim >= _DIM_OF_INT4 else "int8" if dim >= _DIM_OF_INT8 else None


def empty(capacity: int, settings: Settings) -> State:
    """No slots yet, and room for `capacity`."""
    vectors = array((capacity, settings.kept // 8 * settings.stride), np.uint8)
    codes = array((capacity, settings.coded * settings.bits // 8), np.uint8)
    terms = array((capacity if settings.bits else 0, 2), np.float32)
    frame = codes_kernels.new_frame(settings.coded)
    nodes, links = array((capacity, kernels.NODE), np.int32), array((capacity, 2 * settings.M), np.int32)
    upper = array((capacity // 4, settings.M + 1), np.int32)
    return State(vectors, codes, terms, frame, nodes, links, upper, kernels.new_arena(capacity), 0, 0, -1, 0, 0)


def append_ids(arena: np.ndarray, ids: np.ndarray, slots: np.ndarray) -> int:
    """Give ids (n,) slots, filled in: -1, or the first that is there or comes twice, and then none is given."""
    ids = writable(np.ascontiguousarray(ids))
    slots.fill(-1)
    for part in chunks(len(ids)):
        if (twice := int(hnsw_build.append_ids(arena, ids[part], slots[part]))) >= 0:
            slots[part] = -1
            take_back_ids(arena, slots[: part.start])
            slots.fill(-1)
            return part.start + twice
    return -1


def take_back_ids(arena: np.ndarray, slots: np.ndarray) -> None:
    """Forget the ids of `slots`, given out last."""
    for part in reversed(list(chunks(len(slots)))):
        hnsw_build.take_back_ids(arena, slots, part.start, part.stop)


def array(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """An array on cache-line boundaries, on huge pages if it is large; zeros, or -1 where it holds slots."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size + _HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a system may know the word and not have them
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
    """The first `used` rows of an array in one of `rows` rows."""
    new = array((rows, old.shape[1]), old.dtype)
    new[: min(used, rows)] = old[: min(used, rows)]
    return new


def taken(old: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The rows `slots` of an array."""
    new = array((len(slots), old.shape[1]), old.dtype)
    np.take(old, slots, axis=0, out=new)
    return new


def writable(array: np.ndarray) -> np.ndarray:
    """The array, or a copy if it is read-only: a kernel would be compiled anew for that."""
    return array if array.flags.writeable else array.copy()
