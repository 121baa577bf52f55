"""The cache beside a model of lists, and what paged attention would read beside what was put in."""

import copy
import random
import threading

import face
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from kv_model import Model

from llmds.kernels import kv_cache as kernels
from llmds.kernels import kv_faults, kv_match, kv_pool
from llmds.kv_cache import KVCache
from llmds.paged_allocator import OutOfPagesError

SEQS = range(5)
PREFIXES = [[0], [0, 1], [0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 1, 1], [1, 1], []]
seqs = st.integers(0, 4)
present = st.integers(0, 59)  # which of the sequences that are there
tokens = st.lists(st.integers(0, 1), max_size=3)
prefixes = st.sampled_from(PREFIXES)
requests = st.tuples(prefixes, tokens, st.sampled_from([0, 0, 0, 7]))  # prefix, rest, what its entries differ by


def entries_of(request):
    """Entries are the ids, or something else from the second on: pages then differ, the first may not."""
    prefix, rest, shift = request
    return [token + shift * (at > 0) for at, token in enumerate(prefix)] + rest


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls on a small pool answers, shares, copies, evicts and runs out as the model does."""

    @initialize(
        page_size=st.integers(1, 3),
        max_pages=st.integers(3, 9),
        sharing=st.sampled_from([True, True, True, False]),
        store=st.sampled_from([True, True, False]),
    )
    def start(self, page_size, max_pages, sharing, store):
        self.cache = KVCache(page_size, max_pages, sharing, store=store)
        self.model, self.ran_out = Model(page_size, max_pages, sharing, store), 0

    def one_of(self, which):
        """A sequence that is there, a new one where none is."""
        if not self.model.seqs:
            self.attach(which % 5, ([0, 1, 0], [1, 1], 0), True)
        return sorted(self.model.seqs)[which % len(self.model.seqs)] if self.model.seqs else None

    def both(self, call, on_model):
        """The call on the cache, and its twin on a copy of the model, end the same way."""
        try:
            after = self.model.attempt(on_model)
        except OutOfPagesError:
            with pytest.raises(OutOfPagesError, match="pages are needed"):
                call()
            self.ran_out += 1
        else:
            call()
            self.model = after

    @rule(seq=seqs, request=requests, named=st.sampled_from([True, True, False]))
    def attach(self, seq, request, named):
        entries, prefix = entries_of(request), request[0] if named else None
        self.both(lambda: self.cache.attach(seq, entries, prefix), lambda m: m.attach(seq, entries, prefix or ()))

    @rule(batch=st.lists(st.tuples(seqs, requests), max_size=4))
    def attach_many(self, batch):
        entries = [entries_of(request) for _, request in batch]
        prefixes = [request[0] for _, request in batch]
        ids = [seq for seq, _ in batch]

        def one_by_one(model):
            for seq, own, prefix in zip(ids, entries, prefixes, strict=True):
                model.attach(seq, own, prefix)

        self.both(lambda: self.cache.attach_many(ids, *ragged(entries), *ragged(prefixes)), one_by_one)

    @rule(seq=seqs, blocks=prefixes)
    def attach_blocks(self, seq, blocks):
        self.both(lambda: self.cache.attach_blocks(seq, blocks), lambda m: m.attach_blocks(seq, blocks))

    @rule(seq=seqs)
    def detach(self, seq):
        self.both(lambda: self.cache.detach(seq), lambda m: m.detach(seq))

    @rule(which=present, entries=tokens)
    def append(self, which, entries):
        if (seq := self.one_of(which)) is not None:
            self.both(lambda: self.cache.append(seq, entries), lambda m: m.append(seq, entries))

    @rule(entries=st.lists(st.integers(0, 9), min_size=5, max_size=5), backwards=st.booleans())
    def append_many(self, entries, backwards):
        batch = dict(zip(sorted(self.model.seqs, reverse=backwards)[: entries[0]], entries, strict=False))

        def one_by_one(model):
            for seq, entry in batch.items():
                model.append(seq, [entry])

        self.both(lambda: self.cache.append_many(list(batch), list(batch.values())), one_by_one)

    @rule(which=present, start=st.integers(0, 59), entries=st.lists(st.integers(0, 9), max_size=3))
    def write(self, which, start, entries):
        if (seq := self.one_of(which)) is None:
            return
        start %= self.model.seqs[seq].length + 1
        if start + len(entries) > self.model.seqs[seq].length:
            with pytest.raises(ValueError, match="must lie in the length"):
                self.cache.write(seq, start, entries)
        else:
            self.both(lambda: self.cache.write(seq, start, entries), lambda m: m.write(seq, start, entries))

    @rule(which=present, length=st.integers(0, 59))
    def truncate(self, which, length):
        if (seq := self.one_of(which)) is not None:
            length %= self.model.seqs[seq].length + 1
            self.both(lambda: self.cache.truncate(seq, length), lambda m: m.truncate(seq, length))

    @rule(which=present, dst=seqs)
    def fork(self, which, dst):
        src = self.one_of(which)
        if dst in self.model.seqs:
            with pytest.raises(ValueError if src in self.model.seqs else KeyError):
                self.cache.fork(src, dst)
        elif src is not None:
            self.both(lambda: self.cache.fork(src, dst), lambda m: m.fork(src, dst))

    @rule()
    def shrink(self):
        self.cache.shrink_to_fit()

    @rule(probes=st.lists(tokens, max_size=4))
    def match(self, probes):
        before = self.cache._to_arrays()["pool"].copy()
        expected = [self.model.match(probe) for probe in probes]
        assert self.cache.match_prefix_many(*ragged(probes)).tolist() == expected
        assert [self.cache.match_prefix(probe) for probe in probes] == expected
        np.testing.assert_array_equal(self.cache._to_arrays()["pool"], before)

    @invariant()
    def agree(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.cache.stats() == self.model.stats()
        assert len(self.cache) == len(self.model.seqs)
        paths = [[token for ids in path for token in ids] for path in self.model.index if path[0][:1] != ("block",)]
        matched = self.cache.match_prefix_many(*ragged(paths))
        assert matched.tolist() == [len(path) for path in paths]
        for seq in SEQS:
            assert (seq in self.cache) == (seq in self.model.seqs)
            if not self.cache.store:
                continue
            expected = self.model.get(seq) if seq in self.model.seqs else None
            assert self.cache.get(seq) == expected
        if self.cache.store:
            agrees_with_attention(self.cache, list(self.model.seqs))


TestBesideModel = BesideModel.TestCase
TestBesideModel.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.mark.parametrize("page_size, max_pages, store", [(1, 9, True), (2, 8, True), (3, 7, True), (2, 7, False)])
def test_long_walks_meet_every_case_again_and_again(page_size, max_pages, store):
    """As above, on random calls alone, so that it is certain what has happened."""
    machine, chance = BesideModel(), random.Random(page_size)
    machine.start(page_size, max_pages, True, store)

    def some(most):
        return [chance.randrange(2) for _ in range(chance.randrange(most + 1))]

    def request():
        return chance.choice(PREFIXES), some(3), chance.choice([0, 0, 0, 7])

    calls = [
        lambda: machine.attach(chance.randrange(5), request(), True),
        lambda: machine.attach_many([(chance.randrange(5), request()) for _ in range(chance.randrange(4))]),
        lambda: machine.attach_blocks(chance.randrange(5), chance.choice(PREFIXES)),
        lambda: machine.detach(chance.randrange(5)),
        lambda: machine.append(chance.randrange(60), some(3)),
        lambda: machine.append_many([chance.randrange(6) for _ in range(5)], chance.random() < 0.5),
        lambda: machine.write(chance.randrange(60), chance.randrange(60), some(2)),
        lambda: machine.truncate(chance.randrange(60), chance.randrange(60)),
        lambda: machine.fork(chance.randrange(60), chance.randrange(5)),
        lambda: machine.fork(chance.randrange(60), chance.randrange(5)),
        lambda: machine.match([some(6)]),
    ]
    for _ in range(2500):
        chance.choice(calls)()
        machine.agree()
    stats = machine.cache.stats()
    assert min(stats["cow_copies"], stats["evictions"], stats["prefix_shares"], machine.ran_out) > 20, stats


def ragged(lists):
    """(all of them end to end, where each begins and ends)."""
    flat = np.array([item for items in lists for item in items], np.int64)
    return flat, np.cumsum([0, *map(len, lists)])


def agrees_with_attention(cache, seq_ids):
    """What a paged or cascade attention kernel gathers through the block table is what `get_array` gives."""
    levels = cache.block_table(seq_ids)
    pages = cache.pages
    assert pages.shape == (cache.max_pages, cache.page_size, *cache.token_shape)
    for e, seq in enumerate(seq_ids):
        parts = [np.empty((0, *cache.token_shape), cache.dtype)]
        for indptr, indices, last_page_len in levels:
            assert {array.dtype for array in (indptr, indices, last_page_len)} == {np.dtype(np.int32)}
            assert len(indptr) == len(seq_ids) + 1 and len(indices) == indptr[-1]
            mine = indices[indptr[e] : indptr[e + 1]]
            assert (last_page_len[e] > 0) == (len(mine) > 0) and last_page_len[e] <= cache.page_size
            for at, page in enumerate(mine):
                parts.append(pages[page, : last_page_len[e] if at == len(mine) - 1 else cache.page_size])
        np.testing.assert_array_equal(np.concatenate(parts), cache.get_array(seq))
    return levels


def tensors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2, 3)).astype(np.float16)


def filled(**options):
    """A cache of every kind of sequence: named, plain, forked and written, cut into its prefix, blocks, cached."""
    cache = KVCache(4, 24, **options)
    prefix = [5, 6, 7, 8, 9, 10]
    for seq in (1, 2, 9):
        cache.attach(seq, [*prefix, *range(seq)], prefix)
    cache.attach(3, [1, 2, 3, 4, 5])
    cache.fork(3, 4), cache.append(4, [77]), cache.fork(2, 5), cache.write(5, 2, [70])
    cache.fork(1, 6), cache.truncate(6, 5), cache.append(6, [71, 72])
    cache.attach_blocks(7, [100, 101]), cache.detach(9)
    cache.attach(8, [])
    return cache


def test_block_tables_of_every_kind_of_sequence_gather_their_entries():
    cache = filled()
    first, second = agrees_with_attention(cache, [1, 2, 3, 4, 5, 6, 7, 8, 1])
    assert first[0].tolist() == [0, 2, 4, 4, 4, 6, 6, 6, 6, 8] and first[2].tolist() == [2, 2, 0, 0, 2, 0, 0, 0, 2]
    assert second[0].tolist() == [0, 1, 2, 4, 6, 7, 9, 11, 11, 12] and second[2].tolist() == [1, 2, 1, 2, 2, 3, 4, 0, 1]
    assert first[1][:2].tolist() == first[1][2:4].tolist() == first[1][6:].tolist()
    assert len(agrees_with_attention(cache, [3, 4, 6, 7, 8])) == 1, "none of these names a prefix"
    assert [array.tolist() for array in agrees_with_attention(cache, [])[0]] == [[0], [], []]
    with pytest.raises(KeyError, match="55"):
        cache.block_table([1, 55])


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
    assert cache.nbytes < 2500


def test_new_blocks_hold_zeros_until_they_are_written():
    cache = KVCache(2, 2)
    cache.attach(1, [5, 5, 5, 5]), cache.detach(1)
    cache.attach_blocks(2, [7, 8]), cache.write(2, 1, [3])
    assert cache.get(2) == [0, 3, 0, 0]


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


def test_page_tables_grow_and_are_gathered():
    cache = KVCache(2, 64)
    for seq in range(8):
        cache.attach(seq, [seq])
    for step in range(1, 16):
        cache.append_many(range(8), np.arange(8) + 100 * step)
    for fork in range(100):
        cache.fork(fork % 8, 100 + fork)
    cache.check()
    assert all(cache.get(seq) == [seq, *(seq + 100 * step for step in range(1, 16))] for seq in range(8))
    assert cache.get(107) == cache.get(7)
    for fork in range(100):
        cache.detach(100 + fork)
    large = cache.nbytes
    cache.shrink_to_fit()
    cache.check()
    assert cache.nbytes < large and len(cache._state[2]) == 64
    cache.reserve(1000)
    reserved = cache.nbytes
    for seq in range(10, 900):
        cache.attach(seq, [])
    assert cache.nbytes == reserved


def test_bookkeeping_is_small_and_true():
    cache = KVCache(16, 10_000, store=False)
    for seq in range(100):
        cache.attach_blocks(seq, np.arange(100) + 100 * seq)
    assert cache.nbytes == sum(array.nbytes for array in cache._state) and cache.nbytes < 100 * 10_000
    stored = KVCache(16, 100, token_shape=(2, 3), dtype=np.float16)
    assert stored.nbytes - stored.pages.nbytes < 100 * 100 + 2000


def test_threads_share_a_cache():
    cache, prefix = KVCache(4, 400), list(range(6))

    def work(base):
        for turn in range(300):
            seq = base + turn % 20
            cache.attach(seq, [*prefix, seq], prefix)
            cache.append(seq, [turn])
            assert cache.get(seq) == [*prefix, seq, turn]
            if turn % 3 == 0:
                cache.detach(seq)

    errors = []

    def guarded(base):
        try:
            work(base)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(1000 * t,)) for t in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    cache.check()
    assert not errors


def test_every_type_shares_one_compilation():
    cache = KVCache(np.int8(4), np.uint16(20))
    for seq, entries in enumerate(([1, 2], np.array([1, 2], np.int8), np.arange(9, dtype=np.uint64)[::4])):
        cache.attach(np.int32(seq), entries, np.frombuffer(np.arange(2).tobytes(), np.int64))
        cache.append(seq, np.frombuffer(np.arange(2).tobytes(), np.int64))
    cache.attach_blocks(np.uint8(9), np.array([1], np.int16)), cache.append_many(np.array([9], np.int32), [1])
    other = KVCache(4, 8, token_shape=(2, 3), dtype=np.float16)
    other.attach(1, tensors(3)[::-1], [1]), other.append(1, tensors(1)), other.append_many([1], tensors(1))
    other.attach_many([2], tensors(2), np.array([0, 2], np.int32)), cache.attach_many([3], [1], [0, 1], [1], [0, 1])
    other.match_prefix([1]), other.match_prefix_many(np.array([1], np.int32), [0, 1])
    names = ("attach", "append")
    assert {name: len(getattr(kernels, name).signatures) for name in names} == dict.fromkeys(names, 1)
    assert len(kv_match.match_many.signatures) == 1


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
