"""Batches of a scheduler: when one is ready, and which requests it takes. The arrays: `scheduler.layout`.

The tokens to compute of each request of the last batch are left in ledger[LEDGER:LEDGER + ledger[LAST]].
"""

import numpy as np

from .. import clock, heap, histogram, table
from ..compiling import njit, njit_no_nrt
from ..heap import OK
from ..kv_cache import layout as kv
from ..kv_cache.match import follow, searched
from ..simd import prefetch
from ..table import COUNT, KEY, RETIRED
from .layout import (
    AGAIN,
    AGING,
    ASKED_KEY,
    AT_ONCE,
    BATCHES,
    BLOCKS,
    CHUNK,
    COMPUTED,
    FIRST,
    HANDED_OUT,
    HISTOGRAM,
    IDS,
    IN_FLIGHT,
    LAST,
    LEDGER,
    LPM,
    MAX_SIZE,
    MAX_TOKENS,
    MAX_WAIT,
    NEWER,
    NO_CHUNK,
    NOBODY,
    OLDER,
    OLDEST,
    POLICY,
    QUEUED,
    SALT,
    SERVICE,
    TENANT,
    TOKENS,
    TURN,
    WAITING,
    WAITING_TOKENS,
    WFQ,
    WIDTH,
    opened,
    own_prompts,
    parts,
)
from .queue import charge, leave, rank, rekey, step_out

PATIENCE = 3600.0  # seconds after which, with ageing, one that waits is overdue
_ZERO, _ONE = np.int64(0), np.int64(1)


@njit(cache=True)
def take_batch(arena, ledger, now, force, most, batch):
    """Fill batch, int64 (m,), with the ids of a batch that is ready at the clock's `now`, or any if `force`.

    How many, 0 if none is ready, -1 for FULL. At most m, and `most` tokens, whatever the ledger allows. Who has waited
    for MAX_WAIT (with ageing for PATIENCE), or is due within SERVICE, goes first, the longest overdue before the others
    (waiting before deadlines, where both are equally so); then by rank. It ends before the first request that would
    exceed the tokens, unless that is the only one; where requests are computed in chunks, that gets the tokens that are
    left. O(m log n).
    """
    state = opened(arena)
    head, rows, queue = state[0], state[1], state[3]
    if head[RETIRED]:
        return -1
    now = clock.advance(head.view(np.float64), now)
    if not force and not _ready_at(state, ledger) <= now:
        return 0
    taken, total, most = _ZERO, _ZERO, min(most, ledger[MAX_TOKENS])
    room = min(batch.shape[0], ledger[MAX_SIZE])
    while taken < room and queue[WAITING] > 0:
        m = _expected(state, ledger, now, min(room - taken, AT_ONCE), most - total)
        if m > 1:
            came, count = _take_best(state, ledger, now, most - total, batch, taken, m)
            taken, total = taken + came, total + count
            if came < m:
                break
            continue
        row = _next(state, ledger, now)
        count = _share(rows, queue, row, rows[row, COMPUTED], most - total, taken)
        if count < 0:
            break
        _hand_out(state, ledger, row, rows[row, COMPUTED], count, now, batch, taken)
        taken, total = taken + 1, total + count
    _close(ledger, taken)
    return taken


@njit(cache=True)
def take_batch_cached(pool, seqs, tables, ids, store, arena, prompts, ledger, now, force, most, batch):
    """As `take_batch`, beside a KV cache (its state: `kv_cache.sequences`): (OK, count), or (FULL, 0) where that is
    retired.

    What the cache holds of a prompt need not be computed, but for the last token. Under LPM all that wait are looked
    up first. prompts: uint8, where the prompts lie; (0,) for those that the arena keeps. O(ids looked up + m log n).
    """
    state = opened(arena)
    head, rows, queue = state[0], state[1], state[3]
    if seqs[RETIRED]:
        return heap.FULL, 0, 0
    if head[RETIRED]:
        return OK, -1, 0
    now = clock.advance(head.view(np.float64), now)
    if not force and not _ready_at(state, ledger) <= now:
        return OK, 0, 0
    if prompts.shape[0] == 0:
        prompts = own_prompts(arena)
    cache = kv.parts(pool), searched(ids, store, prompts), np.empty(0, np.int64)
    blocks, reals = parts(arena)[5][BLOCKS] != 0, rows.view(np.float64)
    if head[POLICY] == LPM:
        for row in range(head[COUNT]):
            if rows[row, OLDER] != IN_FLIGHT:
                key = min(0.0 - _found(cache, rows, row, blocks), 0.0 - rows[row, COMPUTED])
                if key != reals[row, ASKED_KEY]:
                    rekey(state, row, key)
    taken, total, most = _ZERO, _ZERO, min(most, ledger[MAX_TOKENS])
    while taken < min(batch.shape[0], ledger[MAX_SIZE]) and queue[WAITING] > 0:
        row = _next(state, ledger, now)
        if head[POLICY] == LPM:
            found = np.int64(-reals[row, ASKED_KEY])
        else:
            found = _found(cache, rows, row, blocks)
        start = max(rows[row, COMPUTED], min(found, rows[row, TOKENS] - 1))
        count = _share(rows, queue, row, start, most - total, taken)
        if count < 0:
            break
        _hand_out(state, ledger, row, start, count, now, batch, taken)
        taken, total = taken + 1, total + count
    _close(ledger, taken)
    return OK, taken, 0


@njit(cache=True)
def peek(arena, ledger, now):
    """Id of the waiting request that a batch at the clock's `now` would begin with, -1 if none waits. O(1).

    Under LPM, by what the last `take_batch_cached` found.
    """
    state = opened(arena)
    head, rows, queue = state[0], state[1], state[3]
    if queue[WAITING] == 0:
        return np.int64(-1)
    return rows[_next(state, ledger, now - head.view(np.float64)[clock.EPOCH]), KEY]


@njit(cache=True)
def ready_at(arena, ledger):
    """The clock's time from which a batch is ready if nothing else comes: inf if never, -inf if it is full. O(1)."""
    state = opened(arena)
    return state[0].view(np.float64)[clock.EPOCH] + _ready_at(state, ledger)


@njit(cache=True)
def _found(cache, rows, row, blocks):
    """How many leading tokens of a request's prompt the cache holds, int64."""
    pages, data, path = cache
    first = rows[row, FIRST]
    found, _ = follow(pages, data, first, first + rows[row, IDS], rows[row, SALT], blocks, path)
    return found * pages.head[kv.PAGE_SIZE] if blocks else found


@njit_no_nrt(cache=True)
def _share(rows, queue, row, start, left, taken):
    """How many tokens of a request to compute from `start` on, `left` being allowed; -1 if it must wait."""
    count = min(rows[row, TOKENS] - start, queue[CHUNK])
    if count <= left:
        return count
    if queue[CHUNK] < NO_CHUNK:
        return left if left > 0 else np.int64(-1)
    return count if taken == 0 and left > 0 else np.int64(-1)


@njit_no_nrt(cache=True)
def _hand_out(state, ledger, row, start, count, now, batch, place):
    _note(state, ledger, row, count, now, batch, place)
    leave(state, row)
    rows = state[1]
    rows[row, COMPUTED] = start + count


@njit_no_nrt(cache=True)
def _note(state, ledger, row, count, now, batch, place):
    """Write down that a request which is about to leave has `count` tokens computed."""
    head, rows = state[0], state[1]
    batch[place] = rows[row, KEY]
    ledger[LEDGER + place] = count
    if rows[row, OLDER] != AGAIN:
        histogram.add(ledger[HISTOGRAM:LAST], now - rows.view(np.float64)[row, QUEUED])
    if head[POLICY] == WFQ:
        charge(state, rows[row, TENANT], count)


@njit_no_nrt(cache=True)
def _expected(state, ledger, now, most, left):
    """How many requests, at most `most`, the queue alone decides on that will fit in `left` tokens if they are like all
    that wait; 0 where something else decides."""
    head, _, _, queue, _, _, _, _, _ = state
    wait_over, _, service_due = _overdue_at(state, ledger)
    if head[POLICY] == WFQ or min(wait_over, service_due) <= now:
        return _ZERO
    fit = np.float64(left) * queue[WAITING] / max(head[WAITING_TOKENS], 1)
    return min(most, queue[WAITING], np.int64(min(fit, np.float64(most))))


@njit_no_nrt(cache=True)
def _take_best(state, ledger, now, left, batch, first, m):
    """Hand out the `m` that are first in the queue, from batch[first] on, while they fit in `left` tokens, above 0.

    How many, and their tokens. Nobody is overdue (and nobody becomes so by others leaving), and not under WFQ. All are
    looked up before the first is needed, so that the memory they lie in is waited for once.
    """
    head, rows, buckets, queue, _, _, _, theirs, _ = state
    for place in range(first, first + m):
        _, _, batch[place] = heap.pop(queue)
    table.prefetch_rows(rows, buckets, batch[first : first + m], np.int64(COMPUTED + 1))
    for place in range(first, first + m):
        row = table.find(rows, buckets, batch[place])
        ledger[LEDGER + place] = row
        prefetch(rows, max(rows[row, OLDER], _ZERO) * WIDTH + NEWER, _ONE)
        prefetch(rows, max(rows[row, NEWER], _ZERO) * WIDTH + OLDER, _ONE)
    total = _ZERO
    for place in range(first, first + m):
        row = ledger[LEDGER + place]
        count = _share(rows, queue, row, rows[row, COMPUTED], left - total, place)
        if count < 0:
            for back in range(place, first + m):
                row = ledger[LEDGER + back]
                heap.push_in_turn(queue, rows[row, KEY], rank(head, rows, theirs, row), rows[row, TURN])
            return place - first, total
        _note(state, ledger, row, count, now, batch, place)
        step_out(state, row)
        rows[row, COMPUTED] += count
        total += count
    return m, total


@njit_no_nrt(cache=True)
def _close(ledger, taken):
    ledger[LAST] = taken if taken > 0 else ledger[LAST]
    if taken > 0:
        ledger[BATCHES] += 1
        ledger[HANDED_OUT] += taken


@njit_no_nrt(cache=True)
def _ready_at(state, ledger):
    """The second from which a batch is ready; see `ready_at`."""
    head, _, _, queue, _, _, _, _, _ = state
    if queue[WAITING] == 0:
        return np.inf
    if queue[WAITING] >= ledger[MAX_SIZE] or head[WAITING_TOKENS] >= ledger[MAX_TOKENS]:
        return -np.inf
    return min(_oldest(state)[0] + ledger.view(np.float64)[MAX_WAIT], _service_due(state, ledger))


@njit_no_nrt(cache=True)
def _oldest(state):
    """(the second since when somebody waits, the row)."""
    head, rows, buckets, _, _, again, _, _, _ = state
    reals, row = rows.view(np.float64), head[OLDEST]
    code, since, request_id = heap.peek(again)
    if code == OK:
        other = table.find(rows, buckets, request_id)
        equal = row != NOBODY and since == reals[row, QUEUED] and rows[other, TURN] < rows[row, TURN]
        if row == NOBODY or since < reals[row, QUEUED] or equal:
            row = other
    return reals[row, QUEUED], row


@njit_no_nrt(cache=True)
def _service_due(state, ledger):
    code, deadline, _ = heap.peek(state[4])
    return deadline - ledger.view(np.float64)[SERVICE] if code == OK else np.inf


@njit_no_nrt(cache=True)
def _overdue_at(state, ledger):
    """(second from which the oldest is overdue by waiting, its row, second from which one is by deadline)."""
    since, oldest = _oldest(state)
    patience = PATIENCE if state[0].view(np.float64)[AGING] > 0 else np.inf
    return since + min(ledger.view(np.float64)[MAX_WAIT], patience), oldest, _service_due(state, ledger)


@njit_no_nrt(cache=True)
def _next(state, ledger, now):
    """The row of the waiting request that goes next."""
    _, rows, buckets, queue, deadlines, _, _, _, _ = state
    wait_over, oldest, service_due = _overdue_at(state, ledger)
    if min(wait_over, service_due) > now:
        _, _, request_id = heap.peek(queue)
    elif wait_over <= service_due:
        return oldest
    else:
        _, _, request_id = heap.peek(deadlines)
    return table.find(rows, buckets, request_id)
