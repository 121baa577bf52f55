"""How every kernel of this library is compiled."""

from functools import partial
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

# Without the entry point for C callers, which nothing here has, a kernel compiles a seventh faster; without raising
# where an integer is divided by zero, which none does, a twentieth.
njit = partial(numba.njit, no_cfunc_wrapper=True, error_model="numpy")
# For a kernel that makes no array and keeps none: it counts no references to what its caller holds, which in a short
# function with branches is two locked instructions an array, more than all the rest.
leaf = partial(njit, _nrt=False)


def _plain(typingctx):
    """Called first in a kernel, keeps LLVM from unrolling its loops and making vector versions of them.

    They come again in every kernel that calls this one, and a second of compiling is more than many loops ever take.
    """

    def codegen(context, builder, signature, arguments):
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.none(), codegen


plain: Any = intrinsic(_plain)


def _apart(typingctx):
    """Called first in a kernel, keeps it from being copied into those that call it: for what they rarely need."""

    def codegen(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), codegen


apart: Any = intrinsic(_apart)


def _within(typingctx):
    """Called first in a kernel, has it copied into those that call it, but not also all that it calls.

    That is what forceinline=True does: a compiler option holds for the kernels below as well.
    """

    def codegen(context, builder, signature, arguments):
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.none(), codegen


within: Any = intrinsic(_within)
