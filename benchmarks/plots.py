"""Plots of the benchmarks, drawn from their JSON."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .names import OURS

Row = Mapping[str, Any]
# One colour for each library, one marker for each of its variants.
_COLOURS = {
    "llmds": "#d62728", "hnswlib": "#1f77b4", "faiss": "#2ca02c", "usearch": "#9467bd", "pynndescent": "#8c564b",
    "SVS": "#ff7f0e", "pyglass": "#17becf", "bm25s": "#1f77b4", "tantivy": "#2ca02c", "rank_bm25": "#8c564b",
}  # fmt: skip
_MARKERS = "osD^v"
_POINTS = "osD^vPX*<>"
_LINES = ("-", "--", ":", "-.", (0, (5, 1)))
# Kinds of filters, and the vectors that each allows.
_FILTERS = {"random": "chosen at random", "near": "nearest to a point", "far": "farthest from a point"}


def draw(path: Path) -> list[Path]:
    """Draw all plots of a JSON file, beside it as NAME-PLOT.png; return their paths."""
    record = json.loads(path.read_text())
    drawn = []
    for name, plot in _PLOTS.items():
        figure = plot(record)
        if figure is not None:
            drawn.append(path.with_name(f"{path.stem}-{name}.png"))
            figure.savefig(drawn[-1], dpi=130)
    return drawn


def curves(record: Row) -> Figure | None:
    """Return queries per second over recall, our curve bold."""
    rows = _rows(record, "curve")
    if not rows:
        return None
    figure, axes = _figure(8.5, 6)
    names = _names(row["index"] for row in rows)
    for name in names:
        points = [(row["recall"], _rate(row)) for row in rows if row["index"] == name]
        axes.plot(*zip(*points, strict=True), label=name, **_style(name, names))
    # Near 1 a little more recall costs much: the axis is logarithmic in the share of neighbours missed.
    axes.set_xscale("function", functions=(_stretched, _unstretched))
    axes.set_xlim(0.8, 0.999)
    ticks = [0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _log_y(axes)
    axes.set(xlabel="recall@10", ylabel="queries per second, one thread, in one batch", title=_title(record, "search"))
    axes.legend(fontsize=8, loc="upper right", ncols=2)
    return figure


def build(record: Row) -> Figure | None:
    """Return seconds to build, fastest first."""
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
    """Return queries per second over the share of vectors allowed, for each kind of filter."""
    rows = [row for row in record["results"] if row["task"].startswith("filter ")]
    if not rows:
        return None
    kinds, names = _names(row["kind"] for row in rows), _names(row["contender"] for row in rows)
    if unknown := set(kinds) - _FILTERS.keys():
        raise ValueError(f"filters must be of kinds {', '.join(_FILTERS)}, got {', '.join(map(repr, unknown))}")
    figure = Figure(figsize=(4 * len(kinds), 4.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for name in names:
            mine = [row for row in rows if (row["kind"], row["contender"]) == (kind, name) and "seconds" in row]
            axes.plot(
                [row["fraction"] for row in mine], [_rate(row) for row in mine], label=name, **_style(name, names)
            )
        axes.set_xscale("log")
        axes.set(xlim=(0.7, 0.0007), xlabel="share of vectors allowed", title=_FILTERS[kind])
        shares = sorted({row["fraction"] for row in rows})
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        _log_y(axes)
    panels[0].set_ylabel("queries per second at recall .95")
    figure.suptitle(_title(record, "filtered search") + " (no point: .95 not reached)", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def churn(record: Row) -> Figure | None:
    """Return recall, speed and size after each round of replacing half of the vectors."""
    rows = [row for row in record["results"] if row["task"].startswith("churn")]
    if not rows:
        return None
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    columns: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("recall@10 at fixed ef", lambda row: row["recall"]),
        ("queries per second", _rate),
        ("bytes per vector", lambda row: row["bytes"]),
    )
    names = _names(row["contender"] for row in rows)
    for axes, (label, value) in zip(panels, columns, strict=True):
        for name in names:
            mine = [row for row in rows if row["contender"] == name]
            style = _style(name, names) | {"linestyle": "--" if name.endswith("fresh") else "-"}
            axes.plot([row["round"] for row in mine], [value(row) for row in mine], label=name, **style)
        axes.set(xlabel="rounds, each replacing half of the vectors", title=label)
        axes.grid(alpha=0.3)
        if label != "recall@10 at fixed ef":
            axes.set_ylim(bottom=0)
    figure.suptitle(_title(record, "churn"), fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def scaling(record: Row) -> Figure | None:
    """Return seconds to build and to search over the number of vectors, with the expected growth."""
    at_recall, at_ef = (
        [row for row in record["results"] if row["task"].startswith(task)]
        for task in ("scaling,", "scaling at equal ef,")
    )
    if not (at_recall and at_ef):
        return None
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    names, least = _names(row["contender"] for row in at_recall), min(row["n"] for row in at_recall)
    panels: tuple[tuple[Axes, list[Row], str, str, Callable[[Row], float], Callable[[float], float]], ...] = (
        (left, at_recall, "seconds to build", "n log n", lambda row: row["build_seconds"], lambda n: n * math.log(n)),
        (middle, at_ef, f"microseconds per query, ef {at_ef[0]['ef']}", "log n", _microseconds, math.log),
        (right, at_recall, "microseconds per query, recall .95", "log n", _microseconds, math.log),
    )
    for axes, rows, label, growth, value, grows in panels:
        for name in names:
            mine = [row for row in rows if row["contender"] == name]
            axes.plot([row["n"] for row in mine], [value(row) for row in mine], label=name, **_style(name, names))
        first = next(row for row in rows if row["n"] == least)
        sizes = sorted({row["n"] for row in rows})
        guide = [value(first) * grows(n) / grows(least) for n in sizes]
        axes.plot(sizes, guide, color="grey", linestyle="--", linewidth=1, label=f"proportional to {growth}")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.set(xlabel="vectors", title=label)
        axes.legend(fontsize=9)
    _log_y(left)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    middle.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    figure.suptitle("scaling: clustered 128-d vectors, one thread", fontsize=11)
    return figure


def _microseconds(row: Row) -> float:
    return 1e6 / _rate(row)


def speeds(record: Row) -> Figure | None:
    """Return BM25 queries and documents per second, with our speed relative to each contender's."""
    titles = {
        "search": "queries per second, in one batch",
        "single": "queries per second, one per call",
        "index": "documents per second, from raw text",
    }
    present = [task for task in titles if _rows(record, task)]
    if not present or record.get("benchmark") != "bm25":
        return None
    names = {task: len(_rows(record, task)) for task in present}
    figure = Figure(figsize=(8.5, 0.8 + sum(0.7 + 0.34 * names[task] for task in present)), layout="constrained")
    panels = figure.subplots(len(present), 1, squeeze=False, height_ratios=[1 + names[task] for task in present])[:, 0]
    for axes, task in zip(panels, present, strict=True):
        _bars(axes, _rows(record, task), titles[task])
    given = record["parameters"]
    figure.suptitle(
        f"BM25: {given['data']}, {given['documents']:,} documents, one thread, top {given['k']}", fontsize=11
    )
    return figure


def growth(record: Row) -> Figure | None:
    """Return the time of a BM25 query and bytes over the number of documents, both axes logarithmic."""
    rows = [row for row in record["results"] if row["task"].startswith("growth")]
    if not rows:
        return None
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    names, sizes = _names(row["contender"] for row in rows), sorted({row["n"] for row in rows})
    columns: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("microseconds per query, in one batch", lambda row: 1e6 / _rate(row)),
        ("megabytes of the index", lambda row: row["bytes"] / 1e6),
    )
    for axes, (label, value) in zip(panels, columns, strict=True):
        for name in names:
            mine = [row for row in rows if row["contender"] == name]
            axes.plot([row["n"] for row in mine], [value(row) for row in mine], label=name, **_style(name, names))
        first = next(row for row in rows if row["n"] == sizes[0])
        guide = [value(first) * n / sizes[0] for n in sizes]
        axes.plot(sizes, guide, color="grey", linestyle="--", linewidth=1, label="proportional to n")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        _log_y(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(alpha=0.3)
        axes.set(xlabel="documents", title=label)
    panels[0].legend(fontsize=9)
    figure.suptitle("growth: synthetic documents of 60 terms on average, one thread, top 10", fontsize=11)
    return figure


def hybrid(record: Row) -> Figure | None:
    """Return the quality of hybrid search and of each side, and queries per second beside combinations of libraries."""
    if record.get("benchmark") != "hybrid":
        return None
    results = record["results"]
    data = _names(row["data"] for row in results)
    figure = Figure(figsize=(max(6, 4.2 * len(data)), 8), layout="constrained")
    grid = figure.subplots(3, len(data), squeeze=False, height_ratios=[4, 4, 4])
    for column, name in enumerate(data):
        scored = [row for row in results if row["task"] == f"quality: {name}" and row["contender"].startswith(OURS)]
        axes = grid[0, column]
        sides = [row["contender"].removeprefix(f"{OURS}, ") for row in scored]
        values = [row["nDCG@10"] for row in scored]
        bars = axes.barh(sides, values, color=[_COLOURS[OURS] if "alone" not in side else "#bbbbbb" for side in sides])
        axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=9)
        axes.margins(x=0.25)
        axes.invert_yaxis()
        axes.set_title(f"{name}: nDCG@10 of llmds", fontsize=10)
        for line, kind in ((1, "batch"), (2, "single")):
            label = {"batch": "in one batch", "single": "one per call"}[kind]
            rows = [row for row in results if row["task"].startswith(f"{kind}, ") and row["data"] == name]
            named = [{**row, "contender": f"{row['contender']}\n{row['fusion']}"} for row in rows]
            _bars(grid[line, column], named, f"queries per second, {label}")
    figure.suptitle("hybrid search, one thread (in brackets: our speed divided by theirs)", fontsize=11)
    return figure


def ratios(record: Row) -> Figure | None:
    """Return the speed of the small structures relative to each peer, by task, on a logarithmic axis."""
    if record.get("benchmark") != "structures":
        return None
    tasks = _names(row["task"] for row in record["results"] if "ours_over_this" in row)
    figure = Figure(figsize=(9.5, 1.4 + 0.3 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    peers = _names(row["contender"] for row in record["results"] if row["contender"] != OURS)
    for at, peer in enumerate(peers):
        rows = [row for row in record["results"] if row["contender"] == peer]
        places = [tasks.index(row["task"]) for row in rows]
        colour = f"C{at % 10}"
        axes.plot(
            [row["ours_over_this"] for row in rows], places, _MARKERS[at % len(_MARKERS)], color=colour, label=peer
        )
    axes.axvline(1.0, color="grey", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=5)
    axes.set_title(
        f"speed of llmds divided by each peer's: {record['parameters']['items']:,} items, one thread", fontsize=11
    )
    return figure


def hits(record: Row) -> Figure | None:
    """Return hit rates over pages by eviction policy, one panel for each load; the optimum is dashed."""
    rows = [row for row in record["results"] if row["task"].startswith("hits: ")]
    if not rows:
        return None
    loads, names = _names(row["load"] for row in rows), _names(row["contender"] for row in rows)
    sizes = [size for size in record["parameters"]["sizes"] if str(size) in rows[0]]
    columns = min(len(loads), 3)
    lines = -(-len(loads) // columns)
    figure = Figure(figsize=(0.6 + 4.2 * columns, 0.9 + 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, load in zip(panels, loads, strict=False):
        for row in (row for row in rows if row["load"] == load):
            name = row["contender"]
            bound = {"color": "#555555", "linestyle": "--"}
            style = (
                bound if name == "optimal" else {"color": f"C{names.index(name)}", "marker": _POINTS[names.index(name)]}
            )
            axes.plot(sizes, [row[str(size)] for size in sizes], label=name, markersize=4, linewidth=1.5, **style)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size // 1000}k" if size % 1000 == 0 else str(size) for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.set_xlabel("pages", fontsize=9)
        axes.set_title(load, fontsize=10)
    for axes in panels[len(loads) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("hit rate")
    panels[0].set_ylim(0, 1.08 * max(row[str(size)] for row in rows for size in sizes))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), fontsize=9)
    figure.suptitle(
        "hit rates of blocks by number of pages and eviction policy (dashed: the upper bound for all policies)",
        fontsize=11,
    )
    return figure


def serving(record: Row) -> Figure | None:
    """Return calls of KVCache per second beside plain Python, and recorded figures of engines, in grey."""
    if record.get("benchmark") != "kvcache":
        return None
    titles = {
        "replay": "requests per second, block ids only",
        "attach, pages of 512": "attach and detach per second, token ids in pages of 512",
        "attach, pages of 16": "attach and detach per second, token ids in pages of 16",
        "attach beside Python, pages of 512": "the same with fewer requests, beside plain Python, pages of 512",
        "attach beside Python, pages of 16": "the same with fewer requests, beside plain Python, pages of 16",
        "decode step, pages of 512": "steps per second, one token for each running sequence, pages of 512",
        "decode step": "the same in pages of 16",
        "match waiting": "look-ups of a whole waiting queue per second",
    }
    present = [task for task in titles if _rows(record, task)]
    if not present:
        return None
    names = {task: len(_rows(record, task)) for task in present}
    figure = Figure(figsize=(9, 0.8 + sum(0.7 + 0.34 * names[task] for task in present)), layout="constrained")
    panels = figure.subplots(len(present), 1, squeeze=False, height_ratios=[1 + names[task] for task in present])[:, 0]
    for axes, task in zip(panels, present, strict=True):
        rows = [
            row if "seconds" in row else {**row, "operations": row["recorded_a_second"], "median_seconds": 1.0}
            for row in _rows(record, task)
        ]
        _bars(axes, rows, titles[task])
        for bar, row in zip(axes.patches, rows, strict=True):
            if "seconds" not in row:
                bar.set(facecolor="none", edgecolor="#7f7f7f", hatch="///")
    given = record["parameters"]
    title = f"KVCache: {given['trace']}, one thread (hatched: not measured in this run, recorded on another machine)"
    figure.suptitle(title, fontsize=11)
    return figure


def goodput(record: Row) -> Figure | None:
    """Return simulated requests per second within the limits over those that arrive, by number of slots."""
    rows = _rows(record, "goodput")
    if not rows:
        return None
    figure, axes = _figure(7.5, 5)
    loads = sorted({row["load"] for row in rows})
    axes.plot(loads, loads, "--", color="#888888", linewidth=1, label="all requests")
    for slots in dict.fromkeys(row["slots"] for row in rows):
        points = sorted((row["load"], row["goodput"]) for row in rows if row["slots"] == slots)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"{slots} slots")
    given = record["parameters"]
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="requests per second that arrive",
        ylabel="requests per second within the limits",
        title=f"simulated {given['preset']} on {given['trace']}:\n{given['limits']}",
    )
    axes.legend(fontsize=9)
    return figure


_PLOTS: dict[str, Callable[[Row], Figure | None]] = {
    "curves": curves,
    "build": build,
    "filter": filters,
    "churn": churn,
    "scaling": scaling,
    "speeds": speeds,
    "growth": growth,
    "hybrid": hybrid,
    "ratios": ratios,
    "hits": hits,
    "serving": serving,
    "goodput": goodput,
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3, which="both")
    axes.set_axisbelow(True)
    return figure, axes


def _bars(axes: Axes, rows: Sequence[Row], title: str) -> None:
    """Draw rates as bars, each with our speed relative to it."""
    rates = [_rate(row) for row in rows]
    bars = axes.barh([row["contender"] for row in rows], rates, color=[_colour(row["contender"]) for row in rows])
    theirs = [not row["contender"].startswith(OURS) and "ours_over_this" in row for row in rows]
    ratios = [f" ({row['ours_over_this']:.2f}x)" if its else "" for row, its in zip(rows, theirs, strict=True)]
    axes.bar_label(
        bars, [f"{rate:,.0f}{ratio}" for rate, ratio in zip(rates, ratios, strict=True)], padding=3, fontsize=9
    )
    axes.margins(x=0.4)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelsize=9)
    axes.set_title(title, fontsize=10)


def _rows(record: Row, task: str) -> list[Row]:
    return [row for row in record["results"] if row["task"] == task]


def _names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _rate(row: Row) -> float:
    return row["operations"] / row["median_seconds"]


def _title(record: Row, what: str) -> str:
    given = record["parameters"]
    return f"{what}: {given['data']}, {given['vectors']:,} vectors of {given['dim']} dimensions"


def _library(name: str) -> str:
    return name.replace(",", " ").split()[0]


def _colour(name: str) -> str:
    return _COLOURS.get(_library(name), "#7f7f7f")


def _style(name: str, names: list[str]) -> dict[str, Any]:
    """Return the style of a line: a colour for each library, marker and dashes for each variant; ours is bold."""
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
