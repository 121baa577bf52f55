"""BM25 and its variants: the weight of a term, and what it adds to the score of a document.

With norm = 1 - b + b * length / average length, every method adds for each term of the query

    weight * ((tf + p * norm) / (tf + q * norm) + s)

                 weight                                        p        q            s
    LUCENE       ln(1 + (N - df + 0.5) / (df + 0.5))           0        k1           0
    ROBERTSON    max(0, ln((N - df + 0.5) / (df + 0.5)))       0        k1           0
    ATIRE        (k1 + 1) ln(N / df)                           0        k1           0
    BM25_PLUS    (k1 + 1) ln((N + 1) / df)                     0        k1           delta / (k1 + 1)
    BM25_L       (k1 + 1) ln((N + 1) / (df + 0.5))             delta    k1 + delta   0

(Kamphuis, de Vries, Boytsov and Lin 2020; Lv and Zhai 2011 for the last two). The term in parentheses must fall as
norm / tf grows, or searches that skip documents are wrong. A method consists of its number, a branch of `form` and one
of `idf`; `llmds.inverted_index.bm25` has the table of their names.

Scores are added up in float32, by descending weight of the terms and then by their hashes, so they depend neither on
the order in which documents were added nor on that of the query.
"""

import math

import numpy as np

from ..compiling import njit_no_nrt
from ..tokenizer import same_bytes

LUCENE, ROBERTSON, ATIRE, BM25_PLUS, BM25_L = 0, 1, 2, 3, 4
# Fields of `form`.
BASE, SLOPE, P, Q, S, FORM = 0, 1, 2, 3, 4, 5


def form(method: int, k1: float, b: float, delta: float, average: float) -> np.ndarray:
    """Return the constants (1 - b, b / average, p, q, s) of a method, float32 (FORM,). Not compiled.

    `average` is the average length. Raises ValueError if no method has this number.
    """
    slope = b / average if average > 0 else 0.0
    p, q, s = 0.0, k1, 0.0
    if method == BM25_PLUS:
        s = delta / (k1 + 1)
    elif method == BM25_L:
        p, q = delta, k1 + delta
    elif method not in (LUCENE, ROBERTSON, ATIRE):
        raise ValueError(f"method must be the number of a BM25 method, got {method}")
    return np.array([1 - b, slope, p, q, s], np.float32)


@njit_no_nrt(cache=True, error_model="numpy")
def idf(method, documents, df, k1):
    """Return the weight, float64, of a term that `df` of the documents have; NaN if no method has this number."""
    if method == LUCENE:
        return math.log1p((documents - df + 0.5) / (df + 0.5))
    if method == ROBERTSON:
        return math.log(max((documents - df + 0.5) / (df + 0.5), 1.0))
    if method == ATIRE:
        return (k1 + 1.0) * math.log(documents / df)
    if method == BM25_PLUS:
        return (k1 + 1.0) * math.log((documents + 1.0) / df)
    if method == BM25_L:
        return (k1 + 1.0) * math.log((documents + 1.0) / (df + 0.5))
    return math.nan


@njit_no_nrt(cache=True, forceinline=True)
def tf_of(more):
    """Return a term frequency of 1 and `more` as float32.

    It is computed in the same way whether the frequency is stored as it is or less 1, however large.
    """
    return np.float32(np.int32(more)) + np.float32(1)


@njit_no_nrt(cache=True, error_model="numpy")
def part(tf, length, form):
    """Return what `tf` (1 or more) occurrences add to the score of a document of `length`, for a weight of 1.

    All are float32. Without fastmath: it must be rounded alike wherever it is computed, or equal documents would not
    have equal scores.
    """
    norm = form[BASE] + form[SLOPE] * length
    return (tf + form[P] * norm) / (tf + form[Q] * norm) + form[S]


@njit_no_nrt(cache=True, error_model="numpy")
def part_of(ratio, form):
    """Return the same as `part`, given norm / tf."""
    one = np.float32(1)
    return (one + form[P] * ratio) / (one + form[Q] * ratio) + form[S]


@njit_no_nrt(cache=True, nogil=True)
def plan(data, starts, stops, hashes, ends, dfs, factors, documents, method, k1, order, weights, ordered):
    """Bring the distinct terms of every query, those of a weight above 0, in the order of scoring.

    data, starts, stops, hashes, ends: terms as in `kernels.tokenizer`. dfs int64 (m,): how many of the `documents`
    have each. factors float32 (m,) or (0,): the weight of each is multiplied with it. Fills order int32 (m,), weights
    float32 (m,) and ordered int64 (n,), the fields of `QueryTerms`; a weight is multiplied with the number of times
    that the query has the term.

    Returns the largest number of terms of a query, or -1 if no method has this number.
    """
    top, begin, longest = np.int64(0), np.int64(0), np.int64(0)
    if math.isnan(idf(method, 1.0, 1.0, k1)):
        return np.int64(-1)
    for query in range(ends.shape[0]):
        base = top
        for i in range(begin, ends[query]):
            if dfs[i] > 0:
                order[top], weights[top] = i, 0
                top += 1
        _sort(order, weights, hashes, base, top)
        top = _weigh(data, starts, stops, hashes, dfs, factors, documents, method, k1, order, weights, base, top)
        _sort(order, weights, hashes, base, top)
        ordered[query] = top
        begin = ends[query]
        longest = max(longest, top - base)
    return longest


@njit_no_nrt(cache=True)
def _weigh(data, starts, stops, hashes, dfs, factors, documents, method, k1, order, weights, base, top):
    """Keep one of each term of a query, sorted by hash, if its weight is above 0. Returns where they end."""
    distinct = run = base
    for at in range(base, top):
        i = np.int64(order[at])
        if distinct > base and hashes[order[distinct - 1]] != hashes[i]:
            run = distinct  # the terms before it have other hashes
        known = run
        while known < distinct and not _same(data, starts, stops, np.int64(order[known]), i):
            known += 1
        if known < distinct:
            weights[known] += 1
        else:
            order[distinct], weights[distinct] = i, 1
            distinct += 1
    kept = base
    for at in range(base, distinct):
        i = np.int64(order[at])
        once = idf(method, np.float64(documents), np.float64(dfs[i]), k1) * (
            factors[i] if factors.shape[0] > 0 else 1.0
        )
        weight = np.float32(once * np.float64(weights[at]))
        if weight > 0:
            order[kept], weights[kept] = i, weight
            kept += 1
    return kept


@njit_no_nrt(cache=True)
def _same(data, starts, stops, one, other):
    start, size = np.int64(starts[one]), np.int64(stops[one] - starts[one])
    return stops[other] - starts[other] == size and same_bytes(data, start, data, np.int64(starts[other]), size)


@njit_no_nrt(cache=True)
def _sort(order, weights, hashes, base, top):
    """Sort by descending weight, then by hash, in place (Shell 1959): good for short queries and for long ones."""
    gap = (top - base) // 2
    while gap > 0:
        for i in range(base + gap, top):
            term, weight = order[i], weights[i]
            j = i
            while j >= base + gap and (
                weights[j - gap] < weight or (weights[j - gap] == weight and hashes[order[j - gap]] > hashes[term])
            ):
                order[j], weights[j] = order[j - gap], weights[j - gap]
                j -= gap
            order[j], weights[j] = term, weight
        gap //= 2
