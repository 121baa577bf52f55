"""Vectors and queries for the HNSW benchmark, their exact nearest neighbours, and recall against these.

All vectors are float32, contiguous and of length 1, so that inner product is cosine.
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmds.encoders import LSAEncoder

from .. import harness

HELD_OUT = 1_000
_BLOCK_VALUES = 2**24
_CENTRES = 256


class Data(NamedTuple):
    """Vectors (n, dim) to search in, and queries (m, dim)."""

    name: str
    vectors: np.ndarray
    queries: np.ndarray


def load(given: str, limit: int | None = None, seed: int = 1) -> Data:
    """Load the data of a folder, or of a name below LLMDS_DATA; `limit` keeps that many vectors, a seeded choice.

    A folder holds corpus_emb.npy and query_emb.npy, or else corpus.jsonl.gz, which is then encoded.
    """
    folder = harness.data_folder(given, Path(given) if Path(given).is_dir() else None)
    if (folder / "corpus_emb.npy").exists():
        vectors, queries = (unit(np.load(folder / f"{name}_emb.npy")) for name in ("corpus", "query"))
    else:
        vectors, queries = encoded(folder / "corpus.jsonl.gz")
    name = folder.resolve().name
    if limit is not None and limit < len(vectors):
        vectors = vectors[np.sort(np.random.default_rng(seed).permutation(len(vectors))[:limit])]
        name += f"-{limit}"
    return Data(name, vectors, queries)


def encoded(path: Path, held_out: int = HELD_OUT) -> tuple[np.ndarray, np.ndarray]:
    """Encode a corpus by LSAEncoder(256), rows of zeros dropped: vectors, and the rows held out as queries."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    texts = [f"{line['title']}\n{line['text']}" for line in lines]
    print(f"encoding {len(texts):,} texts ...", flush=True)
    vectors = LSAEncoder(dim=256, seed=0).fit(texts)(texts)
    vectors = vectors[vectors.any(axis=1)]
    order = np.random.default_rng(0).permutation(len(vectors))
    return unit(vectors[np.sort(order[held_out:])]), unit(vectors[order[:held_out]])


def clustered(n: int, queries: int, dim: int = 128, seed: int = 1) -> Data:
    """Make a mixture of Gaussians whose spread falls from axis to axis: about as hard to search as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = 0.5 * rng.standard_normal((_CENTRES, dim), np.float32)
    spread = np.geomspace(1.5, 0.075, dim).astype(np.float32)
    count = n + queries
    points = rng.standard_normal((count, dim), np.float32)
    points *= spread
    points += centres[rng.integers(_CENTRES, size=count)]
    points = unit(points)
    return Data(f"clustered-{n}", points[queries:], points[:queries])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1, float32."""
    vectors = vectors.astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Truth:
    """How near the k-th nearest is of each query, among all vectors or the `allowed` rows.

    A neighbour found counts if it is as near as that, so that equal ones may stand for each other. Where fewer than
    k are allowed, all of these are to be found.
    """

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None):
        self.vectors, self.queries = vectors, queries
        self._allowed = None if allowed is None else np.isin(np.arange(len(vectors)), allowed)
        among = vectors if allowed is None else vectors[self._allowed]
        self.k = min(k, len(among))
        step = max(1, _BLOCK_VALUES // len(among))
        blocks = (queries[start : start + step] @ among.T for start in range(0, len(queries), step))
        self.limit = np.concatenate([np.partition(block, -self.k, axis=1)[:, -self.k, None] for block in blocks])

    def recall(self, found: np.ndarray) -> float:
        """Return the share of the k nearest that is in `found` (queries, k or more), rows of vectors or -1."""
        found = np.sort(found, axis=1)
        counts = found >= 0
        counts[:, 1:] &= found[:, 1:] != found[:, :-1]
        if self._allowed is not None:
            counts &= self._allowed[found]
        products = np.einsum("qd,qkd->qk", self.queries, self.vectors[found])
        return float((counts & (products >= self.limit - 1e-6)).sum() / (self.k * len(found)))
