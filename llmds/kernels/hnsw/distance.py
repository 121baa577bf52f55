"""Distances between the vectors of the graph: exact ones, and those that a walk compares.

A walk measures from a probe (`Probes`). Where vectors are quantised that is a probe of `codes`, and distances are
estimates; otherwise it is the vector itself, as float32 in the same bytes, and distances are exact. `Stored.bits` says
which, `Stored.product` what a distance is: the negated inner product, or the squared Euclidean distance.
"""

from typing import NamedTuple

import numpy as np

from ..compiling import always_inline, njit, njit_no_nrt, optimize_for_size
from ..simd import float_at, half_at, prefetch, put_float
from . import codes as _codes
from .codes import ADD, OWN, TIMES, estimate, probe, probe_of_codes
from .layout import COSINE, DONE, FULL, IP, L2, LANES, REFUSED, UNFIT, ZERO, Probes, key_of, known, stored_of

_AHEAD = 4  # vectors
_REORDERED = {"reassoc", "contract", "nsz"}


class Queries(NamedTuple):
    """Queries to measure exactly: rows, float32 (n, stride) as bytes; for codes alone, those rotated and their probes'.

    turned is float32 (n, D), and parameters float32 (n, 3) as in `Probes`.
    """

    rows: np.ndarray
    turned: np.ndarray
    parameters: np.ndarray


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def distance(probes, p, vectors, slot, product):
    """Return the distance of probes[p] (float32 (stride,), as bytes) to vectors[slot].

    Never NaN: infinity where products overflow both ways, and where `vectors` are neither float32 nor float16.
    """
    # Views of rows would be counted references, which cost as much as a distance.
    total = np.float32(0)
    start, width, stride = p * probes.shape[1], vectors.shape[1], probes.shape[1] >> 2
    if width == 4 * stride:
        if product:
            for d in range(stride):
                total -= float_at(probes, start + 4 * d) * float_at(vectors, slot * width + 4 * d)
        else:
            for d in range(stride):
                difference = float_at(probes, start + 4 * d) - float_at(vectors, slot * width + 4 * d)
                total += difference * difference
    elif width == 2 * stride:
        if product:
            for d in range(stride):
                total -= float_at(probes, start + 4 * d) * half_at(vectors, slot * width + 2 * d)
        else:
            for d in range(stride):
                difference = float_at(probes, start + 4 * d) - half_at(vectors, slot * width + 2 * d)
                total += difference * difference
    else:
        total = np.float32(np.inf)
    return total if total == total else np.float32(np.inf)


@njit_no_nrt(cache=True)
def padded(dim):
    """Return the length that a vector of `dim` is padded to: whole cache lines, of float16 as of float32."""
    return (dim + LANES - 1) // LANES * LANES


@njit_no_nrt(cache=True)
def origin_of(metric):
    """Return the distance of equal vectors: 0 or, at length 1, -1; -inf where it depends on the vectors.

    NaN for an unknown metric.
    """
    if metric == L2:
        return np.float32(0)
    if metric == COSINE:
        return np.float32(-1)
    return np.float32(-np.inf) if metric == IP else np.float32(np.nan)


@njit_no_nrt(cache=True)
def reported(distance, metric):
    """Return a `distance` as callers see it: Euclidean, 1 - cosine (in 0..2), or the negated inner product.

    NaN for an unknown metric.
    """
    if metric == L2:
        return np.sqrt(max(distance, np.float32(0)))
    if metric == COSINE:
        return min(max(np.float32(1) + distance, np.float32(0)), np.float32(2))
    return distance + np.float32(0) if metric == IP else np.float32(np.nan)  # no negative zero


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def load(source, at, target, row, cosine):
    """Copy source[at] (float32 (dim,)) to target[row], padded; scaled to length 1 if `cosine`.

    Returns whether it can be measured: not if a value is not finite, or all are zero under `cosine`.
    """
    dim = source.shape[1]
    squares = np.float64(0)
    for d in range(dim):
        value = np.float64(source[at, d])
        squares += value * value
    for d in range(dim):
        target[row, d] = source[at, d]
    for d in range(dim, target.shape[1]):
        target[row, d] = 0
    if not squares < np.inf or (cosine and squares == 0):
        return False
    if cosine:
        _scale(source, at, target, row, 1 / np.sqrt(squares))
    return True


@njit_no_nrt(cache=True)
def _scale(source, at, target, row, scale):
    """Scale source[at] into target[row]. Not part of `load`: with reordering allowed, LLVM divides every number."""
    for d in range(source.shape[1]):
        target[row, d] = np.float32(source[at, d] * scale)


@njit_no_nrt(cache=True)
def probe_bytes(bits, stride, frame):
    """Return the bytes of a probe of vectors padded to `stride`."""
    return 4 * stride if bits == FULL else frame.shape[1]


@njit_no_nrt(cache=True)
def make_probe(stored, frame, dim, queries, q, work, probes, p):
    """Make probe p of queries[q] (float32, padded). work (float32 (2, D)): row 0 is the rotated query afterwards."""
    optimize_for_size()
    if stored.bits == FULL:
        for d in range(queries.shape[1]):
            put_float(probes.rows, p * probes.rows.shape[1] + 4 * d, queries[q, d])
    else:
        probe(queries, q, dim, frame, stored.bits, stored.product, work, probes, p)


@njit_no_nrt(cache=True)
def probe_of_slot(stored, slot, probes, p):
    """Make probe p of the vector in `slot`."""
    if stored.bits == FULL:
        stride = probes.rows.shape[1] >> 2
        for d in range(stride):
            put_float(probes.rows, p * probes.rows.shape[1] + 4 * d, number_at(stored.vectors, slot, stride, d))
    else:
        probe_of_codes(stored, slot, probes, p)


@njit_no_nrt(cache=True)
def number_at(vectors, slot, stride, d):
    """Return vectors[slot, d] as float32; NaN if `vectors` are neither float32 nor float16."""
    if vectors.shape[1] == 4 * stride:
        return float_at(vectors, slot * vectors.shape[1] + 4 * d)
    if vectors.shape[1] == 2 * stride:
        return half_at(vectors, slot * vectors.shape[1] + 2 * d)
    return np.float32(np.nan)


@njit_no_nrt(cache=True)
def fetch(stored, slot):
    """Prefetch what `measure` will read of a slot."""
    if stored.bits == FULL:
        prefetch(stored.vectors, slot * stored.vectors.shape[1], stored.vectors.shape[1])
    else:
        prefetch(stored.codes, slot * stored.codes.shape[1], stored.codes.shape[1])
        prefetch(stored.terms, slot * 2, np.int64(2))


@njit_no_nrt(cache=True)
def measure(stored, probes, p, candidates, row, m):
    """Fill the first m distances and keys of `candidates`, of its slots[row, :m], measured from probe p. O(m D)."""
    always_inline()
    if stored.bits == FULL:
        for e in range(m):
            slot = candidates.slots[row, e]
            candidates.distances[e] = distance(probes.rows, p, stored.vectors, slot, stored.product)
            candidates.keys[e] = key_of(candidates.distances[e], slot)
    else:
        estimate(stored, probes, p, candidates, row, m)


@njit_no_nrt(cache=True)
def exactly(stored, slot, queries, q):
    """Return the distance of query q (`Queries`) to the vector in `slot` or, if not kept, to what its code represents.

    Never NaN.
    """
    if stored.vectors.shape[1] > 0:
        return distance(queries.rows, q, stored.vectors, slot, stored.product)
    along = _codes.along(stored.codes, slot, stored.bits, queries.turned, q)
    found = queries.parameters[q, OWN] + stored.terms[slot, ADD] + stored.terms[slot, TIMES] * along
    return found if found == found else np.float32(np.inf)


@njit_no_nrt(cache=True)
def equal(vectors, codes, terms, a, b):
    """Return whether two slots hold the same vector or, if vectors are not kept, the same code."""
    for d in range(vectors.shape[1]):
        if vectors[a, d] != vectors[b, d]:
            return False
    if vectors.shape[1] > 0:
        return True
    for d in range(codes.shape[1]):
        if codes[a, d] != codes[b, d]:
            return False
    return terms[a, 0] == terms[b, 0] and terms[a, 1] == terms[b, 1]


@njit(cache=True, nogil=True)
def distances(arrays, bits, metric, slots, queries, out):
    """Fill out (n, c) with the reported distances from queries (n, dim) to `slots` (n, c); infinity where one is -1.

    arrays are the graph's (`Arrays`); out float32, slots int64, queries float32. Returns DONE, UNFIT if a query cannot
    be measured (see `load`), or REFUSED. O(n c dim).
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, frame, dim = stored_of(arrays, bits, metric), arrays.frame, queries.shape[1]
    own, vectors = np.empty((1, padded(dim)), np.float32), arrays.vectors
    rows = np.empty((1, probe_bytes(bits, own.shape[1], frame)), np.uint8)
    probes, work = Probes(rows, np.zeros((1, _codes.PARAMETERS), np.float32)), np.empty(frame.shape, np.float32)
    query = Queries(own.view(np.uint8), work, probes.parameters)
    for q in range(queries.shape[0]):
        if not load(queries, np.int64(q), own, ZERO, metric == COSINE):
            return UNFIT
        if vectors.shape[1] == 0:
            make_probe(stored, frame, dim, own, ZERO, work, probes, ZERO)
        for e in range(slots.shape[1]):
            ahead = slots[q, min(e + _AHEAD, slots.shape[1] - 1)]
            if vectors.shape[1] > 0 and ahead >= 0:
                prefetch(vectors, ahead * vectors.shape[1], vectors.shape[1])
            out[q, e] = np.inf
            if slots[q, e] >= 0:
                out[q, e] = reported(exactly(stored, slots[q, e], query, ZERO), metric)
    return DONE


@njit(cache=True)
def restored(arrays, bits, metric, slots, out):
    """Fill out float32 (n, dim) with the vectors in slots int64 (n,), or what their codes represent. O(n dim).

    Returns DONE, or REFUSED.
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, vectors, frame = stored_of(arrays, bits, metric), arrays.vectors, arrays.frame
    stride, dim = padded(out.shape[1]), out.shape[1]
    work = np.empty(frame.shape, np.float32)
    for i in range(slots.shape[0]):
        if vectors.shape[1] > 0:
            for d in range(dim):
                out[i, d] = number_at(vectors, slots[i], stride, d)
        else:
            _codes.decoded(stored, slots[i], work)
            _codes.unrotated(frame, work, out, i)
    return DONE


@njit(cache=True)
def first_zero(vectors):
    """Return the first row of float32 (n, dim) that is all zeros, or -1. O(n dim), O(n) where few numbers are zero."""
    optimize_for_size()
    for i in range(vectors.shape[0]):
        d = 0
        while d < vectors.shape[1] and vectors[i, d] == 0:
            d += 1
        if d == vectors.shape[1]:
            return i
    return -1
