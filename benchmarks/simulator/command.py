"""The speed of the simulator, relative to real time and to an equivalent event loop in plain Python.

One replica with 256 slots serves the conversation trace of Azure 2023 (--data: the folder of the trace). The time of
its steps is that of the roofline of --preset at half of the FLOP/s and .7 of the bandwidth; its KV cache has as many
pages as fit beside the parameters.

    replica    the whole trace: simulated seconds per second
    python     the first 10 minutes, beside the event loop in Python (plain_simulation.py), at several times the rate of
               the trace; both must give the same times for every request
    sweep      1,000 configurations of the same minutes, on all cores that the process may use
    goodput    requests per second within limits (TTFT 500 ms, TPOT 50 ms) against load, by number of slots

Results are written to results/simulator.json, with plots beside it.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmds.base import threads
from llmds.simulator.cost_model import CostModel, kv_pages, preset
from llmds.simulator.simulator import Replica, Simulation, simulate, sweep
from llmds.traces.sources import read_azure
from llmds.traces.trace import Trace

from .. import harness
from ..names import OURS
from .plain_simulation import plain_simulation

TRACE = "azure_llm_conv_2023.csv"
LIMITS = {"ttft_ms": 500.0, "tpot_ms": 50.0}
# 5 * 2 * 10 * 10 configurations
GRID: dict[str, list[Any]] = {
    "slots": [16, 32, 64, 128, 256],
    "policy": ["fcfs", "sjf"],
    "max_batch_tokens": [512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384],
    "rate": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0],
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks to run (default: all)")
    parser.add_argument("--data", type=Path, help="the folder of the trace (default: traces below LLMDS_DATA)")
    parser.add_argument("--preset", default="llama-3.1-8b@h100-sxm", help="model and hardware (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="seconds of the trace to use, except in replica (default 600)"
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1.0, 4.0],
        help="multiples of the rate of the trace in python (default 1 4)",
    )
    parser.add_argument("--plot-only", type=Path, metavar="JSON", help="only draw the plots of an earlier run")


def run(options: argparse.Namespace) -> None:
    """Run the tasks, write the JSON and draw the plots."""
    if options.plot_only:
        harness.draw(options.plot_only)
        return
    trace = read_azure(harness.data_folder("traces", options.data) / TRACE)
    model, hardware, devices = preset(options.preset)
    cost = CostModel.roofline(model, hardware, devices=devices, compute_efficiency=0.5, bandwidth_efficiency=0.7)
    replica = Replica(cost, slots=256, pages=kv_pages(model, hardware, 16, devices=devices))
    parameters = {
        "trace": TRACE, "requests": len(trace), "seconds": float(trace.arrivals[-1]), "preset": options.preset,
        "compute_efficiency": 0.5, "bandwidth_efficiency": 0.7, "slots": 256, "pages": replica.pages,
        "rounds": options.rounds, "tasks": options.tasks,
        "limits": ", ".join(f"{name[:-3].upper()} <= {limit:g} ms" for name, limit in LIMITS.items()),
    }  # fmt: skip
    contest = harness.Contest("simulator", parameters)
    for task, do in TASKS.items():
        if task in options.tasks:
            print(f"\n=== {task}", flush=True)
            do(contest, options, trace, replica)
            path = contest.finish(options.out)
    harness.draw(path)


def _replica(contest: harness.Contest, options: argparse.Namespace, trace: Trace, replica: Replica) -> None:
    """Measure one replica; operations are simulated seconds."""
    one = simulate(trace, replica)
    operations, summary = round(one.simulated_seconds), one.summary()
    columns = {name: summary[name] for name in ("finished", "steps", "utilisation", "ttft_p50_ms", "tpot_p50_ms")}
    contest.race(
        "a replica, simulated seconds", {OURS: lambda: simulate(trace, replica)}, operations, options.rounds,
        extra={OURS: columns},
    )  # fmt: skip


def _python(contest: harness.Contest, options: argparse.Namespace, trace: Trace, replica: Replica) -> None:
    for rate in options.rates:
        _beside_python(contest, options, trace.until(options.seconds), replace(replica, rate=rate))


def _beside_python(contest: harness.Contest, options: argparse.Namespace, part: Trace, chosen: Replica) -> None:
    arrivals = (part.arrivals / chosen.rate).tolist()
    inputs, outputs = part.input_lengths.tolist(), part.output_lengths.tolist()
    compute, memory, overhead = chosen.cost.compute, chosen.cost.memory, chosen.cost.overhead

    def seconds(prompt: float, decoding: float, context: float, pairs: float) -> float:
        a = compute[0] + compute[1] * prompt + compute[2] * decoding + compute[3] * context + compute[4] * pairs
        b = memory[0] + memory[1] * prompt + memory[2] * decoding + memory[3] * context + memory[4] * pairs
        return overhead + max(a, b)

    def plain() -> list[dict[str, Any]]:
        return plain_simulation(arrivals, inputs, outputs, seconds, slots=chosen.slots, pages=chosen.pages)

    def ours() -> Simulation:
        return simulate(part, chosen)

    one, other = ours(), plain()
    for name in ("started", "first_token", "finished"):
        if not np.array_equal(getattr(one, name), [request[name] for request in other], equal_nan=True):
            raise SystemExit("llmds and the plain event loop differ")
    contest.race(
        f"beside plain Python at {chosen.rate:g} times the rate, simulated seconds",
        {OURS: ours, "plain Python": plain},
        round(one.simulated_seconds),
        options.rounds,
        extra={OURS: {"slots_used": one.summary()["slots_used"]}},
    )


def _sweep(contest: harness.Contest, options: argparse.Namespace, trace: Trace, replica: Replica) -> None:
    part, configurations = trace.until(options.seconds), math.prod(len(values) for values in GRID.values())
    cores = threads.count(None)
    contest.race(
        f"sweep of {options.seconds:g} s, configurations",
        {OURS: lambda: sweep(part, replica, GRID, threads=cores)},
        configurations,
        min(options.rounds, 3),
        extra={OURS: {"threads": cores, "requests": len(part)}},
    )


def _goodput(contest: harness.Contest, options: argparse.Namespace, trace: Trace, replica: Replica) -> None:
    part = trace.until(options.seconds)
    swept = sweep(part, replica, {"slots": GRID["slots"], "rate": GRID["rate"]})
    load = len(part) / float(part.arrivals[-1])
    for each, good in zip(swept.replicas, swept.goodput(**LIMITS), strict=True):
        contest.note(
            "goodput", f"{each.slots} slots, {each.rate * load:.1f} requests/s", slots=each.slots,
            load=each.rate * load, goodput=float(good),
        )  # fmt: skip
    harness.print_table(contest.record, "goodput")


TASKS = {"replica": _replica, "python": _python, "sweep": _sweep, "goodput": _goodput}
