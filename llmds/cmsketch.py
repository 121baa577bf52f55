"""Count-Min Sketch: approximate counts of many items in bounded memory, never too low."""

import math
import threading
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .base import arguments, files
from .base.arena import chunks
from .base.fast_calls import Direct
from .base.structure import Structure
from .kernels import table
from .kernels.cmsketch import counters as kernels
from .kernels.cmsketch import heavy_hitters as heavy

if TYPE_CHECKING:
    from typing_extensions import Self

# Strings packed at a time: they fit the processor's cache, which halves the time of packing.
_STRINGS = 1 << 12
_MOST, _MOST_WATCHED = int(kernels.MOST), 2**24
_direct, _heavy = Direct(kernels), Direct(heavy)
# The arrays of all sketches that watch nothing: an arena without rows.
_NOTHING = np.zeros(table.HEAD + 1, np.int64), np.empty(0, np.uint8)
_NOTHING[0][[table.COLUMNS, table.FREE, table.HEAD]] = heavy.COLUMNS, -1, -1


class HeavyHitter(NamedTuple):
    """A frequent item, added at most `estimate` times and at least `estimate - error` times."""

    item: str | int
    estimate: int
    error: int


class CountMinSketch(Structure):
    """Approximate counts of items in `depth` rows of `width` counters (Cormode and Muthukrishnan 2005).

    An estimate is never below the true count, and exceeds it by more than `get_error_bound()` with probability at most
    exp(-depth). An item is a str or an int64; 5 and "5" are two items.

    Parameters
    ----------
    width
        Number of counters per row.
    depth
        Number of rows, 1..64.
    seed
        Seed of the hashes, an int64. The same seed gives the same counters in every process.
    heavy_hitters
        Number of items to watch, 0..2**24: the most frequent ones, which `top_k` returns. Every item whose count
        exceeds the total count over `heavy_hitters` is among them.

    Notes
    -----
    Updates are conservative (Estan and Varghese 2002), which keeps most estimates far closer than the bound. Counts
    saturate at 2**63 - 1. Memory: 8 * (width * depth + 8) bytes, allocated once.

    Items are watched by Space-Saving (Metwally, Agrawal and El Abbadi 2005), which adds O(log heavy_hitters) to each
    item added, and takes 72 to 80 bytes for each item watched, and their strings (16 KiB or more).

    A single call is atomic under the GIL: threads may share a sketch.

    Examples
    --------
    >>> sketch = CountMinSketch()
    >>> sketch.add("what is a heap?"); sketch.add("what is a heap?", 2); sketch.add(7)
    >>> sketch.estimate("what is a heap?"), sketch.estimate(7), sketch.estimate("7")
    (3, 1, 0)
    >>> sketch.is_hot("what is a heap?", 3), sketch.get_total_count()
    (True, 4)
    >>> sketch = CountMinSketch(heavy_hitters=10)
    >>> sketch.add_many(["heap", "page", "heap", "cache", "heap", "page"])
    >>> sketch.top_k(2)
    [HeavyHitter(item='heap', estimate=3, error=0), HeavyHitter(item='page', estimate=2, error=0)]
    """

    # The watched items lie in _heavy and _texts (see kernels.cmsketch.heavy_hitters), which are not saved where nothing
    # is watched. A change is one kernel call; the lock is for replacing the two arrays.
    _schema: ClassVar[files.Schema] = {"sketch": (np.int64, 1), "heavy": (np.int64, 1), "texts": (np.uint8, 1)}
    _version: ClassVar[int] = 2

    def __init__(self, width: int = 2048, depth: int = 4, *, seed: int = 0, heavy_hitters: int = 0):
        width = arguments.integer("width", width, 1, kernels.MAX_WIDTH)
        depth = arguments.integer("depth", depth, 1, kernels.MAX_DEPTH)
        seed = arguments.integer("seed", seed)
        watched = arguments.integer("heavy_hitters", heavy_hitters, 0, _MOST_WATCHED)
        self._sketch = np.zeros(kernels.HEAD + width * depth, np.int64)
        self._sketch[[kernels.WIDTH, kernels.DEPTH, kernels.SEED]] = width, depth, seed
        self._assemble(*(heavy.new(watched) if watched else _NOTHING))

    def _assemble(self, watched: np.ndarray, texts: np.ndarray) -> None:
        self._heavy, self._texts, self._watches = watched, texts, bool(watched[table.CAPACITY])
        self._lock = threading.RLock()

    @property
    def arrays(self) -> heavy.Arrays:
        """The counters and the watched items, as `Arrays(sketch, heavy, texts)`: int64, int64 and uint8, each (n,).

        `llmds.kernels.cmsketch.counters` describes `sketch`, `llmds.kernels.cmsketch.heavy_hitters` the other two,
        which are empty unless `heavy_hitters` is above 0; if it is, add items with the functions of that module only.
        The arrays are the sketch's own and writable, for kernels and your own `@njit` functions. `sketch` is never
        replaced; `heavy` is by `merge`, and `texts` by `merge` and when it grows: kernels return FULL for stale
        ones. Read the property again before each loop. O(1).
        """
        with self._lock:
            return heavy.Arrays(self._sketch, self._heavy, self._texts)

    def add(self, item: str | int, count: int = 1) -> None:
        """Add to the count of an item. O(depth + length of a str).

        Parameters
        ----------
        item
            A str or an int64.
        count
            Number added, an int64 of 0 or more.

        Raises
        ------
        ValueError
            The count is negative.
        """
        if type(count) is not int or not 0 <= count <= _MOST:
            count = arguments.integer("count", count, 0)
        if type(item) is not str:
            item = _item(item)
            if not isinstance(item, str):
                if not self._watches:
                    return _direct.add_int(self._sketch, item, count)
                while _heavy.add_int(self._sketch, watched := self._heavy, texts := self._texts, item, count):
                    self._make_room(watched, texts, 0)
                return None
        data = item.encode("utf-8", "surrogatepass")
        if not self._watches:
            return _direct.add_string(self._sketch, data, count)
        while _heavy.add_string(self._sketch, watched := self._heavy, texts := self._texts, data, count):
            self._make_room(watched, texts, len(data))
        return None

    def estimate(self, item: str | int) -> int:
        """Return the estimated count of an item, never below the true count. O(depth + length of a str)."""
        if type(item) is not str:
            item = _item(item)
            if not isinstance(item, str):
                return _direct.estimate_int(self._sketch, item)
        return _direct.estimate_string(self._sketch, item.encode("utf-8", "surrogatepass"))

    def is_hot(self, item: str | int, threshold: int) -> bool:
        """Return whether the estimated count of an item is `threshold` or more. O(depth + length of a str)."""
        threshold = arguments.integer("threshold", threshold)
        return self.estimate(item) >= threshold

    def get_error_bound(self) -> float:
        """Return e / width * total count. O(1).

        An estimate is too high by more than this with probability at most exp(-depth).
        """
        return math.e / self.width * self.get_total_count()

    def get_total_count(self) -> int:
        """Return the sum of all counts added. O(1)."""
        return int(self._sketch[kernels.TOTAL])

    def top_k(self, k: int | None = None) -> list[HeavyHitter]:
        """Return the k most frequent items, the most frequent first. O(heavy_hitters (depth + log heavy_hitters)).

        Parameters
        ----------
        k
            Number of items, 0 or more; None for all that are watched.

        Returns
        -------
        list of HeavyHitter
            An item was added at most `estimate` times and at least `estimate - error` times, both as reduced by
            `decay`.

        Raises
        ------
        ValueError
            The sketch was made without `heavy_hitters`.
        """
        if not self._watches:
            raise ValueError("top_k needs a sketch made with heavy_hitters > 0")
        k = len(self._heavy) if k is None else arguments.integer("k", k, 0)
        with self._lock:
            records, texts = heavy.listed(self._sketch, self._heavy, self._texts)
        uppers, errors = records[:, heavy.UPPER], records[:, heavy.ABOVE]
        best = np.lexsort((records[:, heavy.HASH], errors, -uppers))
        return _shown(records[best[uppers[best] > 0][:k]], texts)

    def decay(self) -> None:
        """Halve all counts, rounding down, so that recent items weigh more. O(width * depth).

        Estimates stay upper bounds of the halved counts; the total is halved too, unless it has saturated.

        Notes
        -----
        The ageing of TinyLFU (Einziger, Friedman and Manes 2017), which calls it after a fixed number of additions.
        """
        with self._lock:
            heavy.decay(self._sketch, self._heavy)

    def reset(self) -> None:
        """Set all counts to 0. O(width * depth)."""
        with self._lock:
            heavy.reset(self._sketch, self._heavy)

    def merge(self, other: "CountMinSketch") -> None:
        """Add the counts of another sketch, which does not change. O(width * depth).

        Estimates stay upper bounds. They may be higher than in one sketch of all items, where conservative
        updates are tighter, and so may the errors of `top_k`, whose guarantee holds for both sketches together
        (Cafaro, Pulimeno and Tempesta 2016).

        Parameters
        ----------
        other
            A sketch with the same width, depth, seed and heavy_hitters.

        Raises
        ------
        ValueError
            The settings differ.
        """
        if not isinstance(other, CountMinSketch):
            raise TypeError(f"other must be a CountMinSketch, got {type(other).__name__}")
        ours, theirs = self._settings(), other._settings()
        if ours != theirs:
            raise ValueError(f"(width, depth, seed, heavy_hitters) of other must be {ours}, got {theirs}")
        with other._lock:  # copies, so that two sketches that are merged into each other cannot deadlock
            sketch, watched, texts = heavy.copied(other._sketch, other._heavy, other._texts)
        with self._lock:
            if self._watches:
                self._heavy, self._texts = heavy.merged(self._heavy, self._texts, watched, texts)
            kernels.merge(self._sketch, sketch)

    def add_many(self, items: Any, counts: Any = 1) -> None:
        """Add to the counts of many items in order, as `add` does. O(m depth + length of the strings).

        Parameters
        ----------
        items
            m items: a sequence of str, or integers (m,).
        counts
            The number added to each, int64 (m,), or one int for all.

        Raises
        ------
        ValueError, TypeError
            A count is negative, the lengths differ, or the items are neither all str nor all int64. Nothing is added
            then.
        """
        n, pieces = _pieces(items)
        if isinstance(counts, (int, np.integer)):
            counts = np.full(1, arguments.integer("counts", counts, 0), np.int64)
        else:
            counts = arguments.integers("counts", counts, 0)
            arguments.same_length(items=range(n), counts=counts)
        for part, arrays in pieces:
            some = counts if len(counts) == 1 else counts[part]
            strings = len(arrays) == 2
            if not self._watches:
                add: Any = kernels.add_strings if strings else kernels.add_ints
                add(self._sketch, *arrays, some)
                continue
            add, start = heavy.add_strings if strings else heavy.add_ints, part.start
            done = 0
            while done < part.stop - start:
                watched, texts = self._heavy, self._texts
                done = int(add(self._sketch, watched, texts, *arrays, some, done))
                if done < part.stop - start:
                    more = int(arrays[1][done + 1] - arrays[1][done]) if strings else 0
                    self._make_room(watched, texts, more)

    def estimate_many(self, items: Any) -> np.ndarray:
        """Return the estimated counts of many items. O(m depth + length of the strings).

        Parameters
        ----------
        items
            m items: a sequence of str, or integers (m,).

        Returns
        -------
        ndarray
            int64 (m,), never below the true counts.
        """
        n, pieces = _pieces(items)
        estimates = np.empty(n, np.int64)
        for part, arrays in pieces:
            estimate: Any = kernels.estimate_strings if len(arrays) == 2 else kernels.estimate_ints
            estimate(self._sketch, *arrays, estimates[part])
        return estimates

    @property
    def width(self) -> int:
        """Number of counters per row."""
        return int(self._sketch[kernels.WIDTH])

    @property
    def depth(self) -> int:
        """Number of rows of counters."""
        return int(self._sketch[kernels.DEPTH])

    @property
    def seed(self) -> int:
        """Seed of the hashes."""
        return int(self._sketch[kernels.SEED])

    @property
    def heavy_hitters(self) -> int:
        """Number of items watched, for `top_k`."""
        return int(self._heavy[table.CAPACITY])

    def stats(self) -> dict[str, Any]:
        """Return settings and error bounds. O(1).

        Returns
        -------
        dict
            `width`, `depth`, `seed`, `heavy_hitters`, `total_count`, `error_bound`; `error_probability`, exp(-depth).
        """
        return {
            "width": self.width,
            "depth": self.depth,
            "seed": self.seed,
            "heavy_hitters": self.heavy_hitters,
            "total_count": self.get_total_count(),
            "error_bound": self.get_error_bound(),
            "error_probability": math.exp(-self.depth),
        }

    def __repr__(self) -> str:
        """Return a short description."""
        shape = f"width={self.width}, depth={self.depth}, seed={self.seed}"
        shape += f", heavy_hitters={self.heavy_hitters}" if self._watches else ""
        return f"CountMinSketch({shape}, {self.get_total_count()} counted)"

    def _settings(self) -> tuple[int, ...]:
        return self.width, self.depth, self.seed, self.heavy_hitters

    def _make_room(self, watched: np.ndarray, texts: np.ndarray, more: int) -> None:
        """Replace `texts` by an array with room for `more` bytes, unless another thread has done it already."""
        with self._lock:
            if self._heavy is watched and self._texts is texts:
                self._texts = heavy.refitted(watched, texts, more)

    def _to_arrays(self) -> files.Arrays:
        with self._lock:
            if not self._watches:
                return {"sketch": self._sketch}
            return {"sketch": self._sketch, "heavy": self._heavy, "texts": self._texts}

    @classmethod
    def _restored(cls, arrays: files.Arrays, where: str, mmap: bool = False, **given: Any) -> "Self":
        if not arrays.keys() & {"heavy", "texts"}:  # as in all files of version 1
            arrays = {**arrays, **dict(zip(("heavy", "texts"), _NOTHING, strict=True))}
        return super()._restored(arrays, where, mmap, **given)

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        watched = arrays["heavy"]
        files.expect(bool(table.well_formed(watched, heavy.COLUMNS)), "the items it watches are inconsistent")
        self = cls.__new__(cls)
        self._sketch = arrays["sketch"]
        self._assemble(watched, arrays["texts"])
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, copied at one moment."""
        with self._lock:
            sketch, watched, texts = heavy.copied(self._sketch, self._heavy, self._texts)
            return {**super().__getstate__(), "_sketch": sketch, "_heavy": watched, "_texts": texts}

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._sketch))
        if fault == -2:
            return "width, depth, total count and length do not fit together"
        if fault != -1:
            return f"row {fault} holds a negative counter, or more than the total count"
        fault = int(heavy.first_fault(self._sketch, self._heavy, self._texts))
        if fault != -1:
            return "the items it watches are damaged"
        try:
            _shown(*heavy.listed(self._sketch, self._heavy, self._texts))
        except UnicodeDecodeError as error:
            return f"an item that it watches is not UTF-8 ({error})"
        return None


def _shown(records: np.ndarray, texts: np.ndarray) -> list[HeavyHitter]:
    """Return the records of `heavy_hitters.listed` with their items."""
    data = texts.tobytes()
    return [
        HeavyHitter(at if size < 0 else data[at : at + size].decode("utf-8", "surrogatepass"), upper, error)
        for _, upper, error, at, size in records.tolist()
    ]


def _item(item: Any) -> str | int:
    """Return the item, a str or an int64, checked."""
    if isinstance(item, str):
        return item
    if not isinstance(item, (int, np.integer)):
        raise TypeError(f"item must be a str or an int, got {item!r}")
    return arguments.integer("item", item)


def _pieces(items: Any) -> tuple[int, list[tuple[slice, tuple[np.ndarray, ...]]]]:
    """Return the number of items, and slices short enough for one kernel call with their arrays.

    The arrays are (data, offsets) of strings, or (int64 items,).
    """
    if isinstance(items, np.ndarray) and items.dtype.kind not in "biuf":
        items = items.tolist()
    arguments.sequence("items", items, "str or int")
    if not isinstance(items, np.ndarray) and len(items) and isinstance(items[0], str):
        parts = chunks(len(items), _STRINGS)
        return len(items), [(part, arguments.packed_strings("items", items[part])) for part in parts]
    items = arguments.integers("items", items)
    return len(items), [(part, (items[part],)) for part in chunks(len(items))]
