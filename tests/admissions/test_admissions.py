"""Admission control beside a list of all that is in the window."""

import copy
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from llmds.admissions import AdmissionController
from llmds.kernels.admissions import window as kernels
from tests import face
from tests.admissions.model import Clock, Model

TICK = 1 / 64  # all times are multiples of it, so that no sum is rounded
MOST = 2**31 - 1
tokens_ = st.integers(0, 30) | st.just(MOST)
tenants_ = st.sampled_from([None, 0, -5, 2**63 - 1])


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does."""

    @initialize(
        qps=st.sampled_from([0, 0.5, 4, 16, math.inf]),
        rate=st.sampled_from([0, 7.5, 100, math.inf]),
        window=st.sampled_from([0.25, 1, 3]),
        their_qps=st.sampled_from([0, 4, math.inf]),
        their_rate=st.sampled_from([0, 20, math.inf]),
        start=st.integers(-100, 100).map(lambda ticks: ticks * TICK),
    )
    def start(self, qps, rate, window, their_qps, their_rate, start):
        self.clock = Clock(start)
        limits = {"tenant_qps_target": their_qps, "tenant_token_rate_limit": their_rate}
        self.door = AdmissionController(qps, rate, window, clock=self.clock, **limits)
        self.model = Model(min(qps, 1e9), rate, window, their_qps, their_rate)
        self.qps, self.rate = qps, rate

    @rule(ticks=st.integers(-4, 40))
    def time_passes(self, ticks):
        self.clock.now += ticks * TICK

    @rule(tokens=tokens_, tenant=tenants_)
    def should_admit(self, tokens, tenant):
        self.model.tell_time(self.clock.now)
        wait = self.door.retry_after(tokens, tenant=tenant)
        assert wait == self.model.retry_after(tokens, tenant, self.clock.now)
        assert self.door.should_admit(tokens, tenant=tenant) == self.model.should_admit(tokens, tenant)

    @rule(
        tenant=tenants_.filter(lambda tenant: tenant is not None),
        qps=st.sampled_from([None, 0, 4, 16, math.inf]),
        rate=st.sampled_from([None, 0, 60, math.inf]),
    )
    def set_limits(self, tenant, qps, rate):
        self.door.set_limits(tenant, qps, rate)
        self.model.own[tenant] = (qps, rate)

    @rule(
        items=st.lists(st.tuples(st.integers(0, 8), tokens_, tenants_.map(lambda tenant: tenant or 0)), max_size=20),
        named=st.booleans(),
    )
    def should_admit_many(self, items, named):
        times = max(self.model.now, self.clock.now) + np.cumsum([step for step, _, _ in items]) * TICK
        expected = []
        for now, (_, tokens, tenant) in zip(times.tolist(), items, strict=True):
            self.model.tell_time(now)
            expected.append(self.model.should_admit(tokens, tenant if named else None)[0])
        by = [tenant for _, _, tenant in items] if named else None
        answers = self.door.should_admit_many(times, [tokens for _, tokens, _ in items], by)
        assert answers.dtype == np.bool_ and answers.tolist() == expected

    @rule(tokens=tokens_, data=st.data())
    def record(self, tokens, data):
        issued = self.model.last
        ticket = data.draw(st.none() if issued is None else st.none() | st.integers(max(0, issued - 9), issued))
        self.model.tell_time(self.clock.now)
        self.door.record_request(tokens, ticket=ticket)
        self.model.record(tokens, ticket)

    @rule(tokens=tokens_, ahead=st.integers(1, 3))
    def record_what_nobody_was_given(self, tokens, ahead):
        ticket = (-1 if self.model.last is None else self.model.last) + ahead
        with pytest.raises(KeyError):
            self.door.record_request(tokens, ticket=ticket)

    @rule()
    def shrink(self):
        self.door.shrink_to_fit()

    @rule()
    def reset(self):
        self.door.reset()
        self.model.inside, self.model.admitted, self.model.rejected = [], 0, 0

    @invariant()
    def agree(self):
        if not hasattr(self, "door"):
            return
        door, model = self.door, self.model
        door.check()
        model.tell_time(self.clock.now)
        assert len(door) == len(model.inside) and door.last_ticket == model.last
        asked = model.admitted + model.rejected
        assert door.stats() == {
            "current_qps": len(model.inside) / model.window,
            "target_qps": self.qps,
            "current_token_rate": sum(entry["tokens"] for entry in model.inside) / model.window,
            "token_rate_limit": self.rate,
            "admitted_requests": model.admitted,
            "rejected_requests": model.rejected,
            "rejection_rate": model.rejected / asked if asked else 0.0,
        }
        for tenant in (0, -5, 2**63 - 1, 77):
            theirs = [entry["tokens"] for entry in model.inside if entry["tenant"] == tenant]
            limits = model.limits(tenant)
            assert list(door.tenant_stats(tenant).values()) == [
                len(theirs) / model.window, limits[0], sum(theirs) / model.window, limits[1]
            ]  # fmt: skip
        door.check()


TestBesideModel = BesideModel.TestCase


def trace(data):
    columns = np.genfromtxt(
        data / "traces" / "azure_llm_conv_2023.csv", delimiter=",", skip_header=1, dtype="U32,i8,i8"
    )
    times = columns["f0"].astype("datetime64[ns]").astype(np.int64) / 1e9
    order = np.argsort(times, kind="stable")
    return times[order], columns["f1"][order] + columns["f2"][order]


def test_an_hour_of_real_requests_in_bulk_equals_one_by_one(data):
    times, tokens = trace(data)
    clock = Clock()
    single, bulk = (AdmissionController(5, 6000, 10, clock=clock) for _ in range(2))
    answers = []
    for clock.now, count in zip(times.tolist(), tokens.tolist(), strict=True):
        answers.append(single.should_admit(count)[0])
    np.testing.assert_array_equal(bulk.should_admit_many(times, tokens), answers)
    assert bulk.stats() == single.stats() and 0.05 < single.stats()["rejection_rate"] < 0.95
    # No window of ten seconds holds more than the limits allow, seen from each admission backwards.
    kept, sizes = times[answers], np.cumsum(tokens[answers])
    first = np.searchsorted(kept + 10, kept, side="right")
    assert (np.arange(len(kept)) - first + 1).max() == 50
    assert (sizes - np.where(first > 0, sizes[first - 1], 0)).max() <= 60000


@pytest.mark.parametrize(
    "qps, window, most", [(0.29, 100, 29), (1.1, 10, 11), (0.1, 3, 0), (0.35, 10, 3), (2.999, 1, 2), (1e-3, 1000, 1)]
)
def test_a_window_holds_the_whole_requests_in_the_product(qps, window, most):
    door = AdmissionController(qps, window_size=window, clock=Clock())
    assert [door.should_admit()[0] for _ in range(most + 1)] == [True] * most + [False]
    by_tokens = AdmissionController(math.inf, qps, window, clock=Clock())
    assert by_tokens.should_admit(most)[0] and by_tokens.should_admit(1) == (False, "tokens")


def test_a_request_leaves_the_window_when_it_is_as_old_as_the_window():
    clock = Clock(100.0)
    door = AdmissionController(0.1, window_size=10, clock=clock)
    assert door.should_admit()[0]
    clock.now = math.nextafter(110.0, 0)
    assert door.should_admit() == (False, "qps")
    clock.now = 110.0
    assert door.should_admit() == (True, "admitted")


def test_settlement_replaces_the_estimate_where_it_stands():
    clock = Clock()
    door = AdmissionController(10, 100, 10, clock=clock)
    assert door.should_admit(900)[0] and door.should_admit(200) == (False, "tokens")
    clock.now = 6.0
    door.record_request(300)
    assert door.should_admit(700) == (True, "admitted"), "the estimate was too high"
    clock.now = 10.0
    assert door.stats()["current_token_rate"] == 70.0, "the settled tokens left with the admission"
    door.record_request(1500)
    assert door.should_admit() == (False, "tokens"), "the estimate was too low"
    clock.now = 16.0
    assert door.should_admit() == (True, "admitted")


def test_tickets_settle_out_of_order_and_late_ones_change_nothing():
    clock = Clock()
    door = AdmissionController(10, 100, 10, clock=clock)
    tickets = []
    for tokens in (100, 200, 300):
        door.should_admit(tokens)
        tickets.append(door.last_ticket)
    door.record_request(1, ticket=tickets[1])
    door.record_request(2)
    door.record_request(3)
    assert door.stats()["current_token_rate"] == 0.6
    door.record_request(30, ticket=np.int64(tickets[2]))
    assert door.stats()["current_token_rate"] == 3.3, "settling again replaces again"
    clock.now = 10.0
    door.should_admit(50)
    door.record_request(900, ticket=tickets[0])
    assert door.stats()["current_token_rate"] == 5.0
    door.reset()
    door.record_request(900, ticket=tickets[0])
    assert len(door) == 0 and door.last_ticket == 3


def test_what_nobody_asked_for_is_counted_when_it_is_recorded():
    door = AdmissionController(0.2, 100, 10, clock=Clock())
    door.record_request(5000)
    assert door.last_ticket is None and door.should_admit() == (False, "tokens")
    stats = door.stats()
    assert (stats["current_qps"], stats["current_token_rate"], stats["admitted_requests"]) == (0.1, 500.0, 0)


def test_time_stands_still_while_the_clock_runs_back():
    clock = Clock(100.0)
    door = AdmissionController(0.1, window_size=10, clock=clock)
    door.should_admit()
    clock.now = 50.0
    assert door.should_admit() == (False, "qps")
    clock.now = 109.0
    assert door.should_admit() == (False, "qps")
    clock.now = 110.0
    assert door.should_admit() == (True, "admitted")


REFUSED = [
    (lambda door: door.should_admit(-1), ValueError),
    (lambda door: door.should_admit(2**31), ValueError),
    (lambda door: door.should_admit(1.0), TypeError),
    (lambda door: door.should_admit(True), TypeError),
    (lambda door: door.record_request(-1), ValueError),
    (lambda door: door.record_request("1"), TypeError),
    (lambda door: door.record_request(1, ticket=99), KeyError),
    (lambda door: door.record_request(1, ticket=-1), ValueError),
    (lambda door: door.record_request(1, ticket=0.0), TypeError),
    (lambda door: door.should_admit_many([9.0, 8.0], [1, 1]), ValueError),
    (lambda door: door.should_admit_many([4.0], [1]), ValueError),
    (lambda door: door.should_admit_many([math.inf], [1]), ValueError),
    (lambda door: door.should_admit_many([9.0, math.nan], [1, 1]), ValueError),
    (lambda door: door.should_admit_many([9.0], [1, 1]), ValueError),
    (lambda door: door.should_admit_many([9.0], [-1]), ValueError),
    (lambda door: door.should_admit_many([9.0], [1.5]), TypeError),
    (lambda door: door.reserve(-1), ValueError),
    (lambda door: door.should_admit(1, tenant=2**63), ValueError),
    (lambda door: door.should_admit(1, tenant=True), TypeError),
    (lambda door: door.should_admit(1, tenant="a"), TypeError),
    (lambda door: door.retry_after(-1), ValueError),
    (lambda door: door.retry_after(1, tenant=0.5), TypeError),
    (lambda door: door.set_limits("a", 1), TypeError),
    (lambda door: door.set_limits(1, -1), ValueError),
    (lambda door: door.set_limits(1, 1, math.nan), ValueError),
    (lambda door: door.set_limits(1, 1, "1"), TypeError),
    (lambda door: door.tenant_stats(1.5), TypeError),
    (lambda door: door.should_admit_many([9.0], [1], [1, 2]), ValueError),
    (lambda door: door.should_admit_many([9.0], [1], []), ValueError),
    (lambda door: door.should_admit_many([9.0], [1], [1.5]), TypeError),
]


@pytest.mark.parametrize("call, error", REFUSED)
def test_a_refused_call_changes_nothing(call, error):
    door = AdmissionController(clock=Clock(5.0))
    door.should_admit(10), door.should_admit(20), door.record_request(15)
    door.should_admit(10, tenant=1), door.set_limits(2, 5)
    before = door._to_arrays()
    with pytest.raises(error):
        call(door)
    door.check()
    for name, array in door._to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "options, error",
    [
        ({"qps_target": -1}, ValueError),
        ({"qps_target": math.nan}, ValueError),
        ({"qps_target": "10"}, TypeError),
        ({"token_rate_limit": -0.5}, ValueError),
        ({"token_rate_limit": True}, TypeError),
        ({"window_size": 0}, ValueError),
        ({"window_size": math.inf}, ValueError),
        ({"clock": 5.0}, TypeError),
        ({"tenant_qps_target": -1}, ValueError),
        ({"tenant_token_rate_limit": "1"}, TypeError),
    ],
)
def test_refused_settings(options, error):
    with pytest.raises(error):
        AdmissionController(**options)


def test_without_limits_everything_is_admitted():
    door = AdmissionController(math.inf, math.inf, 1e300, clock=Clock())
    assert door.should_admit_many(np.arange(1000.0), np.full(1000, MOST)).all()
    assert len(door) == 1000


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40)), max_size=60), st.integers(0, 60))
def test_many_equals_one_by_one_wherever_it_is_cut(steps, cut):
    times = np.cumsum([step for step, _ in steps])
    tokens = np.array([count for _, count in steps], np.int64)
    clock = Clock()
    single, bulk = (AdmissionController(0.9, 33, 7, clock=clock) for _ in range(2))
    answers = []
    for clock.now, count in zip(times.tolist(), tokens.tolist(), strict=True):
        answers.append(single.should_admit(count)[0])
    parts = [bulk.should_admit_many(times[part], tokens[part]) for part in (slice(cut), slice(cut, None))]
    assert np.concatenate(parts).tolist() == answers
    face.same_arrays(single, bulk)


def test_an_interrupted_call_has_decided_on_a_prefix(monkeypatch):
    n = 300_000
    door = AdmissionController(math.inf, math.inf, clock=Clock())
    door.reserve(n)
    calls, admit_many = [], kernels.admit_many

    def interrupted(*arguments):
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return admit_many(*arguments)

    monkeypatch.setattr(kernels, "admit_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        door.should_admit_many(np.zeros(n), np.ones(n, np.int64))
    door.check()
    assert len(door) == sum(calls[:2]) < n


def test_threads_share_a_controller():
    door, admitted = AdmissionController(100, math.inf, 100, clock=Clock()), []

    def work():
        for _ in range(4000):
            admitted.append(door.should_admit(1)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    door.check()
    assert sum(admitted) == len(door) == 10000 and door.stats()["rejected_requests"] == 6000


def test_memory_is_what_reserve_asked_for_and_shrinks():
    clock = Clock()
    door = AdmissionController(1000, math.inf, 1, clock=clock)
    door.reserve(1000)
    before = door.nbytes
    door.should_admit_many(np.arange(1000) / 1000, np.ones(1000, np.int64))
    assert door.nbytes == before == sum(array.nbytes for array in door._to_arrays().values())
    clock.now = 1.9
    assert len(door) == 99
    door.shrink_to_fit()
    door.check()
    assert len(door) == 99 and door.nbytes < before / 8


def test_nothing_is_fine():
    door = AdmissionController(clock=Clock())
    assert door.should_admit_many([], []).tolist() == []
    door.shrink_to_fit(), door.reset(), door.check()
    assert door.last_ticket is None and len(door) == 0
    assert repr(door) == "AdmissionController(qps_target=10, token_rate_limit=10000, window_size=10)"


def test_every_type_shares_one_compilation():
    door = AdmissionController(np.float32(5), 9, np.int8(2), clock=lambda: 1)
    door.should_admit(np.int32(1)), door.should_admit(), door.record_request(np.uint8(2)), door.record_request(1)
    door.record_request(3, ticket=np.int16(0))
    for dtype in (np.int8, np.uint64):
        door.should_admit_many(np.array([2, 2], dtype)[::-1], np.array([3, 4], dtype))
    door.should_admit(1, tenant=np.int8(3)), door.retry_after(np.int16(3), tenant=4), door.retry_after(), len(door)
    door.should_admit_many([2, 2], [3, 4], np.array([5, 6], np.int8)), door.set_limits(1, 2), door.set_limits(1, 2.5, 3)
    names = ("new", "admit", "admit_many", "record", "expire", "retry_after", "set_limits")
    assert {len(getattr(kernels, name).signatures) for name in names} == {1}


@pytest.mark.parametrize("epoch", [0.0, 1.7e9, -3.3])
def test_a_request_is_admitted_when_it_was_told_to_come_again_and_not_earlier(epoch):
    rng, clock = np.random.default_rng(4), Clock(epoch)
    door = AdmissionController(0.7, 90, 10, clock=clock, tenant_token_rate_limit=30)
    waits = []
    for _ in range(400):
        tokens, tenant = int(rng.integers(0, 400)), int(rng.integers(3))
        wait = door.retry_after(tokens, tenant=tenant)
        if wait == math.inf:
            assert tokens > 300
            continue
        waits.append(wait)
        start = clock.now
        if wait > 0:
            clock.now = start + wait * (1 - 1e-6) - 1e-6 * abs(epoch > 1e6)
            assert not copy.deepcopy(door).should_admit(tokens, tenant=tenant)[0]
        clock.now = start + wait
        assert door.should_admit(tokens, tenant=tenant) == (True, "admitted")
        clock.now += rng.exponential(1.0)
    assert 50 < np.count_nonzero(waits) < len(waits)


def test_tenants_who_left_are_forgotten_and_limits_are_not():
    clock = Clock()
    door = AdmissionController(math.inf, math.inf, 10, clock=clock, tenant_qps_target=0.1)
    n = 5000
    door.set_limits(-1, 100.0)
    assert door.should_admit_many(np.arange(n) / 1000, np.ones(n, np.int64), np.arange(n)).all()
    assert not door.should_admit(0, tenant=n - 1)[0] and door.should_admit(0, tenant=n)[0]
    full = door.nbytes
    clock.now = 100.0
    assert len(door) == 0 and door.tenant_stats(5)["current_qps"] == 0
    door.shrink_to_fit(), door.check()
    assert door.nbytes < full
    assert door.should_admit(1, tenant=5)[0] and not door.should_admit(1, tenant=5)[0]
    assert all(door.should_admit(1, tenant=-1)[0] for _ in range(50)), "its own limit is ten times as high"
    door.reset()
    assert door.should_admit(1, tenant=5)[0] and door.tenant_stats(-1)["target_qps"] == 100.0
    door.set_limits(-1)
    assert door.tenant_stats(-1)["target_qps"] == 0.1


@njit
def admit_for_seconds(arena, tenants, seconds, tokens, tenant):
    """One request a second. How many are admitted."""
    admitted, named = 0, np.int64(1)
    for second in range(seconds):
        admitted += kernels.admit(arena, tenants, float(second), tokens, tenant, named) == kernels.ADMITTED
    return admitted


def test_arrays_are_for_loops_of_ones_own():
    clock = Clock()
    door = AdmissionController(10, 4, 10, tenant_qps_target=0.3, clock=clock)
    door.set_limits(3)
    door.should_admit(1, tenant=3)
    assert admit_for_seconds(*door.arrays, 10, 5, 3) == 2, "of three in a window"
    door.check()
    clock.now = 9.0
    assert len(door) == 3 and door.tenant_stats(3)["current_token_rate"] == 1.1
    assert door.stats()["rejected_requests"] == 8
    stale = door.arrays
    door.reserve(100)
    assert kernels.admit(*stale, 9.0, 5, 0, 0) == kernels.FULL
    assert door.arrays.arena is door._arena and door.arrays.tenants is door._tenants
