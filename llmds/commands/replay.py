"""`llmds replay`: the hit rates of caches of several sizes on a trace, by eviction policy."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..base.progress import bar
from ..kv_cache.state import POLICIES
from ..paged_allocator import MAX_PAGES
from ..traces.hit_rates import OPTIMAL, cache_for, hit_rate_curve, replay
from ..traces.sources import read
from ..traces.trace import Trace
from . import plot_files

PAGES = (1_000, 3_000, 10_000, 30_000)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "trace", metavar="TRACE", help="requests with block ids: Mooncake's JSON lines (plain or .gz), or a saved trace"
    )
    parser.add_argument(
        "--pages", type=int, nargs="+", default=PAGES, metavar="N",
        help="sizes of the cache, one page a block of the trace (default 1000 3000 10000 30000)",
    )  # fmt: skip
    names = (*POLICIES, OPTIMAL)
    parser.add_argument(
        "--policy", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"of {', '.join(names)}, the bound that only knowledge of the future reaches (default: all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a list of objects, one for each policy and size")
    parser.add_argument("--plot", metavar="FILE", help="plot hit rates over pages, in the format of FILE's suffix")


def run(options: argparse.Namespace) -> None:
    """Read the trace, replay it, and print the hit rates."""
    for pages in options.pages:
        if not 1 <= pages <= MAX_PAGES:
            raise ValueError(f"--pages must lie in 1..2**31-1, got {pages}")
    if options.plot:
        plot_files.check(options.plot)
    trace = read(options.trace)
    if len(trace) and not len(trace.block_ids):
        raise ValueError(f"{options.trace}: has no block ids, which a replay needs")
    rows = replayed(trace, list(dict.fromkeys(options.pages)), list(dict.fromkeys(options.policy)))
    if options.json:
        print(json.dumps(rows))
    else:
        blocks = f"{len(trace.block_ids):,} blocks of {trace.block_size} tokens"
        print(f"{len(trace):,} requests, {blocks}, {trace.stats()['seen_before']:.4f} of them seen before\n")
        print(_table(rows, "hit rate", "hit_rate", ".4f"))
        print()
        print(_table(rows, "requests/s", "requests_per_second", ",.0f"))
        _print_refused(trace, min(options.pages))
    if options.plot:
        _plot(options.plot, rows, Path(options.trace).name)


def replayed(trace: Trace, sizes: list[int], policies: list[str]) -> list[dict[str, Any]]:
    """Return a row for each policy and size; show a progress bar."""
    rows: list[dict[str, Any]] = []
    if set(policies) - {OPTIMAL}:
        first = cache_for(trace, 1, POLICIES[0])  # compiles, or loads what was compiled, before time is taken
        first.reserve(100)
        replay(trace[:1], first)
    with bar(True, len(policies) * len(sizes) * len(trace), "replaying", "requests") as advance:
        for policy in policies:
            for size in sizes:
                speed = None
                if policy == OPTIMAL:
                    rate = float(hit_rate_curve(trace, [size], policy)[0])
                    advance(len(trace))
                else:
                    result = replay(trace, cache_for(trace, size, policy), progress=_steps(advance))
                    rate, speed = result.hit_rate, result.requests_per_second
                rows.append({"policy": policy, "pages": size, "hit_rate": rate, "requests_per_second": speed})
    return rows


def _steps(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """Return a `progress` callable that advances a bar over more than one replay."""
    reported = 0

    def step(done: int, total: int) -> None:
        nonlocal reported
        advance(done - reported)
        reported = done

    return step


def _table(rows: list[dict[str, Any]], title: str, column: str, form: str) -> str:
    """Return a table with one line for each policy, one column for each size."""
    sizes = list(dict.fromkeys(row["pages"] for row in rows))
    by_policy: dict[str, list[str]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append("-" if row[column] is None else f"{row[column]:{form}}")
    width = max(len(name) for name in (title, *by_policy)) + 2
    lines = [f"{title:<{width}}" + "".join(f"{size:>13,}" for size in sizes) + "  pages"]
    return "\n".join(lines + [f"{name:<{width}}" + "".join(f"{v:>13}" for v in by_policy[name]) for name in by_policy])


def _print_refused(trace: Trace, pages: int) -> None:
    """Print how many requests the smallest cache refuses, if any."""
    refused = int((np.diff(trace.indptr) > pages).sum())
    if refused:
        print(f"\n{refused:,} requests have more blocks than {pages:,} pages: they are refused there and do not count")


def _plot(path: str, rows: list[dict[str, Any]], title: str) -> None:
    """Plot the hit rate over pages, one line a policy, the optimum dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = sorted((row["pages"], row["hit_rate"]) for row in rows if row["policy"] == policy)
        style = {"color": "#555555", "linestyle": "--"} if policy == OPTIMAL else {"marker": "o", "markersize": 4}
        axes.plot(*zip(*mine, strict=True), label=policy, **style)
    sizes = sorted({row["pages"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set(xlabel="pages", ylabel="hit rate", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
