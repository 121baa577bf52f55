"""Terms as arrays, and their numbers, without a Python object for each term."""

from typing import NamedTuple

import numpy as np

from ..base import arguments
from ..kernels import tokenizer as kernels

MAX_TERMS = 2**31 - 1


class Terms(NamedTuple):
    """The m terms of some texts: term i is data[starts[i]:stops[i]]; the terms of text j end before ends[j]."""

    data: np.ndarray  # uint8 (bytes,)
    starts: np.ndarray  # int32 (m,)
    stops: np.ndarray  # int32 (m,)
    hashes: np.ndarray  # uint32 (m,)
    ends: np.ndarray  # int64 (texts,)

    @classmethod
    def of_strings(cls, name: str, strings: list[str], ends: np.ndarray) -> "Terms":
        """Return strings as terms; the terms of text j end before ends[j]. O(bytes)."""
        return cls.of_ranges(*arguments.packed_strings(name, strings), ends)

    @classmethod
    def of_ranges(cls, data: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> "Terms":
        """Return the terms data[offsets[i]:offsets[i + 1]]; those of text j end before ends[j]. O(bytes)."""
        if data.size > MAX_TERMS:
            raise ValueError(f"terms must be less than 2**31 bytes in one call, got {data.size}")
        starts, stops = offsets[:-1].astype(np.int32), offsets[1:].astype(np.int32)
        hashes = np.empty(len(starts), np.uint32)
        kernels.hash_terms(data, starts, stops, hashes)
        return cls(data, starts, stops, hashes, ends)

    def strings(self) -> list[str]:
        """Return every term as a str. O(bytes)."""
        data = self.data.tobytes()
        return [
            data[start:stop].decode("utf-8", "surrogatepass")
            for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        ]


class Vocabulary(kernels.VocabularyArrays):
    """Distinct terms, numbered in the order in which they are added: the arrays of `kernels.tokenizer`.

    Growth returns another tuple, so that threads that read this one are not disturbed.
    """

    __slots__ = ()

    @classmethod
    def empty(cls, terms: int = 16, size: int = 128) -> "Vocabulary":
        """Return a vocabulary with room for `terms` terms of `size` bytes in all."""
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
        """Number of terms that these arrays have room for, those present included."""
        return min(len(self.offsets) - 1, len(self.buckets) // 2)

    def find(self, terms: Terms) -> np.ndarray:
        """Return the number of every term, int32 (m,), -1 for unknown ones. O(bytes)."""
        found = np.empty(len(terms.starts), np.int32)
        kernels.find(
            self.data, self.offsets, self.buckets, terms.data, terms.starts, terms.stops, terms.hashes, found
        )  # fmt: skip
        return found

    def intern(self, terms: Terms) -> tuple["Vocabulary", np.ndarray]:
        """Add unknown terms; return the vocabulary to use from now on, and the number of every term, int32 (m,).

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
        """Return a copy with room for at least one more term, of `size` bytes.

        All arrays are new: a reader of the old tuple must not find terms whose bytes are only in the new one.
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
        """Return a vocabulary of only the terms where `keep` (bool) is true, and the new number of every old term.

        The vocabulary has no room for more. The numbers are int32 (terms,), -1 for terms left out. O(bytes).
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
        """Return the terms from number `first` on, as str. O(bytes)."""
        offsets = self.offsets[first : self.terms + 1]
        data = self.data[offsets[0] : offsets[-1]]
        return Terms.of_ranges(data, offsets - offsets[0], np.empty(0, np.int64)).strings()

    def ranges(self, numbers: np.ndarray, ends: np.ndarray) -> Terms:
        """Return the terms of these numbers, int32 (m,), as ranges of the vocabulary's own bytes. O(bytes)."""
        offsets = self.offsets
        starts, stops = offsets[numbers].astype(np.int32), offsets[numbers + 1].astype(np.int32)
        hashes = np.empty(len(numbers), np.uint32)
        kernels.hash_terms(self.data, starts, stops, hashes)
        return Terms(self.data, starts, stops, hashes, ends)

    def fault(self) -> str | None:
        """Return a description of the first broken invariant, None if all hold. Safe on any contents. O(bytes)."""
        if len(self.head) != 2 or len(self.offsets) < 1 or len(self.buckets).bit_count() != 1:
            return "the sizes of the vocabulary's arrays do not match"
        fault = int(kernels.vocabulary_fault(*self))
        if fault == -2:
            return "the counts of the vocabulary are wrong"
        return None if fault == -1 else f"term {fault} of the vocabulary cannot be found, or its bytes are out of place"
