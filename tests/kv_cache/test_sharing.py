"""Which sequences share which pages, and which pages leave."""

import copy

import numpy as np
import pytest

from llmds.kernels.kv_cache.hashes import page_name, root_name
from llmds.kv_cache.cache import KVCache
from llmds.paged_allocator import OutOfPagesError
from tests import face
from tests.kv_cache.cases import agrees_with_attention, tensors


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
    """A second id that gives the page (other, it) the name of (first, second), by running the hash backwards."""
    words = np.array([first, second], np.int64).view(np.uint8)
    before = root_name(0)

    def once(token):
        state = (before * 0x9FB21C651E98DF25 + 16) ^ (16 * 0x9E3779B97F4A7C15)
        state = ((state ^ token) * 0xC6A4A7935BD1E995) & (2**64 - 1)
        return state ^ (state >> 29)

    it = once(first) ^ second ^ once(other)
    pair = np.array([other, it], np.uint64).view(np.uint8)
    assert page_name(words, 0, 16, before) == page_name(pair, 0, 16, before)
    return pair.view(np.int64).tolist()


def test_a_hash_alone_is_never_trusted():
    one, two = [1, 2], colliding(1, 2, 3)
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
    for store in (True, False):
        plain = KVCache(2, 8, store=store)
        plain.attach(1, one), plain.attach(2, two), plain.attach(3, two[:1]), plain.append(3, two[1:])
        plain.check()
        assert plain.match_prefix(one) == plain.match_prefix(two) == 2
        assert plain.stats()["hit_tokens"] == 0 and plain.stats()["prefix_map_size"] == 2
        assert not store or [plain.get(seq) for seq in (1, 2, 3)] == [one, two, two]
        assert plain.block_table([2])[0][1] == plain.block_table([3])[0][1] != plain.block_table([1])[0][1]


def test_without_verification_the_hash_is_trusted():
    one, two = [1, 2], colliding(1, 2, 3)
    cache = KVCache(2, 8, verify=False)
    cache.attach(1, one), cache.attach(2, two), cache.attach(3, [5, 6], two)
    assert cache.stats()["hit_tokens"] == 4 and cache.get(2) == one and not cache.verify


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


def test_full_pages_of_token_ids_are_shared_by_what_they_hold():
    cache = KVCache(4, 16)
    cache.attach(1, range(10)), cache.attach(2, [*range(8), 50, 51, 52])
    assert cache.stats()["shared_pages_count"] == 2 and cache.stats()["allocated_pages"] == 4
    assert cache.stats()["hit_tokens"] == 8 and cache.stats()["lookup_tokens"] == 16
    cache.attach(3, [0, 1, 2, 3, 9, 9, 9, 9, 4, 5, 6, 7])
    assert cache.match_prefix(range(20)) == 8 and cache.stats()["hit_tokens"] == 12
    cache.attach(4, range(10), range(8)), cache.attach(5, range(10), range(6))
    assert cache.stats()["hit_tokens"] == 12 + 8 + 4, "whole pages of a prefix are those of the plain content"
    assert cache.match_prefix(range(6)) == 6
    agrees_with_attention(cache, [1, 2, 3, 4, 5])


def test_other_ids_than_the_entries_are_told_apart_from_them():
    cache = KVCache(2, 16)
    cache.attach(1, [1, 2, 3, 4]), cache.attach(2, [50, 60, 3, 4], [1, 2])
    assert cache.stats()["hit_tokens"] == 0, "the same ids, other entries"
    cache.attach(3, [70, 80, 3, 4], [5, 6]), cache.attach(4, [70, 80, 3, 4], [5, 6]), cache.attach(5, [5, 6, 3, 4])
    assert cache.stats()["hit_tokens"] == 4, "the rest follows the same pages"
    assert [cache.get(seq)[:2] for seq in range(1, 6)] == [[1, 2], [50, 60], [70, 80], [70, 80], [5, 6]]
    assert cache.match_prefix([5, 6, 3, 4]) == 4 and cache.match_prefix([70, 80]) == 0
    cache.append(3, [5, 6])
    cache.check()


def test_pages_filled_by_decoding_are_found_and_are_one():
    cache = KVCache(4, 16, dtype=np.int32)
    for seq in (1, 2):
        cache.attach(seq, [1, 2, 3])
    for token in (4, 5, 6, 7, 8, 9):
        cache.append_many([1, 2], [token, token])
    assert cache.stats()["allocated_pages"] == 4 and cache.match_prefix(range(1, 20)) == 8
    assert cache.get(1) == cache.get(2) == list(range(1, 10))
    cache.detach(1), cache.detach(2)
    cache.attach(3, range(1, 12))
    assert cache.stats()["hit_tokens"] == 8
    cache.append(3, range(12, 30))
    assert cache.match_prefix(range(1, 30)) == 28
    cache.check()


def test_a_page_after_one_that_is_not_found_is_not_found():
    cache = KVCache(2, 16)
    cache.attach(1, [1, 2, 3]), cache.write(1, 0, [7]), cache.append(1, [4, 5, 6])
    assert cache.match_prefix([7, 2, 3, 4]) == cache.match_prefix([1, 2, 3, 4]) == 0
    cache.attach(2, [1, 2, 3, 4], [1]), cache.append(2, [5, 6])
    assert cache.match_prefix([1, 2, 3, 4]) == 1
    cache.check()


def test_floats_and_tensors_are_shared_under_a_name_alone():
    for options in ({"dtype": np.float32}, {"token_shape": (1,), "dtype": np.int64}):
        cache = KVCache(2, 16, **options)
        entries = np.ones((4, *cache.token_shape), cache.dtype)
        cache.attach(1, entries), cache.attach(2, entries)
        assert cache.stats()["shared_pages_count"] == 0 and cache.stats()["lookup_tokens"] == 0


def test_salts_keep_tenants_apart():
    cache = KVCache(2, 32)
    for seq, salt in enumerate((0, 1, -5, 2**63 - 1, 1)):
        cache.attach(seq, [1, 2, 3, 4], salt=salt), cache.attach_blocks(10 + seq, [7], salt=salt)
        cache.attach(20 + seq, [8, 9, 9], [8], salt=salt)
    assert cache.stats()["hit_tokens"] == 4 + 2 + 1, "the second tenant's second request alone"
    assert [cache.match_prefix([1, 2, 3, 4], salt=salt) for salt in (0, 1, -5, 3)] == [4, 4, 4, 0]
    assert cache.match_prefix_many([1, 2, 1, 2], [0, 2, 4], salt=[1, 3]).tolist() == [2, 0]
    assert cache.match_prefix([7], salt=1, blocks=True) == 1 and cache.match_prefix([7], salt=3, blocks=True) == 0
    cache.attach_many([30, 31], [1, 2, 1, 2], [0, 2, 4], salt=[1, 3])
    assert cache.stats()["hit_tokens"] == 9
    cache.fork(1, 40), cache.append(40, [5, 6])
    assert cache.match_prefix([1, 2, 3, 4, 5, 6], salt=1) == 6 and cache.match_prefix([1, 2, 3, 4, 5, 6]) == 4
    assert len({tuple(cache.block_hashes([1, 2, 3, 4], salt=salt).tolist()) for salt in (0, 1, -5, 2**63 - 1)}) == 4
    cache.check()


def test_pinned_pages_stay_while_others_leave():
    cache = KVCache(2, 6, max_pinned=3)
    system = [1, 2, 3, 4, 5]
    cache.attach(0, [*system, 6], system), cache.detach(0)
    assert cache.pin([*system, 9]) == 5 and cache.stats()["pinned_pages"] == 3
    for seq in range(10):
        cache.attach(seq, [100 + seq] * 6), cache.detach(seq)
    assert cache.match_prefix(system) == 5 and cache.stats()["free_pages"] == 3
    with pytest.raises(OutOfPagesError, match="4 pages are needed, 3 of 6 are free"):
        cache.attach(1, [9] * 8)
    cache.attach(1, [109] * 2)
    with pytest.raises(OutOfPagesError, match="1 pages more would be pinned, 0 of max_pinned=3"):
        cache.pin([109] * 2)
    assert cache.pin(system[:2]) == 2 and cache.stats()["pinned_pages"] == 3
    for wrong in (system[:4], [1], [7], [*system, 9]):
        with pytest.raises(ValueError, match="must be those of a pin"):
            cache.unpin(wrong)
    cache.unpin(system)
    assert cache.stats()["pinned_pages"] == 1
    with pytest.raises(ValueError, match="of these 5 the first 2 are pinned"):
        cache.unpin(system)
    cache.unpin(system[:2])
    for seq in range(10, 14):
        cache.attach(seq, [100 + seq] * 6), cache.detach(seq)
    assert cache.match_prefix(system) == 0 and cache.stats()["pinned_pages"] == 0
    assert cache.pin([1]) == cache.pin([]) == 0
    cache.attach_blocks(50, [4, 5]), cache.detach(50)
    assert cache.pin([4, 5, 6], blocks=True) == 2
    cache.unpin([4, 5], blocks=True)
    cache.check()


def test_a_pinned_page_is_copied_before_it_is_written_to():
    cache = KVCache(2, 6)
    cache.attach(0, [1, 2, 3, 4]), cache.pin([1, 2, 3, 4]), cache.write(0, 3, [9])
    assert cache.get(0) == [1, 2, 3, 9] and cache.match_prefix([1, 2, 3, 4]) == 4 and cache.stats()["cow_copies"] == 1
    cache.detach(0)
    assert cache.stats()["allocated_pages"] == 2 and cache.stats()["pinned_pages"] == 2
    cache.check()


def test_events_tell_a_router_what_is_there():
    cache, prompt = KVCache(2, 4, events=5), [1, 2, 3, 4, 5, 6, 7]
    cache.attach(0, prompt)
    told, hashes = cache.events(), cache.block_hashes(prompt)
    assert told.stored.tolist() == [True] * 3 and told.hashes.tolist() == hashes.tolist() and told.lost == 0
    assert told.parents.tolist()[1:] == hashes.tolist()[:2] and told.parents[0] == root_name(0)
    assert len(cache.events().stored) == 0
    cache.detach(0), cache.attach(1, [8, 8, 9, 9], salt=3)
    told = cache.events()
    assert told.stored.tolist() == [True, False, True] and told.hashes[1] == hashes[2]
    assert told.hashes[[0, 2]].tolist() == cache.block_hashes([8, 8, 9, 9], salt=3).tolist()
    cache.detach(1), cache.attach_blocks(2, [10, 11, 12, 13])
    told = cache.events()
    assert told.lost == 3 and told.hashes[told.stored].tolist() == [11, 12, 13]
    copied = copy.deepcopy(cache)
    cache.attach_blocks(2, [20]), copied.attach_blocks(2, [20])
    assert [array.tolist() for array in cache.events()[:3]] == [array.tolist() for array in copied.events()[:3]]
    with pytest.raises(ValueError, match="events=0"):
        KVCache(2, 4).events()


HASHES = [4920108448470597435, -51961663021070777]  # computed once: to change them would break routers and files
WIDE = [7018831893730815547, 1548142041313499788]


def test_hashes_are_the_same_everywhere():
    cache = KVCache(16, 4, dtype=np.int32)
    assert cache.block_hashes(range(40)).tolist() == HASHES and cache.block_hashes(range(15)).tolist() == []
    assert KVCache(16, 4, dtype=np.uint32).block_hashes(range(40)).tolist() == HASHES
    assert KVCache(16, 4, token_shape=(2,), dtype=np.float16).block_hashes(range(40)).tolist() == WIDE
