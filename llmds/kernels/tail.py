"""Okapi BM25 over postings in growing chunks: what a reader does. `bm25_write` is the writer's side.

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

import math

import numpy as np

from .compiling import njit
from .hashing import mix

HEAD = 8
SLOTS, REMOVED, LIVE, LENGTH, TERMS, POSTINGS, POOL, FORWARD = 0, 1, 2, 3, 4, 5, 6, 7
FIRST, LAST, FILL, DF, DEAD, AT, COLUMNS = 0, 1, 2, 3, 4, 5, 6
NEVER = 2**31 - 1

# Documents whose best score decides whether any of them is looked at.
_BLOCK = 64
# A query with fewer postings than documents / this finds its best documents by walking its postings again.
_SPARSE = 8


@njit(cache=True)
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


@njit(cache=True)
def find_slots(head, doc_ids, removed, id_buckets, ids, found):
    """Fill found int64 (m,) with the slots of ids int64 (m,), -1 where unknown. O(m)."""
    for i in range(ids.shape[0]):
        found[i] = find_slot(doc_ids, removed, id_buckets, head[SLOTS], head[REMOVED], ids[i])


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    head, doc_ids, lengths, removed, terms, slots, tfs, k1, b, shares, query_terms, query_hashes, query_ends, first,
    last, budget, sums, ids, scores,
):  # fmt: skip
    """Fill row q of ids int64 (n, k) and scores float32 (n, k), k > 0, with the best documents of query q.

    For q in first..last - 1, until `budget` postings have been scored; (the q reached, postings scored). Rows are best
    first, ties by smaller id, and end in (-1, -inf).

    query_terms int32 (m,), query_hashes uint32 (m,), query_ends int64 (n,): the terms of all queries, -1 where
    unknown, their hashes, and where each query's terms end. sums float32, an entry a slot or more, is
    scratch: all zeros before and after. k1, b: see Robertson and Zaragoza 2009, section 3. shares: as `share_all`
    fills it for this head, or empty; the results are the same, and come twice as fast with it.

    O(postings of the query's terms), and O(slots / 16) where these are many.

    A document's score is added up in float32, term by term, the rarest first and equally rare ones by hash,
    so it depends neither on the order in which documents came nor on that of the query.
    """
    longest = 0
    for query in range(first, last):
        longest = max(longest, query_ends[query] - (query_ends[query - 1] if query > 0 else 0))
    keys, plan = np.empty(longest, np.int64), np.empty(longest, np.int32)
    weights = np.empty(longest, np.float32)
    spent = np.int64(0)
    base, slope = _norm(head, k1, b)
    for query in range(first, last):
        if spent > budget:
            return query, spent
        begin = query_ends[query - 1] if query > 0 else 0
        planned, postings = _plan(
            head, terms, slots, tfs, query_terms[begin : query_ends[query]], query_hashes[begin : query_ends[query]],
            keys, plan, weights,
        )  # fmt: skip
        for i in range(planned):
            first_chunk = np.int64(terms[plan[i], FIRST])
            _add(head, lengths, slots, tfs, first_chunk, weights[i], base, slope, shares, sums)
        found = np.int64(0)
        if postings < head[SLOTS] // _SPARSE:
            for i in range(planned):
                first_chunk = np.int64(terms[plan[i], FIRST])
                found = _best_of_term(
                    head, doc_ids, removed, slots, tfs, first_chunk, sums, ids[query], scores[query], found
                )  # fmt: skip
        else:
            found = _best_of_all(head, doc_ids, removed, sums, ids[query], scores[query])
            postings += head[SLOTS] >> 4
        _finish(ids[query], scores[query], found)
        spent += postings
    return last, spent


@njit(cache=True, nogil=True, error_model="numpy")
def share_all(head, lengths, slots, tfs, k1, b, shares, first, last):
    """Fill shares float32 (p,) in first..last - 1 with what each posting of the pool adds to a score, unweighted.

    Right while the number and the lengths of live documents stay as they are. O(last - first).
    """
    base, slope = _norm(head, k1, b)
    for at in range(first, last):
        slot = slots[at]
        length = lengths[slot] if 0 <= slot < head[SLOTS] else np.int32(0)  # links lie among the slots
        shares[at] = _share(np.float32(tfs[at]), np.float32(length), base, slope)


@njit(cache=True, nogil=True, error_model="numpy")
def score(head, lengths, terms, slots, tfs, k1, b, query_terms, query_hashes, documents, scores):
    """Fill scores float32 (m,) with what `search` gives the slots `documents` int64 (m,) for one query.

    0 for a slot that is -1 or holds none of its terms. O(m * terms * log postings).
    """
    size = query_terms.shape[0]
    keys, plan, weights = np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size, np.float32)
    base, slope = _norm(head, k1, b)
    planned, _ = _plan(head, terms, slots, tfs, query_terms, query_hashes, keys, plan, weights)
    for i in range(documents.shape[0]):
        total = np.float32(0)
        if documents[i] >= 0:
            length = np.float32(lengths[documents[i]])
            for j in range(planned):
                count = np.float32(frequency(terms, slots, tfs, np.int64(plan[j]), documents[i]))
                if count > 0:
                    total += weights[j] * _share(count, length, base, slope)
        scores[i] = total


@njit(cache=True, nogil=True)
def score_many(head, lengths, terms, slots, tfs, k1, b, query_terms, query_hashes, ends, first, documents, scores):
    """`score` for documents (n, c) and scores (n, c), row q with the terms of query first + q, which stop at ends."""
    for q in range(documents.shape[0]):
        start = ends[first + q - 1] if first + q else 0
        stop = ends[first + q]
        numbers, hashes = query_terms[start:stop], query_hashes[start:stop]
        score(head, lengths, terms, slots, tfs, k1, b, numbers, hashes, documents[q], scores[q])


@njit(cache=True, error_model="numpy")
def _norm(head, k1, b):
    """k1 * (1 - b + b * length / average length) as (base, slope) of a line over the length."""
    average = head[LENGTH] / max(head[LIVE], 1)
    return np.float32(k1 * (1.0 - b)), np.float32(k1 * b / average if average > 0 else 0.0)


@njit(cache=True, error_model="numpy")
def _share(count, length, base, slope):
    """What `count` occurrences are worth in a document of `length`, from 0 to 1.

    No fastmath: it is rounded alike wherever it is computed, or equal documents would not tie.
    """
    return count / (count + (base + slope * length))


@njit(cache=True, error_model="numpy")
def _plan(head, terms, slots, tfs, query_terms, query_hashes, keys, plan, weights):
    """Put a query's distinct terms that live documents hold in `plan`, with their weights. (how many, their postings).

    keys is scratch; all three have an entry for each of query_terms.
    """
    count = np.int64(0)
    for i in range(query_terms.shape[0]):
        if query_terms[i] >= 0:
            df = document_frequency(head, terms, slots, tfs, np.int64(query_terms[i]))
            if df > 0:
                keys[count], plan[count] = (df << 32) | np.int64(query_hashes[i]), query_terms[i]
                count += 1
    _sort(keys, plan, count)
    distinct, postings, i = 0, np.int64(0), 0
    while i < count:
        term, df, repeated = plan[i], keys[i] >> 32, 0
        while i < count and plan[i] == term:
            repeated += 1
            i += 1
        plan[distinct] = term
        weights[distinct] = np.float32(repeated * math.log1p((head[LIVE] - df + 0.5) / (df + 0.5)))
        distinct += 1
        postings += df
    return distinct, postings


@njit(cache=True)
def _sort(keys, values, count):
    """Sort the first `count` by key, in place (Shell 1959): queries are short, and may be long."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            key, value = keys[i], values[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j], values[j] = keys[j - gap], values[j - gap]
                j -= gap
            keys[j], values[j] = key, value
        gap //= 2


@njit(cache=True)
def _until(slots, chunk, capacity, slot):
    """How many postings of the chunk belong to slots before `slot`."""
    if slots[chunk + capacity - 1] < slot:
        return capacity
    return _lower_bound(slots, chunk, capacity, slot) - chunk


@njit(cache=True)
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


@njit(cache=True, error_model="numpy")
def _add(head, lengths, slots, tfs, first_chunk, weight, base, slope, shares, sums):
    """Add one term's part to the sums of the documents that hold it."""
    chunk = first_chunk
    while 0 < chunk < slots.shape[0]:
        stop = chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])
        # Slices and unsigned indices, because an index that might be negative costs a test at every step.
        where = slots[chunk:stop].view(np.uint32)
        if shares.shape[0] > 0:
            _scatter(where, shares[chunk:stop], weight, sums)
        else:
            counts = tfs[chunk:stop]
            for i in range(where.shape[0]):
                slot = where[i]
                sums[slot] += weight * _share(np.float32(counts[i]), np.float32(lengths[slot]), base, slope)
        chunk = np.int64(slots[chunk - 1])


@njit(cache=True)
def _scatter(where, parts, weight, sums):
    """sums[where[i]] += weight * parts[i]; no place comes twice, so four at a time may be in flight."""
    whole = where.shape[0] & ~3
    for i in range(0, whole, 4):
        p, q, r, s = where[i], where[i + 1], where[i + 2], where[i + 3]
        a, b = sums[p] + weight * parts[i], sums[q] + weight * parts[i + 1]
        c, d = sums[r] + weight * parts[i + 2], sums[s] + weight * parts[i + 3]
        sums[p], sums[q], sums[r], sums[s] = a, b, c, d
    for i in range(whole, where.shape[0]):
        sums[where[i]] += weight * parts[i]


@njit(cache=True)
def _best_of_term(head, doc_ids, removed, slots, tfs, first_chunk, sums, ids, scores, found):
    """Bring the documents of one term into the heap (ids, scores) of `found` items, and their sums to 0."""
    chunk = first_chunk
    while 0 < chunk < slots.shape[0]:
        for at in range(chunk, chunk + _until(slots, chunk, np.int64(tfs[chunk - 1]), head[SLOTS])):
            slot = np.int64(slots[at])
            total = sums[slot]
            if total > 0:
                sums[slot] = 0
                if (found < ids.shape[0] or total >= scores[0]) and removed[slot] > head[REMOVED]:
                    found = _offer(ids, scores, found, doc_ids[slot], total)
        chunk = np.int64(slots[chunk - 1])
    return found


@njit(cache=True)
def _best_of_all(head, doc_ids, removed, sums, ids, scores):
    """Bring all documents into the heap (ids, scores), and their sums to 0. The number of items."""
    found, limit = np.int64(0), np.int32(1)
    sums = sums[: head[SLOTS]]
    # Floats that are not negative are in the order of their bits, and a maximum of integers is found in vectors.
    bits, limits = sums.view(np.int32), scores.view(np.int32)
    for start in range(0, sums.shape[0], _BLOCK):
        if _highest(bits[start : start + _BLOCK]) >= limit:
            for slot in range(start, min(start + _BLOCK, sums.shape[0])):
                if bits[slot] >= limit and removed[slot] > head[REMOVED]:
                    found = _offer(ids, scores, found, doc_ids[slot], sums[slot])
                    if found == ids.shape[0]:
                        limit = limits[0]
    for slot in range(sums.shape[0]):
        sums[slot] = 0
    return found


@njit(cache=True)
def _highest(bits):
    highest = np.int32(0)
    for i in range(bits.shape[0]):
        highest = max(highest, bits[i])
    return highest


@njit(cache=True)
def _offer(ids, scores, found, doc_id, total):
    """Offer an item to the heap of the best, the worst of them at the root. The number of items after that."""
    size = ids.shape[0]
    if found < size:
        at = found
        while at > 0:
            parent = (at - 1) >> 1
            if _worse(scores[parent], ids[parent], total, doc_id):
                break
            ids[at], scores[at] = ids[parent], scores[parent]
            at = parent
        ids[at], scores[at] = doc_id, total
        return found + 1
    if _worse(scores[0], ids[0], total, doc_id):
        _sink(ids, scores, size, doc_id, total)
    return found


@njit(cache=True)
def _sink(ids, scores, size, doc_id, total):
    """Put an item in place of the root of a heap of `size` items."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _worse(scores[child], ids[child], total, doc_id):
            break
        ids[at], scores[at] = ids[child], scores[child]
        at = child
    ids[at], scores[at] = doc_id, total


@njit(cache=True)
def _worse(score, doc_id, other_score, other_id):
    return score < other_score or (score == other_score and doc_id > other_id)


@njit(cache=True)
def _finish(ids, scores, found):
    """Put the heap's items in order, best first, and mark the rest of the row as empty."""
    for last in range(found - 1, 0, -1):
        worst_id, worst = ids[0], scores[0]
        _sink(ids, scores, last, ids[last], scores[last])
        ids[last], scores[last] = worst_id, worst
    for i in range(found, ids.shape[0]):
        ids[i], scores[i] = -1, -np.inf
