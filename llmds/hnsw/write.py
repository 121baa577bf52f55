"""Changing an HNSW index: functions from a state to the next one. The caller holds the writers' lock."""

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..base.arena import MAX_ROWS
from ..base.fast_calls import Direct
from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import build as build_kernels
from ..kernels.hnsw import codes as code_kernels
from ..kernels.hnsw import distance as distance_kernels
from ..kernels.hnsw import layout, walk
from ..kernels.hnsw import remove as remove_kernels
from .state import DTYPES, Settings, State, accepted, append_ids, array, take_back_ids

# A batch is linked against the graph before it, so it must be a small part of that; the work of comparing a batch
# with itself grows with the square of its size.
_BATCH_SHARE, MAX_BATCH = 50, 256
# Codes are centred again when there are so many vectors that the mean of the old ones is doubtful.
_FIRST_CENTRE, _LAST_CENTRE = 256, 1 << 16
_FAR_OFF = 0.5  # share of the squared lengths that the mean must have to be worth subtracting
_LARGEST_HALF = 65504.0  # of float16
_AT_LEAST = 32  # vectors that a thread takes at a time
# Kernels that take the arrays as one tuple are called directly: the dispatcher takes microseconds for that.
build, removal = Direct(build_kernels), Direct(remove_kernels)
_distance = Direct(distance_kernels)


class Room(NamedTuple):
    """Arrays that linking batches needs."""

    queries: np.ndarray
    probes: layout.Probes
    found: np.ndarray

    @classmethod
    def of(cls, n: int, settings: Settings, ef: int) -> "Room":
        """Return room for batches of n."""
        rows = np.empty((n, settings.probe_bytes), np.uint8)
        return cls(
            np.empty((n, settings.stride), np.float32),
            layout.Probes(rows, np.empty((n, code_kernels.PARAMETERS), np.float32)),
            np.empty((n, walk.pool_width(ef)), np.int64),
        )


def admissible(name: str, vectors: np.ndarray, settings: Settings) -> np.ndarray:
    """Return vectors float32 (n, dim), if they may be added; ValueError, calling them `name`, if one may not."""
    if settings.metric == layout.COSINE:
        if (zero := distance_kernels.first_zero(vectors)) >= 0:
            raise ValueError(f"{name} must not be all zeros under metric='cosine', row {zero} is")
    elif settings.kept == layout.FLOAT16 and (largest := float(np.abs(vectors).max(initial=0))) > _LARGEST_HALF:
        raise ValueError(f"{name} must lie in -65504..65504 with vectors='float16', got {largest:g} in size")
    return vectors


def add(
    before: State, settings: Settings, vectors: np.ndarray, ids: np.ndarray, ef: int, draw: Callable[[], np.ndarray],
    threads: int, take: Callable[[State], None], done: Callable[[int], None], publish: bool,
) -> None:  # fmt: skip
    """Add vectors (n, dim) under ids (n,), a batch at a time; ValueError if an id is present or repeated.

    `draw` returns the levels of all; each new state is handed to `take`, and the size of each batch to `done`. Unless
    `publish`, readers do not see what is added. An interruption leaves a whole prefix in.
    """
    n, arena, state = len(ids), before.arrays.arena, before
    needed, capacity = int(arena[table.TOP]) + n - remove_kernels.free_slots(arena, n), len(before.arrays.nodes)
    if needed > MAX_ROWS:
        raise ValueError(f"HNSW holds at most 2**31-1 vectors, {needed} would be needed")
    if needed > capacity:
        state = state.resized(min(max(2 * capacity, needed), MAX_ROWS))
    slots, at = np.full(n, -1, np.int64), 0
    try:
        if (refused := append_ids(state.arrays.arena, ids, slots)) >= 0:
            raise ValueError(f"ids must be new and distinct, ids[{refused}] = {ids[refused]} is not")
        state = centred(state, settings, vectors)
        take(state)
        levels, room = draw(), Room.of(min(n, MAX_BATCH), settings, ef)
        while at < n:
            size = batch_size(state, before.present + at, levels[at : at + MAX_BATCH])
            part = slice(at, at + size)
            state = state.with_upper_rows(int((levels[part] // settings.step).sum()))
            link(state, settings, ef, vectors[part], slots[part], levels[part], room, threads)
            state = state.published(n - part.stop) if publish else state
            take(state)
            at = part.stop  # only now: an interruption just before is put in order below
            done(size)
    finally:
        given = slots[: np.count_nonzero(slots >= 0)]
        if at < len(given):  # interrupted, perhaps when a batch was linked already
            take_back_ids(state.arrays.arena, given[in_already(state, given) :])
            take(state.published() if publish else state)


def batch_size(state: State, linked: int, levels: np.ndarray) -> int:
    """Return how many of the next vectors make a batch, which ends with one that becomes the entry point."""
    levels = levels[: min(linked // _BATCH_SHARE, MAX_BATCH)]
    if len(levels) < 2 or state.entry < 0:
        return 1
    higher = np.flatnonzero(levels > state.arrays.nodes[state.entry, layout.LEVEL])
    return int(higher[0]) + 1 if len(higher) else len(levels)


def link(
    state: State, settings: Settings, ef: int, vectors: np.ndarray, slots: np.ndarray, levels: np.ndarray, room: Room,
    threads: int,
) -> None:  # fmt: skip
    """Link a batch of vectors (n, dim) in `slots`, whose ids are in the arena and for whose levels there is room.

    If interrupted, it leaves either all of them linked (BORN is then set), or none.
    """
    n, bits, metric, arrays = len(slots), settings.bits, settings.metric, state.arrays
    size, origin = settings.probe_bytes, settings.origin
    nodes, links, upper = arrays.nodes, arrays.links, arrays.upper
    batch = np.zeros((n, build_kernels.BATCH), np.int64)
    batch[:, build_kernels.SLOT] = slots
    queries, found = room.queries[:n], room.found[:n]
    probes = layout.Probes(room.probes.rows[:n], room.probes.parameters[:n])
    in_pieces(n, lambda part: put(state, settings, vectors[part], slots[part], queries[part]), threads, _AT_LEAST)

    def link_back(part: slice) -> None:
        accepted(build.link_back(arrays, bits, metric, batch, part.start, part.stop, size))

    def finish() -> None:
        build.finish(nodes, upper, arrays.arena, levels, batch, state.clock + 1)

    try:
        rows = build.prepare(arrays, levels, settings.step, batch)
        pools = build_kernels.Pools(found, np.empty((rows, found.shape[1]), np.int64))

        def find(part: slice) -> None:
            start, stop = part.start, part.stop
            accepted(build.find(arrays, bits, metric, settings.dim, queries, batch, start, stop, ef, probes, pools))

        def find_inside(part: slice) -> None:
            accepted(build.find_inside(arrays, bits, metric, batch, part.start, part.stop, ef, probes, pools))

        def choose(part: slice) -> None:
            accepted(build.choose(arrays, bits, metric, batch, part.start, part.stop, ef, origin, pools, size))

        for step in (find, find_inside, choose):
            in_pieces(n, step, threads, _AT_LEAST)
        build.adopt(nodes, links, upper, batch)
        in_pieces(build_kernels.GROUPS, link_back, threads, build_kernels.GROUPS if threads == 1 else 16)
        finish()
    except BaseException:
        if in_already(state, slots):
            raise
        if (nodes[slots, layout.PARENT] >= 0).any():  # other nodes are linked to them: there is no way back
            link_back(slice(0, build_kernels.GROUPS))
            finish()
        else:
            build.abandon(nodes, upper, arrays.arena, batch)
        raise


def in_already(state: State, slots: np.ndarray) -> int:
    """Return how many of the slots of new vectors, which are linked in order, are part of the graph."""
    return int(np.count_nonzero(state.rows[slots, layout.BORN] < layout.NEVER))


def put(state: State, settings: Settings, vectors: np.ndarray, slots: np.ndarray, queries: np.ndarray) -> None:
    """Store vectors (n, dim) and their codes; fill queries (n, stride) with the vectors as stored, padded."""
    arrays = state.arrays
    accepted(build.load_many(vectors, settings.metric, queries))
    if settings.kept == layout.FLOAT16:
        queries[:] = queries.astype(np.float16)
    queries += np.float32(0)  # no negative zeros: equal vectors have equal bytes
    if settings.kept:
        arrays.vectors.view(DTYPES[settings.kept])[slots] = queries
    if settings.bits:
        _encode(settings, queries, arrays.frame, arrays.codes, arrays.terms, slots)


def _encode(
    settings: Settings, rows: np.ndarray, frame: np.ndarray, codes: np.ndarray, terms: np.ndarray, slots: np.ndarray
) -> None:
    """Write the codes of rows float32 (n, stride) to `slots` of codes and terms."""
    bits, metric = settings.bits, settings.metric
    accepted(code_kernels.encode_many(rows, settings.dim, frame, codes, terms, bits, metric, slots))


def centred(state: State, settings: Settings, vectors: np.ndarray) -> State:
    """Return the state, with codes about another centre if it is time for that with `vectors` (n, dim) to come.

    Inner products need no centre: what a code loses of a vector is at right angles to it, and nearly so to its
    neighbours. Distances of vectors that all lie far off in one direction do.
    """
    total = state.present + len(vectors)
    due = max(2 * state.coded, _FIRST_CENTRE) <= total and state.coded < _LAST_CENTRE
    if not settings.bits or settings.metric != layout.L2 or not due or (state.present and not settings.kept):
        return state
    if len(vectors) >= state.present:
        sample = np.empty((min(len(vectors), _LAST_CENTRE), settings.stride), np.float32)
        accepted(build.load_many(vectors[: len(sample)], settings.metric, sample))
        sample = sample[:, : settings.dim]
    else:
        sample = stored(state, settings, state.live()[:_LAST_CENTRE])
    old = state.arrays
    frame = old.frame.copy()
    mean = sample.mean(axis=0, dtype=np.float64)
    far_off = mean @ mean > _FAR_OFF * np.mean(np.square(sample, dtype=np.float64).sum(axis=1))
    frame[0, : settings.dim] = mean if far_off else 0
    if (frame == old.frame).all():
        return state._replace(coded=total)
    codes, terms = array(old.codes.shape, np.uint8), array(old.terms.shape, np.float32)

    def encode(part: slice) -> None:
        slots = np.arange(part.start, part.stop)
        rows = np.zeros((len(slots), settings.stride), np.float32)
        rows[:, : settings.dim] = stored(state, settings, slots)
        _encode(settings, rows, frame, codes, terms, slots)

    in_pieces(int(old.arena[table.TOP]), encode, smallest=64)
    return state.with_arrays(frame=frame, codes=codes, terms=terms)._replace(coded=total)


def stored(state: State, settings: Settings, slots: np.ndarray) -> np.ndarray:
    """Return the vectors in `slots`, float32 (n, dim)."""
    out = np.empty((len(slots), settings.dim), np.float32)

    def restore(part: slice) -> None:
        accepted(_distance.restored(state.arrays, settings.bits, settings.metric, slots[part], out[part]))

    in_pieces(len(slots), restore, smallest=64)
    return out


def remove(state: State, settings: Settings, ids: np.ndarray) -> None:
    """Remove the vectors of `ids`, in order; if interrupted, the rest stay."""
    in_pieces(len(ids), lambda part: _remove(state, settings, ids, part, -1))


def replace(state: State, settings: Settings, vec_id: int) -> None:
    """Replace the vector of `vec_id` by the one whose id is HIDDEN, in one kernel call."""
    _remove(state, settings, np.array([vec_id], np.int64), slice(0, 1), vec_id)


def _remove(state: State, settings: Settings, ids: np.ndarray, part: slice, heir: int) -> None:
    """Remove ids[part]; `heir` as in `kernels.hnsw.remove.remove`."""
    bits, metric, clock = settings.bits, settings.metric, state.clock + 1
    start, stop, size = part.start, part.stop, settings.probe_bytes
    accepted(removal.remove(state.arrays, bits, metric, ids, start, stop, heir, clock, size))


def draw_levels(chance: random.Random, n: int, ml: float) -> np.ndarray:
    """Draw the levels of the next n vectors, int32 (n,)."""
    if n == 1:
        return np.array([-math.log(1.0 - chance.random()) * ml], np.int32)  # truncated, as floor does here
    version, words, gauss = chance.getstate()
    bulk = np.random.RandomState()  # the same Mersenne Twister, turned into floats the same way
    bulk.set_state({"bit_generator": "MT19937", "state": {"key": np.array(words[:-1], np.uint32), "pos": words[-1]}})
    numbers = bulk.random_sample(n)
    state: Any = bulk.get_state(legacy=False)
    chance.setstate((version, (*state["state"]["key"].tolist(), int(state["state"]["pos"])), gauss))
    return (-np.log(1.0 - numbers) * ml).astype(np.int32)
