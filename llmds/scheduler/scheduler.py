"""Requests gathered into batches: which go next, and when a batch is ready."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments, files
from ..base.arena import CHUNK, MAX_ROWS
from ..base.clocked import Clock, Clocked
from ..base.fast_calls import Direct
from ..kernels import clock as clock_kernels
from ..kernels.scheduler import batch as batches
from ..kernels.scheduler import layout, policies
from ..kernels.scheduler import requests as kernels
from ..kv_cache.cache import KVCache
from . import state, write
from .files import SCHEMA, VERSION, from_arrays
from .state import Request
from .write import Columns

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Request", "Scheduler"]

_direct, _direct_batch = Direct(kernels), Direct(batches)


class Scheduler(Clocked):
    """A queue of requests that forms batches by size, waiting time and deadline.

    A batch is ready when it is full (`max_batch_size` requests wait, or together `max_batch_tokens` tokens), when
    a request has waited `max_wait_ms`, or when a waiting request's deadline is no further away than
    `service_ms`. Requests overdue by waiting or deadline go first, the longest overdue before the others
    (by waiting before by deadline if equal); then the policy decides, smallest key first, equal ones in order of
    arrival:

    - "sjf" (the default): key = tokens that remain to be computed; "fcfs": key = when its waiting began; "edf":
      key = its deadline, those without one last; "priority": key = the `priority` given at `submit`, lower is earlier.
    - "lpm", longest prefix match (SGLang: Zheng et al. 2024): key = minus the tokens of its prompt that `cache` holds,
      looked up for all waiting requests whenever a batch is formed.
    - "wfq", fair shares of tenants by virtual token counters (Sheng et al. 2024): key = the tokens scheduled for its
      tenant so far divided by the tenant's weight (1, or what `set_weight` sets). When a tenant without waiting
      requests submits one, its counter is raised to the smallest of the waiting tenants (if none waits, to that of the
      last one that did), so idle time saves up no share. A tenant's requests keep their order; those that wait again
      go first.

    A key falls by `aging` for each second since its waiting began, so that no stream of better requests keeps a request
    waiting forever, even with an infinite `max_wait_ms`. All keys fall alike, so the order of two waiting requests
    never changes by waiting alone. An infinite key (no deadline under "edf") cannot fall, and an overdue request goes
    before any key; so with ageing a request that has waited for an hour is overdue, whatever `max_wait_ms`.

    A batch ends at the first request that does not fit: to skip it for a smaller one behind it would make large
    requests starve. With a `cache` (under any policy), what it holds of a request's prompt need not be computed, but
    for the last token.

    Parameters
    ----------
    max_batch_size : int
        Most requests of a batch, 1..16384.
    max_wait_ms, service_ms : float
        Waiting time that makes a batch ready and a request overdue; time that serving a batch takes.
    priority_fn : callable, optional
        `priority_fn(request) -> float` computes the key in place of a policy, once at `submit` (request.key is NaN
        then) and at each `update_priority` (with the new tokens and the former key). It may not call this scheduler.
    policy : str, optional
        One of the above.
    aging : float
        By how much a key falls per second, in units of the key: tokens, seconds, priorities.
    max_batch_tokens : int, optional
        Most tokens that a batch computes; a larger request is a batch of its own.
    prefill_chunk : int, optional
        Most tokens of a request that a batch computes (chunked prefill: Agrawal et al. 2024), the last of a batch gets
        what is left of `max_batch_tokens`; `batch_tokens` returns how many. `continue_batch` makes those that have
        tokens left wait again in their old place; `preempt` does so with any.
    cache : KVCache, optional
        Where prompts are looked up.
    blocks : bool
        Whether prompts are content ids, one a page of the cache, instead of token ids.
    clock : callable
        Returns seconds; if it goes backwards, no time passes until it has caught up.

    Notes
    -----
    `submit`, `update_priority` and `cancel` are O(log n). Memory: 264 to 296 bytes a request of capacity, which doubles
    as needed, 64 to 72 a tenant under "wfq", twice the ids of the prompts, and 19 kB for the histogram of waits.
    Requests are forgotten by `complete_batch`. A call is atomic under the GIL: threads may share a scheduler.

    Examples
    --------
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

    _schema, _version = SCHEMA, VERSION

    def __init__(
        self, max_batch_size: int = 32, max_wait_ms: float = 50.0,
        priority_fn: Callable[[Request], float] | None = None, *, policy: str | None = None, aging: float = 0.0,
        service_ms: float = 0.0, max_batch_tokens: int | None = None, prefill_chunk: int | None = None,
        cache: KVCache | None = None, blocks: bool = False, clock: Clock = time.monotonic,
    ):  # fmt: skip
        size = arguments.integer("max_batch_size", max_batch_size, 1, state.MAX_BATCH_SIZE)
        most = write.limit("max_batch_tokens", max_batch_tokens, 1, write.NO_LIMIT, write.NO_LIMIT)
        chunk = write.limit("prefill_chunk", prefill_chunk, 1, layout.MOST_TOKENS, int(layout.NO_CHUNK))
        wait = arguments.real("max_wait_ms", max_wait_ms, 0.0) / 1000
        service = arguments.real("service_ms", service_ms, 0.0, write.LARGEST) / 1000
        aging = arguments.real("aging", aging, 0.0, write.LARGEST)
        code, blocks = write.policy(policy, priority_fn, cache), write.flag("blocks", blocks)
        width = 0 if cache is None else write.id_type(cache, blocks).itemsize
        super().__init__(layout.new(16, 0, 0, code, aging, chunk, width, int(blocks)), clock)
        self._ledger = layout.new_ledger(size, most, wait, service)
        self._priority_fn, self._cache = priority_fn, cache

    def submit(
        self, tokens: int, slo_ms: float | None = None, *, priority: int = 0, tenant: int = 0,
        prompt: ArrayLike | None = None, salt: int = 0,
    ) -> int:  # fmt: skip
        """Put a request into the queue and return its id; ids count up from 0. O(log n).

        Parameters
        ----------
        tokens : int
            Tokens to compute, 0..2**31-1.
        slo_ms : float, optional
            Its deadline, milliseconds from now.
        priority, tenant : int
            The key under "priority", -2**53..2**53; the tenant under "wfq", an int64. Other policies ignore them.
        prompt : array_like of int, optional
            Ids (m,) to look up in the cache under `salt`, copied.
        salt : int
            An int64.

        Returns
        -------
        int
            The id of the request.

        Raises
        ------
        ValueError
            If there is a prompt, but no cache, or an argument is out of range. Nothing is submitted then.
        """
        if type(tokens) is not int or not 0 <= tokens <= layout.MOST_TOKENS:  # in the common case without a call
            tokens = write.token_count("tokens", tokens)
        if type(priority) is not int or priority:
            priority = arguments.integer("priority", priority, -write.EXACT, write.EXACT)
        if type(tenant) is not int or tenant:
            tenant = arguments.integer("tenant", tenant)
        slo = math.inf if slo_ms is None else write.seconds(slo_ms)
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
        self, tokens: ArrayLike, slo_ms: ArrayLike | float | None = None, *, priority: ArrayLike = 0,
        tenant: ArrayLike = 0, prompts: ArrayLike | None = None, indptr: ArrayLike | None = None, salt: ArrayLike = 0,
    ) -> np.ndarray:  # fmt: skip
        """Put n requests into the queue, in order, all at the present time; return their ids, int64 (n,). O(n log n).

        A call that is refused or interrupted submits nothing; but a priority_fn is called for one request after the
        other, and if it fails, those before stay submitted.

        Parameters
        ----------
        tokens : array_like of int
            As in `submit`, (n,).
        slo_ms : float or array_like of float, optional
            One number for all, or float64 (n,) with inf where there is no deadline.
        priority, tenant, salt : int or array_like of int
            One for all, or int64 (n,).
        prompts, indptr : array_like of int, optional
            Ids (total,), of which request e has `prompts[indptr[e]:indptr[e + 1]]`; indptr (n + 1,).
        """
        columns = write.columns(tokens, slo_ms, priority, tenant, self._prompts("prompts", prompts), indptr, salt)
        n = len(columns.tokens)
        if not n:
            return np.empty(0, np.int64)
        now = self._now()
        if self._priority_fn is not None:
            with self._lock:
                return np.fromiter((self._submit_one(*columns.request(e), now) for e in range(n)), np.int64, n)
        if n <= CHUNK:
            return self._submit_columns(columns, now)
        runs: list[np.ndarray] = []
        self._in_chunks(n, lambda draft, which: runs.append(draft._submit_columns(columns.part(which), now)))
        return np.concatenate(runs)

    def get_batch(
        self, force: bool = False, *, max_requests: int | None = None, max_tokens: int | None = None
    ) -> list[int] | None:
        """Return the ids of a batch, in order of service, which are in flight from now on; None if none is ready.

        O(k log n), and with a cache the look-up of the prompts.

        Parameters
        ----------
        force : bool
            Whether to take what waits even if no batch is ready.
        max_requests, max_tokens : int, optional
            Further bounds of this batch, for an engine that has only so many slots and tokens left besides what it
            decodes; under a `max_tokens` of 0 no request goes that has tokens to compute.
        """
        force = write.flag("force", force)
        size = int(self._ledger[layout.MAX_SIZE])
        if max_requests is not None:
            size = min(size, arguments.integer("max_requests", max_requests, 0))
        most = write.limit("max_tokens", max_tokens, 0, write.NO_LIMIT, write.NO_LIMIT)
        now, batch, taken = self._now(), np.empty(size, np.int64), -1
        cache, ledger = self._cache, self._ledger
        if cache is None:
            while (taken := _direct_batch.take_batch(arena := self._arena, ledger, now, force, most, batch)) < 0:
                self._make_room(arena)
        while taken < 0:
            arguments_ = (arena := self._arena, write.NO_IDS, ledger, now, force, most, batch)
            _, taken, _ = cache.call(batches.take_batch_cached, *arguments_)  # type: ignore[union-attr]
            if taken < 0:
                self._make_room(arena)
        return batch[:taken].tolist() if taken else None

    def batch_tokens(self) -> np.ndarray:
        """Return how many tokens to compute of each request of the last batch, in its order: int64 (k,). O(k)."""
        ledger = self._ledger
        return ledger[layout.LEDGER : layout.LEDGER + int(ledger[layout.LAST])].copy()

    def continue_batch(self, request_ids: ArrayLike) -> None:
        """Put requests in flight that have tokens left back into the queue, in their old place. O(k log n).

        Their waiting time counts from when they first waited, and their key is that of the tokens left. So under "fcfs"
        they go before any that arrived later, and under "sjf" requests that are nearly done go first. Those without
        tokens left stay in flight. KeyError, with nothing changed, if an id is not in flight or occurs twice.
        """
        self._change(kernels.wait_again, arguments.integers("request_ids", request_ids), self._now(), kernels.REST)

    def preempt(self, request_ids: ArrayLike, *, keep: bool = False) -> None:
        """Make requests in flight wait again, in their old place. O(k log n).

        Parameters
        ----------
        request_ids : array_like of int
            Ids (k,).
        keep : bool
            If False, what was computed of them is lost, and all their tokens are computed again (`update_priority` adds
            those that were generated). If True, it stays (its pages swapped out), and only the rest is computed.

        Raises
        ------
        KeyError
            If an id is not in flight or occurs twice. Nothing is changed then.
        """
        way = kernels.KEPT if write.flag("keep", keep) else kernels.LOST
        self._change(kernels.wait_again, arguments.integers("request_ids", request_ids), self._now(), way)

    def complete_batch(self, request_ids: list[int]) -> None:
        """Forget requests that are done, of one batch or several. O(k).

        KeyError, with nothing completed, if an id is not in flight or occurs twice.
        """
        self._change(kernels.complete, arguments.integers("request_ids", request_ids), self._now())

    def update_priority(self, request_id: int, new_tokens: int, *, priority: int | None = None) -> None:
        """Change the tokens of a request, none of them computed, and its key accordingly. O(log n).

        A waiting request goes on waiting. One in flight goes back into the queue, to be served again for these tokens:
        its waiting begins again, its deadline stays. `priority`, if given, replaces that of `submit`. KeyError if the
        request is unknown.
        """
        number, tokens = arguments.integer("request_id", request_id), write.token_count("new_tokens", new_tokens)
        given, key = False, 0.0
        if priority is not None:
            given, key = True, float(arguments.integer("priority", priority, -write.EXACT, write.EXACT))
        if self._priority_fn is not None:
            given, key = True, self._key_of(self.request(number)._replace(tokens=tokens))
        now = self._now()
        while (code := kernels.update(arena := self._arena, now, number, tokens, key, given)) == kernels.FULL:
            self._make_room(arena)
        if code != kernels.OK:
            raise KeyError(number)

    def charge(self, request_ids: ArrayLike, tokens: ArrayLike) -> None:
        """Count tokens (an int, or int64 (n,)) as computed for the tenants of requests (n,): those they generate.

        O(n log n). ValueError but under "wfq"; KeyError, with nothing counted, if a request is unknown.
        """
        self._need_tenants()
        ids = arguments.integers("request_ids", request_ids)
        counts = write.for_each("tokens", tokens, len(ids), 0, layout.MOST_TOKENS)
        counts = counts if len(counts) else np.zeros(len(ids), np.int64)
        while (result := kernels.bill(arena := self._arena, ids, counts))[0] == kernels.FULL:
            self._make_room(arena)
        if result[0] != kernels.OK:
            raise KeyError(int(ids[result[1]]))

    def set_weight(self, tenant: int, weight: float) -> None:
        """Give a tenant a weight, 1e-9..1e9: shares are in proportion to weights, 1 for each tenant at first. O(1).

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
        """Return what is known of a request that waits or is in flight. O(1). KeyError if it is unknown."""
        number = arguments.integer("request_id", request_id)
        if (found := state.request(self._arena, number)) is None:
            raise KeyError(number)
        return found

    def ready_at(self) -> float | None:
        """Return the time on the clock from which `get_batch` has a batch if nothing else is submitted. O(1).

        None if nothing waits or nothing ever makes it ready; -inf if a batch is full. For loops that would sleep.
        """
        at = batches.ready_at(self._arena, self._ledger)
        return None if at == math.inf else at

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and waits in milliseconds.

        `queue_size` requests wait and `in_flight` are being served; `total_processed` are completed; `batch_count`
        batches were returned, of `avg_batch_size` requests on average; `slo_misses` were completed or cancelled after
        their deadline; `preemptions` counts preempted requests. `wait_p50_ms`, `wait_p95_ms`, `wait_p99_ms`:
        the nearest-rank percentiles of the time between joining the queue and being in a batch, over all requests
        (but those that waited again in their old place), from a histogram that keeps each wait within 1% or half a
        microsecond, up to 25 days; 0.0 before the first.
        """
        return state.stats(*self.arrays)

    @property
    def arrays(self) -> layout.Arrays:
        """The scheduler's arrays, for your own compiled loops: the NamedTuple `(arena, ledger)`, int64 (n,) both.

        What they hold, and the kernels that take them: `llmds.kernels.scheduler`. They are the arrays themselves, not
        copies, and belong to the scheduler: what a kernel changes in them, the scheduler has changed. Read this
        property again before each run of a loop: `arena` is replaced when it grows, by `reserve`, `shrink_to_fit` and
        long bulk calls. The old one is then retired, and kernels that get it change nothing and return FULL.
        """
        return layout.Arrays(self._arena, self._ledger)

    @property
    def policy(self) -> str | None:
        """The policy's name, or None where a priority_fn computes the keys."""
        return policies.POLICIES[int(self._arena[layout.POLICY])]

    @property
    def prefill_chunk(self) -> int | None:
        """The most tokens of a request in one batch, None where there is no limit."""
        chunk = int(layout.parts(self._arena).queue[layout.CHUNK])
        return None if chunk == layout.NO_CHUNK else chunk

    def reserve(self, n: int) -> None:
        """Make room for n requests in all, so that nothing grows before that but tenants and prompts. O(n)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            self._arena = state.reserved(self._arena, n)

    def shrink_to_fit(self) -> None:
        """Release unused capacity, and forget tenants that no request and no fair share depends on. O(n)."""
        with self._lock:
            self._arena = state.shrunk(self._arena)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, *, priority_fn: Callable[[Request], float] | None = None, cache: KVCache | None = None,
        clock: Clock = time.monotonic,
    ) -> "Self":  # fmt: skip
        """Read a file that `save` wrote; waiting times continue under `clock` where they stopped.

        A scheduler with a priority_fn, or with a cache (of ids as wide as before), needs one again, others take none.
        ValueError if that is not so, or the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path, priority_fn=priority_fn, cache=cache, clock=clock)

    def __contains__(self, request_id: object) -> bool:
        """Return whether a request waits or is in flight. O(1)."""
        if not isinstance(request_id, (int, np.integer)) or not 0 <= request_id <= arguments.INT64_MAX:
            return False
        return kernels.look_up(self._arena, int(request_id)).code == kernels.OK

    def __repr__(self) -> str:
        """Return a short description: the policy, and the numbers of requests."""
        waiting = int(layout.parts(self._arena).queue[layout.WAITING])
        order = f"policy={self.policy!r}" if self.policy else "priority_fn"
        return f"Scheduler({order}, {waiting} waiting, {len(self) - waiting} in flight)"

    def _submit_one(
        self, tokens: int, slo: float, key: float, tenant: int, ids: np.ndarray | None, salt: int, now: float
    ) -> int:
        """Submit a request if a priority_fn computes its key, or if it has a prompt."""
        with self._lock:  # the id shown to priority_fn is the one the request gets
            if self._priority_fn is not None:
                number, now = int(self._arena[layout.NEXT_ID]), max(now, self._latest())
                key = self._key_of(Request(number, tokens, math.nan, now, now + slo, "waiting", 0, tenant))
            if ids is not None:
                return int(self._submit_columns(write.one(tokens, slo, key, tenant, ids, salt), now)[0])
            while (code := _direct.submit(arena := self._arena, now, tokens, slo, key, tenant)) < 0:
                self._make_room(arena)
            return code

    def _submit_columns(self, columns: Columns, now: float) -> np.ndarray:
        """Submit requests in one kernel call; return their ids."""
        tenants, data, n = columns.tenants, columns.data, len(columns.tokens)
        given = (now, *columns._replace(prompts=data))
        while (first := kernels.submit_many(arena := self._arena, *given)) < 0:
            self._make_room(arena, n, tenants if len(tenants) else None, len(data))
        return np.arange(first, first + n)

    def _change(self, kernel: Callable, ids: np.ndarray, now: float, *more: Any) -> None:
        """Call kernel(arena, now, ids, ...) for requests in flight, all or none."""
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
        """Return ids of prompts of the type in which the arena keeps them; None for None."""
        if ids is None:
            return None
        return write.prompt_ids(name, ids, self._cache, bool(layout.parts(self._arena).prompts[layout.BLOCKS]))

    def _need_tenants(self) -> None:
        if self._arena[layout.POLICY] != policies.WFQ:
            raise ValueError(f"only policy='wfq' counts by tenants, this is {self.policy!r}")

    def _make_room(
        self, seen: np.ndarray, more: int = 1, tenants: np.ndarray | None = None, prompt_bytes: int = 0
    ) -> None:
        """Replace the arena by one with room for this, unless it is no longer `seen`: another thread was faster."""
        with self._lock:
            if self._arena is seen:
                self._arena = state.grown(seen, more, tenants, prompt_bytes)

    def _fault(self) -> str | None:
        return state.fault(self._arena, self._ledger)

    def _to_arrays(self) -> files.Arrays:
        return {**super()._to_arrays(), "ledger": clock_kernels.copied(self._ledger)}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self.arrays

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: times as ages, like a file."""
        return {**super().__getstate__(), "_ledger": clock_kernels.copied(self._ledger)}

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        arena, ledger = from_arrays(arrays, given["priority_fn"], given["cache"])
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, given["clock"])
        self._ledger, self._priority_fn, self._cache = ledger, given["priority_fn"], given["cache"]
        clock_kernels.resume(arena, self._now())
        return self
