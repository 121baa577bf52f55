"""Synthetic conversations, request by request in order of arrival.

A conversation begins under one of the system prompts; each turn's prompt is the whole conversation before it and a new
message. A conversation may branch: a turn may repeat an earlier prompt of its conversation for a new answer
(regenerated), or replace an earlier message by another one (edited), and the conversation goes on from there.

The requests are written to the arrays of `kernels.traces.trace`, sized for all of them. Kept for each request:

    past     int64 (n, PAST)    PREVIOUS: the request before it in its conversation, or -1; TURN: how many there were
                                before it there; BASE: tokens of its prompt before its message; OPENS: 1 if these are a
                                system prompt alone, else 0; ANSWER_ID: content id of the first block that its answer
                                completes, those after it have the next numbers

for each conversation, of which no more begin than there are requests:

    latest   int64 (n + 2,)     its latest request, or -1

and for each system prompt:

    systems  int64 (s, SYSTEM)  LENGTH: its tokens; FIRST_ID: content id of its first block

The next turn of each conversation, and the beginning of the next one, wait in a `kernels.heap` by their time.
"""

import numpy as np

from .. import heap
from ..compiling import njit, njit_no_nrt
from ..hashing import mix

DRAWN, REQUESTS, BLOCKS, IDS = 0, 1, 2, 3
_STEP = np.int64(-7046029254386353131)  # 2**64 over the golden ratio, as a signed number
PREVIOUS, TURN, BASE, ANSWER_ID, OPENS, PAST = 0, 1, 2, 3, 4, 5
LENGTH, FIRST_ID, SYSTEM = 0, 1, 2
# settings of a load, float64 (SETTINGS,); of log-normal ones the mean, and the standard deviation of the logarithm
(
    GAP, MORE, BRANCH, REGENERATE, THINK, THINK_SPREAD, OPENING, OPENING_SPREAD, MESSAGE, MESSAGE_SPREAD, ANSWER,
    ANSWER_SPREAD, SETTINGS,
) = range(13)  # fmt: skip


@njit(cache=True, nogil=True)
def make(seed, settings, shares, systems, block_size, longest, stop, head, events, latest, past, trace):
    """Make requests up to the `stop`-th, or fewer if `trace.block_ids` has no room for one more: see head[REQUESTS].

    settings float64 (SETTINGS,): GAP seconds between conversations, MORE the probability of one more turn, BRANCH and
    REGENERATE the probabilities that a turn branches and that a branch repeats a prompt, THINK seconds between turns,
    and lengths in tokens; shares float64 (s,): probability of system prompts 0..i together; longest: the most tokens of
    a prompt. head int64 (4,), to begin with zeros but for IDS, the first content id that is free; events: a heap that
    holds conversation 0; trace: the `Arrays` to fill. O(blocks + n log n).
    """
    input_lengths, output_lengths = trace.input_lengths, trace.output_lengths
    block_ids, indptr = trace.block_ids, trace.indptr
    most = (longest - 1) // block_size + 1
    while head[REQUESTS] < stop and block_ids.shape[0] - head[BLOCKS] >= most:
        _, time, conversation = heap.pop(events)
        request, before = head[REQUESTS], latest[conversation]
        kept = np.int64(-1)  # the request whose blocks this one shares; -1: those of a system prompt
        again = False
        system, opening, message = np.int64(0), before < 0, np.int64(0)
        if opening:
            heap.push(events, conversation + 1, time - settings[GAP] * np.log(1.0 - _uniform(seed, head)))
            system = _place(shares, _uniform(seed, head))
            base = systems[system, LENGTH]
        elif _uniform(seed, head) < settings[BRANCH]:
            again = _uniform(seed, head) < settings[REGENERATE]
            kept = before
            for _ in range(np.int64(_uniform(seed, head) * (past[before, TURN] + 1))):
                kept = past[kept, PREVIOUS]
            base = past[kept, BASE]
            opening = past[kept, OPENS] == 1
        else:
            kept = before
            base = input_lengths[kept] + output_lengths[kept]
            if base >= longest:
                continue  # there is no room for another message
        if again:
            length = input_lengths[kept]
        else:
            if opening:
                message = _length(seed, head, settings[OPENING], settings[OPENING_SPREAD])
            else:
                message = _length(seed, head, settings[MESSAGE], settings[MESSAGE_SPREAD])
            length = min(base + message, longest)
        answer = _length(seed, head, settings[ANSWER], settings[ANSWER_SPREAD])
        past[request, PREVIOUS], past[request, BASE], past[request, OPENS] = before, base, opening
        past[request, TURN] = 0 if before < 0 else past[before, TURN] + 1
        trace.arrivals[request], input_lengths[request], output_lengths[request] = time, length, answer
        shared = (length - 1) // block_size + 1 if again else base // block_size
        start, blocks = head[BLOCKS], (length - 1) // block_size + 1
        for block in range(shared):
            if kept < 0:
                block_ids[start + block] = systems[system, FIRST_ID] + block
            elif block < indptr[kept + 1] - indptr[kept] and (again or block < input_lengths[kept] // block_size):
                block_ids[start + block] = block_ids[indptr[kept] + block]
            else:
                block_ids[start + block] = past[kept, ANSWER_ID] + block - input_lengths[kept] // block_size
        for block in range(shared, blocks):
            block_ids[start + block] = head[IDS]
            head[IDS] += 1
        past[request, ANSWER_ID] = head[IDS]
        head[IDS] += (length + answer) // block_size - length // block_size
        head[BLOCKS] = indptr[request + 1] = start + blocks
        latest[conversation] = request
        head[REQUESTS] = request + 1
        if _uniform(seed, head) < settings[MORE]:
            pause = _log_normal(seed, head, settings[THINK], settings[THINK_SPREAD])
            heap.push(events, conversation, time + pause)


@njit_no_nrt(cache=True)
def lengths(seed, head, mean, spread, out):
    """Fill `out` int64 (n,) with lengths in tokens, drawn as `make` draws them. O(n)."""
    for row in range(out.shape[0]):
        out[row] = _length(seed, head, mean, spread)


@njit_no_nrt(cache=True)
def _uniform(seed, head):
    """Return a number of 0 or more and less than 1, the next of a SplitMix64 stream."""
    head[DRAWN] += 1
    bits = mix(np.int64(mix(seed)) + head[DRAWN] * _STEP)
    return np.float64(np.int64(bits >> np.uint64(11))) * 2.0**-53


@njit_no_nrt(cache=True)
def _place(shares, value):
    """Return the place of the first of ascending `shares` that is more than `value`, which the last one is."""
    low, high = np.int64(0), shares.shape[0] - 1
    while low < high:
        middle = (low + high) >> 1
        if shares[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@njit_no_nrt(cache=True)
def _log_normal(seed, head, mean, spread):
    """Return a log-normal number of this mean; spread: the standard deviation of its logarithm."""
    radius = np.sqrt(-2.0 * np.log(1.0 - _uniform(seed, head)))
    normal = radius * np.cos(2.0 * np.pi * _uniform(seed, head))  # Box and Muller
    return mean * np.exp(spread * normal - 0.5 * spread * spread)


@njit_no_nrt(cache=True)
def _length(seed, head, mean, spread):
    """Return a log-normal number of tokens, 1 or more and less than 2**30."""
    return np.int64(min(max(_log_normal(seed, head, mean, spread), 1.0), 2.0**30))
