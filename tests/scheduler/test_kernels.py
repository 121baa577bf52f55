"""The kernels alone, inside somebody's own compiled loop, do what the class does."""

import math

import numpy as np
import pytest
from numba import njit

from llmds.kernels.scheduler import batch as scheduling_batch
from llmds.kernels.scheduler import layout as scheduling_layout
from llmds.kernels.scheduler import requests as scheduling
from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Scheduler
from llmds.scheduler.state import POLICIES
from tests.scheduler.model import Clock

SLOTS, BUDGET, CHUNK, STEP = 4, 64, 16, 0.25


@njit
def served(arena, ledger, arrivals, tokens, replies, tenants, budget, step):
    """(first, end): when each request had its prompt computed and when its reply was finished."""
    n = len(arrivals)
    first, end = np.zeros(n), np.zeros(n)
    batch, one, left = np.empty(ledger[scheduling_layout.MAX_SIZE], np.int64), np.empty(1, np.int64), replies.copy()
    decoding, count, came, done, now, turns = np.empty(n, np.int64), 0, 0, 0, 0.0, 0
    while done < n:
        while came < n and arrivals[came] <= now:
            scheduling.submit(arena, now, tokens[came], np.inf, 0.0, tenants[came])
            came += 1
        room = len(batch) - count
        taken = scheduling_batch.take_batch(arena, ledger, now, True, budget - count, batch[:room])
        now += step
        running = 0
        for place in range(count):
            request = decoding[place]
            left[request] -= 1
            if left[request] == 0:
                one[0], end[request] = request, now
                scheduling.complete(arena, now, one)
                done += 1
            else:
                decoding[running] = request
                running += 1
        count = running
        scheduling.wait_again(arena, now, batch[:taken], scheduling.REST)
        for place in range(taken):
            if scheduling.look_up(arena, batch[place])[5]:  # in flight: all of its prompt is computed
                first[batch[place]] = now
                decoding[count] = batch[place]
                count += 1
        turns += 1
        if turns % 10 == 0 and turns < 400 and count > 0:  # the last one begins anew
            count -= 1
            one[0] = decoding[count]
            left[one[0]] = replies[one[0]]
            scheduling.wait_again(arena, now, one, scheduling.LOST)
    return first, end


def served_by_class(scheduler, clock, arrivals, tokens, replies, tenants):
    n = len(arrivals)
    first, end, left, decoding, came, turns = np.zeros(n), np.zeros(n), list(replies), [], 0, 0
    while len(scheduler) or came < n:
        while came < n and arrivals[came] <= clock.now:
            scheduler.submit(int(tokens[came]), tenant=int(tenants[came]))
            came += 1
        most = BUDGET - len(decoding)
        batch = scheduler.get_batch(True, max_requests=SLOTS - len(decoding), max_tokens=most) or []
        clock.now += STEP
        for request in decoding:
            left[request] -= 1
            if left[request] == 0:
                end[request] = clock.now
                scheduler.complete_batch([request])
        decoding = [request for request in decoding if left[request] > 0]
        scheduler.continue_batch(batch)
        begun = [request for request in batch if scheduler.request(request).state == "in flight"]
        first[begun] = clock.now
        decoding += begun
        turns += 1
        if turns % 10 == 0 and turns < 400 and decoding:
            last = decoding.pop()
            left[last] = replies[last]
            scheduler.preempt([last])
    return first, end


@pytest.mark.parametrize("policy", ["sjf", "fcfs", "wfq"])
def test_a_compiled_loop_serves_as_the_class_does(policy):
    random, n, tenants = np.random.default_rng(3), 300, 5
    arrivals = np.cumsum(random.exponential(1.0, n))
    tokens, replies, owners = random.integers(1, 90, n), random.integers(1, 9, n), random.integers(0, tenants, n)
    code = POLICIES.index(policy)
    arena = scheduling_layout.new(n, tenants if policy == "wfq" else 0, 0, code, 0.5, CHUNK, 0, 0)
    ledger = scheduling_layout.new_ledger(SLOTS, 2**62, math.inf, 0.0)
    clock = Clock()
    scheduler = Scheduler(SLOTS, math.inf, policy=policy, aging=0.5, prefill_chunk=CHUNK, clock=clock)
    expected = served_by_class(scheduler, clock, arrivals, tokens, replies, owners)
    got = served(arena, ledger, arrivals, tokens, replies, owners, BUDGET, STEP)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert scheduler.stats()["preemptions"] > 5


def test_prompts_may_lie_in_an_array_of_the_callers():
    blocks = np.array([7, 8, 9, 7, 8, 5, 7, 1])
    cache = KVCache(page_size=2, max_pages=9, store=False)
    cache.attach_blocks(0, [7, 8, 5])
    arena = scheduling_layout.new(4, 0, 0, POLICIES.index("lpm"), 0.0, scheduling_layout.NO_CHUNK, 0, 1)
    ledger = scheduling_layout.new_ledger(4, 2**62, math.inf, 0.0)
    for start, stop in ((6, 8), (0, 3), (3, 6)):
        ids = stop - start
        scheduling.submit_prompt(arena, 0.0, 2 * ids, math.inf, 0.0, 0, start, ids, 0)
    batch = np.empty(4, np.int64)
    code, taken, _ = scheduling_batch.take_batch_cached(
        *cache.arrays, arena, blocks.view(np.uint8), ledger, 0.0, True, 2**62, batch
    )
    assert (code, taken) == (scheduling.OK, 3) and batch[:3].tolist() == [2, 1, 0]
    start = scheduling_layout.LEDGER
    assert ledger[start : start + 3].tolist() == [1, 2, 2]
