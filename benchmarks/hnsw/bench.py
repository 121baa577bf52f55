"""What the tasks of the HNSW benchmark share: indexes built once, and the ef that reaches a recall."""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import harness
from .data import Data, Truth
from .index import Index, Settings
from .peers import CONTENDERS, installed

K = 10
LARGEST_EF = 4096
# A curve goes through these, from where recall is worth having until nothing more is gained.
_SWEEP = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024)
_LEAST, _ENOUGH, _GAIN = 0.80, 0.995, 0.0005
_STREAM = 10_000  # queries of one turn in a race


class Bench:
    """The data, the contenders that are here, and one index of each, built when first asked for."""

    def __init__(self, contest: harness.Contest, options: argparse.Namespace, data: Data):
        self.contest, self.options, self.data = contest, options, data
        self.settings = Settings(options.M, options.ef_construction, options.ours_ef_construction, options.seed)
        self.truth = Truth(data.vectors, data.queries, K)
        self.names = [name for name in options.contenders if installed(name)]
        self.indexes: dict[str, Index] = {}
        self._recalls: dict[tuple[str, int], float] = {}

    def make(self, name: str, **changes: Any) -> Index:
        """Return an empty index of a contender; `changes` are to the settings."""
        return CONTENDERS[name](self.settings._replace(**changes))

    def build(self, name: str) -> Index:
        """Build a contender's index anew from all the vectors."""
        self.indexes.pop(name, None)  # two at a time would need the memory of two
        index = self.make(name)
        index.build(self.data.vectors)
        self.indexes[name] = index
        self._recalls = {key: recall for key, recall in self._recalls.items() if key[0] != name}
        return index

    def index(self, name: str) -> Index:
        """Return the contender's index, built when first asked for."""
        if name not in self.indexes:
            start = time.perf_counter()
            self.build(name)
            print(f"built {name} in {time.perf_counter() - start:.1f} s", flush=True)
        return self.indexes[name]

    def recall(self, name: str, ef: int) -> float:
        """Recall of a contender's index at an ef, on all queries."""
        if (name, ef) not in self._recalls:
            index = self.index(name)
            index.set_ef(ef)
            self._recalls[name, ef] = self.truth.recall(index.search(self.data.queries, K))
        return self._recalls[name, ef]

    def smallest_ef(self, name: str, wanted: float) -> tuple[int, float]:
        """See `smallest_ef`, for a contender's index."""
        return smallest_ef(lambda ef: self.recall(name, ef), wanted)

    def sweep(self, name: str) -> dict[int, float]:
        """Recall by ef, for efs from a recall of .80 to one of .995 or to where it stops rising."""
        recalls: list[float] = []
        for ef in _SWEEP:
            recalls.append(self.recall(name, ef))
            stuck = len(recalls) > 2 and recalls[-1] - recalls[-3] < _GAIN and recalls[-1] > _LEAST
            if recalls[-1] >= _ENOUGH or stuck:
                break
        return {ef: recall for ef, recall in zip(_SWEEP, recalls, strict=False) if recall >= _LEAST}

    def warm_up(self) -> None:
        """Every contender builds and searches a little, so that what is compiled on the way is no part of a time."""
        some, queries = self.data.vectors[:5000], self.data.queries[:10]
        for name in self.names:
            index, start = self.make(name), time.perf_counter()
            index.build(some)
            index.set_ef(2 * K)
            index.search(queries, K)
            index.search_one(queries[0], K)
            print(f"warmed up {name} in {time.perf_counter() - start:.1f} s", flush=True)


def smallest_ef(recall: Callable[[int], float], wanted: float) -> tuple[int, float]:
    """Return the smallest ef, from K on, that reaches the recall, and the recall it has there.

    By bisection, which takes recall to rise with ef. Where none up to LARGEST_EF does, that and what it has.
    """
    low, high = K - 1, K
    while recall(high) < wanted:
        if high >= LARGEST_EF:
            return high, recall(high)
        low, high = high, min(2 * high, LARGEST_EF)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= wanted else (middle, high)
    return high, recall(high)


def streamed(queries: np.ndarray) -> np.ndarray:
    """Repeat the queries, so that a turn is long enough to work from warm caches, as a server does."""
    return np.tile(queries, (max(1, round(_STREAM / len(queries))), 1))


def race_searches(
    bench: Bench, task: str, indexes: Mapping[str, Index], queries: np.ndarray, extra: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Race indexes, their ef set already, on a stream of all queries in one call."""
    stream = streamed(queries)
    calls = {name: lambda index=index: index.search(stream, K) for name, index in indexes.items()}
    return bench.contest.race(task, calls, len(stream), bench.options.rounds, extra=extra)
