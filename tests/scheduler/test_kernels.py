"""The kernels alone, inside somebody's own compiled loop, do what the class does."""

import math

import numpy as np
import pytest
from numba import njit

from llmds.kernels.scheduler import batch as scheduling_batch
from llmds.kernels.scheduler import layout, policies
from llmds.kernels.scheduler import requests as scheduling
from llmds.kernels.scheduler.policies import POLICIES
from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Scheduler
from tests.scheduler.model import Clock

SLOTS, BUDGET, CHUNK, STEP = 4, 64, 16, 0.25


@njit
def served(arena, ledger, arrivals, tokens, replies, tenants, budget, step):
    """(first, end): when each request had its prompt computed and when its reply was finished."""
    n = len(arrivals)
    first, end = np.zeros(n), np.zeros(n)
    batch, one, left = np.empty(ledger[layout.MAX_SIZE], np.int64), np.empty(1, np.int64), replies.copy()
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
            if scheduling.look_up(arena, batch[place]).in_flight:  # all of its prompt is computed
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
    arena = layout.new(n, tenants if policy == "wfq" else 0, 0, code, 0.5, CHUNK, 0, 0)
    ledger = layout.new_ledger(SLOTS, 2**62, math.inf, 0.0)
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
    arena = layout.new(4, 0, 0, POLICIES.index("lpm"), 0.0, layout.NO_CHUNK, 0, 1)
    ledger = layout.new_ledger(4, 2**62, math.inf, 0.0)
    for start, stop in ((6, 8), (0, 3), (3, 6)):
        ids = stop - start
        scheduling.submit_prompt(arena, 0.0, 2 * ids, math.inf, 0.0, 0, start, ids, 0)
    batch = np.empty(4, np.int64)
    code, taken, _ = scheduling_batch.take_batch_cached(
        *cache.arrays, arena, blocks.view(np.uint8), ledger, 0.0, True, 2**62, batch
    )
    assert (code, taken) == (scheduling.OK, 3) and batch[:3].tolist() == [2, 1, 0]
    start = layout.LEDGER
    assert ledger[start : start + 3].tolist() == [1, 2, 2]


@njit
def submit_and_take(arrays, tokens, batch):
    """Submit requests and hand out a batch of them: how many."""
    for count in tokens:
        layout.parts(arrays.arena)  # the kernels' helpers work on them too
        scheduling.submit(arrays.arena, 0.0, count, np.inf, 0.0, 0)
    return scheduling_batch.take_batch(arrays.arena, arrays.ledger, 0.0, True, 2**62, batch)


def test_a_compiled_loop_works_on_the_arrays_of_a_scheduler():
    scheduler = Scheduler(4, clock=Clock())
    scheduler.reserve(100)
    batch = np.empty(4, np.int64)
    assert submit_and_take(scheduler.arrays, np.arange(50, 40, -1), batch) == 4
    assert batch.tolist() == [9, 8, 7, 6]
    assert len(scheduler) == 10 and scheduler.stats()["in_flight"] == 4
    assert scheduler.get_batch(force=True) == [5, 4, 3, 2]
    scheduler.check()
    assert scheduler.nbytes == sum(array.nbytes for array in scheduler.arrays)


def test_the_arrays_are_replaced_by_growth():
    scheduler = Scheduler(clock=Clock())
    before = scheduler.arrays
    scheduler.submit_many(np.ones(1000, int))
    assert scheduler.arrays.arena is not before.arena and scheduler.arrays.ledger is before.ledger
    assert scheduling.submit(before.arena, 0.0, 1, math.inf, 0.0, 0) == -1
    assert len(scheduler) == 1000


@pytest.mark.parametrize("number", [-1, len(POLICIES), 99, 2**62])
def test_an_unknown_policy_is_refused(number, tmp_path):
    with pytest.raises(ValueError, match="policies"):
        layout.new(4, 0, 0, number, 0.0, layout.NO_CHUNK, 0, 0)
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(1)
    arena, ledger = scheduler.arrays
    arena[layout.POLICY] = number
    before = arena.copy()
    for call in (
        lambda: scheduler.submit(2),
        lambda: scheduler.submit_many([1, 2]),
        lambda: scheduler.get_batch(force=True),
        lambda: scheduler.cancel(0),
        lambda: scheduler.update_priority(0, 7),
        lambda: scheduler.complete_batch([0]),
        lambda: scheduler.preempt([0]),
        lambda: scheduling_batch.peek(arena, ledger, 0.0),
    ):
        with pytest.raises(ValueError, match="polic"):
            call()
        np.testing.assert_array_equal(arena, before)
    with pytest.raises(AssertionError, match="policy"):
        scheduler.check()
    scheduler.save(tmp_path / "s.npz")
    with pytest.raises(ValueError, match="policy"):
        Scheduler.load(tmp_path / "s.npz", clock=Clock())


def test_a_policy_without_a_key_of_its_own_is_refused():
    for number in range(len(POLICIES)):
        assert math.isfinite(policies.key_of(number, 5, 1.0, 2.0, 3, -4.0))
    with pytest.raises(ValueError, match="policies"):
        policies.key_of(len(POLICIES), 5, 1.0, 2.0, 3, -4.0)
