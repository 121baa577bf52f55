"""The vectors of documents, replaced and dropped as documents are."""

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import arguments, storage
from .hnsw import HNSW
from .inverted_index import InvertedIndex
from .kernels import table
from .kernels import versions as kernels

if TYPE_CHECKING:
    from typing_extensions import Self


class VectorStore(storage.Structure):
    """At most one vector for each document id, over an HNSW graph that only grows.

    The graph knows vectors by number, in order of arrival. A vector that is replaced or dropped stays in the
    graph, unclaimed, and is left out of answers; once more than half are unclaimed, the graph is built
    anew from the others (amortised, a rebuild for every n/2 changes).
    """

    _schema: ClassVar[storage.Schema] = {"arena": (np.int64, 1), "document_of": (np.int64, 1)}
    _parts = ("graph",)
    _MIN_REBUILD = 1024

    def __init__(self, graph: HNSW):
        self._lock = threading.RLock()
        self._publish(graph, table.new(16, kernels.COLUMNS), np.full(16, -1, np.int64))

    def _publish(self, graph: HNSW, arena: np.ndarray, document_of: np.ndarray) -> None:
        self._state = graph, arena, document_of  # one attribute, so that a reader takes a matching set

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._state[0].dim

    def admissible(self, name: str, rows: Any) -> np.ndarray:
        """`rows` as float32 (n, dim); ValueError if the graph's metric has no use for one of them."""
        rows = arguments.vectors(name, rows, self.dim)
        if self._state[0].metric == "cosine" and len(rows) and not (present := rows.any(axis=1)).all():
            raise ValueError(f"{name} must not be zero under metric 'cosine', row {int(np.argmin(present))} is")
        return rows

    def put(self, documents: np.ndarray, rows: np.ndarray | None, present: np.ndarray | None = None) -> None:
        """Give documents (int64 (m,)) these vectors (m, dim), in order, in place of those they had.

        Where `present`, bool (m,), is False, or `rows` is None, a document has no vector from now on.
        """
        with self._lock:
            graph, arena, document_of = self._state
            numbers = np.full(len(documents), -1, np.int64)
            if rows is not None:
                chosen = np.ones(len(rows), bool) if present is None else present
                numbers[chosen] = np.arange(len(graph), len(graph) + np.count_nonzero(chosen))
                if (more := int(numbers.max(initial=-1)) + 1 - len(document_of)) > 0:
                    document_of = np.append(document_of, np.full(max(more, len(document_of)), -1, np.int64))
                    self._publish(graph, arena, document_of)
                graph.add_many(rows[chosen], numbers[chosen])
            if (needed := int(arena[table.COUNT]) + len(documents)) > arena[table.CAPACITY]:
                arena = table.resized(arena, max(needed, 2 * int(arena[table.CAPACITY])))
                self._publish(graph, arena, document_of)
            kernels.assign(arena, document_of, documents, numbers)
            if len(graph) > max(2 * len(self), self._MIN_REBUILD):
                self._rebuild()

    def search_batch(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest `depth` documents of each query: ids int64 and similarities float32, (n, depth), best first.

        Similarities are cosines, inner products, or negated Euclidean distances. Short rows end in -1 and -inf.
        """
        graph, _, document_of = self._state
        wanted = depth * len(graph) // max(len(self), 1)
        while True:
            numbers, distances = graph.search_batch(queries, min(wanted, len(graph)))
            ids, scores, complete = kernels.live_first(numbers, self._similarity(distances), document_of, depth)
            if complete or wanted >= len(graph):
                return ids, scores
            wanted *= 2

    def score_many(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Similarity of each query (n, dim) to its documents (n, c): float32 (n, c), -inf where there is no vector."""
        graph, arena, _ = self._state
        return self._similarity(graph.distances(queries, kernels.numbers_of(arena, documents)))

    def documents_lie_in(self, index: InvertedIndex) -> bool:
        """Whether every document with a vector is one of `index`."""
        document_of = self._state[2]
        documents = document_of[document_of >= 0]
        return bool(index.contains_many(documents).all())

    def stats(self) -> dict[str, Any]:
        """Those of the graph, in which replaced vectors count until it is built anew."""
        return self._state[0].stats()

    def reserve(self, n: int) -> None:
        """Make room for n vectors in all."""
        with self._lock:
            graph, arena, document_of = self._state
            graph.reserve(n)
            if n > arena[table.CAPACITY]:
                arena = table.resized(arena, n)
            self._publish(graph, arena, np.append(document_of, np.full(max(n - len(document_of), 0), -1, np.int64)))

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used."""
        with self._lock:
            graph, arena, document_of = self._state
            graph.shrink_to_fit()
            self._publish(graph, table.resized(arena, int(arena[table.TOP])), document_of[: len(graph)].copy())

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        graph, arena, document_of = self._state
        return graph.nbytes + arena.nbytes + document_of.nbytes

    def __len__(self) -> int:
        return int(self._state[1][table.COUNT])

    def _similarity(self, distances: np.ndarray) -> np.ndarray:
        return 1 - distances if self._state[0].metric == "cosine" else -distances

    def _rebuild(self) -> None:
        graph, arena, document_of = self._state
        numbers = np.flatnonzero(document_of >= 0)
        documents = document_of[numbers]
        fresh, arena = graph.emptied(), table.new(len(numbers), kernels.COLUMNS)
        fresh.add_many(graph.get_vectors(numbers), np.arange(len(numbers)))
        document_of = np.full(len(numbers), -1, np.int64)
        kernels.assign(arena, document_of, documents, np.arange(len(numbers)))
        self._publish(fresh, arena, document_of)

    def _to_arrays(self) -> storage.Arrays:
        graph, arena, document_of = self._state
        return {"arena": arena, "document_of": document_of, **storage.prefixed("graph", graph._to_arrays())}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        storage.expect(bool(table.well_formed(arrays["arena"], kernels.COLUMNS)), "its rows do not add up")
        self = cls.__new__(cls)
        self._lock = threading.RLock()
        self._publish(HNSW._restored(storage.part("graph", arrays), "graph"), arrays["arena"], arrays["document_of"])
        return self

    def _fault(self) -> str | None:
        graph, arena, document_of = self._state
        if (fault := graph._fault()) is not None:
            return f"graph: {fault}"
        if (number := int(kernels.first_fault(arena, document_of, len(graph)))) >= 0:
            return f"vector {number} is not the one of its document"
        return None
