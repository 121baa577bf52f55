"""Approximate nearest neighbours by a hierarchical navigable small-world graph."""

import math
import os
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, hnsw_state, storage
from .growing import MAX_ROWS
from .hnsw_state import State, append_ids, copied, first_fault, in_pieces, writable
from .kernels import hnsw as kernels
from .kernels import hnsw_build, hnsw_search, table
from .kernels import hnsw_check as check
from .progress import Progress, bar

if TYPE_CHECKING:
    from typing_extensions import Self

_METRICS = {"l2": kernels.L2, "cosine": kernels.COSINE, "ip": kernels.IP}
_MAX_DIM, _MAX_M, _MAX_EF, _MAX_ML = 2**16, 2**10, 2**20, 2.0**16
# A batch is linked against the graph before it, so it must be a small part of that; what a batch compares
# within itself grows with the square of its size.
_BATCH_SHARE, _MAX_BATCH = 50, 256


class HNSW(storage.Structure):
    """A graph over float32 vectors in which searches walk greedily (Malkov and Yashunin 2018).

    `M` neighbours are chosen for a new vector in each layer, by algorithm 4 without `keepPrunedConnections`; up to
    M stay in the upper layers, up to 2 M in the lowest. `ef_construction` and `ef_search` are how many
    candidates are kept while building and searching (`ef_search` may be set anew at any time). `ml`
    scales the levels that vectors draw from `random.Random(seed)`; of these, every s-th is linked, s being
    round(ln(M) * ml) or 1, since layers thinner than 1/M of the one below only lengthen the descent.

    `metric`: "l2" (Euclidean distance), "cosine" (1 - cosine; vectors are kept at length 1) or "ip" (negated
    inner product). Distances are computed in float32; one that overflows it is infinite.

    Equal vectors cost nothing: one of them is linked, the rest are found with it. Every vector can be
    reached from every other. A search whose `ef` is an eighth of the vectors or more compares all, and is exact.

    Any number of threads may search while one adds; adding threads wait for one another. The same seed and the
    same calls give the same arrays. Memory: 4 dim + 8 M + about 50 bytes a vector of capacity, which doubles as needed.

    >>> index = HNSW(dim=2, seed=1)
    >>> index.add([0.0, 0.0], 10)
    >>> index.add_many([[3.0, 4.0], [1.0, 0.0]], [11, 12])
    >>> index.search([0.0, 0.0], k=2)
    [(10, 0.0), (12, 1.0)]
    """

    _schema: ClassVar[storage.Schema] = {
        "vectors": (np.float32, 2),
        "nodes": (np.int32, 2),
        "links": (np.int32, 2),
        "upper": (np.int32, 2),
        "ids": (np.int64, 1),
        "entry": (np.int64, 0),
        "settings": (np.int64, 1),
        "ml": (np.float64, 0),
        "random": (np.uint32, 1),
    }

    def __init__(
        self,
        dim: int,
        M: int = 16,
        ef_construction: int = 200,
        ef_search: int = 50,
        ml: float = 1.0 / math.log(2.0),
        seed: int | None = None,
        *,
        metric: str = "l2",
    ):
        self.dim = arguments.integer("dim", dim, 1, _MAX_DIM)
        self.M = arguments.integer("M", M, 1, _MAX_M)
        self.ef_construction = arguments.integer("ef_construction", ef_construction, 1, _MAX_EF)
        self.ef_search = arguments.integer("ef_search", ef_search, 1, _MAX_EF)
        self.ml = arguments.real("ml", ml, 0.0, _MAX_ML)
        if seed is not None and (not isinstance(seed, (int, np.integer)) or isinstance(seed, bool)):
            raise TypeError(f"seed must be an integer or None, got {seed!r}")
        self.metric: str = arguments.one_of("metric", metric, _METRICS)
        self._random = random.Random(None if seed is None else int(seed))
        self._lock = threading.RLock()
        self._state = hnsw_state.empty(16, self.dim, self.M)

    def add(self, vec: ArrayLike, vec_id: int) -> None:
        """Add a vector (dim,) under an id that is new, 0..2**63-1. O(log n ef_construction M dim).

        ValueError, with nothing changed, if the id is there, the shape differs, a value is not finite in float32,
        or all are zero under "cosine".
        """
        vectors = self._vectors("vec", arguments.vector("vec", vec, self.dim)[None])
        ids = np.array([arguments.integer("vec_id", vec_id, 0)], np.int64)
        with self._lock:
            self._add(vectors, ids, lambda count: None)

    def add_many(self, vecs: ArrayLike, ids: ArrayLike, *, progress: Progress = False) -> None:
        """As `add` for vecs (n, dim) and ids (n,): all or, if one is refused, none. O(n log n ef_construction M dim).

        New vectors are compared with what was there when their batch began, and with each other; a batch is a
        fiftieth of what is in, at most 256. So the graph is another than n calls of `add` would give, yet
        always the same. An interruption leaves a whole prefix in.
        """
        vectors = self._vectors("vecs", arguments.vectors("vecs", vecs, self.dim))
        ids = arguments.integers("ids", ids, 0)
        arguments.same_length(vecs=vectors, ids=ids)
        with bar(progress, len(ids), "HNSW") as done, self._lock:
            self._add(vectors, ids, done)

    def search(self, query: ArrayLike, k: int, *, ef: int | None = None) -> list[tuple[int, float]]:
        """The k nearest found to a query (dim,), as (id, distance), nearest first; equal ones by smaller id.

        `ef` replaces `ef_search`; at least k is used. O(log n + ef M dim) in practice.
        """
        if not (type(query) is np.ndarray and query.dtype == np.float32 and query.shape == (self.dim,)
                and query.flags.carray):  # fmt: skip  # the common case goes on as it is
            query = writable(arguments.vector("query", query, self.dim))
        k, ef = self._widths(k, ef)
        ids, distances = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
        found = self._search_some(self._state, query[None], ef, ids, distances)
        if found < 0:
            arguments.vector("query", query, self.dim)  # names what is not finite
            raise ValueError("query must not be all zeros under metric='cosine'")
        return list(zip(ids[0, :found].tolist(), distances[0, :found].tolist(), strict=True))

    def search_batch(self, queries: ArrayLike, k: int, *, ef: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `search` for queries (n, dim): ids int64 (n, k) and distances float32 (n, k), nearest first.

        Rows with fewer than k results end in id -1 and distance +inf.
        """
        queries = writable(arguments.vectors("queries", queries, self.dim))
        k, ef = self._widths(k, ef)
        ids, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        state = self._state

        def search(part: slice) -> None:
            if self._search_some(state, queries[part], ef, ids[part], distances[part]) < 0:
                raise ValueError("queries must not be all zeros under metric='cosine'")

        in_pieces(len(queries), search)
        return ids, distances

    def distances(self, queries: ArrayLike, ids: ArrayLike) -> np.ndarray:
        """The distances of each query (n, dim) to c vectors, ids (n, c): float32 (n, c); +inf for unknown ids.

        O(n c dim).
        """
        queries = writable(arguments.vectors("queries", queries, self.dim))
        ids = arguments.matrix("ids", ids, len(queries))
        state, metric = self._state, _METRICS[self.metric]
        slots, out = np.empty(ids.shape, np.int64), np.empty(ids.shape, np.float32)

        def compute(part: slice) -> None:
            kernels.slots_of(state.arena, state.size, ids[part].ravel(), slots[part].ravel())
            if not kernels.distances(state.vectors, slots[part], queries[part], metric, out[part]):
                raise ValueError("queries must not be all zeros under metric='cosine'")

        in_pieces(len(ids), compute)
        return out

    def get_vectors(self, ids: ArrayLike) -> np.ndarray:
        """Copies of the vectors `ids` (n,), float32 (n, dim), as `get_vector`. KeyError if one is unknown."""
        ids = arguments.integers("ids", ids)
        state = self._state
        slots = np.empty(len(ids), np.int64)
        kernels.slots_of(state.arena, state.size, ids, slots)
        if len(unknown := ids[slots < 0]):
            raise KeyError(int(unknown[0]))
        return state.vectors[slots, : self.dim]

    def emptied(self) -> "Self":
        """An empty index of the same settings, which draws levels from where this one stopped."""
        other = type(self)(self.dim, self.M, self.ef_construction, self.ef_search, self.ml, metric=self.metric)
        other._random.setstate(self._random.getstate())
        return other

    def get_vector(self, vec_id: int) -> np.ndarray:
        """A copy of the vector stored under an id, float32 (dim,); of length 1 under "cosine". KeyError if unknown."""
        vec_id = arguments.integer("vec_id", vec_id)
        state = self._state
        slot = state.slot(vec_id)
        if slot < 0:
            raise KeyError(vec_id)
        return state.vectors[slot, : self.dim].copy()

    def stats(self) -> dict[str, Any]:
        """What is in. O(n M).

        `num_vectors`; `num_layers`, the levels from 0 to the highest; `entry_point`, the id where searches begin
        (None if empty), and its `entry_level` (-1); `total_edges`, directed links in all layers; `avg_degree`,
        links of the lowest layer per linked vector; `num_duplicates`, vectors that hang on an equal one.
        """
        state = self._state
        count, entry = state.size, state.entry
        duplicates = int(np.count_nonzero(state.nodes[:count, kernels.LEVEL] < 0))
        ground = int(np.count_nonzero(state.links[:count] >= 0))
        above = int(np.count_nonzero(state.upper[: state.upper_rows] >= 0))
        level = int(state.nodes[entry, kernels.LEVEL]) if count else -1
        return {
            "num_vectors": count,
            "num_layers": level + 1,
            "entry_point": int(state.ids[entry]) if count else None,
            "entry_level": level,
            "total_edges": ground + above,
            "avg_degree": ground / max(count - duplicates, 1),
            "num_duplicates": duplicates,
        }

    def reserve(self, n: int) -> None:
        """Make room for n vectors in all, so that nothing grows before that. O(n dim)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            state = self._state
            if n > len(state.vectors):
                self._state = state.resized(n, len(state.upper))

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used. O(n dim)."""
        with self._lock:
            state = self._state
            self._state = state.resized(state.size, state.upper_rows)

    def __len__(self) -> int:
        return self._state.size

    def __contains__(self, vec_id: object) -> bool:
        if not isinstance(vec_id, (int, np.integer)) or isinstance(vec_id, bool):
            return False
        return bool(0 <= vec_id <= arguments.INT64_MAX) and self._state.slot(int(vec_id)) >= 0

    def __repr__(self) -> str:
        return f"HNSW(dim={self.dim}, M={self.M}, metric={self.metric!r}, {len(self)} vectors)"

    @property
    def _step(self) -> int:
        """How many levels make one tier."""
        return max(1, round(math.log(self.M) * self.ml))

    def _vectors(self, name: str, vectors: np.ndarray) -> np.ndarray:
        """Vectors that may be added: none is zero where it must have a direction."""
        vectors = writable(vectors)
        if self.metric == "cosine" and (zero := kernels.first_zero(vectors)) >= 0:
            raise ValueError(f"{name} must not be all zeros under metric='cosine', row {zero} is")
        return vectors

    def _widths(self, k: int, ef: int | None) -> tuple[int, int]:
        k = arguments.integer("k", k, 0)
        return k, max(self.ef_search if ef is None else arguments.integer("ef", ef, 1), k)

    def _search_some(self, state: State, queries: np.ndarray, ef: int, ids: np.ndarray, distances: np.ndarray) -> int:
        ef = max(1, min(ef, state.size))
        metric = _METRICS[self.metric]
        return hnsw_search.search(*state.arrays, state.size, state.entry, queries, metric, ef, ids, distances)

    def _add(self, vectors: np.ndarray, ids: np.ndarray, done: Callable[[int], None]) -> None:
        """Add what has been checked but for the ids. The caller holds the lock."""
        before, n = self._state, len(ids)
        state = before
        if state.size + n > MAX_ROWS:
            raise ValueError(f"HNSW holds at most 2**31-1 vectors, {state.size + n} would be needed")
        if state.size + n > len(state.vectors):
            capacity = min(max(2 * len(state.vectors), state.size + n), MAX_ROWS)
            self._state = state = state.resized(capacity, len(state.upper))
        try:
            if (twice := append_ids(state.arena, ids)) >= 0:
                state.take_back_ids()
                self._state = before
                raise ValueError(f"ids must be new and distinct, ids[{twice}] = {ids[twice]} is not")
            levels, at = self._draw_levels(n), 0
            while at < n:
                size = self._batch_size(levels[at : at + _MAX_BATCH])
                self._add_batch(vectors[at : at + size], levels[at : at + size])
                at += size
                done(size)
        finally:
            self._publish()
            self._state.take_back_ids()

    def _batch_size(self, levels: np.ndarray) -> int:
        """How many of the next vectors make a batch, which ends with one that becomes the entry point."""
        state = self._state
        levels = levels[: state.size // _BATCH_SHARE]
        if len(levels) < 2:
            return 1
        higher = np.flatnonzero(levels > state.nodes[state.entry, kernels.LEVEL])
        return int(higher[0]) + 1 if len(higher) else len(levels)

    def _add_batch(self, vectors: np.ndarray, levels: np.ndarray) -> None:
        state, n, step, metric = self._state, len(levels), self._step, _METRICS[self.metric]
        self._state = state = state.with_upper_rows(state.upper_rows + int((levels // step).sum()))
        arrays = state.arrays
        kernels.store(state.vectors, state.size, vectors, self.metric == "cosine")
        batch = np.empty((n, hnsw_build.BATCH), np.int32)
        rows = hnsw_build.prepare(*arrays, levels, step, batch)
        found, sizes = np.empty((rows, self.ef_construction), np.int64), np.empty(rows, np.int32)
        in_pieces(n, lambda part: hnsw_build.find(*arrays, metric, part.start, part.stop, batch, found, sizes))
        in_pieces(n, lambda part: hnsw_build.choose(*arrays, metric, part.start, part.stop, batch, found, sizes))

        def connect(part: slice) -> None:
            hnsw_build.connect(*arrays, metric, part.start, part.stop, batch)
            self._publish()

        in_pieces(n, connect)

    def _publish(self) -> None:
        """Let readers see what has been linked."""
        self._state = self._state.published()

    def _draw_levels(self, n: int) -> np.ndarray:
        """Levels for the next n vectors, int32 (n,), from this instance's random.Random."""
        if n == 1:
            return np.array([-math.log(1.0 - self._random.random()) * self.ml], np.int32)  # cut off, as floor does
        version, words, gauss = self._random.getstate()
        bulk = np.random.RandomState()  # the same Mersenne Twister, and the same way to a float
        bulk.set_state(
            {"bit_generator": "MT19937", "state": {"key": np.array(words[:-1], np.uint32), "pos": words[-1]}}
        )
        numbers = bulk.random_sample(n)
        state: Any = bulk.get_state(legacy=False)
        self._random.setstate((version, (*state["state"]["key"].tolist(), int(state["state"]["pos"])), gauss))
        return (-np.log(1.0 - numbers) * self.ml).astype(np.int32)

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._state.arrays

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            state, rows = self._state, self._state.upper_rows
            settings = (self.dim, self.M, self.ef_construction, self.ef_search, _METRICS[self.metric])
            return {
                "vectors": state.vectors[: state.size],
                "nodes": state.nodes[: state.size],
                "links": state.links[: state.size],
                "upper": state.upper[:rows],
                "ids": state.ids.copy(),
                "entry": np.array(state.entry, np.int64),
                "settings": np.array(settings, np.int64),
                "ml": np.array(self.ml, np.float64),
                "random": np.array(self._random.getstate()[1], np.uint32),
            }

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        settings, words = arrays["settings"].tolist(), arrays["random"].tolist()
        storage.expect(len(settings) == 5 and 0 <= settings[4] < len(_METRICS), "settings out of range")
        storage.expect(len(words) == 625 and words[624] <= 624, "the random state is none")
        try:
            dim, M, ef_construction, ef_search, metric = settings
            self = cls(dim, M, ef_construction, ef_search, float(arrays["ml"]), 0, metric=list(_METRICS)[metric])
        except ValueError as error:
            raise storage.Damaged(f"damaged: {error}") from error
        self._random.setstate((3, tuple(words), None))
        vectors, nodes, links, upper, ids = (arrays[name] for name in ("vectors", "nodes", "links", "upper", "ids"))
        empty = self._state
        storage.expect(len(vectors) == len(nodes) == len(links) == len(ids) <= MAX_ROWS, "lengths differ")
        shapes = [array.shape[1] for array in (vectors, nodes, links, upper)]
        storage.expect(shapes == [array.shape[1] for array in empty[:4]], "rows are of another width")
        storage.expect(len(ids) == 0 or ids.min() >= 0, "an id is negative")
        arena = kernels.new_arena(len(ids))
        storage.expect(append_ids(arena, ids) < 0, "an id comes twice")
        entry = int(arrays["entry"])
        storage.expect(entry == -1 if len(ids) == 0 else 0 <= entry < len(ids), "the entry point is out of range")
        arena[kernels.ENTRY], arena[kernels.UPPER_TOP], arena[kernels.LINKED] = entry, len(upper), len(ids)
        vectors, nodes, links, upper = (copied(array, len(array)) for array in (vectors, nodes, links, upper))
        self._state = State(vectors, nodes, links, upper, arena, len(ids), entry)
        return self

    def _fault(self) -> str | None:
        with self._lock:
            state = self._state
            n = state.size
            vectors, nodes, links, upper, arena = state.arrays
            head = arena[: table.HEAD]
            if not head[table.COUNT] == head[table.TOP] == head[kernels.LINKED] == n:
                return f"{n} vectors counted, {head[table.COUNT]} ids, {head[kernels.LINKED]} linked"
            if head[kernels.ENTRY] != state.entry or not -(n == 0) <= state.entry < max(n, 0):
                return f"the entry point {state.entry} is none, or not the writers'"
            if table.first_fault(*table.parts(arena)) != -1:
                return "an id does not lead to its slot"
            if n == 0:
                return None
            if (fault := check.first_fault_of_nodes(nodes, arena, self._step, n)) != -1:
                return f"slot {fault}: levels, rows, twin or parent broken"
            if (fault := check.first_fault_of_chains(nodes, n)) != -1:
                return f"slot {fault}: twins broken"
            fault = first_fault(n, lambda *part: check.first_fault_of_links(nodes, links, upper, arena, *part))
            if fault != -1:
                return f"slot {fault}: links broken"
            metric, dim = _METRICS[self.metric], self.dim
            fault = first_fault(n, lambda *part: check.first_fault_of_vectors(vectors, nodes, dim, metric, *part))
            if fault != -1:
                return f"slot {fault}: vector broken"
            return None

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` as .npz. The file there is a whole one at any moment, old or new; adding waits."""
        with self._lock:
            super().save(path)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: array.copy() for name, array in self._to_arrays().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self._from_arrays(state).__dict__)
