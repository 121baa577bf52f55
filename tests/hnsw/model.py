"""Every distance computed by NumPy, and data to build graphs of."""

import numpy as np

from llmds import HNSW

METRICS = ["l2", "cosine", "ip"]
# quantization and vectors
KINDS = [
    (None, "float32"),
    (None, "float16"),
    ("int8", "float32"),
    ("int8", "float16"),
    ("int8", None),
    ("int4", "float32"),
    ("int4", "float16"),
    ("int4", None),
]


def clustered(n, dim, seed, clusters=20, spread=0.3):
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((clusters, dim))
    return (centres[chance.integers(0, clusters, n)] + spread * chance.standard_normal((n, dim))).astype(np.float32)


def kept(vectors, metric, kind):
    """What an index keeps of vectors, float64, unless it keeps codes alone."""
    vectors = np.asarray(vectors, np.float64).reshape(-1, np.shape(vectors)[-1])
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32 if kind is None else kind).astype(np.float64)


def exact(vectors, queries, metric):
    """All distances, float64 (queries, vectors); vectors as they are kept."""
    vectors, queries = np.asarray(vectors, np.float64), np.atleast_2d(np.asarray(queries, np.float64))
    if metric == "l2":
        return np.sqrt(((queries[:, None] - vectors[None]) ** 2).sum(2))
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return (1 - queries @ vectors.T).clip(0, 2)
    return -queries @ vectors.T


def coded(vectors, meant, queries, metric):
    """All distances to codes alone: those to what they stand for, but for the length of that, which is known better."""
    vectors, meant = np.asarray(vectors, np.float64), np.asarray(meant, np.float64)
    if metric != "l2":
        return exact(meant, queries, metric)
    squares = np.square(queries).sum(1)[:, None] + np.square(vectors).sum(1) - 2 * np.asarray(queries) @ meant.T
    return np.sqrt(squares.clip(0))


def all_distances(index, vectors, ids, queries):
    """All distances that `index` should tell, from queries to `vectors`, which it holds under `ids`."""
    if index.vectors is None:
        return coded(kept(vectors, index.metric, None), index.get_vectors(ids), queries, index.metric)
    return exact(kept(vectors, index.metric, index.vectors), queries, index.metric)


def recall(found, distances, k):
    """Share of the k nearest that were found; whoever is as near as the k-th counts as one of them."""
    limit = np.sort(distances, axis=1)[:, k - 1 : k]
    return np.mean((found >= 0) & (np.take_along_axis(distances, found.clip(0), 1) <= limit + 1e-6))


def agrees(result, ids, distances, k, atol=1e-5):
    """The answer is the k nearest, in order, ids paired with their own distances, ties by smaller id."""
    distances = np.asarray(distances, np.float64)
    assert len(result) == min(k, len(ids))
    told = np.array([distance for _, distance in result])
    np.testing.assert_allclose(told, np.sort(distances)[: len(result)], rtol=1e-5, atol=atol)
    own = {vec_id: distance for vec_id, distance in zip(ids, distances, strict=True)}
    np.testing.assert_allclose(told, [own[vec_id] for vec_id, _ in result], rtol=1e-5, atol=atol)
    assert result == sorted(result, key=lambda pair: (pair[1], pair[0]))
    assert len({vec_id for vec_id, _ in result}) == len(result)


def built(vectors, metric="l2", kind=("int8", "float32"), ids=None, **settings):
    """An index of vectors, under ids from 0 on unless others are given."""
    index = HNSW(np.shape(vectors)[1], metric=metric, quantization=kind[0], vectors=kind[1], **{"seed": 1, **settings})
    index.add_many(vectors, np.arange(len(vectors)) if ids is None else ids)
    return index
