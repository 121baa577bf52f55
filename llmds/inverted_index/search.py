"""Searching an inverted index: the weights of query terms, and the best documents of every segment and of the tail."""

import itertools
from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from ..base.fast_calls import Direct
from ..base.threads import in_pieces
from ..kernels import topk
from ..kernels.inverted_index import bm25, maxscore
from ..kernels.inverted_index import segment as segment_kernels
from ..kernels.inverted_index import tail as tail_kernels
from ..kernels.inverted_index.blocks import BLOCK
from ..kernels.inverted_index.layout import Best, GivenDocuments, QueryTerms, SegmentArrays, Workspace
from ..tokenizer.vocabulary import Terms
from .bm25 import Settings
from .segments import Segment
from .state import Found, View

_maxscore, _tail = Direct(maxscore), Direct(tail_kernels)
_AT_LEAST = 16  # queries that a thread takes at a time
# Decoded blocks and dense rows are kept for segments of so many documents: so many blocks; so many rows, in so many
# bytes.
_LARGE, _BLOCKS, _MOST_ROWS, _ROOM = 1 << 10, 1 << 13, 16, 1 << 23
# Documents of a window of sums; twice as many in very large segments.
_WINDOW, _VERY_LARGE = 1 << 15, 1 << 18
# A workspace has rows for so many terms at least, so that most queries can use it.
_TERMS = 64
ALL_ALLOWED, NO_FACTORS = np.empty(0, np.uint8), np.empty(0, np.float32)


class Plan(NamedTuple):
    """The distinct terms of queries, where they are, and their weights, all of one view."""

    view: View
    found: Found
    form: np.ndarray
    terms: QueryTerms
    longest: int

    @classmethod
    def of(cls, view: View, settings: Settings, terms: Terms, factors: np.ndarray | None) -> "Plan":
        """Return the plan of queries with these terms. factors float32 (m,) or None: their weights are multiplied."""
        found, m = Found.of(view, terms), len(terms.starts)
        order, weights, ends = np.empty(m, np.int32), np.empty(m, np.float32), np.empty(len(terms.ends), np.int64)
        longest = bm25.plan(
            terms.data, terms.starts, terms.stops, terms.hashes, terms.ends, found.at_least_one(view),
            NO_FACTORS if factors is None else factors, view.documents, settings.number, settings.k1, order, weights,
            ends,
        )  # fmt: skip
        if longest < 0:
            raise ValueError(f"method {settings.method!r} has no formula in kernels.inverted_index.bm25")
        m = int(ends[-1]) if len(ends) else 0
        return cls(view, found, settings.form(view.average), QueryTerms(order[:m], weights[:m], ends), longest)

    @classmethod
    def unweighted(cls, view: View, terms: Terms) -> "Plan":
        """Return the plan of all terms in their own order, for finding where they are."""
        m = len(terms.starts)
        order, ends = np.arange(m, dtype=np.int32), terms.ends.copy()
        all_terms = QueryTerms(order, np.ones(m, np.float32), ends)
        return cls(view, Found.of(view, terms), np.zeros(bm25.FORM, np.float32), all_terms, m)

    def best(
        self, k: int, masks: list[np.ndarray] | None, threads: int, workspaces: "Workspaces", given: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids int64 and scores float32 (n, k) of the best documents, and scores float32 (n, c) of given ones.

        masks: the documents that may be found (`View.masks_of`). given int64 (n, c): places, as in `scores`.
        """
        n = len(self.terms.ends)
        best = Best(np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.zeros(n, np.int64))
        scores = np.zeros(given.shape, np.float32)
        if not best.ids.size:
            return best.ids, best.scores, self.scores(given, threads, workspaces) if given.size else scores
        view = self.view
        for part, (segment, base) in enumerate(zip(view.segments, view.bases, strict=False)):
            allowed = ALL_ALLOWED if masks is None else masks[part]
            wanted = GivenDocuments(base, given, scores)
            self._search_segment(part, segment.arrays, allowed, wanted, best, threads, workspaces)
        if view.tail.live:
            allowed = ALL_ALLOWED if masks is None else masks[-1]

            def run(piece: slice) -> None:
                _tail.search(
                    view.tail.seen, allowed, self.form, self.found.numbers, self.terms, piece.start, piece.stop, best
                )

            in_pieces(n, run, threads, _AT_LEAST)
            if given.size:
                self._score_tail(given, scores)
        topk.sort_heaps(*best)
        return best.ids, best.scores, scores

    def _search_segment(
        self, part: int, segment: SegmentArrays, allowed: np.ndarray, given: GivenDocuments, best: Best, threads: int,
        workspaces: "Workspaces",
    ) -> None:  # fmt: skip
        def run(piece: slice) -> None:
            workspace = workspaces.take(self.view, part, self.longest)
            _maxscore.search(
                segment, allowed, self.form, self.view.average, self.found.postings[part], self.terms, piece.start,
                piece.stop, workspace, given, best,
            )  # fmt: skip
            workspaces.give(workspace)

        in_pieces(len(self.terms.ends), run, threads, _AT_LEAST)

    def scores(self, documents: np.ndarray, threads: int, workspaces: "Workspaces") -> np.ndarray:
        """Return the scores float32 (n, c) of documents at places int64 (n, c): 0 where there is none."""
        scores = np.zeros(documents.shape, np.float32)
        view, bases, n = self.view, self.view.bases, len(documents)
        for part, segment in enumerate(view.segments):

            def run(piece: slice, segment: Segment = segment, part: int = part) -> None:
                workspace = workspaces.take(view, part, self.longest)
                _maxscore.score(
                    segment.arrays, self.form, self.found.postings[part], self.terms, piece.start, piece.stop,
                    workspace, GivenDocuments(bases[part], documents, scores),
                )  # fmt: skip
                workspaces.give(workspace)

            in_pieces(n, run, threads, _AT_LEAST)
        if view.tail.live:
            self._score_tail(documents, scores)
        return scores

    def _score_tail(self, documents: np.ndarray, scores: np.ndarray) -> None:
        given = GivenDocuments(self.view.bases[-1], documents, scores)
        _tail.score(self.view.tail.seen, self.form, self.found.numbers, self.terms, 0, len(documents), given)

    def frequencies(self, place: int) -> np.ndarray:
        """Return how often each term of the plan occurs in the document at a place."""
        view, order, counts = self.view, self.terms.order, np.empty(len(self.terms.order), np.int64)
        part = bisect_right(view.bases, place) - 1
        slot = place - view.bases[part]
        if part == len(view.segments):
            tail = view.tail.seen
            tail_kernels.frequencies(tail.terms, tail.slots, tail.tfs, self.found.numbers, order, slot, counts)
        else:
            arrays, found = view.segments[part].arrays, self.found.postings[part]
            segment_kernels.frequencies(
                arrays.postings, arrays.block_last, arrays.block_at, found.dfs, found.ats, order, slot,
                np.empty(BLOCK, np.int32), counts,
            )  # fmt: skip
        return counts


class Window(NamedTuple):
    """The last two arrays of a workspace, for segments of which nothing is kept."""

    sums: np.ndarray
    candidates: np.ndarray


class Period(NamedTuple):
    """The time in which a view is the present one: its largest segment, a new generation, documents of a window."""

    view: View
    largest: int
    generation: int
    window: int


class Workspaces:
    """The arrays that searches work with. Blocks decoded from the largest segment are kept for later searches.

    Each thread that searches has a workspace of its own, of up to 16 MiB.
    """

    def __init__(self) -> None:
        self.free: list[Workspace] = []
        self.windows: list[Window] = []
        self.numbers = itertools.count()
        self.period = Period(View.empty(), 0, 0, 0)  # replaced as a whole

    def take(self, view: View, part: int, terms: int) -> Workspace:
        """Return a workspace for a search of that segment by queries of so many terms."""
        period = self.period
        if period.view is not view:
            documents = [len(segment.arrays.ids) for segment in view.segments]
            most = max(documents)
            whole = (most + maxscore.STEP - 1) // maxscore.STEP * maxscore.STEP
            window = min(whole, _WINDOW if most < _VERY_LARGE else 2 * _WINDOW)
            self.period = period = Period(view, documents.index(most), next(self.numbers) % 2**30 + 1, window)
            if most < _LARGE:
                self.free.clear()
                self.windows.clear()
        _, largest, generation, window = period
        arrays = view.segments[part].arrays
        n, kept, rows = len(arrays.ids), 0, 0
        if n >= _LARGE and part == largest:
            kept = 1 << min(_BLOCKS, max(len(arrays.block_last), 1)).bit_length() - 1
            rows = min(_MOST_ROWS, _ROOM // (4 * n))
        size = (kept + max(terms, _TERMS)) * BLOCK
        while kept:
            try:
                free = self.free.pop()
            except IndexError:
                break
            if len(free.slots) >= size and (len(free.kept), len(free.dense), len(free.candidates)) == (
                kept, rows * n, window,
            ):  # fmt: skip
                return free if free.generation == generation else free._replace(generation=generation)
        while True:
            try:
                free_window = self.windows.pop()
            except IndexError:
                free_window = Window(np.zeros(window + 64, np.float32), np.empty(window, np.int32))
            if len(free_window.candidates) == window:
                break
        return Workspace(
            generation, np.empty(size, np.int32), np.empty(size, np.float32), np.zeros(kept, np.int64),
            np.empty(rows * n, np.float32), np.zeros(rows, np.int64), free_window.sums, free_window.candidates,
        )  # fmt: skip

    def give(self, workspace: Workspace) -> None:
        """Keep a workspace for the next search."""
        if len(workspace.kept):
            self.free.append(workspace)
        elif len(workspace.candidates) > maxscore.STEP:
            self.windows.append(Window(workspace.sums, workspace.candidates))

    def owned(self) -> list[np.ndarray]:
        """Return all arrays that no search is using."""
        kept = [array for workspace in self.free for array in workspace if isinstance(array, np.ndarray)]
        return [*kept, *(array for window in self.windows for array in window)]
