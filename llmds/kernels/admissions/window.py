"""A sliding window over admissions, exact, for all requests and for each tenant, in two int64 arrays.

`arena`, the window:

    head  int64 (HEAD,)        the first slots as in `table`, EPOCH and LATEST as in `clock`
    ring  int64 (capacity, 3)  the requests in the window, oldest first from head[START] on, wrapping round:
                               entry[TIME] the bits of a float64, the arena's second of the admission;
                               entry[TOKENS] its tokens once settled, ~tokens while they are an estimate;
                               entry[TENANT] the row of its tenant, or NOBODY

The request with ticket t is t - head[OLDEST] places behind the start; all before head[UNSETTLED] are
settled. It leaves the window at the second TIME + WINDOW, settled or not.

`tenants`, an arena as in `table`, with a row for each tenant that has requests in the window or limits of its own:

    row[REQUESTS], row[HELD]             its requests in the window, and their tokens
    row[OWN_REQUESTS], row[OWN_TOKENS]   the most its window may hold; UNSET: head[ANY_REQUESTS], head[ANY_TOKENS]
    row[OWN_QPS], row[OWN_RATE]          bits of float64: the same per second, as given by the user

`new` and `new_tenants` make them. FULL or CROWDED means that the request was neither counted nor rejected and
`resized`, or `table.resized` of the tenants, must make room first, or that it already has (the arena is retired):
call again with the new arena.
"""

from typing import NamedTuple

import numpy as np

from .. import clock, table
from ..compiling import njit, njit_no_nrt
from ..table import BUCKET, CAPACITY, COLUMNS, COUNT, OWN, RETIRED, TOP

ADMITTED, TOO_MANY_REQUESTS, TOO_MANY_TOKENS, TENANT_REQUESTS, TENANT_TOKENS = 0, 1, 2, 3, 4
FULL, CROWDED, ABSENT = 5, 6, 7

HEAD = 24
WINDOW, QPS, TOKEN_RATE = 8, 9, 10  # bits of float64: seconds, and the limits per second, as given by the user
MAX_REQUESTS, MAX_TOKENS = 11, 12  # the most a window may hold
START, OLDEST, UNSETTLED, IN_WINDOW, ACCEPTED, REJECTED, LAST_TICKET = 13, 14, 15, 16, 17, 18, 19
ASKED_AT, ASKED_TOKENS, ANSWER, ASKED_BY = 20, 21, 22, 23  # the arguments of a single call, during the call
TIME, TOKENS, TENANT, WIDTH = 0, 1, 2, 3
NOBODY, UNSET = -1, -1
REQUESTS, HELD, OWN_REQUESTS, OWN_TOKENS, OWN_QPS, OWN_RATE, TENANT_WIDTH = 2, 3, 4, 5, 6, 7, np.int64(8)
ANY_REQUESTS, ANY_TOKENS, ANY_QPS, ANY_RATE = OWN, OWN + 1, OWN + 2, OWN + 3
MOST_TOKENS = 2**31 - 1


class Arrays(NamedTuple):
    """The arrays of a window."""

    arena: np.ndarray
    tenants: np.ndarray


@njit(cache=True)
def new(capacity, qps, token_rate, window, max_requests, max_tokens):
    """Return an empty window of `capacity` entries, for at most `max_requests` and `max_tokens` in `window` seconds."""
    arena = np.zeros(HEAD + capacity * WIDTH, np.int64)
    arena[CAPACITY], arena[COLUMNS] = capacity, WIDTH
    arena[MAX_REQUESTS], arena[MAX_TOKENS], arena[LAST_TICKET] = max_requests, max_tokens, -1
    seconds = arena.view(np.float64)
    seconds[QPS], seconds[TOKEN_RATE], seconds[WINDOW], seconds[clock.LATEST] = qps, token_rate, window, -np.inf
    return arena


@njit(cache=True)
def new_tenants(capacity, qps, token_rate, max_requests, max_tokens):
    """Return an arena without tenants, with room for `capacity`. The limits hold for tenants without their own."""
    tenants = table.new(capacity, TENANT_WIDTH)
    tenants[ANY_REQUESTS], tenants[ANY_TOKENS] = max_requests, max_tokens
    seconds = tenants.view(np.float64)
    seconds[ANY_QPS], seconds[ANY_RATE] = qps, token_rate
    return tenants


@njit(cache=True, inline="always")
def parts(arena):
    """Return (head, the same as float64, ring, the same as float64), views of `arena`."""
    head, ring = arena[:HEAD], arena[HEAD:].reshape(arena[CAPACITY], WIDTH)
    return head, head.view(np.float64), ring, ring.view(np.float64)


@njit_no_nrt(cache=True)
def admit(arena, tenants, now, tokens, tenant, named):
    """Admit a request of `tokens` (int64, estimated) at the clock's `now` if the limits allow it. Amortised O(1).

    `tenant` (int64) is its tenant where `named` (int64) is 1; `named` is 0 for a request without one.

    Returns ADMITTED, and the request is in the window; TOO_MANY_REQUESTS, TOO_MANY_TOKENS, TENANT_REQUESTS or
    TENANT_TOKENS, the first limit it would break, and it is counted as rejected; FULL or CROWDED.
    """
    if arena[RETIRED]:
        return FULL
    if tenants[RETIRED]:
        return CROWDED
    seconds = arena.view(np.float64)
    seconds[ASKED_AT], arena[ASKED_TOKENS], arena[ASKED_BY] = now, tokens, tenant
    moments, asked = seconds[ASKED_AT : ASKED_AT + 1], arena[ASKED_TOKENS : ASKED_TOKENS + 1]
    by, answers = arena[ASKED_BY : ASKED_BY + named], arena[ANSWER : ANSWER + 1].view(np.bool_)[:1]
    _, answer = _admit_all(arena, tenants, moments, asked, by, answers)
    arena[ASKED_AT] = arena[ASKED_TOKENS] = arena[ANSWER] = arena[ASKED_BY] = 0
    return answer


@njit_no_nrt(cache=True)
def admit_many(arena, tenants, moments, tokens, by, admitted):
    """Do `admit` for moments float64 (m,), never decreasing, and tokens int64 (m,), in order. Amortised O(m).

    `by` is the tenants int64 (m,), or (0,) if there are none. Fills admitted, bool (m,). Returns (how many are done,
    the last code): fewer than m where it stopped for FULL or CROWDED.
    """
    if arena[RETIRED]:
        return 0, FULL
    if tenants[RETIRED]:
        return 0, CROWDED
    return _admit_all(arena, tenants, moments, tokens, by, admitted)


@njit_no_nrt(cache=True)
def retry_after(arena, tenants, now, tokens, tenant, named):
    """Return the seconds from the clock's `now` until `admit` would admit this request if no other came; inf for never.

    The window is advanced to `now`. A retired arena is accepted. O(requests that must leave first).
    """
    head, seconds, ring, times = parts(arena)
    second = clock.advance(seconds, now)
    _expire(head, seconds, ring, times, tenants, second)
    requests, held = head[MAX_REQUESTS] - head[COUNT] - 1, head[MAX_TOKENS] - head[IN_WINDOW] - tokens
    row, their_requests, their_held = np.int64(NOBODY), np.int64(0), np.int64(0)
    if head[MAX_REQUESTS] < 1 or head[MAX_TOKENS] < tokens:
        return np.inf
    if named:
        their_head, rows, buckets = table.parts(tenants)
        row = table.find(rows, buckets, tenant)
        their_requests, their_held = _limits(their_head, rows, row)
        if their_requests < 1 or their_held < tokens:
            return np.inf
        their_requests -= 1 + (rows[row, REQUESTS] if row >= 0 else 0)
        their_held -= tokens + (rows[row, HELD] if row >= 0 else 0)
    gone = np.int64(0)
    while requests < 0 or held < 0 or their_requests < 0 or their_held < 0:
        entry = place(head[START], gone, ring.shape[0])
        requests += 1
        held += counted(ring[entry, TOKENS])
        if row >= 0 and ring[entry, TENANT] == row:
            their_requests += 1
            their_held += counted(ring[entry, TOKENS])
        gone += 1
    if gone == 0:
        return 0.0
    due = times[place(head[START], gone - 1, ring.shape[0]), TIME] + seconds[WINDOW]
    shown = due + seconds[clock.EPOCH]
    while shown - seconds[clock.EPOCH] < due:
        shown += max(abs(shown), abs(due)) * 2.0**-52
    wait = shown - now
    while now + wait < shown:  # the difference was rounded down
        wait += max(abs(shown), abs(wait)) * 2.0**-52
    return wait


@njit_no_nrt(cache=True)
def set_limits(tenants, tenant, qps, token_rate, max_requests, max_tokens):
    """Give `tenant` limits of its own, per window and per second. UNSET: the limits of any tenant hold. Expected O(1).

    Returns ADMITTED or CROWDED.
    """
    head, rows, buckets = table.parts(tenants)
    if head[RETIRED]:
        return CROWDED
    row = table.find(rows, buckets, tenant)
    if row < 0:
        if max_requests == UNSET and max_tokens == UNSET:
            return ADMITTED
        row = _enter(head, rows, buckets, tenant)
        if row < 0:
            return CROWDED
    reals = rows.view(np.float64)
    rows[row, OWN_REQUESTS], rows[row, OWN_TOKENS] = max_requests, max_tokens
    reals[row, OWN_QPS], reals[row, OWN_RATE] = qps, token_rate
    _drop_if_idle(head, rows, buckets, row)
    return ADMITTED


@njit_no_nrt(cache=True)
def tenant_usage(arena, tenants, now, tenant):
    """Return (requests in the window, their tokens, both limits per second) of `tenant` at the clock's `now`.

    Amortised O(1).
    """
    head, seconds, ring, times = parts(arena)
    _expire(head, seconds, ring, times, tenants, clock.advance(seconds, now))
    their_head, rows, buckets = table.parts(tenants)
    reals, theirs = rows.view(np.float64), their_head.view(np.float64)
    row = table.find(rows, buckets, tenant)
    if row < 0:
        return 0, 0, theirs[ANY_QPS], theirs[ANY_RATE]
    qps = theirs[ANY_QPS] if rows[row, OWN_REQUESTS] == UNSET else reals[row, OWN_QPS]
    rate = theirs[ANY_RATE] if rows[row, OWN_TOKENS] == UNSET else reals[row, OWN_RATE]
    return rows[row, REQUESTS], rows[row, HELD], qps, rate


@njit_no_nrt(cache=True)
def record(arena, tenants, now, tokens, ticket):
    """Settle the admission `ticket` (-1: the oldest unsettled one) with `tokens` (int64). Amortised O(1).

    Returns ADMITTED, also where the admission has left the window; ABSENT if the ticket was never issued; FULL or
    CROWDED. Ticket -1 with nothing unsettled adds a settled request without tenant to the window at the clock's `now`.
    """
    head, seconds, ring, times = parts(arena)
    if head[RETIRED]:
        return FULL
    if tenants[RETIRED]:
        return CROWDED
    if ticket > head[LAST_TICKET]:
        return ABSENT
    now = clock.advance(seconds, now)
    _expire(head, seconds, ring, times, tenants, now)
    if ticket < 0:
        ticket = _oldest_unsettled(head, ring)
        if ticket == head[OLDEST] + head[COUNT]:
            if head[COUNT] == ring.shape[0]:
                return FULL
            entry = place(head[START], head[COUNT], ring.shape[0])
            times[entry, TIME], ring[entry, TOKENS], ring[entry, TENANT] = now, 0, NOBODY
            head[COUNT] += 1
            head[TOP] = head[COUNT]
    if ticket >= head[OLDEST]:
        entry = place(head[START], ticket - head[OLDEST], ring.shape[0])
        more = tokens - counted(ring[entry, TOKENS])
        head[IN_WINDOW] += more
        if ring[entry, TENANT] >= 0:
            _, rows, _ = table.parts(tenants)
            rows[ring[entry, TENANT], HELD] += more
        ring[entry, TOKENS] = tokens
    return ADMITTED


@njit_no_nrt(cache=True)
def expire(arena, tenants, now):
    """Remove the requests whose time in the window is over at the clock's `now`. Amortised O(1)."""
    head, seconds, ring, times = parts(arena)
    _expire(head, seconds, ring, times, tenants, clock.advance(seconds, now))


@njit_no_nrt(cache=True)
def reset(arena, tenants):
    """Empty the window and zero the counters; tickets count on, tenants keep limits of their own. O(tenants)."""
    head, _, _, _ = parts(arena)
    head[OLDEST] += head[COUNT]
    head[UNSETTLED] = head[OLDEST]
    head[COUNT] = head[TOP] = head[START] = head[IN_WINDOW] = head[ACCEPTED] = head[REJECTED] = 0
    their_head, rows, buckets = table.parts(tenants)
    for row in range(their_head[TOP]):
        if rows[row, BUCKET] >= 0:
            rows[row, REQUESTS] = rows[row, HELD] = 0
            _drop_if_idle(their_head, rows, buckets, row)


@njit(cache=True)
def snapshot(arena, tenants, now):
    """Return copies of both, taken at one moment and independent of any clock (see `clock.snapshot`). O(n)."""
    theirs = tenants.copy()
    theirs[RETIRED] = 0
    return clock.snapshot(arena, now), theirs


@njit(cache=True)
def resized(arena, capacity):
    """Return the window in an arena of another capacity (at least head[COUNT]), and retire the old one. O(capacity)."""
    old_head, _, old_ring, _ = parts(arena)
    larger = np.zeros(HEAD + capacity * WIDTH, np.int64)
    larger[:HEAD] = old_head
    larger[CAPACITY], larger[START] = capacity, 0
    head, _, ring, _ = parts(larger)
    for e in range(head[COUNT]):
        entry = place(old_head[START], e, old_ring.shape[0])
        for column in range(WIDTH):
            ring[e, column] = old_ring[entry, column]
    old_head[RETIRED] = 1
    return larger


@njit_no_nrt(cache=True)
def _admit_all(arena, tenants, moments, tokens, by, admitted):
    """Do `admit_many` in one loop, whose state is in variables.

    A single call is a loop over one request, whose arguments are in the head.
    """
    head, seconds, ring, times = parts(arena)
    their_head, rows, buckets = table.parts(tenants)
    named = by.shape[0] > 0
    if not named and their_head[COUNT] == 0 and ring.shape[0] > 1:
        return _admit_anonymous(head, seconds, ring, times, moments, tokens, admitted)
    start, oldest, count, in_window = head[START], head[OLDEST], head[COUNT], head[IN_WINDOW]
    epoch, latest, window = seconds[clock.EPOCH], seconds[clock.LATEST], seconds[WINDOW]
    done, accepted, answer = 0, 0, ADMITTED
    while done < moments.shape[0]:
        latest = max(moments[done] - epoch, latest)
        while count > 0 and times[start, TIME] + window <= latest:
            in_window -= counted(ring[start, TOKENS])
            if ring[start, TENANT] >= 0:
                _leave(their_head, rows, buckets, ring[start, TENANT], counted(ring[start, TOKENS]))
            start = place(start, np.int64(1), ring.shape[0])
            oldest += 1
            count -= 1
        answer, row = ADMITTED, np.int64(NOBODY)
        if count >= head[MAX_REQUESTS]:
            answer = TOO_MANY_REQUESTS
        elif tokens[done] > head[MAX_TOKENS] - in_window:
            answer = TOO_MANY_TOKENS
        elif named:
            row = table.find(rows, buckets, by[done])
            their_requests, their_tokens = _limits(their_head, rows, row)
            if their_requests <= (rows[row, REQUESTS] if row >= 0 else 0):
                answer = TENANT_REQUESTS
            elif tokens[done] > their_tokens - (rows[row, HELD] if row >= 0 else 0):
                answer = TENANT_TOKENS
        if answer == ADMITTED:
            if count == ring.shape[0]:
                answer = FULL
                break
            if named:
                if row < 0:
                    row = _enter(their_head, rows, buckets, by[done])
                    if row < 0:
                        answer = CROWDED
                        break
                rows[row, REQUESTS] += 1
                rows[row, HELD] += tokens[done]
            entry = place(start, count, ring.shape[0])
            times[entry, TIME] = latest
            ring[entry, TOKENS], ring[entry, TENANT] = ~tokens[done], row
            in_window += tokens[done]
            count += 1
            accepted += 1
            head[LAST_TICKET] = oldest + count - 1
        admitted[done] = answer == ADMITTED
        done += 1
    seconds[clock.LATEST] = latest
    head[START], head[OLDEST], head[COUNT], head[TOP], head[IN_WINDOW] = start, oldest, count, count, in_window
    head[ACCEPTED] += accepted
    head[REJECTED] += done - accepted
    return done, answer


@njit_no_nrt(cache=True)
def _admit_anonymous(head, seconds, ring, times, moments, tokens, admitted):
    """Do `_admit_all` where there are no tenants, and two entries or more.

    Which requests leave and which are admitted is as good as random, and a mispredicted branch costs more than all the
    rest: so two requests at a time leave, or not, and one enters, or not, without a branch. It took .6 of the time of
    `_admit_all`; three at a time, .95 of that.
    """
    start, oldest, count, in_window = head[START], head[OLDEST], head[COUNT], head[IN_WINDOW]
    epoch, latest, window = seconds[clock.EPOCH], seconds[clock.LATEST], seconds[WINDOW]
    most_requests, most_tokens, size = head[MAX_REQUESTS], head[MAX_TOKENS], ring.shape[0]
    done, accepted, enters, full = 0, np.int64(0), np.int64(1), False
    while done < moments.shape[0]:
        latest = max(moments[done] - epoch, latest)
        more = True
        while more:
            first, second = np.uint64(start), np.uint64(place(start, np.int64(1), size))
            one = np.int64((count > 0) & (times[first, TIME] + window <= latest))
            two = one & np.int64((count > 1) & (times[second, TIME] + window <= latest))
            in_window -= (counted(ring[first, TOKENS]) & -one) + (counted(ring[second, TOKENS]) & -two)
            start = place(start, one + two, size)
            oldest += one + two
            count -= one + two
            more = two > 0
        asked = tokens[done]
        enters = np.int64((count < most_requests) & (asked <= most_tokens - in_window))
        if count < size:
            entry = np.uint64(place(start, count, size))
            times[entry, TIME] = latest
            ring[entry, TOKENS], ring[entry, TENANT] = ~asked, NOBODY
        elif enters:
            full = True
            break
        in_window += asked & -enters
        count += enters
        accepted += enters
        admitted[done] = enters > 0
        done += 1
    seconds[clock.LATEST] = latest
    head[START], head[OLDEST], head[COUNT], head[TOP], head[IN_WINDOW] = start, oldest, count, count, in_window
    if accepted > 0:
        head[LAST_TICKET] = oldest + count - 1
    head[ACCEPTED] += accepted
    head[REJECTED] += done - accepted
    if full:
        return done, FULL
    if enters:
        return done, ADMITTED
    return done, TOO_MANY_REQUESTS if count >= most_requests else TOO_MANY_TOKENS


@njit_no_nrt(cache=True)
def _expire(head, seconds, ring, times, tenants, now):
    """Remove the requests that are over at second `now` of the arena."""
    their_head, rows, buckets = table.parts(tenants)
    window = seconds[WINDOW]
    while head[COUNT] > 0 and times[head[START], TIME] + window <= now:
        tokens, row = counted(ring[head[START], TOKENS]), ring[head[START], TENANT]
        head[IN_WINDOW] -= tokens
        if row >= 0:
            _leave(their_head, rows, buckets, row, tokens)
        head[START] = head[START] + 1 if head[START] + 1 < ring.shape[0] else 0
        head[OLDEST] += 1
        head[COUNT] -= 1
        head[TOP] = head[COUNT]


@njit_no_nrt(cache=True)
def _enter(head, rows, buckets, tenant):
    """Return a new row for a tenant that has none; -1 if there is no room."""
    row = table.take_row(head, rows)
    if row >= 0:
        table.insert(rows, buckets, row, tenant)
        rows[row, REQUESTS] = rows[row, HELD] = rows[row, OWN_QPS] = rows[row, OWN_RATE] = 0
        rows[row, OWN_REQUESTS] = rows[row, OWN_TOKENS] = UNSET
    return row


@njit_no_nrt(cache=True)
def _leave(head, rows, buckets, row, tokens):
    """Update the tenant at `row` when a request of it leaves the window."""
    rows[row, REQUESTS] -= 1
    rows[row, HELD] -= tokens
    _drop_if_idle(head, rows, buckets, row)


@njit_no_nrt(cache=True)
def _drop_if_idle(head, rows, buckets, row):
    """Free the row of a tenant without requests in the window and without limits of its own."""
    if rows[row, REQUESTS] == 0 and rows[row, OWN_REQUESTS] == UNSET and rows[row, OWN_TOKENS] == UNSET:
        table.remove(rows, buckets, row)
        table.free_row(head, rows, row)


@njit_no_nrt(cache=True)
def _limits(head, rows, row):
    """Return (requests, tokens) that a window of the tenant at `row` (-1: of any) may hold."""
    if row < 0:
        return head[ANY_REQUESTS], head[ANY_TOKENS]
    requests, tokens = rows[row, OWN_REQUESTS], rows[row, OWN_TOKENS]
    return (
        head[ANY_REQUESTS] if requests == UNSET else requests,
        head[ANY_TOKENS] if tokens == UNSET else tokens,
    )


@njit_no_nrt(cache=True)
def _oldest_unsettled(head, ring):
    """Return the ticket of the oldest unsettled request, or the one after the newest. Amortised O(1)."""
    behind = max(head[UNSETTLED] - head[OLDEST], 0)
    while behind < head[COUNT] and ring[place(head[START], behind, ring.shape[0]), TOKENS] >= 0:
        behind += 1
    head[UNSETTLED] = head[OLDEST] + behind
    return head[UNSETTLED]


@njit_no_nrt(cache=True)
def place(start, behind, size):
    """Return the index of the entry `behind` places after `start`."""
    at = start + behind
    return at if at < size else at - size


@njit_no_nrt(cache=True)
def counted(stored):
    """Return the tokens of an entry, settled or not."""
    return stored if stored >= 0 else ~stored
