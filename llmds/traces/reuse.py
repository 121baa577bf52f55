"""What caches of any size find in a trace, without simulating them: stack distances, and the optimum."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments, threads
from ..kernels import bitset
from ..kernels.traces import reuse as kernels
from .trace import Trace

_REQUESTS = 16  # of the first kernel call, when it is not known yet how long one takes


def stack_distances(trace: Trace) -> np.ndarray:
    """Return how recent each block was just before its request: int64, parallel to `trace.block_ids`.

    The most recently used block is 1; one that was not used before is 0. The blocks of a request count as used
    together, the first of them as the most recent.

    Notes
    -----
    O(blocks * log blocks). A cache of c blocks that evicts the least recently used finds exactly the blocks of 1..c, so
    one pass gives its hits at every size (Mattson et al. 1970), as long as no request is longer than c: a cache refuses
    such a request, and here all take part.

    Examples
    --------
    >>> trace = Trace([0, 1, 2], [3, 3, 2], [1, 1, 1], [7, 8, 9, 7, 8, 5, 7, 8], [0, 3, 6, 8], block_size=1)
    >>> stack_distances(trace).tolist()
    [0, 0, 0, 1, 2, 0, 1, 2]
    """
    nodes, parents = trace.prefixes()
    return _distances(nodes, trace.indptr, len(parents))


def lru_hits(trace: Trace, sizes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks found, and looked for, in least-recently-used caches of `sizes` (m,) blocks: int64 (m,) both.

    What a `KVCache` with as many pages counts when each request is detached before the next is attached: a request
    finds its leading blocks that are cached, and is refused, and not counted, if it has more blocks than there are
    pages. One pass over the trace serves all sizes that refuse the same requests: O(blocks *
    log blocks) for all from the longest request on.
    """
    sizes = arguments.integers("sizes", sizes, 1)
    lengths = np.diff(trace.indptr)
    all_nodes, parents = trace.prefixes()
    found, looked_for = np.zeros(sizes.size, np.int64), np.zeros(sizes.size, np.int64)
    distinct = np.unique(lengths)
    refusing = np.searchsorted(distinct, sizes, side="right")  # sizes between the same two lengths refuse the same
    for group in np.unique(refusing):
        kept = lengths <= (distinct[group - 1] if group else -1)
        nodes = all_nodes if kept.all() else all_nodes[np.repeat(kept, lengths)]
        indptr = np.concatenate([[0], np.cumsum(lengths[kept])])
        places = np.bincount(_distances(nodes, indptr, len(parents)), minlength=2)
        places[0] = 0  # these were not used before
        members = refusing == group
        found[members] = np.cumsum(places)[np.minimum(sizes[members], len(places) - 1)]
        looked_for[members] = indptr[-1]
    return found, looked_for


def optimal_hits(trace: Trace, sizes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return what `lru_hits` returns for the optimal policy, which knows the future: no other policy has more hits.

    They evict what is needed again last, or never (Belady 1966). O(blocks * log blocks) for each size.
    """
    sizes = arguments.integers("sizes", sizes, 1)
    lengths = np.diff(trace.indptr)
    nodes, parents = trace.prefixes()
    found, looked_for = np.zeros(sizes.size, np.int64), np.zeros(sizes.size, np.int64)
    for place, size in enumerate(sizes.tolist()):
        found[place] = _optimum(nodes, trace.indptr, len(parents), size).sum()
        looked_for[place] = lengths[lengths <= size].sum()
    return found, looked_for


def _distances(nodes: np.ndarray, indptr: np.ndarray, distinct: int) -> np.ndarray:
    """Return the stack distance of each block, int64; `nodes` as `Trace.prefixes` returns them."""
    out = np.empty(len(nodes), np.int64)
    head, slots = np.zeros(1, np.int64), np.full(distinct, -1, np.int64)
    words, tree = np.zeros(len(nodes) // 64 + 1, np.uint64), np.zeros(len(nodes) // 64 + 1, np.int64)
    _runs(indptr, lambda run: kernels.distances(nodes, indptr, run.start, run.stop, head, slots, words, tree, out))
    return out


def _optimum(nodes: np.ndarray, indptr: np.ndarray, distinct: int, size: int) -> np.ndarray:
    """Return the blocks that each request finds in the best cache of `size` blocks, int64 (n,)."""
    n = len(indptr) - 1
    uses, following = np.empty(len(nodes), np.int32), np.full(distinct, -1, np.int32)
    _runs(indptr, lambda run: kernels.next_uses(nodes, indptr, size, n - run.stop, n - run.start, following, uses))
    found, head, (bits, starts) = np.empty(n, np.int64), np.zeros(2, np.int64), bitset.new(max(len(nodes), 1))
    _runs(indptr, lambda run: kernels.optimum(uses, indptr, size, run.start, run.stop, head, bits, starts, found))
    return found


def _runs(indptr: np.ndarray, call: Callable[[slice], object]) -> None:
    """Call for runs of requests, in order, none so long that Ctrl-C would wait."""
    threads.in_pieces(len(indptr) - 1, call, smallest=_REQUESTS)
