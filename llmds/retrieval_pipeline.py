"""Hybrid retrieval: BM25 and nearest neighbours, fused."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments
from .base import files as storage
from .base.fast_calls import Direct
from .base.filters import Selection, chosen
from .base.progress import Progress, bar
from .base.structure import Structure
from .base.threads import count
from .cmsketch import CountMinSketch
from .hnsw.index import HNSW
from .inverted_index.index import InvertedIndex
from .kernels import fusion as kernels
from .token_lru import TokenLRU
from .tokenizer.tokenizer import analysis

if TYPE_CHECKING:
    from typing_extensions import Self

Encoder = Callable[[list[str]], np.ndarray]

_direct = Direct(kernels)
_NOTHING = np.empty((1, 0), np.float32)

FUSIONS = ("weighted", "rrf")
RRF_K = 60
# Texts that are encoded and added between two looks at Ctrl-C and the progress bar.
_CHUNK = 2048


class RetrievalPipeline(Structure):
    """Documents searched by their words (BM25) and by their vectors (HNSW), both scores fused.

    Each side gives its best `depth` documents; both scores are then computed for every document of the
    union, min-max normalised over it, and summed as
    `fusion_weight * dense + (1 - fusion_weight) * bm25`; or, with `fusion="rrf"`, documents are ranked
    by reciprocal ranks (k = 60; Cormack, Clarke and Buettcher 2009).

    Parameters:
        embedding_dim: dimension of the embeddings.
        hnsw_M, hnsw_ef_construction, hnsw_ef_search, seed: as in `HNSW`.
        token_budget: what the cache of answers may hold: an answer of n documents counts n + 1.
        tokenizer, stop_words, stemmer: as in `InvertedIndex`.
        metric: "cosine", "ip" or "l2".
        encoder: a callable list[str] -> (n, embedding_dim) array. Documents and queries without an
            embedding are encoded with it; a row of zeros says that a text has none.
        hot_threshold: a query is cached from this many sightings on, as a Count-Min Sketch counts them.

    Documents are read by any number of threads while one writes.

    >>> pipeline = RetrievalPipeline(embedding_dim=2)
    >>> pipeline.add_document(7, "paged attention", np.array([1.0, 0.0]))
    >>> pipeline.add_document(8, "continuous batching", np.array([0.0, 1.0]))
    >>> pipeline.search("attention", np.array([0.6, 0.8]), fusion_weight=0.25)
    [(7, 0.75), (8, 0.25)]
    """

    _schema: ClassVar[storage.Schema] = {"settings": (np.int64, 1)}
    _parts = ("index", "vectors", "sketch")
    _version = 2
    _unpickled = ("_lock", "_cache_lock")

    def __init__(
        self,
        embedding_dim: int = 384,
        hnsw_M: int = 16,
        hnsw_ef_construction: int = 200,
        hnsw_ef_search: int = 50,
        token_budget: int = 100000,
        tokenizer: Any = None,
        seed: int | None = None,
        *,
        metric: str = "cosine",
        encoder: Encoder | None = None,
        stop_words: Any = None,
        stemmer: Callable[[str], str] | None = None,
        hot_threshold: int = 2,
    ):
        _check_encoder(encoder)
        graph = HNSW(embedding_dim, hnsw_M, hnsw_ef_construction, hnsw_ef_search, seed=seed, metric=metric)
        index = InvertedIndex(tokenizer, stop_words=stop_words, stemmer=stemmer)
        self._assemble(
            index,
            graph,
            CountMinSketch(),
            token_budget,
            arguments.integer("hot_threshold", hot_threshold, 1),
        )
        self._encoder = encoder

    def _assemble(
        self, index: InvertedIndex, vectors: HNSW, sketch: CountMinSketch, token_budget: int, hot_threshold: int
    ) -> None:
        self._index, self._vectors, self._sketch = index, vectors, sketch
        self._token_budget, self._hot_threshold = token_budget, hot_threshold
        self._cache: TokenLRU = TokenLRU(token_budget, _cost)
        self._hits = self._misses = self._generation = 0
        self._lock, self._cache_lock = threading.RLock(), threading.RLock()

    def add_document(self, doc_id: int, text: str, embedding: ArrayLike | None = None) -> None:
        """Add a document, or replace the one of that id whole: without `embedding` it is then found by text alone.

        doc_id in 0..2**63-1; embedding (embedding_dim,). O(log n) for the vector, O(len(text)) for the text.
        ValueError, with nothing changed, for a wrong shape, NaN, infinity, or a zero vector under "cosine".
        """
        doc_id = arguments.integer("doc_id", doc_id, 0)
        rows = None if embedding is None else arguments.vector("embedding", embedding, self.embedding_dim)[None]
        self.add_documents([doc_id], [arguments.text("text", text)], rows)

    def add_documents(
        self,
        doc_ids: ArrayLike,
        texts: Sequence[str],
        embeddings: ArrayLike | None = None,
        *,
        progress: Progress = False,
    ) -> None:
        """As `add_document` for ids int64 (n,), n texts and embeddings (n, embedding_dim), in order.

        Interrupted, or with an encoder or tokenizer that raises, it keeps a whole prefix of the documents.
        """
        ids = arguments.integers("doc_ids", doc_ids, 0)
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise TypeError(f"texts must be a sequence of str, got {type(texts).__name__}")
        arguments.same_length(doc_ids=ids, texts=texts)
        arguments.encodable("texts", arguments.strings("texts", texts))
        if embeddings is not None:
            embeddings = self._vectors.admissible("embeddings", embeddings)
            arguments.same_length(doc_ids=ids, embeddings=embeddings)
        with self._lock, bar(progress, len(ids), "adding", "docs") as advance:
            for start in range(0, len(ids), _CHUNK):
                part = slice(start, start + _CHUNK)
                vectors, present = self._rows(texts[part], embeddings, part)
                self._forget()
                try:
                    self._index.add_documents(ids[part], texts[part])
                    self._put(ids[part], vectors, present)
                finally:
                    self._forget()
                advance(len(ids[part]))

    def remove_document(self, doc_id: int) -> None:
        """Remove a document. KeyError if it is unknown."""
        doc_id = arguments.integer("doc_id", doc_id, 0)
        with self._lock:
            self._index.remove_document(doc_id)
            self._put(np.array([doc_id]), None, None)
            self._forget()

    def search(
        self,
        query: str,
        query_embedding: ArrayLike | None = None,
        top_k: int = 10,
        fusion_weight: float = 0.5,
        *,
        fusion: str = "weighted",
        depth: int | None = None,
        filter: Selection = None,
    ) -> list[tuple[int, float]]:
        """The best `top_k` documents: (doc_id, score), best first, equal scores by smaller id.

        fusion_weight: share of the dense side, 0..1. At 0, or where there is no query embedding (nor an
        encoder to make one), text answers alone with BM25 scores; at 1 the vectors do, with cosine
        similarities (inner products, negated distances under the other metrics).
        depth: candidates from each side, by default max(100, 10 * top_k).
        filter: ids that may be found, an integer array, or a function that takes all ids once and gives a bool for
            each.

        Answers to queries seen `hot_threshold` times or more are cached until the next write.
        """
        arguments.text("query", query)
        rows = (
            None
            if query_embedding is None
            else arguments.vector("query_embedding", query_embedding, self.embedding_dim)[None]
        )
        how = _checked(top_k, fusion_weight, fusion, depth)
        allowed = self._allowed(filter)
        found = None
        with self._cache_lock:
            self._sketch.add(query)
            hot = not callable(filter) and self._sketch.is_hot(query, self._hot_threshold)
            if hot:  # no answer to another query was kept, since a sketch forgets nothing
                key = query, *(None if part is None else part.tobytes() for part in (rows, allowed)), *how
                found = self._cache.get(key)
            generation = self._generation
            self._hits += found is not None
            self._misses += found is None
        if found is None:
            found = self._rank([query], rows, allowed, 1, *how)
            if hot:
                with self._cache_lock:
                    if generation == self._generation:  # a write meanwhile makes this answer an old one
                        self._cache.put(key, found)
        ids, scores = found[0][0].tolist(), found[1][0].tolist()
        if ids and ids[-1] < 0:
            del ids[ids.index(-1) :]
        return list(zip(ids, scores, strict=False))

    def search_batch(
        self,
        queries: Sequence[str],
        query_embeddings: ArrayLike | None = None,
        top_k: int = 10,
        fusion_weight: float = 0.5,
        *,
        fusion: str = "weighted",
        depth: int | None = None,
        filter: Selection = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search` for n queries and embeddings (n, embedding_dim): ids int64 and scores float32, (n, top_k).

        Short rows end in id -1 and score -inf. One filter holds for all queries. `threads`: default all cores. The
        cache is neither asked nor filled.
        """
        if isinstance(queries, (str, bytes)) or not isinstance(queries, Sequence):
            raise TypeError(f"queries must be a sequence of str, got {type(queries).__name__}")
        if query_embeddings is not None:
            query_embeddings = self._vectors.admissible("query_embeddings", query_embeddings)
            arguments.same_length(queries=queries, query_embeddings=query_embeddings)
        how = _checked(top_k, fusion_weight, fusion, depth)
        return self._rank(list(queries), query_embeddings, self._allowed(filter), count(threads), *how)

    def side_scores(
        self, queries: Sequence[str], query_embeddings: ArrayLike | None, doc_ids: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each side says of given documents, for n queries and doc_ids int64 (n, c).

        Returns the dense scores, -inf where a document or the query has no embedding, and the BM25 scores, 0
        where no term matches; both float32 (n, c).
        """
        doc_ids = arguments.matrix("doc_ids", doc_ids, len(queries))
        text = self._index.score_many(queries, doc_ids)
        dense = np.full(text.shape, -np.inf, np.float32)
        if query_embeddings is not None:
            given = self._vectors.admissible("query_embeddings", query_embeddings)
            arguments.same_length(queries=queries, query_embeddings=given)
            dense = self._similarity(self._vectors.distances(given, doc_ids))
        elif (encoded := self._encoded(queries)) is not None:
            known = encoded.any(axis=1)
            dense[known] = self._similarity(self._vectors.distances(encoded[known], doc_ids[known]))
        return dense, text

    @property
    def encoder(self) -> Encoder | None:
        """What encodes documents and queries that have no embedding."""
        return self._encoder

    @property
    def embedding_dim(self) -> int:
        """Dimension of the embeddings."""
        return self._vectors.dim

    def stats(self) -> dict[str, Any]:
        """`hnsw` and `inverted_index` (their own statistics), `cmsketch_total_count` (searches counted), `cache_size`
        (answers), `cache_tokens`, `cache_hits`, `cache_misses`."""
        with self._cache_lock:
            return {
                "hnsw": self._vectors.stats(),
                "inverted_index": self._index.stats(),
                "cmsketch_total_count": self._sketch.get_total_count(),
                "cache_size": self._cache.size(),
                "cache_tokens": self._cache.total_tokens(),
                "cache_hits": self._hits,
                "cache_misses": self._misses,
            }

    def reserve(self, n: int) -> None:
        """Make room for n documents with embeddings."""
        with self._lock:
            self._index.reserve(n)
            self._vectors.reserve(n)

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used."""
        with self._lock:
            self._index.shrink_to_fit()
            self._vectors.shrink_to_fit()

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays of all parts."""
        return self._index.nbytes + self._vectors.nbytes + self._sketch.nbytes + self._cache.nbytes

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        tokenizer: Any = None,
        stop_words: Any = None,
        stemmer: Callable[[str], str] | None = None,
        encoder: Encoder | None = None,
    ) -> "Self":
        """Read what `save` wrote; analysis and encoder are given as they were to the pipeline. The cache starts empty.

        ValueError if the file is damaged, of another kind or a newer version, or was analysed otherwise.
        """
        return cls._load(path, tokenizer=analysis(tokenizer, stop_words, stemmer), encoder=encoder)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._index

    def __repr__(self) -> str:
        return f"RetrievalPipeline({len(self)} documents, {len(self._vectors)} with embeddings of {self.embedding_dim})"

    def _allowed(self, filter: Selection) -> np.ndarray | None:
        """The ids that a filter allows; a function is asked once, for both sides."""
        return None if filter is None else chosen(filter, self._index.ids)

    def _rank(
        self, queries: list[str], embeddings: np.ndarray | None, allowed: np.ndarray | None, threads: int, top_k: int,
        weight: float, fusion: str, depth: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """ids and scores (n, top_k) for checked arguments."""
        if embeddings is None and weight > 0:
            embeddings = self._encoded(queries)
            if embeddings is not None:
                known = np.asarray(embeddings.any(axis=1))
                if not known.all():
                    how = (top_k, weight, fusion, depth)
                    return self._rank_apart(queries, embeddings, known, allowed, threads, *how)
        if embeddings is None or weight == 0:
            return self._index.search_batch(queries, top_k, filter=allowed, threads=threads)
        if weight == 1:
            return self._nearest(embeddings, top_k, allowed, threads)
        dense_ids, dense = self._nearest(embeddings, depth, allowed, threads)
        ids, scores = np.empty((len(queries), top_k), np.int64), np.empty((len(queries), top_k), np.float32)
        if not ids.size:
            return ids, scores
        if len(queries) == 1 and allowed is None:
            one = self._index._ranking_of_one(queries[0], depth, dense_ids)
            if one is not None:
                dense_of_text, k = _NOTHING, RRF_K
                if fusion != "rrf":
                    only, k = one[2][kernels.TEXT_ONLY :], 0
                    dense_of_text = self._similarity(self._vectors._distances(embeddings, only, 1))
                _direct.one(dense_ids, dense, *one, dense_of_text, weight, k, ids, scores)
                return ids, scores
        also = dense_ids if fusion == "weighted" else dense_ids[:, :0]
        text_ids, text, text_of_dense = self._index.ranking(queries, depth, also, filter=allowed, threads=threads)
        dense_at, text_at, text_only = kernels.cross(dense_ids, text_ids)
        if fusion == "rrf":
            kernels.reciprocal_rank(dense_ids, dense_at, text_ids, text_at, RRF_K, ids, scores)
            return ids, scores
        dense_of_text = self._similarity(self._vectors._distances(embeddings, text_only, threads))
        kernels.weighted(
            dense_ids, dense, dense_at, text_of_dense, text_ids, text, text_at, dense_of_text, weight, ids, scores
        )
        return ids, scores

    def _rank_apart(
        self, queries: list[str], embeddings: np.ndarray, known: np.ndarray, allowed: np.ndarray | None, threads: int,
        *how: Any,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """As `_rank`, where some of the queries have no embedding: text alone answers those."""
        top_k, _, *rest = how
        ids, scores = self._rank(queries, None, allowed, threads, top_k, 0.0, *rest)
        if known.any():
            rows = np.flatnonzero(known)
            of_these = [queries[q] for q in rows]
            ids[rows], scores[rows] = self._rank(of_these, embeddings[rows], allowed, threads, *how)
        return ids, scores

    def _rows(
        self, texts: Sequence[str], embeddings: np.ndarray | None, part: slice
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The vectors of some texts, and which of them are there (None: all)."""
        if embeddings is not None:
            return embeddings[part], None
        encoded = self._encoded(texts)
        return encoded, None if encoded is None else np.asarray(encoded.any(axis=1))

    def _encoded(self, texts: Sequence[str]) -> np.ndarray | None:
        """The encoder's rows for texts, None without an encoder."""
        if self._encoder is None or not texts:
            return None
        rows = arguments.vectors("encoder's result", self._encoder(list(texts)), self.embedding_dim)
        if len(rows) != len(texts):
            raise ValueError(f"encoder must give a row for each of {len(texts)} texts, gave {len(rows)}")
        return rows

    def _nearest(
        self, embeddings: np.ndarray, k: int, allowed: np.ndarray | None, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest k documents of each embedding: ids int64 and similarities float32, (n, k), best first.

        Similarities are cosines, inner products, or negated Euclidean distances. Short rows end in -1 and -inf.
        """
        ids, distances = self._vectors._search("queries", embeddings, k, None, allowed, None, threads)
        return ids, self._similarity(distances)

    def _similarity(self, distances: np.ndarray) -> np.ndarray:
        return 1 - distances if self._vectors.metric == "cosine" else -distances

    def _put(self, doc_ids: np.ndarray, rows: np.ndarray | None, present: np.ndarray | None) -> None:
        """Give documents (int64 (n,)) these vectors (n, dim), in order, in place of those they had.

        Where `present`, bool (n,), is False, or `rows` is None, a document has no vector from now on.
        """
        distinct, last = np.unique(doc_ids[::-1], return_index=True)
        self._vectors.remove_many(distinct[self._vectors.contains_many(distinct)])
        if rows is not None:
            chosen = np.sort(len(doc_ids) - 1 - last)
            if present is not None:
                chosen = chosen[present[chosen]]
            self._vectors.add_many(rows[chosen], doc_ids[chosen])

    def _forget(self) -> None:
        """Empty the cache, and keep answers that are being computed now out of it."""
        with self._cache_lock:
            self._generation += 1
            self._cache.clear()

    def _to_arrays(self) -> storage.Arrays:
        return {
            "settings": np.array([self._token_budget, self._hot_threshold], np.int64),
            **storage.prefixed("index", self._index._to_arrays()),
            **storage.prefixed("vectors", self._vectors._to_arrays()),
            **storage.prefixed("sketch", self._sketch._to_arrays()),
        }

    @classmethod
    def _restored(cls, arrays: storage.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        dropped = _upgrade(arrays, where) if "vectors.document_of" in arrays else None
        self = super()._restored(arrays, where, mmap, **given)
        if dropped is not None:
            self._vectors.remove_many(dropped)
        return self

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        _check_encoder(encoder := given["encoder"])
        settings = arrays["settings"]
        storage.expect(len(settings) == 2 and bool((settings > 0).all()), "settings are out of range")
        self = cls.__new__(cls)
        self._assemble(
            InvertedIndex._restored(storage.part("index", arrays), "index", tokenizer=given["tokenizer"]),
            HNSW._restored(storage.part("vectors", arrays), "vectors"),
            CountMinSketch._restored(storage.part("sketch", arrays), "sketch"),
            *settings.tolist(),
        )
        self._encoder = encoder
        return self

    def _fault(self) -> str | None:
        for name, structure in (("index", self._index), ("vectors", self._vectors), ("sketch", self._sketch)):
            if (fault := structure._fault()) is not None:
                return f"{name}: {fault}"
        if not self._index.contains_many(self._vectors.ids()).all():
            return "vectors: a document has a vector, but no text"
        return None


def _check_encoder(encoder: Any) -> None:
    if encoder is not None and not callable(encoder):
        raise TypeError(f"encoder must be callable, list[str] -> (n, embedding_dim) array, got {encoder!r}")


def _checked(top_k: Any, weight: Any, fusion: Any, depth: Any) -> tuple[int, float, str, int]:
    top_k = arguments.integer("top_k", top_k, 0)
    weight = arguments.real("fusion_weight", weight, 0, 1)
    arguments.one_of("fusion", fusion, FUSIONS)
    depth = max(100, 10 * top_k) if depth is None else arguments.integer("depth", depth, 1)
    return top_k, weight, fusion, depth


def _cost(answer: tuple[np.ndarray, np.ndarray]) -> int:
    return answer[0].shape[1] + 1


def _upgrade(arrays: storage.Arrays, where: str) -> np.ndarray:
    """Make arrays of version 1, whose graph knew vectors by number, those of version 2; the ids to be removed."""
    document_of = arrays.pop("vectors.document_of")
    for array in (document_of, arrays.get("vectors.graph.ids", document_of)):
        if array.ndim != 1 or array.dtype != np.int64:
            raise storage.Damaged(f"{where}: damaged: vectors are not numbered")
    arrays.pop("vectors.arena", None)
    for name in [name for name in arrays if name.startswith("vectors.graph.")]:
        arrays[name.replace("vectors.graph.", "vectors.")] = arrays.pop(name)
    numbers = arrays.get("vectors.ids", np.empty(0, np.int64))
    if len(document_of) < len(numbers) or not (numbers == np.arange(len(numbers))).all():
        raise storage.Damaged(f"{where}: damaged: vectors are not numbered")
    ids = document_of[: len(numbers)].copy()
    unclaimed = np.flatnonzero(ids < 0)
    spare = np.setdiff1d(arguments.INT64_MAX - np.arange(2 * len(numbers)), ids)[: len(unclaimed)]
    arrays["vectors.ids"] = ids
    ids[unclaimed] = spare
    return spare
