"""What of a prompt a KV cache holds already, found without changing anything.

State as in `kv_pool` and `kv_tables`; answers as in `kv_cache`, OK (0) or FULL (1).
"""

import numpy as np

from .compiling import njit
from .kv_pool import COUNT, MAX_PAGES, NEXT, PAGE_SIZE, PART, find, hash_ids, parts, same_ids
from .table import RETIRED


@njit(cache=True)
def match_many(pool, seqs, tables, ids, store, tokens, indptr, matched):
    """Fill `matched` int64 (n,): how many leading ids of tokens[indptr[e]:indptr[e + 1]] can be found.

    Changes nothing. O(tokens), and O(prefixes of less than a page that begin where the full pages end).
    """
    if seqs[RETIRED]:
        return 1, 0, 0
    head, rows, names, buckets = parts(pool)
    origin = np.empty((0, 3), np.int64)
    page_size = head[PAGE_SIZE]
    for e in range(matched.shape[0]):
        parent, at, stop = head[MAX_PAGES], indptr[e], indptr[e + 1]
        while stop - at >= page_size:
            name = hash_ids(tokens, at, page_size)
            page = find(rows, names, buckets, ids, origin, parent, name, tokens, at, page_size)
            if page < 0:
                break
            parent = page
            at += page_size
        best = np.int64(0)
        part = np.int64(rows[parent, PART])
        while part >= 0:
            count = np.int64(rows[part, COUNT])
            if best < count <= stop - at and same_ids(ids, origin, part, tokens, at, count):
                best = count
            part = np.int64(rows[part, NEXT])
        matched[e] = at - indptr[e] + best
    return 0, 0, 0
