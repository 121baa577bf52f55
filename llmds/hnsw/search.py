"""Searching an HNSW index: how a search is done, for whom, and on which threads."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.filters import Selection, chosen
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import codes as codes_kernels
from ..kernels.hnsw import layout as kernels
from ..kernels.hnsw import remove as hnsw_remove
from ..kernels.hnsw import search as hnsw_search
from .state import Settings, State

Grouping: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None
Found: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a candidate of a walk costs, in slots that are scanned instead: its neighbours, one by one from memory.
_SCANNED_A_STEP = 45
_EVERYBODY = np.empty(0, np.uint8)
_NOBODY = np.empty(0, np.int64)
_AT_LEAST = 16  # queries that a thread takes at a time, so that their walks go side by side


def search(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, threads: int
) -> Found | None:
    """ids int64 and distances float32 (n, k), see `HNSW.search_batch`; None if a query is not fit."""
    if selection is None:
        return _search(state, settings, queries, k, ef, _EVERYBODY, threads)
    ids = chosen(selection, state.live_ids)
    while True:
        removed = state.arena[kernels.REMOVED]
        found = _search(state, settings, queries, k, ef, _allowed(state, ids), threads)
        # When a vector is removed its slot may pass to an equal one, under an id that was not chosen.
        if found is None or state.arena[kernels.REMOVED] == removed or np.isin(found[0], np.append(ids, -1)).all():
            return found


def _search(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, allowed: np.ndarray, threads: int
) -> Found | None:
    ef = max(min(ef, state.present), 1)
    if allowed is _EVERYBODY and state.entry >= 0 and not compares_all(ef, state.present):
        found = _answer(state, settings, queries, k, hnsw_search.WALK, ef, k, _NOBODY, allowed, _NOBODY, threads)
        last = min(k, state.present) - 1
        if found is None or last < 0 or (len(queries) == 1 and found[0].item(last) >= 0):
            return found
        if len(short := np.flatnonzero(found[0][:, last] < 0)):
            # Of those it met, too many were removed or not in yet: a writer is at work.
            again = _search(state, settings, queries[short], k, state.present, allowed, threads)
            assert again is not None, "fit before, and fit now"
            found[0][short], found[1][short] = again
        return found
    heads = hnsw_search.told_heads(state.nodes, state.arena, state.size, state.clock, allowed)
    m, ef = len(heads), max(min(ef, len(heads)), 1)
    if not m or compares_all(ef, m):
        return _answer(state, settings, queries, k, hnsw_search.SCAN_EXACTLY, ef, k, heads, allowed, _NOBODY, threads)
    # Among as many as hold two deviations more than that, there hardly are fewer than `n` allowed ones.
    wide, rank = (math.ceil((n + 2 * math.sqrt(n)) * state.size / m) for n in (ef, max(k, 1)))
    ids, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    rows = np.arange(len(queries))
    while len(rows):  # where few of the near ones are allowed the walk is made wider, until a scan is cheaper
        walks = wide * _SCANNED_A_STEP < m
        how, width = (hnsw_search.WALK, wide) if walks else (hnsw_search.SCAN, ef)
        counts = np.empty(len(rows), np.int64)
        found = _answer(state, settings, queries[rows], k, how, width, rank, heads, allowed, counts, threads)
        if found is None:
            return None
        ids[rows], distances[rows] = found
        rows = rows[counts < min(max(k, ef // 2), m)] if walks else rows[:0]
        wide *= 4
    return ids, distances


def compares_all(ef: int, m: int) -> bool:
    """Whether a walk of this width would see most of m vectors, or sort for longer than it takes to compare all."""
    return ef * 8 >= m or ef * ef >= 256 * m


def _answer(
    state: State, settings: Settings, queries: np.ndarray, k: int, how: int, ef: int, rank: int, heads: np.ndarray,
    allowed: np.ndarray, counts: np.ndarray, threads: int,
) -> Found | None:  # fmt: skip
    """Answer all queries in one way; `counts` (n,) is filled with how many allowed candidates each had."""
    n, rank, fine = len(queries), max(min(rank, ef), 1), min(measured_exactly(settings.bits, k, ef), ef)
    ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    graph = state[:11]  # arrays, size, clock and entry, in the order in which the kernel takes them
    given = (settings.bits, settings.metric, ef, rank, fine, how, heads, allowed)
    if n == 1:
        fit = hnsw_search.search(*graph, queries, *given, ids, distances, counts) >= 0
        return (ids, distances) if fit else None
    unfit = []

    def answer(part: slice) -> None:
        if hnsw_search.search(*graph, queries[part], *given, ids[part], distances[part], counts[part]) < 0:
            unfit.append(part)

    in_pieces(n, answer, threads, _AT_LEAST)
    return None if unfit else (ids, distances)


def grouped(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, grouping: Grouping,
    threads: int,
) -> Found | None:  # fmt: skip
    """As `search`, with at most one result for each group."""
    parent_of = _parents(state, grouping)
    if selection is not None:
        selection = chosen(selection, state.live_ids)  # asked once
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    short, most = np.arange(len(queries)), max(state.present, 1)
    width = min(max(4 * k, ef), most)
    while len(short) and k:
        found = search(state, settings, queries[short], width, width, selection, threads)
        if found is None:
            return None
        complete = hnsw_search.first_of_each(*found, parent_of(found[0]), ids, distances, short)
        if width >= most:
            break
        short, width = short[~complete.astype(bool)], min(4 * width, most)
    return ids, distances


def smallest_ef(
    search_batch: Callable[..., Found], queries: np.ndarray, recall: float, k: int, n: int, threads: int
) -> int:
    """The smallest ef that finds a share `recall` of the k nearest among n; see `HNSW.tune`."""
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
    """How many of the nearest by code are measured exactly at least, before their errors tell how many more."""
    if bits == codes_kernels.INT4:
        return k + max(k // 5, 2)
    return k + 2 if bits else ef


def _allowed(state: State, ids: np.ndarray) -> np.ndarray:
    """Which slots hold one of these ids, uint8 (size,)."""
    allowed = np.zeros(state.size, np.uint8)
    slots = state.slots(ids)
    allowed[slots[(slots >= 0) & (slots < state.size)]] = 1
    gone = hnsw_remove.removed_since(state.nodes, state.arena, state.clock)
    if len(gone):  # ids that another slot has now, or none
        allowed[gone[(gone < state.size) & np.isin(state.rows[gone, table.KEY], ids)]] = 1
    return allowed


def _parents(state: State, grouping: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function from ids int64 (n, c), -1 where there is none, to their parents, of the same shape."""
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
