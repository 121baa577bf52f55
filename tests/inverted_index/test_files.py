"""Indexes in files and pickles: whole, mapped, damaged, and written by an older version."""

import gzip
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmds.base import files as storage
from llmds.inverted_index import search as searching
from llmds.inverted_index.index import InvertedIndex
from llmds.kernels.inverted_index import blocks
from llmds.kernels.inverted_index import segment as segments
from llmds.tokenizer.tokenizer import Tokenizer
from tests import face
from tests.inverted_index.model import METHODS, QUERIES, Model, agrees, filled, tails_of

OLD = Path(__file__).parent.parent / "data"
NAMES = ("ids", "lengths", "buckets", "dictionary", "postings", "block_last", "block_at", "block_best")


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """Searches keep what they work out of however small a segment, damaged or not."""
    monkeypatch.setattr(searching, "_LARGE", 1)


def upper(term):
    return term.upper()


def same_answers(one, other, queries=QUERIES):
    for mine, theirs in zip(one.search_batch(queries, 30), other.search_batch(queries, 30), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(one) == len(other)


@pytest.mark.parametrize("method", METHODS)
def test_files_and_pickles_keep_everything(tmp_path, method, monkeypatch):
    tails_of(monkeypatch, 700)
    given = {"delta": 0.25} if method in ("bm25+", "bm25l") else {}
    index, model = filled(400, method=method, k1=0.9, b=0.6, **given)
    before = index.search_batch(QUERIES, 30)
    copies = face.keeps_everything(index, tmp_path)
    copies.append(InvertedIndex.load(tmp_path / "structure.npz", mmap=True))
    for other in copies:
        for mine, theirs in zip(before, other.search_batch(QUERIES, 30), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert {**other.stats(), "bytes_per_posting": 0} == {**index.stats(), "bytes_per_posting": 0}
        assert repr(other) == repr(index) and method in repr(other) and other._settings == index._settings
        other.add_document(9, "w1 w1 new")
        other.remove_document(next(iter(model.documents)))
        other.check()
        assert other.search("new")[0][0] == 9
    for other in copies[1:]:
        same_answers(other, copies[0])
        face.same_arrays(other, copies[0])


def test_an_empty_index_can_be_kept(tmp_path):
    emptied = InvertedIndex(k1=0.5, b=0.25)
    emptied.add_document(1, "a")
    emptied.remove_document(1)
    for number, index in enumerate((InvertedIndex(k1=0.5, b=0.25), emptied)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for other in [*face.keeps_everything(index, folder), InvertedIndex.load(folder / "structure.npz", mmap=True)]:
            assert repr(other) == repr(index) and "k1=0.5" in repr(other) and other.search("a") == []
            other.add_document(1, "a")
            other.check()
            assert other.search("a")[0][0] == 1
    texts = InvertedIndex()
    texts.add_documents([4, 5], ["", ""])
    for other in face.keeps_everything(texts, tmp_path / "0"):
        assert len(other) == 2 and 4 in other


def test_saving_brings_everything_into_one_segment_and_changes_no_answer(tmp_path):
    index, _ = filled()
    before = index.search_batch(QUERIES, 50)
    index.save(tmp_path / "index.npz")
    np.testing.assert_array_equal(before, index.search_batch(QUERIES, 50))
    with zipfile.ZipFile(tmp_path / "index.npz") as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    with np.load(tmp_path / "index.npz", allow_pickle=False) as members:
        assert set(members.files) == {"format", "settings", "fingerprint", *NAMES}
        assert len(members["ids"]) == len(index) == 280 and str(members["format"]) == "llmds InvertedIndex 2"


def test_a_file_is_read_with_the_analysis_that_made_it(tmp_path):
    path = tmp_path / "index.npz"
    index = InvertedIndex(stop_words="english", stemmer=upper)
    index.add_document(1, "the word")
    index.save(path)
    for same in (
        {"stop_words": "english", "stemmer": upper},
        {"tokenizer": Tokenizer(stop_words="english", stemmer=upper)},
    ):
        for mmap in (False, True):
            assert InvertedIndex.load(path, **same, mmap=mmap).search("THE wOrd") == index.search("word")
    for other in (
        {},
        {"stop_words": "english"},
        {"stop_words": ["the"], "stemmer": upper},
        {"tokenizer": str.split},
    ):
        with pytest.raises(ValueError, match="another analysis"):
            InvertedIndex.load(path, **other)


def test_a_mapped_index_leaves_its_file_alone(tmp_path):
    path, twin = tmp_path / "index.npz", filled(600)[0]
    filled(600)[0].save(path)
    before = path.read_bytes()
    index = InvertedIndex.load(path, mmap=True)
    twin.shrink_to_fit()
    for each in (index, twin):
        for doc_id in sorted(each._view.ids().tolist())[::5]:
            each.remove_document(doc_id)
        each.add_documents(range(7000, 7200), [f"w1 w{i % 60} new{i}" for i in range(200)])
        each.add_document(7000, "replaced w1")
        each.check()
    same_answers(index, twin, [*QUERIES, "new5", "replaced"])
    assert path.read_bytes() == before and len(InvertedIndex.load(path)) == 580
    index.save(path)  # over the file that is mapped
    index.check()
    for each in (index, InvertedIndex.load(path), InvertedIndex.load(path, mmap=True)):
        same_answers(each, twin, [*QUERIES, "new5", "replaced"])
        each.shrink_to_fit()
        face.same_arrays(each, index)


def test_mapping_does_not_read_postings(tmp_path):
    path = tmp_path / "index.npz"
    index, _ = filled(600)
    index.save(path)
    data, postings = bytearray(path.read_bytes()), index._view.segments[0].arrays.postings
    found = data.find(postings[200:260].tobytes())
    assert found > 0
    data[found] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        InvertedIndex.load(path)
    loaded = InvertedIndex.load(path, mmap=True)
    assert len(loaded) == len(index) and loaded.search_batch(QUERIES, 5)[0].shape == (len(QUERIES), 5)
    with pytest.raises(AssertionError):
        loaded.check()


@pytest.mark.parametrize("n", [40, 500])
def test_no_damaged_file_passes_or_crashes(tmp_path, n):
    index, _ = filled(n)
    face.survives_damage(index, tmp_path, rounds=500)
    face.refuses_other_files(InvertedIndex, tmp_path)


class Searched(InvertedIndex):
    """An index whose check is whether it can be used: what was mapped is not read before."""

    def check(self):
        used(self)
        assert self._mapped_fault() is None


class Mapped(Searched):
    @classmethod
    def load(cls, path):
        return Searched.load(path, mmap=True)


Searched.__name__ = Mapped.__name__ = "InvertedIndex"  # what their files say they hold


def used(index):
    """Everything that reads postings, and then writes them; results are documents, whatever else they are."""
    known = index._view.ids()
    for threads, k in ((1, 3), (2, len(known) + 1)):
        found, scores = index.search_batch(QUERIES * 10, k, threads=threads)
        assert np.isin(found, [-1, *known]).all() and not np.isnan(scores).any()
    index.search("w1 w2 w3", 5, filter=known[::2]), index.search(QUERIES[-1], 10**6)
    index.score_many(QUERIES, np.tile(known[:40], (len(QUERIES), 1)))
    for doc_id in known[:3].tolist():
        index.explain("w1 w2 w90", doc_id), index.get_term_frequency("w1", doc_id)
    index.stats(), index.get_document_frequency("w2")
    for doc_id in known[::4].tolist():
        index.remove_document(doc_id)
    index.search_batch(QUERIES, 5), index.stats()
    index.add_documents(range(2**40, 2**40 + 50), [f"w1 w2 w{i} new{i}" for i in range(50)])
    index.search_batch(QUERIES, 5)
    index.shrink_to_fit()
    found = index.search_batch([*QUERIES, "new3"], 5)[0]
    assert found[-1, 0] == 2**40 + 3 and np.isin(found, [-1, *index._view.ids()]).all()


@pytest.mark.parametrize("n", [40, 500])
def test_no_damaged_file_crashes_when_it_is_mapped(tmp_path, n):
    index, _ = filled(n)
    index.__class__ = Mapped
    face.survives_damage(index, tmp_path, rounds=200)


@pytest.mark.parametrize("seed", range(6))
def test_postings_that_are_garbage_are_harmless(seed):
    """They are not examined when a file is mapped: whatever they are, nothing outside is read or written."""
    chance = np.random.default_rng(seed)
    good = filled(700)[0]._to_arrays()
    for turn in range(25):
        arrays = {name: array.copy() for name, array in good.items()}
        postings = arrays["postings"]
        if turn % 5 == 0:
            postings[:] = chance.integers(0, 256, len(postings))
        elif turn % 5 == 1:
            postings[:] = 255
        elif turn % 5 == 2:  # headers of blocks
            postings[arrays["block_at"]] = chance.integers(0, 256, len(arrays["block_at"]))
            postings[arrays["block_at"] + 1] = chance.integers(0, 256, len(arrays["block_at"]))
        else:
            places = chance.integers(0, len(postings), 300)
            postings[places] = chance.integers(0, 256, 300)
        if turn % 2:
            arrays["block_best"][:] = chance.integers(0, 256, len(arrays["block_best"]))
            arrays["block_last"][:] = chance.integers(0, len(arrays["ids"]), len(arrays["block_last"]))
            arrays["block_at"][:] = chance.permutation(arrays["block_at"])
        used(InvertedIndex._restored(arrays, "here", True, tokenizer=Tokenizer()))


GUARDED = [
    ("ids", 3, -1),
    ("ids", 3, 0),
    ("ids", 3, "ids[4]"),
    ("lengths", 3, -1),
    ("buckets", (0, 0), 1),
    ("buckets", (1, 0), 0),
    ("buckets", (1, 0), 2**32 - 1),
    ("buckets", (1, 1), 2**32 - 1),
    ("buckets", (1, 2), 7),
    ("buckets", (-1, 0), 0),
    ("buckets", (-1, 1), 0),
    ("buckets", (-1, 2), 0),
    ("dictionary", 0, 255),
    ("dictionary", 0, 0),
    ("dictionary", 1, 0),
    ("dictionary", 2, 0),
    ("dictionary", 2, 127),
    ("dictionary", slice(0, 3), 255),
    ("dictionary", slice(None), 255),
    ("dictionary", slice(None), 0),
    ("block_last", 0, -1),
    ("block_last", 0, "len(ids)"),
    ("block_at", 0, 2**32 - 1),
    ("block_at", 0, "len(postings) - 1"),
    ("settings", 0, -1.0),
    ("settings", 0, np.nan),
    ("settings", 1, 1.5),
    ("settings", 2, 5.0),
    ("settings", 2, 0.5),
    ("settings", 3, -1.0),
    ("settings", 3, np.nan),
    ("settings", 4, -1.0),
    ("settings", 4, np.inf),
    ("settings", 4, np.nan),
    ("settings", 4, 1e-300),
    ("fingerprint", 0, 255),
]
GUARDED_UNLESS_MAPPED = [
    ("lengths", 3, 10**6),
    ("dictionary", 1, 127),  # the df of a term
    ("block_last", 0, 3),
    ("block_at", 0, 3),
    ("block_best", 1, 0),
    ("block_best", 1, 0x7C),
    ("block_best", 1, 0xFF),
    ("postings", 0, 0xFF),
    ("postings", slice(40, 60), 0xFF),
]


def tampered(name, at, value, mmap):
    arrays = {key: array.copy() for key, array in filled(500)[0]._to_arrays().items()}
    assert len(arrays["block_last"]) > 3 and len(arrays["buckets"]) > 3
    arrays[name][at] = eval(value, arrays) if isinstance(value, str) else value
    return InvertedIndex._restored(arrays, "here", mmap, tokenizer=Tokenizer())


@pytest.mark.parametrize("name, at, value", GUARDED)
def test_each_invariant_is_guarded(name, at, value):
    for mmap in (False, True):
        with pytest.raises(ValueError):
            tampered(name, at, value, mmap)


@pytest.mark.parametrize("name, at, value", GUARDED_UNLESS_MAPPED)
def test_postings_are_examined_unless_they_are_mapped(name, at, value):
    with pytest.raises(ValueError, match="here"):
        tampered(name, at, value, False)
    loaded = tampered(name, at, value, True)
    with pytest.raises(AssertionError):
        loaded.check()
    used(loaded)


@pytest.mark.parametrize("name", [*NAMES, "settings", "fingerprint"])
def test_arrays_that_are_missing_cut_or_of_another_type_are_refused(name):
    arrays = filled(500)[0]._to_arrays()
    for other in (
        {key: array for key, array in arrays.items() if key != name},
        {**arrays, name: arrays[name][..., None]},
        {**arrays, name: arrays[name].astype(np.complex64)},
        {**arrays, name: arrays[name][:-1]},
        {**arrays, name: arrays[name][:0]},
        {**arrays, name: np.concatenate([arrays[name], arrays[name][-1:]])},
        {**arrays, "more": arrays[name]},
    ):
        for mmap in (False, True):
            with pytest.raises(ValueError):
                InvertedIndex._restored(other, "here", mmap, tokenizer=Tokenizer())


# Files of version 1


def old_documents(name):
    """What the files of version 1 were made of: (options, id -> text)."""
    if name == "empty":
        return {"b": 1.0}, {}
    chance = np.random.default_rng({"plain": 12, "options": 13}[name])
    if name == "options":
        texts = [*old_texts(chance, 149), "w3 " * 5000]
        return {"k1": 0.9, "b": 0.4, "stop_words": ["w1"]}, dict(
            zip((np.arange(150) * 2**50).tolist(), texts, strict=True)
        )
    ids = chance.permutation(1000)[:300].tolist()
    documents = dict(zip(ids, old_texts(chance, 300), strict=True))
    documents |= dict.fromkeys(ids[20:30], "w1 w2 w2 é")
    return {}, {doc_id: text for doc_id, text in documents.items() if doc_id not in ids[:20]}


def old_texts(chance, n):
    return [" ".join(f"w{t}" for t in chance.zipf(1.4, chance.integers(0, 25)) if t < 80) for _ in range(n)]


@pytest.fixture(params=["plain", "options", "empty"])
def old(request, tmp_path):
    path = tmp_path / "old.npz"
    path.write_bytes(gzip.decompress((OLD / f"bm25_v1_{request.param}.npz.gz").read_bytes()))
    return path, *old_documents(request.param)


def test_files_of_version_1_are_read(old, tmp_path):
    path, options, documents = old
    stop = options.get("stop_words", [])
    model = Model(options.get("k1", 1.2), options.get("b", 0.75))
    for doc_id, text in documents.items():
        model.documents[doc_id] = Counter(word for word in text.split() if word not in stop)
    fresh = InvertedIndex(**options)
    fresh.add_documents(np.array([*documents], np.int64), [*documents.values()])
    queries = ["w1 w2 w3", "w2", "é w7 w7", "w40 w50 w60 w3", "nothing"]
    for mmap in (False, True):
        index = InvertedIndex.load(path, stop_words=options.get("stop_words"), mmap=mmap)
        index.check()
        assert len(index) == len(documents) and index._settings == fresh._settings
        for query in queries:
            agrees(index.search(query, 500), model.search(" ".join(w for w in query.split() if w not in stop)), 500)
        same_answers(index, fresh, queries)
        assert index.get_term_frequency("w3", 149 * 2**50) == (5000 if stop else 0)
        index.save(tmp_path / "new.npz")
        face.same_arrays(InvertedIndex.load(tmp_path / "new.npz", stop_words=options.get("stop_words")), index)
        face.same_arrays(index, fresh)
        index.add_document(5, "w1 w2 new")
        assert index.search("new")[0][0] == 5
        index.check()


def test_no_damaged_file_of_version_1_passes_or_crashes(old, tmp_path, monkeypatch):
    path, options, _ = old
    index = InvertedIndex.load(path, stop_words=options.get("stop_words"))
    monkeypatch.setattr(InvertedIndex, "save", lambda self, target: Path(target).write_bytes(path.read_bytes()))
    face.survives_damage(index, tmp_path, rounds=200, stop_words=options.get("stop_words"))


def test_an_unknown_version_or_a_mixture_is_refused(old, tmp_path):
    path, options, _ = old
    arrays = storage.read(path, "InvertedIndex", 1)
    given = {"tokenizer": Tokenizer(stop_words=options.get("stop_words"))}
    assert isinstance(InvertedIndex._restored(dict(arrays), "here", **given), InvertedIndex)
    for other in (
        {**arrays, "ids": arrays["doc_ids"]},
        {name: array for name, array in arrays.items() if name != "tfs"},
        {**arrays, "settings": np.zeros(5)},
        {**arrays, "head": arrays["head"][:-1]},
        {**arrays, "terms": arrays["terms"][:, :-1]},
        {**arrays, "vocabulary.head": arrays["vocabulary.head"][:1]},
    ):
        with pytest.raises(ValueError, match="here"):
            InvertedIndex._restored(other, "here", **given)


def test_padding_is_there():
    """Decoders read past what they decode."""
    arrays = filled(40)[0]._to_arrays()
    assert blocks.PAD == segments.PAD and all(
        not arrays[name][-blocks.PAD :].any() for name in ("dictionary", "postings")
    )
