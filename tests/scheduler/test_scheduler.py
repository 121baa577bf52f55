"""The scheduler: what makes a batch, in which order, and what is refused."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.base import arena as growing
from llmds.kernels import histogram
from llmds.kernels.scheduler import requests as kernels
from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Request, Scheduler
from tests.scheduler.model import Clock, largest_first


def test_policies_order_differently():
    def order(**options):
        clock = Clock()
        scheduler = Scheduler(4, math.inf, clock=clock, **options)
        for tokens, slo in ((30, None), (10, 9000), (40, 5000), (20, 7000)):
            scheduler.submit(tokens, slo)
            clock.now += 1
        return scheduler.get_batch()

    assert order() == order(policy="sjf") == [1, 3, 0, 2]
    assert order(policy="fcfs") == [0, 1, 2, 3]
    assert order(policy="edf") == [2, 1, 3, 0], "1 and 3 are due at once"
    assert order(priority_fn=largest_first) == [2, 0, 3, 1]
    assert Scheduler().policy == "sjf" and Scheduler(priority_fn=largest_first).policy is None


def test_a_batch_is_ready_when_full_or_old_or_urgent_or_forced():
    clock = Clock()
    scheduler = Scheduler(3, 50.0, service_ms=20.0, max_batch_tokens=100, clock=clock)
    assert scheduler.get_batch() is scheduler.get_batch(force=True) is scheduler.ready_at() is None
    scheduler.submit(1)
    assert scheduler.get_batch() is None and scheduler.ready_at() == 0.05
    clock.now = 0.05
    assert scheduler.get_batch() == [0]
    scheduler.submit_many([5, 4, 3])
    assert scheduler.ready_at() == -math.inf and scheduler.get_batch() == [3, 2, 1]
    scheduler.submit(7, slo_ms=30)
    assert scheduler.get_batch() is None
    clock.now = scheduler.ready_at()
    assert clock.now == pytest.approx(0.06) and scheduler.get_batch() == [4]
    scheduler.submit_many([60, 40])
    assert scheduler.get_batch() == [6, 5], "tokens fill a batch too"
    scheduler.submit(9)
    assert scheduler.get_batch() is None and scheduler.get_batch(force=True) == [7]


def test_a_batch_stops_before_the_tokens_it_cannot_hold_and_a_giant_goes_alone():
    scheduler = Scheduler(9, policy="fcfs", max_batch_tokens=100, clock=Clock())
    scheduler.submit_many([70, 40, 30, 500, 1])
    batches = [scheduler.get_batch(force=True) for _ in range(4)]
    assert batches == [[0], [1, 2], [3], [4]]


def test_a_request_in_flight_goes_back_with_its_remaining_tokens_and_its_deadline():
    clock = Clock()
    scheduler = Scheduler(1, policy="fcfs", clock=clock)
    scheduler.submit_many([50, 60], slo_ms=1000)
    assert scheduler.get_batch() == [0]
    clock.now = 0.03
    scheduler.update_priority(0, 20)
    assert scheduler.request(0) == Request(0, 20, 0.03, 0.0, 1.0, "waiting")
    assert scheduler.get_batch() == [1] and scheduler.get_batch() == [0]
    clock.now = 1.0
    scheduler.complete_batch([0])
    assert scheduler.stats()["slo_misses"] == 0, "on the deadline is in time"
    clock.now = 1.25
    scheduler.complete_batch([1])
    assert scheduler.stats()["slo_misses"] == 1


def test_priority_fn_is_called_once_at_submission_and_once_at_each_update():
    seen = []

    def priority(request):
        seen.append(request)
        return request.tokens % 10

    clock = Clock(5.0)
    scheduler = Scheduler(2, priority_fn=priority, clock=clock)
    scheduler.submit(19, 500), scheduler.submit_many([25, 31])
    assert [request.request_id for request in seen] == [0, 1, 2]
    assert math.isnan(seen[0].key) and seen[0]._replace(key=0) == Request(0, 19, 0, 5.0, 5.5, "waiting")
    scheduler.update_priority(0, 40)
    assert seen[3] == Request(0, 40, 9.0, 5.0, 5.5, "waiting")
    assert scheduler.get_batch() == [0, 2] and len(seen) == 4
    clock.now = 4.0
    assert scheduler.request(scheduler.submit(7)).submitted == seen[4].submitted == 5.0, "the clock ran back"


@pytest.mark.parametrize("bad", [math.nan, "1", None, True, ZeroDivisionError])
def test_a_priority_fn_that_fails_keeps_what_was_before(bad):
    def priority(request):
        if request.tokens == 13:
            if bad is ZeroDivisionError:
                raise bad
            return bad
        return request.tokens

    scheduler = Scheduler(2, priority_fn=priority, clock=Clock())
    error = bad if bad is ZeroDivisionError else ValueError if isinstance(bad, float) else TypeError
    with pytest.raises(error):
        scheduler.submit(13)
    assert len(scheduler) == 0
    assert scheduler.submit(5) == 0
    with pytest.raises(error):
        scheduler.update_priority(0, 13)
    assert scheduler.request(0).tokens == 5
    with pytest.raises(error):
        scheduler.submit_many([1, 2, 13, 3])
    scheduler.check()
    assert len(scheduler) == 3 and scheduler.get_batch() == [1, 2]


REFUSED = [
    (lambda s: s.submit(-1), ValueError),
    (lambda s: s.submit(2**31), ValueError),
    (lambda s: s.submit(1.0), TypeError),
    (lambda s: s.submit(True), TypeError),
    (lambda s: s.submit(1, -1), ValueError),
    (lambda s: s.submit(1, math.nan), ValueError),
    (lambda s: s.submit(1, "soon"), TypeError),
    (lambda s: s.submit(1, priority=2**53 + 1), ValueError),
    (lambda s: s.submit(1, priority=1.0), TypeError),
    (lambda s: s.submit(1, priority=True), TypeError),
    (lambda s: s.submit(1, tenant=2**63), ValueError),
    (lambda s: s.submit(1, tenant="a"), TypeError),
    (lambda s: s.submit(1, salt="a"), TypeError),
    (lambda s: s.submit(1, prompt=[0.5]), TypeError),
    (lambda s: s.submit(1, prompt=5), TypeError),
    (lambda s: s.submit_many([1, -1]), ValueError),
    (lambda s: s.submit_many([1.5]), TypeError),
    (lambda s: s.submit_many([1, 2], [5]), ValueError),
    (lambda s: s.submit_many([1, 2], [5, math.nan]), ValueError),
    (lambda s: s.submit_many([1, 2], -5), ValueError),
    (lambda s: s.submit_many([1, 2], priority=[1]), ValueError),
    (lambda s: s.submit_many([1, 2], priority=[1, 2**53 + 1]), ValueError),
    (lambda s: s.submit_many([1, 2], tenant=[1, 2, 3]), ValueError),
    (lambda s: s.submit_many([1, 2], tenant=0.0), TypeError),
    (lambda s: s.submit_many([1, 2], salt=[1]), ValueError),
    (lambda s: s.submit_many([1, 2], prompts=[1, 2]), ValueError),
    (lambda s: s.submit_many([1, 2], indptr=[0, 0, 0]), ValueError),
    (lambda s: s.submit_many([1, 2], prompts=[1, 2], indptr=[0, 2]), ValueError),
    (lambda s: s.submit_many([1, 2], prompts=[1, 2], indptr=[0, 2, 1]), ValueError),
    (lambda s: s.submit_many([1, 2], prompts=[1, 2], indptr=[0, 1, 3]), ValueError),
    (lambda s: s.submit_many([1, 2], prompts=[0.5, 2], indptr=[0, 1, 2]), TypeError),
    (lambda s: s.get_batch(1), TypeError),
    (lambda s: s.get_batch(True, max_requests=-1), ValueError),
    (lambda s: s.get_batch(True, max_tokens=-1), ValueError),
    (lambda s: s.get_batch(True, max_tokens=1.5), TypeError),
    (lambda s: s.preempt([0, 1]), KeyError),
    (lambda s: s.preempt([0, 0]), KeyError),
    (lambda s: s.preempt([0], keep=1), TypeError),
    (lambda s: s.preempt([0.5]), TypeError),
    (lambda s: s.preempt(0), TypeError),
    (lambda s: s.continue_batch([0, 99]), KeyError),
    (lambda s: s.continue_batch([0, 0]), KeyError),
    (lambda s: s.continue_batch("0"), TypeError),
    (lambda s: s.update_priority(0, 1, priority=0.5), TypeError),
    (lambda s: s.update_priority(0, 1, priority=-(2**53) - 1), ValueError),
    (lambda s: s.charge([0, 99], 1), KeyError),
    (lambda s: s.charge([0, 1], [1]), ValueError),
    (lambda s: s.charge([0, 1], [1, -1]), ValueError),
    (lambda s: s.charge([0], 2**31), ValueError),
    (lambda s: s.charge([0.0], 1), TypeError),
    (lambda s: s.set_weight(0, 0.0), ValueError),
    (lambda s: s.set_weight(0, math.inf), ValueError),
    (lambda s: s.set_weight(0, "1"), TypeError),
    (lambda s: s.set_weight(0.5, 1), TypeError),
    (lambda s: s.complete_batch([0, 2]), KeyError),
    (lambda s: s.complete_batch([0, 0]), KeyError),
    (lambda s: s.complete_batch([0, 99]), KeyError),
    (lambda s: s.complete_batch([0.0]), TypeError),
    (lambda s: s.update_priority(0, -1), ValueError),
    (lambda s: s.update_priority(99, 1), KeyError),
    (lambda s: s.update_priority("0", 1), TypeError),
    (lambda s: s.cancel(99), KeyError),
    (lambda s: s.cancel(0.0), TypeError),
    (lambda s: s.request(99), KeyError),
    (lambda s: s.reserve(-1), ValueError),
]


@pytest.mark.parametrize("call, error", REFUSED)
def test_a_refused_call_changes_nothing(call, error):
    cache = KVCache(page_size=1, max_pages=9, store=False)
    scheduler = Scheduler(1, policy="wfq", cache=cache, clock=Clock())
    scheduler.submit_many([1, 2, 3])
    scheduler.get_batch()
    before = scheduler._to_arrays()
    with pytest.raises(error):
        call(scheduler)
    scheduler.check()
    for name, array in scheduler._to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.submit(1, prompt=[1]),
        lambda s: s.submit(1, prompt=[]),
        lambda s: s.submit_many([1], prompts=[1], indptr=[0, 1]),
        lambda s: s.charge([0], 1),
        lambda s: s.set_weight(0, 2.0),
    ],
)
def test_what_a_scheduler_has_no_use_for_is_refused(call):
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(1)
    with pytest.raises(ValueError, match=r"cache|wfq"):
        call(scheduler)
    assert len(scheduler) == 1


@pytest.mark.parametrize(
    "options, error",
    [
        ({"max_batch_size": 0}, ValueError),
        ({"max_batch_size": 16385}, ValueError),
        ({"max_batch_size": 2.0}, TypeError),
        ({"max_wait_ms": -1}, ValueError),
        ({"max_wait_ms": math.nan}, ValueError),
        ({"service_ms": math.inf}, ValueError),
        ({"aging": -1}, ValueError),
        ({"aging": math.inf}, ValueError),
        ({"policy": "lifo"}, ValueError),
        ({"policy": 1}, ValueError),
        ({"policy": "sjf", "priority_fn": largest_first}, ValueError),
        ({"priority_fn": 3}, TypeError),
        ({"max_batch_tokens": 0}, ValueError),
        ({"max_batch_tokens": True}, TypeError),
        ({"policy": "lpm"}, ValueError),
        ({"cache": 3}, TypeError),
        ({"blocks": 1}, TypeError),
        ({"prefill_chunk": 0}, ValueError),
        ({"prefill_chunk": 2**31}, ValueError),
        ({"prefill_chunk": 1.5}, TypeError),
        ({"clock": 3}, TypeError),
    ],
)
def test_refused_settings(options, error):
    with pytest.raises(error):
        Scheduler(**options)


@pytest.mark.parametrize("bad, error", [(math.nan, ValueError), (math.inf, ValueError), ("now", TypeError)])
def test_a_clock_that_tells_no_time_is_refused(bad, error):
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    clock.now = bad
    with pytest.raises(error, match="clock"):
        scheduler.submit(1)
    assert len(scheduler) == 0


def test_long_calls_run_in_chunks_and_are_all_or_nothing(monkeypatch):
    monkeypatch.setattr("llmds.scheduler.scheduler.CHUNK", 100)
    monkeypatch.setattr(growing, "CHUNK", 100)
    monkeypatch.setattr(growing.chunks, "__defaults__", (100,))
    n = 250
    sizes = np.random.default_rng(0).integers(0, 50, n)
    scheduler = Scheduler(n, clock=Clock())
    assert scheduler.submit_many(sizes).tolist() == list(range(n))
    order = scheduler.get_batch()
    assert order == np.argsort(sizes, kind="stable").tolist()
    with pytest.raises(KeyError):
        scheduler.complete_batch([*order, 0])
    scheduler.check()
    assert scheduler.stats()["in_flight"] == n
    calls, submit_many = [], kernels.submit_many

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return submit_many(*arguments)

    monkeypatch.setattr(kernels, "submit_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scheduler.submit_many(sizes)
    assert len(calls) == 3 and len(scheduler) == n
    scheduler.complete_batch(order)
    scheduler.check()
    assert len(scheduler) == 0 and scheduler.submit(1) == n


@given(st.lists(st.floats(0, 3e6), min_size=1))
def test_percentiles_of_waits_are_within_one_percent(waits):
    counts = np.zeros(histogram.STEPS, np.int64)
    for wait in waits:
        histogram.add(counts, wait)
    assert histogram.total(counts) == len(waits)
    for share in (0.0, 0.5, 0.99, 1.0):
        exact = sorted(waits)[max(math.ceil(share * len(waits)), 1) - 1]
        assert histogram.percentile(counts, share) == pytest.approx(min(exact, 2**41 / 1e6), rel=0.01, abs=0.6e-6)


def test_threads_share_a_growing_scheduler():
    scheduler, handed_out, per_thread = Scheduler(7, 0.0), [], 1500

    def submit():
        for tokens in range(per_thread):
            scheduler.submit(tokens)

    def serve():
        while len(handed_out) < 2 * per_thread:
            batch = scheduler.get_batch()
            if batch:
                handed_out.extend(batch)
                scheduler.complete_batch(batch)

    threads = [threading.Thread(target=work) for work in (submit, serve, submit)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    scheduler.check()
    assert sorted(handed_out) == list(range(2 * per_thread)) and len(scheduler) == 0


def test_nothing_is_fine():
    scheduler = Scheduler(clock=Clock())
    assert scheduler.submit_many([]).tolist() == [] and scheduler.submit_many([], []).tolist() == []
    scheduler.complete_batch([]), scheduler.shrink_to_fit(), scheduler.check()
    assert scheduler.get_batch(force=True) is None and scheduler.submit(0) == 0
    assert -1 not in scheduler and "0" not in scheduler and 2**70 not in scheduler and 0 in scheduler
    assert repr(scheduler) == "Scheduler(policy='sjf', 1 waiting, 0 in flight)"


@pytest.mark.parametrize("most", [None, 1, 900, 40_000])
@pytest.mark.parametrize("slo", [None, 1e6])
def test_large_batches_take_the_best_in_order_until_the_tokens_end(most, slo):
    random = np.random.default_rng(5)
    tokens = random.integers(0, 900, 700)
    scheduler = Scheduler(100, math.inf, max_batch_tokens=most)
    scheduler.submit_many(tokens[:400], slo)
    scheduler.submit_many(tokens[400:450], slo)  # fewer than wait already
    scheduler.submit_many(tokens[450:], slo)
    left, limit = sorted(range(700), key=lambda e: (tokens[e], e)), math.inf if most is None else most
    while left:
        expected = [left.pop(0)]
        total = tokens[expected[0]]
        while left and len(expected) < 100 and total + tokens[left[0]] <= limit:
            total += tokens[left[0]]
            expected.append(left.pop(0))
        assert scheduler.get_batch(True) == expected
        assert scheduler.batch_tokens().tolist() == tokens[expected].tolist()
        scheduler.check()
        scheduler.complete_batch(expected)
    assert scheduler.get_batch(True) is None
