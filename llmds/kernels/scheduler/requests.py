"""Requests that wait, are handed out in batches (`scheduler.batch`), and finish. The arrays: `scheduler.layout`.

Times are what the caller's clock shows (float64, finite); where one is earlier than another that was seen, time stands
still. Ids are those that `submit` gives. FULL (-1 where a count or an id is returned) means that nothing was changed,
and `scheduler.layout.resized` must make room first, or that it already has (the arena is retired): take the new one
and call again.
"""

import numpy as np

from .. import clock, table
from ..compiling import njit, njit_no_nrt
from ..heap import ABSENT, FULL, OK
from ..simd import prefetch
from ..table import COUNT, KEY, RETIRED, TOP
from .layout import (
    AGAIN,
    AHEAD,
    ASKED_KEY,
    AT_ONCE,
    BEHIND,
    COMPLETED,
    COMPLETING,
    COMPUTED,
    COUNTER,
    DEADLINE,
    EDF,
    FCFS,
    FIRST,
    ID_BYTES,
    IDS,
    IN_FLIGHT,
    LIVE,
    LPM,
    MISSES,
    NEWER,
    NEXT_ID,
    NOBODY,
    OLDER,
    POLICY,
    PREEMPTIONS,
    PROMPT_HEAD,
    REQUESTS,
    SALT,
    SUBMITTED,
    TENANT,
    TOKENS,
    USED,
    WAITING_TOKENS,
    WEIGHT,
    WFQ,
    WIDTH,
    opened,
    parts,
)
from .queue import (
    charge,
    join,
    least_counter,
    leave,
    line_up,
    link,
    rejoin,
    rekey,
    relink,
    share,
    stand,
    stand_many,
    tenant_row,
)

# what becomes of the tokens of requests that wait again: all are lost, kept, or kept by those alone that have more
LOST, KEPT, REST = np.int64(0), np.int64(1), np.int64(2)
_ZERO, _ONE, _LAST = np.int64(0), np.int64(1), np.bool_(False)


@njit(cache=True)
def submit(arena, now, tokens, slo, key, tenant):
    """Id of a new request of `tokens` (int64), due `slo` seconds (float64, inf: never) after `now`; -1 for FULL.

    `key` (float64, no NaN) counts under CUSTOM and PRIORITY alone, `tenant` (int64) under WFQ. O(log n).
    """
    return submit_prompt(arena, now, tokens, slo, key, tenant, _ZERO, _ZERO, _ZERO)


@njit(cache=True)
def submit_prompt(arena, now, tokens, slo, key, tenant, first, ids, salt):
    """As `submit`, of a request whose prompt is `ids` ids from `first` on in an array of the caller's, or in the arena.

    For `scheduler.batch.take_batch_cached`, which looks them up under `salt`.
    """
    state = opened(arena)
    head, rows = state[0], state[1]
    if head[RETIRED] or head[COUNT] == rows.shape[0]:
        return np.int64(-1)
    if head[POLICY] == WFQ:
        tenant = tenant_row(state[6], state[7], state[8], tenant)
        if tenant < 0:
            return np.int64(-1)
    now, row = clock.advance(head.view(np.float64), now), head[COUNT]
    _record(state, now, tokens, slo, key, tenant, first, ids, salt)
    stand(state, row, _LAST)
    return rows[row, KEY]


@njit(cache=True)
def submit_many(arena, now, tokens, slos, keys, tenants, prompts, indptr, salts):
    """`submit` for tokens int64 (m,): id of the first, the others follow; -1 for FULL. O(m log n).

    slos float64, keys float64 and tenants int64, each (m,), or (0,) where there are none. prompts: uint8, the ids of
    request e from indptr[e] to indptr[e + 1] (int64 (m + 1,)), each as wide as the arena keeps them, salts int64
    (m,); they are copied. indptr (0,): none. Not under CUSTOM.
    """
    state = opened(arena)
    head, rows, buckets, thead, theirs, their_buckets = state[0], state[1], state[2], state[6], state[7], state[8]
    own = parts(arena)[5]
    size, data = own[ID_BYTES], own[PROMPT_HEAD:].view(np.uint8)
    m = tokens.shape[0]
    if head[RETIRED] or rows.shape[0] - head[COUNT] < m or data.shape[0] - own[USED] < prompts.shape[0]:
        return np.int64(-1)
    if head[POLICY] == WFQ:
        for e in range(tenants.shape[0]):
            if tenant_row(thead, theirs, their_buckets, tenants[e]) < 0:
                return np.int64(-1)
        if tenants.shape[0] == 0 and tenant_row(thead, theirs, their_buckets, _ZERO) < 0:
            return np.int64(-1)
    now = clock.advance(head.view(np.float64), now)
    start, first, ids, salt, at = head[COUNT], head[NEXT_ID], _ZERO, _ZERO, _ZERO
    for e in range(m):
        if e % AT_ONCE == 0:
            for far in range(first + e, first + e + AT_ONCE):
                prefetch(buckets, table.home(buckets, far), _ONE)
        if indptr.shape[0] > 0:
            at, ids, salt = own[USED] // size, indptr[e + 1] - indptr[e], salts[e]
            for byte in range(ids * size):
                data[own[USED] + byte] = prompts[indptr[e] * size + byte]
            own[USED] += ids * size
            own[LIVE] += ids * size
        tenant = tenants[e] if tenants.shape[0] > 0 else _ZERO
        if head[POLICY] == WFQ:
            tenant = tenant_row(thead, theirs, their_buckets, tenant)
        slo, key = slos[e] if slos.shape[0] > 0 else np.inf, keys[e] if keys.shape[0] > 0 else 0.0
        _record(state, now, tokens[e], slo, key, tenant, at, ids, salt)
        if head[POLICY] == WFQ:
            stand(state, start + e, _LAST)
    if head[POLICY] != WFQ:
        stand_many(state, start, start + m, slos.shape[0] > 0)
    return first


@njit(cache=True)
def complete(arena, now, ids):
    """Forget ids, int64 (m,), all of them in flight at `now`, or none of them. O(m).

    (OK, m), (ABSENT, place of the first that is not in flight, or comes twice), or (FULL, 0).
    """
    state = opened(arena)
    head, rows, buckets = state[0], state[1], state[2]
    if head[RETIRED]:
        return FULL, 0
    stranger = _mark(rows, buckets, ids)
    if stranger >= 0:
        return ABSENT, stranger
    now, prompts = clock.advance(head.view(np.float64), now), parts(arena)[5]
    for e in range(ids.shape[0]):
        _forget(state, prompts, table.find(rows, buckets, ids[e]), now)
    head[COMPLETED] += ids.shape[0]
    return OK, ids.shape[0]


@njit(cache=True)
def wait_again(arena, now, ids, way):
    """Let ids, int64 (m,), all in flight, wait again at `now` in their old places, or none of them. O(m log n).

    `way`: LOST, KEPT, or REST, under which those stay in flight whose tokens have all been handed out. Answers as
    `complete`. Under WFQ they go before all others of their tenants, in the order of `ids`.
    """
    state = opened(arena)
    head, rows, buckets, queue = state[0], state[1], state[2], state[3]
    if head[RETIRED]:
        return FULL, 0
    stranger = _mark(rows, buckets, ids)
    if stranger >= 0:
        return ABSENT, stranger
    clock.advance(head.view(np.float64), now)
    for e in range(ids.shape[0] - 1, -1, -1):
        row = table.find(rows, buckets, ids[e])
        rows[row, OLDER] = IN_FLIGHT
        if way == LOST:
            rows[row, COMPUTED] = 0
        if way != REST or rows[row, COMPUTED] < rows[row, TOKENS]:
            rejoin(state, row)
    if way != REST:
        queue[PREEMPTIONS] += ids.shape[0]
    return OK, ids.shape[0]


@njit(cache=True)
def cancel(arena, now, request_id):
    """Forget a request, waiting or in flight, at `now`. OK, ABSENT or FULL. O(log n)."""
    state = opened(arena)
    head, rows, buckets = state[0], state[1], state[2]
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    if rows[row, OLDER] != IN_FLIGHT:
        leave(state, row)
    _forget(state, parts(arena)[5], row, clock.advance(head.view(np.float64), now))
    return OK


@njit(cache=True)
def update(arena, now, request_id, tokens, key, given):
    """Give a request other `tokens`, none of them computed, and another `key` if it is `given` (a bool).

    One in flight is put back in the queue, where its waiting begins anew at `now`. OK, ABSENT or FULL. O(log n).
    """
    state = opened(arena)
    head, rows, buckets, queue = state[0], state[1], state[2], state[3]
    if head[RETIRED]:
        return FULL
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT
    now = clock.advance(head.view(np.float64), now)
    if not given or head[POLICY] == LPM:  # there it is what was last found
        key = rows.view(np.float64)[row, ASKED_KEY]
    before = share(rows, queue, row)
    rows[row, TOKENS], rows[row, COMPUTED] = tokens, 0
    if rows[row, OLDER] == IN_FLIGHT:
        join(state, row, now, key)
    else:
        head[WAITING_TOKENS] += share(rows, queue, row) - before
        rekey(state, row, key)
    return OK


@njit(cache=True)
def bill(arena, ids, tokens):
    """Count tokens (int64 (m,)) as computed for the tenants of requests ids (int64 (m,)), all of them or none.

    (OK, m), (ABSENT, place of the first that is unknown) or (FULL, 0). Under WFQ. O(m log n).
    """
    state = opened(arena)
    head, rows, buckets = state[0], state[1], state[2]
    if head[RETIRED]:
        return FULL, 0
    for e in range(ids.shape[0]):
        if table.find(rows, buckets, ids[e]) < 0:
            return ABSENT, e
    for e in range(ids.shape[0]):
        charge(state, rows[table.find(rows, buckets, ids[e]), TENANT], tokens[e])
    return OK, ids.shape[0]


@njit(cache=True)
def set_weight(arena, tenant, weight):
    """Give a tenant (int64) a weight (float64, above 0): OK, or FULL where one more finds no room. O(1)."""
    head, _, _, _, _, _, thead, theirs, buckets = opened(arena)
    if head[RETIRED]:
        return FULL
    row = tenant_row(thead, theirs, buckets, tenant)
    if row < 0:
        return FULL
    theirs.view(np.float64)[row, WEIGHT] = weight
    return OK


@njit(cache=True)
def drop_idle(arena):
    """Forget the tenants of weight 1 who have no request, and no counter above any of those who have. O(tenants).

    Nothing is lost: were they to come back, they would begin no lower.
    """
    state = opened(arena)
    thead, theirs, buckets = state[6], state[7], state[8]
    if thead[COUNT] == 0:
        return
    counters, least = theirs.view(np.float64), least_counter(state)
    for row in range(thead[TOP]):
        if theirs[row, table.BUCKET] >= 0 and theirs[row, REQUESTS] > 0:
            least = min(least, counters[row, COUNTER])
    for row in range(thead[TOP]):
        if theirs[row, table.BUCKET] >= 0 and theirs[row, REQUESTS] == 0:
            if counters[row, WEIGHT] == 1.0 and counters[row, COUNTER] <= least:
                table.remove(theirs, buckets, row)
                table.free_row(thead, theirs, row)


@njit(cache=True)
def look_up(arena, request_id):
    """(OK or ABSENT, tokens, key, submitted, deadline, whether it is in flight, computed, tenant), times on the clock.

    O(1).
    """
    head, rows, buckets, _, _, _, _, theirs, _ = opened(arena)
    row = table.find(rows, buckets, request_id)
    if row < 0:
        return ABSENT, _ZERO, 0.0, 0.0, 0.0, False, _ZERO, _ZERO
    reals, epoch = rows.view(np.float64), head.view(np.float64)[clock.EPOCH]
    key, tenant = reals[row, ASKED_KEY], rows[row, TENANT]
    if head[POLICY] == FCFS or head[POLICY] == EDF:
        key += epoch
    if head[POLICY] == WFQ:
        key, tenant = theirs.view(np.float64)[tenant, COUNTER], theirs[tenant, KEY]
    submitted, deadline = epoch + reals[row, SUBMITTED], epoch + reals[row, DEADLINE]
    in_flight = rows[row, OLDER] == IN_FLIGHT
    return OK, rows[row, TOKENS], key, submitted, deadline, in_flight, rows[row, COMPUTED], tenant


@njit_no_nrt(cache=True)
def _record(state, now, tokens, slo, key, tenant, first, ids, salt):
    """Make a row of a new request, the last, that has yet to `stand`."""
    head, rows, buckets, _, _, _, _, theirs, _ = state
    row, request_id, reals = head[COUNT], head[NEXT_ID], rows.view(np.float64)
    table.insert(rows, buckets, row, request_id)
    head[NEXT_ID] += 1
    head[COUNT] = head[TOP] = row + 1
    rows[row, TOKENS], rows[row, COMPUTED], rows[row, TENANT] = tokens, 0, tenant
    rows[row, FIRST], rows[row, IDS], rows[row, SALT] = first, ids, salt
    reals[row, SUBMITTED], reals[row, DEADLINE] = now, now + slo
    if head[POLICY] == WFQ:
        theirs[tenant, REQUESTS] += 1
    line_up(state, row, now, 0.0 if head[POLICY] == LPM else key)


@njit_no_nrt(cache=True)
def _mark(rows, buckets, ids):
    """Mark all of ids as completing, -1; or none, and the place of the first that is not in flight, or comes twice."""
    for e in range(ids.shape[0]):
        if e % AT_ONCE == 0:
            table.prefetch_rows(rows, buckets, ids[e : e + AT_ONCE], WIDTH)
        row = table.find(rows, buckets, ids[e])
        if row < 0 or rows[row, OLDER] != IN_FLIGHT:
            for back in range(e):
                rows[table.find(rows, buckets, ids[back]), OLDER] = IN_FLIGHT
            return e
        rows[row, OLDER] = COMPLETING
    return -1


@njit_no_nrt(cache=True)
def _forget(state, prompts, row, now):
    """Take out a request that is in flight or completing; the last row takes its place."""
    head, rows, buckets, _, _, _, _, theirs, _ = state
    if now > rows.view(np.float64)[row, DEADLINE]:
        head[MISSES] += 1
    if head[POLICY] == WFQ:
        theirs[rows[row, TENANT], REQUESTS] -= 1
    prompts[LIVE] -= rows[row, IDS] * prompts[ID_BYTES]
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
        link(head, rows, older, row)
        link(head, rows, row, newer)
    if head[POLICY] == WFQ and (rows[row, OLDER] >= NOBODY or rows[row, OLDER] == AGAIN):
        ahead, behind = rows[row, AHEAD], rows[row, BEHIND]
        relink(rows, theirs, rows[row, TENANT], ahead, row)
        relink(rows, theirs, rows[row, TENANT], row, behind)
