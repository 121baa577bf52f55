"""A writer that is interrupted, anywhere, leaves a whole prefix of what it was told; and nothing that shows later."""

import sys
from contextlib import suppress

import numpy as np
import pytest

from llmds.inverted_index import index as module
from llmds.inverted_index import segments, state
from llmds.inverted_index import tail as tails
from llmds.inverted_index import write as writer
from llmds.inverted_index.index import InvertedIndex
from llmds.kernels.inverted_index import tail, tail_write
from llmds.tokenizer import vocabulary
from tests.inverted_index.model import Small, fresh, same_rankings


@pytest.fixture
def small():
    made = Small()
    yield made
    made.undo()


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

    monkeypatch.setattr(writer._direct, "add", interrupted)
    index = InvertedIndex()
    with pytest.raises(KeyboardInterrupt):
        index.add_documents(range(5000), [f"word{i} common" for i in range(5000)])
    done = len(index)
    index.check()
    assert 0 < done < 5000 and index.get_document_frequency("common") == done and done - 1 in index
    index.add_documents(range(5000), [f"word{i} common" for i in range(5000)])
    index.check()
    assert len(index) == 5000 and index.search("word4999")[0][0] == 4999


class Interrupted:
    """Ctrl-C before a certain line of the writer's modules."""

    HOMES = tuple(module.__file__ for module in (writer, segments, tails, vocabulary, module, state))

    def __init__(self, at):
        self.at, self.lines = at, 0

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind, error, trace):
        sys.settrace(None)
        return kind is KeyboardInterrupt

    def trace(self, frame, event, argument):
        name = frame.f_code.co_filename
        return self.line if name in self.HOMES else None

    def line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line


def interrupted_everywhere(begin, act, examine, times):
    """Do it once whole, then interrupted before lines all over; what is left is examined, done again, examined."""
    index = begin()
    with Interrupted(0) as whole:
        act(index)
    points = np.unique(np.linspace(1, whole.lines, times).astype(int))
    for at in points.tolist():
        index = begin()
        with Interrupted(at):
            act(index)
        examine(index, False)
        with suppress(KeyError):  # that had been removed
            act(index)
        examine(index, True)


def started():
    """Some segments, a tail, a merge under way."""
    index = InvertedIndex()
    for doc_id in range(60):
        index.add_document(doc_id, f"common w{doc_id} w{doc_id % 3}")
    return index


def test_an_addition_interrupted_anywhere_is_a_whole_prefix(small):
    small.patch.setattr(module, "_CHARACTERS", 100)

    def act(index):
        index.add_documents(range(30, 90), [f"common v{i} v{i % 4} longword{i}" for i in range(30, 90)])

    def examine(index, done):
        index.check()
        new = [i for i in range(30, 90) if index.get_document_frequency(f"longword{i}")]
        assert new == list(range(30, 30 + len(new))) and (len(new) == 60 or not done)
        documents = {i: f"common w{i} w{i % 3}" for i in range(60)}
        documents |= {i: f"common v{i} v{i % 4} longword{i}" for i in new}
        assert len(index) == len(documents) == index.get_document_frequency("common")
        same_rankings(index, fresh(documents), ["common", "v1 w1", "v40 w40 v2", "longword45"], 100)

    interrupted_everywhere(started, act, examine, 120)


@pytest.mark.parametrize("segments", [1, 4])
def test_a_removal_interrupted_anywhere_is_done_or_not(small, segments):
    small.patch.setattr(writer, "_due", lambda segments: None)

    def begin():
        index = started()
        if segments == 1:
            index.shrink_to_fit()
        index.remove_document(5)
        return index

    def act(index):
        for doc_id in (2, 31, 58):
            index.remove_document(doc_id)

    def examine(index, done):
        index.check()
        if done:
            for doc_id in (2, 31, 58):
                if doc_id in index:
                    index.remove_document(doc_id)
        index.remove_document(20)  # whose number a removal that was given up must not have
        left = {i: f"common w{i} w{i % 3}" for i in range(60) if i in index}
        assert len(left) == len(index) == index.get_document_frequency("common")
        assert set(range(60)) - left.keys() <= {2, 5, 20, 31, 58}
        index.check()
        same_rankings(index, fresh(left), ["common", "w2", "w1 w31 w20 w0"], 100)
        index.add_document(20, "common w20 w2")

    interrupted_everywhere(begin, act, examine, 200)


def test_shrinking_interrupted_anywhere_loses_nothing(small):
    def begin():
        index = started()
        for doc_id in (2, 31, 58):
            index.remove_document(doc_id)
        return index

    expected = fresh({i: f"common w{i} w{i % 3}" for i in range(60) if i not in (2, 31, 58)})

    def examine(index, done):
        index.check()
        same_rankings(index, expected, ["common", "w2", "w1 w31 w20 w0"], 100)
        assert not done or index.stats()["segments"] == 1

    interrupted_everywhere(begin, InvertedIndex.shrink_to_fit, examine, 200)


def test_a_load_interrupted_anywhere_is_a_whole_prefix(small):
    """As a long call has it: large tails, and all merging at the end."""
    small.patch.setattr(module, "_LOAD", 100)
    small.patch.setattr(module, "_CHARACTERS", 100)

    def act(index):
        index.add_documents(range(30, 90), [f"common longword{i}" for i in range(30, 90)])

    def examine(index, done):
        index.check()
        new = [i for i in range(30, 90) if index.get_document_frequency(f"longword{i}")]
        assert new == list(range(30, 30 + len(new))) and (len(new) == 60 or not done)
        assert len(index) == max(60, 30 + len(new)) == index.get_document_frequency("common")
        if done:
            assert index._view.tail.written.head[tail.SLOTS] == 0 and index._writer.merge is None

    interrupted_everywhere(started, act, examine, 150)
