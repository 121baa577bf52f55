"""Approximate nearest neighbours beside hnswlib, faiss, usearch, pynndescent, SVS and pyglass.

Every index holds the same vectors, of length 1 in float32, and is built and searched by one thread with the same M and
ef_construction (or the equivalent parameters of a library). A result is correct if it is as near as the 10th nearest.

    build       seconds to build, one index after the other
    curve       recall and batch speed for many efs; then, for each of --recalls, the speed of all with the smallest ef
                that reaches it, in one batch and with one query per call; recall of the HNSW graphs at equal ef
    memory      bytes per vector, including the vectors
    filter      search in a subset of the vectors, at recall .95: chosen at random, near to a point, or far from it
    churn       half of the vectors replaced, five times, compared with a new index of the same vectors
    ml          the documented ml compared with 1/ln M, at recall .95
    threads     two threads compared with one (not with --pin)
    scaling     growing numbers of synthetic vectors (only on request; if it is the only task, no data is needed)

Results are written to results/hnsw-DATA.json after every task, with plots beside it. If --tasks is given, the names
of the tasks are added to the name of the file, so that it does not replace the results of a complete run.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import harness
from ..names import OURS
from . import tasks as ann_tasks
from .bench import Bench, K, race_searches, streamed
from .data import clustered, load
from .index import Index
from .peers import CONTENDERS

_EQUAL_EFS = (10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
_GRAPHS = (OURS, "llmds ef 128", "llmds int8", "llmds float32", "hnswlib", "faiss")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=DEFAULT, help="tasks to run (default: all but scaling)"
    )
    parser.add_argument("--data", default="cppdocs", help="a folder, or its name below LLMDS_DATA (default cppdocs)")
    parser.add_argument("--limit", type=int, help="use only this many vectors, chosen at random with --seed")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (default: all that are installed)",
    )
    parser.add_argument("--M", type=int, default=16, help="links of each vector (default 16)")
    parser.add_argument("--ef-construction", type=int, default=200, help="candidates while building (default 200)")
    parser.add_argument("--ours-ef-construction", type=int, default=200, help="the same, for llmds (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.90, 0.95, 0.99], help="recalls to compare at")
    parser.add_argument("--build-rounds", type=int, default=3, help="how often each index is built (default 3)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of vectors in scaling"
    )
    parser.add_argument("--plot-only", type=Path, metavar="JSON", help="only draw the plots of an earlier run")


def run(options: argparse.Namespace) -> None:
    """Run the tasks, write the JSON and draw the plots."""
    if options.plot_only:
        harness.draw(options.plot_only)
        return
    alone = options.tasks == ["scaling"]
    data = clustered(1000, 100) if alone else load(options.data, options.limit, options.seed)
    name = "-".join(["hnsw", *([] if alone else [data.name]), *(options.tasks if options.tasks != DEFAULT else [])])
    kept = ("M", "ef_construction", "ours_ef_construction", "seed", "rounds", "build_rounds")
    parameters = {option: getattr(options, option) for option in kept}
    sizes = {"data": data.name, "vectors": len(data.vectors), "queries": len(data.queries)}
    dim = data.vectors.shape[1]
    contest = harness.Contest("hnsw", {**sizes, "dim": dim, "k": K, **parameters, "threads": 1, "tasks": options.tasks})
    bench = Bench(contest, options, data)
    contest.record["not_installed"] = [name for name in options.contenders if name not in bench.names]
    if contest.record["not_installed"]:
        print(f"not installed, left out: {', '.join(contest.record['not_installed'])}")
    bench.warm_up()
    path = options.out or harness.RESULTS / f"{name}.json"
    for task, do in TASKS.items():
        if task in options.tasks:
            print(f"\n=== {task}", flush=True)
            do(bench)
            contest.finish(path)
    harness.draw(path)


def _build(bench: Bench) -> None:
    """Measure the time to build each index."""
    builders = {name: partial(bench.build, name) for name in bench.names}
    bench.contest.race("build", builders, len(bench.data.vectors), bench.options.build_rounds)


def _curve(bench: Bench) -> None:
    """Measure recall and speed of all, over their efs and at equal recall."""
    for name in bench.names:
        bench.index(name)
    _equal_ef(bench)
    calls: dict[str, Callable[..., object]] = {}
    setup: dict[str, Callable[[], object]] = {}
    extra: dict[str, dict[str, Any]] = {}
    for name in bench.names:
        index, queries = bench.index(name), bench.data.queries
        for ef, recall in bench.sweep(name).items():
            label = f"{name}, ef {ef}"
            calls[label] = partial(_search, index, queries)
            setup[label] = partial(index.set_ef, ef)
            extra[label] = {"index": name, "ef": ef, "recall": recall}
    bench.contest.race("curve", calls, len(bench.data.queries), bench.options.rounds, setup, extra)
    for wanted in bench.options.recalls:
        _at_recall(bench, wanted)


def _search(index: Index, queries: np.ndarray, _: object) -> object:
    return index.search(queries, K)


def _search_singly(index: Index, queries: np.ndarray) -> None:
    for query in queries:
        index.search_one(query, K)


def _equal_ef(bench: Bench) -> None:
    """Compare the quality of the graphs: recall at the same ef."""
    for name in [name for name in _GRAPHS if name in bench.names]:
        recalls = {str(ef): bench.recall(name, ef) for ef in _EQUAL_EFS}
        bench.contest.note("recall at equal ef", name, **recalls)
    harness.print_table(bench.contest.record, "recall at equal ef")


def _at_recall(bench: Bench, wanted: float) -> None:
    """Measure the speed of all with the smallest ef that reaches a recall."""
    batch, single = (f"{kind}, recall@{K} >= {wanted}" for kind in ("batch", "one query a call"))
    extra = {}
    for name in bench.names:
        ef, recall = bench.smallest_ef(name, wanted)
        if recall >= wanted:
            extra[name] = {"ef": ef, "recall": recall}
            bench.index(name).set_ef(ef)
        else:
            bench.contest.note(batch, name, ef=ef, recall=recall, reached=False)
    racing, stream = {name: bench.index(name) for name in extra}, streamed(bench.data.queries)
    race_searches(bench, batch, racing, bench.data.queries, extra)
    calls = {name: partial(_search_singly, index, stream) for name, index in racing.items()}
    bench.contest.race(single, calls, len(stream), bench.options.rounds, extra=extra)


TASKS: dict[str, Callable[[Bench], None]] = {
    "build": _build,
    "curve": _curve,
    "memory": ann_tasks.memory,
    "filter": ann_tasks.filtered,
    "churn": ann_tasks.churn,
    "ml": ann_tasks.ml,
    "threads": ann_tasks.threads,
    "scaling": ann_tasks.scaling,
}
DEFAULT = [task for task in TASKS if task != "scaling"]
