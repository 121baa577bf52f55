"""The arrays of a scheduler: exchanged when they grow, and examined. What they hold: `kernels.scheduler.layout`."""

from typing import Any, NamedTuple

import numpy as np

from ..base.arena import MAX_ROWS
from ..kernels import histogram, table
from ..kernels.scheduler import check, layout, policies, requests

# A batch is one kernel call, which must return within 100 ms.
MAX_BATCH_SIZE = 1 << 14
POLICIES = tuple(name for name in policies.POLICIES if name)


class Request(NamedTuple):
    """What is known of a request that waits or is in flight.

    Attributes
    ----------
    request_id, tokens : int
        Its id and its tokens.
    key : float
        What the policy orders by, smallest first, before ageing.
    submitted, deadline : float
        Seconds of the clock; math.inf where there is no deadline.
    state : str
        "waiting" or "in flight".
    computed : int
        How many of the tokens have been scheduled to be computed, or were found in the cache then.
    tenant : int
        Whose it is, under "wfq".
    """

    request_id: int
    tokens: int
    key: float
    submitted: float
    deadline: float
    state: str
    computed: int = 0
    tenant: int = 0


def grown(arena: np.ndarray, more: int = 1, tenants: np.ndarray | None = None, prompt_bytes: int = 0) -> np.ndarray:
    """Return an arena with room for `more` requests, of these tenants, with so many bytes of prompts; retire the old.

    O(capacity).
    """
    requests.drop_idle(arena)
    old = layout.parts(arena)
    new_tenants = 0
    if arena[layout.POLICY] == policies.WFQ:
        new_tenants = 1 if tenants is None else len(np.unique(tenants))
    words = len(old.prompts) - layout.PROMPT_HEAD
    needed = -(-(int(old.prompts[layout.LIVE]) + prompt_bytes) // 8)
    # half of the bytes must be free after compacting them, or it would be done again too soon
    return layout.resized(
        arena,
        _capacity(int(old.requests[table.CAPACITY]), int(old.requests[table.COUNT]) + more),
        _capacity(int(old.tenants[table.CAPACITY]), int(old.tenants[table.COUNT]) + new_tenants),
        words if 2 * needed <= words else 2 * needed,
    )


def reserved(arena: np.ndarray, n: int) -> np.ndarray:
    """Return an arena with room for n requests in all, or this one if it has it. O(n)."""
    if n <= arena[table.CAPACITY]:
        return arena
    old = layout.parts(arena)
    return layout.resized(arena, n, int(old.tenants[table.CAPACITY]), len(old.prompts) - layout.PROMPT_HEAD)


def shrunk(arena: np.ndarray) -> np.ndarray:
    """Return an arena without free room, and without the tenants of which nothing needs to be known. O(n)."""
    requests.drop_idle(arena)
    old = layout.parts(arena)
    words = -(-int(old.prompts[layout.LIVE]) // 8)
    return layout.resized(arena, int(old.requests[table.COUNT]), int(old.tenants[table.TOP]), words)


def request(arena: np.ndarray, number: int) -> Request | None:
    """Return what is known of a request; None if it neither waits nor is in flight."""
    found = requests.look_up(arena, number)
    if found.code != requests.OK:
        return None
    where, times = "in flight" if found.in_flight else "waiting", (found.submitted, found.deadline)
    return Request(number, found.tokens, found.key, *times, where, found.computed, found.tenant)


def stats(arena: np.ndarray, ledger: np.ndarray) -> dict[str, Any]:
    """Return the counts and waits that `Scheduler.stats` describes."""
    queue = layout.parts(arena).queue
    waiting, count = int(queue[layout.WAITING]), int(ledger[layout.BATCHES])
    waits = ledger[layout.HISTOGRAM : layout.LAST]
    return {
        "queue_size": waiting,
        "in_flight": int(arena[table.COUNT]) - waiting,
        "batch_count": count,
        "total_processed": int(arena[layout.COMPLETED]),
        "avg_batch_size": int(ledger[layout.HANDED_OUT]) / max(count, 1),
        "slo_misses": int(arena[layout.MISSES]),
        "preemptions": int(queue[layout.PREEMPTIONS]),
        **{f"wait_p{p}_ms": 1000 * histogram.percentile(waits, p / 100) for p in (50, 95, 99)},
    }


def fault(arena: np.ndarray, ledger: np.ndarray) -> str | None:
    """Return the first invariant that does not hold, in words; None if all do."""
    row = int(check.first_fault(arena))
    if row >= 0:
        return f"the request in row {row} is impossible, or not where the queues and links look for it"
    if row == check.UNKNOWN_POLICY:
        return f"policy must be a number in 0..{len(policies.POLICIES) - 1}, got {arena[layout.POLICY]}"
    if row != check.SOUND:
        return "head, queues and links do not add up"
    if not check.ledger_adds_up(ledger) or ledger[layout.MAX_SIZE] > MAX_BATCH_SIZE:
        return "the ledger does not add up"
    return None


def _capacity(capacity: int, needed: int) -> int:
    """Return a capacity of `needed` or more, doubled if this one is too small."""
    if needed > MAX_ROWS:
        raise ValueError(f"Scheduler holds at most 2**31-1 items, {needed} would be needed")
    return capacity if needed <= capacity else min(max(2 * capacity, needed, 16), MAX_ROWS)
