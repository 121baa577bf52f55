"""Full-text search: which documents hold the words of a query, best first."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base import files as storage
from ..base.filters import Selection, chosen
from ..base.progress import Progress, bar
from ..base.structure import Structure
from ..base.threads import count
from ..kernels.inverted_index import bm25
from ..tokenizer.tokenizer import Stemmer, Stops, analysis
from ..tokenizer.vocabulary import Terms, Vocabulary
from . import files as inverted_file
from .one_query import Single
from .search import DELTAS, METHODS, Decoded, Plan, Settings
from .state import Found, View
from .tail import MOST, runs
from .write import BULK, SINGLE, Writer

if TYPE_CHECKING:
    from typing_extensions import Self

# Characters that are analysed and added in one go: a few milliseconds.
_CHARACTERS = 1 << 20
# From how many characters on a call is a bulk load.
_LOAD = 1 << 22


class InvertedIndex(Structure):
    """Documents found by the words they hold, ranked by BM25, while documents come and go.

    Documents lie in compressed segments and in a growing end; small segments are merged into larger ones, a
    little with every document that is added, so that no single call is long. N, df and the average length are exact at
    every moment: any order of additions and removals ranks as an index made at once does. Scores are within 1e-5
    (relative) of the formula in float64. Only documents that hold a word of the query are returned; ties by smaller id.

    Parameters:
        tokenizer: a callable str -> list[str], or an object with such a method `tokenize`; by default the analysis of
            `Tokenizer`, compiled. `stop_words` ("english" or a collection) and `stemmer` (a callable on one term): see
            there.
        k1: 0 or more, bounds what repetition of a word is worth.
        b: 0 to 1, how much long documents are held back.
        method: "lucene" (idf = ln(1 + (N - df + 0.5) / (df + 0.5)); Robertson and Zaragoza 2009), "robertson" (words
            that half of the documents hold count nothing), "atire", "bm25+", "bm25l": see
            `kernels.inverted_index.bm25`.
        delta: what "bm25+" (1.0) and "bm25l" (0.5) add for every word that a document holds.

    Memory: about 10 bits for each distinct word of each document, 12 bytes a document, and the words. Any number of
    threads may search while another one writes: a search sees whole documents, those that were there when it began (the
    df it weighs words by may already leave out documents that are being removed). Writers take turns.

    >>> index = InvertedIndex()
    >>> index.add_documents([1, 2], ["A heap of pages", "Pages, pages and more pages"])
    >>> index.add_document(3, "A page")
    >>> [doc_id for doc_id, score in index.search("pages")]
    [2, 1]
    """

    _schema: ClassVar[storage.Schema] = inverted_file.SCHEMA
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
        arguments.one_of("method", method, METHODS)
        if delta is not None and method not in DELTAS:
            raise ValueError(f"delta belongs to the methods {' and '.join(DELTAS)}, got method={method!r}")
        standard = DELTAS.get(method, 0.0)
        self._settings = Settings(
            arguments.real("k1", k1, 0.0, 1e6),
            arguments.real("b", b, 0.0, 1.0),
            method,
            standard if delta is None else arguments.real("delta", delta, 0.0, 1e6),
        )
        self._tokenizer = analysis(tokenizer, stop_words, stemmer)
        self._begin(View.empty())

    def _begin(self, view: View) -> None:
        self._writer = Writer(view, self._settings.b)
        self._lock, self._decoded = threading.RLock(), Decoded()
        self._single = Single(self._settings, self._tokenizer)

    @property
    def _view(self) -> View:
        return self._writer.view

    def add_document(self, doc_id: int, text: str) -> None:
        """Add a document (id 0 to 2**63-1), in place of the one that has this id, if any.

        Amortised O(len(text) log n).
        """
        doc_id, texts = arguments.integer("doc_id", doc_id, 0), _one_text("text", text)
        terms = self._tokenizer.terms(texts)
        with self._lock:
            self._writer.add(np.array([doc_id], np.int64), terms, SINGLE)

    def add_documents(self, doc_ids: ArrayLike, texts: Sequence[str], *, progress: Progress = False) -> None:
        """As `add_document` for ids (n,) and n texts, in order. Amortised O(characters log n).

        If it is interrupted, or a tokenizer of yours raises, the documents before that point are in, whole.
        """
        ids, texts = arguments.integers("doc_ids", doc_ids, 0), _texts("texts", texts)
        arguments.same_length(doc_ids=ids, texts=texts)
        upto = _characters(texts)
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
        """Remove a document. KeyError if it is unknown. O(log n), and its words if it was added lately."""
        doc_id = arguments.integer("doc_id", doc_id, 0)
        with self._lock:
            if not self._writer.remove(doc_id):
                raise KeyError(doc_id)
            self._writer.step(SINGLE)

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        filter: Selection = None,
        query_weights: Mapping[str, float] | None = None,
    ) -> list[tuple[int, float]]:
        """The best `top_k` documents for a query, (id, score), best first. A repeated word weighs its count.

        filter: ids that may be found, an integer array, or a function that takes all live ids once and gives a bool
        for each. query_weights: what the weights of some terms are multiplied with, above 0 (each one term, analysed as
        the query is). O(postings of the query's words), less what cannot be among the best.
        """
        k, texts = arguments.integer("top_k", top_k, 0), _one_text("query", query)
        view = self._view
        k = min(k, view.documents)
        answer = None
        if filter is None and query_weights is None and k:
            answer = self._single.best(view, texts[0], k, self._decoded)
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
        """The best documents for every query: ids int64 (n, top_k) and scores float32 (n, top_k), best first.

        Rows with fewer results end in id -1 and score -inf. One filter and one set of weights, as in `search`, holds
        for all queries, which see the same documents. `threads`: default all cores.
        """
        queries, top_k = _texts("queries", queries), arguments.integer("top_k", top_k, 0)
        return self._search(queries, "queries", top_k, filter, query_weights, count(threads))

    def ranking(
        self, queries: Sequence[str], top_k: int, also: np.ndarray, *, filter: Selection = None, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `search_batch`, and the scores float32 (n, c) of documents `also` int64 (n, c), as `score_many` has them.

        At one moment; for fusion. -1 is no document.
        """
        queries, top_k = _texts("queries", queries), arguments.integer("top_k", top_k, 0)
        view = self._view
        masks = None if filter is None else view.masks_of(chosen(filter, view.ids))
        plan = Plan.of(view, self._settings, self._tokenizer.terms(queries, "queries"), None)
        places = view.places_of(also.ravel()).reshape(also.shape)
        return plan.best(top_k, masks, threads, self._decoded, places)

    def _ranking_of_one(self, query: str, top_k: int, others: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """The best top_k > 0 for a query beside `others` int64 (1, top_k), as `Single.best` says it, or None."""
        if type(query) is not str:
            return None
        return self._single.best(self._view, query, top_k, self._decoded, others)

    def explain(self, query: str, doc_id: int, *, query_weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """How `search` comes to the score of a document: KeyError if it is unknown.

        `score`, `length` (of the document, in terms), `average_length`, `documents`, and `terms`: for each distinct
        term of the query, in the order of addition, `term`, `tf`, `df`, `weight` (idf times repetitions and query
        weight; times k1 + 1 where the method has that), `norm` (1 - b + b * length / average length), `score`. Terms
        that no document holds are left out. O(words of the query).
        """
        number = arguments.integer("doc_id", doc_id, 0)
        view, terms = self._view, self._tokenizer.terms(_one_text("query", query), "query")
        place = int(view.places_of(np.array([number], np.int64))[0])
        if place < 0:
            raise KeyError(doc_id)
        plan = Plan.of(view, self._settings, terms, self._factors(terms, query_weights))
        length, average = view.length_at(place), view.average
        norm = 1 - self._settings.b + (self._settings.b * length / average if average > 0 else 0.0)
        found = int(plan.ends[0])
        order, weights, tfs = plan.order[:found], plan.weights[:found].tolist(), plan.frequencies(place).tolist()
        words = terms.strings()
        form, rows = plan.form, []
        for i, (at, weight, tf) in enumerate(zip(order.tolist(), weights, tfs, strict=False)):
            if not tf and not plan.found.dfs[at]:
                continue  # only removed documents hold it
            share = float(bm25.part(np.float32(tf), np.float32(length), form)) if tf else 0.0
            row = {"term": words[at], "tf": tf, "df": int(plan.found.dfs[at]), "weight": weight, "norm": norm}
            rows.append({**row, "score": weights[i] * share})
        score = plan.scores(np.array([[place]], np.int64), 1, self._decoded)[0, 0]
        return {
            "score": float(score),
            "length": length,
            "average_length": average,
            "documents": view.documents,
            "terms": rows,
        }

    def score_many(self, queries: Sequence[str], doc_ids: ArrayLike, *, threads: int | None = None) -> np.ndarray:
        """What `search` scores given documents, c for each of n queries: doc_ids int64 (n, c), float32 (n, c).

        0 for documents that hold no word of their query, or are unknown (as -1 is). O(n * c * words * log postings).
        """
        queries = _texts("queries", queries)
        ids = arguments.matrix("doc_ids", doc_ids, len(queries))
        view, terms = self._view, self._tokenizer.terms(queries, "queries")
        plan = Plan.of(view, self._settings, terms, None)
        return plan.scores(view.places_of(ids.ravel()).reshape(ids.shape), count(threads), self._decoded)

    def get_term_frequency(self, term: str, doc_id: int) -> int:
        """How often a document holds a term; 0 if either is unknown. O(len(term) + log postings).

        The term passes through the index's analysis; ValueError if that makes more than one term of it.
        """
        number = arguments.integer("doc_id", doc_id, 0)
        view, terms = self._view, self._one_term(term)
        place = int(view.places_of(np.array([number], np.int64))[0])
        if place < 0 or not len(terms.starts):
            return 0
        plan = Plan.everything(view, terms)
        return int(plan.frequencies(place)[0])

    def get_document_frequency(self, term: str) -> int:
        """How many documents hold a term; 0 if it is unknown. As `get_term_frequency`."""
        return int(Found.of(self._view, self._one_term(term)).dfs.sum())

    def stats(self) -> dict[str, Any]:
        """`total_documents`, `total_terms` (distinct), `total_postings`, `avg_doc_length` (in terms),
        `avg_postings_per_term`, `bytes_per_posting`: `nbytes` over postings; `posting_bytes`: of these, what postings
        and their blocks take in segments; `segments`. Empty means are 0.

        O(terms), and where documents were removed O(size).
        """
        view = self._view
        terms, postings = inverted_file.totals(view)
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
        """Nothing: no array of an index grows with its documents, so none has to be moved. For symmetry."""
        arguments.integer("n", n, 0, MOST)

    def shrink_to_fit(self) -> None:
        """Bring all documents into one segment, without what was removed: the smallest and the fastest. O(size)."""
        with self._lock:
            self._writer.compact()
            self._decoded = Decoded()

    def __len__(self) -> int:
        return self._view.documents

    def ids(self) -> np.ndarray:
        """The ids of all documents, int64. O(documents)."""
        return self._view.ids()

    def contains_many(self, doc_ids: ArrayLike) -> np.ndarray:
        """Whether each of doc_ids (n,) is a document, bool (n,). O(n log documents)."""
        return self._view.places_of(arguments.integers("doc_ids", doc_ids)) >= 0

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, (int, np.integer)) or isinstance(doc_id, bool) or not 0 <= doc_id < 2**63:
            return False
        return bool(self._view.places_of(np.array([doc_id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
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
        """Read what `save` wrote; tokenizer, stop words and stemmer as they were given to the index.

        mmap: postings are read from the file when a search needs them, and are not examined before. ValueError if the
        file is damaged, of another kind or a newer version, or was made by another analysis.
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
        plan = Plan.of(view, self._settings, terms, self._factors(terms, query_weights))
        return plan.best(top_k, masks, threads, self._decoded)[:2]

    def _factors(self, terms: Terms, query_weights: Mapping[str, float] | None) -> np.ndarray | None:
        """What the weight of each term is multiplied with, float32 (m,)."""
        if query_weights is None:
            return None
        if not isinstance(query_weights, Mapping):
            raise TypeError(f"query_weights must be a mapping from terms to numbers, got {query_weights!r}")
        words = list(query_weights)
        given = self._tokenizer.terms(words, "query_weights")
        numbers = [arguments.real(f"query_weights[{word!r}]", query_weights[word], 1e-6, 1e6) for word in words]
        if np.any(np.diff(given.ends, prepend=0) != 1):
            raise ValueError(f"query_weights must have keys of one term each, got {words}")
        vocabulary, places = Vocabulary.empty().intern(given)
        values = np.ones(vocabulary.terms + 1, np.float32)  # the last one is for terms that are not named
        values[places] = numbers
        return values[vocabulary.find(terms)]

    def _one_term(self, term: str) -> Terms:
        """The terms of a text that is one term or none."""
        terms = self._tokenizer.terms(_one_text("term", term), "term")
        if len(terms.starts) > 1:
            raise ValueError(f"term must be one term, {term!r} makes {terms.strings()}")
        return terms

    def _owned(self) -> list[np.ndarray]:
        view = self._view
        parts = [array for segment in view.segments for array in segment.arrays]
        return [*parts, *view.tail[:-1], *view.tail.vocabulary, *self._decoded.owned()]

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            self._writer.compact()
            return inverted_file.to_arrays(self._view, self._settings, self._tokenizer.fingerprint)

    @classmethod
    def _restored(cls, arrays: storage.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        return super()._restored(inverted_file.upgraded(arrays, where), where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        tokenizer = given["tokenizer"]
        found = storage.text_of(arrays["fingerprint"])
        if found != tokenizer.fingerprint:
            raise ValueError(f"the index was made by another analysis: {found!r}, given is {tokenizer.fingerprint!r}")
        self = cls.__new__(cls)
        self._settings, self._tokenizer = inverted_file.settings_of(arrays), tokenizer
        self._begin(inverted_file.view_of(arrays))
        return self

    def _fault(self) -> str | None:
        with self._lock:
            self._writer.publish()
            return inverted_file.fault(self._view, self._settings.b, True)

    def _mapped_fault(self) -> str | None:
        return inverted_file.fault(self._view, self._settings.b, False)

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
    arguments.encodable(name, texts)
    return texts


def _one_text(name: str, value: Any) -> list[str]:
    texts = [arguments.text(name, value)]
    arguments.encodable(name, texts)
    return texts


def _characters(texts: list[str]) -> np.ndarray:
    """How many characters there are up to the end of each text."""
    return np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
