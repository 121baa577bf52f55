"""Segmented LRU: pages that were found again are evicted after those that were not (Karedla, Love and Wherry 1994).

Two chains: on probation are pages that no sequence has found yet, protected are those that were found. If more than
half of all pages are protected, the oldest of them go back to the newest end of probation. Pages are evicted from the
oldest end of probation.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout
from .chains import FOUND, LENGTH, LIST, OLDEST, assign, clear, first_fault, lowest, move, number_of, pull, push
from .unused import begin, drop, evicted, forgotten  # noqa: F401

PROBATION, PROTECTED = np.int64(0), np.int64(1)
_BASE = np.int64(0)


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return 2 * LIST


@njit_no_nrt(cache=True)
def prepare(pages):
    """Make both chains empty."""
    clear(pages.memory, PROBATION)
    clear(pages.memory, LIST * PROTECTED)


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Mark the pages that were found."""
    for i in range(start, start + found):
        pages.rows[tables[i], layout.STATE] |= FOUND


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Put a page that is cached now at the newest end of its chain."""
    rows, memory = pages.rows, pages.memory
    if rows[page, layout.STATE] & FOUND:
        rows[page, layout.STATE] &= ~FOUND
        assign(rows, page, PROTECTED)
    number = number_of(rows, page)
    push(rows, memory, LIST * number, page)
    if number == PROTECTED and memory[LIST * PROTECTED + LENGTH] > pages.head[layout.MAX_PAGES] // 2:
        move(rows, memory, _BASE, memory[LIST * PROTECTED + OLDEST], PROBATION)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page from its chain."""
    pull(pages.rows, pages.memory, LIST * number_of(pages.rows, page), page)


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the page to evict."""
    memory = pages.memory
    oldest = memory[OLDEST]
    return lowest(pages.rows, memory, _BASE, oldest if oldest >= 0 else memory[LIST * PROTECTED + OLDEST])


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the chains are not those of the cached pages; safe on any contents."""
    for number in range(2):
        if first_fault(pages.rows, pages.memory, cached.shape[0], np.int64(LIST * number), np.int64(number), cached):
            return True
    return False
