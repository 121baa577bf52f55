"""Sparse term weights and their products with dense matrices, for latent semantic analysis.

A text is a row of a sparse matrix X of n texts by t terms, in compressed rows:

    indptr   int64 (n + 1,)   row i is the entries indptr[i]..indptr[i + 1] - 1
    indices  int32 (entries,) the terms, each once in a row
    values   float32 (entries,)

An encoder is a vocabulary (`kernels.tokenizer`) with two arrays more; see `Arrays`.
"""

import math
from typing import NamedTuple

import numpy as np

from .compiling import njit


class Arrays(NamedTuple):
    """The arrays of an LSAEncoder: the first four are those of its vocabulary."""

    head: np.ndarray  # int64 (2,), see `kernels.tokenizer.VocabularyArrays`
    data: np.ndarray  # uint8
    offsets: np.ndarray  # int64 (terms + 1,) or longer
    buckets: np.ndarray  # int64 (power of 2,)
    idf: np.ndarray  # float32 (terms,), the weight of each term
    projection: np.ndarray  # float32 (terms, dim), the direction of each term
    singular_values: np.ndarray  # float32 (dim,), falling


@njit(cache=True, nogil=True)
def count_terms(terms, ends, slots, indptr, indices, counts):
    """Count each text's terms into the rows indptr, indices, counts (float32); return the number of entries. O(m).

    terms  int32 (m,)  the terms of all texts in order, -1 for those not counted
    ends   int64 (n,)  the terms of text i are those before ends[i] that belong to no earlier text
    slots  int64 (t,)  scratch, all -1
    indices and counts need room for m entries.
    """
    entries = 0
    start = 0
    indptr[0] = 0
    for text in range(ends.shape[0]):
        first = entries
        for occurrence in range(start, ends[text]):
            term = terms[occurrence]
            if term < 0:
                continue
            slot = slots[term]
            if slot >= first:  # already counted in this text
                counts[slot] += np.float32(1)
            else:
                slots[term] = entries
                indices[entries] = term
                counts[entries] = 1
                entries += 1
        start = ends[text]
        indptr[text + 1] = entries
    return entries


@njit(cache=True, nogil=True)
def weigh(indptr, indices, values, idf):
    """Replace the counts in `values` by (1 + ln count) * idf, each row scaled to Euclidean length 1. O(entries).

    idf: float32 (t,).
    """
    for row in range(indptr.shape[0] - 1):
        squares = 0.0
        for entry in range(indptr[row], indptr[row + 1]):
            weight = (1.0 + math.log(values[entry])) * idf[indices[entry]]
            values[entry] = weight
            squares += weight * weight
        if squares > 0:
            scale = np.float32(1.0 / math.sqrt(squares))
            for entry in range(indptr[row], indptr[row + 1]):
                values[entry] *= scale


@njit(cache=True, nogil=True, forceinline=True)
def _row_times_dense(indptr, indices, values, row, dense, product):
    """Set product, float32 (d,), to that row of X times dense, float32 (t, d)."""
    for column in range(product.shape[0]):
        product[column] = 0
    for entry in range(indptr[row], indptr[row + 1]):
        value, source = values[entry], dense[indices[entry]]
        for column in range(source.shape[0]):
            product[column] += value * source[column]


@njit(cache=True, nogil=True)
def times_dense(indptr, indices, values, start, stop, dense, out):
    """Set rows start..stop-1 of out to those of X @ dense; dense (t, d) and out (n, d) float32. O(entries * d)."""
    for row in range(start, stop):
        _row_times_dense(indptr, indices, values, row, dense, out[row])


@njit(cache=True, nogil=True)
def add_gram_times_dense(indptr, indices, values, start, stop, dense, out):
    """Add X' X dense, of rows start..stop-1 of X only, to out; dense, out float32 (t, d). O(entries * d).

    One pass over X: the product X @ dense, which has a row for each text, is never stored.
    """
    product = np.empty(dense.shape[1], np.float32)
    for row in range(start, stop):
        _row_times_dense(indptr, indices, values, row, dense, product)
        for entry in range(indptr[row], indptr[row + 1]):
            value, target = values[entry], out[indices[entry]]
            for column in range(target.shape[0]):
                target[column] += value * product[column]


@njit(cache=True, nogil=True)
def normalise(rows):
    """Scale each row of `rows` (float32 (n, d)) to Euclidean length 1, in place; rows of zeros stay. O(n * d)."""
    for row in range(rows.shape[0]):
        squares = 0.0
        for column in range(rows.shape[1]):
            squares += np.float64(rows[row, column]) * np.float64(rows[row, column])
        if squares > 0:
            scale = np.float32(1.0 / math.sqrt(squares))
            for column in range(rows.shape[1]):
                rows[row, column] *= scale
