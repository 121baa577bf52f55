"""Vectors as short codes, and distances estimated from codes alone.

A vector x of `dim` numbers is centred, padded with zeros to D, rotated, and rounded: y = R (x - centre) is close to
scale * (u - middle), with D codes u of 4 or 8 bits. The rotation spreads what any one number holds over all of
them, so that the same few steps fit every vector (as in RaBitQ, Gao and Long 2024, and in QuIP); the scale is the one
that gives y's own length back along y, which keeps estimates of near vectors unbiased (RaBitQ again).

State, owned by the caller:
    codes   uint8 (capacity, width)   width D / 2 (4 bits: in each 64 bytes, low halves first) or D, in whole lines of
                                      64 bytes
    terms   float32 (capacity, 2)     the distance to a probe is its OWN + terms[ADD] + terms[TIMES] * (its dot product)
    frame   float32 (2, D)            row 0 the centre, zeros beyond dim; row 1 the signs of each round, scaled

Estimates start from a probe: int8 (D,) beside float32 (3,), OWN and the scale of a dot product of codes. It is
made of a vector in full (`probe`), or of a row of codes (`probe_of_codes`). Distances are squared Euclidean, or
negated inner products. With bits that are neither INT4 nor INT8 all results are NaN or infinite.
"""

import numpy as np

from ..compiling import always_inline, njit, njit_no_nrt, optimize_for_size
from ..hashing import mix
from ..simd import estimate_int4, estimate_int8, mix_parts
from .layout import DONE, FARTHEST, INT4, INT8, L2, REFUSED, Stored, known

ADD, TIMES = 0, 1
OWN, SCALE, SHIFT, PARAMETERS = 0, 1, 2, 3

# Rounds of the rotation. In each, every number is mixed with seven others far away: after three, with 511. If there
# are fewer, some are mixed twice, and with the same signs that would undo the first mixing.
_ROUNDS = 3
# Steps of 4 bits end at 2.5 standard deviations: of a normal distribution this loses the least.
_REACH = np.float32(2.5)
_REORDERED = {"reassoc", "contract", "nsz"}


@njit(cache=True)
def new_frame(size):
    """Return the frame of vectors padded to `size`, centred at zero."""
    optimize_for_size()
    frame = np.zeros((2, size), np.float32)
    for d in range(size):
        sign = 1 - 2 * np.int64(mix(d) & np.uint64(1))
        frame[1, d] = sign / np.sqrt(8.0)
    return frame


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def rotated(source, row, dim, frame, work):
    """Rotate source[row] (float32, its first `dim`) about the centre into work[0], work float32 (2, D). O(D).

    Each round flips signs, then mixes eight parts of the row (butterflies of a Hadamard transform), then transposes.
    """
    first, size = _ROUNDS & 1, np.int64(frame.shape[1])
    for d in range(dim):
        work[first, d] = source[row, d] - frame[0, d]
    for d in range(dim, size):
        work[first, d] = 0
    for left in range(_ROUNDS, 0, -1):
        at = np.int64(left & 1)
        mix_parts(work, at * size, (1 - at) * size, frame, size >> 3)


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def _hadamard(a, b, c, d, e, f, g, h):
    """Return the Hadamard transform of eight numbers; it is its own inverse, up to a factor."""
    a, b, c, d, e, f, g, h = a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h
    a, b, c, d, e, f, g, h = a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h
    return a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h


@njit_no_nrt(cache=True)
def unrotated(frame, work, target, row):
    """Undo `rotated`: from work[0] (both rows are used) to target[row] (float32 (dim,)). O(D)."""
    optimize_for_size()
    dim, part = target.shape[1], frame.shape[1] // 8
    at = 0
    for _ in range(_ROUNDS):
        for p in range(part):
            q = 8 * p
            mixed = _hadamard(
                work[at, q], work[at, q + 1], work[at, q + 2], work[at, q + 3],
                work[at, q + 4], work[at, q + 5], work[at, q + 6], work[at, q + 7],
            )  # fmt: skip
            for j in range(8):  # the signs hold the scale of the way there, which is that of the way back
                work[1 - at, j * part + p] = mixed[j] * frame[1, j * part + p]
        at = 1 - at
    for d in range(dim):
        target[row, d] = work[at, d] + frame[0, d]


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def _squares(work):
    """Return the sum of squares of work[0]."""
    squares = np.float32(0)
    for d in range(work.shape[1]):
        squares += work[0, d] * work[0, d]
    return squares


@njit_no_nrt(cache=True)
def _largest(work):
    """Return the largest absolute value of work[0]. Bits are compared, because LLVM vectorises that loop."""
    largest = np.int32(0)
    for d in range(work.shape[1]):
        largest = max(largest, np.float32(work[0, d]).view(np.int32) & 0x7FFFFFFF)
    return np.int32(largest).view(np.float32)


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def _own(source, row, dim, frame, squares, product):
    """Return what a vector adds to any distance: its own squared length, or the centre's part of a product."""
    if not product:
        return squares
    own = np.float32(0)
    for d in range(dim):
        own += frame[0, d] * (np.float32(0.5) * frame[0, d] - source[row, d])
    return own


@njit_no_nrt(cache=True)
def encode(source, row, dim, frame, stored, work, slot):
    """Write the code of source[row] (float32, its first `dim`) to `slot` of `stored`. O(D).

    work is float32 (2, D).
    """
    codes, terms = stored.codes, stored.terms
    rotated(source, row, dim, frame, work)
    squares, largest = _squares(work), _largest(work)
    if stored.bits == INT8:
        middle, top, step = np.float32(128), np.float32(255), largest / np.float32(127)
    elif stored.bits == INT4:
        middle, top = np.float32(7.5), np.float32(15)
        step = _REACH * np.sqrt(squares / np.float32(work.shape[1])) / middle
    else:
        terms[slot, ADD], terms[slot, TIMES] = np.nan, np.nan
        return
    inverse = np.float32(1) / step if step > 0 else np.float32(0)
    if not inverse < np.inf:
        inverse = np.float32(0)  # so short that steps underflow
    along = _round(work, inverse, middle, top)
    if stored.bits == INT8:
        for d in range(work.shape[1]):
            codes[slot, d] = np.uint8(work[1, d])
    else:
        for line in range(codes.shape[1] // 64):
            for j in range(64):
                low, high = np.uint8(work[1, 128 * line + j]), np.uint8(work[1, 128 * line + 64 + j])
                codes[slot, 64 * line + j] = low | (high << np.uint8(4))
    scale = squares / along if along > 0 else np.float32(0)
    if not scale < np.inf:
        scale = np.float32(0)  # so long that squares overflow: all that is known is that it is far away
    own = _own(source, row, dim, frame, squares, stored.product)
    terms[slot, ADD] = own if own == own else np.float32(np.inf)
    terms[slot, TIMES] = -scale if stored.product else np.float32(-2) * scale


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def _round(work, inverse, middle, top):
    """Fill work[1] with the codes of work[0], as float32; return their inner product with it."""
    along = np.float32(0)
    for d in range(work.shape[1]):
        code = min(max(np.floor(work[0, d] * inverse + middle + np.float32(0.5)), np.float32(0)), top)
        work[1, d] = code
        along += (code - middle) * work[0, d]
    return along


@njit(cache=True, nogil=True)
def encode_many(source, dim, frame, codes, terms, bits, metric, slots):
    """Write the codes of all rows of `source` (float32, their first `dim`) to slots int64 (n,) of codes and terms.

    Returns DONE, or REFUSED. O(n D).
    """
    optimize_for_size()
    if not known(bits, metric):
        return REFUSED
    stored, work = Stored(codes, codes, terms, bits, metric != L2), np.empty(frame.shape, np.float32)
    for i in range(source.shape[0]):
        encode(source, i, dim, frame, stored, work, slots[i])
    return DONE


@njit_no_nrt(cache=True)
def probe(source, row, dim, frame, bits, product, work, probes, p):
    """Make probe p (`Probes`: signed bytes (D,), by their bits) of source[row] (float32, its first `dim`). O(D).

    work is float32 (2, D); work[0] holds the rotated vector afterwards.
    """
    rotated(source, row, dim, frame, work)
    squares, largest = _squares(work), _largest(work)
    inverse = np.float32(127) / largest if largest > 0 else np.float32(0)
    if not inverse < np.inf:
        inverse, largest = np.float32(0), np.float32(0)
    total = _round_signed(work, inverse, probes.rows, p)
    own = _own(source, row, dim, frame, squares, product)
    _set_parameters(probes.parameters, p, own, largest / np.float32(127), bits, np.int64(total))


@njit_no_nrt(cache=True)
def _round_signed(work, inverse, rows, p):
    """Fill rows[p] with work[0] * inverse, rounded, as signed bytes; return their sum."""
    total = np.int32(0)
    for d in range(work.shape[1]):
        code = np.int32(np.floor(work[0, d] * inverse + np.float32(0.5)))
        rows[p, d] = np.uint8(code & 255)
        total += code
    return total


@njit_no_nrt(cache=True)
def _set_parameters(parameters, p, own, scale, bits, total):
    """Fill parameters[p] for a probe whose bytes sum to `total`."""
    middle = np.float32(np.nan)
    if bits == INT4:
        middle = np.float32(7.5)
    elif bits == INT8:
        middle = np.float32(128)
    parameters[p, OWN], parameters[p, SCALE] = own, scale
    parameters[p, SHIFT] = scale * middle * np.float32(total)


@njit_no_nrt(cache=True)
def probe_of_codes(stored, slot, probes, p):
    """Make probe p (`Probes`) of the code in `slot`. O(D)."""
    codes, terms, rows, total = stored.codes, stored.terms, probes.rows, np.int32(0)
    scale = -terms[slot, TIMES] if stored.product else np.float32(-0.5) * terms[slot, TIMES]
    if stored.bits == INT8:
        for d in range(codes.shape[1]):
            code = np.int32(codes[slot, d]) - 128
            rows[p, d] = np.uint8(code & 255)
            total += code
    elif stored.bits == INT4:
        scale *= np.float32(0.5)
        for line in range(codes.shape[1] // 64):
            for j in range(64):  # twice the distance from the middle, a whole number
                low, high = codes[slot, 64 * line + j] & 15, codes[slot, 64 * line + j] >> 4
                rows[p, 128 * line + j] = np.uint8((2 * np.int32(low) - 15) & 255)
                rows[p, 128 * line + 64 + j] = np.uint8((2 * np.int32(high) - 15) & 255)
                total += 2 * np.int32(low + high) - 30
    _set_parameters(probes.parameters, p, terms[slot, ADD], scale, stored.bits, np.int64(total))


@njit_no_nrt(cache=True)
def estimate(stored, probes, p, candidates, row, m):
    """Fill the first m distances (float32, never NaN) and keys of `candidates`, estimated from probe p. O(m D).

    The slots are candidates.slots[row, :m]. Three more are written to, because codes are read four rows at a time.
    """
    always_inline()
    codes, terms, rows, parameters = stored.codes, stored.terms, probes.rows, probes.parameters
    slots, distances, keys = candidates.slots, candidates.distances, candidates.keys
    lines, start, first = codes.shape[1] >> 6, p * rows.shape[1], row * slots.shape[1]
    own, scale, shift = parameters[p, OWN], parameters[p, SCALE], parameters[p, SHIFT]
    for e in range(m, (m + 3) & ~3):
        slots[row, e] = slots[row, m - 1]
    for e in range(0, m, 4):
        if stored.bits == INT4:
            estimate_int4(codes, rows, start, lines, slots, first + e, terms, own, scale, shift, distances, keys, e)
        elif stored.bits == INT8:
            estimate_int8(codes, rows, start, lines, slots, first + e, terms, own, scale, shift, distances, keys, e)
        else:
            for i in range(e, e + 4):
                distances[i], keys[i] = np.inf, FARTHEST


@njit_no_nrt(cache=True)
def decoded(stored, slot, work):
    """Fill work[0] (float32 (2, D)) with the rotated vector that the code of `slot` represents. O(D)."""
    optimize_for_size()
    codes, terms = stored.codes, stored.terms
    scale = -terms[slot, TIMES] if stored.product else np.float32(-0.5) * terms[slot, TIMES]
    if stored.bits == INT8:
        for d in range(codes.shape[1]):
            work[0, d] = scale * (np.float32(codes[slot, d]) - np.float32(128))
    elif stored.bits == INT4:
        for line in range(codes.shape[1] // 64):
            for j in range(64):
                low, high = codes[slot, 64 * line + j] & 15, codes[slot, 64 * line + j] >> 4
                work[0, 128 * line + j] = scale * (np.float32(low) - np.float32(7.5))
                work[0, 128 * line + 64 + j] = scale * (np.float32(high) - np.float32(7.5))
    else:
        for d in range(work.shape[1]):
            work[0, d] = np.nan


@njit_no_nrt(cache=True, fastmath=_REORDERED)
def along(codes, slot, bits, turned, q):
    """Return the inner product of turned[q] (float32 (n, D)), a rotated vector, with a code, unscaled. O(D)."""
    total = np.float32(0)
    if bits == INT8:
        for d in range(codes.shape[1]):
            total += turned[q, d] * (np.float32(codes[slot, d]) - np.float32(128))
    elif bits == INT4:
        for line in range(codes.shape[1] // 64):
            for j in range(64):
                low, high = codes[slot, 64 * line + j] & 15, codes[slot, 64 * line + j] >> 4
                total += turned[q, 128 * line + j] * (np.float32(low) - np.float32(7.5))
                total += turned[q, 128 * line + 64 + j] * (np.float32(high) - np.float32(7.5))
    else:
        total = np.float32(np.nan)
    return total
