"""W-TinyLFU: a page must be used more often than the one it would replace (Einziger, Friedman and Manes 2017).

New pages go through a small window. A page that leaves it is compared with the page that would be evicted otherwise:
the one that was used less often, by the estimate of a Count-Min sketch of the last references (`cmsketch.counters`), is
evicted, on equal terms the older one; the other stays on probation. Found there, a page is protected, as in
`kv_cache.eviction.slru`, with 8 tenths of all pages but the window's. A new page has room already, so they are compared
when room is needed next. Where a page has others below it, the lowest of those is compared in its place; one whose last
page below was let in comes in with it. Every step is O(1) amortised.

`memory`: the sketch, the number of references since it was halved, then the three chains.
"""

import numpy as np

from ...cmsketch import counters as sketch
from ...compiling import njit_no_nrt
from .. import layout
from ..hashes import content_hash
from .chains import FOUND, LENGTH, LIST, OLDEST, assign, below, clear, first_fault, lowest, move, number_of, pull, push
from .unused import drop, evicted, forgotten  # noqa: F401

WINDOW, PROBATION, PROTECTED = np.int64(0), np.int64(1), np.int64(2)
DEPTH, COUNTERS = 4, 2  # COUNTERS a page in each row
AGING = 10  # counters are halved after so many references per page
_ONE = np.int64(1)


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return _base.py_func(max_pages) + 3 * LIST


@njit_no_nrt(cache=True)
def prepare(pages):
    """Make a sketch without counts and empty chains."""
    memory, n = pages.memory, pages.head[layout.MAX_PAGES]
    memory[sketch.WIDTH], memory[sketch.DEPTH] = COUNTERS * n, DEPTH
    for number in range(3):
        clear(memory, _base(n) + LIST * number)


@njit_no_nrt(cache=True)
def begin(pages, page):
    """Count a page that is new, or attached again after it was forgotten."""
    _count(pages, page)


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Mark and count the pages that were found."""
    for i in range(start, start + found):
        page = np.int64(tables[i])
        pages.rows[page, layout.STATE] |= FOUND
        _count(pages, page)


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Put a page that is cached now at the newest end of its chain."""
    head, rows, memory = pages.head, pages.rows, pages.memory
    n = head[layout.MAX_PAGES]
    base, window = _base(n), _window(n)
    if rows[page, layout.STATE] & FOUND:
        rows[page, layout.STATE] &= ~FOUND
        if number_of(rows, page) == PROBATION:
            assign(rows, page, PROTECTED)
    number = number_of(rows, page)
    push(rows, memory, base + LIST * number, page)
    if number == PROTECTED and memory[base + LIST * PROTECTED + LENGTH] > (n - window) * 8 // 10:
        move(rows, memory, base, memory[base + LIST * PROTECTED + OLDEST], PROBATION)
    elif head[layout.BLANKS] > 0 and memory[base + LENGTH] > window:  # no page has to be evicted for it
        move(rows, memory, base, memory[base + OLDEST], PROBATION)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page from its chain."""
    chain = _base(pages.head[layout.MAX_PAGES]) + LIST * number_of(pages.rows, page)
    pull(pages.rows, pages.memory, chain, page)


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the page to evict."""
    rows, names, memory, n = pages.rows, pages.names, pages.memory, pages.head[layout.MAX_PAGES]
    base, window = _base(n), _window(n)
    oldest = memory[base + LIST * PROBATION + OLDEST]
    if oldest < 0:
        oldest = memory[base + LIST * PROTECTED + OLDEST]
    if oldest < 0:
        return lowest(rows, memory, base, memory[base + OLDEST])
    oldest = lowest(rows, memory, base, oldest)
    while memory[base + LENGTH] > window:
        newer = memory[base + OLDEST]
        if below(rows, newer) < 0:
            known = sketch.estimate_hash(memory, content_hash(names, newer))
            if known < sketch.estimate_hash(memory, content_hash(names, oldest)):
                return newer
            move(rows, memory, base, newer, PROBATION)
            break
        move(rows, memory, base, newer, PROBATION)
    return oldest


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the chains are not those of the cached pages, or the sketch is broken; safe on any contents."""
    rows, memory, n = pages.rows, pages.memory, pages.head[layout.MAX_PAGES]
    base = _base(n)
    if memory[sketch.WIDTH] != COUNTERS * n or memory[sketch.DEPTH] != DEPTH or not 0 <= memory[base - 1] <= AGING * n:
        return True
    for at in range(sketch.TOTAL, base):
        if memory[at] < 0:
            return True
    for number in range(3):
        if first_fault(rows, memory, n, base + LIST * number, np.int64(number), cached):
            return True
    return False


@njit_no_nrt(cache=True, forceinline=True)
def _base(max_pages):
    """Return where the chains begin."""
    return np.int64(sketch.HEAD + DEPTH * COUNTERS * max_pages + 1)


@njit_no_nrt(cache=True, forceinline=True)
def _window(max_pages):
    """Return how many pages the window has."""
    return max(np.int64(1), max_pages // 100)


@njit_no_nrt(cache=True)
def _count(pages, page):
    """Count a reference to a page in the sketch. O(1) amortised."""
    memory, n = pages.memory, pages.head[layout.MAX_PAGES]
    base = _base(n)
    sketch.add_hash(memory, content_hash(pages.names, page), _ONE)
    memory[base - 1] += 1
    if memory[base - 1] >= AGING * n:
        memory[base - 1] //= 2
        for at in range(sketch.TOTAL, base - 1):
            memory[at] //= 2
