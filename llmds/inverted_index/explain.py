"""Why a document has its score, and the weights that a user gives to the terms of a query."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..base import arguments
from ..kernels.inverted_index import bm25
from ..tokenizer.tokenizer import Tokenizer
from ..tokenizer.vocabulary import Terms, Vocabulary
from .bm25 import Settings
from .search import Plan, Workspaces


def explained(plan: Plan, terms: Terms, settings: Settings, place: int, workspaces: Workspaces) -> dict[str, Any]:
    """Return what `InvertedIndex.explain` does, of the document at a place of the plan's view."""
    view, found, order = plan.view, plan.found, plan.terms.order
    length, average = view.length_at(place), view.average
    norm = 1 - settings.b + (settings.b * length / average if average > 0 else 0.0)
    weights, tfs = plan.terms.weights, plan.frequencies(place)
    words = terms.strings()
    rows = []
    for at, weight, tf in zip(order.tolist(), weights, tfs.tolist(), strict=True):
        if not tf and not found.dfs[at]:
            continue  # only removed documents have it
        part = float(bm25.part(np.float32(tf), np.float32(length), plan.form)) if tf else 0.0
        row = {"term": words[at], "tf": tf, "df": int(found.dfs[at]), "weight": float(weight), "norm": norm}
        rows.append({**row, "score": float(weight) * part})
    score = plan.scores(np.array([[place]], np.int64), 1, workspaces)[0, 0]
    return {
        "score": float(score),
        "length": length,
        "average_length": average,
        "documents": view.documents,
        "terms": rows,
    }


def factors(tokenizer: Tokenizer, terms: Terms, query_weights: Mapping[str, float] | None) -> np.ndarray | None:
    """Return the number that the weight of each term is multiplied with, float32 (m,), or None for no change."""
    if query_weights is None:
        return None
    if not isinstance(query_weights, Mapping):
        raise TypeError(f"query_weights must be a mapping from terms to numbers, got {query_weights!r}")
    words = list(query_weights)
    given = tokenizer.terms(words, "query_weights")
    numbers = [arguments.real(f"query_weights[{word!r}]", query_weights[word], 1e-6, 1e6) for word in words]
    if np.any(np.diff(given.ends, prepend=0) != 1):
        raise ValueError(f"query_weights must have keys of one term each, got {words}")
    vocabulary, places = Vocabulary.empty().intern(given)
    values = np.ones(vocabulary.terms + 1, np.float32)  # the last one is for terms without a weight
    values[places] = numbers
    return values[vocabulary.find(terms)]
