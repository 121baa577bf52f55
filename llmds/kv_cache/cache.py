"""Paged key/value storage whose sequences share pages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..base import arguments
from ..base import files as storage
from ..kernels import table
from ..kernels.kv_cache import attach as kv_attach
from ..kernels.kv_cache import change as kv_cache
from ..kernels.kv_cache import events as kv_events
from ..kernels.kv_cache import layout as kv_layout
from ..kernels.kv_cache import match as kv_match
from ..kernels.kv_cache import pages as kv_pool
from ..kernels.kv_cache import sequences as kv_tables
from ..kernels.kv_cache.eviction import dispatch as kv_eviction
from ..paged_allocator import MAX_PAGES, OutOfPagesError
from . import ragged as kv_arguments
from .state import POLICIES, KVArrays

MAX_ID = 2**63 - 1
_NOTHING, _INT64 = np.zeros(0, np.uint8), np.dtype(np.int64)
Level = tuple[np.ndarray, np.ndarray, np.ndarray]


class Events(NamedTuple):
    """What `KVCache.events` tells, oldest first.

    `stored` bool (m,): whether the page became findable, or else was forgotten; `hashes` int64 (m,) its chained hash,
    `parents` int64 (m,) that of the page before it; `lost`: how many events before these the ring had no room for.
    """

    stored: np.ndarray
    hashes: np.ndarray
    parents: np.ndarray
    lost: int


class KVCache(KVArrays):
    """Sequences of K/V entries, one a token, in pages that are shared where their beginnings agree.

    An entry is an int (int64), or a tensor of shape `token_shape` and type `dtype`, for instance
    `(layers, 2, kv_heads, head_dim)` of float16. All entries lie in one array
    `(max_pages, page_size, *token_shape)`, allocated once; with `store=False` none are kept to be read, and the
    cache is the bookkeeping alone, for an engine that has the tensors elsewhere, or for simulation.

    Entries that are integers are token ids: a full page of them is found by the next sequence with the same ids up to
    its end, whether they came with `attach` or with `append` (automatic prefix caching by chained hashes, as in vLLM;
    paged attention: Kwon et al. 2023). Tensors carry no ids, and are shared under `prefix_tokens`. A prefix named
    by `prefix_tokens` lies in pages of its own, whatever its length (cascade attention): every sequence that
    names the same token ids, and brings the same entries, holds the same pages.

    A hash alone is never trusted: ids are compared before a page is shared, unless `verify=False`, for research.
    What came under one `salt` is not found under another, so tenants learn nothing of each other.
    Pages count their references; a page that others hold is copied before it is written to.
    A page whose last reference is gone can still be found, until its space is needed; then pages leave by the policy
    `eviction`, a sequence's last pages before its first. `pin` keeps pages from leaving, at most
    `max_pinned` (half of them, unless given). The last `events` events of pages that became findable, or no longer are,
    are kept for `events()`. Without `enable_prefix_sharing` nothing is found, and only `fork` shares.

    A call that raises changes nothing: OutOfPagesError leaves contents, recency and counts as they
    were. A call is one kernel call that holds the GIL, so threads may share a cache. Memory
    beside the entries: 80 to 96 bytes a page ("s3fifo", "tinylfu" and "lhd" 16, 64 and 100 more), and 4 to 16
    bytes for each page of each sequence; token ids, where they are not the entries themselves, the itemsize of
    an integer `dtype` (else 8) a token of capacity, once there are any.

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
        verify: bool = True,
        max_pinned: int | None = None,
        events: int = 0,
    ):
        page_size = arguments.integer("page_size", page_size, 1, MAX_PAGES)
        max_pages = arguments.integer("max_pages", max_pages, 1, MAX_PAGES)
        for name, value in (("enable_prefix_sharing", enable_prefix_sharing), ("store", store), ("verify", verify)):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{name} must be a bool, got {value!r}")
        policy = POLICIES.index(arguments.one_of("eviction", eviction, POLICIES))
        max_pinned = max_pages // 2 if max_pinned is None else arguments.integer("max_pinned", max_pinned, 0, max_pages)
        events = arguments.integer("events", events, 0, MAX_PAGES)
        self._set_entry(token_shape, dtype)
        entry, content = self._entry_bytes, int(self._content)
        memory = int(kv_eviction.memory_size(policy, max_pages)) + kv_events.EVENT * events
        settings = (
            max_pages, page_size, entry, entry if content else 8, int(enable_prefix_sharing), content, int(store),
            int(store), int(verify), max_pinned, events, policy, memory,
        )  # fmt: skip
        # untouched zeros are no memory yet: the operating system gives them when they are written to
        kept = np.zeros(max_pages * page_size * entry if store else 0, np.uint8)
        pool = storage.aligned(8 * int(kv_layout.size(max_pages, memory))).view(np.int64)
        kv_layout.fill(pool, np.array(settings))
        kv_eviction.prepare(pool)
        self._set_state(pool, *kv_tables.new(16), _NOTHING, kept)

    def attach(self, seq_id: int, kv_tokens: list, prefix_tokens: list | None = None, *, salt: int = 0) -> None:
        """Hold `kv_tokens` under `seq_id`. O(len(kv_tokens)).

        `kv_tokens`: a list, or an array (n, *token_shape). `prefix_tokens`: the token ids of a prefix, whose
        entries are the first of `kv_tokens`; pages in which a prefix beginning with the same ids is there already,
        with the same entries bit for bit (the ids alone under `store=False`), are shared. From the first page
        whose entries differ, the sequence gets pages of its own, which others do not find. `salt`: an int64; pages
        are shared among sequences of one salt alone.

        What is there under `seq_id` is replaced. OutOfPagesError if the pages that no other sequence holds do not
        suffice; ValueError if the prefix is longer than `kv_tokens`.
        """
        seq, array = _id("seq_id", seq_id), self._array("kv_tokens", kv_tokens)
        prefix = self._ids("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        if len(prefix) > len(array):
            raise ValueError(f"prefix_tokens must be no longer than kv_tokens, got {len(prefix)} and {len(array)}")
        request = np.array(((seq, _salt(salt), 0, len(array), 0, len(prefix)),))
        self._attach(request, self._named(array, prefix, request), prefix, False)

    def attach_many(
        self,
        seq_ids: ArrayLike,
        kv_tokens: ArrayLike,
        indptr: ArrayLike,
        prefix_tokens: ArrayLike | None = None,
        prefix_indptr: ArrayLike | None = None,
        *,
        salt: ArrayLike = 0,
    ) -> None:
        """As `attach` for n sequences in order, all or none. O(entries), and O(max_pages) where pages are scarce.

        `seq_ids` (n,); `kv_tokens` (total, *token_shape), those of sequence e from `indptr[e]` to `indptr[e + 1]`,
        `indptr` (n + 1,); likewise their prefixes `prefix_tokens` (any,) and `prefix_indptr` (n + 1,), both or
        neither; `salt` an int or (n,). OutOfPagesError, with nothing changed, if the pages do not suffice for all.
        """
        array = self._array("kv_tokens", kv_tokens)
        if (prefix_tokens is None) != (prefix_indptr is None):
            raise ValueError("prefix_tokens and prefix_indptr must both be given, or neither")
        prefix = self._ids("prefix_tokens", () if prefix_tokens is None else prefix_tokens)
        requests = kv_arguments.requests(seq_ids, indptr, len(array), prefix_indptr, len(prefix), salt)
        self._attach(requests, self._named(array, prefix, requests), prefix, False)

    def attach_blocks(self, seq_id: int, block_ids: ArrayLike, *, salt: int = 0) -> None:
        """Hold whole pages, named by content ids (m,), one a page, under `seq_id`. O(m).

        The leading pages that are there already, each under the same content ids before it, are shared. The entries
        of the others are zeros until they are written. Errors and replacement are those of `attach`.
        """
        seq, blocks = _id("seq_id", seq_id), kv_arguments.integers("block_ids", block_ids)
        request = np.array(((seq, _salt(salt), 0, len(blocks) * self.page_size, 0, len(blocks)),))
        self._attach(request, _NOTHING, blocks, True)

    def attach_blocks_many(
        self, seq_ids: ArrayLike, block_ids: ArrayLike, indptr: ArrayLike, *, salt: ArrayLike = 0
    ) -> None:
        """As `attach_blocks` for n sequences in order, all or none. O(ids), and O(max_pages) where pages are scarce.

        `seq_ids` (n,); `block_ids` (total,), those of sequence e from `indptr[e]` to `indptr[e + 1]`, `indptr`
        (n + 1,); `salt` an int or (n,).
        """
        blocks = kv_arguments.integers("block_ids", block_ids)
        requests = kv_arguments.requests(seq_ids, None, 0, indptr, len(blocks), salt, blocks=True)
        requests[:, kv_attach.LENGTH] = requests[:, kv_attach.NAMED] * self.page_size
        self._attach(requests, _NOTHING, blocks, True)

    def detach(self, seq_id: int) -> None:
        """Let go of a sequence; nothing happens if there is none. O(pages)."""
        self._call(kv_cache.detach, _id("seq_id", seq_id))

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
        code, data = self._call(kv_cache.gather, _id("seq_id", seq_id))
        return None if code == kv_tables.ABSENT else data.view(self._dtype).reshape(-1, *self._token_shape)

    def append(self, seq_id: int, kv_tokens: list) -> None:
        """Add entries to the end. O(len(kv_tokens)), and a copy of the last page if others hold it.

        A page of token ids that becomes full can be found from then on; if one with the same ids, after the same pages,
        is there already, that takes its place. KeyError if the sequence is unknown, OutOfPagesError if the pages do
        not suffice.
        """
        seq, array = _id("seq_id", seq_id), self._array("kv_tokens", kv_tokens)
        self._answered(self._call(kv_cache.append, np.array((seq,)), len(array), self._bytes(array)), (seq,))

    def append_many(self, seq_ids: ArrayLike, entries: ArrayLike) -> None:
        """Add entries[e] to the end of seq_ids[e], all or none: a decode step. O(n).

        `seq_ids` (n,), distinct; `entries` (n, *token_shape). KeyError if one is unknown, OutOfPagesError if the
        pages do not suffice for all, ValueError if one comes twice.
        """
        seqs, array = kv_arguments.integers("seq_ids", seq_ids), self._array("entries", entries)
        if len(seqs) != len(array):
            raise ValueError(f"lengths must match, got seq_ids of {len(seqs)}, entries of {len(array)}")
        answer = self._call(kv_cache.append, seqs, 1, self._bytes(array))
        if answer[0] == kv_tables.ABSENT:  # looked for only now: in every decode step it would be felt
            arguments.integers("seq_ids", seqs, 0)
        self._answered(answer, seqs)

    def write(self, seq_id: int, start: int, kv_tokens: list) -> None:
        """Replace the entries from position `start` on. O(len(kv_tokens)), and a copy of each page that others hold.

        KeyError if the sequence is unknown, ValueError if this would reach beyond its length, OutOfPagesError if
        the pages do not suffice. A page that was findable no longer is, for its entries have changed.
        """
        seq, array = _id("seq_id", seq_id), self._array("kv_tokens", kv_tokens)
        start = arguments.integer("start", start, 0)
        answer = self._call(kv_cache.write, seq, start, len(array), self._bytes(array))
        if answer[0] == kv_tables.OUTSIDE:
            got = f"{start} and {len(array)} entries"
            raise ValueError(f"start and kv_tokens must lie in the length {answer[1]}, got {got}")
        self._answered(answer)

    def truncate(self, seq_id: int, length: int) -> None:
        """Cut a sequence to its first `length` entries. O(pages let go).

        Later entries go on in the last page left, copied first if others hold it; after a named prefix that is whole
        they begin a page. KeyError if the sequence is unknown, ValueError if it is shorter.
        """
        seq, length = _id("seq_id", seq_id), arguments.integer("length", length, 0)
        answer = self._call(kv_cache.truncate, seq, length)
        if answer[0] == kv_tables.OUTSIDE:
            raise ValueError(f"length must lie in 0..{answer[1]}, the present length, got {length}")
        self._answered(answer)

    def fork(self, src: int, dst: int) -> None:
        """Hold the entries of `src` under `dst` too; all pages are shared until one of them is written to. O(pages).

        KeyError if `src` is unknown, ValueError if `dst` is there already.
        """
        source, target = _id("src", src), _id("dst", dst)
        answer = self._call(kv_cache.fork, source, target)
        if answer[0] == kv_tables.PRESENT:
            raise ValueError(f"dst must be new, {target} is there already")
        self._answered(answer)

    def match_prefix(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> int:
        """How many leading token ids lie in pages that can be found. O(len(token_ids)).

        They are those of full pages, and of a named prefix that ends there. Nothing changes, recency included. With
        `blocks`, `token_ids` are content ids as in `attach_blocks`, and so many of them are counted.
        """
        tokens = self._ids("token_ids", token_ids, blocks)
        return int(self._match(tokens, np.array([0, len(tokens)]), np.array((_salt(salt),)), blocks)[0])

    def match_prefix_many(
        self, token_ids: ArrayLike, indptr: ArrayLike, *, salt: ArrayLike = 0, blocks: bool = False
    ) -> np.ndarray:
        """As `match_prefix` for n requests, a waiting queue: int64 (n,). O(len(token_ids)).

        `token_ids` (total,), those of request e from `indptr[e]` to `indptr[e + 1]`, `indptr` (n + 1,); `salt` an
        int or (n,).
        """
        tokens = self._ids("token_ids", token_ids, blocks)
        indptr = kv_arguments.indptr("indptr", indptr, None, len(tokens))
        return self._match(tokens, indptr, kv_arguments.salts(salt, len(indptr) - 1), blocks)

    def pin(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> int:
        """Keep what of these token ids can be found from leaving until `unpin`; how many that is. O(len(token_ids)).

        They are those that `match_prefix` counts. A pin is one more reference to each of their pages, so pins of
        different prefixes nest, and a pinned page is copied before it is written to. OutOfPagesError if more than
        `max_pinned` pages would be pinned.
        """
        tokens = self._ids("token_ids", token_ids, blocks)
        code, a, b = self._call(kv_match.pin, tokens.view(np.uint8), len(tokens), _salt(salt), bool(blocks))
        if code == kv_tables.NO_PAGES:
            raise OutOfPagesError(f"{a} pages more would be pinned, {b} of max_pinned={self.max_pinned} are left")
        return int(a)

    def unpin(self, token_ids: list, *, salt: int = 0, blocks: bool = False) -> None:
        """Take back a `pin` of exactly these token ids: as many of them as it returned. O(len(token_ids)).

        ValueError if no pin is of just these.
        """
        tokens = self._ids("token_ids", token_ids, blocks)
        code, a, _ = self._call(kv_match.unpin, tokens.view(np.uint8), len(tokens), _salt(salt), bool(blocks))
        if code == kv_tables.UNPINNED:
            raise ValueError(f"token_ids must be those of a pin, of these {len(tokens)} the first {a} are pinned")

    def block_hashes(self, token_ids: list, *, salt: int = 0) -> np.ndarray:
        """The chained hashes of the full pages of these token ids, as `events` names them: int64 (pages,). O(n).

        The same for all caches of one page size and id width (the itemsize of an integer `dtype`, else 8), in every
        process. A page that `attach_blocks` brought has its content id for a hash.
        """
        tokens = self._ids("token_ids", token_ids)
        hashes = np.empty(len(tokens) // self.page_size, np.int64)
        kv_match.page_names(tokens.view(np.uint8), tokens.itemsize, self.page_size, _salt(salt), hashes)
        return hashes

    def events(self) -> Events:
        """What became findable, or no longer is, since the last call. O(events told). ValueError if none are kept."""
        if not self._state[0][kv_layout.EVENTS]:
            raise ValueError("events=0 keeps no events")
        _, lost, stored, hashes, parents = self._call(kv_events.read)
        return Events(stored, hashes, parents, int(lost))

    def block_table(self, seq_ids: ArrayLike) -> list[Level]:
        """The pages of sequences (n,) as paged and cascade attention kernels read them. O(pages).

        A list of levels: the named prefixes, then the rest; one level where none of them names a prefix. Each is
        `(indptr, indices, last_page_len)`, int32: the pages of sequence e at this level are
        `indices[indptr[e]:indptr[e + 1]]`, the last of which holds `last_page_len[e]` entries, the others page_size
        (0 where there are none). KeyError if one is unknown.
        """
        seqs = kv_arguments.integers("seq_ids", seq_ids, 0)
        code, at, named, *levels = self._call(kv_tables.block_table, seqs)
        if code == kv_tables.ABSENT:
            raise KeyError(int(seqs[at]))
        first, second = tuple(levels[:3]), tuple(levels[3:])
        return [first, second] if named else [second]

    def stats(self) -> dict[str, int]:
        """Counts. O(1).

        `total_sequences`; `total_pages`, of which `allocated_pages` are referenced and `free_pages` are not;
        `cached_pages` (free, still findable); `pinned_pages` (referenced by pins); `prefix_map_size` (findable);
        `shared_pages_count` (two references or more); `total_page_refs`. Since the beginning: `prefix_shares`
        (attaches that found something), `cow_copies`, `evictions`, and of the tokens attached in named prefixes, in
        full pages of ids and in blocks, `lookup_tokens` looked for, `hit_tokens` found.
        """
        pool, seqs = self._state[:2]
        head = pool[: kv_layout.HEAD].tolist()
        free = head[kv_layout.BLANKS] + head[kv_layout.CACHED]
        return {
            "total_sequences": int(seqs[table.COUNT]),
            "total_pages": head[kv_layout.MAX_PAGES],
            "allocated_pages": head[kv_layout.MAX_PAGES] - free,
            "free_pages": free,
            "cached_pages": head[kv_layout.CACHED],
            "pinned_pages": head[kv_layout.PINNED],
            "prefix_shares": head[kv_layout.SHARES],
            "prefix_map_size": head[kv_layout.FINDABLE],
            "shared_pages_count": head[kv_layout.SHARED],
            "total_page_refs": head[kv_layout.TOTAL_REFS],
            "cow_copies": head[kv_layout.COPIES],
            "evictions": head[kv_layout.EVICTIONS],
            "hit_tokens": head[kv_layout.HITS],
            "lookup_tokens": head[kv_layout.LOOKUPS],
        }

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

    def _attach(self, requests: np.ndarray, entries: np.ndarray, prefix: np.ndarray, blocks: bool) -> None:
        self._answered(self._call(kv_attach.attach, requests, entries, prefix.view(np.uint8), blocks))

    def _match(self, tokens: np.ndarray, indptr: np.ndarray, salts: np.ndarray, blocks: bool) -> np.ndarray:
        matched = np.empty(len(indptr) - 1, np.int64)
        self._call(kv_match.match_many, tokens.view(np.uint8), indptr, salts, bool(blocks), matched)
        return matched

    def _answered(self, answer: tuple, seq_ids: Sequence[int] | np.ndarray | None = None) -> None:
        """Raise what a kernel refused."""
        code, a, b = answer
        if code == kv_tables.OK:
            return
        if code == kv_tables.ABSENT:
            raise KeyError(a if seq_ids is None else int(seq_ids[a]))
        if code == kv_tables.NO_PAGES:
            raise OutOfPagesError(f"{a} pages are needed, {b} of {self.max_pages} are free")
        raise ValueError(f"seq_ids must be distinct, seq_ids[{a}] comes twice")

    def _array(self, name: str, values: Any) -> np.ndarray:
        """Entries (n, *token_shape)."""
        return kv_arguments.entries(name, values, self._dtype, self._token_shape)

    def _ids(self, name: str, values: Any, blocks: bool = False) -> np.ndarray:
        """Token ids (n,) of the type they are kept in; content ids are int64."""
        return kv_arguments.entries(name, values, self._dtype if self._content and not blocks else _INT64, ())

    def _named(self, array: np.ndarray, prefix: np.ndarray, requests: np.ndarray) -> np.ndarray:
        """The bytes of entries; where they are kept as token ids alone, those of the prefixes in their place."""
        if self._content and not self.store and len(prefix):
            named = requests[:, kv_attach.NAMED]
            array = array.copy()
            shift = requests[:, kv_attach.FIRST] - requests[:, kv_attach.FIRST_ID]
            array[np.arange(len(prefix)) + np.repeat(shift, named)] = prefix
        return self._bytes(array)


def _id(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value <= MAX_ID:  # the common case, without a call
        return value
    return arguments.integer(name, value, 0, MAX_ID)


def _salt(value: Any) -> int:
    return arguments.integer("salt", value)
