"""Traces run through KV caches: what they find, by size of the cache and by policy."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.progress import Progress, bar
from ..base.threads import count as thread_count
from ..base.threads import in_pieces
from ..kernels.traces import replay as kernels
from ..kv_cache.cache import MAX_ID, KVCache
from ..kv_cache.state import POLICIES
from .reuse import lru_hits, optimal_hits
from .trace import Trace

OPTIMAL = "optimal"  # which no policy can beat
_REQUESTS = 16  # of the first kernel call, when it is not known yet how long one takes


@dataclass(frozen=True, eq=False)
class Replay:
    """The result of a replay.

    Attributes
    ----------
    blocks, found : ndarray
        int64 (n,): the blocks of each request, and how many of its leading ones were in the cache.
    refused : ndarray
        bool (n,): whether it had more blocks than there were pages, so that none were found.
    seconds : float
        How long the replay took.
    """

    blocks: np.ndarray
    found: np.ndarray
    refused: np.ndarray
    seconds: float

    @property
    def hit_rate(self) -> float:
        """Blocks found over blocks of all requests that were not refused; 0.0 where there are none."""
        blocks = int(self.blocks[~self.refused].sum())
        return int(self.found.sum()) / blocks if blocks else 0.0

    @property
    def requests_per_second(self) -> float:
        """Speed of the replay; 0.0 where there was nothing to do."""
        return len(self.blocks) / self.seconds if self.seconds else 0.0


def replay(trace: Trace, cache: KVCache, *, salt: int = 0, progress: Progress = False) -> Replay:
    """Run the requests of a trace through a cache, one after the other. O(blocks).

    Each is attached by its block ids, as by `KVCache.attach_blocks`, and detached at once: its last page becomes the
    oldest of its own. The cache keeps what the trace leaves in it, so a second trace may follow; its `stats()` count
    on. Interrupted by Ctrl-C, a whole number of requests has passed.

    Parameters
    ----------
    trace : Trace
        With block ids, of blocks as large as the cache's pages; ValueError if not.
    cache : KVCache
        What the requests pass through; it is changed.
    salt : int
        Under which the blocks are kept.
    progress : bool or callable
        True draws a bar; a callable gets (done, total).

    Returns
    -------
    Replay
        What was found.

    Examples
    --------
    >>> trace = Trace([0, 1, 2], [3, 3, 2], [1, 1, 1], [7, 8, 9, 7, 8, 5, 7, 8], [0, 3, 6, 8], block_size=1)
    >>> replay(trace, KVCache(page_size=1, max_pages=4, store=False)).found.tolist()
    [0, 2, 2]
    """
    if trace.block_size != cache.page_size:
        raise ValueError(f"trace must have blocks of page_size={cache.page_size} tokens, got {trace.block_size}")
    salt = arguments.integer("salt", salt)
    return _replay(trace, cache, salt, kernels.replay, progress)


def hit_rate_curve(
    trace: Trace, sizes: ArrayLike, policy: str = "lru", *, threads: int | None = None, progress: Progress = False
) -> np.ndarray:
    """Return the hit rate of a trace in an empty cache of each of some sizes, under a policy: float64 (m,).

    Parameters
    ----------
    trace : Trace
        With block ids; ValueError if it has none.
    sizes : array_like of int
        Pages, (m,).
    policy : str
        As `eviction` of KVCache, or "optimal", Belady's optimal policy, an upper bound (1966).
    threads : int, optional
        How many; all cores by default.
    progress : bool or callable
        True draws a bar of the sizes; a callable gets (done, total).

    Notes
    -----
    Under "lru" one pass over the trace gives the hits at all sizes (stack distances, Mattson et al. 1970), with one
    more for each group of sizes that refuse some of the requests: O(blocks * log blocks). Under other policies the
    trace is replayed at each size.

    Examples
    --------
    >>> trace = Trace([0, 1, 2], [3, 3, 2], [1, 1, 1], [7, 8, 9, 7, 8, 5, 7, 8], [0, 3, 6, 8], block_size=1)
    >>> hit_rate_curve(trace, [3, 4]).tolist(), hit_rate_curve(trace, [3, 4], "slru").tolist()
    ([0.5, 0.5], [0.5, 0.5])
    """
    sizes = arguments.integers("sizes", sizes, 1, 2**31 - 1)
    arguments.one_of("policy", policy, (*POLICIES, OPTIMAL))
    _need_blocks(trace)
    workers = thread_count(threads)
    rates = np.zeros(len(sizes))
    with bar(progress, len(sizes), f"replaying under {policy}", "sizes") as advance:
        if policy in ("lru", OPTIMAL):
            found, blocks = (lru_hits if policy == "lru" else optimal_hits)(trace, sizes)
            advance(len(sizes))
            return found / np.maximum(blocks, 1)

        def fill(run: slice) -> None:
            for place in range(run.start, run.stop):
                cache = cache_for(trace, int(sizes[place]), policy)
                rates[place] = _replay(trace, cache, 0, kernels.replay_alone, False).hit_rate
                advance(1)

        in_pieces(len(sizes), fill, workers)
    return rates


def cache_for(trace: Trace, pages: int, policy: str) -> KVCache:
    """Return an empty cache for a trace, without room for entries.

    It has no more pages than the trace has blocks: with as many, nothing is ever evicted, and more would find no more.
    """
    return KVCache(trace.block_size, min(pages, max(len(trace.block_ids), 1)), store=False, eviction=policy)


def _need_blocks(trace: Trace) -> None:
    if len(trace) and not len(trace.block_ids):
        raise ValueError("trace must have block ids")


def _replay(trace: Trace, cache: KVCache, salt: int, kernel: Callable, progress: Progress) -> Replay:
    """Run a trace through a cache by `kernel`, one of `kernels.traces.replay`."""
    _need_blocks(trace)
    n = len(trace)
    found, data = np.zeros(n, np.int32), trace.block_ids.view(np.uint8)
    seq = MAX_ID
    while seq in cache:
        seq -= 1
    began = time.perf_counter()
    with bar(progress, n, "replaying", "requests") as advance:

        def run(part: slice) -> None:
            done = part.start
            while done < part.stop:
                arrays = cache.arrays
                code, done, _ = kernel(*arrays, seq, salt, data, trace.indptr, done, part.stop, found)
                if code == kernels.FULL:
                    cache.make_room(arrays)
            advance(part.stop - part.start)

        in_pieces(n, run, smallest=_REQUESTS)
    seconds = time.perf_counter() - began
    return Replay(np.diff(trace.indptr), np.maximum(found, 0).astype(np.int64), found < 0, seconds)
