"""The tasks of the benchmark `kvcache`. What contenders find is compared before anything is timed."""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llmds import KVCache, Trace, traces
from llmds.kv_cache.state import POLICIES
from llmds.traces.hit_rates import OPTIMAL, hit_rate_curve

from .. import harness
from ..names import OURS
from . import engines, peers
from .peers import PlainCache

BLOCK = 512  # tokens of a page of `--pages`
SMALL = 16
SEEDS = (1, 2, 3, 4)
DECODE_STEPS = 200
SHORT = ("decode", "match")
CALLS = 20  # of what takes microseconds, in one timed call


class Bench(NamedTuple):
    """What a task works on."""

    contest: harness.Contest
    options: argparse.Namespace
    trace: Trace
    name: str

    def requests(self, stop: int | None = None) -> list[list[int]]:
        """Block ids of the first requests, as lists."""
        return [self.trace.blocks(r).tolist() for r in range(min(len(self.trace), stop or len(self.trace)))]

    def tokens(self, stop: int) -> list[np.ndarray]:
        """Token ids of the first requests, int32."""
        tokens, starts = self.trace[:stop].tokens()
        return [tokens[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]

    def pages(self, page_size: int) -> int:
        """How many of them there are, for the same tokens in all."""
        return self.options.pages * BLOCK // page_size

    def race(self, task: str, contenders: Mapping[str, Callable[..., object]], operations: int, **more: Any) -> None:
        """As of Contest, and what was recorded of others beside it. Short work has more rounds: others use the core."""
        rounds = self.options.rounds * (3 if task.startswith(SHORT) else 1)
        self.contest.race(task, contenders, operations, rounds, **more)
        for recorded in peers.RECORDED.get(task, ()):
            self.contest.note(
                task, f"recorded, {recorded.contender}", recorded_a_second=recorded.operations_a_second,
                recorded=recorded.text,
            )  # fmt: skip
            print(f"  recorded, {recorded.contender}: {recorded.text}")


def replay(bench: Bench) -> None:
    """Time the replay of the trace over block ids."""
    trace, pages, requests = bench.trace, bench.options.pages, bench.requests()
    fresh = partial(KVCache, trace.block_size, pages, store=False)
    replayed, (found, _) = traces.replay(trace, fresh()), peers.simulate(requests, pages)
    _same("hits of the replay", int(replayed.found.sum()), found)
    rate = {"hit_rate": replayed.hit_rate}
    bench.race(
        "replay",
        {OURS: lambda cache: traces.replay(trace, cache), "OrderedDict": lambda: peers.simulate(requests, pages)},
        len(trace),
        setup={OURS: fresh},
        extra={OURS: rate, "OrderedDict": rate},
    )


def attach(bench: Bench) -> None:
    """Time attach and detach of token ids, by page size, type of the entries, and whether they are stored."""
    tokens = bench.tokens(bench.options.token_requests)
    for page_size in (BLOCK, SMALL):
        contenders: dict[str, Callable[[], object]] = {}
        extra = {}
        for dtype in (np.int32, np.int64):
            for store in (False, True):
                name = OURS if not contenders else f"{OURS}, {np.dtype(dtype)}{', stored' if store else ''}"
                cache = KVCache(page_size, bench.pages(page_size), dtype=dtype, store=store)
                contenders[name] = partial(_attach_all, cache, tokens)
                contenders[name]()
                extra[name] = {"hit_rate": _hit_rate(cache), "dtype": str(np.dtype(dtype)), "stored": store}
        _same("hit rates", *{row["hit_rate"] for row in extra.values()})
        bench.race(f"attach, pages of {page_size}", contenders, len(tokens), extra=extra)


def python(bench: Bench) -> None:
    """Time attach beside plain Python, on lists and on arrays whose bytes it hashes, and beside engines (lists)."""
    arrays = bench.tokens(bench.options.python_requests)
    lists = [array.tolist() for array in arrays]
    for page_size in (BLOCK, SMALL):
        pages = bench.pages(page_size)
        ours = [KVCache(page_size, pages, dtype=np.int32, store=False) for _ in range(2)]
        plain = [PlainCache(page_size, pages) for _ in range(2)]
        contenders = {
            OURS: partial(_attach_all, ours[0], arrays),
            f"{OURS}, from lists": partial(_attach_all, ours[1], lists),
            "Python, of bytes": partial(_attach_all, plain[0], arrays),
            "Python, from lists": partial(_attach_all, plain[1], lists),
        }
        for call in contenders.values():
            call()
        found = [cache.stats()["hit_tokens"] // page_size for cache in ours] + [cache.hits for cache in plain]
        _same("pages found", *found)
        pages_found = dict.fromkeys(contenders, found[0])
        for name, engine in engines.engines(page_size, pages).items():
            contenders[name] = partial(_attach_all, engine, lists)
            contenders[name]()
            pages_found[name] = engine.hits
        extra = {name: {"pages_found": count} for name, count in pages_found.items()}
        bench.race(f"attach beside Python, pages of {page_size}", contenders, len(arrays), extra=extra)


def lists(bench: Bench) -> None:
    """Attach and detach from Python lists, over turning these into arrays; fastest where the type is given."""
    given = [array.tolist() for array in bench.tokens(bench.options.python_requests)]
    caches = [KVCache(BLOCK, bench.pages(BLOCK), dtype=dtype, store=False) for dtype in (np.int64, np.int32)]
    contenders: dict[str, Callable[[], object]] = {
        OURS: partial(_attach_all, caches[0], given),
        f"{OURS}, int32": partial(_attach_all, caches[1], given),
        "np.array": partial(_arrays_of, given, None),
        "np.array, int64": partial(_arrays_of, given, np.int64),
    }
    bench.race("lists", contenders, len(given))
    rows = {row["contender"]: row["seconds"] for row in bench.contest.record["results"] if row["task"] == "lists"}
    for name in (OURS, f"{OURS}, int32"):
        over = {
            f"over {other}": statistics.median(a / b for a, b in zip(rows[name], rows[other], strict=True))
            for other in ("np.array", "np.array, int64")
        }
        bench.contest.note("lists, over arrays", name, **over)
    harness.print_table(bench.contest.record, "lists, over arrays")


def decode(bench: Bench) -> None:
    """One token more for each of the running sequences: steps a second."""
    arrays, n = bench.tokens(bench.options.running), bench.options.running
    starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    flat, seqs = np.concatenate(arrays), np.arange(len(arrays))
    new = np.random.default_rng(0).integers(0, 128_000, (DECODE_STEPS, len(arrays)), np.int32)
    new_lists = new.tolist()
    for page_size in (BLOCK, SMALL):
        # room for every page of all of them, and for what they grow
        pages = len(flat) // page_size + (2 + DECODE_STEPS // page_size) * n

        def running(store: bool, page_size: int = page_size, pages: int = pages) -> KVCache:
            cache = KVCache(page_size, pages, dtype=np.int32, store=store)
            cache.attach_many(seqs, flat, starts)
            return cache

        def plain(page_size: int = page_size, pages: int = pages) -> PlainCache:
            cache = PlainCache(page_size, pages)
            for seq, array in enumerate(arrays):
                cache.start(seq, array.tolist())
            return cache

        def steps(cache: KVCache) -> None:
            for entries in new:
                cache.append_many(seqs, entries)

        def plain_steps(cache: PlainCache) -> None:
            order = range(len(arrays))
            for entries in new_lists:
                cache.step(order, entries)

        bench.race(
            "decode step" if page_size == SMALL else f"decode step, pages of {page_size}",
            {OURS: steps, f"{OURS}, stored": steps, "Python": plain_steps},
            DECODE_STEPS,
            setup={OURS: partial(running, False), f"{OURS}, stored": partial(running, True), "Python": plain},
            extra={name: {"page_size": page_size} for name in (OURS, f"{OURS}, stored", "Python")},
        )


def match(bench: Bench) -> None:
    """All waiting requests looked up in one call, after the first half of the trace has passed."""
    trace, pages, half = bench.trace, bench.options.pages, len(bench.trace) // 2
    waiting = trace[half : half + bench.options.waiting]
    cache = KVCache(trace.block_size, pages, store=False)
    traces.replay(trace[:half], cache)
    _, cached = peers.simulate(bench.requests(half), pages)
    asked, ids, indptr = [waiting.blocks(r).tolist() for r in range(len(waiting))], waiting.block_ids, waiting.indptr
    matched = cache.match_prefix_many(ids, indptr, blocks=True).tolist()
    _same("blocks matched", matched, peers.match_all(asked, cached))

    def ours() -> None:
        for _ in range(CALLS):
            cache.match_prefix_many(ids, indptr, blocks=True)

    def plain() -> None:
        for _ in range(CALLS):
            peers.match_all(asked, cached)

    about = {"requests": len(waiting), "blocks": len(ids), "matched": sum(matched)}
    bench.race("match waiting", {OURS: ours, "dict": plain}, CALLS, extra={OURS: about, "dict": about})


def memory(bench: Bench) -> None:
    """Bookkeeping bytes a page: at the size of the other tasks, and where the buckets are emptiest and fullest."""
    for policy in POLICIES:
        columns = {}
        for pages in (8_193, bench.options.pages, 16_384):
            cache = KVCache(BLOCK, pages, store=False, eviction=policy)
            columns[f"at_{pages}"] = cache.arrays.pool.nbytes / pages
        bench.contest.note("bytes a page", f"{OURS}, {policy}", **columns)
    bench.contest.note(
        "bytes a page", f"recorded, {peers.RECORDED_BYTES.contender}", recorded=peers.RECORDED_BYTES.text
    )
    harness.print_table(bench.contest.record, "bytes a page")


def hits(bench: Bench) -> None:
    """Hit rates by size and policy, and how fast they were replayed."""
    loads = {bench.name: bench.trace}
    loads |= {f"synthetic {seed}": traces.synthetic(seed, requests=bench.options.synthetic) for seed in SEEDS}
    sizes = bench.options.sizes
    for name, trace in loads.items():
        task = f"hits: {name}"
        for policy in POLICIES:
            rates, speeds = {}, []
            for pages in sizes:
                replayed = [
                    traces.replay(trace, KVCache(trace.block_size, pages, store=False, eviction=policy))
                    for _ in range(min(bench.options.rounds, 3))
                ]
                rates[str(pages)] = replayed[0].hit_rate
                speeds.append(statistics.median(one.requests_per_second for one in replayed))
            if policy == "lru":
                _same("LRU at all sizes", list(rates.values()), hit_rate_curve(trace, sizes).tolist())
            bench.contest.note(
                task, policy, load=name, **rates, slowest_a_second=min(speeds), fastest_a_second=max(speeds)
            )
        optimum = hit_rate_curve(trace, sizes, OPTIMAL)
        bench.contest.note(task, OPTIMAL, load=name, **dict(zip(map(str, sizes), optimum.tolist(), strict=True)))
        harness.print_table(bench.contest.record, task)


def _attach_all(cache: Any, tokens: list[Any]) -> None:
    attach, detach = cache.attach, cache.detach
    for some in tokens:
        attach(0, some)
        detach(0)


def _arrays_of(lists: list[list[int]], dtype: Any) -> None:
    for some in lists:
        np.array(some, dtype)


def _hit_rate(cache: KVCache) -> float:
    stats = cache.stats()
    return stats["hit_tokens"] / max(stats["lookup_tokens"], 1)


def _same(what: str, *values: Any) -> None:
    if any(value != values[0] for value in values):
        raise AssertionError(f"{what} differ: {values}")
