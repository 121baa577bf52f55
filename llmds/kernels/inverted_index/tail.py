"""The growing end of an inverted index, postings in chunks: what a reader does. `inverted_index.tail_write` is the
writer's side.

State, owned by the caller. A document has a slot, slots are given in the order of addition and not given again;
a term's number comes from a vocabulary (`tokens`).

    head            int64 (HEAD,)   SLOTS given, of these REMOVED; LIVE documents and the LENGTH of all of
                                    them in terms; TERMS and POSTINGS of live documents; POOL, FORWARD: entries in use
    doc_ids         int64 (c,)      the caller's id of every slot
    lengths         int32 (c,)      its number of terms, repeated ones counted
    removed         int32 (c,)      its removal was the n-th (1, 2, ...); NEVER
    forward_starts  int64 (c + 1,)  the distinct terms of slot s are forward[forward_starts[s]:forward_starts[s + 1]]
    forward         int32
    id_buckets      int32 (2**n,)   slots by hash of their id, or -1; removed ones too; at most half full
    terms           int32 (t, 6)    row[FIRST], row[LAST]: where the first and the last chunk begin (0: none);
                                    row[FILL]: postings in the last; row[DF], row[DEAD]: its postings in live
                                    and in removed documents; row[AT] belongs to the writer
    slots, tfs      int32 (p,)      the pool: a chunk that begins at i has its postings at slots[i:], slots
                                    ascending and NEVER where there is none yet, with the term's frequency in
                                    tfs[i:]; tfs[i - 1] is its capacity, slots[i - 1] where the next chunk begins
                                    (0: none); NEVER and 0 where there is no chunk yet

A reader beside a writer takes all arrays, and a copy of head, at one moment. What the writer then appends
belongs to slots that the copy does not count, and what it removes has a number that the copy does not count, so
the reader goes on seeing the documents of that moment (only row[DEAD] may count later removals already). Where
the writer has gone on in a larger pool, a chunk may begin outside the reader's, or be empty there: it holds
no document that the reader counts.
"""

import numpy as np

from ..compiling import njit, njit_no_nrt
from ..hashing import mix
from ..topk import offer
from .bm25 import part, tf_of

HEAD = 8
SLOTS, REMOVED, LIVE, LENGTH, TERMS, POSTINGS, POOL, FORWARD = 0, 1, 2, 3, 4, 5, 6, 7
FIRST, LAST, FILL, DF, DEAD, AT, COLUMNS = 0, 1, 2, 3, 4, 5, 6
NEVER = 2**31 - 1


@njit_no_nrt(cache=True)
def find_slot(doc_ids, removed, id_buckets, slots, removals, doc_id):
    """The slot of `doc_id` among the first `slots` with `removals` removed, or -1. Expected O(1)."""
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
    """Where found int64 (m,) is -1, put `base` + the slot of wanted[i] (int64), if a live document has that id."""
    for i in range(wanted.shape[0]):
        if found[i] < 0 <= wanted[i]:
            slot = find_slot(doc_ids, removed, id_buckets, head[SLOTS], head[REMOVED], wanted[i])
            if slot >= 0:
                found[i] = base + slot


@njit_no_nrt(cache=True)
def frequency(terms, slots, tfs, term, slot):
    """How often `term` stands in the document at `slot`. O(log postings)."""
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
    """Fill found int64 (m,) with how often each of the terms numbers[order[i]] stands in the document at `slot`.

    numbers int32: the terms, -1 where unknown; order int32 (m,). O(m log postings).
    """
    for i in range(order.shape[0]):
        term = np.int64(numbers[order[i]])
        found[i] = frequency(terms, slots, tfs, term, slot) if term >= 0 else np.int64(0)


@njit_no_nrt(cache=True)
def document_frequency(head, terms, slots, tfs, term):
    """Number of live documents that hold `term`, among those of `head`. O(log postings)."""
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
    """Add to dfs int64 (m,) how many live documents hold each of numbers int32 (m,), -1 where unknown."""
    for i in range(numbers.shape[0]):
        if numbers[i] >= 0:
            dfs[i] += document_frequency(head, terms, slots, tfs, np.int64(numbers[i]))


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    head, doc_ids, lengths, removed, allowed, terms, slots, tfs, form, numbers, order, weights, ends, first, last,
    found, best_ids, best_scores,
):  # fmt: skip
    """Offer the documents to the heaps (`best`) of queries first..last - 1, in their rows of best_ids, best_scores.

    numbers int32 (m,): the terms, -1 where unknown. order, weights, ends: see `bm25.plan`; form: see `bm25`. found
    int64 (n,): items in each heap, k > 0 have room. allowed uint8: empty, or which slots may be found.
    O(postings of the query's terms), once O(slots).
    """
    sums = np.zeros(head[SLOTS], np.float32)
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        for i in range(begin, ends[query]):
            _add(head, lengths, terms, slots, tfs, np.int64(numbers[order[i]]), weights[i], form, sums)
        for i in range(begin, ends[query]):
            found[query] = _offer(
                head, doc_ids, removed, allowed, terms, slots, tfs, np.int64(numbers[order[i]]), sums, best_ids[query],
                best_scores[query], found[query],
            )  # fmt: skip


@njit_no_nrt(cache=True, nogil=True, error_model="numpy")
def score(
    head, lengths, terms, slots, tfs, form, numbers, order, weights, ends, first, last, base, documents, scores
):  # fmt: skip
    """Set scores float32 (n, c) of queries first..last - 1 where documents int64 (n, c) is `base` + a slot.

    O(documents * terms * log postings). The rest as in `search`.
    """
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        for column in range(documents.shape[1]):
            slot = documents[query, column] - base
            if not 0 <= slot < head[SLOTS]:
                continue
            total = np.float32(0)
            for i in range(begin, ends[query]):
                term = np.int64(numbers[order[i]])
                tf = frequency(terms, slots, tfs, term, slot) if term >= 0 else np.int64(0)
                if tf > 0:
                    total += weights[i] * part(tf_of(tf - 1), np.float32(lengths[slot]), form)
            scores[query, column] = total


@njit_no_nrt(cache=True)
def _until(slots, chunk, capacity, slot):
    """How many postings of the chunk belong to slots before `slot`."""
    if slots[chunk + capacity - 1] < slot:
        return capacity
    return _lower_bound(slots, chunk, capacity, slot) - chunk


@njit_no_nrt(cache=True)
def _lower_bound(slots, chunk, capacity, slot):
    """The first place in the chunk whose slot is `slot` or more; the last place is."""
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
    """Add one term's part to the sums of the documents that hold it."""
    chunk = np.int64(terms[term, FIRST]) if 0 <= term < terms.shape[0] else np.int64(0)
    while 0 < chunk < slots.shape[0]:
        stop = chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])
        for at in range(np.uint64(chunk), np.uint64(stop)):
            slot = np.uint64(np.uint32(slots[at]))
            sums[slot] += weight * part(tf_of(tfs[at] - 1), np.float32(lengths[slot]), form)
        chunk = np.int64(slots[chunk - 1])


@njit_no_nrt(cache=True)
def _offer(head, doc_ids, removed, allowed, terms, slots, tfs, term, sums, ids, scores, found):
    """Bring the documents of one term into the heap, and their sums to 0. The number of items in it."""
    chunk = np.int64(terms[term, FIRST]) if 0 <= term < terms.shape[0] else np.int64(0)
    while 0 < chunk < slots.shape[0]:
        for at in range(chunk, chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])):
            slot = np.int64(slots[at])
            total = sums[slot]
            if total > 0:
                sums[slot] = 0
                if removed[slot] > head[REMOVED] and (allowed.shape[0] == 0 or allowed[slot]):
                    found = offer(ids, scores, found, doc_ids[slot], total)
        chunk = np.int64(slots[chunk - 1])
    return found
