"""Scheduling policies: the one table of their numbers and names, and the key that each gives a request.

A policy is a number in the head of the arena (`head[layout.POLICY]`). To add one: a number and its name here, a branch
in `key_of`, and its tests. Everything else about a policy that orders requests by a key of their own follows.
"""

import numpy as np

from ..compiling import njit_no_nrt

SJF, FCFS, EDF, CUSTOM, PRIORITY, LPM, WFQ = range(7)
# by number; None: the caller computes the key
POLICIES = ("sjf", "fcfs", "edf", None, "priority", "lpm", "wfq")
_COUNT = len(POLICIES)


@njit_no_nrt(cache=True)
def is_known(policy):
    """Return whether `policy` (int64) is a number of the table."""
    return 0 <= policy < _COUNT


@njit_no_nrt(cache=True)
def is_time(policy):
    """Return whether the keys of a policy are times of the arena's clock."""
    if policy == FCFS:
        return True
    return policy == EDF


@njit_no_nrt(cache=True)
def key_of(policy, tokens, queued, deadline, found, key):
    """Return the key (float64) of a request under a policy; the smallest goes first.

    tokens int64: those left to compute. queued, deadline: float64 seconds of the arena. found int64: tokens known to
    be in the cache or computed. key float64: what the caller or the last look-up gave. Raise ValueError for a policy
    without a branch here.
    """
    if policy == SJF:
        return np.float64(tokens)
    if policy == FCFS:
        return queued
    if policy == EDF:
        return deadline
    if policy == LPM:
        return min(key, 0.0 - found)
    if policy == WFQ:
        return 0.0  # the order is that of the tenants' counters
    if policy == PRIORITY:
        return key
    if policy == CUSTOM:
        return key
    raise ValueError("policy must be a number of llmds.kernels.scheduler.policies")
