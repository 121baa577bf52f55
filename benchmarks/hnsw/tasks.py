"""Tasks of the HNSW benchmark beside speed at a recall: memory, filters, churn, levels, threads, scaling."""

import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from .. import harness
from ..names import OURS
from .bench import Bench, K, race_searches, smallest_ef
from .data import Truth, clustered
from .index import Index, Ours
from .peers import Faiss, Hnswlib

RECALL = 0.95
_EQUAL_EF = 64  # of scaling
FRACTIONS = (0.5, 0.1, 0.01, 0.001)
_FILTER_QUERIES, _CHURN_ROUNDS = 500, 5


def memory(bench: Bench) -> None:
    """Bytes a vector of every index, and of ours with other vectors kept beside the codes."""
    task, count = "bytes a vector, with the vector", len(bench.data.vectors)
    for name in bench.names:
        size = bench.index(name).nbytes()
        if size is not None:
            bench.contest.note(task, name, bytes=size / count)
    for kept in ("float16", None):
        index = Ours(bench.settings, vectors=kept)
        index.build(bench.data.vectors)
        bench.contest.note(task, f"llmds, vectors {kept}", bytes=index.nbytes() / count)
    harness.print_table(bench.contest.record, task)


def filtered(bench: Bench) -> None:
    """Ours, faiss, and faiss comparing a copy of the allowed vectors one by one, where only some are allowed."""
    vectors, rng = bench.data.vectors, np.random.default_rng(bench.options.seed)
    chosen = rng.permutation(len(bench.data.queries))[:_FILTER_QUERIES]
    queries = np.ascontiguousarray(bench.data.queries[chosen])
    for kind, fraction, allowed in _filters(bench, rng):
        task = f"filter {kind} {fraction}"
        truth = Truth(vectors, queries, K, allowed)
        calls: dict[str, Callable[[], np.ndarray]] = {}
        extra: dict[str, dict[str, Any]] = {}
        about = {"kind": kind, "fraction": fraction}
        for name in [name for name in (OURS, "faiss") if name in bench.names]:
            index = bench.index(name)
            assert isinstance(index, Ours | Faiss)

            search = partial(index.search_filtered, queries, K, allowed)
            ef, reached = smallest_ef(_recall_of(index, truth, search), RECALL)
            if reached < RECALL:
                bench.contest.note(task, name, **about, ef=ef, recall=reached, reached=False)
                continue
            index.set_ef(ef)
            calls[name], extra[name] = search, {**about, "ef": ef, "recall": reached}
        if "faiss" in bench.names:
            calls["faiss exact"] = partial(_exact, queries, vectors, allowed)
            extra["faiss exact"] = {**about, "recall": truth.recall(calls["faiss exact"]())}
        if calls:
            bench.contest.race(task, calls, len(queries), bench.options.rounds, extra=extra)


def _filters(bench: Bench, rng: np.random.Generator) -> Iterator[tuple[str, float, np.ndarray]]:
    """Kind, fraction and ids: at random, nearest to one of the queries, farthest from it."""
    vectors = bench.data.vectors
    direction = bench.data.queries[rng.integers(len(bench.data.queries))]
    orders = {
        "random": rng.permutation(len(vectors)),
        "near": np.argsort(-(vectors @ direction), kind="stable"),
        "far": np.argsort(vectors @ direction, kind="stable"),
    }
    for kind, order in orders.items():
        for fraction in FRACTIONS:
            yield kind, fraction, np.sort(order[: max(1, round(fraction * len(vectors)))])


def _exact(queries: np.ndarray, vectors: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(1)
    found = faiss.knn(queries, vectors[allowed], K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return np.where(found >= 0, allowed[found], -1)


def churn(bench: Bench) -> None:
    """Half of the corpus is in; half of that is replaced, again and again. The ef is that of the first index."""
    vectors, queries, rng = bench.data.vectors, bench.data.queries, np.random.default_rng(bench.options.seed)
    order = rng.permutation(len(vectors))
    inside, outside = order[: len(order) // 2], order[len(order) // 2 :]
    truth = Truth(vectors, queries, K, inside)
    worn: dict[str, Any] = {}
    efs: dict[str, int] = {}
    updates: dict[str, float] = {}
    for name in [name for name in (OURS, "hnswlib") if name in bench.names]:
        worn[name] = _filled(bench, name, vectors, inside)
        efs[name], _ = smallest_ef(_recall_of(worn[name], truth), RECALL)
    for number in range(_CHURN_ROUNDS + 1):
        racing = dict(worn)
        if number:
            part = len(inside) // 2
            inside, outside = rng.permutation(inside), rng.permutation(outside)
            gone, new = inside[:part], outside[:part]
            inside, outside = np.concatenate([inside[part:], new]), np.concatenate([outside[part:], gone])
            for name, index in worn.items():
                start = time.perf_counter()
                index.replace(gone, vectors[new], new)
                updates[name] = time.perf_counter() - start
            truth = Truth(vectors, queries, K, inside)
            racing |= {f"{name}, fresh": _filled(bench, name, vectors, inside) for name in worn}
        extra = {}
        for name, index in racing.items():
            ef = efs[name.removesuffix(", fresh")]
            extra[name] = {
                "round": number,
                "ef": ef,
                "recall": _recall_of(index, truth)(ef),
                "bytes": (index.index.nbytes if isinstance(index, Ours) else index.nbytes()) / len(inside),
                **({"update_seconds": updates[name]} if name in updates else {}),
            }
        race_searches(bench, f"churn, round {number}", racing, queries, extra)


def _filled(bench: Bench, name: str, vectors: np.ndarray, ids: np.ndarray) -> Index:
    index = bench.make(name)
    if isinstance(index, Hnswlib):
        index.add(vectors[ids], ids, replaces=True)
    elif isinstance(index, Ours):
        index.add(vectors[ids], ids)
    return index


def _recall_of(index: Index, truth: Truth, search: Callable[[], np.ndarray] | None = None) -> Callable[[int], float]:
    """Recall as a function of ef, by a plain search or the one given."""

    def recall(ef: int) -> float:
        index.set_ef(ef)
        return truth.recall(search() if search else index.search(truth.queries, K))

    return recall


def ml(bench: Bench) -> None:
    """Compare the documented ml with the one that most libraries have."""
    other = Ours(bench.settings, ml=1.0 / math.log(bench.settings.M))
    other.build(bench.data.vectors)
    indexes, extra = {OURS: bench.index(OURS), "llmds, ml = 1/ln M": other}, {}
    for name, index in indexes.items():
        ef, recall = smallest_ef(_recall_of(index, bench.truth), RECALL)
        extra[name] = {"ef": ef, "recall": recall}
        index.set_ef(ef)
    race_searches(bench, f"ml, recall@{K} >= {RECALL}", indexes, bench.data.queries, extra)


def threads(bench: Bench) -> None:
    """Two threads beside one, building and searching."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        print("threads: left out, this process has one core (give no --pin)")
        bench.contest.note("threads", OURS, left_out="one core")
        return
    vectors, queries = bench.data.vectors, bench.data.queries
    names = {1: OURS, 2: "llmds, 2 threads"}
    build = {name: lambda count=count: Ours(bench.settings).build(vectors, count) for count, name in names.items()}
    bench.contest.race("threads, build", build, len(vectors), bench.options.build_rounds)
    index = bench.index(OURS)
    assert isinstance(index, Ours)
    ef, recall = bench.smallest_ef(OURS, RECALL)
    index.set_ef(ef)
    search = {name: lambda count=count: index.search(queries, K, count) for count, name in names.items()}
    extra = {name: {"ef": ef, "recall": recall} for name in search}
    bench.contest.race("threads, batch", search, len(queries), bench.options.rounds, extra=extra)


def scaling(bench: Bench) -> None:
    """Build, at ef_construction=100, and search, at equal ef and at equal recall, as the number of vectors grows."""
    for n in bench.options.sizes:
        data = clustered(n, 1000, seed=bench.options.seed)
        truth, indexes, extra, equal = Truth(data.vectors, data.queries, K), {}, {}, {}
        for name in [name for name in (OURS, "hnswlib") if name in bench.names]:
            index = bench.make(name, ef_construction=100, ours_ef_construction=100)
            start = time.perf_counter()
            index.build(data.vectors)
            seconds = time.perf_counter() - start
            print(f"n = {n:,}: built {name} in {seconds:.1f} s", flush=True)
            recall_of = _recall_of(index, truth)
            ef, recall = smallest_ef(recall_of, RECALL)
            indexes[name] = index
            extra[name] = {"n": n, "build_seconds": seconds, "ef": ef, "recall": recall}
            equal[name] = {"n": n, "ef": _EQUAL_EF, "recall": recall_of(_EQUAL_EF)}
        for task, given in (("scaling at equal ef", equal), ("scaling", extra)):
            for name, index in indexes.items():
                index.set_ef(given[name]["ef"])
            race_searches(bench, f"{task}, n = {n}", indexes, data.queries, given)
