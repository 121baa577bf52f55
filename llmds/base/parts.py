"""Structures inside a structure: their arrays in its file, and their checks."""

from typing import Any, TypeVar

from . import files
from .structure import Structure

Kind = TypeVar("Kind", bound=Structure)


def to_arrays(**parts: Structure) -> files.Arrays:
    """Return the arrays of structures by the names in a file, `part.name`."""
    arrays: files.Arrays = {}
    for name, structure in parts.items():
        arrays |= files.prefixed(name, structure._to_arrays())
    return arrays


def restored(kind: type[Kind], name: str, arrays: files.Arrays, **given: Any) -> Kind:
    """Return the structure that `to_arrays` wrote under that name, checked.

    `given` are the callables that its `load` takes. Raises Damaged if the arrays are wrong.
    """
    return kind._restored(files.part(name, arrays), name, **given)


def fault(**parts: Structure) -> str | None:
    """Return a description of the first broken invariant of the structures, None if all hold."""
    for name, structure in parts.items():
        if (found := structure._fault()) is not None:
            return f"{name}: {found}"
    return None
