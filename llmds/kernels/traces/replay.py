"""A trace of block ids run through a KV cache. Its arrays and codes: `kv_cache.layout`, `kv_cache.sequences`."""

import numpy as np

from .. import table
from ..compiling import njit
from ..kv_cache import attach as kv_attach
from ..kv_cache import layout as kv
from ..kv_cache import sequences as seq
from ..kv_cache.sequences import FULL, OK

_ZERO, _BLOCKS = np.int64(0), np.bool_(True)


@njit(cache=True)
def replay(pool, seqs, tables, ids, store, seq_id, salt, blocks, indptr, start, stop, found):
    """Attach each of the requests start..stop-1 by its block ids, and detach it at once.

    Return (OK, stop, 0), or (FULL, the first request not done, 0). The first five arguments are the cache's `Arrays`;
    `seq_id` is a sequence that the cache does not hold. blocks: uint8, content ids (int64) end to end, of which request
    r has those of indptr[r]..indptr[r + 1] (int64 (n + 1,)). found[r] (int32) becomes the number of blocks found, -1
    where the pages do not suffice. O(blocks).
    """
    pages, held = kv.parts(pool), seq.parts(seqs, tables)
    if held.head[table.RETIRED]:
        return FULL, start, _ZERO
    data = kv.Data(ids, store, blocks, np.empty(0, np.uint8), np.empty((0, 3), np.int64))
    requests = np.zeros((1, kv_attach.REQUEST), np.int64)
    requests[0, kv_attach.SEQ], requests[0, kv_attach.SALT] = seq_id, salt
    for r in range(start, stop):
        named = indptr[r + 1] - indptr[r]
        if not seq.has_room(held, np.int64(1), named):
            return FULL, r, _ZERO
        requests[0, kv_attach.FIRST_ID], requests[0, kv_attach.NAMED] = indptr[r], named
        requests[0, kv_attach.LENGTH] = named * pool[kv.PAGE_SIZE]
        code, hits, _ = kv_attach.attach_one(pages, held, data, requests, _ZERO, _BLOCKS)
        found[r] = hits if code == OK else -1
        if code == OK:
            seq.remove(pages, held, table.find(held.rows, held.buckets, seq_id))
    return OK, stop, _ZERO


@njit(cache=True, nogil=True)
def replay_alone(pool, seqs, tables, ids, store, seq_id, salt, blocks, indptr, start, stop, found):
    """`replay` without the GIL, for a cache that no other thread uses."""
    return replay(pool, seqs, tables, ids, store, seq_id, salt, blocks, indptr, start, stop, found)
