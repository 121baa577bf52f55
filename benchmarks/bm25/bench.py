"""The state that the tasks of the BM25 benchmark share: the collection, and one index of each contender."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from .. import harness
from .data import Collection, Queries
from .peers import CONTENDERS, Engine

K = 10
_SAMPLE, _LONG = 20, 10.0  # queries for an estimate of the time of all, and seconds that are too long


class Bench:
    """The collection, the installed contenders, and their indexes, built when first needed."""

    def __init__(
        self, contest: harness.Contest, options: argparse.Namespace, collection: Collection, names: Sequence[str]
    ):
        self.contest, self.options, self.collection, self.names = contest, options, collection, list(names)
        self.stop_words = None if options.with_stop_words else "english"
        self._engines: dict[str, Engine] = {}
        self._slow: dict[str, bool] = {}

    def engine(self, name: str) -> Engine:
        """Return the contender's index."""
        if name not in self._engines:
            self._engines[name] = built(name, self.collection)
        return self._engines[name]

    def slow(self, name: str) -> bool:
        """Return whether the contender would take too long for all queries."""
        if name not in self._slow:
            self._slow[name] = slow(self.engine(name), self.collection.queries)
        return self._slow[name]


def built(name: str, collection: Collection) -> Engine:
    """Return an index of all documents."""
    engine, start = CONTENDERS[name](), time.perf_counter()
    engine.build(collection)
    print(f"built {name} on {collection.name} in {time.perf_counter() - start:.1f} s", flush=True)
    return engine


def slow(engine: Engine, queries: Queries) -> bool:
    """Return whether an index would take too long for all queries, estimated from a few."""
    some = engine.prepare(queries.first(_SAMPLE))
    engine.batch(some, K)  # compiling does not count
    start = time.perf_counter()
    engine.batch(some, K)
    return (time.perf_counter() - start) * len(queries.texts) / max(len(some), 1) > _LONG


def sizes_per_posting(sizes: dict[str, int], postings: int) -> dict[str, Any]:
    """Return bytes by part, and bits per posting: of the postings alone, where known, and of all parts."""
    found: dict[str, Any] = dict(sizes)
    if "postings" in sizes:
        found["bits_per_posting"] = 8 * sizes["postings"] / max(postings, 1)
    return {**found, "bits_per_posting_in_all": 8 * sizes["total"] / max(postings, 1)}
