"""Sparse term weights and their products with dense matrices, for latent semantic analysis.

A text is a row of a sparse matrix X of n texts by t terms, in compressed rows:

    indptr   int64 (n + 1,)   row i is the entries indptr[i]..indptr[i + 1] - 1
    indices  int32 (entries,) the terms, each once in a row
    values   float32 (entries,)
"""

import math

import numpy as np

from .compiling import njit


@njit(cache=True, nogil=True)
def count_terms(terms, ends, slots, indptr, indices, counts):
    """Term occurrences to distinct terms and their counts; how many entries there are.

    terms  int32 (m,)  the terms of all texts in order, -1 for what does not count
    ends   int64 (n,)  text i is the terms before ends[i] that no earlier text has
    slots  int64 (t,)  scratch, -1 throughout
    indptr, indices, counts  the rows, written; room for m entries; counts are float32. O(m).
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
            if slot >= first:  # seen in this text
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
    """Turn counts in `values` into (1 + ln count) * idf, each row of Euclidean length 1, in place. O(entries)."""
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


@njit(cache=True, nogil=True)
def times_dense(indptr, indices, values, start, stop, dense, out):
    """Rows start..stop-1 of out (n, d) become those of X dense; dense (t, d) and out are float32. O(entries * d)."""
    for row in range(start, stop):
        target = out[row]
        for column in range(target.shape[0]):
            target[column] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            value, source = values[entry], dense[indices[entry]]
            for column in range(source.shape[0]):
                target[column] += value * source[column]


@njit(cache=True, nogil=True)
def add_gram_times_dense(indptr, indices, values, start, stop, dense, out):
    """out += X' X dense, for rows start..stop-1 of X alone; dense, out float32 (t, d). O(entries * d).

    One pass over X, so the product X dense, which has a row for each text, is never stored.
    """
    product = np.empty(dense.shape[1], np.float32)
    for row in range(start, stop):
        for column in range(product.shape[0]):
            product[column] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            value, source = values[entry], dense[indices[entry]]
            for column in range(source.shape[0]):
                product[column] += value * source[column]
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
