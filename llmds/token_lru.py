"""A cache whose room is counted in tokens and whose least recently used items leave first."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments, scalars
from .base import files as storage
from .base.arena import CHUNK, Growing, chunks
from .base.fast_calls import Direct
from .kernels import table
from .kernels import token_lru as kernels
from .kernels.token_lru import ITEM, ROW, TOKENS, UNKEYED, WHY

if TYPE_CHECKING:
    from typing_extensions import Self

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MISSING: Any = object()
_MIN, _MAX, _MOST = arguments.INT64_MIN, arguments.INT64_MAX, kernels.MOST
# Records of what left that a bulk call takes from its kernel at a time: they stay in the processor's cache.
_RECORDS = 1 << 12
_direct = Direct(kernels)


class TokenLRU(Growing, Generic[K, V]):
    """Keys to values, at most `token_budget` (0..2**62) tokens of them; the least recently used leave first.

    `token_of(value)` tells the tokens of a value, an int of 0 or more; it is asked once, when the value is
    put. Recency is exact: `get` and `put` make an item the newest. Every operation is O(1) but for the items
    that leave.

    Keys are any int64 or any other hashable object. A NumPy integer is the int of its value; a bool is
    refused (TypeError), because 1 and True would be one key in a dict and are two here; so an object that
    merely equals an int, as 1.0 does, is a key of its own. An item costs 48 to 56 bytes of capacity, which doubles
    as needed; a key that is no int64 costs a dict entry and a tuple more.

    `on_evict(key, value)` is called for each item that leaves to keep the budget, when the cache is whole
    again, so it may use the cache; if it raises, the call that evicted raises that, its work being done, and the
    items after that one are not told. Threads may share a cache: a call that changes values holds a lock.
    `token_of` and `on_evict` run outside it. A finaliser or signal handler that changes a cache in the middle of a
    change of the same cache, in the same thread, gets RuntimeError.

    >>> cache = TokenLRU(10, len)
    >>> cache.put("a", "four"); cache.put("b", "five5"); cache.get("a")
    'four'
    >>> cache.put(3, "six666")
    >>> cache.items(), cache.total_tokens(), cache.get("b")
    ([('a', 'four'), (3, 'six666')], 10, None)
    """

    _columns = kernels.COLUMNS
    _schema: ClassVar[storage.Schema] = {"arena": (np.int64, 1), **scalars.SCHEMA}

    # Beside the arena: _values holds the value of each row, (key, value) where the key is no int64, None where
    # there is neither. _rows leads from such keys to rows. _next is what kernels.next_row would say.
    #
    # A writer holds the lock, and _changes is odd while it writes; `get` takes no lock (acquiring and
    # releasing one costs 90 to 150 ns) but reads it before and after, and asks again under the lock if that changed.

    def __init__(
        self, token_budget: int, token_of: Callable[[V], int], *, on_evict: Callable[[K, V], object] | None = None
    ):
        budget = arguments.integer("token_budget", token_budget, 0, kernels.MOST)
        super().__init__(kernels.new(16, budget))
        self._assemble(np.empty(16, object), token_of, on_evict)

    def _assemble(self, values: np.ndarray, token_of: Any, on_evict: Any) -> None:
        if not callable(token_of):
            raise TypeError(f"token_of must be callable, got {token_of!r}")
        if on_evict is not None and not callable(on_evict):
            raise TypeError(f"on_evict must be callable or None, got {on_evict!r}")
        self.token_of, self.on_evict = token_of, on_evict
        self.token_budget = int(self._arena[kernels.BUDGET])
        self._values = values
        self._rows: dict[K, int] = {}
        self._left = np.empty((64, kernels.RECORD), np.int64)
        self._next: int = kernels.next_row(self._arena)
        self._changes = 0

    def put(self, key: K, value: V) -> None:
        """Add a value or replace the one under `key`, as the newest; the oldest leave until the budget holds.

        Expected O(1 + items leaving). A value of more tokens than the whole budget is not cached and evicts
        nothing else; the item under that key leaves. TypeError or ValueError, nothing being changed, if
        `token_of` gives anything but an int of 0 or more.
        """
        tokens = self.token_of(value)
        if type(tokens) is not int or not 0 <= tokens <= _MOST:
            huge = type(tokens) is int and tokens > _MOST
            tokens = _MOST + 1 if huge else arguments.integer("token_of(value)", tokens, 0)
        outside = False
        if not (type(key) is int and _MIN <= key <= _MAX):  # type: ignore[operator]
            key, outside = _checked(key)
        fits = tokens <= self.token_budget
        gone: Any = None  # what leaves outlives the lock, so that its finalisers run outside
        self._lock.acquire()  # `with` would cost 60 ns more
        try:
            changes = self._changes
            if changes & 1:
                raise RuntimeError(_REENTERED)
            self._changes = changes + 1
            try:
                code = kernels.MORE
                while code:
                    row = self._next
                    if fits and row >= 0:
                        self._values[row] = (key, value) if outside else value
                    if outside:
                        at = self._rows.get(key, -1)
                        code, n, self._next, first = _direct.put_outside(self._arena, at, tokens, self._left)
                    else:
                        code, n, self._next, first = _direct.put(self._arena, key, tokens, self._left)
                    if n == 1 and not code and self.on_evict is None and not self._rows:  # mostly, without a list
                        gone, self._values[first] = (gone, self._values[first]), None
                    elif n:
                        gone = (gone or []) + self._release(self._left[:n])
                    if code == kernels.FULL:
                        self._make_room(self._arena)
                if outside and fits:
                    self._rows[key] = row
            except BaseException:
                self._mend()
                raise
            finally:
                self._changes = changes + 2
        finally:
            self._lock.release()
        if gone and self.on_evict is not None:
            self._tell(gone)

    def get(self, key: K) -> V | None:
        """The value under `key`, which becomes the newest item; None if there is none. Expected O(1)."""
        if not (type(key) is int and _MIN <= key <= _MAX):  # type: ignore[operator]
            key, outside = _checked(key)
            if outside:
                return self._get_outside(key)
        while True:
            version = self._changes
            values = self._values
            found = _direct.get(self._arena, key)
            if found >= 0:
                try:
                    value = values[found]
                except IndexError:  # the cache was resized after the line that read `values`
                    pass
                else:
                    if version == self._changes and not version & 1:
                        return value
                with self._lock:
                    return self.peek(key)
            if found == kernels.ABSENT:
                return None
            if found != kernels.STALE:
                return cast(V, -3 - found)
            self._await_arena()

    def peek(self, key: K) -> V | None:
        """The value under `key`, or None; recency and hit counts stay as they are. Expected O(1)."""
        value = self._peek(key)
        return None if value is _MISSING else value

    def pop(self, key: K, default: Any = _MISSING) -> V:
        """Take an item out and give its value. Expected O(1).

        An unknown key gives `default`, KeyError where there is none. `on_evict` is not called.
        """
        key, outside = _checked(key)
        with self._changing():
            row = self._rows.get(key, -1) if outside else kernels.row_of(self._arena, key)
            if row >= 0:
                kernels.take(self._arena, row, self._left)
                self._next = kernels.next_row(self._arena)
                ((_, _, value),) = self._release(self._left[:1])
                return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def evict_until_budget(self, target_budget: int) -> list[tuple[K, V]]:
        """Let the oldest items leave until at most `target_budget` tokens stay; they are returned, oldest first.

        O(n) for n items leaving. `on_evict` is called for them too.
        """
        target = arguments.integer("target_budget", target_budget, 0)
        gone: list[tuple[int, K, V]] = []
        left = np.empty((min(len(self), CHUNK) + 2, kernels.RECORD), np.int64)
        code = kernels.MORE
        while code == kernels.MORE:
            with self._changing():
                code, n = kernels.evict(self._arena, target, left)
                self._next = kernels.next_row(self._arena)
                gone += self._release(left[:n])
        self._tell(gone)
        return [(key, value) for _, key, value in gone]

    def total_tokens(self) -> int:
        """Tokens of all items together, at most `token_budget`. O(1)."""
        return int(self._arena[kernels.TOTAL])

    def size(self) -> int:
        """Number of items."""
        return len(self)

    def items(self) -> list[tuple[K, V]]:
        """All (key, value), the least recently used first. O(n). Recency stays as it is."""
        with self._lock:
            return self._pairs(kernels.oldest_first(self._arena))

    def clear(self) -> None:
        """Take everything out and count hits, misses and evictions from 0; capacity is kept. O(capacity).

        `on_evict` is not called.
        """
        with self._changing():
            gone = self._values, self._rows  # outlives the lock, as in `put`
            kernels.clear(self._arena)
            self._values, self._rows = np.empty(len(self._values), object), {}
            self._next = kernels.next_row(self._arena)
        del gone

    def put_many(self, keys: ArrayLike, tokens: ArrayLike) -> np.ndarray:
        """As `put` for keys int64 (m,) whose values are their token counts, tokens int64 (m,), in order.

        `get` of such a key gives the count, an int; `token_of` is not asked. Returns the int64 keys that left,
        int64 (e,), in the order they did (a key that came back may be among them, and leave again); where items with
        other keys leave, `on_evict` alone tells. ValueError, nothing being changed, if a count is negative or the
        lengths differ. Expected O(m).
        """
        keys, tokens = arguments.integers("keys", keys), arguments.integers("tokens", tokens, 0)
        arguments.same_length(keys=keys, tokens=tokens)
        evicted, gone = [np.empty(0, np.int64)], list[tuple[int, K, V]]()
        records = np.empty((min(len(keys), _RECORDS) + 2, kernels.RECORD), np.int64)
        for part in chunks(len(keys)):
            start, some_keys, some_tokens = 0, keys[part], tokens[part]
            while start < len(some_keys):
                with self._changing():
                    code, n, start = kernels.put_many(self._arena, some_keys, some_tokens, start, records)
                    self._next = kernels.next_row(self._arena)
                    left = records[:n]
                    evicted.append(left[left[:, WHY] == kernels.EVICTED, ITEM])
                    gone += self._release(left if self.on_evict is not None else left[left[:, TOKENS] >= 0])
                    if code == kernels.FULL:
                        self._make_room(self._arena)
        self._tell(gone)
        return np.concatenate(evicted)

    def get_many(self, keys: ArrayLike) -> np.ndarray:
        """As `get` for keys int64 (m,), in order: which were there, bool (m,). Expected O(m)."""
        keys = arguments.integers("keys", keys)
        hits = np.empty(len(keys), np.bool_)
        for part in chunks(len(keys)):
            while not kernels.get_many(self._arena, keys[part], hits[part]):
                self._await_arena()
        return hits

    def reserve(self, n: int) -> None:
        """Make room for n items in all, so that nothing grows before that. O(n)."""
        n = arguments.integer("n", n, 0)
        with self._changing():
            super().reserve(n)
            self._follow()

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used. O(n)."""
        with self._changing():
            order = kernels.oldest_first(self._arena)[:, ROW]
            values = self._values[order]
            self._arena, self._values = kernels.packed(self._arena), values
            self._left = np.empty((64, kernels.RECORD), np.int64)
            self._mend()

    def stats(self) -> dict[str, Any]:
        """`size`, `capacity`, `total_tokens`, `token_budget`; `hits` and `misses` of `get`, `get_many`; `evictions`."""
        head = self._arena[: table.HEAD].tolist()
        return {
            "size": head[table.COUNT],
            "capacity": head[table.CAPACITY],
            "total_tokens": head[kernels.TOTAL],
            "token_budget": head[kernels.BUDGET],
            "hits": head[kernels.HITS],
            "misses": head[kernels.MISSES],
            "evictions": head[kernels.EVICTIONS],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` as .npz; the file there is always a whole one. O(n).

        TypeError, with nothing written, unless all keys are int64 and all values int (of 64 bits), float or
        str. NumPy numbers come back as Python numbers.
        """
        super().save(path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | os.PathLike,
        token_of: Callable[[V], int],
        *,
        on_evict: Callable[[K, V], object] | None = None,
    ) -> "Self":
        """Read what `save` wrote, with the callables that no file holds.

        ValueError if the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path, token_of=token_of, on_evict=on_evict)

    def __contains__(self, key: object) -> bool:
        try:
            return self._peek(cast(K, key)) is not _MISSING
        except (TypeError, ValueError):  # what can't be a key is in no cache
            return False

    def __repr__(self) -> str:
        return f"TokenLRU(token_budget={self.token_budget}, {len(self)} items, {self.total_tokens()} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:  # arena and values of one moment
            state = super().__getstate__()
            arrays = {name: value.copy() for name, value in state.items() if isinstance(value, np.ndarray)}
            return {**state, **arrays, "_rows": self._rows.copy()}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """As `put` does in line: only this thread writes, readers wait, and an interruption leaves no loose ends."""
        with self._lock:
            version = self._changes
            if version & 1:
                raise RuntimeError(_REENTERED)
            self._changes = version + 1
            try:
                yield
            except BaseException:
                self._mend()
                raise
            finally:
                self._changes = version + 2

    def _peek(self, key: K) -> Any:
        key, outside = _checked(key)
        with self._lock:
            if outside:
                row = self._rows.get(key, -1)
                return self._values[row][1] if row >= 0 else _MISSING
            found = kernels.find(self._arena, key)
            if found >= 0:
                return self._values[found]
            return _MISSING if found == kernels.ABSENT else -3 - found

    def _get_outside(self, key: K) -> V | None:
        with self._lock:
            row = self._rows.get(key, -1)
            return self._values[row][1] if kernels.get_outside(self._arena, row) else None

    def _pairs(self, records: np.ndarray) -> list[tuple[K, V]]:
        """(key, value) of records as the kernels make them, whose values are still in their rows."""
        cells = list(self._values[records[:, ROW]])
        return [
            cell if why & UNKEYED else (key, cell if weight >= 0 else ~weight)
            for (_, key, weight, why), cell in zip(records.tolist(), cells, strict=True)
        ]

    def _release(self, left: np.ndarray) -> list[tuple[int, K, V]]:
        """(why, key, value) of what left, which is nowhere else in the cache afterwards."""
        if not len(left):
            return []
        whys, pairs = left[:, WHY].tolist(), self._pairs(left)
        self._values[left[:, ROW]] = None
        for why, (key, _) in zip(whys, pairs, strict=True):
            if why & UNKEYED:
                del self._rows[key]
        return [(why, *pair) for why, pair in zip(whys, pairs, strict=True)]

    def _tell(self, gone: list[tuple[int, K, V]]) -> None:
        if self.on_evict is not None:
            for why, key, value in gone:
                if not why & kernels.REPLACED:
                    self.on_evict(key, value)

    def _make_room(self, seen: np.ndarray, more: int = 1) -> None:
        super()._make_room(seen, more)
        self._follow()

    def _follow(self) -> None:
        """Give the values the capacity of the arena. Live rows lie below both."""
        capacity = int(self._arena[table.CAPACITY])
        if len(self._values) != capacity:
            values = np.empty(capacity, object)
            kept = min(capacity, len(self._values))
            values[:kept] = self._values[:kept]
            self._values = values
        self._next = kernels.next_row(self._arena)

    def _mend(self) -> None:
        """Bring all that lies beside the arena in line with it. No kernel is ever interrupted, so that is whole."""
        self._arena[table.RETIRED] = 0
        self._follow()
        items = kernels.oldest_first(self._arena)
        values = np.empty(len(self._values), object)
        held = items[items[:, TOKENS] >= 0, ROW]
        values[held] = self._values[held]
        self._values = values
        self._rows = {values[row][0]: row for row in items[(items[:, WHY] & UNKEYED) != 0, ROW].tolist()}

    def _await_arena(self) -> None:
        """Return when the arena is one that may be used: another thread was growing it, or was interrupted at that."""
        with self._changing():
            if self._arena[table.RETIRED]:
                self._mend()

    def _owned(self) -> Iterable[np.ndarray]:
        return self._arena, self._values, self._left

    def _to_arrays(self) -> storage.Arrays:
        with self._lock:
            if self._rows:
                raise TypeError(f"only int64 keys can be saved, got {next(iter(self._rows))!r}")
            items = kernels.oldest_first(self._arena)
            cells = list(self._values[items[:, ROW]])
            arena = kernels.packed(self._arena.copy())
        if any(cell is None for cell, weight in zip(cells, items[:, TOKENS].tolist(), strict=True) if weight >= 0):
            raise TypeError("only int (of 64 bits), float and str values can be saved, got None")
        return {"arena": arena, **scalars.to_arrays(cells)}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        self = super()._from_arrays(arrays)
        values = scalars.from_arrays(arrays)
        _, rows, _ = table.parts(self._arena)
        storage.expect(len(self) == len(rows) == len(values), "there is not one value to each item")
        counts = rows[:, kernels.WEIGHT] < 0
        storage.expect(bool(((arrays["kinds"] == scalars.NONE) == counts).all()), "values lack their kinds")
        self._assemble(values, **given)
        return self

    def _fault(self) -> str | None:
        broken = int(kernels.first_fault(self._arena))
        if broken:
            return ("its rows", "its order of use", "its token counts")[broken - 1] + " are damaged"
        items = kernels.oldest_first(self._arena)
        outside = items[(items[:, WHY] & UNKEYED) != 0, ROW].tolist()
        if len(self._values) != self._arena[table.CAPACITY] or self._next != kernels.next_row(self._arena):
            return "values and rows do not match"
        if len(outside) != len(self._rows) or any(
            self._rows.get(_cell_key(self._values[row])) != row for row in outside
        ):
            return "a key that is no int64 does not lead to its row"
        idle = np.ones(len(self._values), np.bool_)
        idle[items[items[:, TOKENS] >= 0, ROW]] = False
        if any(cell is not None for cell in self._values[idle]):
            return "a row that holds no value still refers to one"
        return None


_REENTERED = "a TokenLRU was changed from inside a change of itself (by a finaliser or a signal handler)"


def _checked(key: Any) -> tuple[Any, bool]:
    """The key as it is held, and whether it is none of the int64 keys."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return arguments.integer("key", key), False
    if isinstance(key, (bool, np.bool_)):
        raise TypeError(f"key must not be a bool (in a dict it would be the key {int(key)}), got {key!r}")
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"key must be hashable, got {key!r}") from error
    return key, True


def _cell_key(cell: Any) -> Any:
    return cell[0] if isinstance(cell, tuple) and len(cell) == 2 else _MISSING
