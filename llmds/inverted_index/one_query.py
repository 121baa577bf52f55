"""A single query of an inverted index, answered in one kernel call where that can be done."""

from typing import Any

import numpy as np

from ..base.fast_calls import Direct
from ..kernels import fusion
from ..kernels.inverted_index import one_query
from ..kernels.inverted_index import tail as tail_kernels
from ..tokenizer.tokenizer import Tokenizer, packed_short
from .search import EVERYBODY, METHODS, NO_FACTORS, Decoded, Settings
from .state import View

_direct = Direct(one_query)
_LONGEST = 1 << 12  # characters: beside the search of a longer query its calls are nothing
_NONE = np.empty(0, np.int32)
_NOBODY, _NOTHING = np.empty((1, 0), np.int64), np.empty((fusion.BESIDE, 0), np.int64)


class Single:
    """Answers queries that come one at a time, with what all of them need made ready for the view seen last."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        self._settings, self._tokenizer = settings, tokenizer
        self._ready: tuple[View, tuple[Any, ...] | None] = View.empty(), None  # exchanged at once

    def best(
        self, view: View, text: str, k: int, decoded: Decoded, others: np.ndarray = _NOBODY
    ) -> tuple[np.ndarray, ...] | None:
        """As `Plan.best` for one query and k > 0: ids, scores, and what `kernels.inverted_index.one_query.search` says
        of both these and documents `others` int64 (1, k).

        None where that cannot say: the text is long or not ASCII, its terms are not cut by the kernel, documents were
        removed, or not all of them are in one segment.
        """
        ready = self._ready
        if ready[0] is not view:
            self._ready = ready = view, self._arguments(view)
        given, size = ready[1], len(text)
        if given is None or size > _LONGEST or not text.isascii():
            return None
        ids, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
        beside = _NOTHING if others is _NOBODY else np.empty((fusion.BESIDE, k), np.int64)
        taken = decoded.take(view, 0, size // 2 + 1)
        _direct.search(packed_short(text), size, *given, *taken, others, beside, ids, scores)
        decoded.give(taken)
        return ids, scores, beside

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
