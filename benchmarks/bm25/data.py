"""Collections of text for the benchmarks of search: documents, queries, and which documents answer them.

Of `cisi` title and text are indexed, of everything else the text. `newsgroups` come without queries; 2,000 are made
of them, seeded: half are the words of a random post's subject, half 2 to 6 consecutive words of a random post, both
after English stop words and "re" are gone.

`synthetic` documents have lengths of a gamma distribution (mean 60, shape 4) and terms of a Zipf distribution (by
default exponent 1.05, over 500,000 terms); queries are 2 to 6 terms of the same without the most frequent ones (100).
A term is its number written in consonants, which is no stop word. They are made a chunk at a time, each from a seed of
its own, so that fewer documents are the first ones of more.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmds.tokenizer.tokenizer import Tokenizer

from .. import harness

JUDGED = ("cisi", "cranfield", "cppdocs")
CHUNK = 20_000
_WITH_TITLE = ("cisi",)
EXPONENT, FREQUENT = 1.05, 100
_TERMS = 500_000
_MEAN, _SHAPE = 60, 4
_DIGITS = "tnsrlhdcmpfgbvkwjxqz"
_MADE_QUERIES = 2_000


class Chunk(NamedTuple):
    """Some documents of a collection: the number of the first, their texts, and the terms that all contenders index."""

    first: int
    texts: list[str]
    terms: list[list[str]]


class Queries(NamedTuple):
    """Queries as text and as terms, and the grades of the documents that answer each (all empty: unknown)."""

    texts: list[str]
    terms: list[list[str]]
    grades: list[dict[int, float]]

    def first(self, count: int) -> "Queries":
        """Return the first of them."""
        return Queries(self.texts[:count], self.terms[:count], self.grades[:count])

    @property
    def judged(self) -> bool:
        """Whether there are judgements."""
        return any(self.grades)


class Collection:
    """Documents numbered from 0, and queries."""

    name: str
    tokenizer: Tokenizer
    queries: Queries

    def __len__(self) -> int:
        raise NotImplementedError

    def chunks(self) -> Iterator[Chunk]:
        """Yield all documents, in order."""
        raise NotImplementedError

    def texts(self, count: int | None = None) -> list[str]:
        """Return the texts of the first documents, or of all."""
        count, found = len(self) if count is None else count, []
        for chunk in self.chunks():
            found += chunk.texts
            if len(found) >= count:
                break
        return found[:count]


class Read(Collection):
    """A collection in memory."""

    def __init__(
        self,
        name: str,
        texts: list[str],
        asked: list[str],
        grades: list[dict[int, float]] | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        self.name, self.tokenizer = name, tokenizer or Tokenizer()
        self._texts, self._asked = texts, asked
        self._grades = grades or [{} for _ in asked]

    def __len__(self) -> int:
        return len(self._texts)

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, len(self._texts), CHUNK):
            texts = self._texts[first : first + CHUNK]
            yield Chunk(first, texts, cut(self.tokenizer, texts))

    @cached_property
    def queries(self) -> Queries:  # type: ignore[override]
        return Queries(self._asked, cut(self.tokenizer, self._asked), self._grades)

    def cut_by(self, tokenizer: Tokenizer) -> "Read":
        """Return the same collection with another analysis."""
        return Read(self.name, self._texts, self._asked, self._grades, tokenizer)


class Synthetic(Collection):
    """Documents of Zipf-distributed terms."""

    def __init__(
        self,
        documents: int,
        queries: int = _MADE_QUERIES,
        seed: int = 1,
        exponent: float = EXPONENT,
        frequent: int = FREQUENT,
    ):
        self.name, self.tokenizer = "synthetic", Tokenizer()
        self._documents, self._seed = documents, seed
        self._words = [_word(number) for number in range(_TERMS)]
        shares = np.arange(1, _TERMS + 1, dtype=np.float64) ** -exponent
        self._ends = np.cumsum(shares / shares.sum())
        rng = np.random.default_rng([seed, 0])
        lengths = rng.integers(2, 7, queries)
        terms = self._draw(rng, lengths, self._ends[frequent - 1] if frequent else 0.0)
        self.queries = Queries([" ".join(query) for query in terms], terms, [{} for _ in terms])

    def __len__(self) -> int:
        return self._documents

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, self._documents, CHUNK):
            rng = np.random.default_rng([self._seed, 1 + first // CHUNK])
            lengths = np.maximum(1, np.rint(rng.gamma(_SHAPE, _MEAN / _SHAPE, CHUNK))).astype(np.int64)
            terms = self._draw(rng, lengths)[: self._documents - first]
            yield Chunk(first, [" ".join(document) for document in terms], terms)

    def _draw(self, rng: np.random.Generator, lengths: np.ndarray, least: float = 0.0) -> list[list[str]]:
        """Return lists of words of these lengths. `least`: the share of the most frequent terms that are left out."""
        points = least + (1 - least) * rng.random(int(lengths.sum()))
        numbers = np.minimum(np.searchsorted(self._ends, points, side="right"), _TERMS - 1).tolist()
        words = self._words
        return [[words[number] for number in numbers[a:b]] for a, b in pairwise([0, *np.cumsum(lengths).tolist()])]


def load(given: str, stop_words: str | None = "english") -> Collection:
    """Return the collection of a folder, or of a name below LLMDS_DATA.

    A folder has corpus.jsonl.gz, and queries.jsonl.gz with qrels.tsv if it has queries.
    """
    folder = harness.data_folder(given, Path(given) if Path(given).is_dir() else None)
    name, corpus = folder.resolve().name, _lines(folder / "corpus.jsonl.gz")
    tokenizer = Tokenizer(stop_words=stop_words)
    texts = [f"{line['title']}\n{line['text']}" if name in _WITH_TITLE else line["text"] for line in corpus]
    if not (folder / "queries.jsonl.gz").exists():
        return Read(name, texts, made_queries([line["title"] for line in corpus], texts), None, tokenizer)
    queries = _lines(folder / "queries.jsonl.gz")
    grades = _judgements(folder / "qrels.tsv", corpus, queries)
    return Read(name, texts, [line["text"] for line in queries], grades, tokenizer)


def made_queries(titles: Sequence[str], texts: Sequence[str], count: int = _MADE_QUERIES, seed: int = 1) -> list[str]:
    """Return queries of two words or more for documents without queries: see the module."""
    rng, tokenizer = np.random.default_rng(seed), Tokenizer(stop_words="english")
    made: list[str] = []
    for row in rng.integers(len(texts), size=20 * count).tolist():
        of_title = len(made) % 2 == 0
        words = [word for word in tokenizer.tokenize((titles if of_title else texts)[row]) if word != "re"]
        if not of_title:
            length = int(rng.integers(2, 7))
            start = int(rng.integers(max(1, len(words) - length + 1)))
            words = words[start : start + length]
        if len(words) > 1:
            made.append(" ".join(words))
        if len(made) == count:
            break
    return made


def cut(tokenizer: Tokenizer, texts: list[str]) -> list[list[str]]:
    """Return the terms of every text."""
    terms = tokenizer.terms(texts)
    strings, ends = terms.strings(), [0, *terms.ends.tolist()]
    return [strings[start:stop] for start, stop in pairwise(ends)]


def _word(number: int) -> str:
    word, number = _DIGITS[number % 20], number // 20
    while number:
        word, number = word + _DIGITS[(number - 1) % 20], (number - 1) // 20
    return word


def _judgements(path: Path, corpus: list[dict], queries: list[dict]) -> list[dict[int, float]]:
    rows = {line["_id"]: row for row, line in enumerate(corpus)}
    grades: dict[str, dict[int, float]] = {line["_id"]: {} for line in queries}
    for line in path.read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if float(grade) > 0:
            grades[query][rows[document]] = float(grade)
    return list(grades.values())


def _lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
