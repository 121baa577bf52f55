"""BM25 and its variants: what a term weighs, and what it adds to a document's score.

With norm = 1 - b + b * length / average length, all of them add, for each term of the query,

    weight * ((tf + p * norm) / (tf + q * norm) + s)

                 weight                                        p        q            s
    LUCENE       ln(1 + (N - df + 0.5) / (df + 0.5))           0        k1           0
    ROBERTSON    max(0, ln((N - df + 0.5) / (df + 0.5)))       0        k1           0
    ATIRE        (k1 + 1) ln(N / df)                           0        k1           0
    BM25_PLUS    (k1 + 1) ln((N + 1) / df)                     0        k1           delta / (k1 + 1)
    BM25_L       (k1 + 1) ln((N + 1) / (df + 0.5))             delta    k1 + delta   0

(Kamphuis, de Vries, Boytsov and Lin 2020; Lv and Zhai 2011 for the last two). All fall as norm / tf grows. `form`,
float32 (5,), is (1 - b, b / average length, p, q, s).

A score is added up in float32, by descending weight and then by hash, so it depends neither on the order in which
documents came nor on that of the query.
"""

import math

import numpy as np

from ..compiling import njit_no_nrt
from ..tokenizer import same_bytes

LUCENE, ROBERTSON, ATIRE, BM25_PLUS, BM25_L = 0, 1, 2, 3, 4
BASE, SLOPE, P, Q, S, FORM = 0, 1, 2, 3, 4, 5


@njit_no_nrt(cache=True, forceinline=True)
def tf_of(more):
    """A term frequency of 1 and `more`, as float32: the same one for whoever stores it less 1, however large."""
    return np.float32(np.int32(more)) + np.float32(1)


@njit_no_nrt(cache=True, error_model="numpy")
def part(tf, length, form):
    """What `tf` (1 or more) occurrences add in a document of `length` to what weighs 1; all float32.

    No fastmath: it is rounded alike wherever it is computed, or equal documents would not tie.
    """
    norm = form[BASE] + form[SLOPE] * length
    return (tf + form[P] * norm) / (tf + form[Q] * norm) + form[S]


@njit_no_nrt(cache=True, error_model="numpy")
def part_of(ratio, form):
    """The same, of norm / tf."""
    one = np.float32(1)
    return (one + form[P] * ratio) / (one + form[Q] * ratio) + form[S]


@njit_no_nrt(cache=True, error_model="numpy")
def idf(method, documents, df, k1):
    """What a term weighs that `df` of the documents hold, float64."""
    if method == LUCENE:
        return math.log1p((documents - df + 0.5) / (df + 0.5))
    if method == ROBERTSON:
        return math.log(max((documents - df + 0.5) / (df + 0.5), 1.0))
    if method == ATIRE:
        return (k1 + 1.0) * math.log(documents / df)
    if method == BM25_PLUS:
        return (k1 + 1.0) * math.log((documents + 1.0) / df)
    return (k1 + 1.0) * math.log((documents + 1.0) / (df + 0.5))


@njit_no_nrt(cache=True, nogil=True)
def plan(data, starts, stops, hashes, ends, dfs, factors, documents, method, k1, order, weights, ordered):
    """Put the distinct terms of every query in the order of scores, those that weigh something.

    data, starts, stops, hashes, ends: terms as `tokens` has them; dfs int64 (m,): documents that hold each; factors
    float32 (m,) or (0,): what its weight is multiplied with. order int32 (m,), weights float32 (m,): the terms of query
    q, and what they weigh, with how often they come, end before ordered[q], int64 (n,). The most terms of a query.
    """
    top, begin, longest = np.int64(0), np.int64(0), np.int64(0)
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
    """Of terms in the order of their hashes, keep one of each that weighs something. Where they end."""
    distinct = run = base
    for at in range(base, top):
        i = np.int64(order[at])
        if distinct > base and hashes[order[distinct - 1]] != hashes[i]:
            run = distinct  # terms before it have other hashes
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
    """Sort by descending weight, then by hash, in place (Shell 1959): queries are short, and may be long."""
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
