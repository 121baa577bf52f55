"""Files and pickles of KV caches, whole and damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from llmds.base import files
from llmds.kernels.kv_cache import check
from llmds.kv_cache.cache import KVCache
from tests import face
from tests.kv_cache.cases import filled


@pytest.mark.parametrize("options", [{}, {"store": False}, {"enable_prefix_sharing": False}, {"dtype": np.int16}])
def test_files_and_pickles_keep_everything(tmp_path, options):
    cache = filled(**options)
    stats, everything = cache.stats(), repr(cache)
    copies = face.keeps_everything(cache, tmp_path)
    for each in (cache, *copies):
        assert each.stats() == stats and repr(each) == everything
        assert (each.dtype, each.token_shape, each.store) == (cache.dtype, cache.token_shape, cache.store)
        each.attach(9, [5, 6, 7, 8, 9, 10, 3], [5, 6, 7, 8, 9, 10])
    for each in copies:
        left, right = each._to_arrays(), cache._to_arrays()
        for name in left.keys() - {"store"}:  # blank pages are not kept, so the rest of a page may differ
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        assert not cache.store or all(each.get(seq) == cache.get(seq) for seq in range(10))


def test_a_file_holds_the_pages_in_use_alone(tmp_path):
    cache = KVCache(512, 1000, token_shape=(8,), dtype=np.float32)
    cache.attach(1, np.ones((600, 8), np.float32), range(5))
    cache.save(tmp_path / "cache.npz")
    assert (tmp_path / "cache.npz").stat().st_size < 200_000
    np.testing.assert_array_equal(KVCache.load(tmp_path / "cache.npz").get_array(1), np.ones((600, 8)))


@pytest.mark.parametrize("options", [{}, {"store": False}])
def test_no_damaged_file_passes_or_crashes(tmp_path, options):
    face.survives_damage(filled(**options), tmp_path, rounds=600)
    face.refuses_other_files(KVCache, tmp_path)


def test_every_number_of_a_fault_has_words():
    assert len(check.FAULTS) == len(set(check.FAULTS)) == 15


def test_no_number_in_the_bookkeeping_can_be_changed_unseen_and_then_crash(tmp_path):
    """Whatever one number of the arrays is changed to, `check` sees it, or the cache goes on working."""
    chance = np.random.default_rng(3)
    whole = filled()._to_arrays()
    for _ in range(400):
        arrays = {name: array.copy() for name, array in whole.items()}
        victim = arrays[chance.choice(["pool", "seqs", "tables", "ids"])]
        flat = victim.reshape(-1).view(np.int32)
        flat[chance.integers(len(flat))] = chance.choice([-2, -1, 0, 1, 2, 5, 24, 25, 2**31 - 1, -(2**31)])
        try:
            cache = KVCache._restored(arrays, "arrays")
        except ValueError:
            continue
        cache.check()
        for seq in range(12):
            cache.get(seq)
            cache.detach(seq)
        cache.attach(1, [5, 6, 7, 8, 9, 10, *range(80)], [5, 6, 7, 8, 9, 10])
        cache.check()


# Files of version 1

OLD = Path(__file__).parent.parent / "data"
OPTIONS = ["plain", "bare", "small", "unshared"]  # default; store=False; dtype=np.int16; enable_prefix_sharing=False


@pytest.fixture(params=OPTIONS)
def old(request, tmp_path):
    path = tmp_path / "old.npz"
    path.write_bytes(gzip.decompress((OLD / f"kv_v1_{request.param}.npz.gz").read_bytes()))
    return request.param, path


def test_files_of_version_1_are_read(old, tmp_path):
    """`filled` as it was then, and two sequences that have been let go."""
    name, path = old
    cache = KVCache.load(path)
    path.unlink(), cache.check()
    assert len(cache) == 8 and cache.stats()["cow_copies"] == 3 and cache.stats()["evictions"] == 0
    sharing, system = name != "unshared", [5, 6, 7, 8, 9, 10]
    assert (cache.stats()["cached_pages"], cache.stats()["prefix_map_size"]) == ((1, 5) if sharing else (0, 0))
    assert cache.match_prefix([*system, 1]) == (6 if sharing else 0)
    assert cache.match_prefix([3] * 5) == (4 if sharing else 0)
    assert cache.match_prefix([100, 101, 102], blocks=True) == (2 if sharing else 0)
    if name != "bare":
        contents = [cache.get(seq) for seq in range(1, 9)]
        assert contents[0] == [*system, 0] and contents[2] == [1, 2, 3, 4, 5] and contents[3][-1] == 77
        assert contents[4] == [5, 6, 70, *system[3:], 0, 1] and contents[5] == [*system[:5], 71, 72]
        assert contents[6] == [0] * 8 and contents[7] == []
    hits = cache.stats()["hit_tokens"]
    cache.attach(30, [*system, 9], system), cache.append_many([1, 2, 3], [1, 2, 3])
    assert cache.stats()["hit_tokens"] == hits + 6 * sharing
    cache.check()
    face.keeps_everything(cache, tmp_path)


def test_no_damaged_file_of_version_1_passes_or_crashes(old):
    _, path = old
    whole = files.read(path, "KVCache", 2)
    chance = np.random.default_rng(5)
    for _ in range(400):
        arrays = {name: array.copy() for name, array in whole.items()}
        victim = arrays[chance.choice([name for name in ("pool", "seqs", "tables", "ids") if arrays[name].size])]
        flat = victim.reshape(-1).view(np.int32)
        flat[chance.integers(len(flat))] = chance.choice([-2, -1, 0, 1, 2, 5, 24, 25, 2**31 - 1, -(2**31)])
        try:
            cache = KVCache._restored(arrays, "arrays")
        except ValueError:
            continue
        cache.check()
        for seq in range(12):
            cache.detach(seq)
        cache.attach(1, [5, 6, 7, 8, 9, 10, *range(80)], [5, 6, 7, 8, 9, 10])
        cache.check()
