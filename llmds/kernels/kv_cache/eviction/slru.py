"""Segmented LRU: what was found once it was there leaves after what was not (Karedla, Love and Wherry 1994).

Two chains: on probation are pages that nobody has found yet, protected those that were found. If more than half of
all pages are protected, the oldest of them go back to the newest end of probation. Pages leave from the oldest end of
probation.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout as kv
from .chains import FOUND, LENGTH, LIST, OLDEST, assign, clear, first_fault, lowest, move, number_of, pull, push

PROBATION, PROTECTED = np.int64(0), np.int64(1)
SIZE = 2 * LIST
_BASE = np.int64(0)


@njit_no_nrt(cache=True)
def prepare(memory):
    """Nothing is cached."""
    clear(memory, PROBATION)
    clear(memory, LIST * PROTECTED)


@njit_no_nrt(cache=True)
def attached(rows, tables, start, found):
    """The first `found` pages of a table were there."""
    for i in range(start, start + found):
        rows[tables[i], kv.STATE] |= FOUND


@njit_no_nrt(cache=True)
def enter(head, rows, memory, page):
    """A page is cached."""
    if rows[page, kv.STATE] & FOUND:
        rows[page, kv.STATE] &= ~FOUND
        assign(rows, page, PROTECTED)
    number = number_of(rows, page)
    push(rows, memory, LIST * number, page)
    if number == PROTECTED and memory[LIST * PROTECTED + LENGTH] > head[kv.MAX_PAGES] // 2:
        move(rows, memory, _BASE, memory[LIST * PROTECTED + OLDEST], PROBATION)


@njit_no_nrt(cache=True)
def leave(rows, memory, page):
    """A page is no longer cached."""
    pull(rows, memory, LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def victim(rows, memory):
    """The page that leaves next."""
    oldest = memory[OLDEST]
    return lowest(rows, memory, _BASE, oldest if oldest >= 0 else memory[LIST * PROTECTED + OLDEST])


@njit_no_nrt(cache=True)
def fault(rows, memory, n, cached):
    """Whether the chains are not those of the cached pages; safe on any contents."""
    for number in range(2):
        if first_fault(rows, memory, n, np.int64(LIST * number), np.int64(number), cached):
            return True
    return False
