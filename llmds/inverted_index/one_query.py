"""A single query of an inverted index, answered in one kernel call where that is possible."""

from typing import NamedTuple

import numpy as np

from ..base.fast_calls import Direct
from ..kernels.inverted_index import one_query
from ..kernels.inverted_index.layout import Ranking, SegmentArrays
from ..tokenizer.segmentation import packed_short
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary import Vocabulary
from .bm25 import Settings
from .search import ALL_ALLOWED, NO_FACTORS, Workspaces
from .state import View

_direct = Direct(one_query)
_LONGEST = 1 << 12  # characters; in a longer query the time of a call does not matter
NONE_GIVEN = np.empty((1, 0), np.int64)


class _Prepared(NamedTuple):
    """What the kernel needs for every query of a view. segment: None if the kernel cannot search this view."""

    view: View
    stop_words: Vocabulary | None
    segment: SegmentArrays | None
    ranking: Ranking | None


class Single:
    """Answers queries one at a time, with the arguments of the kernel prepared for the view of the last query."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        self._settings, self._tokenizer = settings, tokenizer
        self._prepared = _Prepared(View.empty(), None, None, None)  # replaced as a whole

    def best(
        self, view: View, text: str, k: int, workspaces: Workspaces, given_ids: np.ndarray = NONE_GIVEN
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return the best k > 0 documents for a text: ids int64 and scores float32 (1, k), -1 and -inf after the last.

        And the scores float32 (1, c) of the documents given_ids int64 (1, c), 0 for unknown ids.

        Returns None if the kernel cannot answer: the text is long or not ASCII, the tokenizer is not the compiled one,
        documents were removed, or not all are in one segment.
        """
        prepared = self._prepared
        if prepared.view is not view:
            self._prepared = prepared = self._prepare(view)
        size = len(text)
        if prepared.segment is None or size > _LONGEST or not text.isascii():
            return None
        ids, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
        given_scores = np.empty(given_ids.shape, np.float32)
        workspace = workspaces.take(view, 0, size // 2 + 1)
        code = _direct.search(
            packed_short(text), size, prepared.stop_words, prepared.segment, prepared.ranking, workspace, ALL_ALLOWED,
            NO_FACTORS, given_ids, given_scores, ids, scores,
        )  # fmt: skip
        workspaces.give(workspace)
        return (ids, scores, given_scores) if code >= 0 else None

    def _prepare(self, view: View) -> _Prepared:
        stop_words, settings = self._tokenizer.stops, self._settings
        if stop_words is None or len(view.segments) != 1 or view.segments[0].arrays.removals or view.tail.live:
            return _Prepared(view, None, None, None)
        ranking = Ranking(settings.form(view.average), settings.number, settings.k1, view.documents, view.average)
        return _Prepared(view, stop_words, view.segments[0].arrays, ranking)
