"""Searching an inverted index: what the terms of queries weigh, and the best documents of every part."""

import itertools
from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np

from ..base.threads import in_pieces
from ..kernels import topk as best
from ..kernels.inverted_index import bm25, maxscore
from ..kernels.inverted_index import segment as segment_kernels
from ..kernels.inverted_index import tail as tail_kernels
from ..kernels.inverted_index.blocks import BLOCK
from ..tokenizer.vocabulary import Terms
from .segments import Segment
from .state import Found, View

METHODS = {
    "lucene": bm25.LUCENE,
    "robertson": bm25.ROBERTSON,
    "atire": bm25.ATIRE,
    "bm25+": bm25.BM25_PLUS,
    "bm25l": bm25.BM25_L,
}
DELTAS = {"bm25+": 1.0, "bm25l": 0.5}
_AT_LEAST = 16  # queries that a thread takes at a time
# Segments of so many documents have something kept: decoded blocks; rows of common terms, in so many bytes.
_LARGE, _BLOCKS, _MOST_ROWS, _ROOM = 1 << 10, 1 << 13, 16, 1 << 23
# Documents of a window of sums, twice as many from so many documents on.
_WINDOW, _VERY_LARGE = 1 << 15, 1 << 18
# Decoded blocks of so many terms have room, that most queries find it, however many they have.
_TERMS = 64
EVERYBODY, NO_FACTORS = np.empty(0, np.uint8), np.empty(0, np.float32)


class Settings(NamedTuple):
    """How documents are scored."""

    k1: float
    b: float
    method: str
    delta: float

    def form(self, average: float) -> np.ndarray:
        """See `kernels.inverted_index.bm25`."""
        slope = self.b / average if average > 0 else 0.0
        p, q, s = 0.0, self.k1, 0.0
        if self.method == "bm25+":
            s = self.delta / (self.k1 + 1)
        if self.method == "bm25l":
            p, q = self.delta, self.k1 + self.delta
        return np.array([1 - self.b, slope, p, q, s], np.float32)


class Plan(NamedTuple):
    """The distinct terms of queries, where they are, and what they weigh: see `kernels.inverted_index.bm25.plan`."""

    view: View
    found: Found
    form: np.ndarray
    order: np.ndarray
    weights: np.ndarray
    ends: np.ndarray
    longest: int

    @classmethod
    def of(cls, view: View, settings: Settings, terms: Terms, factors: np.ndarray | None) -> "Plan":
        """Of queries with these terms, whose weights are multiplied with factors float32 (m,)."""
        found, m = Found.of(view, terms), len(terms.starts)
        factors = NO_FACTORS if factors is None else factors
        order, weights, ends = np.empty(m, np.int32), np.empty(m, np.float32), np.empty(len(terms.ends), np.int64)
        longest = bm25.plan(
            *terms,
            found.at_least_one(view),
            factors,
            view.documents,
            METHODS[settings.method],
            settings.k1,
            order,
            weights,
            ends,
        )
        m = int(ends[-1]) if len(ends) else 0
        return cls(view, found, settings.form(view.average), order[:m], weights[:m], ends, longest)

    @classmethod
    def everything(cls, view: View, terms: Terms) -> "Plan":
        """All terms as they come, for whoever asks where they are."""
        m = len(terms.starts)
        order, ends = np.arange(m, dtype=np.int32), terms.ends.copy()
        return cls(view, Found.of(view, terms), np.zeros(bm25.FORM, np.float32), order, np.ones(m, np.float32), ends, m)

    @property
    def terms(self) -> tuple[np.ndarray, ...]:
        """What search kernels take."""
        return self.order, self.weights, self.ends

    def best(
        self, k: int, masks: list[np.ndarray] | None, threads: int, decoded: "Decoded", also: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids int64 and scores float32 (n, k); masks: which documents may be found (`View.masks_of`).

        And the scores float32 (n, c) of documents `also` int64 (n, c), as `scores` gives them.
        """
        n = len(self.ends)
        ids, scores, held = np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.zeros(n, np.int64)
        also = np.empty((n, 0), np.int64) if also is None else also
        told = np.zeros(also.shape, np.float32)
        if not ids.size:
            return ids, scores, self.scores(also, threads, decoded) if also.size else told
        for part in range(len(self.view.segments)):
            self._search_segment(
                part, EVERYBODY if masks is None else masks[part], also, told, held, ids, scores, threads, decoded
            )
        tail, numbers = self.view.tail, self.found.numbers
        if tail.seen[tail_kernels.LIVE]:
            allowed = EVERYBODY if masks is None else masks[-1]

            def run(part: slice) -> None:
                tail_kernels.search(  # type: ignore[call-arg]
                    tail.seen, tail.doc_ids, tail.lengths, tail.removed, allowed, tail.terms, tail.slots, tail.tfs,
                    self.form, numbers, *self.terms, part.start, part.stop, held, ids, scores,
                )  # fmt: skip

            in_pieces(n, run, threads, _AT_LEAST)
            if also.size:
                self._score_tail(also, told)
        best.finish_all(ids, scores, held)
        return ids, scores, told

    def _search_segment(
        self, part: int, allowed: np.ndarray, also: np.ndarray, told: np.ndarray, held: np.ndarray, ids: np.ndarray,
        scores: np.ndarray, threads: int, decoded: "Decoded",
    ) -> None:  # fmt: skip
        segment, (dfs, ats), base = self.view.segments[part], self.found.lists[part], self.view.bases[part]

        def run(piece: slice) -> None:
            taken = decoded.take(self.view, part, self.longest)
            maxscore.search(  # type: ignore[call-arg]
                segment.ids, segment.lengths, segment.removed, segment.removals, allowed, *segment.lists,
                segment.block_best, segment.average, self.view.average, self.form, dfs, ats, *self.terms, piece.start,
                piece.stop, *taken, base, also, told, held, ids, scores,
            )  # fmt: skip
            decoded.give(taken)

        in_pieces(len(self.ends), run, threads, _AT_LEAST)

    def scores(self, documents: np.ndarray, threads: int, decoded: "Decoded") -> np.ndarray:
        """Of documents int64 (n, c), places in the view, the scores float32 (n, c): 0 where it is none."""
        scores = np.zeros(documents.shape, np.float32)
        view, bases, n = self.view, self.view.bases, len(documents)
        for part, segment in enumerate(view.segments):

            def run(piece: slice, segment: Segment = segment, part: int = part) -> None:
                taken = decoded.take(view, part, self.longest)
                maxscore.score(  # type: ignore[call-arg]
                    segment.lengths, *segment.lists, self.form, *self.found.lists[part], *self.terms, piece.start,
                    piece.stop, *taken[:6], bases[part], documents, scores,
                )  # fmt: skip
                decoded.give(taken)

            in_pieces(n, run, threads, _AT_LEAST)
        if view.tail.seen[tail_kernels.LIVE]:
            self._score_tail(documents, scores)
        return scores

    def _score_tail(self, documents: np.ndarray, scores: np.ndarray) -> None:
        tail = self.view.tail
        tail_kernels.score(  # type: ignore[call-arg]
            tail.seen, tail.lengths, tail.terms, tail.slots, tail.tfs, self.form, self.found.numbers, *self.terms, 0,
            len(documents), self.view.bases[-1], documents, scores,
        )  # fmt: skip

    def frequencies(self, place: int) -> np.ndarray:
        """How often each term of the plan stands in a document."""
        view, found = self.view, np.empty(len(self.order), np.int64)
        part = bisect_right(view.bases, place) - 1
        slot = place - view.bases[part]
        if part == len(view.segments):
            tail = view.tail
            tail_kernels.frequencies(tail.terms, tail.slots, tail.tfs, self.found.numbers, self.order, slot, found)
        else:
            lists = *view.segments[part].lists, *self.found.lists[part]
            segment_kernels.frequencies(*lists, self.order, slot, np.empty(BLOCK, np.int32), found)  # type: ignore[call-arg]
        return found


class Decoded:
    """What searches of the largest segment have worked out (`kernels.inverted_index.cursors`), kept for those that
    follow.

    Each thread that searches has arrays of its own, of up to 16 MiB.
    """

    def __init__(self) -> None:
        self.free: list[tuple[np.ndarray, ...]] = []
        self.windows: list[tuple[np.ndarray, ...]] = []  # sums and candidates where nothing is kept
        self.numbers = itertools.count()
        # The view, its largest segment, the generation, documents of a window; exchanged at once.
        self.state = View.empty(), 0, 0, 0

    def take(self, view: View, part: int, terms: int) -> tuple[Any, ...]:
        """What a search of that segment by queries of so many terms works with: see
        `kernels.inverted_index.maxscore.search`.

        generation, slots, parts, kept, dense, tags, sums and candidates.
        """
        state = self.state
        if state[0] is not view:
            documents = [len(segment.ids) for segment in view.segments]
            most = max(documents)
            whole = (most + maxscore.STEP - 1) // maxscore.STEP * maxscore.STEP
            window = min(whole, _WINDOW if most < _VERY_LARGE else 2 * _WINDOW)
            self.state = state = view, documents.index(most), next(self.numbers) % 2**30 + 1, window
            if most < _LARGE:
                self.free.clear()
                self.windows.clear()
        _, largest, generation, window = state
        segment = view.segments[part]
        n, kept, dense = len(segment.ids), 0, 0
        if n >= _LARGE and part == largest:
            kept = 1 << min(_BLOCKS, max(len(segment.block_last), 1)).bit_length() - 1
            dense = min(_MOST_ROWS, _ROOM // (4 * n))
        sizes = ((kept + max(terms, _TERMS)) * BLOCK, kept, dense * n, window)
        while kept:
            try:
                arrays = self.free.pop()
            except IndexError:
                break
            if len(arrays[0]) >= sizes[0] and (len(arrays[2]), len(arrays[3]), len(arrays[6])) == sizes[1:]:
                return generation, *arrays
        slots, parts = np.empty(sizes[0], np.int32), np.empty(sizes[0], np.float32)
        tables = np.zeros(kept, np.int64), np.empty(sizes[2], np.float32), np.zeros(dense, np.int64)
        while True:
            try:
                arrays = self.windows.pop()
            except IndexError:
                arrays = np.zeros(window + 64, np.float32), np.empty(window, np.int32)
            if len(arrays[1]) == window:
                return generation, slots, parts, *tables, *arrays

    def give(self, taken: tuple[Any, ...]) -> None:
        """For the next search."""
        if len(taken[3]):
            self.free.append(taken[1:])
        elif len(taken[7]) > maxscore.STEP:
            self.windows.append(taken[6:])

    def owned(self) -> list[np.ndarray]:
        """All arrays that no search is using."""
        return [array for arrays in (*self.free, *self.windows) for array in arrays]
