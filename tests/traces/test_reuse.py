"""Hits at many sizes at once, beside simulations of one cache at a time."""

import gzip
import json
import random
from functools import cache as memo

import numpy as np
import pytest

from llmds.kernels.traces import reuse as kernels
from llmds.kv_cache.cache import KVCache
from llmds.paged_allocator import OutOfPagesError
from llmds.traces import Trace, reuse, synthetic
from tests.traces.model import grown, of, plain_simulation
from tests.traces.test_trace import made

MOONCAKE = {1000: (0.0445, 0.1792), 3000: (0.0653, 0.2916), 10_000: (0.2116, 0.3664), 30_000: (0.3257, 0.3664)}


def plain_places(requests):
    """How recent each block was before its request, from a list of all blocks, the most recent first."""
    stack, places = [], []
    for blocks in requests:
        places += [stack.index(block) + 1 if block in stack else 0 for block in blocks]
        stack = blocks + [block for block in stack if block not in blocks]
    return places


def plain_optimum(requests, capacity):
    """Blocks found when what is needed again last is evicted, by looking through the requests to come."""
    cached, found = set(), 0
    for now, blocks in enumerate(requests):
        if len(blocks) > capacity:
            continue
        found += next((i for i, block in enumerate(blocks) if block not in cached), len(blocks))
        coming = [block for later in requests[now + 1 :] if len(later) <= capacity for block in later]
        others = sorted(cached - set(blocks), key=lambda block: coming.index(block) if block in coming else len(coming))
        cached = set(others[: capacity - len(blocks)]) | set(blocks)
    return found


def best_of_all_choices(requests, capacity):
    """Blocks found by the best of all ways to choose what is evicted."""
    from itertools import combinations

    @memo
    def best(now, cached):
        if now == len(requests):
            return 0
        blocks = requests[now]
        if len(blocks) > capacity:
            return best(now + 1, cached)
        found = next((i for i, block in enumerate(blocks) if block not in cached), len(blocks))
        others = sorted(cached - set(blocks))
        room = min(capacity - len(blocks), len(others))
        return found + max(best(now + 1, frozenset(blocks) | frozenset(kept)) for kept in combinations(others, room))

    return best(0, frozenset())


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_in_a_list(seed):
    requests = grown(seed, requests=300 if seed == 0 else 60)
    places = reuse.stack_distances(of(requests))
    assert places.dtype == np.int64 and places.tolist() == plain_places(requests)


@pytest.mark.parametrize("seed", range(20))
def test_hits_of_every_size_are_those_of_simulations(seed):
    requests = grown(seed)
    sizes = [*range(1, 40), 1000, 10**12]
    order = random.Random(seed).sample(sizes, len(sizes))
    for hits, simulation in (
        (reuse.lru_hits, lambda requests, size: plain_simulation(requests, size)[0]),
        (reuse.optimal_hits, plain_optimum),
    ):
        found, looked_for = hits(of(requests), order)
        assert found.dtype == looked_for.dtype == np.int64
        assert found.tolist() == [simulation(requests, size) for size in order]
        assert looked_for.tolist() == [sum(len(ids) for ids in requests if len(ids) <= size) for size in order]


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_of_what_to_evict_finds_more(seed):
    requests = [tuple(ids) for ids in grown(seed, requests=9, longest=3)]
    sizes = [2, 3, 4, 5]
    found, _ = reuse.optimal_hits(of(requests), sizes)
    assert found.tolist() == [best_of_all_choices(requests, size) for size in sizes]


@pytest.mark.parametrize("seed", range(5))
def test_ids_that_mean_no_prefixes_count_as_the_cache_counts_them(seed):
    """Then a block is its id and those before it, whatever else has that id."""
    chance = random.Random(seed)
    requests = [[chance.randrange(4) for _ in range(chance.randrange(1, 7))] for _ in range(200)]
    sizes = [3, 6, 10, 40]
    found, looked_for = reuse.lru_hits(of(requests), sizes)
    for place, size in enumerate(sizes):
        cache = KVCache(page_size=1, max_pages=size, store=False)
        for ids in requests:
            try:
                cache.attach_blocks(0, ids)
            except OutOfPagesError:
                continue
            cache.detach(0)
        assert (cache.stats()["hit_tokens"], cache.stats()["lookup_tokens"]) == (found[place], looked_for[place])


def test_a_conversation_trace_has_the_known_hit_rates(data):
    with gzip.open(data / "traces" / "mooncake_conversation.jsonl.gz") as lines:
        requests = [json.loads(line)["hash_ids"] for line in lines]
    trace, sizes = of(requests), list(MOONCAKE)
    found, looked_for = reuse.lru_hits(trace, sizes)
    assert (found[0], looked_for[0]) == plain_simulation(requests, sizes[0])
    best, _ = reuse.optimal_hits(trace, sizes)
    rates = zip((found / looked_for).round(4).tolist(), (best / looked_for).round(4).tolist(), strict=True)
    assert dict(zip(sizes, rates, strict=True)) == MOONCAKE
    assert (looked_for == len(trace.block_ids)).all()
    small = [20, 100, 246, 247]
    assert list(zip(*map(np.ndarray.tolist, reuse.lru_hits(trace, small)), strict=True)) == [
        plain_simulation(requests, size) for size in small
    ]


def test_a_cache_without_limit_finds_what_was_seen_before():
    trace = synthetic(2, requests=500)
    (lru,), (blocks,) = reuse.lru_hits(trace, [10**9])
    (best,), _ = reuse.optimal_hits(trace, [10**9])
    assert lru == best == (reuse.stack_distances(trace) > 0).sum() and blocks == len(trace.block_ids)
    assert lru / blocks == pytest.approx(trace.stats()["seen_before"])


def test_nothing_to_find():
    for trace in (made(), Trace([0, 1], [5, 6], [1, 1])):
        for hits in (reuse.lru_hits, reuse.optimal_hits):
            assert [array.tolist() for array in hits(trace, [1, 5])] == [[0, 0], [0, 0]]
        assert reuse.stack_distances(trace).tolist() == []
    for hits in (reuse.lru_hits, reuse.optimal_hits):
        assert [array.tolist() for array in hits(of([[1, 2]]), [])] == [[], []]
        assert [array.tolist() for array in hits(of([[1, 2]] * 2), [1, 2])] == [[0, 2], [0, 4]]


@pytest.mark.parametrize("hits", [reuse.lru_hits, reuse.optimal_hits])
@pytest.mark.parametrize("sizes, error", [([0], ValueError), ([-3, 5], ValueError), ([1.5], TypeError), (3, TypeError)])
def test_sizes_are_numbers_of_blocks(hits, sizes, error):
    with pytest.raises(error, match="sizes"):
        hits(of([[1, 2]]), sizes)


def test_every_kernel_is_compiled_once():
    names = ("number", "distances", "next_uses", "optimum")
    assert {len(getattr(kernels, name).signatures) for name in names} == {1}
