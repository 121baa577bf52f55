"""The argument `filter=` of searches."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from . import arguments

Selection: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None


def chosen(selection: Any, live: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the ids, int64 (m,), that a filter allows: an array of ids, or a function of the ids that live() returns.

    Raises TypeError for a bool array, and ValueError if the function does not return one bool for each id.
    """
    if not callable(selection):
        return arguments.integers("filter", selection)
    ids = live()
    mask = np.asarray(selection(ids.copy()))
    if mask.dtype != bool or mask.shape != ids.shape:
        raise ValueError(
            f"filter must return one bool for each of {len(ids)} ids, returned {mask.dtype} of shape {mask.shape}"
        )
    return ids[mask]
