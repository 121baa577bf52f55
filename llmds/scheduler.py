"""Requests gathered into batches: which go next, and when it is time."""

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, storage
from .clocked import Clock, Clocked
from .direct import Direct
from .growing import CHUNK
from .kernels import clock as clock_kernels
from .kernels import histogram
from .kernels import scheduling as kernels

_POLICIES = ("sjf", "fcfs", "edf")  # in the order of the kernels' codes
_MOST_TOKENS = kernels.MOST_TOKENS
# A batch is one kernel call, which must return within 100 ms.
_MAX_BATCH_SIZE = 1 << 14
_NO_LIMIT = 2**62
_LARGEST = sys.float_info.max


class Request(NamedTuple):
    """What the scheduler knows about a request.

    `key` is what the policy orders by (smallest first), before ageing. `submitted` and `deadline` are seconds of
    the clock, math.inf where there is no deadline; `state` is "waiting" or "in flight".
    """

    request_id: int
    tokens: int
    key: float
    submitted: float
    deadline: float
    state: str


_direct = Direct(kernels)


class Scheduler(Clocked):
    """Collects requests and hands them out in batches, by size, waiting time and deadline.

    A batch is ready when it is full (`max_batch_size` requests wait, or together `max_batch_tokens` tokens), when
    a request has waited `max_wait_ms`, or when a waiting request's deadline is no further away than
    `service_ms`. Requests overdue by waiting or deadline go first, the longest overdue before the others
    (by waiting before by deadline if equal); then the policy decides, smallest key first, equals in order of arrival:

    - "sjf" (the default): key = tokens; "fcfs": key = when its waiting began; "edf": key = its deadline, those
      without one last.
    - `priority_fn(request) -> float` in place of a policy gives the key, once at `submit` (request.key is NaN then)
      and at each `update_priority` (with the new tokens and the former key). It may not call this scheduler.

    A key sinks by `aging` (in units of the key: tokens, seconds) for each second waited, so that no stream of
    better requests keeps one waiting for ever, even with an infinite `max_wait_ms`. All sink alike, so the order of
    two waiting requests never changes by waiting alone. An infinite key (no deadline under "edf") cannot sink.

    `max_batch_tokens` bounds the tokens of a batch; a larger request goes alone. A batch ends at the first request
    that does not fit: to pass it over for a smaller one behind it would let large requests starve.

    Request ids count up from 0. Tokens of one request lie in 0..2**31-1, `max_batch_size` in 1..16384. Requests handed
    out are in flight until `complete_batch`, and forgotten then. `clock` gives seconds; where it runs back, time
    stands still until it has caught up. Memory: 160 to 184 bytes a request of capacity, which doubles
    as needed, and 19 kB for the histogram of waits. `submit`, `update_priority` and `cancel` are O(log n).

    A single call is atomic under the GIL: threads may share a scheduler.

    >>> now = 0.0
    >>> scheduler = Scheduler(max_batch_size=2, max_wait_ms=50, clock=lambda: now)
    >>> scheduler.submit(700)
    0
    >>> scheduler.get_batch()  # neither full nor 50 ms old: None
    >>> scheduler.submit_many([20, 300])
    array([1, 2])
    >>> scheduler.get_batch()
    [1, 2]
    >>> now = 0.06
    >>> scheduler.get_batch()
    [0]
    >>> scheduler.complete_batch([0, 1, 2])
    >>> scheduler.stats()["total_processed"]
    3
    """

    _schema = {"arena": (np.int64, 1), "ledger": (np.int64, 1)}  # noqa: RUF012
    _columns = kernels.WIDTH
    _resized = staticmethod(kernels.resized)

    def __init__(
        self,
        max_batch_size: int = 32,
        max_wait_ms: float = 50.0,
        priority_fn: Callable[[Request], float] | None = None,
        *,
        policy: str | None = None,
        aging: float = 0.0,
        service_ms: float = 0.0,
        max_batch_tokens: int | None = None,
        clock: Clock = time.monotonic,
    ):
        size = arguments.integer("max_batch_size", max_batch_size, 1, _MAX_BATCH_SIZE)
        most = _NO_LIMIT
        if max_batch_tokens is not None:
            most = arguments.integer("max_batch_tokens", max_batch_tokens, 1, _NO_LIMIT)
        wait = arguments.real("max_wait_ms", max_wait_ms, 0.0) / 1000
        service = arguments.real("service_ms", service_ms, 0.0, _LARGEST) / 1000
        aging = arguments.real("aging", aging, 0.0, _LARGEST)
        if priority_fn is None:
            code = _POLICIES.index(arguments.one_of("policy", "sjf" if policy is None else policy, _POLICIES))
        elif policy is not None:
            raise ValueError(f"policy and priority_fn both give the key, got policy={policy!r} and a priority_fn")
        elif not callable(priority_fn):
            raise TypeError(f"priority_fn must be a callable that takes a Request, got {priority_fn!r}")
        else:
            code = kernels.CUSTOM
        super().__init__(kernels.new(16, code, aging), clock)
        self._ledger, self._priority_fn = kernels.new_ledger(size, most, wait, service), priority_fn

    def submit(self, tokens: int, slo_ms: float | None = None) -> int:
        """Put a request of `tokens` in the queue, due `slo_ms` from now if given; its id. O(log n)."""
        tokens = _tokens("tokens", tokens)
        slo, now = _seconds(slo_ms), self._now()
        if self._priority_fn is not None:
            return self._submit_by_priority(tokens, slo, now)
        while (number := _direct.submit(arena := self._arena, now, tokens, slo, 0.0)) < 0:
            self._make_room(arena)
        return number

    def submit_many(self, tokens: ArrayLike, slo_ms: ArrayLike | float | None = None) -> np.ndarray:
        """As `submit` for tokens int64 (n,), in order, all at the present time: request ids int64 (n,). O(n log n).

        `slo_ms`: one number for all, or float64 (n,) with inf where there is no deadline. A call that is
        refused or interrupted submits nothing; but a priority_fn is called for one request after the other, and if it
        fails, those before stay submitted.
        """
        tokens = arguments.integers("tokens", tokens, 0, _MOST_TOKENS)
        if slo_ms is None or np.ndim(slo_ms) == 0:
            slos = np.full(len(tokens), math.inf if slo_ms is None else arguments.real("slo_ms", slo_ms, 0.0))
        else:
            slos = arguments.reals("slo_ms", slo_ms, 0.0)
            arguments.same_length(tokens=tokens, slo_ms=slos)
        if not len(tokens):
            return np.empty(0, np.int64)
        return self._submit_many(tokens, slos / 1000, self._now())

    def get_batch(self, force: bool = False) -> list[int] | None:
        """The ids of a batch that is ready, or with `force` of whatever waits, first to be served first.

        They are in flight from now on. None if no batch is ready or nothing waits. O(k log n).
        """
        if not isinstance(force, (bool, np.bool_)):
            raise TypeError(f"force must be a bool, got {force!r}")
        now, batch = self._now(), np.empty(self._ledger[kernels.MAX_SIZE], np.int64)
        while (taken := _direct.take_batch(arena := self._arena, self._ledger, now, bool(force), batch)) < 0:
            self._make_room(arena)
        return batch[:taken].tolist() if taken else None

    def complete_batch(self, request_ids: list[int]) -> None:
        """Forget requests that are done, of one batch or several. O(k).

        KeyError, with nothing completed, if an id is not in flight or comes twice.
        """
        ids = arguments.integers("request_ids", request_ids)
        if not len(ids):
            return None
        now = self._now()
        if len(ids) > CHUNK:
            return self._in_chunks(len(ids), lambda scheduler, part: scheduler._complete(ids[part], now))
        return self._complete(ids, now)

    def update_priority(self, request_id: int, new_tokens: int) -> None:
        """Give a request other tokens, and the key that goes with them. O(log n). KeyError if it is unknown.

        One that waits goes on waiting. One in flight goes back in the queue, to be served again
        for these tokens: its waiting begins anew, its deadline stays.
        """
        number, tokens = arguments.integer("request_id", request_id), _tokens("new_tokens", new_tokens)
        key = 0.0
        if self._priority_fn is not None:
            key = self._key_of(self.request(number)._replace(tokens=tokens))
        now = self._now()
        while (code := kernels.update(arena := self._arena, now, number, tokens, key)) == kernels.FULL:
            self._make_room(arena)
        if code != kernels.OK:
            raise KeyError(number)

    def cancel(self, request_id: int) -> None:
        """Forget a request, waiting or in flight. O(log n). KeyError if it is unknown."""
        number, now = arguments.integer("request_id", request_id), self._now()
        while (code := kernels.cancel(arena := self._arena, now, number)) == kernels.FULL:
            self._make_room(arena)
        if code != kernels.OK:
            raise KeyError(number)

    def request(self, request_id: int) -> Request:
        """What is known about a request that waits or is in flight. O(1). KeyError if it is unknown."""
        number = arguments.integer("request_id", request_id)
        code, tokens, key, submitted, deadline, in_flight = kernels.look_up(self._arena, number)
        if code != kernels.OK:
            raise KeyError(number)
        return Request(number, tokens, key, submitted, deadline, "in flight" if in_flight else "waiting")

    def ready_at(self) -> float | None:
        """The time on the clock from which `get_batch` gives a batch if nothing else is submitted. O(1).

        None if nothing waits or nothing ever makes it ready; -inf if a batch is full. For loops that would sleep.
        """
        at = kernels.ready_at(self._arena, self._ledger)
        return None if at == math.inf else at

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and waits in milliseconds.

        `queue_size` requests wait and `in_flight` are handed out; `total_processed` are completed, in
        `batch_count` batches handed out of `avg_batch_size`; `slo_misses` were completed or cancelled after their
        deadline. `wait_p50_ms`, `wait_p95_ms`, `wait_p99_ms`: the nearest-rank percentiles of the time between
        joining the queue and being handed out, over all that ever were, from a histogram that keeps each
        wait within 1% or half a microsecond, up to 25 days; 0.0 before the first.
        """
        arena = self._arena
        _, queue, _ = kernels.parts(arena)
        queue_size = int(queue[kernels.COUNT])
        batches, handed_out = (int(self._ledger[slot]) for slot in (kernels.BATCHES, kernels.HANDED_OUT))
        waits = self._ledger[kernels.HISTOGRAM :]
        percentiles = {f"wait_p{p}_ms": 1000 * histogram.percentile(waits, p / 100) for p in (50, 95, 99)}
        return {
            "queue_size": queue_size,
            "in_flight": int(arena[kernels.COUNT]) - queue_size,
            "batch_count": batches,
            "total_processed": int(arena[kernels.COMPLETED]),
            "avg_batch_size": handed_out / max(batches, 1),
            "slo_misses": int(arena[kernels.MISSES]),
            **percentiles,
        }

    @property
    def policy(self) -> str | None:
        """ "sjf", "fcfs" or "edf"; None where a priority_fn gives the keys."""
        code = int(self._arena[kernels.POLICY])
        return None if code == kernels.CUSTOM else _POLICIES[code]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        priority_fn: Callable[[Request], float] | None = None,
        clock: Clock = time.monotonic,
    ) -> "Scheduler":
        """Read what `save` wrote; all waiting goes on under `clock` where it stopped.

        A scheduler with a priority_fn needs one again, others take none. ValueError if that is not
        so, or the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path, priority_fn=priority_fn, clock=clock)

    def __contains__(self, request_id: object) -> bool:
        """Whether a request waits or is in flight. O(1)."""
        if not isinstance(request_id, (int, np.integer)) or not 0 <= request_id <= arguments.INT64_MAX:
            return False
        return kernels.look_up(self._arena, int(request_id))[0] == kernels.OK

    def __repr__(self) -> str:
        _, queue, _ = kernels.parts(self._arena)
        waiting = int(queue[kernels.COUNT])
        order = f"policy={self.policy!r}" if self.policy else "priority_fn"
        return f"Scheduler({order}, {waiting} waiting, {len(self) - waiting} in flight)"

    def _submit_by_priority(self, tokens: int, slo: float, now: float) -> int:
        with self._lock:  # the id shown to priority_fn is the one the request gets
            number, now = int(self._arena[kernels.NEXT_ID]), max(now, self._latest())
            key = self._key_of(Request(number, tokens, math.nan, now, now + slo, "waiting"))
            while (code := _direct.submit(arena := self._arena, now, tokens, slo, key)) < 0:
                self._make_room(arena)
            return code

    def _submit_many(self, tokens: np.ndarray, slos: np.ndarray, now: float) -> np.ndarray:
        if self._priority_fn is not None:
            with self._lock:
                items = zip(tokens.tolist(), slos.tolist(), strict=True)
                return np.fromiter((self._submit_by_priority(*item, now) for item in items), np.int64, len(tokens))
        if len(tokens) > CHUNK:
            numbers = np.empty(len(tokens), np.int64)

            def submit(scheduler: Scheduler, part: slice) -> None:
                numbers[part] = scheduler._submit_many(tokens[part], slos[part], now)

            self._in_chunks(len(tokens), submit)
            return numbers
        while (first := kernels.submit_many(arena := self._arena, now, tokens, slos)) < 0:
            self._make_room(arena, len(tokens))
        return np.arange(first, first + len(tokens))

    def _complete(self, ids: np.ndarray, now: float) -> None:
        while (result := kernels.complete(arena := self._arena, now, ids))[0] == kernels.FULL:
            self._make_room(arena)
        if result[0] != kernels.OK:
            raise KeyError(int(ids[result[1]]))

    def _key_of(self, request: Request) -> float:
        return arguments.real("what priority_fn returns", self._priority_fn(request))  # type: ignore[misc]

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._arena))
        if fault >= 0:
            return f"the request in row {fault} is impossible, or not where the queues and links look for it"
        if fault != -1:
            return "head, queues and links do not add up"
        if not kernels.ledger_adds_up(self._ledger) or self._ledger[kernels.MAX_SIZE] > _MAX_BATCH_SIZE:
            return "the ledger does not add up"
        return None

    def _to_arrays(self) -> storage.Arrays:
        return {**super()._to_arrays(), "ledger": clock_kernels.copied(self._ledger)}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._arena, self._ledger

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ledger": clock_kernels.copied(self._ledger)}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Scheduler":
        arena, ledger, priority_fn = arrays["arena"], arrays["ledger"], given["priority_fn"]
        storage.expect(bool(kernels.well_formed(arena)), "its requests do not add up")
        if (arena[kernels.POLICY] == kernels.CUSTOM) != (priority_fn is not None):
            wanted = "needs its priority_fn again" if priority_fn is None else "has a policy and takes no priority_fn"
            raise ValueError(f"this scheduler {wanted}")
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, given["clock"])
        self._ledger, self._priority_fn = ledger, priority_fn
        clock_kernels.resume(arena, self._now())
        return self


def _tokens(name: str, tokens: Any) -> int:
    if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS:  # the common case, without a call
        return tokens
    return arguments.integer(name, tokens, 0, _MOST_TOKENS)


def _seconds(slo_ms: Any) -> float:
    if slo_ms is None:
        return math.inf
    if (type(slo_ms) is float or type(slo_ms) is int) and 0 <= slo_ms <= _LARGEST:  # the common case, without a call
        return slo_ms / 1000
    return arguments.real("slo_ms", slo_ms, 0.0) / 1000
