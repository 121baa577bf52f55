"""The small structures beside other libraries: heap, token cache, sketch, admission, scheduler; single and bulk calls.

The other libraries are used as an expert would use them: heapq with lazy deletion, heapdict; an OrderedDict that counts
tokens, cachetools.LRUCache with `getsizeof`, lru-dict (its limit is a number of items: as many as the others hold);
datasketches' count_min_sketch of the same shape; token buckets and sliding windows in a dict, limits, aiolimiter. All
loops keep methods in local variables. Where the results are defined, they are compared before the timing.
"""

import argparse
import heapq
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import cachetools
import datasketches
import heapdict
import numpy as np

from llmds import CountMinSketch, IndexedHeap, TokenLRU

from .. import harness
from . import admissions as admission_bench
from . import scheduler as scheduler_bench

_PARTS = ("heap", "cache", "sketch", "admission", "scheduler")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--items", type=int, default=100_000, help="items or calls in each task (default 100000)")
    parser.add_argument("--batch", type=int, default=1024, help="items per call in the bulk cache task (default 1024)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--tenants", type=int, default=100, help="tenants in the admission tasks (default 100)")
    parser.add_argument(
        "--only", choices=_PARTS, nargs="+", default=_PARTS, help="only these structures (default: all)"
    )


def run(options: argparse.Namespace) -> None:
    """Run the tasks of the chosen structures, printing each when it is done."""
    parameters = {name: getattr(options, name) for name in ("items", "batch", "tenants", "seed", "rounds")}
    contest = harness.Contest("structures", parameters)
    if "heap" in options.only:
        _heap(contest, np.random.default_rng(options.seed), options.items, options.rounds)
    if "cache" in options.only:
        _cache(contest, np.random.default_rng(options.seed), options.items, options.batch, options.rounds)
    if "sketch" in options.only:
        _sketch(contest, np.random.default_rng(options.seed), options.items, options.rounds)
    if "admission" in options.only:
        admission_bench.race(contest, options.items, options.tenants, options.seed, options.rounds)
    if "scheduler" in options.only:
        scheduler_bench.race(contest, options.items, options.seed, options.rounds)
    harness.draw(contest.finish(options.out))


class LazyHeap:
    """heapq and a dict of current scores; `pop` skips entries whose score is not the current one."""

    def __init__(self, keys: list[int] | tuple = (), scores: list[float] | tuple = ()):
        self.heap = list(zip(scores, keys, strict=True))
        heapq.heapify(self.heap)
        self.present = dict(zip(keys, scores, strict=True))

    def push(self, key: int, score: float) -> None:
        self.present[key] = score
        heapq.heappush(self.heap, (score, key))

    decrease_key = push

    def pop(self) -> tuple[float, int]:
        while True:
            item = heapq.heappop(self.heap)
            score, key = item
            if self.present.get(key) == score:
                del self.present[key]
                return item


class DictHeap:
    """heapdict under the same names."""

    def __init__(self, keys: list[int] | tuple = (), scores: list[float] | tuple = ()):
        self.heap = heapdict.heapdict()
        self.push = self.decrease_key = self.heap.__setitem__
        for key, score in zip(keys, scores, strict=True):
            self.push(key, score)

    def pop(self) -> tuple[float, int]:
        key, score = self.heap.popitem()
        return score, key


def _heap(contest: harness.Contest, rng: np.random.Generator, n: int, rounds: int) -> None:
    """Push n items, lower the score of each in another order, pop all; and the three mixed, one pop a push."""
    keys = rng.permutation(n).astype(np.int64)
    scores, order = rng.random(n), rng.permutation(n)
    lowered_keys, lowered = keys[order], scores[order] * rng.random(n)
    key_list, score_list = keys.tolist(), scores.tolist()
    lowered_key_list, lowered_list = lowered_keys.tolist(), lowered.tolist()
    names: dict[str, Callable[..., Any]] = {"llmds": _indexed, "heapq, lazy": LazyHeap, "heapdict": DictHeap}

    def push(heap: Any) -> Any:
        call = heap.push
        for key, score in zip(key_list, score_list, strict=True):
            call(key, score)
        return heap

    def decrease(heap: Any) -> Any:
        call = heap.decrease_key
        for key, score in zip(lowered_key_list, lowered_list, strict=True):
            call(key, score)
        return heap

    def pop(heap: Any) -> list:
        call = heap.pop
        return [call() for _ in range(n)]

    # Each step of the mixed task: a key to push, one pushed `window` / 2 steps ago to lower if it is still there.
    window, targets, still = n // 10, [-1] * n, LazyHeap()
    for e in range(n):
        still.push(key_list[e], score_list[e])
        earlier = key_list[e - window // 2]
        if e >= window // 2 and earlier in still.present:
            targets[e] = earlier
            still.decrease_key(earlier, still.present[earlier] / 2)
        if e >= window:
            still.pop()
    score_of = dict(zip(key_list, (scores / 2).tolist(), strict=True))
    calls = 2 * n - window + sum(target >= 0 for target in targets)

    def mixed(heap: Any) -> list:
        """About `window` items wait: push one, lower one, pop one."""
        push, decrease, pop, popped = heap.push, heap.decrease_key, heap.pop, []
        for e in range(n):
            push(key_list[e], score_list[e])
            if targets[e] >= 0:
                decrease(targets[e], score_of[targets[e]])
            if e >= window:
                popped.append(pop())
        return popped

    def filled(make: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: make(key_list, score_list)

    def lowered_heap(make: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: decrease(make(key_list, score_list))

    popped = {name: pop(lowered_heap(make)()) for name, make in names.items()}
    _same("heap: order of pops", popped)
    _same("heap: order of pops when mixed", {name: mixed(make()) for name, make in names.items()})
    many = IndexedHeap()
    many.push_many(keys, scores)
    many.update_many(lowered_keys, lowered)
    many_scores, many_keys = many.pop_many(n)
    _same("heap: bulk", {"llmds": list(zip(many_scores.tolist(), many_keys.tolist(), strict=True)), **_first(popped)})

    every = dict.fromkeys(names)
    contest.race("heap push, single", dict.fromkeys(names, push), n, rounds, dict(names))
    setup = {name: filled(make) for name, make in names.items()}
    contest.race("heap decrease, single", dict.fromkeys(names, decrease), n, rounds, setup)
    setup = {name: lowered_heap(make) for name, make in names.items()}
    contest.race("heap pop, single", dict.fromkeys(names, pop), n, rounds, setup)
    contest.race("heap push + decrease + pop mixed, single", dict.fromkeys(names, mixed), calls, rounds, dict(names))
    bulk: dict[str, Callable[..., object]] = {"llmds": lambda heap: heap.push_many(keys, scores)}
    built = {name: (lambda _, make=make: make(key_list, score_list)) for name, make in names.items() if name != "llmds"}
    contest.race("heap push, bulk", {**bulk, **built}, n, rounds, {"llmds": IndexedHeap, **dict.fromkeys(built, list)})
    bulk = {**dict.fromkeys(every, decrease), "llmds": lambda heap: heap.update_many(lowered_keys, lowered)}
    contest.race("heap decrease, bulk", bulk, n, rounds, {name: filled(make) for name, make in names.items()})
    bulk = {**dict.fromkeys(every, pop), "llmds": lambda heap: heap.pop_many(n)}
    contest.race("heap pop, bulk", bulk, n, rounds, setup)


def _indexed(keys: list[int] | tuple = (), scores: list[float] | tuple = ()) -> IndexedHeap:
    heap = IndexedHeap()
    heap.push_many(np.array(keys, np.int64), np.array(scores))
    return heap


class OrderedCache:
    """An OrderedDict from key to value, a value being its token count, and the sum of them."""

    def __init__(self, budget: int):
        self.items: OrderedDict[int, int] = OrderedDict()
        self.budget, self.total = budget, 0

    def get(self, key: int) -> int | None:
        items = self.items
        if key in items:
            items.move_to_end(key)
            return items[key]
        return None

    def put(self, key: int, value: int) -> None:
        items = self.items
        if key in items:
            self.total -= items.pop(key)
        if value > self.budget:
            return
        items[key] = value
        self.total += value
        while self.total > self.budget:
            self.total -= items.popitem(last=False)[1]


def _filled_cache(budget: int, keys: list[int], values: list[int]) -> OrderedCache:
    cache = OrderedCache(budget)
    for key, value in zip(keys, values, strict=True):
        cache.put(key, value)
    return cache


class CachetoolsCache:
    """cachetools.LRUCache under the same names."""

    def __init__(self, budget: int):
        cache: Any = cachetools.LRUCache(budget, getsizeof=int)
        self.get, self.put = cache.get, cache.__setitem__


def _counting_cache(items: int) -> Callable[[], Any] | None:
    """Return a class for lru-dict's cache of so many items under the same names; None if it is not installed."""
    try:
        lru = import_module("lru").LRU
    except ImportError:
        print("not installed, left out: lru-dict")
        return None

    class CountingCache:
        def __init__(self) -> None:
            cache = lru(items)
            self.get, self.put = cache.get, cache.__setitem__

    return CountingCache


def _cache(contest: harness.Contest, rng: np.random.Generator, n: int, batch: int, rounds: int) -> None:
    """Zipf keys (exponent 1.1), values of 1 to 500 tokens, room for about a tenth of all keys' tokens."""
    universe = max(n // 4, 10)
    weights = 1 / np.arange(1, universe + 1) ** 1.1
    keys = rng.permutation(universe)[rng.choice(universe, n, p=weights / weights.sum())].astype(np.int64)
    sizes = rng.integers(1, 501, universe)
    tokens, budget = sizes[keys], int(sizes.sum()) // 10
    key_list, token_list = keys.tolist(), tokens.tolist()
    names: dict[str, Callable[..., Any]] = {
        "llmds": lambda: TokenLRU[int, int](budget, int),
        "OrderedDict": lambda: OrderedCache(budget),
        "cachetools": lambda: CachetoolsCache(budget),
    }

    counting = _counting_cache(len(_filled_cache(budget, key_list, token_list).items))

    def mixed(cache: Any) -> int:
        """Look every key up, put what is missing. The number of hits."""
        get, put, hits = cache.get, cache.put, 0
        for key, value in zip(key_list, token_list, strict=True):
            if get(key) is None:
                put(key, value)
            else:
                hits += 1
        return hits

    def put(cache: Any) -> Any:
        call = cache.put
        for key, value in zip(key_list, token_list, strict=True):
            call(key, value)
        return cache

    def get(cache: Any) -> list[bool]:
        call = cache.get
        return [call(key) is not None for key in key_list]

    def filled(make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: put(make())

    def batches(cache: TokenLRU) -> int:
        """As `mixed`, but a batch is looked up before anything of it is put."""
        hits = 0
        for start in range(0, n, batch):
            some = keys[start : start + batch]
            there = cache.get_many(some)
            missing = ~there
            cache.put_many(some[missing], tokens[start : start + batch][missing])
            hits += int(there.sum())
        return hits

    def put_many(cache: TokenLRU) -> TokenLRU:
        cache.put_many(keys, tokens)
        return cache

    hits = {name: mixed(make()) for name, make in names.items()}
    _same("cache: hits", hits)
    bulk_hits = put_many(names["llmds"]()).get_many(keys).tolist()
    _same("cache: hits after puts", {"bulk": bulk_hits, **{name: get(put(make())) for name, make in names.items()}})

    if counting is not None:
        names["lru-dict"], hits["lru-dict"] = counting, mixed(counting())
    rate = {name: {"hit_rate": count / n} for name, count in hits.items()}
    peers = {name: make for name, make in names.items() if name != "llmds"}
    contest.race("cache get, put if missing, single", dict.fromkeys(names, mixed), n, rounds, names, rate)
    contest.race("cache put, single", dict.fromkeys(names, put), n, rounds, names)
    setup = {name: filled(make) for name, make in names.items()}
    contest.race("cache get, single", dict.fromkeys(names, get), n, rounds, setup)
    rate = {**rate, "llmds": {"hit_rate": batches(names["llmds"]()) / n}}
    contest.race(
        f"cache get, put if missing, batches of {batch}",
        {"llmds": batches, **dict.fromkeys(peers, mixed)}, n, rounds, names, rate,
    )  # fmt: skip
    contest.race("cache put, bulk", {"llmds": put_many, **dict.fromkeys(peers, put)}, n, rounds, names)
    bulk: dict[str, Callable[..., object]] = {"llmds": lambda cache: cache.get_many(keys), **dict.fromkeys(peers, get)}
    contest.race("cache get, bulk", bulk, n, rounds, {**setup, "llmds": lambda: put_many(names["llmds"]())})


def _sketch(contest: harness.Contest, rng: np.random.Generator, n: int, rounds: int) -> None:
    """Zipf items (exponent 1.3) as int64 and as strings of about 20 characters; sketches of 4 rows of 2048."""
    ints = (rng.zipf(1.3, n) % (n // 10 + 1)).astype(np.int64)
    exact = np.bincount(ints)
    distinct = np.flatnonzero(exact)
    for kind in ("int", "str"):
        make = int if kind == "int" else "user question {}".format
        items = [make(item) for item in ints.tolist()]
        array = ints if kind == "int" else items
        asked = [make(item) for item in distinct.tolist()]

        def add(sketch: Any, items: list = items) -> Any:
            call = sketch.add
            for item in items:
                call(item)
            return sketch

        def update(sketch: Any, items: list = items) -> Any:
            call = sketch.update
            for item in items:
                call(item)
            return sketch

        def estimate(sketch: CountMinSketch, items: list = items) -> list:
            call = sketch.estimate
            return [call(item) for item in items]

        def get_estimate(sketch: Any, items: list = items) -> list:
            call = sketch.get_estimate
            return [call(item) for item in items]

        def add_many(sketch: CountMinSketch, array: Any = array) -> CountMinSketch:
            sketch.add_many(array)
            return sketch

        def estimate_many(sketch: CountMinSketch, array: Any = array) -> np.ndarray:
            return sketch.estimate_many(array)

        def filled(fill: Callable[[Any], Any], make: Callable[[], Any]) -> Callable[[], Any]:
            return lambda: fill(make())

        fresh: dict[str, Callable[[], Any]] = {"llmds": CountMinSketch, "datasketches": _peer_sketch}
        single, bulk = add(CountMinSketch()), add_many(CountMinSketch())
        _same(f"sketch: {kind}", {"single": estimate(single), "bulk": bulk.estimate_many(items).tolist()})
        ours = bulk.estimate_many(asked) - exact[distinct]
        theirs = np.array(get_estimate(update(_peer_sketch()), asked)) - exact[distinct]
        error = {"llmds": {"mean_error": float(ours.mean())}, "datasketches": {"mean_error": float(theirs.mean())}}
        full = {"llmds": filled(add_many, CountMinSketch), "datasketches": filled(update, _peer_sketch)}
        contest.race(f"sketch add {kind}, single", {"llmds": add, "datasketches": update}, n, rounds, fresh, error)
        contest.race(
            f"sketch estimate {kind}, single", {"llmds": estimate, "datasketches": get_estimate}, n, rounds, full
        )
        contest.race(f"sketch add {kind}, bulk", {"llmds": add_many, "datasketches": update}, n, rounds, fresh, error)
        contest.race(
            f"sketch estimate {kind}, bulk", {"llmds": estimate_many, "datasketches": get_estimate}, n, rounds, full
        )


def _peer_sketch() -> Any:
    return datasketches.count_min_sketch(4, 2048)


def _first(results: dict[str, Any]) -> dict[str, Any]:
    """All but our own."""
    return {name: result for name, result in results.items() if name != "llmds"}


def _same(what: str, results: dict[str, Any]) -> None:
    """Stop unless all results are equal."""
    (name, expected), *others = results.items()
    for other, result in others:
        if result != expected:
            raise SystemExit(f"{what}: {name} and {other} differ")
