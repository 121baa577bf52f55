"""One query in one call, from its text to the best documents: the steps cost less than calls of them from outside."""

import numpy as np

from . import bm25, maxscore, segments, tokens
from .best import finish
from .compiling import njit

# Rows of what is found out about the terms.
ATS, DFS, ORDER, WEIGHTS, ENDS, ROWS = 0, 1, 2, 3, 4, 5


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    raw, size, v_data, v_offsets, v_buckets, buckets, dictionary, ids, lengths, removed, allowed, postings, block_last,
    block_at, block_best, average, now, form, documents, method, k1, factors, generation, slots, parts, kept, dense,
    tags, sums, candidates, plan, best_ids, best_scores,
):  # fmt: skip
    """Find the best documents of a segment, of which none is removed, for a text. The number of distinct terms.

    raw uint8 (64 * blocks,): `size` bytes of ASCII, then separators, a block of them at the end (`tokens.cut_short`,
    whose vocabulary is left out). buckets to block_best: the segment (`segments`), `average` its lengths' when it was
    made. documents, now: live documents and their average length; form, method, k1: see `bm25`. removed, allowed,
    factors: empty. generation to candidates: see `maxscore.search`, with rows for size // 2 + 1 terms.
    plan int64 (ROWS, size // 2 + 1): its rows begin with what `segments.find_terms` and `bm25.plan` say, ATS int64, DFS
    and ORDER int32, WEIGHTS float32, ENDS int64 (1,). best_ids int64 and best_scores float32 (1, k), k > 0: the best
    documents in order, then -1 and -inf.
    """
    blocks, most, zero, one = np.int64(raw.shape[0] >> 6), plan.shape[1], np.int64(0), np.int64(1)
    data, masks = np.empty(raw.shape[0], np.uint8), np.empty((blocks, tokens.MASKS), np.uint64)
    # starts, stops, hashes, numbers; offsets, at, text_ends, found
    narrow, few = np.empty((4, most), np.int32), np.zeros(8, np.int64)
    few[1] = size
    m = tokens.cut_short(
        raw, data, masks, few[:2], few[2:5], v_data, v_offsets, v_buckets, narrow[0], narrow[1],
        narrow[2].view(np.uint32), few[5:6],
    )  # fmt: skip
    starts, stops, hashes, totals = narrow[0][:m], narrow[1][:m], narrow[2].view(np.uint32)[:m], plan[ENDS]
    ats, dfs, order, weights = (
        plan[ATS],
        plan[DFS].view(np.int32),
        plan[ORDER].view(np.int32),
        plan[WEIGHTS].view(np.float32),
    )
    totals[:m] = 0
    segments.find_terms(buckets, dictionary, data, starts, stops, hashes, dfs, ats, narrow[3], totals)
    ordered = few[7:8]
    longest = bm25.plan(
        data, starts, stops, hashes, few[5:6], totals, factors, documents, method, k1, order, weights, ordered
    )  # fmt: skip
    plan[ENDS, 0] = ordered[0]
    maxscore.search(
        ids, lengths, removed, zero, allowed, postings, block_last, block_at, block_best, average, now, form, dfs, ats,
        order, weights, ordered, zero, one, generation, slots, parts, kept, dense, tags, sums, candidates, few[6:7],
        best_ids, best_scores,
    )  # fmt: skip
    finish(best_ids[0], best_scores[0], few[6])
    return longest
