"""Seconds of a step of continuous batching.

cost: float64 (COST,), the coefficients of compute and of memory for (1, P, D, C, A), and the overhead of a step; what
they mean: `llmds.simulator.cost_model.CostModel`.
"""

from ..compiling import njit_no_nrt

INPUTS = 5
COMPUTE, MEMORY = 0, INPUTS  # where the coefficients of each begin
OVERHEAD, COST = 2 * INPUTS, 2 * INPUTS + 1


@njit_no_nrt(cache=True)
def seconds(cost, prefill, decoding, context, pairs):
    """Return the seconds of a step, float64.

    Of so many prompt tokens, decoding sequences, tokens of context and attended pairs (float64 each).
    """
    compute = _side(cost, COMPUTE, prefill, decoding, context, pairs)
    memory = _side(cost, MEMORY, prefill, decoding, context, pairs)
    return cost[OVERHEAD] + max(compute, memory)


@njit_no_nrt(cache=True)
def _side(cost, at, prefill, decoding, context, pairs):
    """Return the seconds of compute or memory, whose coefficients begin at `at`."""
    per_token, per_sequence, per_context = cost[at + 1] * prefill, cost[at + 2] * decoding, cost[at + 3] * context
    return cost[at] + per_token + per_sequence + per_context + cost[at + 4] * pairs
