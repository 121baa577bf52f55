"""Traces replayed: beside a plain simulation, beside single calls, interrupted, by size and policy."""

import numpy as np
import pytest

from llmds.kv_cache.cache import KVCache
from llmds.kv_cache.state import POLICIES
from llmds.paged_allocator import OutOfPagesError
from llmds.traces import Trace, read, reuse, synthetic
from llmds.traces.hit_rates import OPTIMAL, cache_for, hit_rate_curve, replay
from tests.traces.model import grown, of, plain_simulation

NO_REQUESTS, NO_IDS = Trace([], [], []), Trace([0.0, 1.0], [600, 5], [1, 1])


def fresh(pages=10, policy="lru", page_size=1, **options):
    return KVCache(page_size, pages, store=False, eviction=policy, **options)


def one_by_one(requests, cache, salt=0):
    """Blocks found of each request by single calls, -1 where it does not fit; the id is any that is not there."""
    found, seq = [], next(e for e in range(2**20) if e not in cache)
    for blocks in requests:
        before = cache.stats()["hit_tokens"]
        try:
            cache.attach_blocks(seq, blocks, salt=salt)
            found.append((cache.stats()["hit_tokens"] - before) // cache.page_size)
        except OutOfPagesError:
            found.append(-1)
        cache.detach(seq)
    return found


def replayed(requests, cache, **how):
    came = replay(of(requests), cache, **how)
    cache.check()
    assert came.blocks.tolist() == [len(blocks) for blocks in requests]
    assert (came.found.dtype, came.blocks.dtype, came.refused.dtype) == (np.int64, np.int64, bool)
    assert (came.found[came.refused] == 0).all() and (came.found <= came.blocks).all()
    return np.where(came.refused, -1, came.found).tolist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pages", [1, 3, 8, 20, 1000])
def test_a_replay_is_what_single_calls_are(policy, pages):
    refused = evictions = 0
    for seed in range(5):
        requests, cache, other = grown(seed, 80), fresh(pages, policy), fresh(pages, policy)
        found = one_by_one(requests, other)
        assert replayed(requests, cache) == found
        assert cache.stats() == other.stats()
        assert replayed(requests, cache) == one_by_one(requests, other), "a second trace follows"
        refused, evictions = refused + found.count(-1), evictions + cache.stats()["evictions"]
    assert (refused > 0) == (pages < 9) and (evictions > 0) == (pages < 1000)


@pytest.mark.parametrize("pages", [2, 5, 9, 14, 40, 400])
def test_lru_is_the_plain_simulation(pages):
    for seed in range(20):
        requests = grown(seed)
        came = replay(of(requests), fresh(pages))
        hits, total = plain_simulation(requests, pages)
        assert (came.found.sum(), came.blocks[~came.refused].sum()) == (hits, total)
        assert came.hit_rate == (hits / total if total else 0.0)
        assert came.refused.tolist() == [len(blocks) > pages for blocks in requests]


@pytest.mark.parametrize("pages, rate", [(100, None), (1000, 0.0445), (3000, 0.0653), (10_000, 0.2116)])
def test_a_real_trace_is_the_plain_simulation(data, pages, rate):
    trace = read(data / "traces" / "mooncake_conversation.jsonl.gz")
    cache = fresh(pages, page_size=512)
    came = replay(trace, cache)
    requests = [trace.blocks(r).tolist() for r in range(len(trace))]
    hits, total = plain_simulation(requests, pages)
    assert (came.found.sum(), came.blocks[~came.refused].sum()) == (hits, total)
    assert rate is None or round(came.hit_rate, 4) == rate
    assert came.refused.any() == (pages < 247) and came.seconds > 0
    assert came.requests_per_second == pytest.approx(len(trace) / came.seconds)
    cache.check()


def test_what_came_under_one_salt_is_not_found_under_another():
    cache, requests = fresh(), [[1, 2, 3], [1, 2, 4]]
    assert replayed(requests, cache, salt=1) == [0, 2]
    assert replayed(requests, cache, salt=2) == [0, 2]
    assert replayed(requests, cache, salt=1) == [3, 3]
    with pytest.raises(TypeError, match="salt"):
        replay(of(requests), cache, salt=1.5)


def test_the_cache_is_left_as_the_trace_leaves_it():
    cache = fresh(4)
    assert replayed([[1, 2], [1, 2, 3], [9]], cache) == [0, 2, 0]
    assert len(cache) == 0 and cache.stats()["allocated_pages"] == 0 and cache.stats()["cached_pages"] == 4
    assert cache.match_prefix([1, 2, 3], blocks=True) == 3
    assert (cache.stats()["hit_tokens"], cache.stats()["lookup_tokens"]) == (2, 6)


@pytest.mark.parametrize("policy", POLICIES)
def test_sequences_that_are_there_stay(policy):
    """Three of the pages are held, under the ids that a replay might have taken for its own."""
    cache, other = fresh(8, policy), fresh(8, policy)
    held = {2**63 - 1: [1, 2], 2**63 - 2: [1, 3], 0: []}
    for some in (cache, other):
        for seq, blocks in held.items():
            some.attach_blocks(seq, blocks)
    table = [array.tolist() for level in cache.block_table(list(held)) for array in level]
    requests = [[1, 2, 7], *grown(4, 200, 8), [1, 3, 8], list(range(500, 506))]
    found = replayed(requests, cache)
    assert found == one_by_one(requests, other) and found[0] == 2 and found[-2] == 2 and found[-1] == -1
    assert cache.stats()["evictions"] > 0 and len(cache) == 3 and all(seq in cache for seq in held)
    assert [array.tolist() for level in cache.block_table(list(held)) for array in level] == table


def test_nothing_in_nothing_out():
    came = replay(NO_REQUESTS, fresh(page_size=512))
    assert len(came.blocks) == len(came.found) == len(came.refused) == 0
    assert came.hit_rate == 0.0 and came.requests_per_second >= 0.0
    assert replay(of([[1]] * 3), fresh(1)).found.tolist() == [0, 1, 1]
    all_refused = replay(of([[1, 2]] * 3), fresh(1))
    assert all_refused.refused.all() and all_refused.hit_rate == 0.0


def test_without_sharing_nothing_is_found():
    came = replay(of([[1, 2]] * 3), fresh(9, enable_prefix_sharing=False))
    assert came.found.tolist() == [0, 0, 0] and not came.refused.any()


def test_entries_that_are_stored_do_not_matter():
    assert replay(of([[1, 2], [1, 2, 3]]), KVCache(1, 9)).found.tolist() == [0, 2]
    assert replay(of([[1, 2], [1, 2, 3]]), KVCache(1, 9, token_shape=(2,))).found.tolist() == [0, 2]


def test_what_a_replay_refuses():
    cache = fresh(page_size=16)
    with pytest.raises(ValueError, match=r"page_size=16.*512"):
        replay(Trace([0.0], [600], [1], [1, 2], [0, 2]), cache)
    with pytest.raises(ValueError, match="trace must have block ids"):
        replay(NO_IDS, fresh(page_size=512))
    with pytest.raises(ValueError, match="trace must have block ids"):
        hit_rate_curve(NO_IDS, [10])
    with pytest.raises(TypeError, match="progress"):
        replay(of([[1]]), fresh(), progress="yes")
    assert cache.stats() == fresh(page_size=16).stats()


def test_progress_rises_to_the_end():
    told = []
    replay(of(grown(1, 500)), fresh(), progress=lambda *how: told.append(how))
    done = [count for count, _ in told]
    assert done == sorted(set(done)) and done[-1] == 500 and len(done) > 1 and {total for _, total in told} == {500}


@pytest.mark.parametrize("policy", [*POLICIES, OPTIMAL])
def test_progress_of_a_curve(policy):
    told = []
    hit_rate_curve(of(grown(1)), [3, 30, 9], policy, threads=1, progress=lambda *how: told.append(how))
    assert told[-1] == (3, 3) and told == sorted(told)
    with pytest.raises(TypeError, match="progress"):
        hit_rate_curve(of([[1]]), [3], policy, progress="yes")


@pytest.mark.parametrize("policy", POLICIES)
def test_an_interruption_keeps_a_whole_prefix(policy):
    def interrupt(done, total):
        reached.append(done)
        if len(reached) == 3:
            raise KeyboardInterrupt

    requests, reached, cache, other = grown(2, 3000), [], fresh(12, policy), fresh(12, policy)
    with pytest.raises(KeyboardInterrupt):
        replay(of(requests), cache, progress=interrupt)
    assert 0 < reached[-1] < 3000
    one_by_one(requests[: reached[-1]], other)
    assert cache.stats() == other.stats() and len(cache) == 0
    cache.check()
    assert replayed(requests[reached[-1] :], cache) == one_by_one(requests[reached[-1] :], other)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_curve_is_a_replay_at_each_size(policy):
    """Sizes below the longest request, which has nine blocks, refuse some."""
    sizes = [1, 2, 5, 8, 9, 10, 30, 200, 10**6, 5]
    for seed in range(4):
        trace = of(grown(seed, 120))
        rates = hit_rate_curve(trace, sizes, policy)
        assert rates.dtype == np.float64 and rates.shape == (len(sizes),)
        assert rates.tolist() == [replay(trace, cache_for(trace, size, policy)).hit_rate for size in sizes]
        assert rates.tolist() == hit_rate_curve(trace, sizes, policy, threads=1).tolist()
        assert rates.tolist() == hit_rate_curve(trace, sizes, policy, threads=2).tolist()


def test_the_pass_for_lru_is_a_replay_at_every_size():
    trace = of(grown(5, 300))
    sizes = range(1, len(trace.prefixes()[1]) + 3)
    assert hit_rate_curve(trace, sizes).tolist() == [replay(trace, fresh(size)).hit_rate for size in sizes]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_beats_the_optimum(policy):
    trace, sizes = synthetic(2, requests=600), [300, 1000, 3000]
    found, optimum = hit_rate_curve(trace, sizes, policy), hit_rate_curve(trace, sizes, OPTIMAL)
    assert (found <= optimum).all() and optimum[0] > 0
    hits, blocks = reuse.optimal_hits(trace, sizes)
    assert optimum.tolist() == (hits / blocks).tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_more_pages_than_blocks_change_nothing(policy):
    trace = of(grown(6, 100))
    assert cache_for(trace, 2**31 - 1, policy).max_pages == len(trace.block_ids)
    assert cache_for(trace, 7, policy).max_pages == 7 and cache_for(NO_REQUESTS, 7, policy).max_pages == 1
    few, many = (replay(trace, fresh(pages, policy)).found for pages in (len(trace.block_ids), 5000))
    assert few.tolist() == many.tolist()


@pytest.mark.parametrize("policy", [*POLICIES, OPTIMAL])
def test_curves_of_no_sizes_and_of_no_requests(policy):
    assert hit_rate_curve(of(grown(1)), [], policy).shape == (0,)
    assert hit_rate_curve(NO_REQUESTS, [1, 10], policy).tolist() == [0.0, 0.0]


def test_what_a_curve_refuses():
    trace = of([[1]])
    for sizes in ([5], []):
        with pytest.raises(ValueError, match=f"policy must be one of 'lru'.*'{OPTIMAL}', got 'random'"):
            hit_rate_curve(trace, sizes, "random")
    for sizes, error in (([0], ValueError), ([-1], ValueError), ([2**31], ValueError), ([1.5], TypeError)):
        with pytest.raises(error, match="sizes"):
            hit_rate_curve(trace, sizes)
    for policy in POLICIES:
        for threads in (0, -1):
            with pytest.raises(ValueError, match="threads"):
                hit_rate_curve(trace, [5], policy, threads=threads)
