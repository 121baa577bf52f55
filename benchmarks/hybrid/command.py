"""Hybrid search: RetrievalPipeline beside a combination of bm25s (Numba), hnswlib and fusion in NumPy.

The same terms, without stop words, the same vectors of length 1, the same M and ef_construction, one thread, top 10 of
the best 100 of text and of vectors. Both vector indexes use the smallest ef that reaches --recall at 10, at least 100.
The time of the pipeline includes the tokenisation of the queries, bm25s gets ids of terms; no result comes from a
cache. In the combination, a document that only one side has found gets the lowest score of the other side; the pipeline
computes both scores of every candidate.

    quality    text only, vectors only, and both, by weighted sum (weight .5) and by reciprocal ranks
    batch      all queries in one call, for both kinds of fusion
    single     one query per call
    sides      the best 100 of each side separately, in a batch: the parts of the total time

Results are written to results/hybrid.json (with other --data: hybrid-DATA.json), with plots beside it.
"""

import argparse
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmds.hnsw.index import HNSW
from llmds.retrieval_pipeline import FUSIONS, RetrievalPipeline

from .. import harness
from ..bm25.data import JUDGED, Collection, Queries
from ..bm25.data import load as load_texts
from ..bm25.quality import Ranked, quality
from ..hnsw.bench import smallest_ef
from ..hnsw.data import Data, Truth
from ..hnsw.data import load as load_vectors
from ..hnsw.index import Settings
from ..names import OURS
from .peers import ByHand

K, DEPTH = 10, 100
PEER = "bm25s + hnswlib"
_NEVER = 2**31 - 1
_LEAST_QUERIES = 1_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks to run (default: all)")
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(reversed(JUDGED)),
        help="folders with texts and vectors, or their names below LLMDS_DATA",
    )
    parser.add_argument("--recall", type=float, default=0.95, help="recall of both vector indexes (default .95)")
    parser.add_argument("--M", type=int, default=16, help="links of each vector (default 16)")
    parser.add_argument("--ef-construction", type=int, default=200, help="candidates while building (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    parser.add_argument("--plot-only", type=Path, metavar="JSON", help="only draw the plots of an earlier run")


class Race(NamedTuple):
    """Both contenders, which hold the same documents, and the queries."""

    name: str
    queries: Queries
    vectors: np.ndarray
    ours: RetrievalPipeline
    theirs: ByHand | None
    about: dict[str, dict[str, Any]]

    def repeated(self) -> "Race":
        """Return the same with the queries repeated, if they are few, so that a call is long enough to be timed."""
        times = max(1, -(-_LEAST_QUERIES // len(self.queries.texts)))
        queries = Queries(self.queries.texts * times, self.queries.terms * times, self.queries.grades * times)
        return self._replace(queries=queries, vectors=np.tile(self.vectors, (times, 1)))


def run(options: argparse.Namespace) -> None:
    """Run the tasks on every collection, write the JSON and draw the plots."""
    if options.plot_only:
        harness.draw(options.plot_only)
        return
    parameters = {
        "data": options.data, "k": K, "depth": DEPTH, "recall": options.recall, "M": options.M,
        "ef_construction": options.ef_construction, "seed": options.seed, "rounds": options.rounds, "threads": 1,
        "stop_words": "english", "tasks": options.tasks,
    }  # fmt: skip
    contest = harness.Contest("hybrid", parameters)
    names = [] if options.data == list(reversed(JUDGED)) else [Path(name).name for name in options.data]
    path = options.out or harness.RESULTS / f"{'-'.join(['hybrid', *names])}.json"
    for name in options.data:
        race = _race(options, load_texts(name), load_vectors(name))
        for task, do in TASKS.items():
            if task in options.tasks:
                print(f"\n=== {task}: {race.name}", flush=True)
                do(contest, options, race)
                contest.finish(path)
    harness.draw(path)


def _race(options: argparse.Namespace, texts: Collection, data: Data) -> Race:
    """Build both contenders, and set the ef of each vector index."""
    truth = Truth(data.vectors, data.queries, K)
    dim, numbers = data.vectors.shape[1], np.arange(len(texts))
    graph = HNSW(dim, options.M, options.ef_construction, seed=options.seed, metric="cosine")
    graph.add_many(data.vectors, numbers, threads=1)
    ef = graph.tune(data.queries, options.recall, K, threads=1)
    ours = RetrievalPipeline(
        dim, options.M, options.ef_construction, max(ef, DEPTH), tokenizer=texts.tokenizer, seed=options.seed,
        hot_threshold=_NEVER,
    )  # fmt: skip
    ours.add_documents(numbers, texts.texts(), data.vectors)
    ours.shrink_to_fit()
    found, _ = _batch(ours, texts.queries.texts, data.queries, K, fusion_weight=1.0)
    about = {OURS: {"data": texts.name, "smallest_ef": ef, "recall": truth.recall(found)}}
    try:
        theirs = ByHand(texts, data.vectors, Settings(options.M, options.ef_construction, seed=options.seed))
    except ImportError as error:
        print(f"not installed, left out: {error.name}")
        return Race(texts.name, texts.queries, data.queries, ours, None, about)

    def recall(ef: int) -> float:
        theirs.dense.set_ef(ef)
        return truth.recall(theirs.dense.search(data.queries, K))

    ef, _ = smallest_ef(recall, options.recall)
    about[PEER] = {"data": texts.name, "smallest_ef": ef, "recall": recall(max(ef, DEPTH))}
    return Race(texts.name, texts.queries, data.queries, ours, theirs, about)


def _quality(contest: harness.Contest, options: argparse.Namespace, race: Race) -> None:
    """Measure the quality of each side and of both."""
    task, (name, queries, vectors, ours, theirs, _) = f"quality: {race.name}", race
    found: dict[str, Ranked] = {
        f"{OURS}, text alone": _batch(ours, queries.texts, vectors, K, fusion_weight=0.0),
        f"{OURS}, dense alone": _batch(ours, queries.texts, vectors, K, fusion_weight=1.0),
    }
    for fusion in FUSIONS:
        found[f"{OURS}, {fusion}"] = _batch(ours, queries.texts, vectors, K, fusion=fusion, depth=DEPTH)
    if theirs:
        prepared = theirs.prepare(queries)
        found[f"{PEER}, text alone"] = theirs.text_side(prepared, K)
        found[f"{PEER}, dense alone"] = theirs.dense_side(vectors, K)
        for fusion in FUSIONS:
            found[f"{PEER}, {fusion}"] = theirs.batch(prepared, vectors, K, DEPTH, fusion)
    for contender, ranked in found.items():
        contest.note(task, contender, data=name, **quality(ranked, queries.grades))
    harness.print_table(contest.record, task)


def _batches(contest: harness.Contest, options: argparse.Namespace, race: Race) -> None:
    """Measure all queries in one call."""
    _, queries, vectors, ours, theirs, about = race.repeated()
    for fusion in FUSIONS:
        calls: dict[str, Callable[[], object]] = {
            OURS: partial(_batch, ours, queries.texts, vectors, K, fusion=fusion, depth=DEPTH)
        }
        if theirs:
            calls[PEER] = partial(theirs.batch, theirs.prepare(queries), vectors, K, DEPTH, fusion)
        extra = {contender: {**columns, "fusion": fusion} for contender, columns in about.items()}
        task = f"batch, {fusion}: {race.name}"
        contest.race(task, calls, len(queries.texts), options.rounds, extra=extra)


def _singles(contest: harness.Contest, options: argparse.Namespace, race: Race) -> None:
    """Measure one query per call."""
    _, queries, vectors, ours, theirs, about = race.repeated()
    for fusion in FUSIONS:
        calls: dict[str, Callable[[], object]] = {OURS: partial(_search_singly, ours, queries.texts, vectors, fusion)}
        if theirs:
            calls[PEER] = partial(theirs.single, theirs.prepare(queries), vectors, K, DEPTH, fusion)
        extra = {contender: {**columns, "fusion": fusion} for contender, columns in about.items()}
        task = f"single, {fusion}: {race.name}"
        contest.race(task, calls, len(queries.texts), options.rounds, extra=extra)


def _sides(contest: harness.Contest, options: argparse.Namespace, race: Race) -> None:
    """Measure each side separately, at the depth that fusion uses."""
    _, queries, vectors, ours, theirs, about = race.repeated()
    for side, weight in (("text", 0.0), ("dense", 1.0)):
        calls: dict[str, Callable[[], object]] = {
            OURS: partial(_batch, ours, queries.texts, vectors, DEPTH, fusion_weight=weight)
        }
        if theirs:
            calls[PEER] = (
                partial(theirs.text_side, theirs.prepare(queries), DEPTH)
                if side == "text"
                else partial(theirs.dense_side, vectors, DEPTH)
            )
        task = f"{side} side, best {DEPTH}: {race.name}"
        contest.race(task, calls, len(queries.texts), options.rounds, extra=about)


def _search_singly(ours: RetrievalPipeline, texts: list[str], vectors: np.ndarray, fusion: str) -> None:
    for text, vector in zip(texts, vectors, strict=True):
        ours.search(text, vector, K, fusion=fusion, depth=DEPTH)


def _batch(ours: RetrievalPipeline, texts: list[str], vectors: np.ndarray, k: int, **how: Any) -> Ranked:
    """Return what search_batch returns on one thread; where it has no parameter `threads`, use --pin for that."""
    if "threads" in inspect.signature(ours.search_batch).parameters:
        how["threads"] = 1
    return ours.search_batch(texts, vectors, k, **how)


TASKS: dict[str, Callable[[harness.Contest, argparse.Namespace, Race], None]] = {
    "quality": _quality,
    "batch": _batches,
    "single": _singles,
    "sides": _sides,
}
