"""What a cache is given: taken as it is, brought to one type, or refused with nothing changed."""

import numpy as np
import pytest

from llmds.kernels.kv_cache import attach, change, match
from llmds.kv_cache import OutOfPagesError
from llmds.kv_cache.cache import KVCache
from tests import face
from tests.kv_cache.cases import filled, tensors

REFUSED = [
    (lambda cache: cache.attach(1, [0] * 99), OutOfPagesError),
    (lambda cache: cache.attach(50, [0] * 60), OutOfPagesError),
    (lambda cache: cache.attach(50, [5, 6, 7, 8, 9, 10, *range(70)], [5, 6, 7, 8, 9, 10]), OutOfPagesError),
    (lambda cache: cache.attach(50, [1], [1, 2]), ValueError),
    (lambda cache: cache.attach(-1, [1]), ValueError),
    (lambda cache: cache.attach(2**63, [1]), ValueError),
    (lambda cache: cache.attach(True, [1]), TypeError),
    (lambda cache: cache.attach("1", [1]), TypeError),
    (lambda cache: cache.attach(50, [1.5]), TypeError),
    (lambda cache: cache.attach(50, [True]), TypeError),
    (lambda cache: cache.attach(50, 3), TypeError),
    (lambda cache: cache.attach(50, [2**63]), ValueError),
    (lambda cache: cache.attach(50, [[1]]), TypeError),
    (lambda cache: cache.attach(50, [1], [1.0]), TypeError),
    (lambda cache: cache.attach_blocks(50, range(90)), OutOfPagesError),
    (lambda cache: cache.attach_blocks(7, [100, *range(90)]), OutOfPagesError),
    (lambda cache: cache.attach_many([50, 51, 52], range(99), [0, 1, 2, 99]), OutOfPagesError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 2, 1]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [1, 1, 2]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 3]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 2], [1]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 2], None, [0, 0, 0]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 2], [1, 2], [0, 2, 2]), ValueError),
    (lambda cache: cache.attach_many([50, -1], [1, 2], [0, 1, 2]), ValueError),
    (lambda cache: cache.append(1, [0] * 99), OutOfPagesError),
    (lambda cache: cache.append(50, [0]), KeyError),
    (lambda cache: cache.append_many([1, 2, 1], [0, 0, 0]), ValueError),
    (lambda cache: cache.append_many([1, 2, 50], [0, 0, 0]), KeyError),
    (lambda cache: cache.append_many([1, 2], [0]), ValueError),
    (lambda cache: cache.append_many([1, -2], [0, 0]), ValueError),
    (lambda cache: cache.write(1, 6, [0, 0]), ValueError),
    (lambda cache: cache.write(1, 8, []), ValueError),
    (lambda cache: cache.write(1, 2**62, [0]), ValueError),
    (lambda cache: cache.write(1, 2**200, [0]), ValueError),
    (lambda cache: cache.write(1, -1, [0]), ValueError),
    (lambda cache: cache.write(50, 0, [0]), KeyError),
    (lambda cache: cache.truncate(1, 8), ValueError),
    (lambda cache: cache.truncate(1, -1), ValueError),
    (lambda cache: cache.truncate(50, 0), KeyError),
    (lambda cache: cache.fork(1, 1), ValueError),
    (lambda cache: cache.fork(1, 2), ValueError),
    (lambda cache: cache.fork(50, 51), KeyError),
    (lambda cache: cache.match_prefix([1.5]), TypeError),
    (lambda cache: cache.match_prefix_many([1], []), ValueError),
    (lambda cache: cache.match_prefix_many([1], [0, 2]), ValueError),
    (lambda cache: cache.match_prefix_many([1], [0, 1], salt=[1, 2]), ValueError),
    (lambda cache: cache.match_prefix([1], salt=1.0), TypeError),
    (lambda cache: cache.match_prefix([1], salt=2**63), ValueError),
    (lambda cache: cache.attach(50, [1], salt=None), TypeError),
    (lambda cache: cache.attach(50, [1], salt=True), TypeError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 2], salt=[1]), ValueError),
    (lambda cache: cache.attach_many([50, 51], [1, 2], [0, 1, 2], salt=[0.5, 1]), TypeError),
    (lambda cache: cache.attach_blocks(50, [1.0]), TypeError),
    (lambda cache: cache.attach_blocks(50, [1], salt="a"), TypeError),
    (lambda cache: cache.attach_blocks_many([50, 51], range(99), [0, 1, 99]), OutOfPagesError),
    (lambda cache: cache.attach_blocks_many([50, 51], [1, 2], [0, 1]), ValueError),
    (lambda cache: cache.attach_blocks_many([50, -1], [1, 2], [0, 1, 2]), ValueError),
    (lambda cache: cache.pin([1.0]), TypeError),
    (lambda cache: cache.unpin([5]), ValueError),
    (lambda cache: cache.unpin([1, 2, 3, 4]), ValueError),
    (lambda cache: cache.block_hashes([0.5]), TypeError),
    (lambda cache: cache.events(), ValueError),
    (lambda cache: cache.reserve(-1), ValueError),
]


@pytest.mark.parametrize("call, error", REFUSED)
def test_a_refused_call_changes_nothing(call, error):
    cache, untouched = filled(), filled()
    with pytest.raises(error):
        call(cache)
    cache.check()
    cache.shrink_to_fit(), untouched.shrink_to_fit()  # making room for a call that is then refused is no change
    face.same_arrays(cache, untouched)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"page_size": 0}, ValueError),
        ({"page_size": 4.0}, TypeError),
        ({"max_pages": 0}, ValueError),
        ({"max_pages": True}, TypeError),
        ({"enable_prefix_sharing": 1}, TypeError),
        ({"store": None}, TypeError),
        ({"eviction": "random"}, ValueError),
        ({"eviction": 1}, ValueError),
        ({"verify": 1}, TypeError),
        ({"max_pinned": -1}, ValueError),
        ({"max_pinned": 10001}, ValueError),
        ({"events": -1}, ValueError),
        ({"events": 1.0}, TypeError),
        ({"token_shape": (0,)}, ValueError),
        ({"token_shape": 3}, TypeError),
        ({"dtype": object}, TypeError),
        ({"dtype": ">f4"}, TypeError),
        ({"dtype": "f8", "token_shape": (2**30, 2**10)}, ValueError),
    ],
)
def test_options_that_make_no_cache_are_refused(options, error):
    with pytest.raises(error, match=next(iter(options))):
        KVCache(**options)


@pytest.mark.parametrize(
    "dtype, shape, entries, error",
    [
        (np.float16, (2,), [[1.0, 2.0]], None),
        (np.float16, (2,), [[1, 2]], None),
        (np.float32, (), np.array([1.5], np.float64), None),
        (np.float32, (), [np.inf, np.nan], None),
        (np.int32, (), [2**31 - 1, -1], None),
        (np.int64, (2,), [[2**62, 1]], None),
        (np.bool_, (), [True], None),
        (np.float16, (2,), [], None),
        (np.float16, (2,), [[1.0, 2.0, 3.0]], ValueError),
        (np.float16, (2,), [1.0, 2.0], ValueError),
        (np.float16, (2,), [[1.0], [2.0, 3.0]], ValueError),
        (np.float16, (), [70000.0], ValueError),
        (np.int32, (), [2**31], ValueError),
        (np.uint32, (), [2**32 - 1, 0], None),
        (np.uint32, (), [-1], ValueError),
        (np.uint64, (), [2**64 - 1], None),
        (np.uint64, (), [-1], ValueError),
        (np.int32, (), [1.5], TypeError),
        (np.float32, (), [True], TypeError),
        (np.float32, (), ["1"], TypeError),
        (np.float32, (), [1j], TypeError),
        (np.float32, (), 1.0, ValueError),
    ],
)
def test_entries_are_of_the_one_type_or_refused(dtype, shape, entries, error):
    cache = KVCache(2, 4, token_shape=shape, dtype=dtype)
    if error:
        with pytest.raises(error, match="kv_tokens"):
            cache.attach(1, entries)
        assert len(cache) == 0
    else:
        cache.attach(1, entries)
        got = cache.get_array(1)
        assert got.dtype == dtype and got.shape == (len(entries), *shape)
        np.testing.assert_array_equal(got, np.array(entries, dtype).reshape(got.shape))


def test_every_type_shares_one_compilation():
    cache = KVCache(np.int8(4), np.uint16(20))
    for seq, entries in enumerate(([1, 2], np.array([1, 2], np.int8), np.arange(9, dtype=np.uint64)[::4])):
        cache.attach(np.int32(seq), entries, np.frombuffer(np.arange(2).tobytes(), np.int64))
        cache.append(seq, np.frombuffer(np.arange(2).tobytes(), np.int64))
    cache.attach_blocks(np.uint8(9), np.array([1], np.int16)), cache.append_many(np.array([9], np.int32), [1])
    other = KVCache(4, 8, token_shape=(2, 3), dtype=np.float16)
    other.attach(1, tensors(3)[::-1], [1]), other.append(1, tensors(1)), other.append_many([1], tensors(1))
    other.attach_many([2], tensors(2), np.array([0, 2], np.int32)), cache.attach_many([3], [1], [0, 1], [1], [0, 1])
    other.match_prefix([1]), other.match_prefix_many(np.array([1], np.int32), [0, 1], salt=np.int8(3))
    cache.match_prefix([1], blocks=np.bool_(True)), cache.pin(np.array([1], np.int8), salt=np.uint8(1))
    cache.attach(20, [1], salt=np.uint8(3)), cache.attach_many([21], [1], [0, 1], salt=np.array([1], np.int16))
    cache.unpin([]), cache.pin([], blocks=True), cache.block_hashes(np.arange(9, dtype=np.int16), salt=np.int8(1))
    used = [attach.attach, change.append, match.match_many, match.pin, match.unpin, match.page_names]
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)


@pytest.mark.parametrize("shape", [(), (2, 3), (16, 8)])
def test_a_decode_step_writes_entries_of_any_size(shape):
    cache, chance = KVCache(2, 16, token_shape=shape, dtype=np.float32), np.random.default_rng(0)
    steps = chance.standard_normal((5, 3, *shape)).astype(np.float32)
    for seq in range(3):
        cache.attach(seq, steps[:seq, seq])
    for step in range(3):
        cache.append_many([0, 1, 2], steps[np.arange(3) + step, np.arange(3)])
    for seq in range(3):
        np.testing.assert_array_equal(cache.get_array(seq), steps[: seq + 3, seq])


def test_what_is_handed_out_is_nobodys_page():
    cache = KVCache(2, 4)
    cache.attach(1, [1, 2, 3])
    cache.get(1)[0] = 9
    cache.get_array(1)[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        cache.pages[0, 0] = 9
    entries = np.array([4, 5, 6])
    cache.attach(2, entries)
    entries[:] = 0
    assert cache.get(1) == [1, 2, 3] and cache.get(2) == [4, 5, 6]
    tensor = KVCache(2, 4, token_shape=(2, 3), dtype=np.float16)
    tensor.attach(1, tensors(3))
    got = tensor.get(1)
    assert isinstance(got, list) and [entry.shape for entry in got] == [(2, 3)] * 3
    got[0][:] = 0
    np.testing.assert_array_equal(tensor.get_array(1), tensors(3))


def test_a_cache_can_be_given_its_own_pages():
    cache = KVCache(2, 6)
    cache.attach(1, [1, 2, 3, 4])
    cache.append(1, cache.pages[0]), cache.write(1, 1, cache.get_array(1)[:3])
    assert cache.get(1) == [1, 1, 2, 3, 1, 2]


def test_without_a_store_there_is_nothing_to_get():
    cache = KVCache(2, 4, store=False)
    cache.attach(1, [1, 2, 3], [1, 2]), cache.attach(2, [9, 9], [1, 2])
    assert cache.stats()["hit_tokens"] == 2, "ids alone are compared"
    cache.append(1, [5]), cache.write(1, 0, [7])
    for call in (cache.get, cache.get_array):
        with pytest.raises(ValueError, match="store=False"):
            call(1)
    with pytest.raises(ValueError, match="store=False"):
        cache.pages  # noqa: B018
    assert cache.nbytes < 3000
    assert cache.match_prefix([1, 2]) == 2, "token ids are kept, to be compared"


def test_new_blocks_hold_zeros_until_they_are_written():
    cache = KVCache(2, 2)
    cache.attach(1, [5, 5, 5, 5]), cache.detach(1)
    cache.attach_blocks(2, [7, 8]), cache.write(2, 1, [3])
    assert cache.get(2) == [0, 3, 0, 0]
