"""The contenders of the HNSW benchmark: one small class for each library.

Every index gets vectors of length 1 and works on one thread. Peers are used as an expert would use them: usearch and
SVS in the number formats they are fastest in too, SVS with prefetching further ahead than by default.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from ..names import OURS
from .index import Index, Ours, Settings


class Hnswlib(Index):
    """hnswlib, inner product."""

    package = "hnswlib"

    def build(self, vectors: np.ndarray) -> None:
        self.add(vectors, np.arange(len(vectors)))

    def add(self, vectors: np.ndarray, ids: np.ndarray, replaces: bool = False) -> None:
        """Add to what is there; the first call makes the index. `replaces`: deleted vectors will be replaced."""
        import hnswlib

        if not hasattr(self, "index"):
            M, ef, seed = self.settings.M, self.settings.ef_construction, self.settings.seed
            self.index = hnswlib.Index("ip", vectors.shape[1])
            self.index.init_index(
                len(vectors), M=M, ef_construction=ef, random_seed=seed, allow_replace_deleted=replaces
            )
        self.index.add_items(vectors, ids, num_threads=1)

    def replace(self, gone: np.ndarray, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Mark some ids as deleted and put others in their places."""
        for label in gone.tolist():
            self.index.mark_deleted(label)
        self.index.add_items(vectors, ids, num_threads=1, replace_deleted=True)

    def set_ef(self, ef: int) -> None:
        self.index.set_ef(ef)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.knn_query(queries, k, num_threads=1)[0].astype(np.int64)

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.knn_query(query, k, num_threads=1)

    def nbytes(self) -> int:
        return self.index.index_file_size()


class Faiss(Index):
    """faiss HNSW over float32 vectors, or (`codes`) over 8-bit codes."""

    package = "faiss"

    def __init__(self, settings: Settings, codes: bool = False):
        super().__init__(settings)
        self.codes = codes

    def build(self, vectors: np.ndarray) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        dim, M = vectors.shape[1], self.settings.M
        if self.codes:
            self.index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT)
        else:
            self.index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = self.settings.ef_construction
        self.index.train(vectors)
        self.index.add(vectors)

    def set_ef(self, ef: int) -> None:
        self.index.hnsw.efSearch = ef

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search(queries, k)[1]

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query[None], k)

    def search_filtered(self, queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        """As `search`, among the ids `allowed`."""
        import faiss

        mask = np.zeros(self.index.ntotal, bool)
        mask[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        given = faiss.SearchParametersHNSW(efSearch=self.index.hnsw.efSearch, sel=selector)
        return self.index.search(queries, k, params=given)[1]

    def nbytes(self) -> int:
        import faiss

        return faiss.serialize_index(self.index).nbytes


class Usearch(Index):
    """usearch, vectors kept as `kind`."""

    package = "usearch"

    def __init__(self, settings: Settings, kind: str):
        super().__init__(settings)
        self.kind = kind

    def build(self, vectors: np.ndarray) -> None:
        from usearch.index import Index as Graph

        M, ef = self.settings.M, self.settings.ef_construction
        self.index = Graph(ndim=vectors.shape[1], metric="ip", dtype=self.kind, connectivity=M, expansion_add=ef)
        self.index.add(np.arange(len(vectors)), vectors, threads=1)

    def set_ef(self, ef: int) -> None:
        self.index.expansion_search = ef

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        found = self.index.search(queries, k, threads=1)
        keys = found.keys.astype(np.int64)
        keys[np.arange(k) >= np.asarray(found.counts)[:, None]] = -1
        return keys

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query, k, threads=1)

    def nbytes(self) -> int:
        return self.index.serialized_length  # memory_usage counts blocks taken ahead, the same for every kind


class Pynndescent(Index):
    """pynndescent, which has its own way to build; here ef means epsilon = (ef - 10) / 200.

    `codes`: searched over 8-bit codes, the best 16 of 10 compared anew with the vectors (its default).
    """

    package = "pynndescent"

    def __init__(self, settings: Settings, codes: bool = False):
        super().__init__(settings)
        self.codes = codes

    def build(self, vectors: np.ndarray) -> None:
        import numba
        import pynndescent

        numba.set_num_threads(1)
        codes, seed = "int8" if self.codes else None, self.settings.seed
        self.index = pynndescent.NNDescent(vectors, "cosine", quantization=codes, n_jobs=1, random_state=seed)
        self.index.prepare()
        self.set_ef(10)

    def set_ef(self, ef: int) -> None:
        self.epsilon = (ef - 10) / 200

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.query(queries, k, epsilon=self.epsilon)[0].astype(np.int64)

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.query(query[None], k, epsilon=self.epsilon)

    def nbytes(self) -> int:
        graph, forest = self.index._search_graph, self.index._search_forest
        arrays = [self.index._raw_data, graph.indptr, graph.indices, graph.data]
        arrays += [part for tree in forest for part in tree if isinstance(part, np.ndarray)]
        return sum(array.nbytes for array in arrays)


class Vamana(Index):
    """SVS Vamana over vectors of a `kind`: degree 2 M, window ef_construction, alpha .95."""

    package = "svs"

    def __init__(self, settings: Settings, kind: str):
        super().__init__(settings)
        self.kind = kind

    def build(self, vectors: np.ndarray) -> None:
        import svs

        given = svs.VamanaBuildParameters(
            graph_max_degree=2 * self.settings.M, window_size=self.settings.ef_construction, alpha=0.95
        )
        self.index = svs.Vamana.build(given, vectors.astype(self.kind), svs.DistanceType.MIP, num_threads=1)

    def set_ef(self, ef: int) -> None:
        import svs

        given = self.index.search_parameters
        given.buffer_config = svs.SearchBufferConfig(ef)
        given.prefetch_lookahead, given.prefetch_step = 8, 1  # 15 to 20% faster than the default, 1 and 1
        self.index.search_parameters = given

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search(queries, k)[0].astype(np.int64)

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query, k)

    def nbytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(*(str(Path(folder) / part) for part in ("config", "graph", "data")))
            return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


class Pyglass(Index):
    """pyglass HNSW, built and searched over 8-bit codes."""

    package = "glass"

    def build(self, vectors: np.ndarray) -> None:
        import glass

        glass.set_num_threads(1)
        M, ef = self.settings.M, self.settings.ef_construction
        graph = glass.Index(index_type="HNSW", metric="IP", R=2 * M, L=ef, quant="SQ8U").build(vectors)
        self.index = glass.Searcher(graph=graph, data=vectors, metric="IP", quantizer="SQ8U")
        self.index.optimize()

    def set_ef(self, ef: int) -> None:
        self.index.set_ef(ef)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(self.index.batch_search(queries, k), np.int64).reshape(len(queries), k)

    def search_one(self, query: np.ndarray, k: int) -> object:
        return self.index.search(query, k)

    def nbytes(self) -> None:
        return None


Maker = Callable[[Settings], Index]

CONTENDERS: dict[str, Maker] = {
    OURS: Ours,
    "llmds ef 128": partial(Ours, ef_construction=128),
    "llmds int8": partial(Ours, quantization="int8"),
    "llmds float32": partial(Ours, quantization=None),
    "hnswlib": Hnswlib,
    "faiss": Faiss,
    "faiss SQ8": partial(Faiss, codes=True),
    "usearch f32": partial(Usearch, kind="f32"),
    "usearch f16": partial(Usearch, kind="f16"),
    "usearch bf16": partial(Usearch, kind="bf16"),
    "pynndescent": Pynndescent,
    "pynndescent int8": partial(Pynndescent, codes=True),
    "SVS f32": partial(Vamana, kind="float32"),
    "SVS f16": partial(Vamana, kind="float16"),
    "pyglass SQ8": Pyglass,
}


def installed(name: str) -> bool:
    """Whether a contender's library is here."""
    maker = CONTENDERS[name]
    kind = cast(type[Index], maker.func if isinstance(maker, partial) else maker)
    try:
        library = import_module(kind.package)
    except ImportError:
        return False
    return kind is not Pyglass or hasattr(library, "Searcher")  # another `glass` is on PyPI
