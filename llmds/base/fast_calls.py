"""Kernels called from Python without Numba's dispatcher, for single calls that are shorter than it is."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from numba import typeof


class Direct:
    """The functions of a kernel module by name, as `direct.push(...)`, each costing some 80 ns less a call.

    The first call goes through the dispatcher, which compiles or loads; later ones go straight to the compiled
    function, which takes every argument for what the first call had: a scalar is converted or refused, but
    another kind of array is memory read wrongly. So it is for classes that hand over arrays of their own
    and have brought the rest to one type, as the class floor does anyway.
    """

    # Plain attributes: a class that has `__getattr__` pays 30 ns for every attribute, found or not.

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, module: ModuleType):
        for name, kernel in vars(module).items():
            if hasattr(kernel, "overloads"):
                setattr(self, name, self._first(name, kernel))

    def _first(self, name: str, kernel: Any) -> Any:
        def first(*arguments: Any) -> Any:
            if any(isinstance(argument, int) and not -(2**63) <= argument < 2**63 for argument in arguments):
                raise OverflowError("an int does not fit int64")  # the dispatcher would compile for uint64
            result = kernel(*arguments)
            setattr(self, name, kernel.overloads[tuple(map(typeof, arguments))].entry_point)
            return result

        return first
