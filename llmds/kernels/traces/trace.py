"""The arrays of a trace of requests, their examination, and their token ids.

arrivals        float64 (n,)      seconds since the first request; they never decrease
input_lengths   int64 (n,)        tokens of each prompt, 1 or more
output_lengths  int64 (n,)        tokens of each answer, 0 or more
block_ids       int64 (blocks,)   what each block of `block_size` tokens of the prompts holds: 0 or more, equal where
                                  the prompts are equal up to the block's end. The last of a prompt may be part-filled
indptr          int64 (n + 1,)    request r has block_ids[indptr[r]:indptr[r + 1]]; all 0 in a trace without ids
"""

from typing import NamedTuple

import numpy as np

from ..compiling import njit_no_nrt
from ..hashing import mix

OK, ARRIVAL, INPUT, OUTPUT, BLOCKS, BLOCK_ID = 0, 1, 2, 3, 4, 5
MAX_TOKENS = 2**31 - 1
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_STEP = np.int64(-7046029254386353131)  # 2**64 over the golden ratio, as a signed number


class Arrays(NamedTuple):
    """The arrays of a trace, as above."""

    arrivals: np.ndarray
    input_lengths: np.ndarray
    output_lengths: np.ndarray
    block_ids: np.ndarray
    indptr: np.ndarray


@njit_no_nrt(cache=True, nogil=True)
def first_fault(arrivals, input_lengths, output_lengths, block_ids, indptr, block_size, first, stop):
    """Return (OK, stop), or what is wrong with the first of requests first..stop-1 that breaks a rule, and its row.

    Safe on any contents; the requests before `first` must be sound, indptr[0] be 0 and the last of indptr the number of
    block_ids. O(their blocks).
    """
    total = block_ids.shape[0]
    for request in range(first, stop):
        before = arrivals[request - 1] if request > 0 else 0.0
        arrival, length = arrivals[request], input_lengths[request]
        if not before <= arrival < np.inf or (request == 0 and arrival != 0):  # NaN fails this too
            return ARRIVAL, request
        if not 1 <= length <= MAX_TOKENS:
            return INPUT, request
        if not 0 <= output_lengths[request] <= MAX_TOKENS:
            return OUTPUT, request
        start, end = indptr[request], indptr[request + 1]
        if end < start or end > total or end - start != (0 if total == 0 else (length - 1) // block_size + 1):
            return BLOCKS, request
        for block in range(start, end):
            if block_ids[block] < 0:
                return BLOCK_ID, request
    return OK, stop


@njit_no_nrt(cache=True, nogil=True)
def fill_tokens(block_ids, indptr, input_lengths, block_size, seed, vocabulary, first, stop, starts, out):
    """Write the token ids of requests first..stop-1 into `out` int32, those of request r from starts[r - first] on.

    `fill_prompt` does it for one. starts int64 (stop - first,). O(tokens).
    """
    for request in range(first, stop):
        start = starts[request - first]
        fill_prompt(block_ids, indptr, input_lengths, block_size, seed, vocabulary, request, start, out)


@njit_no_nrt(cache=True, nogil=True)
def fill_prompt(block_ids, indptr, input_lengths, block_size, seed, vocabulary, request, start, out):
    """Write the token ids of one request's prompt into `out` int32, from out[start] on. O(tokens).

    A block's tokens follow from its id, `seed` (int64) and `vocabulary` (1..2**31-1) alone: numbers below `vocabulary`,
    two from every step of SplitMix64 begun at a hash of seed and id. The last block ends with the prompt.
    """
    salt = np.int64(mix(seed))
    size = np.uint64(vocabulary)
    at, left = start, input_lengths[request]
    for block in range(indptr[request], indptr[request + 1]):
        state = np.int64(mix(block_ids[block] ^ salt))
        count = min(block_size, left)
        for pair in range(count >> 1):
            bits = mix(np.int64(state + pair * _STEP))
            out[at + 2 * pair] = np.int32(((bits >> _HALF) * size) >> _HALF)
            out[at + 2 * pair + 1] = np.int32(((bits & _LOW) * size) >> _HALF)
        if count & 1:
            bits = mix(np.int64(state + (count >> 1) * _STEP))
            out[at + count - 1] = np.int32(((bits >> _HALF) * size) >> _HALF)
        at += count
        left -= count
