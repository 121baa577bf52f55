"""The growing end of an inverted index: the arrays of `kernels.inverted_index.tail` as one tuple, and how they grow."""

from typing import NamedTuple

import numpy as np

from ..base.arena import chunks
from ..kernels.inverted_index import tail as kernels
from ..kernels.inverted_index import tail_check, tail_write
from ..tokenizer.vocabulary import Vocabulary

MOST = 2**31 - 1


class Tail(NamedTuple):
    """All arrays, published together: whoever took this tuple goes on undisturbed when the writer makes another.

    `head` is the writer's own, `seen` the copy of it that readers go by.
    """

    seen: np.ndarray
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
    vocabulary: Vocabulary

    @classmethod
    def empty(cls, documents: int = 16, forward: int = 64, pool: int = 256) -> "Tail":
        """No documents yet, and room for so many documents, terms of documents, and postings."""
        vocabulary = Vocabulary.empty()
        return cls(
            np.zeros(kernels.HEAD, np.int64),
            np.zeros(kernels.HEAD, np.int64),
            np.zeros(documents, np.int64),
            np.zeros(documents, np.int32),
            np.zeros(documents, np.int32),
            np.zeros(documents + 1, np.int64),
            np.zeros(forward, np.int32),
            np.full(_bucket_count(documents), -1, np.int32),
            np.zeros((vocabulary.room, kernels.COLUMNS), np.int32),
            np.full(pool, kernels.NEVER, np.int32),
            np.zeros(pool, np.int32),
            vocabulary,
        )

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """What the writer's kernels take."""
        return self[1:11]

    def frequencies_of(self, numbers: np.ndarray, repeated: bool) -> np.ndarray:
        """How many live documents hold each of these terms, int64 (m,), of numbers int32 (m,), -1 where unknown.

        repeated: terms may come twice, and must be told the same while documents are being removed.
        """
        distinct, places = np.unique(numbers, return_inverse=True) if repeated else (numbers, None)
        counts = np.zeros(len(distinct), np.int64)
        kernels.find_terms(self.seen, self.terms, self.slots, self.tfs, distinct, counts)
        return counts if places is None else counts[places]

    def slots_of(self, ids: np.ndarray, base: int, found: np.ndarray) -> None:
        """Where `found` is -1, put `base` + the slot of each of ids, both int64 (m,), that a reader knows."""
        kernels.find_slots(self.seen, self.doc_ids, self.removed, self.id_buckets, ids, base, found)

    def live_ids(self) -> np.ndarray:
        """The ids of the documents that a reader knows."""
        used = int(self.seen[kernels.SLOTS])
        return self.doc_ids[:used][self.removed[:used] > self.seen[kernels.REMOVED]]

    @property
    def size(self) -> int:
        """Postings, of removed documents too."""
        return int(self.head[kernels.FORWARD])

    def published(self) -> "Tail":
        """What the writer has done, for readers to see."""
        return self._replace(seen=self.head.copy())

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Tail":
        """With a row for every term that the vocabulary has room for, so that it may gain terms on its own."""
        rows = self.terms
        if len(rows) < vocabulary.room:
            rows = np.zeros((vocabulary.room, kernels.COLUMNS), np.int32)
            rows[: len(self.terms)] = self.terms
        return self._replace(vocabulary=vocabulary, terms=rows)

    def with_room(self, lacking: int, amount: int) -> "Tail":
        """With what `tail_write.add` found lacking, twice as large, or larger by `amount` if that is more."""
        if lacking == tail_write.LACKS_SLOTS:
            return self.with_documents(max(min(2 * len(self.doc_ids), MOST), int(self.head[kernels.SLOTS]) + amount))
        if lacking == tail_write.LACKS_FORWARD:
            used = int(self.head[kernels.FORWARD])
            return self._replace(forward=_grown(self.forward, used, max(2 * used, used + amount), 0))
        used = int(self.head[kernels.POOL])
        size = min(max(2 * used, used + amount), MOST)
        if used + amount > size:
            raise ValueError(f"an index holds at most 2**31-1 postings, {used + amount} would be needed")
        return self._replace(slots=_grown(self.slots, used, size, kernels.NEVER), tfs=_grown(self.tfs, used, size, 0))

    def with_documents(self, capacity: int) -> "Tail":
        """With room for so many documents, removed ones counted."""
        used = int(self.head[kernels.SLOTS])
        if capacity > MOST:
            raise ValueError(f"an index holds at most 2**31-1 documents, {capacity} would be needed")
        if capacity <= len(self.doc_ids):
            return self
        buckets = np.full(_bucket_count(capacity), -1, np.int32)
        for part in chunks(used):
            tail_write.insert_ids(buckets, self.doc_ids, part.start, part.stop)
        return self._replace(
            doc_ids=_grown(self.doc_ids, used, capacity, 0),
            lengths=_grown(self.lengths, used, capacity, 0),
            removed=_grown(self.removed, used, capacity, 0),
            forward_starts=_grown(self.forward_starts, used + 1, capacity + 1, 0),
            id_buckets=buckets,
        )

    def fault(self) -> str | None:
        """The first invariant that does not hold, in words. Safe on any contents."""
        if (
            len(self.head) != kernels.HEAD
            or not len(self.lengths) == len(self.removed) == len(self.forward_starts) - 1 == len(self.doc_ids)
            or len(self.id_buckets).bit_count() != 1
            or len(self.slots) != len(self.tfs)
            or self.terms.shape[1] != kernels.COLUMNS
        ):
            return "the arrays do not fit one another"
        if (fault := self.vocabulary.fault()) is not None:
            return fault
        if not np.array_equal(self.seen, self.head):
            return "what readers see is not what was written last"
        code = tail_check.first_fault(*self.state, self.vocabulary.terms)  # type: ignore[call-arg]
        return tail_check.FAULTS[code] or None


def runs(before: np.ndarray, most: int) -> list[slice]:
    """Cut n items into runs that weigh `most` or less, and have `most` items or fewer, where one item does.

    before: the weight of the items up to each, itself counted; ascending.
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
    """The first `used` entries in an array of `size`, the others `rest`."""
    grown = np.full(size, rest, array.dtype)
    grown[:used] = array[:used]
    return grown
