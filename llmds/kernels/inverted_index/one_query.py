"""One query in one call, from its text to the best documents: calls from Python would cost more than its steps."""

import numpy as np

from .. import tokenizer
from ..compiling import njit
from ..topk import sort_heap
from . import bm25, maxscore, segment
from .layout import Best, GivenDocuments, QueryTerms, TermPostings

# Rows of an array with an entry for each term: what `segment.find_terms` and `bm25.plan` fill in.
_ATS, _DFS, _ORDER, _WEIGHTS, _TOTALS, _ROWS = 0, 1, 2, 3, 4, 5


@njit(cache=True, nogil=True, error_model="numpy")
def search(
    raw, size, stop_words, arrays, ranking, workspace, allowed, factors, given_ids, given_scores, best_ids, best_scores
):
    """Find the best documents for a text in a segment of which no document is removed.

    raw uint8 (64 * blocks,): `size` bytes of ASCII, then separators, the last block separators only
    (`tokenizer.cut_short`). stop_words: a vocabulary (head, data, offsets, buckets). arrays, ranking, workspace: the
    groups SegmentArrays, Ranking and Workspace of `layout`, with rows for size // 2 + 1 terms. allowed uint8 (0,) and
    factors float32 (0,) are empty. given_ids int64 (1, c): documents whose scores are wanted; c may be 0.

    Fills best_ids int64 and best_scores float32 (1, k), k > 0, with the best documents in order, then -1 and -inf; and
    given_scores float32 (1, c), 0 for documents that are not there. Returns the number of distinct terms, or -1 if no
    method has the number `ranking.method`.
    """
    blocks, most, zero, one = np.int64(raw.shape[0] >> 6), size // 2 + 1, np.int64(0), np.int64(1)
    data, masks = np.empty(raw.shape[0], np.uint8), np.empty((blocks, tokenizer.MASKS), np.uint64)
    # One array has offsets, at, ends of texts, documents in the heap and ends of queries, which are few numbers.
    narrow, few, rows = np.empty((4, most), np.int32), np.zeros(8, np.int64), np.empty((_ROWS, most), np.int64)
    starts, stops, hashes, numbers = narrow[0], narrow[1], narrow[2].view(np.uint32), narrow[3]
    offsets, at, text_ends, counts, query_ends = few[:2], few[2:5], few[5:6], few[6:7], few[7:8]
    offsets[1] = size
    m = tokenizer.cut_short(
        raw, data, masks, offsets, at, stop_words.data, stop_words.offsets, stop_words.buckets, starts, stops,
        hashes, text_ends,
    )  # fmt: skip
    starts, stops, hashes, totals = starts[:m], stops[:m], hashes[:m], rows[_TOTALS]
    found = TermPostings(rows[_DFS].view(np.int32), rows[_ATS])
    terms = QueryTerms(rows[_ORDER].view(np.int32), rows[_WEIGHTS].view(np.float32), query_ends)
    totals[:m] = 0
    segment.find_terms(
        arrays.buckets, arrays.dictionary, data, starts, stops, hashes, found.dfs, found.ats, numbers, totals
    )
    longest = bm25.plan(
        data, starts, stops, hashes, text_ends, totals, factors, ranking.documents, ranking.method, ranking.k1,
        terms.order, terms.weights, terms.ends,
    )  # fmt: skip
    if longest < 0:
        return longest
    slots = np.empty(given_ids.shape, np.int64)
    for i in range(given_ids.shape[1]):
        given_scores[0, i], slots[0, i] = 0, segment.find_slot(arrays.ids, given_ids[0, i])
    maxscore.search(
        arrays, allowed, ranking.form, ranking.average, found, terms, zero, one, workspace,
        GivenDocuments(zero, slots, given_scores), Best(best_ids, best_scores, counts),
    )  # fmt: skip
    sort_heap(best_ids[0], best_scores[0], counts[0])
    return longest
