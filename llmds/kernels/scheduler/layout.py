"""The arrays of a scheduler: one int64 array for its requests, and a small one for its batches.

The arena is six parts end to end, of which `parts` returns views:

    requests   a `table` of requests by id, rows dense, of CAPACITY; see the columns below
    queue      a `heap` of the waiting requests by rank: the key plus AGING times the second in which waiting began.
               Waiting a second lowers every key by AGING, so the order of two never changes by
               waiting alone, and what is in the heap never has to be updated. Under WFQ it holds the first request
               of each tenant only, whose key is the tenant's counter
    deadlines  a `heap` of the waiting requests that have a deadline
    again      a `heap` of the requests that wait again, by the second in which their waiting began
    tenants    a `table` of tenants, of a capacity of its own: row[COUNTER] tokens computed over row[WEIGHT] (bits of
               float64), row[FRONT], row[BACK] its first and last waiting request (rows, NO_ROW if none waits),
               row[REQUESTS] how many it has. Empty but under WFQ
    prompts    int64 (PROMPT_HEAD,), then the bytes of prompts, ID_BYTES an id; where that is 0, prompts are in
               an array of the caller's

    row[TOKENS], row[COMPUTED]        tokens in all, and how many of them have been scheduled
    row[POLICY_KEY]                   the policy's key (0 under WFQ)
    row[SUBMITTED], row[QUEUED]       when it was submitted, and when its waiting began
    row[DEADLINE]                     inf: none
    row[OLDER], row[NEWER]            the links of those that wait for the first time, in the order in which they began
                                      to (rows, NO_ROW at the ends); OLDER is AGAIN if it waits again,
                                      IN_FLIGHT if it is in a batch
    row[TURN]                         orders requests of equal rank, the lowest first
    row[TENANT]                       the tenant's row under WFQ, else its number
    row[AHEAD], row[BEHIND]           its neighbours among the tenant's waiting requests, under WFQ
    row[FIRST], row[IDS], row[SALT]   where its prompt begins (in ids), its length, and its salt in the KV cache

Times are the arena's seconds (`clock`), as the bits of float64, and so are keys.

The ledger, int64 (LEDGER + MAX_SIZE,), is about batches: their limits, their number, from HISTOGRAM on
a `histogram` of the waits of all requests when they were first in a batch, and from LEDGER on the tokens to compute
of each request of the last batch, ledger[LAST] of them.
"""

from typing import NamedTuple

import numpy as np

from .. import clock, heap, histogram, table
from ..compiling import njit
from ..table import CAPACITY, HEAD
from . import policies

# in the head of the requests
NEXT_ID, OLDEST, NEWEST, POLICY, AGING, COMPLETED, MISSES, WAITING_TOKENS = 8, 9, 10, 11, 12, 13, 14, 15
# in the head of the queue: how many wait, the most tokens of one request in a batch, and counts
WAITING, CHUNK, PREEMPTIONS, NEXT_TURN = 8, 9, 10, 11
# in the head of the tenants: the counter of the one that stopped waiting last
LAST_COUNTER = 8
# in the head of the prompts: bytes used, and those of them that requests still have
USED, LIVE, ID_BYTES, BLOCKS, PROMPT_HEAD = 0, 1, 2, 3, 4

TOKENS, POLICY_KEY, SUBMITTED, QUEUED, DEADLINE, OLDER, NEWER = 2, 3, 4, 5, 6, 7, 8
COMPUTED, TURN, TENANT, AHEAD, BEHIND, FIRST, IDS, SALT, WIDTH = 9, 10, 11, 12, 13, 14, 15, 16, np.int64(17)
COUNTER, WEIGHT, FRONT, BACK, REQUESTS, TENANT_WIDTH = 2, 3, 4, 5, 6, np.int64(7)
NO_ROW, IN_FLIGHT, COMPLETING, AGAIN = -1, -2, -3, -4
MOST_TOKENS = 2**31 - 1
NO_CHUNK = np.int64(2**31)
AT_ONCE = np.int64(32)  # requests whose rows are prefetched together

MAX_SIZE, MAX_TOKENS, MAX_WAIT, SERVICE, BATCHES, HANDED_OUT, HISTOGRAM = 0, 1, 2, 3, 4, 5, 6
LAST = HISTOGRAM + histogram.STEPS
LEDGER = LAST + 1
_SMALLEST_FIRST = np.bool_(False)


class Arrays(NamedTuple):
    """The arrays of a scheduler, in the order in which the kernels take them."""

    arena: np.ndarray  # int64 (n,), as above
    ledger: np.ndarray  # int64 (LEDGER + MAX_SIZE,), as above


class Parts(NamedTuple):
    """The parts of an arena: views, the first five each an arena of its own."""

    requests: np.ndarray
    queue: np.ndarray
    deadlines: np.ndarray
    again: np.ndarray
    tenants: np.ndarray
    prompts: np.ndarray


class State(NamedTuple):
    """What kernels pass to one another: the tables of an arena cut into (head, rows, buckets), and its heaps."""

    head: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray
    queue: np.ndarray
    deadlines: np.ndarray
    again: np.ndarray
    tenant_head: np.ndarray
    tenant_rows: np.ndarray
    tenant_buckets: np.ndarray


@njit(cache=True)
def new(capacity, tenants, words, policy, aging, chunk, id_bytes, blocks):
    """Return an empty arena for `capacity` requests of `tenants` tenants (0 but under WFQ) under `policy`.

    `policy`: a number of `scheduler.policies`; ValueError if it is none. Keys sink by `aging` (float64) a second;
    `chunk`: the most tokens of one request in a batch, or NO_CHUNK. Prompts of 8 * `words` bytes find room, `id_bytes`
    an id (0: they are in an array of the caller's), content ids if `blocks` (0 or 1).
    """
    if not policies.is_known(policy):
        raise ValueError("policy must be a number of llmds.kernels.scheduler.policies")
    small = heap.new(capacity, _SMALLEST_FIRST)
    prompts = np.zeros(PROMPT_HEAD + words, np.int64)
    prompts[ID_BYTES], prompts[BLOCKS] = id_bytes, blocks
    requests, tenant_table = table.new(capacity, WIDTH), table.new(tenants, TENANT_WIDTH)
    arena = _joined(Parts(requests, small, small, small, tenant_table, prompts))
    arena[OLDEST] = arena[NEWEST] = NO_ROW
    arena[POLICY] = policy
    seconds = arena.view(np.float64)
    seconds[AGING], seconds[clock.LATEST] = aging, -np.inf
    parts(arena).queue[CHUNK] = chunk
    return arena


@njit(cache=True)
def new_ledger(max_size, max_tokens, max_wait, service):
    """Return a ledger for batches of at most `max_size` requests and `max_tokens` tokens (int64).

    float64: `max_wait`, the seconds of waiting that make a batch ready (inf: never), and `service`, the seconds that
    serving one takes.
    """
    ledger = np.zeros(LEDGER + max_size, np.int64)
    ledger[MAX_SIZE], ledger[MAX_TOKENS] = max_size, max_tokens
    seconds = ledger.view(np.float64)
    seconds[MAX_WAIT], seconds[SERVICE] = max_wait, service
    return ledger


@njit(cache=True)
def parts(arena):
    """Return the `Parts` of `arena`."""
    capacity = arena[CAPACITY]
    buckets = (table.bucket_count(capacity) + 1) // 2
    step, a = HEAD + capacity * heap.COLUMNS + buckets, HEAD + capacity * WIDTH + buckets
    b, c, d = a + step, a + 2 * step, a + 3 * step
    e = d + tenants_size(arena[d + CAPACITY])
    return Parts(arena[:a], arena[a:b], arena[b:c], arena[c:d], arena[d:e], arena[e:])


@njit(cache=True)
def opened(arena):
    """Return the `State` of `arena`; ValueError if its policy is unknown, before anything has changed."""
    if not policies.is_known(arena[POLICY]):
        raise ValueError("the policy of this scheduler is no number of llmds.kernels.scheduler.policies")
    cut = parts(arena)
    head, rows, buckets = table.parts(cut.requests)
    tenant_head, tenant_rows, tenant_buckets = table.parts(cut.tenants)
    return State(head, rows, buckets, cut.queue, cut.deadlines, cut.again, tenant_head, tenant_rows, tenant_buckets)


@njit(cache=True)
def own_prompts(arena):
    """Return the bytes of the prompts that the arena keeps, uint8, a view."""
    return parts(arena).prompts[PROMPT_HEAD:].view(np.uint8)


@njit(cache=True)
def resized(arena, capacity, tenants, words):
    """Return the same requests in an arena of other capacities (at least what there is), and retire the old one.

    The bytes of prompts are compacted. O(capacity, tenants, words).
    """
    old = parts(arena)
    prompts = np.zeros(PROMPT_HEAD + words, np.int64)
    prompts[ID_BYTES], prompts[BLOCKS] = old.prompts[ID_BYTES], old.prompts[BLOCKS]
    requests = table.resized(old.requests, capacity)
    _compact(requests, old.prompts, prompts)
    queue, deadlines = table.resized(old.queue, capacity), table.resized(old.deadlines, capacity)
    again, tenant_table = table.resized(old.again, capacity), table.resized(old.tenants, tenants)
    return _joined(Parts(requests, queue, deadlines, again, tenant_table, prompts))


@njit(cache=True)
def tenants_size(tenants):
    """Return the elements of the part for that many tenants."""
    return HEAD + tenants * TENANT_WIDTH + (table.bucket_count(tenants) + 1) // 2


@njit(cache=True)
def _compact(requests, old, prompts):
    """Copy the bytes of the prompts that requests still have from one part to another, end to end."""
    head, rows, _ = table.parts(requests)
    size = old[ID_BYTES]
    if size == 0:
        return
    source, data, used = old[PROMPT_HEAD:].view(np.uint8), prompts[PROMPT_HEAD:].view(np.uint8), np.int64(0)
    for row in range(head[table.COUNT]):
        start, stop = rows[row, FIRST] * size, (rows[row, FIRST] + rows[row, IDS]) * size
        rows[row, FIRST] = used // size
        for byte in range(start, stop):
            data[used + byte - start] = source[byte]
        used += stop - start
    prompts[USED] = prompts[LIVE] = used


@njit(cache=True)
def _joined(cut):
    """Return an arena of copies of these parts."""
    size = cut.requests.shape[0] + cut.queue.shape[0] + cut.deadlines.shape[0] + cut.again.shape[0]
    arena = np.empty(size + cut.tenants.shape[0] + cut.prompts.shape[0], np.int64)
    at = _copied(arena, np.int64(0), cut.requests)
    at = _copied(arena, at, cut.queue)
    at = _copied(arena, at, cut.deadlines)
    at = _copied(arena, at, cut.again)
    at = _copied(arena, at, cut.tenants)
    _copied(arena, at, cut.prompts)
    return arena


@njit(cache=True)
def _copied(arena, at, part):
    """Copy a part to arena[at:], and return where it ends."""
    for place in range(part.shape[0]):
        arena[at + place] = part[place]
    return at + part.shape[0]
