"""The best documents of a segment for a query: block-max MaxScore, one window of documents at a time.

Turtle and Flood 1995 (MaxScore), Ding and Suel 2011 (maxima of blocks), both over windows: Mallia, Mackenzie, Suel and
Tonellotto 2022. Terms are added in the order of `bm25.plan` whatever is skipped, so a score is the same float32, bit
for bit, as if every posting had been added.
"""

from typing import NamedTuple

import numpy as np

from .. import topk
from ..compiling import njit, njit_no_nrt
from ..simd import at_least, lowest_bit
from . import cursors as posting_cursors
from .blocks import BLOCK
from .layout import Cursors, GivenDocuments, Postings

_GROUP = 5  # 2**5 sums are examined, and set to zero again, at once
_FEW = np.uint64((1 << (1 << _GROUP)) - 1)
# If more postings are added than one for so many documents, all sums are examined, 64 at once.
_CROWDED = 64
STEP = 64 << _GROUP  # a window has a multiple of so many documents
# All of the next term is added if there are so many postings, or candidates, for each of its blocks.
_ADDED, _PROBED = 60, 15
# Skipping documents pays if there are fewer postings than one for so many documents, or more than _MANY. In very large
# segments, whose lengths and postings are not in a fast cache, it pays earlier.
_SPARSE, _MANY = 100, 1 << 19
_SPARSE_OF_MANY, _VERY_LARGE = 20, 1 << 18


class Eligible(NamedTuple):
    """The documents that may be found: see `layout.SegmentArrays`. allowed uint8: by slot, empty if all are allowed."""

    ids: np.ndarray
    removed: np.ndarray
    removals: int
    allowed: np.ndarray


class Window(NamedTuple):
    """The sums of a window: float32, and the same bytes as int32; which groups of them changed; scratch."""

    sums: np.ndarray
    bits: np.ndarray
    dirty: np.ndarray
    candidates: np.ndarray


class Heap(NamedTuple):
    """The best documents of one query (`topk`): a heap, the bits of its scores, and a pool of keys or (0,)."""

    ids: np.ndarray
    scores: np.ndarray
    bits: np.ndarray
    pool: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def search(segment, allowed, form, average, found, terms, first, last, workspace, given, best):
    """Offer the documents of a segment to the heaps `best` of queries first..last - 1.

    segment, found, terms, workspace, given, best: the groups SegmentArrays, TermPostings, QueryTerms, Workspace,
    GivenDocuments and Best of `layout`; the workspace has rows for the terms of the longest query, and windows of a
    multiple of STEP documents. allowed uint8: for each slot whether it may be found, or empty. form: see `bm25.form`;
    average: the average length now. The scores of given documents are those that `score` computes.

    O(postings), less what is skipped; and for given documents O(c) for each window, plus `score` if any was skipped.
    """
    order, weights, ends = terms.order, terms.weights, terms.ends
    longest = workspace.slots.shape[0] // BLOCK - workspace.kept.shape[0]
    positions, scratch = np.empty(longest * posting_cursors.CURSOR, np.int64), np.empty(2 * BLOCK, np.int32)
    cursors = Cursors(
        positions, workspace.slots, workspace.parts, scratch, workspace.generation, workspace.kept, workspace.dense,
        workspace.tags,
    )  # fmt: skip
    postings = Postings(segment.postings, segment.block_last, segment.block_at, segment.lengths, form)
    singles, rest = np.empty(longest, np.float32), np.empty(longest + 1, np.float32)
    sums, candidates = workspace.sums, workspace.candidates
    window = Window(sums, sums.view(np.int32), np.zeros(candidates.shape[0] >> _GROUP, np.int32), candidates)
    k, n = best.ids.shape[1], segment.ids.shape[0]
    highest, pool = np.empty(k if k <= BLOCK else 0, np.float32), np.empty(topk.pool_size(k), np.int64)
    eligible = Eligible(segment.ids, segment.removed, segment.removals, allowed)
    entire = segment.removed.shape[0] == 0 and allowed.shape[0] == 0
    ratio = np.float32(segment.average / average) if segment.average > 0 and average > 0 else np.float32(1)
    for query in range(first, last):
        begin = ends[query - 1] if query > 0 else np.int64(0)
        count = ends[query] - begin
        postings_of_all, floor = np.int64(0), np.float32(0)
        for i in range(count):
            df, at = np.int64(found.dfs[order[begin + i]]), found.ats[order[begin + i]]
            singles[i] = posting_cursors.enter(cursors, postings, np.int64(i), df, at)
            if cursors.tags.shape[0] > 0 and df > BLOCK and df * posting_cursors.COMMON >= n:
                posting_cursors.make_dense(cursors, postings, np.int64(i), at)
            else:
                postings_of_all += df
        sparse = _SPARSE if n < _VERY_LARGE else _SPARSE_OF_MANY
        prune = postings_of_all * sparse < n or postings_of_all > _MANY
        if prune and entire:
            for i in range(count):
                scale = max(ratio * np.float32(1.00001), np.float32(1))
                least = posting_cursors.kth_part(
                    cursors.positions, np.int64(i), k, highest, segment.block_best, scale, form
                )
                floor = max(floor, weights[begin + i] * least)
        heap = Heap(best.ids[query], best.scores[query], best.scores[query].view(np.int32), pool)
        one = GivenDocuments(given.base, given.documents[query : query + 1], given.scores[query : query + 1])
        best.counts[query], skipped = _search(
            eligible, segment.block_best, ratio, cursors, postings, weights[begin : begin + count], singles, rest,
            prune, floor, window, one, heap, best.counts[query],
        )  # fmt: skip
        if skipped > 0 and given.documents.shape[1] > 0:
            score(segment, form, found, terms, query, query + 1, workspace, given)


@njit(cache=True, nogil=True, error_model="numpy")
def score(segment, form, found, terms, first, last, workspace, given):
    """Compute the scores of given documents of queries first..last - 1 that are in this segment.

    The arguments are those of `search`. O(documents * (terms + log documents)).
    """
    order, weights, ends = terms.order, terms.weights, terms.ends
    documents, scores, base = given.documents, given.scores, given.base
    longest = workspace.slots.shape[0] // BLOCK - workspace.kept.shape[0]
    positions, scratch = np.empty(longest * posting_cursors.CURSOR, np.int64), np.empty(2 * BLOCK, np.int32)
    cursors = Cursors(
        positions, workspace.slots, workspace.parts, scratch, workspace.generation, workspace.kept, workspace.dense,
        workspace.tags,
    )  # fmt: skip
    postings = Postings(segment.postings, segment.block_last, segment.block_at, segment.lengths, form)
    keys, n, zero = np.empty(documents.shape[1], np.int64), segment.lengths.shape[0], np.int64(0)
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
            df, at = np.int64(found.dfs[order[i]]), found.ats[order[i]]
            if df == 0:
                continue
            posting_cursors.enter(cursors, postings, zero, df, at)
            if cursors.tags.shape[0] > 0 and df > BLOCK and df * posting_cursors.COMMON >= n:
                posting_cursors.make_dense(cursors, postings, zero, at)
            for j in range(wanted):
                scores[query, keys[j] & 0xFFFFFFFF] += weights[i] * posting_cursors.value(
                    cursors, postings, zero, keys[j] >> 32
                )


@njit_no_nrt(cache=True)
def sort_ascending(keys, n):
    """Sort the first n keys, in place (Shell 1959)."""
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
    eligible, block_best, ratio, cursors, postings, weights, singles, rest, prune, floor, window, given, heap, found
):  # fmt: skip
    """Search for one query. Returns how many documents its heap has, and in how many windows some were skipped.

    weights float32 (terms,); singles: what `cursors.enter` returned for each; rest float32 (terms + 1,): scratch.
    """
    sums, dirty, candidates, block_last = window.sums, window.dirty, window.candidates, postings.block_last
    k, n, terms = heap.ids.shape[0], eligible.ids.shape[0], weights.shape[0]
    scale = min(ratio * np.float32(0.99999), np.float32(1))
    slack = np.float32(1) + np.float32(1e-6) * np.float32(terms + 4)
    # The rest may be small beside the sum; then rounding may make the sum itself larger.
    lower = np.float32(1) - np.float32(2e-7) * np.float32(terms + 4)
    low, pruned = np.int64(0), np.int64(0)
    # Floats that are not negative are in the order of their bits.
    limit = np.int64(heap.bits[0]) if found == k else np.int64(1)
    if heap.pool.shape[0] > 0:
        topk.clear_pool(heap.pool)
    while low < n:
        high = min(low + candidates.shape[0], n)
        threshold = (max(floor, np.int32(limit).view(np.float32)) if limit > 1 else floor) * lower
        essential, undecided = terms, True
        rest[terms] = 0
        if prune:
            for i in range(terms - 1, -1, -1):
                posting_cursors.restore(cursors, postings, np.int64(i))
                posting_cursors.seek(cursors, postings, np.int64(i), low)
                peak = posting_cursors.peak_before(
                    cursors.positions, cursors.slots, np.int64(i), high, singles[i], block_last, block_best, scale,
                    postings.form,
                )  # fmt: skip
                rest[i] = rest[i + 1] + peak * weights[i] * slack
                undecided = undecided and rest[i] < threshold
                if undecided:
                    essential = i
        added, i = np.int64(0), np.int64(0)
        while i < terms and (i < essential or added > _ADDED * posting_cursors.effort(cursors, postings, i, high)):
            added += posting_cursors.add(cursors, postings, i, low, high, weights[i], sums, dirty, _GROUP)
            i += 1
        pruned += np.int64(i < terms)
        if i == terms:
            for j in range(given.documents.shape[1]):
                at = given.documents[0, j] - given.base - low
                if 0 <= at < high - low:
                    given.scores[0, j] = sums[np.uint64(at)]
            found, limit = _offer_all(eligible, window, heap, low, high, added * _CROWDED > high - low, limit, found)
        elif added > 0:
            count = _collect(window.bits, sums, dirty, threshold - rest[i], candidates)
            while i < terms and count > 0:
                if count > _PROBED * posting_cursors.effort(cursors, postings, i, high):
                    posting_cursors.add(cursors, postings, i, low, high, weights[i], sums, dirty, _GROUP)
                    count = _filter(sums, candidates, count, rest[i + 1], threshold)
                else:
                    count = posting_cursors.probe(
                        cursors, postings, i, low, weights[i], rest[i + 1], threshold, sums, candidates, count
                    )
                i += 1
            for j in range(count):
                at = np.int64(candidates[j])
                if window.bits[at] >= limit:
                    found, limit = _offer(eligible, heap, low + at, np.int64(window.bits[at]), limit, found)
            _zero(sums, dirty)
        low = high
    if heap.pool.shape[0] > 0:
        found = topk.pool_to_heap(heap.pool, eligible.ids, heap.ids, heap.scores, found)
    return found, pruned


@njit_no_nrt(cache=True)
def _offer(eligible, heap, slot, total, limit, found):
    """Offer a document, whose score has the bits `total`, to the pool, or to the heap if there is no pool.

    Returns how many documents the heap has, and the limit: the smallest bits of a score that may be among the best.
    """
    if eligible.removed.shape[0] > 0 and eligible.removed[slot] <= eligible.removals:
        return found, limit
    if eligible.allowed.shape[0] > 0 and not eligible.allowed[slot]:
        return found, limit
    if heap.pool.shape[0] > 0:
        topk.push_to_pool(heap.pool, slot, total)
        return found, max(limit, topk.pool_limit(heap.pool, heap.ids.shape[0]))
    found = topk.push_to_heap(heap.ids, heap.scores, found, eligible.ids[slot], np.int32(total).view(np.float32))
    return found, np.int64(heap.bits[0]) if found == heap.ids.shape[0] else np.int64(1)


@njit_no_nrt(cache=True, forceinline=True)
def _offer_all(eligible, window, heap, low, high, crowded, limit, found):
    """Offer every document of the window, and set its sums to zero. Returns as `_offer`."""
    sums, bits, dirty = window.sums, window.bits, window.dirty
    if crowded:
        for start in range(0, high - low, 64):
            found, limit = _offer_some(eligible, bits, heap, at_least(bits, start, limit), start, low, limit, found)
            for i in range(np.uint64(start), np.uint64(start + 64)):
                sums[i] = 0
        dirty[:] = 0
        return found, limit
    for first in range(0, dirty.shape[0], 64):
        groups = at_least(dirty, first, 1)
        while groups != np.uint64(0):
            start = (first + lowest_bit(groups)) << _GROUP
            groups &= groups - np.uint64(1)
            mask = at_least(bits, start, limit) & _FEW
            found, limit = _offer_some(eligible, bits, heap, mask, start, low, limit, found)
            for i in range(np.uint64(start), np.uint64(start + (1 << _GROUP))):
                sums[i] = 0
    dirty[:] = 0
    return found, limit


@njit_no_nrt(cache=True, forceinline=True)
def _offer_some(eligible, bits, heap, mask, start, low, limit, found):
    """Offer the documents from `start` on whose bits are set in `mask`, if they reach the limit."""
    while mask != np.uint64(0):
        at = start + lowest_bit(mask)
        mask &= mask - np.uint64(1)
        if bits[np.uint64(at)] >= limit:
            found, limit = _offer(eligible, heap, low + at, np.int64(bits[np.uint64(at)]), limit, found)
    return found, limit


@njit_no_nrt(cache=True, forceinline=True)
def _collect(bits, sums, dirty, threshold, candidates):
    """List the documents of the window whose sum is not 0 and reaches `threshold`. Returns how many there are."""
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
    """Keep the candidates that may still reach the threshold. Returns how many there are."""
    stay = np.uint64(0)
    for j in range(np.uint64(count)):
        at = np.uint64(np.uint32(candidates[j]))
        candidates[stay] = candidates[j]
        stay += np.uint64(sums[at] + rest >= threshold)
    return np.int64(stay)


@njit_no_nrt(cache=True)
def _zero(sums, dirty):
    """Set the sums of the window to zero."""
    for first in range(0, dirty.shape[0], 64):
        groups = at_least(dirty, first, 1)
        while groups != np.uint64(0):
            start = (first + lowest_bit(groups)) << _GROUP
            groups &= groups - np.uint64(1)
            for i in range(np.uint64(start), np.uint64(start + (1 << _GROUP))):
                sums[i] = 0
    dirty[:] = 0
