"""What `filter=` of a search allows."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from . import arguments

Selection: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None


def chosen(selection: Any, live: Callable[[], np.ndarray]) -> np.ndarray:
    """The ids that a filter, not None, allows, int64 (m,); live() gives all ids that there are.

    TypeError for a bool array; ValueError for a function that does not give a bool for each id.
    """
    if not callable(selection):
        return integers("filter", selection)
    ids = live()
    mask = np.asarray(selection(ids.copy()))
    if mask.dtype != bool or mask.shape != ids.shape:
        raise ValueError(f"filter must give a bool for each of {len(ids)} ids, gave {mask.dtype} {mask.shape}")
    return ids[mask]


def integers(name: str, values: Any) -> np.ndarray:
    """int64 (m,) of any integer array, but not of bools."""
    array = np.asarray(values)
    if array.dtype == bool:
        raise TypeError(f"{name} must be integers, got bool")
    return arguments.integers(name, values)
