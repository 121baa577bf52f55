"""A replica of a serving engine on a trace: continuous batching, iteration by iteration, in simulated time."""

import math
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
from ..kernels.scheduler import layout as scheduling_layout
from ..kernels.simulator import steps as kernels
from ..kv_cache.cache import KVCache
from ..kv_cache.state import POLICIES as EVICTIONS
from ..scheduler.scheduler import Scheduler
from ..traces.trace import Trace
from .cost_model import CostModel

_WORK = 1 << 10  # of the first kernel call, when nobody knows yet how long it takes
_SAMPLES = 1024


@dataclass(frozen=True, eq=False)
class Simulation:
    """What came of a simulation; times in seconds of simulated time, NaN where something never happened.

    arrivals: float64 (n,). started, first_token, finished: float64 (n,), when a request was first given pages, had its
    first token, had its last. refused: bool (n,), by admission or because its tokens never fit in the pages.
    output_lengths, cached_tokens, preemptions: int64 (n,): tokens asked for, prompt tokens found in the KV cache (again
    each time it began anew), how often it had to begin anew.
    timeline: float64 (m, 5): time, sequences running, requests waiting, pages referenced, tokens computed so far, each
    as a step begins, at most 1,024 times, evenly spread.
    slots of the replica; simulated_seconds; wall_seconds it took to simulate these (in a sweep, with other threads
    beside it); steps of the engine; busy_seconds, in which it computed; running_seconds, the sum over time of sequences
    running; prefill_tokens and decode_tokens computed. The last token of a prompt yields the first of the answer, so
    decode_tokens counts the others.
    """

    arrivals: np.ndarray
    started: np.ndarray
    first_token: np.ndarray
    finished: np.ndarray
    refused: np.ndarray
    output_lengths: np.ndarray
    cached_tokens: np.ndarray
    preemptions: np.ndarray
    timeline: np.ndarray
    slots: int
    simulated_seconds: float
    wall_seconds: float
    steps: int
    busy_seconds: float
    running_seconds: float
    prefill_tokens: int
    decode_tokens: int

    @property
    def ttft(self) -> np.ndarray:
        """Time to first token, float64 (n,)."""
        return self.first_token - self.arrivals

    @property
    def tpot(self) -> np.ndarray:
        """Time per output token after the first, float64 (n,); NaN where there is no more than one."""
        more = np.where(self.output_lengths > 1, self.output_lengths - 1.0, np.nan)
        return (self.finished - self.first_token) / more

    @property
    def latency(self) -> np.ndarray:
        """Time from arrival to the last token, float64 (n,)."""
        return self.finished - self.arrivals

    def meets(
        self, *, ttft_ms: float | None = None, tpot_ms: float | None = None, latency_ms: float | None = None
    ) -> np.ndarray:
        """Which requests finished within all the limits given, bool (n,). One token alone meets any `tpot_ms`."""
        met = np.isfinite(self.finished)
        if ttft_ms is not None:
            met &= self.ttft <= arguments.real("ttft_ms", ttft_ms, 0.0) / 1000
        if tpot_ms is not None:
            met &= ~(self.tpot > arguments.real("tpot_ms", tpot_ms, 0.0) / 1000)
        if latency_ms is not None:
            met &= self.latency <= arguments.real("latency_ms", latency_ms, 0.0) / 1000
        return met

    def goodput(
        self, *, ttft_ms: float | None = None, tpot_ms: float | None = None, latency_ms: float | None = None
    ) -> float:
        """Requests a second that finished within all the limits given (DistServe, Zhong et al. 2024)."""
        met = int(self.meets(ttft_ms=ttft_ms, tpot_ms=tpot_ms, latency_ms=latency_ms).sum())
        return met / self.simulated_seconds if self.simulated_seconds else 0.0

    def summary(self) -> dict[str, float]:
        """Counts, rates, and percentiles. O(n).

        `simulated_seconds`, `wall_seconds`, `requests`, how many `finished` and were `refused`, `steps`;
        `requests_per_second` finished, `tokens_per_second` of their answers; `utilisation`, the share of time in which
        the engine computed; `slots_used`, the mean share of slots in use while it did; `prefill_tokens`,
        `decode_tokens`, `cached_tokens`, `preemptions`; and `mean`, `p50`, `p90`, `p99` of `ttft`, `tpot` and `latency`
        in milliseconds, as `ttft_mean_ms` and so on, NaN where there is none.
        """
        done, seconds = np.isfinite(self.finished), self.simulated_seconds
        answered = int(np.maximum(self.output_lengths[done], 1).sum())
        found: dict[str, float] = {
            "simulated_seconds": seconds,
            "wall_seconds": self.wall_seconds,
            "requests": len(self.arrivals),
            "finished": int(done.sum()),
            "refused": int(self.refused.sum()),
            "steps": self.steps,
            "requests_per_second": float(done.sum()) / seconds if seconds else 0.0,
            "tokens_per_second": answered / seconds if seconds else 0.0,
            "utilisation": self.busy_seconds / seconds if seconds else 0.0,
            "slots_used": self.running_seconds / (self.busy_seconds * self.slots) if self.busy_seconds else 0.0,
            "prefill_tokens": self.prefill_tokens,
            "decode_tokens": self.decode_tokens,
            "cached_tokens": int(self.cached_tokens.sum()),
            "preemptions": int(self.preemptions.sum()),
        }
        for name, values in (("ttft", self.ttft), ("tpot", self.tpot), ("latency", self.latency)):
            known = values[np.isfinite(values)] * 1000
            some = known if len(known) else np.full(1, np.nan)
            found[f"{name}_mean_ms"] = float(some.mean())
            for percent, value in zip((50, 90, 99), np.percentile(some, (50, 90, 99)), strict=True):
                found[f"{name}_p{percent}_ms"] = float(value)
        return found

    def __repr__(self) -> str:
        done = int(np.isfinite(self.finished).sum())
        return f"Simulation({done} of {len(self.arrivals)} requests finished in {self.simulated_seconds:.0f} s)"


@dataclass(frozen=True)
class Replica:
    """One replica of an engine, as `simulate` and `sweep` take it.

    cost: seconds of a step. slots: sequences that run at the same time. pages, page_size: the KV cache; None for
    page_size is the trace's block size where its prompts have block ids, else 16; None for pages has room for all slots
    with the trace's longest request. eviction: as of KVCache. policy, aging: as of Scheduler, which knows of a
    request its prompt's length. max_batch_tokens: prompt tokens and decoded ones of a step. prefill_chunk: prompt
    tokens of one request in a step; None: a prompt is computed whole, beside others if it fits in the step, else
    without another. rate: how many times as fast as in the trace requests arrive.

    TypeError or ValueError name what is wrong.
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
        if not isinstance(self.cost, CostModel):
            raise TypeError(f"cost must be a CostModel, got {self.cost!r}")
        checked = {
            "slots": arguments.integer("slots", self.slots, 1, 1 << 14),
            "max_batch_tokens": arguments.integer("max_batch_tokens", self.max_batch_tokens, 1, 2**62),
            "policy": _scheduler(arguments.text("policy", self.policy), self.aging).policy,
            "aging": float(self.aging),
            "rate": arguments.real("rate", self.rate, 1e-9, 1e9),
            "eviction": arguments.one_of("eviction", self.eviction, EVICTIONS),
        }
        for name in ("pages", "page_size", "prefill_chunk"):
            value = getattr(self, name)
            checked[name] = None if value is None else arguments.integer(name, value, 1, 2**31 - 1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def page_size_for(self, trace: Trace) -> int:
        """Tokens a page: those of the trace's blocks, where it has any. ValueError if page_size says otherwise."""
        if self.page_size is None:
            return trace.block_size if len(trace.block_ids) else 16
        if len(trace.block_ids) and self.page_size != trace.block_size:
            raise ValueError(f"page_size must be {trace.block_size}, as the trace's blocks are, got {self.page_size}")
        return self.page_size

    def pages_for(self, trace: Trace) -> int:
        """Pages of the KV cache. O(n) where `pages` is None."""
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
    """Serve a trace with one replica, and tell what came of each request.

    The requests arrive when the trace says, wait in a `Scheduler`, hold pages of a `KVCache` from their start to
    their end, and are computed in steps that take as long as `replica.cost` says. In a step, every sequence whose
    prompt is done decodes a token; prompts under way go on; and who waits is started, in the policy's order, up to the
    first for whom there is no slot, page or token left. A prompt's last token yields the first of the answer, so an
    answer of no tokens takes as long as one of one.

    Prompts with block ids share the pages of their whole blocks, with whoever runs and with what is still cached; they
    are found from the start of the first of them on, even while its chunks are being computed. At least one token of
    a prompt is computed, as in an engine. Where pages run out in decoding, the request that was started last waits
    anew, in its old place, and all that it had is computed again. A request that would not fit into the pages
    alone is refused.

    slo_ms: deadlines, a number or float64 (n,) with inf for none, milliseconds after arrival; "edf" alone knows them.
    priorities: int64 (n,), for "priority". tenants: int64 (n,), for "wfq" and for admission; weights: of tenants, for
    "wfq", which counts a tenant's prompts when they start and its answers as they are made (Sheng et al. 2024).
    admission: refuses requests when they arrive, by their prompt's and answer's tokens; it starts as it is and is
    not changed. The same arguments give the same result, bit for bit (but for `wall_seconds`). O(steps * sequences
    running), less where the same sequences decode for long; tens of bytes for each request and page.

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


@dataclass(frozen=True, eq=False)
class Sweep:
    """The results of many configurations: `grid` as given, `replicas` and `results` in the order of its product."""

    grid: dict[str, list[Any]]
    replicas: list[Replica]
    results: list[Simulation]

    def table(self) -> dict[str, np.ndarray]:
        """One column for each key of the grid and of `Simulation.summary`, one row a configuration.

        A cost model is told by its place in the grid, int64. O(all requests).
        """
        columns = {
            name: np.array([values.index(getattr(each, name)) for each in self.replicas], np.int64)
            if name == "cost"
            else np.array([getattr(each, name) for each in self.replicas])
            for name, values in self.grid.items()
        }
        rows = [result.summary() for result in self.results]
        return {**columns, **{name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}}

    def goodput(
        self, *, ttft_ms: float | None = None, tpot_ms: float | None = None, latency_ms: float | None = None
    ) -> np.ndarray:
        """`Simulation.goodput` of each configuration, float64 (m,). O(all requests)."""
        limits = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "latency_ms": latency_ms}
        return np.array([result.goodput(**limits) for result in self.results], np.float64)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        grid = " x ".join(f"{len(values)} {name}" for name, values in self.grid.items())
        return f"Sweep({len(self)} configurations{f': {grid}' if grid else ''})"


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
    """`simulate` every combination of `grid`, a sequence of values for each of some fields of Replica, on all cores.

    What the grid does not name is as in `replica`. The results do not depend on the number of `threads` (but for
    `wall_seconds`). Nothing is simulated if a combination is impossible: TypeError or ValueError. Memory: about 70
    bytes for each request and 40 kB for each configuration.

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
        self.trace, self.replica, self.labels, n = trace, replica, labels, len(trace)
        self.arrivals = trace.arrivals / replica.rate
        self.slos = labels.deadlines if replica.policy == "edf" else np.full(n, np.inf)
        pages, page_size = replica.pages_for(trace), replica.page_size_for(trace)
        self.accepted = admitted & (-(-_entries(trace) // page_size) <= pages)
        self.whole, self.real = np.zeros(kernels.WHOLE, np.int64), np.zeros(kernels.REAL)
        self.whole[kernels.SLOTS], self.whole[kernels.BUDGET] = replica.slots, replica.max_batch_tokens
        self.whole[kernels.CHUNK] = replica.prefill_chunk or 0
        self.real[kernels.INTERVAL] = max(float(self.arrivals[-1]) if n else 0.0, 1e-3) / (_SAMPLES // 2)
        self.times, self.counts = np.full((n, kernels.TIMES), np.nan), np.zeros((n, kernels.COUNTS), np.int64)
        self.samples = np.zeros((_SAMPLES, kernels.SAMPLE))
        self.running = np.zeros((replica.slots, kernels.RUN), np.int64)
        self.order, self.tickets = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.cache = KVCache(page_size, pages, store=False, dtype=np.float32, eviction=replica.eviction)
        self.scheduler = _scheduler(replica.policy, replica.aging)
        if replica.policy == "wfq":
            for tenant, weight in labels.weights.items():
                self.scheduler.set_weight(tenant, weight)
        self.cost, self.work, self.told = replica.cost.coefficients, _WORK, 0

    def go_on(self) -> bool:
        """Simulate for some hundredths of a second; False when all is done."""
        trace, arrays, arena = self.trace, self.cache.arrays, self.scheduler._arena
        began = time.perf_counter()
        code = kernels.run(
            self.whole, self.real, self.arrivals, trace.input_lengths, trace.output_lengths, self.accepted,
            self.slos, self.labels.priorities, self.labels.tenants, trace.block_ids.view(np.uint8), trace.indptr,
            self.cost, self.times, self.counts, self.samples, self.running, self.order, self.tickets, arena,
            self.scheduler._ledger, *arrays, self.work,
        )  # fmt: skip
        if code == kernels.SCHEDULER_FULL:
            self.scheduler._make_room(arena)
        elif code == kernels.CACHE_FULL:
            self.cache.make_room(arrays)
        elif code == kernels.MORE:
            took = time.perf_counter() - began
            self.work = max(1, min(8 * self.work, int(self.work * SECONDS_A_CALL / max(took, 1e-6))))
        return bool(code != kernels.FINISHED_ALL)

    def arrived(self) -> int:
        """Requests that came since this was asked last."""
        before, self.told = self.told, int(self.whole[kernels.ARRIVED])
        return self.told - before

    def outcome(self, wall_seconds: float) -> Simulation:
        whole, real = self.whole, self.real
        return Simulation(
            self.arrivals,
            self.times[:, kernels.STARTED].copy(),
            self.times[:, kernels.FIRST].copy(),
            self.times[:, kernels.FINISHED].copy(),
            ~self.accepted,
            self.trace.output_lengths,
            self.counts[:, kernels.CACHED].copy(),
            self.counts[:, kernels.PREEMPTED].copy(),
            self.samples[: whole[kernels.SAMPLES]].copy(),
            self.replica.slots,
            float(real[kernels.NOW]),
            wall_seconds,
            int(whole[kernels.STEPS]),
            float(real[kernels.BUSY]),
            float(real[kernels.OCCUPIED]),
            int(whole[kernels.PREFILLED]),
            int(whole[kernels.DECODED]),
        )


def _scheduler(policy: str, aging: float) -> Scheduler:
    """One in which nobody is overdue by waiting, so that the policy decides; prompts are the trace's."""
    cache = KVCache(1, 1, store=False) if policy == "lpm" else None
    scheduler = Scheduler(max_wait_ms=math.inf, policy=policy, aging=aging, cache=cache, blocks=True, clock=float)
    scheduling_layout.parts(scheduler._arena)[5][scheduling_layout.ID_BYTES] = 0  # they lie in an array of the caller's
    return scheduler


def _entries(trace: Trace) -> np.ndarray:
    """Entries of the KV cache that each request holds at its end, int64 (n,): its last token is never computed."""
    return trace.input_lengths + np.maximum(trace.output_lengths - 1, 0)


class _Labels(NamedTuple):
    """What of requests stands in no trace: deadlines float64 (n,), seconds after arrival, inf where there is none;
    priorities float64, whole numbers, and tenants int64, (n,) each; weights of tenants."""

    deadlines: np.ndarray
    priorities: np.ndarray
    tenants: np.ndarray
    weights: Mapping[int, float]

    @classmethod
    def of(cls, trace: Trace, slo_ms: Any, priorities: Any, tenants: Any, weights: Any) -> "_Labels":
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
    """What a copy of an admission controller says to requests that arrive so much later than now: bool (n,)."""
    if admission is None:
        return np.ones(len(trace), np.bool_)
    if not isinstance(admission, AdmissionController):
        raise TypeError(f"admission must be an AdmissionController, got {admission!r}")
    tokens = trace.input_lengths + trace.output_lengths
    return admission.under(lambda: 0.0).should_admit_many(trace.arrivals / rate, tokens, labels.tenants)
