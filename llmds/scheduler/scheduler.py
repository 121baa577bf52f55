"""Requests gathered into batches: which go next, and when it is time."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.arena import CHUNK
from ..base.clocked import Clock
from ..base.fast_calls import Direct
from ..kernels.scheduler import batch as batches
from ..kernels.scheduler import layout
from ..kernels.scheduler import requests as kernels
from ..kv_cache import ragged as kv_arguments
from ..kv_cache.cache import KVCache
from .state import MAX_BATCH_SIZE, POLICIES, Request, SchedulerState, id_bytes

__all__ = ["Request", "Scheduler"]

_MOST_TOKENS = layout.MOST_TOKENS
_NO_LIMIT = 2**62
_LARGEST = sys.float_info.max
_EXACT = 2**53  # integers to which every one is a float64
_NO_IDS, _NO_STARTS = np.empty(0, np.uint8), np.empty(0, np.int64)
_NO_KEYS = np.empty(0)

_direct, _direct_batch = Direct(kernels), Direct(batches)
# what of submit_many is told of each request: tokens, slos, keys, tenants, prompts, indptr, salts
_Columns = tuple[np.ndarray, ...]


class Scheduler(SchedulerState):
    """Collects requests and hands them out in batches, by size, waiting time and deadline.

    A batch is ready when it is full (`max_batch_size` requests wait, or together `max_batch_tokens` tokens), when
    a request has waited `max_wait_ms`, or when a waiting request's deadline is no further away than
    `service_ms`. Requests overdue by waiting or deadline go first, the longest overdue before the others
    (by waiting before by deadline if equal); then the policy decides, smallest key first, equals in order of arrival:

    - "sjf" (the default): key = tokens that remain to be computed; "fcfs": key = when its waiting began; "edf":
      key = its deadline, those without one last; "priority": key = the `priority` given at `submit`, lower is earlier.
    - "lpm", longest prefix match (SGLang: Zheng et al. 2024): key = minus the tokens of its prompt that `cache` holds,
      looked up for all that wait whenever a batch is formed.
    - "wfq", fair shares of tenants by virtual token counters (Sheng et al. 2024): key = the tokens handed out to its
      tenant so far over the tenant's weight (1, or what `set_weight` says). A tenant who comes back to the
      queue is lifted to the least counter of those who wait (if nobody waits, of the one that left last), so nobody
      saves up a share by being idle. Of one tenant the first goes first; those that wait again before the others.
    - `priority_fn(request) -> float` in place of a policy gives the key, once at `submit` (request.key is NaN then)
      and at each `update_priority` (with the new tokens and the former key). It may not call this scheduler.

    A key sinks by `aging` (in units of the key: tokens, seconds, priorities) for each second since its waiting began,
    so that no stream of better requests keeps one waiting for ever, even with an infinite `max_wait_ms`. All sink
    alike, so the order of two waiting requests never changes by waiting alone. An infinite key (no deadline under
    "edf") cannot sink, and one that is overdue goes before any key; so with ageing one that has waited for an hour is
    itself overdue, whatever `max_wait_ms`.

    `max_batch_tokens` bounds the tokens that a batch computes; a larger request goes alone. A batch ends at the first
    request that does not fit: to pass it over for a smaller one behind it would let large requests starve. With
    `prefill_chunk` a request is computed so many tokens at a time (chunked prefill: Agrawal et al. 2024), the last of a
    batch what is left of `max_batch_tokens`; `batch_tokens` tells how many. `continue_batch` lets those that have
    tokens left wait again for them, in their old place; `preempt` does so with any. Beside a `cache` (under any
    policy), what it holds of a `prompt` need not be computed, but for the last token. Prompts are token ids, or
    with `blocks` content ids, one a page of the cache.

    Request ids count up from 0. Tokens of one request lie in 0..2**31-1, `max_batch_size` in 1..16384. Requests handed
    out are in flight until `complete_batch`, and forgotten then. `clock` gives seconds; where it runs back, time
    stands still until it has caught up. Memory: 264 to 296 bytes a request of capacity, which doubles
    as needed, 64 to 72 a tenant under "wfq", twice the ids of the prompts, and 19 kB for the histogram of waits.
    `submit`, `update_priority` and `cancel` are O(log n).

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
        prefill_chunk: int | None = None,
        cache: KVCache | None = None,
        blocks: bool = False,
        clock: Clock = time.monotonic,
    ):
        size = arguments.integer("max_batch_size", max_batch_size, 1, MAX_BATCH_SIZE)
        most = _limit("max_batch_tokens", max_batch_tokens, 1, _NO_LIMIT, _NO_LIMIT)
        chunk = _limit("prefill_chunk", prefill_chunk, 1, _MOST_TOKENS, int(layout.NO_CHUNK))
        wait = arguments.real("max_wait_ms", max_wait_ms, 0.0) / 1000
        service = arguments.real("service_ms", service_ms, 0.0, _LARGEST) / 1000
        aging = arguments.real("aging", aging, 0.0, _LARGEST)
        if priority_fn is None:
            named = [name for name in POLICIES if name]
            code = POLICIES.index(arguments.one_of("policy", "sjf" if policy is None else policy, named))
        elif policy is not None:
            raise ValueError(f"policy and priority_fn both give the key, got policy={policy!r} and a priority_fn")
        elif not callable(priority_fn):
            raise TypeError(f"priority_fn must be a callable that takes a Request, got {priority_fn!r}")
        else:
            code = layout.CUSTOM
        if cache is not None and not isinstance(cache, KVCache):
            raise TypeError(f"cache must be a KVCache, got {cache!r}")
        if cache is None and code == layout.LPM:
            raise ValueError("policy='lpm' needs a cache to look prompts up in, got cache=None")
        if not isinstance(blocks, (bool, np.bool_)):
            raise TypeError(f"blocks must be a bool, got {blocks!r}")
        width = 0 if cache is None else id_bytes(cache, bool(blocks))
        super().__init__(layout.new(16, 0, 0, code, aging, chunk, width, int(blocks)), clock)
        self._assemble(layout.new_ledger(size, most, wait, service), priority_fn, cache)

    def submit(
        self,
        tokens: int,
        slo_ms: float | None = None,
        *,
        priority: int = 0,
        tenant: int = 0,
        prompt: ArrayLike | None = None,
        salt: int = 0,
    ) -> int:
        """Put a request of `tokens` in the queue, due `slo_ms` from now if given; its id. O(log n).

        `priority`, -2**53..2**53, counts under "priority", `tenant`, an int64, under "wfq". `prompt`: the ids (m,) to
        look up in the cache under `salt`, copied: ValueError where there is no cache.
        """
        tokens = _tokens("tokens", tokens)
        if type(priority) is not int or priority:
            priority = arguments.integer("priority", priority, -_EXACT, _EXACT)
        if type(tenant) is not int or tenant:
            tenant = arguments.integer("tenant", tenant)
        slo = _seconds(slo_ms)
        if prompt is not None or type(salt) is not int or salt:
            ids, salt = self._prompts("prompt", prompt), arguments.integer("salt", salt)
        else:
            ids = None
        now = self._now()
        if ids is not None or self._priority_fn is not None:
            return self._submit_one(tokens, slo, float(priority), tenant, ids, salt, now)
        while (number := _direct.submit(arena := self._arena, now, tokens, slo, float(priority), tenant)) < 0:
            self._make_room(arena)
        return number

    def submit_many(
        self,
        tokens: ArrayLike,
        slo_ms: ArrayLike | float | None = None,
        *,
        priority: ArrayLike = 0,
        tenant: ArrayLike = 0,
        prompts: ArrayLike | None = None,
        indptr: ArrayLike | None = None,
        salt: ArrayLike = 0,
    ) -> np.ndarray:
        """As `submit` for tokens int64 (n,), in order, all at the present time: request ids int64 (n,). O(n log n).

        `slo_ms`: one number for all, or float64 (n,) with inf where there is no deadline; `priority`, `tenant` and
        `salt`: an int, or int64 (n,). `prompts`: ids (total,), those of request e from `indptr[e]` to `indptr[e + 1]`
        (n + 1,). A call that is refused or interrupted submits nothing; but a priority_fn is called for one request
        after the other, and if it fails, those before stay submitted.
        """
        tokens = arguments.integers("tokens", tokens, 0, _MOST_TOKENS)
        n = len(tokens)
        if slo_ms is None:
            slos = _NO_KEYS
        elif np.ndim(slo_ms) == 0:
            slos = np.full(n, arguments.real("slo_ms", slo_ms, 0.0))
        else:
            slos = arguments.reals("slo_ms", slo_ms, 0.0)
            arguments.same_length(tokens=tokens, slo_ms=slos)
        keys = _for_each("priority", priority, n, -_EXACT, _EXACT).astype(np.float64)
        tenants, salts = _for_each("tenant", tenant, n), _for_each("salt", salt, n)
        if (prompts is None) != (indptr is None):
            raise ValueError("prompts and indptr must both be given, or neither")
        ids, starts = self._prompts("prompts", prompts), _NO_STARTS
        if ids is not None:
            starts = kv_arguments.indptr("indptr", indptr, n, len(ids))
            salts = salts if len(salts) else np.zeros(n, np.int64)
        if not n:
            return np.empty(0, np.int64)
        ids = _NO_IDS if ids is None else ids
        return self._submit_many((tokens, slos / 1000, keys, tenants, ids, starts, salts), self._now())

    def get_batch(
        self, force: bool = False, *, max_requests: int | None = None, max_tokens: int | None = None
    ) -> list[int] | None:
        """The ids of a batch that is ready, or with `force` of whatever waits, first to be served first.

        They are in flight from now on. None if no batch is ready or nothing waits. `max_requests` and `max_tokens`
        bound this batch besides, for an engine that has only so many slots and tokens left beside what it
        decodes; under a `max_tokens` of 0 none goes that has tokens to compute. O(k log n), and beside a cache the
        look-up of the prompts.
        """
        if not isinstance(force, (bool, np.bool_)):
            raise TypeError(f"force must be a bool, got {force!r}")
        size = int(self._ledger[layout.MAX_SIZE])
        if max_requests is not None:
            size = min(size, arguments.integer("max_requests", max_requests, 0))
        most = _limit("max_tokens", max_tokens, 0, _NO_LIMIT, _NO_LIMIT)
        now, batch = self._now(), np.empty(size, np.int64)
        if self._cache is not None:
            taken = self._take_cached(now, bool(force), most, batch)
        else:
            ledger = self._ledger
            while (taken := _direct_batch.take_batch(arena := self._arena, ledger, now, bool(force), most, batch)) < 0:
                self._make_room(arena)
        return batch[:taken].tolist() if taken else None

    def batch_tokens(self) -> np.ndarray:
        """How many tokens to compute of each request of the last batch handed out, in its order: int64 (k,). O(k)."""
        ledger = self._ledger
        return ledger[layout.LEDGER : layout.LEDGER + int(ledger[layout.LAST])].copy()

    def continue_batch(self, request_ids: ArrayLike) -> None:
        """Let those of these requests in flight that have tokens left wait again for them; the others stay. O(k log n).

        They wait in their old place: since when they first did, the key being what goes with the tokens left. So under
        "fcfs" they go on before any that came later, under "sjf" what is nearly done comes first. KeyError, with
        nothing changed, if an id is not in flight or comes twice.
        """
        self._wait_again(request_ids, kernels.REST)

    def preempt(self, request_ids: ArrayLike, *, keep: bool = False) -> None:
        """Take back requests in flight: they wait again, in their old place. O(k log n).

        What was computed of them is lost, all their tokens are to be computed again (`update_priority` adds those that
        were generated); or with `keep` it stays (its pages swapped out), and the tokens left are handed out. KeyError,
        with nothing changed, if an id is not in flight or comes twice.
        """
        if not isinstance(keep, (bool, np.bool_)):
            raise TypeError(f"keep must be a bool, got {keep!r}")
        self._wait_again(request_ids, kernels.KEPT if keep else kernels.LOST)

    def complete_batch(self, request_ids: list[int]) -> None:
        """Forget requests that are done, of one batch or several. O(k).

        KeyError, with nothing completed, if an id is not in flight or comes twice.
        """
        self._change(kernels.complete, arguments.integers("request_ids", request_ids), self._now())

    def update_priority(self, request_id: int, new_tokens: int, *, priority: int | None = None) -> None:
        """Give a request other tokens, and the key that goes with them. O(log n). KeyError if it is unknown.

        None of them count as computed. One that waits goes on waiting. One in flight goes back in the queue, to be
        served again for these tokens: its waiting begins anew, its deadline stays. `priority`, where it is given,
        takes the place of the one at `submit`.
        """
        number, tokens = arguments.integer("request_id", request_id), _tokens("new_tokens", new_tokens)
        given, key = False, 0.0
        if priority is not None:
            given, key = True, float(arguments.integer("priority", priority, -_EXACT, _EXACT))
        if self._priority_fn is not None:
            given, key = True, self._key_of(self.request(number)._replace(tokens=tokens))
        now = self._now()
        while (code := kernels.update(arena := self._arena, now, number, tokens, key, given)) == kernels.FULL:
            self._make_room(arena)
        if code != kernels.OK:
            raise KeyError(number)

    def charge(self, request_ids: ArrayLike, tokens: ArrayLike) -> None:
        """Count tokens (an int, or int64 (n,)) as computed for the tenants of requests (n,): those they generate.

        O(n log n). ValueError but under "wfq"; KeyError, with nothing counted, if one is unknown.
        """
        self._need_tenants()
        ids = arguments.integers("request_ids", request_ids)
        counts = _for_each("tokens", tokens, len(ids), 0, _MOST_TOKENS)
        counts = counts if len(counts) else np.zeros(len(ids), np.int64)
        while (result := kernels.bill(arena := self._arena, ids, counts))[0] == kernels.FULL:
            self._make_room(arena)
        if result[0] != kernels.OK:
            raise KeyError(int(ids[result[1]]))

    def set_weight(self, tenant: int, weight: float) -> None:
        """Give a tenant another weight, 1e-9..1e9: shares go by weights, 1 for each tenant at first. O(1).

        ValueError but under "wfq".
        """
        self._need_tenants()
        tenant, weight = arguments.integer("tenant", tenant), arguments.real("weight", weight, 1e-9, 1e9)
        while kernels.set_weight(arena := self._arena, tenant, weight) == kernels.FULL:
            self._make_room(arena)

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
        code, tokens, key, submitted, deadline, in_flight, *more = kernels.look_up(self._arena, number)
        if code != kernels.OK:
            raise KeyError(number)
        return Request(number, tokens, key, submitted, deadline, "in flight" if in_flight else "waiting", *more)

    def ready_at(self) -> float | None:
        """The time on the clock from which `get_batch` gives a batch if nothing else is submitted. O(1).

        None if nothing waits or nothing ever makes it ready; -inf if a batch is full. For loops that would sleep.
        """
        at = batches.ready_at(self._arena, self._ledger)
        return None if at == math.inf else at

    def __contains__(self, request_id: object) -> bool:
        """Whether a request waits or is in flight. O(1)."""
        if not isinstance(request_id, (int, np.integer)) or not 0 <= request_id <= arguments.INT64_MAX:
            return False
        return kernels.look_up(self._arena, int(request_id))[0] == kernels.OK

    def __repr__(self) -> str:
        waiting = int(layout.parts(self._arena)[1][layout.WAITING])
        order = f"policy={self.policy!r}" if self.policy else "priority_fn"
        return f"Scheduler({order}, {waiting} waiting, {len(self) - waiting} in flight)"

    def _submit_one(
        self, tokens: int, slo: float, key: float, tenant: int, ids: np.ndarray | None, salt: int, now: float
    ) -> int:
        """`submit` where a priority_fn gives the key, or of a request with a prompt."""
        with self._lock:  # the id shown to priority_fn is the one the request gets
            if self._priority_fn is not None:
                number, now = int(self._arena[layout.NEXT_ID]), max(now, self._latest())
                key = self._key_of(Request(number, tokens, math.nan, now, now + slo, "waiting", 0, tenant))
            if ids is None:
                while (code := _direct.submit(arena := self._arena, now, tokens, slo, key, tenant)) < 0:
                    self._make_room(arena)
                return code
            columns = (
                np.array((tokens,)), np.array((slo,)), np.array((key,)), np.array((tenant,)), ids,
                np.array((0, len(ids))), np.array((salt,)),
            )  # fmt: skip
            return int(self._submit_columns(columns, now)[0])

    def _submit_many(self, columns: _Columns, now: float) -> np.ndarray:
        n = len(columns[0])
        if self._priority_fn is not None:
            with self._lock:
                each = (_part(columns, slice(e, e + 1)) for e in range(n))
                return np.fromiter((self._submit_part(part, now) for part in each), np.int64, n)
        if n > CHUNK:
            numbers = np.empty(n, np.int64)

            def submit(scheduler: Scheduler, part: slice) -> None:
                numbers[part] = scheduler._submit_columns(_part(columns, part), now)

            self._in_chunks(n, submit)
            return numbers
        return self._submit_columns(columns, now)

    def _submit_part(self, columns: _Columns, now: float) -> int:
        tokens, slos, _, tenants, ids, starts, salts = columns
        slo = float(slos[0]) if len(slos) else math.inf
        tenant, salt = (int(column[0]) if len(column) else 0 for column in (tenants, salts))
        return self._submit_one(int(tokens[0]), slo, 0.0, tenant, ids if len(starts) else None, salt, now)

    def _submit_columns(self, columns: _Columns, now: float) -> np.ndarray:
        tokens, slos, keys, tenants, ids, starts, salts = columns
        data, n = ids.view(np.uint8), len(tokens)
        arguments_ = (now, tokens, slos, keys, tenants, data, starts, salts)
        while (first := kernels.submit_many(arena := self._arena, *arguments_)) < 0:
            self._make_room(arena, n, tenants if len(tenants) else None, len(data))
        return np.arange(first, first + n)

    def _take_cached(self, now: float, force: bool, most: int, batch: np.ndarray) -> int:
        assert self._cache is not None
        taken = -1
        while taken < 0:
            arena = self._arena
            _, taken, _ = self._cache.call(
                batches.take_batch_cached, arena, _NO_IDS, self._ledger, now, force, most, batch
            )
            if taken < 0:
                self._make_room(arena)
        return taken

    def _wait_again(self, request_ids: ArrayLike, way: int) -> None:
        self._change(kernels.wait_again, arguments.integers("request_ids", request_ids), self._now(), way)

    def _change(self, kernel: Callable, ids: np.ndarray, now: float, *more: Any) -> None:
        """kernel(arena, now, ids, ...) on requests in flight, all or none."""
        if len(ids) > CHUNK:
            return self._in_chunks(len(ids), lambda scheduler, part: scheduler._change(kernel, ids[part], now, *more))
        if len(ids):
            while (result := kernel(arena := self._arena, now, ids, *more))[0] == kernels.FULL:
                self._make_room(arena)
            if result[0] != kernels.OK:
                raise KeyError(int(ids[result[1]]))
        return None

    def _key_of(self, request: Request) -> float:
        return arguments.real("what priority_fn returns", self._priority_fn(request))  # type: ignore[misc]

    def _prompts(self, name: str, ids: Any) -> np.ndarray | None:
        """Ids of prompts as the arena keeps them; None for none."""
        if ids is None:
            return None
        if self._cache is None:
            raise ValueError(f"{name} needs a cache to be looked up in, this scheduler has none")
        blocks = bool(layout.parts(self._arena)[5][layout.BLOCKS])
        return kv_arguments.entries(name, ids, np.dtype(np.int64) if blocks else self._cache.id_dtype, ())

    def _need_tenants(self) -> None:
        if self._arena[layout.POLICY] != layout.WFQ:
            raise ValueError(f"only policy='wfq' counts by tenants, this is {self.policy!r}")


def _part(columns: _Columns, part: slice) -> _Columns:
    """A run of what `submit_many` takes."""
    *each, ids, starts, salts = columns
    each = [column[part] for column in each]
    if not len(starts):
        return *each, ids, starts, salts
    starts = starts[part.start : part.stop + 1]
    return *each, ids[starts[0] : starts[-1]], starts - starts[0], salts[part]


def _for_each(name: str, values: Any, n: int, low: int = arguments.INT64_MIN, high: int = arguments.INT64_MAX) -> Any:
    """One integer for each of n: int64 (n,), (0,) where it is 0 for all."""
    if np.ndim(values) == 0:
        value = arguments.integer(name, values, low, high)
        return np.full(n, value) if value else _NO_STARTS
    array = arguments.integers(name, values, low, high)
    if len(array) != n:
        raise ValueError(f"{name} must be an integer or have one for each of {n}, got {len(array)}")
    return array


def _limit(name: str, value: Any, low: int, high: int, none: int) -> int:
    return none if value is None else arguments.integer(name, value, low, high)


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
