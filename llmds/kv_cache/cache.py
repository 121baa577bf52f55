"""Paged key/value storage whose sequences share pages."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base.fast_calls import Direct
from ..base.files import Arrays as FileArrays
from ..base.files import Schema
from ..base.structure import Structure
from ..kernels import table
from ..kernels.kv_cache import attach, change, events, layout, match, sequences
from ..kernels.kv_cache.eviction import dispatch
from ..paged_allocator import MAX_PAGES, OutOfPagesError
from . import files, ragged, state
from .ragged import MAX_ID
from .state import POLICIES, Events, setting

if TYPE_CHECKING:
    from typing_extensions import Self

Level = tuple[np.ndarray, np.ndarray, np.ndarray]
_NO_BYTES = np.zeros(0, np.uint8)
_attach, _change, _events, _match, _sequences = map(Direct, (attach, change, events, match, sequences))


class KVCache(Structure):
    """A paged KV cache: sequences of entries, one per token, that share the pages of equal prefixes.

    An entry is an int, or a tensor of shape `token_shape`, for instance `(layers, 2, kv_heads, head_dim)` of float16.
    All entries lie in one array `(max_pages, page_size, *token_shape)`, allocated once.

    Entries that are integers are token ids: a full page of them is found by the next sequence with the same ids up to
    its end, whether they were attached or appended. Tensors carry no ids, and are shared under `prefix_tokens`: a named
    prefix lies in pages of its own, whatever its length, and sequences that name the same token ids and have the same
    entries hold the same pages. Pages count their references; a page that others hold is copied before it is written
    to. A page without references can still be found until its space is needed; then pages are evicted by the policy,
    the last pages of a sequence before its first. Pages of one `salt` are not found under another, so tenants
    cannot observe each other's prompts.

    A call that raises changes nothing: OutOfPagesError leaves contents, recency and counts as they were. A call is one
    kernel call that holds the GIL, so threads may share a cache.

    Parameters
    ----------
    page_size, max_pages : int
        Tokens per page, and number of pages.
    enable_prefix_sharing : bool
        If False, nothing is found, and only `fork` shares pages.
    token_shape, dtype
        Shape and numeric type of an entry.
    store : bool
        If False, entries cannot be read: for an engine that keeps the tensors elsewhere, or for simulation.
    eviction : str
        The policy that chooses the cached page to evict, one of `llmds.kernels.kv_cache.eviction.table.POLICIES`.
    verify : bool
        If False, ids are not compared before a page is shared, only their hashes: for research.
    max_pinned : int, optional
        The largest number of pages that may be pinned; by default half of `max_pages`.
    events : int
        How many events are kept for `events()`.

    Notes
    -----
    Automatic prefix caching by chained hashes as in vLLM; paged attention: Kwon et al. (2023). Memory beside the
    entries: 80 to 96 bytes a page ("s3fifo", "tinylfu" and "lhd" 16, 64 and 100 more), 4 to 16 bytes for each page of
    each sequence, and for token ids that are not the entries themselves, once there are any, the itemsize of an integer
    `dtype` (else 8) a token of capacity.

    Examples
    --------
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

    _schema: ClassVar[Schema] = files.SCHEMA
    _version: ClassVar[int] = 2

    _arrays: layout.Arrays  # replaced as a whole
    _entry: state.Entry

    def __init__(
        self, page_size: int = 512, max_pages: int = 10000, enable_prefix_sharing: bool = True, *,
        token_shape: tuple[int, ...] = (), dtype: Any = np.int64, store: bool = True, eviction: str = "lru",
        verify: bool = True, max_pinned: int | None = None, events: int = 0,
    ):  # fmt: skip
        page_size = arguments.integer("page_size", page_size, 1, MAX_PAGES)
        max_pages = arguments.integer("max_pages", max_pages, 1, MAX_PAGES)
        for name, value in (("enable_prefix_sharing", enable_prefix_sharing), ("store", store), ("verify", verify)):
            ragged.flag(name, value)
        policy = POLICIES.index(arguments.one_of("eviction", eviction, POLICIES))
        max_pinned = max_pages // 2 if max_pinned is None else arguments.integer("max_pinned", max_pinned, 0, max_pages)
        events = arguments.integer("events", events, 0, MAX_PAGES)
        entry = state.Entry.of(token_shape, dtype)
        settings = {
            layout.PAGE_SIZE: page_size, layout.MAX_PAGES: max_pages, layout.SHARING: int(enable_prefix_sharing),
            layout.ENTRY_BYTES: entry.nbytes, layout.ID_BYTES: entry.id_dtype.itemsize,
            layout.CONTENT: int(entry.content), layout.STORED: int(store), layout.VISIBLE: int(store),
            layout.VERIFY: int(verify), layout.MAX_PINNED: max_pinned, layout.EVENTS: events, layout.POLICY: policy,
        }  # fmt: skip
        self._arrays, self._entry, self._lock = state.new(settings), entry, threading.RLock()

    def attach(self, seq_id: int, kv_tokens: list, prefix_tokens: list | None = None, *, salt: int = 0) -> None:
        """Store `kv_tokens` as the sequence `seq_id`, replacing its former entries. O(len(kv_tokens)).

        Pages of the prefix that can be found already, with the same ids and bit for bit the same entries (the ids alone
        under `store=False`), are shared; from the first page whose entries differ, others do not find the new ones.

        Parameters
        ----------
        seq_id : int
        kv_tokens : list or array (n, *token_shape)
        prefix_tokens : list of int, optional
            The token ids of a prefix, whose entries are the first of `kv_tokens`.
        salt : int
            Pages are shared among sequences of one salt only.

        Raises
        ------
        OutOfPagesError
            If the pages that no other sequence holds do not suffice.
        ValueError
            If the prefix is longer than `kv_tokens`.
        """
        seq, array = ragged.seq_id("seq_id", seq_id), self._entry.array("kv_tokens", kv_tokens)
        prefix = self._entry.ids("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        if len(prefix) > len(array):
            raise ValueError(f"prefix_tokens must be no longer than kv_tokens, got {len(prefix)} and {len(array)}")
        self._attach(ragged.request(seq, salt, len(array), len(prefix)), array, prefix)

    def attach_many(
        self, seq_ids: ArrayLike, kv_tokens: ArrayLike, indptr: ArrayLike, prefix_tokens: ArrayLike | None = None,
        prefix_indptr: ArrayLike | None = None, *, salt: ArrayLike = 0,
    ) -> None:  # fmt: skip
        """Attach n sequences in order, all or none. O(entries), and O(max_pages) where pages are scarce.

        Errors and replacement are those of `attach`.

        Parameters
        ----------
        seq_ids, indptr : int arrays (n,) and (n + 1,)
        kv_tokens : array (total, *token_shape)
            Those of sequence e are `kv_tokens[indptr[e]:indptr[e + 1]]`.
        prefix_tokens, prefix_indptr : int arrays (any,) and (n + 1,), optional
            The prefixes, likewise; both or neither.
        salt : int or int array (n,)
        """
        array = self._entry.array("kv_tokens", kv_tokens)
        if (prefix_tokens is None) != (prefix_indptr is None):
            raise ValueError("prefix_tokens and prefix_indptr must both be given, or neither")
        prefix = self._entry.ids("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        self._attach(ragged.requests(seq_ids, indptr, len(array), prefix_indptr, len(prefix), salt), array, prefix)

    def attach_blocks(self, seq_id: int, block_ids: ArrayLike, *, salt: int = 0) -> None:
        """Attach a sequence of whole pages, named by content ids, int array (m,), one per page. O(m).

        The leading pages that can be found already, each after the same content ids, are shared. The entries of the
        others are zeros until they are written. Errors and replacement are those of `attach`.
        """
        seq, blocks = ragged.seq_id("seq_id", seq_id), arguments.integers("block_ids", block_ids)
        self._attach(ragged.request(seq, salt, len(blocks) * self.page_size, len(blocks)), None, blocks)

    def attach_blocks_many(
        self, seq_ids: ArrayLike, block_ids: ArrayLike, indptr: ArrayLike, *, salt: ArrayLike = 0
    ) -> None:
        """Attach n sequences in order, as `attach_blocks` does, all or none.

        Those of sequence e are `block_ids[indptr[e]:indptr[e + 1]]`; `salt` is an int or an array (n,). O(ids), and
        O(max_pages) where pages are scarce.
        """
        blocks = arguments.integers("block_ids", block_ids)
        requests = ragged.requests(seq_ids, None, 0, indptr, len(blocks), salt, blocks=True)
        requests[:, attach.LENGTH] = requests[:, attach.NAMED] * self.page_size
        self._attach(requests, None, blocks)

    def detach(self, seq_id: int) -> None:
        """Remove a sequence and release its pages; do nothing if it is unknown. O(pages)."""
        self.call(_change.detach, ragged.seq_id("seq_id", seq_id))

    def get(self, seq_id: int) -> list | None:
        """Return a copy of the entries as a list; None if the sequence is unknown. O(length).

        They are numbers where an entry is one number, else an array for each token. ValueError under `store=False`.
        """
        entries = self.get_array(seq_id)
        if entries is None:
            return None
        return list(entries) if self.token_shape else entries.tolist()

    def get_array(self, seq_id: int) -> np.ndarray | None:
        """Return a copy of the entries as an array (length, *token_shape); None and errors as in `get`. O(length)."""
        if not self.store:
            raise ValueError("store=False keeps no entries to get")
        code, data = self.call(_change.gather, ragged.seq_id("seq_id", seq_id))
        return None if code == sequences.ABSENT else data.view(self.dtype).reshape(-1, *self.token_shape)

    def append(self, seq_id: int, kv_tokens: list) -> None:
        """Add entries to the end. O(len(kv_tokens)), and a copy of the last page if others hold it.

        A page of token ids that becomes full can be found from then on; a page with the same ids, after the same pages,
        that can be found already takes its place. KeyError if the sequence is unknown, OutOfPagesError if the pages do
        not suffice.
        """
        seq, array = ragged.seq_id("seq_id", seq_id), self._entry.array("kv_tokens", kv_tokens)
        self._expect_ok(self.call(_change.append, np.array((seq,)), len(array), self._bytes(array)), (seq,))

    def append_many(self, seq_ids: ArrayLike, entries: ArrayLike) -> None:
        """Add entries[e] to the end of seq_ids[e], all or none: a decode step. O(n).

        `seq_ids` (n,), distinct; `entries` (n, *token_shape). KeyError if one is unknown, OutOfPagesError if the pages
        do not suffice for all, ValueError if one occurs twice.
        """
        seqs, array = arguments.integers("seq_ids", seq_ids), self._entry.array("entries", entries)
        if len(seqs) != len(array):
            raise ValueError(f"lengths must match, got seq_ids of {len(seqs)}, entries of {len(array)}")
        answer = self.call(_change.append, seqs, 1, self._bytes(array))
        if answer[0] == sequences.ABSENT:  # their range is checked only now: it would slow every decode step
            arguments.integers("seq_ids", seqs, 0)
        self._expect_ok(answer, seqs)

    def write(self, seq_id: int, start: int, kv_tokens: list) -> None:
        """Replace the entries from position `start` on. O(len(kv_tokens)), and a copy of each page that others hold.

        A page that could be found no longer can, since its entries have changed. KeyError if the sequence is unknown,
        ValueError if this would reach beyond its length, OutOfPagesError if the pages do not suffice.
        """
        seq, array = ragged.seq_id("seq_id", seq_id), self._entry.array("kv_tokens", kv_tokens)
        start = arguments.integer("start", start, 0)
        answer = self.call(_change.write, seq, start, len(array), self._bytes(array))
        if answer[0] == sequences.OUTSIDE:
            got = f"{start} and {len(array)} entries"
            raise ValueError(f"start and kv_tokens must lie in the length {answer[1]}, got {got}")
        self._expect_ok(answer)

    def truncate(self, seq_id: int, length: int) -> None:
        """Cut a sequence to its first `length` entries. O(pages released).

        Later entries are appended in the last page left, copied first if others hold it; after a named prefix that is
        whole they begin a new page. KeyError if the sequence is unknown, ValueError if it is shorter.
        """
        seq, length = ragged.seq_id("seq_id", seq_id), arguments.integer("length", length, 0)
        answer = self.call(_change.truncate, seq, length)
        if answer[0] == sequences.OUTSIDE:
            raise ValueError(f"length must lie in 0..{answer[1]}, the present length, got {length}")
        self._expect_ok(answer)

    def fork(self, src: int, dst: int) -> None:
        """Create the sequence `dst` with the entries of `src`; a page is shared until one writes to it. O(pages).

        KeyError if `src` is unknown, ValueError if `dst` exists already.
        """
        source, target = ragged.seq_id("src", src), ragged.seq_id("dst", dst)
        answer = self.call(_change.fork, source, target)
        if answer[0] == sequences.PRESENT:
            raise ValueError(f"dst must be new, {target} exists already")
        self._expect_ok(answer)

    def match_prefix(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> int:
        """Return how many leading token ids lie in pages that can be found. O(len(token_ids)).

        They are those of full pages, and of a named prefix that ends there. Nothing changes, not even recency. With
        `blocks`, `token_ids` are content ids as in `attach_blocks`.
        """
        tokens = self._entry.ids("token_ids", token_ids, blocks)
        salts = np.array((arguments.integer("salt", salt),))
        return int(self._matched(tokens, np.array([0, len(tokens)]), salts, blocks)[0])

    def match_prefix_many(
        self, token_ids: ArrayLike, indptr: ArrayLike, *, salt: ArrayLike = 0, blocks: bool = False
    ) -> np.ndarray:
        """Return what `match_prefix` returns for n requests, a waiting queue: int64 (n,). O(len(token_ids)).

        Those of request e are `token_ids[indptr[e]:indptr[e + 1]]`; `salt` is an int or an array (n,).
        """
        tokens = self._entry.ids("token_ids", token_ids, blocks)
        indptr = ragged.indptr("indptr", indptr, None, len(tokens))
        return self._matched(tokens, indptr, ragged.salts(salt, len(indptr) - 1), blocks)

    def pin(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> int:
        """Protect the pages of these token ids that can be found from eviction, until `unpin`. O(len(token_ids)).

        Returns how many leading ids are pinned: those that `match_prefix` counts. A pin is one more reference to each
        page, so pins of different prefixes nest. OutOfPagesError if more than `max_pinned` pages would be pinned.
        """
        code, a, b = self._on_ids(_match.pin, token_ids, salt, blocks)
        if code == sequences.NO_PAGES:
            raise OutOfPagesError(f"{a} pages more would be pinned, {b} of max_pinned={self.max_pinned} are left")
        return int(a)

    def unpin(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> None:
        """Undo a `pin` of exactly these token ids, as many as it returned; else ValueError. O(len(token_ids))."""
        code, a, _ = self._on_ids(_match.unpin, token_ids, salt, blocks)
        if code == sequences.UNPINNED:
            raise ValueError(f"token_ids must be those of a pin, of these {len(token_ids)} the first {a} are pinned")

    def block_hashes(self, token_ids: list, *, salt: int = 0) -> np.ndarray:
        """Return the chained hashes of the full pages of these token ids, as `events` has them: int64 (pages,). O(n).

        They are the same for all caches of one page size and id width (the itemsize of an integer `dtype`, else 8), in
        every process. The hash of a page that was attached by `attach_blocks` is its content id.
        """
        tokens = self._entry.ids("token_ids", token_ids)
        hashes, salt = np.empty(len(tokens) // self.page_size, np.int64), arguments.integer("salt", salt)
        match.page_names(tokens.view(np.uint8), tokens.itemsize, self.page_size, salt, hashes)
        return hashes

    def events(self) -> Events:
        """Return which pages became findable or were forgotten since the last call. O(events).

        ValueError if none are kept.
        """
        if not self._arrays.pool[layout.EVENTS]:
            raise ValueError("events=0 keeps no events")
        _, lost, stored, hashes, parents = self.call(_events.read)
        return Events(stored, hashes, parents, int(lost))

    def block_table(self, seq_ids: ArrayLike) -> list[Level]:
        """Return the pages of sequences (n,) as paged and cascade attention kernels read them. O(pages).

        Returns
        -------
        list of (indptr, indices, last_page_len), int32
            One for each level: the named prefixes, then the rest; one level where no prefix is named. The pages of
            sequence e at this level are `indices[indptr[e]:indptr[e + 1]]`, the last of which holds `last_page_len[e]`
            entries, the others page_size (0 where there are none). KeyError if a sequence is unknown.
        """
        seqs = arguments.integers("seq_ids", seq_ids, 0)
        code, at, named, *levels = self.call(_sequences.block_table, seqs)
        if code == sequences.ABSENT:
            raise KeyError(int(seqs[at]))
        first, second = tuple(levels[:3]), tuple(levels[3:])
        return [first, second] if named else [second]

    def stats(self) -> dict[str, int]:
        """Return counts. O(1).

        `total_sequences`; `total_pages`, of which `allocated_pages` are referenced and `free_pages` are not;
        `cached_pages` (free, but can be found); `pinned_pages` (referenced by pins); `prefix_map_size` (pages that can
        be found); `shared_pages_count` (two references or more); `total_page_refs`. Since the beginning:
        `prefix_shares` (attaches that found something), `cow_copies`, `evictions`, and of the tokens attached in named
        prefixes, in full pages of ids and in blocks, `lookup_tokens` looked up, `hit_tokens` found.
        """
        return state.counts(self._arrays)

    def reserve(self, n: int) -> None:
        """Make room for n sequences in all; until there are more, only page tables grow. O(n)."""
        n = arguments.integer("n", n, 0, MAX_PAGES)
        with self._lock:
            if n > self._arrays.seqs[table.CAPACITY]:
                self._arrays = state.resized(self._arrays, n, len(self._arrays.tables))

    def shrink_to_fit(self) -> None:
        """Release unused capacity of sequences and page tables; the pages stay. O(sequences, their pages)."""
        with self._lock:
            self._arrays = state.resized(self._arrays, 0, 0)

    @property
    def arrays(self) -> layout.Arrays:
        """The arrays of the cache, which kernels over a whole cache take first: (pool, seqs, tables, ids, store).

        A NamedTuple of `pool` int64 (n,), `seqs` int64 (m,), `tables` int32 (slots,), `ids` and `store` uint8;
        `llmds.kernels.kv_cache.layout` and `.sequences` say what they hold. The cache owns them; they are not copies,
        so what a kernel changes in them is changed in the cache.

        Read this property again before each call of a kernel: `seqs` and `tables` are replaced when they grow and by
        `reserve` and `shrink_to_fit`, `ids` and `store` when the first token ids must be kept. The old `seqs` is then
        retired: a kernel that gets it returns `sequences.FULL` and does nothing. `pool` holds an address that is good
        in this process only, so a cache is copied as a whole, by `copy`, pickling or a file.
        """
        return self._arrays

    def call(self, kernel: Callable, *arguments_: Any) -> tuple:
        """Return kernel(*arrays, *arguments_), (a code of `kernels.kv_cache.sequences`, ...), once it has room."""
        while True:
            answer = kernel(*(arrays := self._arrays), *arguments_)
            if answer[0] == sequences.FULL:
                self.make_room(arrays)
            elif answer[0] == sequences.UNPREPARED:
                with self._lock:
                    self._arrays = state.with_ids(self._arrays, bool(answer[1]))
            else:
                return answer

    def make_room(self, arrays: layout.Arrays) -> None:
        """Replace `arrays`, for which a kernel returned `sequences.FULL`, by larger ones; not a second time."""
        with self._lock:
            if self._arrays is arrays:
                self._arrays = state.with_room(arrays)

    page_size = setting(layout.PAGE_SIZE, int, "Tokens in a page.")
    max_pages = setting(layout.MAX_PAGES, int, "Number of pages.")
    enable_prefix_sharing = setting(layout.SHARING, bool, "Whether prefixes and blocks are found and shared.")
    store = setting(layout.VISIBLE, bool, "Whether entries are kept to be read.")
    eviction = setting(layout.POLICY, state.policy_name, "The policy that chooses the cached page to evict.")
    verify = setting(layout.VERIFY, bool, "Whether ids are compared before a page is shared.")
    max_pinned = setting(layout.MAX_PINNED, int, "The most pages that pins may keep.")

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an entry."""
        return self._entry.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers of an entry."""
        return self._entry.dtype

    @property
    def id_dtype(self) -> np.dtype:
        """Type in which token ids are kept and compared: `dtype` where entries are token ids, else int64."""
        return self._entry.id_dtype

    @property
    def pages(self) -> np.ndarray:
        """The entries that `block_table` indexes, (max_pages, page_size, *token_shape), a read-only view."""
        if not self.store:
            raise ValueError("store=False keeps no entries")
        pages = self._arrays.store.view(self.dtype).reshape(self.max_pages, self.page_size, *self.token_shape)
        pages.flags.writeable = False
        return pages

    def __len__(self) -> int:
        """Return the number of sequences."""
        return int(self._arrays.seqs[table.COUNT])

    def __contains__(self, seq_id: object) -> bool:
        """Return whether a sequence of this id exists. Expected O(1)."""
        if not isinstance(seq_id, (int, np.integer)) or isinstance(seq_id, bool) or not 0 <= seq_id <= MAX_ID:
            return False
        _, rows, buckets = table.parts(self._arrays.seqs)
        return bool(table.find(rows, buckets, int(seq_id)) >= 0)

    def __repr__(self) -> str:
        """Return the sizes and counts in words."""
        sizes = f"page_size={self.page_size}, max_pages={self.max_pages}, {len(self)} sequences"
        return f"KVCache({sizes}, {self.stats()['allocated_pages']} pages allocated)"

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, without what is good in this process only."""
        return {**super().__getstate__(), "_arrays": self._arrays._replace(pool=files.unbound(self._arrays.pool))}

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Restore a pickled cache, perhaps of another process."""
        super().__setstate__(values)
        dispatch.bind(self._arrays.pool)

    def _attach(self, requests: np.ndarray, array: np.ndarray | None, ids: np.ndarray) -> None:
        """Attach `requests` with these entries under named prefixes, or with none under content ids."""
        entries = _NO_BYTES
        if array is not None:
            if self._entry.content and not self.store and len(ids):
                array = ragged.named_entries(array, ids, requests)
            entries = self._bytes(array)
        self._expect_ok(self.call(_attach.attach, requests, entries, ids.view(np.uint8), array is None))

    def _matched(self, tokens: np.ndarray, indptr: np.ndarray, salts: np.ndarray, blocks: bool) -> np.ndarray:
        matched = np.empty(len(indptr) - 1, np.int64)
        self.call(_match.match_many, tokens.view(np.uint8), indptr, salts, bool(blocks), matched)
        return matched

    def _on_ids(self, kernel: Callable, token_ids: Any, salt: Any, blocks: Any) -> tuple:
        tokens = self._entry.ids("token_ids", token_ids, blocks)
        return self.call(kernel, tokens.view(np.uint8), len(tokens), arguments.integer("salt", salt), bool(blocks))

    def _expect_ok(self, answer: tuple, seq_ids: Sequence[int] | np.ndarray | None = None) -> None:
        if answer[0] != sequences.OK:
            raise state.refusal(answer, self.max_pages, seq_ids)

    def _bytes(self, array: np.ndarray) -> np.ndarray:
        """Return the bytes of entries, uint8; (0,) where none of them are kept."""
        if self.store or (self._entry.content and self.enable_prefix_sharing):
            return array.reshape(-1).view(np.uint8)
        return _NO_BYTES

    def _owned(self) -> layout.Arrays:
        return self._arrays

    def _to_arrays(self) -> FileArrays:
        return files.to_arrays(self._arrays, self._entry)

    @classmethod
    def _from_arrays(cls, arrays: FileArrays, **given: Any) -> "Self":
        cache = cls.__new__(cls)
        (cache._arrays, cache._entry), cache._lock = files.from_arrays(arrays), threading.RLock()
        return cache

    def _fault(self) -> str | None:
        return state.fault(self._arrays)
