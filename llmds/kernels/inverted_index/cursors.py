"""Cursors: positions in the posting lists of a query's terms in a segment, which move forward block by block.

Kernels take `layout.Cursors` and `layout.Postings`. The cursor of term i has positions[i * CURSOR:]

    NEXT, END, FIRST   the next block, the one after the last, the first; all 0 for postings of a single block
    LAST               number of postings of the last block
    AT, FILL           of the block that is decoded: where it begins in the postings, and its number of postings
    ROW, POS           where it is decoded to in `slots` and `parts`, and how many of its postings have been passed
    SCORED             whether `parts` are computed too
    DENSE              where in `dense` the term's row begins, or -1

Decoded blocks and dense rows may serve later searches as long as the segment and the scores of its documents stay the
same. Each such period has a number, the generation.

All is safe on any contents of the postings. A loop of your own over the postings of a term:

    cursors = new(1)
    enter(cursors, postings, 0, df, at)             # `segment.find_term` gives df and at
    n = next_block(cursors, postings, 0)
    while n > 0:                                    # cursors.slots[:n] are the documents, cursors.parts[:n] the scores
        n = next_block(cursors, postings, 0)
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..simd import at_least, half_at, lowest_bit, word_at
from .blocks import BLOCK, PAD, decode_slots, decode_tfs, tf_at
from .bm25 import part, part_of, tf_of
from .layout import Cursors

NEXT, END, FIRST, LAST, AT, FILL, ROW, POS, SCORED, DENSE, CURSOR = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
# A term may have a dense row if at least one document in so many has it.
COMMON = 6
_HALF = 64
_SMALL, _LARGE = np.float32(6.2e-5), np.float32(65000)  # the limits of float16, as `block_best` uses it
# Compiled into their callers: a call would copy seven words for every array.
_inlined = {"cache": True, "forceinline": True, "error_model": "numpy"}


@njit(cache=True)
def new(terms):
    """Return cursors of so many terms that keep nothing for later searches."""
    return Cursors(
        np.zeros(terms * CURSOR, np.int64),
        np.empty(terms * BLOCK, np.int32),
        np.empty(terms * BLOCK, np.float32),
        np.empty(2 * BLOCK, np.int32),
        np.int64(1),
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        np.empty(0, np.int64),
    )


@njit_no_nrt(cache=True, error_model="numpy")
def enter(cursors, postings, i, df, at):
    """Place cursor i (int64) before the first of df postings that begin at `at`. A single block is decoded at once.

    Returns, float32, the largest part of the postings of a single block, else 0.
    """
    positions, slots, parts = cursors.positions, cursors.slots, cursors.parts
    c, row = i * CURSOR, (cursors.kept.shape[0] + i) * BLOCK
    for field in range(CURSOR):
        positions[c + field] = 0
    positions[c + ROW], positions[c + DENSE] = row, -1
    if df <= 0 or at < 0 or at > postings.data.shape[0] - PAD:
        return np.float32(0)
    if df > BLOCK:
        start = np.int64(word_at(postings.data, at) & np.uint64(0xFFFFFFFF))
        end = start + ((df + BLOCK - 1) >> 7)
        if end <= postings.block_last.shape[0]:
            positions[c + NEXT] = positions[c + FIRST] = start
            positions[c + END], positions[c + LAST] = end, df - ((end - 1 - start) << 7)
        return np.float32(0)
    last = decode_slots(postings.data, at, df, np.int64(-1), slots, row)
    if not 0 <= last < postings.lengths.shape[0]:
        return np.float32(0)
    positions[c + FILL], positions[c + AT], positions[c + SCORED] = df, at, 1
    _score_row(slots, parts, cursors.scratch, row, at, df, postings.lengths, postings.data, postings.form)
    peak = np.float32(0)
    for j in range(row, row + df):
        peak = max(peak, parts[j])
    return peak


@njit_no_nrt(cache=True, error_model="numpy")
def next_block(cursors, postings, i):
    """Go to the next block of cursor i, which keeps nothing; the number of its postings, 0 after the last.

    They are in row i of `slots` (documents, ascending) and of `parts` (what each adds, for a weight of 1).
    """
    positions, c = cursors.positions, i * CURSOR
    left = positions[c + FILL] - positions[c + POS]
    if left == 0 and positions[c + NEXT] < positions[c + END]:
        _load(cursors, postings, i)
        left = positions[c + FILL]
    if left > 0 and positions[c + SCORED] == 0:
        _score(positions, cursors.slots, cursors.parts, cursors.scratch, cursors.kept, i, postings.lengths,
               postings.data, postings.form)  # fmt: skip
    positions[c + POS] = positions[c + FILL]
    return left


@njit_no_nrt(cache=True, error_model="numpy")
def _score_row(slots, parts, scratch, row, at, n, lengths, data, form):
    """Compute the parts of n postings that are decoded to `row`."""
    decode_tfs(data, at, n, scratch, np.int64(0))
    for j in range(np.uint64(n)):  # a loop of its own: the compiler cannot know that reads and writes do not overlap
        scratch[np.uint64(BLOCK) + j] = lengths[np.uint64(np.uint32(slots[np.uint64(row) + j]))]
    base, slope, p, q, s = form[0], form[1], form[2], form[3], form[4]
    for j in range(np.uint64(n)):
        tf, norm = np.float32(scratch[j]) + np.float32(1), base + slope * np.float32(scratch[np.uint64(BLOCK) + j])
        parts[np.uint64(row) + j] = (tf + p * norm) / (tf + q * norm) + s


@njit_no_nrt(cache=True, error_model="numpy")
def _decode(positions, slots, generation, kept, i, data, block_last, block_at):
    """Decode the slots of the block before the next one, unless they are kept."""
    c = i * CURSOR
    block = positions[c + NEXT] - 1
    n = positions[c + LAST] if block == positions[c + END] - 1 else np.int64(BLOCK)
    at, row = np.int64(block_at[block]), positions[c + ROW]
    positions[c + SCORED], positions[c + AT], positions[c + FILL] = 0, at, n
    if kept.shape[0] > 0:
        place, tag = block & (kept.shape[0] - 1), generation << 33 | block << 1
        row = place * BLOCK
        positions[c + ROW] = row
        if kept[place] >> 1 == tag >> 1:
            positions[c + SCORED] = kept[place] & 1
            return
        kept[place] = tag
    before = np.int64(block_last[block - 1]) if block > positions[c + FIRST] else np.int64(-1)
    if at > data.shape[0] - PAD or decode_slots(data, at, n, before, slots, row) != block_last[block]:
        positions[c + FILL] = 0
        if kept.shape[0] > 0:
            kept[block & (kept.shape[0] - 1)] = 0


@njit_no_nrt(cache=True, error_model="numpy")
def _score(positions, slots, parts, scratch, kept, i, lengths, data, form):
    """Compute the parts of the decoded block of cursor i."""
    c = i * CURSOR
    _score_row(slots, parts, scratch, positions[c + ROW], positions[c + AT], positions[c + FILL], lengths, data, form)
    positions[c + SCORED] = 1
    if kept.shape[0] > 0:
        kept[(positions[c + NEXT] - 1) & (kept.shape[0] - 1)] |= 1


@njit_no_nrt(**_inlined)
def _load(cursors, postings, i):
    """Go to the next block."""
    positions, c = cursors.positions, i * CURSOR
    positions[c + POS] = 0
    positions[c + NEXT] += 1
    _decode(positions, cursors.slots, cursors.generation, cursors.kept, i, postings.data, postings.block_last,
            postings.block_at)  # fmt: skip


@njit_no_nrt(**_inlined)
def restore(cursors, postings, i):
    """Decode the block of cursor i once more, if that of another cursor has taken its place."""
    positions, kept, c = cursors.positions, cursors.kept, i * CURSOR
    if kept.shape[0] > 0 and positions[c + END] > 0 and positions[c + POS] < positions[c + FILL]:
        block = positions[c + NEXT] - 1
        place = block & (kept.shape[0] - 1)
        if kept[place] >> 1 != cursors.generation << 32 | block:
            _decode(positions, cursors.slots, cursors.generation, kept, i, postings.data, postings.block_last,
                    postings.block_at)  # fmt: skip
        positions[c + SCORED] = kept[place] & 1


@njit_no_nrt(cache=True, error_model="numpy")
def make_dense(cursors, postings, i, at):
    """Give cursor i, of more than one block, a row of `dense`, unless another term of the query has that row."""
    positions, slots, parts, tags = cursors.positions, cursors.slots, cursors.parts, cursors.tags
    dense, c, n = cursors.dense, i * CURSOR, postings.lengths.shape[0]
    place = ((at * 0x9E3779B1) >> 8) % tags.shape[0]
    row, tag = place * n, cursors.generation << 32 | at
    for other in range(i):
        if positions[other * CURSOR + DENSE] == row:
            return
    if tags[place] != tag:
        tags[place] = 0
        for slot in range(np.uint64(row), np.uint64(row + n)):
            dense[slot] = 0
        while positions[c + NEXT] < positions[c + END]:
            _load(cursors, postings, i)
            if positions[c + SCORED] == 0:
                _score(positions, slots, parts, cursors.scratch, cursors.kept, i, postings.lengths, postings.data,
                       postings.form)  # fmt: skip
            for j in range(np.uint64(positions[c + ROW]), np.uint64(positions[c + ROW] + positions[c + FILL])):
                dense[np.uint64(row) + np.uint64(np.uint32(slots[j]))] = parts[j]
        tags[place] = tag
        positions[c + NEXT], positions[c + FILL], positions[c + POS] = positions[c + FIRST], 0, 0
    positions[c + DENSE] = row


@njit_no_nrt(cache=True)
def _below(slots, row, fill, slot):
    """Return how many of the decoded slots are below `slot`; the last one is not."""
    end = np.uint64(1 << 63)
    first = lowest_bit(at_least(slots, row, slot) | end)
    if slots[row + first] >= slot or fill <= _HALF:
        return first
    return _HALF + lowest_bit(at_least(slots, row + _HALF, slot) | end)


@njit_no_nrt(**_inlined)
def seek(cursors, postings, i, slot):
    """Skip what lies before `slot`: of the decoded block, and then whole blocks. Call `restore` first."""
    positions, slots, c = cursors.positions, cursors.slots, i * CURSOR
    row, position, fill = positions[c + ROW], positions[c + POS], positions[c + FILL]
    if position < fill:
        if slots[row + fill - 1] < slot:
            position = fill
        elif slots[row + position] < slot:
            position = _below(slots, row, fill, slot)
        positions[c + POS] = position
    if position >= fill:
        block, end = positions[c + NEXT], positions[c + END]
        while block < end and postings.block_last[block] < slot:
            block += 1
        positions[c + NEXT] = block


@njit_no_nrt(**_inlined)
def effort(cursors, postings, i, high):
    """Return what it costs to add the postings of cursor i before slot `high`, in blocks."""
    positions, block_last, c = cursors.positions, postings.block_last, i * CURSOR
    if positions[c + DENSE] >= 0:
        return np.int64(1)
    block, end, first = positions[c + NEXT], positions[c + END], positions[c + FIRST]
    start = block
    while block < end and (block == first or block_last[block - 1] + 1 < high):
        block += 1
    return block - start + np.int64(positions[c + POS] < positions[c + FILL])


@njit_no_nrt(cache=True, error_model="numpy")
def peak_before(positions, slots, i, high, single, block_last, block_best, scale, form):
    """Return an upper bound of the parts of the remaining postings of cursor i before slot `high`.

    single: what `enter` returned. scale: 1, or less where the average length grew since the segment was made.
    """
    c = i * CURSOR
    block, end, start = positions[c + NEXT], positions[c + END], positions[c + FIRST]
    least, some = np.float32(np.inf), False
    if positions[c + POS] < positions[c + FILL] and slots[positions[c + ROW] + positions[c + POS]] < high:
        if end == 0:
            return single
        least, some = half_at(block_best, 2 * block - 2), True
    while block < end and (block == start or block_last[block - 1] + 1 < high):
        least, some = min(least, half_at(block_best, 2 * block)), True
        block += 1
    return part_of(least * scale, form) if some else np.float32(0)


@njit_no_nrt(cache=True, error_model="numpy")
def kth_part(positions, i, k, best, block_best, scale, form):
    """Return a lower bound of the k-th largest part of the postings of cursor i, or 0: the k best blocks have it.

    best: scratch float32 (k,) or (0,). scale: 1, or more where the average length fell since the segment was made.
    """
    start, end = positions[i * CURSOR + FIRST], positions[i * CURSOR + END]
    if k > best.shape[0] or end - start < k:
        return np.float32(0)
    held = np.int64(0)
    for block in range(start, end):  # in descending order, the k-th best first
        ratio = half_at(block_best, 2 * block)
        if held == k and ratio >= best[0]:
            continue
        at = np.int64(0)
        if held == k:
            while at + 1 < k and best[at + 1] > ratio:
                best[at] = best[at + 1]
                at += 1
        else:
            at = held
            while at > 0 and best[at - 1] < ratio:
                best[at] = best[at - 1]
                at -= 1
            held += 1
        best[at] = ratio
    # The stored ratio was rounded down, by at most 2**-10 of it; to 0 below the smallest normal float16, and to the
    # largest float16 above that.
    if best[0] > _LARGE:
        return np.float32(0)
    return part_of(max(best[0] * np.float32(1.001), _SMALL) * scale, form) * np.float32(0.9999)


@njit_no_nrt(cache=True, error_model="numpy")
def _scatter(slots, parts, first, last, low, weight, sums):
    """Add rows first..last - 1 to the sums of their documents, four at once, since no document comes twice."""
    one = np.uint64(1)
    whole = first + ((last - first) & ~np.uint64(3))
    for j in range(first, whole, np.uint64(4)):
        p, q = np.uint64(np.uint32(slots[j]) - low), np.uint64(np.uint32(slots[j + one]) - low)
        r = np.uint64(np.uint32(slots[j + np.uint64(2)]) - low)
        s = np.uint64(np.uint32(slots[j + np.uint64(3)]) - low)
        a, b = sums[p] + weight * parts[j], sums[q] + weight * parts[j + one]
        c, d = sums[r] + weight * parts[j + np.uint64(2)], sums[s] + weight * parts[j + np.uint64(3)]
        sums[p], sums[q], sums[r], sums[s] = a, b, c, d
    for j in range(whole, last):
        sums[np.uint64(np.uint32(slots[j]) - low)] += weight * parts[j]


@njit_no_nrt(**_inlined)
def add(cursors, postings, i, low, high, weight, sums, dirty, group):
    """Add the postings of cursor i in slots low..high - 1 to sums[slot - low]. Returns about how many there were.

    dirty int32: set to 1 for each run of 2**group sums that changes.
    """
    positions, slots, parts, c = cursors.positions, cursors.slots, cursors.parts, i * CURSOR
    if positions[c + DENSE] >= 0:
        dense, begin = cursors.dense, np.uint64(positions[c + DENSE] + low)
        for j in range(np.uint64(high - low)):
            sums[j] += weight * dense[begin + j]
        for g in range(np.uint64((high - low + (1 << group) - 1) >> group)):
            dirty[g] = 1
        return high - low
    restore(cursors, postings, i)
    added = np.int64(0)
    while True:
        row = positions[c + ROW]
        position, fill = positions[c + POS], positions[c + FILL]
        if position == fill:
            block = positions[c + NEXT]
            if block == positions[c + END] or (
                block > positions[c + FIRST] and postings.block_last[block - 1] + 1 >= high
            ):
                break
            _load(cursors, postings, i)
            seek(cursors, postings, i, low)
            continue
        stop = fill
        if slots[row + fill - 1] >= high:
            if slots[row + position] >= high:
                break
            stop = _below(slots, row, fill, high)
        if positions[c + SCORED] == 0:
            _score(positions, slots, parts, cursors.scratch, cursors.kept, i, postings.lengths, postings.data,
                   postings.form)  # fmt: skip
        _scatter(slots, parts, np.uint64(row + position), np.uint64(row + stop), np.uint32(low), weight, sums)
        begin, end = (slots[row + position] - low) >> group, (slots[row + stop - 1] - low) >> group
        if end - begin <= stop - position:
            for g in range(np.uint64(begin), np.uint64(end + 1)):
                dirty[g] = 1
        else:
            for j in range(np.uint64(row + position), np.uint64(row + stop)):
                dirty[np.uint64((slots[j] - low) >> group)] = 1
        added += stop - position
        positions[c + POS] = stop
        if stop < fill:
            break
    return added


@njit_no_nrt(**_inlined)
def _find(cursors, postings, i, slot):
    """Return the row of the posting of `slot`, or -1. Slots must ascend from call to call. Call `restore` first."""
    positions, slots, c = cursors.positions, cursors.slots, i * CURSOR
    row, position, fill = positions[c + ROW], positions[c + POS], positions[c + FILL]
    if position >= fill or slots[row + fill - 1] < slot:
        block, end = positions[c + NEXT], positions[c + END]
        while block < end and postings.block_last[np.uint64(block)] < slot:
            block += 1
        positions[c + NEXT] = block
        if block == end:
            positions[c + POS], positions[c + FILL] = 0, 0
            return np.int64(-1)
        _load(cursors, postings, i)
        row, position, fill = positions[c + ROW], np.int64(0), positions[c + FILL]
        if fill == 0:
            return np.int64(-1)
    if slots[np.uint64(row + position)] < slot:
        position = _below(slots, row, fill, slot)
        positions[c + POS] = position
    return row + position if slots[np.uint64(row + position)] == slot else np.int64(-1)


@njit_no_nrt(**_inlined)
def value(cursors, postings, i, slot):
    """Return the part of term i in the document at `slot`, 0 if it has none. Slots must ascend from call to call."""
    positions, c = cursors.positions, i * CURSOR
    if positions[c + DENSE] >= 0:
        return cursors.dense[np.uint64(positions[c + DENSE] + slot)]
    row = _find(cursors, postings, i, slot)
    if row < 0:
        return np.float32(0)
    if positions[c + SCORED]:
        return cursors.parts[np.uint64(row)]
    tf = tf_at(postings.data, positions[c + AT], positions[c + FILL], row - positions[c + ROW])
    return part(tf_of(tf - 1), np.float32(postings.lengths[np.uint64(slot)]), postings.form)


@njit_no_nrt(cache=True, error_model="numpy")
def probe(cursors, postings, i, low, weight, rest, threshold, sums, candidates, count):
    """Add the parts of term i to the sums of `count` candidates, and keep those that may reach the threshold.

    Candidates int32 are slot - low, ascending; they may reach it if their sum + rest does. Returns how many are kept.
    """
    restore(cursors, postings, i)
    stay = np.uint64(0)
    for j in range(np.uint64(count)):
        at = np.uint64(np.uint32(candidates[j]))
        sums[at] += weight * value(cursors, postings, i, low + np.int64(at))
        candidates[stay] = candidates[j]
        stay += np.uint64(sums[at] + rest >= threshold)
    return np.int64(stay)
