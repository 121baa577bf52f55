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
    c, m = COMPUTE, MEMORY
    compute = cost[c] + cost[c + 1] * prefill + cost[c + 2] * decoding + cost[c + 3] * context + cost[c + 4] * pairs
    memory = cost[m] + cost[m + 1] * prefill + cost[m + 2] * decoding + cost[m + 3] * context + cost[m + 4] * pairs
    return cost[OVERHEAD] + max(compute, memory)
