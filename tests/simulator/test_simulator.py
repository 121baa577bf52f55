"""The simulator beside a plain event loop that does one token at a time, request by request, and beside theory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulator.plain_simulation import plain_simulation
from llmds.kernels import table
from llmds.scheduler.state import fault
from llmds.simulator.cost_model import HARDWARE, MODELS, CostModel
from llmds.simulator.simulator import Replica, _admitted, _Labels, _Run, simulate
from llmds.traces import synthetic
from llmds.traces.trace import Trace

STEP = CostModel.linear(step=0.125)
ROOFLINE = CostModel.roofline(MODELS["llama-3.1-8b"], HARDWARE["a100-80gb"], overhead=1e-3)
TIMES = ("started", "first_token", "finished")


def agree(trace, replica, slo_ms=None):
    """Both simulate the same, exactly; ours, run in calls of every length, ends with all pages free."""
    blocks = [trace.blocks(r).tolist() for r in range(len(trace))] if len(trace.block_ids) else None
    expected = plain_simulation(
        (trace.arrivals / replica.rate).tolist(), trace.input_lengths.tolist(), trace.output_lengths.tolist(),
        replica.cost.seconds, slots=replica.slots, pages=replica.pages, page_size=replica.page_size_for(trace),
        policy=replica.policy, aging=replica.aging, deadlines=None if slo_ms is None else (slo_ms / 1000).tolist(),
        max_batch_tokens=replica.max_batch_tokens, prefill_chunk=replica.prefill_chunk, blocks=blocks,
    )  # fmt: skip
    ours = simulate(trace, replica, slo_ms=slo_ms)
    for name in (*TIMES, "refused", "cached_tokens", "preemptions"):
        np.testing.assert_array_equal(getattr(ours, name), [told[name] for told in expected], err_msg=name)
    adds_up(trace, ours)
    return ours


def adds_up(trace, ours):
    """Tokens are computed once, or again after a preemption; time passes forwards; the timeline stays in bounds."""
    done = ~ours.refused
    answers = np.maximum(trace.output_lengths, 1)
    assert (np.isfinite(ours.finished) == done).all()
    once = int((trace.input_lengths[done] - ours.cached_tokens[done]).sum())
    if ours.preemptions.any():
        assert ours.prefill_tokens > once and ours.decode_tokens <= int((answers[done] - 1).sum())
    else:
        assert ours.prefill_tokens == once and ours.decode_tokens == int((answers[done] - 1).sum())
    assert (ours.arrivals <= ours.started)[done].all() and (ours.started <= ours.first_token)[done].all()
    assert (ours.first_token <= ours.finished)[done].all()
    time, running, waiting, pages, tokens = ours.timeline.T
    assert len(time) <= 1024 and (np.diff(time) > 0).all() and (np.diff(tokens) >= 0).all()
    assert (time <= ours.simulated_seconds).all() and (tokens <= ours.prefill_tokens + ours.decode_tokens).all()
    assert (running >= 0).all() and (running <= ours.slots).all() and (waiting >= 0).all()
    assert (running + waiting <= len(trace)).all() and (pages >= 0).all() and ((pages > 0) == (running > 0)).all()
    assert 0 <= ours.busy_seconds <= ours.simulated_seconds * (1 + 1e-12)
    assert ours.running_seconds <= ours.busy_seconds * ours.slots * (1 + 1e-12)


def random_trace(rng, n=300, longest=200, gap=1.0):
    arrivals = np.cumsum(rng.exponential(gap, n) * (rng.random(n) < 0.8))
    return Trace(arrivals - arrivals[0], rng.integers(1, longest, n), rng.integers(0, 30, n))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cost", [STEP, ROOFLINE], ids=["constant step", "roofline"])
@pytest.mark.parametrize("policy", ["fcfs", "sjf", "edf"])
def test_a_plain_event_loop_says_the_same(policy, cost, seed):
    rng = np.random.default_rng(seed)
    gap = 1.0 if cost is STEP else 0.01
    trace = random_trace(rng, gap=gap)
    slo_ms = np.where(rng.random(len(trace)) < 0.7, rng.exponential(20_000 * gap, len(trace)), np.inf)
    for slots, tokens, chunk, pages, aging in [
        (1, 8192, None, None, 0.0),
        (4, 8192, None, 64, 0.0),
        (9, 250, None, 70, 2.0),
        (30, 100, 16, 60, 0.0),
        (30, 10, 64, 45, 0.5),
        (8, 8192, 1, None, 0.0),
        (300, 90, None, 30, 0.0),
    ]:
        replica = Replica(
            cost, slots, pages, 4 if pages else None, policy=policy, aging=aging, max_batch_tokens=tokens,
            prefill_chunk=chunk, rate=1.5,
        )  # fmt: skip
        ours = agree(trace, replica, slo_ms)
        assert ours.refused.any() == (pages in (30, 45))
        if slots == 30:
            assert ours.preemptions.sum() > 3


def traces(longest=40):
    request = st.tuples(st.sampled_from([0.0, 0.0, 0.125, 0.3, 2.0, 50.0]), st.integers(1, longest), st.integers(0, 20))
    return st.lists(request, max_size=25).map(
        lambda rows: Trace(
            np.cumsum([0.0, *(row[0] for row in rows[1:])])[: len(rows)],
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2] for row in rows], np.int64),
        )
    )


@settings(max_examples=300)
@given(
    traces(),
    st.sampled_from(["fcfs", "sjf", "edf"]),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 50),
    st.none() | st.integers(1, 30),
    st.sampled_from([0.0, 1.0]),
    st.none() | st.integers(0, 9),
)
def test_any_small_load_is_served_as_plainly(trace, policy, slots, pages, page_size, tokens, chunk, aging, seed):
    slo_ms = None if seed is None else np.random.default_rng(seed).integers(0, 4, len(trace)) * 1000.0
    agree(
        trace,
        Replica(
            STEP, slots, pages, page_size, policy=policy, aging=aging, max_batch_tokens=tokens, prefill_chunk=chunk
        ),
        slo_ms,
    )


@pytest.mark.parametrize("chunk", [None, 100])
@pytest.mark.parametrize("policy", ["fcfs", "sjf"])
def test_cached_tokens_are_those_of_a_plain_prefix_cache(policy, chunk):
    trace = synthetic(
        4, requests=400, requests_per_second=5.0, system_tokens=(60.0, 0.7), opening_tokens=(200.0, 1.2),
        message_tokens=(90.0, 1.2), answer_tokens=(10.0, 0.8), think_seconds=(5.0, 0.8), block_size=8,
        max_input=4000,
    )  # fmt: skip
    replica = Replica(STEP, slots=6, policy=policy, max_batch_tokens=600, prefill_chunk=chunk)
    enough = Replica(STEP, slots=6, pages=100_000, policy=policy, max_batch_tokens=600, prefill_chunk=chunk)
    expected = plain_simulation(
        trace.arrivals.tolist(), trace.input_lengths.tolist(), trace.output_lengths.tolist(), STEP.seconds, slots=6,
        page_size=8, policy=policy, max_batch_tokens=600, prefill_chunk=chunk,
        blocks=[trace.blocks(r).tolist() for r in range(len(trace))],
    )  # fmt: skip
    ours = simulate(trace, enough)
    for name in (*TIMES, "cached_tokens"):
        np.testing.assert_array_equal(getattr(ours, name), [told[name] for told in expected], err_msg=name)
    adds_up(trace, ours)
    few = simulate(trace, replica)
    assert (
        0 < few.cached_tokens.sum() <= ours.cached_tokens.sum()
        and ours.cached_tokens.sum() / sum(trace.input_lengths) > 0.2
    )
    apart = simulate(Trace(trace.arrivals, trace.input_lengths, trace.output_lengths), enough)
    assert apart.cached_tokens.sum() == 0 and ours.summary()["ttft_mean_ms"] < apart.summary()["ttft_mean_ms"]


def test_the_same_prompt_twice_is_computed_but_for_one_token():
    trace = Trace([0.0, 9.0, 18.0], [8, 8, 11], [1, 3, 2], [1, 2, 1, 2, 1, 2, 3], [0, 2, 4, 7], block_size=4)
    ours = agree(trace, Replica(CostModel.linear(prefill_token=1.0), slots=2))
    assert ours.cached_tokens.tolist() == [0, 7, 8] and ours.prefill_tokens == 8 + 1 + 3
    assert (ours.first_token - ours.started).tolist() == [8.0, 1.0, 3.0]


@pytest.mark.parametrize("arrival, pages", [(3.5, 15), (4.5, 15), (7.5, 15), (7.5, 17), (8.5, 16), (8.5, 17)])
def test_a_preempted_prompt_has_cached_what_was_computed_of_it_and_no_more(arrival, pages):
    """Two decode while the third's prompt is under way, a page a step; then pages run out."""
    trace = Trace([0.0, 0.0, arrival], [4, 4, 32], [25, 25, 1], np.arange(100, 110), [0, 1, 2, 10], block_size=4)
    ours = simulate(trace, Replica(CostModel.linear(step=1.0), 3, pages=pages, prefill_chunk=4))
    assert ours.preemptions.tolist() == [0, 0, 1]
    found = int(ours.cached_tokens[2])
    computed_before = ours.prefill_tokens - 8 - (32 - found)
    assert 0 < found <= computed_before < 32


def started(trace, replica, slo_ms=None):
    labels = _Labels.of(trace, slo_ms, None, None, None)
    return _Run(trace, replica, labels, _admitted(trace, replica.rate, labels, None))


def whole(outcome):
    """All of a simulation but the time it took."""
    return {name: value for name, value in vars(outcome).items() if name != "wall_seconds"}


@pytest.mark.parametrize("work", [1, 7, 10_000])
@pytest.mark.parametrize("shared", [False, True])
def test_where_calls_end_changes_nothing_and_all_pages_are_free_at_the_end(work, shared):
    if shared:
        trace = synthetic(
            1, requests=150, requests_per_second=3.0, max_input=900, block_size=8, opening_tokens=(200.0, 1.0),
            message_tokens=(90.0, 1.0), system_tokens=(50.0, 0.5), answer_tokens=(60.0, 0.8), think_seconds=(9.0, 0.5),
        )  # fmt: skip
        replica = Replica(ROOFLINE, 12, pages=300, prefill_chunk=64, policy="sjf", rate=8.0)
    else:
        trace = random_trace(np.random.default_rng(9), 120, gap=0.01)
        replica = Replica(ROOFLINE, 40, pages=50, page_size=8, max_batch_tokens=150)
    expected, run, calls = simulate(trace, replica), started(trace, replica), 0
    run.work = work
    while run.go_on():
        run.work = work
        calls += 1
        if calls % 64 == 0:
            run.cache.check()
            assert fault(*run.scheduler) is None
    assert calls > 50 or work > 1000
    run.cache.check()
    assert fault(*run.scheduler) is None
    assert len(run.cache) == run.scheduler.arena[table.COUNT] == 0 and run.cache.stats()["allocated_pages"] == 0
    assert run.cache.stats()["total_page_refs"] == 0
    if shared:
        assert expected.preemptions.sum() > 0 and run.cache.stats()["evictions"] > 0
    for name, value in whole(run.outcome(0.0)).items():
        np.testing.assert_array_equal(value, getattr(expected, name), err_msg=name)


def test_one_server_waits_as_theory_says():
    """M/M/1, mean service 1,000 steps, load .7: the mean wait is rho / (mu - lambda)."""
    rng, n, mean = np.random.default_rng(5), 1_000_000, 1000.0
    arrivals = np.cumsum(rng.exponential(mean / 0.7, n))
    service = np.maximum(np.round(rng.exponential(mean, n)), 1).astype(np.int64)
    trace = Trace(arrivals - arrivals[0], np.ones(n, np.int64), service)
    ours = simulate(trace, Replica(CostModel.linear(step=1.0), slots=1))
    wait = (ours.started - ours.arrivals).mean()
    assert wait == pytest.approx(0.7 / (1 / mean - 0.7 / mean), rel=0.02)
    assert ours.summary()["utilisation"] == pytest.approx(0.7, rel=0.01)


def test_loads_of_none_and_one():
    ours = agree(Trace([], [], []), Replica(STEP))
    assert ours.simulated_seconds == 0.0 and ours.steps == 0 and len(ours.started) == 0
    assert math.isnan(ours.summary()["ttft_p50_ms"]) and ours.summary()["requests"] == 0
    for answer, seconds in ((0, 0.125), (1, 0.125), (2, 0.25), (5000, 625.0)):
        ours = agree(Trace([0.0], [7], [answer]), Replica(STEP, pages=400, page_size=16))
        assert (ours.started[0], ours.first_token[0], ours.finished[0]) == (0.0, 0.125, seconds)
        assert ours.steps == max(answer, 1) and ours.summary()["utilisation"] == 1.0


def test_steps_that_take_no_time_end():
    trace = random_trace(np.random.default_rng(3), 100)
    ours = agree(trace, Replica(CostModel.linear(), slots=3, pages=60, page_size=4))
    np.testing.assert_array_equal(ours.finished, trace.arrivals)


def test_a_request_that_never_fits_is_refused_and_the_largest_that_does_is_not():
    trace = Trace([0.0, 0.0, 0.0], [13, 12, 16], [5, 5, 0])
    ours = agree(trace, Replica(STEP, pages=4, page_size=4))
    assert ours.refused.tolist() == [True, False, False] and np.isnan(ours.finished[0])
    assert "2 of 3 requests" in repr(ours)


def test_a_prompt_longer_than_a_step_is_computed_without_another():
    trace = Trace([0.0, 0.0, 0.0], [500, 3, 3], [1, 1, 1])
    ours = agree(trace, Replica(STEP, max_batch_tokens=10))
    assert ours.started.tolist() == [0.0, 0.125, 0.125]
