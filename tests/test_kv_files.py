"""Files and pickles of KV caches, whole and damaged."""

import face
import numpy as np
import pytest
from kv_cases import filled

from llmds.kernels import kv_faults
from llmds.kv_cache import KVCache


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
    assert len(kv_faults.FAULTS) == len(set(kv_faults.FAULTS)) == 14


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
        for seq in range(10):
            cache.get(seq)
            cache.detach(seq)
        cache.attach(1, [5, 6, 7, 8, 9, 10, *range(80)], [5, 6, 7, 8, 9, 10])
        cache.check()
