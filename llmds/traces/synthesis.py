"""The columns of a trace of made-up conversations."""

import numpy as np

from ..kernels import heap
from ..kernels.traces import synthesis as kernels
from .files import Columns

# of one kernel call, which then takes some hundredths of a second
_REQUESTS = 1 << 14
_BLOCKS = 1 << 23


def columns(
    seed: int, requests: int, settings: np.ndarray, shares: np.ndarray, system: tuple[float, float],
    block_size: int, longest: int,
) -> Columns:  # fmt: skip
    """What `kernels.traces.synthesis.make` makes, in arrays of the right size. The arguments have been checked."""
    head, systems = np.zeros(4, np.int64), np.empty((len(shares), 2), np.int64)
    tokens = np.empty(len(shares), np.int64)
    kernels.lengths(seed, head, *system, tokens)
    systems[:, 0] = np.minimum(tokens, longest // 2)  # there must be room for something to say
    blocks = systems[:, 0] // block_size
    systems[:, 1] = np.cumsum(blocks) - blocks
    head[kernels.IDS] = blocks.sum()
    events, latest = heap.new(requests + 2, False), np.full(requests + 2, -1, np.int64)
    heap.push(events, 0, 0.0)
    past = np.empty((requests, kernels.PAST), np.int64)
    arrivals, lengths = np.empty(requests), np.empty((2, requests), np.int64)
    indptr, block_ids = np.zeros(requests + 1, np.int64), np.empty(0, np.int64)
    most = -(-longest // block_size)
    while head[kernels.REQUESTS] < requests:
        stop = min(int(head[kernels.REQUESTS]) + _REQUESTS, requests)
        if len(block_ids) - head[kernels.BLOCKS] < most:
            larger = np.empty(2 * len(block_ids) + most, np.int64)
            larger[: head[kernels.BLOCKS]] = block_ids[: head[kernels.BLOCKS]]
            block_ids = larger
        kernels.make(
            seed, settings, shares, systems, block_size, longest, stop, head, events, latest, past,
            arrivals, lengths[0], lengths[1], block_ids[: head[kernels.BLOCKS] + most + _BLOCKS], indptr,
        )  # fmt: skip
    return Columns(arrivals, lengths[0], lengths[1], block_ids[: indptr[-1]].copy(), indptr, block_size)
