"""The index beside a dict of term counts and the formula of BM25 in float64."""

import gzip
import json
import math
import threading
from collections import Counter
from itertools import pairwise

import face
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds import inverted_index as module
from llmds.inverted_index import InvertedIndex
from llmds.kernels import tail, tail_check, tail_write, tokens
from llmds.tokenizer import Tokenizer

words = st.sampled_from([*"abcdefg", "it's", "é"])
texts = st.lists(words, max_size=8).map(" ".join) | st.sampled_from(["", "a a a a", "b " * 40, "?!"])
ids = st.integers(0, 12) | st.sampled_from([2**63 - 1, 2**40])


class Model:
    """Documents as counts of terms; every score from the formula, every time."""

    def __init__(self, k1=1.2, b=0.75):
        self.k1, self.b, self.documents = k1, b, {}

    def df(self, term):
        return sum(term in counts for counts in self.documents.values())

    def score(self, query, doc_id):
        counts, n = self.documents[doc_id], len(self.documents)
        average = sum(map(Counter.total, self.documents.values())) / n
        total = 0.0
        for term, weight in Counter(query.split()).items():
            if term in counts:
                idf = math.log(1 + (n - self.df(term) + 0.5) / (self.df(term) + 0.5))
                norm = self.k1 * (1 - self.b + self.b * counts.total() / average)
                total += weight * idf * counts[term] / (counts[term] + norm)
        return total

    def search(self, query):
        """All (id, score) for a query, best first, ties by smaller id."""
        scores = {doc_id: self.score(query, doc_id) for doc_id in self.documents}
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


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does."""

    @initialize(k1=st.sampled_from([0.0, 1.2, 5.0]), b=st.sampled_from([0.0, 0.75, 1.0]))
    def start(self, k1, b):
        self.index, self.model = InvertedIndex(k1=k1, b=b), Model(k1, b)

    @rule(doc_id=ids, text=texts)
    def add(self, doc_id, text):
        self.index.add_document(doc_id, text)
        self.model.documents[doc_id] = Counter(text.replace("?!", "").split())

    @rule(items=st.lists(st.tuples(ids, texts), max_size=20))
    def add_many(self, items):
        self.index.add_documents([doc_id for doc_id, _ in items], [text for _, text in items])
        for doc_id, text in items:
            self.model.documents[doc_id] = Counter(text.replace("?!", "").split())

    @rule(doc_id=ids)
    def remove(self, doc_id):
        if doc_id in self.model.documents:
            self.index.remove_document(doc_id)
            del self.model.documents[doc_id]
        else:
            with pytest.raises(KeyError):
                self.index.remove_document(doc_id)

    @rule(query=texts, k=st.integers(0, 20))
    def search(self, query, k):
        agrees(self.index.search(query, k), self.model.search(query.replace("?!", "")), k)

    @rule()
    def shrink(self):
        self.index.shrink_to_fit()

    @rule(n=st.integers(0, 40))
    def reserve(self, n):
        self.index.reserve(n)

    @rule(term=words, doc_id=ids)
    def frequencies(self, term, doc_id):
        assert self.index.get_document_frequency(term) == self.model.df(term)
        assert self.index.get_term_frequency(term, doc_id) == self.model.documents.get(doc_id, Counter())[term]

    @invariant()
    def agree(self):
        if not hasattr(self, "index"):
            return
        self.index.check()
        documents = self.model.documents
        stats = self.index.stats()
        assert len(self.index) == stats["total_documents"] == len(documents)
        assert stats["total_terms"] == len(set().union(*documents.values()))
        assert stats["total_postings"] == sum(map(len, documents.values()))
        mean = sum(map(Counter.total, documents.values())) / max(len(documents), 1)
        assert stats["avg_doc_length"] == pytest.approx(mean)
        for doc_id in (0, 5, 2**40):
            assert (doc_id in self.index) == (doc_id in documents)


TestBesideModel = BesideModel.TestCase
TestBesideModel.settings = settings(max_examples=25, stateful_step_count=25)


def filled(n=300, seed=3, **given):
    """An index and its model of n documents over Zipf-like words, ids in no order; a few are removed or replaced."""
    chance = np.random.default_rng(seed)
    index, model = InvertedIndex(**given), Model(given.get("k1", 1.2), given.get("b", 0.75))
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


@pytest.mark.parametrize("options", [{}, {"k1": 0.0}, {"k1": 2.0, "b": 0.0}, {"b": 1.0}])
def test_rankings_are_those_of_the_formula(options):
    index, model = filled(**options)
    for query in QUERIES:
        expected = model.search(query)
        for k in (1, 10, 1000):
            agrees(index.search(query, k), expected, k)


def test_bulk_search_gives_what_single_searches_give():
    index, _ = filled()
    queries = QUERIES * 40
    for threads in (1, 2, None):
        doc_ids, scores = index.search_batch(queries, 7, threads=threads)
        assert (
            doc_ids.dtype == np.int64
            and scores.dtype == np.float32
            and doc_ids.shape == scores.shape == (len(queries), 7)
        )
        for query, row, row_scores in zip(queries, doc_ids, scores, strict=True):
            single = index.search(query, 7)
            assert list(zip(row.tolist(), row_scores.tolist(), strict=True))[: len(single)] == single
            assert (row[len(single) :] == -1).all() and (row_scores[len(single) :] == -np.inf).all()


def test_given_documents_get_the_scores_of_the_search():
    index, model = filled()
    asked = [*model.documents, 7_000_000, -1, next(iter(model.documents))]
    scores = index.score_many(QUERIES, [asked] * len(QUERIES))
    assert scores.dtype == np.float32
    for query, row in zip(QUERIES, scores, strict=True):
        ranked = dict(index.search(query, 1000))
        assert row.tolist() == [ranked.get(doc_id, 0.0) for doc_id in asked]
    assert index.score_many(["w1"], np.empty((1, 0), int)).shape == (1, 0)
    assert index.score_many([], np.empty((0, 3), int)).shape == (0, 3)
    assert index.contains_many(asked).tolist() == [doc_id in index for doc_id in asked]


def test_scores_are_the_same_before_and_after_shares_are_worked_out():
    index, _ = filled()
    fresh = InvertedIndex()
    fresh.__setstate__(index.__getstate__())
    first = fresh.search_batch(QUERIES, 20)
    for _ in range(300):
        last = fresh.search_batch(QUERIES, 20, threads=1)
    assert fresh._shares[0] is fresh._view.seen and len(fresh._shares[1]), "nothing was worked out"
    np.testing.assert_array_equal(first, last)
    fresh.add_document(1, "w1")
    agrees(fresh.search("w1", 5), sorted(fresh.search("w1", 500), key=lambda item: (-item[1], item[0])), 5)


@given(st.lists(texts, min_size=1, max_size=12), st.randoms(), st.lists(words, max_size=6))
@settings(max_examples=50)
def test_scores_do_not_depend_on_any_order(many, chance, query):
    order, shuffled = list(range(len(many))), list(query)
    chance.shuffle(order), chance.shuffle(shuffled)
    left, right = InvertedIndex(), InvertedIndex()
    left.add_documents(range(len(many)), many)
    right.add_documents(order, [many[i] for i in order])
    assert left.search(" ".join(query), 99) == right.search(" ".join(shuffled), 99)


def test_equal_documents_tie_wherever_they_stand():
    index, n = InvertedIndex(), 700
    doc_ids = np.random.default_rng(1).permutation(n)
    index.add_documents(doc_ids, ["x y z y" if i % 3 else "filler" for i in range(n)])
    expected = sorted(doc_ids[np.arange(n) % 3 > 0].tolist())
    for k in (1, 10, n):
        found = index.search("z y x", k)
        assert [doc_id for doc_id, _ in found] == expected[:k] and len({score for _, score in found}) == 1


def test_frequencies_are_not_clipped():
    index = InvertedIndex()
    index.add_document(1, "a " * 70_000)
    index.add_documents([2, 3], ["a b", "a a b"])
    assert index.get_term_frequency("a", 1) == 70_000 and index.get_document_frequency("A") == 3
    assert (
        index.get_term_frequency("b", 1) == index.get_term_frequency("zz", 1) == index.get_term_frequency("a", 9) == 0
    )
    model = Model()
    model.documents = {1: Counter({"a": 70_000}), 2: Counter("ab"), 3: Counter("aab")}
    agrees(index.search("a b"), model.search("a b"), 10)


def test_frequencies_pass_through_the_same_analysis():
    index = InvertedIndex(stop_words=["the"], stemmer=lambda term: term.rstrip("s"))
    index.add_document(4, "The Heaps, the heap")
    assert index.get_term_frequency("HEAPS", 4) == 2 and index.get_document_frequency("heap") == 1
    assert index.get_term_frequency("the", 4) == index.get_document_frequency("...") == 0
    with pytest.raises(ValueError, match="one term"):
        index.get_document_frequency("two words")


@pytest.mark.parametrize("tokenizer", [str.split, Tokenizer(split=str.split)])
def test_a_tokenizer_of_ones_own_cuts_documents_and_queries(tokenizer):
    index = InvertedIndex(tokenizer)
    index.add_documents([1, 2], ["C++ A-b", "c++ a-B c++"])
    assert [doc_id for doc_id, _ in index.search("C++")] == [1]
    assert index.get_term_frequency("c++", 2) == 2 and index.stats()["avg_doc_length"] == 2.5


def refused(index):
    return [
        (lambda: index.add_document(-1, "a"), ValueError),
        (lambda: index.add_document(2**63, "a"), ValueError),
        (lambda: index.add_document(True, "a"), TypeError),
        (lambda: index.add_document(1.0, "a"), TypeError),
        (lambda: index.add_document(5, None), TypeError),
        (lambda: index.add_documents([5, 6], ["a"]), ValueError),
        (lambda: index.add_documents([5, -6], ["a", "b"]), ValueError),
        (lambda: index.add_documents([5, 6], ["a", None]), TypeError),
        (lambda: index.add_documents([5], "a"), TypeError),
        (lambda: index.add_documents([5], (text for text in "a")), TypeError),
        (lambda: index.add_documents([5.0], ["a"]), TypeError),
        (lambda: index.add_documents([5], ["a"], progress="yes"), TypeError),
        (lambda: index.remove_document(77), KeyError),
        (lambda: index.remove_document(-1), ValueError),
        (lambda: index.search("a", -1), ValueError),
        (lambda: index.search("a", 1.0), TypeError),
        (lambda: index.search(b"a"), TypeError),
        (lambda: index.search_batch("a"), TypeError),
        (lambda: index.search_batch(["a", 1]), TypeError),
        (lambda: index.search_batch(["a"], threads=0), ValueError),
        (lambda: index.score_many("a", [[1]]), TypeError),
        (lambda: index.score_many(["a"], [1]), ValueError),
        (lambda: index.score_many(["a"], [[1], [2]]), ValueError),
        (lambda: index.score_many(["a"], [[0.5]]), TypeError),
        (lambda: index.get_term_frequency("a b", 1), ValueError),
        (lambda: index.get_term_frequency("a", "1"), TypeError),
        (lambda: index.get_document_frequency(1), TypeError),
        (lambda: index.reserve(-1), ValueError),
        (lambda: index.reserve(2**31), ValueError),
        (lambda: InvertedIndex(k1=-1), ValueError),
        (lambda: InvertedIndex(k1=math.nan), ValueError),
        (lambda: InvertedIndex(b=1.5), ValueError),
        (lambda: InvertedIndex(tokenizer=3), TypeError),
        (lambda: InvertedIndex(Tokenizer(), stop_words="english"), ValueError),
    ]


@pytest.mark.parametrize("number", range(len(refused(None))))
def test_a_refused_call_changes_nothing(number):
    index = InvertedIndex()
    index.add_documents([1, 2], ["a b", "b c"])
    before = index._to_arrays()
    call, error = refused(index)[number]
    with pytest.raises(error):
        call()
    index.check()
    for name, array in index._to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_nothing_is_fine():
    index = InvertedIndex()
    assert index.search("a") == [] and len(index) == 0 and 1 not in index and "a" not in index and True not in index
    assert index.search_batch(["a", "b"], 3)[0].tolist() == [[-1] * 3] * 2
    assert index.search_batch([], 3)[0].shape == (0, 3) and index.search_batch(["a"], 0)[1].shape == (1, 0)
    index.add_documents([], []), index.shrink_to_fit(), index.check()
    assert index.score_many(["a"], [[1]]).tolist() == [[0.0]] and set(index.stats().values()) == {0}
    index.add_documents(np.array([3, 4]), np.array(["", " "]))
    assert len(index) == 2 and index.search("a") == [] and index.stats()["avg_doc_length"] == 0
    index.add_document(5, "a")
    assert [doc_id for doc_id, _ in index.search("a")] == [5]
    index.remove_document(5)
    assert index.search("a") == [] and index.get_document_frequency("a") == 0


def test_a_failing_tokenizer_leaves_a_whole_prefix(monkeypatch):
    def tokenizer(text):
        if text == "bad":
            raise RuntimeError("bad")
        return text.split()

    monkeypatch.setattr(module, "_CHARACTERS", 8)
    index = InvertedIndex(tokenizer)
    with pytest.raises(RuntimeError):
        index.add_documents(range(40), ["one two"] * 30 + ["bad"] + ["x"] * 9)
    index.check()
    done = len(index)
    assert 20 <= done <= 30 and sorted(doc_id for doc_id, _ in index.search("one", 99)) == list(range(done))


def test_an_interrupted_bulk_call_leaves_a_whole_prefix(monkeypatch):
    add, calls = tail_write.add, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return add(*given)

    monkeypatch.setattr(tail_write, "add", interrupted)
    index = InvertedIndex()
    with pytest.raises(KeyboardInterrupt):
        index.add_documents(range(5000), [f"word{i} common" for i in range(5000)])
    index.check()
    done = len(index)
    assert 0 < done < 5000 and index.get_document_frequency("common") == done and done - 1 in index
    index.add_documents(range(5000), [f"word{i} common" for i in range(5000)])
    index.check()
    assert len(index) == 5000 and index.search("word4999")[0][0] == 4999


@pytest.mark.parametrize("turn", range(1, 7))
def test_an_interruption_between_any_two_kernels_breaks_nothing(turn, monkeypatch):
    index, calls = InvertedIndex(), []
    index.add_documents(range(60), [f"common w{i}" for i in range(60)])

    def interrupting(kernel):
        def call(*given):
            result = kernel(*given)
            calls.append(1)
            if len(calls) == turn:
                raise KeyboardInterrupt
            return result

        return call

    for home, name in ((tokens, "intern"), (tail_write, "add"), (tail_write, "insert_ids")):
        monkeypatch.setattr(home, name, interrupting(getattr(home, name)))
    with pytest.raises(KeyboardInterrupt):
        index.add_documents(range(30, 300), [f"common v{i}" for i in range(270)])
    monkeypatch.undo()
    index.check()
    done = [i for i in range(270) if index.get_document_frequency(f"v{i}")]
    assert done == list(range(len(done))) and len(index) == 60 + max(len(done) - 30, 0)
    index.add_documents(range(30, 300), [f"common u{i}" for i in range(270)])
    index.check()
    index.shrink_to_fit()
    index.check()
    assert index.get_document_frequency("common") == len(index) == 300 and index.get_document_frequency("v3") == 0


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr(module, "_CHARACTERS", 10)
    told = []
    InvertedIndex().add_documents(range(9), ["four"] * 9, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


def test_removed_documents_are_swept_out():
    index = InvertedIndex()
    sizes = []
    for turn in range(40):
        index.add_documents(range(100), [f"turn{turn} common {i}" for i in range(100)])
        sizes.append(index.nbytes)
        index.check()
    assert max(sizes) < 4 * sizes[0] and len(index) == 100
    assert index.get_document_frequency("turn0") == 0 and index.get_document_frequency("turn39") == 100


def test_memory_is_what_the_arrays_hold():
    index, _ = filled(2000)
    index.search_batch(QUERIES * 300, 10)
    loose = index.nbytes
    index.shrink_to_fit()
    assert index.nbytes == sum(array.nbytes for array in [*index._view[:-1], *index._view.vocabulary]) < loose
    assert index.stats()["bytes_per_posting"] == index.nbytes / index.stats()["total_postings"] < 24
    index.check()


def test_a_reader_goes_on_seeing_the_documents_of_its_moment():
    index, _ = filled()
    reader = InvertedIndex()
    reader._view = index._view
    before = reader.search_batch(QUERIES, 400)
    index.add_documents(range(5000, 9000), [f"w1 w2 w400 new{i} w{i % 50}" for i in range(4000)])
    after = reader.search_batch([*QUERIES, "new7"], 400)
    np.testing.assert_array_equal(before, [rows[:-1] for rows in after])
    assert (after[0][-1] == -1).all() and 5000 not in reader and 5000 in index
    for doc_id in before[0][0][:50].tolist():
        index.remove_document(doc_id)
    index.shrink_to_fit()
    index.add_documents(range(300), ["w1"] * 300)
    for row, row_before in zip(reader.search_batch(QUERIES, 400)[0], before[0], strict=True):
        assert set(row.tolist()) == set(row_before.tolist())


def test_readers_beside_a_writer_see_whole_documents():
    """Every document is one word, its id, and `all`; a result that pairs an id with another's score would show."""
    index, stop, failures = InvertedIndex(), threading.Event(), []
    index.add_documents(range(200), [f"all n{i}" for i in range(200)])

    def read():
        while not stop.is_set():
            doc_ids, scores = index.search_batch([f"n{i}" for i in range(0, 400, 3)] + ["all"], 300, threads=1)
            for i, row in zip(range(0, 400, 3), doc_ids, strict=False):
                if row[0] not in (-1, i) or row[1] != -1:
                    failures.append((i, row[:3]))
            everything = doc_ids[-1][doc_ids[-1] >= 0]
            if len(set(everything.tolist())) != len(everything) or len(set(scores[-1][: len(everything)].tolist())) > 1:
                failures.append("a document twice, or unequal scores of equal documents")
            if not set(range(100)) <= set(everything.tolist()):
                failures.append("a document was missing that was always there")

    readers = [threading.Thread(target=read) for _ in range(3)]
    [reader.start() for reader in readers]
    for turn in range(60):
        index.add_documents(range(100), [f"all n{i}" for i in range(100)])  # replaced by itself
        index.add_documents(range(200, 400), [f"all n{i}" for i in range(200, 400)])
        for i in range(200 + turn % 7, 400, 7):
            index.remove_document(i)
        if turn % 10 == 0:
            index.shrink_to_fit()
    stop.set()
    [reader.join() for reader in readers]
    assert failures == []
    index.check()


def test_two_writers_take_turns():
    index = InvertedIndex()

    def write(base):
        for i in range(base, base + 200):
            index.add_document(i, f"n{i} all")
            if i % 3 == 0:
                index.remove_document(i)

    writers = [threading.Thread(target=write, args=(base,)) for base in (0, 1000, 2000)]
    [writer.start() for writer in writers], [writer.join() for writer in writers]
    index.check()
    expected = {i for base in (0, 1000, 2000) for i in range(base, base + 200) if i % 3}
    assert {doc_id for doc_id, _ in index.search("all", 9999)} == expected


def test_every_type_shares_one_compilation():
    index = InvertedIndex(stop_words=["w"])
    index.add_document(np.int32(1), "a"), index.add_documents(np.array([2, 3], np.uint8)[::-1], ("b é", "c"))
    index.search("a b"), index.search_batch(np.array(["a", "b"]), np.int64(2)), index.score_many(["a"], [[1]])
    index.remove_document(np.uint16(1)), index.shrink_to_fit(), index.search("b"), index.check()
    for _ in range(30):
        index.search_batch(["b c"] * 200, threads=2)
    for kernel in (tail.search, tail.score_many, tail.share_all, tail.find_slots, tail.frequency,
                   tail.document_frequency,
                   tail_write.add, tail_write.remove, tail_write.insert_ids, tail_write.copy_postings,
                   tail_check.first_fault):  # fmt: skip
        assert len(kernel.signatures) == 1, (kernel, kernel.signatures)


def upper(term):
    return term.upper()


def test_files_and_pickles_keep_everything(tmp_path):
    index, model = filled()
    for other in face.keeps_everything(index, tmp_path):
        assert {**other.stats(), "bytes_per_posting": 0} == {**index.stats(), "bytes_per_posting": 0}
        np.testing.assert_array_equal(index.search_batch(QUERIES, 9), other.search_batch(QUERIES, 9))
        other.add_document(9, "w1 w1 new")
        other.remove_document(next(iter(model.documents)))
        other.check()
        assert other.search("new")[0][0] == 9
    empty = InvertedIndex(k1=0.5, b=0.25)
    for other in face.keeps_everything(empty, tmp_path):
        assert repr(other) == repr(empty) and "k1=0.5" in repr(other)
        other.add_document(1, "a")


def test_a_file_is_read_with_the_analysis_that_made_it(tmp_path):
    path = tmp_path / "index.npz"
    index = InvertedIndex(stop_words="english", stemmer=upper)
    index.add_document(1, "the word")
    index.save(path)
    for same in (
        dict(stop_words="english", stemmer=upper),
        dict(tokenizer=Tokenizer(stop_words="english", stemmer=upper)),
    ):
        assert InvertedIndex.load(path, **same).search("THE wOrd") == index.search("word")
    for other in (
        dict(),
        dict(stop_words="english"),
        dict(stop_words=["the"], stemmer=upper),
        dict(tokenizer=str.split),
    ):
        with pytest.raises(ValueError, match="another analysis"):
            InvertedIndex.load(path, **other)


def test_no_damaged_file_passes_or_crashes(tmp_path):
    index, _ = filled(40)
    index.shrink_to_fit()
    face.survives_damage(index, tmp_path, rounds=600)
    face.refuses_other_files(InvertedIndex, tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_check_finds_what_is_broken(seed):
    """What is in use is vouched for elsewhere (but for ids, and room to spare)."""
    index, _ = filled(40)
    chance = np.random.default_rng(seed)
    view = index._view
    head, live = view.head, np.flatnonzero(view.removed[: view.head[tail.SLOTS]] == tail.NEVER)
    firsts = view.terms[view.terms[:, tail.FIRST] > 0, tail.FIRST]
    vouched = {
        "head": range(tail.HEAD), "lengths": live, "removed": live,
        "forward_starts": range(head[tail.SLOTS]), "forward": range(head[tail.FORWARD]),
        "slots": np.concatenate([firsts, firsts - 1]), "tfs": firsts,
        "terms": np.flatnonzero(np.arange(view.vocabulary.terms * tail.COLUMNS) % tail.COLUMNS != tail.AT),
    }  # fmt: skip
    for name, places in vouched.items():
        array = getattr(view, name).reshape(-1)
        for place in chance.choice(places, 8):
            old = int(array[place])
            array[place] = chance.choice([max(old - 7, 0), 0, 1, 1000] if old else [1, 7, 1000])
            if array[place] != old:
                with pytest.raises(AssertionError):
                    index.check()
            array[place] = old
    index.check()


def read_lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_real_queries_find_what_was_judged_relevant(data):
    """Known-item search over 45,705 passages: hit@10 and MRR@10 reach the reference figures of plain BM25."""
    documents = [line["text"] for line in read_lines(data / "cppdocs" / "corpus.jsonl.gz")]
    queries = [line["text"] for line in read_lines(data / "cppdocs" / "queries.jsonl.gz")]
    relevant = np.loadtxt(data / "cppdocs" / "qrels.tsv", str, delimiter="\t", skiprows=1)[:, 1].astype(np.int64)
    index = InvertedIndex(stop_words="english")
    index.add_documents(np.arange(len(documents)), documents)
    found = index.search_batch(queries, 10)[0] == relevant[:, None]
    assert found.any(1).mean() >= 0.655
    assert np.where(found.any(1), 1 / (1 + found.argmax(1)), 0).mean() >= 0.389
