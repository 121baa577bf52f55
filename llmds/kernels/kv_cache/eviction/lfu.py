"""LFU: the page that was attached least often leaves first, the oldest among equals.

A page is counted from when it becomes findable until it is forgotten, to MOST. One chain for every count, so that all
is O(1); a page is counted whenever one below it is, so it stays in no chain before theirs. `memory`: the least number
that may have a chain with pages, then the chains.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .chains import LENGTH, LIST, NUMBERS, OLDEST, assign, clear, first_fault, lowest, number_of, pull, push

MOST = NUMBERS - 1
LEAST, BASE = np.int64(0), np.int64(1)
SIZE = 1 + LIST * NUMBERS


@njit_no_nrt(cache=True)
def prepare(memory):
    """Nothing is cached."""
    memory[LEAST] = MOST
    for number in range(NUMBERS):
        clear(memory, BASE + LIST * number)


@njit_no_nrt(cache=True)
def attached(rows, tables, start, findable):
    """A page is counted once for its table."""
    for i in range(start, start + findable):
        page = np.int64(tables[i])
        assign(rows, page, min(number_of(rows, page) + 1, MOST))


@njit_no_nrt(cache=True)
def enter(rows, memory, page):
    """A page is cached."""
    number = number_of(rows, page)
    push(rows, memory, BASE + LIST * number, page)
    memory[LEAST] = min(memory[LEAST], number)


@njit_no_nrt(cache=True)
def leave(rows, memory, page):
    """A page is no longer cached."""
    pull(rows, memory, BASE + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def victim(rows, memory):
    """The page that leaves next. O(1) amortised, and never more than MOST steps."""
    number = memory[LEAST]
    while memory[BASE + LIST * number + OLDEST] < 0:
        number += 1
    memory[LEAST] = number
    return lowest(rows, memory, BASE, memory[BASE + LIST * number + OLDEST])


@njit_no_nrt(cache=True)
def fault(rows, memory, n, cached):
    """Whether the chains are not those of the cached pages; safe on any contents."""
    if not 0 <= memory[LEAST] < NUMBERS:
        return True
    for number in range(NUMBERS):
        at = np.int64(BASE + LIST * number)
        if first_fault(rows, memory, n, at, np.int64(number), cached):
            return True
        if number < memory[LEAST] and memory[at + LENGTH] > 0:
            return True
    return False
