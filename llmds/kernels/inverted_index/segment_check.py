"""Segments of an inverted index: checks of arrays from a file, whose contents may be anything."""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..simd import half_at, word_at
from ..tokenizer import hash_term
from .blocks import BLOCK, MOST, PAD, decode_slots, decode_tfs
from .segment import DICTIONARY, POSTINGS, TERMS, varint

WHOLE, DOCUMENTS, DICTIONARIES, BLOCKS, LISTS, LENGTHS, BOUNDS = 0, 1, 2, 3, 4, 5, 6
FAULTS = (
    "",
    "documents are not in the order of their ids, or lengths are negative",
    "a term is not in the bucket of its hash, or the dictionary does not end where it should",
    "a block of postings is outside of the array, or its last slot is not a document",
    "a term's postings are out of order, or not as many as its document frequency",
    "the postings do not add up to the lengths of documents",
    "the best posting of a block is not the one stored for it",
)


@njit_no_nrt(cache=True, nogil=True)
def outer_fault(ids, lengths, buckets, dictionary, postings_size, block_last, block_at, counts):
    """Return the first of FAULTS outside of the postings, WHOLE if there is none. O(documents + dictionary).

    Fills counts int64 (2,) with the numbers of terms and of postings. Safe on any contents, if lengths has an
    entry for each of ids, block_at one for each of block_last, buckets 2**n + 1 rows, n <= 31, and dictionary PAD bytes
    or more.
    """
    n = ids.shape[0]
    if n >= MOST:
        return np.int64(DOCUMENTS)
    for slot in range(n):
        if ids[slot] < 0 or lengths[slot] < 0 or (slot > 0 and ids[slot] <= ids[slot - 1]):
            return np.int64(DOCUMENTS)
    for block in range(block_last.shape[0]):
        if not 0 <= block_last[block] < n or np.int64(block_at[block]) > postings_size - PAD:
            return np.int64(BLOCKS)
    bits = np.int64(0)
    while (np.int64(1) << bits) < buckets.shape[0] - 1:
        bits += 1
    end = dictionary.shape[0] - PAD
    at, where, term, bucket = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    before, before_at, before_length, entries = np.int64(-1), np.int64(0), np.int64(0), np.int64(0)
    while at < end:
        start = at
        length, at = varint(dictionary, at)
        df, at = varint(dictionary, at) if at < end else (np.int64(0), at)
        size, at = varint(dictionary, at) if at < end else (np.int64(0), at)
        if df < 1 or df > n or size < 1 or length > end - at or size > postings_size:
            return np.int64(DICTIONARIES)
        hashed = np.int64(hash_term(dictionary, at, at + length))
        if hashed < before or (hashed == before and not _ascends(dictionary, before_at, before_length, at, length)):
            return np.int64(DICTIONARIES)
        while bucket <= hashed >> (32 - bits):
            if not _row_is(buckets, bucket, start, where, term):
                return np.int64(DICTIONARIES)
            bucket += 1
        before, before_at, before_length = hashed, at, length
        at += length
        where += size
        term += 1
        entries += df
    while bucket < buckets.shape[0]:
        if not _row_is(buckets, bucket, end, where, term):
            return np.int64(DICTIONARIES)
        bucket += 1
    if where != postings_size - PAD:
        return np.int64(DICTIONARIES)
    counts[0], counts[1] = term, entries
    return np.int64(WHOLE)


@njit_no_nrt(cache=True)
def _row_is(buckets, row, at, where, term):
    return buckets[row, DICTIONARY] == at and buckets[row, POSTINGS] == where and buckets[row, TERMS] == term


@njit_no_nrt(cache=True)
def _ascends(dictionary, one, one_length, other, other_length):
    """Return whether a term comes before another one of the same hash."""
    if one_length != other_length:
        return one_length < other_length
    for i in range(one_length):
        if dictionary[one + i] != dictionary[other + i]:
            return dictionary[one + i] < dictionary[other + i]
    return False


@njit(cache=True, nogil=True)
def inner_fault(lengths, dictionary, postings, block_last, block_at, block_best, base, slope):
    """Return the first of FAULTS in the postings, WHOLE if there is none, after `outer_fault` found none. O(postings).

    base, slope float32: norm = base + slope * length.
    """
    words, n = np.zeros(lengths.shape[0], np.int64), lengths.shape[0]
    slots, tfs = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    at, where, block = np.int64(0), np.int64(0), np.int64(0)
    while at < dictionary.shape[0] - PAD:
        length, at = varint(dictionary, at)
        df, at = varint(dictionary, at)
        size, at = varint(dictionary, at)
        at += length
        first, before = where, np.int64(-1)
        if df > BLOCK:
            if size < 4 or np.int64(word_at(postings, where) & np.uint64(0xFFFFFFFF)) != block:
                return np.int64(LISTS)
            if block + ((df + BLOCK - 1) >> 7) > block_last.shape[0]:
                return np.int64(LISTS)
        for start in range(0, df, BLOCK):
            count = min(df - start, np.int64(BLOCK))
            if df > BLOCK:
                first = np.int64(block_at[block])
                if not where < first < where + size:
                    return np.int64(LISTS)
            last = decode_slots(postings, first, count, before, slots, np.int64(0))
            decode_tfs(postings, first, count, tfs, np.int64(0))
            if not before < last < n or (df > BLOCK and last != block_last[block]):
                return np.int64(LISTS)
            before, least = last, np.float32(np.inf)
            for i in range(count):
                words[slots[i]] += np.int64(tfs[i]) + 1
                ratio = (base + slope * np.float32(lengths[slots[i]])) / (np.float32(tfs[i]) + np.float32(1))
                least = min(least, ratio)
            if df > BLOCK:
                if not _is_best(half_at(block_best, 2 * block), least):
                    return np.int64(BOUNDS)
                block += 1
        where += size
    if block != block_last.shape[0]:
        return np.int64(LISTS)
    for slot in range(n):
        if words[slot] != lengths[slot]:
            return np.int64(LENGTHS)
    return np.int64(WHOLE)


@njit_no_nrt(cache=True)
def _is_best(best, least):
    """Return whether a float16 is the smallest norm / tf of a block, rounded down; very small ones are 0."""
    return 0 <= best <= least * np.float32(1.000001) and (
        best * np.float32(1.001) >= least or best > np.float32(65000) or (best == 0 and least < np.float32(6.2e-5))
    )


@njit_no_nrt(cache=True, nogil=True)
def list_terms(dictionary, starts, stops, dfs, ats):
    """Fill starts, stops, dfs int32, ats int64 with every term: dictionary[starts[i]:stops[i]], its df, its place."""
    at, where, term = np.int64(0), np.int64(0), np.int64(0)
    while at < dictionary.shape[0] - PAD:
        length, at = varint(dictionary, at)
        df, at = varint(dictionary, at)
        size, at = varint(dictionary, at)
        starts[term], stops[term], dfs[term], ats[term] = at, at + length, df, where
        at += length
        where += size
        term += 1
