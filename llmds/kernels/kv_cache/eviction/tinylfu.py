"""W-TinyLFU: a page must have come oftener than the one it would push out (Einziger, Friedman and Manes 2017).

New pages go through a small window. What leaves it meets the page that would leave next otherwise: the one that came
less often, as far as a Count-Min sketch of the last references can tell (`sketch`), is evicted, on equal terms the
older one; the other stays on probation. Found there, a page is protected, as in `kv_cache.eviction.slru`, with 8 tenths
of all pages but the window's. A page has room already when it is new, so they meet when room is wanted next. Where a
page has others below it, the lowest of those meets in its place; one whose last page below was let in comes in with it.
All is O(1) amortised.

`memory`: the sketch, references since it was halved, then the three chains.
"""

import numpy as np

from ...cmsketch import counters as sketch
from ...compiling import njit_no_nrt
from .. import layout as kv
from ..hashes import content_hash
from .chains import FOUND, LENGTH, LIST, OLDEST, assign, below, clear, first_fault, lowest, move, number_of, pull, push

WINDOW, PROBATION, PROTECTED = np.int64(0), np.int64(1), np.int64(2)
DEPTH, COUNTERS = 4, 2  # COUNTERS a page in each row
AGING = 10  # counters are halved after so many references a page
_ONE = np.int64(1)


@njit_no_nrt(cache=True)
def size(max_pages):
    """Elements of `memory`."""
    return _base(max_pages) + 3 * LIST


@njit_no_nrt(cache=True)
def prepare(head, memory):
    """Nothing is cached, nothing has been counted."""
    memory[sketch.WIDTH], memory[sketch.DEPTH] = COUNTERS * head[kv.MAX_PAGES], DEPTH
    for number in range(3):
        clear(memory, _base(head[kv.MAX_PAGES]) + LIST * number)


@njit_no_nrt(cache=True)
def begin(head, names, memory, page):
    """A page has come for the first time, or again."""
    _count(head, names, memory, page)


@njit_no_nrt(cache=True)
def attached(head, rows, names, memory, tables, start, found):
    """The first `found` pages of a table were there."""
    for i in range(start, start + found):
        page = np.int64(tables[i])
        rows[page, kv.STATE] |= FOUND
        _count(head, names, memory, page)


@njit_no_nrt(cache=True)
def enter(head, rows, memory, page):
    """A page is cached."""
    n = head[kv.MAX_PAGES]
    base, window = _base(n), _window(n)
    if rows[page, kv.STATE] & FOUND:
        rows[page, kv.STATE] &= ~FOUND
        if number_of(rows, page) == PROBATION:
            assign(rows, page, PROTECTED)
    number = number_of(rows, page)
    push(rows, memory, base + LIST * number, page)
    if number == PROTECTED and memory[base + LIST * PROTECTED + LENGTH] > (n - window) * 8 // 10:
        move(rows, memory, base, memory[base + LIST * PROTECTED + OLDEST], PROBATION)
    elif head[kv.BLANKS] > 0 and memory[base + LENGTH] > window:  # nobody has to go for it
        move(rows, memory, base, memory[base + OLDEST], PROBATION)


@njit_no_nrt(cache=True)
def leave(head, rows, memory, page):
    """A page is no longer cached."""
    pull(rows, memory, _base(head[kv.MAX_PAGES]) + LIST * number_of(rows, page), page)


@njit_no_nrt(cache=True)
def victim(head, rows, names, memory):
    """The page that leaves next."""
    n = head[kv.MAX_PAGES]
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
def fault(head, rows, memory, cached):
    """Whether the chains are not those of the cached pages, or the sketch is none; safe on any contents."""
    n = head[kv.MAX_PAGES]
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
    return np.int64(sketch.HEAD + DEPTH * COUNTERS * max_pages + 1)


@njit_no_nrt(cache=True, forceinline=True)
def _window(max_pages):
    return max(np.int64(1), max_pages // 100)


@njit_no_nrt(cache=True)
def _count(head, names, memory, page):
    base = _base(head[kv.MAX_PAGES])
    sketch.add_hash(memory, content_hash(names, page), _ONE)
    memory[base - 1] += 1
    if memory[base - 1] >= AGING * head[kv.MAX_PAGES]:
        memory[base - 1] //= 2
        for at in range(sketch.TOTAL, base - 1):
            memory[at] //= 2
