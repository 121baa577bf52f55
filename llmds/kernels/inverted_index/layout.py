"""The arrays of an inverted index, and the groups in which kernels take them.

An index consists of immutable segments (`SegmentArrays`) and one tail that grows (`TailArrays`). A document has a
slot, its number inside a segment or inside the tail. The owner of all arrays is the class above; a kernel keeps none.
"""

from typing import NamedTuple

import numpy as np


class SegmentArrays(NamedTuple):
    """The arrays of one segment. None of them ever changes, except `removed`.

    Slots 0..n-1 are in ascending order of the documents' ids. Terms are in ascending order of their hashes
    (`tokenizer.hash_term`), then of their lengths, then of their bytes.

    ids          int64 (n,)           ids of the documents, ascending
    lengths      int32 (n,)           number of terms of each document, repeated ones counted
    buckets      uint32 (2**b + 1, 3) for all terms whose hashes begin with the same b bits: where the first one
                                      is in `dictionary` (segment.DICTIONARY) and its postings in `postings`
                                      (segment.POSTINGS), and how many terms come before it (segment.TERMS)
    dictionary   uint8                for each term: its length, its document frequency and the size of its
                                      postings as varints, then its bytes
    postings     uint8                for each term: a term of up to BLOCK documents has one block (`blocks`);
                                      any other has the number of its first block, uint32, and then its blocks,
                                      of BLOCK postings each but for the last
    block_last   int32 (m,)           the last slot of each of those numbered blocks
    block_at     uint32 (m,)          where each of them begins in `postings`
    block_best   uint8 (2 * m,)       float16: the smallest norm / tf in each of them, rounded down, with the norm
                                      (`bm25`) of the average length `average`
    average      float                average length of documents when the segment was made
    removed      int32 (n,) or (0,)   empty if no document was ever removed; else the number of each slot's
                                      removal, 1 or more, and segment.NEVER for the others
    removals     int                  removals to be observed: a document is removed if its number is not larger

    `dictionary` and `postings` end with blocks.PAD zeros, so that decoding stays inside the arrays whatever they
    contain. Another thread may remove documents meanwhile: their removals have numbers above `removals`.
    """

    ids: np.ndarray
    lengths: np.ndarray
    buckets: np.ndarray
    dictionary: np.ndarray
    postings: np.ndarray
    block_last: np.ndarray
    block_at: np.ndarray
    block_best: np.ndarray
    average: float
    removed: np.ndarray
    removals: int


class TailArrays(NamedTuple):
    """The arrays of the tail. Slots are assigned in the order of addition and are not reused.

    Numbers of terms come from the tail's vocabulary (`kernels.tokenizer`).

    head            int64 (HEAD,)   tail.SLOTS assigned, REMOVED of these; LIVE documents, the sum of their
                                    LENGTHs, their distinct TERMS and POSTINGS; entries in use of the POOL and of
                                    FORWARD
    doc_ids         int64 (c,)      id of the document in each slot
    lengths         int32 (c,)      its number of terms, repeated ones counted
    removed         int32 (c,)      the number of its removal, 1 or more; tail.NEVER
    forward_starts  int64 (c + 1,)  the distinct terms of slot s are forward[forward_starts[s]:forward_starts[s + 1]]
    forward         int32           numbers of terms
    id_buckets      int32 (2**n,)   hash table of slots by id, -1 where empty; removed slots stay in it; at most
                                    half full
    terms           int32 (t, 6)    for each term: row[FIRST] and row[LAST], where its first and its last chunk
                                    begin (0: none); row[FILL], postings in the last one; row[DF] and row[DEAD],
                                    postings in live and in removed documents; row[AT] is scratch of the writer
    slots, tfs      int32 (p,)      the pool of chunks: the postings of a chunk that begins at i are in slots[i:],
                                    ascending, then NEVER, with the term's frequencies in tfs[i:]; tfs[i - 1] is
                                    its capacity, slots[i - 1] where the next chunk begins (0: none). Outside of
                                    chunks, NEVER and 0

    A reader takes all arrays at one moment, with a copy of `head`. What the writer appends later has slots that the
    copy does not count, and removals have numbers that it does not count: the reader continues to see the documents of
    that moment. (Only row[DEAD] may count later removals.) If the writer has moved to a larger pool, a chunk may begin
    outside of the reader's pool, or be empty in it; such a chunk has no document that the reader counts.
    """

    head: np.ndarray
    doc_ids: np.ndarray
    lengths: np.ndarray
    removed: np.ndarray
    forward_starts: np.ndarray
    forward: np.ndarray
    id_buckets: np.ndarray
    terms: np.ndarray
    slots: np.ndarray
    tfs: np.ndarray


class Arrays(NamedTuple):
    """All arrays of an inverted index at one moment: its segments, its tail, and the vocabulary of the tail.

    `vocabulary` has the fields head, data, offsets and buckets of `kernels.tokenizer`.
    """

    segments: tuple[SegmentArrays, ...]
    tail: TailArrays
    vocabulary: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class QueryTerms(NamedTuple):
    """The distinct terms of n queries in the order in which their scores are added (`bm25.plan`).

    order    int32 (m,)    places of the terms among all terms that were looked up
    weights  float32 (m,)  their weights
    ends     int64 (n,)    the terms of query q end before ends[q]
    """

    order: np.ndarray
    weights: np.ndarray
    ends: np.ndarray


class TermPostings(NamedTuple):
    """Where a segment has the postings of m terms (`segment.find_terms`).

    dfs  int32 (m,)  numbers of documents; 0 where the segment does not have the term
    ats  int64 (m,)  where the postings begin in `postings`
    """

    dfs: np.ndarray
    ats: np.ndarray


class Postings(NamedTuple):
    """What is needed to decode postings of a segment and to score them.

    `data` is the segment's `postings`; `block_last`, `block_at` and `lengths` are as there; `form` float32 (FORM,) has
    the constants of BM25 (`bm25.form`).
    """

    data: np.ndarray
    block_last: np.ndarray
    block_at: np.ndarray
    lengths: np.ndarray
    form: np.ndarray


class Cursors(NamedTuple):
    """Positions in the posting lists of a query's terms, and the blocks that are decoded (`cursors`).

    positions   int64 (terms * CURSOR,)  the state of each cursor
    slots       int32 (rows * BLOCK,)    decoded documents, a row for each entry of `kept`, then one for each term
    parts       float32, as `slots`      what each of these postings adds to the score, for a weight of 1
    scratch     int32 (2 * BLOCK,)
    generation  int                      1..2**30: kept blocks and dense rows of other generations are not valid
    kept        int64 (2**p,) or (0,)    the block that is decoded in each row: generation << 33 | block << 1, | 1
                                         if `parts` are computed too
    dense       float32 (d * documents,) rows of parts of all documents, 0 where there is none, for frequent terms
    tags        int64 (d,)               the term of each of these rows: generation << 32 | where its postings begin
    """

    positions: np.ndarray
    slots: np.ndarray
    parts: np.ndarray
    scratch: np.ndarray
    generation: int
    kept: np.ndarray
    dense: np.ndarray
    tags: np.ndarray


class Workspace(NamedTuple):
    """What a search of a segment works with, and keeps for later searches: see `Cursors` and `maxscore.search`.

    sums        float32 (w + 64,)  scores of a window of w documents: zeros, and zeros again after the search
    candidates  int32 (w,)         scratch
    """

    generation: int
    slots: np.ndarray
    parts: np.ndarray
    kept: np.ndarray
    dense: np.ndarray
    tags: np.ndarray
    sums: np.ndarray
    candidates: np.ndarray


class GivenDocuments(NamedTuple):
    """Documents whose scores are wanted, whether or not they are among the best.

    base       int              the place of the first slot
    documents  int64 (n, c)     for each query, places: `base` + slot; others belong to another segment
    scores     float32 (n, c)   filled in, zeros at first; c may be 0
    """

    base: int
    documents: np.ndarray
    scores: np.ndarray


class Best(NamedTuple):
    """For each of n queries the best k > 0 documents found so far, as a heap (`topk`).

    ids     int64 (n, k)
    scores  float32 (n, k)
    counts  int64 (n,)      documents in each heap
    """

    ids: np.ndarray
    scores: np.ndarray
    counts: np.ndarray


class Ranking(NamedTuple):
    """How documents are scored at one moment.

    form       float32 (FORM,)  constants of BM25 (`bm25.form`)
    method     int              number of the method (`bm25`)
    k1         float
    documents  int              number of live documents
    average    float            their average length
    """

    form: np.ndarray
    method: int
    k1: float
    documents: int
    average: float


class NewSegment(NamedTuple):
    """The arrays of a segment that is being written, filled from their beginning on.

    cursor      int64 (CURSOR,)    bytes of `dictionary` and `postings`, blocks, terms, postings and rows of
                                   `buckets` written so far (segment_write.DICTIONARY, POSTINGS, BLOCKS, TERMS,
                                   ENTRIES, BUCKETS)
    best        float32 (m,)       the smallest norm / tf of each block, which `block_best` is made of
    numbers     int32 (2 * BLOCK,) scratch
    base, slope float32            norm = base + slope * length

    The other arrays are those of `SegmentArrays`.
    """

    cursor: np.ndarray
    buckets: np.ndarray
    dictionary: np.ndarray
    postings: np.ndarray
    block_last: np.ndarray
    block_at: np.ndarray
    best: np.ndarray
    numbers: np.ndarray
    base: np.float32
    slope: np.float32


class MergeSource(NamedTuple):
    """One of two segments that are being merged.

    state      int64 (SOURCE,)  the term that comes next (`segment_write.read_term`)
    new_slots  int32 (n,)       the slot of each document in the new segment, -1 if it is removed
    end        int              bytes of `dictionary` in use

    The other arrays are those of `SegmentArrays`.
    """

    state: np.ndarray
    new_slots: np.ndarray
    end: int
    dictionary: np.ndarray
    postings: np.ndarray
    block_last: np.ndarray
    block_at: np.ndarray
