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
from . import layout
from .policies import LPM, WFQ
from .queue import charge, leave, rank, rekey, stop_waiting

PATIENCE = 3600.0  # seconds of waiting after which, with ageing, a request is overdue
_ZERO, _ONE = np.int64(0), np.int64(1)


@njit(cache=True)
def take_batch(arena, ledger, now, force, most, batch):
    """Fill batch, int64 (m,), with the ids of a batch that is ready at the clock's `now`, or of any if `force`.

    Return how many, 0 if none is ready, -1 for FULL. At most m, and `most` tokens, whatever the ledger allows. Requests
    that have waited for MAX_WAIT (with ageing for PATIENCE), or are due within SERVICE, go first, the longest overdue
    before the others (by waiting before by deadline if equal); then by rank. The batch ends before the first request
    that would exceed the tokens, unless that is the only one; where requests are computed in chunks, it gets the tokens
    that are left. O(m log n).
    """
    state = layout.opened(arena)
    head, rows, queue = state.head, state.rows, state.queue
    if head[RETIRED]:
        return -1
    now = clock.advance(head.view(np.float64), now)
    if not force and not _ready_at(state, ledger) <= now:
        return 0
    taken, total, most = _ZERO, _ZERO, min(most, ledger[layout.MAX_TOKENS])
    room = min(batch.shape[0], ledger[layout.MAX_SIZE])
    while taken < room and queue[layout.WAITING] > 0:
        m = _expected(state, ledger, now, min(room - taken, layout.AT_ONCE), most - total)
        if m > 1:
            added, count = _take_best(state, ledger, now, most - total, batch, taken, m)
            taken, total = taken + added, total + count
            if added < m:
                break
            continue
        row = _next(state, ledger, now)
        count = _share(rows, queue, row, rows[row, layout.COMPUTED], most - total, taken)
        if count < 0:
            break
        _hand_out(state, ledger, row, rows[row, layout.COMPUTED], count, now, batch, taken)
        taken, total = taken + 1, total + count
    _close(ledger, taken)
    return taken


@njit(cache=True)
def take_batch_cached(pool, seqs, tables, ids, store, arena, prompts, ledger, now, force, most, batch):
    """`take_batch` beside a KV cache: return (OK, count, 0), or (FULL, 0, 0) if the cache's arrays are retired.

    The first five arguments are the cache's `Arrays` (`kv_cache.layout`), in order. What the cache holds of a prompt
    need not be computed, but for the last token. Under LPM all waiting requests are looked up first. prompts: uint8,
    the bytes of the prompts' ids; (0,) for those that the arena keeps. O(ids looked up + m log n).
    """
    state = layout.opened(arena)
    head, rows, queue = state.head, state.rows, state.queue
    if seqs[RETIRED]:
        return heap.FULL, 0, 0
    if head[RETIRED]:
        return OK, -1, 0
    now = clock.advance(head.view(np.float64), now)
    if not force and not _ready_at(state, ledger) <= now:
        return OK, 0, 0
    if prompts.shape[0] == 0:
        prompts = layout.own_prompts(arena)
    cache = kv.parts(pool), searched(ids, store, prompts), np.empty(0, np.int64)
    blocks, reals = layout.parts(arena).prompts[layout.BLOCKS] != 0, rows.view(np.float64)
    if head[layout.POLICY] == LPM:
        for row in range(head[COUNT]):
            if rows[row, layout.OLDER] != layout.IN_FLIGHT:
                key = min(0.0 - _found(cache, rows, row, blocks), 0.0 - rows[row, layout.COMPUTED])
                if key != reals[row, layout.POLICY_KEY]:
                    rekey(state, row, key)
    taken, total, most = _ZERO, _ZERO, min(most, ledger[layout.MAX_TOKENS])
    while taken < min(batch.shape[0], ledger[layout.MAX_SIZE]) and queue[layout.WAITING] > 0:
        row = _next(state, ledger, now)
        if head[layout.POLICY] == LPM:
            found = np.int64(-reals[row, layout.POLICY_KEY])
        else:
            found = _found(cache, rows, row, blocks)
        start = max(rows[row, layout.COMPUTED], min(found, rows[row, layout.TOKENS] - 1))
        count = _share(rows, queue, row, start, most - total, taken)
        if count < 0:
            break
        _hand_out(state, ledger, row, start, count, now, batch, taken)
        taken, total = taken + 1, total + count
    _close(ledger, taken)
    return OK, taken, 0


@njit(cache=True)
def peek(arena, ledger, now):
    """Return the id of the request that a batch at the clock's `now` would begin with, -1 if none waits. O(1).

    Under LPM, by what the last `take_batch_cached` found.
    """
    state = layout.opened(arena)
    head, rows, queue = state.head, state.rows, state.queue
    if queue[layout.WAITING] == 0:
        return np.int64(-1)
    return rows[_next(state, ledger, now - head.view(np.float64)[clock.EPOCH]), KEY]


@njit(cache=True)
def ready_at(arena, ledger):
    """Return the clock's time from which a batch is ready if nothing else is submitted. O(1).

    inf if never, -inf if a batch is full.
    """
    state = layout.opened(arena)
    return state.head.view(np.float64)[clock.EPOCH] + _ready_at(state, ledger)


@njit(cache=True)
def _found(cache, rows, row, blocks):
    """Return how many leading tokens of a request's prompt the cache holds, int64."""
    pages, data, path = cache
    first, salt = rows[row, layout.FIRST], rows[row, layout.SALT]
    stop = first + rows[row, layout.IDS]
    found, _ = follow(pages, data, first, stop, salt, blocks, path)
    return found * pages.head[kv.PAGE_SIZE] if blocks else found


@njit_no_nrt(cache=True)
def _share(rows, queue, row, start, left, taken):
    """Return how many tokens of a request to compute from `start` on if `left` are allowed; -1 if it must wait."""
    count = min(rows[row, layout.TOKENS] - start, queue[layout.CHUNK])
    if count <= left:
        return count
    if queue[layout.CHUNK] < layout.NO_CHUNK:
        return left if left > 0 else np.int64(-1)
    return count if taken == 0 and left > 0 else np.int64(-1)


@njit_no_nrt(cache=True)
def _hand_out(state, ledger, row, start, count, now, batch, place):
    """Put a request into the batch, with `count` tokens to compute from `start` on."""
    _note(state, ledger, row, count, now, batch, place)
    leave(state, row)
    state.rows[row, layout.COMPUTED] = start + count


@njit_no_nrt(cache=True)
def _note(state, ledger, row, count, now, batch, place):
    """Record that `count` tokens of a request that is about to leave the queue are computed."""
    head, rows = state.head, state.rows
    batch[place] = rows[row, KEY]
    ledger[layout.LEDGER + place] = count
    if rows[row, layout.OLDER] != layout.AGAIN:
        histogram.add(ledger[layout.HISTOGRAM : layout.LAST], now - rows.view(np.float64)[row, layout.QUEUED])
    if head[layout.POLICY] == WFQ:
        charge(state, rows[row, layout.TENANT], count)


@njit_no_nrt(cache=True)
def _expected(state, ledger, now, most, left):
    """Return how many requests, at most `most`, to take by the queue alone; 0 where something else decides.

    So many as fit in `left` tokens if they are like all that wait.
    """
    head, queue = state.head, state.queue
    wait_over, _, service_due = _overdue_at(state, ledger)
    if head[layout.POLICY] == WFQ or min(wait_over, service_due) <= now:
        return _ZERO
    fit = np.float64(left) * queue[layout.WAITING] / max(head[layout.WAITING_TOKENS], 1)
    return min(most, queue[layout.WAITING], np.int64(min(fit, np.float64(most))))


@njit_no_nrt(cache=True)
def _take_best(state, ledger, now, left, batch, first, m):
    """Take the first `m` of the queue, to batch[first] and on, while they fit in `left` tokens (more than 0).

    Return how many, and their tokens. Not under WFQ, nor if a request is overdue (none becomes so when others leave).
    All rows are prefetched before the first is needed, so that their memory is waited for only once.
    """
    head, rows, buckets, queue = state.head, state.rows, state.buckets, state.queue
    for place in range(first, first + m):
        _, _, batch[place] = heap.pop(queue)
    table.prefetch_rows(rows, buckets, batch[first : first + m], np.int64(layout.COMPUTED + 1))
    for place in range(first, first + m):
        row = table.find(rows, buckets, batch[place])
        ledger[layout.LEDGER + place] = row
        prefetch(rows, max(rows[row, layout.OLDER], _ZERO) * layout.WIDTH + layout.NEWER, _ONE)
        prefetch(rows, max(rows[row, layout.NEWER], _ZERO) * layout.WIDTH + layout.OLDER, _ONE)
    total = _ZERO
    for place in range(first, first + m):
        row = ledger[layout.LEDGER + place]
        count = _share(rows, queue, row, rows[row, layout.COMPUTED], left - total, place)
        if count < 0:
            for back in range(place, first + m):
                row = ledger[layout.LEDGER + back]
                heap.push_in_turn(
                    queue, rows[row, KEY], rank(head, rows, state.tenant_rows, row), rows[row, layout.TURN]
                )
            return place - first, total
        _note(state, ledger, row, count, now, batch, place)
        stop_waiting(state, row)
        rows[row, layout.COMPUTED] += count
        total += count
    return m, total


@njit_no_nrt(cache=True)
def _close(ledger, taken):
    """Count a batch of `taken` requests, unless it is empty."""
    ledger[layout.LAST] = taken if taken > 0 else ledger[layout.LAST]
    if taken > 0:
        ledger[layout.BATCHES] += 1
        ledger[layout.HANDED_OUT] += taken


@njit_no_nrt(cache=True)
def _ready_at(state, ledger):
    """Return the arena's second from which a batch is ready; see `ready_at`."""
    head, queue = state.head, state.queue
    if queue[layout.WAITING] == 0:
        return np.inf
    if queue[layout.WAITING] >= ledger[layout.MAX_SIZE] or head[layout.WAITING_TOKENS] >= ledger[layout.MAX_TOKENS]:
        return -np.inf
    return min(_oldest(state)[0] + ledger.view(np.float64)[layout.MAX_WAIT], _service_due(state, ledger))


@njit_no_nrt(cache=True)
def _oldest(state):
    """Return (the second in which the longest waiting began, its row)."""
    head, rows, buckets, again = state.head, state.rows, state.buckets, state.again
    reals, row = rows.view(np.float64), head[layout.OLDEST]
    code, since, request_id = heap.peek(again)
    if code == OK:
        other = table.find(rows, buckets, request_id)
        equal = (
            row != layout.NO_ROW
            and since == reals[row, layout.QUEUED]
            and rows[other, layout.TURN] < rows[row, layout.TURN]
        )
        if row == layout.NO_ROW or since < reals[row, layout.QUEUED] or equal:
            row = other
    return reals[row, layout.QUEUED], row


@njit_no_nrt(cache=True)
def _service_due(state, ledger):
    """Return the second from which a request is overdue by its deadline, inf if none has one."""
    code, deadline, _ = heap.peek(state.deadlines)
    return deadline - ledger.view(np.float64)[layout.SERVICE] if code == OK else np.inf


@njit_no_nrt(cache=True)
def _overdue_at(state, ledger):
    """Return (second from which the oldest is overdue by waiting, its row, second from which one is by deadline)."""
    since, oldest = _oldest(state)
    patience = PATIENCE if state.head.view(np.float64)[layout.AGING] > 0 else np.inf
    return since + min(ledger.view(np.float64)[layout.MAX_WAIT], patience), oldest, _service_due(state, ledger)


@njit_no_nrt(cache=True)
def _next(state, ledger, now):
    """Return the row of the waiting request that goes next."""
    rows, buckets, queue, deadlines = state.rows, state.buckets, state.queue, state.deadlines
    wait_over, oldest, service_due = _overdue_at(state, ledger)
    if min(wait_over, service_due) > now:
        _, _, request_id = heap.peek(queue)
    elif wait_over <= service_due:
        return oldest
    else:
        _, _, request_id = heap.peek(deadlines)
    return table.find(rows, buckets, request_id)
