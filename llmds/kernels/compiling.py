"""How every kernel of this library is compiled."""

from functools import partial
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

# Without the entry point for C callers, which nothing here has, a kernel compiles a seventh faster; without raising
# where an integer is divided by zero, which none does, a twentieth.
njit = partial(numba.njit, no_cfunc_wrapper=True, error_model="numpy")
# Without NRT, Numba's reference counting of arrays: for a kernel that makes no array and keeps none. In a short
# function with branches counting takes two locked instructions an array, more time than all the rest.
njit_no_nrt = partial(njit, _nrt=False)


def _attribute(name: str) -> Any:
    """Return a function that, called first in a kernel, adds an attribute to its LLVM function."""

    def add(typingctx):
        def codegen(context, builder, signature, arguments):
            builder.function.attributes.add(name)
            return context.get_dummy_value()

        return types.none(), codegen

    return intrinsic(add)


# LLVM unrolls no loop of the kernel and makes no vector version of it. Those come again in every kernel that this one
# is copied into, and a second of compiling is more than many loops ever take.
optimize_for_size = _attribute("optsize")
# The kernel is not copied into those that call it: for what they rarely need.
never_inline = _attribute("noinline")
# The kernel is copied into those that call it, but not all that it calls in its turn: forceinline=True would do that,
# since a compiler option holds for the kernels below as well.
always_inline = _attribute("alwaysinline")
