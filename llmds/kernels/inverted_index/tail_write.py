"""The tail of an inverted index, for its writer: additions and removals. `layout.TailArrays` has its arrays.

A kernel makes all changes that belong to a document in one call, those of `head` included, or none.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..hashing import mix
from .tail import (
    AT,
    DEAD,
    DF,
    FILL,
    FIRST,
    FORWARD,
    LAST,
    LENGTH,
    LIVE,
    NEVER,
    POOL,
    POSTINGS,
    REMOVED,
    SLOTS,
    TERMS,
    find_slot,
)

DONE, LACKS_SLOTS, LACKS_FORWARD, LACKS_POOL = 0, 1, 2, 3
# Capacities of a term's chunks: the first one's, then twice the last one's, up to the largest.
_SMALLEST, _LARGEST = 3, 1 << 14


@njit_no_nrt(cache=True, nogil=True)
def add(tail, new_ids, new_terms, ends, first, counts):
    """Add documents first.. of new_ids int64 (n,), each in place of the one that has its id. Amortised O(terms).

    tail: TailArrays of `layout`, with a row of `terms` for each new term. new_terms int32: the numbers of the terms of
    all documents; those of document d end before ends[d] (int64 (n,)). counts int32: scratch, an entry for each term of
    the longest document.

    Returns (the document reached, n at the end; DONE or what lacks room; how many entries are lacking at least).
    """
    head, doc_ids, forward, id_buckets = tail.head, tail.doc_ids, tail.forward, tail.id_buckets
    terms, slots, tfs = tail.terms, tail.slots, tail.tfs
    for d in range(first, new_ids.shape[0]):
        begin, end = (ends[d - 1] if d > 0 else 0), ends[d]
        slot, base = head[SLOTS], head[FORWARD]
        if slot >= doc_ids.shape[0] or 2 * (slot + 1) > id_buckets.shape[0]:
            return d, LACKS_SLOTS, np.int64(1)
        if base + end - begin > forward.shape[0]:
            return d, LACKS_FORWARD, end - begin
        distinct = _count(forward, base, terms, new_terms, begin, end, counts)
        if head[POOL] + distinct * (_LARGEST + 1) > slots.shape[0]:  # else there is room whatever they need
            needed = np.int64(0)
            for i in range(distinct):
                needed += _chunk_needed(terms, tfs, np.int64(forward[base + i]))
            if head[POOL] + needed > slots.shape[0]:
                return d, LACKS_POOL, needed
        old = find_slot(doc_ids, tail.removed, id_buckets, slot, head[REMOVED], new_ids[d])
        if old >= 0:
            _retire(tail, old)
        for i in range(distinct):
            _append(head, terms, slots, tfs, np.int64(forward[base + i]), slot, counts[i])
        doc_ids[slot], tail.lengths[slot], tail.removed[slot] = new_ids[d], end - begin, NEVER
        tail.forward_starts[slot + 1] = base + distinct
        _insert_id(id_buckets, doc_ids, slot)
        head[LIVE] += 1
        head[LENGTH] += end - begin
        head[POSTINGS] += distinct
        head[FORWARD] = base + distinct
        head[SLOTS] = slot + 1
    return new_ids.shape[0], DONE, np.int64(0)


@njit_no_nrt(cache=True)
def remove(tail, doc_id):
    """Remove a document. Returns whether it was there. O(its terms)."""
    head = tail.head
    slot = find_slot(tail.doc_ids, tail.removed, tail.id_buckets, head[SLOTS], head[REMOVED], doc_id)
    if slot < 0:
        return False
    _retire(tail, slot)
    return True


@njit_no_nrt(cache=True)
def insert_ids(id_buckets, doc_ids, first, last):
    """Insert slots first..last - 1, which are not in the hash table, into it. O(last - first)."""
    for slot in range(first, last):
        _insert_id(id_buckets, doc_ids, slot)


@njit_no_nrt(cache=True)
def _count(forward, base, terms, new_terms, begin, end, counts):
    """List the distinct terms of a document in forward[base:], their frequencies in counts. Returns how many there are.

    row[AT] is the place of a term's entry if that entry is the term; else it has none yet (Briggs and Torczon 1993).
    """
    distinct = 0
    for i in range(np.uint64(begin), np.uint64(end)):
        term = new_terms[i]
        row = np.uint64(np.uint32(term))
        at = np.int64(terms[row, AT])
        if at < distinct and forward[np.uint64(base + at)] == term:
            counts[np.uint64(at)] += 1
        else:
            forward[np.uint64(base + distinct)], counts[np.uint64(distinct)] = term, 1
            terms[row, AT] = distinct
            distinct += 1
    return distinct


@njit_no_nrt(cache=True)
def _next_capacity(terms, tfs, term):
    if terms[term, FIRST] == 0:
        return np.int64(_SMALLEST)
    return min(max(2 * np.int64(tfs[terms[term, LAST] - 1]), _SMALLEST), _LARGEST)


@njit_no_nrt(cache=True)
def _chunk_needed(terms, tfs, term):
    """Return how many entries of the pool one more posting of `term` takes."""
    if terms[term, FIRST] > 0 and terms[term, FILL] < tfs[terms[term, LAST] - 1]:
        return np.int64(0)
    return _next_capacity(terms, tfs, term) + 1


@njit_no_nrt(cache=True)
def _append(head, terms, slots, tfs, term, slot, count):
    """Append a posting; the pool has room. Amortised O(1)."""
    needed = _chunk_needed(terms, tfs, term)
    if needed > 0:
        chunk = head[POOL] + 1
        head[POOL] += needed
        slots[chunk - 1], tfs[chunk - 1] = 0, needed - 1
        if terms[term, FIRST] == 0:
            terms[term, FIRST] = chunk
        else:
            slots[terms[term, LAST] - 1] = chunk
        terms[term, LAST], terms[term, FILL] = chunk, 0
    at = np.int64(terms[term, LAST]) + np.int64(terms[term, FILL])
    tfs[at], slots[at] = count, slot
    terms[term, FILL] += 1
    if terms[term, DF] == 0:
        head[TERMS] += 1
    terms[term, DF] += 1


@njit_no_nrt(cache=True)
def _retire(tail, slot):
    """Mark a live document as removed. O(its terms)."""
    head, terms, forward_starts = tail.head, tail.terms, tail.forward_starts
    for at in range(forward_starts[slot], forward_starts[slot + 1]):
        term = tail.forward[at]
        terms[term, DF] -= 1
        terms[term, DEAD] += 1
        if terms[term, DF] == 0:
            head[TERMS] -= 1
    head[POSTINGS] -= forward_starts[slot + 1] - forward_starts[slot]
    head[LENGTH] -= tail.lengths[slot]
    head[LIVE] -= 1
    head[REMOVED] += 1
    tail.removed[slot] = head[REMOVED]


@njit_no_nrt(cache=True)
def _insert_id(id_buckets, doc_ids, slot):
    mask = id_buckets.shape[0] - 1
    bucket = np.int64(mix(doc_ids[slot])) & mask
    while id_buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    id_buckets[bucket] = slot
