"""LFU: the page that was attached least often is evicted first, the oldest among equals.

A page is counted from when it becomes findable until it is forgotten, up to MOST. There is one chain for every count,
so that every step is O(1); a page is counted whenever one below it is, so its count is at least theirs. `memory`: the
least number of which the chain may have pages, then the chains.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .chains import LENGTH, LIST, NUMBERS, OLDEST, assign, clear, first_fault, lowest, number_of, pull, push
from .unused import begin, drop, evicted, forgotten  # noqa: F401

MOST = NUMBERS - 1
LEAST, BASE = np.int64(0), np.int64(1)


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return 1 + LIST * NUMBERS


@njit_no_nrt(cache=True)
def prepare(pages):
    """Make all chains empty."""
    pages.memory[LEAST] = MOST
    for number in range(NUMBERS):
        clear(pages.memory, BASE + LIST * number)


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Count each page once."""
    for i in range(start, start + findable):
        page = np.int64(tables[i])
        assign(pages.rows, page, min(number_of(pages.rows, page) + 1, MOST))


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Put a page that is cached now into the chain of its count."""
    rows, memory = pages.rows, pages.memory
    number = number_of(rows, page)
    push(rows, memory, BASE + LIST * number, page)
    memory[LEAST] = min(memory[LEAST], number)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page from its chain."""
    pull(pages.rows, pages.memory, BASE + LIST * number_of(pages.rows, page), page)


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the page to evict. O(1) amortised, and never more than MOST steps."""
    memory = pages.memory
    number = memory[LEAST]
    while memory[BASE + LIST * number + OLDEST] < 0:
        number += 1
    memory[LEAST] = number
    return lowest(pages.rows, memory, BASE, memory[BASE + LIST * number + OLDEST])


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the chains are not those of the cached pages; safe on any contents."""
    rows, memory, n = pages.rows, pages.memory, cached.shape[0]
    if not 0 <= memory[LEAST] < NUMBERS:
        return True
    for number in range(NUMBERS):
        at = np.int64(BASE + LIST * number)
        if first_fault(rows, memory, n, at, np.int64(number), cached):
            return True
        if number < memory[LEAST] and memory[at + LENGTH] > 0:
            return True
    return False
