"""KVCache on a trace of requests: beside plain Python, and beside what was recorded of vLLM and SGLang.

One thread. By default the Mooncake conversation trace, in pages of 512 tokens (10,000 of them) and of 16 (320,000).
A block id stands for 512 seeded random token ids, the last block is cut to the request's length.

    replay     the trace over block ids, at 10,000 pages, beside an OrderedDict simulation of just what is found
    attach     attach and detach of int32 arrays of token ids, hashed and compared, by page size, type of the entries
               and whether they are stored: of the first requests alone, since tokens of all take 580 MB
    python     the same of fewer requests beside a plain Python cache (a dict of chained hashes, which it trusts), and
               beside vLLM's KV cache manager where that is installed (it never takes the last token from the cache)
    lists      attach from Python lists, over what turning these lists into arrays costs
    decode     one append_many for 256 running sequences
    match      match_prefix_many of 1,000 waiting requests over block ids, the cache warm from those before
    memory     bookkeeping bytes a page by policy; page tables of sequences, and token ids kept to be compared, apart
    hits       hit rates of all policies and the optimum by size, on this trace and on four synthetic ones

Rows that begin with "recorded" are figures of serving engines that were measured earlier, on another machine: no part
of this run, and no base for a ratio. Results go to results/kvcache.json, written after every task, and plots beside it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from llmds import traces

from .. import harness
from . import peers, tasks
from .tasks import Bench


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--trace", type=Path, help="a trace with block ids (default: Mooncake's below LLMDS_DATA)")
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N requests alone")
    parser.add_argument(
        "--token-requests", type=int, default=3_000, metavar="N", help="requests of attach (default: the first 3,000)"
    )
    parser.add_argument(
        "--python-requests", type=int, default=300, metavar="N", help="requests of python and lists (the first 300)"
    )
    parser.add_argument("--pages", type=int, default=10_000, help="of 512 tokens; of 16 in proportion (10,000)")
    parser.add_argument("--running", type=int, default=256, metavar="N", help="sequences of decode (256)")
    parser.add_argument("--waiting", type=int, default=1_000, metavar="N", help="requests of match (1,000)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000], help="pages of hits"
    )
    parser.add_argument(
        "--synthetic", type=int, default=12_000, metavar="N", help="requests of synthetic ones (12,000)"
    )
    parser.add_argument("--plot-only", type=Path, metavar="JSON", help="draw the plots of an earlier run anew")


def run(options: argparse.Namespace) -> None:
    """Do the tasks, write the JSON, draw the plots."""
    if options.plot_only:
        harness.draw(options.plot_only)
        return
    path = options.trace or harness.data_folder("traces") / "mooncake_conversation.jsonl.gz"
    trace = traces.read(path)[: options.limit]
    name = path.name.split(".")[0]
    parameters = {
        "trace": name, "requests": len(trace), "blocks": len(trace.block_ids), "block_size": trace.block_size,
        "pages": options.pages, "token_requests": options.token_requests, "python_requests": options.python_requests,
        "running": options.running, "waiting": options.waiting, "sizes": options.sizes, "synthetic": options.synthetic,
        "rounds": options.rounds, "threads": 1, "tasks": options.tasks,
    }  # fmt: skip
    contest = harness.Contest("kvcache", parameters)
    contest.record["recorded"] = peers.MACHINE
    chosen = options.tasks if options.tasks != list(TASKS) else []
    out = options.out or harness.RESULTS / f"{'-'.join(['kvcache', *chosen])}.json"
    bench = Bench(contest, options, trace, name)
    for task, do in TASKS.items():
        if task in options.tasks:
            print(f"\n=== {task}", flush=True)
            do(bench)
            contest.finish(out)
    harness.draw(out)


TASKS: dict[str, Callable[[Bench], None]] = {
    "replay": tasks.replay,
    "attach": tasks.attach,
    "python": tasks.python,
    "lists": tasks.lists,
    "decode": tasks.decode,
    "match": tasks.match,
    "memory": tasks.memory,
    "hits": tasks.hits,
}
