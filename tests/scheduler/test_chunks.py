"""Chunked prefill, preemption, and batches of an engine that has little left."""

import math

import pytest

from llmds.scheduler.scheduler import Request, Scheduler
from tests.scheduler.model import Clock


def run(scheduler, turns=99):
    """(ids, tokens) of batch after batch, each computed before the next is asked for."""
    told = []
    while len(told) < turns and (batch := scheduler.get_batch(True)):
        told.append((batch, scheduler.batch_tokens().tolist()))
        scheduler.continue_batch(batch)
    return told


def test_a_long_prompt_is_computed_in_chunks_and_what_is_left_of_a_batch_is_used():
    scheduler = Scheduler(9, policy="fcfs", prefill_chunk=50, max_batch_tokens=80, clock=Clock())
    scheduler.submit_many([120, 10, 45])
    assert scheduler.batch_tokens().tolist() == []
    assert run(scheduler) == [([0, 1, 2], [50, 10, 20]), ([0, 2], [50, 25]), ([0], [20])]
    assert scheduler.stats()["in_flight"] == 3 and scheduler.stats()["preemptions"] == 0
    scheduler.complete_batch([0, 1, 2])


def test_what_is_nearly_done_comes_first_under_sjf():
    clock = Clock()
    scheduler = Scheduler(1, math.inf, prefill_chunk=10, clock=clock)
    scheduler.submit(25)
    assert run(scheduler, 1) == [([0], [10])]
    scheduler.submit_many([20, 9])
    assert run(scheduler) == [([2], [9]), ([0], [10]), ([0], [5]), ([1], [10]), ([1], [10])]


def test_equals_keep_their_turns():
    scheduler = Scheduler(1, policy="fcfs", prefill_chunk=1, clock=Clock())
    scheduler.submit_many([2, 2, 2])
    assert [batch for batch, _ in run(scheduler)] == [[0], [0], [1], [1], [2], [2]]


def test_a_batch_is_full_by_what_it_computes():
    scheduler = Scheduler(9, math.inf, prefill_chunk=10, max_batch_tokens=20, clock=Clock())
    scheduler.submit(1000)
    assert scheduler.get_batch() is None, "10 tokens do not fill it"
    scheduler.submit(1000)
    assert scheduler.get_batch() == [0, 1]
    scheduler.continue_batch([0])
    assert scheduler.get_batch() is None and scheduler.get_batch(True) == [0]


@pytest.mark.parametrize("keep, tokens", [(False, [10, 10, 5]), (True, [10, 5])])
def test_preempted_requests_wait_again_in_their_old_place(keep, tokens):
    clock = Clock()
    scheduler = Scheduler(1, 500.0, policy="fcfs", prefill_chunk=10, clock=clock)
    scheduler.submit(25, 3000)
    assert scheduler.get_batch() == [0]
    clock.now = 1.0
    scheduler.submit(7)
    scheduler.preempt([0], keep=keep)
    computed = 10 if keep else 0
    assert scheduler.request(0) == Request(0, 25, 0.0, 0.0, 3.0, "waiting", computed)
    assert run(scheduler) == [*(([0], [count]) for count in tokens), ([1], [7])]
    stats = scheduler.stats()
    assert stats["preemptions"] == 1 and stats["wait_p99_ms"] == 0.0, "waiting again is no first wait"


def test_a_preempted_request_of_which_all_is_kept_has_nothing_to_compute():
    scheduler = Scheduler(2, policy="fcfs", max_batch_tokens=30, clock=Clock())
    scheduler.submit_many([25, 10])
    assert run(scheduler) == [([0], [25]), ([1], [10])]
    scheduler.preempt([0, 1], keep=True)
    assert run(scheduler) == [([0, 1], [0, 0])]
    scheduler.preempt([1])
    scheduler.update_priority(1, 14)  # four were generated, and are to be computed again as well
    assert run(scheduler) == [([1], [14])]


def test_preempted_requests_of_a_tenant_go_before_its_others_in_the_order_given():
    scheduler = Scheduler(3, policy="wfq", clock=Clock())
    scheduler.submit_many([5] * 6, tenant=4)
    assert scheduler.get_batch() == [0, 1, 2] and scheduler.get_batch() == [3, 4, 5]
    scheduler.preempt([4, 3]), scheduler.preempt([1, 2, 0])
    scheduler.submit(5, tenant=4)
    assert [batch for batch, _ in run(scheduler)] == [[1, 2, 0], [4, 3, 6]]


def test_an_engine_takes_what_it_has_room_for():
    scheduler = Scheduler(4, policy="fcfs", prefill_chunk=8, max_batch_tokens=20, clock=Clock())
    scheduler.submit_many([9, 9, 9])
    assert scheduler.get_batch(True, max_requests=0) is None and scheduler.get_batch(True, max_tokens=0) is None
    assert scheduler.get_batch(True, max_requests=1) == [0]
    assert scheduler.get_batch(True, max_tokens=5) == [1] and scheduler.batch_tokens().tolist() == [5]
    assert scheduler.get_batch(True, max_requests=99, max_tokens=99) == [2]
    whole = Scheduler(4, policy="fcfs", clock=Clock())
    whole.submit_many([9, 0, 9])
    assert whole.get_batch(True, max_tokens=0) is None, "it has tokens to compute"
    assert whole.get_batch(True, max_tokens=5) == [0], "a larger one goes alone"
    assert whole.get_batch(True, max_tokens=5) == [1] and whole.get_batch(True, max_tokens=9) == [2]


def test_many_preempted_at_once():
    n = 16384
    scheduler = Scheduler(n, policy="fcfs", clock=Clock())
    scheduler.submit_many(range(n))
    batch = scheduler.get_batch()
    scheduler.preempt(batch[::-1])
    scheduler.check()
    assert scheduler.get_batch() == batch
