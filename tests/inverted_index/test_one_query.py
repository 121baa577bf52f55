"""Queries one at a time: a kernel call that goes all the way says what the steps of a batch say."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from llmds.inverted_index import one_query
from llmds.inverted_index import search as searching
from llmds.inverted_index.index import InvertedIndex
from llmds.retrieval_pipeline import RetrievalPipeline
from tests.inverted_index.model import METHODS, agrees, filled

QUERIES = ["", "unknown", "w1", "W3, w1! w2", "w2 w2 w1 w2", "w1 " * 300, "w7 w400 w11 and the", "w" * 1000]
QUERIES += [" \n\x00.", "w1's", "w1_w2 w2"]


def one_call(index, query, k=10):
    """What the kernel that goes all the way says, or None."""
    return index._single.best(index._view, query, k, index._workspaces)


def as_in_a_batch(index, queries=QUERIES, ks=(1, 3, 1000)):
    for k in ks:
        ids, scores = index.search_batch(queries, k, threads=1)
        for query, row, of_row in zip(queries, ids.tolist(), scores.tolist(), strict=True):
            expected = [pair for pair in zip(row, of_row, strict=True) if pair[0] >= 0]
            assert index.search(query, k) == expected


@pytest.mark.parametrize("large", [1, 1 << 30])
@pytest.mark.parametrize("method", METHODS)
def test_one_call_says_what_the_steps_say(method, large, monkeypatch):
    monkeypatch.setattr(searching, "_LARGE", large)
    index, model = filled(method=method)
    index.shrink_to_fit()
    assert all(one_call(index, query) is not None for query in QUERIES)
    as_in_a_batch(index)
    for query in ("w1 w2 w3", "w7 w7 w40 w3", "w11"):
        agrees(index.search(query, 50), model.search(query), 50)


def test_stop_words_are_left_out():
    index = InvertedIndex(stop_words=["w1", "w3"])
    index.add_documents(range(400), [f"w{i % 7} w1 w{i % 3} and w{i}" for i in range(400)])
    index.shrink_to_fit()
    assert one_call(index, "w1 w5") is not None
    as_in_a_batch(index)
    assert index.search("W1 w3") == []


def test_whatever_one_call_cannot_say_takes_the_steps():
    index, _ = filled()
    assert one_call(index, "w1") is None  # documents lie in the growing end
    as_in_a_batch(index)
    index.shrink_to_fit()
    for query in ("naïve w1", "w1 " * (one_query._LONGEST // 3 + 1)):
        assert one_call(index, query) is None
        as_in_a_batch(index, [query])
    assert one_call(index, "w1") is not None
    first = index.search("w1")[0][0]
    index.remove_document(first)
    assert one_call(index, "w1") is None
    as_in_a_batch(index)
    index.add_document(first, "w1 w1")
    assert one_call(index, "w1") is None
    as_in_a_batch(index)
    for given in ({"tokenizer": str.split}, {"stemmer": str.upper}):
        other = InvertedIndex(**given)
        other.add_documents(range(9), [f"w1 w{n}" for n in range(9)])
        other.shrink_to_fit()
        assert one_call(other, "w1") is None
        as_in_a_batch(other)


def test_each_view_is_seen_as_it_is():
    index = InvertedIndex()
    for n in range(1, 6):
        index.add_documents([n], ["w1 " * n])
        index.shrink_to_fit()
        assert len(index.search("w1")) == n
        as_in_a_batch(index, ["w1", "w2"])


def test_loaded_and_mapped_indexes_answer_alike(tmp_path):
    index, _ = filled()
    index.shrink_to_fit()
    index.save(tmp_path / "index.npz")
    for mmap in (False, True):
        loaded = InvertedIndex.load(tmp_path / "index.npz", mmap=mmap)
        assert [loaded.search(query) for query in QUERIES] == [index.search(query) for query in QUERIES]


def test_threads_have_what_they_work_with_to_themselves(monkeypatch):
    monkeypatch.setattr(searching, "_LARGE", 1)
    index, _ = filled(900)
    index.shrink_to_fit()
    expected = [index.search(query, 50) for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert list(pool.map(lambda query: index.search(query, 50), QUERIES)) == expected


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
@pytest.mark.parametrize("removed", [0, 5])
def test_the_pipeline_ranks_one_query_as_it_ranks_many(fusion, removed):
    chance = np.random.default_rng(0)
    pipeline = RetrievalPipeline(embedding_dim=4, seed=0, hot_threshold=10**6)
    texts = [" ".join(f"w{word}" for word in chance.zipf(1.3, 20) if word < 500) for _ in range(500)]
    pipeline.add_documents(range(500), texts, chance.standard_normal((500, 4)))
    pipeline.shrink_to_fit()
    for doc_id in range(removed):
        pipeline.remove_document(doc_id)
    rows = chance.standard_normal((len(QUERIES), 4)).astype(np.float32)
    ids, scores = pipeline.search_batch(QUERIES, rows, 7, fusion=fusion, depth=20, threads=1)
    for query, row, found, of_found in zip(QUERIES, rows, ids, scores, strict=True):
        single = pipeline.search(query, row, 7, fusion=fusion, depth=20)
        assert_array_equal([doc_id for doc_id, _ in single], found[found >= 0])
        assert_array_equal(np.array([score for _, score in single], np.float32), of_found[found >= 0])
