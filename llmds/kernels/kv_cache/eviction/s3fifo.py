"""S3-FIFO: pages found twice pass from a small queue to the main one (Yang et al. 2023).

A tenth of the pages is the small queue's. A page that leaves it was found twice and goes to the main queue, or is
evicted and remembered for a while; a page that is attached again while it is remembered goes to the main queue at once.
At the end of the main queue a page that was found gives up one of its counts, of which it has at most 3, for another
round. A page keeps its place when it is found, so referenced pages are in the queues too. One that comes to the end of
its queue is removed, and goes to the newest end of it when it is cached again. A page that has others below it goes to
the main queue too, where the lowest of these is evicted in its place: most were attached by sequences that found it.
Every step is O(1) amortised.

`memory`: the number of the next eviction that is remembered, the two chains, then the table of those remembered: at
the place that its hash gives a page, the upper half of its hash and the number of its eviction (32 bits each).
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout
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
from .unused import forgotten  # noqa: F401

SMALL, MAIN = np.int64(0), np.int64(1)
NEXT, BASE, REMEMBERED = np.int64(0), np.int64(1), np.int64(1 + 2 * LIST)
# STATE: whether the page is in its queue, and how often it was found, up to MOST
QUEUED, FREQUENCY, MOST = 1 << REST_SHIFT, 1 << (REST_SHIFT + 1), 3
PROMOTE = 2
_HALF = 0xFFFFFFFF


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return int(REMEMBERED) + 2 * max_pages


@njit_no_nrt(cache=True)
def prepare(pages):
    """Make both queues empty."""
    pages.memory[NEXT] = 1
    clear(pages.memory, BASE)
    clear(pages.memory, BASE + LIST)


@njit_no_nrt(cache=True)
def begin(pages, page):
    """Choose the queue of a page that is new, or attached again after it was forgotten."""
    at, tag = _place(pages, page)
    seen = pages.memory[at]
    recent = (pages.memory[NEXT] - seen) & _HALF <= pages.head[layout.MAX_PAGES]
    assign(pages.rows, page, MAIN if seen != 0 and seen >> 32 & _HALF == tag and recent else SMALL)


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Count the pages that were found."""
    rows = pages.rows
    for i in range(start, start + found):
        if rows[tables[i], layout.STATE] < MOST * FREQUENCY:
            rows[tables[i], layout.STATE] += FREQUENCY


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Put a page that is cached now at the newest end of its queue, unless it is still in it."""
    rows = pages.rows
    if rows[page, layout.STATE] & QUEUED == 0:
        rows[page, layout.STATE] |= QUEUED
        push(rows, pages.memory, BASE + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page that is about to be forgotten; one that is referenced again keeps its place."""
    if pages.rows[page, layout.REFS] == 0:
        drop(pages, page)


@njit_no_nrt(cache=True)
def drop(pages, page):
    """Remove a page from its queue."""
    rows = pages.rows
    if rows[page, layout.STATE] & QUEUED:
        rows[page, layout.STATE] &= ~QUEUED
        pull(rows, pages.memory, BASE + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the page to evict. Each round removes a referenced page from its queue, or uses up a count."""
    rows, memory = pages.rows, pages.memory
    most = max(1, pages.head[layout.MAX_PAGES] // 10)
    while True:
        small = memory[BASE + LENGTH] > most or memory[BASE + LIST + LENGTH] == 0
        number = SMALL if small else MAIN
        page = memory[BASE + LIST * number + OLDEST]
        frequency = rows[page, layout.STATE] // FREQUENCY
        if rows[page, layout.REFS] > 0:
            drop(pages, page)
        elif small and (frequency >= PROMOTE or below(rows, page) >= 0):
            rows[page, layout.STATE] &= FREQUENCY - 1
            move(rows, memory, BASE, page, MAIN)
        elif not small and frequency > 0:
            rows[page, layout.STATE] -= FREQUENCY
            move(rows, memory, BASE, page, MAIN)
        else:
            return lowest(rows, memory, BASE, page)


@njit_no_nrt(cache=True)
def evicted(pages, page):
    """Remember a page that is evicted from the small queue."""
    memory = pages.memory
    if number_of(pages.rows, page) == SMALL:
        at, tag = _place(pages, page)
        memory[at] = tag << 32 | memory[NEXT] & _HALF
        memory[NEXT] += 1


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the queues are broken, or lack a cached page; safe on any contents."""
    rows, memory, n = pages.rows, pages.memory, pages.head[layout.MAX_PAGES]
    for page in range(n):
        queued = rows[page, layout.STATE] & QUEUED != 0
        if rows[page, layout.STATE] < 0 or rows[page, layout.STATE] >= (MOST + 1) * FREQUENCY or cached[page] > queued:
            return True
        if queued and rows[page, layout.BUCKET] < 0:
            return True
        cached[page] = queued
    for number in range(2):
        if first_fault(rows, memory, n, BASE + LIST * number, np.int64(number), cached):
            return True
    return memory[NEXT] < 1


@njit_no_nrt(cache=True, forceinline=True)
def _place(pages, page):
    """Return (where a page is remembered, the part of its hash that is kept there)."""
    hashed = content_hash(pages.names, page)
    slots = np.uint64(2 * pages.head[layout.MAX_PAGES])
    at = np.int64((hashed & np.uint64(_HALF)) * slots >> np.uint64(32))
    return REMEMBERED + at, np.int64(hashed >> np.uint64(32))
