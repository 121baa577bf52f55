"""A single query of an HNSW index, answered by a walk in one kernel call."""

from typing import Any

import numpy as np

from ..base.fast_calls import Direct
from ..kernels.hnsw import search as hnsw_search
from .search import Found, compares_all, measured_exactly
from .state import Settings, State

_direct = Direct(hnsw_search)
_INT64, _FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)
_EVERYBODY, _NOBODY = np.empty(0, np.uint8), np.empty(0, np.int64)


class Single:
    """Answers queries that come one at a time, with what the last of them needed at hand."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._ready: tuple[int, int, int, tuple[Any, ...] | None] = 0, 0, 0, None  # exchanged at once

    def nearest(self, state: State, query: np.ndarray, k: int, ef: int) -> Found | None:
        """As `hnsw_searcher.search` for a query float32 (1, dim) and ef >= k.

        None where that cannot say: a scan is better than a walk, a walk did not find k, or the query is not fit.
        """
        ready, present = self._ready, state.present
        if ready[0] != present or ready[1] != k or ready[2] != ef:
            self._ready = ready = present, k, ef, self._arguments(present, k, ef)
        given = ready[3]
        if given is None or state.entry < 0:
            return None
        ids, distances = np.empty((1, k), _INT64), np.empty((1, k), _FLOAT32)
        if _direct.search(*state[:11], query, *given, ids, distances, _NOBODY) < k:
            return None
        return ids, distances

    def _arguments(self, present: int, k: int, ef: int) -> tuple[Any, ...] | None:
        """What the kernel is given beside state and query; None: do not walk."""
        ef = min(ef, present)
        if not 0 < k <= present or compares_all(ef, present):
            return None
        fine = min(measured_exactly(self._settings.bits, k, ef), ef)
        return self._settings.bits, self._settings.metric, ef, k, fine, hnsw_search.WALK, _NOBODY, _EVERYBODY
