"""What has become findable in a KV cache, and what no longer is: a ring of the last events, for a router.

Event number e stands at place e % head[EVENTS] of the last EVENT * head[EVENTS] elements of `memory`
(`kv_cache.layout`): its kind, its hash, that of the page before. head[TOLD] counts the events ever, head[READ] those
handed out or lost.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from . import layout as kv
from .hashes import root_name

STORED, REMOVED = 1, 0
KIND, HASH, PARENT, EVENT = 0, 1, 2, 3


@njit_no_nrt(cache=True)
def tell(head, rows, names, memory, kind, page):
    """Note that a page has become findable, or is about to be forgotten. O(1)."""
    if head[kv.EVENTS] == 0:
        return
    parent = np.int64(rows[page, kv.PARENT])
    at = memory.shape[0] - EVENT * (1 + head[kv.TOLD] % head[kv.EVENTS])
    memory[at + KIND], memory[at + HASH] = kind, names[page, kv.NAME]
    before = root_name(names[page, kv.SALT]) if parent == head[kv.MAX_PAGES] else names[parent, kv.NAME]
    memory[at + PARENT] = before
    head[kv.TOLD] += 1


@njit(cache=True)
def read(pool, seqs, tables, ids, store):
    """(OK 0; events lost; of those not handed out yet, oldest first: stored bool (m,), hashes, parents int64 (m,))."""
    head, _, _, _, memory = kv.parts(pool)
    first = max(head[kv.READ], head[kv.TOLD] - head[kv.EVENTS])
    lost, m = first - head[kv.READ], head[kv.TOLD] - first
    stored, hashes, parents = np.empty(m, np.bool_), np.empty(m, np.int64), np.empty(m, np.int64)
    for e in range(m):
        at = memory.shape[0] - EVENT * (1 + (first + e) % head[kv.EVENTS])
        stored[e] = memory[at + KIND] == STORED
        hashes[e], parents[e] = memory[at + HASH], memory[at + PARENT]
    head[kv.READ] = head[kv.TOLD]
    return 0, lost, stored, hashes, parents
