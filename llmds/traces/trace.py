"""Requests to a language model, as arrays."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import arguments, threads
from ..base.files import Arrays, Schema, expect
from ..base.structure import Structure
from ..kernels.traces import reuse as reuse_kernels
from ..kernels.traces import trace as kernels

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCK_SIZE = 512
VOCABULARY = 128_000
MAX_BLOCKS = 2**31 - 1
_REQUESTS = 16  # of the first kernel call, when it is not known yet how long one takes
_RULES = {
    kernels.ARRIVAL: "arrivals must begin at 0, be finite and never decrease",
    kernels.INPUT: "input_lengths must lie in 1..2**31-1",
    kernels.OUTPUT: "output_lengths must lie in 0..2**31-1",
    kernels.BLOCKS: "indptr must give each request ceil(input_length / block_size) blocks, or none to any",
    kernels.BLOCK_ID: "block_ids must lie in 0..2**63-1",
}


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Structure):
    """Requests in order of arrival, as parallel arrays: their times, their lengths, and the contents of their prompts.

    The arrays may be the caller's own, who must not change them. `dataclasses.replace` makes variants, such as twice
    the load: `replace(trace, arrivals=trace.arrivals / 2)`. TypeError or ValueError if they break a rule. O(n +
    blocks).

    Parameters
    ----------
    arrivals : array_like of float
        float64 (n,), seconds since the first request. They never decrease.
    input_lengths, output_lengths : array_like of int
        int64 (n,), tokens of each prompt (1 or more) and of each answer (0 or more).
    block_ids : array_like of int, optional
        int64 (blocks,), content ids, one for each run of `block_size` tokens of a prompt. Equal ids mean that the
        prompts are equal from their beginning to the end of the block (if ids identify the tokens of a block only, use
        `prefixes`). The last block of a prompt may be part-filled.
    indptr : array_like of int, optional
        int64 (n + 1,): request r has block_ids[indptr[r]:indptr[r + 1]]. If nothing is known of the contents, block_ids
        is empty and indptr all 0, the default.
    block_size : int
        Tokens of a block.

    Examples
    --------
    >>> trace = Trace([0.0, 0.5], [1000, 600], [20, 30], [7, 8, 7, 9], [0, 2, 4])
    >>> trace.blocks(1).tolist(), trace[1:].arrivals.tolist()
    ([7, 9], [0.0])
    """

    arrivals: np.ndarray
    input_lengths: np.ndarray
    output_lengths: np.ndarray
    block_ids: np.ndarray = None  # type: ignore[assignment]
    indptr: np.ndarray = None  # type: ignore[assignment]
    block_size: int = BLOCK_SIZE

    _schema: ClassVar[Schema] = {
        "arrivals": (np.float64, 1),
        "input_lengths": (np.int64, 1),
        "output_lengths": (np.int64, 1),
        "block_ids": (np.int64, 1),
        "indptr": (np.int64, 1),
        "block_size": (np.int64, 1),
    }
    _unpickled: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the arguments."""
        if (self.block_ids is None) != (self.indptr is None):
            raise ValueError("block_ids and indptr must both be given, or neither")
        arrivals = arguments.reals("arrivals", self.arrivals)
        checked = {
            "arrivals": arrivals,
            "input_lengths": arguments.integers("input_lengths", self.input_lengths),
            "output_lengths": arguments.integers("output_lengths", self.output_lengths),
            "block_ids": arguments.integers("block_ids", [] if self.block_ids is None else self.block_ids),
            "indptr": np.zeros(len(arrivals) + 1, np.int64)
            if self.indptr is None
            else arguments.integers("indptr", self.indptr),
            "block_size": arguments.integer("block_size", self.block_size, 1, kernels.MAX_TOKENS),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        fault = self._fault()
        if fault is not None:
            raise ValueError(fault)

    @property
    def arrays(self) -> kernels.Arrays:
        """The trace's arrays, for your own compiled loops: arrivals, input_lengths, output_lengths, block_ids, indptr.

        A NamedTuple of the arrays themselves, not copies, of the shapes and types given above, which are never
        replaced. The trace, and traces cut from it, share them: do not change them.
        """
        return kernels.Arrays(self.arrivals, self.input_lengths, self.output_lengths, self.block_ids, self.indptr)

    def until(self, seconds: float) -> "Trace":
        """Return the requests that arrived in the first `seconds`. O(log n), and a pass over what is left."""
        seconds = arguments.real("seconds", seconds, 0.0)
        return self[: int(np.searchsorted(self.arrivals, seconds))]

    def blocks(self, request: int) -> np.ndarray:
        """Return the content ids of one request's prompt: a view, int64. O(1)."""
        request = arguments.integer("request", request, 0, len(self) - 1)
        return self.block_ids[self.indptr[request] : self.indptr[request + 1]]

    def tokens(self, seed: int = 0, vocabulary: int = VOCABULARY) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of all prompts, end to end, and where each begins.

        int32 (sum of input_lengths,) and int64 (n + 1,). Made from the content ids, each of which stands for
        `block_size` random tokens below `vocabulary`; equal ids under equal seeds give equal tokens, and the last block
        is cut to the prompt's length. ValueError if the trace has no ids. O(tokens), about 1 ns each and 4 bytes: take
        part of a long trace at a time, `trace[:1000].tokens()`.
        """
        seed, vocabulary = self._token_arguments(seed, vocabulary)
        starts = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.input_lengths, out=starts[1:])
        out = np.empty(starts[-1], np.int32)

        def fill(run: slice) -> None:
            kernels.fill_tokens(
                self.block_ids, self.indptr, self.input_lengths, self.block_size, seed, vocabulary, run.start, run.stop,
                starts[run], out,
            )  # fmt: skip

        threads.in_pieces(len(self), fill, smallest=_REQUESTS)
        return out, starts

    def tokens_of(self, request: int, seed: int = 0, vocabulary: int = VOCABULARY) -> np.ndarray:
        """Return the token ids of one prompt, as `tokens` returns them: int32 (input_length,). O(input_length)."""
        request = arguments.integer("request", request, 0, len(self) - 1)
        seed, vocabulary = self._token_arguments(seed, vocabulary)
        out = np.empty(self.input_lengths[request], np.int32)
        kernels.fill_prompt(
            self.block_ids, self.indptr, self.input_lengths, self.block_size, seed, vocabulary, request, 0, out
        )
        return out

    def prefixes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct prefixes of the prompts, as a tree whose nodes are numbered in order of appearance.

        A node is an id and all ids before it, so ids of the tokens of a block alone are accepted as well. O(blocks).

        Returns
        -------
        nodes : ndarray
            int32, parallel to block_ids: which node each block is.
        parents : ndarray
            int32 (distinct,): the node before it of each node, -1 where it is a prompt's first.
        """
        total = len(self.block_ids)
        buckets = np.full(1 << max(2 * total - 1, 1).bit_length(), -1, np.int32)
        head, ids = np.zeros(1, np.int64), np.empty(total, np.int64)
        parents, nodes = np.empty(total, np.int32), np.empty(total, np.int32)
        threads.in_pieces(
            len(self),
            lambda run: reuse_kernels.number(
                self.block_ids, self.indptr, run.start, run.stop, head, buckets, ids, parents, nodes
            ),
            smallest=_REQUESTS,
        )
        return nodes, parents[: head[0]].copy()

    def stats(self) -> dict[str, float]:
        """Return a summary. O((n + blocks) * log n).

        `requests`, `seconds` (from the first to the last), `requests_per_second` (0.0 if all arrived at once); `mean`,
        `p50`, `p99` and `max` of the lengths in tokens, as `input_mean` and so on, and their sums `input_tokens` and
        `output_tokens`; `blocks`, how many are `distinct_blocks`, `longest_request` in blocks, and `seen_before`, the
        share of blocks that were there before, which is what a cache without limit finds.
        """
        seconds = float(self.arrivals[-1]) if len(self) else 0.0
        blocks, distinct = len(self.block_ids), len(self.prefixes()[1])
        found: dict[str, float] = {
            "requests": len(self),
            "seconds": seconds,
            "requests_per_second": len(self) / seconds if seconds else 0.0,
        }
        for name, lengths in (("input", self.input_lengths), ("output", self.output_lengths)):
            some = lengths if len(self) else np.zeros(1, np.int64)
            found[f"{name}_tokens"] = int(some.sum())
            found[f"{name}_mean"] = float(some.mean())
            found[f"{name}_p50"], found[f"{name}_p99"] = map(float, np.percentile(some, (50, 99)))
            found[f"{name}_max"] = int(some.max())
        found["blocks"], found["distinct_blocks"] = blocks, distinct
        found["longest_request"] = int(np.diff(self.indptr).max(initial=0))
        found["seen_before"] = 1 - distinct / blocks if blocks else 0.0
        return found

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrivals)

    def __getitem__(self, which: slice | np.ndarray) -> "Trace":
        """Return the requests of a slice (step 1 or more), or of a boolean mask (n,); time begins with the first.

        Runs of requests share this trace's arrays. O(n), and a copy of the blocks where requests are left out.
        """
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step < 1:
                raise ValueError(f"step must be 1 or more, got {step}: requests stay in order of arrival")
            stop = max(start, stop)
            if step == 1:
                ids = self.block_ids[self.indptr[start] : self.indptr[stop]]
                return self._part(slice(start, stop), ids, self.indptr[start : stop + 1] - self.indptr[start])
            rows = np.arange(start, stop, step)
        else:
            mask = np.asarray(which)
            if mask.dtype != bool:
                raise TypeError(f"a trace takes slices and boolean masks, got {which!r}")
            if mask.shape != (len(self),):
                raise ValueError(f"mask must have shape ({len(self)},), got {mask.shape}")
            rows = np.flatnonzero(mask)
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        places = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return self._part(rows, self.block_ids[places], indptr)

    def __repr__(self) -> str:
        """Return the number of requests, their time, and what is known of their blocks."""
        seconds = float(self.arrivals[-1]) if len(self) else 0.0
        blocks = f"{len(self.block_ids)} blocks of {self.block_size} tokens" if len(self.block_ids) else "no block ids"
        return f"Trace({len(self)} requests in {seconds:.0f} s, {blocks})"

    def _part(self, which: slice | np.ndarray, block_ids: np.ndarray, indptr: np.ndarray) -> "Trace":
        arrivals = self.arrivals[which]
        if len(arrivals):
            arrivals = arrivals - arrivals[0]
        return type(self)(
            arrivals, self.input_lengths[which], self.output_lengths[which], block_ids, indptr, self.block_size
        )

    def _token_arguments(self, seed: int, vocabulary: int) -> tuple[int, int]:
        if len(self) and not len(self.block_ids):
            raise ValueError("the trace has no block ids to make tokens of")
        return arguments.integer("seed", seed), arguments.integer("vocabulary", vocabulary, 1, 2**31 - 1)

    def _owned(self) -> Iterable[np.ndarray]:
        return self.arrays

    def _to_arrays(self) -> Arrays:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**arrays, "block_size": np.array([self.block_size], np.int64)}

    @classmethod
    def _from_arrays(cls, arrays: Arrays, **given: Any) -> "Self":
        size = arrays["block_size"]
        expect(size.size == 1 and 1 <= size[0] <= kernels.MAX_TOKENS, "block_size must lie in 1..2**31-1")
        self = cls.__new__(cls)
        for name, array in arrays.items():
            object.__setattr__(self, name, array)
        object.__setattr__(self, "block_size", int(size[0]))
        return self

    def _fault(self) -> str | None:
        n, total = len(self.arrivals), len(self.block_ids)
        if not len(self.input_lengths) == len(self.output_lengths) == n:
            return (
                f"lengths must match, got arrivals of {n}, input_lengths of {len(self.input_lengths)}, "
                f"output_lengths of {len(self.output_lengths)}"
            )
        if len(self.indptr) != n + 1 or self.indptr[0] != 0 or self.indptr[-1] != total or total > MAX_BLOCKS:
            return f"indptr must have shape ({n + 1},) and lead from 0 to the {total} block_ids (at most 2**31-1)"
        done = 0
        while done < n:  # so many that they surely take less than a tenth of a second
            stop = max(
                done + 1, min(done + (1 << 16), int(np.searchsorted(self.indptr, self.indptr[done] + (1 << 24))))
            )
            code, done = kernels.first_fault(
                self.arrivals,
                self.input_lengths,
                self.output_lengths,
                self.block_ids,
                self.indptr,
                self.block_size,
                done,
                min(stop, n),
            )
            if code != kernels.OK:
                return f"{_RULES[code]}, request {done} breaks that"
        return None
