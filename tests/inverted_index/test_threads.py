"""Readers beside writers: a result holds whole documents, those of one moment, and never another one's score."""

import sys
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import product

import numpy as np
import pytest

from llmds.inverted_index import search as searching
from llmds.inverted_index import write as writer
from llmds.inverted_index.index import InvertedIndex
from tests.inverted_index.model import tails_of

SECONDS = 1.5


@pytest.fixture
def restless(monkeypatch):
    """Threads take turns so often that they meet in the middle of everything; segments come and go all the time."""
    tails_of(monkeypatch, 300)
    monkeypatch.setattr(writer, "_SHARE", 4)
    monkeypatch.setattr(searching, "_LARGE", 1)  # whatever can be kept for later searches, is
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


def run(writers, readers, seconds=SECONDS):
    """Call all of them over and over, in a thread each; the first failure of any is raised."""
    stop, failures = threading.Event(), []

    def again(work):
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=again, args=(work,)) for work in (*writers, *readers)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def text_of(doc_id, version):
    """All words of a document tell whose it is, and all of a version are there or none."""
    return f"all n{doc_id} {f'v{version} ' * 3} n{doc_id}v{version}"


CALM, MOVING = range(0, 150), range(150, 400)


class Scene:
    """An index of documents that never change, and of others that are replaced, removed and added again."""

    def __init__(self):
        self.index, self.chance = InvertedIndex(), np.random.default_rng(1)
        self.index.add_documents(CALM, [text_of(doc_id, 0) for doc_id in CALM])
        self.index.add_documents(MOVING, [text_of(doc_id, 0) for doc_id in MOVING])

    def write(self):
        index, chance = self.index, self.chance
        version = int(chance.integers(5))
        some = chance.choice(MOVING, 40)
        index.add_documents(some, [text_of(doc_id, version) for doc_id in some])
        for doc_id in chance.choice(MOVING, 10).tolist():
            with suppress(KeyError):
                index.remove_document(doc_id)
        index.add_document(int(some[0]), text_of(int(some[0]), version))
        if chance.random() < 0.1:
            index.shrink_to_fit()

    def read_all(self):
        ids, scores = self.index.search_batch(["all"], 500, threads=1)
        found = ids[0][ids[0] >= 0]
        assert len(np.unique(found)) == len(found), "a document twice"
        assert set(CALM) <= set(found.tolist()), "a document was missing that was always there"
        assert len(np.unique(scores[0][: len(found)])) == 1, "unequal scores of equal documents"

    def read_names(self):
        names = np.random.default_rng().choice(400, 90)
        ids, _ = self.index.search_batch([f"n{name}" for name in names], 3, threads=2)
        assert (ids[:, 1] == -1).all() and np.isin(ids[:, 0], [-1, *names]).all()
        calm = names < len(CALM)
        assert (((ids[:, 0] == -1) & ~calm) | (ids[:, 0] == names)).all(), "an id with another one's words"

    def read_versions(self):
        """A document is of one version: what its parts say of it agrees."""
        version = int(np.random.default_rng().integers(5))
        doc_id = int(np.random.default_rng().choice(MOVING))
        found = dict(self.index.search(f"n{doc_id}v{version}", 5))
        assert set(found) <= {doc_id}
        for doc_id, _ in self.index.search(f"v{version}", 50):
            try:
                told = self.index.explain("v0 v1 v2 v3 v4 all", doc_id)
            except KeyError:
                continue
            tfs = {row["term"]: row["tf"] for row in told["terms"]}
            assert (
                tfs.pop("all") == 1 and sorted(tfs.values(), reverse=True)[:2] in ([3, 0], [3]) and told["length"] == 6
            )

    def read_filtered(self):
        allowed = np.arange(0, 400, 3)
        for selection in (allowed, lambda ids: ids % 3 == 0):
            found = [doc_id for doc_id, _ in self.index.search("all v1", 500, filter=selection)]
            assert set(found) <= set(allowed.tolist()) and {d for d in CALM if d % 3 == 0} <= set(found)

    def read_statistics(self):
        index = self.index
        stats = index.stats()
        assert stats["avg_doc_length"] == 6 and 150 <= stats["total_documents"] <= 400
        # What is being removed may be left out already.
        assert 4 * len(CALM) <= stats["total_postings"] <= 4 * stats["total_documents"]
        assert index.get_term_frequency("n7", 7) == 1 and index.get_document_frequency("n7") == 1
        scores = index.score_many(["n7", "n8"], [[7, 8, 200], [7, 8, 10**6]])
        assert (scores > 0).tolist() == [[True, False, False], [False, True, False]]


READERS = ["read_all", "read_names", "read_versions", "read_filtered", "read_statistics"]


@pytest.mark.parametrize("name", READERS)
def test_readers_beside_a_writer(restless, name):
    scene = Scene()
    run([scene.write], [getattr(scene, name)] * 2)
    scene.index.check()


def test_all_readers_beside_a_writer_whose_merges_are_slow(restless, monkeypatch):
    monkeypatch.setattr(writer, "_SHARE", 1)
    scene = Scene()
    run([scene.write], [getattr(scene, name) for name in READERS], 2 * SECONDS)
    scene.index.check()


def test_a_search_takes_a_view_and_keeps_to_it(restless):
    """What a search over threads answers is of one moment, whatever is written between its parts."""
    index, done = InvertedIndex(), []
    index.add_documents(range(50), ["all"] * 50)

    def write():
        base = 50 + len(done)
        done.append(1)
        index.add_document(base, "all")
        index.remove_document(base - 50)

    def read():
        ids, scores = index.search_batch(["all"] * 200, 60, threads=3)
        for row in ids[:, :50]:
            assert row.tolist() == ids[0, :50].tolist()
        assert (scores == scores[0]).all()
        live = ids[0][ids[0] >= 0]
        assert 50 <= len(live) <= 51 and (np.diff(live) == 1).all()

    run([write], [read])
    index.check()


def test_writers_take_turns(restless):
    index = InvertedIndex()

    def write(base):
        for i in range(base, base + 300):
            index.add_document(i, f"n{i} all")
            if i % 3 == 0:
                index.remove_document(i)
            if i % 50 == 0:
                index.shrink_to_fit()
            if i % 70 == 0:
                index.check()

    writers = [threading.Thread(target=write, args=(base,)) for base in (0, 1000, 2000)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    index.check()
    expected = {i for base in (0, 1000, 2000) for i in range(base, base + 300) if i % 3}
    assert {doc_id for doc_id, _ in index.search("all", 9999)} == expected
    assert index.get_document_frequency("all") == len(expected) == len(index)


def test_two_writers_of_the_same_documents(restless):
    scene = Scene()
    run([scene.write, scene.write], [scene.read_all, scene.read_names])
    scene.index.check()


def test_an_index_is_saved_while_it_is_written_and_read(restless, tmp_path):
    scene = Scene()

    def save():
        scene.index.save(tmp_path / "index.npz")
        loaded = InvertedIndex.load(tmp_path / "index.npz", mmap=True)
        assert set(CALM) <= {doc_id for doc_id, _ in loaded.search("all", 500)}
        time.sleep(0.02)

    run([scene.write, save], [scene.read_all])
    scene.index.check()


def test_frequencies_of_removed_documents_are_counted_once_by_many_readers(restless):
    """Readers share what they have counted among what is removed."""
    index = InvertedIndex()
    index.add_documents(range(2000), [f"all half{i % 2} n{i}" for i in range(2000)])
    index.shrink_to_fit()
    left = iter(range(2000))

    def write():
        doc_id = next(left, None)
        if doc_id is None:
            time.sleep(0.001)
        elif doc_id < 1900:
            index.remove_document(doc_id)

    def read():
        few, many = index.get_document_frequency("all"), index.get_document_frequency("half1")
        assert many <= few
        found = index.search("half1 half0", 2000)
        assert len(found) <= few

    run([write], [read, read])
    index.check()
    assert index.get_document_frequency("all") == len(index) == len(index.search("all", 2000))


def between_lines(at, work, other):
    """Call work(), and other() before the line of the searcher's module that is number `at`; how many there were."""
    lines = 0

    def begin(frame, event, argument):
        return line if frame.f_code.co_filename == searching.__file__ else None

    def line(frame, event, argument):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == at:
                sys.settrace(None)
                other()
                sys.settrace(begin)
        return line

    sys.settrace(begin)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


def test_what_searches_keep_is_never_taken_for_another_moments(monkeypatch):
    """Of two views, one searched between any two lines of a search of the other: as threads may come to run."""
    monkeypatch.setattr(searching, "_LARGE", 1)
    index, queries = InvertedIndex(), ["a b", "c b a", "d"]
    index.add_documents(range(900), ["a " * (i % 3 + 1) + "b" * (i % 2) + " c " * (i % 5) for i in range(900)])
    index.shrink_to_fit()
    first = index._view
    index.add_documents(range(900, 1800), ["a b d " + "c " * (i % 7) for i in range(900)])
    index.shrink_to_fit()
    second = index._view
    index.remove_document(899)
    readers = []
    for view in (first, second, index._view):  # each goes on with its moment, and what they keep is shared
        reader = InvertedIndex()
        reader._writer.view = view
        expected = reader.search_batch(queries, 90, threads=1)
        reader._workspaces = index._workspaces
        readers.append((reader, expected))

    def search(reader, expected):
        for mine, theirs in zip(reader.search_batch(queries, 90, threads=1), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)

    for one, other in product(readers, readers):
        lines = between_lines(0, partial(search, *one), None)
        assert lines > 20
        for at in range(1, lines + 1):
            between_lines(at, partial(search, *one), partial(search, *other))
            search(*other), search(*one)
