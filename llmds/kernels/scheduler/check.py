"""Whether a scheduler's arrays are sound, and those of version 1 made into those of version 2 (`scheduler.layout`)."""

import numpy as np

from .. import clock, heap, histogram, table
from ..compiling import njit
from ..table import CAPACITY, COUNT, FREE, HEAD, KEY, TOP
from .layout import (
    AGAIN,
    AGING,
    AHEAD,
    ASKED_KEY,
    BACK,
    BATCHES,
    BEHIND,
    BLOCKS,
    CHUNK,
    COMPLETED,
    COMPUTED,
    COUNTER,
    CUSTOM,
    DEADLINE,
    FIRST,
    FRONT,
    HANDED_OUT,
    HISTOGRAM,
    ID_BYTES,
    IDS,
    IN_FLIGHT,
    LAST,
    LEDGER,
    LEFT,
    LIVE,
    MAX_SIZE,
    MAX_TOKENS,
    MAX_WAIT,
    MISSES,
    MOST_TOKENS,
    NEWER,
    NEWEST,
    NEXT_ID,
    NEXT_TURN,
    NO_CHUNK,
    NOBODY,
    OLDER,
    OLDEST,
    POLICY,
    PREEMPTIONS,
    PROMPT_HEAD,
    QUEUED,
    REQUESTS,
    SERVICE,
    SJF,
    SUBMITTED,
    TENANT,
    TENANT_WIDTH,
    TOKENS,
    TURN,
    USED,
    WAITING,
    WAITING_TOKENS,
    WEIGHT,
    WFQ,
    WIDTH,
    new,
    opened,
    parts,
    tenants_size,
)
from .queue import key_of, rank, share

OLD_WIDTH = np.int64(9)
_ZERO = np.int64(0)


@njit(cache=True)
def well_formed(arena):
    """Whether `parts` may cut this array (any int64 array (n,)) into arenas."""
    if arena.shape[0] < HEAD or not 0 <= arena[CAPACITY] < 2**31:
        return False
    capacity = arena[CAPACITY]
    at = _requests_size(capacity, WIDTH) + 3 * _requests_size(capacity, heap.COLUMNS)
    if arena.shape[0] < at + HEAD or not 0 <= arena[at + CAPACITY] < 2**31:
        return False
    if arena.shape[0] < at + tenants_size(arena[at + CAPACITY]) + PROMPT_HEAD:
        return False
    requests, queue, deadlines, again, tenants, prompts = parts(arena)
    return (
        table.well_formed(requests, WIDTH)
        and table.well_formed(queue, heap.COLUMNS)
        and table.well_formed(deadlines, heap.COLUMNS)
        and table.well_formed(again, heap.COLUMNS)
        and table.well_formed(tenants, TENANT_WIDTH)
        and queue[CAPACITY] == deadlines[CAPACITY] == again[CAPACITY] == capacity
        and 0 <= prompts[ID_BYTES] <= 8
        and 0 <= prompts[BLOCKS] <= 1
        and 0 <= prompts[LIVE] <= prompts[USED] <= 8 * (prompts.shape[0] - PROMPT_HEAD)
    )


@njit(cache=True)
def first_fault(arena):
    """First row of the requests that is impossible, or that a queue or a link does not know.

    -1 if there is none, -2 where head, queues and links do not add up. Safe on any contents of a `well_formed` arena.
    """
    prompts = parts(arena)[5]
    head, rows, buckets, queue, deadlines, again, thead, theirs, their_buckets = opened(arena)
    if (
        table.first_fault(head, rows, buckets) != -1
        or table.first_fault(thead, theirs, their_buckets) != -1
        or heap.first_fault(queue) != -1
        or heap.first_fault(deadlines) != -1
        or heap.first_fault(again) != -1
        or not _head_adds_up(head, queue, deadlines, again, thead)
        or not _tenants_add_up(head, rows, thead, theirs)
    ):
        return np.int64(-2)
    reals, seconds = rows.view(np.float64), head.view(np.float64)
    waiting, firsts, urgent, repeated, tokens, live = 0, 0, 0, 0, _ZERO, _ZERO
    for row in range(head[COUNT]):
        turn = rows[row, TURN]
        if not (
            0 <= rows[row, KEY] < head[NEXT_ID]
            and 0 <= rows[row, COMPUTED] <= rows[row, TOKENS] <= MOST_TOKENS
            and np.isfinite(reals[row, SUBMITTED])
            and reals[row, SUBMITTED] <= reals[row, QUEUED] <= seconds[clock.LATEST]
            and reals[row, DEADLINE] >= reals[row, SUBMITTED]
            and not np.isnan(reals[row, ASKED_KEY])
            and 0 <= turn < queue[NEXT_TURN]
        ):
            return np.int64(row)
        if prompts[ID_BYTES] > 0:
            if not (0 <= rows[row, FIRST] <= prompts[USED] and 0 <= rows[row, IDS] <= prompts[USED]):
                return np.int64(row)
            if (rows[row, FIRST] + rows[row, IDS]) * prompts[ID_BYTES] > prompts[USED]:
                return np.int64(row)
            live += rows[row, IDS] * prompts[ID_BYTES]
        if rows[row, OLDER] == IN_FLIGHT:
            continue
        waiting += 1
        tokens += share(rows, queue, row)
        if head[POLICY] != WFQ or rows[row, AHEAD] == NOBODY:
            firsts += 1
            if not _stands(queue, rows[row, KEY], rank(head, rows, theirs, row), turn):
                return np.int64(row)
        if reals[row, ASKED_KEY] != key_of(head, rows, reals, row, reals[row, ASKED_KEY]):
            return np.int64(row)
        if reals[row, DEADLINE] < np.inf:
            urgent += 1
            if not _stands(deadlines, rows[row, KEY], reals[row, DEADLINE], turn):
                return np.int64(row)
        if rows[row, OLDER] == AGAIN:
            repeated += 1
            if not _stands(again, rows[row, KEY], reals[row, QUEUED], turn):
                return np.int64(row)
    if not (
        waiting == queue[WAITING]
        and firsts == queue[COUNT]
        and urgent == deadlines[COUNT]
        and repeated == again[COUNT]
        and tokens == head[WAITING_TOKENS]
        and (prompts[ID_BYTES] == 0 or live == prompts[LIVE])
    ):
        return np.int64(-2)
    return _fault_of_links(head, rows, waiting - repeated)


@njit(cache=True)
def ledger_adds_up(ledger):
    """Whether any int64 array (n,) is a ledger."""
    if ledger.shape[0] < LEDGER or not 1 <= ledger[MAX_SIZE] == ledger.shape[0] - LEDGER:
        return False
    if not 0 <= ledger[LAST] <= ledger[MAX_SIZE]:
        return False
    for place in range(ledger[LAST]):
        if not 0 <= ledger[LEDGER + place] <= MOST_TOKENS:
            return False
    seconds = ledger.view(np.float64)
    return (
        ledger[MAX_TOKENS] >= 1
        and seconds[MAX_WAIT] >= 0
        and 0 <= seconds[SERVICE] < np.inf
        and 0 <= ledger[BATCHES] <= ledger[HANDED_OUT]
        and 0 <= histogram.total(ledger[HISTOGRAM:LAST]) <= ledger[HANDED_OUT]
    )


@njit(cache=True)
def upgraded(old, id_bytes):
    """(whether it could be done, an arena of version 2) from any int64 array (n,) that should be one of version 1.

    What it holds is yet to be examined by `first_fault`. O(n).
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
    if table.first_fault(before, earlier, buckets) != -1 or heap.first_fault(queue) != -1 or before[POLICY] > CUSTOM:
        return False, none
    arena = new(capacity, _ZERO, _ZERO, before[POLICY], before.view(np.float64)[AGING], NO_CHUNK, id_bytes, _ZERO)
    head, rows, buckets, orders, deadlines, _, _, theirs, _ = opened(arena)
    for slot in range(COUNT, HEAD):
        head[slot] = before[slot]
    _, places, their_buckets = table.parts(queue)
    orders[NEXT_TURN] = queue[heap.NEXT_ORDER]
    reals = rows.view(np.float64)
    for row in range(head[COUNT]):
        for column in range(table.BUCKET + 1, OLD_WIDTH):
            rows[row, column] = earlier[row, column]
        for column in range(OLD_WIDTH, WIDTH):
            rows[row, column] = 0
        table.insert(rows, buckets, row, earlier[row, KEY])
        place = table.find(places, their_buckets, rows[row, KEY])
        if place < 0:  # in flight
            rows[row, COMPUTED] = rows[row, TOKENS]
            continue
        rows[row, TURN] = places[place, heap.ORDER]
        orders[WAITING] += 1
        heap.push_in_turn(orders, rows[row, KEY], rank(head, rows, theirs, row), rows[row, TURN])
        if reals[row, DEADLINE] < np.inf:
            heap.push_in_turn(deadlines, rows[row, KEY], reals[row, DEADLINE], rows[row, TURN])
    return True, arena


@njit(cache=True)
def _requests_size(capacity, columns):
    return HEAD + capacity * columns + (table.bucket_count(capacity) + 1) // 2


@njit(cache=True)
def _head_adds_up(head, queue, deadlines, again, thead):
    seconds = head.view(np.float64)
    return (
        head[FREE] == -1
        and head[TOP] == head[COUNT]
        and queue[heap.SIGN] == deadlines[heap.SIGN] == again[heap.SIGN] == 1
        and head[NEXT_ID] >= 0
        and SJF <= head[POLICY] <= WFQ
        and 0 <= seconds[AGING] < np.inf
        and np.isfinite(seconds[clock.EPOCH])
        and seconds[clock.LATEST] < np.inf
        and head[COMPLETED] >= 0
        and head[MISSES] >= 0
        and 1 <= queue[CHUNK] <= NO_CHUNK
        and queue[PREEMPTIONS] >= 0
        and (head[POLICY] == WFQ or thead[CAPACITY] == 0)
        and 0 <= thead.view(np.float64)[LEFT] < np.inf
    )


@njit(cache=True)
def _tenants_add_up(head, rows, thead, theirs):
    """Whether every request has its tenant, and every waiting one its place among the tenant's."""
    if head[POLICY] != WFQ:
        return True
    reals, found, waiting = theirs.view(np.float64), np.zeros(theirs.shape[0], np.int64), 0
    for row in range(head[COUNT]):
        tenant = rows[row, TENANT]
        if not (0 <= tenant < thead[TOP] and theirs[tenant, table.BUCKET] >= 0):
            return False
        found[tenant] += 1
        waiting += rows[row, OLDER] != IN_FLIGHT
    for tenant in range(thead[TOP]):
        if theirs[tenant, table.BUCKET] < 0:
            continue
        if found[tenant] != theirs[tenant, REQUESTS]:
            return False
        if not (0 <= reals[tenant, COUNTER] < np.inf and 0 < reals[tenant, WEIGHT] < np.inf):
            return False
        row, before = theirs[tenant, FRONT], np.int64(NOBODY)
        while row != NOBODY:
            if not 0 <= row < head[COUNT] or waiting == 0:
                return False
            if rows[row, TENANT] != tenant or rows[row, AHEAD] != before or rows[row, OLDER] == IN_FLIGHT:
                return False
            waiting -= 1
            before, row = row, rows[row, BEHIND]
        if before != theirs[tenant, BACK]:
            return False
    return waiting == 0


@njit(cache=True)
def _stands(place, key, score, turn):
    """Whether a heap holds `key` with this score and order."""
    _, rows, buckets = table.parts(place)
    at = table.find(rows, buckets, key)
    return at >= 0 and rows.view(np.float64)[at, heap.SCORE] == score and rows[at, heap.ORDER] == turn


@njit(cache=True)
def _fault_of_links(head, rows, waiting):
    """First row that is out of the order of waiting; -1 if none is, -2 if not all `waiting` stand in it."""
    reals, row, before = rows.view(np.float64), head[OLDEST], np.int64(NOBODY)
    while row != NOBODY:
        if row < 0 or row >= head[COUNT] or rows[row, OLDER] != before or waiting == 0:
            return np.int64(-2)
        if before != NOBODY and reals[row, QUEUED] < reals[before, QUEUED]:
            return np.int64(row)
        waiting -= 1
        before, row = row, rows[row, NEWER]
    return np.int64(-1 if waiting == 0 and before == head[NEWEST] else -2)
