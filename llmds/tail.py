"""The arrays of an inverted index (`kernels.bm25`) as one tuple, and how they grow and are tidied up."""

from typing import NamedTuple

import numpy as np

from .growing import chunks
from .kernels import bm25 as kernels
from .kernels import bm25_check, bm25_write
from .vocabulary import Vocabulary

MOST = 2**31 - 1
# Postings that one kernel call handles: it must return within 100 ms, or Ctrl-C waits.
BUDGET = 1 << 22


class Postings(NamedTuple):
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
    def empty(cls, documents: int, forward: int, pool: int, vocabulary: Vocabulary) -> "Postings":
        """No documents yet, room for these many, and a row for every term the vocabulary has room for."""
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

    @property
    def ranking(self) -> tuple[np.ndarray, ...]:
        """What `kernels.search` takes."""
        return self.seen, self.doc_ids, self.lengths, self.removed, self.terms, self.slots, self.tfs

    def slots_of(self, ids: np.ndarray) -> np.ndarray:
        """The slots of ids int64 (n,), int64 (n,), -1 where unknown to a reader."""
        found = np.empty(len(ids), np.int64)
        kernels.find_slots(self.seen, self.doc_ids, self.removed, self.id_buckets, ids, found)
        return found

    def published(self) -> "Postings":
        """What the writer has done, for readers to see."""
        return self._replace(seen=self.head.copy())

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Postings":
        """With a row for every term that the vocabulary has room for, so that it may gain terms on its own."""
        rows = self.terms
        if len(rows) < vocabulary.room:
            rows = np.zeros((vocabulary.room, kernels.COLUMNS), np.int32)
            rows[: len(self.terms)] = self.terms
        return self._replace(vocabulary=vocabulary, terms=rows)

    def with_room(self, lacking: int, amount: int) -> "Postings":
        """With what `bm25_write.add` found lacking, twice as large, or larger by `amount` if that is more."""
        if lacking == bm25_write.LACKS_SLOTS:
            return self.with_documents(max(min(2 * len(self.doc_ids), MOST), int(self.head[kernels.SLOTS]) + amount))
        if lacking == bm25_write.LACKS_FORWARD:
            used = int(self.head[kernels.FORWARD])
            return self._replace(forward=_grown(self.forward, used, max(2 * used, used + amount), 0))
        used = int(self.head[kernels.POOL])
        size = min(max(2 * used, used + amount), MOST)
        if used + amount > size:
            raise ValueError(f"an index holds at most 2**31-1 postings, {used + amount} would be needed")
        return self._replace(slots=_grown(self.slots, used, size, kernels.NEVER), tfs=_grown(self.tfs, used, size, 0))

    def with_documents(self, capacity: int) -> "Postings":
        """With room for so many documents, removed ones counted."""
        used = int(self.head[kernels.SLOTS])
        if capacity > MOST:
            raise ValueError(f"an index holds at most 2**31-1 documents, {capacity} would be needed")
        if capacity <= len(self.doc_ids):
            return self
        buckets = np.full(_bucket_count(capacity), -1, np.int32)
        for part in chunks(used):
            bm25_write.insert_ids(buckets, self.doc_ids, part.start, part.stop)
        return self._replace(
            doc_ids=_grown(self.doc_ids, used, capacity, 0),
            lengths=_grown(self.lengths, used, capacity, 0),
            removed=_grown(self.removed, used, capacity, 0),
            forward_starts=_grown(self.forward_starts, used + 1, capacity + 1, 0),
            id_buckets=buckets,
        )

    def compacted(self) -> "Postings":
        """The same documents in new arrays, without removed ones and room to spare. O(size)."""
        used, terms = int(self.head[kernels.SLOTS]), self.vocabulary.terms
        alive = self.removed[:used] == kernels.NEVER
        new_slots = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
        vocabulary, new_terms = self.vocabulary.kept(self.terms[:terms, kernels.DF] > 0)
        distinct = np.diff(self.forward_starts[: used + 1])
        forward = new_terms[self.forward[: self.head[kernels.FORWARD]][np.repeat(alive, distinct)]]
        documents, pool = int(alive.sum()), len(forward) + vocabulary.terms
        new = Postings.empty(documents, len(forward), pool, vocabulary)
        new.doc_ids[:], new.lengths[:] = self.doc_ids[:used][alive], self.lengths[:used][alive]
        new.removed[:] = kernels.NEVER
        np.cumsum(distinct[alive], out=new.forward_starts[1:])
        new.forward[:] = forward
        for part in chunks(documents):
            bm25_write.insert_ids(new.id_buckets, new.doc_ids, part.start, part.stop)
        before = np.cumsum(self.terms[:terms, kernels.DF], dtype=np.int64)
        for part in runs(before, BUDGET):
            bm25_write.copy_postings(
                self.head, self.terms, self.slots, self.tfs, new_terms, new_slots, part.start, part.stop,
                new.head, new.terms, new.slots, new.tfs,
            )  # fmt: skip
        new.head[:] = self.head
        changed = [kernels.SLOTS, kernels.REMOVED, kernels.FORWARD, kernels.POOL]
        new.head[changed] = documents, 0, len(forward), pool
        return new.published()

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
        code = bm25_check.first_fault(*self.state, self.vocabulary.terms)  # type: ignore[call-arg]
        return bm25_check.FAULTS[code] or None


# What a file holds of them.
SCHEMA = {
    "head": (np.int64, 1),
    "doc_ids": (np.int64, 1),
    "lengths": (np.int32, 1),
    "removed": (np.int32, 1),
    "forward_starts": (np.int64, 1),
    "forward": (np.int32, 1),
    "id_buckets": (np.int32, 1),
    "terms": (np.int32, 2),
    "slots": (np.int32, 1),
    "tfs": (np.int32, 1),
    "vocabulary.head": (np.int64, 1),
    "vocabulary.data": (np.uint8, 1),
    "vocabulary.offsets": (np.int64, 1),
    "vocabulary.buckets": (np.int64, 1),
}


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
