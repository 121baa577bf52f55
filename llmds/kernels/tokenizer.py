"""Terms: cutting them out of UTF-8 text, and numbering them in a vocabulary.

Texts lie end to end, a separator after each, in blocks of 64 bytes; the last block holds only separators. A term is a
run of characters that are not separators; an apostrophe between two letters belongs to it. A term is a range of the
bytes of the texts; nothing is copied. The steps, each over a range of blocks and complete for all ranges before the
next step begins: `classify`; `classify_wide`, if `classify` found characters that are not ASCII ("wide" below);
`delimit`; `cut`. They share

    masks    uint64 (blocks, MASKS)   bit i is about byte i of the block. WORD: it is no separator; LETTERS: it belongs
                to a letter; MARK: it is an apostrophe; LEAD: a wide character begins; CUT: a term begins or ends here
                even inside a word. `delimit` replaces MARK by BEGIN, a term begins here, and CUT by END, the byte
                before was the last one of a term.

and read two tables for wide characters:

    classes  uint8 (code points,)     SEPARATOR, LETTER, OTHER (marks, digits, `_`) or ALONE (each a term of its own);
                code points past the end are separators.
    folds    uint32 (code points,)    the bytes, first one lowest, that replace a character, of the same number and
                class; 0 if the character stays, as all past the end do; ELSEWHERE if folding it needs more than that.

A vocabulary numbers distinct terms in the order in which they are added. Its arrays (`VocabularyArrays`), owned by the
caller:

    head     int64 (2,)            TERMS, BYTES: how much of the other arrays is in use
    data     uint8                 the bytes of the terms, end to end
    offsets  int64 (terms + 1,)    term t is data[offsets[t]:offsets[t + 1]]
    buckets  int64 (power of 2,)   (hash << 32) | term, or -1; open addressing, linear probing, at most half full

Terms are never removed, so one thread may add terms while others look terms up.
"""

from typing import NamedTuple

import numpy as np

from . import simd
from .compiling import njit, njit_no_nrt
from .hashing import hash_bytes

SEPARATOR, LETTER, OTHER, ALONE = 0, 1, 2, 3
ELSEWHERE = 1
WORD, LETTERS, MARK, LEAD, CUT = range(5)
MASKS, BEGIN, END = 5, MARK, CUT
TERMS, BYTES = 0, 1
# What `cut` has done so far: terms begun, terms ended, texts completed.
COUNTERS, BEGUN, ENDED, TEXTS = 3, 0, 1, 2
_AHEAD = 16  # terms
_SEED = np.uint64(0x746F6B656E73)


class VocabularyArrays(NamedTuple):
    """The arrays of a vocabulary, in the order in which the kernels take them."""

    head: np.ndarray  # int64 (2,), as above
    data: np.ndarray  # uint8
    offsets: np.ndarray  # int64 (terms + 1,)
    buckets: np.ndarray  # int64 (power of 2,)


@njit_no_nrt(cache=True, nogil=True)
def classify(raw, data, masks, first, stop):
    """Fill masks[first:stop] for the ASCII bytes; return whether there are other bytes. O(stop - first).

    raw uint8 (64 * blocks,): the texts. data, of the same shape, becomes `raw` with A-Z in lower case.
    """
    leads = np.uint64(0)
    for block in range(first, stop):
        simd.classify(raw, data, block, masks, MASKS)
        leads |= masks[block, LEAD]
    return leads != 0


@njit_no_nrt(cache=True, nogil=True)
def classify_wide(data, classes, folds, masks, first, stop):
    """Fold the wide characters that begin in blocks first..stop-1 (not the last block) and add them to the masks.

    data uint8 (64 * blocks,): the texts, as `classify` left them. Returns whether all could be folded in place; if
    not, data and masks must be discarded. O(wide characters).
    """
    one = np.uint64(1)
    for block in range(first, stop):
        leads = masks[block, LEAD]
        while leads != 0:
            at = simd.lowest_bit(leads)
            leads &= leads - one
            code, width = _wide_character(data, 64 * block + at)
            if code < folds.shape[0] and folds[code] != 0:
                if folds[code] == ELSEWHERE:
                    return False
                for byte in range(width):
                    data[64 * block + at + byte] = np.uint8(folds[code] >> np.uint32(8 * byte))
            kind = classes[code] if code < classes.shape[0] else np.uint8(SEPARATOR)
            if kind == SEPARATOR:
                continue
            here = ((one << np.uint64(width)) - one) << np.uint64(at)
            masks[block, WORD] |= here
            if kind == LETTER:
                masks[block, LETTERS] |= here
            elif kind == ALONE:
                masks[block, CUT] |= (one | one << np.uint64(width)) << np.uint64(at)
            beyond = at + width - 64
            if beyond >= 0:
                there = (one << np.uint64(beyond)) - one
                masks[block + 1, WORD] |= there
                if kind == LETTER:
                    masks[block + 1, LETTERS] |= there
                elif kind == ALONE:
                    masks[block + 1, CUT] |= one << np.uint64(beyond)
    return True


@njit_no_nrt(cache=True, forceinline=True)
def _wide_character(data, position):
    """Return (code point, bytes) of the wide character at `position`, which three more bytes must follow."""
    first = np.int64(data[position])
    if first < 0xE0:
        code, width = first & 0x1F, 2
    elif first < 0xF0:
        code, width = first & 0x0F, 3
    else:
        code, width = first & 0x07, 4
    for byte in range(1, width):
        following = np.int64(data[position + byte])
        if following & 0xC0 != 0x80:  # not valid UTF-8: a separator
            return np.int64(0), np.int64(1)
        code = (code << 6) | (following & 0x3F)
    return code, width


@njit_no_nrt(cache=True, nogil=True)
def delimit(masks, first, stop):
    """Set the columns BEGIN and END of masks[first:stop] (not the last block); return how many terms begin there.

    The blocks before `first` must be done already. O(stop - first).
    """
    one, top = np.uint64(1), np.uint64(63)
    letter_before, word_before = np.uint64(0), np.uint64(0)
    if first > 0:
        letter_before, word_before = masks[first - 1, LETTERS] >> top, masks[first - 1, WORD] >> top
    terms = 0
    for block in range(first, stop):
        letters = masks[block, LETTERS]
        after_letter = (letters << one) | letter_before
        before_letter = (letters >> one) | (masks[block + 1, LETTERS] << top)
        word = masks[block, WORD] | (masks[block, MARK] & after_letter & before_letter)
        cut = masks[block, CUT]
        after_word = (word << one) | word_before
        begin = word & (~after_word | cut)
        masks[block, WORD], masks[block, BEGIN], masks[block, END] = word, begin, after_word & (~word | cut)
        letter_before, word_before = letters >> top, word >> top
        terms += simd.count_bits(begin)
    return terms


@njit_no_nrt(cache=True, nogil=True)
def cut(data, masks, offsets, at, first, stop, starts, stops, hashes, ends):
    """Write the terms of masks[first:stop], as `delimit` left them.

    data uint8: the folded texts. offsets int64 (texts + 1,): text j ends before byte offsets[j + 1] + j, which is its
    separator. at int64 (COUNTERS,): BEGUN, ENDED and TEXTS so far, zeros at first; advanced. Term i becomes
    data[starts[i]:stops[i]] (int32) with hash hashes[i] (uint32); the terms of text j are those before ends[j] (int64)
    that belong to no earlier text. O(bytes).
    """
    begun, ended, text = at[BEGUN], at[ENDED], at[TEXTS]
    for block in range(first, stop):
        base, begin, end = 64 * block, masks[block, BEGIN], masks[block, END]
        while text < ends.shape[0] and offsets[text + 1] + text < base + 64:
            before = (np.uint64(1) << np.uint64(offsets[text + 1] + text - base)) - np.uint64(1)
            ends[text] = begun + simd.count_bits(begin & before)
            text += 1
        while begin != 0:
            starts[begun] = base + simd.lowest_bit(begin)
            begin &= begin - np.uint64(1)
            begun += 1
        while end != 0:
            stops[ended] = base + simd.lowest_bit(end)
            end &= end - np.uint64(1)
            ended += 1
    for i in range(at[ENDED], ended):
        hashes[i] = hash_term(data, np.int64(starts[i]), np.int64(stops[i]))
    at[BEGUN], at[ENDED], at[TEXTS] = begun, ended, text


@njit_no_nrt(cache=True, forceinline=True)
def hash_term(data, start, stop):
    """Return the hash of the term data[start:stop] in vocabularies, uint32. O(stop - start)."""
    return np.uint32(hash_bytes(data, start, stop, _SEED) >> np.uint64(32))


@njit_no_nrt(cache=True, nogil=True)
def hash_terms(data, starts, stops, hashes):
    """Set hashes[i], uint32 (m,), to `hash_term` of data[starts[i]:stops[i]] for every i. O(bytes)."""
    for i in range(starts.shape[0]):
        hashes[i] = hash_term(data, np.int64(starts[i]), np.int64(stops[i]))


@njit_no_nrt(cache=True, nogil=True)
def find(v_data, v_offsets, v_buckets, data, starts, stops, hashes, terms):
    """Set terms[i], int32 (m,), to the number of data[starts[i]:stops[i]] in the vocabulary, -1 if it is unknown.

    v_data, v_offsets, v_buckets: the vocabulary's arrays. hashes: as `hash_terms` sets them. O(bytes).
    """
    for i in range(starts.shape[0]):
        terms[i] = _find(
            v_data, v_offsets, v_buckets, data, np.int64(starts[i]), np.int64(stops[i]), np.int64(hashes[i])
        )[0]


@njit_no_nrt(cache=True, nogil=True)
def intern(v_head, v_data, v_offsets, v_buckets, data, starts, stops, hashes, first, terms):
    """Look terms up as `find` does, from entry `first` on, and add unknown ones to the vocabulary.

    Returns m, or the first entry for which the vocabulary has no room: continue there with a larger one. O(bytes).
    """
    mask = v_buckets.shape[0] - 1
    for i in range(first, starts.shape[0]):
        if i + _AHEAD < starts.shape[0]:
            simd.prefetch(v_buckets, np.int64(hashes[i + _AHEAD]) & mask, 1)
        start, stop, hashed = np.int64(starts[i]), np.int64(stops[i]), np.int64(hashes[i])
        term, bucket = _find(v_data, v_offsets, v_buckets, data, start, stop, hashed)
        if term < 0:
            term, top = v_head[TERMS], v_head[BYTES]
            full = 2 * (term + 1) > v_buckets.shape[0] or term + 2 > v_offsets.shape[0]
            if full or top + stop - start > v_data.shape[0]:
                return i
            for byte in range(stop - start):
                v_data[top + byte] = data[start + byte]
            v_offsets[term + 1] = top + stop - start
            v_head[TERMS], v_head[BYTES] = term + 1, top + stop - start
            v_buckets[bucket] = (hashed << 32) | term
        terms[i] = term
    return starts.shape[0]


@njit_no_nrt(cache=True, forceinline=True)
def _find(v_data, v_offsets, v_buckets, data, start, stop, hashed):
    """Return (term, its bucket), or (-1, the free bucket for it)."""
    mask = v_buckets.shape[0] - 1
    bucket = hashed & mask
    while True:
        entry = v_buckets[bucket]
        if entry == -1:
            return np.int64(-1), bucket
        if (entry >> 32) & 0xFFFFFFFF == hashed:
            term = entry & 0xFFFFFFFF
            base = v_offsets[term]
            size = stop - start
            if v_offsets[term + 1] - base == size and same_bytes(v_data, base, data, start, size):
                return term, bucket
        bucket = (bucket + 1) & mask


@njit_no_nrt(cache=True, forceinline=True)
def same_bytes(one, at, other, start, size):
    """Return whether one[at : at + size] and other[start : start + size] (uint8) are equal."""
    done = 0
    if size < 16 and at + 16 <= one.shape[0] and start + 16 <= other.shape[0]:
        whole = np.uint64(0) - np.uint64(size >> 3)
        done = size & 8
        differing = (simd.word_at(one, at) ^ simd.word_at(other, start)) & whole
        last = simd.word_at(one, at + done) ^ simd.word_at(other, start + done)
        return differing | (last & ((np.uint64(1) << np.uint64(8 * (size - done))) - np.uint64(1))) == 0
    while done + 8 <= size:
        if simd.word_at(one, at + done) != simd.word_at(other, start + done):
            return False
        done += 8
    for byte in range(done, size):
        if one[at + byte] != other[start + byte]:
            return False
    return True


@njit_no_nrt(cache=True)
def rehash(old, new, renumbered):
    """Insert the entries of the buckets `old` into the buckets `new` (all -1). O(buckets).

    renumbered int32: the new number of every term, -1 for terms left out; empty if the numbers stay.
    """
    mask = new.shape[0] - 1
    for i in range(old.shape[0]):
        entry = old[i]
        if entry == -1:
            continue
        term, hashed = entry & 0xFFFFFFFF, (entry >> 32) & 0xFFFFFFFF
        if renumbered.shape[0] > 0:
            term = np.int64(renumbered[term])
            if term < 0:
                continue
        bucket = hashed & mask
        while new[bucket] != -1:
            bucket = (bucket + 1) & mask
        new[bucket] = (hashed << 32) | term


@njit_no_nrt(cache=True, nogil=True)
def keep_unknown(known, starts, stops, hashes, ends):
    """Remove, in place, the terms whose `known` (int32) is 0 or more; return the number of terms left. O(m).

    starts, stops, hashes, ends: terms, as `cut` writes them.
    """
    kept = 0
    i = 0
    for text in range(ends.shape[0]):
        while i < ends[text]:
            if known[i] < 0:
                starts[kept], stops[kept], hashes[kept] = starts[i], stops[i], hashes[i]
                kept += 1
            i += 1
        ends[text] = kept
    return kept


@njit(cache=True)
def vocabulary_fault(v_head, v_data, v_offsets, v_buckets):
    """Return the first term that cannot be found or whose bytes are out of place; -1 if none, -2 for wrong counts.

    Safe on any contents, if offsets has at least one entry and the number of buckets is a power of two. O(bytes).
    """
    terms = v_head[TERMS]
    if terms < 0 or terms + 1 > v_offsets.shape[0] or 2 * terms > v_buckets.shape[0] or v_offsets[0] != 0:
        return np.int64(-2)
    for term in range(terms):
        if not v_offsets[term] <= v_offsets[term + 1] <= v_data.shape[0]:
            return np.int64(term)
    if v_head[BYTES] != v_offsets[terms]:
        return np.int64(-2)
    used = 0
    for bucket in range(v_buckets.shape[0]):
        if v_buckets[bucket] != -1:
            if v_buckets[bucket] & 0xFFFFFFFF >= terms:
                return np.int64(-2)
            used += 1
    if used != terms:
        return np.int64(-2)
    for term in range(terms):
        start, stop = v_offsets[term], v_offsets[term + 1]
        hashed = np.int64(hash_term(v_data, start, stop))
        if _find(v_data, v_offsets, v_buckets, v_data, start, stop, hashed)[0] != term:
            return np.int64(term)
    return np.int64(-1)


@njit_no_nrt(cache=True, nogil=True)
def cut_short(raw, data, masks, offsets, at, v_data, v_offsets, v_buckets, starts, stops, hashes, ends):
    """Do `classify`, `delimit`, `cut` and `keep_unknown` in one call, for one or a few ASCII texts.

    Arguments as theirs; v_data, v_offsets, v_buckets: the vocabulary of the terms to leave out. starts, stops and
    hashes need room for half as many terms as there are bytes. Returns the number of terms, -1 if a character is not
    ASCII. O(bytes).
    """
    zero, blocks = np.int64(0), np.int64(masks.shape[0] - 1)
    if classify(raw, data, masks, zero, blocks + 1):
        return np.int64(-1)
    delimit(masks, zero, blocks)
    cut(data, masks, offsets, at, zero, blocks, starts, stops, hashes, ends)
    kept, begin = zero, zero
    for text in range(ends.shape[0]):
        for i in range(begin, ends[text]):
            start, stop = np.int64(starts[i]), np.int64(stops[i])
            if _find(v_data, v_offsets, v_buckets, data, start, stop, np.int64(hashes[i]))[0] < 0:
                starts[kept], stops[kept], hashes[kept] = starts[i], stops[i], hashes[i]
                kept += 1
        begin, ends[text] = ends[text], kept
    return kept
