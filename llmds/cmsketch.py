"""How often items came, in bounded memory: never too low, seldom much too high."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from . import arguments, storage
from .direct import Direct
from .growing import chunks
from .kernels import sketch as kernels

# Strings packed at a time: what it takes stays in the processor's cache, which halves the time of packing.
_STRINGS = 1 << 12
_direct = Direct(kernels)


class CountMinSketch(storage.Structure):
    """Frequencies of items in `depth` rows of `width` counters (Cormode and Muthukrishnan 2005).

    An estimate is never below the true count, and exceeds it by more than `get_error_bound()`, that is
    e / width * total count, with probability at most exp(-depth). Updates are conservative (Estan and Varghese
    2002), which keeps most estimates far closer than that. Counts saturate at 2**63 - 1.

    An item is a str or an int64; 5 and "5" are two items. The same `seed` gives the same counters in
    every process. Memory: 8 * (width * depth + 8) bytes, allocated once.

    A single call is atomic under the GIL: threads may share a sketch.

    >>> sketch = CountMinSketch()
    >>> sketch.add("what is a heap?"); sketch.add("what is a heap?", 2); sketch.add(7)
    >>> sketch.estimate("what is a heap?"), sketch.estimate(7), sketch.estimate("7")
    (3, 1, 0)
    >>> sketch.is_hot("what is a heap?", 3), sketch.get_total_count()
    (True, 4)
    """

    _schema: ClassVar[storage.Schema] = {"sketch": (np.int64, 1)}
    _unpickled: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int = 2048, depth: int = 4, *, seed: int = 0):
        width = arguments.integer("width", width, 1, kernels.MAX_WIDTH)
        depth = arguments.integer("depth", depth, 1, kernels.MAX_DEPTH)
        seed = arguments.integer("seed", seed)
        self._sketch = np.zeros(kernels.HEAD + width * depth, np.int64)
        self._sketch[[kernels.WIDTH, kernels.DEPTH, kernels.SEED]] = width, depth, seed

    def add(self, item: str | int, count: int = 1) -> None:
        """Count an item `count` times. O(depth), and the length of a str. ValueError if the count is negative."""
        if type(count) is not int or not 0 <= count <= kernels.MOST:
            count = arguments.integer("count", count, 0)
        if type(item) is str:
            _direct.add_string(self._sketch, item.encode("utf-8", "surrogatepass"), count)
        else:
            item = _item(item)
            if isinstance(item, str):
                _direct.add_string(self._sketch, item.encode("utf-8", "surrogatepass"), count)
            else:
                _direct.add_int(self._sketch, item, count)

    def estimate(self, item: str | int) -> int:
        """How often the item came, or more. O(depth), and the length of a str."""
        if type(item) is not str:
            item = _item(item)
            if not isinstance(item, str):
                return _direct.estimate_int(self._sketch, item)
        return _direct.estimate_string(self._sketch, item.encode("utf-8", "surrogatepass"))

    def is_hot(self, item: str | int, threshold: int) -> bool:
        """Whether the estimate is `threshold` or more. O(depth), and the length of a str."""
        threshold = arguments.integer("threshold", threshold)
        return self.estimate(item) >= threshold

    def get_error_bound(self) -> float:
        """e / width * total count: an estimate is too high by more than this with probability at most exp(-depth)."""
        return math.e / self.width * self.get_total_count()

    def get_total_count(self) -> int:
        """The sum of all counts added."""
        return int(self._sketch[kernels.TOTAL])

    def reset(self) -> None:
        """Count from 0 again. O(width * depth)."""
        kernels.reset(self._sketch)

    def merge(self, other: "CountMinSketch") -> None:
        """Add what `other` counted, which stays as it is. O(width * depth).

        Estimates stay upper bounds; they may be higher than if one sketch had seen everything, because its
        conservative updates would have known more. ValueError unless width, depth and seed are the same.
        """
        if not isinstance(other, CountMinSketch):
            raise TypeError(f"other must be a CountMinSketch, got {type(other).__name__}")
        ours, theirs = (self.width, self.depth, self.seed), (other.width, other.depth, other.seed)
        if ours != theirs:
            raise ValueError(f"(width, depth, seed) of other must be {ours}, got {theirs}")
        kernels.merge(self._sketch, other._sketch)

    def add_many(self, items: Any, counts: Any = 1) -> None:
        """As `add` for m items in order: a sequence of str, or integers (m,); `counts` an int, or integers (m,).

        O(m depth), and the length of the strings. ValueError or TypeError, nothing being counted, if any count is
        negative, lengths differ, or items are neither all str nor all int64.
        """
        n, pieces = _pieces(items)
        if isinstance(counts, (int, np.integer)):
            counts = np.full(1, arguments.integer("counts", counts, 0), np.int64)
        else:
            counts = arguments.integers("counts", counts, 0)
            arguments.same_length(items=range(n), counts=counts)
        for part, arrays in pieces:
            some = counts if len(counts) == 1 else counts[part]
            add: Any = kernels.add_strings if len(arrays) == 2 else kernels.add_ints
            add(self._sketch, *arrays, some)

    def estimate_many(self, items: Any) -> np.ndarray:
        """As `estimate` for m items: a sequence of str, or integers (m,). int64 (m,). O(m depth)."""
        n, pieces = _pieces(items)
        estimates = np.empty(n, np.int64)
        for part, arrays in pieces:
            estimate: Any = kernels.estimate_strings if len(arrays) == 2 else kernels.estimate_ints
            estimate(self._sketch, *arrays, estimates[part])
        return estimates

    @property
    def width(self) -> int:
        """Counters in a row."""
        return int(self._sketch[kernels.WIDTH])

    @property
    def depth(self) -> int:
        """Rows of counters."""
        return int(self._sketch[kernels.DEPTH])

    @property
    def seed(self) -> int:
        """What the hashes depend on, besides the items."""
        return int(self._sketch[kernels.SEED])

    def stats(self) -> dict[str, Any]:
        """`width`, `depth`, `seed`, `total_count`, `error_bound`, and `error_probability`, exp(-depth)."""
        return {
            "width": self.width,
            "depth": self.depth,
            "seed": self.seed,
            "total_count": self.get_total_count(),
            "error_bound": self.get_error_bound(),
            "error_probability": math.exp(-self.depth),
        }

    def __repr__(self) -> str:
        shape = f"width={self.width}, depth={self.depth}, seed={self.seed}"
        return f"CountMinSketch({shape}, {self.get_total_count()} counted)"

    def _to_arrays(self) -> storage.Arrays:
        return {"sketch": self._sketch}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "CountMinSketch":
        self = cls.__new__(cls)
        self._sketch = arrays["sketch"]
        return self

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._sketch))
        if fault == -2:
            return "width, depth, total count and length do not fit one another"
        return None if fault == -1 else f"row {fault} holds a negative counter, or more than was counted"


def _item(item: Any) -> str | int:
    """A str or an int64, checked."""
    if isinstance(item, str):
        return item
    if not isinstance(item, (int, np.integer)):
        raise TypeError(f"item must be a str or an int, got {item!r}")
    return arguments.integer("item", item)


def _pieces(items: Any) -> tuple[int, list[tuple[slice, tuple[np.ndarray, ...]]]]:
    """How many items, and slices short enough for one kernel call with their (data, offsets) or (int64 items,)."""
    if isinstance(items, np.ndarray) and items.dtype.kind not in "biuf":
        items = items.tolist()
    if isinstance(items, np.ndarray):
        strings = False
    elif isinstance(items, Sequence) and not isinstance(items, (str, bytes)):
        strings = len(items) > 0 and isinstance(items[0], str)
    else:
        raise TypeError(f"items must be a sequence of str, or integers, got {type(items).__name__}")
    if strings:
        parts = chunks(len(items), _STRINGS)
        return len(items), [(part, arguments.packed_strings("items", items[part])) for part in parts]
    items = arguments.integers("items", items)
    return len(items), [(part, (items[part],)) for part in chunks(len(items))]
