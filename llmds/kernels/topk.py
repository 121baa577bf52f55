"""The k best documents: a heap of (score, id) pairs, and a pool of keys that hold a score and a place.

The heap has its worst document at the root: ids int64 (k,), scores float32 (k,), k > 0, of which the first `found` are
in use. Of equal scores the smaller id is better.

For k up to POOLED a pool is faster, where documents come in ascending order of their ids and scores are positive: int64
(`pool_size(k)`,), sorted keys, the best first. A key is 2**31 - 1 less the bits of the score, << 32 | the place of the
document.
"""

import numpy as np

from .compiling import njit, njit_no_nrt
from .simd import insert

POOLED = 256
_FIRST, _LANES = 8, 8  # where keys begin, and how many are moved at once
_EMPTY, _MOST = np.int64(2**63 - 1), np.int64(2**31 - 1)


@njit_no_nrt(cache=True)
def pool_size(k):
    """Return the length of a pool for the best k; 0 where a heap is faster."""
    return _FIRST + ((k + _LANES - 1) & ~(_LANES - 1)) if k <= POOLED else np.int64(0)


@njit_no_nrt(cache=True)
def clear_pool(pool):
    """Make a pool, of a length above 0, empty."""
    pool[0], pool[_FIRST - 1] = 0, -1
    for i in range(_FIRST, pool.shape[0]):
        pool[i] = _EMPTY


@njit_no_nrt(cache=True)
def push_to_pool(pool, place, bits):
    """Add a document, whose place is after those of all added before. O(k / 8), mostly less."""
    size = min((pool[0] & ~(_LANES - 1)) + _LANES, pool.shape[0] - _FIRST)
    insert(pool, np.int64(_FIRST), size, (_MOST - bits) << 32 | place)
    pool[0] += 1


@njit_no_nrt(cache=True)
def pool_limit(pool, k):
    """Return the smallest bits of a score with which the next document is among the best k."""
    return _MOST + 1 - (pool[_FIRST + k - 1] >> 32)


@njit_no_nrt(cache=True)
def pool_to_heap(pool, documents, ids, scores, found):
    """Add the documents of a pool to a heap. Returns how many the heap has then. documents int64: ids by place."""
    held = np.int64(0)
    while held < ids.shape[0] and pool[_FIRST + held] != _EMPTY:
        held += 1
    empty = found == 0
    for i in range(held):
        # From the worst to the best they form a heap as they are; from the best on, most others are refused at once.
        key = pool[_FIRST + (held - 1 - i if empty else i)]
        doc_id, total = documents[key & 0xFFFFFFFF], np.int32(_MOST - (key >> 32)).view(np.float32)
        if empty:
            ids[i], scores[i] = doc_id, total
        else:
            found = push_to_heap(ids, scores, found, doc_id, total)
    return held if empty else found


@njit_no_nrt(cache=True)
def push_to_heap(ids, scores, found, doc_id, total):
    """Add a document to the heap if it is among the best k. Returns how many the heap has then. O(log k)."""
    size = ids.shape[0]
    if found < size:
        at = found
        while at > 0:
            parent = (at - 1) >> 1
            if _worse(scores[parent], ids[parent], total, doc_id):
                break
            ids[at], scores[at] = ids[parent], scores[parent]
            at = parent
        ids[at], scores[at] = doc_id, total
        return found + 1
    if _worse(scores[0], ids[0], total, doc_id):
        _sink(ids, scores, size, doc_id, total)
    return found


@njit(cache=True, nogil=True)
def sort_heaps(ids, scores, found):
    """Sort the heaps in the rows of ids, scores (n, k), best first; unused entries become -1, -inf.

    found int64 (n,): documents in each. O(n k log k).
    """
    for row in range(ids.shape[0]):
        sort_heap(ids[row], scores[row], found[row])


@njit_no_nrt(cache=True)
def sort_heap(ids, scores, found):
    """Sort one heap, best first; unused entries become -1, -inf. O(k log k)."""
    ordered = np.int64(1)
    while ordered < found and _worse(scores[ordered - 1], ids[ordered - 1], scores[ordered], ids[ordered]):
        ordered += 1
    if ordered >= found:  # as `pool_to_heap` leaves them
        for i in range(found // 2):
            other = found - 1 - i
            ids[i], ids[other], scores[i], scores[other] = ids[other], ids[i], scores[other], scores[i]
    else:
        for last in range(found - 1, 0, -1):
            worst_id, worst = ids[0], scores[0]
            _sink(ids, scores, last, ids[last], scores[last])
            ids[last], scores[last] = worst_id, worst
    for i in range(found, ids.shape[0]):
        ids[i], scores[i] = -1, -np.inf


@njit_no_nrt(cache=True)
def _sink(ids, scores, size, doc_id, total):
    """Replace the root of a heap of `size` documents."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _worse(scores[child], ids[child], total, doc_id):
            break
        ids[at], scores[at] = ids[child], scores[child]
        at = child
    ids[at], scores[at] = doc_id, total


@njit_no_nrt(cache=True)
def _worse(score, doc_id, other_score, other_id):
    return score < other_score or (score == other_score and doc_id > other_id)
