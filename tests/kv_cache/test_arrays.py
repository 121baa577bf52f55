"""The arrays of a cache, handed out to kernels of the user's own."""

import numpy as np

from llmds.kernels.compiling import njit
from llmds.kernels.kv_cache import layout
from llmds.kernels.kv_cache import sequences as seq
from llmds.kernels.kv_cache.change import detach, fork
from llmds.kv_cache.cache import KVCache


@njit
def fork_many(pool, seqs, tables, ids, store, source, first, count, done):
    """Fork `source` into first, first + 1, ...; done[0] of `count` forks are there already."""
    while done[0] < count:
        code, a, b = fork(pool, seqs, tables, ids, store, source, first + done[0])
        if code != seq.OK:
            return code, a, b
        done[0] += 1
    return seq.OK, done[0], 0


@njit
def detach_all(pool, seqs, tables, ids, store, first, count):
    """Detach first, first + 1, ...: how many pages are blank or cached then."""
    for e in range(count):
        detach(pool, seqs, tables, ids, store, first + e)
    return pool[layout.BLANKS] + pool[layout.CACHED]


def test_a_loop_of_the_users_own_works_on_the_arrays_and_the_cache_sees_it():
    cache = KVCache(2, 8)
    cache.attach(1, [1, 2, 3])
    assert cache.call(fork_many, 1, 100, 50, np.zeros(1, np.int64)) == (seq.OK, 50, 0), "more than there was room for"
    cache.check()
    assert len(cache) == 51 and cache.get(149) == [1, 2, 3] and cache.stats()["total_page_refs"] == 102
    assert detach_all(*cache.arrays, 100, 50) == 6
    cache.check()
    assert len(cache) == 1 and cache.stats()["total_page_refs"] == 2


def test_arrays_are_the_ones_that_kernels_change():
    cache = KVCache(2, 8, store=False)
    cache.attach(1, [1, 2, 3])
    assert isinstance(cache.arrays, layout.Arrays)
    assert [array.dtype for array in cache.arrays] == [np.int64, np.int64, np.int32, np.uint8, np.uint8]
    assert all(array.flags.writeable for array in cache.arrays)
    assert cache.nbytes == sum(array.nbytes for array in cache.arrays)
    cache.arrays.pool[layout.EVICTIONS] = 7
    assert cache.stats()["evictions"] == 7


def test_old_arrays_are_refused_after_growth():
    cache = KVCache(2, 8)
    cache.attach(1, [1, 2])
    old = cache.arrays
    cache.reserve(100)
    assert cache.arrays is not old and fork(*old, 1, 2)[0] == detach(*old, 1)[0] == seq.FULL
    now = cache.arrays
    cache.make_room(old)
    assert cache.arrays is now, "the old ones have been replaced already"
    assert fork(*now, 1, 2)[0] == seq.OK and 2 in cache


def test_the_type_of_ids():
    assert KVCache(2, 4, dtype=np.int32).id_dtype == np.int32
    assert KVCache(2, 4, dtype=np.float32).id_dtype == KVCache(2, 4, token_shape=(2,)).id_dtype == np.int64
