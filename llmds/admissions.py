"""How many requests, and how many tokens, are let in over a sliding window of time."""

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, storage
from .clocked import Clock, Clocked
from .direct import Direct
from .growing import chunks
from .kernels import admission as kernels
from .kernels import clock as clock_kernels
from .kernels import table

if TYPE_CHECKING:
    from typing_extensions import Self

_ANSWERS = ((True, "admitted"), (False, "qps"), (False, "tokens"))
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

    `clock` gives seconds. Where it runs back, time stands still until it has caught up with the
    latest second seen. Memory: 16 bytes a request in the window, doubling as needed. All calls are amortised
    O(1) a request. A single call is atomic under the GIL: threads may share a controller.

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
    """

    _columns = kernels.WIDTH
    _resized = staticmethod(kernels.resized)

    def __init__(
        self,
        qps_target: float = 10.0,
        token_rate_limit: float = 10000,
        window_size: float = 10,
        *,
        clock: Clock = time.monotonic,
    ):
        qps = arguments.real("qps_target", qps_target, 0.0)
        rate = arguments.real("token_rate_limit", token_rate_limit, 0.0)
        window = arguments.real("window_size", window_size, sys.float_info.min, sys.float_info.max)
        super().__init__(kernels.new(16, qps, rate, window, _whole(qps, window), _whole(rate, window)), clock)

    def should_admit(self, estimated_tokens: int = 0) -> tuple[bool, str]:
        """(True, "admitted"), and the request is counted; or (False, "qps") or (False, "tokens"), whichever
        limit it would break, requests first. Amortised O(1).

        An admission reserves `estimated_tokens`; its ticket is `last_ticket`.
        """
        tokens, now = _tokens("estimated_tokens", estimated_tokens), self._now()
        while (answer := _direct.admit(arena := self._arena, now, tokens)) == kernels.FULL:
            self._make_room(arena)
        return _ANSWERS[answer]

    def should_admit_many(self, times: ArrayLike, tokens: ArrayLike) -> np.ndarray:
        """As `should_admit` at times (n,), seconds of the clock, with estimated tokens int64 (n,): bool (n,). O(n).

        Tickets of those admitted are consecutive; the last is `last_ticket`. ValueError, with nothing
        done, if a time is less than the one before it or than the latest this controller has seen.
        An interrupted call has decided on a prefix.
        """
        times = arguments.reals("times", times, -sys.float_info.max, sys.float_info.max)
        tokens = arguments.integers("tokens", tokens, 0, _MOST_TOKENS)
        arguments.same_length(times=times, tokens=tokens)
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
                    arena = self._arena
                    start += int(kernels.admit_many(arena, times[rest], tokens[rest], admitted[rest]))
                    if start < part.stop:
                        self._make_room(arena)
        return admitted

    def record_request(self, tokens: int, *, ticket: int | None = None) -> None:
        """Settle an admission: `tokens` replace its estimate, at the time it was admitted. Amortised O(1).

        Without `ticket` it is the oldest admission in the window that is not settled; where there is none, a
        request with these tokens is counted now (whatever the limits; it is no admission). An admission
        that has left the window needs no settling: nothing happens then. Settling again replaces again.
        KeyError if `ticket` was never given out.
        """
        tokens, now = _tokens("tokens", tokens), self._now()
        number = -1 if ticket is None else arguments.integer("ticket", ticket, 0)
        while (code := _direct.record(arena := self._arena, now, tokens, number)) == kernels.FULL:
            self._make_room(arena)
        if code == kernels.ABSENT:
            raise KeyError(ticket)

    @property
    def last_ticket(self) -> int | None:
        """The ticket of the newest admission, for `record_request`; None before the first. O(1)."""
        ticket = int(self._arena[kernels.LAST_TICKET])
        return None if ticket < 0 else ticket

    def reset(self) -> None:
        """Empty the window and zero the counters; capacity stays, tickets from before are as those that left. O(1)."""
        with self._lock:
            kernels.reset(self._arena)

    def stats(self) -> dict[str, Any]:
        """`current_qps` and `current_token_rate` (in the window, per second), `target_qps`, `token_rate_limit`,
        `admitted_requests`, `rejected_requests` (since the start), `rejection_rate` (0 before the first)."""
        with self._lock:
            kernels.expire(self._arena, self._now())
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
            kernels.expire(self._arena, self._now())
            return super().__len__()

    def __repr__(self) -> str:
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        return f"AdmissionController(qps_target={qps:g}, token_rate_limit={rate:g}, window_size={window:g})"

    def _real(self, slot: int) -> float:
        return float(self._arena[slot : slot + 1].view(np.float64)[0])

    def _fault(self) -> str | None:
        qps, rate, window = map(self._real, (kernels.QPS, kernels.TOKEN_RATE, kernels.WINDOW))
        fault = int(kernels.first_fault(self._arena))
        if fault >= 0:
            return f"request {fault} of the window is out of order, or its tokens are impossible"
        limits = self._arena[[kernels.MAX_REQUESTS, kernels.MAX_TOKENS]].tolist()
        if fault != -1 or not (qps >= 0 and rate >= 0) or limits != [_whole(qps, window), _whole(rate, window)]:
            return "its counts and limits do not add up"
        return None

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, *, clock: Clock, **given: Any) -> "Self":  # type: ignore[override]
        arena = arrays["arena"]
        storage.expect(bool(kernels.well_formed(arena)), "its window does not add up")
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, clock)
        clock_kernels.resume(arena, self._now())
        return self


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
