"""What is told of a simulation: by hand-made arrays; and what a simulation is asked for, good and bad."""

import math
from dataclasses import replace

import numpy as np
import pytest

from llmds.admissions import AdmissionController
from llmds.simulator import simulator as module
from llmds.simulator.cost_model import CostModel
from llmds.simulator.simulator import Replica, Simulation, Sweep, simulate, sweep
from llmds.traces.trace import Trace

STEP = CostModel.linear(step=0.5)
NAN = math.nan


@pytest.fixture
def by_hand():
    """Four requests: quick, slow, of one token, refused."""
    return Simulation(
        arrivals=np.array([0.0, 1.0, 2.0, 3.0]),
        started=np.array([0.0, 2.0, 2.5, NAN]),
        first_token=np.array([0.5, 4.0, 3.0, NAN]),
        finished=np.array([1.5, 8.0, 3.0, NAN]),
        refused=np.array([False, False, False, True]),
        output_lengths=np.array([11, 5, 1, 7]),
        cached_tokens=np.array([16, 0, 0, 0]),
        preemptions=np.array([0, 2, 0, 0]),
        timeline=np.zeros((1, 5)),
        slots=2,
        simulated_seconds=10.0,
        wall_seconds=0.5,
        steps=20,
        busy_seconds=8.0,
        running_seconds=12.0,
        prefill_tokens=300,
        decode_tokens=14,
    )


def test_times_of_each_request(by_hand):
    np.testing.assert_array_equal(by_hand.ttft, [0.5, 3.0, 1.0, NAN])
    np.testing.assert_array_equal(by_hand.tpot, [0.1, 1.0, NAN, NAN])
    np.testing.assert_array_equal(by_hand.latency, [1.5, 7.0, 1.0, NAN])


def test_who_meets_which_limits(by_hand):
    assert by_hand.meets().tolist() == [True, True, True, False]
    assert by_hand.meets(ttft_ms=1000).tolist() == [True, False, True, False]
    assert by_hand.meets(tpot_ms=100).tolist() == [True, False, True, False]
    assert by_hand.meets(tpot_ms=99).tolist() == [False, False, True, False]
    assert by_hand.meets(latency_ms=7000).tolist() == [True, True, True, False]
    assert by_hand.meets(ttft_ms=600, latency_ms=7000).tolist() == [True, False, False, False]
    assert by_hand.goodput() == 0.3 and by_hand.goodput(ttft_ms=1000, tpot_ms=99) == 0.1
    assert replace(by_hand, simulated_seconds=0.0).goodput() == 0.0


@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms", "latency_ms"])
def test_limits_are_checked(by_hand, name):
    for value, error in ((-1, ValueError), (NAN, ValueError), ("1", TypeError)):
        with pytest.raises(error, match=name):
            by_hand.meets(**{name: value})
        with pytest.raises(error, match=name):
            Sweep({}, [], [by_hand]).goodput(**{name: value})


def test_a_summary(by_hand):
    told = by_hand.summary()
    counts = ("requests", "finished", "refused", "steps", "cached_tokens", "preemptions")
    assert [told[name] for name in counts] == [4, 3, 1, 20, 16, 2]
    assert (told["prefill_tokens"], told["decode_tokens"]) == (300, 14)
    assert (told["simulated_seconds"], told["wall_seconds"]) == (10.0, 0.5)
    assert told["requests_per_second"] == 0.3 and told["tokens_per_second"] == 1.7
    assert told["utilisation"] == 0.8 and told["slots_used"] == 0.75
    assert told["ttft_mean_ms"] == 1500 and told["ttft_p50_ms"] == 1000 and told["latency_p50_ms"] == 1500
    assert told["tpot_mean_ms"] == 550 and told["tpot_p90_ms"] == pytest.approx(910)
    assert told["latency_p99_ms"] == pytest.approx(1500 + 0.98 * 5500)
    nobody = replace(by_hand, finished=np.full(4, NAN), first_token=np.full(4, NAN), simulated_seconds=0.0)
    told = replace(nobody, busy_seconds=0.0).summary()
    assert math.isnan(told["ttft_p99_ms"]) and math.isnan(told["latency_mean_ms"]) and told["finished"] == 0
    assert told["requests_per_second"] == told["utilisation"] == told["slots_used"] == 0.0


@pytest.fixture
def trace():
    rng = np.random.default_rng(2)
    return Trace(np.r_[0, np.cumsum(rng.exponential(1.0, 199))], rng.integers(1, 90, 200), rng.integers(0, 9, 200))


def test_admission_refuses_as_it_would_in_one_call_and_stays_as_it_is(trace):
    now = [50.0]
    door = AdmissionController(0.5, 30, 10, clock=lambda: now[0])
    for _ in range(3):
        door.should_admit(20)
    before = door.stats()
    for rate in (1.0, 3.0):
        twin = door.under(lambda: 0.0)
        expected = twin.should_admit_many(trace.arrivals / rate, trace.input_lengths + trace.output_lengths)
        ours = simulate(trace, Replica(STEP, rate=rate), admission=door)
        np.testing.assert_array_equal(ours.refused, ~expected)
        np.testing.assert_array_equal(np.isfinite(ours.started), expected)
        assert 0 < expected.sum() < len(trace)
    assert door.stats() == before
    swept = sweep(trace, Replica(STEP), {"rate": [1.0, 3.0]}, admission=door)
    np.testing.assert_array_equal(swept.results[1].refused, ours.refused)
    with pytest.raises(TypeError, match="AdmissionController"):
        simulate(trace, Replica(STEP), admission=True)


def test_deadlines_are_one_or_one_each(trace):
    replica = Replica(STEP, slots=2, policy="edf")
    one = simulate(trace, replica, slo_ms=1000)
    each = simulate(trace, replica, slo_ms=np.full(200, 1000))
    np.testing.assert_array_equal(one.finished, each.finished)
    last_first = simulate(trace, replica, slo_ms=np.arange(200, 0, -1) * 1e6)
    assert last_first.started[1] > one.started[1]
    for policy in ("fcfs", "sjf"):  # these know of none
        known, unknown = (
            simulate(trace, Replica(STEP, 2, policy=policy), slo_ms=slo) for slo in (np.arange(200, 0, -1), None)
        )
        np.testing.assert_array_equal(known.finished, unknown.finished)
    for bad, error in (
        (-1, ValueError),
        (np.ones(3), ValueError),
        ("soon", TypeError),
        (np.full(200, NAN), ValueError),
    ):
        with pytest.raises(error, match="slo_ms"):
            simulate(trace, replica, slo_ms=bad)
        with pytest.raises(error, match="slo_ms"):
            sweep(trace, replica, {}, slo_ms=bad)


@pytest.mark.parametrize(
    "name, bad, error",
    [
        ("cost", 1.0, TypeError), ("cost", None, TypeError),
        ("slots", 0, ValueError), ("slots", 16385, ValueError), ("slots", 1.5, TypeError), ("slots", True, TypeError),
        ("pages", 0, ValueError), ("pages", 2**31, ValueError), ("pages", "9", TypeError),
        ("page_size", 0, ValueError), ("page_size", 0.5, TypeError),
        ("eviction", "random", ValueError), ("eviction", 3, ValueError),
        ("policy", "lifo", ValueError), ("policy", None, TypeError),
        ("aging", -1.0, ValueError), ("aging", NAN, ValueError), ("aging", "1", TypeError),
        ("max_batch_tokens", 0, ValueError), ("max_batch_tokens", 1e3, TypeError),
        ("prefill_chunk", 0, ValueError), ("prefill_chunk", 1.0, TypeError),
        ("rate", 0.0, ValueError), ("rate", math.inf, ValueError), ("rate", "2", TypeError),
    ],
)  # fmt: skip
def test_what_a_replica_cannot_be(name, bad, error):
    with pytest.raises(error, match=name):
        Replica(**{"cost": STEP, name: bad})
    with pytest.raises(error, match=name):
        sweep(Trace([0.0], [1], [1]), Replica(STEP), {name: [getattr(Replica(STEP), name), bad]})


def test_a_replica_takes_numpy_numbers():
    replica = Replica(STEP, np.int32(3), rate=np.float32(2), aging=1)
    assert type(replica.slots) is int and type(replica.rate) is float and type(replica.aging) is float


def test_pages_are_those_of_the_blocks_or_enough_for_all_slots():
    plain = Trace([0.0, 1.0], [30, 10], [4, 1])
    named = Trace([0.0, 1.0], [30, 10], [4, 1], [1, 2, 3, 1], [0, 3, 4], block_size=12)
    assert Replica(STEP).page_size_for(plain) == 16 and Replica(STEP, page_size=5).page_size_for(plain) == 5
    assert Replica(STEP).page_size_for(named) == Replica(STEP, page_size=12).page_size_for(named) == 12
    assert Replica(STEP, 7).pages_for(plain) == 21 and Replica(STEP, 7, pages=3).pages_for(plain) == 3
    assert Replica(STEP, 7).pages_for(Trace([], [], [])) == 7
    with pytest.raises(ValueError, match="page_size must be 12"):
        simulate(named, Replica(STEP, page_size=16))
    with pytest.raises(ValueError, match="page_size must be 12"):
        sweep(named, Replica(STEP), {"page_size": [12, 16]})


def same(a, b):
    for name, value in vars(a).items():
        if name != "wall_seconds":
            np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


def test_a_sweep_is_every_combination_on_any_number_of_threads(trace):
    grid = {
        "slots": [1, 3],
        "policy": ["fcfs", "sjf"],
        "rate": np.array([1.0, 4.0]),
        "cost": [STEP, CostModel.linear(1)],
    }
    calls = []
    base = Replica(STEP, pages=60, page_size=4)
    one = sweep(trace, base, grid, threads=1, progress=lambda *told: calls.append(told))
    two = sweep(trace, base, grid, threads=2)
    assert len(one) == len(two) == 16 and calls[-1] == (16, 16)
    assert repr(one) == "Sweep(16 configurations: 2 slots x 2 policy x 2 rate x 2 cost)"
    for a, b, replica in zip(one.results, two.results, one.replicas, strict=True):
        same(a, b)
        same(a, simulate(trace, replica))
    assert one.replicas[0] == replace(base, slots=1) and one.replicas[-1].slots == 3 and one.replicas[-1].rate == 4.0
    table = one.table()
    assert table["slots"].tolist() == [1] * 8 + [3] * 8 and table["cost"].tolist() == [0, 1] * 8
    assert table["policy"].tolist() == (["fcfs"] * 4 + ["sjf"] * 4) * 2
    np.testing.assert_array_equal(table["latency_p90_ms"], [each.summary()["latency_p90_ms"] for each in one.results])
    np.testing.assert_array_equal(one.goodput(ttft_ms=900), [each.goodput(ttft_ms=900) for each in one.results])


def test_a_grid_of_nothing(trace):
    assert (
        len(sweep(trace, Replica(STEP), {})) == 1 and repr(sweep(trace, Replica(STEP), {})) == "Sweep(1 configurations)"
    )
    none = sweep(trace, Replica(STEP), {"slots": []})
    assert len(none) == 0 and none.table()["slots"].shape == (0,) and none.goodput().shape == (0,)


def test_what_a_grid_cannot_be(trace):
    for grid, error, says in (
        ({"size": [1]}, ValueError, "size"),
        ({"slots": 3}, TypeError, "slots"),
        ({"policy": "fcfs"}, TypeError, "policy"),
        ([("slots", [1])], TypeError, "grid"),
    ):
        with pytest.raises(error, match=says):
            sweep(trace, Replica(STEP), grid)
    with pytest.raises(ValueError, match="threads"):
        sweep(trace, Replica(STEP), {}, threads=0)


def test_progress_is_told_to_the_last_request(trace):
    told = []
    simulate(trace, Replica(STEP), progress=lambda *call: told.append(call))
    assert told[-1] == (200, 200) and [done for done, _ in told] == sorted(done for done, _ in told)
    with pytest.raises(TypeError, match="progress"):
        simulate(trace, Replica(STEP), progress=1)


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_ctrl_c_ends_a_simulation_and_the_next_one_is_whole(trace, monkeypatch, threads):
    def work():
        return (
            simulate(trace, Replica(STEP))
            if threads is None
            else sweep(trace, Replica(STEP), {"slots": [1, 2, 3, 256]}, threads=threads).results[-1]
        )

    run, calls, expected = module.kernels.run, [], work()

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*given)

    monkeypatch.setattr(module.kernels, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work()
    same(work(), expected)
