"""Searching an HNSW index: whether by a walk or a scan, among which ids, and on which threads."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.fast_calls import Direct
from ..base.filters import Selection, chosen
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import distance as distance_kernels
from ..kernels.hnsw import layout
from ..kernels.hnsw import remove as remove_kernels
from ..kernels.hnsw import search as search_kernels
from ..kernels.hnsw.search import SCAN, SCAN_EXACTLY, WALK
from .state import Settings, State, accepted

Grouping: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None
Found: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a candidate of a walk costs, in slots that are scanned instead: its neighbours, one by one from memory.
_SCANNED_A_STEP = 45
ALL_ALLOWED = np.empty(0, np.uint8)  # no filter
NO_SLOTS = np.empty(0, np.int64)
_AT_LEAST = 16  # queries that a thread takes at a time, so that their walks run side by side
_kernels, _measures = Direct(search_kernels), Direct(distance_kernels)


def search(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, threads: int
) -> Found | None:
    """Return ids and distances (n, k), see `HNSW.search_batch`; None if a query cannot be measured."""
    if selection is None:
        return _search(state, settings, queries, k, ef, ALL_ALLOWED, threads)
    ids = chosen(selection, state.live_ids)
    while True:
        removed = state.arrays.arena[layout.REMOVED]
        found = _search(state, settings, queries, k, ef, _allowed(state, ids), threads)
        # When a vector is removed, an equal one may get its slot, under an id that was not chosen.
        unchanged = state.arrays.arena[layout.REMOVED] == removed
        if found is None or unchanged or np.isin(found[0], np.append(ids, -1)).all():
            return found


def _search(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, allowed: np.ndarray, threads: int
) -> Found | None:
    """Search among the slots that `allowed` marks, by a walk or by a scan."""
    ef = max(min(ef, state.present), 1)
    if allowed is ALL_ALLOWED and state.entry >= 0 and not compares_all(ef, state.present):
        found = _answer(state, settings, queries, k, WALK, ef, k, NO_SLOTS, allowed, NO_SLOTS, threads)
        last = min(k, state.present) - 1
        if found is None or last < 0 or (len(queries) == 1 and found[0].item(last) >= 0):
            return found
        if len(short := np.flatnonzero(found[0][:, last] < 0)):
            # Too many of those it found were removed or not in yet: a writer is at work.
            again = _search(state, settings, queries[short], k, state.present, allowed, threads)
            assert again is not None, "the same queries could be measured before"
            found[0][short], found[1][short] = again
        return found
    heads = search_kernels.visible_heads(state.arrays.nodes, state.arrays.arena, state.size, state.clock, allowed)
    m, ef = len(heads), max(min(ef, len(heads)), 1)
    if not m or compares_all(ef, m):
        return _answer(state, settings, queries, k, SCAN_EXACTLY, ef, k, heads, allowed, NO_SLOTS, threads)
    # Among so many (two standard deviations more than the mean) there are hardly ever fewer than `n` allowed ones.
    wide, rank = (math.ceil((n + 2 * math.sqrt(n)) * state.size / m) for n in (ef, max(k, 1)))
    ids, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    rows = np.arange(len(queries))
    while len(rows):  # where few of the near ones are allowed, the walk is widened until a scan is cheaper
        walks = wide * _SCANNED_A_STEP < m
        how, width = (WALK, wide) if walks else (SCAN, ef)
        counts = np.empty(len(rows), np.int64)
        found = _answer(state, settings, queries[rows], k, how, width, rank, heads, allowed, counts, threads)
        if found is None:
            return None
        ids[rows], distances[rows] = found
        rows = rows[counts < min(max(k, ef // 2), m)] if walks else rows[:0]
        wide *= 4
    return ids, distances


def compares_all(ef: int, m: int) -> bool:
    """Return whether a walk with this ef would see most of m vectors, or sort longer than comparing all takes."""
    return ef * 8 >= m or ef * ef >= 256 * m


def _answer(
    state: State, settings: Settings, queries: np.ndarray, k: int, how: int, ef: int, rank: int, heads: np.ndarray,
    allowed: np.ndarray, counts: np.ndarray, threads: int,
) -> Found | None:  # fmt: skip
    """Search for all queries in one way (`how`); fill `counts` (n,) with how many allowed candidates each had."""
    n, rank, fine = len(queries), max(min(rank, ef), 1), min(measured_exactly(settings.bits, k, ef), ef)
    ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    graph = (state.arrays, state.size, state.clock, state.entry)
    given = (settings.bits, settings.metric, ef, rank, fine, how, heads, allowed)
    if n == 1:
        fit = accepted(_kernels.search(*graph, queries, *given, ids, distances, counts)) >= 0
        return (ids, distances) if fit else None
    unfit = []

    def answer(part: slice) -> None:
        if accepted(_kernels.search(*graph, queries[part], *given, ids[part], distances[part], counts[part])) < 0:
            unfit.append(part)

    in_pieces(n, answer, threads, _AT_LEAST)
    return None if unfit else (ids, distances)


def grouped(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, grouping: Grouping,
    threads: int,
) -> Found | None:  # fmt: skip
    """Search as `search` does, with at most one result for each group."""
    parent_of = _parents(state, grouping)
    if selection is not None:
        selection = chosen(selection, state.live_ids)  # a function is called once
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    short, most = np.arange(len(queries)), max(state.present, 1)
    width = min(max(4 * k, ef), most)
    while len(short) and k:
        found = search(state, settings, queries[short], width, width, selection, threads)
        if found is None:
            return None
        complete = search_kernels.first_of_each(*found, parent_of(found[0]), ids, distances, short)
        if width >= most:
            break
        short, width = short[~complete.astype(bool)], min(4 * width, most)
    return ids, distances


def distances(state: State, settings: Settings, queries: np.ndarray, ids: np.ndarray, threads: int) -> np.ndarray:
    """Return the distances of each query (n, dim) to ids (n, c), float32 (n, c); +inf for unknown ids."""
    arrays, out, bits, metric = state.arrays, np.empty(ids.shape, np.float32), settings.bits, settings.metric
    slots = state.slots(ids.ravel()).reshape(ids.shape)

    def compute(part: slice) -> None:
        if accepted(_measures.distances(arrays, bits, metric, slots[part], queries[part], out[part])) < 0:
            raise ValueError("queries must not be all zeros under metric='cosine'")

    in_pieces(len(ids), compute, threads)
    return out


def smallest_ef(
    search_batch: Callable[..., Found], queries: np.ndarray, recall: float, k: int, n: int, threads: int
) -> int:
    """Return the smallest ef that finds a share `recall` of the k nearest among n; see `HNSW.tune`."""
    limits = search_batch(queries, k, ef=n, threads=threads)[1][:, -1:]
    slack = np.float32(1e-6) * np.maximum(np.abs(limits), 1)

    def good(ef: int) -> bool:
        found = search_batch(queries, k, ef=ef, threads=threads)[1]
        return float(np.mean(found <= limits + slack)) >= recall

    low, high = k - 1, k
    while high < n and not good(high):
        low, high = high, min(2 * high, n)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def measured_exactly(bits: int, k: int, ef: int) -> int:
    """Return how many of the nearest by code are measured exactly at least; their errors then decide about more."""
    if bits == layout.INT4:
        return k + max(k // 5, 2)
    if bits == layout.INT8:
        return k + 2
    if bits == layout.FULL:
        return ef
    raise ValueError(f"no kernels for codes of {bits} bits")


def _allowed(state: State, ids: np.ndarray) -> np.ndarray:
    """Mark the slots that hold one of these ids, uint8 (size,)."""
    allowed = np.zeros(state.size, np.uint8)
    slots = state.slots(ids)
    allowed[slots[(slots >= 0) & (slots < state.size)]] = 1
    gone = remove_kernels.removed_since(state.arrays.nodes, state.arrays.arena, state.clock)
    if len(gone):  # their ids are removed, or belong to another slot now
        allowed[gone[(gone < state.size) & np.isin(state.rows[gone, table.KEY], ids)]] = 1
    return allowed


def _parents(state: State, grouping: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from ids int64 (n, c), -1 where there is none, to their parents, of the same shape."""
    if callable(grouping):
        known = np.sort(state.rows[state.live(), table.KEY])
        parents = arguments.integers("group_by", grouping(known.copy()))
        if len(parents) != len(known):
            raise ValueError(f"group_by must give a parent for each of {len(known)} ids, gave {len(parents)}")
        if not len(known):
            return np.zeros_like
        return lambda ids: parents[np.searchsorted(known, ids).clip(0, len(known) - 1)]
    parents = arguments.integers("group_by", grouping)

    def of(ids: np.ndarray) -> np.ndarray:
        if ids.size and (largest := int(ids.max())) >= len(parents):
            raise ValueError(f"group_by must have a parent for each id, got {len(parents)} for an id {largest}")
        return parents[ids] if len(parents) else np.zeros_like(ids)

    return of
