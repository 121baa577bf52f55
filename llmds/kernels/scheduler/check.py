"""Whether a scheduler's arrays are sound, and those of version 1 made into those of version 2 (`scheduler.layout`)."""

import numpy as np

from .. import clock, heap, histogram, table
from ..compiling import njit
from ..table import CAPACITY, COUNT, FREE, HEAD, KEY, TOP
from . import layout
from .policies import CUSTOM, SJF, WFQ, is_known
from .queue import key_of, next_tokens, rank

OLD_WIDTH = np.int64(9)
SOUND, BROKEN, UNKNOWN_POLICY = -1, -2, -3  # what `first_fault` returns where it is no row
_ZERO = np.int64(0)


@njit(cache=True)
def well_formed(arena):
    """Return whether `parts` may cut this array, any int64 array (n,), into arenas."""
    if arena.shape[0] < HEAD or not 0 <= arena[CAPACITY] < 2**31:
        return False
    capacity = arena[CAPACITY]
    at = _requests_size(capacity, layout.WIDTH) + 3 * _requests_size(capacity, heap.COLUMNS)
    if arena.shape[0] < at + HEAD or not 0 <= arena[at + CAPACITY] < 2**31:
        return False
    if arena.shape[0] < at + layout.tenants_size(arena[at + CAPACITY]) + layout.PROMPT_HEAD:
        return False
    requests, queue, deadlines, again, tenants, prompts = layout.parts(arena)
    return (
        table.well_formed(requests, layout.WIDTH)
        and table.well_formed(queue, heap.COLUMNS)
        and table.well_formed(deadlines, heap.COLUMNS)
        and table.well_formed(again, heap.COLUMNS)
        and table.well_formed(tenants, layout.TENANT_WIDTH)
        and queue[CAPACITY] == deadlines[CAPACITY] == again[CAPACITY] == capacity
        and 0 <= prompts[layout.ID_BYTES] <= 8
        and 0 <= prompts[layout.BLOCKS] <= 1
        and 0 <= prompts[layout.LIVE] <= prompts[layout.USED] <= 8 * (prompts.shape[0] - layout.PROMPT_HEAD)
    )


@njit(cache=True)
def first_fault(arena):
    """Return the first row of the requests that is impossible, or that a queue or a link does not hold.

    SOUND if there is none, BROKEN if head, queues and links do not add up, UNKNOWN_POLICY if the policy is. Safe on any
    contents of a `well_formed` arena.
    """
    if not is_known(arena[layout.POLICY]):
        return np.int64(UNKNOWN_POLICY)
    state, prompts = layout.opened(arena), layout.parts(arena).prompts
    head, rows, buckets = state.head, state.rows, state.buckets
    queue, deadlines, again = state.queue, state.deadlines, state.again
    tenant_head, tenant_rows = state.tenant_head, state.tenant_rows
    if (
        table.first_fault(head, rows, buckets) != -1
        or table.first_fault(tenant_head, tenant_rows, state.tenant_buckets) != -1
        or heap.first_fault(queue) != -1
        or heap.first_fault(deadlines) != -1
        or heap.first_fault(again) != -1
        or not _head_adds_up(head, queue, deadlines, again, tenant_head)
        or not _tenants_add_up(head, rows, tenant_head, tenant_rows)
    ):
        return np.int64(BROKEN)
    reals, seconds = rows.view(np.float64), head.view(np.float64)
    waiting, firsts, urgent, repeated, tokens, live = 0, 0, 0, 0, _ZERO, _ZERO
    for row in range(head[COUNT]):
        turn = rows[row, layout.TURN]
        if not (
            0 <= rows[row, KEY] < head[layout.NEXT_ID]
            and 0 <= rows[row, layout.COMPUTED] <= rows[row, layout.TOKENS] <= layout.MOST_TOKENS
            and np.isfinite(reals[row, layout.SUBMITTED])
            and reals[row, layout.SUBMITTED] <= reals[row, layout.QUEUED] <= seconds[clock.LATEST]
            and reals[row, layout.DEADLINE] >= reals[row, layout.SUBMITTED]
            and not np.isnan(reals[row, layout.POLICY_KEY])
            and 0 <= turn < queue[layout.NEXT_TURN]
        ):
            return np.int64(row)
        if prompts[layout.ID_BYTES] > 0:
            if not (
                0 <= rows[row, layout.FIRST] <= prompts[layout.USED]
                and 0 <= rows[row, layout.IDS] <= prompts[layout.USED]
            ):
                return np.int64(row)
            if (rows[row, layout.FIRST] + rows[row, layout.IDS]) * prompts[layout.ID_BYTES] > prompts[layout.USED]:
                return np.int64(row)
            live += rows[row, layout.IDS] * prompts[layout.ID_BYTES]
        if rows[row, layout.OLDER] == layout.IN_FLIGHT:
            continue
        waiting += 1
        tokens += next_tokens(rows, queue, row)
        if head[layout.POLICY] != WFQ or rows[row, layout.AHEAD] == layout.NO_ROW:
            firsts += 1
            if not _holds(queue, rows[row, KEY], rank(head, rows, tenant_rows, row), turn):
                return np.int64(row)
        if reals[row, layout.POLICY_KEY] != key_of(head, rows, row, reals[row, layout.POLICY_KEY]):
            return np.int64(row)
        if reals[row, layout.DEADLINE] < np.inf:
            urgent += 1
            if not _holds(deadlines, rows[row, KEY], reals[row, layout.DEADLINE], turn):
                return np.int64(row)
        if rows[row, layout.OLDER] == layout.AGAIN:
            repeated += 1
            if not _holds(again, rows[row, KEY], reals[row, layout.QUEUED], turn):
                return np.int64(row)
    if not (
        waiting == queue[layout.WAITING]
        and firsts == queue[COUNT]
        and urgent == deadlines[COUNT]
        and repeated == again[COUNT]
        and tokens == head[layout.WAITING_TOKENS]
        and (prompts[layout.ID_BYTES] == 0 or live == prompts[layout.LIVE])
    ):
        return np.int64(BROKEN)
    return _fault_of_links(head, rows, waiting - repeated)


@njit(cache=True)
def ledger_adds_up(ledger):
    """Return whether this array, any int64 array (n,), is a ledger."""
    if ledger.shape[0] < layout.LEDGER or not 1 <= ledger[layout.MAX_SIZE] == ledger.shape[0] - layout.LEDGER:
        return False
    if not 0 <= ledger[layout.LAST] <= ledger[layout.MAX_SIZE]:
        return False
    for place in range(ledger[layout.LAST]):
        if not 0 <= ledger[layout.LEDGER + place] <= layout.MOST_TOKENS:
            return False
    seconds = ledger.view(np.float64)
    return (
        ledger[layout.MAX_TOKENS] >= 1
        and seconds[layout.MAX_WAIT] >= 0
        and 0 <= seconds[layout.SERVICE] < np.inf
        and 0 <= ledger[layout.BATCHES] <= ledger[layout.HANDED_OUT]
        and 0 <= histogram.total(ledger[layout.HISTOGRAM : layout.LAST]) <= ledger[layout.HANDED_OUT]
    )


@njit(cache=True)
def upgraded(old, id_bytes):
    """Return (whether it could be done, an arena of version 2) from any int64 array (n,) that should be of version 1.

    `first_fault` has yet to examine what it holds. O(n).
    """
    none = np.empty(0, np.int64)
    if old.shape[0] < HEAD or not 0 <= old[CAPACITY] < 2**31:
        return False, none
    capacity = old[CAPACITY]
    a, step = _requests_size(capacity, OLD_WIDTH), _requests_size(capacity, heap.COLUMNS)
    if old.shape[0] != a + 2 * step:
        return False, none
    requests, queue = old[:a], old[a : a + step]
    if not (table.well_formed(requests, OLD_WIDTH) and table.well_formed(queue, heap.COLUMNS)):
        return False, none
    before, earlier, buckets = table.parts(requests)
    if table.first_fault(before, earlier, buckets) != -1 or heap.first_fault(queue) != -1:
        return False, none
    if not SJF <= before[layout.POLICY] <= CUSTOM:
        return False, none
    arena = layout.new(
        capacity,
        _ZERO,
        _ZERO,
        before[layout.POLICY],
        before.view(np.float64)[layout.AGING],
        layout.NO_CHUNK,
        id_bytes,
        _ZERO,
    )
    state = layout.opened(arena)
    head, rows, buckets = state.head, state.rows, state.buckets
    orders, deadlines, tenant_rows = state.queue, state.deadlines, state.tenant_rows
    for slot in range(COUNT, HEAD):
        head[slot] = before[slot]
    _, places, tenant_buckets = table.parts(queue)
    orders[layout.NEXT_TURN] = queue[heap.NEXT_ORDER]
    reals = rows.view(np.float64)
    for row in range(head[COUNT]):
        for column in range(table.BUCKET + 1, OLD_WIDTH):
            rows[row, column] = earlier[row, column]
        for column in range(OLD_WIDTH, layout.WIDTH):
            rows[row, column] = 0
        table.insert(rows, buckets, row, earlier[row, KEY])
        place = table.find(places, tenant_buckets, rows[row, KEY])
        if place < 0:  # in flight
            rows[row, layout.COMPUTED] = rows[row, layout.TOKENS]
            continue
        rows[row, layout.TURN] = places[place, heap.ORDER]
        orders[layout.WAITING] += 1
        heap.push_in_turn(orders, rows[row, KEY], rank(head, rows, tenant_rows, row), rows[row, layout.TURN])
        if reals[row, layout.DEADLINE] < np.inf:
            heap.push_in_turn(deadlines, rows[row, KEY], reals[row, layout.DEADLINE], rows[row, layout.TURN])
    return True, arena


@njit(cache=True)
def _requests_size(capacity, columns):
    """Return the elements of a `table` of that many rows."""
    return HEAD + capacity * columns + (table.bucket_count(capacity) + 1) // 2


@njit(cache=True)
def _head_adds_up(head, queue, deadlines, again, tenant_head):
    """Return whether the settings and counts in the heads are possible."""
    seconds = head.view(np.float64)
    return (
        head[FREE] == -1
        and head[TOP] == head[COUNT]
        and queue[heap.SIGN] == deadlines[heap.SIGN] == again[heap.SIGN] == 1
        and head[layout.NEXT_ID] >= 0
        and 0 <= seconds[layout.AGING] < np.inf
        and np.isfinite(seconds[clock.EPOCH])
        and seconds[clock.LATEST] < np.inf
        and head[layout.COMPLETED] >= 0
        and head[layout.MISSES] >= 0
        and 1 <= queue[layout.CHUNK] <= layout.NO_CHUNK
        and queue[layout.PREEMPTIONS] >= 0
        and (head[layout.POLICY] == WFQ or tenant_head[CAPACITY] == 0)
        and 0 <= tenant_head.view(np.float64)[layout.LAST_COUNTER] < np.inf
    )


@njit(cache=True)
def _tenants_add_up(head, rows, tenant_head, tenant_rows):
    """Return whether every request has its tenant, and every waiting one its place among the tenant's."""
    if head[layout.POLICY] != WFQ:
        return True
    reals, found, waiting = tenant_rows.view(np.float64), np.zeros(tenant_rows.shape[0], np.int64), 0
    for row in range(head[COUNT]):
        tenant = rows[row, layout.TENANT]
        if not (0 <= tenant < tenant_head[TOP] and tenant_rows[tenant, table.BUCKET] >= 0):
            return False
        found[tenant] += 1
        waiting += rows[row, layout.OLDER] != layout.IN_FLIGHT
    for tenant in range(tenant_head[TOP]):
        if tenant_rows[tenant, table.BUCKET] < 0:
            continue
        if found[tenant] != tenant_rows[tenant, layout.REQUESTS]:
            return False
        if not (0 <= reals[tenant, layout.COUNTER] < np.inf and 0 < reals[tenant, layout.WEIGHT] < np.inf):
            return False
        row, before = tenant_rows[tenant, layout.FRONT], np.int64(layout.NO_ROW)
        while row != layout.NO_ROW:
            if not 0 <= row < head[COUNT] or waiting == 0:
                return False
            if (
                rows[row, layout.TENANT] != tenant
                or rows[row, layout.AHEAD] != before
                or rows[row, layout.OLDER] == layout.IN_FLIGHT
            ):
                return False
            waiting -= 1
            before, row = row, rows[row, layout.BEHIND]
        if before != tenant_rows[tenant, layout.BACK]:
            return False
    return waiting == 0


@njit(cache=True)
def _holds(place, key, score, turn):
    """Return whether a heap holds `key` with this score and order."""
    _, rows, buckets = table.parts(place)
    at = table.find(rows, buckets, key)
    return at >= 0 and rows.view(np.float64)[at, heap.SCORE] == score and rows[at, heap.ORDER] == turn


@njit(cache=True)
def _fault_of_links(head, rows, waiting):
    """Return the first row that is out of the order of waiting; SOUND or BROKEN (some are not in it)."""
    reals, row, before = rows.view(np.float64), head[layout.OLDEST], np.int64(layout.NO_ROW)
    while row != layout.NO_ROW:
        if row < 0 or row >= head[COUNT] or rows[row, layout.OLDER] != before or waiting == 0:
            return np.int64(BROKEN)
        if before != layout.NO_ROW and reals[row, layout.QUEUED] < reals[before, layout.QUEUED]:
            return np.int64(row)
        waiting -= 1
        before, row = row, rows[row, layout.NEWER]
    return np.int64(SOUND if waiting == 0 and before == head[layout.NEWEST] else BROKEN)
