"""S3-FIFO: a small queue lets through what was found twice, the main one keeps what is found (Yang et al. 2023).

A tenth of the pages is the small queue's. What leaves it was found twice and goes to the main queue, or is evicted
and remembered for a while; a page that comes again while it is remembered goes to the main queue at once. At the end
of the main queue a page that was found gives one of its counts, at most 3, for another round. A page keeps its place
when it is found; so referenced pages stand in the queues too. One that comes to the end of its queue is taken out,
and goes to the young end of it when it is cached again. A page that has others below it goes to the main queue too,
where the lowest of these is evicted in its place: most were brought by sequences that found it. All is O(1)
amortised.

`memory`: the number of the next eviction that is remembered, the two chains, then the table of those remembered: in
the place that its hash gives a page, the upper half of its hash and the number of its eviction (32 bits each).
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout as kv
from ..hashes import content_hash
from .chains import (
    LENGTH,
    LIST,
    OLDEST,
    REST_SHIFT,
    assign,
    below,
    clear,
    first_fault,
    lowest,
    move,
    number_of,
    pull,
    push,
)

SMALL, MAIN = np.int64(0), np.int64(1)
NEXT, BASE, REMEMBERED = np.int64(0), np.int64(1), np.int64(1 + 2 * LIST)
# STATE: whether the page stands in its queue, and how often it was found, to MOST
QUEUED, FREQUENCY, MOST = 1 << REST_SHIFT, 1 << (REST_SHIFT + 1), 3
PROMOTE = 2
_HALF = 0xFFFFFFFF


@njit_no_nrt(cache=True)
def size(max_pages):
    """Elements of `memory`."""
    return REMEMBERED + 2 * max_pages


@njit_no_nrt(cache=True)
def prepare(memory):
    """Nothing is cached."""
    memory[NEXT] = 1
    clear(memory, BASE)
    clear(memory, BASE + LIST)


@njit_no_nrt(cache=True)
def begin(head, rows, names, memory, page):
    """A page has come for the first time, or again."""
    at, tag = _place(head, names, page)
    seen = memory[at]
    recent = (memory[NEXT] - seen) & _HALF <= head[kv.MAX_PAGES]
    assign(rows, page, MAIN if seen != 0 and seen >> 32 & _HALF == tag and recent else SMALL)


@njit_no_nrt(cache=True)
def attached(rows, tables, start, found):
    """The first `found` pages of a table were there."""
    for i in range(start, start + found):
        if rows[tables[i], kv.STATE] < MOST * FREQUENCY:
            rows[tables[i], kv.STATE] += FREQUENCY


@njit_no_nrt(cache=True)
def enter(rows, memory, page):
    """A page is cached."""
    if rows[page, kv.STATE] & QUEUED == 0:
        rows[page, kv.STATE] |= QUEUED
        push(rows, memory, BASE + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def drop(rows, memory, page):
    """A page is about to be forgotten."""
    if rows[page, kv.STATE] & QUEUED:
        rows[page, kv.STATE] &= ~QUEUED
        pull(rows, memory, BASE + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def victim(head, rows, memory):
    """The page that leaves next. Each turn takes out a referenced page, or uses up what a page was found."""
    most = max(1, head[kv.MAX_PAGES] // 10)
    while True:
        small = memory[BASE + LENGTH] > most or memory[BASE + LIST + LENGTH] == 0
        number = SMALL if small else MAIN
        page = memory[BASE + LIST * number + OLDEST]
        frequency = rows[page, kv.STATE] // FREQUENCY
        if rows[page, kv.REFS] > 0:
            drop(rows, memory, page)
        elif small and (frequency >= PROMOTE or below(rows, page) >= 0):
            rows[page, kv.STATE] &= FREQUENCY - 1
            move(rows, memory, BASE, page, MAIN)
        elif not small and frequency > 0:
            rows[page, kv.STATE] -= FREQUENCY
            move(rows, memory, BASE, page, MAIN)
        else:
            return lowest(rows, memory, BASE, page)


@njit_no_nrt(cache=True)
def evicted(head, rows, names, memory, page):
    """A page leaves for want of room."""
    if number_of(rows, page) == SMALL:
        at, tag = _place(head, names, page)
        memory[at] = tag << 32 | memory[NEXT] & _HALF
        memory[NEXT] += 1


@njit_no_nrt(cache=True)
def fault(head, rows, memory, cached):
    """Whether the queues are broken, or lack a cached page; safe on any contents."""
    n = head[kv.MAX_PAGES]
    for page in range(n):
        queued = rows[page, kv.STATE] & QUEUED != 0
        if rows[page, kv.STATE] < 0 or rows[page, kv.STATE] >= (MOST + 1) * FREQUENCY or cached[page] > queued:
            return True
        if queued and rows[page, kv.BUCKET] < 0:
            return True
        cached[page] = queued
    for number in range(2):
        if first_fault(rows, memory, n, BASE + LIST * number, np.int64(number), cached):
            return True
    return memory[NEXT] < 1


@njit_no_nrt(cache=True, forceinline=True)
def _place(head, names, page):
    """(where a page is remembered, what of its hash is)."""
    hashed = content_hash(names, page)
    slots = np.uint64(2 * head[kv.MAX_PAGES])
    at = np.int64((hashed & np.uint64(_HALF)) * slots >> np.uint64(32))
    return REMEMBERED + at, np.int64(hashed >> np.uint64(32))
