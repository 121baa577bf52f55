"""Indexes in files and pickles: whole, mapped, damaged, and written by an older version."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from llmds.base import files as storage
from llmds.hnsw.index import HNSW
from llmds.kernels.hnsw import layout as kernels
from tests import face
from tests.hnsw.model import KINDS, METRICS, agrees, built, clustered, exact, kept

FEW_KINDS = [(None, "float32"), ("int8", "float16"), ("int4", "float32"), ("int8", None)]
OLD = Path(__file__).parent.parent / "data"


def small(kind, metric="l2", n=40):
    """Twins, several tiers, slots and rows above that are free, and others that wait to be."""
    vectors = np.concatenate([clustered(n - 5, 3, 26), np.ones((5, 3))])
    index = built(vectors, metric, kind, M=3, ef_construction=10, seed=5, ml=1.0)
    index.remove_many(np.arange(0, n, 9))
    index.update(5, [3, 4, 5])
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_files_and_pickles_keep_everything(tmp_path, metric, kind):
    vectors = np.concatenate([clustered(300, 5, 23), np.ones((20, 5), np.float32)])
    settings = {"M": 6, "ef_construction": 30, "ef_search": 17, "ml": 0.7, "seed": 9}
    index = built(vectors, metric, kind, np.arange(320) * 7, **settings)
    index.remove_many(np.arange(0, 320, 3) * 7)
    more = clustered(50, 5, 24)
    copies = face.keeps_everything(index, tmp_path)
    copies.append(HNSW.load(tmp_path / "structure.npz", mmap=True))
    face.same_arrays(copies[0], copies[-1])
    index.shrink_to_fit()
    for each in copies:
        assert each.stats()["num_vectors"] == len(each) == len(index) == 213
        assert (each.M, each.ef_construction, each.ef_search, each.ml, each.metric) == (6, 30, 17, 0.7, metric)
        assert (each.quantization, each.vectors) == kind
        for ef in (5, 320):
            for mine, theirs in zip(index.search_batch(more, 3, ef=ef), each.search_batch(more, 3, ef=ef), strict=True):
                np.testing.assert_array_equal(mine, theirs)
        each.check()
    for each in (index, *copies):
        each.add_many(more, np.arange(5000, 5050))  # the random state came along
        each.remove_many(np.arange(5000, 5010))
        each.check()
    for each in copies:
        face.same_arrays(index, each)


def test_an_empty_index_can_be_kept(tmp_path):
    for kind in KINDS:
        empty, emptied = HNSW(3, seed=1, quantization=kind[0], vectors=kind[1]), small(kind)
        emptied.remove_many([vec_id for vec_id in range(40) if vec_id in emptied])
        for number, index in enumerate((empty, emptied)):
            folder = tmp_path / f"{kind}{number}"
            folder.mkdir()
            for other in [*face.keeps_everything(index, folder), HNSW.load(folder / "structure.npz", mmap=True)]:
                assert len(other) == 0 and other.search([1, 2, 3], 1) == []
                other.add([1, 2, 3], 4)
                assert [vec_id for vec_id, _ in other.search([1, 2, 3], 1)] == [4]


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_a_saved_file_has_neither_dead_slots_nor_free_rows(tmp_path, kind):
    index = built(clustered(500, 24, 27), kind=kind)
    index.remove_many(np.arange(400))
    index.save(tmp_path / "index.npz")
    with np.load(tmp_path / "index.npz", allow_pickle=False) as members:
        assert len(members["ids"]) == len(members["nodes"]) == 100 and (members["ids"] >= 400).all()
        assert len(members["upper"]) == members["nodes"][:, kernels.TIER].sum()
    assert index._state.size == 500, "saving leaves the index as it is"
    with zipfile.ZipFile(tmp_path / "index.npz") as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


@pytest.mark.parametrize("metric, kind", [*zip(METRICS, FEW_KINDS[:3], strict=True), ("l2", ("int8", None))])
def test_no_damaged_file_passes_or_crashes(tmp_path, metric, kind):
    index = small(kind, metric, 30)
    face.survives_damage(index, tmp_path, rounds=200)
    face.refuses_other_files(HNSW, tmp_path)


class Searched(HNSW):
    """An index whose check is whether it can be used: what was mapped is not read before."""

    def check(self):
        found, distances = self.search_batch(np.eye(3), 5, ef=40)
        assert not np.isnan(distances).any() and np.isin(found, [-1, *self._to_arrays()["ids"]]).all()
        self.search_batch(np.eye(3), 5, ef=1), self.search([1, 2, 3], 3, filter=self._to_arrays()["ids"][::2])
        self.search([1, 2, 3], 3, group_by=lambda ids: ids % 3), self.stats()
        self.add_many(np.eye(3), [2**40, 2**40 + 1, 2**40 + 2])
        self.remove_many(self._to_arrays()["ids"][:10])
        assert self._mapped_fault() is None


Searched.__name__ = "HNSW"  # what its files say they hold


@pytest.mark.parametrize("metric, kind", [*zip(METRICS, FEW_KINDS[:3], strict=True), ("ip", ("int4", None))])
def test_no_damaged_file_crashes_when_it_is_mapped(tmp_path, metric, kind):
    index = small(kind, metric, 30)
    index.__class__ = Mapped
    face.survives_damage(index, tmp_path, rounds=250)


class Mapped(Searched):
    @classmethod
    def load(cls, path):
        return Searched.load(path, mmap=True)


Mapped.__name__ = "HNSW"


GUARDED = [
    ("links", (3, 0), 3),
    ("links", (3, 0), 40),
    ("links", (3, 0), -2),
    ("links", (3, 1), "links[3, 0]"),
    ("links", (3, 0), -1),
    ("upper", (0, 0), 1000),
    ("upper", (0, 0), -2),
    ("upper", (0, 3), 0),
    ("upper", (0, 3), 1000),
    ("upper", (0, 3), -2),
    ("nodes", (3, kernels.LEVEL), 100),
    ("nodes", (3, kernels.LEVEL), kernels.DEAD),
    ("nodes", (3, kernels.LEVEL), kernels.JOINING),
    ("nodes", (3, kernels.TIER), 1000),
    ("nodes", (3, kernels.TIER), -1),
    ("nodes", (3, kernels.UPPER), -5),
    ("nodes", (3, kernels.UPPER), 1000),
    ("nodes", (3, kernels.TWIN), 3),
    ("nodes", (3, kernels.TWIN), 4),
    ("nodes", (3, kernels.TWIN), 1000),
    ("nodes", (3, kernels.PARENT), 3),
    ("nodes", (3, kernels.PARENT), 1000),
    ("nodes", (3, kernels.PARENT), "nodes[39, 4]"),
    ("nodes", (3, kernels.CHILDREN), "nodes[3, 5] + 1"),
    ("nodes", (3, kernels.CHILDREN), -1),
    ("nodes", (39, kernels.TWIN), 39),
    ("nodes", (39, kernels.LEVEL), 0),
    ("nodes", (39, kernels.PARENT), 3),
    ("nodes", (39, kernels.PARENT), -1),
    ("nodes", (39, kernels.CHILDREN), 3),
    ("nodes", (39, kernels.CHILDREN), 1000),
    ("ids", 3, 4),
    ("ids", 3, -1),
    ("ids", 3, -(2**63)),
    ("entry", (), 40),
    ("entry", (), -1),
    ("entry", (), 39),
    ("coded", (), -1),
    ("settings", 0, 40),
    ("settings", 0, 2**40),
    ("settings", 1, 4),
    ("settings", 1, 0),
    ("settings", 2, 0),
    ("settings", 3, 0),
    ("settings", 4, 3),
    ("settings", 4, -1),
    ("settings", 5, 4),
    ("settings", 5, 5),
    ("settings", 6, 16),
    ("settings", 6, 8),
    ("ml", (), np.nan),
    ("ml", (), 4.0),
    ("random", 624, 1000),
    ("terms", (3, 0), np.nan),
    ("terms", (3, 1), np.inf),
    ("frame", (0, 0), np.inf),
    ("frame", (1, 5), np.nan),
]
GUARDED_UNLESS_MAPPED = [
    ("vectors", (3, 0), np.nan),
    ("vectors", (3, 0), np.inf),
    ("vectors", (3, 15), 1.0),
    ("vectors", (39, 0), 5.0),
]


def tampered(name, at, value, mmap):
    vectors = np.concatenate([clustered(38, 3, 26), np.ones((2, 3))])
    index = built(vectors, kind=("int8", "float32"), M=3, ef_construction=10, seed=5, ml=1.0)
    arrays = {key: array.copy() for key, array in index._to_arrays().items()}
    assert arrays["nodes"][39, kernels.LEVEL] == kernels.TWINNED and arrays["nodes"][3, kernels.LEVEL] >= 0
    assert len(arrays["upper"]) > 0
    arrays[name][at] = eval(value, arrays) if isinstance(value, str) else value
    return HNSW._restored(arrays, "here", mmap)


@pytest.mark.parametrize("name, at, value", GUARDED)
def test_each_invariant_is_guarded(name, at, value):
    for mmap in (False, True):
        with pytest.raises(ValueError, match="here"):
            tampered(name, at, value, mmap)


@pytest.mark.parametrize("name, at, value", GUARDED_UNLESS_MAPPED)
def test_vectors_are_examined_unless_they_are_mapped(name, at, value):
    with pytest.raises(ValueError, match="here"):
        tampered(name, at, value, False)
    loaded = tampered(name, at, value, True)
    loaded.search_batch(np.eye(3), 5, ef=40), loaded.search_batch(np.eye(3), 2, ef=2)
    with pytest.raises(AssertionError):
        loaded.check()


@pytest.mark.parametrize("name", list(built(np.eye(3))._to_arrays()))
def test_arrays_that_are_missing_cut_or_of_another_type_are_refused(name):
    arrays = built(clustered(40, 3, 28))._to_arrays()
    for other in (
        {key: array for key, array in arrays.items() if key != name},
        {**arrays, name: arrays[name][..., None]},
        {**arrays, name: arrays[name].astype(np.complex64)},
        {**arrays, name: arrays[name][:-1] if arrays[name].ndim else arrays[name].astype(np.int16)},
        {**arrays, name: arrays[name][..., :-1] if arrays[name].ndim > 1 else arrays[name].astype(np.int16)},
    ):
        with pytest.raises(ValueError):
            HNSW._restored(other, "here")


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_a_mapped_index_leaves_its_file_alone(tmp_path, kind):
    path = tmp_path / "index.npz"
    vectors = clustered(400, 24, 29)
    built(vectors[:300], kind=kind).save(path)
    before = path.read_bytes()
    index = HNSW.load(path, mmap=True)
    index.remove_many(np.arange(0, 300, 2))
    index.update(1, vectors[350])
    index.add_many(vectors[300:], np.arange(300, 400))
    index.check()
    assert path.read_bytes() == before and len(HNSW.load(path)) == 300
    expected = index.search_batch(vectors, 5, ef=400)
    index.save(path)  # over the file that is mapped
    index.check()
    for each in (index, HNSW.load(path), HNSW.load(path, mmap=True)):
        np.testing.assert_array_equal(each.search_batch(vectors, 5, ef=400)[0], expected[0])


@pytest.mark.parametrize("member", ["vectors", "codes"])
def test_mapping_does_not_read_vectors_and_codes(tmp_path, member):
    path = tmp_path / "index.npz"
    index = built(clustered(100, 24, 30))
    index.save(path)
    data = bytearray(path.read_bytes())
    found = data.find(index._to_arrays()[member][50].tobytes())
    data[found] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        HNSW.load(path)
    assert len(HNSW.load(path, mmap=True)) == 100


@pytest.fixture(params=METRICS)
def old(request, tmp_path):
    """A file of version 1: 163 vectors of 5 numbers under the ids 1, 4, 7 and so on, 42 of them equal to others."""
    vectors = np.round(clustered(120, 5, 40), 2)
    vectors = np.concatenate([vectors, vectors[:20], vectors[:20], np.ones((3, 5))]).astype(np.float32)
    path = tmp_path / "old.npz"
    path.write_bytes(gzip.decompress((OLD / f"hnsw_v1_{request.param}.npz.gz").read_bytes()))
    return path, vectors, request.param


def test_files_of_version_1_are_read(old, tmp_path):
    path, vectors, metric = old
    queries, ids = clustered(30, 5, 41), np.arange(163) * 3 + 1
    expected = exact(kept(vectors, metric, "float32"), queries, metric)
    for mmap in (False, True):
        index = HNSW.load(path, mmap=mmap)
        index.check()
        assert (len(index), index.M, index.ef_construction, index.ef_search, index.ml) == (163, 3, 20, 33, 1.2)
        assert (index.metric, index.quantization, index.vectors) == (metric, None, "float32")
        assert index.stats()["unreachable"] == 0 and index.stats()["num_duplicates"] >= 38
        np.testing.assert_allclose(index.get_vectors(ids), kept(vectors, metric, "float32"), atol=1e-6)
        for query, own in zip(queries, expected, strict=True):
            agrees(index.search(query, 20, ef=163), ids.tolist(), own, 20)
        assert (index.search_batch(queries, 5, ef=10)[0] >= 0).all()
        index.remove_many(ids[::2])
        index.check()
        index.add_many(vectors[::2], ids[::2])
        index.check()
        for query, own in zip(queries, expected, strict=True):
            agrees(index.search(query, 20, ef=163), ids.tolist(), own, 20)
        index.save(tmp_path / "new.npz")
        face.same_arrays(HNSW.load(tmp_path / "new.npz"), index)


def test_no_damaged_file_of_version_1_passes_or_crashes(old, tmp_path, monkeypatch):
    path, _, _ = old
    index = HNSW.load(path)
    monkeypatch.setattr(HNSW, "save", lambda self, target: Path(target).write_bytes(path.read_bytes()))
    face.survives_damage(index, tmp_path, rounds=150)


@pytest.mark.parametrize(
    "name, at, value",
    [
        ("settings", 0, 2**62),
        ("settings", 0, -1),
        ("settings", 0, 40),
        ("settings", 1, 0),
        ("settings", 1, 2**62),
        ("settings", 4, 7),
        ("ml", (), np.inf),
        ("ml", (), np.nan),
        ("nodes", (0, 3), 0),
        ("nodes", (0, 3), 1000),
        ("nodes", (0, 3), -7),
        ("nodes", ("tallest", 2), 10**6),
        ("nodes", ("tallest", 2), -(10**6)),
        ("nodes", ("tallest", 1), 10**6),
        ("nodes", ("tallest", 1), -1),
        ("nodes", (0, 4), 10**6),
        ("nodes", (0, 4), 0),
        ("nodes", (0, 0), 10**6),
        ("entry", (), 10**6),
        ("ids", 0, 4),
    ],
)
def test_each_invariant_of_version_1_is_guarded(old, name, at, value):
    arrays = storage.read(old[0], "HNSW", 1)
    if isinstance(at, tuple) and "tallest" in at:
        at = (arrays["nodes"][:, 1].argmax(), at[1])
    arrays[name][at] = value
    with pytest.raises(ValueError, match="here"):
        HNSW._restored(arrays, "here")


def test_a_ring_of_twins_in_a_file_of_version_1_is_refused(old):
    arrays = storage.read(old[0], "HNSW", 1)
    twins = np.flatnonzero(arrays["nodes"][:, 0] < 0)[:3]
    arrays["nodes"][twins, 3] = np.roll(twins, 1)
    with pytest.raises(ValueError, match="here"):
        HNSW._restored(arrays, "here")


@pytest.mark.parametrize(("at", "name"), [(4, "metric must be .* 'l2'"), (5, "quantization must"), (6, "vectors must")])
def test_a_number_of_nothing_known_is_refused_by_name(at, name):
    arrays = HNSW(4)._to_arrays()
    arrays["settings"][at] = 99
    with pytest.raises(storage.Damaged, match=f"{name}.*, got 99"):
        HNSW._restored(arrays, "arrays")
