"""The quality of ranked documents, by judgements and by comparison with another ranking."""

from collections.abc import Sequence

import numpy as np

Ranked = tuple[np.ndarray, np.ndarray]  # ids int64 and scores float32, (queries, k), best first, -1 and -inf at the end


def quality(found: Ranked, grades: Sequence[dict[int, float]]) -> dict[str, float]:
    """Return hit, MRR and nDCG (gain = grade) at the k of `found`, means over the queries with judgements.

    A document of score 0 has no word of the query, and does not count as found.
    """
    ids, k = np.where(found[1] > 0, found[0], -1), found[0].shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    hits: list[bool] = []
    reciprocal: list[float] = []
    gain: list[float] = []
    for row, wanted in zip(ids.tolist(), grades, strict=True):
        if wanted:
            got = np.array([wanted.get(document, 0.0) for document in row])
            ideal = np.sort(np.array(list(wanted.values())))[::-1][:k]
            hits.append(bool(got.any()))
            reciprocal.append(1 / (1 + int((got > 0).argmax())) if got.any() else 0.0)
            gain.append(float((discount * got).sum() / (discount[: len(ideal)] * ideal).sum()))
    return {f"hit@{k}": float(np.mean(hits)), f"MRR@{k}": float(np.mean(reciprocal)), f"nDCG@{k}": float(np.mean(gain))}


def agreement(ours: Ranked, theirs: Ranked) -> float:
    """Return the share of our results at whose rank the peer has the same document or score (within 1e-5)."""
    there = ours[0] >= 0
    same = (ours[0] == theirs[0]) | np.isclose(ours[1], theirs[1], rtol=1e-5, atol=0)
    return float(same[there].mean()) if there.any() else 1.0
