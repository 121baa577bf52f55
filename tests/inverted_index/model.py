"""What an inverted index is compared with: the formulas of BM25 in float64, over counts of terms."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from llmds.inverted_index import index as module
from llmds.inverted_index import search as searching
from llmds.inverted_index import write as writer
from llmds.inverted_index.index import InvertedIndex

DELTAS = {"bm25+": 1.0, "bm25l": 0.5}
METHODS = ["lucene", "robertson", "atire", "bm25+", "bm25l"]
QUERIES = [
    "w1",
    "w1 w2 w3",
    "w7 w7 w400 w3",
    "nothing",
    "",
    "w90 w91 w92 w93",
    "w1 " * 300 + "w2",
    " ".join(f"w{i}" for i in range(500)),
]


def weight(method, n, df, k1):
    """What a term weighs that df of n documents hold; numbers or arrays."""
    if method in ("lucene", "robertson"):
        odds = (n - df + 0.5) / (df + 0.5)
        return np.log1p(odds) if method == "lucene" else np.log(np.maximum(odds, 1))
    if method == "atire":
        return (k1 + 1) * np.log(n / df)
    return (k1 + 1) * np.log((n + 1) / (df if method == "bm25+" else df + 0.5))


def part(method, tf, norm, k1, delta):
    """What tf occurrences add to what weighs 1, where tf > 0; else 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if method == "bm25l":
            found = (tf / norm + delta) / (k1 + tf / norm + delta)
        else:
            found = tf / (tf + k1 * norm) + (delta / (k1 + 1) if method == "bm25+" else 0)
    return np.where(tf > 0, found, 0.0)


class Model:
    """Documents as counts of terms; every score from the formula, every time."""

    def __init__(self, k1=1.2, b=0.75, method="lucene", delta=None):
        self.k1, self.b, self.method, self.documents = k1, b, method, {}
        self.delta = DELTAS.get(method, 0.0) if delta is None else delta

    def df(self, term):
        return sum(term in counts for counts in self.documents.values())

    def score(self, query, doc_id, weights=None):
        counts, n = self.documents[doc_id], len(self.documents)
        average = sum(map(Counter.total, self.documents.values())) / n
        total = 0.0
        for term, repeats in Counter(query.split()).items():
            if term in counts:
                norm = 1 - self.b + self.b * counts.total() / average
                idf = float(weight(self.method, n, self.df(term), self.k1)) * (weights or {}).get(term, 1.0)
                total += repeats * idf * float(part(self.method, counts[term], norm, self.k1, self.delta))
        return total

    def search(self, query, weights=None):
        """All (id, score) for a query, best first, ties by smaller id."""
        scores = {doc_id: self.score(query, doc_id, weights) for doc_id in self.documents}
        return sorted(((d, s) for d, s in scores.items() if s > 0), key=lambda item: (-item[1], item[0]))


def agrees(found, expected, k):
    """The same documents in the same order, but for scores closer than 1e-5; each with its score."""
    assert len(found) == min(k, len(expected))
    scores = dict(expected)
    for (doc_id, score), (_, wanted) in zip(found, expected, strict=False):
        assert score == pytest.approx(scores[doc_id], rel=1e-5)
        assert scores[doc_id] == pytest.approx(wanted, rel=1e-5), "rank"
    for (left, left_score), (right, right_score) in pairwise(found):
        assert left_score > right_score or (left_score == right_score and left < right)


def filled(n=300, seed=3, **given):
    """An index and its model of n documents over Zipf-like words, ids in no order; a few are removed or replaced."""
    chance = np.random.default_rng(seed)
    index, model = InvertedIndex(**given), Model(**given)
    doc_ids = chance.permutation(10 * n)[:n]
    docs = [[f"w{word}" for word in chance.zipf(1.3, chance.integers(1, 60)) if word < 500] for _ in range(n)]
    index.add_documents(doc_ids, [" ".join(doc) for doc in docs])
    model.documents = {int(doc_id): Counter(doc) for doc_id, doc in zip(doc_ids, docs, strict=True)}
    for doc_id in doc_ids[:20].tolist():
        index.remove_document(doc_id)
        del model.documents[doc_id]
    for doc_id in doc_ids[20:30].tolist():
        index.add_document(doc_id, "w1 w2 w2")
        model.documents[doc_id] = Counter(["w1", "w2", "w2"])
    return index, model


def tails_of(monkeypatch, postings):
    """Make segments of tails that have so few postings."""
    monkeypatch.setattr(module, "SINGLE", postings)
    monkeypatch.setattr(module, "BULK", postings)


class Small:
    """Tails of a few postings, merges that take their time, sweeping after a few removals; until `undo`."""

    def __init__(self, tails=12, share=1, sweep=3, large=1):
        self.patch = pytest.MonkeyPatch()
        tails_of(self.patch, tails)
        self.patch.setattr(writer, "_SHARE", share)
        self.patch.setattr(writer, "_SWEEP", sweep)
        self.patch.setattr(searching, "_LARGE", large)

    def undo(self):
        self.patch.undo()


def fresh(documents, order=sorted, **given):
    """An index of {id: text} made at once."""
    index = InvertedIndex(**given)
    doc_ids = list(order(documents))
    index.add_documents(np.array(doc_ids, np.int64), [documents[doc_id] for doc_id in doc_ids])
    return index


def same_rankings(index, other, queries, k=50):
    for mine, theirs in zip(index.search_batch(queries, k), other.search_batch(queries, k), strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Collection:
    """Documents as a matrix of counts: ids int64 (n,), counts (n, words); word i is "w<i>"."""

    def __init__(self, ids, counts):
        self.ids, self.counts = np.asarray(ids, np.int64), np.asarray(counts)
        self.lengths = self.counts.sum(1)

    def texts(self):
        words = np.array([f"w{i} " for i in range(self.counts.shape[1])], object)
        return ["".join((words[row > 0] * row[row > 0]).tolist()) for row in self.counts]

    def only(self, keep):
        return Collection(self.ids[keep], self.counts[keep])

    def scores(self, query, method="lucene", k1=1.2, b=0.75):
        """float64 (n,) by the formula; query: numbers of words, repeated ones counted."""
        n, total = len(self.ids), np.zeros(len(self.ids))
        average = self.lengths.sum() / n
        norm = 1 - b + b * self.lengths / average
        for word, repeats in Counter(query).items():
            tf = self.counts[:, word]
            if df := np.count_nonzero(tf):
                share = part(method, tf, norm, k1, DELTAS.get(method, 0.0))
                total += repeats * weight(method, n, df, k1) * share
        return total


def text_of(query):
    """A query of numbers of words as text."""
    return " ".join(f"w{word}" for word in query)


def ranked(ids, scores):
    """Ids and scores above 0, best first, ties by smaller id."""
    order = np.lexsort((ids, -scores))
    order = order[scores[order] > 0]
    return ids[order], scores[order]


def given_documents_are_scored(index, texts, doc_ids, allowed):
    """A search returns the scores of documents given to it, bit for bit, in a batch and one at a time."""
    given, k = np.tile(doc_ids, (len(texts), 1)), len(doc_ids)
    expected = index.score_many(texts, given)
    ids, best_scores, scores = index.search_and_score(texts, k, given, filter=allowed, threads=1)
    np.testing.assert_array_equal(scores, expected)
    for row, text in enumerate(texts):
        one = index.search_and_score([text], k, given[:1], filter=allowed)
        for mine, of_batch in zip(one, (ids, best_scores, scores), strict=True):
            np.testing.assert_array_equal(mine[0], of_batch[row])


def top_k_is_exact(index, collection, queries, ks=(1, 10, 100), allowed=None, **model):
    """Every way to search gives the first k of all documents sorted by their scores, bit for bit; scores are right.

    allowed: ids that a filter lets through.
    """
    n = len(collection.ids)
    texts = [text_of(query) for query in queries]
    scores = index.score_many(texts, np.tile(collection.ids, (len(texts), 1)))
    keep = np.ones(n, bool) if allowed is None else np.isin(collection.ids, allowed)
    expected = [ranked(collection.ids[keep], row[keep]) for row in scores]
    for query, row in zip(queries, scores, strict=True):
        np.testing.assert_allclose(row, collection.scores(query, **model), rtol=1e-5)
    some = np.append(np.random.default_rng(n).permutation(collection.ids)[:200], -1)
    given_documents_are_scored(index, texts, some, allowed)
    for k in (*ks, n):
        singles = [index.search(text, k, filter=allowed) for text in texts]
        for found, (ids, wanted) in zip(singles, expected, strict=True):
            assert [doc_id for doc_id, _ in found] == ids[:k].tolist()
            assert [score for _, score in found] == wanted[:k].tolist()
        many = texts * math.ceil(70 / len(texts)) if k < 1000 else texts
        for threads in (1, 2):
            found_ids, found_scores = index.search_batch(many, k, filter=allowed, threads=threads)
            for i, (row, row_scores) in enumerate(zip(found_ids, found_scores, strict=True)):
                ids, wanted = expected[i % len(texts)]
                m = min(k, len(ids))
                assert row[:m].tolist() == ids[:m].tolist() and (row[m:] == -1).all()
                assert row_scores[:m].tolist() == wanted[:m].tolist() and (row_scores[m:] == -np.inf).all()
