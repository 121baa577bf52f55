"""Approximate nearest neighbours beside hnswlib and faiss: build, and search at equal recall.

Each index is built from the same vectors with the same M and ef_construction on one thread. For every recall asked
for, each searches with the smallest ef that reaches it on all the queries; a neighbour counts as found if it
is as near as the k-th nearest is. Vectors are taken as of length 1, so inner product is cosine.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llmds.hnsw import HNSW

from . import harness

K = 10
_LARGEST_EF = 4096


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where the vectors are, and how to build."""
    parser.add_argument("--data", type=Path, help="folder with corpus_emb.npy and query_emb.npy (default cppdocs)")
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.90, 0.95, 0.99])
    parser.add_argument("--build-rounds", type=int, default=5, help="times each index is built (default 5)")


def run(options: argparse.Namespace) -> None:
    """Race them."""
    folder = harness.data_folder("cppdocs", options.data)
    vectors, queries = (_unit(np.load(folder / f"{name}_emb.npy")) for name in ("corpus", "query"))
    parameters = {name: getattr(options, name) for name in ("M", "ef_construction", "seed", "rounds", "build_rounds")}
    sizes = {"data": folder.name, "vectors": len(vectors), "queries": len(queries), "dim": vectors.shape[1], "k": K}
    contest = harness.Contest("hnsw", {**sizes, **parameters, "threads": 1})
    contenders: dict[str, Callable[..., _Contender]] = {harness.OURS: _Ours, "hnswlib": _Hnswlib, "faiss": _Faiss}

    _Ours(vectors[:500], options).search(queries[:10], K)  # compiled before anything is timed
    indexes: dict[str, _Contender] = {}

    def builder(name: str) -> Callable[[], object]:
        def build() -> None:
            indexes[name] = contenders[name](vectors, options)

        return build

    contest.race("build", {name: builder(name) for name in contenders}, len(vectors), options.build_rounds)
    for name, index in indexes.items():
        contest.note("bytes a vector, with the vector", name, bytes=index.nbytes() / len(vectors))

    limit = _kth_nearest(vectors, queries)
    for wanted in options.recalls:
        extra = {}
        for name, index in indexes.items():
            ef, recall = _smallest_ef(index, vectors, queries, limit, wanted)
            if recall >= wanted:
                extra[name] = {"ef": ef, "recall": recall}
                index.set_ef(ef)
        racing = {name: indexes[name] for name in extra}
        batch = {name: lambda index=index: index.search(queries, K) for name, index in racing.items()}
        single = {
            name: lambda index=index: [index.search_one(query, K) for query in queries]
            for name, index in racing.items()
        }
        for task, calls in (("batch", batch), ("one query a call", single)):
            contest.race(f"{task}, recall@{K} >= {wanted}", calls, len(queries), options.rounds, extra=extra)
    contest.finish(options.out)


class _Contender:
    def nbytes(self) -> int:
        raise NotImplementedError

    def set_ef(self, ef: int) -> None:
        raise NotImplementedError

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (n, k)."""
        raise NotImplementedError

    def search_one(self, query: np.ndarray, k: int) -> object:
        raise NotImplementedError


class _Ours(_Contender):
    def __init__(self, vectors: np.ndarray, options: argparse.Namespace):
        self.index = HNSW(vectors.shape[1], options.M, options.ef_construction, seed=options.seed, metric="cosine")
        self.index.add_many(vectors, np.arange(len(vectors)))

    def nbytes(self) -> int:
        self.index.shrink_to_fit()
        return self.index.nbytes

    def set_ef(self, ef: int) -> None:
        self.index.ef_search = ef

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search_batch(queries, k)[0]

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query, k)


class _Hnswlib(_Contender):
    def __init__(self, vectors: np.ndarray, options: argparse.Namespace):
        import hnswlib

        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.index.init_index(
            len(vectors), M=options.M, ef_construction=options.ef_construction, random_seed=options.seed
        )
        self.index.add_items(vectors, np.arange(len(vectors)), num_threads=1)

    def nbytes(self) -> int:
        return self.index.index_file_size()

    def set_ef(self, ef: int) -> None:
        self.index.set_ef(ef)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.knn_query(queries, k, num_threads=1)[0].astype(np.int64)

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.knn_query(query, k, num_threads=1)


class _Faiss(_Contender):
    def __init__(self, vectors: np.ndarray, options: argparse.Namespace):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexHNSWFlat(vectors.shape[1], options.M, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = options.ef_construction
        self.index.add(vectors)

    def nbytes(self) -> int:
        import faiss

        return faiss.serialize_index(self.index).nbytes

    def set_ef(self, ef: int) -> None:
        self.index.hnsw.efSearch = ef

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search(queries, k)[1]

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query[None], k)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _kth_nearest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The inner product of the K-th nearest, (queries, 1)."""
    blocks = (queries[start : start + 256] @ vectors.T for start in range(0, len(queries), 256))
    return np.concatenate([np.partition(block, -K, axis=1)[:, -K, None] for block in blocks])


def _recall(found: np.ndarray, vectors: np.ndarray, queries: np.ndarray, limit: np.ndarray) -> float:
    products = np.einsum("qd,qkd->qk", queries, vectors[found])
    return float(np.mean((products >= limit - 1e-6) & (found >= 0)))


def _smallest_ef(
    index: _Contender, vectors: np.ndarray, queries: np.ndarray, limit: np.ndarray, wanted: float
) -> tuple[int, float]:
    """The smallest ef, of at least K, that reaches the recall, and the recall it has there."""

    def recall(ef: int) -> float:
        index.set_ef(ef)
        return _recall(index.search(queries, K), vectors, queries, limit)

    low, high = K - 1, K
    while recall(high) < wanted and high < _LARGEST_EF:
        low, high = high, min(2 * high, _LARGEST_EF)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= wanted else (middle, high)
    return high, recall(high)
