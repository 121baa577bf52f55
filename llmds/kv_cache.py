"""Paged key/value storage whose sequences share pages."""

import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, kv_arguments, storage
from .kernels import kv_cache as kernels
from .kernels import kv_faults, kv_match, kv_pool, kv_tables, table
from .paged_allocator import MAX_PAGES, OutOfPagesError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_ID = 2**63 - 1
Level = tuple[np.ndarray, np.ndarray, np.ndarray]
_KINDS = "biufc"


class KVCache(storage.Structure):
    """Sequences of K/V entries, one a token, in pages that are shared where their beginnings agree.

    An entry is an int (int64), or a tensor of shape `token_shape` and type `dtype`, for instance
    `(layers, 2, kv_heads, head_dim)` of float16. All entries lie in one array
    `(max_pages, page_size, *token_shape)`, allocated once; with `store=False` none are kept, and the
    cache is the bookkeeping alone, for simulation.

    A prefix named by `prefix_tokens` lies in pages of its own (paged attention, Kwon et al. 2023; cascade
    attention): every sequence that names the same token ids, and brings the same entries, holds the same
    pages. Pages count their references; a page that others hold is copied before it is written to.
    A page whose last reference is gone can still be found by the next sequence that names it, until its
    space is needed; then the page that was let go longest ago leaves first (`eviction="lru"`), a
    sequence's last pages before its first. Without `enable_prefix_sharing` nothing is found, and
    only `fork` shares.

    A call that raises changes nothing: OutOfPagesError leaves contents, recency and counts as they
    were. A call is one kernel call that holds the GIL, so threads may share a cache. Memory
    beside the entries: 56 to 64 bytes a page, 8 bytes a token of capacity where prefixes are
    named by token ids, and 4 to 16 bytes for each page of each sequence.

    >>> cache = KVCache(page_size=4, max_pages=8)
    >>> system = [11, 12, 13, 14, 15, 16]
    >>> cache.attach(1, [*system, 7, 8], prefix_tokens=system)
    >>> cache.attach(2, [*system, 9], prefix_tokens=system)
    >>> cache.append(2, [10])
    >>> cache.get(2)
    [11, 12, 13, 14, 15, 16, 9, 10]
    >>> stats = cache.stats()
    >>> stats["allocated_pages"], stats["shared_pages_count"], cache.match_prefix([*system, 30])
    (4, 2, 6)
    """

    _schema: ClassVar[storage.Schema] = {
        "pool": (np.int64, 1),
        "seqs": (np.int64, 1),
        "tables": (np.int32, 1),
        "ids": (np.int64, 2),
        "store": (np.uint8, 2),
        "entry": (np.uint8, 1),
    }

    # pool, seqs, tables, ids, store: what the kernels take first; exchanged as one
    _state: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    def __init__(
        self,
        page_size: int = 512,
        max_pages: int = 10000,
        enable_prefix_sharing: bool = True,
        *,
        token_shape: tuple[int, ...] = (),
        dtype: Any = np.int64,
        store: bool = True,
        eviction: str = "lru",
    ):
        page_size = arguments.integer("page_size", page_size, 1, MAX_PAGES)
        max_pages = arguments.integer("max_pages", max_pages, 1, MAX_PAGES)
        for name, value in (("enable_prefix_sharing", enable_prefix_sharing), ("store", store)):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{name} must be a bool, got {value!r}")
        arguments.one_of("eviction", eviction, ("lru",))
        self._set_entry(token_shape, dtype)
        pool = kv_pool.new(page_size, max_pages, self._entry_bytes, int(enable_prefix_sharing), int(store))
        self._set_arrays(pool, *kv_tables.new(16))

    def attach(self, seq_id: int, kv_tokens: list, prefix_tokens: list | None = None) -> None:
        """Hold `kv_tokens` under `seq_id`. O(len(kv_tokens)).

        `kv_tokens`: a list, or an array (n, *token_shape). `prefix_tokens`: the token ids of a prefix, whose
        entries are the first of `kv_tokens`; pages in which a prefix beginning with the same ids is there already,
        with the same entries bit for bit (the ids alone under `store=False`), are shared. From the first page
        whose entries differ, the sequence gets pages of its own, which others do not find.

        What is there under `seq_id` is replaced. OutOfPagesError if the pages that no other sequence holds do not
        suffice; ValueError if the prefix is longer than `kv_tokens`.
        """
        seq, (length, entries) = _id("seq_id", seq_id), self._entries("kv_tokens", kv_tokens)
        prefix = kv_arguments.integers("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        if len(prefix) > length:
            raise ValueError(f"prefix_tokens must be no longer than kv_tokens, got {len(prefix)} and {length}")
        self._prepare_ids(len(prefix))
        self._attach_one(seq, length, entries, prefix, False)

    def attach_many(
        self,
        seq_ids: ArrayLike,
        kv_tokens: ArrayLike,
        indptr: ArrayLike,
        prefix_tokens: ArrayLike | None = None,
        prefix_indptr: ArrayLike | None = None,
    ) -> None:
        """As `attach` for n sequences in order, all or none. O(entries), and O(max_pages) where pages are scarce.

        `seq_ids` (n,); `kv_tokens` (total, *token_shape), those of sequence e from `indptr[e]` to `indptr[e + 1]`,
        `indptr` (n + 1,); likewise their prefixes `prefix_tokens` (any,) and `prefix_indptr` (n + 1,), both or
        neither. OutOfPagesError, with nothing changed, if the pages do not suffice for all.
        """
        seqs, (length, entries) = kv_arguments.integers("seq_ids", seq_ids, 0), self._entries("kv_tokens", kv_tokens)
        indptr = kv_arguments.indptr("indptr", indptr, len(seqs), length)
        if (prefix_tokens is None) != (prefix_indptr is None):
            raise ValueError("prefix_tokens and prefix_indptr must both be given, or neither")
        prefix = kv_arguments.integers("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        if prefix_indptr is None:
            prefix_indptr = np.zeros(len(seqs) + 1, np.int64)
        prefix_indptr = kv_arguments.indptr("prefix_indptr", prefix_indptr, len(seqs), len(prefix))
        if (long := np.diff(prefix_indptr) > np.diff(indptr)).any():
            raise ValueError(f"prefix_tokens must be no longer than kv_tokens, those of seq_ids[{long.argmax()}] are")
        self._prepare_ids(len(prefix))
        self._answered(self._call(kernels.attach, seqs, entries, indptr, prefix, prefix_indptr, False))

    def attach_blocks(self, seq_id: int, block_ids: ArrayLike) -> None:
        """Hold whole pages, named by content ids (m,), one a page, under `seq_id`. O(m).

        The leading pages that are there already, each under the same content ids before it, are shared. The entries
        of the others are zeros until they are written. Errors and replacement are those of `attach`.
        """
        seq, blocks = _id("seq_id", seq_id), kv_arguments.integers("block_ids", block_ids)
        length = len(blocks) * self.page_size
        self._attach_one(seq, length, np.empty(0, np.uint8), blocks, True)

    def detach(self, seq_id: int) -> None:
        """Let go of a sequence; nothing happens if there is none. O(pages)."""
        self._call(kernels.detach, _id("seq_id", seq_id))

    def get(self, seq_id: int) -> list | None:
        """The entries, in a list that owns its data; None if the sequence is unknown. O(length).

        Numbers where an entry is one number, else an array for each token. ValueError under `store=False`.
        """
        entries = self.get_array(seq_id)
        if entries is None:
            return None
        return list(entries) if self._token_shape else entries.tolist()

    def get_array(self, seq_id: int) -> np.ndarray | None:
        """The entries, copied, (length, *token_shape); None if the sequence is unknown. O(length).

        ValueError under `store=False`.
        """
        if not self.store:
            raise ValueError("store=False keeps no entries to get")
        code, data = self._call(kernels.gather, _id("seq_id", seq_id))
        return None if code == kernels.ABSENT else data.view(self._dtype).reshape(-1, *self._token_shape)

    def append(self, seq_id: int, kv_tokens: list) -> None:
        """Add entries to the end. O(len(kv_tokens)), and a copy of the last page if others hold it.

        KeyError if the sequence is unknown, OutOfPagesError if the pages do not suffice.
        """
        seq, (count, entries) = _id("seq_id", seq_id), self._entries("kv_tokens", kv_tokens)
        self._answered(self._call(kernels.append, np.array((seq,)), count, entries), (seq,))

    def append_many(self, seq_ids: ArrayLike, entries: ArrayLike) -> None:
        """Add entries[e] to the end of seq_ids[e], all or none: a decode step. O(n).

        `seq_ids` (n,), distinct; `entries` (n, *token_shape). KeyError if one is unknown, OutOfPagesError if the
        pages do not suffice for all, ValueError if one comes twice.
        """
        seqs, (count, data) = kv_arguments.integers("seq_ids", seq_ids), self._entries("entries", entries)
        if len(seqs) != count:
            raise ValueError(f"lengths must match, got seq_ids of {len(seqs)}, entries of {count}")
        answer = self._call(kernels.append, seqs, 1, data)
        if answer[0] == kernels.ABSENT:  # looked for only now: in every decode step it would be felt
            arguments.integers("seq_ids", seqs, 0)
        self._answered(answer, seqs)

    def write(self, seq_id: int, start: int, kv_tokens: list) -> None:
        """Replace the entries from position `start` on. O(len(kv_tokens)), and a copy of each page that others hold.

        KeyError if the sequence is unknown, ValueError if this would reach beyond its length, OutOfPagesError if
        the pages do not suffice. A page that was findable no longer is, for its entries have changed.
        """
        seq, (count, entries) = _id("seq_id", seq_id), self._entries("kv_tokens", kv_tokens)
        start = arguments.integer("start", start, 0)
        answer = self._call(kernels.write, seq, start, count, entries)
        if answer[0] == kernels.OUTSIDE:
            raise ValueError(f"start and kv_tokens must lie in the length {answer[1]}, got {start} and {count} entries")
        self._answered(answer)

    def truncate(self, seq_id: int, length: int) -> None:
        """Cut a sequence to its first `length` entries. O(pages let go).

        Later entries go on in the last page left, copied first if others hold it; after a named prefix that is whole
        they begin a page. KeyError if the sequence is unknown, ValueError if it is shorter.
        """
        seq, length = _id("seq_id", seq_id), arguments.integer("length", length, 0)
        answer = self._call(kernels.truncate, seq, length)
        if answer[0] == kernels.OUTSIDE:
            raise ValueError(f"length must lie in 0..{answer[1]}, the present length, got {length}")
        self._answered(answer)

    def fork(self, src: int, dst: int) -> None:
        """Hold the entries of `src` under `dst` too; all pages are shared until one of them is written to. O(pages).

        KeyError if `src` is unknown, ValueError if `dst` is there already.
        """
        source, target = _id("src", src), _id("dst", dst)
        answer = self._call(kernels.fork, source, target)
        if answer[0] == kernels.PRESENT:
            raise ValueError(f"dst must be new, {target} is there already")
        self._answered(answer)

    def match_prefix(self, token_ids: list) -> int:
        """How many leading token ids lie in pages that can be found, as a prefix of that length. O(len(token_ids)).

        Nothing changes, recency included.
        """
        tokens = kv_arguments.integers("token_ids", token_ids)
        return int(self._match(tokens, np.array([0, len(tokens)]))[0])

    def match_prefix_many(self, token_ids: ArrayLike, indptr: ArrayLike) -> np.ndarray:
        """As `match_prefix` for n requests: int64 (n,). O(len(token_ids)).

        `token_ids` (total,), those of request e from `indptr[e]` to `indptr[e + 1]`, `indptr` (n + 1,).
        """
        tokens = kv_arguments.integers("token_ids", token_ids)
        return self._match(tokens, kv_arguments.indptr("indptr", indptr, None, len(tokens)))

    def block_table(self, seq_ids: ArrayLike) -> list[Level]:
        """The pages of sequences (n,) as paged and cascade attention kernels read them. O(pages).

        A list of levels: the named prefixes, then the rest; one level where none of them names a prefix. Each is
        `(indptr, indices, last_page_len)`, int32: the pages of sequence e at this level are
        `indices[indptr[e]:indptr[e + 1]]`, the last of which holds `last_page_len[e]` entries, the others page_size
        (0 where there are none). KeyError if one is unknown.
        """
        seqs = kv_arguments.integers("seq_ids", seq_ids, 0)
        code, at, named, *levels = self._call(kv_tables.block_table, seqs)
        if code == kernels.ABSENT:
            raise KeyError(int(seqs[at]))
        first, second = tuple(levels[:3]), tuple(levels[3:])
        return [first, second] if named else [second]

    def stats(self) -> dict[str, int]:
        """Counts. O(1).

        `total_sequences`; `total_pages`, of which `allocated_pages` are referenced and `free_pages` are not;
        `cached_pages` (free, still findable); `prefix_map_size` (findable); `shared_pages_count` (two references or
        more); `total_page_refs`. Since the beginning: `prefix_shares` (attaches that found something), `cow_copies`,
        `evictions`, and of the tokens in named prefixes and blocks `lookup_tokens` looked for, `hit_tokens` found.
        """
        pool, seqs = self._state[:2]
        head = pool[: kv_pool.HEAD].tolist()
        free = head[kv_pool.BLANKS] + head[kv_pool.CACHED]
        return {
            "total_sequences": int(seqs[table.COUNT]),
            "total_pages": head[kv_pool.MAX_PAGES],
            "allocated_pages": head[kv_pool.MAX_PAGES] - free,
            "free_pages": free,
            "cached_pages": head[kv_pool.CACHED],
            "prefix_shares": head[kv_pool.SHARES],
            "prefix_map_size": head[kv_pool.FINDABLE],
            "shared_pages_count": head[kv_pool.SHARED],
            "total_page_refs": head[kv_pool.TOTAL_REFS],
            "cow_copies": head[kv_pool.COPIES],
            "evictions": head[kv_pool.EVICTIONS],
            "hit_tokens": head[kv_pool.HITS],
            "lookup_tokens": head[kv_pool.LOOKUPS],
        }

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
        return int(self._state[0][kv_pool.PAGE_SIZE])

    @property
    def max_pages(self) -> int:
        """Pages in all."""
        return int(self._state[0][kv_pool.MAX_PAGES])

    @property
    def enable_prefix_sharing(self) -> bool:
        """Whether prefixes and blocks are found and shared."""
        return bool(self._state[0][kv_pool.SHARING])

    @property
    def store(self) -> bool:
        """Whether entries are kept."""
        return bool(self._state[0][kv_pool.STORED])

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an entry."""
        return self._token_shape

    @property
    def dtype(self) -> np.dtype:
        """Type of an entry's numbers."""
        return self._dtype

    @property
    def pages(self) -> np.ndarray:
        """The entries, (max_pages, page_size, *token_shape), not copied and read-only; what `block_table` indexes.

        ValueError under `store=False`.
        """
        if not self.store:
            raise ValueError("store=False keeps no entries")
        pages = self._state[4].view(self._dtype).reshape(self.max_pages, self.page_size, *self._token_shape)
        pages.flags.writeable = False
        return pages

    def __len__(self) -> int:
        return int(self._state[1][table.COUNT])

    def __contains__(self, seq_id: object) -> bool:
        if not isinstance(seq_id, (int, np.integer)) or isinstance(seq_id, bool) or not 0 <= seq_id <= MAX_ID:
            return False
        _, rows, buckets = table.parts(self._state[1])
        return bool(table.find(rows, buckets, int(seq_id)) >= 0)

    def __repr__(self) -> str:
        free = int(kv_pool.available(self._state[0]))
        return (
            f"KVCache(page_size={self.page_size}, max_pages={self.max_pages}, {len(self)} sequences, "
            f"{self.max_pages - free} pages allocated)"
        )

    def _call(self, kernel: Callable, *arguments_: Any) -> tuple:
        while (answer := kernel(*(state := self._state), *arguments_))[0] == kernels.FULL:
            self._make_room(state)
        return answer

    def _answered(self, answer: tuple, seq_ids: Sequence[int] | np.ndarray | None = None) -> None:
        """Raise what a kernel refused."""
        code, a, b = answer
        if code == kernels.OK:
            return
        if code == kernels.ABSENT:
            raise KeyError(a if seq_ids is None else int(seq_ids[a]))
        if code == kernels.NO_PAGES:
            raise OutOfPagesError(f"{a} pages are needed, {b} of {self.max_pages} are free")
        raise ValueError(f"seq_ids must be distinct, seq_ids[{a}] comes twice")

    def _attach_one(self, seq: int, length: int, entries: np.ndarray, prefix: np.ndarray, blocks: bool) -> None:
        indptr, prefix_indptr = np.array((0, length)), np.array((0, len(prefix)))
        self._answered(self._call(kernels.attach, np.array((seq,)), entries, indptr, prefix, prefix_indptr, blocks))

    def _match(self, tokens: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        matched = np.empty(len(indptr) - 1, np.int64)
        self._call(kv_match.match_many, tokens, indptr, matched)
        return matched

    def _entries(self, name: str, values: Any) -> tuple[int, np.ndarray]:
        """How many, and their bytes: uint8 (n * entry_bytes,), empty where none are stored."""
        array = kv_arguments.entries(name, values, self._dtype, self._token_shape)
        if not self.store:
            return len(array), np.empty(0, np.uint8)
        return len(array), array.reshape(-1).view(np.uint8)

    def _make_room(self, seen: tuple) -> None:
        """Have other arrays than those `seen`, with the room that a kernel wanted; or another thread was faster."""
        with self._lock:
            if self._state is not seen:
                return
            seqs, slots = seen[1], len(seen[2])
            capacity, rows = int(seqs[table.CAPACITY]), int(seqs[table.COUNT] + seqs[kv_tables.WANTED_ROWS])
            needed = int(seqs[kv_tables.LIVE] + seqs[kv_tables.WANTED_SLOTS])
            if max(rows, needed) > MAX_PAGES:
                raise ValueError(f"at most 2**31-1 sequences and page references, {max(rows, needed)} would be needed")
            # half of the slots must be free after gathering them, or it would be done again too soon
            self._resize(
                capacity if rows <= capacity else max(2 * capacity, rows),
                slots if 2 * needed <= slots else max(2 * slots, 2 * needed),
            )

    def _prepare_ids(self, count: int) -> None:
        """Token ids are kept from the first prefix on."""
        if count == 0 or len(self._state[3]) > 0 or not self.enable_prefix_sharing:
            return
        with self._lock:
            _, seqs, tables, ids, _ = self._state
            if len(ids) == 0:
                ids = np.zeros((self.max_pages, self.page_size), np.int64)
                self._resize(int(seqs[table.CAPACITY]), len(tables), ids)

    def _resize(self, rows: int, slots: int, ids: np.ndarray | None = None) -> None:
        """Exchange what grows. The caller holds the lock; whoever still has the old arrays finds them retired."""
        pool, seqs, tables, old_ids, store = self._state
        seqs, tables = kv_tables.resized(seqs, tables, rows, slots)
        self._state = (pool, seqs, tables, old_ids if ids is None else ids, store)

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

    def _set_arrays(self, pool: np.ndarray, seqs: np.ndarray, tables: np.ndarray) -> None:
        page_size, max_pages, stored = int(pool[kv_pool.PAGE_SIZE]), int(pool[kv_pool.MAX_PAGES]), pool[kv_pool.STORED]
        # untouched zeros are no memory yet: the operating system gives them when they are written to
        store = np.zeros(max_pages * page_size * self._entry_bytes if stored else 0, np.uint8)
        self._state = (pool, seqs, tables, np.zeros((0, page_size), np.int64), store)
        self._lock = threading.RLock()

    def _owned(self) -> tuple:
        return self._state

    def _to_arrays(self) -> storage.Arrays:
        pool, seqs, tables, ids, store = self._state
        used, named = _pages_in_use(pool)
        shape = ",".join(map(str, self._token_shape))
        return {
            "pool": pool,
            "seqs": seqs,
            "tables": tables,
            "ids": ids[named[: len(ids)]],
            "store": store.reshape(self.max_pages, -1)[used] if self.store else np.zeros((0, 0), np.uint8),
            "entry": storage.text_array(f"{self._dtype.str} {shape}"),
        }

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        pool, seqs, tables, ids, entries = (arrays[name] for name in ("pool", "seqs", "tables", "ids", "store"))
        storage.expect(bool(kv_faults.well_formed(pool, seqs, tables)), "its pages or sequences do not add up")
        self = cls.__new__(cls)
        try:
            dtype, _, shape = storage.text_of(arrays["entry"]).partition(" ")
            self._set_entry(tuple(map(int, filter(None, shape.split(",")))), dtype)
        except (TypeError, ValueError, SyntaxError) as error:
            raise storage.Damaged(f"damaged: entry ({error})") from error
        storage.expect(self._entry_bytes == pool[kv_pool.ENTRY_BYTES], "entries are not of the size it says")
        used, named = _pages_in_use(pool)
        page_size, stored = int(pool[kv_pool.PAGE_SIZE]), bool(pool[kv_pool.STORED])
        storage.expect(ids.shape == (named.sum(), page_size) or (not named.any() and len(ids) == 0), "ids do not fit")
        shape_ = (used.sum(), page_size * self._entry_bytes) if stored else (0, 0)
        storage.expect(entries.shape == shape_, "entries do not fit")
        try:
            self._set_arrays(pool, seqs, tables)
            if len(ids):
                whole = np.zeros((len(used), page_size), np.int64)
                whole[named] = ids
                self._state = (*self._state[:3], whole, self._state[4])
            if stored:
                self._state[4].reshape(len(used), -1)[used] = entries
        except (MemoryError, ValueError) as error:
            raise storage.Damaged(f"damaged, or larger than memory: {error}") from error
        return self

    def _fault(self) -> str | None:
        pool, seqs, tables, ids, _ = self._state
        return kv_faults.FAULTS[kv_faults.first_fault(pool, seqs, tables, ids)] or None


def _id(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value <= MAX_ID:  # the common case, without a call
        return value
    return arguments.integer(name, value, 0, MAX_ID)


def _pages_in_use(pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pages are referenced or findable, and which of them have token ids: bool (max_pages,) each."""
    rows = kv_pool.parts(pool)[1][:-1]
    findable = rows[:, kv_pool.BUCKET] >= 0
    return (rows[:, kv_pool.REFS] > 0) | findable, findable & (rows[:, kv_pool.COUNT] > 0)
