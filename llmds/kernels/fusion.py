"""Fusion: two ranked lists of documents, one by vectors (dense) and one by text, combined into one.

All arrays have one row for each query and are padded with id -1. Ids are int64, scores float32; a score of -inf means
that the document lacks that side (it has no embedding, for example). A rule has a number, a kernel, and a branch of
`fuse`; `llmds.retrieval_pipeline.fusion` has the table of their names.
"""

from typing import NamedTuple

import numpy as np

from .compiling import njit, njit_no_nrt
from .hashing import mix
from .topk import push_to_heap, sort_heap

WEIGHTED, RECIPROCAL_RANK = 0, 1
RRF_K = 60.0  # the constant of reciprocal rank fusion
_DENSE, _TEXT = np.int64(0), np.int64(1)


class Side(NamedTuple):
    """One ranked list for each of n queries, beside the other list.

    ids           int64 (n, a)    best first
    scores        float32 (n, a)
    places        int32 (n, a)    the place of each document in the other list, -1 where it is not there (`cross`)
    other_scores  float32 (n, a)  scores of the other side, read where `places` is -1; or (n, 0) for rules that do
                                  not need them
    """

    ids: np.ndarray
    scores: np.ndarray
    places: np.ndarray
    other_scores: np.ndarray


@njit(cache=True, nogil=True)
def fuse(rule, dense, text, weight, ids, scores):
    """Combine two lists (`Side`) by the rule of this number. Returns False, with nothing changed, if there is none.

    Fills ids int64 and scores float32 (n, k), k > 0, best first, equal scores by smaller id; short rows end in -1 and
    -inf. weight: share of the dense side, for rules that have one. O(n (a + b) log k).
    """
    if rule == WEIGHTED:
        weighted(dense, text, weight, ids, scores)
    elif rule == RECIPROCAL_RANK:
        reciprocal_rank(dense, text, ids, scores)
    else:
        return False
    return True


@njit_no_nrt(cache=True, nogil=True)
def weighted(dense, text, weight, ids, scores):
    """Score documents by weight * dense + (1 - weight) * text, both min-max normalised over the documents of a query.

    A document that lacks a side scores 0 there, and so do all documents if all scores of a side are equal.
    """
    for q in range(dense.ids.shape[0]):
        dense_low, dense_high = _range(dense.ids[q], dense.scores[q], text.ids[q], text.places[q], text.other_scores[q])
        text_low, text_high = _range(text.ids[q], text.scores[q], dense.ids[q], dense.places[q], dense.other_scores[q])
        found = np.int64(0)
        for e in range(dense.ids.shape[1]):
            if dense.ids[q, e] >= 0:
                other = dense.other_scores[q, e]
                if dense.places[q, e] >= 0:
                    other = text.scores[q, dense.places[q, e]]
                near = _normalised(dense.scores[q, e], dense_low, dense_high)
                total = weight * near + (1.0 - weight) * _normalised(other, text_low, text_high)
                found = push_to_heap(ids[q], scores[q], found, dense.ids[q, e], np.float32(total))
        for e in range(text.ids.shape[1]):
            if text.ids[q, e] >= 0 and text.places[q, e] < 0:
                near = _normalised(text.other_scores[q, e], dense_low, dense_high)
                total = weight * near + (1.0 - weight) * _normalised(text.scores[q, e], text_low, text_high)
                found = push_to_heap(ids[q], scores[q], found, text.ids[q, e], np.float32(total))
        sort_heap(ids[q], scores[q], found)


@njit_no_nrt(cache=True, nogil=True)
def reciprocal_rank(dense, text, ids, scores):
    """Score documents by the sum of 1 / (RRF_K + rank) over the lists that have them, rank from 1.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009).
    """
    for q in range(dense.ids.shape[0]):
        found = np.int64(0)
        for e in range(dense.ids.shape[1]):
            if dense.ids[q, e] >= 0:
                total = np.float32(1.0 / (RRF_K + e + 1.0))
                if dense.places[q, e] >= 0:
                    total += np.float32(1.0 / (RRF_K + dense.places[q, e] + 1.0))
                found = push_to_heap(ids[q], scores[q], found, dense.ids[q, e], total)
        for e in range(text.ids.shape[1]):
            if text.ids[q, e] >= 0 and text.places[q, e] < 0:
                total = np.float32(1.0 / (RRF_K + e + 1.0))
                found = push_to_heap(ids[q], scores[q], found, text.ids[q, e], total)
        sort_heap(ids[q], scores[q], found)


@njit_no_nrt(cache=True)
def _range(own_ids, own_scores, other_ids, other_places, other_scores):
    """Return the lowest and the highest score of a side over all documents of a query, -inf left out, as float64.

    `other_scores` has those of the documents that only the other list has.
    """
    low, high = np.inf, -np.inf
    for e in range(own_ids.shape[0]):
        if own_ids[e] >= 0 and own_scores[e] != -np.inf:
            low, high = min(low, np.float64(own_scores[e])), max(high, np.float64(own_scores[e]))
    for e in range(other_ids.shape[0]):
        if other_ids[e] >= 0 and other_places[e] < 0 and other_scores[e] != -np.inf:
            low, high = min(low, np.float64(other_scores[e])), max(high, np.float64(other_scores[e]))
    return low, high


@njit_no_nrt(cache=True)
def _normalised(score, low, high):
    """Return a score between low and high as a number of 0 to 1."""
    if not low < high or score == -np.inf:
        return 0.0
    return (np.float64(score) - low) / (high - low)


@njit(cache=True, nogil=True)
def cross(left, right):
    """Find the ids of each list in the other one. left int64 (n, a), right int64 (n, b), no id twice in a row.

    Returns the places int32 (n, a) and (n, b), -1 where the other list does not have the id; and the ids that only the
    right list has, int64 (n, b), -1 in the places of the others. O(n (a + b)).
    """
    left_at, right_at = np.empty(left.shape, np.int32), np.empty(right.shape, np.int32)
    right_only, table = np.empty(right.shape, np.int64), np.empty(_table_size(left.shape[1]), np.int32)
    for q in range(left.shape[0]):
        _cross(left[q], right[q], left_at[q], right_at[q], right_only[q], table)
    return left_at, right_at, right_only


@njit_no_nrt(cache=True)
def _table_size(n):
    """Return the size of a hash table of n ids: a power of two, at least 2 n."""
    size = np.int64(1)
    while size < 2 * n:
        size *= 2
    return size


@njit_no_nrt(cache=True)
def _cross(left, right, left_at, right_at, right_only, table):
    """Do as `cross` for one row. table int32: scratch."""
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
    """Return the bucket of an id, or the empty one where it would be; the table holds places in ids."""
    mask = table.shape[0] - 1
    bucket = np.int64(mix(wanted)) & mask
    while table[bucket] >= 0 and ids[table[bucket]] != wanted:
        bucket = (bucket + 1) & mask
    return bucket
