"""The scheduler beside a list of dicts that is searched anew each time."""

import math
import threading

import face
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds import growing
from llmds.kernels import histogram
from llmds.kernels import scheduling as kernels
from llmds.scheduler import Request, Scheduler


class Clock:
    """Time that passes when told to."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def largest_first(request):
    return -request.tokens


TICK = 1 / 64  # all times are multiples of it, so that no sum is rounded
KEYS = {
    "sjf": lambda request: request["tokens"],
    "fcfs": lambda request: request["queued"],
    "edf": lambda request: request["deadline"],
    None: lambda request: -request["tokens"],
}
tokens_ = st.integers(0, 9) | st.just(2**31 - 1)
slos = st.none() | st.integers(0, 20).map(lambda ticks: ticks * TICK * 1000)


class Model:
    def __init__(self, size, wait, policy, aging, service, most):
        self.size, self.wait, self.policy, self.aging, self.service, self.most = (
            size,
            wait,
            policy,
            aging,
            service,
            most,
        )
        self.requests, self.next_id, self.order, self.now = {}, 0, 0, -math.inf
        self.batches, self.handed_out, self.completed, self.misses, self.waits = 0, 0, 0, 0, []

    def waiting(self):
        return [request for request in self.requests.values() if request["waits"]]

    def begin_to_wait(self, request):
        self.order += 1
        request.update(waits=True, queued=self.now, order=self.order)
        request["key"] = KEYS[self.policy](request)

    def submit(self, tokens, slo):
        deadline = math.inf if slo is None else self.now + slo / 1000
        request = {"id": self.next_id, "tokens": tokens, "submitted": self.now, "deadline": deadline}
        self.requests[self.next_id] = request
        self.begin_to_wait(request)
        self.next_id += 1
        return request["id"]

    def overdue_since(self, request):
        by_waiting = (request["queued"] + self.wait, 0, request["order"])
        return min(by_waiting, (request["deadline"] - self.service, 1, request["order"]))

    def aged_key(self, request):
        key = request["key"]
        return (key if math.isinf(key) else key - self.aging * (self.now - request["queued"]), request["order"])

    def ready(self):
        waiting = self.waiting()
        full = len(waiting) >= self.size or sum(request["tokens"] for request in waiting) >= self.most
        return bool(waiting) and (full or any(self.overdue_since(request)[0] <= self.now for request in waiting))

    def get_batch(self, force):
        if not (self.waiting() and (force or self.ready())):
            return None
        batch = []
        while self.waiting() and len(batch) < self.size:
            overdue = [request for request in self.waiting() if self.overdue_since(request)[0] <= self.now]
            request = min(overdue, key=self.overdue_since) if overdue else min(self.waiting(), key=self.aged_key)
            if batch and sum(self.requests[number]["tokens"] for number in [*batch, request["id"]]) > self.most:
                break
            request["waits"] = False
            self.waits.append(self.now - request["queued"])
            batch.append(request["id"])
        self.batches += 1
        self.handed_out += len(batch)
        return batch

    def forget(self, number):
        self.misses += self.now > self.requests.pop(number)["deadline"]


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does."""

    @initialize(
        size=st.integers(1, 4),
        wait=st.sampled_from([0, 4 * TICK, 15 * TICK, math.inf]),
        policy=st.sampled_from(list(KEYS)),
        aging=st.sampled_from([0.0, 1.0, 64.0]),
        service=st.sampled_from([0, 3 * TICK]),
        most=st.sampled_from([None, 1, 12]),
        start=st.integers(-100, 100).map(lambda ticks: ticks * TICK),
    )
    def start(self, size, wait, policy, aging, service, most, start):
        self.clock = Clock(start)
        self.scheduler = Scheduler(
            size,
            wait * 1000,
            largest_first if policy is None else None,
            policy=policy,
            aging=aging,
            service_ms=service * 1000,
            max_batch_tokens=most,
            clock=self.clock,
        )
        self.model = Model(size, wait, policy, aging, service, math.inf if most is None else most)

    def pick(self, data, condition=lambda request: True):
        there = [number for number, request in self.model.requests.items() if condition(request)]
        return data.draw(st.sampled_from(there) if there else st.just(self.model.next_id))

    def tell_time(self):
        self.model.now = max(self.model.now, self.clock.now)

    @rule(ticks=st.integers(-2, 8))
    def time_passes(self, ticks):
        self.clock.now += ticks * TICK

    @rule(tokens=tokens_, slo=slos)
    def submit(self, tokens, slo):
        self.tell_time()
        assert self.scheduler.submit(tokens, slo) == self.model.submit(tokens, slo)

    @rule(items=st.lists(st.tuples(tokens_, slos), max_size=20))
    def submit_many(self, items):
        if items:
            self.tell_time()
        limits = [math.inf if slo is None else slo for _, slo in items]
        numbers = self.scheduler.submit_many([tokens for tokens, _ in items], limits)
        assert numbers.dtype == np.int64 and numbers.tolist() == [self.model.submit(*item) for item in items]

    @rule(force=st.booleans())
    def get_batch(self, force):
        self.tell_time()
        assert self.scheduler.get_batch(force) == self.model.get_batch(force)

    @rule(data=st.data(), count=st.integers(0, 3))
    def complete(self, data, count):
        in_flight = [number for number, request in self.model.requests.items() if not request["waits"]]
        numbers = data.draw(st.permutations(in_flight))[:count]
        if numbers:
            self.tell_time()
        self.scheduler.complete_batch(numbers)
        for number in numbers:
            self.model.forget(number)
        self.model.completed += len(numbers)

    @rule(data=st.data())
    def complete_what_is_not_in_flight(self, data):
        in_flight = [number for number, request in self.model.requests.items() if not request["waits"]]
        wrong = self.pick(data, lambda request: request["waits"])
        for numbers in ([*in_flight, wrong], [*in_flight[:1], *in_flight[:1], wrong]):
            with pytest.raises(KeyError):
                self.scheduler.complete_batch(numbers)

    @rule(data=st.data(), tokens=tokens_)
    def update_priority(self, data, tokens):
        number = self.pick(data)
        if number not in self.model.requests:
            with pytest.raises(KeyError):
                self.scheduler.update_priority(number, tokens)
            return
        self.tell_time()
        self.scheduler.update_priority(number, tokens)
        request = self.model.requests[number]
        request["tokens"] = tokens
        if request["waits"]:
            request["key"] = KEYS[self.model.policy](request)
        else:
            self.model.begin_to_wait(request)

    @rule(data=st.data())
    def cancel(self, data):
        number = self.pick(data)
        if number not in self.model.requests:
            with pytest.raises(KeyError):
                self.scheduler.cancel(number)
        else:
            self.tell_time()
            self.scheduler.cancel(number)
            self.model.forget(number)

    @rule()
    def shrink(self):
        self.scheduler.shrink_to_fit()

    @rule()
    def predict(self):
        """Nothing is ready before `ready_at`, and something is then."""
        at, scheduler, model = self.scheduler.ready_at(), self.scheduler, self.model
        if at is None:
            assert not model.waiting() or (not model.ready() and model.wait == math.inf)
        elif at == -math.inf:
            assert model.ready()
        else:
            assert at == min(model.overdue_since(request)[0] for request in model.waiting())
        assert len(scheduler) == len(model.requests)

    @invariant()
    def agree(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler, model = self.scheduler, self.model
        scheduler.check()
        for number in range(max(0, model.next_id - 40), model.next_id + 1):
            assert (number in scheduler) == (number in model.requests)
            if number in model.requests:
                known = model.requests[number]
                fields = (known["tokens"], known["key"], known["submitted"], known["deadline"])
                assert scheduler.request(number) == (number, *fields, "waiting" if known["waits"] else "in flight")
            else:
                with pytest.raises(KeyError):
                    scheduler.request(number)
        stats, waits = scheduler.stats(), sorted(model.waits)
        for percent in (50, 95, 99):
            exact = waits[max(math.ceil(percent / 100 * len(waits)), 1) - 1] if waits else 0.0
            assert stats.pop(f"wait_p{percent}_ms") == pytest.approx(1000 * exact, rel=0.01)
        assert stats == {
            "queue_size": len(model.waiting()),
            "in_flight": len(model.requests) - len(model.waiting()),
            "batch_count": model.batches,
            "total_processed": model.completed,
            "avg_batch_size": model.handed_out / model.batches if model.batches else 0.0,
            "slo_misses": model.misses,
        }


TestBesideModel = BesideModel.TestCase


def starved(aging):
    """Rounds until a long request is handed out, while two short ones come each second and one is served."""
    clock = Clock()
    scheduler = Scheduler(1, math.inf, aging=aging, clock=clock)
    long = scheduler.submit(1000)
    for second in range(200):
        clock.now = float(second)
        scheduler.submit(10), scheduler.submit(10)
        batch = scheduler.get_batch()
        scheduler.complete_batch(batch)
        if batch == [long]:
            return second
    return None


def test_a_long_request_starves_without_ageing_and_does_not_with_it():
    assert starved(0.0) is None
    # The queue of short ones is half as old as the run, so 990 keys are made up for at 20 a second in 99 seconds.
    assert starved(20.0) in range(95, 104)


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
    assert math.isnan(seen[0].key) and seen[0]._replace(key=0) == (0, 19, 0, 5.0, 5.5, "waiting")
    scheduler.update_priority(0, 40)
    assert seen[3] == (0, 40, 9.0, 5.0, 5.5, "waiting")
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
    (lambda s: s.submit_many([1, -1]), ValueError),
    (lambda s: s.submit_many([1.5]), TypeError),
    (lambda s: s.submit_many([1, 2], [5]), ValueError),
    (lambda s: s.submit_many([1, 2], [5, math.nan]), ValueError),
    (lambda s: s.submit_many([1, 2], -5), ValueError),
    (lambda s: s.get_batch(1), TypeError),
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
    scheduler = Scheduler(1, clock=Clock())
    scheduler.submit_many([1, 2, 3])
    scheduler.get_batch()
    before = scheduler._to_arrays()
    with pytest.raises(error):
        call(scheduler)
    scheduler.check()
    for name, array in scheduler._to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


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
    monkeypatch.setattr("llmds.scheduler.CHUNK", 100)
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


def test_memory_is_what_reserve_asked_for_and_shrinks():
    scheduler = Scheduler(900, clock=Clock())
    scheduler.reserve(1000)
    before = scheduler.nbytes
    scheduler.submit_many(np.arange(1000), 50)
    assert scheduler.nbytes == before == sum(array.nbytes for array in scheduler._to_arrays().values())
    scheduler.complete_batch(scheduler.get_batch())
    scheduler.shrink_to_fit()
    scheduler.check()
    assert len(scheduler) == 100 and scheduler.nbytes < before / 4
    assert scheduler.get_batch(force=True) == list(range(900, 1000))


def test_nothing_is_fine():
    scheduler = Scheduler(clock=Clock())
    assert scheduler.submit_many([]).tolist() == [] and scheduler.submit_many([], []).tolist() == []
    scheduler.complete_batch([]), scheduler.shrink_to_fit(), scheduler.check()
    assert scheduler.get_batch(force=True) is None and scheduler.submit(0) == 0
    assert -1 not in scheduler and "0" not in scheduler and 2**70 not in scheduler and 0 in scheduler
    assert repr(scheduler) == "Scheduler(policy='sjf', 1 waiting, 0 in flight)"


def test_every_type_shares_one_compilation():
    scheduler = Scheduler(np.int8(5), np.float32(1), policy="edf", aging=1, clock=lambda: 1)
    scheduler.submit(np.int32(2), 5), scheduler.submit(3, np.float32(7)), scheduler.submit(4)
    for dtype in (np.int8, np.uint64):
        scheduler.submit_many(np.array([1, 2], dtype)[::-1], np.array([3, 4], dtype))
    scheduler.update_priority(np.int16(0), np.uint8(9)), scheduler.cancel(np.int64(1))
    scheduler.get_batch(np.bool_(True)), scheduler.get_batch(True)
    scheduler.complete_batch(np.array([0], np.uint8)), scheduler.complete_batch([2])
    names = ("new", "submit", "submit_many", "take_batch", "complete", "cancel", "update")
    assert {len(getattr(kernels, name).signatures) for name in names} == {1}


def filled(clock):
    scheduler = Scheduler(2, 500.0, policy="edf", aging=0.5, clock=clock)
    scheduler.submit_many([5, 6, 7, 8, 9], [250, 500, math.inf, 125, 125])
    clock.now += 0.125
    scheduler.get_batch()
    scheduler.submit(3)
    scheduler.complete_batch([4])
    return scheduler


def test_files_and_pickles_keep_everything(tmp_path):
    clock = Clock(1000.0)
    scheduler = filled(clock)
    for other in face.keeps_everything(scheduler, tmp_path, clock=clock):
        assert other.stats() == scheduler.stats() and other.request(0) == scheduler.request(0)
        assert [other.get_batch(True) for _ in range(3)] == [[0, 1], [2, 5], None]


def test_saved_times_are_ages(tmp_path):
    clock = Clock(1000.0)
    scheduler = filled(clock)
    clock.now += 0.0625
    scheduler.save(tmp_path / "s.npz")
    later = Clock(-7.0)
    other = Scheduler.load(tmp_path / "s.npz", clock=later)
    assert other.request(0) == Request(0, 5, -6.9375, -7.1875, -6.9375, "waiting")
    for number in (1, 2, 5):
        other.cancel(number)
    assert other.ready_at() == -6.9375
    later.now = -6.9375 - TICK
    assert other.get_batch() is None
    later.now = -6.9375
    assert other.get_batch() == [0]
    other.check()


def test_callables_are_given_again_to_load(tmp_path):
    path = tmp_path / "s.npz"
    scheduler = Scheduler(2, priority_fn=largest_first)
    scheduler.submit_many([1, 3, 2])
    scheduler.save(path)
    with pytest.raises(ValueError, match="priority_fn"):
        Scheduler.load(path)
    assert Scheduler.load(path, priority_fn=largest_first).get_batch() == [1, 2]
    Scheduler().save(path)
    with pytest.raises(ValueError, match="priority_fn"):
        Scheduler.load(path, priority_fn=largest_first)


def test_no_damaged_file_passes_or_crashes(tmp_path):
    clock = Clock(3.0)
    face.survives_damage(filled(clock), tmp_path, clock=clock)
    face.refuses_other_files(Scheduler, tmp_path, clock=clock)
