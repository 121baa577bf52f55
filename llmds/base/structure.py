"""The base class of all structures."""

import copy
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import files

if TYPE_CHECKING:
    from typing_extensions import Self


class Structure:
    """Files, pickling, `arrays`, `check` and `nbytes`, the same for every structure.

    A subclass names the arrays it saves in `_schema` and defines `arrays`, `_to_arrays`, `_from_arrays` and `_fault`.
    All of its state is in these arrays, except locks and the callables that the user passed. Arrays named `part.name`
    with `part` in `_parts` belong to a structure inside this one, which checks them itself.
    """

    _schema: ClassVar[files.Schema] = {}
    _parts: ClassVar[tuple[str, ...]] = ()
    _version: ClassVar[int] = 1
    _unpickled: ClassVar[tuple[str, ...]] = ("_lock",)

    @property
    def arrays(self) -> tuple:
        """The arrays that the kernels of this structure work on, for your own `@njit` functions.

        A NamedTuple, defined beside the kernels, whose fields are named as the kernels name their arguments. The
        arrays are the structure's own, not copies: what a kernel writes, the structure has. They are valid until
        the structure replaces them, for example when it grows; each structure documents when. Read the property again
        after that, and never use them while another thread changes the structure.
        """
        raise AttributeError(f"{type(self).__name__} has no arrays for kernels")

    def _to_arrays(self) -> files.Arrays:
        """Return the complete state as the arrays named in `_schema`."""
        raise TypeError(f"{type(self).__name__} cannot be saved")

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        """Return the structure that `_to_arrays` described.

        Raises Damaged if the shapes do not fit together; `_fault` checks the contents afterwards. `given` are the
        callables passed to `load`.
        """
        raise TypeError(f"{cls.__name__} cannot be loaded")

    def _fault(self) -> str | None:
        """Return a description of the first broken invariant, None if all hold. Safe on any contents."""
        return None

    def _mapped_fault(self) -> str | None:
        """Return as `_fault` does, after a load that mapped the file, without reading the large arrays.

        Every kernel must be safe on any contents of the arrays left out.
        """
        return self._fault()

    def _owned(self) -> Iterable[np.ndarray]:
        """Return every array whose memory belongs to this structure."""
        return self._to_arrays().values()

    @property
    def nbytes(self) -> int:
        """Bytes of memory used by the arrays."""
        return sum(array.nbytes for array in self._owned())

    def check(self) -> None:
        """Check all invariants of the arrays. O(size).

        Raises
        ------
        AssertionError
            An invariant is broken; the message names the first one.
        """
        fault = self._fault()
        if fault is not None:
            raise AssertionError(fault)

    def save(self, path: str | os.PathLike) -> None:
        """Write the structure to a file (.npz).

        The file is replaced as a whole: a crash leaves the old one or the new one.

        Parameters
        ----------
        path
            Name of the file. No suffix is added.
        """
        files.write(path, type(self).__name__, self._version, self._to_arrays())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Self":
        """Read a file that `save` wrote.

        Parameters
        ----------
        path
            Name of the file.

        Returns
        -------
        Self
            A structure equal to the saved one.

        Raises
        ------
        ValueError
            The file is damaged, holds another kind of structure, or was written by a newer version.
        """
        return cls._load(path)

    @classmethod
    def _load(cls, path: str | os.PathLike, mmap: bool = False, **given: Any) -> "Self":
        """Load as `load` does, with the callables `given`. A subclass whose `_mapped_fault` allows it offers `mmap`."""
        return cls._restored(files.read(path, cls.__name__, cls._version, mmap), os.fspath(path), mmap, **given)

    @classmethod
    def _restored(cls, arrays: files.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        """Return the structure of unchecked arrays from the file `where`. With `mmap`, large ones are not read."""
        try:
            own = {name: array for name, array in arrays.items() if name.split(".")[0] not in cls._parts}
            files.match_schema(own, cls._schema)
            structure = cls._from_arrays(arrays, **given)
            fault = structure._mapped_fault() if mmap else structure._fault()
        except files.Damaged as error:
            raise files.Damaged(f"{where}: {error}") from error
        if fault is not None:
            raise files.Damaged(f"{where}: damaged: {fault}")
        return structure

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle: all but locks."""
        return {name: value for name, value in self.__dict__.items() if name not in self._unpickled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes of a pickle, with new locks."""
        self.__dict__.update({name: writable(value) for name, value in state.items()})
        for name in self._unpickled:
            setattr(self, name, threading.RLock())

    def __copy__(self) -> "Self":
        """Return a copy that shares no array with this structure, as `copy.deepcopy` does."""
        return copy.deepcopy(self)


def writable(value: Any) -> Any:
    """Return an attribute with its arrays writable: a pickle may share read-only ones with the buffers it came in."""
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy()
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(map(writable, value))
    return value
