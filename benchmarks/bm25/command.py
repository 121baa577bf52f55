"""BM25: InvertedIndex beside bm25s (NumPy and Numba back ends), tantivy and rank_bm25.

All index the same terms, those of `llmds.Tokenizer`, by default without stop words; top 10, one thread. The time of
llmds includes the tokenisation of the queries; the other libraries get terms (see peers.py, and data.py for the data).

    search         all queries in one batch; 20 queries for libraries that would take too long. With judgements, also
                   quality; `agreement`: the share of ranks with our document, or one of the same score within 1e-5
    single         one query per call
    index          from raw text to an index that can be searched, each with its own analysis: bm25s.tokenize; tantivy's
                   default, which keeps stop words (so llmds is also measured with stop words); for rank_bm25 a regular
                   expression
    memory         bytes by part, bits per posting; ours is `nbytes`, tantivy's its files without stored documents
    update         replace a document, then search; other libraries need a new index or a commit for that
    stream         documents added one at a time, a search after every 100; rankings compared with those of a new index
    effectiveness  quality on cisi, cranfield and cppdocs, whole words and (with PyStemmer) stems; by default only for
                   data with judgements
    growth         time of a query and bytes for growing numbers of synthetic documents (only on request)

Results are written to results/bm25-DATA.json after every task, with plots beside it. If --tasks is given, the names
of the tasks are added to the name of the file, so that it does not replace the results of a complete run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .. import harness
from ..names import OURS
from . import tasks as text_tasks
from .bench import Bench, K
from .data import EXPONENT, FREQUENT, Collection, Synthetic, load
from .peers import CONTENDERS, installed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASKS,
        help="tasks to run (default: all but growth; for synthetic documents see below)",
    )
    parser.add_argument(
        "--data", default="cppdocs", help="a folder, or its name below LLMDS_DATA, or synthetic (default cppdocs)"
    )
    parser.add_argument(
        "--documents", type=int, default=1_000_000, help="number of synthetic documents (default 1000000)"
    )
    parser.add_argument(
        "--exponent", type=float, default=EXPONENT, help=f"Zipf exponent of synthetic terms (default {EXPONENT})"
    )
    parser.add_argument(
        "--frequent",
        type=int,
        default=FREQUENT,
        help=f"number of most frequent terms not used in queries (default {FREQUENT})",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (default: all that are installed; llmds always runs)",
    )
    parser.add_argument("--with-stop-words", action="store_true", help="keep stop words (default: leave them out)")
    parser.add_argument(
        "--stream", type=int, default=100_000, metavar="N", help="documents in the task stream (default 100000)"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of documents in growth"
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    parser.add_argument("--plot-only", type=Path, metavar="JSON", help="only draw the plots of an earlier run")
    parser.epilog = f"Tasks for synthetic documents, unless --tasks is given: {', '.join(SYNTHETIC)} (no rank_bm25)."


def run(options: argparse.Namespace) -> None:
    """Run the tasks, write the JSON and draw the plots."""
    if options.plot_only:
        harness.draw(options.plot_only)
        return
    stop_words = None if options.with_stop_words else "english"
    alone = options.tasks == ["growth"]
    collection: Collection
    if alone:
        collection = Synthetic(0, 0)
    elif options.data == "synthetic":
        collection = text_tasks.synthetic(options, options.documents)
    else:
        collection = load(options.data, stop_words)
    unjudged = [task for task in DEFAULT if task != "effectiveness"]
    default = SYNTHETIC if collection.name == "synthetic" else DEFAULT if collection.queries.judged else unjudged
    tasks = options.tasks or default
    asked = list(dict.fromkeys([OURS, *options.contenders]))
    names = [name for name in asked if installed(name)]
    if collection.name == "synthetic" and "rank_bm25" in names:
        names.remove("rank_bm25")
    parameters = {
        "data": collection.name, "documents": len(collection), "queries": len(collection.queries.texts), "k": K,
        "stop_words": stop_words, "seed": options.seed, "rounds": options.rounds, "threads": 1, "tasks": tasks,
    }  # fmt: skip
    if collection.name == "synthetic" or "growth" in tasks:
        parameters |= {"exponent": options.exponent, "frequent": options.frequent}
    contest = harness.Contest("bm25", parameters)
    contest.record["not_installed"] = [name for name in asked if not installed(name)]
    if contest.record["not_installed"]:
        print(f"not installed, left out: {', '.join(contest.record['not_installed'])}")
    bench = Bench(contest, options, collection, names)
    of_data = [] if alone else [collection.name]
    name = "-".join(["bm25", *of_data, *(tasks if tasks != default else [])])
    path = options.out or harness.RESULTS / f"{name}.json"
    for task, do in TASKS.items():
        if task in tasks:
            print(f"\n=== {task}", flush=True)
            do(bench)
            contest.finish(path)
    harness.draw(path)


TASKS: dict[str, Callable[[Bench], None]] = {
    "search": text_tasks.search,
    "single": text_tasks.single,
    "memory": text_tasks.memory,
    "update": text_tasks.update,
    "index": text_tasks.index,
    "stream": text_tasks.stream,
    "effectiveness": text_tasks.effectiveness,
    "growth": text_tasks.growth,
}
DEFAULT = [task for task in TASKS if task != "growth"]
SYNTHETIC = ["search", "single", "memory"]
