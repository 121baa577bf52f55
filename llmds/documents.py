"""Texts, titles and string ids of documents, to show beside the results of a search."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments, files
from .base.arena import chunks
from .base.structure import Structure
from .kernels import documents as kernels
from .kernels import strings
from .kernels.documents import COUNT, ID, PARTS, TEXT, TITLE, Arrays
from .kernels.table import bucket_count

if TYPE_CHECKING:
    from typing_extensions import Self

# Documents packed and copied in one step: some megabytes of ordinary text, well under 100 ms.
CHUNK = 1 << 12


class Documents(Structure):
    """Texts with string ids of their own and, where there are any, titles.

    Documents are numbered 0, 1, ... in the order in which they are added. Such a number, the row, is the integer id
    by which the other structures know the document; here the row leads to id, title and text, and the id to the row.
    Documents cannot be removed or changed. Every str is returned as it was given, lone surrogates included.

    Notes
    -----
    All strings lie end to end as UTF-8 in one array; a hash table beside it finds the ids. Memory: the bytes of the
    strings, and 40 to 56 bytes for each document of the capacity, which doubles as needed. One thread may add
    documents while others read.

    Examples
    --------
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

    _schema: ClassVar[files.Schema] = {"data": (np.uint8, 1), "offsets": (np.int64, 1), "buckets": (np.int64, 1)}

    def __init__(self) -> None:
        # Replaced as a whole, so that a reader never combines old arrays with new ones.
        self._arrays = _empty(0, 0)
        self._lock = threading.RLock()

    @property
    def arrays(self) -> Arrays:
        """The arrays of the documents, for your own `@njit` functions.

        `Arrays(head, data, offsets, buckets)`: int64 (1,), uint8 (byte capacity,), int64 (3 * capacity + 1,) and
        int64 (power of 2,), as `llmds.kernels.documents` describes them. They are the structure's own, writable, not
        copies. `add`, `add_many`, `reserve` and `shrink_to_fit` may replace them; older ones are stale then. O(1).

        Examples
        --------
        >>> documents = Documents()
        >>> documents.add_many(["a", "b"], ["first", "second"])
        array([0, 1])
        >>> int(documents.arrays.head[0]), documents.arrays.data[1:6].tobytes()
        (2, b'first')
        """
        return self._arrays

    def add(self, id: str, text: str, title: str | None = None) -> int:
        """Add one document and return its row. Amortised O(bytes).

        Parameters
        ----------
        id
            Any str that no other document has as its id.
        text
            The text.
        title
            The title; None is the same as "".

        Returns
        -------
        int
            The row: the number of documents before.

        Raises
        ------
        ValueError
            If the id is already present.
        """
        id, text = arguments.text("id", id), arguments.text("text", text)
        title = "" if title is None else arguments.text("title", title)
        with self._lock:
            if id in self:
                raise ValueError(f"id must be new, {id!r} is already present")
            row = len(self)
            self._append([id, title, text], 1)
        return row

    def add_many(
        self, ids: Sequence[str], texts: Sequence[str], titles: Sequence[str | None] | None = None
    ) -> np.ndarray:
        """Add n documents and return their rows. Amortised O(bytes).

        Parameters
        ----------
        ids, texts
            n str each; the ids must be new and distinct.
        titles
            n titles, each a str or None, or None for no titles at all.

        Returns
        -------
        ndarray
            The rows, int64 (n,), ascending.

        Raises
        ------
        ValueError
            If an id is already present or occurs twice, or the lengths differ. Nothing is added then.

        Notes
        -----
        A call interrupted by Ctrl-C keeps the documents added so far.
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
        """Return the row of an id. Expected O(length).

        Raises
        ------
        KeyError
            If no document has this id.
        """
        row = self._find(arguments.text("id", id))
        if row < 0:
            raise KeyError(id)
        return row

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the rows of n ids, int64 (n,), -1 for unknown ones. Expected O(bytes)."""
        ids = arguments.strings("ids", ids)
        rows, own = np.empty(len(ids), np.int64), self._arrays
        for part in chunks(len(ids)):
            packed = arguments.packed_strings("ids", ids[part])
            strings.find_many(own.buckets, own.data, own.offsets, PARTS, *packed, rows[part])
        return rows

    def id_of(self, row: int) -> str:
        """Return the id of a row. O(length).

        Raises
        ------
        IndexError
            If there is no such row. Negative rows do not count from the end.
        """
        return self._string(row, ID)

    def ids_of(self, rows: ArrayLike) -> list[str]:
        """Return the ids of n rows, integers (n,), as a list. O(bytes).

        Raises
        ------
        IndexError
            If there is no such row as one of them.
        """
        return self._strings(rows, ID)

    def text(self, row: int) -> str:
        """Return the text of a row. O(bytes).

        Raises
        ------
        IndexError
            If there is no such row. Negative rows do not count from the end.
        """
        return self._string(row, TEXT)

    def texts(self, rows: ArrayLike) -> list[str]:
        """Return the texts of n rows, integers (n,), as a list. O(bytes).

        Raises
        ------
        IndexError
            If there is no such row as one of them.
        """
        return self._strings(rows, TEXT)

    def title(self, row: int) -> str:
        """Return the title of a row, "" where none was given. O(length).

        Raises
        ------
        IndexError
            If there is no such row. Negative rows do not count from the end.
        """
        return self._string(row, TITLE)

    def titles(self, rows: ArrayLike) -> list[str]:
        """Return the titles of n rows, integers (n,), as a list. O(bytes).

        Raises
        ------
        IndexError
            If there is no such row as one of them.
        """
        return self._strings(rows, TITLE)

    def reserve(self, n: int, n_bytes: int = 0) -> None:
        """Make room for n documents in all, so that nothing grows before that. O(size).

        Parameters
        ----------
        n
            Number of documents, those present included.
        n_bytes
            Bytes of all ids, titles and texts as UTF-8, those present included.
        """
        n = arguments.integer("n", n, 0, strings.MAX_ROWS)
        n_bytes = arguments.integer("n_bytes", n_bytes, 0)
        with self._lock:
            rows, size = self._capacity(), len(self._arrays.data)
            if n > rows or n_bytes > size:
                self._resize(max(n, rows), max(n_bytes, size))

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(size)."""
        with self._lock:
            self._resize(len(self), self._bytes())

    def stats(self) -> dict[str, Any]:
        """Return figures about the documents. O(1).

        Returns
        -------
        dict
            `documents`, `bytes` (of all ids, titles and texts), `capacity` (documents) and `byte_capacity`.
        """
        return {
            "documents": len(self),
            "bytes": self._bytes(),
            "capacity": self._capacity(),
            "byte_capacity": len(self._arrays.data),
        }

    def __len__(self) -> int:
        """Return the number of documents. O(1)."""
        return int(self._arrays.head[COUNT])

    def __contains__(self, id: object) -> bool:
        """Return whether a document has this id. Expected O(length)."""
        return isinstance(id, str) and self._find(id) >= 0

    def __repr__(self) -> str:
        """Return the number of documents and of bytes as text."""
        return f"Documents({len(self)} documents, {self._bytes()} bytes)"

    def _bytes(self) -> int:
        arrays = self._arrays
        return int(arrays.offsets[PARTS * arrays.head[COUNT]])

    def _capacity(self) -> int:
        return (len(self._arrays.offsets) - 1) // PARTS

    def _find(self, id: str) -> int:
        arrays = self._arrays
        query = np.frombuffer(bytearray(id, "utf-8", "surrogatepass"), np.uint8)
        return strings.find_one(arrays.buckets, arrays.data, arrays.offsets, PARTS, query)

    def _string(self, row: int, part: int) -> str:
        """Return the id, title or text (`part`) of a row."""
        row = arguments.integer("row", row)
        head, data, offsets, _ = self._arrays
        if not 0 <= row < head[COUNT]:
            raise IndexError(f"row must lie in 0..{head[COUNT] - 1}, got {row}")
        start, stop = offsets[PARTS * row + part : PARTS * row + part + 2]
        return str(data[start:stop].data, "utf-8", "surrogatepass")

    def _strings(self, rows: Any, part: int) -> list[str]:
        """Return the ids, titles or texts (`part`) of rows."""
        rows = arguments.integers("rows", rows)
        head, data, offsets, _ = self._arrays
        if len(rows) and (rows.min() < 0 or rows.max() >= head[COUNT]):
            raise IndexError(f"rows must lie in 0..{head[COUNT] - 1}, got {rows.min()}..{rows.max()}")
        begins = PARTS * rows + part
        starts, stops, view = offsets[begins].tolist(), offsets[begins + 1].tolist(), data.data
        return [str(view[start:stop], "utf-8", "surrogatepass") for start, stop in zip(starts, stops, strict=True)]

    def _refuse_known(self, ids: Sequence[str]) -> None:
        """Raise ValueError if one of `ids` is already present, or occurs twice."""
        known = self.rows_of(ids)
        if len(known) and known.max() >= 0:
            raise ValueError(f"ids must be new and distinct, {ids[int(np.argmax(known >= 0))]!r} is already present")
        data, offsets = arguments.packed_strings("ids", ids)
        buckets = np.full(bucket_count(len(ids)), strings.ABSENT)
        for part in chunks(len(ids)):
            repeated = strings.first_repeat(buckets, data, offsets, part.start, part.stop)
            if repeated >= 0:
                raise ValueError(f"ids must be new and distinct, {ids[repeated]!r} occurs twice")

    def _append(self, flat: list[str], n: int) -> None:
        """Add n documents given as id, title, text, id, ... The caller holds the lock and has checked them."""
        more, more_offsets = arguments.packed_strings("documents", flat)
        head, data, offsets, _ = self._arrays
        rows, size, count = (len(offsets) - 1) // PARTS, len(data), int(head[COUNT])
        needed_rows, needed = count + n, int(offsets[PARTS * count]) + len(more)
        if needed_rows > strings.MAX_ROWS:
            raise ValueError(f"Documents holds at most 2**31-1 documents, {needed_rows} would be needed")
        if needed_rows > rows or needed > size:
            self._resize(
                rows if needed_rows <= rows else min(max(2 * rows, needed_rows, 16), strings.MAX_ROWS),
                size if needed <= size else max(2 * size, needed),
            )
        kernels.append(*self._arrays, more, more_offsets)

    def _resize(self, rows: int, size: int) -> None:
        """Replace the arrays by copies with room for `rows` documents and `size` bytes. The caller holds the lock."""
        old, new = self._arrays, _empty(rows, size)
        used, stop = self._bytes(), PARTS * len(self) + 1
        new.head[:] = old.head
        new.data[:used] = old.data[:used]
        new.offsets[:stop] = old.offsets[:stop]
        strings.rehash(old.buckets, new.buckets)
        self._arrays = new

    def _to_arrays(self) -> files.Arrays:
        head, data, offsets, buckets = self._arrays
        stop = PARTS * int(head[COUNT]) + 1
        return {"data": data[: offsets[stop - 1]], "offsets": offsets[:stop], "buckets": buckets}

    def _owned(self) -> Arrays:
        return self._arrays

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        offsets, buckets = arrays["offsets"], arrays["buckets"]
        count = (len(offsets) - 1) // PARTS
        files.expect(
            len(offsets) == PARTS * count + 1 and count <= strings.MAX_ROWS, "the length of its offsets is wrong"
        )
        size = len(buckets)
        files.expect(size >= 2 and size & (size - 1) == 0 and size >= 2 * count, "the number of its buckets is wrong")
        self = cls()
        self._arrays = Arrays(np.full(kernels.HEAD, count), arrays["data"], offsets, buckets)
        return self

    def _fault(self) -> str | None:
        head, data, offsets, buckets = self._arrays
        count = int(head[COUNT])
        fault = int(strings.first_fault(buckets, data, offsets, PARTS, count))
        if fault == -2:
            return "offsets or buckets are inconsistent"
        if fault != -1:
            return f"the id of row {fault} does not lead to this row"
        used = data[: self._bytes()]
        if not strings.splits_no_character(used, offsets[: PARTS * count + 1]):
            return "a string begins inside a character"
        for part in chunks(count, CHUNK):
            start, stop = offsets[PARTS * part.start], offsets[PARTS * part.stop]
            try:
                str(used[start:stop].data, "utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                return f"the bytes of rows {part.start}..{part.stop - 1} are not UTF-8 ({error.reason})"
        return None


def _empty(rows: int, size: int) -> Arrays:
    """Return the arrays of no documents, with room for `rows` documents and `size` bytes."""
    return Arrays(
        np.zeros(kernels.HEAD, np.int64),
        np.empty(size, np.uint8),
        np.zeros(PARTS * rows + 1, np.int64),
        np.full(bucket_count(rows), strings.ABSENT),
    )
