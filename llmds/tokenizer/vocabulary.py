"""Terms numbered in the order they come, without a Python object for any of them."""

from typing import NamedTuple

import numpy as np

from ..base import arguments
from ..kernels import tokenizer as kernels

MAX_TERMS = 2**31 - 1


class Terms(NamedTuple):
    """The terms of some texts: term i is data[starts[i]:stops[i]], those of text j end before ends[j].

    uint8 (bytes,), int32 (m,), int32 (m,), uint32 (m,), int64 (texts,).
    """

    data: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    hashes: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_strings(cls, name: str, strings: list[str], ends: np.ndarray) -> "Terms":
        """Terms that somebody else has cut."""
        return cls.of_ranges(*arguments.packed_strings(name, strings), ends)

    @classmethod
    def of_ranges(cls, data: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> "Terms":
        """Terms that lie end to end."""
        if data.size > MAX_TERMS:
            raise ValueError(f"terms must be less than 2**31 bytes a call, got {data.size}")
        starts, stops = offsets[:-1].astype(np.int32), offsets[1:].astype(np.int32)
        hashes = np.empty(len(starts), np.uint32)
        kernels.hash_terms(data, starts, stops, hashes)
        return cls(data, starts, stops, hashes, ends)

    def strings(self) -> list[str]:
        """Every term as a str."""
        data = self.data.tobytes()
        return [
            data[start:stop].decode("utf-8", "surrogatepass")
            for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        ]


class Vocabulary(NamedTuple):
    """The arrays of `kernels.tokenizer`. Growth makes another tuple, so that readers of this one go on undisturbed."""

    head: np.ndarray
    data: np.ndarray
    offsets: np.ndarray
    buckets: np.ndarray

    @classmethod
    def empty(cls, terms: int = 16, size: int = 128) -> "Vocabulary":
        """Room for `terms` terms of `size` bytes in all."""
        return cls(
            np.zeros(2, np.int64),
            np.zeros(size, np.uint8),
            np.zeros(terms + 1, np.int64),
            np.full(1 << max(2 * terms - 1, 1).bit_length(), -1, np.int64),
        )

    @property
    def terms(self) -> int:
        """Number of terms."""
        return int(self.head[kernels.TERMS])

    @property
    def room(self) -> int:
        """Number of terms that these arrays may come to hold."""
        return min(len(self.offsets) - 1, len(self.buckets) // 2)

    def find(self, terms: Terms) -> np.ndarray:
        """The number of every term, int32 (m,), -1 for unknown ones. O(bytes)."""
        found = np.empty(len(terms.starts), np.int32)
        kernels.find(*self[1:], terms.data, terms.starts, terms.stops, terms.hashes, found)
        return found

    def intern(self, terms: Terms) -> tuple["Vocabulary", np.ndarray]:
        """The number of every term, int32 (m,), unknown ones added; and the vocabulary to go on with.

        Amortised O(bytes).
        """
        vocabulary = self
        numbers = np.empty(len(terms.starts), np.int32)
        done = 0
        while True:
            done = kernels.intern(
                *vocabulary, terms.data, terms.starts, terms.stops, terms.hashes, done, numbers
            )  # fmt: skip
            if done == len(numbers):
                return vocabulary, numbers
            vocabulary = vocabulary._grown(int(terms.stops[done]) - int(terms.starts[done]))

    def _grown(self, size: int) -> "Vocabulary":
        """With room for at least one more term, of `size` bytes.

        All arrays are new ones, or a reader of the old tuple would find a term there whose bytes are only here.
        """
        terms, used = self.terms, int(self.head[kernels.BYTES])
        if terms == MAX_TERMS:
            raise ValueError("a vocabulary holds at most 2**31-1 terms")
        room = self.room if terms < self.room else min(2 * terms + 16, MAX_TERMS)
        longer = used + size > len(self.data)
        data = np.zeros(max(2 * len(self.data), used + size) if longer else len(self.data), np.uint8)
        offsets = np.zeros(room + 1, np.int64)
        data[:used], offsets[: terms + 1] = self.data[:used], self.offsets[: terms + 1]
        return Vocabulary(self.head.copy(), data, offsets, self._rehashed(room, np.empty(0, np.int32)))

    def kept(self, keep: np.ndarray) -> tuple["Vocabulary", np.ndarray]:
        """Only the terms where `keep` (bool) is true, no byte more than needed; and the new number of every term.

        int32, -1 for those that left. O(terms).
        """
        terms = self.terms
        renumbered = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
        lengths = np.diff(self.offsets[: terms + 1])
        offsets = np.zeros(int(keep.sum()) + 1, np.int64)
        np.cumsum(lengths[keep], out=offsets[1:])
        data = self.data[: self.offsets[terms]][np.repeat(keep, lengths)]
        head = np.array([len(offsets) - 1, len(data)], np.int64)
        buckets = self._rehashed(len(offsets) - 1, renumbered if terms else np.empty(0, np.int32))
        return Vocabulary(head, data, offsets, buckets), renumbered

    def _rehashed(self, terms: int, renumbered: np.ndarray) -> np.ndarray:
        buckets = Vocabulary.empty(terms, 0).buckets
        kernels.rehash(self.buckets, buckets, renumbered)
        return buckets

    def strings(self, first: int) -> list[str]:
        """The terms from number `first` on, as str."""
        offsets = self.offsets[first : self.terms + 1]
        data = self.data[offsets[0] : offsets[-1]]
        return Terms.of_ranges(data, offsets - offsets[0], np.empty(0, np.int64)).strings()

    def ranges(self, numbers: np.ndarray, ends: np.ndarray) -> Terms:
        """The terms of these numbers, int32 (m,), as ranges of the vocabulary's own bytes."""
        offsets = self.offsets
        starts, stops = offsets[numbers].astype(np.int32), offsets[numbers + 1].astype(np.int32)
        hashes = np.empty(len(numbers), np.uint32)
        kernels.hash_terms(self.data, starts, stops, hashes)
        return Terms(self.data, starts, stops, hashes, ends)

    def fault(self) -> str | None:
        """The first invariant that does not hold, in words. Safe on any contents."""
        if len(self.head) != 2 or len(self.offsets) < 1 or len(self.buckets).bit_count() != 1:
            return "the vocabulary's arrays do not fit one another"
        fault = int(kernels.vocabulary_fault(*self))
        return None if fault == -1 else f"term {fault} is not where its hash leads, or its bytes are lost"
