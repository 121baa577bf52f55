"""What of a scheduler stands where: one int64 array for its requests, and a small one for its batches.

The arena is six parts end to end, cut apart by `parts`:

    requests   a `table` of requests by id, rows dense, of CAPACITY; see the columns below
    queue      a `heap` of those waiting by rank: the key plus AGING times the second in which waiting began.
               Waiting a second lowers every key by AGING, so the order between two never changes by
               waiting alone, and what stands in the heap never has to. Under WFQ it holds of each
               tenant the first alone, whose key is the tenant's counter
    deadlines  a `heap` of those waiting that have a deadline
    again      a `heap` of those that wait again, by when their waiting began
    tenants    a `table` of tenants, of a capacity of its own: row[COUNTER] tokens computed over row[WEIGHT] (bits of
               float64), row[FRONT], row[BACK] its first and last waiting request (rows, NOBODY if none waits),
               row[REQUESTS] how many it has. Empty but under WFQ
    prompts    int64 (PROMPT_HEAD,), then the bytes of prompts, ID_BYTES an id; where that is 0, prompts lie in
               an array of the caller's

    row[TOKENS], row[COMPUTED]        tokens in all, and how many of them have been handed out to be computed
    row[ASKED_KEY]                    the policy's key (0 under WFQ)
    row[SUBMITTED], row[QUEUED]       when it came, and when its waiting began
    row[DEADLINE]                     inf: none
    row[OLDER], row[NEWER]            the links of those that wait the first time, in the order in which they began
                                      to (rows, NOBODY at the ends); OLDER is AGAIN if it waits again,
                                      IN_FLIGHT if it is handed out
    row[TURN]                         its place among equals, the lowest first
    row[TENANT]                       the tenant's row under WFQ, else its number
    row[AHEAD], row[BEHIND]           its neighbours among the tenant's waiting requests, under WFQ
    row[FIRST], row[IDS], row[SALT]   where its prompt begins (in ids), its length, and its salt in the KV cache

Times are the arena's seconds (`clock`), as the bits of float64, and so are keys.

The ledger, int64 (LEDGER + MAX_SIZE,), holds what concerns batches: their limits, their number, from HISTOGRAM on
a `histogram` of the waits of all that were handed out the first time, and from LEDGER on the tokens to compute
of each request of the last batch, ledger[LAST] of them.
"""

import numpy as np

from .. import clock, heap, histogram, table
from ..compiling import njit
from ..table import CAPACITY, HEAD

SJF, FCFS, EDF, CUSTOM, PRIORITY, LPM, WFQ = 0, 1, 2, 3, 4, 5, 6

# in the head of the requests
NEXT_ID, OLDEST, NEWEST, POLICY, AGING, COMPLETED, MISSES, WAITING_TOKENS = 8, 9, 10, 11, 12, 13, 14, 15
# in the head of the queue: how many wait, the most tokens of one request in a batch, and counts
WAITING, CHUNK, PREEMPTIONS, NEXT_TURN = 8, 9, 10, 11
# in the head of the tenants: the counter of the one that left the queue last
LEFT = 8
# in the head of the prompts: bytes used, and those of them that requests still have
USED, LIVE, ID_BYTES, BLOCKS, PROMPT_HEAD = 0, 1, 2, 3, 4

TOKENS, ASKED_KEY, SUBMITTED, QUEUED, DEADLINE, OLDER, NEWER = 2, 3, 4, 5, 6, 7, 8
COMPUTED, TURN, TENANT, AHEAD, BEHIND, FIRST, IDS, SALT, WIDTH = 9, 10, 11, 12, 13, 14, 15, 16, np.int64(17)
COUNTER, WEIGHT, FRONT, BACK, REQUESTS, TENANT_WIDTH = 2, 3, 4, 5, 6, np.int64(7)
NOBODY, IN_FLIGHT, COMPLETING, AGAIN = -1, -2, -3, -4
MOST_TOKENS = 2**31 - 1
NO_CHUNK = np.int64(2**31)
AT_ONCE = np.int64(32)  # requests that are looked up together

MAX_SIZE, MAX_TOKENS, MAX_WAIT, SERVICE, BATCHES, HANDED_OUT, HISTOGRAM = 0, 1, 2, 3, 4, 5, 6
LAST = HISTOGRAM + histogram.STEPS
LEDGER = LAST + 1
_SMALLEST_FIRST = np.bool_(False)


@njit(cache=True)
def new(capacity, tenants, words, policy, aging, chunk, id_bytes, blocks):
    """An empty arena for `capacity` requests of `tenants` tenants (0 but under WFQ) under `policy`.

    Keys sink by `aging` (float64) a second; `chunk`: the most tokens of one request in a batch, or NO_CHUNK. Prompts of
    8 * `words` bytes find room, `id_bytes` an id (0: they lie elsewhere), content ids if `blocks` (0 or 1).
    """
    small = heap.new(capacity, _SMALLEST_FIRST)
    prompts = np.zeros(PROMPT_HEAD + words, np.int64)
    prompts[ID_BYTES], prompts[BLOCKS] = id_bytes, blocks
    arena = _joined(table.new(capacity, WIDTH), small, small, small, table.new(tenants, TENANT_WIDTH), prompts)
    arena[OLDEST] = arena[NEWEST] = NOBODY
    arena[POLICY] = policy
    seconds = arena.view(np.float64)
    seconds[AGING], seconds[clock.LATEST] = aging, -np.inf
    parts(arena)[1][CHUNK] = chunk
    return arena


@njit(cache=True)
def new_ledger(max_size, max_tokens, max_wait, service):
    """A ledger for batches of at most `max_size` requests and `max_tokens` tokens; seconds of waiting that make one
    ready, and seconds that serving one takes (float64, waiting may be inf)."""
    ledger = np.zeros(LEDGER + max_size, np.int64)
    ledger[MAX_SIZE], ledger[MAX_TOKENS] = max_size, max_tokens
    seconds = ledger.view(np.float64)
    seconds[MAX_WAIT], seconds[SERVICE] = max_wait, service
    return ledger


@njit(cache=True)
def parts(arena):
    """(requests, queue, deadlines, again, tenants, prompts), views of `arena`, the first five each an arena."""
    capacity = arena[CAPACITY]
    buckets = (table.bucket_count(capacity) + 1) // 2
    step, a = HEAD + capacity * heap.COLUMNS + buckets, HEAD + capacity * WIDTH + buckets
    b, c, d = a + step, a + 2 * step, a + 3 * step
    e = d + tenants_size(arena[d + CAPACITY])
    return arena[:a], arena[a:b], arena[b:c], arena[c:d], arena[d:e], arena[e:]


@njit(cache=True)
def opened(arena):
    """What the kernels pass on: (head, rows, buckets) of the requests, then queue, deadlines, again, then (head, rows,
    buckets) of the tenants."""
    requests, queue, deadlines, again, tenants, _ = parts(arena)
    head, rows, buckets = table.parts(requests)
    thead, theirs, their_buckets = table.parts(tenants)
    return head, rows, buckets, queue, deadlines, again, thead, theirs, their_buckets


@njit(cache=True)
def own_prompts(arena):
    """The bytes of the prompts that the arena keeps, uint8, a view."""
    return parts(arena)[5][PROMPT_HEAD:].view(np.uint8)


@njit(cache=True)
def resized(arena, capacity, tenants, words):
    """The same requests in an arena of other capacities (at least what there is), the old one retired.

    The bytes of prompts are gathered. O(capacity, tenants, words).
    """
    requests, queue, deadlines, again, theirs, prompts = parts(arena)
    gathered = np.zeros(PROMPT_HEAD + words, np.int64)
    gathered[ID_BYTES], gathered[BLOCKS] = prompts[ID_BYTES], prompts[BLOCKS]
    moved = table.resized(requests, capacity)
    _gather(moved, prompts, gathered)
    return _joined(
        moved,
        table.resized(queue, capacity),
        table.resized(deadlines, capacity),
        table.resized(again, capacity),
        table.resized(theirs, tenants),
        gathered,
    )


@njit(cache=True)
def tenants_size(tenants):
    """Elements of the part for that many tenants."""
    return HEAD + tenants * TENANT_WIDTH + (table.bucket_count(tenants) + 1) // 2


@njit(cache=True)
def _gather(requests, prompts, gathered):
    head, rows, _ = table.parts(requests)
    size = prompts[ID_BYTES]
    if size == 0:
        return
    old, data, used = prompts[PROMPT_HEAD:].view(np.uint8), gathered[PROMPT_HEAD:].view(np.uint8), np.int64(0)
    for row in range(head[table.COUNT]):
        start, stop = rows[row, FIRST] * size, (rows[row, FIRST] + rows[row, IDS]) * size
        rows[row, FIRST] = used // size
        for byte in range(start, stop):
            data[used + byte - start] = old[byte]
        used += stop - start
    gathered[USED] = gathered[LIVE] = used


@njit(cache=True)
def _joined(requests, queue, deadlines, again, tenants, prompts):
    size = requests.shape[0] + 3 * queue.shape[0] + tenants.shape[0] + prompts.shape[0]
    arena = np.empty(size, np.int64)
    at = _copied(arena, np.int64(0), requests)
    at = _copied(arena, at, queue)
    at = _copied(arena, at, deadlines)
    at = _copied(arena, at, again)
    at = _copied(arena, at, tenants)
    _copied(arena, at, prompts)
    return arena


@njit(cache=True)
def _copied(arena, at, part):
    for place in range(part.shape[0]):
        arena[at + place] = part[place]
    return at + part.shape[0]
