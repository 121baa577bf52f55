"""HNSW indexes to and from the arrays of a file, and the invariants of these."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..base import files
from ..base.arena import MAX_ROWS
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import check, layout
from .state import (
    DTYPES,
    MAX_DIM,
    MAX_M,
    MAX_ML,
    METRICS,
    QUANTIZATIONS,
    VECTORS,
    Settings,
    State,
    append_ids,
    array,
)

SCHEMA: files.Schema = {
    "vectors": (tuple(DTYPES.values()), 2),
    "codes": (np.uint8, 2),
    "terms": (np.float32, 2),
    "frame": (np.float32, 2),
    "nodes": (np.int32, 2),
    "links": (np.int32, 2),
    "upper": (np.int32, 2),
    "ids": (np.int64, 1),
    "entry": (np.int64, 0),
    "coded": (np.int64, 0),
    "settings": (np.int64, 1),
    "ml": (np.float64, 0),
    "random": (np.uint32, 1),
}
_V1 = {name: SCHEMA[name] for name in SCHEMA if name not in ("codes", "terms", "frame", "coded")}


class Saved(NamedTuple):
    """The contents of a file: arguments of `HNSW`, the state of its `random.Random`, and its state."""

    arguments: dict[str, Any]
    random: tuple[int, tuple[int, ...], None]
    state: State


def to_arrays(
    state: State, settings: Settings, ef_construction: int, ef_search: int, ml: float, random: tuple
) -> files.Arrays:
    """Return the arrays that `restored` takes. The state must have no dead slots; `random` is `Random.getstate()`."""
    arrays, size, rows = state.arrays, state.size, int(state.arrays.arena[layout.UPPER_TOP])
    numbers = (
        settings.dim, settings.M, ef_construction, ef_search, settings.metric, settings.bits, settings.kept,
    )  # fmt: skip
    return {
        "vectors": arrays.vectors[:size].view(DTYPES[settings.kept]),
        "codes": arrays.codes[:size],
        "terms": arrays.terms[:size],
        "frame": arrays.frame,
        "nodes": arrays.nodes[:size],
        "links": arrays.links[:size],
        "upper": arrays.upper[:rows],
        "ids": state.rows[:size, table.KEY].copy(),
        "entry": np.array(state.entry, np.int64),
        "coded": np.array(state.coded, np.int64),
        "settings": np.array(numbers, np.int64),
        "ml": np.array(ml, np.float64),
        "random": np.array(random[1], np.uint32),
    }


def restored(arrays: files.Arrays) -> Saved:
    """Return the contents of a file, of any version; large arrays are used as they are.

    Damaged if names, dtypes, shapes or ranges are wrong. What the arrays hold is for `fault` to check.
    """
    if arrays.keys() == _V1.keys():
        arrays = _upgraded(arrays)
    files.match_schema(arrays, SCHEMA)
    numbers, words, ml = arrays["settings"].tolist(), arrays["random"].tolist(), float(arrays["ml"])
    files.expect(len(numbers) == 7, "settings are too few")
    files.expect(len(words) == 625 and words[624] <= 624, "the state of the random numbers is wrong")
    dim, M, ef_construction, ef_search, metric, bits, kept = numbers
    files.expect(1 <= dim <= MAX_DIM and 1 <= M <= MAX_M and 0 <= ml <= MAX_ML, "settings are out of range")
    arguments = {
        "dim": dim, "M": M, "ef_construction": ef_construction, "ef_search": ef_search, "ml": ml, "seed": 0,
        "metric": _name_of("metric", metric, METRICS), "quantization": _name_of("quantization", bits, QUANTIZATIONS),
        "vectors": _name_of("vectors", kept, VECTORS),
    }  # fmt: skip
    settings = Settings.of(dim, M, metric, bits, kept, ml)
    _expect_shapes(arrays, settings)
    ids, n, rows = arrays["ids"], len(arrays["ids"]), len(arrays["upper"])
    files.expect(n <= MAX_ROWS and (n == 0 or ids.min() >= 0), "an id is negative")
    entry, coded = int(arrays["entry"]), int(arrays["coded"])
    files.expect(entry == -1 if n == 0 else 0 <= entry < n, "the entry point is out of range")
    files.expect(coded >= 0, "coded is negative")
    arena = layout.new_arena(n)
    files.expect(append_ids(arena, ids, np.empty(n, np.int64)) < 0, "an id is repeated")
    rows_of_slots = table.parts(arena)[1]
    rows_of_slots[:, layout.BORN], rows_of_slots[:, layout.DIED] = 0, layout.NEVER
    arena[layout.ENTRY], arena[layout.UPPER_TOP] = entry, rows
    taken = layout.Arrays(
        arrays["vectors"].view(np.uint8), arrays["codes"], arrays["terms"], arrays["frame"], arrays["nodes"],
        arrays["links"], arrays["upper"], arena,
    )  # fmt: skip
    return Saved(arguments, (3, tuple(words), None), State(taken, n, 0, entry, n, coded))


def _name_of(what: str, number: int, choices: dict[Any, int]) -> Any:
    """Return the name of `number` in one of the tables; Damaged if there is none."""
    names = {value: name for name, value in choices.items()}
    files.expect(number in names, f"{what} must be the number of one of {', '.join(map(repr, choices))}, got {number}")
    return names[number]


def _expect_shapes(arrays: files.Arrays, settings: Settings) -> None:
    """Check that the shapes agree with one another and with the settings; Damaged if not."""
    n, rows = len(arrays["ids"]), len(arrays["upper"])
    files.expect(arrays["vectors"].dtype == DTYPES[settings.kept], "vectors are of another dtype")
    shapes = {
        "vectors": (n, settings.stride if settings.kept else 0),
        "codes": (n, settings.coded * settings.bits // 8),
        "terms": (n if settings.bits else 0, 2),
        "frame": (2, settings.coded),
        "nodes": (n, layout.NODE),
        "links": (n, 2 * settings.M),
        "upper": (rows, settings.M + 1),
    }
    for name, shape in shapes.items():
        files.expect(arrays[name].shape == shape, f"{name} are of another shape")


def _upgraded(arrays: files.Arrays) -> files.Arrays:
    """Return arrays of version 1 as version 2 has them."""
    files.match_schema(arrays, _V1)
    try:
        nodes, upper, old = arrays["nodes"], arrays["upper"], arrays["vectors"]
        n, (dim, M, ef_construction, ef_search, metric) = len(nodes), arrays["settings"].tolist()
        settings = Settings.of(dim, M, metric, layout.FULL, layout.FLOAT32, float(arrays["ml"]))
        files.expect(settings.stride - 32 < dim <= old.shape[1] <= settings.stride, "vectors are of another shape")
        level, tier, first, twin, parent = nodes.T.astype(np.int64)
        files.expect(tier.min(initial=0) >= 0 and tier.sum() <= len(upper), "tiers are out of range")
        files.expect(parent.min(initial=0) >= -1 and parent.max(initial=0) < max(n, 1), "a parent is out of range")
        new = np.full((n, layout.NODE), -1, np.int64)
        new[:, :5] = nodes
        ends = np.cumsum(tier)  # version 1 kept rows of twins, which nothing uses
        new[:, layout.UPPER] = np.where(tier > 0, ends - 1, -1)
        rows = np.arange(tier.sum())
        below = rows - 1
        below[(ends - tier)[tier > 0]] = -1
        upper = upper[rows + np.repeat(first - (ends - tier), tier)]
        linked = np.flatnonzero(level >= 0)
        new[linked, layout.CHILDREN] = np.bincount(parent[linked][parent[linked] >= 0], minlength=n)[linked]
        hanging = np.flatnonzero(twin >= 0)
        before = np.arange(n)
        before[twin[hanging]] = hanging
        head = before
        for _ in range(n.bit_length()):  # each turn doubles the distance, and no chain is longer than n
            head = head[head]
        twins = np.flatnonzero(level < 0)
        new[twins, layout.CHILDREN], new[twins, layout.PARENT] = before[twins], head[twins]
        vectors = array((n, 4 * settings.stride), np.uint8).view(np.float32)
        vectors[:, : old.shape[1]] = old
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise files.Damaged(f"damaged: {error}") from error
    return {
        **arrays,
        "vectors": vectors,
        "codes": np.empty((n, 0), np.uint8),
        "terms": np.empty((0, 2), np.float32),
        "frame": np.empty((2, 0), np.float32),
        "nodes": new.astype(np.int32),
        "upper": np.concatenate([upper, below[:, None]], axis=1).astype(np.int32),
        "coded": np.array(0),
        "settings": np.array([dim, M, ef_construction, ef_search, metric, layout.FULL, layout.FLOAT32]),
    }


def fault(state: State, settings: Settings, vectors: bool) -> str | None:
    """Return the first invariant that does not hold, in words, or None. Safe on any contents of the right shapes.

    Vectors are read only if `vectors`. O(n (M^2 + dim)).
    """
    arrays, nodes, n = state.arrays, state.arrays.nodes, int(state.arrays.arena[table.TOP])
    arena, links, upper = arrays.arena, arrays.links, arrays.upper
    if state.size != n or arena[layout.ENTRY] != state.entry or not -1 <= state.entry < n:
        return f"{n} slots but {state.size} published, or the entry point {state.entry} is not one of them"
    if check.arena_fault(arena, n):
        return "an id does not lead to its slot"
    terms = arrays.terms[:n]  # ADD is infinite for a vector so long that squares overflow
    if not (np.isfinite(arrays.frame).all() and np.isfinite(terms[:, 1:]).all()) or np.isnan(terms).any():
        return "the terms of a code are not finite"
    if n == 0:
        return None
    if (slot := check.first_fault_of_nodes(nodes, upper, arena, settings.step, n)) != -1:
        return f"slot {slot}: level, tier, rows of upper, twin or parent broken"
    live = nodes[:n, layout.LEVEL] >= layout.TWINNED
    if not (live == (state.rows[:n, table.BUCKET] >= 0)).all() or (state.entry < 0) != (not live.any()):
        return "an id belongs to a slot that is not live, or a live slot has no id"
    if state.entry >= 0 and nodes[state.entry, layout.LEVEL] < 0:
        return "the entry point is not linked"
    if (slot := check.first_fault_of_chains(nodes, n)) != -1:
        return f"slot {slot}: twins broken"
    strict = not arena[layout.REMOVED]
    slot = _first(n, lambda start, stop: check.first_fault_of_links(nodes, links, upper, n, strict, start, stop))
    if slot != -1:
        return f"slot {slot}: links broken"
    if (slot := check.first_fault_of_tree(nodes, n)) != -1:
        return f"slot {slot}: parents or children broken"
    if not vectors:
        return None
    what = (arrays, settings.dim, settings.stride, settings.metric)
    slot = _first(n, lambda start, stop: check.first_fault_of_vectors(*what, start, stop))
    return None if slot == -1 else f"slot {slot}: vector broken"


def _first(n: int, walk: Callable[[int, int], int]) -> int:
    """Return the first fault that walk(start, stop) finds in runs of 0..n, -1 if none."""
    faults: list[int] = []
    in_pieces(n, lambda part: faults.append(walk(part.start, part.stop)))
    return next((fault for fault in faults if fault != -1), -1)
