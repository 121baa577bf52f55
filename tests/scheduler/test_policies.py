"""What each policy is for, and that ageing lets nobody starve under any of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Scheduler
from tests.scheduler.model import Clock, largest_first

# policy: the unlucky request, and those that go before it
STREAMS = {
    "sjf": (lambda s: s.submit(60), lambda s, turn: s.submit(10)),
    "fcfs": (lambda s: s.submit(60), lambda s, turn: s.submit(10, 0)),  # no deadline, beside missed ones
    "edf": (lambda s: s.submit(60), lambda s, turn: s.submit(10, 1000)),
    "priority": (lambda s: s.submit(60, priority=50), lambda s, turn: s.submit(60, priority=turn % 3)),
    "lpm": (lambda s: s.submit(60, prompt=[77]), lambda s, turn: s.submit(60, prompt=range(50))),
    # always a tenant who has had nothing yet
    "wfq": (lambda s: s.submit(60, tenant=-1), lambda s, turn: s.submit(10, tenant=turn)),
    None: (lambda s: s.submit(10), lambda s, turn: s.submit(60)),
}


def starved(policy, aging):
    """Turns until an unlucky request is served, while two better ones come each turn of 10 s and one is served."""
    clock, cache = Clock(), None
    if policy == "lpm":
        cache = KVCache(page_size=1, max_pages=99, store=False)
        cache.attach_blocks(0, range(50))
    scheduler = Scheduler(
        1, math.inf, largest_first if policy is None else None, policy=policy, aging=aging, cache=cache,
        blocks=True, clock=clock,
    )  # fmt: skip
    if policy == "wfq":  # the unlucky one has just had much, while another waits who had nothing
        scheduler.submit(60, tenant=-1), scheduler.submit(10, tenant=-2)
        assert scheduler.get_batch(True) == [0]
    unlucky, better = STREAMS[policy]
    number = unlucky(scheduler)
    for turn in range(900):
        clock.now = 10.0 * turn
        better(scheduler, turn), better(scheduler, turn)
        batch = scheduler.get_batch(True)
        scheduler.complete_batch(batch)
        if batch == [number]:
            return turn
    return None


@pytest.mark.parametrize("policy", STREAMS)
def test_nobody_starves_with_ageing_and_somebody_does_without(policy):
    assert starved(policy, 0.0) is None
    assert starved(policy, 1.0) is not None


def test_ageing_makes_up_for_so_much_a_second():
    def served_after(aging):
        clock = Clock()
        scheduler = Scheduler(1, math.inf, aging=aging, clock=clock)
        long = scheduler.submit(1000)
        for second in range(200):
            clock.now = float(second)
            scheduler.submit(10), scheduler.submit(10)
            batch = scheduler.get_batch()
            if batch == [long]:
                return second
        return None

    # The queue of short ones is half as old as the run, so 990 keys are made up for at 20 a second in 99 seconds.
    assert served_after(0.0) is None and served_after(20.0) in range(95, 104)


def test_policies_order_differently():
    cache = KVCache(page_size=1, max_pages=9, store=False)
    cache.attach_blocks(0, [5, 6, 7])

    def order(**options):
        clock = Clock()
        scheduler = Scheduler(4, math.inf, cache=cache, blocks=True, clock=clock, **options)
        for tokens, slo, priority, tenant, prompt in (
            (30, None, 1, 0, [5]),
            (10, 9000, 0, 0, [6, 7]),
            (40, 5000, 0, 0, [5, 6, 7]),
            (20, 7000, -1, 1, [5, 6]),
        ):
            scheduler.submit(tokens, slo, priority=priority, tenant=tenant, prompt=prompt)
            clock.now += 1
        return scheduler.get_batch()

    assert order() == order(policy="sjf") == [1, 3, 0, 2]
    assert order(policy="fcfs") == [0, 1, 2, 3]
    assert order(policy="edf") == [2, 1, 3, 0], "1 and 3 are due at once"
    assert order(policy="priority") == [3, 1, 2, 0], "lower is earlier"
    assert order(policy="lpm") == [2, 3, 0, 1]
    assert order(policy="wfq") == [0, 3, 1, 2]
    assert order(priority_fn=largest_first) == [2, 0, 3, 1]
    assert Scheduler().policy == "sjf" and Scheduler(priority_fn=largest_first).policy is None


def test_prompts_are_looked_up_anew_for_every_batch_and_each_salt():
    cache = KVCache(page_size=2, max_pages=20, dtype=np.int32, store=False)
    scheduler = Scheduler(1, policy="lpm", cache=cache, clock=Clock())
    prompts, starts = [1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9], [0, 4, 8, 12]
    numbers = scheduler.submit_many([8, 8, 8], prompts=prompts, indptr=starts, salt=[0, 0, 5])
    cache.attach(0, [9, 9, 9, 9], salt=5)
    assert scheduler.get_batch() == [2] and scheduler.batch_tokens().tolist() == [4]
    cache.attach(1, [9, 9, 1])
    assert scheduler.get_batch() == [1] and scheduler.batch_tokens().tolist() == [6]
    assert scheduler.get_batch() == [0] and scheduler.batch_tokens().tolist() == [8]
    scheduler.preempt(numbers)
    cache.attach(2, [1, 2, 3, 4])
    assert scheduler.request(0).computed == 0
    assert scheduler.get_batch() == [0] and scheduler.batch_tokens().tolist() == [4], "4 of 0 and 2 are found now"
    assert scheduler.get_batch() == [2] and scheduler.get_batch() == [1]


def test_the_last_token_is_computed_even_if_the_cache_has_it():
    cache = KVCache(page_size=2, max_pages=20, store=False)
    cache.attach(0, [1, 2, 3, 4])
    scheduler = Scheduler(4, policy="fcfs", max_batch_tokens=4, cache=cache, clock=Clock())
    scheduler.submit(4, prompt=[1, 2, 3, 4]), scheduler.submit(5, prompt=[1, 2, 3]), scheduler.submit(3)
    assert scheduler.get_batch() == [0, 1] and scheduler.batch_tokens().tolist() == [1, 3]
    assert scheduler.get_batch(True) == [2] and scheduler.batch_tokens().tolist() == [3]


def test_threads_of_a_cache_may_grow_it_meanwhile():
    cache = KVCache(page_size=1, max_pages=500, store=False)
    scheduler = Scheduler(1, policy="lpm", cache=cache, blocks=True, clock=Clock())
    for turn in range(40):  # sequences double the tables of the cache, requests and prompts the arena
        cache.attach_blocks(turn, [turn, 1, 2])
        scheduler.submit(9, prompt=[turn, 1, 2, 3]), scheduler.submit(9, prompt=[])
        assert scheduler.get_batch() == [2 * turn]
    scheduler.check()


shares = st.lists(st.sampled_from([0.5, 1, 2, 3.0, 10]), min_size=2, max_size=5)


@settings(max_examples=40)
@given(weights=shares, seed=st.integers(0, 99), size=st.integers(1, 3), chunk=st.sampled_from([None, 7]))
def test_tenants_with_enough_to_do_get_shares_by_weight_within_one_request(weights, seed, size, chunk):
    random, n = np.random.default_rng(seed), len(weights)
    scheduler = Scheduler(size, math.inf, policy="wfq", prefill_chunk=chunk, clock=Clock())
    for tenant, weight in enumerate(weights):
        scheduler.set_weight(tenant, weight)
    largest, served = 50, np.zeros(n)
    owner, tokens = random.integers(0, n, 600), random.integers(1, largest + 1, 600)
    for tenant in range(n):  # enough for all
        owner[random.integers(0, 600, 200)] = tenant
    scheduler.submit_many(tokens, tenant=owner)
    left = np.bincount(owner, minlength=n)
    while left.min() > 2 * size:
        batch = scheduler.get_batch(True)
        counts = scheduler.batch_tokens()
        assert counts.tolist() == np.minimum(tokens[batch], chunk or largest).tolist()
        np.add.at(served, owner[batch], counts)
        np.subtract.at(left, owner[batch], 1)
        scheduler.complete_batch(batch)
        normal = served / weights
        each = largest / np.array(weights)
        for one in range(n):
            assert (normal[one] - normal <= each[one] + 1e-9).all()


def test_an_idle_tenant_saves_nothing_up_and_generated_tokens_count():
    scheduler = Scheduler(1, policy="wfq", clock=Clock())
    scheduler.submit_many([10] * 20, tenant=1)
    for _ in range(5):
        scheduler.get_batch()
    assert scheduler.request(19).key == 50.0
    scheduler.submit_many([10] * 20, tenant=2)
    assert scheduler.request(20).key == 50.0, "lifted to the least counter of those who wait"
    owners = [int(scheduler.get_batch()[0] >= 20) for _ in range(10)]
    assert sum(owners) == 5
    scheduler.charge([20, 21], [30, 10])
    assert [scheduler.get_batch()[0] >= 20 for _ in range(5)] == [False] * 5
    scheduler.set_weight(2, 4.0)
    owners = [int(scheduler.get_batch()[0] >= 20) for _ in range(5)]
    assert sum(owners) == 4


def test_a_new_priority_takes_the_place_of_the_old_one():
    scheduler = Scheduler(1, policy="priority", clock=Clock())
    scheduler.submit_many([5, 5, 5], priority=[2, 1, 3])
    scheduler.update_priority(2, 5, priority=0)
    assert scheduler.get_batch() == [2]
    scheduler.update_priority(1, 7)
    assert scheduler.request(1).key == 1.0 and scheduler.get_batch() == [1]
    scheduler.update_priority(1, 7, priority=9)
    assert scheduler.get_batch() == [0] and scheduler.get_batch() == [1]
