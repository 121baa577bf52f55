"""The columns of a trace of synthetic conversations."""

import numpy as np

from ..kernels import heap
from ..kernels.traces import synthesis as kernels
from ..kernels.traces.trace import Arrays
from .files import Columns

# of one kernel call, which then takes some hundredths of a second
_REQUESTS = 1 << 14
_BLOCKS = 1 << 23


def columns(
    seed: int, requests: int, settings: np.ndarray, shares: np.ndarray, system: tuple[float, float],
    block_size: int, longest: int,
) -> Columns:  # fmt: skip
    """Return what `kernels.traces.synthesis.make` makes, in arrays of the right size, from checked arguments."""
    head, systems = np.zeros(4, np.int64), np.empty((len(shares), kernels.SYSTEM), np.int64)
    tokens = np.empty(len(shares), np.int64)
    kernels.lengths(seed, head, *system, tokens)
    systems[:, kernels.LENGTH] = np.minimum(tokens, longest // 2)  # so that there is room for a message
    blocks = systems[:, kernels.LENGTH] // block_size
    systems[:, kernels.FIRST_ID] = np.cumsum(blocks) - blocks
    head[kernels.IDS] = blocks.sum()
    events, latest = heap.new(requests + 2, False), np.full(requests + 2, -1, np.int64)
    heap.push(events, 0, 0.0)
    past = np.empty((requests, kernels.PAST), np.int64)
    inputs, outputs = np.empty(requests, np.int64), np.empty(requests, np.int64)
    trace = Arrays(np.empty(requests), inputs, outputs, np.empty(0, np.int64), np.zeros(requests + 1, np.int64))
    most = -(-longest // block_size)
    while head[kernels.REQUESTS] < requests:
        stop = min(int(head[kernels.REQUESTS]) + _REQUESTS, requests)
        made = int(head[kernels.BLOCKS])
        if len(trace.block_ids) - made < most:
            larger = np.empty(2 * len(trace.block_ids) + most, np.int64)
            larger[:made] = trace.block_ids[:made]
            trace = trace._replace(block_ids=larger)
        part = trace._replace(block_ids=trace.block_ids[: made + most + _BLOCKS])
        kernels.make(seed, settings, shares, systems, block_size, longest, stop, head, events, latest, past, part)
    block_ids = trace.block_ids[: trace.indptr[-1]].copy()
    return Columns(**trace._replace(block_ids=block_ids)._asdict(), block_size=block_size)
