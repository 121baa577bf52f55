"""A histogram of durations in one int64 array (STEPS,): percentiles of any number of them.

In microseconds, exact below 128; above, 64 steps to each doubling, so a step is never wider than 1/64 of
the durations in it (the layout of HdrHistogram, Tene 2012). Beyond 25 days all is one step.
"""

import numpy as np

from .compiling import njit, njit_no_nrt

_EXACT, _TO_A_DOUBLING, _LONGEST = 128, 64, 2**41 - 1
_EXPONENT = 1023 + 6  # that of a float64 in 64..127
STEPS = _EXACT + 34 * _TO_A_DOUBLING


@njit_no_nrt(cache=True)
def add(counts, seconds):
    """Count a duration (float64 seconds, not negative, not NaN) in `counts`. O(1)."""
    micros = np.int64(min(seconds * 1e6 + 0.5, float(_LONGEST)))
    # the exponent of the float64, which is exact, gives the number of bits without a loop
    doublings = max((np.float64(micros).view(np.int64) >> 52) - _EXPONENT, 0)
    micros >>= doublings
    counts[micros if doublings == 0 else _EXACT + (doublings - 1) * _TO_A_DOUBLING + micros - _TO_A_DOUBLING] += 1


@njit(cache=True)
def percentile(counts, share):
    """Return the nearest-rank percentile in seconds, `share` in 0..1, within 1% or half a microsecond. O(STEPS).

    0 if nothing is counted.
    """
    rank, seen = max(np.int64(np.ceil(share * counts.sum())), 1), 0
    for step in range(STEPS):
        seen += counts[step]
        if seen >= rank:
            if step < _EXACT:
                return step * 1e-6
            doublings, place = (step - _EXACT) // _TO_A_DOUBLING + 1, (step - _EXACT) % _TO_A_DOUBLING
            return (_TO_A_DOUBLING + place + 0.5) * 2.0**doublings * 1e-6
    return 0.0


@njit(cache=True)
def total(counts):
    """Return how many durations are counted, or -1 if a count is impossible. Safe on any contents. O(STEPS)."""
    durations = 0
    for step in range(counts.shape[0]):
        if not 0 <= counts[step] < 2**62 - durations:
            return np.int64(-1)
        durations += counts[step]
    return np.int64(durations)
