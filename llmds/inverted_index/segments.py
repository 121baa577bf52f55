"""Segments of an inverted index: how they are made, and removals from them."""

import threading
from typing import NamedTuple

import numpy as np

from ..base.fast_calls import Direct
from ..kernels import tokenizer
from ..kernels.inverted_index import blocks, segment_write, tail
from ..kernels.inverted_index import segment as kernels
from ..kernels.inverted_index.layout import MergeSource, NewSegment, SegmentArrays
from .tail import Tail

_direct = Direct(segment_write)
_counting = threading.Lock()
_ROOM = 1 << 12
# Terms a bucket: looking a term up reads half of those.
_TERMS_A_BUCKET = 8


class Segment(NamedTuple):
    """One segment: its arrays, and the removals from it.

    The arrays do not change. A reader that has this tuple continues to see the documents of its moment, since later
    removals have larger numbers.
    """

    arrays: SegmentArrays
    terms: int
    entries: int
    # Empty until a document is removed: the removed slots in the order of removal; and for every term how many of those
    # have it, of how many that have been examined.
    gone: np.ndarray
    dead: np.ndarray
    counted: np.ndarray
    live: int
    length: int

    @classmethod
    def of(cls, arrays: SegmentArrays, terms: int, entries: int) -> "Segment":
        """Return a segment without removed documents, given the numbers of its terms and postings."""
        none, lengths = np.empty(0, np.int32), arrays.lengths
        return cls(arrays, terms, entries, none, none, none, len(lengths), int(lengths.sum(dtype=np.int64)))

    @classmethod
    def empty(cls) -> "Segment":
        """Return a segment without documents."""
        return _Writer(0, 0, 0, 0.0, 0.0).finished(np.empty(0, np.int64), np.empty(0, np.int32))

    @property
    def owned(self) -> list[np.ndarray]:
        """All arrays, those of removals too."""
        own = [array for array in self.arrays if isinstance(array, np.ndarray)]
        return [*own, self.gone, self.dead, self.counted]

    @property
    def posting_bytes(self) -> int:
        """Bytes of postings and of the arrays of their blocks."""
        arrays = self.arrays
        return sum(each.nbytes for each in (arrays.postings, arrays.block_last, arrays.block_at, arrays.block_best))

    def slots_of(self, ids: np.ndarray, base: int, found: np.ndarray) -> None:
        """Set `found`, where it is -1, to `base` + the slot of each of ids, both int64 (m,), if it has a live one."""
        kernels.find_slots(self.arrays.ids, self.arrays.removed, self.arrays.removals, ids, base, found)

    def removed_of(self, dfs: np.ndarray, ats: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return how many of the removed documents have each term that `find_terms` found, int64 (m,).

        Documents removed after the moment of this tuple may be counted too.
        """
        arrays = self.arrays
        with _counting:  # readers share the counts
            kernels.count_removed(
                arrays.postings, arrays.block_last, arrays.block_at, arrays.removed, self.gone, arrays.removals, dfs,
                ats, numbers, self.dead, self.counted, np.empty(blocks.BLOCK, np.int32),
            )  # fmt: skip
            return np.where(dfs > 0, self.dead[numbers], 0)

    def live_slots(self) -> np.ndarray:
        """Return the slots of live documents."""
        arrays = self.arrays
        return np.flatnonzero(arrays.removed > arrays.removals) if arrays.removals else np.arange(len(arrays.ids))

    def without(self, slots: np.ndarray) -> "Segment":
        """Return the segment after the removal of live slots int64 (m,). O(m), the first time O(documents)."""
        arrays, gone, dead, counted = self.arrays, self.gone, self.dead, self.counted
        removed, before = arrays.removed, arrays.removals
        if not len(removed):
            removed = np.full(len(arrays.ids), kernels.NEVER, np.int32)
            dead, counted = (np.zeros(max(self.terms, 1), np.int32) for _ in range(2))
        count = before + len(slots)
        if count > len(gone):
            longer = np.zeros(max(2 * len(gone), count, 16), np.int32)
            longer[:before] = gone[:before]
            gone = longer
        gone[before:count] = slots
        removed[slots] = np.arange(before + 1, count + 1)
        return self._replace(
            arrays=arrays._replace(removed=removed, removals=count), gone=gone, dead=dead, counted=counted,
            live=self.live - len(slots), length=self.length - int(arrays.lengths[slots].sum(dtype=np.int64)),
        )  # fmt: skip


class _Writer:
    """The arrays of a segment that is being written, which are resized in place."""

    def __init__(self, terms: int, entries: int, words: int, average: float, b: float):
        bits = max(int(terms // _TERMS_A_BUCKET).bit_length() - 1, 0)
        self.average = average
        self.new = NewSegment(
            cursor=np.zeros(segment_write.CURSOR, np.int64),
            buckets=np.zeros(((1 << bits) + 1, kernels.COLUMNS), np.uint32),
            dictionary=np.empty(words + 8 * terms + blocks.PAD + _ROOM, np.uint8),
            postings=np.empty(2 * entries + blocks.PAD + _ROOM, np.uint8),
            block_last=np.empty(_ROOM, np.int32),
            block_at=np.empty(_ROOM, np.uint32),
            best=np.empty(_ROOM, np.float32),
            numbers=np.empty(2 * blocks.BLOCK, np.int32),
            base=np.float32(1 - b),
            slope=np.float32(b / average if average > 0 else 0),
        )

    def grow(self, lacking: int, df: int, word: int) -> None:
        """Make room for a term of so many postings and bytes at least."""
        new, number_of_blocks = self.new, -(-df // blocks.BLOCK)
        if lacking == segment_write.LACKS_DICTIONARY:
            _resize(new.dictionary, len(new.dictionary) * 5 // 4 + word + _ROOM)
        elif lacking == segment_write.LACKS_POSTINGS:
            _resize(new.postings, len(new.postings) * 5 // 4 + number_of_blocks * blocks.PAD + _ROOM)
        else:
            # Kernels check the last one: after an interruption in between the others are longer, which is harmless.
            for array in (new.best, new.block_at, new.block_last):
                _resize(array, len(array) * 5 // 4 + number_of_blocks + _ROOM)

    def finished(self, ids: np.ndarray, lengths: np.ndarray) -> Segment:
        """Return the segment, its arrays cut to the size that they need."""
        new = self.new
        words, used, number_of_blocks, terms, entries, _ = new.cursor.tolist()
        if max(words, used) + blocks.PAD >= 2**32:
            raise ValueError("a segment holds at most 4 GiB of postings")
        for array, size in ((new.dictionary, words), (new.postings, used)):
            _resize(array, size + blocks.PAD)
            array[size:] = 0
        for table in (new.block_last, new.block_at, new.best):
            _resize(table, number_of_blocks)
        with np.errstate(over="ignore"):
            best = new.best.astype(np.float16)
        high = best.astype(np.float32) > new.best
        best[high] = np.nextafter(best[high], np.float16(0))
        best[best < np.finfo(np.float16).tiny] = 0
        arrays = SegmentArrays(
            ids, lengths, new.buckets, new.dictionary, new.postings, new.block_last, new.block_at,
            best.view(np.uint8), self.average, np.empty(0, np.int32), 0,
        )  # fmt: skip
        return Segment.of(arrays, terms, entries)


class Freeze:
    """A segment made of the tail of an index, step by step."""

    def __init__(self, source: Tail, average: float, b: float):
        arrays, terms = source.written, source.vocabulary.terms
        used = int(arrays.head[tail.SLOTS])
        alive = arrays.removed[:used] == tail.NEVER
        ids = arrays.doc_ids[:used]
        self.ascending = bool(np.all(ids[1:] > ids[:-1]))
        sequence = np.flatnonzero(alive)
        if not self.ascending:
            sequence = sequence[np.argsort(ids[sequence])]
        self.renumbered = np.full(used, -1, np.int32)
        self.renumbered[sequence] = np.arange(len(sequence))
        self.ids, self.lengths = ids[sequence], arrays.lengths[sequence]
        v_data, v_offsets = source.vocabulary.data, source.vocabulary.offsets
        hashes = np.empty(terms, np.uint32)
        starts, stops = v_offsets[:terms].astype(np.int32), v_offsets[1 : terms + 1].astype(np.int32)
        tokenizer.hash_terms(v_data, starts, stops, hashes)
        self.order = np.argsort(hashes, kind="stable").astype(np.int32)
        self.hashes = hashes[self.order]
        segment_write.order_equal_hashes(self.order, self.hashes, v_data, v_offsets)
        most = int(arrays.terms[:terms, tail.DF].max(initial=0)) + int(arrays.head[tail.REMOVED])
        self.slots, self.tfs = np.empty(most + blocks.BLOCK, np.int32), np.empty(most + blocks.BLOCK, np.int32)
        self.writer = _Writer(terms, int(arrays.head[tail.POSTINGS]), int(v_offsets[terms]), average, b)
        self.source, self.reached = source, 0

    def step(self, budget: int) -> Segment | None:
        """Write about so many postings. Returns the segment when it is complete."""
        vocabulary = self.source.vocabulary
        while True:
            self.reached, state = _direct.freeze(
                self.source.written, vocabulary.data, vocabulary.offsets, self.order, self.hashes, self.renumbered,
                self.ascending, self.reached, budget, self.slots, self.tfs, self.lengths, self.writer.new,
            )  # fmt: skip
            if state == segment_write.DONE:
                return self.writer.finished(self.ids, self.lengths)
            if state == segment_write.PAUSED:
                return None
            term = self.order[self.reached]
            word = int(vocabulary.offsets[term + 1] - vocabulary.offsets[term])
            self.writer.grow(state, len(self.slots), word)


class Merge:
    """A segment made of the live documents of two, step by step. Documents of both may be removed meanwhile."""

    def __init__(self, left: Segment, right: Segment, average: float, b: float):
        self.segments = left, right
        room = left.live + right.live
        self.ids, self.lengths = np.empty(room, np.int64), np.empty(room, np.int32)
        self.sources = _source(left.arrays), _source(right.arrays)
        first, second = self.sources
        _direct.merge_documents(left.arrays, right.arrays, self.ids, self.lengths, first.new_slots, second.new_slots)
        for source in self.sources:
            segment_write.read_term(source.state, source.dictionary, source.end)
        most = len(left.arrays.ids) + len(right.arrays.ids) + blocks.BLOCK
        self.scratch = tuple(np.empty(most, np.int32) for _ in range(4))
        self.writer = _Writer(
            left.terms + right.terms, left.entries + right.entries, first.end + second.end, average, b
        )  # fmt: skip

    def step(self, budget: int) -> Segment | None:
        """Write about so many postings. Returns the segment when it is complete."""
        while True:
            state = _direct.merge(*self.sources, budget, *self.scratch, self.lengths, self.writer.new)
            if state == segment_write.DONE:
                return self.writer.finished(self.ids, self.lengths)
            if state == segment_write.PAUSED:
                return None
            states = [source.state for source in self.sources]
            df, word = (sum(int(each[f]) for each in states) for f in (segment_write.DF, segment_write.LENGTH))
            self.writer.grow(state, df, word)

    def lost(self, now: list[Segment]) -> np.ndarray:
        """Return the slots, in the new segment, of documents removed from the two since the merge began."""
        parts = [
            source.new_slots[later.gone[before.arrays.removals : later.arrays.removals]]
            for source, before, later in zip(self.sources, self.segments, now, strict=True)
        ]
        return np.concatenate(parts).astype(np.int64)


def _source(arrays: SegmentArrays) -> MergeSource:
    """Return a segment as a source of a merge, before its first term."""
    return MergeSource(
        np.zeros(segment_write.SOURCE, np.int64), np.empty(len(arrays.ids), np.int32),
        int(arrays.buckets[-1, kernels.DICTIONARY]), arrays.dictionary, arrays.postings, arrays.block_last,
        arrays.block_at,
    )  # fmt: skip


def _resize(array: np.ndarray, size: int) -> None:
    """Resize an array in place: the system moves its pages, nothing is copied."""
    array.resize(size, refcheck=False)
