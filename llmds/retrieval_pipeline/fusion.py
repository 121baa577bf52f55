"""Fusion: the table of its rules. The formulas are in `kernels.fusion`."""

from typing import NamedTuple

import numpy as np

from ..base.fast_calls import Direct
from ..kernels import fusion as kernels

direct = Direct(kernels)


class Rule(NamedTuple):
    """A rule: its number in `kernels.fusion`, and whether it needs each side's scores of the other side's documents."""

    number: int
    needs_scores: bool


FUSIONS = {
    "weighted": Rule(kernels.WEIGHTED, needs_scores=True),
    "rrf": Rule(kernels.RECIPROCAL_RANK, needs_scores=False),
}


def fuse(
    name: str, dense: kernels.Side, text: kernels.Side, weight: float, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the two ranked lists of n queries: ids int64 and scores float32 (n, top_k > 0), best first.

    Raises ValueError if the rule has no formula.
    """
    ids, scores = np.empty((len(dense.ids), top_k), np.int64), np.empty((len(dense.ids), top_k), np.float32)
    if not direct.fuse(FUSIONS[name].number, dense, text, weight, ids, scores):
        raise ValueError(f"fusion {name!r} has no formula in kernels.fusion")
    return ids, scores
