"""Searching an HNSW index: how a search is done, for whom, and on which threads."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from . import arguments
from .hnsw_state import Settings, State
from .kernels import codes as codes_kernels
from .kernels import hnsw_search, table
from .threads import in_pieces

Selection: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None
Grouping: TypeAlias = ArrayLike | Callable[[np.ndarray], np.ndarray] | None
Found: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a candidate of a walk costs, in slots that are scanned instead: its neighbours, one by one from memory.
_SCANNED_A_STEP = 45
# A walk among vectors of which a share is allowed keeps as many candidates as hold `ef` allowed ones, and a few.
_SURPLUS = 1.1
_EVERYBODY = np.empty(0, np.uint8)
_NOBODY = np.empty(0, np.int64)
_AT_LEAST = 16  # queries that a thread takes at a time, so that their walks go side by side


def search(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, threads: int
) -> Found | None:
    """ids int64 and distances float32 (n, k), see `HNSW.search_batch`; None if a query is not fit."""
    ids, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    allowed, chosen, how = _EVERYBODY, _NOBODY, hnsw_search.WALK
    ef, m = max(min(ef, state.size), 1), state.size
    if selection is not None:
        allowed = _allowed(state, selection)
        chosen = _heads(state, allowed)
        m = len(chosen)
    if m == 0:
        ids.fill(-1), distances.fill(np.inf)
        if len(queries) and not state.size:
            chosen = _NOBODY  # the queries are looked at all the same
        how, ef = hnsw_search.SCAN_EXACTLY, 1
    elif ef * 8 >= m or ef * ef >= 256 * m:  # a walk would see most of them, or sort for longer
        how, ef = hnsw_search.SCAN_EXACTLY, min(ef, m)
        if selection is None:
            chosen = _heads(state, allowed)
    elif selection is not None:
        wide = math.ceil(ef * _SURPLUS * state.size / m)
        if wide * _SCANNED_A_STEP >= m:
            how = hnsw_search.SCAN
        else:
            ef = min(max(wide, ef), state.size)
    fine = min(_fine(settings, k, ef), ef)
    unfit = []

    def part_of(part: slice) -> None:
        found = hnsw_search.search(
            *state.arrays, state.size, state.clock, state.entry, queries[part], settings.bits, settings.metric, ef, fine,
            how, chosen, allowed, ids[part], distances[part],
        )  # fmt: skip
        if found < 0:
            unfit.append(part)

    if len(queries) == 1:
        part_of(slice(0, 1))
    else:
        in_pieces(len(queries), part_of, threads, _AT_LEAST)
    return None if unfit else (ids, distances)


def grouped(
    state: State, settings: Settings, queries: np.ndarray, k: int, ef: int, selection: Selection, grouping: Grouping,
    threads: int,
) -> Found | None:  # fmt: skip
    """As `search`, with at most one result for each group."""
    parent_of = _parents(state, grouping)
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    short, width = np.arange(len(queries)), max(4 * k, ef)
    while len(short) and k:
        found = search(state, settings, queries[short], width, width, selection, threads)
        if found is None:
            return None
        complete = hnsw_search.first_of_each(*found, parent_of(found[0]), ids, distances, short)
        if width >= state.size:
            break
        short, width = short[~complete.astype(bool)], min(4 * width, state.size)
    return ids, distances


def _fine(settings: Settings, k: int, ef: int) -> int:
    """How many of the nearest by code are measured exactly, so that codes cost next to no recall."""
    if settings.bits == codes_kernels.INT4:
        return k + max(k // 2, 5, ef // 6)
    return k + max(k // 4, 5, ef // 12) if settings.bits else ef


def _allowed(state: State, selection: Any) -> np.ndarray:
    """Which slots are allowed, uint8 (size,)."""
    allowed = np.zeros(state.size, np.uint8)
    if callable(selection):
        live = state.live()
        mask = np.asarray(selection(state.rows[live, table.KEY].copy()))
        if mask.dtype != bool or mask.shape != live.shape:
            raise ValueError(f"filter must give a bool for each of {len(live)} ids, gave {mask.dtype} {mask.shape}")
        allowed[live[mask]] = 1
        return allowed
    slots = state.slots(_integers("filter", selection))
    allowed[slots[(slots >= 0) & (slots < state.size)]] = 1
    return allowed


def _heads(state: State, allowed: np.ndarray) -> np.ndarray:
    return hnsw_search.told_heads(state.nodes, state.arena, state.size, state.clock, allowed)


def _parents(state: State, grouping: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function from ids int64 (n, c), -1 where there is none, to their parents, of the same shape."""
    if callable(grouping):
        known = np.sort(state.rows[state.live(), table.KEY])
        parents = _integers("group_by", grouping(known.copy()))
        if len(parents) != len(known):
            raise ValueError(f"group_by must give a parent for each of {len(known)} ids, gave {len(parents)}")
        return lambda ids: parents[np.searchsorted(known, ids).clip(0, max(len(known) - 1, 0))]
    parents = _integers("group_by", grouping)

    def of(ids: np.ndarray) -> np.ndarray:
        if ids.size and (largest := int(ids.max())) >= len(parents):
            raise ValueError(f"group_by must have a parent for each id, got {len(parents)} for an id {largest}")
        return parents[ids] if len(parents) else np.zeros_like(ids)

    return of


def _integers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == bool:
        raise TypeError(f"{name} must be integers, got bool")
    return arguments.integers(name, values)
