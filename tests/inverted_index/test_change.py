"""Documents come and go: whatever the order, the index ranks as one that was made at once."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds.inverted_index import index as module
from llmds.inverted_index import write as writer
from llmds.inverted_index.index import InvertedIndex
from llmds.kernels.inverted_index import segment as segments
from llmds.kernels.inverted_index import tail
from tests.inverted_index.model import QUERIES, Model, Small, agrees, filled, fresh, same_rankings, tails_of

words = st.sampled_from([*"abcdefg", "it's", "é"])
texts = st.lists(words, max_size=8).map(" ".join) | st.sampled_from(["", "a a a a", "b " * 40, "?!"])
ids = st.integers(0, 30) | st.sampled_from([2**63 - 1, 2**40])
QUERY = ["a", "b c", "a a d it's", "é e f g", "a b c d e f g é it's"]


@pytest.fixture
def small():
    made = Small()
    yield made
    made.undo()


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does, and to the bit as a fresh index."""

    @initialize(
        k1=st.sampled_from([0.0, 1.2, 5.0]),
        b=st.sampled_from([0.0, 0.75, 1.0]),
        tails=st.sampled_from([1, 12, 60, 10_000]),
        share=st.sampled_from([0, 1, 1000]),
        sweep=st.sampled_from([0, 3, 1000]),
        large=st.sampled_from([1, 1 << 12]),
    )
    def start(self, k1, b, tails, share, sweep, large):
        self.small, self.given = Small(tails, share, sweep, large), {"k1": k1, "b": b}
        self.index, self.model, self.texts = InvertedIndex(**self.given), Model(k1, b), {}

    def teardown(self):
        if hasattr(self, "small"):
            self.small.undo()

    def put(self, doc_id, text):
        self.texts[doc_id] = text
        self.model.documents[doc_id] = Counter(text.replace("?!", "").split())

    @rule(doc_id=ids, text=texts)
    def add(self, doc_id, text):
        self.index.add_document(doc_id, text)
        self.put(doc_id, text)

    @rule(items=st.lists(st.tuples(ids, texts), max_size=20))
    def add_many(self, items):
        self.index.add_documents([doc_id for doc_id, _ in items], [text for _, text in items])
        for doc_id, text in items:
            self.put(doc_id, text)

    @rule(doc_id=ids)
    def remove(self, doc_id):
        if doc_id in self.model.documents:
            self.index.remove_document(doc_id)
            del self.model.documents[doc_id], self.texts[doc_id]
        else:
            with pytest.raises(KeyError):
                self.index.remove_document(doc_id)

    @rule(chance=st.randoms(use_true_random=False))
    def remove_most(self, chance):
        for doc_id in list(self.model.documents):
            if chance.random() < 0.8:
                self.remove(doc_id)

    @rule(query=texts, k=st.integers(0, 40))
    def search(self, query, k):
        agrees(self.index.search(query, k), self.model.search(query.replace("?!", "")), k)

    @rule(query=texts, k=st.integers(0, 40), allowed=st.lists(ids))
    def search_among(self, query, k, allowed):
        expected = [item for item in self.model.search(query.replace("?!", "")) if item[0] in allowed]
        agrees(self.index.search(query, k, filter=np.array(allowed, np.int64)), expected, k)

    @rule()
    def shrink(self):
        self.index.shrink_to_fit()

    @rule()
    def freeze(self):
        self.index._writer.freeze()

    @rule(budget=st.sampled_from([0, 5, 1000]))
    def merge_a_little(self, budget):
        self.index._writer.step(budget)

    @rule()
    def settle(self):
        self.index._writer.settle()

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
        assert stats["avg_doc_length"] == mean == self.index._view.average
        for doc_id in (0, 5, 2**40):
            assert (doc_id in self.index) == (doc_id in documents)
        for term in ("a", "b", "é"):
            assert self.index.get_document_frequency(term) == self.model.df(term)
        same_rankings(self.index, fresh(self.texts, **self.given), QUERY)


TestBesideModel = BesideModel.TestCase
TestBesideModel.settings = settings(max_examples=60, stateful_step_count=30)


def stream(n, seed, vocabulary=60):
    """(id, text or None) one after the other: additions, replacements, removals."""
    chance = np.random.default_rng(seed)
    known = []
    for _ in range(n):
        kind = chance.random()
        if kind < 0.2 and known:
            yield known.pop(chance.integers(len(known))), None
            continue
        doc_id = known[chance.integers(len(known))] if kind < 0.4 and known else int(chance.integers(2**62))
        if doc_id not in known:
            known.append(doc_id)
        terms = chance.zipf(1.4, chance.integers(0, 30))
        yield doc_id, " ".join(f"w{term}" for term in terms if term < vocabulary)


@pytest.mark.parametrize("tails", [30, 64, 500])
def test_a_stream_ranks_as_a_fresh_build_at_every_checkpoint(tails, monkeypatch):
    """Of documents one at a time, with searches between; merges are always under way."""
    tails_of(monkeypatch, tails)
    monkeypatch.setattr(writer, "_SHARE", 2)
    index, documents, queries, most = InvertedIndex(), {}, [f"w{i} w{2 * i} w1" for i in range(12)], 0
    for step, (doc_id, text) in enumerate(stream(1500, tails)):
        if text is None:
            index.remove_document(doc_id)
            del documents[doc_id]
        else:
            index.add_document(doc_id, text)
            documents[doc_id] = text
            if text:
                assert index.search(text, 2000)[-1] and any(d == doc_id for d, _ in index.search(text, 2000))
        most = max(most, len(index._view.segments))
        if step % 150 == 149:
            index.check()
            same_rankings(index, fresh(documents), queries, 100)
            assert sorted(documents) == sorted(index._view.ids().tolist())
    assert most > 2
    index.shrink_to_fit()
    assert len(index._view.segments) == 1 and not index._view.segments[0].arrays.removals
    same_rankings(index, fresh(documents, reversed), queries, 100)


def test_segments_are_few(monkeypatch):
    """Each is merged with a larger one before there are many: tiers."""
    tails_of(monkeypatch, 100)
    index = InvertedIndex()
    for doc_id in range(3000):
        index.add_document(doc_id, f"w{doc_id % 7} w{doc_id % 11} w{doc_id % 13} n{doc_id}")
        assert len(index._view.segments) < 12
    index._writer.settle()
    sizes = [segment.entries for segment in index._view.segments]
    assert all(left >= 2 * right for left, right in pairwise(sizes))


@pytest.mark.parametrize("budget", [0, 3, 100])
def test_documents_leave_while_a_merge_is_under_way(small, budget):
    """Of both sources, before and after their terms are merged; some come back, into the tail."""
    small.patch.setattr(writer, "_due", lambda segments: None)
    chance = np.random.default_rng(budget)
    documents = {int(i): f"a w{i % 5} w{i % 7} n{i} " * (1 + i % 3) for i in chance.permutation(80)}
    index = InvertedIndex()
    for doc_id, text in documents.items():
        index.add_document(doc_id, text)
    index._writer.freeze()
    assert len(index._view.segments) > 3
    for doc_id in (3, 9):  # before it begins
        index.remove_document(doc_id)
        del documents[doc_id]
    small.patch.setattr(writer, "_due", lambda segments: segments[1:3] if len(segments) > 3 else None)
    sources, rounds = index._view.segments[1:3], 0
    queries = ["a", "w1 w2", "n7 n30 w4", "w3 a a"]
    while True:
        rounds += 1
        index._writer.step(budget)
        if index._writer.merge is None or any(each is None for each in sources):
            break
        ids = np.concatenate([source.arrays.ids for source in index._view.segments[1:3]]).tolist()
        inside = [doc_id for doc_id in ids if doc_id in documents]
        if inside and rounds % 2:
            doc_id = inside[chance.integers(len(inside))]
            index._writer.remove(doc_id)
            del documents[doc_id]
            if rounds % 6 == 1:
                documents[doc_id] = f"a back n{doc_id}"
                view = index._view
                index._writer.add(np.array([doc_id]), index._tokenizer.terms([documents[doc_id]]), 10**6)
                assert index._view.documents == view.documents + 1
            index.check()
            same_rankings(index, fresh(documents), queries)
    index.check()
    assert rounds > 3 or budget == 100
    same_rankings(index, fresh(documents), queries)
    assert {doc_id for doc_id, _ in index.search("a", 200)} == documents.keys()
    assert index.get_document_frequency("a") == len(documents)


def test_a_merge_whose_sources_lose_everything(small):
    small.patch.setattr(writer, "_SHARE", 0)
    index = InvertedIndex()
    for doc_id in range(60):
        index.add_document(doc_id, f"a b n{doc_id} c")
    index._writer.freeze()
    index._writer.step(0)
    assert index._writer.merge is not None
    for doc_id in range(60):
        index._writer.remove(doc_id)
    index.check()
    assert len(index) == 0 and index.search("a b") == [] and index.stats()["total_terms"] == 0
    index.add_document(7, "a")
    index._writer.settle()
    index.check()
    assert sum(len(each.arrays.ids) for each in index._view.segments) <= 3 and [i for i, _ in index.search("a")] == [7]
    index.shrink_to_fit()
    assert index._view.segments[0].arrays.ids.tolist() == [7]
    index.remove_document(7), index.shrink_to_fit(), index.check()
    assert index._view.segments == () and len(index) == 0


def test_removed_documents_are_swept_out(monkeypatch):
    for tails in (module.SINGLE, 3000):
        tails_of(monkeypatch, tails)
        index, sizes = InvertedIndex(), []
        for turn in range(40):
            index.add_documents(range(100), [f"turn{turn} common {i}" for i in range(100)])
            sizes.append(index.nbytes)
            index.check()
        assert max(sizes) < 4 * sizes[0] and len(index) == 100
        assert index.get_document_frequency("turn0") == 0 and index.get_document_frequency("turn39") == 100


def test_a_segment_most_of_which_is_removed_is_written_anew():
    index = InvertedIndex()
    index.add_documents(range(2000), [f"all n{i}" for i in range(2000)])
    index.shrink_to_fit()
    before = index.nbytes
    for doc_id in range(1990):
        index.remove_document(doc_id)
        assert index.get_document_frequency("all") == len(index) == 1999 - doc_id
        assert doc_id % 20 or len(index.search("all", 2000)) == len(index)
    index.check()
    assert sum(len(segment.arrays.ids) for segment in index._view.segments) < 50 and index.nbytes < before / 5
    assert index.stats()["total_terms"] == 11


def test_memory_is_what_the_arrays_hold():
    index, _ = filled(2000)
    index.search_batch(QUERIES * 30, 10)
    loose = index.nbytes
    index.shrink_to_fit()
    view, stats = index._view, index.stats()
    parts = [*view.segments[0].owned, *view.tail.owned]
    assert index.nbytes == sum(array.nbytes for array in parts) < loose
    assert stats["bytes_per_posting"] == index.nbytes / stats["total_postings"] < 4
    assert stats["posting_bytes"] < 2 * stats["total_postings"] and stats["segments"] == 1
    index.check()


def test_an_index_is_not_copied_by_what_costs_nothing(small):
    """Nothing is due: stepping, shrinking and reserving again leave every array where it is."""
    index, _ = filled()
    index.shrink_to_fit()
    before = index._view.segments
    index.shrink_to_fit(), index.reserve(10_000), index._writer.settle()
    assert index._view.segments is before


def test_a_reader_goes_on_seeing_the_documents_of_its_moment(small):
    index, _ = filled()
    reader = InvertedIndex()
    reader._writer.view = index._view
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
    assert len(reader) == 280


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr(module, "_CHARACTERS", 10)
    told = []
    InvertedIndex().add_documents(range(9), ["four"] * 9, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


# What `check` sees


@pytest.mark.parametrize("seed", range(4))
def test_check_finds_what_is_broken_in_the_tail(seed):
    """What is in use is vouched for elsewhere (but for ids, and room to spare)."""
    index, _ = filled(40)
    chance = np.random.default_rng(seed)
    end, terms = index._view.tail.written, index._view.tail.vocabulary.terms
    head, live = end.head, np.flatnonzero(end.removed[: end.head[tail.SLOTS]] == tail.NEVER)
    firsts = end.terms[end.terms[:, tail.FIRST] > 0, tail.FIRST]
    vouched = {
        "head": range(tail.HEAD), "lengths": live, "removed": live,
        "forward_starts": range(head[tail.SLOTS]), "forward": range(head[tail.FORWARD]),
        "slots": np.concatenate([firsts, firsts - 1]), "tfs": firsts,
        "terms": np.flatnonzero(np.arange(terms * tail.COLUMNS) % tail.COLUMNS != tail.AT),
    }  # fmt: skip
    for name, places in vouched.items():
        array = getattr(end, name).reshape(-1)
        for place in chance.choice(places, 8):
            old = int(array[place])
            array[place] = chance.choice([max(old - 7, 0), 0, 1, 1000] if old else [1, 7, 1000])
            if array[place] != old:
                with pytest.raises(AssertionError):
                    index.check()
            array[place] = old
    index.check()


@pytest.mark.parametrize("seed", range(4))
def test_check_finds_what_is_broken_in_a_segment(seed):
    index, _ = filled(600)
    index.shrink_to_fit()
    chance = np.random.default_rng(seed)
    segment = index._view.segments[0]
    assert len(segment.arrays.block_last) > 4
    for name in ("lengths", "buckets", "dictionary", "postings", "block_last", "block_at", "block_best"):
        array, missed = getattr(segment.arrays, name).reshape(-1), 0
        used = len(array) - (segments.PAD if name in ("dictionary", "postings") else 0)
        for place in chance.choice(used, 40):
            old = array[place].copy()
            array[place] ^= array.dtype.type(1 << chance.integers(8 * array.itemsize - 1))
            missed += index._fault() is None
            array[place] = old
        # Letters may change where the order of hashes does not, nothing reads the last bits of a run of packed
        # numbers, and a maximum may be rounded a little otherwise.
        assert missed <= {"dictionary": 3, "postings": 8, "block_best": 6}.get(name, 0), name
    index.check()
    for removals in (-1, 1):
        view = index._view
        index._writer.view = view.replaced(0, segment._replace(live=segment.live + removals))
        with pytest.raises(AssertionError):
            index.check()
        index._writer.view = view
