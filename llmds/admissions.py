"""Admission control: limits on requests and tokens per second over a sliding window."""

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments, files
from .base.arena import chunks
from .base.clocked import Clock, Clocked
from .base.fast_calls import Direct
from .kernels import clock as clock_kernels
from .kernels import table
from .kernels.admissions import check
from .kernels.admissions import window as kernels

if TYPE_CHECKING:
    from typing_extensions import Self

_ANSWERS = {
    kernels.ADMITTED: (True, "admitted"),
    kernels.TOO_MANY_REQUESTS: (False, "qps"),
    kernels.TOO_MANY_TOKENS: (False, "tokens"),
    kernels.TENANT_REQUESTS: (False, "tenant_qps"),
    kernels.TENANT_TOKENS: (False, "tenant_tokens"),
}
_MOST_TOKENS = kernels.MOST_TOKENS

_direct = Direct(kernels)


class AdmissionController(Clocked):
    """Limits on the requests and the tokens in the last `window_size` seconds.

    A request is admitted while the window holds fewer than qps_target * window_size requests and, with it, at most
    token_rate_limit * window_size tokens. Both limits are per second and may be fractions or infinite; a window holds
    the whole numbers up to the products. Bursts inside a window are allowed; with less than one request per window
    nothing is admitted, and a request larger than a window's tokens never is.

    An admission reserves the estimated tokens of the request; `record_request` replaces them by the true ones,
    which may exceed the limit, and later requests wait for that. Tokens of one request lie in 0..2**31-1.

    A request may belong to a tenant, whose own requests and tokens in the window are limited besides.

    Parameters
    ----------
    qps_target
        Requests per second.
    token_rate_limit
        Tokens per second.
    window_size
        Length of the window in seconds.
    tenant_qps_target, tenant_token_rate_limit
        The same limits for each tenant, unless `set_limits` has set others for it.
    clock
        Function that returns the time in seconds. Where it runs backwards, time does not advance until it
        has reached the latest second seen again.

    Notes
    -----
    The window slides exactly (a log of admissions, no buckets): a request admitted at second t counts while the
    clock shows less than t + window_size. All calls are amortised O(1) per request. Memory: 24 bytes for a request in
    the window, and 72 to 80 for a tenant with requests there or limits of its own; the capacity doubles as needed. A
    single call is atomic under the GIL: threads may share a controller.

    Examples
    --------
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

    _schema: ClassVar[files.Schema] = {"arena": (np.int64, 1), "tenants": (np.int64, 1)}
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

    @property
    def arrays(self) -> kernels.Arrays:
        """The window and its tenants, as `Arrays(arena, tenants)`: int64 (n,) and int64 (m,).

        `llmds.kernels.admissions.window` describes their layout. The arrays are the controller's own and writable, for
        kernels and your own `@njit` functions; times there are seconds of the clock. Each is replaced, and the
        old one is stale, when it grows, and by `reserve` and `shrink_to_fit`; kernels return FULL or CROWDED
        for a stale one. Read the property again before each loop. O(1).
        """
        return kernels.Arrays(self._arena, self._tenants)

    def should_admit(self, estimated_tokens: int = 0, *, tenant: int | None = None) -> tuple[bool, str]:
        """Admit or reject a request at the present time. Amortised O(1).

        An admitted request is counted and reserves its estimated tokens; its ticket is `last_ticket`.

        Parameters
        ----------
        estimated_tokens
            Expected number of tokens, 0..2**31-1.
        tenant
            The tenant of the request, an int64, None for none.

        Returns
        -------
        tuple
            (True, "admitted"); or (False, reason), where the reason is the first limit that the request would break, in
            this order: "qps", "tokens", "tenant_qps", "tenant_tokens".
        """
        tokens, now = _tokens("estimated_tokens", estimated_tokens), self._now()
        who, named = (0, 0) if tenant is None else (arguments.integer("tenant", tenant), 1)
        while True:
            arena, tenants = self._arena, self._tenants
            answer = _direct.admit(arena, tenants, now, tokens, who, named)
            if answer in _ANSWERS:
                return _ANSWERS[answer]
            self._make_more_room(arena, tenants, answer)

    def should_admit_many(self, times: ArrayLike, tokens: ArrayLike, tenants: ArrayLike | None = None) -> np.ndarray:
        """Admit or reject many requests in order, as `should_admit` does at the given times. O(n).

        The tickets of those admitted are consecutive; the last one is `last_ticket`. A call that is interrupted has
        decided on the first requests only.

        Parameters
        ----------
        times
            Times of the requests in seconds of the clock, float64 (n,), never decreasing.
        tokens
            Their expected tokens, int64 (n,).
        tenants
            Their tenants, int64 (n,), None if they have none.

        Returns
        -------
        ndarray
            Whether each request was admitted, bool (n,).

        Raises
        ------
        ValueError
            A time is less than the one before it or than the latest this controller has seen, or the lengths differ.
            Nothing is changed then.
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
        """Return the seconds until `should_admit` would admit a request, if no other request came before.

        An HTTP server can send it as Retry-After. Nothing is counted. O(requests that must leave the window first).

        Parameters
        ----------
        estimated_tokens
            Expected number of tokens, 0..2**31-1.
        tenant
            The tenant of the request, an int64, None for none.

        Returns
        -------
        float
            0.0 if it would be admitted now, inf if it never will be.
        """
        tokens, now = _tokens("estimated_tokens", estimated_tokens), self._now()
        who, named = (0, 0) if tenant is None else (arguments.integer("tenant", tenant), 1)
        with self._lock:
            return _direct.retry_after(self._arena, self._tenants, now, tokens, who, named)

    def set_limits(self, tenant: int, qps_target: float | None = None, token_rate_limit: float | None = None) -> None:
        """Set the limits of one tenant, from its next request on. Expected O(1).

        Requests of the tenant in the window stay there.

        Parameters
        ----------
        tenant
            The tenant, an int64.
        qps_target
            Requests per second; None for the limit of all tenants, `tenant_qps_target`.
        token_rate_limit
            Tokens per second; None for the limit of all tenants, `tenant_token_rate_limit`.
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
        """Return the rates and limits of one tenant. Amortised O(1).

        Parameters
        ----------
        tenant
            The tenant, an int64.

        Returns
        -------
        dict
            `current_qps`, `target_qps`, `current_token_rate` and `token_rate_limit`, all per second.
        """
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
        """Settle an admission: replace its estimate by the true number of tokens. Amortised O(1).

        The request stays in the window at the time when it was admitted. An admission that has left the window is not
        changed. Settling again replaces the tokens again.

        Parameters
        ----------
        tokens
            Number of tokens, 0..2**31-1.
        ticket
            The `last_ticket` after the admission. None is the oldest admission in the window that is not settled; if
            there is none, a request with these tokens and without tenant is counted now, whatever the limits, and is no
            admission.

        Raises
        ------
        KeyError
            The ticket was never issued.
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
        """Empty the window and set the counters to 0. Capacity and limits stay. O(tenants).

        Earlier tickets are like those of admissions that have left the window.
        """
        with self._lock:
            kernels.reset(self._arena, self._tenants)

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(n)."""
        with self._lock:
            super().shrink_to_fit()
            self._tenants = table.resized(self._tenants, int(self._tenants[table.TOP]))

    def stats(self) -> dict[str, Any]:
        """Return rates, limits and counts. Amortised O(1).

        Returns
        -------
        dict
            `current_qps` and `current_token_rate` (in the window, per second), `target_qps`, `token_rate_limit`,
            `admitted_requests`, `rejected_requests` (since the start), `rejection_rate` (0 before the first).
        """
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
        """Read a file that `save` wrote. The window continues under `clock` from where it stopped.

        Parameters
        ----------
        path
            Name of the file.
        clock
            Function that returns the time in seconds.

        Returns
        -------
        Self
            A controller equal to the saved one.

        Raises
        ------
        ValueError
            The file is damaged, holds another kind of structure, or was written by a newer version.
        """
        return cls._load(path, clock=clock)

    def __len__(self) -> int:
        """Return the number of requests in the window at the present time. Amortised O(1)."""
        with self._lock:
            kernels.expire(self._arena, self._tenants, self._now())
            return super().__len__()

    def __repr__(self) -> str:
        """Return a short description."""
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        return f"AdmissionController(qps_target={qps:g}, token_rate_limit={rate:g}, window_size={window:g})"

    def _make_more_room(self, arena: np.ndarray, tenants: np.ndarray, answer: int) -> None:
        """Make room for one more in the window (FULL) or the tenants (CROWDED), unless they have been replaced."""
        if answer == kernels.FULL:
            return self._make_room(arena)
        if answer != kernels.CROWDED:
            raise AssertionError(f"unknown code {answer} of a kernel")
        with self._lock:
            if self._tenants is tenants:
                self._tenants = table.resized(tenants, max(2 * int(tenants[table.CAPACITY]), 16))
        return None

    def _limit(self, name: str, rate: float | None) -> tuple[float, int]:
        """Return the rate, checked, and the most a window may hold of it."""
        if rate is None:
            return 0.0, kernels.UNSET
        rate = arguments.real(name, rate, 0.0)
        return rate, _whole(rate, self._real(kernels.WINDOW))

    def _real(self, slot: int) -> float:
        return float(self._arena[slot : slot + 1].view(np.float64)[0])

    def _fault(self) -> str | None:
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        fault = int(check.first_fault(self._arena, self._tenants))
        if fault >= 0:
            return f"request {fault} of the window is out of order, or its tokens are out of range"
        if fault == -3:
            return "its tenants do not match the requests in the window"
        limits = self._arena[[kernels.MAX_REQUESTS, kernels.MAX_TOKENS]].tolist()
        if fault != -1 or not (qps >= 0 and rate >= 0) or limits != [_whole(qps, window), _whole(rate, window)]:
            return "its counts and limits are inconsistent"
        their_head, rows, _ = table.parts(self._tenants)
        any_rates, any_held = their_head[_ANY_RATES].view(np.float64), their_head[_ANY_HELD]
        live = rows[rows[:, table.BUCKET] >= 0]
        rates, held = live[:, _OWN_RATES].view(np.float64), live[:, _OWN_HELD]
        pairs = [*zip(any_rates.tolist(), any_held.tolist(), strict=True)]
        own = held != kernels.UNSET
        pairs += zip(rates[own].tolist(), held[own].tolist(), strict=True)
        if not all(rate >= 0 and _whole(rate, window) == most for rate, most in pairs):
            return "the limits of its tenants are inconsistent"
        return None

    @classmethod
    def _restored(cls, arrays: files.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        if arrays.keys() == {"arena"}:  # as in all files of version 1, which had no tenants
            arrays = {"arena": _widened(arrays["arena"]), "tenants": _no_tenants()}
        return super()._restored(arrays, where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, *, clock: Clock, **given: Any) -> "Self":  # type: ignore[override]
        arena, tenants = arrays["arena"], arrays["tenants"]
        files.expect(bool(check.well_formed(arena)), "its window is inconsistent")
        whole = bool(table.well_formed(tenants, kernels.TENANT_WIDTH))
        files.expect(whole, "its tenants are inconsistent")
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, clock)
        self._tenants = tenants
        clock_kernels.resume(arena, self._now())
        return self

    def _to_arrays(self) -> files.Arrays:
        with self._lock:
            arena, tenants = kernels.snapshot(self._arena, self._tenants, self._now())
        return {"arena": arena, "tenants": tenants}

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, copied at one moment."""
        arrays = self._to_arrays()
        return {**super().__getstate__(), "_arena": arrays["arena"], "_tenants": arrays["tenants"]}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._arena, self._tenants


_ANY_RATES, _ANY_HELD = [kernels.ANY_QPS, kernels.ANY_RATE], [kernels.ANY_REQUESTS, kernels.ANY_TOKENS]
_OWN_RATES, _OWN_HELD = [kernels.OWN_QPS, kernels.OWN_RATE], [kernels.OWN_REQUESTS, kernels.OWN_TOKENS]


def _no_tenants() -> np.ndarray:
    return kernels.new_tenants(0, math.inf, math.inf, _whole(math.inf, 1.0), _whole(math.inf, 1.0))


def _widened(arena: np.ndarray) -> np.ndarray:
    """Return the window of a file of version 1, whose entries had two columns, with three."""
    capacity = (len(arena) - kernels.HEAD) // 2 if arena.ndim == 1 else -1
    fits = arena.dtype == np.int64 and capacity >= 0 and len(arena) == kernels.HEAD + 2 * capacity
    files.expect(bool(fits and arena[table.COLUMNS] == 2), "its window is inconsistent")
    ring = np.full((capacity, kernels.WIDTH), kernels.NOBODY)
    ring[:, : kernels.TENANT] = arena[kernels.HEAD :].reshape(capacity, 2)
    arena[table.COLUMNS] = kernels.WIDTH
    return np.concatenate([arena[: kernels.HEAD], ring.ravel()])


def _tokens(name: str, tokens: Any) -> int:
    if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS:  # the common case, without a call
        return tokens
    return arguments.integer(name, tokens, 0, _MOST_TOKENS)


def _whole(rate: float, window: float) -> int:
    """Return the whole number of `rate` per second in a window, at most 2**62.

    0.29 * 100 is 28.999999999999996 in floating point: a product that misses a whole number only by rounding is that
    number.
    """
    product = rate * window
    return min(math.floor(product * (1 + 1e-15 * 4)), 2**62) if product < 2**62 else 2**62
