"""How requests of a scheduler start and stop waiting. The arrays: `scheduler.layout`.

`state` is the NamedTuple that `scheduler.layout.opened` returns; every function is for an arena that is not retired and
has room.
"""

import numpy as np

from .. import heap, table
from ..compiling import njit, njit_no_nrt
from ..table import COUNT, KEY
from . import layout, policies
from .policies import WFQ

_FIRST, _LAST = np.bool_(True), np.bool_(False)


@njit_no_nrt(cache=True)
def join(state, row, now, key):
    """Make a request wait from the arena's second `now` on, behind all of equal rank. O(log n).

    `key` (float64) counts where the caller computes the keys.
    """
    start_waiting(state, row, now, key)
    enqueue(state, row, _LAST)


@njit_no_nrt(cache=True)
def start_waiting(state, row, now, key):
    """Do the O(1) part of `join`: all but the heaps, into which `enqueue` or `enqueue_many` puts the request."""
    head, rows, queue = state.head, state.rows, state.queue
    rows.view(np.float64)[row, layout.QUEUED] = now
    rows[row, layout.TURN] = queue[layout.NEXT_TURN]
    queue[layout.NEXT_TURN] += 1
    rows[row, layout.OLDER], rows[row, layout.NEWER] = head[layout.NEWEST], layout.NO_ROW
    if head[layout.NEWEST] == layout.NO_ROW:
        head[layout.OLDEST] = row
    else:
        rows[head[layout.NEWEST], layout.NEWER] = row
    head[layout.NEWEST] = row
    _count_in(head, rows, queue, row, key)


@njit_no_nrt(cache=True)
def rejoin(state, row):
    """Make a request in flight wait again in its old place, under WFQ before all others of its tenant. O(log n)."""
    rows, reals = state.rows, state.rows.view(np.float64)
    rows[row, layout.OLDER] = layout.AGAIN
    heap.push_in_turn(state.again, rows[row, KEY], reals[row, layout.QUEUED], rows[row, layout.TURN])
    _count_in(state.head, rows, state.queue, row, reals[row, layout.POLICY_KEY])
    enqueue(state, row, _FIRST)


@njit_no_nrt(cache=True)
def leave(state, row):
    """Make a waiting request be in flight. O(log n)."""
    head, rows, queue = state.head, state.rows, state.queue
    if head[layout.POLICY] == WFQ:
        _leave_tenant(head, rows, queue, state.tenant_head, state.tenant_rows, row)
    else:
        heap.delete(queue, rows[row, KEY])
    stop_waiting(state, row)


@njit_no_nrt(cache=True)
def stop_waiting(state, row):
    """`leave` for a request that the queue no longer holds. O(1), with a deadline O(log n)."""
    head, rows, queue = state.head, state.rows, state.queue
    if rows[row, layout.OLDER] == layout.AGAIN:
        heap.delete(state.again, rows[row, KEY])
    else:
        link(head, rows, rows[row, layout.OLDER], rows[row, layout.NEWER])
    rows[row, layout.OLDER] = layout.IN_FLIGHT
    queue[layout.WAITING] -= 1
    head[layout.WAITING_TOKENS] -= next_tokens(rows, queue, row)
    if rows.view(np.float64)[row, layout.DEADLINE] < np.inf:
        heap.delete(state.deadlines, rows[row, KEY])


@njit_no_nrt(cache=True)
def rekey(state, row, key):
    """Give a waiting request the key that belongs to its tokens, or `key` where the caller computes it. O(log n)."""
    head, rows = state.head, state.rows
    rows.view(np.float64)[row, layout.POLICY_KEY] = key_of(head, rows, row, key)
    if head[layout.POLICY] != WFQ:
        heap.update(state.queue, rows[row, KEY], rank(head, rows, state.tenant_rows, row), heap.ANY_WAY)


@njit_no_nrt(cache=True)
def key_of(head, rows, row, key):
    """Return the policy's key of a request, float64; `key` where neither its tokens nor its times are the key."""
    reals, computed = rows.view(np.float64), rows[row, layout.COMPUTED]
    return policies.key_of(
        head[layout.POLICY],
        rows[row, layout.TOKENS] - computed,
        reals[row, layout.QUEUED],
        reals[row, layout.DEADLINE],
        computed,
        key,
    )


@njit_no_nrt(cache=True)
def rank(head, rows, tenant_rows, row):
    """Return what the queue orders a request by, float64."""
    reals = rows.view(np.float64)
    key = reals[row, layout.POLICY_KEY]
    if head[layout.POLICY] == WFQ:
        key = tenant_rows.view(np.float64)[rows[row, layout.TENANT], layout.COUNTER]
    if np.isinf(key):  # ageing cannot change it, and adding an infinity of the other sign would make it NaN
        return key
    return key + head.view(np.float64)[layout.AGING] * reals[row, layout.QUEUED]


@njit_no_nrt(cache=True)
def next_tokens(rows, queue, row):
    """Return how many tokens of a request a batch computes that has room for them."""
    return min(rows[row, layout.TOKENS] - rows[row, layout.COMPUTED], queue[layout.CHUNK])


@njit_no_nrt(cache=True)
def link(head, rows, older, newer):
    """Make two rows, or NO_ROW for an end, neighbours in the order of waiting."""
    if older == layout.NO_ROW:
        head[layout.OLDEST] = newer
    else:
        rows[older, layout.NEWER] = newer
    if newer == layout.NO_ROW:
        head[layout.NEWEST] = older
    else:
        rows[newer, layout.OLDER] = older


@njit_no_nrt(cache=True)
def charge(state, tenant, tokens):
    """Count `tokens` as computed for a tenant (a row of `tenants`), under WFQ. O(log n)."""
    rows, tenant_rows = state.rows, state.tenant_rows
    counters = tenant_rows.view(np.float64)
    counters[tenant, layout.COUNTER] += tokens / counters[tenant, layout.WEIGHT]
    front = tenant_rows[tenant, layout.FRONT]
    if front != layout.NO_ROW:
        heap.update(state.queue, rows[front, KEY], rank(state.head, rows, tenant_rows, front), heap.ANY_WAY)


@njit_no_nrt(cache=True)
def tenant_row(head, rows, buckets, tenant):
    """Return the row of a tenant's number, a new one of weight 1 if it has none; -1 if there is no room. Expected O(1).

    (head, rows, buckets) are those of the tenants' table.
    """
    row = table.find(rows, buckets, tenant)
    if row >= 0:
        return row
    row = table.take_row(head, rows)
    if row >= 0:
        table.insert(rows, buckets, row, tenant)
        reals = rows.view(np.float64)
        reals[row, layout.COUNTER], reals[row, layout.WEIGHT] = 0.0, 1.0
        rows[row, layout.FRONT] = rows[row, layout.BACK] = layout.NO_ROW
        rows[row, layout.REQUESTS] = 0
    return row


@njit(cache=True)
def least_counter(state):
    """Return the smallest counter of the tenants that wait, float64; if none does, of the one that stopped last.

    O(1), with ageing O(tenants that wait).
    """
    rows, queue = state.rows, state.queue
    if queue[COUNT] == 0:
        return state.tenant_head.view(np.float64)[layout.LAST_COUNTER]
    counters, least = state.tenant_rows.view(np.float64), np.inf
    _, waiting, _ = table.parts(queue)
    # without ageing the queue's order is that of the counters
    for at in range(queue[COUNT] if state.head.view(np.float64)[layout.AGING] > 0 else 1):
        row = table.find(rows, state.buckets, waiting[at, KEY])
        least = min(least, counters[rows[row, layout.TENANT], layout.COUNTER])
    return least


@njit_no_nrt(cache=True)
def _count_in(head, rows, queue, row, key):
    """Compute the key of a request that starts to wait, and count it and its tokens."""
    rows.view(np.float64)[row, layout.POLICY_KEY] = key_of(head, rows, row, key)
    queue[layout.WAITING] += 1
    head[layout.WAITING_TOKENS] += next_tokens(rows, queue, row)


@njit_no_nrt(cache=True)
def enqueue(state, row, first):
    """Put a request that has its key into the queue and, if it has one, its deadline into the deadlines. O(log n).

    Under WFQ it goes before all others of its tenant if `first` (a bool), else behind them.
    """
    rows, reals = state.rows, state.rows.view(np.float64)
    if state.head[layout.POLICY] == WFQ:
        _enter_tenant(state, row, first)
    else:
        score = rank(state.head, rows, state.tenant_rows, row)
        heap.push_in_turn(state.queue, rows[row, KEY], score, rows[row, layout.TURN])
    if reals[row, layout.DEADLINE] < np.inf:
        heap.push_in_turn(state.deadlines, rows[row, KEY], reals[row, layout.DEADLINE], rows[row, layout.TURN])


@njit(cache=True)
def enqueue_many(state, start, stop, due):
    """`enqueue` for the rows from `start` to `stop`, not under WFQ; `due`: whether any may have a deadline (a bool).

    O(m log n), in practice O(m).
    """
    head, rows, tenant_rows = state.head, state.rows, state.tenant_rows
    reals, m, urgent = rows.view(np.float64), stop - start, 0
    ids, scores, turns = np.empty(m, np.int64), np.empty(m), np.empty(m, np.int64)
    for e in range(m):
        row = start + e
        ids[e], scores[e], turns[e] = rows[row, KEY], rank(head, rows, tenant_rows, row), rows[row, layout.TURN]
    heap.push_many_in_turn(state.queue, ids, scores, turns)
    for row in range(start, stop if due else start):
        if reals[row, layout.DEADLINE] < np.inf:
            ids[urgent], scores[urgent], turns[urgent] = (
                rows[row, KEY],
                reals[row, layout.DEADLINE],
                rows[row, layout.TURN],
            )
            urgent += 1
    if urgent > 0:
        heap.push_many_in_turn(state.deadlines, ids[:urgent], scores[:urgent], turns[:urgent])


@njit_no_nrt(cache=True)
def _enter_tenant(state, row, first):
    """Put a request before all others of its tenant if `first`, else behind them."""
    rows, queue, tenant_rows = state.rows, state.queue, state.tenant_rows
    tenant = rows[row, layout.TENANT]
    front, back = tenant_rows[tenant, layout.FRONT], tenant_rows[tenant, layout.BACK]
    if front == layout.NO_ROW:
        if not first:  # being idle saves up no share
            counters = tenant_rows.view(np.float64)
            counters[tenant, layout.COUNTER] = max(counters[tenant, layout.COUNTER], least_counter(state))
        tenant_rows[tenant, layout.FRONT] = tenant_rows[tenant, layout.BACK] = row
        rows[row, layout.AHEAD] = rows[row, layout.BEHIND] = layout.NO_ROW
    elif first:
        heap.delete(queue, rows[front, KEY])
        rows[front, layout.AHEAD] = tenant_rows[tenant, layout.FRONT] = row
        rows[row, layout.AHEAD], rows[row, layout.BEHIND] = layout.NO_ROW, front
    else:
        rows[back, layout.BEHIND] = tenant_rows[tenant, layout.BACK] = row
        rows[row, layout.AHEAD], rows[row, layout.BEHIND] = back, layout.NO_ROW
        return
    heap.push_in_turn(queue, rows[row, KEY], rank(state.head, rows, tenant_rows, row), rows[row, layout.TURN])


@njit_no_nrt(cache=True)
def _leave_tenant(head, rows, queue, tenant_head, tenant_rows, row):
    """Take a request out of its tenant's order, and the next one of the tenant into the queue."""
    tenant, ahead, behind = rows[row, layout.TENANT], rows[row, layout.AHEAD], rows[row, layout.BEHIND]
    link_in_tenant(rows, tenant_rows, tenant, ahead, behind)
    if ahead != layout.NO_ROW:
        return
    heap.delete(queue, rows[row, KEY])
    if behind != layout.NO_ROW:
        heap.push_in_turn(queue, rows[behind, KEY], rank(head, rows, tenant_rows, behind), rows[behind, layout.TURN])
    else:
        tenant_head.view(np.float64)[layout.LAST_COUNTER] = tenant_rows.view(np.float64)[tenant, layout.COUNTER]


@njit_no_nrt(cache=True)
def link_in_tenant(rows, tenant_rows, tenant, ahead, behind):
    """Make two waiting requests of a tenant, or NO_ROW for an end, neighbours."""
    if ahead == layout.NO_ROW:
        tenant_rows[tenant, layout.FRONT] = behind
    else:
        rows[ahead, layout.BEHIND] = behind
    if behind == layout.NO_ROW:
        tenant_rows[tenant, layout.BACK] = ahead
    else:
        rows[behind, layout.AHEAD] = ahead
