"""Checks of arguments, and their conversion to the one type that the kernels are compiled for.

Every function raises TypeError for a wrong type and ValueError for a value out of range; the message names the
argument, the value received and the values allowed. Arrays that a function returns are C-contiguous, aligned and
writable. They are the caller's own array where that is so already, and a copy otherwise.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..kernels import strings as _strings

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def integer(name: str, value: Any, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    """Return the value as an int in low..high. NumPy integers are accepted, bools are not."""
    if type(value) is not int:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        value = int(value)  # before the comparison: some versions of NumPy compare uint64 with int as floats
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {_range(low, high)}, got {_shown(value)}")
    return value


def integers(name: str, values: Any, low: int = INT64_MIN, high: int = INT64_MAX) -> np.ndarray:
    """Return the values, any integer array or sequence of ints, as an int64 array (n,) of values in low..high.

    Arrays of bools are refused, empty ones too. A bool among the ints of a list is 0 or 1, as in NumPy.
    """
    array = _as_array(name, values)
    if array.ndim != 1 or array.dtype == bool or (array.size and array.dtype.kind not in "iu"):
        _refuse_too_large(name, values, array, (int, np.integer))
        raise TypeError(f"{name} must be integers of shape (n,), got {array.dtype} of shape {array.shape}")
    if array.size and (low > INT64_MIN or high < INT64_MAX or array.dtype == np.uint64):
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest > high:
            raise ValueError(f"{name} must lie in {_range(low, high)}, got {smallest}..{largest}")
    return _ready(array, np.int64)


def matrix(name: str, values: Any, rows: int) -> np.ndarray:
    """Return the values, any integer array of that many rows, as an int64 array (rows, c)."""
    array = _as_array(name, values)
    if array.ndim != 2 or len(array) != rows:
        raise ValueError(f"{name} must have shape ({rows}, c), got {array.shape}")
    return integers(name, array.ravel()).reshape(array.shape)


def real(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return the value as a float in low..high, never NaN. Python and NumPy numbers are accepted, bools are not."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        value = float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must fit a float64, got an integer of {value.bit_length()} bits") from error
    if not low <= value <= high:  # true for NaN as well
        raise ValueError(f"{name} must lie in {_range(low, high)}, got {value}")
    return value


def reals(name: str, values: Any, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """Return the values, any array or sequence of numbers, as a float64 array (n,) in low..high without NaN."""
    array = _as_array(name, values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        _refuse_too_large(name, values, array, (int, float, np.integer, np.floating))
        raise TypeError(f"{name} must be numbers of shape (n,), got {array.dtype} of shape {array.shape}")
    array = _ready(array, np.float64)
    if array.size and not (low <= array.min() and array.max() <= high):  # true for NaN as well
        raise ValueError(f"{name} must lie in {_range(low, high)} and not be NaN, got {array.min()}..{array.max()}")
    return array


def vectors(name: str, values: Any, dim: int) -> np.ndarray:
    """Return the values as a float32 array (n, dim). All must be finite in float32."""
    array = _as_array(name, values)
    if array.size == 0 and array.ndim <= 2 and 0 in array.shape[:1]:
        return np.empty((0, dim), np.float32)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{name} must have shape (n, {dim}), got {array.shape}")
    if array.dtype == np.float32:
        array = _ready(array, np.float32)
    else:
        with np.errstate(over="ignore"):  # an overflow gives an infinity, refused below
            array = _ready(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite in float32, row {int(np.argmin(np.isfinite(array).all(1)))} is not")
    return array


def vector(name: str, values: Any, dim: int) -> np.ndarray:
    """Return the values as a float32 array (dim,). All must be finite in float32."""
    if type(values) is np.ndarray and values.dtype == np.float32 and values.shape == (dim,) and values.flags.carray:
        if math.isfinite(values.dot(values)):  # the common case; large values may overflow here
            return values
    array = _as_array(name, values)
    if array.ndim != 1 or array.shape[0] != dim:
        raise ValueError(f"{name} must have shape ({dim},), got {array.shape}")
    return vectors(name, array[None], dim)[0]


def text(name: str, value: Any) -> str:
    """Return the value, a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    return value


def encodable(name: str, texts: Sequence[str]) -> None:
    """Raise ValueError if one of the texts, each a str, holds a lone surrogate, which UTF-8 cannot encode."""
    for text in texts:
        if not str.isascii(text):
            try:
                str.encode(text)
            except UnicodeEncodeError as error:
                raise ValueError(f"{name} must be encodable as UTF-8: {error}") from error


def sequence(name: str, values: Any, of: str = "str") -> None:
    """Raise TypeError unless `values` is a sequence or an array (n,). A str is not. The items are not checked. O(1).

    `of` names the items in the message.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence of {of}, got {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TypeError(f"{name} must have shape (n,), got {values.shape}")


def strings(name: str, values: Any, optional: bool = False, utf8: bool = False) -> list:
    """Return a sequence of str as a new list.

    With `optional` the items may be None, too. With `utf8` a lone surrogate is a ValueError (see `encodable`).
    """
    values = _as_list(name, values)
    allowed = (str, type(None)) if optional else str
    others = sorted(kind.__name__ for kind in set(map(type, values)) if not issubclass(kind, allowed))
    if others:
        raise TypeError(f"{name} must hold only str, got {' and '.join(others)}")
    if utf8:
        encodable(name, values if not optional else [value for value in values if value is not None])
    return values


def packed_strings(name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of a sequence of str, end to end, and the offsets of the strings. O(total).

    The arrays are uint8 (total,) and int64 (n + 1,): string i is data[offsets[i]:offsets[i + 1]]. Lone
    surrogates are encoded as three bytes each, so that any str has an encoding.
    """
    values = _as_list(name, values)
    try:
        joined = "".join(values)
    except TypeError as error:
        raise TypeError(f"{name} must hold only str: {error}") from error
    offsets = np.zeros(len(values) + 1, np.int64)
    offsets[1:] = np.fromiter(map(str.__len__, values), np.int64, len(values))
    np.cumsum(offsets, out=offsets)
    data = np.frombuffer(bytearray(joined, "utf-8", "surrogatepass"), np.uint8)
    if data.size != len(joined):
        _strings.characters_to_bytes(data, offsets)
    return data, offsets


def one_of(name: str, value: Any, choices: Collection) -> Any:
    """Return the value, which must be one of `choices`."""
    if not isinstance(value, (str, type(None))) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def same_length(**arrays: Sequence | np.ndarray) -> None:
    """Raise ValueError unless all the named arguments have the same length."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError("lengths must match, got " + ", ".join(f"{name} of {n}" for name, n in lengths.items()))


def _as_list(name: str, values: Any) -> list:
    """Return a new list of the items, which no other thread can change."""
    sequence(name, values)
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _ready(array: np.ndarray, dtype: type) -> np.ndarray:
    """Return the array C-contiguous, aligned and writable: what the kernels are compiled for. Copies only if needed."""
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.behaved else array.copy()


def _refuse_too_large(name: str, values: Any, array: np.ndarray, kinds: tuple[type, ...]) -> None:
    """Raise ValueError if all values are numbers, but too large for a NumPy array of numbers."""
    if array.ndim == 1 and not isinstance(values, np.ndarray):
        if all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
            raise ValueError(f"{name} must fit 64 bits each, got {_shown(max(values, key=abs))}")


def _shown(value: Any) -> str:
    """Return the value as text, a huge integer by its size (Python refuses to print it)."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return str(value)


def _as_array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, OverflowError) as error:  # rows of different lengths, or an int of more than 64 bits
        raise ValueError(f"{name} cannot be converted to an array: {error}") from error


def _range(low: float, high: float) -> str:
    names = {INT64_MIN: "-2**63", INT64_MAX: "2**63-1", 2**31 - 1: "2**31-1"}
    return f"{names.get(low, low)}..{names.get(high, high)}"  # type: ignore[call-overload]
