"""Timing of contenders side by side, and the output of the results.

All contenders of a task are called in turn, round after round (A B A B ...), so that a machine that becomes slower
slows down all of them; figures are medians over the rounds. Our speed relative to a contender's is the median of the
ratios in each round, on which a change of the machine's speed has little effect. Results are written as JSON with
machine, versions and parameters; tables and plots are made from that JSON.
"""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .names import OURS

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "llmds", "numpy", "numba", "scipy", "aiolimiter", "bm25s", "cachetools", "datasketches", "faiss-cpu", "heapdict",
    "hnswlib", "limits", "lru-dict", "pynndescent", "PyStemmer", "rank-bm25", "scalable-vs", "tantivy", "usearch",
    "vllm",
)  # fmt: skip


class Contest:
    """The tasks of one benchmark and the results of each contender.

    `parameters` hold all that is needed to repeat the run: sizes, seeds, names of folders.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]):
        self.record: dict[str, Any] = {
            "benchmark": name,
            "parameters": dict(parameters),
            "machine": _machine(),
            "versions": _versions(),
            "results": [],
        }

    def race(
        self,
        task: str,
        contenders: Mapping[str, Callable[..., object]],
        operations: int,
        rounds: int = 7,
        setup: Mapping[str, Callable[[], object]] | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, float]:
        """Time every contender `rounds` times in turn; return the median seconds of each.

        A call does `operations` operations. For a contender named in `setup`, that function is called before each
        call, not timed, and its result is the argument of the call. The first call of each contender is a warm-up,
        reported as `first_call_seconds`. `extra` holds more columns (recall, agreement) by contender.
        """
        setup, extra = setup or {}, extra or {}
        first = {name: _timed(call, setup.get(name)) for name, call in contenders.items()}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, call in contenders.items():
                seconds[name].append(_timed(call, setup.get(name)))
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            self.record["results"].append(
                {
                    "task": task,
                    "contender": name,
                    "operations": operations,
                    "first_call_seconds": first[name],
                    "seconds": times,
                    "median_seconds": medians[name],
                    **({"ours_over_this": _ratio(times, seconds[OURS])} if OURS in seconds else {}),
                    **extra.get(name, {}),
                }
            )
        print_table(self.record, task)
        return medians

    def note(self, task: str, contender: str, **values: Any) -> None:
        """Add a result that is not a time: bytes, hit rates."""
        self.record["results"].append({"task": task, "contender": contender, **values})

    def finish(self, out: Path | None = None) -> Path:
        """Write the JSON (by default to benchmarks/results/NAME.json), print its path and return it."""
        path = out or RESULTS / f"{self.record['benchmark']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.record, indent=1) + "\n")
        print(f"\nwritten to {path}")
        return path


def print_table(record: Mapping[str, Any], task: str | None = None) -> None:
    """Print the results of a record, of one task or all, as tables; `x` is our speed relative to the contender's."""
    for name in dict.fromkeys(row["task"] for row in record["results"]) if task is None else [task]:
        rows = [row for row in record["results"] if row["task"] == name]
        known = {"task", "contender", "operations", "first_call_seconds", "seconds", "median_seconds", "ours_over_this"}
        columns = list(dict.fromkeys(key for row in rows for key in row if key not in known))
        width = max(len(row["contender"]) for row in rows)
        print(f"\n{name}")
        for row in rows:
            line = f"  {row['contender']:<{width}}"
            if "median_seconds" in row:
                each = row["median_seconds"] / max(row["operations"], 1)
                line += f"  {_duration(each):>10} each  {1 / each:>13,.0f}/s"
                spread = (max(row["seconds"]) - min(row["seconds"])) / row["median_seconds"]
                line += f"  +-{50 * spread:3.0f}%"
                line += f"  {row['ours_over_this']:7.2f}x" if "ours_over_this" in row else ""
            for column in columns:
                line += f"  {column} {_short(row[column])}" if column in row else ""
            print(line)
    sys.stdout.flush()


def data_folder(name: str, given: Path | None = None) -> Path:
    """Return a folder of data: the one given, or `name` below LLMDS_DATA (default ../shared/data)."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = given or Path(os.environ.get("LLMDS_DATA", default)) / name
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}: give one with --data, or set LLMDS_DATA")
    return folder


def pin(core: int | None) -> None:
    """Run this process on one core only, where the system supports that."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def draw(path: Path) -> None:
    """Draw the plots of a JSON file beside it, if matplotlib is installed."""
    try:
        from . import plots
    except ImportError:
        print("no plots: matplotlib is not installed")
        return
    for picture in plots.draw(path):
        print(f"drawn: {picture}")


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """Return the median over the rounds of their seconds divided by ours."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _timed(call: Callable[..., object], setup: Callable[[], object] | None) -> float:
    given = () if setup is None else (setup(),)
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        call(*given)
        return time.perf_counter() - start
    finally:
        if enabled:
            gc.enable()


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(), "cpu": cpu, "cores": cores, "python": platform.python_version()}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e9:.1f} ns"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
