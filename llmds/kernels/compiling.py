"""How every kernel of this library is compiled."""

from functools import partial

import numba

# Without the entry point for C callers, which nothing here has, a kernel compiles a seventh faster.
njit = partial(numba.njit, no_cfunc_wrapper=True)
