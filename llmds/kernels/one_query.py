"""One query in one call, from its text to the best documents: the steps cost less than calls of them from outside."""

import numpy as np

from . import bm25, maxscore, segments, tokens
from .best import finish
from .compiling import njit


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    raw, size, v_data, v_offsets, v_buckets, buckets, dictionary, ids, lengths, removed, allowed, postings, block_last,
    block_at, block_best, average, now, form, documents, method, k1, factors, generation, slots, parts, kept, dense,
    tags, dfs, ats, order, weights, ends, best_ids, best_scores,
):  # fmt: skip
    """Find the best documents of a segment, of which none is removed, for a text. The number of distinct terms.

    raw uint8 (64 * blocks,): `size` bytes of ASCII, then separators, a block of them at the end (`tokens.cut_short`,
    whose vocabulary is left out). buckets to block_best: the segment (`segments`), `average` its lengths' when it was
    made. documents, now: live documents and their average length; form, method, k1: see `bm25`. removed, allowed,
    factors: empty. generation to tags: see `lists`, with rows for size // 2 + 1 terms. dfs int32, ats int64, order
    int32, weights float32, (size // 2 + 1,) each, and ends int64 (1,) become what `segments.find_terms` and `bm25.plan`
    say; best_ids int64 and best_scores float32 (1, k), k > 0, the best documents in order, then -1 and -inf.
    """
    blocks, most, zero, one = np.int64(raw.shape[0] >> 6), dfs.shape[0], np.int64(0), np.int64(1)
    data, masks = np.empty(raw.shape[0], np.uint8), np.empty((blocks, tokens.MASKS), np.uint64)
    starts, stops, hashes = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.uint32)
    offsets, at, found = np.zeros(2, np.int64), np.zeros(3, np.int64), np.zeros(1, np.int64)
    numbers, totals = np.empty(most, np.int32), np.zeros(most, np.int64)
    offsets[1] = size
    text_ends = np.empty(1, np.int64)
    m = tokens.cut_short(
        raw, data, masks, offsets, at, v_data, v_offsets, v_buckets, starts, stops, hashes, text_ends
    )  # fmt: skip
    starts, stops, hashes = starts[:m], stops[:m], hashes[:m]
    segments.find_terms(buckets, dictionary, data, starts, stops, hashes, dfs, ats, numbers, totals)
    longest = bm25.plan(
        data, starts, stops, hashes, text_ends, totals, factors, documents, method, k1, order, weights, ends
    )  # fmt: skip
    maxscore.search(
        ids, lengths, removed, zero, allowed, postings, block_last, block_at, block_best, average, now, form, dfs, ats,
        order, weights, ends, zero, one, generation, slots, parts, kept, dense, tags, found, best_ids, best_scores,
    )  # fmt: skip
    finish(best_ids[0], best_scores[0], found[0])
    return longest
