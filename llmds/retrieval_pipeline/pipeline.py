"""Hybrid retrieval: BM25 and nearest neighbours, fused."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base import files as base_files
from ..base.filters import Selection, chosen
from ..base.progress import Progress, bar
from ..base.structure import Structure
from ..base.threads import count
from ..cmsketch import CountMinSketch
from ..hnsw.index import HNSW
from ..inverted_index.index import InvertedIndex
from ..token_lru import TokenLRU
from ..tokenizer.tokenizer import analysis
from . import files
from .search import Options, Ranked, dense_scores, rank
from .write import Encoder, check_encoder, encoded, put

if TYPE_CHECKING:
    from typing_extensions import Self

# Texts that are encoded and added before Ctrl-C and the progress bar are served.
_CHUNK = 2048


class Arrays(NamedTuple):
    """The arrays of the parts of a pipeline: see the property `arrays` of each."""

    hnsw: Any
    inverted_index: Any
    cmsketch: Any


class RetrievalPipeline(Structure):
    """Documents searched by their text (BM25) and by their vectors (HNSW), both scores fused.

    Each side finds its best `depth` documents. Then both scores are computed for every document of the union, min-max
    normalised over it, and summed as `fusion_weight * dense + (1 - fusion_weight) * bm25`; or, with `fusion="rrf"`,
    documents are ranked by reciprocal ranks.

    Parameters
    ----------
    embedding_dim
        Dimension of the embeddings.
    hnsw_M, hnsw_ef_construction, hnsw_ef_search, seed
        As in `HNSW`.
    token_budget
        Capacity of the cache of answers: an answer of n documents counts n + 1.
    tokenizer, stop_words, stemmer
        As in `InvertedIndex`.
    metric
        "cosine", "ip" or "l2".
    encoder
        A callable list[str] -> (n, embedding_dim) array. Documents and queries without an embedding are encoded with
        it; a row of zeros means that a text has no embedding.
    hot_threshold
        The number of searches for a query, counted by a Count-Min Sketch, from which on its answer is cached.

    Notes
    -----
    Any number of threads may search while one writes. Reciprocal rank fusion (k = 60): Cormack, Clarke and Buettcher,
    2009.

    Examples
    --------
    >>> pipeline = RetrievalPipeline(embedding_dim=2)
    >>> pipeline.add_document(7, "paged attention", np.array([1.0, 0.0]))
    >>> pipeline.add_document(8, "continuous batching", np.array([0.0, 1.0]))
    >>> pipeline.search("attention", np.array([0.6, 0.8]), fusion_weight=0.25)
    [(7, 0.75), (8, 0.25)]
    """

    _schema: ClassVar[base_files.Schema] = {"settings": (np.int64, 1)}
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
        check_encoder(encoder)
        graph = HNSW(embedding_dim, hnsw_M, hnsw_ef_construction, hnsw_ef_search, seed=seed, metric=metric)
        index = InvertedIndex(tokenizer, stop_words=stop_words, stemmer=stemmer)
        threshold = arguments.integer("hot_threshold", hot_threshold, 1)
        self._assemble(index, graph, CountMinSketch(), token_budget, threshold)
        self._encoder = encoder

    def _assemble(
        self, index: InvertedIndex, vectors: HNSW, sketch: CountMinSketch, token_budget: int, hot_threshold: int
    ) -> None:
        self._index, self._vectors, self._sketch = index, vectors, sketch
        self._token_budget, self._hot_threshold = token_budget, hot_threshold
        self._cache: TokenLRU = TokenLRU(token_budget, _cost)
        self._hits = self._misses = self._generation = 0
        self._lock, self._cache_lock = threading.RLock(), threading.RLock()

    @property
    def arrays(self) -> Arrays:
        """The arrays of the parts, for your own `@njit` functions: what `arrays` of each part returns.

        `hnsw`, `inverted_index` and `cmsketch` belong to the parts, and are valid as long as the part says. Any write
        to the pipeline is a write to each of them.
        """
        return Arrays(self._vectors.arrays, self._index.arrays, self._sketch.arrays)

    def add_document(self, doc_id: int, text: str, embedding: ArrayLike | None = None) -> None:
        """Add a document, or replace the one of this id as a whole: without `embedding` it is found by text alone.

        O(log n) for the vector, O(len(text)) for the text.

        Parameters
        ----------
        doc_id
            0 to 2**63 - 1.
        text
            Its text.
        embedding
            Numbers (embedding_dim,).

        Raises
        ------
        ValueError
            For a wrong shape, NaN, infinity, or a zero vector under "cosine". Nothing is changed then.
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
        """Add documents in order, as `add_document` does.

        If the call is interrupted, or the encoder or the tokenizer raises, the first documents are added completely and
        the others not at all.

        Parameters
        ----------
        doc_ids, texts, embeddings
            n integers, n str, and numbers (n, embedding_dim).
        progress
            True for a progress bar, or a callable that is called with (done, total).
        """
        ids = arguments.integers("doc_ids", doc_ids, 0)
        texts = arguments.strings("texts", texts, utf8=True)
        arguments.same_length(doc_ids=ids, texts=texts)
        if embeddings is not None:
            embeddings = self._vectors.admissible("embeddings", embeddings)
            arguments.same_length(doc_ids=ids, embeddings=embeddings)
        with self._lock, bar(progress, len(ids), "adding", "docs") as advance:
            for start in range(0, len(ids), _CHUNK):
                part = slice(start, start + _CHUNK)
                rows, present = (
                    encoded(self._encoder, texts[part], self.embedding_dim)
                    if embeddings is None
                    else (embeddings[part], None)
                )
                self._forget()
                try:
                    self._index.add_documents(ids[part], texts[part])
                    put(self._vectors, ids[part], rows, present)
                finally:
                    self._forget()
                advance(len(ids[part]))

    def remove_document(self, doc_id: int) -> None:
        """Remove a document. O(log n).

        Raises
        ------
        KeyError
            If the id is unknown.
        """
        doc_id = arguments.integer("doc_id", doc_id, 0)
        with self._lock:
            self._index.remove_document(doc_id)
            put(self._vectors, np.array([doc_id]), None, None)
            self._forget()

    def search(
        self, query: str, query_embedding: ArrayLike | None = None, top_k: int = 10, fusion_weight: float = 0.5, *,
        fusion: str = "weighted", depth: int | None = None, filter: Selection = None,
    ) -> list[tuple[int, float]]:  # fmt: skip
        """Find the best documents for a query.

        Answers to queries seen `hot_threshold` times or more are cached until the next write.

        Parameters
        ----------
        query
            A text.
        query_embedding
            Numbers (embedding_dim,).
        top_k
            The largest number of documents to return.
        fusion_weight
            Share of the dense side, 0 to 1. At 0, or if there is no query embedding (nor an encoder to compute one),
            documents are ranked by their BM25 scores alone; at 1 by their cosine similarities (inner products, or
            negated distances under the other metrics).
        fusion
            "weighted" or "rrf".
        depth
            Candidates from each side; default max(100, 10 * top_k).
        filter
            Ids that may be found: an integer array, or a function that takes all ids once and returns a bool for each.

        Returns
        -------
        list[tuple[int, float]]
            (id, score), best first, equal scores by smaller id.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, out of range or of the wrong shape.
        """
        if type(query) is not str:
            arguments.text("query", query)
        rows = None
        if query_embedding is not None:
            rows = arguments.vector("query_embedding", query_embedding, self.embedding_dim)[None]
        options = Options.of(top_k, fusion_weight, fusion, depth)
        allowed = self._allowed(filter)
        found = None
        with self._cache_lock:
            self._sketch.add(query)
            hot = not callable(filter) and self._sketch.is_hot(query, self._hot_threshold)
            if hot:  # other queries are not in the cache: the count of a query never falls
                key = query, *(None if part is None else part.tobytes() for part in (rows, allowed)), *options
                found = self._cache.get(key)
            generation = self._generation
            self._hits += found is not None
            self._misses += found is None
        if found is None:
            found = self._rank([query], rows, allowed, 1, options)
            if hot:
                with self._cache_lock:
                    if generation == self._generation:  # else a write has made this answer obsolete
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
        """Find the best documents for n queries, as `search` does. The cache is neither read nor written.

        Parameters
        ----------
        queries, query_embeddings
            n texts, and numbers (n, embedding_dim).
        top_k, fusion_weight, fusion, depth, filter
            As for `search`, the same for all queries.
        threads
            Default: all cores.

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            Ids int64 and scores float32, both (n, top_k), best first. Short rows end in id -1 and score -inf.
        """
        arguments.sequence("queries", queries)
        if query_embeddings is not None:
            query_embeddings = self._vectors.admissible("query_embeddings", query_embeddings)
            arguments.same_length(queries=queries, query_embeddings=query_embeddings)
        options = Options.of(top_k, fusion_weight, fusion, depth)
        return self._rank(list(queries), query_embeddings, self._allowed(filter), count(threads), options)

    def side_scores(
        self, queries: Sequence[str], query_embeddings: ArrayLike | None, doc_ids: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the scores of given documents on each side, for n queries.

        Parameters
        ----------
        queries, query_embeddings
            As for `search_batch`.
        doc_ids
            Integers (n, c).

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            The dense scores, -inf where a document or the query has no embedding, and the BM25 scores, 0 where no term
            matches; both float32 (n, c).
        """
        doc_ids = arguments.matrix("doc_ids", doc_ids, len(queries))
        text = self._index.score_many(queries, doc_ids)
        dense = np.full(text.shape, -np.inf, np.float32)
        if query_embeddings is not None:
            given = self._vectors.admissible("query_embeddings", query_embeddings)
            arguments.same_length(queries=queries, query_embeddings=given)
            dense = dense_scores(self._vectors, given, doc_ids, 1)
        else:
            rows, known = encoded(self._encoder, queries, self.embedding_dim)
            if rows is not None:
                dense[known] = dense_scores(self._vectors, rows[known], doc_ids[known], 1)
        return dense, text

    @property
    def encoder(self) -> Encoder | None:
        """The callable that encodes documents and queries without an embedding."""
        return self._encoder

    @property
    def embedding_dim(self) -> int:
        """Dimension of the embeddings."""
        return self._vectors.dim

    def stats(self) -> dict[str, Any]:
        """Return statistics.

        Returns
        -------
        dict[str, Any]
            `hnsw` and `inverted_index` (their own statistics), `cmsketch_total_count` (searches counted), `cache_size`
            (answers), `cache_tokens`, `cache_hits`, `cache_misses`.
        """
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
        """Release unused capacity. O(size)."""
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
        """Read a file that `save` wrote. The cache is empty then.

        Parameters
        ----------
        path
            Name of the file.
        tokenizer, stop_words, stemmer, encoder
            As they were given to the pipeline.

        Raises
        ------
        ValueError
            If the file is damaged, of another kind or a newer version, or was made with another analysis.
        """
        return cls._load(path, tokenizer=analysis(tokenizer, stop_words, stemmer), encoder=encoder)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._index)

    def __contains__(self, doc_id: object) -> bool:
        """Return whether a document has this id."""
        return doc_id in self._index

    def __repr__(self) -> str:
        """Return a short description."""
        return f"RetrievalPipeline({len(self)} documents, {len(self._vectors)} with embeddings of {self.embedding_dim})"

    def _allowed(self, filter: Selection) -> np.ndarray | None:
        """Return the ids that a filter allows; a function is called once, for both sides."""
        return None if filter is None else chosen(filter, self._index.ids)

    def _rank(
        self, queries: list[str], embeddings: np.ndarray | None, allowed: np.ndarray | None, threads: int,
        options: Options,
    ) -> Ranked:  # fmt: skip
        """Return ids and scores (n, top_k) for checked arguments."""
        parts = self._index, self._vectors
        if embeddings is not None or options.weight == 0 or self._encoder is None:
            return rank(*parts, queries, embeddings, allowed, threads, options)
        rows, known = encoded(self._encoder, queries, self.embedding_dim)
        if known.all():
            return rank(*parts, queries, rows, allowed, threads, options)
        ids, scores = rank(*parts, queries, None, allowed, threads, options)  # by text alone, if a text has no vector
        if rows is not None and known.any():
            at = np.flatnonzero(known)
            some = [queries[i] for i in at]
            ids[at], scores[at] = rank(*parts, some, rows[at], allowed, threads, options)
        return ids, scores

    def _forget(self) -> None:
        """Empty the cache, and keep answers that are being computed now out of it."""
        with self._cache_lock:
            self._generation += 1
            self._cache.clear()

    def _to_arrays(self) -> base_files.Arrays:
        return {
            "settings": np.array([self._token_budget, self._hot_threshold], np.int64),
            **base_files.prefixed("index", self._index._to_arrays()),
            **base_files.prefixed("vectors", self._vectors._to_arrays()),
            **base_files.prefixed("sketch", self._sketch._to_arrays()),
        }

    @classmethod
    def _restored(cls, arrays: base_files.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        dropped = files.upgrade(arrays, where) if "vectors.document_of" in arrays else None
        self = super()._restored(arrays, where, mmap, **given)
        if dropped is not None:
            self._vectors.remove_many(dropped)
        return self

    @classmethod
    def _from_arrays(cls, arrays: base_files.Arrays, **given: Any) -> "Self":
        check_encoder(encoder := given["encoder"])
        settings = arrays["settings"]
        base_files.expect(len(settings) == 2 and bool((settings > 0).all()), "settings are out of range")
        self = cls.__new__(cls)
        self._assemble(
            InvertedIndex._restored(base_files.part("index", arrays), "index", tokenizer=given["tokenizer"]),
            HNSW._restored(base_files.part("vectors", arrays), "vectors"),
            CountMinSketch._restored(base_files.part("sketch", arrays), "sketch"),
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


def _cost(answer: Ranked) -> int:
    return answer[0].shape[1] + 1
