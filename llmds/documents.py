"""Texts and their own string ids, for whoever shows what a search has found."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments
from .base import files as storage
from .base.arena import chunks
from .base.structure import Structure
from .kernels import documents as kernels
from .kernels import strings
from .kernels.documents import COUNT, ID, PARTS, TEXT, TITLE
from .kernels.table import bucket_count

if TYPE_CHECKING:
    from typing_extensions import Self

# Documents packed and copied in one go: some megabytes of ordinary text, well under 100 ms.
CHUNK = 1 << 12


class Documents(Structure):
    """Texts with ids of their own (any str) and, where there are any, titles.

    Document number `row` (0, 1, ... in the order of adding) is what the other structures know as an
    int id; here the row leads to the id, the title and the text, and the id to the row. All bytes lie
    end to end as UTF-8 in one array, the ids in a hash table beside them. Any str comes back as it
    was, lone surrogates too. Nothing is removed or changed. Memory: the bytes, and 40 to 56 bytes a
    document of capacity, which doubles as needed.

    One thread may add while others read.

    >>> documents = Documents()
    >>> documents.add("intro.md", "A heap is a tree.", title="Heaps")
    0
    >>> documents.add_many(["a.md", "b.md"], ["first", "second"])
    array([1, 2])
    >>> documents.row_of("b.md"), documents.text(0), documents.title(0), documents.title(1)
    (2, 'A heap is a tree.', 'Heaps', '')
    >>> documents.rows_of(["a.md", "nowhere.md"])
    array([ 1, -1])
    """

    _schema: ClassVar[storage.Schema] = {"data": (np.uint8, 1), "offsets": (np.int64, 1), "buckets": (np.int64, 1)}

    def __init__(self) -> None:
        # Published together, so that a reader never pairs old arrays with new ones: head, data, offsets, buckets.
        self._state = _empty(0, 0)
        self._lock = threading.RLock()

    def add(self, id: str, text: str, title: str | None = None) -> int:
        """Add one document; its row. Amortised O(bytes). ValueError if the id is there already.

        A title of None is one of "".
        """
        id, text = arguments.text("id", id), arguments.text("text", text)
        title = "" if title is None else arguments.text("title", title)
        with self._lock:
            if id in self:
                raise ValueError(f"id {id!r} is there already")
            row = len(self)
            self._append([id, title, text], 1)
        return row

    def add_many(
        self, ids: Sequence[str], texts: Sequence[str], titles: Sequence[str | None] | None = None
    ) -> np.ndarray:
        """As `add` for n documents; their rows, int64 (n,). Amortised O(bytes).

        ValueError, with nothing added, if an id is there already or comes twice, or the lengths differ.
        An interrupted call keeps the documents added so far.
        """
        ids, texts = arguments.strings("ids", ids), arguments.strings("texts", texts)
        titles = [""] * len(ids) if titles is None else arguments.strings("titles", titles, optional=True)
        arguments.same_length(ids=ids, texts=texts, titles=titles)
        with self._lock:
            self._refuse_known(ids)
            first = len(self)
            for part in chunks(len(ids), CHUNK):
                flat: list[Any] = [""] * (PARTS * (part.stop - part.start))
                flat[ID::PARTS], flat[TEXT::PARTS] = ids[part], texts[part]
                flat[TITLE::PARTS] = [title or "" for title in titles[part]]
                self._append(flat, part.stop - part.start)
        return np.arange(first, first + len(ids))

    def row_of(self, id: str) -> int:
        """The row of an id. Expected O(length). KeyError if it is unknown."""
        row = self._find(arguments.text("id", id))
        if row < 0:
            raise KeyError(id)
        return row

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of n ids, int64 (n,), -1 for unknown ones. Expected O(bytes)."""
        ids = arguments.strings("ids", ids)
        rows = np.empty(len(ids), np.int64)
        _, data, offsets, buckets = self._state
        for part in chunks(len(ids)):
            strings.find_many(buckets, data, offsets, PARTS, *arguments.packed_strings("ids", ids[part]), rows[part])
        return rows

    def id_of(self, row: int) -> str:
        """The id of a row. IndexError if there is no such row (rows are not counted from the end)."""
        return self._string(row, ID)

    def ids_of(self, rows: ArrayLike) -> list[str]:
        """The ids of rows (n,). IndexError if one of them is none."""
        return self._many(rows, ID)

    def text(self, row: int) -> str:
        """The text of a row. O(bytes). IndexError if there is no such row."""
        return self._string(row, TEXT)

    def texts(self, rows: ArrayLike) -> list[str]:
        """The texts of rows (n,). O(bytes). IndexError if one of them is none."""
        return self._many(rows, TEXT)

    def title(self, row: int) -> str:
        """The title of a row, "" where none was given. IndexError if there is no such row."""
        return self._string(row, TITLE)

    def titles(self, rows: ArrayLike) -> list[str]:
        """The titles of rows (n,). IndexError if one of them is none."""
        return self._many(rows, TITLE)

    def reserve(self, n: int, n_bytes: int = 0) -> None:
        """Make room for n documents of n_bytes UTF-8 bytes (ids and titles included) in all. O(size)."""
        n = arguments.integer("n", n, 0, strings.MAX_ROWS)
        n_bytes = arguments.integer("n_bytes", n_bytes, 0)
        with self._lock:
            _, data, offsets, _ = self._state
            rows = (len(offsets) - 1) // PARTS
            if n > rows or n_bytes > len(data):
                self._resize(max(n, rows), max(n_bytes, len(data)))

    def shrink_to_fit(self) -> None:
        """Give back the room that is not used. O(size)."""
        with self._lock:
            self._resize(len(self), self._bytes())

    def stats(self) -> dict[str, Any]:
        """`documents`, `bytes` (of all ids, titles and texts), `capacity` (documents), `byte_capacity`."""
        _, data, offsets, _ = self._state
        return {
            "documents": len(self),
            "bytes": self._bytes(),
            "capacity": (len(offsets) - 1) // PARTS,
            "byte_capacity": len(data),
        }

    def __len__(self) -> int:
        return int(self._state[0][COUNT])

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find(id) >= 0

    def __repr__(self) -> str:
        return f"Documents({len(self)} documents, {self._bytes()} bytes)"

    def _bytes(self) -> int:
        head, _, offsets, _ = self._state
        return int(offsets[PARTS * head[COUNT]])

    def _find(self, id: str) -> int:
        _, data, offsets, buckets = self._state
        query = np.frombuffer(bytearray(id, "utf-8", "surrogatepass"), np.uint8)
        return strings.find_one(buckets, data, offsets, PARTS, query)

    def _string(self, row: int, which: int) -> str:
        row = arguments.integer("row", row)
        head, data, offsets, _ = self._state
        if not 0 <= row < head[COUNT]:
            raise IndexError(f"row must lie in 0..{head[COUNT] - 1}, got {row}")
        start, stop = offsets[PARTS * row + which : PARTS * row + which + 2]
        return str(data[start:stop].data, "utf-8", "surrogatepass")

    def _many(self, rows: Any, which: int) -> list[str]:
        rows = arguments.integers("rows", rows)
        head, data, offsets, _ = self._state
        if len(rows) and (rows.min() < 0 or rows.max() >= head[COUNT]):
            raise IndexError(f"rows must lie in 0..{head[COUNT] - 1}, got {rows.min()}..{rows.max()}")
        begins = PARTS * rows + which
        starts, stops, view = offsets[begins].tolist(), offsets[begins + 1].tolist(), data.data
        return [str(view[start:stop], "utf-8", "surrogatepass") for start, stop in zip(starts, stops, strict=True)]

    def _refuse_known(self, ids: Sequence[str]) -> None:
        """ValueError if one of `ids` is there already, or comes twice."""
        known = self.rows_of(ids)
        if len(known) and known.max() >= 0:
            raise ValueError(f"ids must be new and distinct, {ids[int(np.argmax(known >= 0))]!r} is there already")
        data, offsets = arguments.packed_strings("ids", ids)
        buckets = np.full(bucket_count(len(ids)), strings.ABSENT)
        for part in chunks(len(ids)):
            twice = strings.first_repeat(buckets, data, offsets, part.start, part.stop)
            if twice >= 0:
                raise ValueError(f"ids must be new and distinct, {ids[twice]!r} comes twice")

    def _append(self, flat: list[str], n: int) -> None:
        """Add n documents given as id, title, text, id, ... The caller holds the lock and has checked them."""
        more, more_offsets = arguments.packed_strings("documents", flat)
        _, data, offsets, _ = self._state
        rows, size = (len(offsets) - 1) // PARTS, len(data)
        needed_rows, needed = len(self) + n, self._bytes() + len(more)
        if needed_rows > strings.MAX_ROWS:
            raise ValueError(f"Documents holds at most 2**31-1 documents, {needed_rows} would be needed")
        if needed_rows > rows or needed > size:
            self._resize(
                rows if needed_rows <= rows else min(max(2 * rows, needed_rows, 16), strings.MAX_ROWS),
                size if needed <= size else max(2 * size, needed),
            )
        head, data, offsets, buckets = self._state
        kernels.append(head, data, offsets, buckets, more, more_offsets)

    def _resize(self, rows: int, size: int) -> None:
        """Publish a copy with room for `rows` documents and `size` bytes. The caller holds the lock."""
        old_head, old_data, old_offsets, old_buckets = self._state
        head, data, offsets, buckets = _empty(rows, size)
        count, used = int(old_head[COUNT]), self._bytes()
        head[:] = old_head
        data[:used] = old_data[:used]
        offsets[: PARTS * count + 1] = old_offsets[: PARTS * count + 1]
        strings.rehash(old_buckets, buckets)
        self._state = head, data, offsets, buckets

    def _to_arrays(self) -> storage.Arrays:
        head, data, offsets, buckets = self._state
        stop = PARTS * int(head[COUNT]) + 1
        return {"data": data[: offsets[stop - 1]], "offsets": offsets[:stop], "buckets": buckets}

    def _owned(self) -> tuple[np.ndarray, ...]:
        return self._state

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        offsets, buckets = arrays["offsets"], arrays["buckets"]
        count = (len(offsets) - 1) // PARTS
        storage.expect(len(offsets) == PARTS * count + 1 and count <= strings.MAX_ROWS, "its rows do not add up")
        size = len(buckets)
        storage.expect(size >= 2 and size & (size - 1) == 0 and size >= 2 * count, "its buckets do not add up")
        self = cls()
        self._state = np.full(kernels.HEAD, count), arrays["data"], offsets, buckets
        return self

    def _fault(self) -> str | None:
        head, data, offsets, buckets = self._state
        count = int(head[COUNT])
        fault = int(strings.first_fault(buckets, data, offsets, PARTS, count))
        if fault != -1:
            return "offsets or buckets are unsound" if fault == -2 else f"the id of row {fault} does not lead to it"
        used = data[: self._bytes()]
        if not strings.splits_no_character(used, offsets[: PARTS * count + 1]):
            return "a string begins inside a character"
        for part in chunks(count, CHUNK):
            start, stop = offsets[PARTS * part.start], offsets[PARTS * part.stop]
            try:
                str(used[start:stop].data, "utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                return f"the bytes of rows {part.start}..{part.stop - 1} are no UTF-8 ({error.reason})"
        return None


def _empty(rows: int, size: int) -> tuple[np.ndarray, ...]:
    """head, data, offsets and buckets with room for `rows` documents and `size` bytes."""
    buckets = np.full(bucket_count(rows), strings.ABSENT)
    return np.zeros(kernels.HEAD, np.int64), np.empty(size, np.uint8), np.zeros(PARTS * rows + 1, np.int64), buckets
