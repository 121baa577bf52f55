"""The keys and values of a TokenLRU that its arena cannot hold, because they are Python objects.

    values  object (capacity,)   the value of each row; (key, value) where the key is not an int64; None where the
                                 row is free, or its token count is the value
    rows    dict                 the rows of the keys that are not int64, which the kernels call OUTSIDE

Records are those of `kernels.token_lru`.
"""

from typing import Any

import numpy as np

from ..base import arguments, files, scalars
from ..kernels import table
from ..kernels import token_lru as kernels
from ..kernels.token_lru import ROW, TOKENS, UNKEYED, WHY

MISSING: Any = object()
_FAULTS = {
    kernels.BAD_TABLE: "its rows are damaged",
    kernels.BAD_ORDER: "its order of use is damaged",
    kernels.BAD_TOKENS: "its token counts are damaged",
}


def checked_key(key: Any) -> tuple[Any, bool]:
    """Return the key as it is stored, and whether it is not an int64."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return arguments.integer("key", key), False
    if isinstance(key, (bool, np.bool_)):
        raise TypeError(f"key must not be a bool (a dict takes it for the key {int(key)}), got {key!r}")
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"key must be hashable, got {key!r}") from error
    return key, True


def pairs(values: np.ndarray, records: np.ndarray) -> list[tuple[Any, Any]]:
    """Return (key, value) for records whose values are still in their rows."""
    cells = list(values[records[:, ROW]])
    return [
        cell if why & UNKEYED else (key, cell if weight >= 0 else ~weight)
        for (_, key, weight, why), cell in zip(records.tolist(), cells, strict=True)
    ]


def release(values: np.ndarray, rows: dict, records: np.ndarray) -> list[tuple[int, Any, Any]]:
    """Return (why, key, value) of the records, and drop their values and outside keys."""
    if not len(records):
        return []
    whys, items = records[:, WHY].tolist(), pairs(values, records)
    values[records[:, ROW]] = None
    for why, (key, _) in zip(whys, items, strict=True):
        if why & UNKEYED:
            del rows[key]
    return [(why, *item) for why, item in zip(whys, items, strict=True)]


def resized(values: np.ndarray, capacity: int) -> np.ndarray:
    """Return the values in an array of another capacity. Live rows lie below both."""
    other = np.empty(capacity, object)
    kept = min(capacity, len(values))
    other[:kept] = values[:kept]
    return other


def restored(arena: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, dict]:
    """Return the values of live rows only, and the rows of outside keys, as the arena has them."""
    items = kernels.oldest_first(arena)
    held = items[items[:, TOKENS] >= 0, ROW]
    clean = np.empty(len(values), object)
    clean[held] = values[held]
    return clean, {clean[row][0]: row for row in items[(items[:, WHY] & UNKEYED) != 0, ROW].tolist()}


def snapshot(arena: np.ndarray, values: np.ndarray, rows: dict) -> tuple[np.ndarray, list]:
    """Return a packed copy of the arena, and its values in order. Raises TypeError unless all keys are int64."""
    if rows:
        raise TypeError(f"only int64 keys can be saved, got {next(iter(rows))!r}")
    return kernels.packed(arena.copy()), list(values[kernels.oldest_first(arena)[:, ROW]])


def to_arrays(arena: np.ndarray, cells: list) -> files.Arrays:
    """Return the arrays of a file for a `snapshot`. Raises TypeError for values that files do not hold."""
    _, rows, _ = table.parts(arena)
    if any(cell is None for cell, weight in zip(cells, rows[:, kernels.WEIGHT].tolist(), strict=True) if weight >= 0):
        raise TypeError("only int (of 64 bits), float and str values can be saved, got None")
    return {"arena": arena, **scalars.to_arrays(cells)}


def values_of(arrays: files.Arrays) -> np.ndarray:
    """Return the values of the arrays of a file. Raises Damaged if they do not fit its arena."""
    values = scalars.from_arrays(arrays)
    head, rows, _ = table.parts(arrays["arena"])
    files.expect(head[table.COUNT] == len(rows) == len(values), "it does not have one value for each item")
    counts = rows[:, kernels.WEIGHT] < 0
    files.expect(bool(((arrays["kinds"] == scalars.NONE) == counts).all()), "values lack their kinds")
    return values


def fault(arena: np.ndarray, values: np.ndarray, rows: dict) -> str | None:
    """Return a description of the first broken invariant, None if all hold."""
    broken = int(kernels.first_fault(arena))
    if broken:
        return _FAULTS[broken]
    items = kernels.oldest_first(arena)
    outside = items[(items[:, WHY] & UNKEYED) != 0, ROW].tolist()
    if len(values) != arena[table.CAPACITY]:
        return "values and rows do not match"
    if len(outside) != len(rows) or any(rows.get(_cell_key(values[row])) != row for row in outside):
        return "a key that is not an int64 does not lead to its row"
    idle = np.ones(len(values), np.bool_)
    idle[items[items[:, TOKENS] >= 0, ROW]] = False
    if any(cell is not None for cell in values[idle]):
        return "a free row still refers to a value"
    return None


def _cell_key(cell: Any) -> Any:
    return cell[0] if isinstance(cell, tuple) and len(cell) == 2 else MISSING
