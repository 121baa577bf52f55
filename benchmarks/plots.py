"""Plots of the HNSW benchmark, drawn from its JSON alone."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .harness import OURS

Row = Mapping[str, Any]
# One colour for a library, one marker for a variant of it.
_COLOURS = {
    "llmds": "#d62728", "hnswlib": "#1f77b4", "faiss": "#2ca02c", "usearch": "#9467bd", "pynndescent": "#8c564b",
    "SVS": "#ff7f0e", "pyglass": "#17becf",
}  # fmt: skip
_MARKERS = "osD^v"
_LINES = ("-", "--", ":", "-.", (0, (5, 1)))


def draw(path: Path) -> list[Path]:
    """Draw what a JSON holds, each picture beside it as NAME-PLOT.png; returns their paths."""
    record = json.loads(path.read_text())
    drawn = []
    for name, plot in _PLOTS.items():
        figure = plot(record)
        if figure is not None:
            drawn.append(path.with_name(f"{path.stem}-{name}.png"))
            figure.savefig(drawn[-1], dpi=130)
    return drawn


def curves(record: Row) -> Figure | None:
    """Queries a second over recall, ours bold."""
    rows = _rows(record, "curve")
    if not rows:
        return None
    figure, axes = _figure(8.5, 6)
    names = _names(row["index"] for row in rows)
    for name in names:
        points = [(row["recall"], _rate(row)) for row in rows if row["index"] == name]
        axes.plot(*zip(*points, strict=True), label=name, **_style(name, names))
    # Near 1 a small step of recall costs much: an axis of the share missed spreads it.
    axes.set_xscale("function", functions=(_stretched, _unstretched))
    axes.set_xlim(0.8, 0.999)
    ticks = [0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _log_y(axes)
    axes.set(xlabel="recall@10", ylabel="queries a second, one thread, in one batch", title=_title(record, "search"))
    axes.legend(fontsize=8, loc="upper right", ncols=2)
    return figure


def build(record: Row) -> Figure | None:
    """Seconds to build, quickest first."""
    rows = sorted(_rows(record, "build"), key=lambda row: row["median_seconds"], reverse=True)
    if not rows:
        return None
    figure, axes = _figure(8, 1.2 + 0.38 * len(rows))
    seconds = [row["median_seconds"] for row in rows]
    names = [row["contender"] for row in rows]
    bars = axes.barh(names, seconds, color=[_colour(name) for name in names])
    axes.bar_label(bars, [f"{value:.3g} s" for value in seconds], padding=3, fontsize=9)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.set(xlabel="seconds, one thread (median)", title=_title(record, "build"))
    return figure


def filters(record: Row) -> Figure | None:
    """Queries a second over the share of vectors allowed, for each kind of filter."""
    rows = [row for row in record["results"] if row["task"].startswith("filter ")]
    if not rows:
        return None
    kinds, names = _names(row["kind"] for row in rows), _names(row["contender"] for row in rows)
    told = {"random": "chosen at random", "near": "nearest to a point", "far": "farthest from a point"}
    figure = Figure(figsize=(4 * len(kinds), 4.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for name in names:
            mine = [row for row in rows if (row["kind"], row["contender"]) == (kind, name) and "seconds" in row]
            axes.plot(
                [row["fraction"] for row in mine], [_rate(row) for row in mine], label=name, **_style(name, names)
            )
        axes.set_xscale("log")
        axes.set(xlim=(0.7, 0.0007), xlabel="share of vectors allowed", title=told[kind])
        shares = sorted({row["fraction"] for row in rows})
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        _log_y(axes)
    panels[0].set_ylabel("queries a second at recall .95")
    figure.suptitle(_title(record, "filtered search") + " (no point: .95 not reached)", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def churn(record: Row) -> Figure | None:
    """Recall, speed and size after each round of replacing half."""
    rows = [row for row in record["results"] if row["task"].startswith("churn")]
    if not rows:
        return None
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    columns: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("recall@10 at fixed ef", lambda row: row["recall"]),
        ("queries a second", _rate),
        ("bytes a vector", lambda row: row["bytes"]),
    )
    names = _names(row["contender"] for row in rows)
    for axes, (label, value) in zip(panels, columns, strict=True):
        for name in names:
            mine = [row for row in rows if row["contender"] == name]
            style = _style(name, names) | {"linestyle": "--" if name.endswith("fresh") else "-"}
            axes.plot([row["round"] for row in mine], [value(row) for row in mine], label=name, **style)
        axes.set(xlabel="times half of the vectors were replaced", title=label)
        axes.grid(alpha=0.3)
        if label != "recall@10 at fixed ef":
            axes.set_ylim(bottom=0)
    figure.suptitle(_title(record, "churn"), fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def scaling(record: Row) -> Figure | None:
    """Seconds to build and to search over the number of vectors, with how they should grow."""
    rows = [row for row in record["results"] if row["task"].startswith("scaling")]
    if not rows:
        return None
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names, least = _names(row["contender"] for row in rows), min(row["n"] for row in rows)
    panels: tuple[tuple[Axes, str, str, Callable[[Row], float], Callable[[float], float]], ...] = (
        (left, "seconds to build", "n log n", lambda row: row["build_seconds"], lambda n: n * math.log(n)),
        (right, "microseconds a query at recall .95", "log n", lambda row: 1e6 / _rate(row), math.log),
    )
    for axes, label, growth, value, grows in panels:
        for name in names:
            mine = [row for row in rows if row["contender"] == name]
            axes.plot([row["n"] for row in mine], [value(row) for row in mine], label=name, **_style(name, names))
        first = next(row for row in rows if row["n"] == least)
        sizes = sorted({row["n"] for row in rows})
        guide = [value(first) * grows(n) / grows(least) for n in sizes]
        axes.plot(sizes, guide, color="grey", linestyle="--", linewidth=1, label=f"as {growth}")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.set(xlabel="vectors", title=label)
        axes.legend(fontsize=9)
    _log_y(left)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set_ylim(bottom=0)
    figure.suptitle("scaling: clustered 128-d vectors, one thread", fontsize=11)
    return figure


_PLOTS: dict[str, Callable[[Row], Figure | None]] = {
    "curves": curves,
    "build": build,
    "filter": filters,
    "churn": churn,
    "scaling": scaling,
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3, which="both")
    axes.set_axisbelow(True)
    return figure, axes


def _rows(record: Row, task: str) -> list[Row]:
    return [row for row in record["results"] if row["task"] == task]


def _names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _rate(row: Row) -> float:
    return row["operations"] / row["median_seconds"]


def _title(record: Row, what: str) -> str:
    told = record["parameters"]
    return f"{what}: {told['data']}, {told['vectors']:,} vectors of {told['dim']} dimensions"


def _library(name: str) -> str:
    return name.replace(",", " ").split()[0]


def _colour(name: str) -> str:
    return _COLOURS.get(_library(name), "#7f7f7f")


def _style(name: str, names: list[str]) -> dict[str, Any]:
    """A library's colour; its variants differ by marker and dashes; ours is bold."""
    variant = [other for other in names if _library(other) == _library(name)].index(name) % len(_MARKERS)
    return {
        "color": _colour(name),
        "marker": _MARKERS[variant],
        "linestyle": _LINES[variant],
        "markersize": 5 if name == OURS else 3.5,
        "linewidth": 3 if name == OURS else 1.4,
        "zorder": 3 if name == OURS else 2,
    }


def _log_y(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _stretched(recall: Any) -> Any:
    return -np.log10(np.maximum(1.0 - np.asarray(recall), 1e-6))


def _unstretched(value: Any) -> Any:
    return 1.0 - 10.0 ** -np.asarray(value)
