"""A replica of a serving engine on a trace: continuous batching, iteration by iteration, in simulated time."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..admissions import AdmissionController
from ..base import arguments
from ..base.progress import Progress, bar
from ..base.threads import SECONDS_A_CALL, in_pieces
from ..base.threads import count as thread_count
from ..kernels.scheduler import layout, policies, requests
from ..kernels.simulator import steps as kernels
from ..kv_cache.cache import KVCache
from ..kv_cache.state import POLICIES as EVICTIONS
from ..scheduler.state import POLICIES, grown
from ..traces.trace import Trace
from .cost_model import CostModel
from .results import Simulation, Sweep

__all__ = ["Replica", "Simulation", "Sweep", "simulate", "sweep"]

_WORK = 1 << 10  # of the first kernel call, when it is not known yet how long one takes
_SAMPLES = 1024


@dataclass(frozen=True)
class Replica:
    """One replica of an engine, as `simulate` and `sweep` take it.

    Parameters
    ----------
    cost : CostModel
        Seconds of a step.
    slots : int
        Sequences that run at the same time, 1..16384.
    pages, page_size : int, optional
        The KV cache. By default a page is a block of the trace if its prompts have block ids, else 16 tokens, and there
        is room for all slots with the trace's longest request.
    eviction : str
        As in KVCache.
    policy, aging : str, float
        As in Scheduler, which orders by the length of a request's prompt, not of its answer.
    max_batch_tokens : int
        Prompt tokens and decoded ones of a step.
    prefill_chunk : int, optional
        Prompt tokens of one request in a step; None: a prompt is computed whole, beside others if it fits in the step,
        else alone.
    rate : float
        How many times as fast as in the trace requests arrive.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    """

    cost: CostModel
    slots: int = 256
    pages: int | None = None
    page_size: int | None = None
    eviction: str = "lru"
    policy: str = "fcfs"
    aging: float = 0.0
    max_batch_tokens: int = 8192
    prefill_chunk: int | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.cost, CostModel):
            raise TypeError(f"cost must be a CostModel, got {self.cost!r}")
        checked = {
            "slots": arguments.integer("slots", self.slots, 1, 1 << 14),
            "max_batch_tokens": arguments.integer("max_batch_tokens", self.max_batch_tokens, 1, 2**62),
            "policy": arguments.one_of("policy", arguments.text("policy", self.policy), POLICIES),
            "aging": arguments.real("aging", self.aging, 0.0, sys.float_info.max),
            "rate": arguments.real("rate", self.rate, 1e-9, 1e9),
            "eviction": arguments.one_of("eviction", self.eviction, EVICTIONS),
        }
        for name in ("pages", "page_size", "prefill_chunk"):
            value = getattr(self, name)
            checked[name] = None if value is None else arguments.integer(name, value, 1, 2**31 - 1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def page_size_for(self, trace: Trace) -> int:
        """Return the tokens of a page: those of the trace's blocks, where it has any; ValueError if they differ."""
        if self.page_size is None:
            return trace.block_size if len(trace.block_ids) else 16
        if len(trace.block_ids) and self.page_size != trace.block_size:
            raise ValueError(f"page_size must be {trace.block_size}, as the trace's blocks are, got {self.page_size}")
        return self.page_size

    def pages_for(self, trace: Trace) -> int:
        """Return the pages of the KV cache. O(n) where `pages` is None."""
        if self.pages is not None:
            return self.pages
        longest = int(_entries(trace).max(initial=1))
        return min(self.slots * -(-longest // self.page_size_for(trace)), 2**31 - 1)


def simulate(
    trace: Trace,
    replica: Replica,
    *,
    slo_ms: ArrayLike | None = None,
    priorities: ArrayLike | None = None,
    tenants: ArrayLike | None = None,
    weights: Mapping[int, float] | None = None,
    admission: AdmissionController | None = None,
    progress: Progress = False,
) -> Simulation:
    """Simulate one replica that serves a trace, and return the times of each request.

    The requests arrive at the times of the trace, wait in a scheduler, hold pages of a `KVCache` from their start to
    their end, and are computed in steps that take as long as `replica.cost` says. In a step, every sequence whose
    prompt is done decodes a token; prompts under way go on; and waiting requests are started, in the policy's order, up
    to the first for which there is no slot, page or token left. A prompt's last token yields the first of the answer,
    so an answer of no tokens takes as long as one of one.

    Prompts with block ids share the pages of their whole blocks, with all that run and with what is still cached; they
    are found from the start of the first of them on, even while its chunks are being computed. At least one token of
    a prompt is computed, as in an engine. Where pages run out in decoding, the request that was started last waits
    again, in its old place, and all that it had is computed again. A request that would not fit into the pages
    alone is refused.

    Parameters
    ----------
    trace : Trace
        The requests.
    replica : Replica
        What serves them.
    slo_ms : float or array_like, optional
        Deadlines, a number or float64 (n,) with inf for none, milliseconds after arrival; only "edf" uses them.
    priorities, tenants : array_like of int, optional
        int64 (n,): for "priority"; for "wfq" and for admission.
    weights : mapping, optional
        Of tenants, for "wfq", which counts a tenant's prompts when they start and its answers as they are made (Sheng
        et al. 2024).
    admission : AdmissionController, optional
        Refuses requests when they arrive, by their prompt's and answer's tokens; it starts as it is and is not changed.
    progress : bool or callable
        True draws a bar of the requests that have arrived; a callable gets (done, total).

    Returns
    -------
    Simulation
        The same for the same arguments, bit for bit (but for `wall_seconds`).

    Notes
    -----
    O(steps * sequences running), less where the same sequences decode for long; tens of bytes for each request and
    page.

    Examples
    --------
    >>> trace = Trace([0.0, 0.1], [100, 100], [3, 2])
    >>> result = simulate(trace, Replica(CostModel.linear(step=1.0), slots=1))
    >>> result.started.tolist(), result.first_token.tolist(), result.finished.tolist()
    ([0.0, 3.0], [1.0, 4.0], [3.0, 5.0])
    """
    labels = _Labels.of(trace, slo_ms, priorities, tenants, weights)
    run = _Run(trace, replica, labels, _admitted(trace, replica.rate, labels, admission))
    began = time.perf_counter()
    with bar(progress, len(trace), "simulating", "requests") as advance:
        while run.go_on():
            advance(run.arrived())
        advance(run.arrived())
    return run.outcome(time.perf_counter() - began)


def sweep(
    trace: Trace,
    replica: Replica,
    grid: Mapping[str, Sequence[Any]],
    *,
    slo_ms: ArrayLike | None = None,
    priorities: ArrayLike | None = None,
    tenants: ArrayLike | None = None,
    weights: Mapping[int, float] | None = None,
    admission: AdmissionController | None = None,
    threads: int | None = None,
    progress: Progress = False,
) -> Sweep:
    """Simulate every combination of the values of a grid, on all cores.

    Parameters
    ----------
    trace, replica, slo_ms, priorities, tenants, weights, admission, progress
        As in `simulate`; the bar counts configurations.
    grid : mapping
        A sequence of values for each of some fields of Replica; the other fields are those of `replica`. Nothing is
        simulated if a combination is impossible: TypeError or ValueError.
    threads : int, optional
        How many; all cores by default. The results do not depend on it (but for `wall_seconds`).

    Returns
    -------
    Sweep
        The simulations, in the order of the grid's product.

    Notes
    -----
    Memory: about 70 bytes for each request and 40 kB for each configuration.

    Examples
    --------
    >>> trace = Trace([0.0, 0.1, 0.2], [100, 900, 100], [1, 1, 1])
    >>> cost = CostModel.linear(prefill_token=0.01)
    >>> sweep(trace, Replica(cost), {"slots": [1, 2], "policy": ["fcfs", "sjf"]}).table()["ttft_mean_ms"].round()
    array([7233., 4567., 7567., 7567.])
    """
    known = [field.name for field in fields(Replica)]
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid must be a mapping from fields of Replica to sequences of values, got {grid!r}")
    values = {}
    for name, given in grid.items():
        if name not in known:
            raise ValueError(f"grid must name fields of Replica ({', '.join(known)}), got {name!r}")
        if isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
            raise TypeError(f"grid[{name!r}] must be a sequence of values, got {given!r}")
        values[name] = list(given)
    replicas = [replace(replica, **dict(zip(values, point, strict=True))) for point in product(*values.values())]
    for each in replicas:
        each.page_size_for(trace)
    workers, labels = thread_count(threads), _Labels.of(trace, slo_ms, priorities, tenants, weights)
    admitted = {rate: _admitted(trace, rate, labels, admission) for rate in {each.rate for each in replicas}}
    results: list[Any] = [None] * len(replicas)
    with bar(progress, len(replicas), "sweeping", "configurations") as advance:

        def fill(part: slice) -> None:
            for place in range(part.start, part.stop):
                each, began = replicas[place], time.perf_counter()
                run = _Run(trace, each, labels, admitted[each.rate])
                while run.go_on():
                    pass
                results[place] = run.outcome(time.perf_counter() - began)
                advance(1)

        in_pieces(len(replicas), fill, workers)
    return Sweep(values, replicas, results)


class _Run:
    """A simulation under way."""

    def __init__(self, trace: Trace, replica: Replica, labels: "_Labels", admitted: np.ndarray):
        self.replica, n = replica, len(trace)
        pages, page_size = replica.pages_for(trace), replica.page_size_for(trace)
        self.load = kernels.Load(
            arrivals=trace.arrivals / replica.rate,
            inputs=trace.input_lengths,
            outputs=trace.output_lengths,
            accepted=admitted & (-(-_entries(trace) // page_size) <= pages),
            slos=labels.deadlines if replica.policy == "edf" else np.full(n, np.inf),
            keys=labels.priorities,
            tenants=labels.tenants,
            blocks=trace.block_ids.view(np.uint8),
            indptr=trace.indptr,
        )
        self.results = kernels.Results(
            times=np.full((n, kernels.TIMES), np.nan),
            counts=np.zeros((n, kernels.COUNTS), np.int64),
            samples=np.zeros((_SAMPLES, kernels.SAMPLE)),
        )
        self.progress = kernels.Progress(
            whole=np.zeros(kernels.WHOLE, np.int64),
            real=np.zeros(kernels.REAL),
            running=np.zeros((replica.slots, kernels.RUN), np.int64),
            order=np.zeros(n, np.int64),
            tickets=np.zeros(n, np.int64),
        )
        whole, last = self.progress.whole, float(self.load.arrivals[-1]) if n else 0.0
        whole[kernels.SLOTS], whole[kernels.BUDGET] = replica.slots, replica.max_batch_tokens
        whole[kernels.CHUNK] = replica.prefill_chunk or 0
        self.progress.real[kernels.INTERVAL] = max(last, 1e-3) / (_SAMPLES // 2)
        self.cache = KVCache(page_size, pages, store=False, dtype=np.float32, eviction=replica.eviction)
        self.scheduler = _scheduler(replica.policy, replica.aging, labels.weights)
        self.cost, self.work, self.reported = replica.cost.coefficients, _WORK, 0

    def go_on(self) -> bool:
        """Simulate for some hundredths of a second; return False when all is done."""
        scheduler, cache, began = self.scheduler, self.cache.arrays, time.perf_counter()
        code = kernels.run(self.load, self.results, self.progress, self.cost, scheduler, cache, self.work)
        if code == kernels.SCHEDULER_FULL:
            self.scheduler = scheduler._replace(arena=grown(scheduler.arena))
        elif code == kernels.CACHE_FULL:
            self.cache.make_room(cache)
        elif code == kernels.MORE:
            took = time.perf_counter() - began
            self.work = max(1, min(8 * self.work, int(self.work * SECONDS_A_CALL / max(took, 1e-6))))
        return bool(code != kernels.FINISHED_ALL)

    def arrived(self) -> int:
        """Return how many requests have arrived since the last call."""
        before, self.reported = self.reported, int(self.progress.whole[kernels.ARRIVED])
        return self.reported - before

    def outcome(self, wall_seconds: float) -> Simulation:
        """Return the result, in arrays of its own."""
        whole, real, results = self.progress.whole, self.progress.real, self.results
        return Simulation(
            arrivals=self.load.arrivals,
            started=results.times[:, kernels.STARTED].copy(),
            first_token=results.times[:, kernels.FIRST].copy(),
            finished=results.times[:, kernels.FINISHED].copy(),
            refused=~self.load.accepted,
            output_lengths=self.load.outputs,
            cached_tokens=results.counts[:, kernels.CACHED].copy(),
            preemptions=results.counts[:, kernels.PREEMPTED].copy(),
            timeline=results.samples[: whole[kernels.SAMPLES]].copy(),
            slots=self.replica.slots,
            simulated_seconds=float(real[kernels.NOW]),
            wall_seconds=wall_seconds,
            steps=int(whole[kernels.STEPS]),
            busy_seconds=float(real[kernels.BUSY]),
            running_seconds=float(real[kernels.OCCUPIED]),
            prefill_tokens=int(whole[kernels.PREFILLED]),
            decode_tokens=int(whole[kernels.DECODED]),
        )


def _scheduler(policy: str, aging: float, weights: Mapping[int, float]) -> layout.Arrays:
    """Return the arrays of a scheduler in which waiting makes no request overdue, so that the policy decides.

    Its prompts are the trace's, in an array of the caller's.
    """
    arena = layout.new(16, 0, 0, policies.POLICIES.index(policy), aging, layout.NO_CHUNK, 0, 1)
    for tenant, weight in weights.items() if policy == "wfq" else ():
        while requests.set_weight(arena, tenant, weight) == requests.FULL:
            arena = grown(arena)
    return layout.Arrays(arena, layout.new_ledger(1, 2**62, math.inf, 0.0))


def _entries(trace: Trace) -> np.ndarray:
    """Return the entries of the KV cache that each request holds at its end, int64 (n,).

    Its last token is never computed.
    """
    return trace.input_lengths + np.maximum(trace.output_lengths - 1, 0)


class _Labels(NamedTuple):
    """What is known of requests beside the trace."""

    deadlines: np.ndarray  # float64 (n,), seconds after arrival, inf where there is none
    priorities: np.ndarray  # float64 (n,), whole numbers
    tenants: np.ndarray  # int64 (n,)
    weights: Mapping[int, float]  # of tenants

    @classmethod
    def of(cls, trace: Trace, slo_ms: Any, priorities: Any, tenants: Any, weights: Any) -> "_Labels":
        """Return the labels that the arguments of `simulate` give."""
        n = len(trace)
        if np.ndim(slo_ms) == 0:
            slo_ms = np.full(n, np.inf if slo_ms is None else arguments.real("slo_ms", slo_ms, 0.0))
        given = {
            "slo_ms": arguments.reals("slo_ms", slo_ms, 0.0),
            "priorities": np.zeros(n)
            if priorities is None
            else arguments.integers("priorities", priorities, -(2**53), 2**53),
            "tenants": np.zeros(n, np.int64) if tenants is None else arguments.integers("tenants", tenants),
        }
        arguments.same_length(trace=trace.arrivals, **given)
        if weights is not None and not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a mapping from tenants to weights, got {weights!r}")
        checked = {
            arguments.integer("weights", tenant): arguments.real("weights", weight, 1e-9, 1e9)
            for tenant, weight in (weights or {}).items()
        }
        return cls(given["slo_ms"] / 1000, given["priorities"].astype(np.float64), given["tenants"], checked)


def _admitted(trace: Trace, rate: float, labels: _Labels, admission: AdmissionController | None) -> np.ndarray:
    """Return which requests a copy of an admission controller admits, bool (n,), if the first comes now."""
    if admission is None:
        return np.ones(len(trace), np.bool_)
    if not isinstance(admission, AdmissionController):
        raise TypeError(f"admission must be an AdmissionController, got {admission!r}")
    tokens = trace.input_lengths + trace.output_lengths
    return admission.under(lambda: 0.0).should_admit_many(trace.arrivals / rate, tokens, labels.tenants)
