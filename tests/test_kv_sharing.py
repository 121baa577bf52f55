"""Which sequences share which pages, and which pages leave."""

import copy

import face
import numpy as np
import pytest
from kv_cases import agrees_with_attention, tensors

from llmds.kernels import kv_ids
from llmds.kv_cache import KVCache
from llmds.paged_allocator import OutOfPagesError


def test_a_prefix_of_any_length_is_shared_whole():
    for length in range(1, 13):
        cache, prefix = KVCache(4, 16), list(range(length))
        cache.attach(1, [*prefix, 50, 51], prefix), cache.attach(2, [*prefix, 60], prefix)
        pages = -(-length // 4)
        assert cache.stats()["shared_pages_count"] == pages and cache.stats()["allocated_pages"] == pages + 2
        assert cache.match_prefix([*prefix, 99]) == cache.match_prefix(prefix) == cache.stats()["hit_tokens"] == length
        assert cache.get(1) == [*prefix, 50, 51] and cache.get(2) == [*prefix, 60]


def test_whole_pages_of_a_prefix_are_shared_whatever_follows_them():
    cache = KVCache(4, 16)
    cache.attach(1, list(range(8)), list(range(8)))
    cache.attach(2, list(range(11)), list(range(10)))
    assert cache.stats()["shared_pages_count"] == 2
    assert cache.match_prefix(list(range(11))) == 10 and cache.match_prefix(list(range(9))) == 8


def test_other_entries_under_the_same_ids_get_pages_of_their_own():
    cache = KVCache(2, 16, token_shape=(2, 3), dtype=np.float16)
    first = tensors(4)
    second = first.copy()
    second[3, 0, 0] = 0.0
    third = second.copy()
    third[3, 0, 0] = -0.0  # equal as a number, other bits
    for seq, entries in enumerate((first, second, third, second, first)):
        cache.attach(seq, entries, [1, 2, 3, 4])
        np.testing.assert_array_equal(cache.get_array(seq).view(np.uint16), entries.view(np.uint16))
    stats = cache.stats()
    assert stats["allocated_pages"] == 1 + 4 and stats["total_page_refs"] == 10 and stats["hit_tokens"] == 3 * 2 + 4
    for seq in range(5):
        cache.detach(seq)
    assert cache.stats()["cached_pages"] == cache.stats()["prefix_map_size"] == 2
    cache.attach(9, first, [1, 2, 3, 4])
    assert cache.stats()["hit_tokens"] == stats["hit_tokens"] + 4, "the first copy stays findable"


def test_entries_that_are_no_numbers_are_the_same_if_their_bits_are():
    cache = KVCache(2, 8, token_shape=(1,), dtype=np.float32)
    entries = np.full((3, 1), np.nan, np.float32)
    cache.attach(1, entries, [1, 2]), cache.attach(2, entries, [1, 2])
    assert cache.stats()["hit_tokens"] == 2


def colliding(first, second, other):
    """A second id that gives (other, it) the hash of (first, second), by running the hash backwards."""

    def once(state, token):
        state = ((state ^ token) * 0xC6A4A7935BD1E995) & (2**64 - 1)
        return state ^ (state >> 29)

    return once(2, first) ^ second ^ once(2, other)


def test_a_hash_alone_is_never_trusted():
    one, two = [1, 2], [3, colliding(1, 2, 3)]
    two = np.array(two, np.uint64).view(np.int64)
    assert kv_pool.hash_ids(np.array(one), 0, 2) == kv_pool.hash_ids(two, 0, 2)
    cache = KVCache(2, 8)
    cache.attach(1, [5, 6], one)
    assert cache.match_prefix(two) == 0
    cache.attach(2, [5, 6], two), cache.attach_many([3], [5, 6], [0, 2], two, [0, 2])
    cache.check()
    stats = cache.stats()
    assert (stats["allocated_pages"], stats["prefix_map_size"], stats["hit_tokens"]) == (2, 2, 2)
    tight = KVCache(2, 2)
    tight.attach_many([1, 2, 3], [5, 6] * 3, [0, 2, 4, 6], [*one, *two, *one], [0, 2, 4, 6])
    assert tight.stats()["hit_tokens"] == 2, "nor while entries are not copied yet"
    tight.check()


def test_a_sequences_last_pages_leave_before_its_first():
    cache = KVCache(1, 4, store=False)
    cache.attach_blocks(0, [1, 2, 3]), cache.detach(0)
    for other, left in ((10, 3), (11, 2), (12, 1), (13, 0)):
        cache.attach_blocks(other, [other])
        hits = cache.stats()["hit_tokens"]
        cache.fork(other, 99)
        probe = copy.deepcopy(cache)
        if left:
            probe.attach_blocks(1, [1, 2, 3][:left])
            assert probe.stats()["hit_tokens"] - hits == left
        cache.detach(99)
    assert cache.stats()["evictions"] == 3 and cache.stats()["free_pages"] == 0


def test_replacing_counts_the_old_pages_as_available_and_keeps_the_old_where_the_new_does_not_fit():
    cache = KVCache(2, 4)
    cache.attach(1, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    cache.attach(1, [1, 2, 9, 9, 9, 9, 8], [1, 2])
    assert cache.get(1) == [1, 2, 9, 9, 9, 9, 8] and cache.stats()["hit_tokens"] == 2
    with pytest.raises(OutOfPagesError, match="4 pages are needed, 3 of 4 are free"):
        cache.attach(1, [1, 2, *range(7)], [1, 2])
    assert cache.get(1) == [1, 2, 9, 9, 9, 9, 8]


def test_without_sharing_a_prefix_changes_nothing():
    named, plain = KVCache(4, 8, False), KVCache(4, 8, False)
    for seq in (1, 2):
        named.attach(seq, [1, 2, 3, 4, 5, 6], [1, 2, 3]), plain.attach(seq, [1, 2, 3, 4, 5, 6])
    face.same_arrays(named, plain)
    assert len(named.block_table([1])) == 1 and named.match_prefix([1, 2, 3]) == 0
    assert named.stats()["shared_pages_count"] == 0 and named.stats()["lookup_tokens"] == 0
    with pytest.raises(ValueError, match="no longer than"):
        named.attach(3, [1], [1, 2])


def test_forks_share_until_they_are_written_to():
    cache = KVCache(4, 8, token_shape=(2, 3), dtype=np.float16)
    entries = tensors(6)
    cache.attach(0, entries)
    for dst in (1, 2):
        cache.fork(0, dst)
    assert cache.stats()["allocated_pages"] == 2 and cache.stats()["total_page_refs"] == 6
    cache.append_many([0, 1, 2], tensors(3, 1))
    assert cache.stats()["cow_copies"] == 2, "the last of three may keep the page"
    cache.write(1, 0, entries[5:6])
    agrees_with_attention(cache, [0, 1, 2])
    expected = [np.concatenate([entries, tensors(3, 1)[e : e + 1]]) for e in range(3)]
    expected[1][0] = entries[5]
    for e in range(3):
        np.testing.assert_array_equal(cache.get_array(e), expected[e])


def test_attaching_many_shares_within_the_batch_where_pages_are_scarce():
    """64 requests with one prefix of two pages, in a pool that holds the prefix once and a page for each."""
    cache, prefix = KVCache(4, 2 + 64, token_shape=(2, 3), dtype=np.float16), list(range(7))
    old = KVCache(4, 2 + 64, token_shape=(2, 3), dtype=np.float16)
    for each in (cache, old):
        each.attach(1000, tensors(8, 5), list(range(100, 108))), each.detach(1000)
    entries = np.concatenate([np.concatenate([tensors(7), tensors(2, seed)]) for seed in range(64)])
    many = (entries, np.arange(65) * 9, np.tile(prefix, 64), np.arange(65) * 7)
    with pytest.raises(OutOfPagesError):
        cache.attach_many([*range(63), 70, 71], np.concatenate([entries, entries[:9]]), np.arange(66) * 9,
                          np.tile(prefix, 65), np.arange(66) * 7)  # fmt: skip
    cache.shrink_to_fit(), old.shrink_to_fit()
    face.same_arrays(cache, old)
    cache.attach_many(range(64), *many)
    cache.check()
    assert cache.stats()["free_pages"] == 0 and cache.stats()["hit_tokens"] == 63 * 7
    for seq in range(64):
        np.testing.assert_array_equal(cache.get_array(seq), entries[seq * 9 : seq * 9 + 9])
    agrees_with_attention(cache, list(range(64)))
