"""Chains of the cached pages of a KV cache, from the oldest to the newest, for the policies that keep lists.

A chain is three elements of `memory` from `at` on; its pages are linked by NEWER and OLDER. Where a policy has
several, they lie one after another from `base` on, and the STATE of a page holds the number of the chain in which it
is, or will be when it is cached.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout

OLDEST, NEWEST, LENGTH, LIST = 0, 1, 2, 3
# STATE, above the bit OWN: number of the chain; whether the page was found since it was put there; the policy's own
NUMBER_SHIFT, NUMBERS, FOUND, REST_SHIFT = 1, 256, 1 << 9, 10


@njit_no_nrt(cache=True)
def clear(memory, at):
    """Make a chain empty."""
    memory[at + OLDEST] = memory[at + NEWEST] = -1
    memory[at + LENGTH] = 0


@njit_no_nrt(cache=True)
def push(rows, memory, at, page):
    """Put a page at the newest end of a chain. O(1)."""
    newest = memory[at + NEWEST]
    rows[page, layout.OLDER], rows[page, layout.NEWER] = newest, -1
    if newest >= 0:
        rows[newest, layout.NEWER] = page
    else:
        memory[at + OLDEST] = page
    memory[at + NEWEST] = page
    memory[at + LENGTH] += 1


@njit_no_nrt(cache=True)
def push_oldest(rows, memory, at, page):
    """Put a page at the oldest end of a chain. O(1)."""
    oldest = memory[at + OLDEST]
    rows[page, layout.NEWER], rows[page, layout.OLDER] = oldest, -1
    if oldest >= 0:
        rows[oldest, layout.OLDER] = page
    else:
        memory[at + NEWEST] = page
    memory[at + OLDEST] = page
    memory[at + LENGTH] += 1


@njit_no_nrt(cache=True)
def pull(rows, memory, at, page):
    """Remove a page from its chain. O(1)."""
    older, newer = rows[page, layout.OLDER], rows[page, layout.NEWER]
    if older >= 0:
        rows[older, layout.NEWER] = newer
    else:
        memory[at + OLDEST] = newer
    if newer >= 0:
        rows[newer, layout.OLDER] = older
    else:
        memory[at + NEWEST] = older
    rows[page, layout.OLDER] = rows[page, layout.NEWER] = -1
    memory[at + LENGTH] -= 1


@njit_no_nrt(cache=True, forceinline=True)
def number_of(rows, page):
    """Return the number of the chain in which a page is, or will be when it is cached."""
    return np.int64(rows[page, layout.STATE] >> NUMBER_SHIFT & (NUMBERS - 1))


@njit_no_nrt(cache=True, forceinline=True)
def assign(rows, page, number):
    """Note the number of the chain in which a page is, or will be when it is cached."""
    rows[page, layout.STATE] = rows[page, layout.STATE] & ~((NUMBERS - 1) << NUMBER_SHIFT) | number << NUMBER_SHIFT


@njit_no_nrt(cache=True)
def move(rows, memory, base, page, number):
    """Move a page from its chain to the newest end of chain `number`. O(1)."""
    pull(rows, memory, base + LIST * number_of(rows, page), page)
    assign(rows, page, number)
    push(rows, memory, base + LIST * number, page)


@njit_no_nrt(cache=True, forceinline=True)
def below(rows, page):
    """Return a page below this one, -1 if there is none."""
    child = rows[page, layout.CHILD]
    return np.int64(child if child >= 0 else rows[page, layout.PART])


@njit_no_nrt(cache=True)
def lowest(rows, memory, base, page):
    """Return `page`, the oldest of its chain, or the cached page without any below it that must be evicted before it.

    The pages on the way down move to the oldest end of the chain of `page`, the lowest last: the next victim is then
    the oldest, and each page is moved once. So O(1) amortised. If the lowest page is referenced, `page` itself.
    """
    at = page
    while below(rows, at) >= 0:
        at = below(rows, at)
    if at == page or rows[at, layout.REFS] > 0:
        return page
    number = number_of(rows, page)
    at = page
    while below(rows, at) >= 0:
        at = below(rows, at)
        if rows[at, layout.REFS] == 0:
            pull(rows, memory, base + LIST * number_of(rows, at), at)
            assign(rows, at, number)
            push_oldest(rows, memory, base + LIST * number, at)
    return at


@njit_no_nrt(cache=True)
def first_fault(rows, memory, n, at, number, among):
    """Return whether a chain is broken, or holds a page twice or one of which `among` bool (n,) is false.

    `number`: the number that their STATE must hold, -1 for any. Pages in the chain are set to false in `among`. Safe on
    any contents.
    """
    page, before = memory[at + OLDEST], np.int64(-1)
    if not 0 <= memory[at + LENGTH] <= n:
        return True
    for _ in range(memory[at + LENGTH]):
        if page < 0 or page >= n or not among[page] or rows[page, layout.OLDER] != before:
            return True
        if number >= 0 and number_of(rows, page) != number:
            return True
        among[page] = False
        before, page = page, np.int64(rows[page, layout.NEWER])
    return page != -1 or memory[at + NEWEST] != before
