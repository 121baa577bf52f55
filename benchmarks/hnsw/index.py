"""What every contender of the HNSW benchmark is: an index with a few methods. And ours."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from llmds.hnsw.index import HNSW


class Settings(NamedTuple):
    """How to build: the same for all, but for our own ef_construction."""

    M: int = 16
    ef_construction: int = 200
    ours_ef_construction: int = 200
    seed: int = 1


class Index(ABC):
    """One library's index. `package` is what must be importable."""

    package: ClassVar[str]
    index: Any

    def __init__(self, settings: Settings):
        self.settings = settings

    @abstractmethod
    def build(self, vectors: np.ndarray) -> None:
        """Build from vectors (n, dim), whose ids are their rows."""

    @abstractmethod
    def set_ef(self, ef: int) -> None:
        """How widely the next searches look."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (m, k), -1 where there is none."""

    @abstractmethod
    def search_one(self, query: np.ndarray, k: int) -> object:
        """One query (dim,), in the library's own form."""

    @abstractmethod
    def nbytes(self) -> int | None:
        """Return the bytes of the index, vectors included; None if the library does not report them."""


class Ours(Index):
    """llmds, with its own ef_construction or another; further keywords go to HNSW."""

    package = "llmds"
    index: HNSW

    def __init__(self, settings: Settings, ef_construction: int | None = None, **keywords: Any):
        super().__init__(settings)
        self.ef_construction = ef_construction or settings.ours_ef_construction
        self.keywords = keywords

    def build(self, vectors: np.ndarray, threads: int = 1) -> None:
        self.add(vectors, np.arange(len(vectors)), threads)

    def add(self, vectors: np.ndarray, ids: np.ndarray, threads: int = 1) -> None:
        """Add to what is there; the first call makes the index."""
        if not hasattr(self, "index"):
            M, ef_construction = self.settings.M, self.ef_construction
            given = {"seed": self.settings.seed, "metric": "cosine", **self.keywords}
            self.index = HNSW(vectors.shape[1], M, ef_construction, **given)
        self.index.add_many(vectors, ids, threads=threads)

    def replace(self, gone: np.ndarray, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Remove some ids and add others."""
        self.index.remove_many(gone)
        self.index.add_many(vectors, ids, threads=1)

    def set_ef(self, ef: int) -> None:
        self.index.ef_search = ef

    def search(self, queries: np.ndarray, k: int, threads: int = 1) -> np.ndarray:
        return self.index.search_batch(queries, k, threads=threads)[0]

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query, k)

    def search_filtered(self, queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        """As `search`, among the ids `allowed`."""
        return self.index.search_batch(queries, k, filter=allowed, threads=1)[0]

    def nbytes(self) -> int:
        self.index.shrink_to_fit()
        return self.index.nbytes
