"""The best k of collections made to mislead: the documents, the order and the bits that sorting all scores gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmds.inverted_index import search as searching
from llmds.inverted_index import write as writing
from llmds.inverted_index.index import InvertedIndex
from llmds.kernels.inverted_index import cursors
from tests.inverted_index.model import METHODS, Collection, tails_of, text_of, top_k_is_exact

N = 18_000  # three windows of 8192, and blocks enough for kept ones to be driven out


def skewed(n=N, words=40, seed=0, longest=30):
    """Words from one in two documents to one in thousands, lengths of all kinds, frequent ones in clusters."""
    chance = np.random.default_rng(seed)
    share = 0.5 / (1 + np.arange(words)) ** 1.3
    counts = chance.random((n, words)) < share
    counts = counts * chance.geometric(0.4, (n, words))
    counts[chance.random(n) < 0.05] *= longest
    calm = (np.arange(n) // 700) % 3 == 1
    counts[calm, : words // 4] = np.minimum(counts[calm, : words // 4], 1)
    return Collection(chance.permutation(5 * n)[:n], counts)


def equal(n=N):
    return Collection(np.random.default_rng(1).permutation(n), np.tile([1, 2, 0, 1], (n, 1)))


def tied(n=N):
    """Few kinds of documents, so that thousands have each score."""
    chance = np.random.default_rng(2)
    return Collection(chance.choice(2**62, n, replace=False), chance.integers(0, 2, (n, 6)) * chance.integers(1, 3, 6))


def sizes(n=N):
    """Words that as many documents hold as blocks end at, and one before and after; one is everywhere."""
    chance = np.random.default_rng(3)
    counts = np.zeros((n, 12), int)
    for word, df in enumerate([1, 127, 128, 129, 255, 256, 257, 1279, 1280, 1281, n, n - 1]):
        counts[chance.choice(n, df, replace=False), word] = chance.integers(1, 5, df)
    return Collection(chance.choice(2**62, n, replace=False) + 2**62, counts)


def extreme(n=2000):
    """Frequencies in the thousands, documents of nothing, and of very much."""
    chance = np.random.default_rng(4)
    counts = (chance.random((n, 8)) < 0.3) * chance.integers(1, 4, (n, 8))
    counts[chance.integers(0, n, 30), chance.integers(0, 8, 30)] = chance.integers(1000, 20_000, 30)
    counts[::9] = 0
    return Collection(np.concatenate([np.arange(n - 2), [2**63 - 1, 2**63 - 2]]), counts)


COLLECTIONS = {make.__name__: make for make in (skewed, equal, tied, sizes, extreme)}
QUERIES = {
    "skewed": [[0], [39], [0, 39], [0, 1, 2, 3], [5, 12, 30, 38], [0, 0, 7, 35, 35], list(range(40)), [20, 21, 0, 1]],
    "equal": [[0], [1], [0, 1, 3], [2], [3, 3, 2, 0]],
    "tied": [[0], [0, 1], [2, 3, 4, 5], list(range(6)), [5, 5, 0]],
    "sizes": [[i] for i in range(12)] + [[0, 10], [1, 2, 3], [4, 5, 6, 11], [7, 8, 9, 10], list(range(12))],
    "extreme": [[0], [0, 1], [3, 4, 5], list(range(8)), [7, 7, 7, 1]],
}


@pytest.fixture(params=[True, False])
def kept(request, monkeypatch):
    """Whether searches keep what they work out for those that follow; little, so that they drive it out, too."""
    monkeypatch.setattr(searching, "_LARGE", 1 if request.param else 1 << 30)
    monkeypatch.setattr(searching, "_BLOCKS", 16)
    monkeypatch.setattr(searching, "_MOST_ROWS", 3)
    monkeypatch.setattr(searching, "_WINDOW", 1 << 13)


@pytest.fixture(params=COLLECTIONS)
def collection(request):
    made = COLLECTIONS[request.param]()
    made.queries = QUERIES[request.param]
    return made


def test_one_segment(collection, kept):
    index = InvertedIndex()
    index.add_documents(collection.ids, collection.texts())
    index.shrink_to_fit()
    assert index.stats()["segments"] == 1
    top_k_is_exact(index, collection, collection.queries)


def test_several_segments_and_a_tail_with_removed_documents_and_filters(collection, kept, monkeypatch):
    """The bounds of every segment are those of the average when it was made, which has changed since."""
    tails_of(monkeypatch, int(np.count_nonzero(collection.counts)) // 9)
    monkeypatch.setattr(writing, "_due", lambda segments: None)  # nothing is merged
    index, n, queries = InvertedIndex(), len(collection.ids), collection.queries
    order = np.argsort(collection.lengths, kind="stable")
    collection, step = Collection(collection.ids[order], collection.counts[order]), n // 23
    texts = collection.texts()
    for start in range(0, n, step):
        index.add_documents(collection.ids[start : start + step], texts[start : start + step])
    index.check()
    assert index.stats()["segments"] > 4 and index._view.tail.live > 0
    top_k_is_exact(index, collection, queries, (1, 10))
    top_k_is_exact(index, collection, queries, (10,), allowed=collection.ids[:: 7 if n > 2000 else 2])
    gone = np.random.default_rng(5).permutation(n)[: n // 5]
    for doc_id in collection.ids[gone].tolist():
        index.remove_document(doc_id)
    left = collection.only(np.setdiff1d(np.arange(n), gone))
    index.check()
    top_k_is_exact(index, left, queries, (1, 10, 100))
    top_k_is_exact(index, left, queries, (10,), allowed=collection.ids[::3])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k1, b", [(1.2, 0.75), (0.0, 0.75), (2.0, 0.0), (0.9, 1.0), (1e6, 0.5)])
def test_every_method_and_extreme_settings(method, k1, b):
    collection = skewed(3000, 12)
    index = InvertedIndex(method=method, k1=k1, b=b)
    index.add_documents(collection.ids, collection.texts())
    index.shrink_to_fit()
    model = {"method": method, "k1": k1, "b": b}
    top_k_is_exact(index, collection, [[0], [1, 9], [0, 5, 10, 11], list(range(12))], (1, 10), **model)


def test_two_hundred_terms():
    chance = np.random.default_rng(6)
    collection = skewed(3000, 220, 6)
    queries = [chance.choice(220, 200, replace=False).tolist() for _ in range(4)]
    index = InvertedIndex()
    index.add_documents(collection.ids, collection.texts())
    for _ in range(2):
        top_k_is_exact(index, collection, queries, (1, 10))
        index.shrink_to_fit()


def test_what_the_average_was_when_a_segment_was_made_does_not_matter(monkeypatch):
    """First short documents, then long ones, and the other way round: norms grow and shrink tenfold."""
    for step in (1, -1):
        collection = skewed(4000, 10, 7)
        order = np.argsort(collection.lengths, kind="stable")[::step]
        collection = Collection(collection.ids[order], collection.counts[order])
        texts = collection.texts()
        index = InvertedIndex(b=1.0)
        index.add_documents(collection.ids[:2000], texts[:2000])
        index.shrink_to_fit()
        tails_of(monkeypatch, 1 << 30)
        index.add_documents(collection.ids[2000:], texts[2000:])
        assert index.stats()["segments"] == 1 and len(index) == 4000
        top_k_is_exact(index, collection, [[0], [9], [0, 9], [1, 2, 3], list(range(10))], (1, 10, 100), b=1.0)


def test_the_kth_best_block_promises_no_more_than_it_has():
    """Ratios of norm and tf below and above what a float16 can say."""
    counts = np.zeros((N, 3), int)
    counts[:170, 0], counts[::3, 1] = 1, 2
    counts[7, 0], counts[17_000:17_002, 2] = 40_000, 5000  # the latter are worth a little more
    collection = Collection(np.arange(N), counts)
    index = InvertedIndex(k1=5000.0, b=0.0)
    index.add_documents(collection.ids, collection.texts())
    index.shrink_to_fit()
    assert [doc_id for doc_id, _ in index.search("w0 w2", 3)] == [17_000, 17_001, 7]
    top_k_is_exact(index, collection, [[0], [0, 2], [0, 1, 2]], (1, 2, 3), k1=5000.0, b=0.0)
    positions, best = np.zeros(cursors.CURSOR, np.int64), np.empty(1, np.float32)
    positions[cursors.END] = 1
    form = np.array([1, 0, 0, 1.2, 0], np.float32)
    for ratio in (0.0, 6e-5, 1.0, 60_000.0, 1e6):
        stored = np.array([min(ratio, 65504)], np.float16).view(np.uint8)
        part = cursors.kth_part(positions, np.int64(0), 1, best, stored, np.float32(1), form)
        assert part <= 1 / (1 + 1.2 * ratio)


@given(st.data())
@settings(max_examples=60)
def test_small_collections_of_any_kind(data):
    """Whatever hypothesis thinks of: windows are not full, blocks are, segments are many."""
    n, words = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 5))
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    share = data.draw(st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]), min_size=words, max_size=words))
    counts = (chance.random((n, words)) < share) * data.draw(st.sampled_from([1, 3, 1000]))
    if data.draw(st.booleans()):
        counts *= chance.integers(1, 4, counts.shape)
    collection = Collection(chance.permutation(n), counts)
    queries = data.draw(st.lists(st.lists(st.integers(0, words - 1), min_size=1, max_size=6), min_size=1, max_size=3))
    index, texts = InvertedIndex(), collection.texts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_LARGE", data.draw(st.sampled_from([1, 1 << 12])))
        tails_of(patch, data.draw(st.sampled_from([16, 100, 1000])))
        for part in np.array_split(np.arange(n), data.draw(st.integers(1, 6))):
            index.add_documents(collection.ids[part], [texts[i] for i in part])
        if collection.lengths.any():
            top_k_is_exact(index, collection, queries, (1, 3))
        else:
            assert index.search(text_of(queries[0]), 5) == []


@pytest.mark.parametrize("rare", [20, 100, 4000])
def test_ties_that_rounding_makes_across_segments(rare):
    """Words that weigh next to nothing beside one that weighs much: their parts change the last bit, or do not."""
    n, chance = 6000, np.random.default_rng(rare)
    counts = np.ones((n, 13), int)
    counts[:, 0] = 0
    counts[chance.choice(n, rare, replace=False), 0] = 1
    for word in range(1, 13):  # they weigh a little, each something else
        without = np.flatnonzero(counts[:, 0] == 0)
        counts[chance.choice(without, min(word * word, len(without)), replace=False), word] = 0
    ids = chance.permutation(n)
    collection = Collection(ids, counts)
    index, texts = InvertedIndex(b=0.0), collection.texts()
    with pytest.MonkeyPatch.context() as patch:
        tails_of(patch, 15_000)
        patch.setattr(writing, "_due", lambda segments: None)
        for start in range(0, n, 500):
            index.add_documents(ids[start : start + 500], texts[start : start + 500])
    queries = [[0, *chance.choice(np.arange(1, 13), size).tolist()] for size in chance.integers(1, 12, 60)]
    top_k_is_exact(index, collection, queries, (1, 7), b=0.0)


ALWAYS_PRUNE = ("_SPARSE, _MANY = 100, 1 << 19", "_SPARSE, _MANY = 0, 0")
COSTS = "_ADDED, _PROBED = 60, 15"


@pytest.mark.slow
@pytest.mark.parametrize("costs", ["_ADDED, _PROBED = 1 << 40, 1 << 40", "_ADDED, _PROBED = 60, 0"])
def test_all_of_this_where_everything_is_pruned(costs, tmp_path):
    """Constants of kernels cannot be changed once these are compiled: a copy of the library has other ones."""
    root = Path(__file__).parents[3]
    for name in ("llmds", "tests"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    kernel = tmp_path / "llmds" / "kernels" / "inverted_index" / "maxscore.py"
    source = kernel.read_text()
    assert ALWAYS_PRUNE[0] in source and COSTS in source
    kernel.write_text(source.replace(*ALWAYS_PRUNE).replace(COSTS, costs))
    test = Path(__file__).relative_to(root)
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-m", "not slow", str(test)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
