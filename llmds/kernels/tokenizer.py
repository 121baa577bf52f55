"""Terms: cut out of UTF-8 text, and numbered in a vocabulary.

Texts lie end to end, a separator after each, in blocks of 64 bytes, of which the last is all separators. A term is a
run of characters other than separators; an apostrophe between two letters belongs to it. It is known by its
range of the texts' bytes; nothing is copied. The steps, each over a range of blocks, all ranges before the next
step: `classify`; `classify_wide`, if that found wide characters, which are not ASCII; `delimit`; `cut`. They share

    masks    uint64 (blocks, MASKS)   bit i stands for byte i of the block. WORD: no separator; LETTERS; MARK: an
                apostrophe; LEAD: a wide character begins; CUT: a term begins or ends even within a word. `delimit`
                puts BEGIN, a term begins, in the place of MARK, and END, the byte before ended one, in that of CUT.

and read, for wide characters, two tables:

    classes  uint8 (code points,)     SEPARATOR, LETTER, OTHER (marks, digits, `_`) or ALONE (each a term of its own);
                past the end are separators.
    folds    uint32 (code points,)    the bytes, first one lowest, that take a character's place, as many and of the
                same class; 0 if it stays, as it does past the end; ELSEWHERE if that is not how it is folded.

A vocabulary numbers distinct terms in the order they come. Its arrays, owned by the caller:

    head     int64 (2,)            TERMS, BYTES: how much of the rest is in use
    data     uint8                 the terms' bytes, end to end
    offsets  int64 (terms + 1,)    term t is data[offsets[t]:offsets[t + 1]]
    buckets  int64 (power of 2,)   (hash << 32) | term, or -1; open addressing, linear probing, at most half full

Terms never leave it, so a reader may look up while a writer adds.
"""

import numpy as np

from . import simd
from .compiling import njit, njit_no_nrt
from .hashing import hash_bytes

SEPARATOR, LETTER, OTHER, ALONE = 0, 1, 2, 3
ELSEWHERE = 1
WORD, LETTERS, MARK, LEAD, CUT = range(5)
MASKS, BEGIN, END = 5, MARK, CUT
TERMS, BYTES = 0, 1
_AHEAD = 16  # terms
_SEED = np.uint64(0x746F6B656E73)


@njit_no_nrt(cache=True, nogil=True)
def classify(raw, data, masks, first, stop):
    """Fill masks[first:stop] with what the bytes are that are ASCII. Whether there are others. O(stop - first).

    raw uint8 (64 * blocks,): the texts; data, the same: becomes `raw` with A-Z in lower case.
    """
    leads = np.uint64(0)
    for block in range(first, stop):
        simd.classify(raw, data, block, masks, MASKS)
        leads |= masks[block, LEAD]
    return leads != 0


@njit_no_nrt(cache=True, nogil=True)
def classify_wide(data, classes, folds, masks, first, stop):
    """Fold characters that are not ASCII and begin in blocks first..stop-1, not the last one; enter them in the masks.

    data uint8 (64 * blocks,): the texts, classified. Whether all could be folded in place; if not, the work is void.
    O(their number).
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
    """(code point, bytes) of the character, not ASCII, at `position`, after which three bytes follow."""
    first = np.int64(data[position])
    if first < 0xE0:
        code, width = first & 0x1F, 2
    elif first < 0xF0:
        code, width = first & 0x0F, 3
    else:
        code, width = first & 0x07, 4
    for byte in range(1, width):
        following = np.int64(data[position + byte])
        if following & 0xC0 != 0x80:  # no UTF-8: stands for nothing
            return np.int64(0), np.int64(1)
        code = (code << 6) | (following & 0x3F)
    return code, width


@njit_no_nrt(cache=True, nogil=True)
def delimit(masks, first, stop):
    """Bring the columns BEGIN and END of masks[first:stop], not the last block, to where terms begin and end.

    Returns how many begin. The blocks before `first` must have been done. O(stop - first).
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
    """Read the terms off masks[first:stop], which `delimit` made.

    data uint8: the folded texts. offsets int64 (texts + 1,): text j ends before byte offsets[j + 1] + j, which is its
    separator. at int64 (3,): terms begun, terms ended and texts read so far; brought forward. Term i becomes
    data[starts[i]:stops[i]] (int32) with hash hashes[i] (uint32); the terms of text j are those before ends[j] (int64).
    O(bytes).
    """
    begun, ended, text = at[0], at[1], at[2]
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
    for i in range(at[1], ended):
        hashes[i] = hash_term(data, np.int64(starts[i]), np.int64(stops[i]))
    at[0], at[1], at[2] = begun, ended, text


@njit_no_nrt(cache=True, forceinline=True)
def hash_term(data, start, stop):
    """The 32-bit hash, uint32, by which vocabularies know the term data[start:stop]."""
    return np.uint32(hash_bytes(data, start, stop, _SEED) >> np.uint64(32))


@njit_no_nrt(cache=True, nogil=True)
def hash_terms(data, starts, stops, hashes):
    """Fill hashes uint32 (m,) with `hash_term` of every data[starts[i]:stops[i]]. O(bytes)."""
    for i in range(starts.shape[0]):
        hashes[i] = hash_term(data, np.int64(starts[i]), np.int64(stops[i]))


@njit_no_nrt(cache=True, nogil=True)
def find(v_data, v_offsets, v_buckets, data, starts, stops, hashes, terms):
    """Fill terms int32 (m,) with the vocabulary's number of every term data[starts[i]:stops[i]], -1 if unknown."""
    for i in range(starts.shape[0]):
        terms[i] = _find(
            v_data, v_offsets, v_buckets, data, np.int64(starts[i]), np.int64(stops[i]), np.int64(hashes[i])
        )[0]


@njit_no_nrt(cache=True, nogil=True)
def intern(v_head, v_data, v_offsets, v_buckets, data, starts, stops, hashes, first, terms):
    """As `find` from entry `first` on, but unknown terms are added. The entry reached: m, or where room is lacking.

    Amortised O(bytes).
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
    """(term, its bucket), or (-1, the bucket where it would go)."""
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
    """Whether one[at : at + size] and other[start : start + size] (uint8) are equal."""
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
    """Bring the entries of buckets `old` to `new` (all -1). O(buckets).

    renumbered int32: the new number of every term, -1 for those that leave; empty if they keep theirs.
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
    """Take out, in place, the terms whose `known` (int32) is 0 or more. The number of terms that stay. O(m)."""
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
    """First term that is not found, or whose bytes do not follow the last one's; -1 if none, -2 for counts.

    Safe on any contents, if offsets has an entry or more and buckets a power of two of them.
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
    """`classify`, `delimit`, `cut` and `keep_unknown` at once, for a text or a few, of which none is wide.

    v_data, v_offsets, v_buckets: a vocabulary of terms to be left out. starts, stops, hashes have room for half of the
    bytes. How many terms there are, -1 if a character is not ASCII. O(bytes).
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
