"""How many requests, and how many tokens, are let in over a sliding window of time."""

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments
from .base import files as storage
from .base.arena import chunks
from .base.clocked import Clock, Clocked
from .base.fast_calls import Direct
from .kernels import clock as clock_kernels
from .kernels import table
from .kernels.admissions import check as admission_check
from .kernels.admissions import window as kernels

if TYPE_CHECKING:
    from typing_extensions import Self

_ANSWERS = (
    (True, "admitted"), (False, "qps"), (False, "tokens"), (False, "tenant_qps"), (False, "tenant_tokens"),
)  # fmt: skip
_MOST_TOKENS = kernels.MOST_TOKENS

_direct = Direct(kernels)


class AdmissionController(Clocked):
    """Lets a request in while fewer than qps_target x window_size requests, and with it no more than
    token_rate_limit x window_size tokens, lie in the last `window_size` seconds.

    The window slides exactly (a log of admissions, no buckets): one that came at second t counts while the
    clock shows less than t + window_size. Both limits are per second and may be fractions or infinite; a window
    holds the whole numbers up to the products: bursts inside it are allowed, with less than one request a window
    nobody is admitted, and a request larger than a window's tokens never is.

    An admission reserves the request's estimated tokens; `record_request` puts the true ones in
    their place, which may exceed the limit, and later requests wait for that. Tokens of one request lie in
    0..2**31-1.

    A request may belong to a tenant, any int64, whose own requests and tokens in the window are limited besides:
    to `tenant_qps_target` and `tenant_token_rate_limit` a second (no limits by default), or to what `set_limits` has
    set for that one.

    `clock` gives seconds. Where it runs back, time stands still until it has caught up with the
    latest second seen. Memory: 24 bytes a request in the window, and 72 to 80 a tenant who has requests there or limits
    of its own, doubling as needed. All calls are amortised O(1) a request. A single call is atomic under the GIL:
    threads may share a controller.

    >>> now = 0.0
    >>> door = AdmissionController(qps_target=0.2, token_rate_limit=100, window_size=10, clock=lambda: now)
    >>> door.should_admit(600), door.should_admit(600), door.should_admit(300), door.should_admit()
    ((True, 'admitted'), (False, 'tokens'), (True, 'admitted'), (False, 'qps'))
    >>> door.record_request(450)
    >>> door.stats()["current_token_rate"]
    75.0
    >>> now = 10.0
    >>> door.should_admit(600)
    (True, 'admitted')
    >>> door.set_limits(7, token_rate_limit=20)
    >>> door.should_admit(300, tenant=7), door.retry_after(300), door.retry_after(300, tenant=7)
    ((False, 'tenant_tokens'), 0.0, inf)
    """

    _schema: ClassVar[storage.Schema] = {"arena": (np.int64, 1), "tenants": (np.int64, 1)}
    _version: ClassVar[int] = 2
    _columns = kernels.WIDTH
    _resized = staticmethod(kernels.resized)

    def __init__(
        self,
        qps_target: float = 10.0,
        token_rate_limit: float = 10000,
        window_size: float = 10,
        *,
        tenant_qps_target: float = math.inf,
        tenant_token_rate_limit: float = math.inf,
        clock: Clock = time.monotonic,
    ):
        qps = arguments.real("qps_target", qps_target, 0.0)
        rate = arguments.real("token_rate_limit", token_rate_limit, 0.0)
        window = arguments.real("window_size", window_size, sys.float_info.min, sys.float_info.max)
        their_qps = arguments.real("tenant_qps_target", tenant_qps_target, 0.0)
        their_rate = arguments.real("tenant_token_rate_limit", tenant_token_rate_limit, 0.0)
        super().__init__(kernels.new(16, qps, rate, window, _whole(qps, window), _whole(rate, window)), clock)
        held = _whole(their_qps, window), _whole(their_rate, window)
        self._tenants = kernels.new_tenants(0, their_qps, their_rate, *held)

    def should_admit(self, estimated_tokens: int = 0, *, tenant: int | None = None) -> tuple[bool, str]:
        """(True, "admitted"), and the request is counted; or (False, reason): "qps" or "tokens", or for a `tenant`
        "tenant_qps" or "tenant_tokens", the first limit that it would break in this order. Amortised O(1).

        An admission reserves `estimated_tokens`; its ticket is `last_ticket`.
        """
        tokens, now = _tokens("estimated_tokens", estimated_tokens), self._now()
        who, named = (0, 0) if tenant is None else (arguments.integer("tenant", tenant), 1)
        while True:
            arena, tenants = self._arena, self._tenants
            answer = _direct.admit(arena, tenants, now, tokens, who, named)
            if answer < kernels.FULL:
                return _ANSWERS[answer]
            self._make_more_room(arena, tenants, answer)

    def should_admit_many(self, times: ArrayLike, tokens: ArrayLike, tenants: ArrayLike | None = None) -> np.ndarray:
        """As `should_admit` at times (n,), seconds of the clock, with estimated tokens int64 (n,) and, if not None,
        tenants int64 (n,): bool (n,). O(n).

        Tickets of those admitted are consecutive; the last is `last_ticket`. ValueError, with nothing
        done, if a time is less than the one before it or than the latest this controller has seen.
        An interrupted call has decided on a prefix.
        """
        times = arguments.reals("times", times, -sys.float_info.max, sys.float_info.max)
        tokens = arguments.integers("tokens", tokens, 0, _MOST_TOKENS)
        arguments.same_length(times=times, tokens=tokens)
        by = np.empty(0, np.int64)
        if tenants is not None:
            by = arguments.integers("tenants", tenants)
            arguments.same_length(times=times, tenants=by)
        admitted = np.zeros(len(times), np.bool_)
        with self._lock:
            if len(times):
                latest = self._latest()
                if times[0] < latest or (times[1:] < times[:-1]).any():
                    raise ValueError(f"times must never decrease, nor begin before {latest}, the latest time seen")
            for part in chunks(len(times)):
                start = part.start
                while start < part.stop:
                    rest = slice(start, part.stop)
                    arena, theirs = self._arena, self._tenants
                    done, answer = kernels.admit_many(
                        arena, theirs, times[rest], tokens[rest], by[rest], admitted[rest]
                    )
                    start += int(done)
                    if start < part.stop:
                        self._make_more_room(arena, theirs, answer)
        return admitted

    def retry_after(self, estimated_tokens: int = 0, *, tenant: int | None = None) -> float:
        """Seconds until `should_admit` with these arguments would say yes, if nothing else comes meanwhile: what an
        HTTP server sends as Retry-After. 0.0 if it would now, inf if it never will.

        Nothing is counted. O(requests that must leave the window first).
        """
        tokens, now = _tokens("estimated_tokens", estimated_tokens), self._now()
        who, named = (0, 0) if tenant is None else (arguments.integer("tenant", tenant), 1)
        with self._lock:
            return _direct.retry_after(self._arena, self._tenants, now, tokens, who, named)

    def set_limits(self, tenant: int, qps_target: float | None = None, token_rate_limit: float | None = None) -> None:
        """Limit the requests and tokens a second of one tenant (int64), from the next request on. Expected O(1).

        None is what holds for any tenant (`tenant_qps_target`, `tenant_token_rate_limit`). What the tenant has in the
        window stays there.
        """
        tenant = arguments.integer("tenant", tenant)
        qps, most_requests = self._limit("qps_target", qps_target)
        rate, most_tokens = self._limit("token_rate_limit", token_rate_limit)
        while True:
            tenants = self._tenants
            if not (answer := kernels.set_limits(tenants, tenant, qps, rate, most_requests, most_tokens)):
                return
            self._make_more_room(self._arena, tenants, answer)

    def tenant_stats(self, tenant: int) -> dict[str, float]:
        """`current_qps`, `target_qps`, `current_token_rate` and `token_rate_limit` of one tenant. Amortised O(1)."""
        tenant, window = arguments.integer("tenant", tenant), self._real(kernels.WINDOW)
        with self._lock:
            requests, tokens, qps, rate = kernels.tenant_usage(self._arena, self._tenants, self._now(), tenant)
        return {
            "current_qps": requests / window,
            "target_qps": qps,
            "current_token_rate": tokens / window,
            "token_rate_limit": rate,
        }

    def record_request(self, tokens: int, *, ticket: int | None = None) -> None:
        """Settle an admission: `tokens` replace its estimate, at the time it was admitted. Amortised O(1).

        Without `ticket` it is the oldest admission in the window that is not settled; where there is none, a
        request with these tokens, of no tenant, is counted now (whatever the limits; it is no admission). An admission
        that has left the window needs no settling: nothing happens then. Settling again replaces again.
        KeyError if `ticket` was never given out.
        """
        tokens, now = _tokens("tokens", tokens), self._now()
        number = -1 if ticket is None else arguments.integer("ticket", ticket, 0)
        while True:
            arena, tenants = self._arena, self._tenants
            code = _direct.record(arena, tenants, now, tokens, number)
            if code == kernels.ABSENT:
                raise KeyError(ticket)
            if code == kernels.ADMITTED:
                return
            self._make_more_room(arena, tenants, code)

    @property
    def last_ticket(self) -> int | None:
        """The ticket of the newest admission, for `record_request`; None before the first. O(1)."""
        ticket = int(self._arena[kernels.LAST_TICKET])
        return None if ticket < 0 else ticket

    def reset(self) -> None:
        """Empty the window and zero the counters; capacity and limits stay, tickets from before are as those that left.

        O(tenants).
        """
        with self._lock:
            kernels.reset(self._arena, self._tenants)

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used. O(n)."""
        with self._lock:
            super().shrink_to_fit()
            self._tenants = table.resized(self._tenants, int(self._tenants[table.TOP]))

    def stats(self) -> dict[str, Any]:
        """`current_qps` and `current_token_rate` (in the window, per second), `target_qps`, `token_rate_limit`,
        `admitted_requests`, `rejected_requests` (since the start), `rejection_rate` (0 before the first)."""
        with self._lock:
            kernels.expire(self._arena, self._tenants, self._now())
            head = self._arena[: kernels.HEAD].copy()
        reals = head.view(np.float64)
        window, admitted, rejected = (
            float(reals[kernels.WINDOW]),
            int(head[kernels.ACCEPTED]),
            int(head[kernels.REJECTED]),
        )
        return {
            "current_qps": int(head[table.COUNT]) / window,
            "target_qps": float(reals[kernels.QPS]),
            "current_token_rate": int(head[kernels.IN_WINDOW]) / window,
            "token_rate_limit": float(reals[kernels.TOKEN_RATE]),
            "admitted_requests": admitted,
            "rejected_requests": rejected,
            "rejection_rate": rejected / max(admitted + rejected, 1),
        }

    @classmethod
    def load(cls, path: str | os.PathLike, *, clock: Clock = time.monotonic) -> "Self":
        """Read what `save` wrote; the window goes on under `clock` where it stopped.

        ValueError if the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path, clock=clock)

    def __len__(self) -> int:
        """Requests in the window at the present time. Amortised O(1)."""
        with self._lock:
            kernels.expire(self._arena, self._tenants, self._now())
            return super().__len__()

    def __repr__(self) -> str:
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        return f"AdmissionController(qps_target={qps:g}, token_rate_limit={rate:g}, window_size={window:g})"

    def _make_more_room(self, arena: np.ndarray, tenants: np.ndarray, answer: int) -> None:
        """Have another window (FULL) or other tenants (CROWDED) than these, with room for one more."""
        if answer == kernels.FULL:
            return self._make_room(arena)
        with self._lock:
            if self._tenants is tenants:
                self._tenants = table.resized(tenants, max(2 * int(tenants[table.CAPACITY]), 16))
        return None

    def _limit(self, name: str, rate: float | None) -> tuple[float, int]:
        """The rate, checked, and what a window holds of it."""
        if rate is None:
            return 0.0, kernels.UNSET
        rate = arguments.real(name, rate, 0.0)
        return rate, _whole(rate, self._real(kernels.WINDOW))

    def _real(self, slot: int) -> float:
        return float(self._arena[slot : slot + 1].view(np.float64)[0])

    def _fault(self) -> str | None:
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        fault = int(admission_check.first_fault(self._arena, self._tenants))
        if fault >= 0:
            return f"request {fault} of the window is out of order, or its tokens are impossible"
        if fault == -3:
            return "its tenants do not match the requests in the window"
        limits = self._arena[[kernels.MAX_REQUESTS, kernels.MAX_TOKENS]].tolist()
        if fault != -1 or not (qps >= 0 and rate >= 0) or limits != [_whole(qps, window), _whole(rate, window)]:
            return "its counts and limits do not add up"
        their_head, rows, _ = table.parts(self._tenants)
        any_rates, any_held = their_head[_ANY_RATES].view(np.float64), their_head[_ANY_HELD]
        live = rows[rows[:, table.BUCKET] >= 0]
        rates, held = live[:, _OWN_RATES].view(np.float64), live[:, _OWN_HELD]
        pairs = [*zip(any_rates.tolist(), any_held.tolist(), strict=True)]
        own = held != kernels.UNSET
        pairs += zip(rates[own].tolist(), held[own].tolist(), strict=True)
        if not all(rate >= 0 and _whole(rate, window) == most for rate, most in pairs):
            return "the limits of its tenants do not add up"
        return None

    @classmethod
    def _restored(cls, arrays: storage.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        if arrays.keys() == {"arena"}:  # as in all files of version 1, which knew no tenants
            arrays = {"arena": _widened(arrays["arena"]), "tenants": _no_tenants()}
        return super()._restored(arrays, where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, *, clock: Clock, **given: Any) -> "Self":  # type: ignore[override]
        arena, tenants = arrays["arena"], arrays["tenants"]
        storage.expect(bool(admission_check.well_formed(arena)), "its window does not add up")
        whole = bool(table.well_formed(tenants, kernels.TENANT_WIDTH))
        storage.expect(whole, "its tenants do not add up")
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, clock)
        self._tenants = tenants
        clock_kernels.resume(arena, self._now())
        return self

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            arena, tenants = kernels.snapshot(self._arena, self._tenants, self._now())
        return {"arena": arena, "tenants": tenants}

    def __getstate__(self) -> dict[str, Any]:
        arrays = self._to_arrays()
        return {**super().__getstate__(), "_arena": arrays["arena"], "_tenants": arrays["tenants"]}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._arena, self._tenants


_ANY_RATES, _ANY_HELD = [kernels.ANY_QPS, kernels.ANY_RATE], [kernels.ANY_REQUESTS, kernels.ANY_TOKENS]
_OWN_RATES, _OWN_HELD = [kernels.OWN_QPS, kernels.OWN_RATE], [kernels.OWN_REQUESTS, kernels.OWN_TOKENS]


def _no_tenants() -> np.ndarray:
    return kernels.new_tenants(0, math.inf, math.inf, _whole(math.inf, 1.0), _whole(math.inf, 1.0))


def _widened(arena: np.ndarray) -> np.ndarray:
    """The window of a file of version 1, whose entries had two columns."""
    capacity = (len(arena) - kernels.HEAD) // 2 if arena.ndim == 1 else -1
    fits = arena.dtype == np.int64 and capacity >= 0 and len(arena) == kernels.HEAD + 2 * capacity
    storage.expect(bool(fits and arena[table.COLUMNS] == 2), "its window does not add up")
    ring = np.full((capacity, kernels.WIDTH), kernels.NOBODY)
    ring[:, : kernels.TENANT] = arena[kernels.HEAD :].reshape(capacity, 2)
    arena[table.COLUMNS] = kernels.WIDTH
    return np.concatenate([arena[: kernels.HEAD], ring.ravel()])


def _tokens(name: str, tokens: Any) -> int:
    if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS:  # the common case, without a call
        return tokens
    return arguments.integer(name, tokens, 0, _MOST_TOKENS)


def _whole(rate: float, window: float) -> int:
    """The whole number that `rate` a second makes in a window, at most 2**62.

    0.29 x 100 is 28.999999999999996 in floating point: what misses a whole number by rounding alone is that number.
    """
    product = rate * window
    return min(math.floor(product * (1 + 1e-15 * 4)), 2**62) if product < 2**62 else 2**62
