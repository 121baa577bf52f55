"""Immutable segments of an inverted index, for the writer: made from a tail, or from two other segments.

The arrays that are written are `layout.NewSegment`. Terms must come in the order of segments. Every call is bounded: it
returns after about `budget` postings, or when an array lacks room, and continues from there when it is called again.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..simd import prefetch, word_at
from ..tokenizer import hash_term
from .blocks import BLOCK, PAD, decode_slots, decode_tfs, encode
from .segment import DICTIONARY, varint
from .segment import POSTINGS as WHERE
from .segment import TERMS as BEFORE
from .tail import COLUMNS, FIRST, SLOTS

# Fields of `cursor` (and DICTIONARY, 0).
POSTINGS, BLOCKS, TERMS, ENTRIES, BUCKETS, CURSOR = 1, 2, 3, 4, 5, 6
DONE, PAUSED, LACKS_DICTIONARY, LACKS_POSTINGS, LACKS_BLOCKS = 0, 1, 2, 3, 4
# State of a source of a merge: where its next record begins and where its postings do, and the fields of the record.
AT, LIST, HASH, WORD, LENGTH, DF, SIZE, SOURCE = 0, 1, 2, 3, 4, 5, 6, 7
END = 1 << 32  # the hash of no term
_AHEAD = 8  # terms


@njit_no_nrt(cache=True)
def put_varint(data, at, number):
    """Write a number of 0 to 2**56 - 1. Returns where it ends."""
    while number >= 128:
        data[at] = np.uint8((number & 127) | 128)
        number >>= 7
        at += 1
    data[at] = np.uint8(number)
    return at + 1


@njit_no_nrt(cache=True)
def _lacking(new, length, df):
    """Return what lacks room for one more term, or DONE."""
    cursor = new.cursor
    blocks = (df + BLOCK - 1) >> 7
    if cursor[DICTIONARY] + length + 24 + PAD > new.dictionary.shape[0]:
        return np.int64(LACKS_DICTIONARY)
    if cursor[POSTINGS] + blocks * PAD + 4 + PAD > new.postings.shape[0]:
        return np.int64(LACKS_POSTINGS)
    if df > BLOCK and cursor[BLOCKS] + blocks > new.block_last.shape[0]:
        return np.int64(LACKS_BLOCKS)
    return np.int64(DONE)


@njit_no_nrt(cache=True)
def _put(data, start, length, hashed, slots, tfs, df, lengths, new):
    """Write a term, for which there is room: its bytes data[start:start + length], its df postings, ascending."""
    cursor, dictionary, postings, numbers = new.cursor, new.dictionary, new.postings, new.numbers
    base, slope = new.base, new.slope
    _open_buckets(cursor, new.buckets, hashed)
    begin = cursor[POSTINGS]
    at = begin
    if df <= BLOCK:
        at = encode(slots, tfs, np.int64(0), df, np.int64(-1), numbers, postings, at)
    else:
        block = cursor[BLOCKS]
        for byte in range(4):
            postings[at + byte] = np.uint8((block >> (8 * byte)) & 255)
        at += 4
        before = np.int64(-1)
        for first in range(0, df, BLOCK):
            n = min(df - first, np.int64(BLOCK))
            new.block_at[block] = at
            at = encode(slots, tfs, np.int64(first), n, before, numbers, postings, at)
            before = np.int64(slots[first + n - 1])
            new.block_last[block] = before
            smallest = np.float32(np.inf)
            for i in range(np.uint64(first), np.uint64(first + n)):
                ratio = (base + slope * np.float32(lengths[np.uint64(np.uint32(slots[i]))])) / np.float32(tfs[i])
                smallest = min(smallest, ratio)
            new.best[block] = smallest
            block += 1
        cursor[BLOCKS] = block
    cursor[POSTINGS] = at
    at_term = put_varint(dictionary, cursor[DICTIONARY], length)
    at_term = put_varint(dictionary, at_term, df)
    at_term = put_varint(dictionary, at_term, at - begin)
    for byte in range(length):
        dictionary[at_term + byte] = data[start + byte]
    cursor[DICTIONARY] = at_term + length
    cursor[TERMS] += 1
    cursor[ENTRIES] += df


@njit_no_nrt(cache=True)
def _open_buckets(cursor, buckets, hashed):
    """Set, for all buckets up to that of a hash, where their terms begin: here."""
    bits = np.int64(0)
    while (np.int64(1) << bits) < buckets.shape[0] - 1:
        bits += 1
    while cursor[BUCKETS] <= hashed >> (32 - bits):
        row = cursor[BUCKETS]
        buckets[row, DICTIONARY], buckets[row, WHERE] = cursor[DICTIONARY], cursor[POSTINGS]
        buckets[row, BEFORE] = cursor[TERMS]
        cursor[BUCKETS] = row + 1


@njit_no_nrt(cache=True)
def finish(cursor, buckets):
    """Set where the last terms end."""
    while cursor[BUCKETS] < buckets.shape[0]:
        row = cursor[BUCKETS]
        buckets[row, DICTIONARY], buckets[row, WHERE] = cursor[DICTIONARY], cursor[POSTINGS]
        buckets[row, BEFORE] = cursor[TERMS]
        cursor[BUCKETS] = row + 1


@njit(cache=True, nogil=True)
def freeze(
    tail, v_data, v_offsets, order, hashes, renumbered, ascending, reached, budget, slots, tfs, lengths, new
):  # fmt: skip
    """Write the terms order[reached:] of a tail. Returns (the entry reached; DONE, PAUSED or what lacks room).

    tail: `layout.TailArrays`; v_data, v_offsets: its vocabulary (`kernels.tokenizer`); new: `layout.NewSegment`.
    order int32: the numbers of the terms in the order of segments, hashes uint32 their hashes in that order. renumbered
    int32: the slot in the new segment of every old one, -1 if it is left out; `ascending` if these slots ascend. slots,
    tfs int32: scratch, an entry for each posting of the largest df. lengths int32: of the new slots.
    """
    head, terms, tail_slots, tail_tfs = tail.head, tail.terms, tail.slots, tail.tfs
    written = np.int64(0)
    for i in range(reached, order.shape[0]):
        if written > budget:
            return np.int64(i), np.int64(PAUSED)
        if i + 2 * _AHEAD < order.shape[0]:  # in the order of hashes, terms are at random places
            far, near = np.int64(order[i + 2 * _AHEAD]), np.int64(order[i + _AHEAD])
            prefetch(terms, far * COLUMNS, 1)
            prefetch(v_offsets, far, 1)
            prefetch(v_data, v_offsets[near], 1)
            prefetch(tail_slots, np.int64(terms[near, FIRST]), 1)
            prefetch(tail_tfs, np.int64(terms[near, FIRST]), 1)
        term = np.int64(order[i])
        df = np.int64(0)
        chunk = np.int64(terms[term, FIRST])
        while chunk > 0:
            for at in range(np.uint64(chunk), np.uint64(chunk + np.int64(tail_tfs[chunk - 1]))):
                if tail_slots[at] >= head[SLOTS]:
                    break
                slot = renumbered[np.uint64(np.uint32(tail_slots[at]))]
                slots[np.uint64(df)], tfs[np.uint64(df)] = slot, tail_tfs[at]
                df += np.int64(slot >= 0)  # the next one takes the place of one that is left out
            chunk = np.int64(tail_slots[chunk - 1])
        if df == 0:
            continue
        length = v_offsets[term + 1] - v_offsets[term]
        lacking = _lacking(new, length, df)
        if lacking != DONE:
            return np.int64(i), lacking
        if not ascending:
            sort(slots, tfs, df)
        _put(v_data, v_offsets[term], length, np.int64(hashes[i]), slots, tfs, df, lengths, new)
        written += df + 8
    finish(new.cursor, new.buckets)
    return np.int64(order.shape[0]), np.int64(DONE)


@njit_no_nrt(cache=True)
def sort(slots, tfs, n):
    """Sort n postings by slot, in place: runs in order, then a heap (Williams 1964)."""
    start = n // 2
    end = n
    while end > 1:
        if start > 0:
            start -= 1
        else:
            end -= 1
            slots[0], slots[end] = slots[end], slots[0]
            tfs[0], tfs[end] = tfs[end], tfs[0]
        root = start
        while 2 * root + 1 < end:
            child = 2 * root + 1
            if child + 1 < end and slots[child] < slots[child + 1]:
                child += 1
            if slots[root] >= slots[child]:
                break
            slots[root], slots[child] = slots[child], slots[root]
            tfs[root], tfs[child] = tfs[child], tfs[root]
            root = child


@njit_no_nrt(cache=True, nogil=True)
def merge_documents(left, right, ids, lengths, left_new, right_new):
    """Fill ids, lengths with the live documents of two segments in the order of their ids. Returns how many. O(n).

    left, right: `layout.SegmentArrays`. Fills left_new, right_new int32 with the new slot of every document, -1 for
    removed ones.
    """
    n, a, b = np.int64(0), np.int64(0), np.int64(0)
    while a < left.ids.shape[0] or b < right.ids.shape[0]:
        if b == right.ids.shape[0] or (a < left.ids.shape[0] and left.ids[a] <= right.ids[b]):
            left_new[a] = -1
            if left.removed.shape[0] == 0 or left.removed[a] > left.removals:
                ids[n], lengths[n], left_new[a] = left.ids[a], left.lengths[a], n
                n += 1
            a += 1
        else:
            right_new[b] = -1
            if right.removed.shape[0] == 0 or right.removed[b] > right.removals:
                ids[n], lengths[n], right_new[b] = right.ids[b], right.lengths[b], n
                n += 1
            b += 1
    return n


@njit_no_nrt(cache=True, nogil=True)
def read_term(source, dictionary, end):
    """Read the record at source[AT], with the hash END after the last. source int64 (SOURCE,), zeros at first."""
    if source[AT] >= end:
        source[HASH], source[DF] = END, 0
        return
    source[LENGTH], at = varint(dictionary, source[AT])
    source[DF], at = varint(dictionary, at)
    source[SIZE], source[WORD] = varint(dictionary, at)
    source[HASH] = hash_term(dictionary, source[WORD], source[WORD] + source[LENGTH])


@njit_no_nrt(cache=True, nogil=True)
def merge(left, right, budget, slots, tfs, merged_slots, merged_tfs, lengths, new):
    """Write the terms of two segments from their present states on. Returns DONE, PAUSED or what lacks room.

    left, right: `layout.MergeSource`; new: `layout.NewSegment`. Their new slots and lengths int32 are those that
    `merge_documents` filled in. slots, tfs, merged_slots, merged_tfs int32: scratch, an entry for each document of
    both, and BLOCK more.
    """
    written, a, b = np.int64(0), left.state, right.state
    while a[HASH] != END or b[HASH] != END:
        if written > budget:
            return np.int64(PAUSED)
        side = _compare(a, left.dictionary, b, right.dictionary)
        df = (a[DF] if side <= 0 else np.int64(0)) + (b[DF] if side >= 0 else np.int64(0))
        length = a[LENGTH] if side <= 0 else b[LENGTH]
        lacking = _lacking(new, length, df)
        if lacking != DONE:
            return lacking
        n = np.int64(0)
        if side <= 0:
            n = _gather(a, left.postings, left.block_last, left.block_at, left.new_slots, slots, tfs, n)
        run = n
        if side >= 0:
            n = _gather(b, right.postings, right.block_last, right.block_at, right.new_slots, slots, tfs, n)
        if 0 < run < n and slots[run] < slots[run - 1]:
            _merge_runs(slots, tfs, run, n, merged_slots, merged_tfs)
        if n > 0:
            if side <= 0:
                _put(left.dictionary, a[WORD], length, a[HASH], slots, tfs, n, lengths, new)
            else:
                _put(right.dictionary, b[WORD], length, b[HASH], slots, tfs, n, lengths, new)
        written += df + 8
        if side <= 0:
            _next(a, left.dictionary, left.end)
        if side >= 0:
            _next(b, right.dictionary, right.end)
    finish(new.cursor, new.buckets)
    return np.int64(DONE)


@njit_no_nrt(cache=True)
def _next(source, dictionary, end):
    source[AT] = source[WORD] + source[LENGTH]
    source[LIST] += source[SIZE]
    read_term(source, dictionary, end)


@njit_no_nrt(cache=True)
def _compare(a, a_dictionary, b, b_dictionary):
    """Return -1, 0 or 1: the term of a comes before that of b, is the same, or comes after it."""
    if a[HASH] != b[HASH]:
        return np.int64(-1) if a[HASH] < b[HASH] else np.int64(1)
    if a[LENGTH] != b[LENGTH]:
        return np.int64(-1) if a[LENGTH] < b[LENGTH] else np.int64(1)
    for i in range(a[LENGTH]):
        left, right = a_dictionary[a[WORD] + i], b_dictionary[b[WORD] + i]
        if left != right:
            return np.int64(-1) if left < right else np.int64(1)
    return np.int64(0)


@njit_no_nrt(cache=True)
def _gather(source, postings, block_last, block_at, new, slots, tfs, n):
    """Append a term's postings in documents that are not removed. Returns how many there are then."""
    df, at, before = source[DF], source[LIST], np.int64(-1)
    block = np.int64(0)
    if df > BLOCK:
        block = np.int64(word_at(postings, at) & np.uint64(0xFFFFFFFF))
        if block + ((df + BLOCK - 1) >> 7) > block_last.shape[0]:
            return n
    for start in range(0, df, BLOCK):
        size = min(df - start, np.int64(BLOCK))
        if df > BLOCK:
            at = np.int64(block_at[block])
            block += 1
        if at > postings.shape[0] - PAD:
            break
        before = decode_slots(postings, at, size, before, slots, n)
        if not 0 <= before < new.shape[0]:
            break
        decode_tfs(postings, at, size, tfs, n)
        stay = n
        for i in range(n, n + size):
            slot = new[slots[i]]
            if slot >= 0:
                slots[stay], tfs[stay] = slot, tfs[i] + 1
                stay += 1
        n = stay
    return n


@njit_no_nrt(cache=True)
def _merge_runs(slots, tfs, run, n, merged_slots, merged_tfs):
    """Merge two ascending runs, which end at `run` and at n, into one."""
    left, right = np.int64(0), run
    for i in range(n):
        if right == n or (left < run and slots[left] < slots[right]):
            merged_slots[i], merged_tfs[i] = slots[left], tfs[left]
            left += 1
        else:
            merged_slots[i], merged_tfs[i] = slots[right], tfs[right]
            right += 1
    for i in range(n):
        slots[i], tfs[i] = merged_slots[i], merged_tfs[i]


@njit_no_nrt(cache=True, nogil=True)
def order_equal_hashes(order, hashes, v_data, v_offsets):
    """Sort, in place, those terms of order int32 (n,) whose hashes uint32 (n,), ascending, are equal."""
    for i in range(1, order.shape[0]):
        j = i
        while j > 0 and hashes[j - 1] == hashes[i] and _after(v_data, v_offsets, order[j - 1], order[j]):
            order[j - 1], order[j] = order[j], order[j - 1]
            j -= 1


@njit_no_nrt(cache=True)
def _after(v_data, v_offsets, one, other):
    """Return whether a term comes after another one of the same hash."""
    left, right = v_offsets[one], v_offsets[other]
    size, other_size = v_offsets[one + 1] - left, v_offsets[other + 1] - right
    if size != other_size:
        return size > other_size
    for i in range(size):
        if v_data[left + i] != v_data[right + i]:
            return v_data[left + i] > v_data[right + i]
    return False
