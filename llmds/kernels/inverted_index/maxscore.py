"""The best documents of a segment (`segments`) for a query: block-max MaxScore, a window of documents at a time.

Turtle and Flood 1995 (MaxScore), Ding and Suel 2011 (maxima of blocks), both over windows: Mallia, Mackenzie, Suel and
Tonellotto 2022. Terms are added in the order of `bm25.plan` whatever is pruned, so a score is the same float32, bit
for bit, as if every posting had been added.
"""

import numpy as np

from .. import topk as best
from ..compiling import njit, njit_no_nrt
from ..simd import at_least, lowest_bit
from . import cursors as lists
from .blocks import BLOCK

_GROUP = 5  # 2**5 sums are looked at, and made zero again, at once
_FEW = np.uint64((1 << (1 << _GROUP)) - 1)
# Where more postings than one for so many documents are added, all sums are, 64 at once.
_CROWDED = 64
STEP = 64 << _GROUP  # a window has so many documents, or a multiple of it
# Postings added so far for each block of the next term, and candidates for each, from which on all of it is added.
_ADDED, _PROBED = 60, 15
# Fewer postings than one for so many documents, or more than that: otherwise pruning costs more than it saves. Among
# very many documents, whose lengths and postings are in no fast memory, it saves more.
_SPARSE, _MANY = 100, 1 << 19
_SPARSE_OF_MANY, _VERY_LARGE = 20, 1 << 18


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, average, now, form, dfs, ats,
    order, weights, ends, first, last, generation, slots, parts, kept, dense, tags, sums, candidates, base, wanted,
    told, found, best_ids, best_scores,
):  # fmt: skip
    """Offer what a segment has for queries first..last - 1 to the heaps (`best`) in rows of best_ids, best_scores.

    Of documents wanted int64 (n, c), `base` + a slot, put the scores in told float32 (n, c), zeros, as `score` does.
    c may be 0.

    dfs int32, ats int64 (m,): what `segments.find_terms` said of all terms; order int32, weights float32, ends int64:
    see `bm25.plan`. found int64 (n,): items in each heap, k > 0 have room. removed, removals: see
    `segments.find_slots`; allowed uint8: empty, or which slots may be found. average, now: of lengths, when the segment
    was made and now. generation, slots, parts, kept, dense, tags: see `lists`, with rows for the terms of the longest
    query; the last three may be empty. candidates int32 (w,): scratch for a window of w documents, a multiple
    of STEP; sums float32 (w + 64,): zeros, and zeros again when this returns.
    O(postings), less what need not be looked at; c for each window, and `score` where one was pruned.
    """
    longest = slots.shape[0] // BLOCK - kept.shape[0]
    cursors, room = np.empty(longest * lists.CURSOR, np.int64), np.empty(2 * BLOCK, np.int32)
    singles, rest = np.empty(longest, np.float32), np.empty(longest + 1, np.float32)
    dirty, bits = np.zeros(candidates.shape[0] >> _GROUP, np.int32), sums.view(np.int32)
    k = best_ids.shape[1]
    highest, pool = np.empty(k if k <= BLOCK else 0, np.float32), np.empty(best.room(k), np.int64)
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
        sparse = _SPARSE if ids.shape[0] < _VERY_LARGE else _SPARSE_OF_MANY
        prune = postings_of_all * sparse < ids.shape[0] or postings_of_all > _MANY
        if prune and entire:
            for i in range(terms):
                scale = max(ratio * np.float32(1.00001), np.float32(1))
                least = lists.kth_part(cursors, np.int64(i), k, highest, block_best, scale, form)
                floor = max(floor, weights[begin + i] * least)
        found[query], skipped = _search(
            ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, ratio, form, terms,
            begin, weights, prune, floor, cursors, slots, parts, generation, kept, dense, room, singles, rest, sums,
            bits, dirty, candidates, base, wanted[query], told[query], pool, found[query], best_ids[query],
            best_scores[query], best_scores[query].view(np.int32),
        )  # fmt: skip
        if skipped > 0 and wanted.shape[1] > 0:
            score(
                lengths, postings, block_last, block_at, form, dfs, ats, order, weights, ends, query, query + 1,
                generation, slots, parts, kept, dense, tags, base, wanted, told,
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


@njit_no_nrt(cache=True)
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


@njit_no_nrt(cache=True, error_model="numpy")
def _search(
    ids, lengths, removed, removals, allowed, postings, block_last, block_at, block_best, ratio, form, terms, begin,
    weights, prune, floor, cursors, slots, parts, generation, kept, dense, room, singles, rest, sums, bits, dirty,
    candidates, base, wanted, told, pool, found, heap_ids, heap_scores, heap_bits,
):  # fmt: skip
    """One query. The number of items in its heap, and of windows that were pruned."""
    k, n = heap_ids.shape[0], ids.shape[0]
    scale = min(ratio * np.float32(0.99999), np.float32(1))
    slack = np.float32(1) + np.float32(1e-6) * np.float32(terms + 4)
    # What is left may be small beside the sum: then it is the sum that rounding makes larger.
    lower = np.float32(1) - np.float32(2e-7) * np.float32(terms + 4)
    low, pruned = np.int64(0), np.int64(0)
    # Floats that are not negative are in the order of their bits.
    limit = np.int64(heap_bits[0]) if found == k else np.int64(1)
    if pool.shape[0] > 0:
        best.clear(pool)
    while low < n:
        high = min(low + candidates.shape[0], n)
        threshold = (max(floor, np.int32(limit).view(np.float32)) if limit > 1 else floor) * lower
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
        pruned += np.int64(i < terms)
        if i == terms:
            for j in range(wanted.shape[0]):
                at = wanted[j] - base - low
                if 0 <= at < high - low:
                    told[j] = sums[np.uint64(at)]
            found, limit = _offer_all(
                ids, removed, removals, allowed, low, high, added * _CROWDED > high - low, limit, sums, bits, dirty,
                pool, found, heap_ids, heap_scores, heap_bits,
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
                if bits[at] >= limit:
                    found, limit = _offer(
                        ids, removed, removals, allowed, low + at, np.int64(bits[at]), limit, pool, found, heap_ids,
                        heap_scores, heap_bits,
                    )  # fmt: skip
            _zero(sums, dirty)
        low = high
    if pool.shape[0] > 0:
        found = best.take(pool, ids, heap_ids, heap_scores, found)
    return found, pruned


@njit_no_nrt(cache=True)
def _offer(
    ids, removed, removals, allowed, slot, total, limit, pool, found, heap_ids, heap_scores, heap_bits
):  # fmt: skip
    """Offer a document whose score has the bits `total`, to the pool if it has room: items in the heap, and the limit.

    The limit is the least bits of a score that may be among the best.
    """
    if removed.shape[0] > 0 and removed[slot] <= removals:
        return found, limit
    if allowed.shape[0] > 0 and not allowed[slot]:
        return found, limit
    if pool.shape[0] > 0:
        best.keep(pool, slot, total)
        return found, max(limit, best.least(pool, heap_ids.shape[0]))
    found = best.offer(heap_ids, heap_scores, found, ids[slot], np.int32(total).view(np.float32))
    return found, np.int64(heap_bits[0]) if found == heap_ids.shape[0] else np.int64(1)


@njit_no_nrt(cache=True, forceinline=True)
def _offer_all(
    ids, removed, removals, allowed, low, high, crowded, limit, sums, bits, dirty, pool, found, heap_ids, heap_scores,
    heap_bits,
):  # fmt: skip
    """Offer every document of the window, and make its sums 0."""
    if crowded:
        for start in range(0, high - low, 64):
            found, limit = _offer_some(
                at_least(bits, start, limit), start, ids, removed, removals, allowed, low, limit, bits, pool, found,
                heap_ids, heap_scores, heap_bits,
            )  # fmt: skip
            for i in range(np.uint64(start), np.uint64(start + 64)):
                sums[i] = 0
        dirty[:] = 0
        return found, limit
    for first in range(0, dirty.shape[0], 64):
        groups = at_least(dirty, first, 1)
        while groups != np.uint64(0):
            start = (first + lowest_bit(groups)) << _GROUP
            groups &= groups - np.uint64(1)
            found, limit = _offer_some(
                at_least(bits, start, limit) & _FEW, start, ids, removed, removals, allowed, low, limit, bits, pool,
                found, heap_ids, heap_scores, heap_bits,
            )  # fmt: skip
            for i in range(np.uint64(start), np.uint64(start + (1 << _GROUP))):
                sums[i] = 0
    dirty[:] = 0
    return found, limit


@njit_no_nrt(cache=True, forceinline=True)
def _offer_some(
    mask, start, ids, removed, removals, allowed, low, limit, bits, pool, found, heap_ids, heap_scores, heap_bits
):  # fmt: skip
    """Offer the documents from `start` on whose bits are set in `mask`, those that reach the limit: see `_offer`."""
    while mask != np.uint64(0):
        at = start + lowest_bit(mask)
        mask &= mask - np.uint64(1)
        if bits[np.uint64(at)] >= limit:
            total = np.int64(bits[np.uint64(at)])
            found, limit = _offer(
                ids, removed, removals, allowed, low + at, total, limit, pool, found, heap_ids, heap_scores, heap_bits
            )
    return found, limit


@njit_no_nrt(cache=True, forceinline=True)
def _collect(bits, sums, dirty, threshold, candidates):
    """List the documents of the window with a sum, of at least `threshold`. How many."""
    count = np.int64(0)
    limit = max(np.int64(np.float32(threshold).view(np.int32)), np.int64(1))
    for first in range(0, dirty.shape[0], 64):
        groups = at_least(dirty, first, 1)
        while groups != np.uint64(0):
            start = (first + lowest_bit(groups)) << _GROUP
            groups &= groups - np.uint64(1)
            mask = at_least(bits, start, limit) & _FEW
            while mask != np.uint64(0):
                candidates[np.uint64(count)] = start + lowest_bit(mask)
                mask &= mask - np.uint64(1)
                count += 1
    return count


@njit_no_nrt(cache=True, forceinline=True)
def _filter(sums, candidates, count, rest, threshold):
    """Keep the candidates that may still reach the threshold. How many."""
    stay = np.uint64(0)
    for j in range(np.uint64(count)):
        at = np.uint64(np.uint32(candidates[j]))
        candidates[stay] = candidates[j]
        stay += np.uint64(sums[at] + rest >= threshold)
    return np.int64(stay)


@njit_no_nrt(cache=True)
def _zero(sums, dirty):
    """Make the sums of the window 0."""
    for first in range(0, dirty.shape[0], 64):
        groups = at_least(dirty, first, 1)
        while groups != np.uint64(0):
            start = (first + lowest_bit(groups)) << _GROUP
            groups &= groups - np.uint64(1)
            for i in range(np.uint64(start), np.uint64(start + (1 << _GROUP))):
                sums[i] = 0
    dirty[:] = 0
