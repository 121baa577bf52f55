"""Two ranked lists, one of text and one of vectors, made into one.

All arrays have one row a query and are padded with id -1. Ids are int64, scores float32; a score
of -inf says that a document lacks that side (it has no embedding, say).
"""

import numpy as np

from . import smallest
from .compiling import njit
from .hnsw import key_of, slot_of

_ZERO = np.int64(0)
_LAST = np.float32(np.nan)  # its bits are above those of infinity


@njit(cache=True, nogil=True)
def union(left, left_scores, right, right_scores):
    """The ids that stand in either row, ascending, and what each side says of them, all (n, a + b).

    left int64 (n, a), right int64 (n, b), scores float32 alike. Returns ids int64, padded with -1, the scores of both
    sides float32, and whether each side gave one, bool. O(n (a + b) log(a + b)).
    """
    n, width = left.shape[0], left.shape[1] + right.shape[1]
    ids, both = np.full((n, width), -1, np.int64), np.empty(width, np.int64)
    scores, given = np.full((2, n, width), -np.inf, np.float32), np.zeros((2, n, width), np.bool_)
    for q in range(n):
        size = _ZERO
        for side in (left, right):
            for e in range(side.shape[1]):
                if side[q, e] >= 0:
                    size = smallest.keep(both, _ZERO, size, side[q, e])
        smallest.sort(both, _ZERO, size)
        count = _ZERO
        for e in range(size):
            if count == 0 or ids[q, count - 1] != both[e]:
                ids[q, count] = both[e]
                count += 1
        for which in range(2):
            side, values = (left, left_scores) if which == 0 else (right, right_scores)
            for e in range(side.shape[1]):
                if side[q, e] >= 0:
                    at = _place(ids[q], count, side[q, e])
                    scores[which, q, at], given[which, q, at] = values[q, e], True
    return ids, scores[0], scores[1], given[0], given[1]


@njit(cache=True, nogil=True)
def weighted(ids, dense, text, weight, top_k):
    """Rank the candidates `ids` (n, c) by weight * dense + (1 - weight) * text, each min-max normalised in its row.

    A document that lacks a side scores lowest there; a side that is constant gives 0. Returns ids int64
    and scores float32, (n, top_k), best first, equal ones by smaller id.
    """
    n, width = ids.shape
    fused = np.empty((n, width), np.float32)
    for q in range(n):
        dense_low, dense_scale = _span(ids[q], dense[q])
        text_low, text_scale = _span(ids[q], text[q])
        for e in range(width):
            d = max(np.float64(dense[q, e]) - dense_low, 0.0) * dense_scale
            t = max(np.float64(text[q, e]) - text_low, 0.0) * text_scale
            fused[q, e] = weight * d + (1.0 - weight) * t
    return best(ids, fused, top_k)


@njit(cache=True, nogil=True)
def reciprocal_rank(ids, dense_ids, text_ids, k, top_k):
    """Rank the candidates `ids` (n, c) by the sum of 1 / (k + rank) over the lists that hold them, rank from 1.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009). `ids` is ascending in each row. Returns as `weighted`.
    """
    n, width = ids.shape
    fused = np.zeros((n, width), np.float32)
    for q in range(n):
        count = 0
        while count < width and ids[q, count] >= 0:
            count += 1
        for ranked in (dense_ids, text_ids):
            for rank in range(ranked.shape[1]):
                if ranked[q, rank] >= 0:
                    e = _place(ids[q], count, ranked[q, rank])
                    fused[q, e] += np.float32(1.0 / (k + rank + 1.0))
    return best(ids, fused, top_k)


@njit(cache=True, nogil=True)
def best(ids, scores, top_k):
    """The `top_k` best of each row: ids int64 and scores float32 (n, top_k), equal scores by smaller id.

    Short rows end in -1 and -inf. `ids` is ascending in each row, so its places settle ties. O(n c log top_k).
    """
    n, width = ids.shape
    best_ids, best_scores = np.empty((n, top_k), np.int64), np.empty((n, top_k), np.float32)
    keys = np.empty(min(top_k, width), np.int64)
    for q in range(n if top_k > 0 else 0):  # the heap needs a place
        e = size = _ZERO
        while e < width and ids[q, e] >= 0:
            falling = np.float32(0) - scores[q, e]  # no negative zero, which would not tie with zero
            size = smallest.keep(keys, _ZERO, size, key_of(falling if falling == falling else _LAST, e))
            e += 1
        smallest.sort(keys, _ZERO, size)
        for rank in range(size):
            e = slot_of(keys[rank])
            best_ids[q, rank], best_scores[q, rank] = ids[q, e], scores[q, e]
        for rank in range(size, top_k):
            best_ids[q, rank], best_scores[q, rank] = -1, -np.inf
    return best_ids, best_scores


@njit(cache=True)
def _place(ids, count, wanted):
    """Where `wanted` stands in the ascending ids[:count]."""
    low, high = _ZERO, count
    while low < high:
        middle = (low + high) >> 1
        if ids[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def _span(ids, scores):
    """(the lowest score, 1 / (highest - lowest)) of a row, (0, 0) if it is constant."""
    low, high = np.inf, -np.inf
    for e in range(ids.shape[0]):
        if ids[e] >= 0 and scores[e] != -np.inf:
            low = min(low, np.float64(scores[e]))
            high = max(high, np.float64(scores[e]))
    if not low < high:
        return 0.0, 0.0
    return low, 1.0 / (high - low)
