"""Mixed ints, floats and strings to and from arrays: the kinds of values that files may hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import arguments, files

SCHEMA: files.Schema = {
    "kinds": (np.uint8, 1),
    "numbers": (np.int64, 1),
    "data": (np.uint8, 1),
    "offsets": (np.int64, 1),
}
NONE, INT, FLOAT, STR = 0, 1, 2, 3


def to_arrays(values: Sequence[Any]) -> files.Arrays:
    """Return n values, each None, an int of 64 bits, a float or a str, as the arrays in SCHEMA. O(total).

    kinds (n,); numbers (n,), ints or the bits of float64; data and offsets as `arguments.packed_strings`
    returns them. Raises TypeError for other values.
    """
    kinds = np.fromiter(map(_kind, values), np.uint8, len(values))
    numbers = np.zeros(len(values), np.int64)
    numbers[kinds == INT] = [value for value, kind in zip(values, kinds, strict=True) if kind == INT]
    numbers.view(np.float64)[kinds == FLOAT] = [
        value for value, kind in zip(values, kinds, strict=True) if kind == FLOAT
    ]
    texts = [value if kind == STR else "" for value, kind in zip(values, kinds, strict=True)]
    data, offsets = arguments.packed_strings("values", texts)
    return {"kinds": kinds, "numbers": numbers, "data": data, "offsets": offsets}


def from_arrays(arrays: files.Arrays) -> np.ndarray:
    """Return the values that `to_arrays` was given, an object array (n,). Numbers are Python's.

    Raises Damaged if the arrays are not a result of `to_arrays`.
    """
    kinds, numbers, data, offsets = (arrays[name] for name in SCHEMA)
    n = len(kinds)
    files.expect(numbers.shape == (n,) and bool((kinds <= STR).all()), "it holds unknown kinds of values")
    steps_up = offsets.shape == (n + 1,) and offsets[0] == 0 and bool((offsets[:-1] <= offsets[1:]).all())
    files.expect(steps_up and offsets[-1] == len(data), "its strings are inconsistent")
    values = np.empty(n, object)
    values[kinds == INT] = numbers[kinds == INT]
    values[kinds == FLOAT] = numbers.view(np.float64)[kinds == FLOAT]
    text, stops = data.tobytes(), offsets.tolist()
    try:
        for at in np.flatnonzero(kinds == STR).tolist():
            values[at] = text[stops[at] : stops[at + 1]].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise files.Damaged(f"damaged: text is not UTF-8 ({error})") from error
    return values


def _kind(value: Any) -> int:
    """Return the kind of a value."""
    if value is None:
        return NONE
    if isinstance(value, str):
        return STR
    if isinstance(value, (float, np.float32, np.float16)):
        return FLOAT
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if arguments.INT64_MIN <= value <= arguments.INT64_MAX:
            return INT
    raise TypeError(f"only int (of 64 bits), float and str values can be saved, got {value!r}")
