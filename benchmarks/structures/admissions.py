"""Admission beside its peers: a token bucket and a sliding window in a dict, limits and aiolimiter."""

import asyncio
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from llmds import AdmissionController

from .. import harness

WINDOW = 10.0
# For one tenant; for all of them together there is no limit, so that what a request meets is its tenant's.
QPS, TOKEN_RATE = 2.0, 1_000.0


class TokenBuckets:
    """A dict from key to [requests, tokens, when]: two token buckets, refilled as time passes."""

    def __init__(self) -> None:
        self.buckets: dict[int, list[float]] = {}

    def admit(self, now: float, tokens: int, key: int) -> bool:
        """Return whether a request is admitted, and count it then."""
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = self.buckets[key] = [QPS * WINDOW, TOKEN_RATE * WINDOW, now]
        passed = now - bucket[2]
        requests = min(bucket[0] + passed * QPS, QPS * WINDOW)
        held = min(bucket[1] + passed * TOKEN_RATE, TOKEN_RATE * WINDOW)
        bucket[2] = now
        if requests < 1 or held < tokens:
            bucket[0], bucket[1] = requests, held
            return False
        bucket[0], bucket[1] = requests - 1, held - tokens
        return True


class SlidingWindows:
    """A dict from key to a deque of (when, tokens) and the sum of the tokens: what AdmissionController decides."""

    def __init__(self) -> None:
        self.windows: dict[int, tuple[deque, list[int]]] = {}

    def admit(self, now: float, tokens: int, key: int) -> bool:
        """Return whether a request is admitted, and count it then."""
        window = self.windows.get(key)
        if window is None:
            window = self.windows[key] = deque(), [0]
        entries, total = window
        while entries and entries[0][0] + WINDOW <= now:
            total[0] -= entries.popleft()[1]
        if len(entries) + 1 > QPS * WINDOW or total[0] + tokens > TOKEN_RATE * WINDOW:
            return False
        entries.append((now, tokens))
        total[0] += tokens
        return True


def race(contest: harness.Contest, n: int, tenants: int, seed: int, rounds: int) -> None:
    """Time n requests of Poisson arrivals and log-normal sizes, two a second a tenant on average, of one and many."""
    for count in dict.fromkeys((1, tenants)):
        rng = np.random.default_rng(seed)
        times = np.cumsum(rng.exponential(1 / (QPS * count), n))
        tokens = np.minimum(rng.lognormal(6.0, 1.0, n), 8_000).astype(np.int64)
        keys = rng.integers(0, count, n)
        _race(contest, times, tokens, keys, "1 key" if count == 1 else f"{count} tenants", rounds)


def _race(
    contest: harness.Contest, times: np.ndarray, tokens: np.ndarray, keys: np.ndarray, task: str, rounds: int
) -> None:
    time_list, token_list, key_list = times.tolist(), tokens.tolist(), keys.tolist()
    named, now, n = int(keys.max()) > 0, [0.0], len(times)

    def ours() -> AdmissionController:
        if named:
            limits = {"tenant_qps_target": QPS, "tenant_token_rate_limit": TOKEN_RATE}
            return AdmissionController(float("inf"), float("inf"), WINDOW, clock=lambda: now[0], **limits)
        return AdmissionController(QPS, TOKEN_RATE, WINDOW, clock=lambda: now[0])

    def single(door: AdmissionController) -> list[bool]:
        call, answers = door.should_admit, []
        for now[0], count, key in zip(time_list, token_list, key_list, strict=True):
            answers.append(call(count, tenant=key)[0] if named else call(count)[0])
        return answers

    def bulk(door: AdmissionController) -> np.ndarray:
        return door.should_admit_many(times, tokens, keys if named else None)

    def by_hand(limiter: Any) -> list[bool]:
        call = limiter.admit
        return [call(*asked) for asked in zip(time_list, token_list, key_list, strict=True)]

    expected = by_hand(SlidingWindows())
    if not expected == single(ours()) == bulk(ours()).tolist():
        raise SystemExit(f"admission, {task}: llmds and a sliding window by hand differ")
    peers: dict[str, Callable[..., Any]] = {"dict token bucket": by_hand, "dict sliding window": by_hand}
    setup: dict[str, Callable[[], Any]] = {"dict token bucket": TokenBuckets, "dict sliding window": SlidingWindows}
    shares = {
        "llmds": {"admitted": float(np.mean(expected))},
        "dict token bucket": {"admitted": float(np.mean(by_hand(TokenBuckets())))},
        "dict sliding window": {"admitted": float(np.mean(expected))},
    }
    for name, contender in (("limits", _limits(key_list)), ("aiolimiter", _aiolimiter(key_list))):
        if contender is None:
            print(f"not installed, left out: {name}")
        else:
            setup[name], peers[name] = contender
    setup["llmds"] = ours
    contest.race(f"admission of {task}, single", {"llmds": single, **peers}, n, rounds, setup, shares)
    contest.race(f"admission of {task}, whole trace", {"llmds": bulk, **peers}, n, rounds, setup, shares)


def _limits(keys: list[int]) -> tuple[Callable[[], Any], Callable[[Any], list[bool]]] | None:
    """Return the moving window of limits in its memory; it uses wall time only, and counts requests, not tokens."""
    try:
        limits = import_module("limits")
    except ImportError:
        return None
    item, names = limits.RateLimitItemPerSecond(int(QPS * WINDOW), int(WINDOW)), [str(key) for key in keys]

    def decide(limiter: Any) -> list[bool]:
        hit = limiter.hit
        return [hit(item, name) for name in names]

    return lambda: limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage()), decide


def _aiolimiter(keys: list[int]) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
    """Return the leaky buckets of aiolimiter, one a key, so large that no request waits; they use wall time only."""
    try:
        limiter = import_module("aiolimiter").AsyncLimiter
    except ImportError:
        return None

    def decide(_: None) -> None:
        async def acquire_all() -> None:
            buckets = [limiter(len(keys) + 1, WINDOW) for _ in range(max(keys) + 1)]
            for key in keys:
                await buckets[key].acquire()

        asyncio.run(acquire_all())

    return lambda: None, decide
