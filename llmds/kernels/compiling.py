"""How every kernel of this library is compiled."""

from functools import partial

import numba

# Without the entry point for C callers, which nothing here has, a kernel compiles a seventh faster.
njit = partial(numba.njit, no_cfunc_wrapper=True)
# For a kernel that makes no array and keeps none: it counts no references to what its caller holds, which in a short
# function with branches is two locked instructions an array, more than all the rest.
leaf = partial(njit, _nrt=False)
