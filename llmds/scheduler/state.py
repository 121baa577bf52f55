"""The arrays of a scheduler: exchanged when they grow, saved, examined."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..base import arguments
from ..base import files as storage
from ..base.arena import MAX_ROWS
from ..base.clocked import Clock, Clocked
from ..kernels import clock as clock_kernels
from ..kernels import histogram, table
from ..kernels.scheduler import check as scheduling_check
from ..kernels.scheduler import layout
from ..kernels.scheduler import requests as kernels
from ..kv_cache.cache import KVCache

if TYPE_CHECKING:
    from typing_extensions import Self

POLICIES = ("sjf", "fcfs", "edf", None, "priority", "lpm", "wfq")  # in the order of the kernels' codes
# A batch is one kernel call, which must return within 100 ms.
MAX_BATCH_SIZE = 1 << 14
_OLD_LEDGER = layout.LAST


class Request(NamedTuple):
    """What the scheduler knows about a request.

    `key` is what the policy orders by (smallest first), before ageing. `submitted` and `deadline` are seconds of
    the clock, math.inf where there is no deadline; `state` is "waiting" or "in flight". Of its `tokens`, `computed`
    have been handed out to be computed, or were found in the cache then.
    """

    request_id: int
    tokens: int
    key: float
    submitted: float
    deadline: float
    state: str
    computed: int = 0
    tenant: int = 0


class SchedulerState(Clocked):
    """What a scheduler consists of; `scheduler.layout` tells what stands where."""

    _schema = {"arena": (np.int64, 1), "ledger": (np.int64, 1)}  # noqa: RUF012
    _version = 2

    _ledger: np.ndarray
    _priority_fn: Callable[[Request], float] | None
    _cache: KVCache | None

    def reserve(self, n: int) -> None:
        """Make room for n requests in all, so that nothing grows before that but tenants and prompts. O(n)."""
        n = arguments.integer("n", n, 0, MAX_ROWS)
        with self._lock:
            if n > self._arena[table.CAPACITY]:
                _, _, _, _, tenants, prompts = layout.parts(self._arena)
                words = len(prompts) - layout.PROMPT_HEAD
                self._arena = layout.resized(self._arena, n, int(tenants[table.CAPACITY]), words)

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used, and forget tenants of whom there is nothing to know. O(n)."""
        with self._lock:
            kernels.drop_idle(self._arena)
            requests, _, _, _, tenants, prompts = layout.parts(self._arena)
            sizes = int(requests[table.COUNT]), int(tenants[table.TOP]), -(-int(prompts[layout.LIVE]) // 8)
            self._arena = layout.resized(self._arena, *sizes)

    @property
    def policy(self) -> str | None:
        """ "sjf", "fcfs", "edf", "priority", "lpm" or "wfq"; None where a priority_fn gives the keys."""
        return POLICIES[int(self._arena[layout.POLICY])]

    @property
    def prefill_chunk(self) -> int | None:
        """The most tokens of a request in one batch, None where there is no limit."""
        chunk = int(layout.parts(self._arena)[1][layout.CHUNK])
        return None if chunk == layout.NO_CHUNK else chunk

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and waits in milliseconds.

        `queue_size` requests wait and `in_flight` are handed out; `total_processed` are completed, in
        `batch_count` batches handed out of `avg_batch_size`; `slo_misses` were completed or cancelled after their
        deadline; `preemptions` counts requests that `preempt` took back. `wait_p50_ms`, `wait_p95_ms`, `wait_p99_ms`:
        the nearest-rank percentiles of the time between joining the queue and being handed out, over all that ever
        were (but those that waited again in their old place), from a histogram that keeps each wait within 1% or half a
        microsecond, up to 25 days; 0.0 before the first.
        """
        arena = self._arena
        queue = layout.parts(arena)[1]
        queue_size = int(queue[layout.WAITING])
        batches, handed_out = (int(self._ledger[slot]) for slot in (layout.BATCHES, layout.HANDED_OUT))
        waits = self._ledger[layout.HISTOGRAM : layout.LAST]
        percentiles = {f"wait_p{p}_ms": 1000 * histogram.percentile(waits, p / 100) for p in (50, 95, 99)}
        return {
            "queue_size": queue_size,
            "in_flight": int(arena[table.COUNT]) - queue_size,
            "batch_count": batches,
            "total_processed": int(arena[layout.COMPLETED]),
            "avg_batch_size": handed_out / max(batches, 1),
            "slo_misses": int(arena[layout.MISSES]),
            "preemptions": int(queue[layout.PREEMPTIONS]),
            **percentiles,
        }

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: Any,
        *,
        priority_fn: Callable[[Request], float] | None = None,
        cache: KVCache | None = None,
        clock: Clock = time.monotonic,
    ) -> "Self":
        """Read what `save` wrote; all waiting goes on under `clock` where it stopped.

        A scheduler with a priority_fn, or with a cache (of ids as wide as before), needs one again, others take none.
        ValueError if that is not so, or the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path, priority_fn=priority_fn, cache=cache, clock=clock)

    def _make_room(
        self, seen: np.ndarray, more: int = 1, tenants: np.ndarray | None = None, prompt_bytes: int = 0
    ) -> None:
        """Have an arena other than `seen`, with room for `more` requests, of these tenants, with so long prompts; or
        another thread was faster."""
        with self._lock:
            if self._arena is not seen:
                return
            kernels.drop_idle(seen)
            requests, _, _, _, theirs, prompts = layout.parts(seen)
            strangers = 0
            if seen[layout.POLICY] == layout.WFQ:
                strangers = 1 if tenants is None else len(np.unique(tenants))
            words = len(prompts) - layout.PROMPT_HEAD
            needed = -(-(int(prompts[layout.LIVE]) + prompt_bytes) // 8)
            # half of the bytes must be free after gathering them, or it would be done again too soon
            self._arena = layout.resized(
                seen,
                _grown(int(requests[table.CAPACITY]), int(requests[table.COUNT]) + more),
                _grown(int(theirs[table.CAPACITY]), int(theirs[table.COUNT]) + strangers),
                words if 2 * needed <= words else 2 * needed,
            )

    def _assemble(
        self, ledger: np.ndarray, priority_fn: Callable[[Request], float] | None, cache: KVCache | None
    ) -> None:
        self._ledger, self._priority_fn, self._cache = ledger, priority_fn, cache

    def _fault(self) -> str | None:
        fault = int(scheduling_check.first_fault(self._arena))
        if fault >= 0:
            return f"the request in row {fault} is impossible, or not where the queues and links look for it"
        if fault != -1:
            return "head, queues and links do not add up"
        if not scheduling_check.ledger_adds_up(self._ledger) or self._ledger[layout.MAX_SIZE] > MAX_BATCH_SIZE:
            return "the ledger does not add up"
        return None

    def _to_arrays(self) -> storage.Arrays:
        return {**super()._to_arrays(), "ledger": clock_kernels.copied(self._ledger)}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._arena, self._ledger

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ledger": clock_kernels.copied(self._ledger)}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        arena, ledger, cache = arrays["arena"], arrays["ledger"], given["cache"]
        if len(arena) >= table.HEAD and arena[table.COLUMNS] == scheduling_check.OLD_WIDTH:
            done, arena = scheduling_check.upgraded(arena, 0)
            storage.expect(bool(done and len(ledger) == _OLD_LEDGER), "its requests do not add up")
            size = int(ledger[layout.MAX_SIZE])
            storage.expect(1 <= size <= MAX_BATCH_SIZE, "its batches are of no possible size")
            ledger = np.concatenate((ledger, np.zeros(1 + size, np.int64)))
        storage.expect(bool(scheduling_check.well_formed(arena)), "its requests do not add up")
        prompts = layout.parts(arena)[5]
        _needs("priority_fn", arena[layout.POLICY] == layout.CUSTOM, given["priority_fn"])
        _needs("cache", prompts[layout.ID_BYTES] > 0 or arena[layout.POLICY] == layout.LPM, cache)
        if cache is not None and id_bytes(cache, bool(prompts[layout.BLOCKS])) != prompts[layout.ID_BYTES]:
            raise ValueError(f"cache must have ids of {prompts[layout.ID_BYTES]} bytes")
        self = cls.__new__(cls)
        Clocked.__init__(self, arena, given["clock"])
        self._assemble(ledger, given["priority_fn"], cache)
        clock_kernels.resume(arena, self._now())
        return self


def id_bytes(cache: KVCache, blocks: bool) -> int:
    """Bytes of an id of a prompt that is looked up in `cache`."""
    return 8 if blocks else cache.id_dtype.itemsize


def _needs(name: str, needed: bool, given: Any) -> None:
    if needed and given is None:
        raise ValueError(f"this scheduler needs its {name} again")
    if not needed and given is not None:
        raise ValueError(f"this scheduler takes no {name}")


def _grown(capacity: int, needed: int) -> int:
    if needed > MAX_ROWS:
        raise ValueError(f"Scheduler holds at most 2**31-1 items, {needed} would be needed")
    return capacity if needed <= capacity else min(max(2 * capacity, needed, 16), MAX_ROWS)
