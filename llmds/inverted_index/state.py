"""The state of an inverted index at one moment: its segments, and its tail."""

from typing import NamedTuple

import numpy as np

from ..kernels.inverted_index import segment as segment_kernels
from ..kernels.inverted_index import tail as tail_kernels
from ..kernels.inverted_index.layout import TermPostings
from ..tokenizer.vocabulary import Terms
from .segments import Segment
from .tail import Tail


class View(NamedTuple):
    """All arrays, published together: a reader with this tuple is not disturbed when the writer makes another.

    Every document has a place: its slot, plus the number of slots of all segments before its own. The tail is last.
    """

    segments: tuple[Segment, ...]
    tail: Tail
    documents: int
    length: int

    @classmethod
    def of(cls, segments: tuple[Segment, ...], tail: Tail) -> "View":
        """Return a view with the number of live documents and the sum of their lengths."""
        head = tail.seen.head
        documents = sum([segment.live for segment in segments], int(head[tail_kernels.LIVE]))
        length = sum([segment.length for segment in segments], int(head[tail_kernels.LENGTH]))
        return cls(segments, tail, documents, length)

    @classmethod
    def empty(cls) -> "View":
        """Return a view without documents."""
        return cls((), Tail.empty(), 0, 0)

    @property
    def average(self) -> float:
        """Mean length of live documents, 0 if there are none."""
        return self.length / max(self.documents, 1)

    @property
    def bases(self) -> list[int]:
        """The first place of each segment, and of the tail."""
        bases = [0]
        for segment in self.segments:
            bases.append(bases[-1] + len(segment.arrays.ids))
        return bases

    def places_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the places int64 (m,) of ids int64 (m,), -1 where no live document has the id. O(m log n)."""
        found = np.full(len(ids), -1, np.int64)
        bases = self.bases
        for segment, base in zip(self.segments, bases, strict=False):
            segment.slots_of(ids, base, found)
        self.tail.slots_of(ids, bases[-1], found)
        return found

    def length_at(self, place: int) -> int:
        """Return the number of terms of the document at a place."""
        for segment, base in zip(self.segments, self.bases, strict=False):
            if place < base + len(segment.arrays.ids):
                return int(segment.arrays.lengths[place - base])
        return int(self.tail.seen.lengths[place - self.bases[-1]])

    def ids(self) -> np.ndarray:
        """Return the ids of all live documents, int64. O(documents)."""
        parts = [segment.arrays.ids[segment.live_slots()] for segment in self.segments]
        return np.concatenate([*parts, self.tail.live_ids()])

    def masks_of(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return, for each segment and the tail, a mask uint8 of the slots whose documents have one of these ids."""
        bases = self.bases
        mask = np.zeros(bases[-1] + int(self.tail.seen.head[tail_kernels.SLOTS]), np.uint8)
        places = self.places_of(ids)
        mask[places[places >= 0]] = 1
        return np.split(mask, bases[1:]) if self.segments else [mask]

    def replaced(self, at: int, segment: Segment) -> "View":
        """Return the view with another segment in that place."""
        return View.of((*self.segments[:at], segment, *self.segments[at + 1 :]), self.tail)


_NO_NUMBERS = np.empty(0, np.int32)


class Found(NamedTuple):
    """Where the m terms of some queries are.

    postings: where each segment has them. numbers: their numbers in the tail, int32 (m,), -1 where unknown, or (0,) if
    the tail is empty. dfs: how many live documents have them, int64 (m,).
    """

    postings: list[TermPostings]
    numbers: np.ndarray
    dfs: np.ndarray

    def at_least_one(self, view: View) -> np.ndarray:
        """Return `dfs`, but 1 instead of 0 where the documents were removed after the moment of this view."""
        if not view.tail.written.head[tail_kernels.REMOVED] and not any(
            segment.arrays.removals for segment in view.segments
        ):
            return self.dfs
        held = np.zeros(len(self.dfs), np.int64)
        for found in self.postings:
            held[found.dfs > 0] = 1
        if len(self.numbers):
            held[self.numbers >= 0] = 1
        return np.maximum(self.dfs, held)

    @classmethod
    def of(cls, view: View, terms: Terms) -> "Found":
        """Look the terms up. O(bytes), plus O(1) for each document removed since they were looked up last."""
        m = len(terms.starts)
        postings, total = [], np.zeros(m, np.int64)
        for segment in view.segments:
            dfs, ats, numbers = np.empty(m, np.int32), np.empty(m, np.int64), np.empty(m, np.int32)
            segment_kernels.find_terms(
                segment.arrays.buckets, segment.arrays.dictionary, terms.data, terms.starts, terms.stops, terms.hashes,
                dfs, ats, numbers, total,
            )  # fmt: skip
            postings.append(TermPostings(dfs, ats))
            if segment.arrays.removals:
                total -= segment.removed_of(dfs, ats, numbers)
        numbers = _NO_NUMBERS
        if view.tail.live:
            numbers = view.tail.vocabulary.find(terms)
            total += view.tail.frequencies_of(numbers, len(terms.ends) > 1)
        return cls(postings, numbers, total)
