"""What callers hand in, checked and brought to the one type the kernels are compiled for.

Every function names the argument, what came and what is allowed. TypeError for a wrong type,
ValueError for a value out of range.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..kernels import strings as _strings

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def integer(name: str, value: Any, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    """An int in low..high. NumPy integers are accepted, bools are not."""
    if type(value) is not int:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        value = int(value)  # before the comparison: some versions of NumPy compare uint64 with int as floats
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {_range(low, high)}, got {_shown(value)}")
    return value


def integers(name: str, values: Any, low: int = INT64_MIN, high: int = INT64_MAX) -> np.ndarray:
    """A C-contiguous, writable int64 array (n,) of values in low..high; `values` is any integer array or sequence.

    It may be the caller's own array. A bool among the ints of a list passes for 0 or 1, as in NumPy.
    """
    array = _as_array(name, values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        _refuse_too_large(name, values, array, (int, np.integer))
        raise TypeError(f"{name} must be integers of shape (n,), got {array.dtype} of shape {array.shape}")
    if array.size and (low > INT64_MIN or high < INT64_MAX or array.dtype == np.uint64):
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest > high:
            raise ValueError(f"{name} must lie in {_range(low, high)}, got {smallest}..{largest}")
    return _ready(array, np.int64)


def matrix(name: str, values: Any, rows: int) -> np.ndarray:
    """A C-contiguous, writable int64 array (rows, c); `values` is any integer array."""
    array = _as_array(name, values)
    if array.ndim != 2 or len(array) != rows:
        raise ValueError(f"{name} must have shape ({rows}, c), got {array.shape}")
    return integers(name, array.ravel()).reshape(array.shape)


def real(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A float in low..high, never NaN. Python and NumPy numbers are accepted, bools are not."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        value = float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must fit a float64, got an integer of {value.bit_length()} bits") from error
    if not low <= value <= high:  # NaN fails this too
        raise ValueError(f"{name} must lie in {_range(low, high)}, got {value}")
    return value


def reals(name: str, values: Any, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """A C-contiguous, writable float64 array (n,) of values in low..high, none of them NaN."""
    array = _as_array(name, values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        _refuse_too_large(name, values, array, (int, float, np.integer, np.floating))
        raise TypeError(f"{name} must be numbers of shape (n,), got {array.dtype} of shape {array.shape}")
    array = _ready(array, np.float64)
    if array.size and not (low <= array.min() and array.max() <= high):  # NaN fails this too
        raise ValueError(f"{name} must lie in {_range(low, high)} and hold no NaN, got {array.min()}..{array.max()}")
    return array


def vectors(name: str, values: Any, dim: int) -> np.ndarray:
    """A C-contiguous, writable float32 array (n, dim) of finite values; float64 that overflows float32 is refused."""
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
        with np.errstate(over="ignore"):  # an overflow becomes the infinity that is refused below
            array = _ready(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite in float32, row {int(np.argmin(np.isfinite(array).all(1)))} is not")
    return array


def vector(name: str, values: Any, dim: int) -> np.ndarray:
    """A C-contiguous, writable float32 array (dim,) of finite values."""
    if type(values) is np.ndarray and values.dtype == np.float32 and values.shape == (dim,) and values.flags.carray:
        if math.isfinite(values.dot(values)):  # the common case; what is too large for it takes the long way
            return values
    array = _as_array(name, values)
    if array.ndim != 1 or array.shape[0] != dim:
        raise ValueError(f"{name} must have shape ({dim},), got {array.shape}")
    return vectors(name, array[None], dim)[0]


def text(name: str, value: Any) -> str:
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    return value


def encodable(name: str, texts: Sequence[str]) -> None:
    """ValueError if one of texts, each a str, holds a lone surrogate, which has no UTF-8."""
    for text in texts:
        if not str.isascii(text):
            try:
                str.encode(text)
            except UnicodeEncodeError as error:
                raise ValueError(f"{name} must be encodable as UTF-8: {error}") from error


def strings(name: str, values: Any, optional: bool = False) -> list:
    """A list of str from a sequence of them (and of None, if `optional`). A lone str is refused."""
    values = _listed(name, values)
    allowed = (str, type(None)) if optional else str
    others = sorted(kind.__name__ for kind in set(map(type, values)) if not issubclass(kind, allowed))
    if others:
        raise TypeError(f"{name} must hold str alone, got {' and '.join(others)}")
    return values


def packed_strings(name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of a sequence of str, end to end, and where each begins and ends.

    Returns uint8 (total,) and int64 (n + 1,): string i is data[offsets[i]:offsets[i + 1]]. Lone
    surrogates are kept (as three bytes each), so that any str has an encoding. O(total), no loop
    in Python.
    """
    values = _listed(name, values)
    try:
        joined = "".join(values)
    except TypeError as error:
        raise TypeError(f"{name} must hold str alone: {error}") from error
    offsets = np.zeros(len(values) + 1, np.int64)
    offsets[1:] = np.fromiter(map(str.__len__, values), np.int64, len(values))
    np.cumsum(offsets, out=offsets)
    data = np.frombuffer(bytearray(joined, "utf-8", "surrogatepass"), np.uint8)
    if data.size != len(joined):
        _strings.characters_to_bytes(data, offsets)
    return data, offsets


def one_of(name: str, value: Any, choices: Collection) -> Any:
    """`value`, which must be one of `choices`."""
    if not isinstance(value, (str, type(None))) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def same_length(**arrays: Sequence | np.ndarray) -> None:
    """ValueError unless all the named arguments have one length."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError("lengths must match, got " + ", ".join(f"{name} of {n}" for name, n in lengths.items()))


def _listed(name: str, values: Any) -> list:
    """A list of its own from a sequence or a 1-d array, so that nobody else changes it meanwhile."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence of str, got {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TypeError(f"{name} must be of shape (n,), got {values.shape}")
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _ready(array: np.ndarray, dtype: type) -> np.ndarray:
    """`array` as the kernels are compiled for it: C-contiguous, aligned and writable; copied only where it must be."""
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.behaved else array.copy()


def _refuse_too_large(name: str, values: Any, array: np.ndarray, kinds: tuple[type, ...]) -> None:
    """ValueError if `values` are numbers after all, of which NumPy made no such array because they are too large."""
    if array.ndim == 1 and not isinstance(values, np.ndarray):
        if all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
            raise ValueError(f"{name} must fit 64 bits each, got {_shown(max(values, key=abs))}")


def _shown(value: Any) -> str:
    """The value as text, a huge integer by its size (Python refuses to print it)."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return str(value)


def _as_array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, OverflowError) as error:  # ragged, or an int of more than 64 bits
        raise ValueError(f"{name} is no array: {error}") from error


def _range(low: float, high: float) -> str:
    names = {INT64_MIN: "-2**63", INT64_MAX: "2**63-1", 2**31 - 1: "2**31-1"}
    return f"{names.get(low, low)}..{names.get(high, high)}"  # type: ignore[call-overload]
