"""Single queries of an HNSW index, answered by a walk in one kernel call."""

from typing import Any

import numpy as np

from ..base.fast_calls import Direct
from ..kernels.hnsw import search as search_kernels
from .search import ALL_ALLOWED, NO_SLOTS, Found, compares_all, measured_exactly
from .state import Settings, State

_kernels = Direct(search_kernels)
_INT64, _FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)


class Single:
    """Answers queries one at a time, and keeps the kernel's arguments for the next one."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._ready: tuple[int, int, int, tuple[Any, ...] | None] = 0, 0, 0, None  # replaced as a whole

    def nearest(self, state: State, query: np.ndarray, k: int, ef: int) -> Found | None:
        """Return what `search.search` returns for one query float32 (1, dim) and ef >= k, if a walk finds it.

        None if it does not: a scan is better than a walk, the walk did not find k, or the query cannot be measured.
        """
        arrays, size, clock, entry, present, _ = state
        ready = self._ready
        if ready[0] != present or ready[1] != k or ready[2] != ef:
            self._ready = ready = present, k, ef, self._arguments(present, k, ef)
        given = ready[3]
        if given is None or entry < 0:
            return None
        ids, distances = np.empty((1, k), _INT64), np.empty((1, k), _FLOAT32)
        if _kernels.search(arrays, size, clock, entry, query, *given, ids, distances, NO_SLOTS) < k:
            return None
        return ids, distances

    def _arguments(self, present: int, k: int, ef: int) -> tuple[Any, ...] | None:
        """Return the arguments of the kernel beside state and query; None if a walk is not the way."""
        ef = min(ef, present)
        if not 0 < k <= present or compares_all(ef, present):
            return None
        fine = min(measured_exactly(self._settings.bits, k, ef), ef)
        return self._settings.bits, self._settings.metric, ef, k, fine, search_kernels.WALK, NO_SLOTS, ALL_ALLOWED
