"""What simulations return: the times of each request, and the tables of a sweep."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import arguments


@dataclass(frozen=True, eq=False)
class Simulation:
    """The result of a simulation; times in seconds of simulated time, NaN where something never happened.

    Attributes
    ----------
    arrivals, started, first_token, finished : ndarray
        float64 (n,): when a request arrived, was first given pages, had its first token, had its last.
    refused : ndarray
        bool (n,), by admission or because its tokens never fit in the pages.
    output_lengths, cached_tokens, preemptions : ndarray
        int64 (n,): tokens asked for, prompt tokens found in the KV cache (again each time it began again), how often it
        had to begin again.
    timeline : ndarray
        float64 (m, 5): time, sequences running, requests waiting, pages referenced, tokens computed so far, each
        as a step begins, at most 1,024 times, evenly spread.
    slots, steps : int
        Slots of the replica, and steps of the engine.
    simulated_seconds, wall_seconds : float
        How long it was, and how long it took to simulate (in a sweep, beside other threads).
    busy_seconds, running_seconds : float
        Time in which the engine computed, and the sum over time of sequences running.
    prefill_tokens, decode_tokens : int
        Tokens computed. The last token of a prompt yields the first of the answer, so decode_tokens counts the others.
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
        """Return which requests finished within all the limits given, bool (n,).

        A request of a single output token meets any `tpot_ms`.
        """
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
        """Return the requests a second that finished within all the limits given (DistServe, Zhong et al. 2024)."""
        met = int(self.meets(ttft_ms=ttft_ms, tpot_ms=tpot_ms, latency_ms=latency_ms).sum())
        return met / self.simulated_seconds if self.simulated_seconds else 0.0

    def summary(self) -> dict[str, float]:
        """Return counts, rates, and percentiles. O(n).

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
        """Return how many requests finished, and in what time."""
        done = int(np.isfinite(self.finished).sum())
        return f"Simulation({done} of {len(self.arrivals)} requests finished in {self.simulated_seconds:.0f} s)"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The results of many configurations.

    Attributes
    ----------
    grid : dict
        The values of each field of Replica that varies, as given.
    replicas, results : list
        The configurations and their simulations, in the order of the grid's product.
    """

    grid: dict[str, list[Any]]
    replicas: list[Any]
    results: list[Simulation]

    def table(self) -> dict[str, np.ndarray]:
        """Return one column for each key of the grid and of `Simulation.summary`, one row a configuration.

        A cost model is given by its place in the grid, int64. O(all requests).
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
        """Return `Simulation.goodput` of each configuration, float64 (m,). O(all requests)."""
        limits = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "latency_ms": latency_ms}
        return np.array([result.goodput(**limits) for result in self.results], np.float64)

    def __len__(self) -> int:
        """Return the number of configurations."""
        return len(self.results)

    def __repr__(self) -> str:
        """Return the number of configurations, and the sizes of the grid."""
        grid = " x ".join(f"{len(values)} {name}" for name, values in self.grid.items())
        return f"Sweep({len(self)} configurations{f': {grid}' if grid else ''})"
