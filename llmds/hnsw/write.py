"""Changing an HNSW index: functions from a state to the next one. Whoever calls holds the writers' lock."""

import math
import random
from typing import Any, NamedTuple

import numpy as np

from ..base.threads import in_pieces
from ..kernels import table
from ..kernels.hnsw import build as hnsw_build
from ..kernels.hnsw import codes as codes_kernels
from ..kernels.hnsw import distance as hnsw_distance
from ..kernels.hnsw import layout as kernels
from ..kernels.hnsw import remove as hnsw_remove
from ..kernels.hnsw import walk as hnsw_walk
from .state import Settings, State, array

# A batch is linked against the graph before it, so it must be a small part of that; what a batch compares
# within itself grows with the square of its size.
_BATCH_SHARE, MAX_BATCH = 50, 256
# Codes are centred anew when as many vectors are in as make the mean of the old ones doubtful.
_FIRST_CENTRE, _LAST_CENTRE = 256, 1 << 16
_FAR_OFF = 0.5  # share of the squared lengths that the mean must have to be worth taking off
_AT_LEAST = 32  # vectors that a thread takes at a time


class Room(NamedTuple):
    """Arrays that linking batches needs."""

    queries: np.ndarray
    probes: np.ndarray
    parameters: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, n: int, settings: Settings, ef: int) -> "Room":
        """Room for batches of n."""
        return cls(
            np.empty((n, settings.stride), np.float32),
            np.empty((n, settings.probe_bytes), np.uint8),
            np.empty((n, codes_kernels.PARAMETERS), np.float32),
            np.empty((n, hnsw_walk.pool_width(ef)), np.int64),
        )


def batch_size(state: State, linked: int, levels: np.ndarray) -> int:
    """How many of the next vectors make a batch, which ends with one that becomes the entry point."""
    levels = levels[: min(linked // _BATCH_SHARE, MAX_BATCH)]
    if len(levels) < 2 or state.entry < 0:
        return 1
    higher = np.flatnonzero(levels > state.nodes[state.entry, kernels.LEVEL])
    return int(higher[0]) + 1 if len(higher) else len(levels)


def link(
    state: State, settings: Settings, ef: int, vectors: np.ndarray, slots: np.ndarray, levels: np.ndarray, room: Room,
    threads: int,
) -> None:  # fmt: skip
    """Link a batch of vectors (n, dim) in `slots`, whose ids are in the arena and for whose levels there is room.

    An interruption leaves them all linked, and then they have been BORN, or none.
    """
    n, bits, metric = len(slots), settings.bits, settings.metric
    batch = np.zeros((n, hnsw_build.BATCH), np.int64)
    batch[:, hnsw_build.SLOT] = slots
    queries, probes, parameters, found = (room_array[:n] for room_array in room)
    in_pieces(n, lambda part: put(state, settings, vectors[part], slots[part], queries[part]), threads, _AT_LEAST)
    graph = (state.nodes, state.links, state.upper)

    def link_back(part: slice) -> None:
        hnsw_build.link_back(
            *state.stored, *graph, bits, metric, batch, part.start, part.stop, settings.probe_bytes
        )  # fmt: skip

    def finish() -> None:
        hnsw_build.finish(state.nodes, state.upper, state.arena, levels, batch, state.clock + 1)

    try:
        rows = hnsw_build.prepare(*state.stored, *graph, state.arena, levels, settings.step, batch)
        high = np.empty((rows, found.shape[1]), np.int64)

        def find(part: slice) -> None:
            hnsw_build.find(
                *state.stored, state.frame, *graph, state.arena, bits, metric, settings.dim, queries, batch, part.start,
                part.stop, ef, probes, parameters, found, high,
            )  # fmt: skip

        def find_inside(part: slice) -> None:
            hnsw_build.find_inside(
                *state.stored, state.nodes, state.arena, bits, metric, batch, part.start, part.stop, ef, probes,
                parameters, found, high,
            )  # fmt: skip

        def choose(part: slice) -> None:
            hnsw_build.choose(
                *state.stored, *graph, bits, metric, batch, part.start, part.stop, ef, settings.origin, found, high,
                settings.probe_bytes,
            )  # fmt: skip

        for step in (find, find_inside, choose):
            in_pieces(n, step, threads, _AT_LEAST)
        hnsw_build.adopt(*graph, batch)
        in_pieces(hnsw_build.GROUPS, link_back, threads, hnsw_build.GROUPS if threads == 1 else 16)
        finish()
    except BaseException:
        if in_already(state, slots):
            raise
        if (state.nodes[slots, kernels.PARENT] >= 0).any():  # others know of them: there is no way back
            link_back(slice(0, hnsw_build.GROUPS))
            finish()
        else:
            hnsw_build.abandon(state.nodes, state.upper, state.arena, batch)
        raise


def in_already(state: State, slots: np.ndarray) -> int:
    """How many of the slots of new vectors, linked in order, are part of the graph."""
    return int(np.count_nonzero(state.rows[slots, kernels.BORN] < kernels.NEVER))


def put(state: State, settings: Settings, vectors: np.ndarray, slots: np.ndarray, queries: np.ndarray) -> None:
    """Store vectors (n, dim) and their codes; `queries` (n, stride) is what is stored, padded."""
    hnsw_build.load_many(vectors, settings.metric, queries)
    if settings.kept == 16:
        queries[:] = queries.astype(np.float16)
    queries += np.float32(0)  # no negative zeros: equal vectors have equal bytes
    if settings.kept:
        state.vectors.view(np.float32 if settings.kept == 32 else np.float16)[slots] = queries
    if settings.bits:
        product = settings.metric != kernels.L2
        codes_kernels.encode_many(
            queries, settings.dim, state.frame, settings.bits, product, state.codes, state.terms, slots
        )


def centred(state: State, settings: Settings, vectors: np.ndarray) -> State:
    """The state, its codes made anew about another centre if it is time for that with `vectors` (n, dim) to come.

    Inner products need no centre: what a code loses of a vector is at right angles to it, so to its neighbours, too.
    Distances of vectors that all lie far off in one direction do.
    """
    total = state.present + len(vectors)
    due = max(2 * state.coded, _FIRST_CENTRE) <= total and state.coded < _LAST_CENTRE
    if not settings.bits or settings.metric != kernels.L2 or not due or (state.present and not settings.kept):
        return state
    if len(vectors) >= state.present:
        sample = np.empty((min(len(vectors), _LAST_CENTRE), settings.stride), np.float32)
        hnsw_build.load_many(vectors[: len(sample)], settings.metric, sample)
        sample = sample[:, : settings.dim]
    else:
        sample = stored(state, settings, state.live()[:_LAST_CENTRE])
    frame = state.frame.copy()
    mean = sample.mean(axis=0, dtype=np.float64)
    far_off = mean @ mean > _FAR_OFF * np.mean(np.square(sample, dtype=np.float64).sum(axis=1))
    frame[0, : settings.dim] = mean if far_off else 0
    if (frame == state.frame).all():
        return state._replace(coded=total)
    codes, terms = array(state.codes.shape, np.uint8), array(state.terms.shape, np.float32)
    fresh = state._replace(frame=frame, codes=codes, terms=terms, coded=total)
    product = settings.metric != kernels.L2

    def encode(part: slice) -> None:
        slots = np.arange(part.start, part.stop)
        rows = np.zeros((len(slots), settings.stride), np.float32)
        rows[:, : settings.dim] = stored(state, settings, slots)
        codes_kernels.encode_many(rows, settings.dim, frame, settings.bits, product, codes, terms, slots)

    in_pieces(int(state.arena[table.TOP]), encode, smallest=64)
    return fresh


def stored(state: State, settings: Settings, slots: np.ndarray) -> np.ndarray:
    """What is stored in `slots`, float32 (n, dim)."""
    out = np.empty((len(slots), settings.dim), np.float32)

    def restore(part: slice) -> None:
        hnsw_distance.restored(*state.stored, state.frame, settings.bits, settings.metric, slots[part], out[part])

    in_pieces(len(slots), restore, smallest=64)
    return out


def remove(state: State, settings: Settings, ids: np.ndarray) -> None:
    """Remove the vectors of `ids`, in order; an interruption leaves the rest."""
    in_pieces(len(ids), lambda part: _remove(state, settings, ids, part, -1))


def replace(state: State, settings: Settings, vec_id: int) -> None:
    """Let the vector whose id is HIDDEN take the place of that of `vec_id`, in one kernel call."""
    _remove(state, settings, np.array([vec_id], np.int64), slice(0, 1), vec_id)


def _remove(state: State, settings: Settings, ids: np.ndarray, part: slice, heir: int) -> None:
    hnsw_remove.remove(
        *state.stored, state.nodes, state.links, state.upper, state.arena, settings.bits, settings.metric, ids,
        part.start, part.stop, heir, state.clock + 1, settings.probe_bytes,
    )  # fmt: skip


def draw_levels(chance: random.Random, n: int, ml: float) -> np.ndarray:
    """Levels for the next n vectors, int32 (n,)."""
    if n == 1:
        return np.array([-math.log(1.0 - chance.random()) * ml], np.int32)  # cut off, as floor does
    version, words, gauss = chance.getstate()
    bulk = np.random.RandomState()  # the same Mersenne Twister, and the same way to a float
    bulk.set_state({"bit_generator": "MT19937", "state": {"key": np.array(words[:-1], np.uint32), "pos": words[-1]}})
    numbers = bulk.random_sample(n)
    state: Any = bulk.get_state(legacy=False)
    chance.setstate((version, (*state["state"]["key"].tolist(), int(state["state"]["pos"])), gauss))
    return (-np.log(1.0 - numbers) * ml).astype(np.int32)
