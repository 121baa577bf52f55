"""Full-text search: which documents hold the words of a query, best first."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, storage
from .growing import chunks
from .kernels import bm25 as kernels
from .kernels import bm25_write
from .postings import BUDGET, MOST, SCHEMA, Postings, runs
from .progress import Progress, bar
from .tokenizer import Stemmer, Stops, analysis
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

# Characters that are analysed and added in one go, and queries that are a thread's turn: a few milliseconds each.
_CHARACTERS = 1 << 20
_QUERIES = 64
# Documents scored by name in one call.
_SCORED = 1 << 15
# Removed documents are swept out when they are more than this, and more than half as many as the live ones.
_SWEEP = 32
_NO_SHARES = np.empty(0, np.float32)


class InvertedIndex(storage.Structure):
    """Documents found by the words they hold, ranked by BM25, while documents come and go.

    Scores are Lucene's BM25 (Robertson and Zaragoza 2009, idf = ln(1 + (N - df + 0.5) / (df + 0.5))), within 1e-5
    (relative) of the formula in float64; N, df and the average length are exact at every moment. Only
    documents that hold a word of the query are returned; ties by smaller id.

    `tokenizer`: a callable str -> list[str], or an object with such a method `tokenize`; by default the
    analysis of `Tokenizer`, compiled. `stop_words` ("english" or a collection) and `stemmer` (a callable on one
    term): see there. `k1` (0 or more) bounds what repetition of a word is worth, `b` (0 to 1) sets how much long
    documents are held back.

    Memory: about 12 to 18 bytes for each distinct word of each document. Any number of threads may search while
    another one writes: a search sees whole documents, those that were there when it began (the df it weighs words by
    may already leave out documents that are being removed). Writers take turns.

    >>> index = InvertedIndex()
    >>> index.add_documents([1, 2], ["A heap of pages", "Pages, pages and more pages"])
    >>> index.add_document(3, "A page")
    >>> [doc_id for doc_id, score in index.search("pages")]
    [2, 1]
    """

    _schema: ClassVar[storage.Schema] = {"settings": (np.float64, 1), "fingerprint": (np.uint8, 1), **SCHEMA}

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        stop_words: Stops = None,
        stemmer: Stemmer = None,
    ):
        self._k1, self._b = arguments.real("k1", k1, 0.0, 1e6), arguments.real("b", b, 0.0, 1.0)
        self._tokenizer = analysis(tokenizer, stop_words, stemmer)
        self._begin(Postings.empty(16, 64, 256, Vocabulary.empty()))

    def _begin(self, view: Postings) -> None:
        self._view = view
        self._lock = threading.RLock()
        self._scratch: list[np.ndarray] = []
        # What searches have worked out: the shares and for whom, and postings scored without them and for whom.
        self._shares: tuple[np.ndarray | None, np.ndarray] = (None, _NO_SHARES)
        self._scored_for: np.ndarray | None = None
        self._scored = 0

    def add_document(self, doc_id: int, text: str) -> None:
        """Add a document (id 0 to 2**63-1), in place of the one that has this id, if any. Amortised O(len(text))."""
        doc_id, text = arguments.integer("doc_id", doc_id, 0), arguments.text("text", text)
        with self._lock:
            self._add(np.array([doc_id], np.int64), [text])

    def add_documents(self, doc_ids: ArrayLike, texts: Sequence[str], *, progress: Progress = False) -> None:
        """As `add_document` for ids (n,) and n texts, in order. Amortised O(characters).

        If it is interrupted, or a tokenizer of yours raises, the documents before that point are in, whole.
        """
        ids, texts = arguments.integers("doc_ids", doc_ids, 0), _texts("texts", texts)
        arguments.same_length(doc_ids=ids, texts=texts)
        with self._lock, bar(progress, len(texts), "indexing", "doc") as advance:
            for part in runs(_characters(texts), _CHARACTERS):
                self._add(ids[part], texts[part])
                advance(part.stop - part.start)

    def remove_document(self, doc_id: int) -> None:
        """Remove a document. KeyError if it is unknown. O(its words), amortised."""
        doc_id = arguments.integer("doc_id", doc_id, 0)
        with self._lock:
            try:
                if not bm25_write.remove(*self._view.state[:8], doc_id):  # type: ignore[call-arg]
                    raise KeyError(doc_id)
            finally:
                self._publish()
            self._sweep()

    def search(self, query: str, top_k: int = 10) -> list[tuple[int, float]]:
        """The best `top_k` documents for a query, (id, score), best first. A repeated word weighs its count.

        O(postings of the query's words).
        """
        ids, scores = self.search_batch([arguments.text("query", query)], self._most(top_k), threads=1)
        found = int(np.searchsorted(ids[0] < 0, True))
        return list(zip(ids[0, :found].tolist(), scores[0, :found].tolist(), strict=True))

    def search_batch(
        self, queries: Sequence[str], top_k: int = 10, *, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best documents for every query: ids int64 (n, top_k) and scores float32 (n, top_k), best first.

        Rows with fewer results end in id -1 and score -inf. `threads`: default all cores. All queries see the same
        documents.
        """
        queries, top_k = _texts("queries", queries), arguments.integer("top_k", top_k, 0)
        threads = _cores() if threads is None else arguments.integer("threads", threads, 1)
        view = self._view
        terms = self._tokenizer.terms(queries, "queries")
        numbers = view.vocabulary.find(terms)
        ids, scores = np.empty((len(queries), top_k), np.int64), np.empty((len(queries), top_k), np.float32)
        if ids.size == 0:
            return ids, scores

        def run(part: slice) -> None:
            with self._sums(len(view.doc_ids)) as sums:
                reached = part.start
                while reached < part.stop:
                    shares = self._shares_of(view)
                    reached, postings = kernels.search(  # type: ignore[call-arg]
                        *view.ranking, self._k1, self._b, shares, numbers, terms.hashes, terms.ends, reached, part.stop,
                        BUDGET, sums, ids, scores,
                    )  # fmt: skip
                    self._scored += postings

        _in_threads(run, chunks(len(queries), _QUERIES), min(threads, -(-len(queries) // _QUERIES)))
        return ids, scores

    def score_many(self, queries: Sequence[str], doc_ids: ArrayLike) -> np.ndarray:
        """What `search` scores given documents, c for each of n queries: doc_ids int64 (n, c), float32 (n, c).

        0 for documents that hold no word of their query, or are unknown (as -1 is). O(n * c * words * log postings).
        """
        queries = _texts("queries", queries)
        ids = arguments.matrix("doc_ids", doc_ids, len(queries))
        view = self._view
        terms = self._tokenizer.terms(queries, "queries")
        numbers = view.vocabulary.find(terms)
        scores = np.empty(ids.shape, np.float32)
        for part in chunks(len(queries), max(1, _SCORED // max(ids.shape[1], 1))):
            documents = view.slots_of(ids[part].ravel()).reshape(ids[part].shape)
            kernels.score_many(
                view.seen, view.lengths, view.terms, view.slots, view.tfs, self._k1, self._b, numbers, terms.hashes,
                terms.ends, part.start, documents, scores[part],
            )  # fmt: skip
        return scores

    def get_term_frequency(self, term: str, doc_id: int) -> int:
        """How often a document holds a term; 0 if either is unknown. O(len(term) + log postings).

        The term passes through the index's analysis; ValueError if that makes more than one term of it.
        """
        view, number = self._view, arguments.integer("doc_id", doc_id, 0)
        known = self._number(view, term)
        slot = int(view.slots_of(np.array([number], np.int64))[0])
        return 0 if known < 0 or slot < 0 else int(kernels.frequency(view.terms, view.slots, view.tfs, known, slot))

    def get_document_frequency(self, term: str) -> int:
        """How many documents hold a term; 0 if it is unknown. As `get_term_frequency`."""
        view = self._view
        known = self._number(view, term)
        return 0 if known < 0 else int(kernels.document_frequency(view.seen, view.terms, view.slots, view.tfs, known))

    def stats(self) -> dict[str, Any]:
        """`total_documents`, `total_terms` (distinct), `total_postings`, `avg_doc_length` (in terms),
        `avg_postings_per_term`, and `bytes_per_posting`: `nbytes` over postings. Empty means are 0."""
        seen = self._view.seen.tolist()
        documents, terms, postings = seen[kernels.LIVE], seen[kernels.TERMS], seen[kernels.POSTINGS]
        return {
            "total_documents": documents,
            "total_terms": terms,
            "total_postings": postings,
            "avg_doc_length": seen[kernels.LENGTH] / max(documents, 1),
            "avg_postings_per_term": postings / max(terms, 1),
            "bytes_per_posting": self.nbytes / postings if postings else 0.0,
        }

    def reserve(self, n: int) -> None:
        """Make room for n documents in all (not for their words), so that their table does not grow before that."""
        n = arguments.integer("n", n, 0, MOST)
        with self._lock:
            self._view = self._view.with_documents(n + int(self._view.head[kernels.REMOVED]))

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used, and that of removed documents. O(size)."""
        with self._lock:
            self._view = self._view.compacted()
            self._scratch.clear()
            self._shares = None, _NO_SHARES

    def __len__(self) -> int:
        return int(self._view.seen[kernels.LIVE])

    def contains_many(self, doc_ids: ArrayLike) -> np.ndarray:
        """Whether each of doc_ids (n,) is a document, bool (n,). O(n)."""
        return self._view.slots_of(arguments.integers("doc_ids", doc_ids)) >= 0

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, (int, np.integer)) or isinstance(doc_id, bool) or not 0 <= doc_id < 2**63:
            return False
        return bool(self._view.slots_of(np.array([doc_id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
        return f"InvertedIndex({len(self)} documents, k1={self._k1}, b={self._b}, {self._tokenizer!r})"

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | os.PathLike, tokenizer: Any = None, *, stop_words: Stops = None, stemmer: Stemmer = None
    ) -> "Self":
        """Read what `save` wrote; tokenizer, stop words and stemmer as they were given to the index.

        ValueError if the file is damaged, of another kind or a newer version, or was made by another analysis.
        """
        return cls._load(path, tokenizer=analysis(tokenizer, stop_words, stemmer))

    def _add(self, ids: np.ndarray, texts: list[str]) -> None:
        """Add documents in one go. The caller holds the lock."""
        terms = self._tokenizer.terms(texts)
        vocabulary, numbers = self._view.vocabulary.intern(terms)
        self._view = self._view.with_vocabulary(vocabulary)
        counts = np.empty(int(np.diff(terms.ends, prepend=0).max(initial=0)), np.int32)
        reached = 0
        try:
            while True:
                reached, lacking, amount = bm25_write.add(  # type: ignore[call-arg]
                    *self._view.state, ids, numbers, terms.ends, reached, counts
                )  # fmt: skip
                if lacking == bm25_write.DONE:
                    break
                self._view = self._view.with_room(lacking, amount)
        finally:
            self._publish()
        self._sweep()

    def _publish(self) -> None:
        self._view = self._view.published()

    def _sweep(self) -> None:
        removed, live = int(self._view.head[kernels.REMOVED]), int(self._view.head[kernels.LIVE])
        if removed > max(_SWEEP, live // 2):
            self._view = self._view.compacted()

    @contextmanager
    def _sums(self, size: int) -> Iterator[np.ndarray]:
        """An array of zeros, of `size` or more, for one search at a time; left as zeros."""
        try:
            sums = self._scratch.pop()
        except IndexError:
            sums = np.zeros(size, np.float32)
        if len(sums) < size:
            sums = np.zeros(size, np.float32)
        yield sums
        self._scratch.append(sums)  # not in a finally: whoever was interrupted may have left something in it

    def _shares_of(self, view: Postings) -> np.ndarray:
        """`kernels.share_all` of this view, or an empty array.

        They are worth their making once as many postings have been scored without them as there are, since
        documents came or went.
        """
        seen, shares = self._shares
        if seen is view.seen:
            return shares
        if self._scored_for is not view.seen:
            self._scored_for, self._scored = view.seen, 0
        used = int(view.seen[kernels.POOL])
        if self._scored <= used:
            return _NO_SHARES
        shares = np.empty(used, np.float32)
        for part in chunks(used, BUDGET):
            kernels.share_all(
                view.seen, view.lengths, view.slots, view.tfs, self._k1, self._b, shares, part.start, part.stop
            )  # fmt: skip
        self._shares = view.seen, shares
        return shares

    def _most(self, top_k: int) -> int:
        """No more results than there are documents need room."""
        return min(arguments.integer("top_k", top_k, 0), len(self))

    def _number(self, view: Postings, term: str) -> int:
        """A term's number, -1 if it is unknown or no term at all."""
        terms = self._tokenizer.terms([arguments.text("term", term)], "term")
        if len(terms.starts) > 1:
            raise ValueError(f"term must be one term, {term!r} makes {terms.strings()}")
        return int(view.vocabulary.find(terms)[0]) if len(terms.starts) else -1

    def _owned(self) -> list[np.ndarray]:
        view = self._view
        return [*view[:-1], *view.vocabulary, *self._scratch, self._shares[1]]

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            view = self._view.compacted()
        return {
            "settings": np.array([self._k1, self._b]),
            "fingerprint": storage.text_array(self._tokenizer.fingerprint),
            **{name: getattr(view, name) for name in self._schema if hasattr(view, name)},
            **storage.prefixed("vocabulary", view.vocabulary._asdict()),
        }

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        tokenizer = given["tokenizer"]
        found = storage.text_of(arrays["fingerprint"])
        storage.expect(len(arrays["settings"]) == 2, "settings are not two")
        if found != tokenizer.fingerprint:
            raise ValueError(f"the index was made by another analysis: {found!r}, given is {tokenizer.fingerprint!r}")
        vocabulary = Vocabulary(**storage.part("vocabulary", arrays))
        tables = {name: arrays[name] for name in Postings._fields if name in arrays}
        view = Postings(seen=arrays["head"].copy(), vocabulary=vocabulary, **tables)
        self = cls.__new__(cls)
        self._k1, self._b = (float(value) for value in arrays["settings"])
        storage.expect(0 <= self._k1 <= 1e6 and 0 <= self._b <= 1, "settings are out of range")
        self._tokenizer = tokenizer
        self._begin(view)
        return self

    def _fault(self) -> str | None:
        with self._lock:
            return self._view.fault()

    def __getstate__(self) -> dict[str, Any]:
        return {"arrays": self._to_arrays(), "tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self._from_arrays(state["arrays"], tokenizer=state["tokenizer"]).__dict__)


def _texts(name: str, values: Any) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence of str, got {type(values).__name__}")
    texts = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for kind in set(map(type, texts)):
        if not issubclass(kind, str):
            raise TypeError(f"{name} must hold str alone, got a {kind.__name__}")
    return texts


def _characters(texts: list[str]) -> np.ndarray:
    """How many characters there are up to the end of each text."""
    return np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))


def _in_threads(run: Callable[[slice], None], parts: Iterator[slice], threads: int) -> None:
    if threads == 1:
        for part in parts:
            run(part)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        for _ in pool.map(run, parts):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
