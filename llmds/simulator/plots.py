"""Plots of simulations: latencies, activity over time, and goodput over load. Needs the extra `plots`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..base import arguments
from .results import Simulation, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURES = {"ttft": "time to first token, s", "tpot": "time per output token, ms", "latency": "time to last token, s"}


def latency_cdf(simulations: Mapping[str, Simulation]) -> "Figure":
    """Plot the share of finished requests that took no longer than a time.

    A panel each for time to first token, time per output token after it, and time to the last token; a line for each of
    the simulations, named by its key. Times are logarithmic.
    """
    figure = _figure(12.0, 4.0)
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = figure.subplots(1, len(_MEASURES), sharey=True)
    for axes, (measure, label) in zip(panels, _MEASURES.items(), strict=True):
        for name, simulation in simulations.items():
            values = getattr(simulation, measure)
            known = np.sort(values[np.isfinite(values)]) * (1000 if measure == "tpot" else 1)
            axes.step(known, np.arange(1, len(known) + 1) / max(len(known), 1), where="post", label=name)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=label, ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of requests")
    _legend(panels[-1], len(simulations))
    return figure


def timeline(simulation: Simulation) -> "Figure":
    """Plot the state of the replica over time.

    Sequences running and requests waiting, pages of the KV cache referenced, and tokens computed a second between one
    sample and the next.
    """
    time, running, waiting, pages, tokens = simulation.timeline.T
    figure = _figure(10.0, 6.5)
    above, middle, below = figure.subplots(3, 1, sharex=True)
    above.step(time, running, where="post", label="running", linewidth=1.2)
    above.step(time, waiting, where="post", label="waiting", linewidth=1.2)
    above.set_ylabel("requests")
    above.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    middle.step(time, pages, where="post", color="C2", linewidth=1.2)
    middle.set_ylabel("pages referenced")
    if len(time) > 1:
        below.stairs(np.diff(tokens) / np.diff(time), time, color="C3", linewidth=1.2, baseline=None)
    below.set(ylabel="tokens a second", xlabel="seconds")
    for axes in (above, middle, below):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return figure


def goodput(
    swept: Sweep,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    latency_ms: float | None = None,
    x: str = "rate",
) -> "Figure":
    """Plot the requests a second that meet the limits (`Sweep.goodput`) over one key of the grid.

    Parameters
    ----------
    swept : Sweep
        What `sweep` returned.
    ttft_ms, tpot_ms, latency_ms : float, optional
        The limits.
    x : str
        The key, whose values are numbers; a line for each combination of the other keys. A `rate` is shown as requests
        a second, with a dashed line where all of them would meet the limits. ValueError if the grid has no such key.
    """
    if x not in swept.grid:
        raise ValueError(f"x must be a key of the sweep's grid ({', '.join(swept.grid) or 'it has none'}), got {x!r}")
    places = arguments.reals("values of x", swept.grid[x])
    limits = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "latency_ms": latency_ms}
    met = swept.goodput(**limits)
    if x == "rate":  # a multiple of the trace's, shown as requests a second
        places = np.array([_load(swept, rate) for rate in swept.grid[x]])
    shape = [len(values) for values in swept.grid.values()]
    at = list(swept.grid).index(x)
    lines = np.moveaxis(met.reshape(shape), at, -1).reshape(-1, len(places))
    labels = np.moveaxis(np.array(_labels(swept, x), object).reshape(shape), at, -1).reshape(-1, len(places))[:, :1]
    figure = _figure(7.5, 5.0)
    axes = figure.subplots()
    order = np.argsort(places, kind="stable")
    if x == "rate":
        axes.plot(places[order], places[order], "--", color="#888888", label="all requests", linewidth=1)
    for line, label in zip(lines, labels, strict=True):
        axes.plot(places[order], line[order], marker="o", markersize=4, label=label[0])
    shown = [f"{name[:-3]} <= {limit:g} ms" for name, limit in limits.items() if limit is not None]
    axes.set(
        xlabel="requests a second that arrive" if x == "rate" else x,
        ylabel="requests a second within the limits",
        title=", ".join(shown) if shown else "finished, no limits",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    _legend(axes, len(lines) + (x == "rate"))
    return figure


def _load(swept: Sweep, rate: float) -> float:
    """Return the requests a second that arrive in the simulations at a rate."""
    arrivals = next(
        result.arrivals for each, result in zip(swept.replicas, swept.results, strict=True) if each.rate == rate
    )
    return len(arrivals) / float(arrivals[-1]) if len(arrivals) and arrivals[-1] > 0 else 0.0


def _labels(swept: Sweep, x: str) -> list[str]:
    """Return a label for each configuration: its values of keys other than x that have more than one."""
    keys = [name for name, values in swept.grid.items() if name != x and len(values) > 1]
    return [
        ", ".join(
            f"{name} {swept.grid[name].index(replica.cost) if name == 'cost' else getattr(replica, name)}"
            for name in keys
        )
        or "goodput"
        for replica in swept.replicas
    ]


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need the package matplotlib: pip install 'llmds[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _legend(axes: "Axes", lines: int) -> None:
    if lines > 1:
        axes.legend(fontsize=9 if lines < 8 else 7)
