"""Which cached page of a KV cache leaves next.

What a policy knows of a page lies in its row, NEWER, OLDER and the bits of STATE above OWN; the rest in `memory`. It
is told, each in time O(1) amortised unless it says otherwise:

    begin       a referenced page has become findable
    attached    a sequence has been attached, from its first page to the last that can be found
    enter       a page that can be found has lost its last reference: it is cached now
    leave       a cached page is referenced again, or about to be forgotten
    evicted     a page leaves for want of room (then `leave`, then it is forgotten)
    forgotten   a page has been forgotten, for whatever reason, and its parent may have none below it any more

and asked for the `victim`, a cached page without pages below it: the last pages of a chain leave before its first.
"""

import numpy as np

from . import kv_layout as kv
from .compiling import leaf, njit

LRU, POLICIES = 0, 1
# memory[LIST * list:][:LIST]: the chain of cached pages number `list`
OLDEST, NEWEST, LENGTH, LIST = 0, 1, 2, 3


@leaf(cache=True)
def memory_size(policy, max_pages):
    """Elements of `memory` that a policy needs."""
    return LIST


@njit(cache=True)
def prepare(pool):
    """Make what the policy of an empty pool keeps what it is before the first page."""
    _, _, _, _, memory = kv.parts(pool)
    memory[OLDEST] = memory[NEWEST] = -1


@leaf(cache=True)
def begin(head, rows, names, memory, page):
    """A referenced page has become findable."""


@leaf(cache=True)
def attached(head, rows, names, memory, tables, start, found, findable):
    """The pages tables[start:start + findable] have been attached, of which the first `found` were there already."""


@leaf(cache=True)
def enter(head, rows, names, memory, page):
    """A page that can be found is without references now."""
    head[kv.CACHED] += 1
    push(rows, memory, np.int64(0), page)


@leaf(cache=True)
def leave(head, rows, names, memory, page):
    """A cached page is referenced again, or about to be forgotten."""
    head[kv.CACHED] -= 1
    pull(rows, memory, np.int64(0), page)


@leaf(cache=True)
def victim(head, rows, names, memory):
    """The cached page that leaves next; there must be one."""
    return memory[OLDEST]


@leaf(cache=True)
def evicted(head, rows, names, memory, page):
    """A page leaves for want of room."""


@leaf(cache=True)
def forgotten(head, rows, names, memory, page, parent):
    """A page has been forgotten that was below `parent`."""


@leaf(cache=True)
def push(rows, memory, chain, page):
    """Put a page at the newest end of a chain. O(1)."""
    at = LIST * chain
    newest = memory[at + NEWEST]
    rows[page, kv.OLDER], rows[page, kv.NEWER] = newest, -1
    if newest >= 0:
        rows[newest, kv.NEWER] = page
    else:
        memory[at + OLDEST] = page
    memory[at + NEWEST] = page
    memory[at + LENGTH] += 1


@leaf(cache=True)
def pull(rows, memory, chain, page):
    """Take a page out of the chain it stands in. O(1)."""
    at = LIST * chain
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


@leaf(cache=True)
def first_fault(head, rows, names, memory, cached):
    """Whether what the policy keeps does not hold together. `cached` bool (max_pages,), overwritten: which pages are.

    Safe on any contents of arrays of the right size.
    """
    page, before, n = memory[OLDEST], np.int64(-1), head[kv.MAX_PAGES]
    if memory[LENGTH] != head[kv.CACHED]:
        return True
    for _ in range(memory[LENGTH]):
        if page < 0 or page >= n or not cached[page] or rows[page, kv.OLDER] != before:
            return True
        cached[page] = False
        before, page = page, np.int64(rows[page, kv.NEWER])
    return page != -1 or memory[NEWEST] != before
