"""Chains of the cached pages of a KV cache, from the oldest to the newest, for the policies that keep lists.

A chain is three elements of `memory` from `at` on; its pages are linked by NEWER and OLDER. Where a policy has
several, they stand one after another from `base` on, and the number of the one in which a page stands, or will stand,
is in its STATE.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout as kv

OLDEST, NEWEST, LENGTH, LIST = 0, 1, 2, 3
# STATE, above the bit OWN: number of the chain; whether the page was found since it was last put there; the rest
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
    rows[page, kv.OLDER], rows[page, kv.NEWER] = newest, -1
    if newest >= 0:
        rows[newest, kv.NEWER] = page
    else:
        memory[at + OLDEST] = page
    memory[at + NEWEST] = page
    memory[at + LENGTH] += 1


@njit_no_nrt(cache=True)
def push_oldest(rows, memory, at, page):
    """Put a page at the oldest end of a chain. O(1)."""
    oldest = memory[at + OLDEST]
    rows[page, kv.NEWER], rows[page, kv.OLDER] = oldest, -1
    if oldest >= 0:
        rows[oldest, kv.OLDER] = page
    else:
        memory[at + NEWEST] = page
    memory[at + OLDEST] = page
    memory[at + LENGTH] += 1


@njit_no_nrt(cache=True)
def pull(rows, memory, at, page):
    """Take a page out of the chain it stands in. O(1)."""
    older, newer = rows[page, kv.OLDER], rows[page, kv.NEWER]
    if older >= 0:
        rows[older, kv.NEWER] = newer
    else:
        memory[at + OLDEST] = newer
    if newer >= 0:
        rows[newer, kv.OLDER] = older
    else:
        memory[at + NEWEST] = older
    rows[page, kv.OLDER] = rows[page, kv.NEWER] = -1
    memory[at + LENGTH] -= 1


@njit_no_nrt(cache=True, forceinline=True)
def number_of(rows, page):
    """The number of the chain in which a page stands, or will when it is cached."""
    return np.int64(rows[page, kv.STATE] >> NUMBER_SHIFT & (NUMBERS - 1))


@njit_no_nrt(cache=True, forceinline=True)
def assign(rows, page, number):
    """Note in which chain a page stands, or will when it is cached."""
    rows[page, kv.STATE] = rows[page, kv.STATE] & ~((NUMBERS - 1) << NUMBER_SHIFT) | number << NUMBER_SHIFT


@njit_no_nrt(cache=True)
def move(rows, memory, base, page, number):
    """Take a page out of its chain and put it at the newest end of chain `number`. O(1)."""
    pull(rows, memory, base + LIST * number_of(rows, page), page)
    assign(rows, page, number)
    push(rows, memory, base + LIST * number, page)


@njit_no_nrt(cache=True, forceinline=True)
def below(rows, page):
    """A page below this one, -1 if there is none."""
    child = rows[page, kv.CHILD]
    return np.int64(child if child >= 0 else rows[page, kv.PART])


@njit_no_nrt(cache=True)
def lowest(rows, memory, base, page):
    """`page`, the oldest of its chain, or the cached page without any below it that must leave before.

    The pages on the way to that go to the oldest end of the chain of `page`, the lowest last: what is asked for next is
    at hand, and each page is moved once. So O(1) amortised. If what is lowest is referenced, `page` itself.
    """
    at = page
    while below(rows, at) >= 0:
        at = below(rows, at)
    if at == page or rows[at, kv.REFS] > 0:
        return page
    number = number_of(rows, page)
    at = page
    while below(rows, at) >= 0:
        at = below(rows, at)
        if rows[at, kv.REFS] == 0:
            pull(rows, memory, base + LIST * number_of(rows, at), at)
            assign(rows, at, number)
            push_oldest(rows, memory, base + LIST * number, at)
    return at


@njit_no_nrt(cache=True)
def first_fault(rows, memory, n, at, number, among):
    """Whether a chain is broken, or holds another than pages of which `among` bool (n,) is true, each once.

    `number`: what their STATE must say, -1 if nothing. Those in the chain are false in `among` then. Safe on any
    contents.
    """
    page, before = memory[at + OLDEST], np.int64(-1)
    if not 0 <= memory[at + LENGTH] <= n:
        return True
    for _ in range(memory[at + LENGTH]):
        if page < 0 or page >= n or not among[page] or rows[page, kv.OLDER] != before:
            return True
        if number >= 0 and number_of(rows, page) != number:
            return True
        among[page] = False
        before, page = page, np.int64(rows[page, kv.NEWER])
    return page != -1 or memory[at + NEWEST] != before
