"""Requests that wait, are handed out in batches, and finish: one int64 array and a small ledger.

The arena is three arenas end to end, of one capacity, cut apart by `parts`:

    requests   a `table` of requests by id, rows dense: row[TOKENS], row[ASKED_KEY] (the policy's key),
               row[SUBMITTED], row[QUEUED] (when its present waiting began), row[DEADLINE] (inf: none), and
               the links row[OLDER], row[NEWER] of those waiting, in the order in which they began to
               wait (rows, NOBODY at the ends; OLDER is IN_FLIGHT for a request handed out)
    queue      a `heap` of those waiting by rank: the key plus AGING times the second in which waiting began.
               Waiting a second lowers every key by AGING, so the order between two never changes by
               waiting alone, and what stands in the heap never has to
    deadlines  a `heap` of those waiting that have a deadline

Times are the arena's seconds (`clock`), as the bits of float64, and so are keys. Keys come from the
policy: SJF tokens, FCFS the second in which waiting began, EDF the deadline, CUSTOM from the caller.

The ledger, int64 (LEDGER,), holds what concerns batches: their limits, their number, and from HISTOGRAM on
a `histogram` of the waits of all that were handed out.

FULL (-1 where a count is returned) means that nothing was changed, and `resized` must make room
first, or that it already has (the arena is retired): take the new one and call again.
"""

import numpy as np

from . import clock, heap, histogram, table
from .compiling import njit
from .heap import ABSENT, FULL, OK
from .table import CAPACITY, COUNT, FREE, HEAD, KEY, RETIRED, TOP

SJF, FCFS, EDF, CUSTOM = 0, 1, 2, 3

NEXT_ID, OLDEST, NEWEST, POLICY, AGING, COMPLETED, MISSES, WAITING_TOKENS = 8, 9, 10, 11, 12, 13, 14, 15
TOKENS, ASKED_KEY, SUBMITTED, QUEUED, DEADLINE, OLDER, NEWER, WIDTH = 2, 3, 4, 5, 6, 7, 8, np.int64(9)
_SMALLEST_FIRST = np.bool_(False)
NOBODY, IN_FLIGHT, COMPLETING = -1, -2, -3
MOST_TOKENS = 2**31 - 1

MAX_SIZE, MAX_TOKENS, MAX_WAIT, SERVICE, BATCHES, HANDED_OUT, HISTOGRAM = 0, 1, 2, 3, 4, 5, 6
LEDGER = HISTOGRAM + histogram.STEPS


@njit(cache=True)
def new(capacity, policy, aging):
    """An empty arena for `capacity` requests under `policy`, keys sinking by `aging` (float64) a second."""
    arena = np.empty(_heap_start(capacity, np.int64(2)), np.int64)
    _join(arena, table.new(capacity, WIDTH), heap.new(capacity, _SMALLEST_FIRST), heap.new(capacity, _SMALLEST_FIRST))
    arena[OLDEST] = arena[NEWEST] = NOBODY
    arena[POLICY] = policy
    seconds = arena.view(np.float64)
    seconds[AGING], seconds[clock.LATEST] = aging, -np.inf
    return arena


@njit(cache=True)
def new_ledger(max_size, max_tokens, max_wait, service):
    """A ledger for batches of at most `max_size` requests and `max_tokens` tokens; seconds of waiting that make one
    ready, and seconds that serving one takes (float64, waiting may be inf)."""
    ledger = np.zeros(LEDGER, np.int64)
    ledger[MAX_SIZE], ledger[MAX_TOKENS] = max_size, max_tokens
    seconds = ledger.view(np.float64)
    seconds[MAX_WAIT], seconds[SERVICE] = max_wait, service
    return ledger


@njit(cache=True)
def parts(arena):
    """(requests, queue, deadlines), views of `arena`, each an arena in itself."""
    capacity = arena[CAPACITY]
    first, second = _heap_start(capacity, np.int64(0)), _heap_start(capacity, np.int64(1))
    return arena[:first], arena[first:second], arena[second:]


@njit(cache=True)
def submit(arena, now, tokens, slo, key):
    """Id of a new request of `tokens` (int64), due `slo` seconds (float64, inf: never) after the clock's `now`.

    `key` (float64, no NaN) counts under CUSTOM alone. -1 for FULL. O(log n).
    """
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED] or head[COUNT] == rows.shape[0]:
        return np.int64(-1)
    now = clock.advance(head.view(np.float64), now)
    return _submit(head, rows, buckets, queue, deadlines, now, tokens, slo, key)


@njit(cache=True)
def submit_many(arena, now, tokens, slos):
    """`submit` for tokens int64 (m,) and slos float64 (m,): id of the first, the others follow; -1 for FULL.

    Not under CUSTOM. O(m log n).
    """
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED] or rows.shape[0] - head[COUNT] < tokens.shape[0]:
        return np.int64(-1)
    now = clock.advance(head.view(np.float64), now)
    first = head[NEXT_ID]
    for e in range(tokens.shape[0]):
        _submit(head, rows, buckets, queue, deadlines, now, tokens[e], slos[e], 0.0)
    return first


@njit(cache=True)
def take_batch(arena, ledger, now, force, batch):
    """Fill batch, int64 (m,), with the ids of a batch that is ready at the clock's `now`, or any if `force`.

    How many, 0 if none is ready, -1 for FULL. Who has waited for MAX_WAIT, or is due within SERVICE, goes
    first, the longest overdue before the others (waiting before deadlines, where both are equally so); then by
    rank. It ends before the first request that would exceed MAX_TOKENS, unless that is the only one. O(m log n).
    """
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED]:
        return -1
    now = clock.advance(head.view(np.float64), now)
    if not force and not _ready_at(head, rows, queue, deadlines, ledger) <= now:
        return 0
    waits, taken, total = rows.view(np.float64), 0, 0
    while taken < min(batch.shape[0], ledger[MAX_SIZE]) and queue[COUNT] > 0:
        row = _next(head, rows, buckets, queue, deadlines, ledger, now)
        total += rows[row, TOKENS]
        if taken > 0 and total > ledger[MAX_TOKENS]:
            break
        batch[taken] = rows[row, KEY]
        taken += 1
        histogram.add(ledger[HISTOGRAM:], now - waits[row, QUEUED])
        _leave_queue(head, rows, queue, deadlines, row)
    if taken > 0:
        ledger[BATCHES] += 1
        ledger[HANDED_OUT] += taken
    return taken


@njit(cache=True)
def peek(arena, ledger, now):
    """Id of the waiting request that a batch at the clock's `now` would begin with, -1 if none waits. O(1)."""
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if queue[COUNT] == 0:
        return np.int64(-1)
    return rows[_next(head, rows, buckets, queue, deadlines, ledger, now - head.view(np.float64)[clock.EPOCH]), KEY]


@njit(cache=True)
def ready_at(arena, ledger):
    """The clock's time from which a batch is ready if nothing else comes: inf if never, -inf if it is full. O(1)."""
    requests, queue, deadlines = parts(arena)
    head, rows, _ = table.parts(requests)
    return head.view(np.float64)[clock.EPOCH] + _ready_at(head, rows, queue, deadlines, ledger)


@njit(cache=True)
def complete(arena, now, ids):
    """Forget ids, int64 (m,), all of them in flight at the clock's `now`, or none of them. O(m).

    (OK, m), (ABSENT, place of the first that is not in flight, or comes twice), or (FULL, 0).
    """
    requests, _, _ = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED]:
        return FULL, 0
    for e in range(ids.shape[0]):
        row = table.find(rows, buckets, ids[e])
        if row < 0 or rows[row, OLDER] != IN_FLIGHT:
            for back in range(e):
                rows[table.find(rows, buckets, ids[back]), OLDER] = IN_FLIGHT
            return ABSENT, e
        rows[row, OLDER] = COMPLETING
    now = clock.advance(head.view(np.float64), now)
    for e in range(ids.shape[0]):
        _forget(head, rows, buckets, table.find(rows, buckets, ids[e]), now)
    head[COMPLETED] += ids.shape[0]
    return OK, ids.shape[0]


@njit(cache=True)
def cancel(arena, now, request_id):
    """Forget a request, waiting or in flight, at the clock's `now`. OK, ABSENT or FULL. O(log n)."""
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    if rows[row, OLDER] != IN_FLIGHT:
        _leave_queue(head, rows, queue, deadlines, row)
    _forget(head, rows, buckets, row, clock.advance(head.view(np.float64), now))
    return OK


@njit(cache=True)
def update(arena, now, request_id, tokens, key):
    """Give a request other `tokens`, and under CUSTOM another `key`; OK, ABSENT or FULL. O(log n).

    One in flight is put back in the queue, where its waiting begins anew at the clock's `now`.
    """
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    reals = rows.view(np.float64)
    now = clock.advance(head.view(np.float64), now)
    if rows[row, OLDER] == IN_FLIGHT:
        rows[row, TOKENS] = tokens
        _join_queue(head, rows, queue, deadlines, row, now, key)
    else:
        head[WAITING_TOKENS] += tokens - rows[row, TOKENS]
        rows[row, TOKENS] = tokens
        reals[row, ASKED_KEY] = _key(head, rows, reals, row, key)
        heap.update(queue, request_id, _rank(head, reals, row), heap.ANY_WAY)
    return OK


@njit(cache=True)
def look_up(arena, request_id):
    """(OK or ABSENT, tokens, key, submitted, deadline, whether it is in flight), times on the clock. O(1)."""
    requests, _, _ = parts(arena)
    head, rows, buckets = table.parts(requests)
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT, np.int64(0), 0.0, 0.0, 0.0, False
    reals, epoch = rows.view(np.float64), head.view(np.float64)[clock.EPOCH]
    key = reals[row, ASKED_KEY]
    if head[POLICY] == FCFS or head[POLICY] == EDF:
        key += epoch
    submitted, deadline = epoch + reals[row, SUBMITTED], epoch + reals[row, DEADLINE]
    return OK, rows[row, TOKENS], key, submitted, deadline, rows[row, OLDER] == IN_FLIGHT


@njit(cache=True)
def resized(arena, capacity):
    """The same requests in an arena of another capacity (at least the count), the old one retired. O(capacity)."""
    larger = np.empty(_heap_start(capacity, np.int64(2)), np.int64)
    requests, queue, deadlines = parts(arena)
    _join(
        larger,
        table.resized(requests, capacity),
        table.resized(queue, capacity),
        table.resized(deadlines, capacity),
    )
    return larger


@njit(cache=True)
def well_formed(arena):
    """Whether `parts` may cut this array (any int64 array (n,)) into three arenas."""
    if arena.shape[0] < HEAD or not 0 <= arena[CAPACITY] < 2**31:
        return False
    capacity = arena[CAPACITY]
    if arena.shape[0] != _heap_start(capacity, np.int64(2)):
        return False
    requests, queue, deadlines = parts(arena)
    return (
        table.well_formed(requests, WIDTH)
        and table.well_formed(queue, heap.COLUMNS)
        and table.well_formed(deadlines, heap.COLUMNS)
        and queue[CAPACITY] == capacity
        and deadlines[CAPACITY] == capacity
    )


@njit(cache=True)
def first_fault(arena):
    """First row of the requests that is impossible, or that a queue or a link does not know.

    -1 if there is none, -2 where head, queues and links do not add up. Safe on any contents of a `well_formed` arena.
    """
    requests, queue, deadlines = parts(arena)
    head, rows, buckets = table.parts(requests)
    if (
        table.first_fault(head, rows, buckets) != -1
        or heap.first_fault(queue) != -1
        or heap.first_fault(deadlines) != -1
    ):
        return np.int64(-2)
    reals, seconds = rows.view(np.float64), head.view(np.float64)
    if not (
        head[FREE] == -1
        and head[TOP] == head[COUNT]
        and queue[heap.SIGN] == 1
        and deadlines[heap.SIGN] == 1
        and head[NEXT_ID] >= 0
        and SJF <= head[POLICY] <= CUSTOM
        and 0 <= seconds[AGING] < np.inf
        and np.isfinite(seconds[clock.EPOCH])
        and seconds[clock.LATEST] < np.inf
        and head[COMPLETED] >= 0
        and head[MISSES] >= 0
    ):
        return np.int64(-2)
    waiting, urgent, tokens = 0, 0, 0
    for row in range(head[COUNT]):
        if not (
            0 <= rows[row, KEY] < head[NEXT_ID]
            and 0 <= rows[row, TOKENS] <= MOST_TOKENS
            and np.isfinite(reals[row, SUBMITTED])
            and reals[row, SUBMITTED] <= reals[row, QUEUED] <= seconds[clock.LATEST]
            and reals[row, DEADLINE] >= reals[row, SUBMITTED]
            and not np.isnan(reals[row, ASKED_KEY])
        ):
            return np.int64(row)
        if rows[row, OLDER] == IN_FLIGHT:
            continue
        waiting += 1
        tokens += rows[row, TOKENS]
        present, rank = heap.find(queue, rows[row, KEY])
        if not present or rank != _rank(head, reals, row):
            return np.int64(row)
        if head[POLICY] != CUSTOM and reals[row, ASKED_KEY] != _key(head, rows, reals, row, 0.0):
            return np.int64(row)
        present, deadline = heap.find(deadlines, rows[row, KEY])
        if present != (reals[row, DEADLINE] < np.inf) or (present and deadline != reals[row, DEADLINE]):
            return np.int64(row)
        urgent += present
    if waiting != queue[COUNT] or urgent != deadlines[COUNT] or tokens != head[WAITING_TOKENS]:
        return np.int64(-2)
    row, before = head[OLDEST], np.int64(NOBODY)
    while row != NOBODY:
        if row < 0 or row >= head[COUNT] or rows[row, OLDER] != before or waiting == 0:
            return np.int64(-2)
        if before != NOBODY and reals[row, QUEUED] < reals[before, QUEUED]:
            return np.int64(row)
        waiting -= 1
        before, row = row, rows[row, NEWER]
    return np.int64(-1 if waiting == 0 and before == head[NEWEST] else -2)


@njit(cache=True)
def ledger_adds_up(ledger):
    """Whether any int64 array (n,) is a ledger."""
    if ledger.shape[0] != LEDGER:
        return False
    seconds = ledger.view(np.float64)
    return (
        ledger[MAX_SIZE] >= 1
        and ledger[MAX_TOKENS] >= 1
        and seconds[MAX_WAIT] >= 0
        and 0 <= seconds[SERVICE] < np.inf
        and 0 <= ledger[BATCHES] <= ledger[HANDED_OUT] == histogram.total(ledger[HISTOGRAM:])
    )


@njit(cache=True)
def _heap_start(capacity, heaps):
    """Where the arena of requests and that many heaps behind it end."""
    buckets = (table.bucket_count(capacity) + 1) // 2
    return HEAD + capacity * WIDTH + buckets + heaps * (HEAD + capacity * heap.COLUMNS + buckets)


@njit(cache=True)
def _join(arena, requests, queue, deadlines):
    first, second = requests.shape[0], requests.shape[0] + queue.shape[0]
    for at in range(first):
        arena[at] = requests[at]
    for at in range(queue.shape[0]):
        arena[first + at] = queue[at]
    for at in range(deadlines.shape[0]):
        arena[second + at] = deadlines[at]


@njit(cache=True)
def _submit(head, rows, buckets, queue, deadlines, now, tokens, slo, key):
    row, request_id, reals = head[COUNT], head[NEXT_ID], rows.view(np.float64)
    table.insert(rows, buckets, row, request_id)
    head[NEXT_ID] += 1
    head[COUNT] = head[TOP] = row + 1
    rows[row, TOKENS] = tokens
    reals[row, SUBMITTED], reals[row, DEADLINE] = now, now + slo
    _join_queue(head, rows, queue, deadlines, row, now, key)
    return request_id


@njit(cache=True)
def _key(head, rows, reals, row, key):
    if head[POLICY] == SJF:
        return np.float64(rows[row, TOKENS])
    if head[POLICY] == FCFS:
        return reals[row, QUEUED]
    if head[POLICY] == EDF:
        return reals[row, DEADLINE]
    return key


@njit(cache=True)
def _rank(head, reals, row):
    key = reals[row, ASKED_KEY]
    if np.isinf(key):  # nothing ages it, and an infinite sum on the other side would make it NaN
        return key
    return key + head.view(np.float64)[AGING] * reals[row, QUEUED]


@njit(cache=True)
def _join_queue(head, rows, queue, deadlines, row, now, key):
    """Let a request begin to wait."""
    reals = rows.view(np.float64)
    reals[row, QUEUED] = now
    reals[row, ASKED_KEY] = _key(head, rows, reals, row, key)
    rows[row, OLDER], rows[row, NEWER] = head[NEWEST], NOBODY
    if head[NEWEST] == NOBODY:
        head[OLDEST] = row
    else:
        rows[head[NEWEST], NEWER] = row
    head[NEWEST] = row
    head[WAITING_TOKENS] += rows[row, TOKENS]
    heap.push(queue, rows[row, KEY], _rank(head, reals, row))
    if reals[row, DEADLINE] < np.inf:
        heap.push(deadlines, rows[row, KEY], reals[row, DEADLINE])


@njit(cache=True)
def _leave_queue(head, rows, queue, deadlines, row):
    """Let a waiting request be in flight."""
    older, newer = rows[row, OLDER], rows[row, NEWER]
    _link(head, rows, older, newer)
    rows[row, OLDER] = IN_FLIGHT
    head[WAITING_TOKENS] -= rows[row, TOKENS]
    heap.delete(queue, rows[row, KEY])
    if rows.view(np.float64)[row, DEADLINE] < np.inf:
        heap.delete(deadlines, rows[row, KEY])


@njit(cache=True)
def _link(head, rows, older, newer):
    if older == NOBODY:
        head[OLDEST] = newer
    else:
        rows[older, NEWER] = newer
    if newer == NOBODY:
        head[NEWEST] = older
    else:
        rows[newer, OLDER] = older


@njit(cache=True)
def _forget(head, rows, buckets, row, now):
    """Take out a request that is in flight or completing; the last row takes its place."""
    if now > rows.view(np.float64)[row, DEADLINE]:
        head[MISSES] += 1
    table.remove(rows, buckets, row)
    last = head[COUNT] - 1
    head[COUNT] = head[TOP] = last
    if row == last:
        return
    for column in range(WIDTH):
        rows[row, column] = rows[last, column]
    table.moved(rows, buckets, row)
    rows[last, table.BUCKET] = -1
    if rows[row, OLDER] >= NOBODY:
        older, newer = rows[row, OLDER], rows[row, NEWER]
        _link(head, rows, older, row)
        _link(head, rows, row, newer)


@njit(cache=True)
def _ready_at(head, rows, queue, deadlines, ledger):
    """The second from which a batch is ready; see `ready_at`."""
    if queue[COUNT] == 0:
        return np.inf
    if queue[COUNT] >= ledger[MAX_SIZE] or head[WAITING_TOKENS] >= ledger[MAX_TOKENS]:
        return -np.inf
    return min(_wait_over(head, rows, ledger), _service_due(deadlines, ledger))


@njit(cache=True)
def _wait_over(head, rows, ledger):
    return rows.view(np.float64)[head[OLDEST], QUEUED] + ledger.view(np.float64)[MAX_WAIT]


@njit(cache=True)
def _service_due(deadlines, ledger):
    code, deadline, _ = heap.peek(deadlines)
    return deadline - ledger.view(np.float64)[SERVICE] if code == OK else np.inf


@njit(cache=True)
def _next(head, rows, buckets, queue, deadlines, ledger, now):
    """The row of the waiting request that goes next."""
    wait_over, service_due = _wait_over(head, rows, ledger), _service_due(deadlines, ledger)
    if min(wait_over, service_due) > now:
        _, _, request_id = heap.peek(queue)
    elif wait_over <= service_due:
        return head[OLDEST]
    else:
        _, _, request_id = heap.peek(deadlines)
    return table.find(rows, buckets, request_id)
