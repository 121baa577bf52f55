"""How a scheduler's requests begin to wait and cease to. The arrays: `scheduler.layout`.

`state` is what `scheduler.layout.opened` gives; every function is for an arena that is not retired and has room.
"""

import numpy as np

from .. import heap, table
from ..compiling import njit, njit_no_nrt
from ..table import COUNT, KEY
from .layout import (
    AGAIN,
    AGING,
    AHEAD,
    ASKED_KEY,
    BACK,
    BEHIND,
    CHUNK,
    COMPUTED,
    COUNTER,
    DEADLINE,
    EDF,
    FCFS,
    FRONT,
    IN_FLIGHT,
    LEFT,
    LPM,
    NEWER,
    NEWEST,
    NEXT_TURN,
    NOBODY,
    OLDER,
    OLDEST,
    POLICY,
    QUEUED,
    REQUESTS,
    SJF,
    TENANT,
    TOKENS,
    TURN,
    WAITING,
    WAITING_TOKENS,
    WEIGHT,
    WFQ,
)

_FIRST, _LAST = np.bool_(True), np.bool_(False)


@njit_no_nrt(cache=True)
def join(state, row, now, key):
    """Let a request begin to wait at the arena's second `now`, behind all equals; `key` counts where the caller gives
    it. O(log n)."""
    line_up(state, row, now, key)
    stand(state, row, _LAST)


@njit_no_nrt(cache=True)
def line_up(state, row, now, key):
    """The half of `join` that is O(1): all but the queue and the deadlines, which `stand` or `stand_many` enters."""
    head, rows, _, queue, _, _, _, _, _ = state
    rows.view(np.float64)[row, QUEUED] = now
    rows[row, TURN] = queue[NEXT_TURN]
    queue[NEXT_TURN] += 1
    rows[row, OLDER], rows[row, NEWER] = head[NEWEST], NOBODY
    if head[NEWEST] == NOBODY:
        head[OLDEST] = row
    else:
        rows[head[NEWEST], NEWER] = row
    head[NEWEST] = row
    _count_in(head, rows, queue, row, key)


@njit_no_nrt(cache=True)
def rejoin(state, row):
    """Let a request in flight wait again in its old place, under WFQ before all others of its tenant. O(log n)."""
    head, rows, _, queue, _, again, _, _, _ = state
    reals = rows.view(np.float64)
    rows[row, OLDER] = AGAIN
    heap.push_in_turn(again, rows[row, KEY], reals[row, QUEUED], rows[row, TURN])
    _count_in(head, rows, queue, row, reals[row, ASKED_KEY])
    stand(state, row, _FIRST)


@njit_no_nrt(cache=True)
def leave(state, row):
    """Let a waiting request be in flight. O(log n)."""
    head, rows, _, queue, _, _, thead, theirs, _ = state
    if head[POLICY] == WFQ:
        _leave_tenant(head, rows, queue, thead, theirs, row)
    else:
        heap.delete(queue, rows[row, KEY])
    step_out(state, row)


@njit_no_nrt(cache=True)
def step_out(state, row):
    """`leave` for a request that the queue no longer holds. O(1), with a deadline O(log n)."""
    head, rows, _, queue, deadlines, again, _, _, _ = state
    if rows[row, OLDER] == AGAIN:
        heap.delete(again, rows[row, KEY])
    else:
        link(head, rows, rows[row, OLDER], rows[row, NEWER])
    rows[row, OLDER] = IN_FLIGHT
    queue[WAITING] -= 1
    head[WAITING_TOKENS] -= share(rows, queue, row)
    if rows.view(np.float64)[row, DEADLINE] < np.inf:
        heap.delete(deadlines, rows[row, KEY])


@njit_no_nrt(cache=True)
def rekey(state, row, key):
    """Give a waiting request the key that goes with its tokens, or `key` where the caller gives it. O(log n)."""
    head, rows, _, queue, _, _, _, theirs, _ = state
    reals = rows.view(np.float64)
    reals[row, ASKED_KEY] = key_of(head, rows, reals, row, key)
    if head[POLICY] != WFQ:
        heap.update(queue, rows[row, KEY], rank(head, rows, theirs, row), heap.ANY_WAY)


@njit_no_nrt(cache=True)
def key_of(head, rows, reals, row, key):
    """The policy's key of a request; `key` where neither its tokens nor its times are it."""
    if head[POLICY] == SJF:
        return np.float64(rows[row, TOKENS] - rows[row, COMPUTED])
    if head[POLICY] == FCFS:
        return reals[row, QUEUED]
    if head[POLICY] == EDF:
        return reals[row, DEADLINE]
    if head[POLICY] == LPM:
        return min(key, 0.0 - rows[row, COMPUTED])
    return 0.0 if head[POLICY] == WFQ else key


@njit_no_nrt(cache=True)
def rank(head, rows, theirs, row):
    """By what a request stands in the queue, float64."""
    reals = rows.view(np.float64)
    key = reals[row, ASKED_KEY]
    if head[POLICY] == WFQ:
        key = theirs.view(np.float64)[rows[row, TENANT], COUNTER]
    if np.isinf(key):  # nothing ages it, and an infinite sum on the other side would make it NaN
        return key
    return key + head.view(np.float64)[AGING] * reals[row, QUEUED]


@njit_no_nrt(cache=True)
def share(rows, queue, row):
    """How many tokens of a request a batch computes that has room for them."""
    return min(rows[row, TOKENS] - rows[row, COMPUTED], queue[CHUNK])


@njit_no_nrt(cache=True)
def link(head, rows, older, newer):
    """Make two rows, or NOBODY for an end, neighbours in the order of waiting."""
    if older == NOBODY:
        head[OLDEST] = newer
    else:
        rows[older, NEWER] = newer
    if newer == NOBODY:
        head[NEWEST] = older
    else:
        rows[newer, OLDER] = older


@njit_no_nrt(cache=True)
def charge(state, tenant, tokens):
    """Count `tokens` as computed for a tenant (a row of `tenants`), under WFQ. O(log n)."""
    head, rows, _, queue, _, _, _, theirs, _ = state
    counters = theirs.view(np.float64)
    counters[tenant, COUNTER] += tokens / counters[tenant, WEIGHT]
    front = theirs[tenant, FRONT]
    if front != NOBODY:
        heap.update(queue, rows[front, KEY], rank(head, rows, theirs, front), heap.ANY_WAY)


@njit_no_nrt(cache=True)
def tenant_row(head, rows, buckets, tenant):
    """The row of a tenant's number among the tenants, made with weight 1 if it is new; -1 if there is no room.

    Expected O(1)."""
    row = table.find(rows, buckets, tenant)
    if row >= 0:
        return row
    row = table.take_row(head, rows)
    if row >= 0:
        table.insert(rows, buckets, row, tenant)
        reals = rows.view(np.float64)
        reals[row, COUNTER], reals[row, WEIGHT] = 0.0, 1.0
        rows[row, FRONT] = rows[row, BACK] = NOBODY
        rows[row, REQUESTS] = 0
    return row


@njit(cache=True)
def least_counter(state):
    """The smallest counter of the tenants who wait, float64; of the one that left last where nobody does.

    O(1), with ageing O(tenants who wait).
    """
    head, rows, buckets, queue, _, _, thead, theirs, _ = state
    if queue[COUNT] == 0:
        return thead.view(np.float64)[LEFT]
    counters, least = theirs.view(np.float64), np.inf
    _, first, _ = table.parts(queue)
    # without ageing the queue's order is that of the counters
    for at in range(queue[COUNT] if head.view(np.float64)[AGING] > 0 else 1):
        row = table.find(rows, buckets, first[at, KEY])
        least = min(least, counters[rows[row, TENANT], COUNTER])
    return least


@njit_no_nrt(cache=True)
def _count_in(head, rows, queue, row, key):
    reals = rows.view(np.float64)
    reals[row, ASKED_KEY] = key_of(head, rows, reals, row, key)
    queue[WAITING] += 1
    head[WAITING_TOKENS] += share(rows, queue, row)


@njit_no_nrt(cache=True)
def stand(state, row, first):
    """Put a request that has its key in the queue and, if it has one, its deadline; under WFQ before all of its
    tenant's if `first`, else behind them. O(log n)."""
    head, rows, _, queue, deadlines, _, _, theirs, _ = state
    reals = rows.view(np.float64)
    if head[POLICY] == WFQ:
        _enter_tenant(state, row, first)
    else:
        heap.push_in_turn(queue, rows[row, KEY], rank(head, rows, theirs, row), rows[row, TURN])
    if reals[row, DEADLINE] < np.inf:
        heap.push_in_turn(deadlines, rows[row, KEY], reals[row, DEADLINE], rows[row, TURN])


@njit(cache=True)
def stand_many(state, start, stop, due):
    """`stand` for the rows from `start` to `stop`, not under WFQ; `due`: whether any may have a deadline (a bool).

    O(m log n), in practice O(m).
    """
    head, rows, _, queue, deadlines, _, _, theirs, _ = state
    reals, m, urgent = rows.view(np.float64), stop - start, 0
    ids, scores, turns = np.empty(m, np.int64), np.empty(m), np.empty(m, np.int64)
    for e in range(m):
        ids[e], scores[e], turns[e] = rows[start + e, KEY], rank(head, rows, theirs, start + e), rows[start + e, TURN]
    heap.push_many_in_turn(queue, ids, scores, turns)
    for row in range(start, stop if due else start):
        if reals[row, DEADLINE] < np.inf:
            ids[urgent], scores[urgent], turns[urgent] = rows[row, KEY], reals[row, DEADLINE], rows[row, TURN]
            urgent += 1
    if urgent > 0:
        heap.push_many_in_turn(deadlines, ids[:urgent], scores[:urgent], turns[:urgent])


@njit_no_nrt(cache=True)
def _enter_tenant(state, row, first):
    """Put a request before all of its tenant's if `first`, else behind them."""
    head, rows, _, queue, _, _, _, theirs, _ = state
    tenant = rows[row, TENANT]
    front, back = theirs[tenant, FRONT], theirs[tenant, BACK]
    if front == NOBODY:
        if not first:  # who was idle has saved up nothing
            counters = theirs.view(np.float64)
            counters[tenant, COUNTER] = max(counters[tenant, COUNTER], least_counter(state))
        theirs[tenant, FRONT] = theirs[tenant, BACK] = row
        rows[row, AHEAD] = rows[row, BEHIND] = NOBODY
    elif first:
        heap.delete(queue, rows[front, KEY])
        rows[front, AHEAD] = theirs[tenant, FRONT] = row
        rows[row, AHEAD], rows[row, BEHIND] = NOBODY, front
    else:
        rows[back, BEHIND] = theirs[tenant, BACK] = row
        rows[row, AHEAD], rows[row, BEHIND] = back, NOBODY
        return
    heap.push_in_turn(queue, rows[row, KEY], rank(head, rows, theirs, row), rows[row, TURN])


@njit_no_nrt(cache=True)
def _leave_tenant(head, rows, queue, thead, theirs, row):
    tenant, ahead, behind = rows[row, TENANT], rows[row, AHEAD], rows[row, BEHIND]
    relink(rows, theirs, tenant, ahead, behind)
    if ahead != NOBODY:
        return
    heap.delete(queue, rows[row, KEY])
    if behind != NOBODY:
        heap.push_in_turn(queue, rows[behind, KEY], rank(head, rows, theirs, behind), rows[behind, TURN])
    else:
        thead.view(np.float64)[LEFT] = theirs.view(np.float64)[tenant, COUNTER]


@njit_no_nrt(cache=True)
def relink(rows, theirs, tenant, ahead, behind):
    """Make two waiting requests of a tenant, or NOBODY for an end, neighbours."""
    if ahead == NOBODY:
        theirs[tenant, FRONT] = behind
    else:
        rows[ahead, BEHIND] = behind
    if behind == NOBODY:
        theirs[tenant, BACK] = ahead
    else:
        rows[behind, AHEAD] = ahead
