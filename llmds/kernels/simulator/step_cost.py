"""Seconds of a step of continuous batching.

cost: float64 (COST,), the coefficients of compute and of memory for (1, P, D, C, A), and the overhead of a step; what
they mean: `llmds.cost_model.CostModel`.
"""

from ..compiling import njit_no_nrt

INPUTS = 5
OVERHEAD, COST = 2 * INPUTS, 2 * INPUTS + 1


@njit_no_nrt(cache=True)
def seconds(cost, prefill, decoding, context, pairs):
    """Of a step with so many prompt tokens, decoding sequences, tokens of context and attended pairs (float64 each)."""
    compute = cost[0] + cost[1] * prefill + cost[2] * decoding + cost[3] * context + cost[4] * pairs
    memory = cost[5] + cost[6] * prefill + cost[7] * decoding + cost[8] * context + cost[9] * pairs
    return cost[OVERHEAD] + max(compute, memory)
