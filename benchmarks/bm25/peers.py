"""The contenders of the BM25 benchmark: one small class for each library.

All index the same terms, with k1 = 1.2 and b = .75, on one thread, and are used as an expert would use them. llmds is
given texts and queries as text; the peers are given terms that were cut beforehand, so their analysis costs nothing:

    bm25s       ids of terms; scipy's CSC (its quicker indexing); arrays of scores in memory
    tantivy     terms joined by spaces under a whitespace tokenizer, with frequencies and lengths, without positions or
                stored fields, in one segment in a temporary folder (mapped). Queries are disjunctions of term queries
                built beforehand, which spares it parsing; hits are not counted, so that it may skip documents.
    rank_bm25   lists of terms
"""

import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from llmds.inverted_index.index import InvertedIndex

from ..names import OURS
from .data import Collection, Queries
from .quality import Ranked

_HEAP, _LARGE_HEAP = 500_000_000, 4_000_000_000


class Engine(ABC):
    """One library's index of a collection. `package` is what must be importable."""

    package: ClassVar[str]

    @abstractmethod
    def build(self, collection: Collection) -> None:
        """Index all documents, whose ids are their numbers."""

    @abstractmethod
    def prepare(self, queries: Queries) -> Any:
        """Return the queries in the form that `batch` and `single` take. Not timed."""

    @abstractmethod
    def batch(self, prepared: Any, k: int) -> Any:
        """Search for all queries at once, as fast as the library can."""

    def single(self, prepared: Any, k: int) -> Any:
        """Search for all queries, one per call."""
        return self.batch(prepared, k)

    @abstractmethod
    def ranked(self, queries: Queries, k: int) -> Ranked:
        """Return what `batch` finds."""

    def bytes(self) -> dict[str, int] | None:
        """Return bytes by part; `postings` are documents and frequencies with what is needed to read them."""
        return None

    @classmethod
    def index_texts(cls, texts: list[str], stop_words: str | None) -> None:
        """Build an index from raw texts, with the library's own analysis."""
        raise NotImplementedError


class Ours(Engine):
    """llmds."""

    package = "llmds"
    index: InvertedIndex

    def build(self, collection: Collection) -> None:
        self.index = InvertedIndex(collection.tokenizer)
        for chunk in collection.chunks():
            self.index.add_documents(np.arange(chunk.first, chunk.first + len(chunk.texts)), chunk.texts)
        self.index.shrink_to_fit()

    def prepare(self, queries: Queries) -> list[str]:
        return queries.texts

    def batch(self, prepared: list[str], k: int) -> Ranked:
        return self.index.search_batch(prepared, k, threads=1)

    def single(self, prepared: list[str], k: int) -> list:
        return [self.index.search(query, k) for query in prepared]

    def ranked(self, queries: Queries, k: int) -> Ranked:
        return self.batch(queries.texts, k)

    def bytes(self) -> dict[str, int]:
        self.index.shrink_to_fit()
        stats = self.index.stats()
        parts = {"postings": int(stats["posting_bytes"])} if "posting_bytes" in stats else {}
        return {**parts, "total": self.index.nbytes}

    @classmethod
    def index_texts(cls, texts: list[str], stop_words: str | None) -> None:
        InvertedIndex(stop_words=stop_words).add_documents(np.arange(len(texts)), texts)


class Bm25s(Engine):
    """bm25s, its method "lucene"."""

    package = "bm25s"

    def __init__(self, backend: str):
        self.backend = backend

    def build(self, collection: Collection) -> None:
        import bm25s

        self.vocabulary = {"": 0}  # a term of no document, for queries of unknown terms alone
        number, documents = self.vocabulary.setdefault, []
        numbers: list[int] = []  # one object for each number, however often it occurs
        for chunk in collection.chunks():
            for terms in chunk.terms:
                ids = [number(term, len(self.vocabulary)) for term in terms]
                numbers += range(len(numbers), len(self.vocabulary))
                documents.append([numbers[term] for term in ids])
        self.index = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend=self.backend, csc_backend="scipy")
        tokens = bm25s.tokenization.Tokenized(ids=documents, vocab=self.vocabulary)
        self.index.index(tokens, show_progress=False)

    def prepare(self, queries: Queries) -> list[list[int]]:
        known = self.vocabulary
        return [[known[term] for term in terms if term in known] or [0] for terms in queries.terms]

    def batch(self, prepared: list[list[int]], k: int) -> Any:
        threads = 1 if self.backend == "numba" else 0  # 0: no pool of threads
        return self.index.retrieve(
            prepared, k=k, show_progress=False, n_threads=threads, backend_selection=self.backend
        )

    def single(self, prepared: list[list[int]], k: int) -> list:
        return [self.batch([query], k) for query in prepared]

    def ranked(self, queries: Queries, k: int) -> Ranked:
        found = self.batch(self.prepare(queries), k)
        ids, scores = np.asarray(found.documents, np.int64), np.asarray(found.scores, np.float32)
        return np.where(scores > 0, ids, -1), np.where(scores > 0, scores, np.float32(-np.inf))

    def bytes(self) -> dict[str, int]:
        postings = sum(self.index.scores[part].nbytes for part in ("data", "indices", "indptr"))
        terms = sys.getsizeof(self.vocabulary) + sum(map(sys.getsizeof, self.vocabulary))
        terms += sum(map(sys.getsizeof, self.vocabulary.values()))
        return {"postings": postings, "terms": terms, "total": postings + terms}

    @classmethod
    def index_texts(cls, texts: list[str], stop_words: str | None) -> None:
        import bm25s

        terms = bm25s.tokenize(texts, stopwords="english" if stop_words else [], show_progress=False)
        bm25s.BM25(k1=1.2, b=0.75, method="lucene", csc_backend="scipy").index(terms, show_progress=False)


class Tantivy(Engine):
    """tantivy, the binding of its own project for Python."""

    package = "tantivy"

    def build(self, collection: Collection) -> None:
        import tantivy

        self.folder = tempfile.TemporaryDirectory(prefix="llmds-tantivy-")  # goes with this object
        analysis = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", tokenizer_name="terms", index_option="freq")
        self.schema = builder.build()
        self.index = tantivy.Index(self.schema, path=self.folder.name)
        self.index.register_tokenizer("terms", analysis)
        writer = self.index.writer(heap_size=_LARGE_HEAP, num_threads=1)  # of less it makes more than one segment
        for chunk in collection.chunks():
            for terms in chunk.terms:
                writer.add_document(tantivy.Document(text=" ".join(terms)))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()
        if self.searcher.num_segments != 1:
            raise RuntimeError(f"tantivy made {self.searcher.num_segments} segments, not one")

    def prepare(self, queries: Queries) -> list:
        from tantivy import Occur, Query

        made = []
        for terms in queries.terms:
            parts = [Query.term_query(self.schema, "text", term, index_option="freq") for term in terms]
            whole = parts[0] if len(parts) == 1 else Query.boolean_query([(Occur.Should, part) for part in parts])
            made.append(whole)
        return made

    def batch(self, prepared: list, k: int) -> list:
        return [self.searcher.search(query, k, count=False).hits for query in prepared]

    def ranked(self, queries: Queries, k: int) -> Ranked:
        ids = np.full((len(queries.texts), k), -1, np.int64)
        scores = np.full(ids.shape, -np.inf, np.float32)
        for row, hits in enumerate(self.batch(self.prepare(queries), k)):
            for rank, (score, address) in enumerate(hits):
                ids[row, rank], scores[row, rank] = address.doc, score
        return ids, scores

    def bytes(self) -> dict[str, int]:
        """Return sizes of the files, without the empty store of documents. `postings` are .idx, lengths excluded."""
        kinds = {".idx": "postings", ".term": "terms", ".fieldnorm": "lengths"}
        sizes: dict[str, int] = {"postings": 0, "terms": 0, "lengths": 0, "total": 0}
        for file in Path(self.folder.name).iterdir():
            if file.suffix != ".store":
                sizes["total"] += file.stat().st_size
                if file.suffix in kinds:
                    sizes[kinds[file.suffix]] += file.stat().st_size
        return sizes

    @classmethod
    def index_texts(cls, texts: list[str], stop_words: str | None) -> None:
        """Build in memory with the default analysis. It keeps stop words, and is faster than one that filters them."""
        import tantivy

        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", index_option="freq")
        index = tantivy.Index(builder.build())
        writer = index.writer(heap_size=_HEAP, num_threads=1)
        for text in texts:
            writer.add_document(tantivy.Document(text=text))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()


class RankBm25(Engine):
    """rank_bm25, which scores every document in NumPy."""

    package = "rank_bm25"

    def build(self, collection: Collection) -> None:
        from rank_bm25 import BM25Okapi

        self.index = BM25Okapi([terms for chunk in collection.chunks() for terms in chunk.terms], k1=1.2, b=0.75)

    def prepare(self, queries: Queries) -> list[list[str]]:
        return queries.terms

    def batch(self, prepared: list[list[str]], k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for query in prepared:
            scores = self.index.get_scores(query)
            best = np.argpartition(-scores, min(k, len(scores)) - 1)[:k]
            best = best[np.argsort(-scores[best], kind="stable")]
            found.append((best, scores[best]))
        return found

    def ranked(self, queries: Queries, k: int) -> Ranked:
        ids, scores = map(np.array, zip(*self.batch(queries.terms, k), strict=True))
        return ids.astype(np.int64), scores.astype(np.float32)

    @classmethod
    def index_texts(cls, texts: list[str], stop_words: str | None) -> None:
        """Build with terms cut by a regular expression."""
        import re

        from rank_bm25 import BM25Okapi

        BM25Okapi([re.findall(r"\w+", text.lower()) for text in texts])


CONTENDERS: dict[str, Callable[[], Engine]] = {
    OURS: Ours,
    "bm25s numba": partial(Bm25s, "numba"),
    "bm25s numpy": partial(Bm25s, "numpy"),
    "tantivy": Tantivy,
    "rank_bm25": RankBm25,
}


def kind(name: str) -> type[Engine]:
    """Return the class of a contender."""
    maker = CONTENDERS[name]
    return cast(type[Engine], maker.func if isinstance(maker, partial) else maker)


def installed(name: str) -> bool:
    """Return whether a contender's library is installed."""
    try:
        import_module(kind(name).package)
    except ImportError:
        return False
    return True
