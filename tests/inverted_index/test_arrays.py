"""`InvertedIndex.arrays` in a user's own compiled loops."""

import numpy as np
import pytest
from numba import njit

from llmds.inverted_index.index import InvertedIndex
from llmds.kernels import tokenizer
from llmds.kernels.inverted_index import bm25, cursors, segment, tail
from llmds.kernels.inverted_index.layout import Arrays, Postings, SegmentArrays, TailArrays
from tests.inverted_index.model import filled


def as_bytes(term):
    return np.frombuffer(term.encode(), np.uint8).copy()


@njit
def postings_of(arrays, form, term):
    """The ids of the documents in a segment that have a term (uint8), and what it adds to their scores."""
    zero, end = np.int64(0), np.int64(term.shape[0])
    hashed = np.int64(tokenizer.hash_term(term, zero, end))
    df, at, _ = segment.find_term(arrays.buckets, arrays.dictionary, term, zero, end, hashed)
    postings = Postings(arrays.postings, arrays.block_last, arrays.block_at, arrays.lengths, form)
    walk = cursors.new(1)
    cursors.enter(walk, postings, zero, df, at)
    ids, parts, total = np.empty(df, np.int64), np.empty(df, np.float32), 0
    n = cursors.next_block(walk, postings, zero)
    while n > 0:
        for j in range(n):
            ids[total], parts[total] = arrays.ids[walk.slots[j]], walk.parts[j]
            total += 1
        n = cursors.next_block(walk, postings, zero)
    return ids[:total], parts[:total]


@njit
def renumber(arrays, distance):
    """Add a number to the id of every document of a segment."""
    for slot in range(arrays.ids.shape[0]):
        arrays.ids[slot] += distance


@njit
def frequencies_in_the_tail(arrays, vocabulary, term):
    """How often each slot of the tail has a term (uint8)."""
    hashed, found = np.empty(1, np.uint32), np.empty(1, np.int32)
    hashed[0] = tokenizer.hash_term(term, np.int64(0), np.int64(term.shape[0]))
    begin, end = np.zeros(1, np.int32), np.full(1, term.shape[0], np.int32)
    tokenizer.find(vocabulary.data, vocabulary.offsets, vocabulary.buckets, term, begin, end, hashed, found)
    counts = np.zeros(arrays.head[tail.SLOTS], np.int64)
    for slot in range(counts.shape[0]):
        if found[0] >= 0:
            counts[slot] = tail.frequency(arrays.terms, arrays.slots, arrays.tfs, np.int64(found[0]), slot)
    return counts


@pytest.mark.parametrize("word", ["w1", "w2", "w40", "nowhere"])  # of several blocks, of one, and of none
def test_a_loop_over_the_postings_of_a_segment(word):
    index, model = filled(900)
    index.shrink_to_fit()
    arrays = index.arrays
    assert type(arrays) is Arrays and [type(each) for each in arrays.segments] == [SegmentArrays]
    (own,) = arrays.segments
    form = bm25.form(bm25.LUCENE, 1.2, 0.75, 0.0, own.average)
    ids, parts = postings_of(own, form, as_bytes(word))
    expected = sorted(doc_id for doc_id, counts in model.documents.items() if word in counts)
    assert ids.tolist() == expected
    for doc_id, part in zip(expected, parts, strict=True):
        counts = model.documents[doc_id]
        assert part == bm25.part(np.float32(counts[word]), np.float32(counts.total()), form)


def test_the_index_has_what_a_loop_writes():
    index, _ = filled()
    index.shrink_to_fit()
    before = index.search("w1 w2", 20)
    renumber(index.arrays.segments[0], 10_000)
    assert index.search("w1 w2", 20) == [(doc_id + 10_000, score) for doc_id, score in before]
    assert before[0][0] not in index and before[0][0] + 10_000 in index
    index.check()


def test_a_loop_over_the_tail():
    index = InvertedIndex()
    index.add_documents([5, 9, 2], ["a a b", "b", "c a"])
    index.remove_document(9)
    arrays = index.arrays
    assert type(arrays.tail) is TailArrays and arrays.segments == ()
    for word in ("a", "b", "c", "d"):
        counts = frequencies_in_the_tail(arrays.tail, arrays.vocabulary, as_bytes(word))
        for slot, doc_id in enumerate(arrays.tail.doc_ids[: arrays.tail.head[tail.SLOTS]].tolist()):
            if doc_id in index:
                assert counts[slot] == index.get_term_frequency(word, doc_id)


def test_arrays_are_not_copies_and_are_replaced_by_writes():
    index, _ = filled()
    index.shrink_to_fit()
    one, other = index.arrays, index.arrays
    assert all(mine is theirs for mine, theirs in zip(one.segments[0], other.segments[0], strict=True))
    assert all(mine is theirs for mine, theirs in zip(one.tail, other.tail, strict=True))
    index.add_document(1, "new")
    assert index.arrays.tail.head[tail.LIVE] == 1 and one.tail.head[tail.LIVE] == 0
