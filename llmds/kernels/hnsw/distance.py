"""Distances between the vectors of `hnsw`: exact ones, and those that a walk goes by.

A walk measures from a probe: where vectors are quantised that is a probe of `codes`, and distances are estimates;
else it is the vector itself, as float32 in the same bytes, and distances are exact. `bits` says which: `codes.INT4`,
`codes.INT8`, or FULL. `product` says what a distance is: the negated inner product, or squared Euclidean.
"""

import numpy as np

from ..compiling import always_inline, njit, njit_no_nrt, optimize_for_size
from ..simd import float_at, half_at, prefetch, put_float
from . import codes as _codes
from .codes import ADD, OWN, TIMES, estimate, probe, probe_of_codes
from .layout import COSINE, L2, LANES, ZERO, key_of

FULL = 0
_AHEAD = 4  # vectors
_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@njit_no_nrt(cache=True, fastmath=_IN_ANY_ORDER)
def distance(probes, p, stride, vectors, slot, product):
    """How far probes[p] (float32 (stride,), as bytes) is from vectors[slot].

    Never NaN: infinity where products overflow both ways.

    Views of rows would be counted references, at the price of a distance each.
    """
    total = np.float32(0)
    start, width = p * probes.shape[1], vectors.shape[1]
    if width == 4 * stride:
        if product:
            for d in range(stride):
                total -= float_at(probes, start + 4 * d) * float_at(vectors, slot * width + 4 * d)
        else:
            for d in range(stride):
                difference = float_at(probes, start + 4 * d) - float_at(vectors, slot * width + 4 * d)
                total += difference * difference
    else:
        if product:
            for d in range(stride):
                total -= float_at(probes, start + 4 * d) * half_at(vectors, slot * width + 2 * d)
        else:
            for d in range(stride):
                difference = float_at(probes, start + 4 * d) - half_at(vectors, slot * width + 2 * d)
                total += difference * difference
    return total if total == total else np.float32(np.inf)


@njit_no_nrt(cache=True)
def padded(dim):
    """Numbers that a vector of `dim` is padded to: whole cache lines, of float16 as of float32."""
    return (dim + LANES - 1) // LANES * LANES


@njit_no_nrt(cache=True)
def origin_of(metric):
    """The distance of what is the same: 0 or, of vectors of length 1, -1. -inf where that depends on the vectors."""
    if metric == L2:
        return np.float32(0)
    return np.float32(-1) if metric == COSINE else np.float32(-np.inf)


@njit_no_nrt(cache=True)
def reported(distance, metric):
    """What callers are told for a `distance`: Euclidean, 1 - cosine (in 0..2), or the negated inner product."""
    if metric == L2:
        return np.sqrt(max(distance, np.float32(0)))
    if metric == COSINE:
        return min(max(np.float32(1) + distance, np.float32(0)), np.float32(2))
    return distance + np.float32(0)  # no negative zero


@njit_no_nrt(cache=True, fastmath=_IN_ANY_ORDER)
def load(source, at, target, row, cosine):
    """Copy source[at] (float32 (dim,)) to target[row], padded; scaled to length 1 if `cosine`.

    Whether it could be: not if a value is not finite, or all are zero under `cosine`.
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
    """Apart from `load` since there, in any order, LLVM would rather divide every number."""
    for d in range(source.shape[1]):
        target[row, d] = np.float32(source[at, d] * scale)


@njit_no_nrt(cache=True)
def probe_bytes(bits, stride, frame):
    """Bytes of a probe of vectors padded to `stride`."""
    return 4 * stride if bits == FULL else frame.shape[1]


@njit_no_nrt(cache=True)
def make_probe(bits, product, frame, dim, queries, q, work, probes, parameters, p):
    """Make probe p of queries[q] (float32, padded). `work` is float32 (2, D)."""
    optimize_for_size()
    if bits == FULL:
        for d in range(queries.shape[1]):
            put_float(probes, p * probes.shape[1] + 4 * d, queries[q, d])
    else:
        probe(queries, q, dim, frame, bits, product, work, probes, parameters, p)


@njit_no_nrt(cache=True)
def probe_of_slot(bits, product, vectors, codes, terms, slot, probes, parameters, p):
    """Make probe p of what is stored in `slot`."""
    if bits == FULL:
        stride = probes.shape[1] >> 2
        for d in range(stride):
            put_float(probes, p * probes.shape[1] + 4 * d, stored(vectors, slot, stride, d))
    else:
        probe_of_codes(codes, terms, slot, bits, product, probes, parameters, p)


@njit_no_nrt(cache=True)
def stored(vectors, slot, stride, d):
    """vectors[slot, d] as float32, whichever type it is stored as."""
    if vectors.shape[1] == 4 * stride:
        return float_at(vectors, slot * vectors.shape[1] + 4 * d)
    return half_at(vectors, slot * vectors.shape[1] + 2 * d)


@njit_no_nrt(cache=True)
def fetch(bits, vectors, codes, terms, slot):
    """Ask for what `measure` will read of a slot."""
    if bits == FULL:
        prefetch(vectors, slot * vectors.shape[1], vectors.shape[1])
    else:
        prefetch(codes, slot * codes.shape[1], codes.shape[1])
        prefetch(terms, slot * 2, np.int64(2))


@njit_no_nrt(cache=True)
def measure(bits, product, vectors, codes, terms, probes, parameters, p, slots, row, m, distances, keys):
    """Fill distances[:m] (float32) and keys[:m] (int64) with those of slots[row, :m] (int64), measured from probe p.

    All three have room for three more.
    """
    always_inline()
    if bits == FULL:
        for e in range(m):
            distances[e] = distance(probes, p, probes.shape[1] >> 2, vectors, slots[row, e], product)
            keys[e] = key_of(distances[e], slots[row, e])
    else:
        estimate(codes, terms, bits, probes, parameters, p, slots, row, m, distances, keys)


@njit_no_nrt(cache=True)
def exactly(bits, product, vectors, codes, terms, slot, queries, q, stride, turned, parameters):
    """The distance of queries[q] to what is stored of `slot`: to the vector, or to what its code stands for.

    queries are float32 (n, stride), as bytes; `turned` (float32 (n, D)) and `parameters` hold the same ones
    rotated, and what their probes add.
    """
    if vectors.shape[1] > 0:
        return distance(queries, q, stride, vectors, slot, product)
    along = _codes.along(codes, slot, bits, turned, q)
    told = parameters[q, OWN] + terms[slot, ADD] + terms[slot, TIMES] * along
    return told if told == told else np.float32(np.inf)


@njit(cache=True, nogil=True)
def distances(vectors, codes, terms, frame, bits, metric, slots, queries, out):
    """Fill out (n, c) with the reported distances from queries (n, dim) to `slots` (n, c); infinity where one is -1.

    Whether the queries were fit (see `load`). O(n c dim).
    """
    optimize_for_size()
    product, dim = metric != L2, queries.shape[1]
    own = np.empty((1, padded(dim)), np.float32)
    probes = np.empty((1, probe_bytes(bits, own.shape[1], frame)), np.uint8)
    parameters, work = np.zeros((1, _codes.PARAMETERS), np.float32), np.empty(frame.shape, np.float32)
    own_bytes = own.view(np.uint8)
    for q in range(queries.shape[0]):
        if not load(queries, np.int64(q), own, ZERO, metric == COSINE):
            return False
        if vectors.shape[1] == 0:
            make_probe(bits, product, frame, dim, own, ZERO, work, probes, parameters, ZERO)
        for e in range(slots.shape[1]):
            ahead = slots[q, min(e + _AHEAD, slots.shape[1] - 1)]
            if vectors.shape[1] > 0 and ahead >= 0:
                prefetch(vectors, ahead * vectors.shape[1], vectors.shape[1])
            out[q, e] = np.inf
            if slots[q, e] >= 0:
                found = exactly(
                    bits, product, vectors, codes, terms, slots[q, e], own_bytes, ZERO, own.shape[1], work, parameters
                )
                out[q, e] = reported(found, metric)
    return True


@njit(cache=True)
def restored(vectors, codes, terms, frame, bits, metric, slots, out):
    """Fill out float32 (n, dim) with what is stored in `slots` int64 (n,), or what codes stand for. O(n dim)."""
    optimize_for_size()
    stride, dim = padded(out.shape[1]), out.shape[1]
    work = np.empty(frame.shape, np.float32)
    for i in range(slots.shape[0]):
        if vectors.shape[1] > 0:
            for d in range(dim):
                out[i, d] = stored(vectors, slots[i], stride, d)
        else:
            _codes.decoded(codes, terms, slots[i], bits, metric != L2, work)
            _codes.unrotated(frame, work, out, i)


@njit(cache=True)
def first_zero(vectors):
    """The first row of float32 (n, dim) that is all zeros, or -1. O(n), dimension by dimension only where zeros are."""
    optimize_for_size()
    for i in range(vectors.shape[0]):
        d = 0
        while d < vectors.shape[1] and vectors[i, d] == 0:
            d += 1
        if d == vectors.shape[1]:
            return i
    return -1
