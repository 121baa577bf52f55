"""Simulated replicas under the policies that know more of a request than its prompt's length."""

import numpy as np
import pytest

from llmds.simulator.cost_model import CostModel
from llmds.simulator.simulator import Replica, simulate, sweep
from llmds.traces.trace import Trace

STEP = CostModel.linear(step=1.0)


def queued(n, output=3):
    """n requests that have all come when the first is started; one slot serves them in order."""
    return Trace(np.zeros(n), np.full(n, 10), np.full(n, output))


def order(result):
    return np.argsort(result.started, kind="stable").tolist()


def test_smaller_priorities_go_first_and_equal_ones_in_order():
    priorities = [5, -1, 5, 0, -1, 2**53]
    result = simulate(queued(6), Replica(STEP, slots=1, policy="priority"), priorities=priorities)
    assert order(result) == sorted(range(6), key=lambda r: (priorities[r], r)) == [1, 4, 3, 0, 2, 5]
    assert order(simulate(queued(6), Replica(STEP, slots=1), priorities=priorities)) == list(range(6))
    assert result.finished.max() == 18.0


def test_tenants_get_slots_by_their_weights():
    """What has been given to each tenant by the time the small one has all it asked for: prompts and answers."""
    tenants = np.repeat([0, 1], [60, 10])
    for weights, before in ((None, 10), ({1: 2.0}, 5), ({0: 2.0}, 20)):
        result = simulate(queued(70), Replica(STEP, slots=1, policy="wfq"), tenants=tenants, weights=weights)
        last = result.started[tenants == 1].max()
        others = int((result.started[tenants == 0] < last).sum())
        assert abs(others - before) <= 2, (weights, others)
    assert (order(simulate(queued(70), Replica(STEP, slots=1), tenants=tenants)) == np.arange(70)).all()


def test_answers_count_as_they_are_made():
    """Of two tenants with equal prompts, the one with the longer answers is started less often."""
    outputs, tenants = np.tile([40, 1], 30), np.tile([0, 1], 30)
    trace = Trace(np.zeros(60), np.full(60, 10), outputs)
    result = simulate(trace, Replica(STEP, slots=1, policy="wfq"), tenants=tenants)
    early = np.argsort(result.started)[:24]
    assert (tenants[early] == 1).sum() >= 18


def test_who_finds_most_in_the_cache_goes_first():
    """Three conversations take turns; with pages for one, only their second halves can follow their first."""
    ids = [[c * 10 + block for block in range(4)] for c in (1, 2, 3)] * 6
    n = len(ids)
    trace = Trace(np.zeros(n), np.full(n, 16), np.ones(n, np.int64), np.ravel(ids), np.arange(n + 1) * 4, block_size=4)
    replica = Replica(STEP, slots=1, pages=5, policy="lpm")
    result, plain = simulate(trace, replica), simulate(trace, Replica(STEP, slots=1, pages=5))
    conversations = np.array(order(result)) % 3
    assert (np.diff(conversations) != 0).sum() == 2, "one after the other"
    assert result.cached_tokens.sum() == 15 * 15 and plain.cached_tokens.sum() == 0
    for policy in ("fcfs", "lpm"):  # without block ids nothing is cached, and both are the order of arrival
        assert order(simulate(queued(5), Replica(STEP, slots=1, policy=policy))) == list(range(5))


@pytest.mark.parametrize("policy", ["fcfs", "sjf", "edf", "priority", "lpm", "wfq"])
def test_every_policy_serves_all_whatever_is_preempted(policy):
    rng = np.random.default_rng(3)
    n = 200
    arrivals = np.cumsum(np.r_[0, rng.exponential(0.2, n - 1)])
    trace = Trace(arrivals, rng.integers(1, 40, n), rng.integers(1, 40, n))
    labels = {"priorities": rng.integers(-2, 3, n), "tenants": rng.integers(0, 4, n), "slo_ms": 5000.0}
    replica = Replica(STEP, slots=12, pages=40, page_size=4, policy=policy, prefill_chunk=8)
    one = simulate(trace, replica, **labels)
    assert np.isfinite(one.finished).all() and not one.refused.any() and one.preemptions.sum() > 0
    again = sweep(trace, replica, {"slots": [12, 12]}, threads=2, **labels).results
    for other in again:
        np.testing.assert_array_equal(other.finished, one.finished)


@pytest.mark.parametrize(
    "labels, error",
    [
        ({"priorities": [1]}, ValueError),
        ({"priorities": [0.5, 1, 2]}, TypeError),
        ({"priorities": [2**53 + 1, 0, 0]}, ValueError),
        ({"tenants": [1, 2]}, ValueError),
        ({"tenants": ["a", "b", "c"]}, TypeError),
        ({"weights": [1.0]}, TypeError),
        ({"weights": {1: 0.0}}, ValueError),
        ({"weights": {1.5: 1.0}}, TypeError),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, error):
    for call in (simulate, lambda trace, replica, **given: sweep(trace, replica, {}, **given)):
        with pytest.raises(error, match=next(iter(labels))):
            call(queued(3), Replica(STEP), **labels)
