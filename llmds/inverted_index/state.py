"""What an inverted index is at one moment: segments, and the growing end."""

from typing import NamedTuple

import numpy as np

from ..kernels.inverted_index import segment as segment_kernels
from ..kernels.inverted_index import tail as tail_kernels
from ..tokenizer.vocabulary import Terms
from .segments import Segment
from .tail import Tail


class View(NamedTuple):
    """All arrays, published together: whoever took this tuple goes on undisturbed when the writer makes another.

    Documents have places: those of a segment its slots after all places of the segments before it, those of the tail
    after all others.
    """

    segments: tuple[Segment, ...]
    tail: Tail
    documents: int
    length: int

    @classmethod
    def of(cls, segments: tuple[Segment, ...], tail: Tail) -> "View":
        """With the number of live documents, and of their terms, repeated ones counted."""
        seen = tail.seen
        documents = sum([segment.live for segment in segments], int(seen[tail_kernels.LIVE]))
        length = sum([segment.length for segment in segments], int(seen[tail_kernels.LENGTH]))
        return cls(segments, tail, documents, length)

    @classmethod
    def empty(cls) -> "View":
        """No documents."""
        return cls((), Tail.empty(), 0, 0)

    @property
    def average(self) -> float:
        """The mean length of live documents, 0 where there are none."""
        return self.length / max(self.documents, 1)

    @property
    def bases(self) -> list[int]:
        """The first place of every segment, and of the tail."""
        bases = [0]
        for segment in self.segments:
            bases.append(bases[-1] + len(segment.ids))
        return bases

    def places_of(self, ids: np.ndarray) -> np.ndarray:
        """The places of ids int64 (m,), int64 (m,), -1 where there is no such live document. O(m log n)."""
        found = np.full(len(ids), -1, np.int64)
        bases = self.bases
        for segment, base in zip(self.segments, bases, strict=False):
            segment.slots_of(ids, base, found)
        self.tail.slots_of(ids, bases[-1], found)
        return found

    def length_at(self, place: int) -> int:
        """Number of terms of the document at a place."""
        for segment, base in zip(self.segments, self.bases, strict=False):
            if place < base + len(segment.ids):
                return int(segment.lengths[place - base])
        return int(self.tail.lengths[place - self.bases[-1]])

    def ids(self) -> np.ndarray:
        """The ids of all live documents, int64. O(documents)."""
        parts = [segment.ids[segment.live_slots()] for segment in self.segments]
        return np.concatenate([*parts, self.tail.live_ids()])

    def masks_of(self, ids: np.ndarray) -> list[np.ndarray]:
        """For every segment and the tail, which of its slots hold one of these ids, uint8."""
        bases = self.bases
        mask = np.zeros(bases[-1] + int(self.tail.seen[tail_kernels.SLOTS]), np.uint8)
        places = self.places_of(ids)
        mask[places[places >= 0]] = 1
        return np.split(mask, bases[1:]) if self.segments else [mask]

    def replaced(self, at: int, segment: Segment) -> "View":
        """With another segment in that place."""
        return View.of((*self.segments[:at], segment, *self.segments[at + 1 :]), self.tail)


_NO_NUMBERS = np.empty(0, np.int32)


class Found(NamedTuple):
    """Where the terms of some queries are: of every segment df int32 and place of postings int64, (m,) each; the
    tail's number of each, int32 (m,), -1 where it knows none, (0,) where it is empty; the documents that hold it,
    int64 (m,)."""

    lists: list[tuple[np.ndarray, np.ndarray]]
    numbers: np.ndarray
    dfs: np.ndarray

    def at_least_one(self, view: View) -> np.ndarray:
        """`dfs`, but 1 where documents that are being removed would leave none of those that this moment has."""
        if not view.tail.head[tail_kernels.REMOVED] and not any(segment.removals for segment in view.segments):
            return self.dfs
        held = np.zeros(len(self.dfs), np.int64)
        for dfs, _ in self.lists:
            held[dfs > 0] = 1
        if len(self.numbers):
            held[self.numbers >= 0] = 1
        return np.maximum(self.dfs, held)

    @classmethod
    def of(cls, view: View, terms: Terms) -> "Found":
        """Look them up. O(bytes), and for each document that was removed since they were looked up last."""
        m = len(terms.starts)
        lists, total = [], np.zeros(m, np.int64)
        for segment in view.segments:
            dfs, ats, numbers = np.empty(m, np.int32), np.empty(m, np.int64), np.empty(m, np.int32)
            segment_kernels.find_terms(segment.buckets, segment.dictionary, *terms[:4], dfs, ats, numbers, total)
            lists.append((dfs, ats))
            if segment.removals:
                total -= segment.removed_of(dfs, ats, numbers)
        numbers = _NO_NUMBERS
        if view.tail.seen[tail_kernels.LIVE]:
            numbers = view.tail.vocabulary.find(terms)
            total += view.tail.frequencies_of(numbers, len(terms.ends) > 1)
        return cls(lists, numbers, total)
