"""Approximate nearest neighbours by a hierarchical navigable small-world graph."""

import math
import os
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.arena import MAX_ROWS
from ..base.files import Arrays, Damaged, Schema, read
from ..base.filters import Selection
from ..base.progress import Progress, bar
from ..base.structure import Structure, writable
from ..base.threads import count as thread_count
from ..kernels import table
from ..kernels.hnsw import layout
from ..kernels.hnsw import remove as remove_kernels
from . import files, write
from . import state as states
from .one_query import Single
from .search import Found, Grouping, distances, grouped, search, smallest_ef
from .state import MAX_DIM, MAX_M, MAX_ML, METRICS, QUANTIZATIONS, VECTORS, Readers, Settings

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_EF = 2**20


class HNSW(Structure):
    """A hierarchical navigable small-world graph of vectors (Malkov and Yashunin 2018).

    Any number of threads may search while one adds or removes; writing threads wait for one another. A search sees
    the index as it was at one moment. The same seed and the same calls give the same arrays, on any number of
    threads.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    M : int
        Neighbours chosen for a new vector in each layer, by algorithm 4 (up to M / 2, also the nearest it leaves out).
        Upper layers keep up to M, the lowest up to 2 M.
    ef_construction, ef_search : int
        Candidates kept while building and while searching; both are attributes that may be set.
    ml : float
        Scale of the levels that vectors draw from `random.Random(seed)`. Every s-th level is linked, s being
        round(ln(M) * ml) or 1, since layers thinner than 1/M of the one below only lengthen the descent.
    seed : int or None
        Seed of the levels; None takes one from the system.
    metric : {"l2", "cosine", "ip"}
        Euclidean distance, 1 - cosine (vectors are kept at length 1), or negated inner product. Distances are computed
        in float32; one that overflows it is infinite.
    quantization : {"auto", "int4", "int8", None}
        What the graph search compares: codes of the vectors, rotated and centred (see `kernels.hnsw.codes`), or with
        None the vectors themselves. "auto" is what measured fastest at equal recall: "int4" from 96 dimensions on,
        "int8" from 24, None below. The attribute holds the choice.
    vectors : {"float32", "float16", None}
        What is kept for exact distances of the nearest found: vectors, rounded for "float16" (numbers up to 65504), or
        with None only codes, so that distances are estimates.

    Notes
    -----
    Of equal vectors, one is linked into the graph, and the others are found with it. Every vector can be reached from
    every other as long as none was removed, and in practice after that. A search whose `ef` is an eighth of the
    vectors or more compares all, and is exact.

    Memory in bytes per vector of capacity, which doubles as needed: 4 dim (2 for float16), 1/2 dim for int4 or dim for
    int8 (dim rounded up to 32, 128 and 64), 8 M, and about 75.

    Examples
    --------
    >>> index = HNSW(dim=2, seed=1)
    >>> index.add([0.0, 0.0], 10)
    >>> index.add_many([[3.0, 4.0], [1.0, 0.0]], [11, 12])
    >>> index.search([0.0, 0.0], k=2)
    [(10, 0.0), (12, 1.0)]
    >>> index.remove(10)
    >>> index.search([0.0, 0.0], k=2)
    [(12, 1.0), (11, 5.0)]
    """

    _schema: ClassVar[Schema] = files.SCHEMA
    _version = 2

    def __init__(
        self, dim: int, M: int = 16, ef_construction: int = 200, ef_search: int = 50, ml: float = 1.0 / math.log(2.0),
        seed: int | None = None, *, metric: str = "l2", quantization: str | None = "auto",
        vectors: str | None = "float32",
    ):  # fmt: skip
        self.dim = arguments.integer("dim", dim, 1, MAX_DIM)
        self.M = arguments.integer("M", M, 1, MAX_M)
        self.ef_construction, self.ef_search = ef_construction, ef_search
        self.ml = arguments.real("ml", ml, 0.0, MAX_ML)
        if seed is not None and (not isinstance(seed, (int, np.integer)) or isinstance(seed, bool)):
            raise TypeError(f"seed must be an integer or None, got {seed!r}")
        self.metric: str = arguments.one_of("metric", metric, METRICS)
        self.vectors: str | None = arguments.one_of("vectors", vectors, VECTORS)
        if arguments.one_of("quantization", quantization, (*QUANTIZATIONS, "auto")) == "auto":
            quantization = states.fitting_quantization(self.dim, self.vectors is not None)
        if quantization is None and vectors is None:
            raise ValueError("vectors must be 'float32' or 'float16' without quantization, got None")
        self.quantization = quantization
        bits, kept = QUANTIZATIONS[quantization], VECTORS[vectors]
        self._settings = Settings.of(self.dim, self.M, METRICS[metric], bits, kept, self.ml)
        self._random = random.Random(None if seed is None else int(seed))
        self._lock, self._readers = threading.RLock(), Readers()
        self._state, self._single = states.empty(16, self._settings), Single(self._settings)

    @property
    def ef_construction(self) -> int:
        """Candidates kept while building; may be set."""
        return self._ef_construction

    @ef_construction.setter
    def ef_construction(self, value: int) -> None:
        self._ef_construction = arguments.integer("ef_construction", value, 1, _MAX_EF)

    @property
    def ef_search(self) -> int:
        """Candidates kept while searching; may be set."""
        return self._ef_search

    @ef_search.setter
    def ef_search(self, value: int) -> None:
        self._ef_search = arguments.integer("ef_search", value, 1, _MAX_EF)

    @property
    def arrays(self) -> layout.Arrays:
        """The arrays that the kernels of `llmds.kernels.hnsw` take, for `@njit` functions of your own; no copies.

        A NamedTuple: vectors uint8 (capacity, bytes), codes uint8 (capacity, width), terms float32 (capacity, 2),
        frame float32 (2, D), nodes int32 (capacity, 6), links int32 (capacity, 2 M), upper int32 (rows, M + 1), and
        arena int64, which `kernels.hnsw.layout` explains. The first `arena[table.TOP]` slots are in use.

        The index owns them. They are those of one moment: read the property again after any call that adds, removes,
        updates, reserves or shrinks, which may replace each of them. Change nothing while other threads use the index.
        """
        return self._state.arrays

    def add(self, vec: ArrayLike, vec_id: int) -> None:
        """Add a vector. O(log n ef_construction M dim).

        Parameters
        ----------
        vec : array_like of shape (dim,)
            The vector, of finite numbers.
        vec_id : int
            A new id, 0..2**63-1.

        Raises
        ------
        ValueError
            The id is present, the shape differs, a value is not finite in the type that is kept, or all are zero under
            "cosine". Nothing is changed.
        """
        vectors = self.admissible("vec", arguments.vector("vec", vec, self.dim)[None])
        ids = np.array([arguments.integer("vec_id", vec_id, 0)], np.int64)
        with self._lock:
            self._add(vectors, ids, 1, lambda count: None)

    def add_many(
        self, vecs: ArrayLike, ids: ArrayLike, *, threads: int | None = None, progress: Progress = False
    ) -> None:
        """Add many vectors: all or, if one is refused as in `add`, none.

        Parameters
        ----------
        vecs : array_like of shape (n, dim)
            The vectors.
        ids : array_like of shape (n,)
            Their ids, new and distinct.
        threads : int, optional
            Number of threads, by default all cores.
        progress : bool or callable
            True draws a bar with `tqdm`; a function is called with (done, total).

        Notes
        -----
        O(n log n ef_construction M dim). New vectors are compared with those present when their batch began, and
        with each other; a batch is a fiftieth of those present, at most 256. So the graph differs from that of n calls
        of `add`, but is the same on any number of threads. After an interruption, a whole prefix is added.
        """
        vectors = self.admissible("vecs", vecs)
        ids = arguments.integers("ids", ids, 0)
        arguments.same_length(vecs=vectors, ids=ids)
        threads = thread_count(threads)
        with bar(progress, len(ids), "HNSW") as done, self._lock:
            self._add(vectors, ids, threads, done)

    def remove(self, vec_id: int) -> None:
        """Remove a vector. KeyError if the id is unknown. O(M^3 + M^2 dim).

        Nodes that were linked to it are linked to a neighbour of it instead (as in FreshDiskANN,
        Singh et al. 2021). Its slot is used again once the searches that may still see it have ended.
        """
        self.remove_many([arguments.integer("vec_id", vec_id)])

    def remove_many(self, ids: ArrayLike) -> None:
        """Remove the vectors of ids (n,).

        KeyError if one is unknown, ValueError if one is repeated; nothing is changed then. An interruption leaves a
        whole prefix of them removed. O(n (M^3 + M^2 dim)).
        """
        ids = arguments.integers("ids", ids)
        with self._lock:
            self._reclaim()
            self._state.known_slots(ids)
            if len(np.unique(ids)) < len(ids):
                raise ValueError("ids must be distinct")
            try:
                write.remove(self._state, self._settings, ids)
            finally:
                self._state = self._state.published()
                self._reclaim()

    def update(self, vec_id: int, vec: ArrayLike) -> None:
        """Replace the vector of an id, at one moment for all searches. KeyError if it is unknown; else as `add`."""
        vec_id = arguments.integer("vec_id", vec_id)
        vectors = self.admissible("vec", arguments.vector("vec", vec, self.dim)[None])
        with self._lock:
            self._reclaim()
            self._state.known_slots(np.array([vec_id], np.int64))
            hidden = np.array([layout.HIDDEN], np.int64)
            try:
                self._add(vectors, hidden, 1, lambda count: None, publish=False)
                write.replace(self._state, self._settings, vec_id)
            finally:
                if self._state.slots(hidden)[0] >= 0:
                    write.remove(self._state, self._settings, hidden)
                self._state = self._state.published()
                self._reclaim()

    def search(
        self, query: ArrayLike, k: int, *, ef: int | None = None, filter: Selection = None, group_by: Grouping = None
    ) -> list[tuple[int, float]]:
        """Find the k nearest to a query.

        Parameters
        ----------
        query : array_like of shape (dim,)
            The query.
        k : int
            How many to find.
        ef : int, optional
            Replaces `ef_search`; at least k is used. A walk also ends where the next candidates are much farther than
            the k-th nearest found: `ef` limits the work of hard queries, and easy ones take less.
        filter : array_like of int, or callable, optional
            The allowed ids, or a function that takes the array of all ids and returns a boolean mask. Where few are
            allowed they are all compared, where many are the walk is widened.
        group_by : array_like of int, or callable, optional
            The parent of each id: an array with one for each id 0..len-1, or a function from an array of ids to an
            integer array. Only the nearest result of each parent is returned.

        Returns
        -------
        list of (int, float)
            (id, distance), nearest first; equal distances by smaller id. O(log n + ef M dim) in practice.
        """
        if not (type(query) is np.ndarray and query.dtype == np.float32 and query.shape == (self.dim,)
                and query.flags.carray):  # fmt: skip  # the common case needs no conversion
            query = arguments.vector("query", query, self.dim)
        k = min(arguments.integer("k", k, 0), self._state.present)
        found, distances = self._search("query", query[None], k, ef, filter, group_by, 1)
        ids = found.tolist()[0]
        if ids and ids[-1] < 0:
            ids = ids[: ids.index(-1)]
        return list(zip(ids, distances.tolist()[0]))  # noqa: B905  the argument `strict` costs 100 ns

    def search_batch(
        self, queries: ArrayLike, k: int, *, ef: int | None = None, filter: Selection = None,
        group_by: Grouping = None, threads: int | None = None,
    ) -> Found:  # fmt: skip
        """Find the k nearest to each of queries (n, dim), as `search`; one `filter` is for all queries.

        Returns ids int64 (n, k) and distances float32 (n, k), nearest first. Rows with fewer than k results end in
        id -1 and distance +inf. `threads` (default: all cores) change only the time.
        """
        queries = arguments.vectors("queries", queries, self.dim)
        k = arguments.integer("k", k, 0)
        return self._search("queries", queries, k, ef, filter, group_by, thread_count(threads))

    def tune(self, queries: ArrayLike, recall: float, k: int = 10, *, threads: int | None = None) -> int:
        """Find the smallest `ef` that finds a share `recall` (0..1) of the k nearest of queries (m, dim), and set it.

        A neighbour counts as found if it is as near as the k-th nearest. Returns the new `ef_search`; where no walk
        reaches the recall, that is the one from which searches compare all. `threads` is by default all cores.
        ValueError if there are no queries. O(m n dim) for n vectors.
        """
        queries = arguments.vectors("queries", queries, self.dim)
        recall, k = arguments.real("recall", recall, 0.0, 1.0), arguments.integer("k", k, 1)
        if not len(queries):
            raise ValueError("queries must have at least one row, got none")
        if len(self):
            k, threads = min(k, len(self)), thread_count(threads)
            self.ef_search = min(smallest_ef(self.search_batch, queries, recall, k, len(self), threads), _MAX_EF)
        return self.ef_search

    def distances(self, queries: ArrayLike, ids: ArrayLike, *, threads: int = 1) -> np.ndarray:
        """Return the distances of each query (n, dim) to c vectors, ids (n, c): float32 (n, c). O(n c dim).

        +inf for unknown ids.
        """
        queries = arguments.vectors("queries", queries, self.dim)
        return self._distances(queries, arguments.matrix("ids", ids, len(queries)), threads)

    def _distances(self, queries: np.ndarray, ids: np.ndarray, threads: int) -> np.ndarray:
        """Return `distances` of checked arguments."""
        with self._readers.reading(self._state.clock):
            state = self._state
            return distances(state, self._settings, queries, ids, threads)

    def get_vector(self, vec_id: int) -> np.ndarray:
        """Return a copy of the vector of an id, float32 (dim,); of length 1 under "cosine". KeyError if it is unknown.

        With `vectors="float16"` it is rounded; with None it is what the code represents.
        """
        return self.get_vectors([arguments.integer("vec_id", vec_id)])[0]

    def get_vectors(self, ids: ArrayLike) -> np.ndarray:
        """Return copies of the vectors of ids (n,), float32 (n, dim), as `get_vector`. KeyError if one is unknown."""
        ids = arguments.integers("ids", ids)
        with self._readers.reading(self._state.clock):
            state = self._state
            return write.stored(state, self._settings, state.known_slots(ids))

    def ids(self) -> np.ndarray:
        """Return the ids of all vectors, int64 (n,), ascending. O(n log n)."""
        with self._readers.reading(self._state.clock):
            state = self._state
            return np.sort(state.rows[state.live(), table.KEY])

    def contains_many(self, ids: ArrayLike) -> np.ndarray:
        """Return which of ids (n,) are in, bool (n,). O(n)."""
        return self._state.slots(arguments.integers("ids", ids)) >= 0

    def stats(self) -> dict[str, Any]:
        """Return sizes, and what is needed to judge the graph. O(n M).

        `num_vectors`; `num_layers`, the levels from 0 to the highest; `entry_point`, the id where searches begin
        (None if empty), and its `entry_level` (-1); `total_edges`, directed links in all layers; `avg_degree`,
        links of the lowest layer per linked vector; `num_duplicates`, vectors that are found with an equal one;
        `layers`, for each linked layer from the lowest its `nodes` and `avg_degree`; `unreachable`, linked vectors
        that the entry point does not lead to in the lowest layer; `bytes`, by array.
        """
        with self._lock:
            return states.described(self._state)

    def reserve(self, n: int) -> None:
        """Make room for n vectors in all, so that nothing grows before that. O(n dim)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            if n > len(self._state.arrays.nodes):
                self._state = self._state.resized(n)

    def shrink_to_fit(self) -> None:
        """Free the memory that is not used, that of removed vectors included. O(n (dim + M))."""
        with self._lock:
            self._state = self._state.compacted()

    def __len__(self) -> int:
        """Return how many vectors are in."""
        return self._state.present

    def __contains__(self, vec_id: object) -> bool:
        """Return whether there is a vector of this id; False for what cannot be an id. O(1)."""
        if not isinstance(vec_id, (int, np.integer)) or isinstance(vec_id, bool):
            return False
        if not 0 <= vec_id <= arguments.INT64_MAX:
            return False
        return bool(self._state.slots(np.array([vec_id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
        """Return the settings and the size."""
        return (
            f"HNSW(dim={self.dim}, M={self.M}, metric={self.metric!r}, quantization={self.quantization!r}, "
            f"vectors={self.vectors!r}, {len(self)} in)"
        )

    def admissible(self, name: str, vectors: ArrayLike) -> np.ndarray:
        """Return `vectors` as float32 (n, dim), checked for `add_many`; ValueError, calling them `name`, if refused."""
        return write.admissible(name, arguments.vectors(name, vectors, self.dim), self._settings)

    def _search(
        self, name: str, queries: np.ndarray, k: int, ef: int | None, filter: Selection, group_by: Grouping,
        threads: int,
    ) -> Found:  # fmt: skip
        """Search for queries float32 (n, dim) that may hold values that are not finite; errors call them `name`."""
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

    def _reclaim(self) -> None:
        """Free the removed slots that no search can see any more."""
        arrays = self._state.arrays
        if arrays.arena[layout.LIMBO] >= 0:
            oldest = self._readers.oldest(self._state.clock)
            remove_kernels.reclaim(arrays.nodes, arrays.upper, arrays.arena, oldest)

    def _add(
        self, vectors: np.ndarray, ids: np.ndarray, threads: int, done: Callable[[int], None], publish: bool = True
    ) -> None:
        """Add checked vectors under ids that are not checked yet. The caller holds the lock."""
        self._reclaim()
        draw = partial(write.draw_levels, self._random, len(ids), self.ml)
        ef, taking = self.ef_construction, partial(setattr, self, "_state")
        write.add(self._state, self._settings, vectors, ids, ef, draw, threads, taking, done, publish)

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._state.arrays

    def _to_arrays(self) -> Arrays:
        with self._lock:
            if self._state.arrays.arena[table.COUNT] != self._state.present:
                raise RuntimeError("an HNSW is saved when add_many has returned, not from within")
            state = self._state if self._state.compact else self._state.compacted()
            ef_construction, ef_search, chance = self.ef_construction, self.ef_search, self._random.getstate()
            return files.to_arrays(state, self._settings, ef_construction, ef_search, self.ml, chance)

    @classmethod
    def _restored(cls, arrays: Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        try:
            saved = files.restored(arrays)
            self = cls(**saved.arguments)
        except ValueError as error:
            what = error if isinstance(error, Damaged) else f"damaged: {error}"  # settings out of range
            raise Damaged(f"{where}: {what}") from error
        self._random.setstate(saved.random)
        self._state = saved.state
        if (fault := files.fault(self._state, self._settings, vectors=not mmap)) is not None:
            raise Damaged(f"{where}: damaged: {fault}")
        return self

    def _fault(self) -> str | None:
        with self._lock:
            return files.fault(self._state, self._settings, vectors=True)

    def _mapped_fault(self) -> str | None:
        return files.fault(self._state, self._settings, vectors=False)

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to `path` as .npz; the file there is always a whole one, old or new. Writers wait."""
        with self._lock:
            super().save(path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, mmap: bool = False) -> "Self":
        """Read a file that `save` wrote.

        Parameters
        ----------
        path : str or PathLike
        mmap : bool
            All arrays stay in the file and are read where they are needed; changes stay private until `save`. All but
            vectors and codes are checked, and no contents of these can do harm. The file must not be changed or made
            shorter meanwhile; replacing it is fine.

        Raises
        ------
        ValueError
            The file is damaged, of another kind or of a newer version.
        """
        return cls._restored(read(path, cls.__name__, cls._version, mmap), os.fspath(path), mmap)

    def __getstate__(self) -> dict[str, Any]:
        """Return copies of all that makes the index, for `pickle` and `copy`."""
        with self._lock:
            return {name: np.array(array) for name, array in self._to_arrays().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned. Arrays that a pickle shares with its buffers are copied."""
        saved = files.restored({name: writable(array) for name, array in state.items()})
        self.__dict__.update(type(self)(**saved.arguments).__dict__)
        self._random.setstate(saved.random)
        self._state = saved.state
