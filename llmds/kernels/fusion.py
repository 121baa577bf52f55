"""Two ranked lists, one of text and one of vectors, made into one.

All arrays have one row a query and are padded with id -1. Ids are int64, scores float32; a score
of -inf says that a document lacks that side (it has no embedding, say).
"""

import numpy as np

from .compiling import njit, njit_no_nrt
from .hashing import mix
from .topk import finish, offer

_ZERO, _DENSE, _TEXT = np.int64(0), np.int64(0), np.int64(1)
# Rows of what one query is told of both sides: text's scores of the dense side, float32; where each id stands on the
# other, int32; ids that text alone has.
TOLD, DENSE_AT, TEXT_AT, TEXT_ONLY, BESIDE = 0, 1, 2, 3, 4


@njit(cache=True, nogil=True)
def cross(left, right):
    """Where each id of one side stands on the other: int32 (n, a) and (n, b), -1 where it does not.

    And the ids of the right side that the left one lacks, int64 (n, b), -1 in the place of those that it has.
    left int64 (n, a), right int64 (n, b), no id twice in a row. O(n (a + b)).
    """
    left_at, right_at = np.empty(left.shape, np.int32), np.empty(right.shape, np.int32)
    right_only, table = np.empty(right.shape, np.int64), np.empty(buckets(left.shape[1]), np.int32)
    for q in range(left.shape[0]):
        cross_one(left[q], right[q], left_at[q], right_at[q], right_only[q], table)
    return left_at, right_at, right_only


@njit_no_nrt(cache=True)
def buckets(n):
    """How many a table of n ids has: the power of two from 2 n on."""
    size = np.int64(1)
    while size < 2 * n:
        size *= 2
    return size


@njit_no_nrt(cache=True)
def cross_one(left, right, left_at, right_at, right_only, table):
    """As `cross` for one row. table int32 (`buckets(a)`,): scratch."""
    table[:] = left_at[:] = -1
    for e in range(left.shape[0]):
        if left[e] >= 0:
            table[_bucket(table, left, left[e])] = e
    for e in range(right.shape[0]):
        right_at[e], right_only[e] = -1, right[e]
        if right[e] >= 0:
            at = table[_bucket(table, left, right[e])]
            if at >= 0:
                left_at[at], right_at[e], right_only[e] = e, at, -1


@njit_no_nrt(cache=True)
def _bucket(table, ids, wanted):
    """The bucket of an id, or the empty one where it would be; table holds places in ids."""
    mask = table.shape[0] - 1
    bucket = np.int64(mix(wanted)) & mask
    while table[bucket] >= 0 and ids[table[bucket]] != wanted:
        bucket = (bucket + 1) & mask
    return bucket


@njit(cache=True, nogil=True)
def weighted(
    dense_ids, dense, dense_at, text_of_dense, text_ids, text, text_at, dense_of_text, weight, ids, scores
):  # fmt: skip
    """Rank the documents of both sides by weight * dense + (1 - weight) * text, each min-max normalised over all.

    dense_ids (n, a) with scores dense, text_ids (n, b) with scores text; dense_at, text_at: what `cross` said;
    text_of_dense (n, a), dense_of_text (n, b): scores on the other side, looked at where that has not said it. A
    document that lacks a side scores lowest there; a side that is constant gives 0. Fills ids int64 and scores float32
    (n, k), k > 0, best first, equal ones by smaller id; short rows end in -1 and -inf. O(n (a + b) log k).
    """
    for q in range(dense_ids.shape[0]):
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for e in range(dense_ids.shape[1]):
            if dense_ids[q, e] >= 0:
                _span(low, high, _DENSE, dense[q, e])
                if dense_at[q, e] < 0:
                    _span(low, high, _TEXT, text_of_dense[q, e])
        for e in range(text_ids.shape[1]):
            if text_ids[q, e] >= 0:
                _span(low, high, _TEXT, text[q, e])
                if text_at[q, e] < 0:
                    _span(low, high, _DENSE, dense_of_text[q, e])
        found = _ZERO
        for e in range(dense_ids.shape[1]):
            if dense_ids[q, e] >= 0:
                other = text[q, dense_at[q, e]] if dense_at[q, e] >= 0 else text_of_dense[q, e]
                total = weight * _part(low, high, _DENSE, dense[q, e]) + (1.0 - weight) * _part(low, high, _TEXT, other)
                found = offer(ids[q], scores[q], found, dense_ids[q, e], np.float32(total))
        for e in range(text_ids.shape[1]):
            if text_ids[q, e] >= 0 and text_at[q, e] < 0:
                near = _part(low, high, _DENSE, dense_of_text[q, e])
                total = weight * near + (1.0 - weight) * _part(low, high, _TEXT, text[q, e])
                found = offer(ids[q], scores[q], found, text_ids[q, e], np.float32(total))
        finish(ids[q], scores[q], found)


@njit(cache=True, nogil=True)
def reciprocal_rank(dense_ids, dense_at, text_ids, text_at, k, ids, scores):
    """Rank the documents of both sides by the sum of 1 / (k + rank) over the sides that hold them, rank from 1.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009). The rest as in `weighted`.
    """
    for q in range(dense_ids.shape[0]):
        found = _ZERO
        for e in range(dense_ids.shape[1]):
            if dense_ids[q, e] >= 0:
                total = np.float32(1.0 / (k + e + 1.0))
                if dense_at[q, e] >= 0:
                    total += np.float32(1.0 / (k + dense_at[q, e] + 1.0))
                found = offer(ids[q], scores[q], found, dense_ids[q, e], total)
        for e in range(text_ids.shape[1]):
            if text_ids[q, e] >= 0 and text_at[q, e] < 0:
                found = offer(ids[q], scores[q], found, text_ids[q, e], np.float32(1.0 / (k + e + 1.0)))
        finish(ids[q], scores[q], found)


@njit(cache=True, nogil=True)
def one(dense_ids, dense, text_ids, text, beside, dense_of_text, weight, k, ids, scores):
    """`weighted` or, for a k of 1 or more, `reciprocal_rank`, of one query with lists of the same length.

    beside: what `one_query.search` said of both.
    """
    n = dense_ids.shape[1]
    dense_at = beside[DENSE_AT].view(np.int32)[:n].reshape((1, n))
    text_at = beside[TEXT_AT].view(np.int32)[:n].reshape((1, n))
    if k > 0:
        reciprocal_rank(dense_ids, dense_at, text_ids, text_at, k, ids, scores)
    else:
        told = beside[TOLD].view(np.float32)[:n].reshape((1, n))
        weighted(dense_ids, dense, dense_at, told, text_ids, text, text_at, dense_of_text, weight, ids, scores)


@njit_no_nrt(cache=True)
def _span(low, high, side, score):
    """Note a score of a side, if it has one."""
    if score != -np.inf:
        low[side] = min(low[side], np.float64(score))
        high[side] = max(high[side], np.float64(score))


@njit_no_nrt(cache=True)
def _part(low, high, side, score):
    """A score of a side, normalised."""
    if not low[side] < high[side] or score == -np.inf:
        return 0.0
    return (np.float64(score) - low[side]) / (high[side] - low[side])
