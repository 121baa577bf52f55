"""HNSW indexes to and from arrays, and what must hold of them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import files as storage
from ..base.arena import MAX_ROWS
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import check
from ..kernels.hnsw import layout as kernels
from .state import METRICS, QUANTIZATIONS, VECTORS, Settings, State, append_ids, array

if TYPE_CHECKING:
    from .index import HNSW

_VECTORS = {32: np.float32, 16: np.float16, 0: np.uint8}
SCHEMA: storage.Schema = {
    "vectors": (tuple(_VECTORS.values()), 2),
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


def to_arrays(index: "HNSW", state: State, settings: Settings) -> storage.Arrays:
    """What `state` and `configured` make the index of again. The state has no dead slots."""
    size, rows = state.size, int(state.arena[kernels.UPPER_TOP])
    numbers = (index.dim, index.M, index.ef_construction, index.ef_search, *settings[2:5])
    return {
        "vectors": state.vectors[:size].view(_VECTORS[settings.kept]),
        "codes": state.codes[:size],
        "terms": state.terms[:size],
        "frame": state.frame,
        "nodes": state.nodes[:size],
        "links": state.links[:size],
        "upper": state.upper[:rows],
        "ids": state.rows[:size, table.KEY].copy(),
        "entry": np.array(state.entry, np.int64),
        "coded": np.array(state.coded, np.int64),
        "settings": np.array(numbers, np.int64),
        "ml": np.array(index.ml, np.float64),
        "random": np.array(index._random.getstate()[1], np.uint32),
    }


def configured(cls: Any, arrays: storage.Arrays) -> Any:
    """An empty index of these settings and this random state."""
    settings, words = arrays["settings"].tolist(), arrays["random"].tolist()
    storage.expect(len(settings) == 7, "settings are too few")
    storage.expect(len(words) == 625 and words[624] <= 624, "the random state is none")
    dim, M, ef_construction, ef_search, metric, bits, kept = settings
    names = []
    for number, choices in ((metric, METRICS), (bits, QUANTIZATIONS), (kept, VECTORS)):
        storage.expect(number in choices.values(), "settings out of range")
        names.append(next(name for name, value in choices.items() if value == number))
    try:
        index = cls(
            dim, M, ef_construction, ef_search, float(arrays["ml"]), 0, metric=names[0], quantization=names[1],
            vectors=names[2],
        )  # fmt: skip
    except ValueError as error:
        raise storage.Damaged(f"damaged: {error}") from error
    index._random.setstate((3, tuple(words), None))
    return index


def state(arrays: storage.Arrays, settings: Settings) -> State:
    """The arrays of a file as a state, of matching shapes. Large arrays are taken as they are."""
    ids, n, rows = arrays["ids"], len(arrays["ids"]), len(arrays["upper"])
    vectors = arrays["vectors"]
    storage.expect(vectors.dtype == _VECTORS[settings.kept], "vectors are of another type")
    widths = {
        "vectors": settings.stride if settings.kept else 0,
        "codes": settings.coded * settings.bits // 8,
        "nodes": kernels.NODE,
        "links": 2 * settings.M,
    }
    for name, width in widths.items():
        storage.expect(arrays[name].shape == (n, width), f"{name} are of another shape")
    storage.expect(arrays["upper"].shape == (rows, settings.M + 1), "upper is of another shape")
    storage.expect(arrays["terms"].shape == (n if settings.bits else 0, 2), "terms are of another shape")
    storage.expect(arrays["frame"].shape == (2, settings.coded), "frame is of another shape")
    storage.expect(n <= MAX_ROWS and (n == 0 or ids.min() >= 0), "an id is negative")
    entry, coded = int(arrays["entry"]), int(arrays["coded"])
    storage.expect(entry == -1 if n == 0 else 0 <= entry < n, "the entry point is out of range")
    storage.expect(coded >= 0, "coded is negative")
    arena = kernels.new_arena(n)
    storage.expect(append_ids(arena, ids, np.empty(n, np.int64)) < 0, "an id comes twice")
    rows_of = table.parts(arena)[1]
    rows_of[:, kernels.BORN], rows_of[:, kernels.DIED] = 0, kernels.NEVER
    arena[kernels.ENTRY], arena[kernels.UPPER_TOP] = entry, rows
    return State(
        vectors.view(np.uint8), arrays["codes"], arrays["terms"], arrays["frame"], arrays["nodes"], arrays["links"],
        arrays["upper"], arena, n, 0, entry, n, coded,
    )  # fmt: skip


def upgraded(arrays: storage.Arrays, where: str) -> storage.Arrays:
    """Arrays of version 1 as version 2 has them; others as they are."""
    if arrays.keys() != _V1.keys():
        return arrays
    try:
        storage.match_schema(arrays, _V1)
        nodes, upper, old = arrays["nodes"], arrays["upper"], arrays["vectors"]
        n, (dim, M, ef_construction, ef_search, metric) = len(nodes), arrays["settings"].tolist()
        settings = Settings.of(dim, M, metric, 0, 32, float(arrays["ml"]))
        storage.expect(settings.stride - 32 < dim <= old.shape[1] <= settings.stride, "vectors are of another shape")
        level, tier, first, twin, parent = nodes.T.astype(np.int64)
        storage.expect(tier.min(initial=0) >= 0 and tier.sum() <= len(upper), "tiers are out of range")
        storage.expect(parent.min(initial=0) >= -1 and parent.max(initial=0) < max(n, 1), "a parent is out of range")
        new = np.full((n, kernels.NODE), -1, np.int64)
        new[:, :5] = nodes
        ends = np.cumsum(tier)  # rows of twins were lost, and are left out
        new[:, kernels.UPPER] = np.where(tier > 0, ends - 1, -1)
        rows = np.arange(tier.sum())
        below = rows - 1
        below[(ends - tier)[tier > 0]] = -1
        upper = upper[rows + np.repeat(first - (ends - tier), tier)]
        linked = np.flatnonzero(level >= 0)
        new[linked, kernels.CHILDREN] = np.bincount(parent[linked][parent[linked] >= 0], minlength=n)[linked]
        hanging = np.flatnonzero(twin >= 0)
        before = np.arange(n)
        before[twin[hanging]] = hanging
        head = before
        for _ in range(n.bit_length()):  # each time twice as far, and no chain is longer than n
            head = head[head]
        twins = np.flatnonzero(level < 0)
        new[twins, kernels.CHILDREN], new[twins, kernels.PARENT] = before[twins], head[twins]
        vectors = array((n, 4 * settings.stride), np.uint8).view(np.float32)
        vectors[:, : old.shape[1]] = old
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise storage.Damaged(f"{where}: damaged: {error}") from error
    return {
        **arrays,
        "vectors": vectors,
        "codes": np.empty((n, 0), np.uint8),
        "terms": np.empty((0, 2), np.float32),
        "frame": np.empty((2, 0), np.float32),
        "nodes": new.astype(np.int32),
        "upper": np.concatenate([upper, below[:, None]], axis=1).astype(np.int32),
        "coded": np.array(0),
        "settings": np.array([dim, M, ef_construction, ef_search, metric, 0, 32]),
    }


def fault(state: State, settings: Settings, vectors: bool) -> str | None:
    """The first invariant that does not hold, in words; None if all do. Safe on any contents of the right shapes."""
    arena, nodes, n = state.arena, state.nodes, int(state.arena[table.TOP])
    if state.size != n or arena[kernels.ENTRY] != state.entry or not -1 <= state.entry < n:
        return f"{n} slots, {state.size} published, or the entry point {state.entry} is none"
    if check.arena_fault(arena, n):
        return "an id does not lead to its slot"
    terms = state.terms[:n]  # a vector so long that squares overflow is infinitely far off
    if not (np.isfinite(state.frame).all() and np.isfinite(terms[:, 1:]).all()) or np.isnan(terms).any():
        return "codes have no scale"
    if n == 0:
        return None
    if (slot := check.first_fault_of_nodes(nodes, state.upper, arena, settings.step, n)) != -1:
        return f"slot {slot}: level, tier, rows above, twin or parent broken"
    live = nodes[:n, kernels.LEVEL] >= kernels.TWINNED
    if not (live == (state.rows[:n, table.BUCKET] >= 0)).all() or (state.entry < 0) != (not live.any()):
        return "an id belongs to a slot that is not live, or none to one that is"
    if state.entry >= 0 and nodes[state.entry, kernels.LEVEL] < 0:
        return "the entry point is not linked"
    if (slot := check.first_fault_of_chains(nodes, n)) != -1:
        return f"slot {slot}: twins broken"
    strict = not arena[kernels.REMOVED]
    slot = _first(n, lambda *part: check.first_fault_of_links(nodes, state.links, state.upper, n, strict, *part))
    if slot != -1:
        return f"slot {slot}: links broken"
    if (slot := check.first_fault_of_tree(nodes, n)) != -1:
        return f"slot {slot}: parents or children broken"
    if not vectors:
        return None
    what = (state.vectors, state.codes, state.terms, nodes, settings.dim, settings.stride, settings.metric)
    slot = _first(n, lambda *part: check.first_fault_of_vectors(*what, *part))
    return None if slot == -1 else f"slot {slot}: vector broken"


def _first(n: int, walk: Any) -> int:
    """The first fault that walk(start, stop) finds in runs of 0..n, -1 if none."""
    faults: list[int] = []
    in_pieces(n, lambda part: faults.append(walk(part.start, part.stop)))
    return next((fault for fault in faults if fault != -1), -1)
