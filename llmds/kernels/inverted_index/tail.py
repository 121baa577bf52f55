"""The tail of an inverted index, its documents added last, for readers; `tail_write` is for the writer.

`layout.TailArrays` has the meaning of the arrays.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..hashing import mix
from ..topk import push_to_heap
from .bm25 import part, tf_of

# Fields of `head`, and columns of `terms`: see `layout.TailArrays`.
HEAD = 8
SLOTS, REMOVED, LIVE, LENGTH, TERMS, POSTINGS, POOL, FORWARD = 0, 1, 2, 3, 4, 5, 6, 7
FIRST, LAST, FILL, DF, DEAD, AT, COLUMNS = 0, 1, 2, 3, 4, 5, 6
NEVER = 2**31 - 1


@njit_no_nrt(cache=True)
def find_slot(doc_ids, removed, id_buckets, slots, removals, doc_id):
    """Return the slot of `doc_id` among the first `slots`, or -1, if so many removals count. Expected O(1)."""
    mask = id_buckets.shape[0] - 1
    bucket = np.int64(mix(doc_id)) & mask
    while True:
        slot = np.int64(id_buckets[bucket])
        if slot < 0:
            return slot
        if slot < slots and doc_ids[slot] == doc_id and removed[slot] > removals:
            return slot
        bucket = (bucket + 1) & mask


@njit_no_nrt(cache=True, nogil=True)
def find_slots(head, doc_ids, removed, id_buckets, wanted, base, found):
    """Set found int64 (m,), where it is -1, to `base` + the slot of the id wanted[i], int64, if it has a live one."""
    for i in range(wanted.shape[0]):
        if found[i] < 0 <= wanted[i]:
            slot = find_slot(doc_ids, removed, id_buckets, head[SLOTS], head[REMOVED], wanted[i])
            if slot >= 0:
                found[i] = base + slot


@njit_no_nrt(cache=True)
def frequency(terms, slots, tfs, term, slot):
    """Return how often `term` occurs in the document at `slot`. O(log postings)."""
    if term >= terms.shape[0]:
        return np.int64(0)
    chunk = np.int64(terms[term, FIRST])
    while 0 < chunk < slots.shape[0]:
        capacity = np.int64(tfs[chunk - 1])
        if slots[chunk + capacity - 1] >= slot:
            at = _lower_bound(slots, chunk, capacity, slot)
            if slots[at] == slot:
                return np.int64(tfs[at])
            return np.int64(0)
        chunk = np.int64(slots[chunk - 1])
    return np.int64(0)


@njit_no_nrt(cache=True, nogil=True)
def frequencies(terms, slots, tfs, numbers, order, slot, found):
    """Fill found int64 (m,) with how often each of the terms numbers[order[i]] occurs in the document at `slot`.

    numbers int32: the terms, -1 where unknown; order int32 (m,). O(m log postings).
    """
    for i in range(order.shape[0]):
        term = np.int64(numbers[order[i]])
        found[i] = frequency(terms, slots, tfs, term, slot) if term >= 0 else np.int64(0)


@njit_no_nrt(cache=True)
def document_frequency(head, terms, slots, tfs, term):
    """Return how many live documents, of those that `head` counts, have `term`. O(log postings)."""
    if term >= terms.shape[0]:
        return np.int64(0)
    total = np.int64(0)
    chunk = np.int64(terms[term, FIRST])
    while 0 < chunk < slots.shape[0]:
        capacity = np.int64(tfs[chunk - 1])
        total += _until(slots, chunk, capacity, head[SLOTS])
        chunk = np.int64(slots[chunk - 1])
    return max(np.int64(0), min(total - np.int64(terms[term, DEAD]), head[LIVE]))


@njit_no_nrt(cache=True, nogil=True)
def find_terms(head, terms, slots, tfs, numbers, dfs):
    """Add to dfs int64 (m,) how many live documents have each term of numbers int32 (m,), -1 where unknown."""
    for i in range(numbers.shape[0]):
        if numbers[i] >= 0:
            dfs[i] += document_frequency(head, terms, slots, tfs, np.int64(numbers[i]))


@njit(cache=True, nogil=True, error_model="numpy")
def search(tail, allowed, form, numbers, terms, first, last, best):
    """Offer the documents of the tail to the heaps `best` of queries first..last - 1.

    tail, terms, best: the groups TailArrays, QueryTerms and Best of `layout`. numbers int32 (m,): the number of each
    term that was looked up, -1 where unknown. allowed uint8: for each slot whether it may be found, or empty. form: see
    `bm25.form`. O(postings of the query's terms), and O(slots) once.
    """
    order, ends, sums = terms.order, terms.ends, np.zeros(tail.head[SLOTS], np.float32)
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        for i in range(begin, ends[query]):
            term = np.int64(numbers[order[i]])
            _add(tail.head, tail.lengths, tail.terms, tail.slots, tail.tfs, term, terms.weights[i], form, sums)
        for i in range(begin, ends[query]):
            best.counts[query] = _offer(
                tail, allowed, np.int64(numbers[order[i]]), sums, best.ids[query], best.scores[query],
                best.counts[query],
            )  # fmt: skip


@njit_no_nrt(cache=True, nogil=True, error_model="numpy")
def score(tail, form, numbers, terms, first, last, given):
    """Compute the scores of given documents (`layout.GivenDocuments`) of queries first..last - 1 that are in the tail.

    The other arguments are those of `search`. O(documents * terms * log postings).
    """
    documents, base, order, ends = given.documents, given.base, terms.order, terms.ends
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        for column in range(documents.shape[1]):
            slot = documents[query, column] - base
            if not 0 <= slot < tail.head[SLOTS]:
                continue
            total = np.float32(0)
            for i in range(begin, ends[query]):
                term = np.int64(numbers[order[i]])
                tf = frequency(tail.terms, tail.slots, tail.tfs, term, slot) if term >= 0 else np.int64(0)
                if tf > 0:
                    total += terms.weights[i] * part(tf_of(tf - 1), np.float32(tail.lengths[slot]), form)
            given.scores[query, column] = total


@njit_no_nrt(cache=True)
def _until(slots, chunk, capacity, slot):
    """Return how many postings of the chunk belong to slots before `slot`."""
    if slots[chunk + capacity - 1] < slot:
        return capacity
    return _lower_bound(slots, chunk, capacity, slot) - chunk


@njit_no_nrt(cache=True)
def _lower_bound(slots, chunk, capacity, slot):
    """Return the first place in the chunk whose slot is `slot` or more; that of the last place is."""
    low, high = chunk, chunk + capacity - 1
    while low < high:
        middle = (low + high) >> 1
        if slots[middle] < slot:
            low = middle + 1
        else:
            high = middle
    return low


@njit_no_nrt(cache=True, error_model="numpy")
def _add(head, lengths, terms, slots, tfs, term, weight, form, sums):
    """Add the parts of a term to the sums of the documents that have it."""
    chunk = np.int64(terms[term, FIRST]) if 0 <= term < terms.shape[0] else np.int64(0)
    while 0 < chunk < slots.shape[0]:
        stop = chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])
        for at in range(np.uint64(chunk), np.uint64(stop)):
            slot = np.uint64(np.uint32(slots[at]))
            sums[slot] += weight * part(tf_of(tfs[at] - 1), np.float32(lengths[slot]), form)
        chunk = np.int64(slots[chunk - 1])


@njit_no_nrt(cache=True)
def _offer(tail, allowed, term, sums, ids, scores, found):
    """Offer the documents of one term to a heap, and set their sums to 0. Returns how many documents the heap has."""
    head, slots, tfs = tail.head, tail.slots, tail.tfs
    chunk = np.int64(tail.terms[term, FIRST]) if 0 <= term < tail.terms.shape[0] else np.int64(0)
    while 0 < chunk < slots.shape[0]:
        for at in range(chunk, chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])):
            slot = np.int64(slots[at])
            total = sums[slot]
            if total > 0:
                sums[slot] = 0
                if tail.removed[slot] > head[REMOVED] and (allowed.shape[0] == 0 or allowed[slot]):
                    found = push_to_heap(ids, scores, found, tail.doc_ids[slot], total)
        chunk = np.int64(slots[chunk - 1])
    return found
