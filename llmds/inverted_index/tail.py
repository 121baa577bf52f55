"""The tail of an inverted index, which holds the documents added last: its arrays, and how they grow."""

from typing import NamedTuple

import numpy as np

from ..base.arena import chunks
from ..base.fast_calls import Direct
from ..kernels.inverted_index import tail as kernels
from ..kernels.inverted_index import tail_check, tail_write
from ..kernels.inverted_index.layout import TailArrays
from ..tokenizer.vocabulary import Vocabulary

MOST = 2**31 - 1
_checks = Direct(tail_check)


class Tail(NamedTuple):
    """The arrays as readers see them, as the writer has them, and the vocabulary.

    Both share all arrays but `head`. They are published together in this tuple: a reader that has taken it continues
    to see the documents of that moment.
    """

    seen: TailArrays
    written: TailArrays
    vocabulary: Vocabulary

    @classmethod
    def empty(cls, documents: int = 16, forward: int = 64, pool: int = 256) -> "Tail":
        """Return a tail without documents, with room for so many documents, terms of documents, and postings."""
        vocabulary = Vocabulary.empty()
        return cls.of(
            TailArrays(
                head=np.zeros(kernels.HEAD, np.int64),
                doc_ids=np.zeros(documents, np.int64),
                lengths=np.zeros(documents, np.int32),
                removed=np.zeros(documents, np.int32),
                forward_starts=np.zeros(documents + 1, np.int64),
                forward=np.zeros(forward, np.int32),
                id_buckets=np.full(_bucket_count(documents), -1, np.int32),
                terms=np.zeros((vocabulary.room, kernels.COLUMNS), np.int32),
                slots=np.full(pool, kernels.NEVER, np.int32),
                tfs=np.zeros(pool, np.int32),
            ),
            vocabulary,
        )

    @classmethod
    def of(cls, arrays: TailArrays, vocabulary: Vocabulary) -> "Tail":
        """Return a tail of these arrays, of which readers see everything."""
        return cls(arrays._replace(head=arrays.head.copy()), arrays, vocabulary)

    @property
    def live(self) -> int:
        """Number of documents that a reader sees."""
        return int(self.seen.head[kernels.LIVE])

    @property
    def owned(self) -> list[np.ndarray]:
        """All arrays."""
        return [self.seen.head, *self.written, *self.vocabulary]

    @property
    def size(self) -> int:
        """Number of postings, those of removed documents too."""
        return int(self.written.head[kernels.FORWARD])

    def frequencies_of(self, numbers: np.ndarray, repeated: bool) -> np.ndarray:
        """Return how many live documents have each of these terms, int64 (m,); numbers int32 (m,), -1 where unknown.

        repeated: a term may occur twice, and must have the same count at both places while documents are being removed.
        """
        seen = self.seen
        distinct, places = np.unique(numbers, return_inverse=True) if repeated else (numbers, None)
        counts = np.zeros(len(distinct), np.int64)
        kernels.find_terms(seen.head, seen.terms, seen.slots, seen.tfs, distinct, counts)
        return counts if places is None else counts[places]

    def slots_of(self, ids: np.ndarray, base: int, found: np.ndarray) -> None:
        """Set `found`, where it is -1, to `base` + the slot of each of ids, both int64 (m,), if it has a live one."""
        seen = self.seen
        kernels.find_slots(seen.head, seen.doc_ids, seen.removed, seen.id_buckets, ids, base, found)

    def live_ids(self) -> np.ndarray:
        """Return the ids of the documents that a reader sees."""
        seen, used = self.seen, int(self.seen.head[kernels.SLOTS])
        return seen.doc_ids[:used][seen.removed[:used] > seen.head[kernels.REMOVED]]

    def published(self) -> "Tail":
        """Return the tail with everything that the writer has done visible to readers."""
        return Tail.of(self.written, self.vocabulary)

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Tail":
        """Return the tail with this vocabulary, and with a row for every term that it has room for."""
        rows = self.written.terms
        if len(rows) < vocabulary.room:
            rows = np.zeros((vocabulary.room, kernels.COLUMNS), np.int32)
            rows[: len(self.written.terms)] = self.written.terms
            return self._with(terms=rows)._replace(vocabulary=vocabulary)
        return self if vocabulary is self.vocabulary else self._replace(vocabulary=vocabulary)

    def with_room(self, lacking: int, amount: int) -> "Tail":
        """Return the tail with what `tail_write.add` found lacking doubled, or enlarged by `amount` if that is more."""
        arrays, head = self.written, self.written.head
        if lacking == tail_write.LACKS_SLOTS:
            return self.with_documents(max(min(2 * len(arrays.doc_ids), MOST), int(head[kernels.SLOTS]) + amount))
        if lacking == tail_write.LACKS_FORWARD:
            used = int(head[kernels.FORWARD])
            return self._with(forward=_grown(arrays.forward, used, max(2 * used, used + amount), 0))
        used = int(head[kernels.POOL])
        size = min(max(2 * used, used + amount), MOST)
        if used + amount > size:
            raise ValueError(f"an index holds at most 2**31-1 postings, {used + amount} would be needed")
        return self._with(slots=_grown(arrays.slots, used, size, kernels.NEVER), tfs=_grown(arrays.tfs, used, size, 0))

    def with_documents(self, capacity: int) -> "Tail":
        """Return the tail with room for so many documents, removed ones counted."""
        arrays, used = self.written, int(self.written.head[kernels.SLOTS])
        if capacity > MOST:
            raise ValueError(f"an index holds at most 2**31-1 documents, {capacity} would be needed")
        if capacity <= len(arrays.doc_ids):
            return self
        buckets = np.full(_bucket_count(capacity), -1, np.int32)
        for part in chunks(used):
            tail_write.insert_ids(buckets, arrays.doc_ids, part.start, part.stop)
        return self._with(
            doc_ids=_grown(arrays.doc_ids, used, capacity, 0),
            lengths=_grown(arrays.lengths, used, capacity, 0),
            removed=_grown(arrays.removed, used, capacity, 0),
            forward_starts=_grown(arrays.forward_starts, used + 1, capacity + 1, 0),
            id_buckets=buckets,
        )

    def _with(self, **arrays: np.ndarray) -> "Tail":
        """Return the tail with other arrays, for readers and for the writer."""
        return Tail(self.seen._replace(**arrays), self.written._replace(**arrays), self.vocabulary)

    def fault(self) -> str | None:
        """Return the first broken invariant, in words, or None. Safe on any contents."""
        arrays = self.written
        if (
            len(arrays.head) != kernels.HEAD
            or not len(arrays.lengths) == len(arrays.removed) == len(arrays.forward_starts) - 1 == len(arrays.doc_ids)
            or len(arrays.id_buckets).bit_count() != 1
            or len(arrays.slots) != len(arrays.tfs)
            or arrays.terms.shape[1] != kernels.COLUMNS
        ):
            return "the lengths of the arrays do not match"
        if (fault := self.vocabulary.fault()) is not None:
            return fault
        if not np.array_equal(self.seen.head, arrays.head):
            return "readers do not see what was written last"
        code = _checks.first_fault(arrays, self.vocabulary.terms)
        return tail_check.FAULTS[code] or None


def runs(before: np.ndarray, most: int) -> list[slice]:
    """Cut n items into runs of a total weight and a number of at most `most`, or of one item.

    before: the total weight of the items up to each, that item included; ascending.
    """
    parts, start = [], 0
    while start < len(before):
        limit = (before[start - 1] if start else 0) + most
        stop = min(max(int(np.searchsorted(before, limit, "right")), start + 1), start + most)
        parts.append(slice(start, stop))
        start = stop
    return parts


def _bucket_count(documents: int) -> int:
    return 1 << max(2 * documents - 1, 1).bit_length()


def _grown(array: np.ndarray, used: int, size: int, rest: int) -> np.ndarray:
    """Return the first `used` entries in an array of `size`, the others `rest`."""
    grown = np.full(size, rest, array.dtype)
    grown[:used] = array[:used]
    return grown
