"""Immutable segments of an inverted index: how they are made, of growing postings or of two other segments.

A writer's state beside the arrays of a segment (`segments`), which it fills from their beginning on:

    cursor       int64 (6,)       bytes of DICTIONARY and POSTINGS, BLOCKS, TERMS and ENTRIES (postings) written;
                                  BUCKETS: how many rows of `buckets` are
    best         float32 (m,)     what `block_best` is made of
    numbers      int32 (2 * BLOCK,) scratch

Terms must come in the order of segments. Every call is bounded: it returns when `budget` postings are written, or when
room is lacking, and goes on where it was when called again.
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

POSTINGS, BLOCKS, TERMS, ENTRIES, BUCKETS, CURSOR = 1, 2, 3, 4, 5, 6
DONE, PAUSED, LACKS_DICTIONARY, LACKS_POSTINGS, LACKS_BLOCKS = 0, 1, 2, 3, 4
# Where a source of a merge stands: the next record, its postings, and what it says.
AT, LIST, HASH, WORD, LENGTH, DF, SIZE, SOURCE = 0, 1, 2, 3, 4, 5, 6, 7
END = 1 << 32  # the hash of no term
_AHEAD = 8  # terms


@njit_no_nrt(cache=True)
def put_varint(data, at, number):
    """Write a number of 0 to 2**56 - 1; where it ends."""
    while number >= 128:
        data[at] = np.uint8((number & 127) | 128)
        number >>= 7
        at += 1
    data[at] = np.uint8(number)
    return at + 1


@njit_no_nrt(cache=True)
def _lacking(cursor, dictionary, postings, block_last, length, df):
    """What lacks room for one more term, or DONE."""
    blocks = (df + BLOCK - 1) >> 7
    if cursor[DICTIONARY] + length + 24 + PAD > dictionary.shape[0]:
        return np.int64(LACKS_DICTIONARY)
    if cursor[POSTINGS] + blocks * PAD + 4 + PAD > postings.shape[0]:
        return np.int64(LACKS_POSTINGS)
    if df > BLOCK and cursor[BLOCKS] + blocks > block_last.shape[0]:
        return np.int64(LACKS_BLOCKS)
    return np.int64(DONE)


@njit_no_nrt(cache=True)
def _put(
    data, start, length, hashed, slots, tfs, df, lengths, base, slope, cursor, buckets, dictionary, postings,
    block_last, block_at, best, numbers,
):  # fmt: skip
    """Write a term, for which there is room: its bytes data[start:start + length], its df postings, ascending."""
    _open_buckets(cursor, buckets, hashed)
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
            block_at[block] = at
            at = encode(slots, tfs, np.int64(first), n, before, numbers, postings, at)
            before = np.int64(slots[first + n - 1])
            block_last[block] = before
            smallest = np.float32(np.inf)
            for i in range(np.uint64(first), np.uint64(first + n)):
                ratio = (base + slope * np.float32(lengths[np.uint64(np.uint32(slots[i]))])) / np.float32(tfs[i])
                smallest = min(smallest, ratio)
            best[block] = smallest
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
    """Note, for all buckets up to that of a hash, that their terms begin here."""
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
    """Note where the last terms end."""
    while cursor[BUCKETS] < buckets.shape[0]:
        row = cursor[BUCKETS]
        buckets[row, DICTIONARY], buckets[row, WHERE] = cursor[DICTIONARY], cursor[POSTINGS]
        buckets[row, BEFORE] = cursor[TERMS]
        cursor[BUCKETS] = row + 1


@njit(cache=True, nogil=True)
def freeze(
    head, terms, tail_slots, tail_tfs, v_data, v_offsets, order, hashes, renumbered, ascending, reached, budget, slots,
    tfs, lengths, base, slope, cursor, buckets, dictionary, postings, block_last, block_at, best, numbers,
):  # fmt: skip
    """Write terms order[reached:] of growing postings (`bm25`); (how far it came, DONE, PAUSED or what lacks room).

    order int32: terms of the vocabulary (`tokens`) as segments have them, hashes uint32 those of each in that
    order. renumbered int32: the slot in the new segment of every old one, -1 where it is to be left out; `ascending` if
    those ascend. slots, tfs int32: scratch, an entry for each of the largest df. lengths: of the new slots.
    """
    written = np.int64(0)
    for i in range(reached, order.shape[0]):
        if written > budget:
            return np.int64(i), np.int64(PAUSED)
        if i + 2 * _AHEAD < order.shape[0]:  # terms lie all over the place, in the order of their hashes
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
        lacking = _lacking(cursor, dictionary, postings, block_last, length, df)
        if lacking != DONE:
            return np.int64(i), lacking
        if not ascending:
            sort(slots, tfs, df)
        _put(
            v_data, v_offsets[term], length, np.int64(hashes[i]), slots, tfs, df, lengths, base, slope, cursor,
            buckets, dictionary, postings, block_last, block_at, best, numbers,
        )  # fmt: skip
        written += df + 8
    finish(cursor, buckets)
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
def merge_documents(
    a_ids, a_lengths, a_removed, a_removals, b_ids, b_lengths, b_removed, b_removals, ids, lengths, a_new, b_new
):  # fmt: skip
    """Fill ids, lengths with the live documents of two segments in the order of their ids; how many.

    a_new, b_new int32: the new slot of every document, -1 for removed ones (`segments.find_slots`). O(documents).
    """
    n, a, b = np.int64(0), np.int64(0), np.int64(0)
    while a < a_ids.shape[0] or b < b_ids.shape[0]:
        if b == b_ids.shape[0] or (a < a_ids.shape[0] and a_ids[a] <= b_ids[b]):
            a_new[a] = -1
            if a_removed.shape[0] == 0 or a_removed[a] > a_removals:
                ids[n], lengths[n], a_new[a] = a_ids[a], a_lengths[a], n
                n += 1
            a += 1
        else:
            b_new[b] = -1
            if b_removed.shape[0] == 0 or b_removed[b] > b_removals:
                ids[n], lengths[n], b_new[b] = b_ids[b], b_lengths[b], n
                n += 1
            b += 1
    return n


@njit_no_nrt(cache=True, nogil=True)
def read(source, dictionary, end):
    """Read the record at source[AT]; END as its hash where there is none. source int64 (SOURCE,), zeros at first."""
    if source[AT] >= end:
        source[HASH], source[DF] = END, 0
        return
    source[LENGTH], at = varint(dictionary, source[AT])
    source[DF], at = varint(dictionary, at)
    source[SIZE], source[WORD] = varint(dictionary, at)
    source[HASH] = hash_term(dictionary, source[WORD], source[WORD] + source[LENGTH])


@njit_no_nrt(cache=True, nogil=True)
def merge(
    a, a_new, a_dictionary, a_end, a_postings, a_block_last, a_block_at, b, b_new, b_dictionary, b_end, b_postings,
    b_block_last, b_block_at, budget, slots, tfs, merged_slots, merged_tfs, lengths, base, slope, cursor, buckets,
    dictionary, postings, block_last, block_at, best, numbers,
):  # fmt: skip
    """Write the terms of two segments, from where sources a and b (`read`) stand; DONE, PAUSED or what lacks room.

    a_new, b_new, lengths: as `merge_documents` filled them; a_end, b_end: bytes of each dictionary that are in use.
    slots, tfs, merged_slots, merged_tfs int32: scratch, an entry for each document of both, and BLOCK more.
    """
    written = np.int64(0)
    while a[HASH] != END or b[HASH] != END:
        if written > budget:
            return np.int64(PAUSED)
        side = _compare(a, a_dictionary, b, b_dictionary)
        df = (a[DF] if side <= 0 else np.int64(0)) + (b[DF] if side >= 0 else np.int64(0))
        length = a[LENGTH] if side <= 0 else b[LENGTH]
        lacking = _lacking(cursor, dictionary, postings, block_last, length, df)
        if lacking != DONE:
            return lacking
        n = np.int64(0)
        if side <= 0:
            n = _gather(a, a_postings, a_block_last, a_block_at, a_new, slots, tfs, n)
        run = n
        if side >= 0:
            n = _gather(b, b_postings, b_block_last, b_block_at, b_new, slots, tfs, n)
        if 0 < run < n and slots[run] < slots[run - 1]:
            _merge_runs(slots, tfs, run, n, merged_slots, merged_tfs)
        if n > 0:
            if side <= 0:
                _put(
                    a_dictionary, a[WORD], length, a[HASH], slots, tfs, n, lengths, base, slope, cursor, buckets,
                    dictionary, postings, block_last, block_at, best, numbers,
                )  # fmt: skip
            else:
                _put(
                    b_dictionary, b[WORD], length, b[HASH], slots, tfs, n, lengths, base, slope, cursor, buckets,
                    dictionary, postings, block_last, block_at, best, numbers,
                )  # fmt: skip
        written += df + 8
        if side <= 0:
            _next(a, a_dictionary, a_end)
        if side >= 0:
            _next(b, b_dictionary, b_end)
    finish(cursor, buckets)
    return np.int64(DONE)


@njit_no_nrt(cache=True)
def _next(source, dictionary, end):
    source[AT] = source[WORD] + source[LENGTH]
    source[LIST] += source[SIZE]
    read(source, dictionary, end)


@njit_no_nrt(cache=True)
def _compare(a, a_dictionary, b, b_dictionary):
    """-1, 0 or 1: whether a's term comes before b's, is the same, or comes after it."""
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
    """Append a term's postings in documents that stay; how many there are then."""
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
    """Bring two ascending runs, that end at `run` and at n, into one."""
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
    """Whether a term comes after another one of the same hash."""
    left, right = v_offsets[one], v_offsets[other]
    size, other_size = v_offsets[one + 1] - left, v_offsets[other + 1] - right
    if size != other_size:
        return size > other_size
    for i in range(size):
        if v_data[left + i] != v_data[right + i]:
            return v_data[left + i] > v_data[right + i]
    return False
