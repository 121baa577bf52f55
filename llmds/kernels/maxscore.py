"""The best documents of a segment (`segments`) for a query: block-max MaxScore, a window of documents at a time.

Turtle and Flood 1995 (MaxScore), Ding and Suel 2011 (maxima of blocks), both over windows: Mallia, Mackenzie, Suel and
Tonellotto 2022. Terms are added in the order of `bm25.plan` whatever is pruned, so a score is the same float32, bit
for bit, as if every posting had been added.
"""

import numpy as np

from . import lists
from .best import offer
from .blocks import BLOCK
from .compiling import leaf, njit
from .simd import at_least, lowest_bit

WINDOW = 1 << 13
_GROUP = 6  # 2**6 sums are looked at, and made zero again, at once
# Postings added so far for each block of the next term, and candidates for each, from which on all of it is added.
_ADDED, _PROBED = 60, 15
# Fewer postings than one for so many documents, or more than that: otherwise pruning costs more than it saves.
_SPARSE, _MANY = 100, 1 << 19


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, average, now, form, dfs, ats,
    order, weights, ends, first, last, generation, slots, parts, kept, dense, tags, sums, candidates, found, best_ids,
    best_scores,
):  # fmt: skip
    """Offer what a segment has for queries first..last - 1 to the heaps (`best`) in rows of best_ids, best_scores.

    dfs int32, ats int64 (m,): what `segments.find_terms` said of all terms; order int32, weights float32, ends int64:
    see `bm25.plan`. found int64 (n,): items in each heap, k > 0 have room. removed, removals: see
    `segments.find_slots`; allowed uint8: empty, or which slots may be found. average, now: of lengths, when the segment
    was made and now. generation, slots, parts, kept, dense, tags: see `lists`, with rows for the terms of the longest
    query; the last three may be empty. sums float32 (WINDOW + 1,): zeros, and zeros again but for the last when this
    returns; candidates int32 (WINDOW,): scratch.
    O(postings), less what need not be looked at.
    """
    longest = slots.shape[0] // BLOCK - kept.shape[0]
    cursors, room = np.empty(longest * lists.CURSOR, np.int64), np.empty(2 * BLOCK, np.int32)
    singles, rest = np.empty(longest, np.float32), np.empty(longest + 1, np.float32)
    dirty, bits = np.zeros(WINDOW >> _GROUP, np.uint8), sums.view(np.int32)
    k = best_ids.shape[1]
    best = np.empty(k if k <= BLOCK else 0, np.float32)
    entire = removed.shape[0] == 0 and allowed.shape[0] == 0
    ratio = np.float32(average / now) if average > 0 and now > 0 else np.float32(1)
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        terms = ends[query] - begin
        postings_of_all, floor = np.int64(0), np.float32(0)
        for i in range(terms):
            df, at = np.int64(dfs[order[begin + i]]), ats[order[begin + i]]
            singles[i] = lists.enter(
                cursors, slots, parts, room, np.int64(i), df, at, lengths, postings, block_last, form, kept
            )  # fmt: skip
            if tags.shape[0] > 0 and df > BLOCK and df * lists.COMMON >= ids.shape[0]:
                lists.make_dense(
                    cursors, slots, parts, room, np.int64(i), at, lengths, postings, block_last, block_at, form,
                    generation, kept, dense, tags,
                )  # fmt: skip
            else:
                postings_of_all += df
        prune = postings_of_all * _SPARSE < ids.shape[0] or postings_of_all > _MANY
        if prune and entire:
            for i in range(terms):
                scale = max(ratio * np.float32(1.00001), np.float32(1))
                least = lists.kth_part(cursors, np.int64(i), k, best, block_best, scale, form)
                floor = max(floor, weights[begin + i] * least)
        found[query] = _search(
            ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, ratio, form, terms,
            begin, weights, prune, floor, cursors, slots, parts, generation, kept, dense, room, singles, rest, sums,
            bits, dirty, candidates, found[query], best_ids[query], best_scores[query],
            best_scores[query].view(np.int32),
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def score(
    lengths, postings, block_last, block_at, form, dfs, ats, order, weights, ends, first, last, generation, slots,
    parts, kept, dense, tags, base, documents, scores,
):  # fmt: skip
    """Set scores float32 (n, c) of queries first..last - 1 where documents int64 (n, c) is `base` + a slot.

    The rest as in `search`. O(documents * (terms + log documents)).
    """
    longest = slots.shape[0] // BLOCK - kept.shape[0]
    cursors, room = np.empty(longest * lists.CURSOR, np.int64), np.empty(2 * BLOCK, np.int32)
    keys, n, zero = np.empty(documents.shape[1], np.int64), lengths.shape[0], np.int64(0)
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else zero
        wanted = zero
        for column in range(documents.shape[1]):
            if 0 <= documents[query, column] - base < n:
                keys[wanted] = (documents[query, column] - base) << 32 | column
                scores[query, column] = 0
                wanted += 1
        sort_ascending(keys, wanted)
        for i in range(begin, ends[query] if wanted > 0 else begin):
            df, at = np.int64(dfs[order[i]]), ats[order[i]]
            if df == 0:
                continue
            lists.enter(cursors, slots, parts, room, zero, df, at, lengths, postings, block_last, form, kept)
            if tags.shape[0] > 0 and df > BLOCK and df * lists.COMMON >= n:
                lists.make_dense(
                    cursors, slots, parts, room, zero, at, lengths, postings, block_last, block_at, form, generation,
                    kept, dense, tags,
                )  # fmt: skip
            for j in range(wanted):
                scores[query, keys[j] & 0xFFFFFFFF] += weights[i] * lists.value(
                    cursors, slots, parts, zero, keys[j] >> 32, lengths, postings, block_last, block_at, form,
                    generation, kept, dense,
                )  # fmt: skip


@leaf(cache=True)
def sort_ascending(keys, n):
    """Sort the first n, in place (Shell 1959)."""
    gap = n // 2
    while gap > 0:
        for i in range(gap, n):
            key, j = keys[i], np.int64(i)
            while j >= gap and keys[j - gap] > key:
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key
        gap //= 2


@leaf(cache=True, error_model="numpy")
def _search(
    ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, ratio, form, terms, begin,
    weights, prune, floor, cursors, slots, parts, generation, kept, dense, room, singles, rest, sums, bits, dirty,
    candidates, found, heap_ids, heap_scores, heap_bits,
):  # fmt: skip
    """One query. The number of items in its heap."""
    k, n = heap_ids.shape[0], ids.shape[0]
    scale = min(ratio * np.float32(0.99999), np.float32(1))
    slack = np.float32(1) + np.float32(1e-6) * np.float32(terms + 4)
    # What is left may be small beside the sum: then it is the sum that rounding makes larger.
    lower = np.float32(1) - np.float32(2e-7) * np.float32(terms + 4)
    low = np.int64(0)
    while low < n:
        high = min(low + WINDOW, n)
        threshold = np.float32(max(floor, heap_scores[0]) if found == k else floor) * lower
        essential, undecided = terms, True
        rest[terms] = 0
        if prune:
            for i in range(terms - 1, -1, -1):
                lists.restore(cursors, slots, np.int64(i), postings, block_last, block_at, generation, kept)
                lists.seek(cursors, slots, np.int64(i), low, block_last)
                peak = lists.peak_before(
                    cursors, slots, np.int64(i), high, singles[i], block_last, block_best, scale, form
                )  # fmt: skip
                rest[i] = rest[i + 1] + peak * weights[begin + i] * slack
                undecided = undecided and rest[i] < threshold
                if undecided:
                    essential = i
        added, i = np.int64(0), np.int64(0)
        while i < terms and (i < essential or added > _ADDED * lists.effort(cursors, i, high, block_last)):
            added += lists.add(
                cursors, slots, parts, room, i, low, high, weights[begin + i], lengths, postings, block_last, block_at,
                form, generation, kept, dense, sums, dirty, _GROUP,
            )  # fmt: skip
            i += 1
        if i == terms:
            found = _offer_all(
                ids, removed, removals, allowed, low, floor, sums, bits, dirty, found, heap_ids, heap_scores, heap_bits
            )  # fmt: skip
        elif added > 0:
            count = _collect(bits, sums, dirty, threshold - rest[i], candidates)
            while i < terms and count > 0:
                weight = weights[begin + i]
                if count > _PROBED * lists.effort(cursors, i, high, block_last):
                    lists.add(
                        cursors, slots, parts, room, i, low, high, weight, lengths, postings, block_last, block_at,
                        form, generation, kept, dense, sums, dirty, _GROUP,
                    )  # fmt: skip
                    count = _filter(sums, candidates, count, rest[i + 1], threshold)
                else:
                    count = lists.probe(
                        cursors, slots, parts, i, low, weight, rest[i + 1], threshold, lengths, postings, block_last,
                        block_at, form, generation, kept, dense, sums, candidates, count,
                    )  # fmt: skip
                i += 1
            for j in range(count):
                at = np.int64(candidates[j])
                found = _offer(ids, removed, removals, allowed, low + at, sums[at], found, heap_ids, heap_scores)
            for group in range(dirty.shape[0]):
                if dirty[group]:
                    _zero(sums, dirty, np.int64(group))
        low = high
    return found


@leaf(cache=True)
def _offer(ids, removed, removals, allowed, slot, total, found, heap_ids, heap_scores):
    if removed.shape[0] > 0 and removed[slot] <= removals:
        return found
    if allowed.shape[0] > 0 and not allowed[slot]:
        return found
    return offer(heap_ids, heap_scores, found, ids[slot], total)


@leaf(cache=True, forceinline=True)
def _offer_all(
    ids, removed, removals, allowed, low, floor, sums, bits, dirty, found, heap_ids, heap_scores, heap_bits
):  # fmt: skip
    """Offer every document of the window, and make its sums 0."""
    k = heap_ids.shape[0]
    # Floats that are not negative are in the order of their bits.
    limit = np.int64(heap_bits[0]) if found == k else np.int64(1)
    for group in range(dirty.shape[0]):
        if dirty[group]:
            start = np.int64(group) << _GROUP
            mask = at_least(bits, start, limit)
            while mask != np.uint64(0):
                at = start + lowest_bit(mask)
                mask &= mask - np.uint64(1)
                if bits[np.uint64(at)] >= limit:
                    total = sums[np.uint64(at)]
                    found = _offer(ids, removed, removals, allowed, low + at, total, found, heap_ids, heap_scores)
                    limit = np.int64(heap_bits[0]) if found == k else np.int64(1)
            _zero(sums, dirty, np.int64(group))
    return found


@leaf(cache=True, forceinline=True)
def _collect(bits, sums, dirty, threshold, candidates):
    """List the documents of the window with a sum, of at least `threshold`. How many."""
    count = np.int64(0)
    sums[WINDOW] = threshold
    limit = max(np.int64(bits[WINDOW]), np.int64(1))
    for group in range(dirty.shape[0]):
        if dirty[group]:
            start = np.int64(group) << _GROUP
            mask = at_least(bits, start, limit)
            while mask != np.uint64(0):
                candidates[np.uint64(count)] = start + lowest_bit(mask)
                mask &= mask - np.uint64(1)
                count += 1
    return count


@leaf(cache=True, forceinline=True)
def _filter(sums, candidates, count, rest, threshold):
    """Keep the candidates that may still reach the threshold. How many."""
    stay = np.uint64(0)
    for j in range(np.uint64(count)):
        at = np.uint64(np.uint32(candidates[j]))
        candidates[stay] = candidates[j]
        stay += np.uint64(sums[at] + rest >= threshold)
    return np.int64(stay)


@leaf(cache=True)
def _zero(sums, dirty, group):
    for i in range(np.uint64(group << _GROUP), np.uint64((group + 1) << _GROUP)):
        sums[i] = 0
    dirty[group] = 0
