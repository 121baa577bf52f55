"""Walks along the postings of a query's terms in a segment (`segments`), block by block.

State of a search, owned by the kernel that searches; term i of the query has cursors[i * CURSOR:]

    NEXT, END, FIRST   the next block, the one after the last, the first; all 0 for postings of one block alone
    LAST               size of the last block
    AT, FILL           of the block that is decoded: where it lies in `postings`, and its size
    ROW, POS           where it is decoded to, and how much of it is used up
    SCORED             whether `parts` are worked out, too
    DENSE              where in `dense` the term's row begins, or -1

    slots  int32, parts float32     rows of BLOCK: one for each entry of `kept`, then one for each term: documents, and
                                    what each adds to what weighs 1 (`bm25.part`)
    room   int32 (2 * BLOCK,)       scratch

What is worked out may serve later searches, as long as the segment and what documents are worth stay the same; each
such state of affairs has a number, the `generation`, 1 to 2**30.

    kept   int64 (2**p,) or (0,)    which block is decoded to each row: generation << 33 | block << 1, | 1 if it is
                                    scored; the newest one stays
    dense  float32 (d * n,)         rows of parts for all n documents, 0 where there is none, of terms that many hold
    tags   int64 (d,)               whose these are: generation << 32 | where its postings lie

All is safe on any contents of `postings`.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..simd import at_least, half_at, lowest_bit, word_at
from .blocks import BLOCK, PAD, decode_slots, decode_tfs, tf_at
from .bm25 import part, part_of, tf_of

NEXT, END, FIRST, LAST, AT, FILL, ROW, POS, SCORED, DENSE, CURSOR = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
# One document of so many, or more of them, hold a term that has a row of its own.
COMMON = 6
_HALF = 64
_SMALL, _LARGE = np.float32(6.2e-5), np.float32(65000)  # float16 as `block_best` has it lies between these
# Compiled into their callers: a call would copy seven words for every array.
_inlined = {"cache": True, "forceinline": True, "error_model": "numpy"}


@njit_no_nrt(cache=True, error_model="numpy")
def enter(cursors, slots, parts, room, i, df, at, lengths, postings, block_last, form, kept):
    """Go to the beginning of term i's postings, of which a single block is decoded at once. The most it adds, or 0."""
    c, row = i * CURSOR, (kept.shape[0] + i) * BLOCK
    for field in range(CURSOR):
        cursors[c + field] = 0
    cursors[c + ROW], cursors[c + DENSE] = row, -1
    if df <= 0 or at < 0 or at > postings.shape[0] - PAD:
        return np.float32(0)
    if df > BLOCK:
        start = np.int64(word_at(postings, at) & np.uint64(0xFFFFFFFF))
        end = start + ((df + BLOCK - 1) >> 7)
        if end <= block_last.shape[0]:
            cursors[c + NEXT] = cursors[c + FIRST] = start
            cursors[c + END], cursors[c + LAST] = end, df - ((end - 1 - start) << 7)
        return np.float32(0)
    last = decode_slots(postings, at, df, np.int64(-1), slots, row)
    if not 0 <= last < lengths.shape[0]:
        return np.float32(0)
    cursors[c + FILL], cursors[c + AT], cursors[c + SCORED] = df, at, 1
    _score_row(slots, parts, room, row, at, df, lengths, postings, form)
    peak = np.float32(0)
    for j in range(row, row + df):
        peak = max(peak, parts[j])
    return peak


@njit_no_nrt(cache=True, error_model="numpy")
def _score_row(slots, parts, room, row, at, n, lengths, postings, form):
    decode_tfs(postings, at, n, room, np.int64(0))
    for j in range(np.uint64(n)):  # apart, because what is gathered may be what is written
        room[np.uint64(BLOCK) + j] = lengths[np.uint64(np.uint32(slots[np.uint64(row) + j]))]
    base, slope, p, q, s = form[0], form[1], form[2], form[3], form[4]
    for j in range(np.uint64(n)):
        tf, norm = np.float32(room[j]) + np.float32(1), base + slope * np.float32(room[np.uint64(BLOCK) + j])
        parts[np.uint64(row) + j] = (tf + p * norm) / (tf + q * norm) + s


@njit_no_nrt(cache=True, error_model="numpy")
def _decode(cursors, slots, i, postings, block_last, block_at, generation, kept):
    """Decode the slots of the block before the next one, unless they are there."""
    c = i * CURSOR
    block = cursors[c + NEXT] - 1
    n = cursors[c + LAST] if block == cursors[c + END] - 1 else np.int64(BLOCK)
    at, row = np.int64(block_at[block]), cursors[c + ROW]
    cursors[c + SCORED], cursors[c + AT], cursors[c + FILL] = 0, at, n
    if kept.shape[0] > 0:
        place, tag = block & (kept.shape[0] - 1), generation << 33 | block << 1
        row = place * BLOCK
        cursors[c + ROW] = row
        if kept[place] >> 1 == tag >> 1:
            cursors[c + SCORED] = kept[place] & 1
            return
        kept[place] = tag
    before = np.int64(block_last[block - 1]) if block > cursors[c + FIRST] else np.int64(-1)
    if at > postings.shape[0] - PAD or decode_slots(postings, at, n, before, slots, row) != block_last[block]:
        cursors[c + FILL] = 0
        if kept.shape[0] > 0:
            kept[block & (kept.shape[0] - 1)] = 0


@njit_no_nrt(cache=True, error_model="numpy")
def _score(cursors, slots, parts, room, i, lengths, postings, form, kept):
    """Work out what the postings of the decoded block add."""
    c = i * CURSOR
    _score_row(slots, parts, room, cursors[c + ROW], cursors[c + AT], cursors[c + FILL], lengths, postings, form)
    cursors[c + SCORED] = 1
    if kept.shape[0] > 0:
        kept[(cursors[c + NEXT] - 1) & (kept.shape[0] - 1)] |= 1


@njit_no_nrt(**_inlined)
def _load(cursors, slots, i, postings, block_last, block_at, generation, kept):
    """Go to the next block."""
    c = i * CURSOR
    cursors[c + POS] = 0
    cursors[c + NEXT] += 1
    _decode(cursors, slots, i, postings, block_last, block_at, generation, kept)


@njit_no_nrt(**_inlined)
def restore(cursors, slots, i, postings, block_last, block_at, generation, kept):
    """Decode the block that a term is at once more, if another term's has taken its place."""
    c = i * CURSOR
    if kept.shape[0] > 0 and cursors[c + END] > 0 and cursors[c + POS] < cursors[c + FILL]:
        block = cursors[c + NEXT] - 1
        place = block & (kept.shape[0] - 1)
        if kept[place] >> 1 != generation << 32 | block:
            _decode(cursors, slots, i, postings, block_last, block_at, generation, kept)
        cursors[c + SCORED] = kept[place] & 1


@njit_no_nrt(cache=True, error_model="numpy")
def make_dense(
    cursors, slots, parts, room, i, at, lengths, postings, block_last, block_at, form, generation, kept, dense, tags
):  # fmt: skip
    """Give term i, of more than a block, a row of `dense`, unless another term of the query has it."""
    c, n = i * CURSOR, lengths.shape[0]
    place = ((at * 0x9E3779B1) >> 8) % tags.shape[0]
    row, tag = place * n, generation << 32 | at
    for other in range(i):
        if cursors[other * CURSOR + DENSE] == row:
            return
    if tags[place] != tag:
        tags[place] = 0
        for slot in range(np.uint64(row), np.uint64(row + n)):
            dense[slot] = 0
        while cursors[c + NEXT] < cursors[c + END]:
            _load(cursors, slots, i, postings, block_last, block_at, generation, kept)
            if cursors[c + SCORED] == 0:
                _score(cursors, slots, parts, room, i, lengths, postings, form, kept)
            for j in range(np.uint64(cursors[c + ROW]), np.uint64(cursors[c + ROW] + cursors[c + FILL])):
                dense[np.uint64(row) + np.uint64(np.uint32(slots[j]))] = parts[j]
        tags[place] = tag
        cursors[c + NEXT], cursors[c + FILL], cursors[c + POS] = cursors[c + FIRST], 0, 0
    cursors[c + DENSE] = row


@njit_no_nrt(cache=True)
def _below(slots, row, fill, slot):
    """How many of the decoded slots are below `slot`; the last one is not."""
    end = np.uint64(1 << 63)
    first = lowest_bit(at_least(slots, row, slot) | end)
    if slots[row + first] >= slot or fill <= _HALF:
        return first
    return _HALF + lowest_bit(at_least(slots, row + _HALF, slot) | end)


@njit_no_nrt(**_inlined)
def seek(cursors, slots, i, slot, block_last):
    """Skip what lies before `slot`: of the decoded block, and then whole blocks. `restore` comes first."""
    c, row = i * CURSOR, cursors[i * CURSOR + ROW]
    position, fill = cursors[c + POS], cursors[c + FILL]
    if position < fill:
        if slots[row + fill - 1] < slot:
            position = fill
        elif slots[row + position] < slot:
            position = _below(slots, row, fill, slot)
        cursors[c + POS] = position
    if position >= fill:
        block, end = cursors[c + NEXT], cursors[c + END]
        while block < end and block_last[block] < slot:
            block += 1
        cursors[c + NEXT] = block


@njit_no_nrt(**_inlined)
def effort(cursors, i, high, block_last):
    """What it costs to add a term's postings before slot `high`, in blocks."""
    c = i * CURSOR
    if cursors[c + DENSE] >= 0:
        return np.int64(1)
    block, end, first = cursors[c + NEXT], cursors[c + END], cursors[c + FIRST]
    start = block
    while block < end and (block == first or block_last[block - 1] + 1 < high):
        block += 1
    return block - start + np.int64(cursors[c + POS] < cursors[c + FILL])


@njit_no_nrt(cache=True, error_model="numpy")
def peak_before(cursors, slots, i, high, single, block_last, block_best, scale, form):
    """No posting of a term before slot `high`, of those that are left, adds more than this to what weighs 1.

    single: what `enter` said. scale: 1, or less where the average length grew since the segment was made.
    """
    c = i * CURSOR
    block, end, start = cursors[c + NEXT], cursors[c + END], cursors[c + FIRST]
    least, some = np.float32(np.inf), False
    if cursors[c + POS] < cursors[c + FILL] and slots[cursors[c + ROW] + cursors[c + POS]] < high:
        if end == 0:
            return single
        least, some = half_at(block_best, 2 * block - 2), True
    while block < end and (block == start or block_last[block - 1] + 1 < high):
        least, some = min(least, half_at(block_best, 2 * block)), True
        block += 1
    return part_of(least * scale, form) if some else np.float32(0)


@njit_no_nrt(cache=True, error_model="numpy")
def kth_part(cursors, i, k, best, block_best, scale, form):
    """What k documents at least get from a term that weighs 1, or 0: those that made the k best blocks so good.

    best: scratch float32 (k,) or (0,). scale: 1, or more where the average length fell since the segment was made.
    """
    start, end = cursors[i * CURSOR + FIRST], cursors[i * CURSOR + END]
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
    # What is kept was rounded down, by 2**-10 of it at most; below the least normal float16 to 0, above the largest
    # to that.
    if best[0] > _LARGE:
        return np.float32(0)
    return part_of(max(best[0] * np.float32(1.001), _SMALL) * scale, form) * np.float32(0.9999)


@njit_no_nrt(cache=True, error_model="numpy")
def _scatter(slots, parts, first, last, low, weight, sums):
    """Add rows first..last - 1 to the sums of their documents. None comes twice, so four may be in flight."""
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
def add(
    cursors, slots, parts, room, i, low, high, weight, lengths, postings, block_last, block_at, form, generation,
    kept, dense, sums, dirty,
    group,
):  # fmt: skip
    """Add a term's postings in low..high - 1 to the sums of their documents, sums[slot - low]. How many, about.

    dirty int32: made 1 for each run of 2**group sums that changes.
    """
    c = i * CURSOR
    if cursors[c + DENSE] >= 0:
        begin = np.uint64(cursors[c + DENSE] + low)
        for j in range(np.uint64(high - low)):
            sums[j] += weight * dense[begin + j]
        for g in range(np.uint64((high - low + (1 << group) - 1) >> group)):
            dirty[g] = 1
        return high - low
    restore(cursors, slots, i, postings, block_last, block_at, generation, kept)
    added = np.int64(0)
    while True:
        row = cursors[c + ROW]
        position, fill = cursors[c + POS], cursors[c + FILL]
        if position == fill:
            block = cursors[c + NEXT]
            if block == cursors[c + END] or (block > cursors[c + FIRST] and block_last[block - 1] + 1 >= high):
                break
            _load(cursors, slots, i, postings, block_last, block_at, generation, kept)
            seek(cursors, slots, i, low, block_last)
            continue
        stop = fill
        if slots[row + fill - 1] >= high:
            if slots[row + position] >= high:
                break
            stop = _below(slots, row, fill, high)
        if cursors[c + SCORED] == 0:
            _score(cursors, slots, parts, room, i, lengths, postings, form, kept)
        _scatter(slots, parts, np.uint64(row + position), np.uint64(row + stop), np.uint32(low), weight, sums)
        begin, end = (slots[row + position] - low) >> group, (slots[row + stop - 1] - low) >> group
        if end - begin <= stop - position:
            for g in range(np.uint64(begin), np.uint64(end + 1)):
                dirty[g] = 1
        else:
            for j in range(np.uint64(row + position), np.uint64(row + stop)):
                dirty[np.uint64((slots[j] - low) >> group)] = 1
        added += stop - position
        cursors[c + POS] = stop
        if stop < fill:
            break
    return added


@njit_no_nrt(**_inlined)
def _find(cursors, slots, i, slot, postings, block_last, block_at, generation, kept):
    """The row of a term's posting in `slot`, -1 if there is none. Slots must ascend. `restore` comes first."""
    c = i * CURSOR
    row, position, fill = cursors[c + ROW], cursors[c + POS], cursors[c + FILL]
    if position >= fill or slots[row + fill - 1] < slot:
        block, end = cursors[c + NEXT], cursors[c + END]
        while block < end and block_last[np.uint64(block)] < slot:
            block += 1
        cursors[c + NEXT] = block
        if block == end:
            cursors[c + POS], cursors[c + FILL] = 0, 0
            return np.int64(-1)
        _load(cursors, slots, i, postings, block_last, block_at, generation, kept)
        row, position, fill = cursors[c + ROW], np.int64(0), cursors[c + FILL]
        if fill == 0:
            return np.int64(-1)
    if slots[np.uint64(row + position)] < slot:
        position = _below(slots, row, fill, slot)
        cursors[c + POS] = position
    return row + position if slots[np.uint64(row + position)] == slot else np.int64(-1)


@njit_no_nrt(**_inlined)
def value(
    cursors, slots, parts, i, slot, lengths, postings, block_last, block_at, form, generation, kept, dense
):  # fmt: skip
    """What term i adds, if it weighs 1, to the document in `slot`: 0 if it does not hold it. Slots must ascend."""
    c = i * CURSOR
    if cursors[c + DENSE] >= 0:
        return dense[np.uint64(cursors[c + DENSE] + slot)]
    row = _find(cursors, slots, i, slot, postings, block_last, block_at, generation, kept)
    if row < 0:
        return np.float32(0)
    if cursors[c + SCORED]:
        return parts[np.uint64(row)]
    tf = tf_at(postings, cursors[c + AT], cursors[c + FILL], row - cursors[c + ROW])
    return part(tf_of(tf - 1), np.float32(lengths[np.uint64(slot)]), form)


@njit_no_nrt(cache=True, error_model="numpy")
def probe(
    cursors, slots, parts, i, low, weight, rest, threshold, lengths, postings, block_last, block_at, form, generation,
    kept, dense, sums, candidates, count,
):  # fmt: skip
    """Add what a term adds to candidates, ascending: slot - low; keep those whose sum + rest reaches the threshold.

    How many these are.
    """
    restore(cursors, slots, i, postings, block_last, block_at, generation, kept)
    stay = np.uint64(0)
    for j in range(np.uint64(count)):
        at = np.uint64(np.uint32(candidates[j]))
        sums[at] += weight * value(
            cursors, slots, parts, i, low + np.int64(at), lengths, postings, block_last, block_at, form, generation,
            kept, dense,
        )  # fmt: skip
        candidates[stay] = candidates[j]
        stay += np.uint64(sums[at] + rest >= threshold)
    return np.int64(stay)
