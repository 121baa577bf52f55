"""The cache beside a model of lists."""

import random
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds.kv_cache.cache import KVCache
from llmds.paged_allocator import OutOfPagesError
from tests.kv_cache.cases import agrees_with_attention, ragged
from tests.kv_cache.model import Model

SEQS = range(5)
SALTS = [0, 0, 0, 7]
PREFIXES = [[0], [0, 1], [0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 1, 1], [1, 1], []]
seqs, salts = st.integers(0, 4), st.sampled_from(SALTS)
present = st.integers(0, 59)  # which of the sequences that are there
tokens = st.lists(st.integers(0, 1), max_size=4)
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
        dtype=st.sampled_from([np.int64, np.int32, np.int64, np.float64]),
    )
    def start(self, page_size, max_pages, sharing, store, dtype):
        self.cache = KVCache(page_size, max_pages, sharing, store=store, dtype=dtype, max_pinned=3, events=9)
        content = dtype != np.float64
        self.model, self.ran_out, self.dtype = Model(page_size, max_pages, sharing, store, content), 0, dtype
        self.known = Counter()  # hashes of findable pages, as a router would know them

    def one_of(self, which):
        """A sequence that is there, a new one where none is."""
        if not self.model.seqs:
            self.attach(which % 5, ([0, 1, 0], [1, 1], 0), True, 0)
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
            self.route()

    def route(self):
        """What a router learns from the events is what is there, unless the ring was too short."""
        told, self.model.told = self.model.told, []
        events = self.cache.events()
        assert events.lost == max(0, len(told) - 9) and len(events.stored) == min(9, len(told))
        assert events.stored.sum() == sum(stored for stored, _ in told[-9:])
        if events.lost:
            self.lost = True
        for stored, hash_ in zip(events.stored, events.hashes.tolist(), strict=True):
            self.known[hash_] += 1 if stored else -1

    @rule(seq=seqs, request=requests, named=st.sampled_from([True, True, False]), salt=salts)
    def attach(self, seq, request, named, salt):
        entries, prefix = entries_of(request), request[0] if named else None
        self.both(
            lambda: self.cache.attach(seq, entries, prefix, salt=salt),
            lambda m: m.attach(seq, entries, prefix or (), salt),
        )

    @rule(batch=st.lists(st.tuples(seqs, requests, salts, st.booleans()), max_size=4))
    def attach_many(self, batch):
        entries = [entries_of(request) for _, request, _, _ in batch]
        prefixes = [request[0] if named else [] for _, request, _, named in batch]
        ids, salts = [seq for seq, *_ in batch], [salt for *_, salt, _ in batch]

        def one_by_one(model):
            for seq, own, prefix, salt in zip(ids, entries, prefixes, salts, strict=True):
                model.attach(seq, own, prefix, salt)

        many = (ids, *ragged(entries), *ragged(prefixes))
        self.both(lambda: self.cache.attach_many(*many, salt=np.array(salts, np.int64)), one_by_one)

    @rule(seq=seqs, blocks=prefixes, salt=salts)
    def attach_blocks(self, seq, blocks, salt):
        self.both(
            lambda: self.cache.attach_blocks(seq, blocks, salt=salt), lambda m: m.attach_blocks(seq, blocks, salt)
        )

    @rule(batch=st.lists(st.tuples(seqs, prefixes), max_size=4), salt=salts)
    def attach_blocks_many(self, batch, salt):
        def one_by_one(model):
            for seq, blocks in batch:
                model.attach_blocks(seq, blocks, salt)

        ids, blocks = [seq for seq, _ in batch], [blocks for _, blocks in batch]
        self.both(lambda: self.cache.attach_blocks_many(ids, *ragged(blocks), salt=salt), one_by_one)

    @rule(request=requests, salt=salts)
    def pin(self, request, salt):
        tokens = [*request[0], *request[1]]
        found = self.model.match(tokens, salt)
        try:
            after = self.model.attempt(lambda m: m.pin(tokens, salt, self.cache.max_pinned))
        except OutOfPagesError:
            with pytest.raises(OutOfPagesError, match="max_pinned"):
                self.cache.pin(tokens, salt=salt)
        else:
            assert self.cache.pin(tokens, salt=salt) == found
            self.model = after

    @rule(request=requests, salt=salts, short=st.booleans())
    def unpin(self, request, salt, short):
        tokens = [*request[0], *request[1]]
        if short:
            tokens = tokens[: self.model.match(tokens, salt)]
        try:
            after = self.model.attempt(lambda m: m.unpin(tokens, salt))
        except ValueError:
            with pytest.raises(ValueError, match="pinned"):
                self.cache.unpin(tokens, salt=salt)
        else:
            self.cache.unpin(tokens, salt=salt)
            self.model = after

    @rule(seq=seqs)
    def detach(self, seq):
        self.both(lambda: self.cache.detach(seq), lambda m: m.detach(seq))

    @rule(which=present, entries=tokens)
    def append(self, which, entries):
        if (seq := self.one_of(which)) is not None:
            self.both(lambda: self.cache.append(seq, entries), lambda m: m.append(seq, entries))

    @rule(entries=st.lists(st.sampled_from([0, 1, 1, 5]), min_size=5, max_size=5), backwards=st.booleans())
    def append_many(self, entries, backwards):
        batch = dict(zip(sorted(self.model.seqs, reverse=backwards)[: entries[0]], entries, strict=False))

        self.both(
            lambda: self.cache.append_many(list(batch), list(batch.values())),
            lambda m: m.append_many({seq: [entry] for seq, entry in batch.items()}),
        )

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

    @rule(probes=st.lists(tokens, max_size=4), salt=salts)
    def match(self, probes, salt):
        before = self.cache._to_arrays()["pool"].copy()
        expected = [self.model.match(probe, salt) for probe in probes]
        assert self.cache.match_prefix_many(*ragged(probes), salt=salt).tolist() == expected
        assert [self.cache.match_prefix(probe, salt=salt) for probe in probes] == expected
        blocks = [self.model.match_blocks(probe, salt) for probe in probes]
        assert self.cache.match_prefix_many(*ragged(probes), salt=salt, blocks=True).tolist() == blocks
        assert [self.cache.match_prefix(probe, salt=salt, blocks=True) for probe in probes] == blocks
        np.testing.assert_array_equal(self.cache._to_arrays()["pool"], before)

    @invariant()
    def agree(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.cache.stats() == self.model.stats()
        assert len(self.cache) == len(self.model.seqs)
        named = [path for path in self.model.index if path[1][:1] != ("block",)]
        paths = [[token for ids in path[1:] for token in ids] for path in named]
        salts = np.array([path[0] for path in named], np.int64)
        matched = self.cache.match_prefix_many(*ragged(paths), salt=salts)
        assert matched.tolist() == [len(path) for path in paths]
        if not hasattr(self, "lost"):
            assert self.known.total() == len(self.model.index) and min(self.known.values(), default=0) >= 0
            for path, tokens in zip(named, paths, strict=True):
                assert all(self.known[hash_] for hash_ in self.cache.block_hashes(tokens, salt=path[0]).tolist())
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


@pytest.mark.parametrize(
    "page_size, max_pages, store, dtype",
    [(1, 9, True, np.int64), (2, 8, True, np.int32), (3, 7, True, np.float64), (2, 7, False, np.int64)],
)
def test_long_walks_meet_every_case_again_and_again(page_size, max_pages, store, dtype):
    """As above, on random calls alone, so that it is certain what has happened."""
    machine, chance = BesideModel(), random.Random(page_size)
    machine.start(page_size, max_pages, True, store, dtype)

    def salt():
        return chance.choice(SALTS)

    def some(most):
        return [chance.randrange(2) for _ in range(chance.randrange(most + 1))]

    def request():
        return chance.choice(PREFIXES), some(3), chance.choice([0, 0, 0, 7])

    calls = [
        lambda: machine.attach(chance.randrange(5), request(), chance.random() < 0.6, salt()),
        lambda: machine.attach_many(
            [(chance.randrange(5), request(), salt(), chance.random() < 0.6) for _ in range(chance.randrange(4))]
        ),
        lambda: machine.attach_blocks(chance.randrange(5), chance.choice(PREFIXES), salt()),
        lambda: machine.attach_blocks_many(
            [(chance.randrange(5), chance.choice(PREFIXES)) for _ in range(chance.randrange(4))], salt()
        ),
        lambda: machine.pin(request(), salt()),
        lambda: machine.unpin(request(), salt(), True),
        lambda: machine.unpin(request(), salt(), chance.random() < 0.5),
        lambda: machine.detach(chance.randrange(5)),
        lambda: machine.append(chance.randrange(60), some(3)),
        lambda: machine.append_many([chance.choice([0, 1, 1, 5]) for _ in range(5)], chance.random() < 0.5),
        lambda: machine.write(chance.randrange(60), chance.randrange(60), some(2)),
        lambda: machine.truncate(chance.randrange(60), chance.randrange(60)),
        lambda: machine.fork(chance.randrange(60), chance.randrange(5)),
        lambda: machine.fork(chance.randrange(60), chance.randrange(5)),
        lambda: machine.fork(chance.randrange(60), chance.randrange(5)),
        lambda: machine.write(chance.randrange(60), chance.randrange(60), some(2)),
        lambda: machine.match([some(6)], salt()),
    ]
    for _ in range(3500):
        chance.choice(calls)()
        machine.agree()
    stats = machine.cache.stats()
    print(stats, f"ran out {machine.ran_out} times")
    assert min(stats["cow_copies"], stats["evictions"], stats["prefix_shares"], machine.ran_out) > 20, stats


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
    assert cache.nbytes < large and len(cache.arrays.tables) == 64
    cache.reserve(1000)
    reserved = cache.nbytes
    for seq in range(10, 900):
        cache.attach(seq, [])
    assert cache.nbytes == reserved


def test_bookkeeping_is_small_and_true():
    cache = KVCache(16, 10_000, store=False)
    for seq in range(100):
        cache.attach_blocks(seq, np.arange(100) + 100 * seq)
    assert cache.nbytes == sum(array.nbytes for array in cache.arrays)
    assert cache.nbytes - 4 * 10_000 < 100 * 10_000, "page tables of the sequences apart"
    stored = KVCache(16, 100, token_shape=(2, 3), dtype=np.float16)
    assert stored.nbytes - stored.pages.nbytes < 100 * 100 + 3000


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
