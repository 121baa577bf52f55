"""The best documents: a heap of scores, the worst of them at the root, in arrays of which `found` items are in use.

ids int64 (k,), scores float32 (k,), k > 0. Of equal scores the smaller id is better.
"""

import numpy as np

from .compiling import leaf, njit


@leaf(cache=True)
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


@leaf(cache=True)
def finish(ids, scores, found):
    """Put the items of one heap in order, best first; the rest becomes -1, -inf. O(k log k)."""
    for last in range(found - 1, 0, -1):
        worst_id, worst = ids[0], scores[0]
        _sink(ids, scores, last, ids[last], scores[last])
        ids[last], scores[last] = worst_id, worst
    for i in range(found, ids.shape[0]):
        ids[i], scores[i] = -1, -np.inf


@leaf(cache=True)
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


@leaf(cache=True)
def _worse(score, doc_id, other_score, other_id):
    return score < other_score or (score == other_score and doc_id > other_id)
