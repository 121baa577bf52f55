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

    Scores may be infinite, but not NaN. Items with equal scores leave in the order in which they were pushed, so
    runs are reproducible. A single call is atomic under the GIL: threads may share a heap.

    Parameters
    ----------
    max_heap
        Whether the largest score leaves first.

    Notes
    -----
    A four-ary array heap (Johnson 1975) beside a hash table from keys to positions: every operation is O(log n), `peek`
    and look-ups O(1). Memory: 40 to 48 bytes per item of capacity, which doubles as needed.

    Examples
    --------
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

    @property
    def arrays(self) -> table.Arrays:
        """The arena, as `Arrays(arena)`: int64 (n,), laid out as `llmds.kernels.heap` describes.

        The array is the heap's own and writable, for kernels and your own `@njit` functions. It is replaced, and the
        old one is stale, when the heap grows, and by `reserve`, `shrink_to_fit`, `clear`, `heapify` and bulk calls;
        kernels that change something return FULL for a stale one. Read the property again before each loop. O(1).
        """
        return table.Arrays(self._arena)

    def push(self, key_id: int, score: float) -> None:
        """Add an item. O(log n).

        Parameters
        ----------
        key_id
            Key of the item, an int64.
        score
            Score of the item, a float64.

        Raises
        ------
        ValueError
            The key is in the heap already, or the score is NaN.
        """
        if type(key_id) is int and type(score) is float:
            try:
                if not _direct.push(self._arena, key_id, score):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._push(key_id, score)

    def pop(self) -> tuple[float, int]:
        """Remove the top item and return it. O(log n).

        Returns
        -------
        tuple
            (score, key_id).

        Raises
        ------
        IndexError
            The heap is empty.
        """
        while True:
            code, score, key_id = _direct.pop(arena := self._arena)
            if not code:
                return score, key_id
            if code != kernels.FULL:
                raise IndexError("pop from an empty heap")
            self._make_room(arena)

    def peek(self) -> tuple[float, int] | None:
        """Return the top item without removing it. O(1).

        Returns
        -------
        tuple or None
            (score, key_id), None if the heap is empty.
        """
        item = _direct.peek(self._arena)
        return item[1:] if item[0] == kernels.OK else None

    def decrease_key(self, key_id: int, new_score: float) -> None:
        """Lower the score of an item. O(log n).

        Parameters
        ----------
        key_id
            Key of the item.
        new_score
            Its new score, which may be the same as the old one.

        Raises
        ------
        KeyError
            The key is not in the heap.
        ValueError
            The new score is higher than the old one, or NaN.
        """
        if type(key_id) is int and type(new_score) is float:
            try:
                if not _direct.update(self._arena, key_id, new_score, _DOWN):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._update(key_id, new_score, _DOWN)

    def increase_key(self, key_id: int, new_score: float) -> None:
        """Raise the score of an item. O(log n).

        Parameters
        ----------
        key_id
            Key of the item.
        new_score
            Its new score, which may be the same as the old one.

        Raises
        ------
        KeyError
            The key is not in the heap.
        ValueError
            The new score is lower than the old one, or NaN.
        """
        if type(key_id) is int and type(new_score) is float:
            try:
                if not _direct.update(self._arena, key_id, new_score, _UP):
                    return
            except OverflowError:
                pass  # a key beyond int64, refused below
        self._update(key_id, new_score, _UP)

    def update_key(self, key_id: int, new_score: float) -> None:
        """Change the score of an item in either direction. O(log n).

        Parameters
        ----------
        key_id
            Key of the item.
        new_score
            Its new score.

        Raises
        ------
        KeyError
            The key is not in the heap.
        ValueError
            The new score is NaN.
        """
        self._update(key_id, new_score, _ANY_WAY)

    def delete(self, key_id: int) -> tuple[float, int]:
        """Remove an item at any position and return it. O(log n).

        Parameters
        ----------
        key_id
            Key of the item.

        Returns
        -------
        tuple
            (score, key_id).

        Raises
        ------
        KeyError
            The key is not in the heap.
        """
        key = _key(key_id)
        while (item := _direct.delete(arena := self._arena, key))[0] == kernels.FULL:
            self._make_room(arena)
        if item[0] != kernels.OK:
            raise KeyError(key)
        return item[1:]

    def get_score(self, key_id: int) -> float | None:
        """Return the score of an item, None if the key is not in the heap. O(1)."""
        present, score = _direct.find(self._arena, _key(key_id))
        return score if present else None

    def contains(self, key_id: int) -> bool:
        """Return whether the key is in the heap. O(1)."""
        return _direct.find(self._arena, _key(key_id))[0]

    def size(self) -> int:
        """Return the number of items. O(1)."""
        return len(self)

    def is_empty(self) -> bool:
        """Return whether there are no items. O(1)."""
        return len(self) == 0

    def clear(self) -> None:
        """Remove all items. The capacity is kept. O(capacity)."""
        with self._lock:
            self._replace(kernels.new(int(self._arena[table.CAPACITY]), self.max_heap))

    @property
    def max_heap(self) -> bool:
        """Whether the largest score is on top."""
        return bool(self._arena[kernels.SIGN] < 0)

    def push_many(self, keys: ArrayLike, scores: ArrayLike) -> None:
        """Add many items in order, as `push` does. O(m log n), in practice O(m).

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).
        scores
            Their scores, float64 (m,).

        Raises
        ------
        ValueError
            A key is in the heap already or occurs twice, a score is NaN, or the lengths differ. Nothing is added then.

        Examples
        --------
        >>> heap = IndexedHeap()
        >>> heap.push_many([5, 6, 7], [0.3, 0.1, 0.2])
        >>> scores, keys = heap.pop_many(2)
        >>> scores.tolist(), keys.tolist()
        ([0.1, 0.2], [6, 7])
        """
        keys, scores = _items(keys, scores)
        if len(keys) > CHUNK:
            return self._in_chunks(len(keys), lambda heap, part: heap.push_many(keys[part], scores[part]))
        while (result := kernels.push_many(arena := self._arena, keys, scores))[0] == kernels.FULL:
            self._make_room(arena, len(keys))
        if result[0] != kernels.OK:
            raise ValueError(f"keys must be new and distinct, got {keys[result[1]]} twice or in the heap already")
        return None

    def pop_many(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Remove the best min(k, size) = m items and return them. O(m log n).

        Parameters
        ----------
        k
            Number of items, 0 or more.

        Returns
        -------
        scores
            float64 (m,), best first.
        keys
            int64 (m,).
        """
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
        """Change the scores of many items in order, as `update_key` does. O(m log n).

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).
        scores
            Their new scores, float64 (m,).

        Raises
        ------
        KeyError
            A key is not in the heap. Nothing is changed then.
        ValueError
            A score is NaN, or the lengths differ. Nothing is changed then.
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
        """Return the scores of many items. O(m).

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).

        Returns
        -------
        ndarray
            float64 (m,), NaN where a key is not in the heap.
        """
        keys = arguments.integers("keys", keys)
        scores = np.empty(len(keys))
        kernels.find_many(self._arena, keys, scores)
        return scores

    def heapify(self, keys: ArrayLike, scores: ArrayLike) -> None:
        """Replace all items by those given, as if they were pushed in order. O(m).

        Parameters
        ----------
        keys
            Keys of the items, int64 (m,).
        scores
            Their scores, float64 (m,).

        Raises
        ------
        ValueError
            A key occurs twice, a score is NaN, or the lengths differ. Nothing is changed then.
        """
        keys, scores = _items(keys, scores)
        arena, twice = kernels.heapify(keys, scores, self.max_heap)
        if twice >= 0:
            raise ValueError(f"keys must be distinct, got keys[{twice}] = {keys[twice]} twice")
        with self._lock:
            self._replace(arena)

    def stats(self) -> dict[str, Any]:
        """Return a dict of `size`, `capacity`, `max_heap`, and `top`, the item that `peek` returns. O(1)."""
        return {
            "size": len(self),
            "capacity": int(self._arena[table.CAPACITY]),
            "max_heap": self.max_heap,
            "top": self.peek(),
        }

    def __contains__(self, key_id: object) -> bool:
        """Return whether the key is in the heap. O(1)."""
        return isinstance(key_id, (int, np.integer)) and self.contains(int(key_id))

    def __repr__(self) -> str:
        """Return a short description."""
        return f"IndexedHeap(max_heap={self.max_heap}, {len(self)} items)"

    def _push(self, key_id: int, score: float) -> None:
        """Push as `push` does, with all checks and growth that its short path leaves out."""
        key_id, score = arguments.integer("key_id", key_id), arguments.real("score", score)
        while code := _direct.push(arena := self._arena, key_id, score):
            if code != kernels.FULL:
                raise ValueError(f"key_id {key_id} is in the heap already; update_key changes its score")
            self._make_room(arena)

    def _update(self, key_id: int, new_score: float, way: int) -> None:
        """Change a score, with all checks that the short paths of the public methods leave out."""
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
        return None if fault == -1 else f"heap row {fault} is out of order, or not found by its key"


def _key(key_id: Any) -> int:
    if type(key_id) is int and INT64_MIN <= key_id <= INT64_MAX:
        return key_id
    return arguments.integer("key_id", key_id)


def _items(keys: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    keys, scores = arguments.integers("keys", keys), arguments.reals("scores", scores)
    arguments.same_length(keys=keys, scores=scores)
    return keys, scores
