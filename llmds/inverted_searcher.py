"""Searching an inverted index: what the terms of queries weigh, and the best documents of every part."""

import threading
from typing import NamedTuple

import numpy as np

from .inverted_state import Found, View
from .kernels import best, bm25, maxscore
from .kernels import blocks as block_kernels
from .kernels import segments as segment_kernels
from .kernels import tail as tail_kernels
from .threads import in_pieces
from .vocabulary import Terms

METHODS = {
    "lucene": bm25.LUCENE,
    "robertson": bm25.ROBERTSON,
    "atire": bm25.ATIRE,
    "bm25+": bm25.BM25_PLUS,
    "bm25l": bm25.BM25_L,
}
DELTAS = {"bm25+": 1.0, "bm25l": 0.5}
_AT_LEAST = 16  # queries that a thread takes at a time
# Decoded blocks that the queries of a batch share, at most; and from how many queries on it is worth their room.
_SHARED, _MANY = 1 << 14, 64
_EVERYBODY = np.empty(0, np.uint8)


class Settings(NamedTuple):
    """How documents are scored."""

    k1: float
    b: float
    method: str
    delta: float

    def form(self, average: float) -> np.ndarray:
        """See `kernels.bm25`."""
        slope = self.b / average if average > 0 else 0.0
        p, q, s = 0.0, self.k1, 0.0
        if self.method == "bm25+":
            s = self.delta / (self.k1 + 1)
        if self.method == "bm25l":
            p, q = self.delta, self.k1 + self.delta
        return np.array([1 - self.b, slope, p, q, s], np.float32)


class Plan(NamedTuple):
    """The distinct terms of queries, where they are, and what they weigh: see `kernels.bm25.plan`."""

    view: View
    found: Found
    form: np.ndarray
    order: np.ndarray
    weights: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, view: View, settings: Settings, terms: Terms, factors: np.ndarray | None) -> "Plan":
        """Of queries with these terms, whose weights are multiplied with factors float32 (m,)."""
        found, m = Found.of(view, terms), len(terms.starts)
        factors = np.ones(m, np.float32) if factors is None else factors
        order, weights, ends = np.empty(m, np.int32), np.empty(m, np.float32), np.empty(len(terms.ends), np.int64)
        bm25.plan(
            *terms, found.dfs, factors, view.documents, METHODS[settings.method], settings.k1, order, weights, ends
        )
        m = int(ends[-1]) if len(ends) else 0
        return cls(view, found, settings.form(view.average), order[:m], weights[:m], ends)

    @classmethod
    def everything(cls, view: View, terms: Terms) -> "Plan":
        """All terms as they come, for whoever asks where they are."""
        m = len(terms.starts)
        order, ends = np.arange(m, dtype=np.int32), terms.ends.copy()
        return cls(view, Found.of(view, terms), np.zeros(bm25.FORM, np.float32), order, np.ones(m, np.float32), ends)

    @property
    def terms(self) -> tuple[np.ndarray, ...]:
        """What search kernels take."""
        return self.order, self.weights, self.ends

    def best(self, k: int, masks: list[np.ndarray] | None, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int64 and scores float32 (n, k); masks: which documents may be found (`View.masks_of`)."""
        n = len(self.ends)
        ids, scores, held = np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.zeros(n, np.int64)
        if not ids.size:
            return ids, scores
        for part in range(len(self.view.segments)):
            self._search_segment(part, _EVERYBODY if masks is None else masks[part], held, ids, scores, threads)
        tail, numbers = self.view.tail, self.found.numbers
        if tail.seen[tail_kernels.LIVE]:
            allowed = _EVERYBODY if masks is None else masks[-1]

            def run(part: slice) -> None:
                tail_kernels.search(
                    tail.seen, tail.doc_ids, tail.lengths, tail.removed, allowed, tail.terms, tail.slots, tail.tfs,
                    self.form, numbers, *self.terms, part.start, part.stop, held, ids, scores,
                )  # fmt: skip

            in_pieces(n, run, threads, _AT_LEAST)
        best.finish_all(ids, scores, held)
        return ids, scores

    def _search_segment(
        self, part: int, allowed: np.ndarray, held: np.ndarray, ids: np.ndarray, scores: np.ndarray, threads: int
    ) -> None:
        segment, n = self.view.segments[part], len(self.ends)
        longest = int(np.diff(self.ends, prepend=0).max())
        shared = 0
        if n >= _MANY:
            shared = 1 << min(_SHARED, max(len(segment.block_last), 1)).bit_length() - 1
        dfs, ats = self.found.lists[part]
        scratch = _Scratch(longest, shared)

        def run(piece: slice) -> None:
            taken = scratch.take()
            maxscore.search(
                segment.ids, segment.lengths, segment.removed, segment.removals, allowed, *segment.lists,
                segment.block_best, segment.average, self.view.average, self.form, dfs, ats, *self.terms, piece.start,
                piece.stop, *taken, held, ids, scores,
            )  # fmt: skip
            scratch.give(taken)

        in_pieces(n, run, threads, _AT_LEAST)

    def scores(self, documents: np.ndarray) -> np.ndarray:
        """Of documents int64 (n, c), places in the view or -1: float32 (n, c), 0 where no term matches."""
        scores = np.zeros(documents.shape, np.float32)
        view, bases, queries = self.view, self.view.bases, (0, len(documents))
        for segment, base, (dfs, ats) in zip(view.segments, bases, self.found.lists, strict=False):
            segment_kernels.score(
                segment.lengths, *segment.lists, self.form, dfs, ats, *self.terms, *queries, base, documents, scores
            )
        tail = view.tail
        tail_kernels.score(
            tail.seen, tail.lengths, tail.terms, tail.slots, tail.tfs, self.form, self.found.numbers, *self.terms,
            *queries, bases[-1], documents, scores,
        )  # fmt: skip
        return scores

    def frequencies(self, place: int) -> np.ndarray:
        """How often each term of the plan stands in a document."""
        numbers, part, base = np.empty(len(self.order), np.int64), 0, 0
        for part, base in enumerate(self.view.bases):
            if part == len(self.view.segments) or place < base + len(self.view.segments[part].ids):
                break
        if part == len(self.view.segments):
            tail = self.view.tail
            for i, term in enumerate(self.found.numbers[self.order].tolist()):
                known = term >= 0
                numbers[i] = tail_kernels.frequency(tail.terms, tail.slots, tail.tfs, term, place - base) if known else 0
            return numbers
        room = np.empty(block_kernels.BLOCK, np.int32)
        dfs, ats = self.found.lists[part]
        for i, term in enumerate(self.order.tolist()):
            df, at = int(dfs[term]), int(ats[term])
            numbers[i] = 0
            if df:
                numbers[i] = segment_kernels.frequency(
                    *self.view.segments[part].lists, df, at, place - base, room
                )
        return numbers


class _Scratch:
    """What a search of a segment works in, for as many threads as come at a time."""

    def __init__(self, longest: int, shared: int):
        self.longest, self.shared = longest, shared
        self.lock, self.free = threading.Lock(), list[tuple[np.ndarray, ...]]()

    def take(self) -> tuple[np.ndarray, ...]:
        """slots, parts and kept (`kernels.lists`)."""
        with self.lock:
            if self.free:
                return self.free.pop()
        size = (self.longest + self.shared) * block_kernels.BLOCK
        return np.empty(size, np.int32), np.empty(size, np.float32), np.full(self.shared, -1, np.int64)

    def give(self, taken: tuple[np.ndarray, ...]) -> None:
        """For the next call."""
        with self.lock:
            self.free.append(taken)
