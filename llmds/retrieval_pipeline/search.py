"""Searching both sides of a pipeline, and fusing what they find."""

from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..hnsw.index import HNSW
from ..inverted_index.index import InvertedIndex
from ..kernels.fusion import Side
from .fusion import FUSIONS, direct, fuse

Ranked = tuple[np.ndarray, np.ndarray]


class Options(NamedTuple):
    """How documents are ranked. weight: share of the dense side. depth: number of candidates from each side."""

    top_k: int
    weight: float
    fusion: str
    depth: int

    @classmethod
    def of(cls, top_k: Any, weight: Any, fusion: Any, depth: Any) -> "Options":
        """Check the arguments of a search."""
        top_k = arguments.integer("top_k", top_k, 0)
        weight = arguments.real("fusion_weight", weight, 0, 1)
        arguments.one_of("fusion", fusion, FUSIONS)
        depth = max(100, 10 * top_k) if depth is None else arguments.integer("depth", depth, 1)
        return cls(top_k, weight, fusion, depth)


def rank(
    index: InvertedIndex, vectors: HNSW, queries: list[str], embeddings: np.ndarray | None,
    allowed: np.ndarray | None, threads: int, options: Options,
) -> Ranked:  # fmt: skip
    """Return ids int64 and scores float32 (n, top_k) for n queries, all with an embedding or all without."""
    top_k, weight, fusion, depth = options
    if embeddings is None or weight == 0:
        return index.search_batch(queries, top_k, filter=allowed, threads=threads)
    if weight == 1:
        return _nearest(vectors, embeddings, top_k, allowed, threads)
    if not queries or not top_k:
        return np.empty((len(queries), top_k), np.int64), np.empty((len(queries), top_k), np.float32)
    dense_ids, dense = _nearest(vectors, embeddings, depth, allowed, threads)
    wanted = dense_ids if FUSIONS[fusion].needs_scores else dense_ids[:, :0]
    text_ids, text, text_of_dense = index.search_and_score(queries, depth, wanted, filter=allowed, threads=threads)
    dense_at, text_at, text_only = direct.cross(dense_ids, text_ids)
    wanted = text_only if FUSIONS[fusion].needs_scores else text_only[:, :0]
    dense_of_text = dense_scores(vectors, embeddings, wanted, threads)
    sides = Side(dense_ids, dense, dense_at, text_of_dense), Side(text_ids, text, text_at, dense_of_text)
    return fuse(fusion, *sides, weight, top_k)


def dense_scores(vectors: HNSW, embeddings: np.ndarray, doc_ids: np.ndarray, threads: int) -> np.ndarray:
    """Return the similarities float32 (n, c) of each embedding to c documents, ids (n, c); -inf for those without."""
    return _similarity(vectors, vectors.distances(embeddings, doc_ids, threads=threads))


def _nearest(
    vectors: HNSW, embeddings: np.ndarray, k: int, allowed: np.ndarray | None, threads: int
) -> Ranked:  # fmt: skip
    """Return the nearest k documents of each embedding: ids int64 and similarities float32, (n, k), best first.

    Short rows end in -1 and -inf.
    """
    ids, distances = vectors.search_batch(embeddings, k, filter=allowed, threads=threads)
    return ids, _similarity(vectors, distances)


def _similarity(vectors: HNSW, distances: np.ndarray) -> np.ndarray:
    """Return cosines, inner products, or negated Euclidean distances."""
    return 1 - distances if vectors.metric == "cosine" else -distances
