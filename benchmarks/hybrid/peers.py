"""Hybrid search put together by hand, without RetrievalPipeline: bm25s (Numba), hnswlib, and fusion in NumPy."""

from typing import Any

import numpy as np

from ..bm25.data import Collection, Queries
from ..bm25.peers import Bm25s
from ..hnsw.index import Settings
from ..hnsw.peers import Hnswlib

RRF_K = 60
_BLOCK = 64  # queries that are fused at a time: what they need stays in the cache, which makes it twice as fast


class ByHand:
    """Documents in bm25s and hnswlib, whose ids are their numbers. Queries are lists of term ids and vectors (n, dim).

    Fused are the best `depth` of each side. A document that one side has not found counts as its lowest there, which
    spares a second look at it; so the scores, min-max normalised, only have to be added.
    """

    def __init__(self, collection: Collection, vectors: np.ndarray, settings: Settings):
        self.text, self.dense = Bm25s("numba"), Hnswlib(settings)
        self.text.build(collection)
        self.dense.build(vectors)

    def prepare(self, queries: Queries) -> list[list[int]]:
        """Return the queries as `batch` and `single` take them."""
        return self.text.prepare(queries)

    def text_side(self, queries: list[list[int]], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of bm25s: ids and scores (n, depth), best first; score 0 where no word matches."""
        found = self.text.batch(queries, depth)
        return found.documents, found.scores

    def dense_side(self, vectors: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of hnswlib: ids and cosines (n, depth), best first."""
        ids, distances = self.dense.index.knn_query(vectors, depth, num_threads=1)
        return ids.astype(np.int64), 1 - distances

    def batch(
        self, queries: list[list[int]], vectors: np.ndarray, k: int, depth: int, fusion: str = "weighted"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best k by either fusion, with equal weights: ids int64 and scores (n, k), best first."""
        ids, shares = self._shares(queries, vectors, depth, fusion)
        parts = [slice(start, start + _BLOCK) for start in range(0, len(ids), _BLOCK)]
        found = [best(ids[part], shares[part], k) for part in parts]
        return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])

    def single(self, queries: list[list[int]], vectors: np.ndarray, k: int, depth: int, fusion: str) -> list[Any]:
        """Do as `batch`, one query per call."""
        found = []
        for row, query in enumerate(queries):
            ids, shares = self._shares([query], vectors[row : row + 1], depth, fusion)
            found.append(best_of_one(ids[0], shares[0], k))
        return found

    def _shares(
        self, queries: list[list[int]], vectors: np.ndarray, depth: int, fusion: str
    ) -> tuple[np.ndarray, np.ndarray]:
        text_ids, text = self.text_side(queries, depth)
        dense_ids, dense = self.dense_side(vectors, depth)
        if fusion == "rrf":
            shares = np.broadcast_to(1 / (RRF_K + 1 + np.arange(depth, dtype=np.float32)), dense.shape)
            sides = shares, np.where(text > 0, shares, 0)
        else:
            sides = 0.5 * normalised(dense), 0.5 * normalised(text)
        return np.concatenate([dense_ids, text_ids], axis=1), np.concatenate(sides, axis=1)


def normalised(scores: np.ndarray) -> np.ndarray:
    """Return rows of descending scores, normalised to 1..0; 0 where a row is constant."""
    low = scores[:, -1:]
    span = scores[:, :1] - low
    return (scores - low) / np.where(span > 0, span, 1)


def best(ids: np.ndarray, shares: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the shares of equal ids in every row (at most two), and take the k best: ids and scores (n, k)."""
    order = np.argsort(ids, axis=1)
    order += np.arange(0, ids.size, ids.shape[1])[:, None]
    ids, shares = ids.ravel()[order], shares.ravel()[order]
    same = ids[:, 1:] == ids[:, :-1]
    shares[:, :-1] += same * shares[:, 1:]
    shares[:, 1:][same] = -1
    top = np.sort(np.argpartition(shares, -k, axis=1)[:, -k:], axis=1)  # by id, which settles ties
    rows = np.arange(len(ids))[:, None]
    top = top[rows, np.argsort(-shares[rows, top], axis=1, kind="stable")]
    return ids[rows, top], shares[rows, top]


def best_of_one(ids: np.ndarray, shares: np.ndarray, k: int) -> list[tuple[int, float]]:
    """Do as `best` for one row (n,), returned as pairs: without indexing of rows it takes half the time."""
    order = ids.argsort()
    ids, shares = ids[order], shares[order]
    same = ids[1:] == ids[:-1]
    shares[:-1] += same * shares[1:]
    shares[1:][same] = -1
    top = np.sort(shares.argpartition(-k)[-k:])
    top = top[(-shares[top]).argsort(kind="stable")]
    return list(zip(ids[top].tolist(), shares[top].tolist(), strict=True))
