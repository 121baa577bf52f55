"""A priority queue whose items can be found, re-scored and deleted by key."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments
from .base.arena import CHUNK, Growing
from .base.arguments import INT64_MAX, INT64_MIN
from .base.fast_calls import Direct
from .kernels import heap as kernels
from .kernels import table

_direct = Direct(kernels)
_DOWN, _UP, _ANY_WAY = int(kernels.DOWN), int(kernels.UP), int(kernels.ANY_WAY)


class IndexedHeap(Growing):
    """A heap over int64 keys and float64 scores, the smallest first (the largest if `max_heap`).

    A four-ary array heap (Johnson 1975) beside a hash table from key to position: every operation
    is O(log n), `peek` and look-ups O(1). Equal scores leave in the order they came, so runs are
    reproducible. Scores may be infinite, never NaN (ValueError). Memory: 40 to 48 bytes an item
    of capacity, which doubles as needed.

    A single call is atomic under the GIL: threads may share a heap.

    >>> heap = IndexedHeap()
    >>> heap.push(7, 2.5); heap.push(3, 1.5); heap.push(9, 4.0)
    >>> heap.decrease_key(9, 0.5)
    >>> heap.pop(), heap.peek(), len(heap)
    ((0.5, 9), (1.5, 3), 2)
    """

    _columns = kernels.COLUMNS

    def __init__(self, max_heap: bool = False):
        if not isinstance(max_heap, (bool, np.bool_)):
            raise TypeError(f"max_heap must be a bool, got {max_heap!r}")
        super().__init__(kernels.new(16, bool(max_heap)))

    def push(self, key_id: int, score: float) -> None:
        """Add an item. O(log n). ValueError if the key is there already or the score is NaN."""
        if type(key_id) is int and type(score) is float:
            try:
                if not _direct.push(self._arena, key_id, score):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._push(key_id, score)

    def pop(self) -> tuple[float, int]:
        """Take the top item off: (score, key_id). O(log n). IndexError if the heap is empty."""
        while True:
            code, score, key_id = _direct.pop(arena := self._arena)
            if not code:
                return score, key_id
            if code != kernels.FULL:
                raise IndexError("pop from an empty heap")
            self._make_room(arena)

    def peek(self) -> tuple[float, int] | None:
        """The top item, (score, key_id), left where it is; None if the heap is empty. O(1)."""
        item = _direct.peek(self._arena)
        return item[1:] if item[0] == kernels.OK else None

    def decrease_key(self, key_id: int, new_score: float) -> None:
        """Lower an item's score (the same score is allowed). O(log n).

        KeyError if the key is unknown, ValueError if the score would rise.
        """
        if type(key_id) is int and type(new_score) is float:
            try:
                if not _direct.update(self._arena, key_id, new_score, _DOWN):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._update(key_id, new_score, _DOWN)

    def increase_key(self, key_id: int, new_score: float) -> None:
        """Raise an item's score (the same score is allowed). O(log n).

        KeyError if the key is unknown, ValueError if the score would fall.
        """
        if type(key_id) is int and type(new_score) is float:
            try:
                if not _direct.update(self._arena, key_id, new_score, _UP):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._update(key_id, new_score, _UP)

    def update_key(self, key_id: int, new_score: float) -> None:
        """Change an item's score in either direction. O(log n). KeyError if the key is unknown."""
        self._update(key_id, new_score, _ANY_WAY)

    def delete(self, key_id: int) -> tuple[float, int]:
        """Take an item out, wherever it stands: (score, key_id). O(log n). KeyError if the key is unknown."""
        key = _key(key_id)
        while (item := _direct.delete(arena := self._arena, key))[0] == kernels.FULL:
            self._make_room(arena)
        if item[0] != kernels.OK:
            raise KeyError(key)
        return item[1:]

    def get_score(self, key_id: int) -> float | None:
        """The score of an item, None if the key is unknown. O(1)."""
        present, score = _direct.find(self._arena, _key(key_id))
        return score if present else None

    def contains(self, key_id: int) -> bool:
        """Whether the key is in the heap. O(1)."""
        return _direct.find(self._arena, _key(key_id))[0]

    def size(self) -> int:
        """Number of items."""
        return len(self)

    def is_empty(self) -> bool:
        """Whether there are no items."""
        return len(self) == 0

    def clear(self) -> None:
        """Take everything out; capacity is kept. O(capacity)."""
        with self._lock:
            self._replace(kernels.new(int(self._arena[table.CAPACITY]), self.max_heap))

    @property
    def max_heap(self) -> bool:
        """Whether the largest score is on top."""
        return bool(self._arena[kernels.SIGN] < 0)

    def push_many(self, keys: ArrayLike, scores: ArrayLike) -> None:
        """As `push` for keys int64 (m,) and scores float64 (m,), in order. O(m log n), in practice O(m).

        ValueError, with nothing pushed, if a key is there already or comes twice, a score is NaN, or
        the lengths differ.
        """
        keys, scores = _items(keys, scores)
        if len(keys) > CHUNK:
            return self._in_chunks(len(keys), lambda heap, part: heap.push_many(keys[part], scores[part]))
        while (result := kernels.push_many(arena := self._arena, keys, scores))[0] == kernels.FULL:
            self._make_room(arena, len(keys))
        if result[0] != kernels.OK:
            raise ValueError(f"keys must be new and distinct, {keys[result[1]]} is not")
        return None

    def pop_many(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the best m = min(k, size) items off: scores float64 (m,) and keys int64 (m,), best first. O(m log n)."""
        k = min(arguments.integer("k", k, 0), len(self))
        scores, keys = np.empty(k), np.empty(k, np.int64)
        if k > CHUNK:

            def pop(heap: IndexedHeap, part: slice) -> None:
                scores[part], keys[part] = heap.pop_many(part.stop - part.start)

            self._in_chunks(k, pop)
            return scores, keys
        while (taken := kernels.pop_many(arena := self._arena, scores, keys)) < 0:
            self._make_room(arena)
        return scores[:taken], keys[:taken]

    def update_many(self, keys: ArrayLike, scores: ArrayLike) -> None:
        """As `update_key` for keys int64 (m,) and scores float64 (m,), in order. O(m log n).

        KeyError, with nothing changed, if a key is unknown.
        """
        keys, scores = _items(keys, scores)
        if len(keys) > CHUNK:
            return self._in_chunks(len(keys), lambda heap, part: heap.update_many(keys[part], scores[part]))
        while (result := kernels.update_many(arena := self._arena, keys, scores))[0] == kernels.FULL:
            self._make_room(arena)
        if result[0] != kernels.OK:
            raise KeyError(int(keys[result[1]]))
        return None

    def get_score_many(self, keys: ArrayLike) -> np.ndarray:
        """The scores of keys (m,), float64 (m,); NaN where a key is unknown. O(m)."""
        keys = arguments.integers("keys", keys)
        scores = np.empty(len(keys))
        kernels.find_many(self._arena, keys, scores)
        return scores

    def heapify(self, keys: ArrayLike, scores: ArrayLike) -> None:
        """Replace what is there by keys int64 (m,) with scores float64 (m,), as if pushed in order. O(m).

        ValueError, with nothing changed, if a key comes twice or a score is NaN.
        """
        keys, scores = _items(keys, scores)
        arena, twice = kernels.heapify(keys, scores, self.max_heap)
        if twice >= 0:
            raise ValueError(f"keys must be distinct, keys[{twice}] = {keys[twice]} is not")
        with self._lock:
            self._replace(arena)

    def stats(self) -> dict[str, Any]:
        """`size`, `capacity`, `max_heap`, and the `top` item as `peek` gives it."""
        return {
            "size": len(self),
            "capacity": int(self._arena[table.CAPACITY]),
            "max_heap": self.max_heap,
            "top": self.peek(),
        }

    def __contains__(self, key_id: object) -> bool:
        return isinstance(key_id, (int, np.integer)) and self.contains(int(key_id))

    def __repr__(self) -> str:
        return f"IndexedHeap(max_heap={self.max_heap}, {len(self)} items)"

    def _push(self, key_id: int, score: float) -> None:
        """`push` with everything looked at: what the short way in it could not do is done or refused here."""
        key_id, score = arguments.integer("key_id", key_id), arguments.real("score", score)
        while code := _direct.push(arena := self._arena, key_id, score):
            if code != kernels.FULL:
                raise ValueError(f"key_id {key_id} is in the heap already; update_key changes its score")
            self._make_room(arena)

    def _update(self, key_id: int, new_score: float, way: int) -> None:
        """As `_push`, for a change of score."""
        key_id, new_score = arguments.integer("key_id", key_id), arguments.real("new_score", new_score)
        while code := _direct.update(arena := self._arena, key_id, new_score, way):
            if code == kernels.ABSENT:
                raise KeyError(key_id)
            if code == kernels.WRONG_WAY:
                name, verb = ("decrease_key", "raise") if way == _DOWN else ("increase_key", "lower")
                raise ValueError(f"{name} would {verb} the score of {key_id} to new_score = {new_score}")
            self._make_room(arena)

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._arena))
        return None if fault == -1 else f"heap row {fault} is out of order, or its key does not lead to it"


def _key(key_id: Any) -> int:
    if type(key_id) is int and INT64_MIN <= key_id <= INT64_MAX:
        return key_id
    return arguments.integer("key_id", key_id)


def _items(keys: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    keys, scores = arguments.integers("keys", keys), arguments.reals("scores", scores)
    arguments.same_length(keys=keys, scores=scores)
    return keys, scores
