"""Which pages of a KV cache became findable, and which are no longer: a ring of the last events, for a router.

Event number e lies at place e % head[EVENTS] of the last EVENT * head[EVENTS] elements of `memory`
(`kv_cache.layout`): its kind, the hash of the page, the hash of the page before it. head[RECORDED] counts all events so
far, head[READ] those that were returned or lost.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from . import layout
from .hashes import root_name

STORED, REMOVED = 1, 0
KIND, HASH, PARENT, EVENT = 0, 1, 2, 3


@njit_no_nrt(cache=True)
def record(pages, kind, page):
    """Record that a page became findable (STORED), or is about to be forgotten (REMOVED). O(1)."""
    head, names, memory = pages.head, pages.names, pages.memory
    if head[layout.EVENTS] == 0:
        return
    parent = np.int64(pages.rows[page, layout.PARENT])
    at = memory.shape[0] - EVENT * (1 + head[layout.RECORDED] % head[layout.EVENTS])
    memory[at + KIND], memory[at + HASH] = kind, names[page, layout.NAME]
    root = parent == head[layout.MAX_PAGES]
    memory[at + PARENT] = root_name(names[page, layout.SALT]) if root else names[parent, layout.NAME]
    head[layout.RECORDED] += 1


@njit(cache=True)
def read(pool, seqs, tables, ids, store):
    """Return the events that were not returned yet, oldest first.

    (OK 0; how many events were lost; stored bool (m,); hashes int64 (m,); parents int64 (m,)). O(m).
    """
    head, _, _, _, memory = layout.parts(pool)
    first = max(head[layout.READ], head[layout.RECORDED] - head[layout.EVENTS])
    lost, m = first - head[layout.READ], head[layout.RECORDED] - first
    stored, hashes, parents = np.empty(m, np.bool_), np.empty(m, np.int64), np.empty(m, np.int64)
    for e in range(m):
        at = memory.shape[0] - EVENT * (1 + (first + e) % head[layout.EVENTS])
        stored[e] = memory[at + KIND] == STORED
        hashes[e], parents[e] = memory[at + HASH], memory[at + PARENT]
    head[layout.READ] = head[layout.RECORDED]
    return 0, lost, stored, hashes, parents
