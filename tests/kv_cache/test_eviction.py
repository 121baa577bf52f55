"""Every eviction policy of the KV cache beside a plain one, and what a recorded load gives under it."""

import gzip
import json
import random

import numpy as np
import pytest

from llmds.kernels.kv_cache.eviction import table
from llmds.kv_cache.cache import KVCache
from llmds.kv_cache.state import POLICIES as NAMES
from llmds.paged_allocator import OutOfPagesError
from tests.kv_cache.eviction_models import POLICIES, PolicyModel

PAGE_SIZE = 2


def step(chance, model, shared_writes):
    """A call that both take, as (name, arguments)."""
    seqs = sorted(model.seqs)
    kind = chance.choice(["attach", "attach", "attach", "detach", "detach", "fork", "write"])
    if kind == "attach" or not seqs:
        # a few conversations that go on, branch, and come again
        blocks = [chance.choice([0, 0, 1]), *(chance.choice([2, 2, 2, 3, 4]) for _ in range(chance.randrange(6)))]
        blocks = blocks[: chance.randrange(len(blocks) + 1)]
        return "attach_blocks", chance.randrange(6), blocks, chance.choice([0, 0, 0, 5])
    seq = chance.choice(seqs)
    if kind == "fork" and len(seqs) < 6:
        return "fork", seq, next(new for new in range(6) if new not in seqs)
    pages = model.seqs[seq].pages
    if kind == "write" and pages:
        # `write` parts pages from what is below them where somebody else holds them
        at = chance.randrange(len(pages)) if shared_writes else len(pages) - 1
        return "write", seq, at * PAGE_SIZE, [chance.randrange(9)]
    return "detach", seq


def both(cache, model, call):
    """The call on the cache and on the model; the model afterwards."""
    name, *given = call
    options = {"salt": given.pop()} if name == "attach_blocks" else {}
    try:
        after = model.attempt(lambda m: getattr(m, name)(*given, **options))
    except OutOfPagesError:
        with pytest.raises(OutOfPagesError):
            getattr(cache, name)(*given, **options)
        return model
    getattr(cache, name)(*given, **options)
    return after


def agree(cache, model):
    """The same pages can be found, by the same counts."""
    assert cache.stats() == model.stats()
    for salt, *path in model.index:
        assert cache.match_prefix([block for _, block in path], salt=salt, blocks=True) == len(path)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("max_pages, shared_writes, seed", [(6, False, 1), (9, True, 2), (14, False, 3), (23, True, 4)])
def test_pages_leave_as_in_the_plain_policy(policy, max_pages, shared_writes, seed, tmp_path):
    shared_writes &= policy != "lhd"  # which then falls back on any page
    chance, cache = random.Random(seed), KVCache(PAGE_SIZE, max_pages, eviction=policy)
    model = PolicyModel(PAGE_SIZE, max_pages, POLICIES[policy])
    for turn in range(600):
        model = both(cache, model, step(chance, model, shared_writes))
        cache.check()
        agree(cache, model)
        if turn == 300:
            cache.save(tmp_path / "cache.npz")
            cache = KVCache.load(tmp_path / "cache.npz")
            assert cache.eviction == policy
    stats = cache.stats()
    assert min(stats["evictions"], stats["prefix_shares"], 5 * stats["cow_copies"]) > 20, stats
    assert model.in_order or shared_writes, "the last pages of a chain leave first"


@pytest.mark.parametrize("policy", POLICIES)
def test_pages_parted_from_what_is_below_them_leave_too(policy):
    """Sequences that wrote into shared pages hold pages below some that nobody holds; these can still be evicted."""
    chance, cache = random.Random(7), KVCache(PAGE_SIZE, 12, eviction=policy)
    for _ in range(100):
        cache.attach_blocks(0, [1, 2, 3, 4])
        cache.fork(0, 1)
        cache.write(1, chance.randrange(3) * PAGE_SIZE, [5])
        cache.detach(0)
        cache.attach_blocks(2, [chance.randrange(50) for _ in range(6)])
        cache.detach(2)
        cache.check()
        cache.detach(1)
        cache.check()
    assert cache.stats()["evictions"] > 100


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("max_pages", [1, 2, 3])
def test_the_smallest_pools(policy, max_pages):
    cache = KVCache(1, max_pages, eviction=policy)
    for turn in range(60):
        cache.attach_blocks(0, [turn % 4, turn % 3][:max_pages])
        assert cache.match_prefix([turn % 4], blocks=True) == 1
        cache.detach(0)
        cache.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_no_number_a_policy_keeps_can_be_changed_unseen_and_then_crash(policy):
    chance, cache = np.random.default_rng(3), KVCache(PAGE_SIZE, 12, eviction=policy)
    for turn in range(80):
        cache.attach_blocks(turn % 3, chance.integers(0, 3, 4))
        if turn % 2:
            cache.detach(turn % 3)
    whole = cache._to_arrays()
    size = table.policy(NAMES.index(policy)).size(12)
    for turn in range(300):
        arrays = {name: array.copy() for name, array in whole.items()}
        pool = arrays["pool"].view(np.int32)
        first = 2 * (len(arrays["pool"]) - size) if turn % 2 else 64  # what is its own, or anything but settings
        stop = first + min(32, 2 * size) if turn % 4 == 1 else len(pool)
        pool[chance.integers(first, stop)] = chance.choice([-2, -1, 0, 1, 2, 5, 12, 2**31 - 1, -(2**31)])
        try:
            hurt = KVCache._restored(arrays, "arrays")
        except ValueError:
            continue
        for seq in range(40):
            hurt.attach_blocks(seq % 3, chance.integers(0, 4, 4))
            hurt.detach(seq % 3)
        hurt.stats()


def test_names():
    assert tuple(POLICIES) == NAMES == table.POLICIES
    assert NAMES[:6] == ("lru", "lfu", "slru", "tinylfu", "s3fifo", "lhd"), "files hold these numbers"
    with pytest.raises(ValueError, match="eviction"):
        KVCache(2, 4, eviction="mru")
    assert [KVCache(2, 4, eviction=policy).eviction for policy in NAMES] == list(NAMES)


# Of the Mooncake trace of conversations, at 3,000 and at 10,000 pages, as measured
HIT_RATES = {
    "lru": (0.0653, 0.2116),
    "lfu": (0.0750, 0.1317),
    "slru": (0.0767, 0.1984),
    "tinylfu": (0.0756, 0.1333),
    "s3fifo": (0.0949, 0.1994),
    "lhd": (0.1329, 0.2380),
}


@pytest.fixture(scope="module")
def requests(data):
    with gzip.open(data / "traces" / "mooncake_conversation.jsonl.gz") as lines:
        return [np.array(json.loads(line)["hash_ids"]) for line in lines]


def hit_rate(requests, policy, max_pages):
    cache = KVCache(512, max_pages, store=False, eviction=policy)
    for blocks in requests:
        cache.attach_blocks(0, blocks)
        cache.detach(0)
    cache.check()
    stats = cache.stats()
    return stats["hit_tokens"] / stats["lookup_tokens"]


@pytest.mark.parametrize("policy", HIT_RATES)
def test_hit_rates_of_a_conversation_trace(requests, policy):
    assert tuple(round(hit_rate(requests, policy, pages), 4) for pages in (3000, 10_000)) == HIT_RATES[policy]


@pytest.mark.parametrize("max_pages", [1000, 3000, 10_000, 30_000, 100_000])
def test_lhd_is_nowhere_below_lru(requests, max_pages):
    assert hit_rate(requests, "lhd", max_pages) >= 0.99 * hit_rate(requests, "lru", max_pages)
