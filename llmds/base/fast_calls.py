"""Calls of kernels from Python that avoid Numba's dispatcher, for kernels that take less time than it does."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from numba import typeof


class Direct:
    """The functions of a kernel module by name, as `direct.push(...)`, each call some 80 ns shorter.

    The first call goes through the dispatcher, which compiles or loads; later ones go straight to the compiled
    function, which takes every argument to be of the type of the first call. A scalar is converted or refused with
    an exception, but an array of another dtype or layout is read wrongly, and anything but a NamedTuple in place of
    one crashes the process. So it is for classes that pass arrays of their own, and have checked and converted all
    other arguments.

    Arrays that always go together can be one argument, a NamedTuple of them, if the caller keeps it: with eight arrays
    a call took 0.6 to 0.9 of the time of eight arguments. Making the NamedTuple for each call costs 200 to 300 ns, and
    passing it to the dispatcher takes 2 to 4 times as long as eight arguments.
    """

    # Plain attributes: a class that has `__getattr__` pays 30 ns for every attribute, found or not.

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return a kernel by name."""

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
