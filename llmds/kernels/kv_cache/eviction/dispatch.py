"""Which cached page of a KV cache leaves next, by the policy that head[POLICY] names.

What a policy knows of a page lies in its row, NEWER, OLDER and the bits of STATE above OWN; the rest in `memory`. NEWER
is a page or -1. A policy is told, each in time O(1) amortised unless it says otherwise:

    begin       a referenced page has become findable
    attached    a sequence has been attached, from its first page to the last that can be found
    enter       a page that can be found has lost its last reference: it is cached now
    leave       a cached page is referenced again, or (its row has no reference then) about to be forgotten
    drop        a referenced page is about to be forgotten
    evicted     a page leaves for want of room (then `leave`, then it is forgotten)
    forgotten   a page has been forgotten, for whatever reason, and its parent may have none below it any more

and asked for the `victim`, a cached page without pages below it, so that the last pages of a chain leave before its
first. What is below a cached page is cached too, but for this: where a sequence wrote into a page it shared, and so has
another in its place, its later pages stay where they were. A page with such ones below it alone may be the victim.

LRU is here: one chain, in the order in which pages were let go; what others are is told in their modules.
"""

import numpy as np

from ...compiling import never_inline, njit, njit_no_nrt, optimize_for_size
from .. import layout as kv
from . import chains as kv_lists
from . import lfu as kv_lfu
from . import lhd as kv_density
from . import s3fifo as kv_s3fifo
from . import slru as kv_slru
from . import tinylfu as kv_tinylfu

LRU, LFU, SLRU, TINYLFU, S3FIFO, LHD, POLICIES = 0, 1, 2, 3, 4, 5, 6
_CHAIN = np.int64(0)


@njit_no_nrt(cache=True)
def memory_size(policy, max_pages):
    """Elements of `memory` that a policy needs."""
    if policy == LFU:
        return np.int64(kv_lfu.SIZE)
    if policy == SLRU:
        return np.int64(kv_slru.SIZE)
    if policy == TINYLFU:
        return np.int64(kv_tinylfu.size(max_pages))
    if policy == S3FIFO:
        return np.int64(kv_s3fifo.size(max_pages))
    if policy == LHD:
        return np.int64(kv_density.size(max_pages))
    return np.int64(kv_lists.LIST)


@njit(cache=True)
def prepare(pool):
    """Make what the policy of an empty pool keeps what it is before the first page."""
    head, _, _, _, memory = kv.parts(pool)
    if head[kv.POLICY] == LRU:
        kv_lists.clear(memory, _CHAIN)
    elif head[kv.POLICY] == LFU:
        kv_lfu.prepare(memory)
    elif head[kv.POLICY] == SLRU:
        kv_slru.prepare(memory)
    elif head[kv.POLICY] == TINYLFU:
        kv_tinylfu.prepare(head, memory)
    elif head[kv.POLICY] == S3FIFO:
        kv_s3fifo.prepare(memory)
    else:
        kv_density.prepare(memory)


@njit_no_nrt(cache=True)
def begin(head, rows, names, memory, page):
    """A referenced page has become findable."""
    if head[kv.POLICY] >= TINYLFU:
        _begin(head, rows, names, memory, page)


@njit_no_nrt(cache=True)
def attached(head, rows, names, memory, tables, start, found, findable):
    """The pages tables[start:start + findable] have been attached, of which the first `found` were there already."""
    if head[kv.POLICY] != LRU:
        _attached(head, rows, names, memory, tables, start, found, findable)


@njit_no_nrt(cache=True)
def enter(head, rows, names, memory, page):
    """A page that can be found is without references now."""
    head[kv.CACHED] += 1
    if head[kv.POLICY] == LRU:
        kv_lists.push(rows, memory, _CHAIN, page)
    else:
        _enter(head, rows, memory, page)


@njit_no_nrt(cache=True)
def leave(head, rows, names, memory, page):
    """A cached page is referenced again, or about to be forgotten."""
    head[kv.CACHED] -= 1
    if head[kv.POLICY] == LRU:
        kv_lists.pull(rows, memory, _CHAIN, page)
    else:
        _leave(head, rows, memory, page)


@njit_no_nrt(cache=True)
def drop(head, rows, memory, page):
    """A referenced page is about to be forgotten."""
    if head[kv.POLICY] == S3FIFO:
        _drop(rows, memory, page)


@njit_no_nrt(cache=True)
def victim(head, rows, names, memory):
    """The cached page that leaves next; there must be one."""
    if head[kv.POLICY] == LRU:
        return memory[kv_lists.OLDEST]
    return _victim(head, rows, names, memory)


@njit_no_nrt(cache=True)
def evicted(head, rows, names, memory, page):
    """A page leaves for want of room."""
    if head[kv.POLICY] >= S3FIFO:
        _evicted(head, rows, names, memory, page)


@njit_no_nrt(cache=True)
def forgotten(head, rows, names, memory, page, parent):
    """A page has been forgotten that was below `parent`."""
    if head[kv.POLICY] == LHD:
        _forgotten(head, rows, memory, parent)


@njit_no_nrt(cache=True)
def first_fault(head, rows, names, memory, cached):
    """Whether what the policy keeps does not hold together. `cached` bool (max_pages,), overwritten: which pages are.

    Safe on any contents of arrays of the right size.
    """
    policy, n, bad = head[kv.POLICY], head[kv.MAX_PAGES], False
    if policy == LRU:
        bad = kv_lists.first_fault(rows, memory, n, _CHAIN, np.int64(-1), cached)
    elif policy == LFU:
        bad = kv_lfu.fault(rows, memory, n, cached)
    elif policy == SLRU:
        bad = kv_slru.fault(rows, memory, n, cached)
    elif policy == TINYLFU:
        bad = kv_tinylfu.fault(head, rows, memory, cached)
    elif policy == S3FIFO:
        bad = kv_s3fifo.fault(head, rows, memory, cached)
    else:
        bad = kv_density.fault(head, rows, memory, cached)
    left = False
    for page in range(n):
        left |= cached[page]
    return bad or left


# The other policies stand apart, or every kernel that lets go of a page would be compiled with all of them in it.


@njit_no_nrt(cache=True)
def _begin(head, rows, names, memory, page):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == TINYLFU:
        kv_tinylfu.begin(head, names, memory, page)
    elif head[kv.POLICY] == S3FIFO:
        kv_s3fifo.begin(head, rows, names, memory, page)
    else:
        kv_density.begin(head, names, memory, page)


@njit_no_nrt(cache=True)
def _attached(head, rows, names, memory, tables, start, found, findable):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == LFU:
        kv_lfu.attached(rows, tables, start, findable)
    elif head[kv.POLICY] == SLRU:
        kv_slru.attached(rows, tables, start, found)
    elif head[kv.POLICY] == TINYLFU:
        kv_tinylfu.attached(head, rows, names, memory, tables, start, found)
    elif head[kv.POLICY] == S3FIFO:
        kv_s3fifo.attached(rows, tables, start, found)
    else:
        kv_density.attached(head, memory, tables, start, found, findable)


@njit_no_nrt(cache=True)
def _enter(head, rows, memory, page):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == LFU:
        kv_lfu.enter(rows, memory, page)
    elif head[kv.POLICY] == SLRU:
        kv_slru.enter(head, rows, memory, page)
    elif head[kv.POLICY] == TINYLFU:
        kv_tinylfu.enter(head, rows, memory, page)
    elif head[kv.POLICY] == S3FIFO:
        kv_s3fifo.enter(rows, memory, page)
    else:
        kv_density.enter(head, rows, memory, page)


@njit_no_nrt(cache=True)
def _leave(head, rows, memory, page):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == LFU:
        kv_lfu.leave(rows, memory, page)
    elif head[kv.POLICY] == SLRU:
        kv_slru.leave(rows, memory, page)
    elif head[kv.POLICY] == TINYLFU:
        kv_tinylfu.leave(head, rows, memory, page)
    elif head[kv.POLICY] == LHD:
        kv_density.leave(head, rows, memory, page)
    elif rows[page, kv.REFS] == 0:
        kv_s3fifo.drop(rows, memory, page)


@njit_no_nrt(cache=True)
def _victim(head, rows, names, memory):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == LFU:
        return kv_lfu.victim(rows, memory)
    if head[kv.POLICY] == SLRU:
        return kv_slru.victim(rows, memory)
    if head[kv.POLICY] == TINYLFU:
        return kv_tinylfu.victim(head, rows, names, memory)
    if head[kv.POLICY] == S3FIFO:
        return kv_s3fifo.victim(head, rows, memory)
    return kv_density.victim(head, rows, memory)


@njit_no_nrt(cache=True)
def _drop(rows, memory, page):
    never_inline(), optimize_for_size()
    kv_s3fifo.drop(rows, memory, page)


@njit_no_nrt(cache=True)
def _evicted(head, rows, names, memory, page):
    never_inline(), optimize_for_size()
    if head[kv.POLICY] == S3FIFO:
        kv_s3fifo.evicted(head, rows, names, memory, page)
    else:
        kv_density.evicted(head, names, memory, page)


@njit_no_nrt(cache=True)
def _forgotten(head, rows, memory, parent):
    never_inline(), optimize_for_size()
    kv_density.forgotten(head, rows, memory, parent)
