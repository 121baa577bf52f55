"""Pictures draw the numbers they are given."""

import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from llmds.simulator import plots as serving_plots
from llmds.simulator.cost_model import CostModel
from llmds.simulator.simulator import Replica, Sweep, simulate, sweep
from llmds.traces.trace import Trace

STEP = CostModel.linear(step=0.5)


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(2)
    return Trace(np.r_[0, np.cumsum(rng.exponential(1.0, 99))], rng.integers(1, 90, 100), rng.integers(0, 9, 100))


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []


def test_a_cdf_rises_to_one_at_the_largest(trace):
    few, many = simulate(trace, Replica(STEP, slots=2)), simulate(trace, Replica(STEP, slots=9))
    figure = serving_plots.latency_cdf({"few": few, "many": many})
    assert len(figure.axes) == 3 and legend(figure.axes[2]) == ["few", "many"]
    for axes, measure, unit in zip(figure.axes, ("ttft", "tpot", "latency"), (1, 1000, 1), strict=True):
        drawn = lines(axes)
        for name, one in (("few", few), ("many", many)):
            values = getattr(one, measure)
            values = np.sort(values[np.isfinite(values)]) * unit
            np.testing.assert_allclose(drawn[name], np.c_[values, np.arange(1, len(values) + 1) / len(values)])
        assert axes.get_xscale() == "log" and axes.get_xlabel().endswith(", ms" if unit > 1 else ", s")
    assert legend(serving_plots.latency_cdf({"one": few}).axes[2]) == []
    empty = serving_plots.latency_cdf({"none": simulate(trace[:0], Replica(STEP))})
    assert len(lines(empty.axes[0])["none"]) == 0 and serving_plots.latency_cdf({}).axes


def test_a_timeline_shows_every_sample(trace):
    ours = simulate(trace, Replica(STEP, slots=2))
    above, middle, below = serving_plots.timeline(ours).axes
    time, running, waiting, pages, tokens = ours.timeline.T
    np.testing.assert_array_equal(lines(above)["running"], np.c_[time, running])
    np.testing.assert_array_equal(lines(above)["waiting"], np.c_[time, waiting])
    np.testing.assert_array_equal(middle.get_lines()[0].get_xydata(), np.c_[time, pages])
    values, edges, _ = below.patches[0].get_data()
    np.testing.assert_array_equal(edges, time)
    np.testing.assert_allclose((values * np.diff(edges)).sum(), tokens[-1])
    assert len(serving_plots.timeline(simulate(trace[:0], Replica(STEP))).axes) == 3


def test_goodput_has_a_line_for_each_combination(trace):
    swept = sweep(trace, Replica(STEP), {"slots": [1, 4], "rate": [2.0, 1.0, 4.0], "policy": ["fcfs", "sjf"]})
    figure = serving_plots.goodput(swept, ttft_ms=2000, latency_ms=5000)
    (axes,) = figure.axes
    drawn, last = lines(axes), float(trace.arrivals[-1])
    names = [f"slots {slots}, policy {policy}" for slots in (1, 4) for policy in ("fcfs", "sjf")]
    assert list(drawn) == ["all requests", *names] == legend(axes)
    load = np.array([1.0, 2.0, 4.0]) * 100 / last
    np.testing.assert_allclose(drawn["all requests"], np.c_[load, load])
    for slots in (1, 4):
        for policy in ("fcfs", "sjf"):
            met = [
                simulate(trace, Replica(STEP, slots, policy=policy, rate=rate)).goodput(ttft_ms=2000, latency_ms=5000)
                for rate in (1.0, 2.0, 4.0)
            ]
            np.testing.assert_allclose(drawn[f"slots {slots}, policy {policy}"], np.c_[load, met])
    assert axes.get_title() == "ttft <= 2000 ms, latency <= 5000 ms"


def test_goodput_over_another_key(trace):
    swept = sweep(trace, Replica(STEP), {"rate": [2.0], "cost": [STEP, CostModel.linear(1.0)], "slots": [4, 1, 2]})
    (axes,) = serving_plots.goodput(swept, tpot_ms=900, x="slots").axes
    drawn = lines(axes)
    assert list(drawn) == ["cost 0", "cost 1"] and axes.get_xlabel() == "slots"
    assert drawn["cost 0"][:, 0].tolist() == [1, 2, 4] and drawn["cost 0"][-1, 1] > 0
    assert drawn["cost 0"][:, 1].tolist() == swept.goodput(tpot_ms=900).reshape(2, 3)[0][[1, 2, 0]].tolist()
    alone = serving_plots.goodput(sweep(trace, Replica(STEP), {"rate": [1.0, 2.0]})).axes[0]
    assert alone.get_title() == "finished, no limits" and len(lines(alone)) == 2


def test_what_cannot_be_drawn_is_told(trace, monkeypatch):
    swept = sweep(trace[:3], Replica(STEP), {"policy": ["fcfs"]})
    with pytest.raises(ValueError, match="x must be a key"):
        serving_plots.goodput(swept)
    with pytest.raises(TypeError, match="x"):
        serving_plots.goodput(swept, x="policy")
    with pytest.raises(ValueError, match="ttft_ms"):
        serving_plots.goodput(replace(swept, grid={"rate": [1.0]}), ttft_ms=-1)
    with pytest.raises(ValueError, match="it has none"):
        serving_plots.goodput(Sweep({}, [], []))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"llmds\[plots\]"):
        serving_plots.latency_cdf({})
