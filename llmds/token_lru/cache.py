"""A cache with a budget of tokens, which evicts the least recently used items."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments, files, scalars
from ..base.arena import CHUNK, Growing, chunks
from ..base.fast_calls import Direct
from ..kernels import table
from ..kernels import token_lru as kernels
from ..kernels.token_lru import ITEM, ROW, TOKENS, WHY
from . import state
from .state import MISSING, checked_key

if TYPE_CHECKING:
    from typing_extensions import Self

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MIN, _MAX, _MOST = arguments.INT64_MIN, arguments.INT64_MAX, kernels.MOST
# Records of evicted items that a bulk call takes from its kernel at a time: they fit the processor's cache.
_RECORDS = 1 << 12
_direct = Direct(kernels)
_REENTERED = "a TokenLRU was changed inside another change of it (by a finaliser or a signal handler)"


class TokenLRU(Growing, Generic[K, V]):
    """A map from keys to values of at most `token_budget` tokens together; the least recently used items are evicted.

    The tokens of a value are counted once, when it is put. Recency is exact: `get` and `put` make an item the newest.

    Keys are any int64 or any other hashable object. A NumPy integer is the int of its value; a bool is
    refused (TypeError), because 1 and True would be one key in a dict and are two here. For the same reason an object
    that equals an int, such as 1.0, is another key than the int.

    Parameters
    ----------
    token_budget
        Number of tokens, 0..2**62.
    token_of
        Function that returns the number of tokens of a value, an int of 0 or more.
    on_evict
        Function called as on_evict(key, value) for each item evicted to keep the budget. It is called when the cache
        is consistent again, so it may use the cache. If it raises, the call that evicted raises that exception after
        its work is done, and the function is not called for the remaining items.

    Notes
    -----
    Every operation is expected O(1), and O(1) for each item evicted. An item takes 48 to 56 bytes of capacity, which
    doubles as needed; a key that is not an int64 takes a dict entry and a tuple more.

    Threads may share a cache: a call that changes values holds a lock. `token_of` and `on_evict` run outside it. A
    finaliser or signal handler that changes a cache in the middle of a change of the same cache, in the same thread,
    gets RuntimeError.

    `save` raises TypeError, and writes nothing, unless all keys are int64 and all values int (of 64 bits), float or
    str. NumPy numbers are loaded as Python numbers.

    Examples
    --------
    >>> cache = TokenLRU(10, len)
    >>> cache.put("a", "four"); cache.put("b", "five5"); cache.get("a")
    'four'
    >>> cache.put(3, "six666")
    >>> cache.items(), cache.total_tokens(), cache.get("b")
    ([('a', 'four'), (3, 'six666')], 10, None)
    """

    _columns = kernels.COLUMNS
    _schema: ClassVar[files.Schema] = {"arena": (np.int64, 1), **scalars.SCHEMA}

    # Beside the arena: _values and _rows (see `state`). _next is what kernels.next_row would return. A writer holds the
    # lock, and _changes is odd while it writes; `get` takes no lock (which would cost 90 to 150 ns) but reads
    # _changes before and after, and looks up again under the lock if it has changed.

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

    @property
    def arrays(self) -> table.Arrays:
        """The arena, as `Arrays(arena)`: int64 (n,), laid out as `llmds.kernels.token_lru` describes.

        The array is the cache's own and writable, for `get`, `find`, `get_many` and `row_of` in your own `@njit`
        functions. Do not add or remove items there: the values, which are Python objects, lie outside the arena. It is
        replaced, and the old one is stale (`get` returns STALE), when the cache grows, and by `reserve` and
        `shrink_to_fit`. Read the property again before each loop. O(1).
        """
        return table.Arrays(self._arena)

    def put(self, key: K, value: V) -> None:
        """Add or replace the value of a key, as the newest item; the oldest items are evicted until the budget holds.

        A value of more tokens than the whole budget is not cached and evicts nothing else; the old item of that key
        leaves. Expected O(1 + items evicted).

        Parameters
        ----------
        key
            Key of the item.
        value
            Its value.

        Raises
        ------
        TypeError, ValueError
            The key is a bool or not hashable, or `token_of` returns anything but an int of 0 or more. Nothing is
            changed then.
        """
        tokens = self.token_of(value)
        if type(tokens) is not int or not 0 <= tokens <= _MOST:
            huge = type(tokens) is int and tokens > _MOST
            tokens = _MOST + 1 if huge else arguments.integer("token_of(value)", tokens, 0)
        outside = False
        if not (type(key) is int and _MIN <= key <= _MAX):  # type: ignore[operator]
            key, outside = checked_key(key)
        fits = tokens <= self.token_budget
        gone: Any = None  # the values that leave outlive the lock, so that their finalisers run outside
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
                    if n == 1 and not code and self.on_evict is None and not self._rows:  # the common case, no list
                        gone, self._values[first] = (gone, self._values[first]), None
                    elif n:
                        gone = (gone or []) + state.release(self._values, self._rows, self._left[:n])
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
            self._notify(gone)

    def get(self, key: K) -> V | None:
        """Return the value of a key, None if there is none. The item becomes the newest. Expected O(1)."""
        if not (type(key) is int and _MIN <= key <= _MAX):  # type: ignore[operator]
            key, outside = checked_key(key)
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
        """Return the value of a key, None if there is none. Recency and hit counts do not change. Expected O(1)."""
        value = self._peek(key)
        return None if value is MISSING else value

    def pop(self, key: K, default: Any = MISSING) -> V:
        """Remove an item and return its value, without calling `on_evict`. Expected O(1).

        Parameters
        ----------
        key
            Key of the item.
        default
            Returned if there is no such item.

        Raises
        ------
        KeyError
            There is no such item, and no `default` was given.
        """
        key, outside = checked_key(key)
        with self._changing():
            row = self._rows.get(key, -1) if outside else kernels.row_of(self._arena, key)
            if row >= 0:
                kernels.take(self._arena, row, self._left)
                self._next = kernels.next_row(self._arena)
                ((_, _, value),) = state.release(self._values, self._rows, self._left[:1])
                return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def evict_until_budget(self, target_budget: int) -> list[tuple[K, V]]:
        """Evict the oldest items, calling `on_evict`, until at most `target_budget` tokens are left. O(items evicted).

        Parameters
        ----------
        target_budget
            Number of tokens, 0 or more.

        Returns
        -------
        list
            (key, value) of the items evicted, oldest first.
        """
        target = arguments.integer("target_budget", target_budget, 0)
        gone: list[tuple[int, K, V]] = []
        left = np.empty((min(len(self), CHUNK) + 2, kernels.RECORD), np.int64)
        code = kernels.MORE
        while code == kernels.MORE:
            with self._changing():
                code, n = kernels.evict(self._arena, target, left)
                self._next = kernels.next_row(self._arena)
                gone += state.release(self._values, self._rows, left[:n])
        self._notify(gone)
        return [(key, value) for _, key, value in gone]

    def total_tokens(self) -> int:
        """Return the number of tokens of all items together, at most `token_budget`. O(1)."""
        return int(self._arena[kernels.TOTAL])

    def size(self) -> int:
        """Return the number of items. O(1)."""
        return len(self)

    def items(self) -> list[tuple[K, V]]:
        """Return a list of all (key, value), the least recently used first. Recency does not change. O(n)."""
        with self._lock:
            return state.pairs(self._values, kernels.oldest_first(self._arena))

    def clear(self) -> None:
        """Remove all items, without calling `on_evict`, and set all counts to 0. The capacity is kept. O(capacity)."""
        with self._changing():
            gone = self._values, self._rows  # outlives the lock, as in `put`
            kernels.clear(self._arena)
            self._values, self._rows = np.empty(len(self._values), object), {}
            self._next = kernels.next_row(self._arena)
        del gone

    def put_many(self, keys: ArrayLike, tokens: ArrayLike) -> np.ndarray:
        """Put many int64 keys in order, as `put` does, with their token counts as values. Expected O(m).

        `token_of` is not called.

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).
        tokens
            Their token counts, int64 (m,), 0 or more.

        Returns
        -------
        ndarray
            The int64 keys evicted, int64 (e,), in order. A key may be evicted, put and evicted again. Other keys that
            are evicted are passed only to `on_evict`.

        Raises
        ------
        ValueError
            A count is negative, or the lengths differ. Nothing is changed then.
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
                    gone += state.release(
                        self._values, self._rows, left if self.on_evict is not None else left[left[:, TOKENS] >= 0]
                    )
                    if code == kernels.FULL:
                        self._make_room(self._arena)
        self._notify(gone)
        return np.concatenate(evicted)

    def get_many(self, keys: ArrayLike) -> np.ndarray:
        """Look up int64 keys in order, as `get` does. Expected O(m).

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).

        Returns
        -------
        ndarray
            Whether each key was present, bool (m,).
        """
        keys = arguments.integers("keys", keys)
        hits = np.empty(len(keys), np.bool_)
        for part in chunks(len(keys)):
            while not kernels.get_many(self._arena, keys[part], hits[part]):
                self._await_arena()
        return hits

    def reserve(self, n: int) -> None:
        """Make room for n items in all, those present included, so that nothing grows before that. O(n)."""
        n = arguments.integer("n", n, 0)
        with self._changing():
            super().reserve(n)
            self._follow()

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(n)."""
        with self._changing():
            order = kernels.oldest_first(self._arena)[:, ROW]
            values = self._values[order]
            self._arena, self._values = kernels.packed(self._arena), values
            self._left = np.empty((64, kernels.RECORD), np.int64)
            self._mend()

    def stats(self) -> dict[str, Any]:
        """Return counts. O(1).

        The keys are `size`, `capacity`, `total_tokens`, `token_budget`; `hits` and `misses` of `get` and `get_many`;
        `evictions`.
        """
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

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | os.PathLike,
        token_of: Callable[[V], int],
        *,
        on_evict: Callable[[K, V], object] | None = None,
    ) -> "Self":
        """Read a file that `save` wrote.

        Parameters
        ----------
        path
            Name of the file.
        token_of, on_evict
            As for a new cache; files hold no functions.

        Raises
        ------
        ValueError
            The file is damaged, holds another kind of structure, or was written by a newer version.
        """
        return cls._load(path, token_of=token_of, on_evict=on_evict)

    def __contains__(self, key: object) -> bool:
        """Return whether the key is in the cache. Expected O(1)."""
        try:
            return self._peek(cast(K, key)) is not MISSING
        except (TypeError, ValueError):  # not a possible key
            return False

    def __repr__(self) -> str:
        """Return a short description."""
        return f"TokenLRU(token_budget={self.token_budget}, {len(self)} items, {self.total_tokens()} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, copied at one moment."""
        with self._lock:
            attributes = super().__getstate__()
            arrays = {name: value.copy() for name, value in attributes.items() if isinstance(value, np.ndarray)}
            return {**attributes, **arrays, "_rows": self._rows.copy()}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock and mark the cache as being changed; exceptions leave it consistent. `put` has it in line."""
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
        key, outside = checked_key(key)
        with self._lock:
            if outside:
                row = self._rows.get(key, -1)
                return self._values[row][1] if row >= 0 else MISSING
            found = kernels.find(self._arena, key)
            if found >= 0:
                return self._values[found]
            return MISSING if found == kernels.ABSENT else -3 - found

    def _get_outside(self, key: K) -> V | None:
        with self._lock:
            row = self._rows.get(key, -1)
            return self._values[row][1] if kernels.get_outside(self._arena, row) else None

    def _notify(self, gone: list[tuple[int, K, V]]) -> None:
        """Call `on_evict` for the items evicted."""
        if self.on_evict is not None:
            for why, key, value in gone:
                if not why & kernels.REPLACED:
                    self.on_evict(key, value)

    def _make_room(self, seen: np.ndarray, more: int = 1) -> None:
        super()._make_room(seen, more)
        self._follow()

    def _follow(self) -> None:
        """Give the array of values the capacity of the arena."""
        capacity = int(self._arena[table.CAPACITY])
        if len(self._values) != capacity:
            self._values = state.resized(self._values, capacity)
        self._next = kernels.next_row(self._arena)

    def _mend(self) -> None:
        """Restore everything beside the arena from the arena. That is consistent: no kernel is ever interrupted."""
        self._arena[table.RETIRED] = 0
        self._follow()
        self._values, self._rows = state.restored(self._arena, self._values)

    def _await_arena(self) -> None:
        """Wait until the arena can be used: another thread was replacing it, or was interrupted while it did."""
        with self._changing():
            if self._arena[table.RETIRED]:
                self._mend()

    def _owned(self) -> Iterable[np.ndarray]:
        return self._arena, self._values, self._left

    def _to_arrays(self) -> files.Arrays:
        with self._lock:
            arena, cells = state.snapshot(self._arena, self._values, self._rows)
        return state.to_arrays(arena, cells)

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        self = super()._from_arrays(arrays)
        self._assemble(state.values_of(arrays), **given)
        return self

    def _fault(self) -> str | None:
        if self._next != kernels.next_row(self._arena):
            return "values and rows do not match"
        return state.fault(self._arena, self._values, self._rows)
