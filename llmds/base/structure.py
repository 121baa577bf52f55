"""The face that every structure shares."""

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import files

if TYPE_CHECKING:
    from typing_extensions import Self


class Structure:
    """What all structures have in common: files, pickling, `check`, `nbytes`.

    A subclass names its arrays in `_schema` and gives `_to_arrays`, `_from_arrays` and `_fault`.
    Everything it holds is in those arrays, but for locks and the callables it was given. Arrays named
    `part.name` with `part` in `_parts` belong to a structure inside it, which examines them itself.
    """

    _schema: ClassVar[files.Schema] = {}
    _parts: ClassVar[tuple[str, ...]] = ()
    _version: ClassVar[int] = 1
    _unpickled: ClassVar[tuple[str, ...]] = ("_lock",)

    def _to_arrays(self) -> files.Arrays:
        """All that makes this structure what it is, by the names in `_schema`."""
        raise TypeError(f"{type(self).__name__} cannot be saved")

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        """The structure that `_to_arrays` described. Damaged if shapes do not fit one another; the
        contents are examined by `_fault` afterwards. `given` are the callables `load` was given."""
        raise TypeError(f"{cls.__name__} cannot be loaded")

    def _fault(self) -> str | None:
        """The first invariant that does not hold, in words; None if all do. Safe on any contents."""
        return None

    def _mapped_fault(self) -> str | None:
        """As `_fault`, after a load that mapped the file: without what would read the large arrays, whose contents
        must then be harmless to every kernel, whatever they are."""
        return self._fault()

    def _owned(self) -> Iterable[np.ndarray]:
        """Every array this structure holds memory for."""
        return self._to_arrays().values()

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(array.nbytes for array in self._owned())

    def check(self) -> None:
        """Walk the arrays; AssertionError names the first broken invariant. O(size)."""
        fault = self._fault()
        if fault is not None:
            raise AssertionError(fault)

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` as .npz. Whatever happens meanwhile, the file there is a whole one, old or new."""
        files.write(path, type(self).__name__, self._version, self._to_arrays())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Self":
        """Read what `save` wrote. ValueError if the file is damaged, of another kind or of a newer version."""
        return cls._load(path)

    @classmethod
    def _load(cls, path: str | os.PathLike, mmap: bool = False, **given: Any) -> "Self":
        """As `load`, with the callables `given`. A subclass whose `_mapped_fault` allows it may offer `mmap`."""
        return cls._restored(files.read(path, cls.__name__, cls._version, mmap), os.fspath(path), mmap, **given)

    @classmethod
    def _restored(cls, arrays: files.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        """From arrays that nobody has examined yet, found at `where`; large ones are not read if `mmap`."""
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
        return {name: value for name, value in self.__dict__.items() if name not in self._unpickled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in self._unpickled:
            setattr(self, name, threading.RLock())
