"""`llmds simulate`: a replica of a serving engine on a trace of requests, and the latencies that result."""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import numpy as np

from ..kv_cache.state import POLICIES as EVICTIONS
from ..scheduler.state import POLICIES
from ..simulator.cost_model import HARDWARE, MODELS, CostModel, kv_pages, preset
from ..simulator.results import Simulation
from ..simulator.simulator import Replica, simulate
from ..traces.sources import read
from ..traces.trace import Trace
from . import plot_files

PRESET = "llama-3.1-8b@h100-sxm"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    add = parser.add_argument
    add(
        "trace", metavar="TRACE", help="requests: Mooncake's JSON lines or Azure's CSV (plain or .gz), or a saved trace"
    )
    known = f"models: {', '.join(MODELS)}; hardware: {', '.join(HARDWARE)}"
    text = f"whose roofline gives the time of a step, on N devices; {known} (default {PRESET})"
    add("--preset", default=PRESET, metavar="MODEL@HARDWARE[xN]", help=text)
    text = "of peak FLOP/s and bandwidth that is reached, one for both or two (default 1, a bound no engine reaches)"
    add("--efficiency", type=float, nargs="+", default=[1.0], metavar="SHARE", help=text)
    text = f"which request is started next, a policy of Scheduler: {', '.join(POLICIES)} (default fcfs)"
    add("--policy", default="fcfs", metavar="NAME", help=text)
    add("--slo-ms", type=float, metavar="MS", help="deadline of each request after its arrival, which edf orders by")
    add("--slots", type=int, default=256, metavar="N", help="sequences that run at the same time (default 256)")
    add("--pages", type=int, metavar="N", help="pages of the KV cache (default: what fits beside the parameters)")
    add("--eviction", default="lru", choices=EVICTIONS, help="which cached pages are evicted first (default lru)")
    add("--max-batch-tokens", type=int, default=8192, metavar="N", help="tokens of a step (default 8192)")
    add("--prefill-chunk", type=int, metavar="N", help="tokens of one prompt in a step (default: all)")
    add("--rate", type=float, default=1.0, metavar="X", help="how many times as fast requests arrive (default 1)")
    add("--limit-seconds", type=float, metavar="S", help="only the requests of the trace's first S seconds")
    add("--json", action="store_true", help="one object")
    text = "plot latencies to FILE, in the format of its suffix, and activity over time beside it (NAME-timeline)"
    add("--plot", metavar="FILE", help=text)


def run(options: argparse.Namespace) -> None:
    """Read the trace, simulate, and print the results."""
    if options.plot:
        plot_files.check(options.plot)
    model, hardware, devices = preset(options.preset)
    if len(options.efficiency) > 2:
        raise ValueError(f"--efficiency must be one share or two, got {len(options.efficiency)}")
    cost = CostModel.roofline(
        model, hardware, devices=devices, compute_efficiency=options.efficiency[0],
        bandwidth_efficiency=options.efficiency[-1],
    )  # fmt: skip
    trace = read(options.trace)
    if options.limit_seconds is not None:
        trace = trace.until(options.limit_seconds)
    replica = Replica(
        cost, options.slots, options.pages, eviction=options.eviction, policy=options.policy,
        max_batch_tokens=options.max_batch_tokens, prefill_chunk=options.prefill_chunk, rate=options.rate,
    )  # fmt: skip
    page_size = replica.page_size_for(trace)
    pages = kv_pages(model, hardware, page_size, devices=devices) if options.pages is None else options.pages
    replica = dataclasses.replace(replica, pages=pages)
    # compiles, or loads what was compiled, before time is taken; so many that the structures grow
    simulate(Trace(np.zeros(99), np.ones(99, int), np.ones(99, int)), Replica(cost))
    result = simulate(trace, replica, slo_ms=options.slo_ms, progress=True)
    if options.json:
        row = {
            "preset": options.preset, "policy": replica.policy, "slots": replica.slots, "pages": pages,
            "page_size": page_size, **result.summary(),
        }  # fmt: skip
        print(json.dumps({name: None if _is_nan(value) else value for name, value in row.items()}))
    else:
        print(_table(trace, replica, options.preset, result))
    if options.plot:
        _plot(Path(options.plot), result, Path(options.trace).name)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _table(trace: Trace, replica: Replica, name: str, result: Simulation) -> str:
    """Return the results as a table to read."""
    found = result.summary()
    cached = found["cached_tokens"] / max(int(trace.input_lengths[~result.refused].sum()), 1)
    cache = f"{replica.pages:,} pages of {replica.page_size_for(trace)} tokens"
    rows = [
        f"{name}, {replica.policy}, {replica.slots} slots, {cache}\n",
        f"{'requests':<22}{found['requests']:>12,}",
        f"{'finished':<22}{found['finished']:>12,}",
        f"{'refused':<22}{found['refused']:>12,}",
        f"{'preemptions':<22}{found['preemptions']:>12,}",
        f"{'simulated':<22}{found['simulated_seconds']:>12,.1f} s",
        f"{'in':<22}{found['wall_seconds']:>12,.2f} s",
        f"{'finished':<22}{found['requests_per_second']:>12,.2f} requests/s",
        f"{'answered':<22}{found['tokens_per_second']:>12,.0f} tokens/s",
        f"{'engine busy':<22}{found['utilisation']:>12.1%}",
        f"{'slots in use then':<22}{found['slots_used']:>12.1%}",
        f"{'prompts cached':<22}{cached:>12.1%}",
        "",
        f"{'milliseconds':<22}" + "".join(f"{column:>12}" for column in ("mean", "p50", "p90", "p99")),
    ]
    for title, key in (("to first token", "ttft"), ("per token after it", "tpot"), ("to last token", "latency")):
        values = (found[f"{key}_{column}_ms"] for column in ("mean", "p50", "p90", "p99"))
        rows.append(f"{title:<22}" + "".join(f"{'-' if _is_nan(value) else f'{value:,.1f}':>12}" for value in values))
    return "\n".join(rows)


def _plot(path: Path, result: Simulation, title: str) -> None:
    """Write both plots."""
    from ..simulator import plots

    beside = path.with_name(f"{path.stem}-timeline{path.suffix}")
    for figure, place in ((plots.latency_cdf({title: result}), path), (plots.timeline(result), beside)):
        figure.suptitle(title, fontsize=11)
        figure.savefig(place, dpi=130)
