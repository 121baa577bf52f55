"""Immutable segments of an inverted index, for readers; `segment_write` makes them.

`layout.SegmentArrays` has the meaning of the arrays.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..simd import word_at
from ..tokenizer import same_bytes
from .blocks import BLOCK, PAD, decode_slots, tf_at

# Columns of `buckets`, and the number of no removal: see `layout.SegmentArrays`.
DICTIONARY, POSTINGS, TERMS, COLUMNS = 0, 1, 2, 3
NEVER = 2**31 - 1


@njit_no_nrt(cache=True)
def varint(data, at):
    """Return (the number that begins at data[at], where it ends): seven bits a byte, lowest first; at most 8 bytes."""
    number, shift = np.int64(data[at]) & 127, 7
    while data[at] >= 128 and shift < 56:
        at += 1
        number |= (np.int64(data[at]) & 127) << shift
        shift += 7
    return number, at + 1


@njit_no_nrt(cache=True)
def find_term(buckets, dictionary, data, start, stop, hashed):
    """Find the term data[start:stop]. Returns (df, where its postings begin, its number); df is 0 if there is none.

    hashed int64: its `tokenizer.hash_term`.
    """
    bits = np.int64(0)
    while (np.int64(1) << bits) < buckets.shape[0] - 1:
        bits += 1
    bucket = hashed >> (32 - bits)
    at, end = np.int64(buckets[bucket, DICTIONARY]), np.int64(buckets[bucket + 1, DICTIONARY])
    where, term = np.int64(buckets[bucket, POSTINGS]), np.int64(buckets[bucket, TERMS])
    while at < end:
        length, at = varint(dictionary, at)
        df, at = varint(dictionary, at)
        size, at = varint(dictionary, at)
        if length == stop - start and same_bytes(dictionary, at, data, start, length):
            return df, where, term
        at += length
        where += size
        term += 1
    return np.int64(0), np.int64(0), np.int64(-1)


@njit_no_nrt(cache=True, nogil=True)
def find_terms(buckets, dictionary, data, starts, stops, hashes, dfs, ats, numbers, totals):
    """Fill dfs int32, ats int64, numbers int32, all (m,), with what `find_term` returns for m terms.

    The terms are data[starts[i]:stops[i]], as in `kernels.tokenizer`. totals int64 (m,): dfs are added to them.
    """
    for i in range(starts.shape[0]):
        df, at, number = find_term(
            buckets, dictionary, data, np.int64(starts[i]), np.int64(stops[i]), np.int64(hashes[i])
        )
        dfs[i], ats[i], numbers[i] = df, at, number
        totals[i] += df


@njit_no_nrt(cache=True)
def find_slot(ids, doc_id):
    """Return the slot of an id, or -1. O(log n), and O(1) where ids are consecutive."""
    if ids.shape[0] > 0 and 0 <= doc_id - ids[0] < ids.shape[0] and ids[doc_id - ids[0]] == doc_id:
        return doc_id - ids[0]
    low, high = np.int64(0), np.int64(ids.shape[0])
    while low < high:
        middle = (low + high) >> 1
        if ids[middle] < doc_id:
            low = middle + 1
        else:
            high = middle
    return low if low < ids.shape[0] and ids[low] == doc_id else np.int64(-1)


@njit_no_nrt(cache=True, nogil=True)
def find_slots(ids, removed, removals, wanted, base, found):
    """Set found int64 (m,), where it is -1, to `base` + the slot of the id wanted[i], int64, if it has a live one.

    ids, removed, removals: see `layout.SegmentArrays`. O(m log n).
    """
    for i in range(wanted.shape[0]):
        if found[i] < 0 <= wanted[i]:
            slot = find_slot(ids, wanted[i])
            if slot >= 0 and (removed.shape[0] == 0 or removed[slot] > removals):
                found[i] = base + slot


@njit_no_nrt(cache=True)
def frequency(postings, block_last, block_at, df, at, slot, slots):
    """Return how often the term with these postings occurs in `slot`. O(log df + BLOCK).

    df and at: see `find_term`. slots int32 (BLOCK,) is scratch.
    """
    n, before = df, np.int64(-1)
    if df > BLOCK:
        first = np.int64(word_at(postings, at) & np.uint64(0xFFFFFFFF))
        last = first + ((df - 1) >> 7)
        if last >= block_last.shape[0]:
            return np.int64(0)
        low, high = first, last
        while low < high:
            middle = (low + high) >> 1
            if block_last[middle] < slot:
                low = middle + 1
            else:
                high = middle
        n = df - ((last - first) << 7) if low == last else np.int64(BLOCK)
        before, at = np.int64(block_last[low - 1]) if low > first else before, np.int64(block_at[low])
    if n <= 0 or at < 0 or at > postings.shape[0] - PAD:
        return np.int64(0)
    decode_slots(postings, at, n, before, slots, np.int64(0))
    for i in range(n):
        if slots[i] >= slot:
            return tf_at(postings, at, n, np.int64(i)) if slots[i] == slot else np.int64(0)
    return np.int64(0)


@njit_no_nrt(cache=True, nogil=True)
def frequencies(postings, block_last, block_at, dfs, ats, order, slot, slots, found):
    """Fill found int64 (m,) with how often each of the terms order int32 (m,) occurs in `slot`.

    dfs, ats: what `find_terms` found for all terms. The other arguments are those of `frequency`.
    """
    for i in range(order.shape[0]):
        term = np.int64(order[i])
        df = np.int64(dfs[term])
        found[i] = frequency(postings, block_last, block_at, df, ats[term], slot, slots) if df > 0 else np.int64(0)


@njit_no_nrt(cache=True, nogil=True)
def count_removed(
    postings, block_last, block_at, removed, gone, removals, dfs, ats, numbers, dead, counted, slots
):  # fmt: skip
    """Update dead int32 (terms,) for the terms numbers int32 (m,): how many of the removed documents have the term.

    gone int32: the removed slots in the order of their removals, the first counted[term] (int32) of which are in
    dead[term] already. dfs, ats: see `find_terms`. slots int32 (BLOCK,) is scratch.

    O(removals since * log df), at most O(df).
    """
    for i in range(numbers.shape[0]):
        term, df = np.int64(numbers[i]), np.int64(dfs[i])
        if df == 0 or counted[term] >= removals:
            continue
        blocks = (df + BLOCK - 1) >> 7
        if removals - counted[term] < blocks:
            for r in range(np.int64(counted[term]), removals):
                dead[term] += frequency(postings, block_last, block_at, df, ats[i], np.int64(gone[r]), slots) > 0
        else:
            dead[term] = _removed_of(postings, block_last, block_at, removed, removals, df, ats[i], slots)
        counted[term] = removals


@njit_no_nrt(cache=True)
def _removed_of(postings, block_last, block_at, removed, removals, df, at, slots):
    """Return how many of a term's documents are removed."""
    total, block, before = np.int64(0), np.int64(0), np.int64(-1)
    if df > BLOCK:
        block = np.int64(word_at(postings, at) & np.uint64(0xFFFFFFFF))
        if block + ((df + BLOCK - 1) >> 7) > block_last.shape[0]:
            return total
    for start in range(0, df, BLOCK):
        n = min(df - start, np.int64(BLOCK))
        if df > BLOCK:
            at = np.int64(block_at[block])
        if at < 0 or at > postings.shape[0] - PAD:
            return total
        before = decode_slots(postings, at, n, before, slots, np.int64(0))
        if not 0 <= before < removed.shape[0]:
            return total
        for j in range(n):
            total += removed[slots[j]] <= removals
        block += 1
    return total
