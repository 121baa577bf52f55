"""A single query of an inverted index, answered in one kernel call where that can be done."""

from typing import Any

import numpy as np

from .direct import Direct
from .inverted_searcher import EVERYBODY, METHODS, NO_FACTORS, Decoded, Plan, Ranking, Settings
from .inverted_state import Found, View
from .kernels import one_query
from .kernels import tail as tail_kernels
from .tokenizer import Tokenizer, packed_short

_direct = Direct(one_query)
_LONGEST = 1 << 10  # characters: longer queries take so long that calls do not count
_NO_NUMBERS, _NONE = np.empty(0, np.int32), np.empty(0, np.int32)


class Single:
    """What queries need that come one at a time, made ready for the view they saw last."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        self._settings, self._tokenizer = settings, tokenizer
        self._ready: tuple[View, tuple[Any, ...] | None] = View.empty(), None  # exchanged at once

    def ranking(self, view: View, text: str, k: int, decoded: Decoded) -> Ranking | None:
        """As `Plan.best` for one query, k > 0; None where that must be asked.

        That is where the text is long or not ASCII, terms are not cut by the kernel, documents were removed, or not all
        of them are in one segment.
        """
        ready = self._ready
        if ready[0] is not view:
            self._ready = ready = view, self._arguments(view)
        given, size = ready[1], len(text)
        if given is None or size > _LONGEST or not text.isascii():
            return None
        most = size // 2 + 1
        ids, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
        dfs, ats, order = np.empty(most, np.int32), np.empty(most, np.int64), np.empty(most, np.int32)
        weights, ends = np.empty(most, np.float32), np.empty(1, np.int64)
        taken = decoded.take(view, 0, most)
        longest = _direct.search(
            packed_short(text), size, *given, *taken, dfs, ats, order, weights, ends, ids, scores
        )  # fmt: skip
        decoded.give(taken)
        found = Found([(dfs, ats)], _NO_NUMBERS, dfs)
        return Ranking(Plan(view, found, given[-5], order, weights, ends, longest), ids, scores, 1, decoded)

    def _arguments(self, view: View) -> tuple[Any, ...] | None:
        """What the kernel is given for every query."""
        stops = self._tokenizer.stops
        if stops is None or len(view.segments) != 1 or view.segments[0].removals or view.tail.seen[tail_kernels.LIVE]:
            return None
        segment, settings = view.segments[0], self._settings
        return (
            *stops[1:], segment.buckets, segment.dictionary, segment.ids, segment.lengths, _NONE, EVERYBODY,
            *segment.lists, segment.block_best, segment.average, view.average, settings.form(view.average),
            view.documents, METHODS[settings.method], settings.k1, NO_FACTORS,
        )  # fmt: skip
