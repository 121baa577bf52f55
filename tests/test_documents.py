"""Documents beside a plain list of tuples."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numba import njit

from llmds import documents as module
from llmds.documents import Documents
from llmds.kernels import documents as kernels
from llmds.kernels import strings
from tests import face

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=12) | st.sampled_from(
    ["", "\ud800", "\udfff\ud800", "a\0b", "\U0010ffff", "é", "e\u0301", "漢字", "a" * 100]
)
ids = st.sampled_from(["", "a", "b", "ab", "\ud800", "é", "e\u0301", "漢", "\0"]) | any_text


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as a list of (id, text, title) does."""

    def __init__(self):
        super().__init__()
        self.documents, self.model = Documents(), []

    def known(self):
        return [id for id, _, _ in self.model]

    @rule(id=ids, text=any_text, title=st.none() | any_text)
    def add(self, id, text, title):
        if id in self.known():
            with pytest.raises(ValueError, match="already present"):
                self.documents.add(id, text, title)
        else:
            assert self.documents.add(id, text, title) == len(self.model)
            self.model.append((id, text, title or ""))

    @rule(items=st.lists(st.tuples(ids, any_text, st.none() | any_text)), titled=st.booleans())
    def add_many(self, items, titled):
        new, texts, titles = ([item[part] for item in items] for part in range(3))
        given = (new, texts, titles) if titled else (new, texts)
        if len({*new, *self.known()}) < len(new) + len(self.model):
            with pytest.raises(ValueError, match="new and distinct"):
                self.documents.add_many(*given)
        else:
            rows = self.documents.add_many(*given)
            assert rows.dtype == np.int64
            assert rows.tolist() == list(range(len(self.model), len(self.model) + len(new)))
            self.model += [(id, text, (title or "") if titled else "") for id, text, title in items]

    @rule()
    def shrink(self):
        self.documents.shrink_to_fit()
        stats = self.documents.stats()
        assert stats["capacity"] == stats["documents"] and stats["byte_capacity"] == stats["bytes"]

    @rule(n=st.integers(0, 100), n_bytes=st.integers(0, 1000))
    def reserve(self, n, n_bytes):
        self.documents.reserve(n, n_bytes)
        assert self.documents.stats()["capacity"] >= n and self.documents.stats()["byte_capacity"] >= n_bytes

    @rule(wanted=st.lists(ids))
    def look_up(self, wanted):
        known = self.known()
        expected = [known.index(id) if id in known else -1 for id in wanted]
        assert self.documents.rows_of(wanted).tolist() == expected
        for id, row in zip(wanted, expected, strict=True):
            assert (id in self.documents) == (row >= 0)
            if row >= 0:
                assert self.documents.row_of(id) == row
            else:
                with pytest.raises(KeyError):
                    self.documents.row_of(id)

    @invariant()
    def agree(self):
        self.documents.check()
        assert len(self.documents) == len(self.model)
        rows = np.arange(len(self.model))[::-1]
        backwards = self.model[::-1]
        assert self.documents.ids_of(rows) == [id for id, _, _ in backwards]
        assert self.documents.texts(rows) == [text for _, text, _ in backwards]
        assert self.documents.titles(rows) == [title for _, _, title in backwards]
        for row, (id, text, title) in list(enumerate(self.model))[-2:]:
            assert (self.documents.id_of(row), self.documents.text(row), self.documents.title(row)) == (id, text, title)
        total = sum(len(part.encode("utf-8", "surrogatepass")) for item in self.model for part in item)
        assert self.documents.stats()["bytes"] == total


TestBesideModel = BesideModel.TestCase


@given(st.lists(st.tuples(ids, any_text, any_text), unique_by=lambda item: item[0]))
def test_many_equals_one_by_one(items):
    single, many = Documents(), Documents()
    for id, text, title in items:
        single.add(id, text, title)
    many.add_many(*([item[part] for item in items] for part in range(3)))
    single.shrink_to_fit(), many.shrink_to_fit()
    face.same_arrays(single, many)


def sample():
    documents = Documents()
    documents.add_many(["a", "b", "\ud800"], ["one", "zwei €", ""], ["A", None, "漢字"])
    return documents


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda documents: documents.add("a", "again"), ValueError),
        (lambda documents: documents.add(1, "x"), TypeError),
        (lambda documents: documents.add("x", b"x"), TypeError),
        (lambda documents: documents.add("x", "x", 1), TypeError),
        (lambda documents: documents.add_many(["x", "y", "x"], ["1", "2", "3"]), ValueError),
        (lambda documents: documents.add_many(["x", "y", "b"], ["1", "2", "3"]), ValueError),
        (lambda documents: documents.add_many(["x", "y"], ["1"]), ValueError),
        (lambda documents: documents.add_many(["x", "y"], ["1", "2"], ["t"]), ValueError),
        (lambda documents: documents.add_many(["x", 2], ["1", "2"]), TypeError),
        (lambda documents: documents.add_many(["x", "y"], ["1", None]), TypeError),
        (lambda documents: documents.add_many(["x", "y"], ["1", "2"], ["t", 3]), TypeError),
        (lambda documents: documents.add_many("xy", ["1", "2"]), TypeError),
        (lambda documents: documents.add_many({"x"}, ["1"]), TypeError),
        (lambda documents: documents.row_of("x"), KeyError),
        (lambda documents: documents.row_of(0), TypeError),
        (lambda documents: documents.rows_of("a"), TypeError),
        (lambda documents: documents.text(3), IndexError),
        (lambda documents: documents.title(-1), IndexError),
        (lambda documents: documents.id_of(2**70), ValueError),
        (lambda documents: documents.id_of(True), TypeError),
        (lambda documents: documents.texts([0, 3]), IndexError),
        (lambda documents: documents.ids_of([-1]), IndexError),
        (lambda documents: documents.titles([0.0]), TypeError),
        (lambda documents: documents.reserve(-1), ValueError),
        (lambda documents: documents.reserve(1, -1), ValueError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    documents = sample()
    with pytest.raises(error):
        call(documents)
    documents.check()
    face.same_arrays(documents, sample())


def test_nothing_is_fine():
    documents = Documents()
    assert documents.add_many([], []).shape == (0,) and documents.rows_of([]).shape == (0,)
    assert documents.texts([]) == [] and len(documents) == 0 and "" not in documents
    documents.shrink_to_fit()
    documents.check()
    assert documents.add("", "") == 0 and documents.row_of("") == 0 and documents.text(0) == ""


def test_arrays_of_str_are_sequences_too():
    documents = Documents()
    documents.add_many(np.array(["x", "yy"]), np.array(["1", "2"], object), np.array(["t", "u"]))
    assert documents.rows_of(np.array(["yy", "x"])).tolist() == [1, 0]
    assert documents.title(np.int32(1)) == "u"


def test_other_things_are_not_contained():
    assert 5 not in sample() and None not in sample() and "a" in sample()


@njit
def in_upper_case(arrays):
    """Turn the ASCII letters of all texts into upper case; return the number of documents."""
    for row in range(arrays.head[kernels.COUNT]):
        text = kernels.PARTS * row + kernels.TEXT
        for at in range(arrays.offsets[text], arrays.offsets[text + 1]):
            if 97 <= arrays.data[at] < 123:
                arrays.data[at] -= 32
    return arrays.head[kernels.COUNT]


def test_a_loop_of_the_users_own_runs_on_the_arrays():
    documents = Documents()
    documents.add_many(["a", "b"], ["first", "né"])
    before = documents.arrays
    assert in_upper_case(documents.arrays) == 2 and documents.texts([0, 1]) == ["FIRST", "Né"]
    assert documents.ids_of([0, 1]) == ["a", "b"]
    documents.check()
    documents.reserve(100)
    assert not any(np.shares_memory(*pair) for pair in zip(before, documents.arrays, strict=True))


def test_long_calls_run_in_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    documents, n = Documents(), 50
    documents.add_many([f"é{i}" for i in range(n)], [f"text {i}" for i in range(n)])
    with pytest.raises(ValueError, match="'é49' is already present"):
        documents.add_many([*map(str, range(20)), "é49"], ["x"] * 21)
    with pytest.raises(ValueError, match="'0' occurs twice"):
        documents.add_many([*map(str, range(20)), "0"], ["x"] * 21)
    documents.check()
    assert len(documents) == n and documents.texts(range(n)) == [f"text {i}" for i in range(n)]


def test_an_interrupted_call_keeps_a_whole_prefix(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    append, calls = kernels.append, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(*arguments)

    monkeypatch.setattr(kernels, "append", interrupted)
    documents = Documents()
    with pytest.raises(KeyboardInterrupt):
        documents.add_many([str(i) for i in range(50)], ["x"] * 50)
    documents.check()
    assert len(documents) == 14 and "13" in documents and "14" not in documents


def test_memory_is_what_reserve_asked_for():
    documents = Documents()
    documents.reserve(1000, 30_000)
    before = documents.nbytes
    documents.add_many([str(i) for i in range(1000)], ["x" * 20] * 1000)
    assert documents.nbytes == before == sum(array.nbytes for array in documents.arrays)
    documents.shrink_to_fit()
    assert documents.nbytes < before
    documents.check()


def test_readers_see_whole_documents_while_one_thread_adds():
    documents, wrong, stop = Documents(), [], threading.Event()

    def read():
        while not stop.is_set():
            n = len(documents)
            if n and (documents.text(n - 1), documents.row_of(str(n - 1))) != (f"text {n - 1}", n - 1):
                wrong.append(n)

    threads = [threading.Thread(target=read) for _ in range(2)]
    [thread.start() for thread in threads]
    for i in range(2000):
        documents.add(str(i), f"text {i}")
    stop.set()
    [thread.join() for thread in threads]
    assert not wrong
    documents.check()


def test_each_kernel_is_compiled_once(tmp_path):
    sample().save(tmp_path / "documents.npz")
    for documents in (Documents(), sample(), Documents.load(tmp_path / "documents.npz")):
        documents.add("x", "y"), documents.add_many(np.array(["p", "q"]), ["1", "2"])
        documents.row_of("x"), documents.rows_of(["x"]), documents.shrink_to_fit(), documents.check()
    used = [kernels.append, strings.find_one, strings.find_many, strings.first_repeat, strings.rehash]
    used += [strings.first_fault, strings.splits_no_character]
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)
    inner = [strings.insert, strings.find, strings.tag]  # not compiled at all where the cache holds their callers
    assert max(len(kernel.signatures) for kernel in inner) <= 1


def test_files_and_pickles_keep_everything(tmp_path):
    documents = sample()
    documents.reserve(100, 1000)
    for other in face.keeps_everything(documents, tmp_path):
        assert other.texts([0, 1, 2]) == ["one", "zwei €", ""] and other.row_of("\ud800") == 2
        assert other.add("new", "text") == 3 and other.text(3) == "text"
        other.check()


def test_no_damaged_file_passes_or_crashes(tmp_path):
    face.survives_damage(sample(), tmp_path, rounds=600)
    face.refuses_other_files(Documents, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays["offsets"].__setitem__(1, 2**62),
        lambda arrays: arrays["offsets"].__setitem__(1, -5),
        lambda arrays: arrays["offsets"].__setitem__(0, 1),
        lambda arrays: arrays["offsets"].__setitem__(5, arrays["offsets"][5] - 1),
        lambda arrays: arrays["data"].__setitem__(2, 0xFF),
        lambda arrays: arrays["buckets"].fill(5),
        lambda arrays: arrays["buckets"].fill(-7),
        lambda arrays: arrays["buckets"].fill(-1),
        lambda arrays: arrays.update(buckets=arrays["buckets"][:3].copy()),
        lambda arrays: arrays.update(buckets=np.empty(0, np.int64)),
        lambda arrays: arrays.update(offsets=arrays["offsets"][:-1].copy()),
        lambda arrays: arrays.update(offsets=np.empty(0, np.int64)),
        lambda arrays: arrays.update(data=arrays["data"][:-1].copy()),
    ],
)
def test_every_array_is_examined_before_it_is_used(change):
    arrays = {name: array.copy() for name, array in sample()._to_arrays().items()}
    change(arrays)
    with pytest.raises(ValueError, match="damaged"):
        Documents._restored(arrays, "here")
