"""The arrays of a KV cache: made, exchanged when they grow, saved, examined."""

import threading
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import arguments
from ..base import files as storage
from ..base.structure import Structure
from ..kernels import table
from ..kernels.kv_cache import check as kv_faults
from ..kernels.kv_cache import layout as kv_layout
from ..kernels.kv_cache import sequences as kv_tables
from ..paged_allocator import MAX_PAGES
from . import files as kv_file

if TYPE_CHECKING:
    from typing_extensions import Self

# In the order of their numbers in `kv_cache.eviction.dispatch`.
POLICIES = ("lru", "lfu", "slru", "tinylfu", "s3fifo", "lhd")
_KINDS = "biufc"
_NOTHING = np.zeros(0, np.uint8)
_WANTS = (kv_tables.FULL, kv_tables.UNPREPARED)


class KVArrays(Structure):
    """What a KV cache consists of; `kv_cache.layout` and `kv_cache.sequences` tell what stands where."""

    _schema: ClassVar[storage.Schema] = kv_file.SCHEMA
    _version: ClassVar[int] = 2

    _state: kv_layout.Arrays  # what the kernels take first; replaced as a whole

    def reserve(self, n: int) -> None:
        """Make room for n sequences in all, so that nothing grows before that but page tables. O(n)."""
        n = arguments.integer("n", n, 0, MAX_PAGES)
        with self._lock:
            if n > self._state[1][table.CAPACITY]:
                self._resize(n, len(self._state[2]))

    def shrink_to_fit(self) -> None:
        """Give back the room that sequences and page tables do not use; the pages stay. O(sequences, their pages)."""
        with self._lock:
            self._resize(0, 0)

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return int(self._state[0][kv_layout.PAGE_SIZE])

    @property
    def max_pages(self) -> int:
        """Pages in all."""
        return int(self._state[0][kv_layout.MAX_PAGES])

    @property
    def enable_prefix_sharing(self) -> bool:
        """Whether prefixes and blocks are found and shared."""
        return bool(self._state[0][kv_layout.SHARING])

    @property
    def store(self) -> bool:
        """Whether entries are kept to be read."""
        return bool(self._state[0][kv_layout.VISIBLE])

    @property
    def eviction(self) -> str:
        """The policy by which cached pages leave."""
        return POLICIES[int(self._state[0][kv_layout.POLICY])]

    @property
    def verify(self) -> bool:
        """Whether ids are compared before a page is shared."""
        return bool(self._state[0][kv_layout.VERIFY])

    @property
    def max_pinned(self) -> int:
        """The most pages that pins may keep."""
        return int(self._state[0][kv_layout.MAX_PINNED])

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an entry."""
        return self._token_shape

    @property
    def dtype(self) -> np.dtype:
        """Type of an entry's numbers."""
        return self._dtype

    @property
    def arrays(self) -> kv_layout.Arrays:
        """The cache's arrays: what every kernel in `llmds.kernels.kv_cache` over a whole cache takes first.

        A NamedTuple `(pool, seqs, tables, ids, store)`: pool int64 (n,), seqs int64 (m,), tables int32 (slots,), ids
        and store uint8. `llmds.kernels.kv_cache.layout` and `.sequences` say what they hold. These are the arrays
        themselves, not copies: what a kernel changes in them, the cache has changed.

        Read this property anew before each call of a kernel. `seqs` and `tables` are replaced when they grow, and by
        `reserve` and `shrink_to_fit`; `ids` and `store` when the first token ids must be kept. The old `seqs` is then
        retired, and every kernel that gets it returns `sequences.FULL` and does nothing.
        """
        return self._state

    @property
    def id_dtype(self) -> np.dtype:
        """Type in which token ids are kept and compared: `dtype` where entries are integers, else int64."""
        return self._dtype if self._content else np.dtype(np.int64)

    def call(self, kernel: Callable, *arguments_: Any) -> tuple:
        """Return kernel(*arrays, *arguments_), with more room and again as often as it asks for room.

        For a kernel that returns a tuple, the first item of which is a code of `llmds.kernels.kv_cache.sequences`.
        """
        while (answer := kernel(*(arrays := self.arrays), *arguments_))[0] in _WANTS:
            if answer[0] == kv_tables.FULL:
                self.make_room(arrays)
            else:
                self._prepare(bool(answer[1]))
        return answer

    def make_room(self, arrays: kv_layout.Arrays) -> None:
        """Replace `arrays`, for which a kernel returned `sequences.FULL`, by larger ones. O(sequences, their pages).

        Nothing happens if another call has replaced them meanwhile. Read `arrays` anew afterwards.
        """
        with self._lock:
            if self._state is not arrays:
                return
            seqs, slots = arrays.seqs, len(arrays.tables)
            capacity, rows = int(seqs[table.CAPACITY]), int(seqs[table.COUNT] + seqs[kv_tables.WANTED_ROWS])
            needed = int(seqs[kv_tables.LIVE] + seqs[kv_tables.WANTED_SLOTS])
            if max(rows, needed) > MAX_PAGES:
                raise ValueError(f"at most 2**31-1 sequences and page references, {max(rows, needed)} would be needed")
            # half of the slots must be free after gathering them, or it would be done again too soon
            self._resize(
                capacity if rows <= capacity else max(2 * capacity, rows),
                slots if 2 * needed <= slots else max(2 * slots, 2 * needed),
            )

    def _prepare(self, ids: bool) -> None:
        """Have room for `ids` beside the entries, or for the token ids of which nothing else is kept."""
        with self._lock:
            pool, seqs, tables, *kept = self._state
            if len(kept[not ids]):
                return
            width = int(pool[kv_layout.ID_BYTES])
            kept[not ids] = np.zeros(self.max_pages * self.page_size * width, np.uint8)
            self._resize(int(seqs[table.CAPACITY]), len(tables), *kept)
            if not ids:  # only now: whoever has the old arrays has found them retired
                pool[kv_layout.STORED] = 1

    def _resize(self, rows: int, slots: int, ids: np.ndarray | None = None, store: np.ndarray | None = None) -> None:
        """Exchange what grows. The caller holds the lock; whoever still has the old arrays finds them retired."""
        pool, seqs, tables, old_ids, old_store = self._state
        seqs, tables = kv_tables.resized(seqs, tables, rows, slots)
        ids, store = old_ids if ids is None else ids, old_store if store is None else store
        self._state = kv_layout.Arrays(pool, seqs, tables, ids, store)

    _call, _make_room = call, make_room  # until their last callers have changed

    def _set_entry(self, token_shape: Any, dtype: Any) -> None:
        if not isinstance(token_shape, (tuple, list)):
            raise TypeError(f"token_shape must be a tuple of integers, got {token_shape!r}")
        self._token_shape = tuple(arguments.integer("token_shape", side, 1, MAX_PAGES) for side in token_shape)
        self._dtype = np.dtype(dtype)
        if self._dtype.kind not in _KINDS or self._dtype.newbyteorder("=") != self._dtype:
            raise TypeError(f"dtype must be numeric, of native byte order, got {self._dtype}")
        self._entry_bytes = prod(self._token_shape) * self._dtype.itemsize
        if self._entry_bytes > MAX_PAGES:
            raise ValueError(f"token_shape and dtype must make at most 2**31-1 bytes an entry, got {self._entry_bytes}")

        self._content = self._token_shape == () and self._dtype.kind in "iu"

    def _set_state(self, *state: np.ndarray) -> None:
        self._state = kv_layout.Arrays(*state)
        self._lock = threading.RLock()

    def _bytes(self, array: np.ndarray) -> np.ndarray:
        """The bytes of entries, uint8; (0,) where nothing is kept of them."""
        if self.store or (self._content and self.enable_prefix_sharing):
            return array.reshape(-1).view(np.uint8)
        return _NOTHING

    def _owned(self) -> tuple:
        return self._state

    def _to_arrays(self) -> storage.Arrays:
        return kv_file.to_arrays(self)

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        return kv_file.from_arrays(cls, arrays)

    def _fault(self) -> str | None:
        pool, seqs, tables, ids, store = self._state
        return kv_faults.FAULTS[kv_faults.first_fault(pool, seqs, tables, ids, store)] or None
