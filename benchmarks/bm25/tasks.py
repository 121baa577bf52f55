"""The tasks of the BM25 benchmark."""

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llmds.inverted_index.index import InvertedIndex
from llmds.tokenizer.tokenizer import Tokenizer

from .. import harness
from ..names import OURS
from .bench import Bench, K, built, sizes_per_posting, slow
from .data import JUDGED, Queries, Read, Synthetic, load
from .peers import Ours, kind
from .quality import Ranked, agreement, quality

_FEW = 20
_UPDATES = 500
_STREAM_EVERY, _CHECKPOINTS, _CHECK_QUERIES = 100, 10, 200
_GROWTH_QUERIES = 500
_GROWING = (OURS, "bm25s numba", "tantivy")
_SINGLE = (OURS, "bm25s numba", "tantivy")


def search(bench: Bench) -> None:
    """Search for all queries in one batch."""
    queries = bench.collection.queries
    quick = [name for name in bench.names if not bench.slow(name)]
    results = {name: bench.engine(name).ranked(queries, K) for name in quick}
    extra = _columns(results, queries)
    _race(bench, "search", quick, queries, extra)
    others = [name for name in bench.names if bench.slow(name)]
    if others:
        _race(bench, f"search, {_FEW} queries", [OURS, *others], queries.first(_FEW), {}, 3)


def single(bench: Bench) -> None:
    """Search for all queries, one per call."""
    queries, calls = bench.collection.queries, {}
    for name in [name for name in _SINGLE if name in bench.names]:
        engine = bench.engine(name)
        calls[name] = partial(engine.single, engine.prepare(queries), K)
    bench.contest.race("single", calls, len(queries.texts), bench.options.rounds)


def index(bench: Bench) -> None:
    """Build an index from raw texts."""
    texts = bench.collection.texts()
    makers = {kind(name): name.removesuffix(" numba").removesuffix(" numpy") for name in bench.names}
    calls: dict[str, Callable[..., object]] = {
        name: partial(maker.index_texts, texts, bench.stop_words) for maker, name in makers.items()
    }
    if bench.stop_words:  # tantivy's analysis keeps them
        calls["llmds, stop words kept"] = partial(Ours.index_texts, texts, None)
    bench.contest.race("index", calls, len(texts), min(bench.options.rounds, 5))


def memory(bench: Bench) -> None:
    """Record the bytes of every index by part, and bits per posting."""
    ours = bench.engine(OURS)
    assert isinstance(ours, Ours)
    postings = ours.index.stats()["total_postings"]
    bench.contest.record["parameters"]["postings"] = postings
    for name in bench.names:
        sizes = bench.engine(name).bytes()
        if sizes is not None:
            bench.contest.note("memory", name, **sizes_per_posting(sizes, postings))
    harness.print_table(bench.contest.record, "memory")


def update(bench: Bench) -> None:
    """Replace a document by itself and search, in turn. Peers that can do that index all documents again."""
    texts, asked = bench.collection.texts(), bench.collection.queries.texts
    rows = np.random.default_rng(bench.options.seed).integers(0, len(texts), _UPDATES).tolist()
    ours = bench.engine(OURS)
    assert isinstance(ours, Ours)
    index = ours.index

    def replace() -> None:
        for row in rows:
            index.add_document(row, texts[row])
            index.search(asked[row % len(asked)], K)

    bench.contest.race("update", {OURS: replace}, len(rows), bench.options.rounds)
    index.shrink_to_fit()


def effectiveness(bench: Bench) -> None:
    """Record the quality on every collection with judgements, for whole words and for stems."""
    from importlib.util import find_spec

    given = bench.collection
    collections = [given] if given.queries.judged else []
    for name in JUDGED:
        if name != given.name:
            try:
                collections.append(load(name, bench.stop_words))
            except SystemExit:
                print(f"effectiveness: no {name} here, left out")
    for collection in collections:
        assert isinstance(collection, Read)
        analyses = {"": collection.tokenizer}
        if find_spec("Stemmer"):
            import Stemmer

            stem = Stemmer.Stemmer("english").stemWord
            analyses[", stemmed"] = Tokenizer(stop_words=bench.stop_words, stemmer=stem)
        for suffix, tokenizer in analyses.items():
            task, variant = f"effectiveness: {collection.name}{suffix}", collection.cut_by(tokenizer)
            results = {}
            for name in bench.names:
                engine = bench.engine(name) if collection is given and not suffix else built(name, variant)
                if not slow(engine, variant.queries):
                    results[name] = engine.ranked(variant.queries, K)
            for name, columns in _columns(results, variant.queries).items():
                bench.contest.note(task, name, collection=collection.name, **columns)
            harness.print_table(bench.contest.record, task)


def stream(bench: Bench) -> None:
    """Add documents one at a time, the collection repeatedly under new ids, with searches in between.

    At checkpoints rankings are compared with those of an index that was built at once.
    """
    collection, total = bench.collection, bench.options.stream
    texts, queries = collection.texts(total), collection.queries
    index, stop = InvertedIndex(collection.tokenizer), max(1, total // _CHECKPOINTS)
    adding, searching = np.zeros(total), []
    checked = queries.texts[:_CHECK_QUERIES]
    for start in range(0, total, stop):
        end, clock = min(start + stop, total), time.perf_counter
        gc.collect()
        gc.disable()
        for number in range(start, end):
            text, began = texts[number % len(texts)], clock()
            index.add_document(number, text)
            adding[number] = clock() - began
            if number % _STREAM_EVERY == _STREAM_EVERY - 1:
                query, began = queries.texts[number // _STREAM_EVERY % len(queries.texts)], clock()
                index.search(query, K)
                searching.append(clock() - began)
        gc.enable()
        fresh = InvertedIndex(collection.tokenizer)
        fresh.add_documents(np.arange(end), [texts[number % len(texts)] for number in range(end)])
        found, wanted = (each.search_batch(checked, K, threads=1) for each in (index, fresh))
        part = adding[start:end]
        bench.contest.note(
            "stream",
            OURS,
            documents=end,
            additions_per_second=len(part) / part.sum(),
            longest_add_ms=1e3 * part.max(),
            longest_search_ms=1e3 * max(searching, default=0.0),
            median_search_ms=1e3 * float(np.median(searching)) if searching else 0.0,
            equal_rows=float((found[0] == wanted[0]).all(axis=1).mean()),
            agreement=agreement(wanted, found),
        )
        searching = []
    bench.contest.note(
        "stream, in all",
        OURS,
        documents=total,
        additions_per_second=total / adding.sum(),
        longest_add_ms=1e3 * adding.max(),
    )
    for task in ("stream", "stream, in all"):
        harness.print_table(bench.contest.record, task)


def growth(bench: Bench) -> None:
    """Record the time of a query and bytes for growing numbers of synthetic documents."""
    for n in bench.options.sizes:
        collection = synthetic(bench.options, n, _GROWTH_QUERIES)
        engines = {name: built(name, collection) for name in _GROWING if name in bench.names}
        extra: dict[str, dict[str, Any]] = {
            name: {"n": n, "bytes": (engine.bytes() or {})["total"]} for name, engine in engines.items()
        }
        calls = {name: partial(engine.batch, engine.prepare(collection.queries), K) for name, engine in engines.items()}
        bench.contest.race(f"growth, n = {n}", calls, len(collection.queries.texts), bench.options.rounds, extra=extra)


def synthetic(options: argparse.Namespace, documents: int, queries: int = 2_000) -> Synthetic:
    """Return synthetic documents and queries for these options."""
    return Synthetic(documents, queries, options.seed, options.exponent, options.frequent)


def _race(
    bench: Bench,
    task: str,
    names: list[str],
    queries: Queries,
    extra: dict[str, dict[str, float]],
    rounds: int | None = None,
) -> None:
    calls = {}
    for name in names:
        engine = bench.engine(name)
        calls[name] = partial(engine.batch, engine.prepare(queries), K)
    bench.contest.race(task, calls, len(queries.texts), rounds or bench.options.rounds, extra=extra)


def _columns(results: dict[str, Ranked], queries: Queries) -> dict[str, dict[str, float]]:
    """Return the quality, where there are judgements, and the agreement with ours."""
    columns: dict[str, dict[str, float]] = {}
    for name, result in results.items():
        columns[name] = quality(result, queries.grades) if queries.judged else {}
        if name != OURS:
            columns[name]["agreement"] = agreement(results[OURS], result)
    return columns
