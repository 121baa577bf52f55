"""Approximate nearest neighbours by a hierarchical navigable small-world graph."""

import math
import os
import random
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base import files as storage
from ..base.arena import MAX_ROWS
from ..base.filters import Selection
from ..base.progress import Progress, bar
from ..base.structure import Structure
from ..base.threads import count as thread_count
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import distance as hnsw_distance
from ..kernels.hnsw import layout as kernels
from ..kernels.hnsw import remove as hnsw_remove
from . import files as hnsw_file
from . import state as hnsw_state
from . import write as hnsw_writer
from .one_query import Single
from .search import Grouping, grouped, search, smallest_ef
from .state import METRICS, QUANTIZATIONS, VECTORS, Readers, Settings, State, writable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

_MAX_DIM, _MAX_M, _MAX_EF, _MAX_ML = 2**16, 2**10, 2**20, 2.0**16
_LARGEST_HALF = 65504.0


class HNSW(Structure):
    """A graph over vectors in which searches walk greedily (Malkov and Yashunin 2018).

    Parameters:
        dim: numbers a vector has.
        M: neighbours chosen for a new vector in each layer, by algorithm 4 (up to M / 2, also the nearest it leaves
            out); up to M stay in the upper layers, up to 2 M in the lowest.
        ef_construction, ef_search: candidates kept while building and while searching; both may be set anew.
        ml: scales the levels that vectors draw from `random.Random(seed)`; of these, every s-th is linked, s being
            round(ln(M) * ml) or 1, since layers thinner than 1/M of the one below only lengthen the descent.
        metric: "l2" (Euclidean distance), "cosine" (1 - cosine; vectors are kept at length 1) or "ip" (negated inner
            product). Distances are computed in float32; one that overflows it is infinite.
        quantization: what walks measure by: "int4" or "int8" codes of the vectors, rotated and centred (see
            `kernels.hnsw.codes`), or None, the vectors themselves. The default "auto" is the fastest at equal recall
            that we measured: "int4" from 96 dimensions on, "int8" from 24, None below. The attribute tells which it is.
        vectors: what is kept of the vectors for exact distances of the nearest found: "float32", "float16" (rounded;
            numbers up to 65504), or None: codes alone, and distances as these tell them.

    Equal vectors cost nothing: one of them is linked, the rest are found with it. Every vector can be reached from
    every other as long as none was removed, and in practice after that. A search whose `ef` is an eighth of the
    vectors or more compares all, and is exact.

    Any number of threads may search while one adds or removes; writing threads wait for one another. A search sees
    the index as it was at one moment. The same seed and the same calls give the same arrays, on any number of
    threads. Memory in bytes a vector of capacity, which doubles as needed: 4 dim (2 for float16), 1/2 dim for int4 or
    dim for int8 (dim rounded up to 32, 128 and 64), 8 M, and about 75.

    >>> index = HNSW(dim=2, seed=1)
    >>> index.add([0.0, 0.0], 10)
    >>> index.add_many([[3.0, 4.0], [1.0, 0.0]], [11, 12])
    >>> index.search([0.0, 0.0], k=2)
    [(10, 0.0), (12, 1.0)]
    >>> index.remove(10)
    >>> index.search([0.0, 0.0], k=2)
    [(12, 1.0), (11, 5.0)]
    """

    _schema: ClassVar[storage.Schema] = hnsw_file.SCHEMA
    _version = 2

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
        quantization: str | None = "auto",
        vectors: str | None = "float32",
    ):
        self.dim = arguments.integer("dim", dim, 1, _MAX_DIM)
        self.M = arguments.integer("M", M, 1, _MAX_M)
        self.ef_construction, self.ef_search = ef_construction, ef_search
        self.ml = arguments.real("ml", ml, 0.0, _MAX_ML)
        if seed is not None and (not isinstance(seed, (int, np.integer)) or isinstance(seed, bool)):
            raise TypeError(f"seed must be an integer or None, got {seed!r}")
        self.metric: str = arguments.one_of("metric", metric, METRICS)
        self.vectors: str | None = arguments.one_of("vectors", vectors, VECTORS)
        if arguments.one_of("quantization", quantization, (*QUANTIZATIONS, "auto")) == "auto":
            quantization = hnsw_state.fitting_quantization(self.dim, self.vectors is not None)
        if quantization is None and vectors is None:
            raise ValueError("vectors must be 'float32' or 'float16' without quantization, got None")
        self.quantization = quantization
        bits, kept = QUANTIZATIONS[quantization], VECTORS[vectors]
        self._settings = Settings.of(self.dim, self.M, METRICS[metric], bits, kept, self.ml)
        self._random = random.Random(None if seed is None else int(seed))
        self._lock, self._readers = threading.RLock(), Readers()
        self._state, self._single = hnsw_state.empty(16, self._settings), Single(self._settings)

    @property
    def ef_construction(self) -> int:
        """Candidates kept while building; may be set anew."""
        return self._ef_construction

    @ef_construction.setter
    def ef_construction(self, value: int) -> None:
        self._ef_construction = arguments.integer("ef_construction", value, 1, _MAX_EF)

    @property
    def ef_search(self) -> int:
        """Candidates kept while searching; may be set anew."""
        return self._ef_search

    @ef_search.setter
    def ef_search(self, value: int) -> None:
        self._ef_search = arguments.integer("ef_search", value, 1, _MAX_EF)

    def add(self, vec: ArrayLike, vec_id: int) -> None:
        """Add a vector (dim,) under an id that is new, 0..2**63-1. O(log n ef_construction M dim).

        ValueError, with nothing changed, if the id is there, the shape differs, a value is not finite in the type
        that is kept, or all are zero under "cosine".
        """
        vectors = self.admissible("vec", arguments.vector("vec", vec, self.dim)[None])
        ids = np.array([arguments.integer("vec_id", vec_id, 0)], np.int64)
        with self._lock:
            self._add(vectors, ids, 1, lambda count: None)

    def add_many(
        self, vecs: ArrayLike, ids: ArrayLike, *, threads: int | None = None, progress: Progress = False
    ) -> None:
        """As `add` for vecs (n, dim) and ids (n,): all or, if one is refused, none. O(n log n ef_construction M dim).

        New vectors are compared with what was there when their batch began, and with each other; a batch is a
        fiftieth of what is in, at most 256. So the graph is another than n calls of `add` would give, yet
        always the same, on any number of `threads` (default: all cores). An interruption leaves a whole prefix in.
        """
        vectors = self.admissible("vecs", vecs)
        ids = arguments.integers("ids", ids, 0)
        arguments.same_length(vecs=vectors, ids=ids)
        threads = thread_count(threads)
        with bar(progress, len(ids), "HNSW") as done, self._lock:
            self._add(vectors, ids, threads, done)

    def remove(self, vec_id: int) -> None:
        """Remove a vector. KeyError if the id is unknown. O(M^3 + M^2 dim).

        Who was linked to it is linked to a neighbour of it instead (as in FreshDiskANN, Singh et al. 2021). Its slot is
        used again once the searches that may still see it have ended.
        """
        self.remove_many([arguments.integer("vec_id", vec_id)])

    def remove_many(self, ids: ArrayLike) -> None:
        """Remove the vectors of ids (n,). KeyError, with nothing changed, if one is unknown, ValueError if one
        comes twice. An interruption leaves a whole prefix of them removed."""
        ids = writable(arguments.integers("ids", ids))
        with self._lock:
            self._reclaim()
            self._known_slots(self._state, ids)
            if len(np.unique(ids)) < len(ids):
                raise ValueError("ids must be distinct")
            try:
                hnsw_writer.remove(self._state, self._settings, ids)
            finally:
                self._state = self._state.published()
                self._reclaim()

    def update(self, vec_id: int, vec: ArrayLike) -> None:
        """Replace the vector of an id, at one moment for whoever searches. KeyError if it is unknown; else as `add`."""
        vec_id = arguments.integer("vec_id", vec_id)
        vectors = self.admissible("vec", arguments.vector("vec", vec, self.dim)[None])
        with self._lock:
            self._reclaim()
            self._known_slots(self._state, np.array([vec_id], np.int64))
            hidden = np.array([kernels.HIDDEN], np.int64)
            try:
                self._add(vectors, hidden, 1, lambda count: None, publish=False)
                hnsw_writer.replace(self._state, self._settings, vec_id)
            finally:
                if self._state.slots(hidden)[0] >= 0:
                    hnsw_writer.remove(self._state, self._settings, hidden)
                self._state = self._state.published()
                self._reclaim()

    def search(
        self,
        query: ArrayLike,
        k: int,
        *,
        ef: int | None = None,
        filter: Selection = None,
        group_by: Grouping = None,
    ) -> list[tuple[int, float]]:
        """The k nearest found to a query (dim,), as (id, distance), nearest first; equal ones by smaller id.

        ef: replaces `ef_search`; at least k is used. A walk also ends where the next candidates are much farther
            than the k-th nearest found, so that `ef` bounds the work of hard queries and easy ones take less.
        filter: an integer array of allowed ids, or a function that takes the array of all ids and returns a boolean
            mask. Where few are allowed they are all compared, where many are the walk is made wider.
        group_by: the parent of each id: an integer array with one for each id 0..len-1, or a function that takes an
            array of ids and returns an integer array. At most one result, the nearest, is given for each parent.

        O(log n + ef M dim) in practice.
        """
        if not (type(query) is np.ndarray and query.dtype == np.float32 and query.shape == (self.dim,)
                and query.flags.carray):  # fmt: skip  # the common case goes on as it is
            query = writable(arguments.vector("query", query, self.dim))
        k = min(arguments.integer("k", k, 0), self._state.present)
        found, distances = self._search("query", query[None], k, ef, filter, group_by, 1)
        ids = found.tolist()[0]
        if ids and ids[-1] < 0:
            ids = ids[: ids.index(-1)]
        return list(zip(ids, distances.tolist()[0]))  # noqa: B905  to say that it is not strict costs 100 ns

    def search_batch(
        self,
        queries: ArrayLike,
        k: int,
        *,
        ef: int | None = None,
        filter: Selection = None,
        group_by: Grouping = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search` for queries (n, dim): ids int64 (n, k) and distances float32 (n, k), nearest first.

        Rows with fewer than k results end in id -1 and distance +inf. One `filter` is for all queries. `threads`
        (default: all cores) change nothing but the time.
        """
        queries = writable(arguments.vectors("queries", queries, self.dim))
        k = arguments.integer("k", k, 0)
        return self._search("queries", queries, k, ef, filter, group_by, thread_count(threads))

    def tune(self, queries: ArrayLike, recall: float, k: int = 10, *, threads: int | None = None) -> int:
        """Find the smallest `ef` that finds a share `recall` of the k nearest of queries (n, dim), and set `ef_search`.

        A neighbour counts as found if it is as near as the k-th nearest is. Returns ef; where no walk is good enough,
        that is the one from which searches compare all. O(n N dim), N vectors being in. ValueError if there are no
        queries.
        """
        queries = writable(arguments.vectors("queries", queries, self.dim))
        recall, k = arguments.real("recall", recall, 0.0, 1.0), arguments.integer("k", k, 1)
        if not len(queries):
            raise ValueError("queries must have at least one row, got none")
        if len(self):
            k, threads = min(k, len(self)), thread_count(threads)
            self.ef_search = min(smallest_ef(self.search_batch, queries, recall, k, len(self), threads), _MAX_EF)
        return self.ef_search

    def distances(self, queries: ArrayLike, ids: ArrayLike, *, threads: int = 1) -> np.ndarray:
        """The distances of each query (n, dim) to c vectors, ids (n, c): float32 (n, c); +inf for unknown ids.

        O(n c dim).
        """
        queries = writable(arguments.vectors("queries", queries, self.dim))
        return self._distances(queries, arguments.matrix("ids", ids, len(queries)), threads)

    def _distances(self, queries: np.ndarray, ids: np.ndarray, threads: int) -> np.ndarray:
        """`distances` for checked arguments."""
        out = np.empty(ids.shape, np.float32)
        with self._reading() as state:
            slots = state.slots(ids.ravel()).reshape(ids.shape)

            def compute(part: slice) -> None:
                settings = self._settings
                if not hnsw_distance.distances(
                    *state.stored, state.frame, settings.bits, settings.metric, slots[part], queries[part], out[part]
                ):
                    raise ValueError("queries must not be all zeros under metric='cosine'")

            in_pieces(len(ids), compute, threads)
        return out

    def get_vector(self, vec_id: int) -> np.ndarray:
        """A copy of the vector of an id, float32 (dim,); of length 1 under "cosine". KeyError if it is unknown.

        With `vectors="float16"` it is rounded; with None it is what the code stands for.
        """
        return self.get_vectors([arguments.integer("vec_id", vec_id)])[0]

    def get_vectors(self, ids: ArrayLike) -> np.ndarray:
        """Copies of the vectors `ids` (n,), float32 (n, dim), as `get_vector`. KeyError if one is unknown."""
        ids = writable(arguments.integers("ids", ids))
        with self._reading() as state:
            return hnsw_writer.stored(state, self._settings, self._known_slots(state, ids))

    def ids(self) -> np.ndarray:
        """The ids of all that is in, int64 (n,), ascending. O(n log n)."""
        with self._reading() as state:
            return np.sort(state.rows[state.live(), table.KEY])

    def contains_many(self, ids: ArrayLike) -> np.ndarray:
        """Which of ids (n,) are in, bool (n,). O(n)."""
        return self._state.slots(writable(arguments.integers("ids", ids))) >= 0

    def stats(self) -> dict[str, Any]:
        """What is in, and what a person needs to judge the graph. O(n M).

        `num_vectors`; `num_layers`, the levels from 0 to the highest; `entry_point`, the id where searches begin
        (None if empty), and its `entry_level` (-1); `total_edges`, directed links in all layers; `avg_degree`,
        links of the lowest layer per linked vector; `num_duplicates`, vectors that hang on an equal one; `layers`, for
        each linked layer from the lowest its `nodes` and `avg_degree`; `unreachable`, linked vectors that no way leads
        to from the entry point in the lowest layer; `bytes`, by part.
        """
        with self._lock:
            return hnsw_state.described(self._state)

    def reserve(self, n: int) -> None:
        """Make room for n vectors in all, so that nothing grows before that. O(n dim)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            if n > len(self._state.nodes):
                self._state = self._state.resized(n)

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used, that of removed vectors included. O(n (dim + M))."""
        with self._lock:
            self._state = self._state.compacted()

    def __len__(self) -> int:
        return self._state.present

    def __contains__(self, vec_id: object) -> bool:
        if not isinstance(vec_id, (int, np.integer)) or isinstance(vec_id, bool):
            return False
        if not 0 <= vec_id <= arguments.INT64_MAX:
            return False
        return bool(self._state.slots(np.array([vec_id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
        return (
            f"HNSW(dim={self.dim}, M={self.M}, metric={self.metric!r}, quantization={self.quantization!r}, "
            f"vectors={self.vectors!r}, {len(self)} in)"
        )

    def admissible(self, name: str, vectors: ArrayLike) -> np.ndarray:
        """`vectors` as float32 (n, dim), which may be added; ValueError, calling them `name`, if one may not."""
        vectors = writable(arguments.vectors(name, vectors, self.dim))
        if self.metric == "cosine":
            if (zero := hnsw_distance.first_zero(vectors)) >= 0:
                raise ValueError(f"{name} must not be all zeros under metric='cosine', row {zero} is")
        elif self.vectors == "float16" and (largest := float(np.abs(vectors).max(initial=0))) > _LARGEST_HALF:
            raise ValueError(f"{name} must lie in -65504..65504 with vectors='float16', got {largest:g} in size")
        return vectors

    @contextmanager
    def _reading(self) -> "Iterator[State]":
        """The state, whose slots get no new tenants meanwhile."""
        token = self._readers.enter(self._state.clock)
        try:
            yield self._state
        finally:
            self._readers.leave(token)

    def _search(
        self,
        name: str,
        queries: np.ndarray,
        k: int,
        ef: int | None,
        filter: Selection,
        group_by: Grouping,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        ef = max(self._ef_search if ef is None else arguments.integer("ef", ef, 1), k)
        token = self._readers.enter(self._state.clock)
        try:
            state, found = self._state, None
            if len(queries) == 1 and filter is None and group_by is None:
                found = self._single.nearest(state, queries, k, ef)
            if found is not None:
                return found
            if group_by is None:
                found = search(state, self._settings, queries, k, ef, filter, threads)
            else:
                found = grouped(state, self._settings, queries, k, ef, filter, group_by, threads)
        finally:
            self._readers.leave(token)
        if found is None:
            arguments.vectors(name, queries, self.dim)  # names what is not finite
            raise ValueError(f"{name} must not be all zeros under metric='cosine'")
        return found

    def _known_slots(self, state: State, ids: np.ndarray) -> np.ndarray:
        slots = state.slots(ids)
        if len(unknown := ids[slots < 0]):
            raise KeyError(int(unknown[0]))
        return slots

    def _reclaim(self) -> None:
        """Let removed slots that no search can see any more be used again."""
        state = self._state
        if state.arena[kernels.LIMBO] >= 0:
            hnsw_remove.reclaim(state.nodes, state.upper, state.arena, self._readers.oldest(state.clock))

    def _add(
        self, vectors: np.ndarray, ids: np.ndarray, threads: int, done: Callable[[int], None], publish: bool = True
    ) -> None:
        """Add what has been checked but for the ids. The caller holds the lock."""
        self._reclaim()
        before, settings, n, linked, ef = self._state, self._settings, len(ids), len(self), self.ef_construction
        needed = int(before.arena[table.TOP]) + n - hnsw_remove.free_slots(before.arena, n)
        if needed > MAX_ROWS:
            raise ValueError(f"HNSW holds at most 2**31-1 vectors, {needed} would be needed")
        state = before
        if needed > len(state.nodes):
            state = state.resized(min(max(2 * len(state.nodes), needed), MAX_ROWS))
        slots, at = np.full(n, -1, np.int64), 0
        try:
            if (twice := hnsw_state.append_ids(state.arena, ids, slots)) >= 0:
                raise ValueError(f"ids must be new and distinct, ids[{twice}] = {ids[twice]} is not")
            self._state = state = hnsw_writer.centred(state, settings, vectors)
            levels = hnsw_writer.draw_levels(self._random, n, self.ml)
            room = hnsw_writer.Room.of(min(n, hnsw_writer.MAX_BATCH), settings, ef)
            while at < n:
                size = hnsw_writer.batch_size(state, linked + at, levels[at : at + hnsw_writer.MAX_BATCH])
                part = slice(at, at + size)
                state = state.with_upper_rows(int((levels[part] // settings.step).sum()))
                hnsw_writer.link(state, settings, ef, vectors[part], slots[part], levels[part], room, threads)
                at += size
                self._state = state = state.published(n - at) if publish else state
                done(size)
        finally:
            given = slots[: np.count_nonzero(slots >= 0)]
            if at < len(given):  # interrupted, maybe when a batch was linked
                hnsw_state.take_back_ids(state.arena, given[hnsw_writer.in_already(state, given) :])
                self._state = state.published() if publish else state

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._state.arrays

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            if self._state.arena[table.COUNT] != self._state.present:
                raise RuntimeError("an HNSW is saved when add_many has returned, not from within")
            state = self._state if self._state.compact else self._state.compacted()
            return hnsw_file.to_arrays(self, state, self._settings)

    @classmethod
    def _restored(cls, arrays: storage.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        return super()._restored(hnsw_file.upgraded(arrays, where), where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        self = hnsw_file.configured(cls, arrays)
        self._state = hnsw_file.state(arrays, self._settings)
        return self

    def _fault(self) -> str | None:
        with self._lock:
            return hnsw_file.fault(self._state, self._settings, vectors=True)

    def _mapped_fault(self) -> str | None:
        return hnsw_file.fault(self._state, self._settings, vectors=False)

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` as .npz. The file there is a whole one at any moment, old or new; writers wait."""
        with self._lock:
            super().save(path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, mmap: bool = False) -> "Self":
        """Read what `save` wrote. ValueError if the file is damaged, of another kind or of a newer version.

        With `mmap` all arrays stay in the file and are read where they are needed; changes stay private until `save`.
        All but vectors and codes are checked, and those are harmless whatever they are. Nobody must change the file
        or make it shorter meanwhile; to replace it is fine.
        """
        return cls._load(path, mmap)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: np.array(array) for name, array in self._to_arrays().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self._from_arrays({name: writable(array) for name, array in state.items()}).__dict__)
