"""A sliding window over admissions, exact, in one int64 array.

    head  int64 (HEAD,)        the first slots as in `table`, EPOCH and LATEST as in `clock`
    ring  int64 (capacity, 2)  the requests in the window, oldest first from head[START] on, wrapping round:
                               entry[TIME] the bits of a float64, the arena's second of the admission;
                               entry[TOKENS] its tokens once settled, ~tokens while they are an estimate

The request with ticket t stands t - head[OLDEST] places behind the start; all before head[UNSETTLED] are
settled. It leaves the window at the second TIME + WINDOW, settled or not.

`new` makes an arena. FULL means that the request was neither counted nor refused and `resized` must make
room first, or that it already has (the arena is retired): take the new one and call again.
"""

import numpy as np

from . import clock
from .compiling import njit
from .table import CAPACITY, COLUMNS, COUNT, RETIRED, TOP

ADMITTED, TOO_MANY_REQUESTS, TOO_MANY_TOKENS, FULL, ABSENT = 0, 1, 2, 3, 4

HEAD = 24
WINDOW, QPS, TOKEN_RATE = 8, 9, 10  # bits of float64: seconds, and what was asked for a second
MAX_REQUESTS, MAX_TOKENS = 11, 12  # what a window holds
START, OLDEST, UNSETTLED, IN_WINDOW, ACCEPTED, REJECTED, LAST_TICKET = 13, 14, 15, 16, 17, 18, 19
ASKED_AT, ASKED_TOKENS, ANSWER = 20, 21, 22  # where the arguments of a single call are put
TIME, TOKENS, WIDTH = 0, 1, 2
MOST_TOKENS = 2**31 - 1


@njit(cache=True)
def new(capacity, qps, token_rate, window, max_requests, max_tokens):
    """An empty arena of `capacity` entries: at most `max_requests` and `max_tokens` (int64) in `window` seconds."""
    arena = np.zeros(HEAD + capacity * WIDTH, np.int64)
    arena[CAPACITY], arena[COLUMNS] = capacity, WIDTH
    arena[MAX_REQUESTS], arena[MAX_TOKENS], arena[LAST_TICKET] = max_requests, max_tokens, -1
    seconds = arena.view(np.float64)
    seconds[QPS], seconds[TOKEN_RATE], seconds[WINDOW], seconds[clock.LATEST] = qps, token_rate, window, -np.inf
    return arena


@njit(cache=True)
def parts(arena):
    """(head, the same as float64, ring, the same as float64), views of `arena`."""
    head, ring = arena[:HEAD], arena[HEAD:].reshape(arena[CAPACITY], WIDTH)
    return head, head.view(np.float64), ring, ring.view(np.float64)


@njit(cache=True)
def admit(arena, now, tokens):
    """Admit a request of `tokens` (int64, estimated) at the clock's `now` if it fits the window.

    ADMITTED, and it is in the window; TOO_MANY_REQUESTS or TOO_MANY_TOKENS, and it is counted as rejected; or
    FULL. Amortised O(1).
    """
    if arena[RETIRED]:
        return FULL
    seconds = arena.view(np.float64)
    seconds[ASKED_AT], arena[ASKED_TOKENS] = now, tokens
    moments, asked = seconds[ASKED_AT : ASKED_AT + 1], arena[ASKED_TOKENS : ASKED_TOKENS + 1]
    _, answer = _admit_all(arena, moments, asked, arena[ANSWER : ANSWER + 1].view(np.bool_)[:1])
    arena[ASKED_AT] = arena[ASKED_TOKENS] = arena[ANSWER] = 0
    return answer


@njit(cache=True)
def admit_many(arena, moments, tokens, admitted):
    """`admit` for moments float64 (m,), never decreasing, and tokens int64 (m,), in order; fills admitted, bool (m,).

    Returns how many are done: fewer than m where it stopped for want of room. Amortised O(m).
    """
    if arena[RETIRED]:
        return 0
    return _admit_all(arena, moments, tokens, admitted)[0]


@njit(cache=True)
def record(arena, now, tokens, ticket):
    """Settle the admission `ticket` (-1: the oldest unsettled one) with `tokens` (int64). Amortised O(1).

    ADMITTED, also where the ticket's admission has left the window; ABSENT if it was never given out; FULL.
    Ticket -1 with nothing unsettled puts a settled request in the window at the clock's `now`.
    """
    head, seconds, ring, times = parts(arena)
    if head[RETIRED]:
        return FULL
    if ticket > head[LAST_TICKET]:
        return ABSENT
    now = clock.advance(seconds, now)
    _expire(head, seconds, ring, times, now)
    if ticket < 0:
        ticket = _oldest_unsettled(head, ring)
        if ticket == head[OLDEST] + head[COUNT]:
            if head[COUNT] == ring.shape[0]:
                return FULL
            entry = _place(head[START], head[COUNT], ring.shape[0])
            times[entry, TIME], ring[entry, TOKENS] = now, 0
            head[COUNT] += 1
            head[TOP] = head[COUNT]
    if ticket >= head[OLDEST]:
        entry = _place(head[START], ticket - head[OLDEST], ring.shape[0])
        head[IN_WINDOW] += tokens - _counted(ring[entry, TOKENS])
        ring[entry, TOKENS] = tokens
    return ADMITTED


@njit(cache=True)
def expire(arena, now):
    """Let those leave whose time in the window is over at the clock's `now`. Amortised O(1)."""
    head, seconds, ring, times = parts(arena)
    _expire(head, seconds, ring, times, clock.advance(seconds, now))


@njit(cache=True)
def reset(arena):
    """Empty the window and zero the counters; tickets count on. O(1)."""
    head, _, _, _ = parts(arena)
    head[OLDEST] += head[COUNT]
    head[UNSETTLED] = head[OLDEST]
    head[COUNT] = head[TOP] = head[START] = head[IN_WINDOW] = head[ACCEPTED] = head[REJECTED] = 0


@njit(cache=True)
def resized(arena, capacity):
    """The same window in an arena of another capacity (at least head[COUNT]), the old one retired. O(capacity)."""
    old_head, _, old_ring, _ = parts(arena)
    larger = np.zeros(HEAD + capacity * WIDTH, np.int64)
    larger[:HEAD] = old_head
    larger[CAPACITY], larger[START] = capacity, 0
    head, _, ring, _ = parts(larger)
    for e in range(head[COUNT]):
        entry = _place(old_head[START], e, old_ring.shape[0])
        ring[e, TIME], ring[e, TOKENS] = old_ring[entry, TIME], old_ring[entry, TOKENS]
    old_head[RETIRED] = 1
    return larger


@njit(cache=True)
def well_formed(arena):
    """Whether `parts` may cut this array (any int64 array (n,))."""
    return (
        arena.shape[0] >= HEAD
        and 0 <= arena[CAPACITY] < 2**31
        and arena[COLUMNS] == WIDTH
        and arena.shape[0] == HEAD + arena[CAPACITY] * WIDTH
        and arena[RETIRED] == 0
        and 0 <= arena[COUNT] <= arena[CAPACITY]
        and arena[TOP] == arena[COUNT]
    )


@njit(cache=True)
def first_fault(arena):
    """Place of the first request (oldest is 0) that does not fit what stands before it or in the head.

    -1 if there is none, -2 where the head itself does not add up. Safe on any contents of a
    `well_formed` arena.
    """
    head, seconds, ring, times = parts(arena)
    count = head[COUNT]
    if not (
        0 <= head[START] < max(head[CAPACITY], 1)
        and 0 <= head[OLDEST] < 2**62
        and 0 <= head[UNSETTLED] <= head[OLDEST] + count
        and -1 <= head[LAST_TICKET] < head[OLDEST] + count
        and 0 <= head[ACCEPTED] < 2**62
        and 0 <= head[REJECTED] < 2**62
        and head[MAX_REQUESTS] >= 0
        and head[MAX_TOKENS] >= 0
        and 0 < seconds[WINDOW] < np.inf
        and np.isfinite(seconds[clock.EPOCH])
        and seconds[clock.LATEST] < np.inf
    ):
        return np.int64(-2)
    before, total = -np.inf, 0
    for e in range(count):
        ticket, entry = head[OLDEST] + e, _place(head[START], e, ring.shape[0])
        time, tokens = times[entry, TIME], ring[entry, TOKENS]
        if not (np.isfinite(time) and before <= time <= seconds[clock.LATEST] and _counted(tokens) <= MOST_TOKENS):
            return np.int64(e)
        if tokens < 0 and ticket < head[UNSETTLED]:
            return np.int64(e)
        before = time
        total += _counted(tokens)
    return np.int64(-1 if total == head[IN_WINDOW] else -2)


@njit(cache=True)
def _admit_all(arena, moments, tokens, admitted):
    """`admit_many`, and the last answer.

    One loop, whose state is in variables: with it in the head and the steps in functions a request took five
    times as long, so a single call is a loop over one, and its arguments lie in the head.
    """
    head, seconds, ring, times = parts(arena)
    start, oldest, count, in_window = head[START], head[OLDEST], head[COUNT], head[IN_WINDOW]
    epoch, latest, window = seconds[clock.EPOCH], seconds[clock.LATEST], seconds[WINDOW]
    done, accepted, answer = 0, 0, ADMITTED
    while done < moments.shape[0]:
        latest = max(moments[done] - epoch, latest)
        while count > 0 and times[start, TIME] + window <= latest:
            in_window -= _counted(ring[start, TOKENS])
            start = _place(start, np.int64(1), ring.shape[0])
            oldest += 1
            count -= 1
        if count >= head[MAX_REQUESTS]:
            answer = TOO_MANY_REQUESTS
        elif tokens[done] > head[MAX_TOKENS] - in_window:
            answer = TOO_MANY_TOKENS
        elif count == ring.shape[0]:
            answer = FULL
            break
        else:
            answer = ADMITTED
            entry = _place(start, count, ring.shape[0])
            times[entry, TIME] = latest
            ring[entry, TOKENS] = ~tokens[done]
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


@njit(cache=True)
def _expire(head, seconds, ring, times, now):
    window = seconds[WINDOW]
    while head[COUNT] > 0 and times[head[START], TIME] + window <= now:
        head[IN_WINDOW] -= _counted(ring[head[START], TOKENS])
        head[START] = head[START] + 1 if head[START] + 1 < ring.shape[0] else 0
        head[OLDEST] += 1
        head[COUNT] -= 1
        head[TOP] = head[COUNT]


@njit(cache=True)
def _oldest_unsettled(head, ring):
    """The ticket of the oldest unsettled request, or the one behind the newest. Amortised O(1)."""
    behind = max(head[UNSETTLED] - head[OLDEST], 0)
    while behind < head[COUNT] and ring[_place(head[START], behind, ring.shape[0]), TOKENS] >= 0:
        behind += 1
    head[UNSETTLED] = head[OLDEST] + behind
    return head[UNSETTLED]


@njit(cache=True)
def _place(start, behind, size):
    """The entry that is so far behind the start. Scalars alone: an array handed to a helper is counted, atomically."""
    place = start + behind
    return place if place < size else place - size


@njit(cache=True)
def _counted(stored):
    return stored if stored >= 0 else ~stored
