"""Segments of an inverted index: what they are made of, how they are made, and what of them is removed."""

import threading
from typing import NamedTuple

import numpy as np

from ..kernels import tokenizer as tokens
from ..kernels.inverted_index import blocks, segment_write, tail
from ..kernels.inverted_index import segment as segments
from .tail import Tail

_counting = threading.Lock()
_ROOM = 1 << 12
# Terms a bucket: looking a term up reads half of those.
_TERMS_A_BUCKET = 8


class Segment(NamedTuple):
    """Arrays of `kernels.inverted_index.segment`, which never change; and what has been removed since they were made.

    Whoever has this tuple goes on seeing the documents of its moment: removals made later have larger numbers.
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
    terms: int
    entries: int
    # All are empty until a document is removed: number of the removal of every slot, removed slots in that order; of
    # every term: how many of those hold it, among how many that have been looked at.
    removed: np.ndarray
    gone: np.ndarray
    dead: np.ndarray
    counted: np.ndarray
    removals: int
    live: int
    length: int

    @classmethod
    def of(cls, arrays: tuple[np.ndarray, ...], average: float, terms: int, entries: int) -> "Segment":
        """A segment without removed documents: its first eight fields, and what they hold."""
        none = np.empty(0, np.int32)
        ids, lengths = arrays[:2]
        held = (average, terms, entries, none, none, none, none, 0, len(ids), int(lengths.sum(dtype=np.int64)))
        return cls._make((*arrays, *held))

    @classmethod
    def empty(cls) -> "Segment":
        """No documents."""
        return _Writer(0, 0, 0, 0.0, 0.0).finished(np.empty(0, np.int64), np.empty(0, np.int32))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, those of removals too."""
        return (*self[:8], *self[11:15])

    @property
    def lists(self) -> tuple[np.ndarray, ...]:
        """Where postings are."""
        return self.postings, self.block_last, self.block_at

    @property
    def posting_bytes(self) -> int:
        """What postings and their blocks take."""
        return sum(array.nbytes for array in (*self.lists, self.block_best))

    def slots_of(self, ids: np.ndarray, base: int, found: np.ndarray) -> None:
        """Where `found` is -1, put `base` + the slot of each of ids, both int64 (m,), if it is a live document here."""
        segments.find_slots(self.ids, self.removed, self.removals, ids, base, found)

    def removed_of(self, dfs: np.ndarray, ats: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """How many of the removed documents hold each term that `kernels.inverted_index.segment.find_terms` found,
        int64 (m,).

        Those that were removed after this moment may be among them.
        """
        with _counting:  # readers share what they have counted
            segments.count_removed(  # type: ignore[call-arg]
                *self.lists, self.removed, self.gone, self.removals, dfs, ats, numbers, self.dead, self.counted,
                np.empty(blocks.BLOCK, np.int32),
            )  # fmt: skip
            return np.where(dfs > 0, self.dead[numbers], 0)

    def live_slots(self) -> np.ndarray:
        """The slots of live documents."""
        return np.arange(len(self.ids)) if not self.removals else np.flatnonzero(self.removed > self.removals)

    def without(self, slots: np.ndarray) -> "Segment":
        """After the removal of live slots int64 (m,). O(m), the first time O(documents)."""
        removed, gone, dead, counted = self[11:15]
        if not len(removed):
            removed = np.full(len(self.ids), segments.NEVER, np.int32)
            dead, counted = (np.zeros(max(self.terms, 1), np.int32) for _ in range(2))
        count = self.removals + len(slots)
        if count > len(gone):
            longer = np.zeros(max(2 * len(gone), count, 16), np.int32)
            longer[: self.removals] = gone[: self.removals]
            gone = longer
        gone[self.removals : count] = slots
        removed[slots] = np.arange(self.removals + 1, count + 1)
        return self._replace(
            removed=removed, gone=gone, dead=dead, counted=counted, removals=count, live=self.live - len(slots),
            length=self.length - int(self.lengths[slots].sum(dtype=np.int64)),
        )  # fmt: skip


class _Writer:
    """The arrays of a segment while it is made, which grow where they are."""

    def __init__(self, terms: int, entries: int, words: int, average: float, b: float):
        bits = max(int(terms // _TERMS_A_BUCKET).bit_length() - 1, 0)
        self.buckets = np.zeros(((1 << bits) + 1, segments.COLUMNS), np.uint32)
        self.cursor = np.zeros(segment_write.CURSOR, np.int64)
        self.dictionary = np.empty(words + 8 * terms + blocks.PAD + _ROOM, np.uint8)
        self.postings = np.empty(2 * entries + blocks.PAD + _ROOM, np.uint8)
        self.block_last, self.block_at = np.empty(_ROOM, np.int32), np.empty(_ROOM, np.uint32)
        self.best = np.empty(_ROOM, np.float32)
        self.average = average
        self.norm = np.float32(1 - b), np.float32(b / average if average > 0 else 0)
        self.numbers = np.empty(2 * blocks.BLOCK, np.int32)

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """What kernels write to."""
        return (
            self.cursor, self.buckets, self.dictionary, self.postings, self.block_last, self.block_at, self.best,
            self.numbers,
        )  # fmt: skip

    def grow(self, lacking: int, df: int, word: int) -> None:
        """Make room for a term with so many postings and bytes at least."""
        number_of_blocks = -(-df // blocks.BLOCK)
        if lacking == segment_write.LACKS_DICTIONARY:
            _resize(self.dictionary, len(self.dictionary) * 5 // 4 + word + _ROOM)
        elif lacking == segment_write.LACKS_POSTINGS:
            _resize(self.postings, len(self.postings) * 5 // 4 + number_of_blocks * blocks.PAD + _ROOM)
        else:
            # The first is the one that kernels go by: if an interruption leaves the others longer, no harm is done.
            for array in (self.best, self.block_at, self.block_last):
                _resize(array, len(array) * 5 // 4 + number_of_blocks + _ROOM)

    def finished(self, ids: np.ndarray, lengths: np.ndarray) -> Segment:
        """The segment. Its arrays are no longer than they must be."""
        words, used, number_of_blocks, terms, entries = self.cursor[:5].tolist()
        if max(words, used) + blocks.PAD >= 2**32:
            raise ValueError("a segment holds at most 4 GiB of postings")
        for array, size in ((self.dictionary, words), (self.postings, used)):
            _resize(array, size + blocks.PAD)
            array[size:] = 0
        for table in (self.block_last, self.block_at, self.best):
            _resize(table, number_of_blocks)
        with np.errstate(over="ignore"):
            best = self.best.astype(np.float16)
        high = best.astype(np.float32) > self.best
        best[high] = np.nextafter(best[high], np.float16(0))
        best[best < np.finfo(np.float16).tiny] = 0
        arrays = (
            ids, lengths, self.buckets, self.dictionary, self.postings, self.block_last, self.block_at,
            best.view(np.uint8),
        )  # fmt: skip
        return Segment.of(arrays, self.average, terms, entries)


class Freeze:
    """A segment made of the growing end of an index, step by step."""

    def __init__(self, source: Tail, average: float, b: float):
        used, terms = int(source.head[tail.SLOTS]), source.vocabulary.terms
        alive = source.removed[:used] == tail.NEVER
        ids = source.doc_ids[:used]
        self.ascending = bool(np.all(ids[1:] > ids[:-1]))
        sequence = np.flatnonzero(alive)
        if not self.ascending:
            sequence = sequence[np.argsort(ids[sequence])]
        self.renumbered = np.full(used, -1, np.int32)
        self.renumbered[sequence] = np.arange(len(sequence))
        self.ids, self.lengths = ids[sequence], source.lengths[sequence]
        v_data, v_offsets = source.vocabulary.data, source.vocabulary.offsets
        hashes = np.empty(terms, np.uint32)
        starts, stops = v_offsets[:terms].astype(np.int32), v_offsets[1 : terms + 1].astype(np.int32)
        tokens.hash_terms(v_data, starts, stops, hashes)
        self.order = np.argsort(hashes, kind="stable").astype(np.int32)
        self.hashes = hashes[self.order]
        segment_write.order_equal_hashes(self.order, self.hashes, v_data, v_offsets)
        self.dfs = source.terms[:terms, tail.DF]
        most = int(source.terms[:terms, tail.DF].max(initial=0)) + int(source.head[tail.REMOVED])
        self.slots, self.tfs = np.empty(most + blocks.BLOCK, np.int32), np.empty(most + blocks.BLOCK, np.int32)
        self.writer = _Writer(
            terms, int(source.head[tail.POSTINGS]), int(v_offsets[terms]), average, b
        )  # fmt: skip
        self.source, self.reached = source, 0

    def step(self, budget: int) -> Segment | None:
        """Write about so many postings; the segment, when it is done."""
        source = self.source
        while True:
            self.reached, state = segment_write.freeze(
                source.head, source.terms, source.slots, source.tfs, source.vocabulary.data, source.vocabulary.offsets,
                self.order, self.hashes, self.renumbered, self.ascending, self.reached, budget, self.slots, self.tfs,
                self.lengths, *self.writer.norm, *self.writer.state,
            )  # fmt: skip
            if state == segment_write.DONE:
                return self.writer.finished(self.ids, self.lengths)
            if state == segment_write.PAUSED:
                return None
            term = self.order[self.reached]
            word = int(source.vocabulary.offsets[term + 1] - source.vocabulary.offsets[term])
            self.writer.grow(state, len(self.slots), word)


class Merge:
    """A segment made of the live documents of two, step by step. Both may lose documents meanwhile."""

    def __init__(self, left: Segment, right: Segment, average: float, b: float):
        self.sources = left, right
        self.new = tuple(np.empty(len(source.ids), np.int32) for source in self.sources)
        room = left.live + right.live
        self.ids, self.lengths = np.empty(room, np.int64), np.empty(room, np.int32)
        sides = ((side.ids, side.lengths, side.removed, side.removals) for side in self.sources)
        segment_write.merge_documents(*next(sides), *next(sides), self.ids, self.lengths, *self.new)
        self.states = np.zeros(segment_write.SOURCE, np.int64), np.zeros(segment_write.SOURCE, np.int64)
        self.ends = tuple(int(side.buckets[-1, segments.DICTIONARY]) for side in self.sources)
        for state, side, end in zip(self.states, self.sources, self.ends, strict=True):
            segment_write.read(state, side.dictionary, end)
        most = len(left.ids) + len(right.ids) + blocks.BLOCK
        self.scratch = tuple(np.empty(most, np.int32) for _ in range(4))
        self.writer = _Writer(
            left.terms + right.terms, left.entries + right.entries, sum(self.ends), average, b
        )  # fmt: skip

    def step(self, budget: int) -> Segment | None:
        """Write about so many postings; the segment, when it is done."""
        sides = [
            (state, new, side.dictionary, end, *side.lists)
            for state, new, side, end in zip(self.states, self.new, self.sources, self.ends, strict=True)
        ]
        while True:
            state = segment_write.merge(  # type: ignore[call-arg]
                *sides[0], *sides[1], budget, *self.scratch, self.lengths, *self.writer.norm, *self.writer.state
            )
            if state == segment_write.DONE:
                return self.writer.finished(self.ids, self.lengths)
            if state == segment_write.PAUSED:
                return None
            df, word = (sum(int(s[f]) for s in self.states) for f in (segment_write.DF, segment_write.LENGTH))
            self.writer.grow(state, df, word)

    def lost(self, now: list[Segment]) -> np.ndarray:
        """The slots, in the new segment, of documents that the two have lost since the merge began."""
        parts = [
            new[later.gone[before.removals : later.removals]]
            for new, before, later in zip(self.new, self.sources, now, strict=True)
        ]
        return np.concatenate(parts).astype(np.int64)


def _resize(array: np.ndarray, size: int) -> None:
    """Give an array another size where it is: the system moves its pages, nothing is copied."""
    array.resize(size, refcheck=False)
