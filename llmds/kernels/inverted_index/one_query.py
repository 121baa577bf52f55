"""One query in one call, from its text to the best documents: the steps cost less than calls of them from outside."""

import numpy as np

from .. import fusion
from .. import tokenizer as tokens
from ..compiling import njit
from ..topk import finish
from . import bm25, maxscore
from . import segment as segments

# Rows of what is found out about the terms: what `segments.find_terms` and `bm25.plan` say.
_ATS, _DFS, _ORDER, _WEIGHTS, _TOTALS, _ROWS = 0, 1, 2, 3, 4, 5


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    raw, size, v_data, v_offsets, v_buckets, buckets, dictionary, ids, lengths, removed, allowed, postings, block_last,
    block_at, block_best, average, now, form, documents, method, k1, factors, generation, slots, parts, kept, dense,
    tags, sums, candidates, others, beside, best_ids, best_scores,
):  # fmt: skip
    """Find the best documents of a segment, of which none is removed, for a text. The number of distinct terms.

    raw uint8 (64 * blocks,): `size` bytes of ASCII, then separators, a block of them at the end (`tokens.cut_short`,
    whose vocabulary is left out). buckets to block_best: the segment (`segments`), `average` its lengths' when it was
    made. documents, now: live documents and their average length; form, method, k1: see `bm25`. removed, allowed,
    factors: empty. generation to candidates: see `maxscore.search`, with rows for size // 2 + 1 terms.
    best_ids int64 and best_scores float32 (1, k), k > 0: the best documents in order, then -1 and -inf. others int64
    (1, k) or (1, 0): documents, or -1, beside which these are put: beside int64 (fusion.BESIDE, k or 0).
    """
    blocks, most, zero, one = np.int64(raw.shape[0] >> 6), size // 2 + 1, np.int64(0), np.int64(1)
    data, masks = np.empty(raw.shape[0], np.uint8), np.empty((blocks, tokens.MASKS), np.uint64)
    # starts, stops, hashes, numbers; offsets, at, text_ends, found
    narrow, few = np.empty((4, most), np.int32), np.zeros(8, np.int64)
    plan = np.empty((_ROWS, most), np.int64)
    few[1] = size
    m = tokens.cut_short(
        raw, data, masks, few[:2], few[2:5], v_data, v_offsets, v_buckets, narrow[0], narrow[1],
        narrow[2].view(np.uint32), few[5:6],
    )  # fmt: skip
    starts, stops, hashes, totals = narrow[0][:m], narrow[1][:m], narrow[2].view(np.uint32)[:m], plan[_TOTALS]
    ats, dfs, order, weights = (
        plan[_ATS],
        plan[_DFS].view(np.int32),
        plan[_ORDER].view(np.int32),
        plan[_WEIGHTS].view(np.float32),
    )
    totals[:m] = 0
    segments.find_terms(buckets, dictionary, data, starts, stops, hashes, dfs, ats, narrow[3], totals)
    ordered = few[7:8]
    longest = bm25.plan(
        data, starts, stops, hashes, few[5:6], totals, factors, documents, method, k1, order, weights, ordered
    )  # fmt: skip
    width, places = others.shape[1], beside[fusion.TEXT_ONLY :]
    told = beside[fusion.TOLD].view(np.float32)[:width].reshape((1, width))
    for i in range(width):
        told[0, i], places[0, i] = 0, segments.find_slot(ids, others[0, i])
    maxscore.search(
        ids, lengths, removed, zero, allowed, postings, block_last, block_at, block_best, average, now, form, dfs, ats,
        order, weights, ordered, zero, one, generation, slots, parts, kept, dense, tags, sums, candidates, zero,
        places, told, few[6:7], best_ids, best_scores,
    )  # fmt: skip
    finish(best_ids[0], best_scores[0], few[6])
    if width > 0:
        dense_at = beside[fusion.DENSE_AT].view(np.int32)[:width]
        text_at = beside[fusion.TEXT_AT].view(np.int32)[:width]
        table = np.empty(fusion.buckets(width), np.int32)
        fusion.cross_one(others[0], best_ids[0], dense_at, text_at, places[0], table)
    return longest
