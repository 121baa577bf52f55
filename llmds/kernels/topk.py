"""The best documents: a heap of scores, the worst of them at the root, in arrays of which `found` items are in use.

ids int64 (k,), scores float32 (k,), k > 0. Of equal scores the smaller id is better.

For a k of up to POOLED there are pools beside them, int64 (`room(k)`,): keys of documents that come in the order of
their ids, the best first, each 2**31 - 1 less the bits of the score, << 32 | the document's place. Scores are positive.
"""

import numpy as np

from .compiling import njit, njit_no_nrt
from .simd import insert

POOLED = 256
_FIRST, _LANES = 8, 8  # where keys begin, and how many are moved at once
_EMPTY, _MOST = np.int64(2**63 - 1), np.int64(2**31 - 1)


@njit_no_nrt(cache=True)
def room(k):
    """How long a pool for the best k is: 0 where a heap is quicker."""
    return _FIRST + ((k + _LANES - 1) & ~(_LANES - 1)) if k <= POOLED else np.int64(0)


@njit_no_nrt(cache=True)
def clear(pool):
    """Make a pool that has room empty."""
    pool[0], pool[_FIRST - 1] = 0, -1
    for i in range(_FIRST, pool.shape[0]):
        pool[i] = _EMPTY


@njit_no_nrt(cache=True)
def keep(pool, place, bits):
    """Put a document, which comes after all that were put before, into the pool. O(k / 8), mostly less."""
    size = min((pool[0] & ~(_LANES - 1)) + _LANES, pool.shape[0] - _FIRST)
    insert(pool, np.int64(_FIRST), size, (_MOST - bits) << 32 | place)
    pool[0] += 1


@njit_no_nrt(cache=True)
def least(pool, k):
    """The least bits of a score with which a document that comes now is among the best k."""
    return _MOST + 1 - (pool[_FIRST + k - 1] >> 32)


@njit_no_nrt(cache=True)
def take(pool, documents, ids, scores, found):
    """Offer what a pool has to a heap; how many items that has after it. documents int64: ids by place."""
    held = np.int64(0)
    while held < ids.shape[0] and pool[_FIRST + held] != _EMPTY:
        held += 1
    empty = found == 0
    for i in range(held):
        # The worst first, they are a heap as they come; the best first, most of the others do not get in.
        key = pool[_FIRST + (held - 1 - i if empty else i)]
        doc_id, total = documents[key & 0xFFFFFFFF], np.int32(_MOST - (key >> 32)).view(np.float32)
        if empty:
            ids[i], scores[i] = doc_id, total
        else:
            found = offer(ids, scores, found, doc_id, total)
    return held if empty else found


@njit_no_nrt(cache=True)
def offer(ids, scores, found, doc_id, total):
    """Offer an item to the heap; how many it has after that. O(log k)."""
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
def finish_all(ids, scores, found):
    """Put the items of the heaps in rows of ids, scores (n, k) in order, best first; rows end in -1, -inf.

    found int64 (n,): items of each. O(n k log k).
    """
    for row in range(ids.shape[0]):
        finish(ids[row], scores[row], found[row])


@njit_no_nrt(cache=True)
def finish(ids, scores, found):
    """Put the items of one heap in order, best first; the rest becomes -1, -inf. O(k log k)."""
    ordered = np.int64(1)
    while ordered < found and _worse(scores[ordered - 1], ids[ordered - 1], scores[ordered], ids[ordered]):
        ordered += 1
    if ordered >= found:  # as `take` leaves them
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
    """Put an item in place of the root of a heap of `size` items."""
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
