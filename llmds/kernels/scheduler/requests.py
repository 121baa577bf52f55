"""Requests of a scheduler: submitted, changed, finished. Batches: `scheduler.batch`. The arrays: `scheduler.layout`.

Times are what the caller's clock shows (float64, finite); where one is earlier than one that was seen before, time
does not pass. Ids are those that `submit` returns. FULL (-1 where a count or an id is returned) means that nothing was
changed, and `scheduler.layout.resized` must make room first, or that it already has (the arena is retired): take the
new one and call again. ValueError, with nothing changed, if the arena's policy is unknown.
"""

from typing import NamedTuple

import numpy as np

from .. import clock, table
from ..compiling import njit, njit_no_nrt
from ..heap import ABSENT, FULL, OK
from ..simd import prefetch
from ..table import COUNT, KEY, RETIRED, TOP
from . import layout
from .policies import LPM, WFQ, is_time
from .queue import (
    charge,
    enqueue,
    enqueue_many,
    join,
    least_counter,
    leave,
    link,
    link_in_tenant,
    next_tokens,
    rejoin,
    rekey,
    start_waiting,
    tenant_row,
)  # fmt: skip

# what happens to the tokens computed of requests that wait again: all are lost, all are kept, or they are kept and only
# requests with tokens left wait again
LOST, KEPT, REST = np.int64(0), np.int64(1), np.int64(2)
_ZERO, _ONE, _LAST = np.int64(0), np.int64(1), np.bool_(False)


class Found(NamedTuple):
    """What `look_up` returns."""

    code: int
    tokens: int
    key: float
    submitted: float
    deadline: float
    in_flight: bool
    computed: int
    tenant: int


@njit(cache=True)
def submit(arena, now, tokens, slo, key, tenant):
    """Return the id of a new request of `tokens` (int64), due `slo` seconds after `now` (float64, inf: never).

    -1 for FULL. `key` (float64, no NaN) counts under CUSTOM and PRIORITY only, `tenant` (int64) under WFQ. O(log n).
    """
    return submit_prompt(arena, now, tokens, slo, key, tenant, _ZERO, _ZERO, _ZERO)


@njit(cache=True)
def submit_prompt(arena, now, tokens, slo, key, tenant, first, ids, salt):
    """`submit` a request whose prompt is `ids` ids from `first` on, in an array of the caller's or in the arena.

    `scheduler.batch.take_batch_cached` looks them up under `salt`. All int64.
    """
    state = layout.opened(arena)
    head, rows = state.head, state.rows
    if head[RETIRED] or head[COUNT] == rows.shape[0]:
        return np.int64(-1)
    if head[layout.POLICY] == WFQ:
        tenant = tenant_row(state.tenant_head, state.tenant_rows, state.tenant_buckets, tenant)
        if tenant < 0:
            return np.int64(-1)
    now, row = clock.advance(head.view(np.float64), now), head[COUNT]
    _record(state, now, tokens, slo, key, tenant, first, ids, salt)
    enqueue(state, row, _LAST)
    return rows[row, KEY]


@njit(cache=True)
def submit_many(arena, now, tokens, slos, keys, tenants, prompts, indptr, salts):
    """`submit` tokens int64 (m,): return the id of the first, the others have the next ones; -1 for FULL. O(m log n).

    slos float64, keys float64 and tenants int64, each (m,), or (0,) where there are none. prompts: uint8, the ids of
    request e from indptr[e] to indptr[e + 1] (int64 (m + 1,)), each as wide as the arena keeps them, salts int64
    (m,); they are copied. indptr (0,): none. Not under CUSTOM.
    """
    state = layout.opened(arena)
    head, rows, buckets, own = state.head, state.rows, state.buckets, layout.parts(arena).prompts
    tenant_head, tenant_rows, tenant_buckets = state.tenant_head, state.tenant_rows, state.tenant_buckets
    size, data = own[layout.ID_BYTES], own[layout.PROMPT_HEAD :].view(np.uint8)
    m = tokens.shape[0]
    if head[RETIRED] or rows.shape[0] - head[COUNT] < m or data.shape[0] - own[layout.USED] < prompts.shape[0]:
        return np.int64(-1)
    if head[layout.POLICY] == WFQ:
        for e in range(tenants.shape[0]):
            if tenant_row(tenant_head, tenant_rows, tenant_buckets, tenants[e]) < 0:
                return np.int64(-1)
        if tenants.shape[0] == 0 and tenant_row(tenant_head, tenant_rows, tenant_buckets, _ZERO) < 0:
            return np.int64(-1)
    now = clock.advance(head.view(np.float64), now)
    start, first, ids, salt, at = head[COUNT], head[layout.NEXT_ID], _ZERO, _ZERO, _ZERO
    for e in range(m):
        if e % layout.AT_ONCE == 0:
            for far in range(first + e, first + e + layout.AT_ONCE):
                prefetch(buckets, table.home(buckets, far), _ONE)
        if indptr.shape[0] > 0:
            at, ids, salt = own[layout.USED] // size, indptr[e + 1] - indptr[e], salts[e]
            for byte in range(ids * size):
                data[own[layout.USED] + byte] = prompts[indptr[e] * size + byte]
            own[layout.USED] += ids * size
            own[layout.LIVE] += ids * size
        tenant = tenants[e] if tenants.shape[0] > 0 else _ZERO
        if head[layout.POLICY] == WFQ:
            tenant = tenant_row(tenant_head, tenant_rows, tenant_buckets, tenant)
        slo, key = slos[e] if slos.shape[0] > 0 else np.inf, keys[e] if keys.shape[0] > 0 else 0.0
        _record(state, now, tokens[e], slo, key, tenant, at, ids, salt)
        if head[layout.POLICY] == WFQ:
            enqueue(state, start + e, _LAST)
    if head[layout.POLICY] != WFQ:
        enqueue_many(state, start, start + m, slos.shape[0] > 0)
    return first


@njit(cache=True)
def complete(arena, now, ids):
    """Forget the requests `ids`, int64 (m,), all in flight at `now`, or none of them. O(m).

    Return (OK, m), (ABSENT, place of the first that is not in flight or occurs twice), or (FULL, 0).
    """
    state = layout.opened(arena)
    head, rows, buckets = state.head, state.rows, state.buckets
    if head[RETIRED]:
        return FULL, 0
    missing = _mark(rows, buckets, ids)
    if missing >= 0:
        return ABSENT, missing
    now, prompts = clock.advance(head.view(np.float64), now), layout.parts(arena).prompts
    for e in range(ids.shape[0]):
        _forget(state, prompts, table.find(rows, buckets, ids[e]), now)
    head[layout.COMPLETED] += ids.shape[0]
    return OK, ids.shape[0]


@njit(cache=True)
def wait_again(arena, now, ids, way):
    """Make the requests `ids`, int64 (m,), all in flight, wait again at `now` in their old places, or none. O(m log n).

    `way`: LOST, KEPT, or REST, under which those whose tokens have all been scheduled stay in flight. Return what
    `complete` returns. Under WFQ they go before all others of their tenants, in the order of `ids`.
    """
    state = layout.opened(arena)
    head, rows, buckets, queue = state.head, state.rows, state.buckets, state.queue
    if head[RETIRED]:
        return FULL, 0
    missing = _mark(rows, buckets, ids)
    if missing >= 0:
        return ABSENT, missing
    clock.advance(head.view(np.float64), now)
    for e in range(ids.shape[0] - 1, -1, -1):
        row = table.find(rows, buckets, ids[e])
        rows[row, layout.OLDER] = layout.IN_FLIGHT
        if way == LOST:
            rows[row, layout.COMPUTED] = 0
        if way != REST or rows[row, layout.COMPUTED] < rows[row, layout.TOKENS]:
            rejoin(state, row)
    if way != REST:
        queue[layout.PREEMPTIONS] += ids.shape[0]
    return OK, ids.shape[0]


@njit(cache=True)
def cancel(arena, now, request_id):
    """Forget a request, waiting or in flight, at `now`; return OK, ABSENT or FULL. O(log n)."""
    state = layout.opened(arena)
    head, rows, buckets = state.head, state.rows, state.buckets
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    if rows[row, layout.OLDER] != layout.IN_FLIGHT:
        leave(state, row)
    _forget(state, layout.parts(arena).prompts, row, clock.advance(head.view(np.float64), now))
    return OK


@njit(cache=True)
def update(arena, now, request_id, tokens, key, given):
    """Give a request other `tokens` (int64), none of them computed, and another `key` if it is `given` (a bool).

    A request in flight goes back into the queue, where its waiting begins again at `now`. Return OK, ABSENT or FULL.
    O(log n).
    """
    state = layout.opened(arena)
    head, rows, buckets, queue = state.head, state.rows, state.buckets, state.queue
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    now = clock.advance(head.view(np.float64), now)
    if not given or head[layout.POLICY] == LPM:  # under which the key is what the last look-up found
        key = rows.view(np.float64)[row, layout.POLICY_KEY]
    before = next_tokens(rows, queue, row)
    rows[row, layout.TOKENS], rows[row, layout.COMPUTED] = tokens, 0
    if rows[row, layout.OLDER] == layout.IN_FLIGHT:
        join(state, row, now, key)
    else:
        head[layout.WAITING_TOKENS] += next_tokens(rows, queue, row) - before
        rekey(state, row, key)
    return OK


@njit(cache=True)
def bill(arena, ids, tokens):
    """Count tokens, int64 (m,), as computed for the tenants of the requests ids, int64 (m,), all or none, under WFQ.

    Return (OK, m), (ABSENT, place of the first that is unknown) or (FULL, 0). O(m log n).
    """
    state = layout.opened(arena)
    head, rows, buckets = state.head, state.rows, state.buckets
    if head[RETIRED]:
        return FULL, 0
    for e in range(ids.shape[0]):
        if table.find(rows, buckets, ids[e]) < 0:
            return ABSENT, e
    for e in range(ids.shape[0]):
        charge(state, rows[table.find(rows, buckets, ids[e]), layout.TENANT], tokens[e])
    return OK, ids.shape[0]


@njit(cache=True)
def set_weight(arena, tenant, weight):
    """Give a tenant (int64) a weight (float64, above 0); return OK, or FULL if there is no room for it. O(1)."""
    state = layout.opened(arena)
    if state.head[RETIRED]:
        return FULL
    row = tenant_row(state.tenant_head, state.tenant_rows, state.tenant_buckets, tenant)
    if row < 0:
        return FULL
    state.tenant_rows.view(np.float64)[row, layout.WEIGHT] = weight
    return OK


@njit(cache=True)
def drop_idle(arena):
    """Forget tenants of weight 1 without requests whose counter is no greater than any of those with. O(tenants).

    Nothing is lost: if one comes back, its counter begins no lower.
    """
    state = layout.opened(arena)
    tenant_head, tenant_rows, buckets = state.tenant_head, state.tenant_rows, state.tenant_buckets
    if tenant_head[COUNT] == 0:
        return
    counters, least = tenant_rows.view(np.float64), least_counter(state)
    for row in range(tenant_head[TOP]):
        if tenant_rows[row, table.BUCKET] >= 0 and tenant_rows[row, layout.REQUESTS] > 0:
            least = min(least, counters[row, layout.COUNTER])
    for row in range(tenant_head[TOP]):
        if tenant_rows[row, table.BUCKET] >= 0 and tenant_rows[row, layout.REQUESTS] == 0:
            if counters[row, layout.WEIGHT] == 1.0 and counters[row, layout.COUNTER] <= least:
                table.remove(tenant_rows, buckets, row)
                table.free_row(tenant_head, tenant_rows, row)


@njit(cache=True)
def look_up(arena, request_id):
    """Return the `Found` of a request, its times on the clock; `code` is OK, or ABSENT with zeros behind it. O(1)."""
    state = layout.opened(arena)
    head, rows, buckets, tenant_rows = state.head, state.rows, state.buckets, state.tenant_rows
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return Found(ABSENT, _ZERO, 0.0, 0.0, 0.0, False, _ZERO, _ZERO)
    reals, epoch = rows.view(np.float64), head.view(np.float64)[clock.EPOCH]
    key, tenant = reals[row, layout.POLICY_KEY], rows[row, layout.TENANT]
    if is_time(head[layout.POLICY]):
        key += epoch
    if head[layout.POLICY] == WFQ:
        key, tenant = tenant_rows.view(np.float64)[tenant, layout.COUNTER], tenant_rows[tenant, KEY]
    submitted, deadline = epoch + reals[row, layout.SUBMITTED], epoch + reals[row, layout.DEADLINE]
    in_flight = rows[row, layout.OLDER] == layout.IN_FLIGHT
    return Found(OK, rows[row, layout.TOKENS], key, submitted, deadline, in_flight, rows[row, layout.COMPUTED], tenant)


@njit_no_nrt(cache=True)
def _record(state, now, tokens, slo, key, tenant, first, ids, salt):
    """Append the row of a new request, which `enqueue` has yet to put into the queue."""
    head, rows, buckets, tenant_rows = state.head, state.rows, state.buckets, state.tenant_rows
    row, request_id, reals = head[COUNT], head[layout.NEXT_ID], rows.view(np.float64)
    table.insert(rows, buckets, row, request_id)
    head[layout.NEXT_ID] += 1
    head[COUNT] = head[TOP] = row + 1
    rows[row, layout.TOKENS], rows[row, layout.COMPUTED], rows[row, layout.TENANT] = tokens, 0, tenant
    rows[row, layout.FIRST], rows[row, layout.IDS], rows[row, layout.SALT] = first, ids, salt
    reals[row, layout.SUBMITTED], reals[row, layout.DEADLINE] = now, now + slo
    if head[layout.POLICY] == WFQ:
        tenant_rows[tenant, layout.REQUESTS] += 1
    start_waiting(state, row, now, 0.0 if head[layout.POLICY] == LPM else key)


@njit_no_nrt(cache=True)
def _mark(rows, buckets, ids):
    """Mark all of ids as completing and return -1; or none, and the place of the first not in flight or there twice."""
    for e in range(ids.shape[0]):
        if e % layout.AT_ONCE == 0:
            table.prefetch_rows(rows, buckets, ids[e : e + layout.AT_ONCE], layout.WIDTH)
        row = table.find(rows, buckets, ids[e])
        if row < 0 or rows[row, layout.OLDER] != layout.IN_FLIGHT:
            for back in range(e):
                rows[table.find(rows, buckets, ids[back]), layout.OLDER] = layout.IN_FLIGHT
            return e
        rows[row, layout.OLDER] = layout.COMPLETING
    return -1


@njit_no_nrt(cache=True)
def _forget(state, prompts, row, now):
    """Remove a request that is in flight or completing; the last row takes its place."""
    head, rows, buckets, tenant_rows = state.head, state.rows, state.buckets, state.tenant_rows
    if now > rows.view(np.float64)[row, layout.DEADLINE]:
        head[layout.MISSES] += 1
    if head[layout.POLICY] == WFQ:
        tenant_rows[rows[row, layout.TENANT], layout.REQUESTS] -= 1
    prompts[layout.LIVE] -= rows[row, layout.IDS] * prompts[layout.ID_BYTES]
    table.remove(rows, buckets, row)
    last = head[COUNT] - 1
    head[COUNT] = head[TOP] = last
    if row == last:
        return
    for column in range(layout.WIDTH):
        rows[row, column] = rows[last, column]
    table.moved(rows, buckets, row)
    rows[last, table.BUCKET] = -1
    if rows[row, layout.OLDER] >= layout.NO_ROW:
        older, newer = rows[row, layout.OLDER], rows[row, layout.NEWER]
        link(head, rows, older, row)
        link(head, rows, row, newer)
    if head[layout.POLICY] == WFQ and (
        rows[row, layout.OLDER] >= layout.NO_ROW or rows[row, layout.OLDER] == layout.AGAIN
    ):
        ahead, behind = rows[row, layout.AHEAD], rows[row, layout.BEHIND]
        link_in_tenant(rows, tenant_rows, rows[row, layout.TENANT], ahead, row)
        link_in_tenant(rows, tenant_rows, rows[row, layout.TENANT], row, behind)
