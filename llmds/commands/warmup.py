"""`llmds warmup`: compile every kernel, by calling every method of every structure on little data."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..admissions import AdmissionController
from ..base.progress import bar
from ..base.structure import Structure
from ..cmsketch import CountMinSketch
from ..documents import Documents
from ..encoders import LSAEncoder
from ..hnsw.index import HNSW
from ..indexed_heap import IndexedHeap
from ..inverted_index.index import InvertedIndex
from ..kernels import heap, table
from ..kernels.hnsw import build
from ..kernels.inverted_index import bm25, cursors
from ..kernels.inverted_index.layout import Postings
from ..kernels.kv_cache import upgrade
from ..kernels.kv_cache.eviction import dispatch as kv_eviction
from ..kernels.kv_cache.eviction import table as kv_policies
from ..kernels.scheduler import check
from ..kv_cache import files
from ..kv_cache.cache import KVCache
from ..kv_cache.state import POLICIES
from ..paged_allocator import PagedAllocator
from ..retrieval_pipeline import FUSIONS, RetrievalPipeline
from ..scheduler.scheduler import Scheduler
from ..simulator.cost_model import CostModel
from ..simulator.simulator import Replica, simulate
from ..token_lru import TokenLRU
from ..tokenizer.tokenizer import Tokenizer
from ..traces.hit_rates import hit_rate_curve, replay
from ..traces.reuse import lru_hits, optimal_hits
from ..traces.sources import read_azure, synthetic
from ..traces.trace import Trace

TEXTS = ["the page cache", "a heap of pages in the cache", "naïve caché", "a graph over the heap"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(options: argparse.Namespace) -> None:
    """Compile everything, with a progress bar, and print the time of each part."""
    took = {}
    with bar(not options.quiet, len(STEPS), "compiling", "parts") as advance:
        for name, step in STEPS.items():
            start = time.perf_counter()
            step()
            took[name] = time.perf_counter() - start
            advance(1)
    for name, seconds in took.items():
        print(f"{name:<24}{seconds:7.2f} s")
    print(f"{'total':<24}{sum(took.values()):7.2f} s")


def _passes_through_a_file(structure: Structure, **given: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        structure.save(Path(folder) / "file")
        type(structure).load(Path(folder) / "file", **given).check()  # type: ignore[call-arg]


def _heap() -> None:
    queue = IndexedHeap()
    queue.push(1, 2.0)
    queue.push_many([2, 3], [1.0, 4.0])
    queue.update_key(1, 0.5)
    queue.peek()
    queue.pop()
    queue.delete(2)
    queue.get_score(3)
    queue.get_score_many([3])
    queue.contains(3)
    queue.update_many([3], [1.0])
    queue.pop_many(1)
    queue.heapify([1, 2], [3.0, 4.0])
    queue.reserve(20)
    heap.new(1, False)
    _passes_through_a_file(queue)


def _lru() -> None:
    cache: TokenLRU[Any, Any] = TokenLRU(10, len)
    cache.put(1, "one")
    cache.put("key", "two")
    cache.get(1)
    cache.peek(1)
    cache.pop("key")
    cache.put(2, "four")
    cache.put_many([3, 4], [2, 2])
    cache.get_many([3, 9])
    cache.items()
    cache.pop(3)
    cache.evict_until_budget(2)
    cache.reserve(40)
    cache.shrink_to_fit()
    cache.stats()
    cache.clear()
    _passes_through_a_file(cache, token_of=len)


def _sketch() -> None:
    sketch = CountMinSketch(64, 2)
    sketch.add("a")
    sketch.add(1)
    sketch.estimate("a")
    sketch.estimate(1)
    sketch.add_many(["a", "b"])
    sketch.add_many([1, 2])
    sketch.estimate_many(["a"])
    sketch.estimate_many([1])
    sketch.merge(CountMinSketch(64, 2))
    sketch.decay()
    sketch.reset()
    _passes_through_a_file(sketch)
    watching = CountMinSketch(64, 2, heavy_hitters=2)
    watching.add("a" * 20_000)
    watching.add(1)
    watching.add_many(["a", "b"])
    watching.add_many([1, 2])
    watching.merge(watching)
    watching.top_k(1)


def _pages() -> None:
    pages = PagedAllocator(16, 8)
    pages.free(pages.alloc(2)[:1])
    pages.free_many(pages.alloc_many([1, 2]))
    pages.stats()
    pages.defragment()
    pages.compact()
    _passes_through_a_file(pages)


def _kv_cache() -> None:
    for options in ({}, {"store": False}):
        cache = KVCache(4, 32, events=8, **options)  # type: ignore[arg-type]
        cache.attach(0, [1, 2, 3, 4, 5, 6], prefix_tokens=[1, 2, 3, 4, 5])
        cache.attach(1, [1, 2, 3, 4, 5, 9], prefix_tokens=[1, 2, 3, 4, 5])
        cache.attach_many([2, 3], np.arange(12), [0, 6, 12])
        cache.attach_blocks(4, [7, 8])
        cache.attach_blocks_many([6], [7, 8], [0, 2])
        cache.fork(1, 5)
        cache.append(5, [1])
        cache.append_many([0, 1], np.arange(2))
        cache.write(5, 0, [9])
        cache.truncate(5, 3)
        cache.match_prefix([1, 2, 3, 4, 5])
        cache.match_prefix_many([7, 8], [0, 2], blocks=True)
        cache.pin([1, 2, 3, 4])
        cache.unpin([1, 2, 3, 4])
        cache.block_hashes([1, 2, 3, 4])
        cache.block_table([0, 1, 5])
        cache.events()
        cache.stats()
        repr(cache)
        cache.detach(5)
        cache.reserve(40)
        cache.shrink_to_fit()
        if cache.store:
            cache.get(0)
        _passes_through_a_file(cache)
    for number in range(len(POLICIES)):
        kv_eviction.functions(kv_policies.policy(number))
    old = np.full(upgrade.old_size(1), -1)  # what a file of version 1 holds of an empty cache
    old[: upgrade.HEAD] = 0
    old[[upgrade.MAX_PAGES, upgrade.PAGE_SIZE]] = 1
    seqs = table.new(16, upgrade.SEQ_COLUMNS)
    files.from_version_1({"pool": old, "seqs": seqs, "ids": np.zeros((0, 0), np.int64)})


def _scheduler() -> None:
    scheduler = Scheduler(4)
    first, second, third = scheduler.submit(5), scheduler.submit(7, 50.0), scheduler.submit(3)
    scheduler.submit_many([4, 5], 10.0)
    scheduler.request(first)
    scheduler.update_priority(second, 3)
    scheduler.cancel(third)
    batch = scheduler.get_batch(force=True) or []
    scheduler.preempt(batch)
    scheduler.complete_batch(scheduler.get_batch(force=True) or [])
    scheduler.stats()
    scheduler.ready_at()
    scheduler.reserve(30)
    scheduler.shrink_to_fit()
    _passes_through_a_file(scheduler)
    cache = KVCache(1, 8, store=False)
    shared = Scheduler(4, policy="wfq", cache=cache)
    shared.set_weight(1, 2.0)
    shared.submit(5, tenant=1, prompt=[1, 2])
    shared.get_batch(force=True)
    shared.charge([0], 1)
    check.upgraded(np.zeros(0, np.int64), 0)


def _admission() -> None:
    admission = AdmissionController()
    admission.should_admit(5)
    admission.record_request(7)
    admission.record_request(1)
    admission.should_admit_many([1e12, 1e12], [1, 2])
    admission.set_limits(1, 2.0)
    admission.should_admit(5, tenant=1)
    admission.retry_after(5, tenant=1)
    admission.tenant_stats(1)
    admission.stats()
    admission.reset()
    admission.reserve(40)
    _passes_through_a_file(admission)


def _text() -> None:
    tokenizer, index = Tokenizer(stop_words="english", stemmer=str.upper), InvertedIndex(stop_words="english")
    tokenizer.tokenize(TEXTS[2])
    index.add_documents(np.arange(20), TEXTS * 5)
    for doc_id in range(2):  # first among growing postings, then in a segment
        index.remove_document(doc_id)
        index.search("cache heap")
        index.search_batch(TEXTS, 2)
        index.score_many(["cache"], np.array([[1, 2]]))
        index.explain("cache", 2)
        index.get_term_frequency("cache", 2)
        index.get_document_frequency("heap")
        index.stats()
        index.shrink_to_fit()
    index.search("cache heap")  # of one segment and nothing else
    (own,), form = index.arrays.segments, bm25.form(bm25.LUCENE, 1.2, 0.75, 0.0, 1.0)
    postings = Postings(own.postings, own.block_last, own.block_at, own.lengths, form)
    cursors.next_block(cursors.new(1), postings, 0)  # which only users call
    index.add_document(1, TEXTS[0])
    _passes_through_a_file(index, stop_words="english")


def _graph() -> None:
    rows = np.random.default_rng(0).standard_normal((900, 3)).astype(np.float32)
    for metric, quantization, vectors in (("l2", "int4", "float16"), ("cosine", "int8", None), ("ip", None, "float32")):
        graph = HNSW(3, M=2, metric=metric, quantization=quantization, vectors=vectors, seed=0)
        graph.add(rows[0], 0)
        graph.add_many(rows[1:], np.arange(1, 900))
        graph.add(rows[0], 999)
        graph.search(rows[0], 2, ef=4)
        graph.search_batch(rows, 2, ef=4)
        graph.search(rows[0], 2, ef=900)
        graph.search(rows[0], 2, ef=4, filter=np.arange(100))
        graph.search(rows[0], 2, group_by=np.zeros(1000, int))
        graph.distances(rows[:1], np.array([[1, 2]]))
        graph.get_vector(1)
        graph.update(2, rows[3] + 1)
        graph.remove(1)
        graph.remove(999)
        graph.stats()
        graph.reserve(1000)
        graph.shrink_to_fit()
        _passes_through_a_file(graph)
    arrays, nobody = graph.arrays, np.empty((0, build.BATCH), np.int64)
    build.abandon(arrays.nodes, arrays.upper, arrays.arena, nobody)  # what else an interruption would wait for


def _documents() -> None:
    documents = Documents()
    documents.add("a", "text", "title")
    documents.add_many(["b", "c"], TEXTS[:2])
    documents.row_of("b")
    documents.rows_of(["a"])
    documents.texts([0, 1])
    documents.shrink_to_fit()
    _passes_through_a_file(documents)


def _pipeline() -> None:
    encoder = LSAEncoder(2, min_df=1).fit(TEXTS)
    pipeline = RetrievalPipeline(2, encoder=encoder, seed=0)
    pipeline.add_documents(np.arange(4), TEXTS)
    pipeline.remove_document(0)
    pipeline.search("cache heap")
    pipeline.search("cache heap", fusion="rrf")
    pipeline.search("cache heap", fusion_weight=1.0)
    pipeline.shrink_to_fit()
    for fusion in FUSIONS:  # of one segment and nothing else
        pipeline.search("cache heap", fusion=fusion)
    pipeline.reserve(40)
    _passes_through_a_file(pipeline, encoder=encoder)
    _passes_through_a_file(encoder)


def _traces() -> None:
    trace = synthetic(requests=9, turns=3.0)
    trace.tokens()
    trace.tokens_of(0)
    trace.stats()
    lru_hits(trace, [100])
    optimal_hits(trace, [100])
    for policy in POLICIES:
        replay(trace, KVCache(trace.block_size, 9, store=False, eviction=policy))
        hit_rate_curve(trace, [9], policy)
    _passes_through_a_file(trace)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "azure.csv"
        path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,48,10\n")
        read_azure(path)


def _simulator() -> None:
    cost = CostModel.linear(step=1.0)
    cost.seconds(1, 1, 1)
    simulate(Trace(np.zeros(99), np.full(99, 9), np.full(99, 9)), Replica(cost, 50, 40, 4), slo_ms=1.0)
    simulate(synthetic(requests=9, max_input=99, block_size=8), Replica(cost, 4, 20, policy="edf", prefill_chunk=4))


STEPS: dict[str, Callable[[], None]] = {
    "text and BM25": _text,
    "HNSW": _graph,
    "pipeline and encoder": _pipeline,
    "documents": _documents,
    "KV cache": _kv_cache,
    "paged allocator": _pages,
    "scheduler": _scheduler,
    "admission": _admission,
    "heap": _heap,
    "LRU": _lru,
    "sketch": _sketch,
    "traces": _traces,
    "simulator": _simulator,
}
