"""The vectors of a pipeline's documents: encoding texts, and replacing vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..base import arguments
from ..hnsw.index import HNSW

Encoder = Callable[[list[str]], np.ndarray]


def check_encoder(encoder: Any) -> None:
    """Raise TypeError unless the encoder is None or callable."""
    if encoder is not None and not callable(encoder):
        raise TypeError(f"encoder must be callable, list[str] -> (n, embedding_dim) array, got {encoder!r}")


def encoded(encoder: Encoder | None, texts: Sequence[str], dim: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the encoder's rows (n, dim), None without an encoder, and which of the texts have one, bool (n,)."""
    if encoder is None or not texts:
        return None, np.zeros(len(texts), bool)
    rows = arguments.vectors("encoder's result", encoder(list(texts)), dim)
    if len(rows) != len(texts):
        raise ValueError(f"encoder must return a row for each of {len(texts)} texts, returned {len(rows)}")
    return rows, np.asarray(rows.any(axis=1))


def put(vectors: HNSW, doc_ids: np.ndarray, rows: np.ndarray | None, present: np.ndarray | None) -> None:
    """Give documents int64 (n,) these rows (n, dim), in order, in place of the vectors that they had.

    Where `present`, bool (n,), is False, or `rows` is None, a document has no vector afterwards.
    """
    distinct, last = np.unique(doc_ids[::-1], return_index=True)
    vectors.remove_many(distinct[vectors.contains_many(distinct)])
    if rows is not None:
        chosen = np.sort(len(doc_ids) - 1 - last)
        if present is not None:
            chosen = chosen[present[chosen]]
        vectors.add_many(rows[chosen], doc_ids[chosen])
