"""Full-text search: the documents that have the words of a query, best first."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.files import Arrays as FileArrays
from ..base.files import Schema, text_of
from ..base.filters import Selection, chosen
from ..base.progress import Progress, bar
from ..base.structure import Structure, writable
from ..base.threads import count
from ..kernels.inverted_index.layout import Arrays
from ..tokenizer.tokenizer import Stemmer, Stops, analysis
from ..tokenizer.vocabulary import Terms
from . import files
from .bm25 import Settings
from .explain import explained, factors
from .one_query import Single
from .search import Plan, Workspaces
from .state import Found, View
from .tail import MOST, runs
from .write import BULK, SINGLE, Writer

if TYPE_CHECKING:
    from typing_extensions import Self

# Characters that are analysed and added at a time: a few milliseconds.
_CHARACTERS = 1 << 20
# A call with so many characters is a bulk load.
_LOAD = 1 << 22


class InvertedIndex(Structure):
    """A full-text index of documents, ranked by BM25. Documents can be added, replaced and removed at any time.

    The number of documents, document frequencies and the average length are exact at every moment: after any order of
    additions and removals the ranking is that of an index built at once. Scores are within 1e-5 (relative) of the
    formula in float64. Only documents that have a term of the query are returned; equal scores by smaller id.

    Parameters
    ----------
    tokenizer
        A callable str -> list[str], or an object with such a method `tokenize`. By default the analysis of
        `Tokenizer`, compiled.
    k1
        Limits the effect of repeated terms, 0 or more.
    b
        How much long documents are penalised, 0 to 1.
    stop_words, stemmer
        "english" or a collection of terms to be left out, and a callable on one term: see `Tokenizer`.
    method
        "lucene" (idf = ln(1 + (N - df + 0.5) / (df + 0.5))), "robertson" (terms that half of the documents have weigh
        nothing), "atire", "bm25+" or "bm25l": see `kernels.inverted_index.bm25`.
    delta
        What "bm25+" (default 1.0) and "bm25l" (0.5) add for every term that a document has.

    Notes
    -----
    Documents are stored in compressed segments and in a tail that grows. Small segments are merged into larger ones, a
    part of the work with every addition, so that no single call takes long. Memory: about 10 bits for each distinct
    term of each document, 12 bytes a document, and the terms.

    Any number of threads may search while another one writes. A search sees whole documents, those of the moment when
    it began; its document frequencies may already lack documents that are being removed. Writers wait for each other.

    BM25: Robertson and Zaragoza, 2009.

    Examples
    --------
    >>> index = InvertedIndex()
    >>> index.add_documents([1, 2], ["A heap of pages", "Pages, pages and more pages"])
    >>> index.add_document(3, "A page")
    >>> [doc_id for doc_id, score in index.search("pages")]
    [2, 1]
    """

    _schema: ClassVar[Schema] = files.SCHEMA
    _version: ClassVar[int] = 2

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        stop_words: Stops = None,
        stemmer: Stemmer = None,
        method: str = "lucene",
        delta: float | None = None,
    ):
        self._settings = Settings.of(k1, b, method, delta)
        self._tokenizer = analysis(tokenizer, stop_words, stemmer)
        self._begin(View.empty())

    def _begin(self, view: View) -> None:
        self._writer = Writer(view, self._settings.b)
        self._lock, self._workspaces = threading.RLock(), Workspaces()
        self._single = Single(self._settings, self._tokenizer)

    @property
    def _view(self) -> View:
        return self._writer.view

    @property
    def arrays(self) -> Arrays:
        """The arrays of the index, for your own `@njit` functions: `kernels.inverted_index.layout.Arrays`.

        `segments`, a tuple of `SegmentArrays`, and `tail`, `TailArrays`, are groups of arrays that are described there,
        with shapes and dtypes; `vocabulary` has the terms of the tail. They are the arrays of the index, not copies. A
        document is in one segment, or in the tail. Additions, removals, `shrink_to_fit` and `load` make new arrays:
        read this property again after each, and do not use the arrays while another thread changes the index.
        """
        view = self._view
        return Arrays(tuple(segment.arrays for segment in view.segments), view.tail.seen, view.tail.vocabulary)

    def add_document(self, doc_id: int, text: str) -> None:
        """Add a document, or replace the one of this id. Amortised O(len(text) log n).

        Parameters
        ----------
        doc_id
            0 to 2**63 - 1.
        text
            Its text.
        """
        doc_id, texts = arguments.integer("doc_id", doc_id, 0), _one_text("text", text)
        terms = self._tokenizer.terms(texts)
        with self._lock:
            self._writer.add(np.array([doc_id], np.int64), terms, SINGLE)

    def add_documents(self, doc_ids: ArrayLike, texts: Sequence[str], *, progress: Progress = False) -> None:
        """Add documents in order, as `add_document` does. Amortised O(characters log n).

        If the call is interrupted, or your tokenizer raises, the documents before that point are added completely.

        Parameters
        ----------
        doc_ids, texts
            n integers and n str.
        progress
            True for a progress bar, or a callable that is called with (done, total).
        """
        ids, texts = arguments.integers("doc_ids", doc_ids, 0), arguments.strings("texts", texts, utf8=True)
        arguments.same_length(doc_ids=ids, texts=texts)
        upto = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))  # characters up to the end of each text
        load = len(texts) > 0 and upto[-1] >= _LOAD
        with self._lock, bar(progress, len(texts), "indexing", "doc") as advance:
            if load:
                self._writer.expect(len(texts), int(upto[-1]))
            for part in runs(upto, _CHARACTERS):
                terms = self._tokenizer.terms(texts[part])
                self._writer.add(ids[part], terms, BULK if load else SINGLE)
                advance(part.stop - part.start)
            if load:
                self._writer.freeze()
                self._writer.settle()

    def remove_document(self, doc_id: int) -> None:
        """Remove a document. O(log n), and O(its terms) if it was added recently.

        Raises
        ------
        KeyError
            If the id is unknown.
        """
        doc_id = arguments.integer("doc_id", doc_id, 0)
        with self._lock:
            if not self._writer.remove(doc_id):
                raise KeyError(doc_id)
            self._writer.step(SINGLE)

    def search(
        self, query: str, top_k: int = 10, *, filter: Selection = None,
        query_weights: Mapping[str, float] | None = None,
    ) -> list[tuple[int, float]]:  # fmt: skip
        """Find the best documents for a query. The weight of a term is multiplied by its count in the query.

        Parameters
        ----------
        query
            A text.
        top_k
            The largest number of documents to return.
        filter
            Ids that may be found: an integer array, or a function that takes all ids once and returns a bool for each.
        query_weights
            Factors above 0 for the weights of some terms. Each key is one term, analysed as the query is.

        Returns
        -------
        list[tuple[int, float]]
            (id, score), best first.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, `top_k` is negative, or a key of `query_weights` is not one term.

        Notes
        -----
        O(postings of the query's terms), less those that cannot be among the best (block-max MaxScore).
        """
        k, texts = arguments.integer("top_k", top_k, 0), _one_text("query", query)
        view = self._view
        k = min(k, view.documents)
        answer = None
        if filter is None and query_weights is None and k:
            answer = self._single.best(view, texts[0], k, self._workspaces)
        ids, scores = answer[:2] if answer else self._search(texts, "query", k, filter, query_weights, 1)
        found = ids[0].tolist()
        if found and found[-1] < 0:
            del found[found.index(-1) :]
        return list(zip(found, scores[0].tolist(), strict=False))

    def search_batch(
        self,
        queries: Sequence[str],
        top_k: int = 10,
        *,
        filter: Selection = None,
        query_weights: Mapping[str, float] | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best documents for n queries, as `search` does. All of them see the same documents.

        Parameters
        ----------
        queries
            n texts.
        top_k, filter, query_weights
            As for `search`, the same for all queries.
        threads
            Default: all cores.

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            Ids int64 and scores float32, both (n, top_k), best first. Rows with fewer results end in id -1 and score
            -inf.
        """
        queries, top_k = arguments.strings("queries", queries, utf8=True), arguments.integer("top_k", top_k, 0)
        return self._search(queries, "queries", top_k, filter, query_weights, count(threads))

    def search_and_score(
        self, queries: Sequence[str], top_k: int, doc_ids: np.ndarray, *, filter: Selection = None, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the best documents for n queries, and score given ones, all at the same moment.

        Parameters
        ----------
        queries, top_k, filter, threads
            As for `search_batch`.
        doc_ids
            int64 (n, c): for each query the documents to score, -1 for none. The filter does not apply to them.

        Returns
        -------
        tuple[np.ndarray, np.ndarray, np.ndarray]
            Ids and scores as `search_batch` returns them, and scores float32 (n, c) as `score_many` returns them.
        """
        view = self._view
        if filter is None and top_k and len(queries) == 1 and type(queries[0]) is str:
            answer = self._single.best(view, queries[0], top_k, self._workspaces, doc_ids)
            if answer is not None:
                return answer
        queries, top_k = arguments.strings("queries", queries, utf8=True), arguments.integer("top_k", top_k, 0)
        masks = None if filter is None else view.masks_of(chosen(filter, view.ids))
        plan = Plan.of(view, self._settings, self._tokenizer.terms(queries, "queries"), None)
        places = view.places_of(doc_ids.ravel()).reshape(doc_ids.shape)
        return plan.best(top_k, masks, threads, self._workspaces, places)

    def score_many(self, queries: Sequence[str], doc_ids: ArrayLike, *, threads: int | None = None) -> np.ndarray:
        """Score given documents, c for each of n queries. O(n * c * terms * log postings).

        Parameters
        ----------
        queries
            n texts.
        doc_ids
            Integers (n, c).
        threads
            Default: all cores.

        Returns
        -------
        np.ndarray
            float32 (n, c): the scores of `search`; 0 for documents that have no term of their query, and unknown ids.
        """
        queries = arguments.strings("queries", queries, utf8=True)
        ids = arguments.matrix("doc_ids", doc_ids, len(queries))
        view, terms = self._view, self._tokenizer.terms(queries, "queries")
        plan = Plan.of(view, self._settings, terms, None)
        return plan.scores(view.places_of(ids.ravel()).reshape(ids.shape), count(threads), self._workspaces)

    def explain(self, query: str, doc_id: int, *, query_weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Explain the score that `search` gives to a document. O(terms of the query).

        Returns
        -------
        dict[str, Any]
            `score`, `length` (of the document, in terms), `average_length`, `documents`, and `terms`: for each distinct
            term of the query that some document has, in the order of addition, `term`, `tf`, `df`, `weight` (idf times
            repetitions and query weight, and k1 + 1 where the method has that), `norm` (1 - b + b * length / average
            length) and `score`.

        Raises
        ------
        KeyError
            If the id is unknown.
        """
        number = arguments.integer("doc_id", doc_id, 0)
        view, terms = self._view, self._tokenizer.terms(_one_text("query", query), "query")
        place = int(view.places_of(np.array([number], np.int64))[0])
        if place < 0:
            raise KeyError(doc_id)
        plan = Plan.of(view, self._settings, terms, factors(self._tokenizer, terms, query_weights))
        return explained(plan, terms, self._settings, place, self._workspaces)

    def get_term_frequency(self, term: str, doc_id: int) -> int:
        """Return how often a term occurs in a document, 0 if either is unknown. O(len(term) + log postings).

        The term is analysed as texts are; ValueError if the result is more than one term.
        """
        number = arguments.integer("doc_id", doc_id, 0)
        view, terms = self._view, self._one_term(term)
        place = int(view.places_of(np.array([number], np.int64))[0])
        if place < 0 or not len(terms.starts):
            return 0
        return int(Plan.unweighted(view, terms).frequencies(place)[0])

    def get_document_frequency(self, term: str) -> int:
        """Return how many documents have a term, 0 if it is unknown. The term is as in `get_term_frequency`."""
        return int(Found.of(self._view, self._one_term(term)).dfs.sum())

    def stats(self) -> dict[str, Any]:
        """Return statistics. O(terms); O(size) if documents were removed.

        Returns
        -------
        dict[str, Any]
            `total_documents`, `total_terms` (distinct), `total_postings`, `avg_doc_length` (in terms),
            `avg_postings_per_term`, `bytes_per_posting` (`nbytes` / postings), `posting_bytes` (bytes of the postings
            in segments), `segments`. Means of nothing are 0.
        """
        view = self._view
        terms, postings = files.totals(view)
        return {
            "total_documents": view.documents,
            "total_terms": terms,
            "total_postings": postings,
            "avg_doc_length": view.average,
            "avg_postings_per_term": postings / max(terms, 1),
            "bytes_per_posting": self.nbytes / postings if postings else 0.0,
            "posting_bytes": sum(segment.posting_bytes for segment in view.segments),
            "segments": len(view.segments),
        }

    def reserve(self, n: int) -> None:
        """Do nothing: no array of an index is moved when it grows. The method is there for symmetry."""
        arguments.integer("n", n, 0, MOST)

    def shrink_to_fit(self) -> None:
        """Merge all documents into one segment, without removed ones: the smallest and fastest form. O(size)."""
        with self._lock:
            self._writer.compact()
            self._workspaces = Workspaces()

    def __len__(self) -> int:
        """Return the number of documents."""
        return self._view.documents

    def ids(self) -> np.ndarray:
        """Return the ids of all documents, int64. O(documents)."""
        return self._view.ids()

    def contains_many(self, doc_ids: ArrayLike) -> np.ndarray:
        """Return whether each of doc_ids (n,) is a document, bool (n,). O(n log documents)."""
        return self._view.places_of(arguments.integers("doc_ids", doc_ids)) >= 0

    def __contains__(self, doc_id: object) -> bool:
        """Return whether a document has this id."""
        if not isinstance(doc_id, (int, np.integer)) or isinstance(doc_id, bool) or not 0 <= doc_id < 2**63:
            return False
        return bool(self._view.places_of(np.array([doc_id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
        """Return a short description."""
        k1, b, method, _ = self._settings
        return f"InvertedIndex({len(self)} documents, {method}, k1={k1}, b={b}, {self._tokenizer!r})"

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | os.PathLike,
        tokenizer: Any = None,
        *,
        stop_words: Stops = None,
        stemmer: Stemmer = None,
        mmap: bool = False,
    ) -> "Self":
        """Read a file that `save` wrote.

        Parameters
        ----------
        path
            Name of the file.
        tokenizer, stop_words, stemmer
            As they were given to the index.
        mmap
            Read postings from the file when a search needs them. They are not checked before.

        Raises
        ------
        ValueError
            If the file is damaged, of another kind or a newer version, or was made with another analysis.
        """
        return cls._load(path, mmap, tokenizer=analysis(tokenizer, stop_words, stemmer))

    def _search(
        self,
        queries: list[str],
        name: str,
        top_k: int,
        filter: Selection,
        query_weights: Mapping[str, float] | None,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        view, terms = self._view, self._tokenizer.terms(queries, name)
        masks = None if filter is None else view.masks_of(chosen(filter, view.ids))
        plan = Plan.of(view, self._settings, terms, factors(self._tokenizer, terms, query_weights))
        none_given = np.empty((len(queries), 0), np.int64)
        return plan.best(top_k, masks, threads, self._workspaces, none_given)[:2]

    def _one_term(self, term: str) -> Terms:
        """Return the terms of a text that has at most one."""
        terms = self._tokenizer.terms(_one_text("term", term), "term")
        if len(terms.starts) > 1:
            raise ValueError(f"term must be one term, {term!r} makes {terms.strings()}")
        return terms

    def _owned(self) -> list[np.ndarray]:
        view = self._view
        parts = [array for segment in view.segments for array in segment.owned]
        return [*parts, *view.tail.owned, *self._workspaces.owned()]

    def _to_arrays(self) -> FileArrays:
        with self._lock:
            self._writer.compact()
            return files.to_arrays(self._view, self._settings, self._tokenizer.fingerprint)

    @classmethod
    def _restored(cls, arrays: FileArrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        return super()._restored(files.upgraded(arrays, where), where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: FileArrays, **given: Any) -> "Self":
        tokenizer = given["tokenizer"]
        found = text_of(arrays["fingerprint"])
        if found != tokenizer.fingerprint:
            raise ValueError(f"the index was made with another analysis: {found!r}, got {tokenizer.fingerprint!r}")
        self = cls.__new__(cls)
        self._settings, self._tokenizer = files.settings_of(arrays), tokenizer
        self._begin(files.view_of(arrays))
        return self

    def _fault(self) -> str | None:
        with self._lock:
            self._writer.publish()
            return files.fault(self._view, self._settings.b, True)

    def _mapped_fault(self) -> str | None:
        return files.fault(self._view, self._settings.b, False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arrays of the index, and its tokenizer."""
        return {"arrays": self._to_arrays(), "tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the index again from the state of a pickle."""
        arrays = {name: writable(array) for name, array in state["arrays"].items()}
        self.__dict__.update(self._from_arrays(arrays, tokenizer=state["tokenizer"]).__dict__)


def _one_text(name: str, value: Any) -> list[str]:
    """Return a list of one text, which can be encoded as UTF-8."""
    texts = [arguments.text(name, value)]
    arguments.encodable(name, texts)
    return texts
