"""The arrays of a KV cache: made, replaced by larger ones, examined."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..base import arguments, files
from ..kernels import table
from ..kernels.kv_cache import check, events, layout, sequences
from ..kernels.kv_cache.eviction import dispatch
from ..kernels.kv_cache.eviction import table as policies
from ..kernels.kv_cache.layout import Arrays
from ..paged_allocator import MAX_PAGES, OutOfPagesError
from . import ragged

POLICIES = policies.POLICIES
_KINDS = "biufc"  # of dtypes that an entry may have
_INT64 = np.dtype(np.int64)


class Events(NamedTuple):
    """What `KVCache.events` returns, oldest first.

    Attributes
    ----------
    stored : bool array (m,)
        Whether the page became findable; else it was forgotten.
    hashes, parents : int64 arrays (m,)
        The chained hash of the page, and of the page before it.
    lost : int
        How many events before these the ring had no room for.
    """

    stored: np.ndarray
    hashes: np.ndarray
    parents: np.ndarray
    lost: int


class Entry(NamedTuple):
    """What a cache keeps for each token: an array of this shape and dtype, or one number where the shape is ().

    `content`: the numbers are token ids, by which full pages are found.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    content: bool

    @classmethod
    def of(cls, shape: Any, dtype: Any) -> "Entry":
        """Return the entry that `token_shape` and `dtype` describe, once they are checked."""
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"token_shape must be a tuple of integers, got {shape!r}")
        shape = tuple(arguments.integer("token_shape", side, 1, MAX_PAGES) for side in shape)
        dtype = np.dtype(dtype)
        if dtype.kind not in _KINDS or dtype.newbyteorder("=") != dtype:
            raise TypeError(f"dtype must be numeric, of native byte order, got {dtype}")
        entry = cls(shape, dtype, shape == () and dtype.kind in "iu")
        if entry.nbytes > MAX_PAGES:
            raise ValueError(f"token_shape and dtype must make at most 2**31-1 bytes an entry, got {entry.nbytes}")
        return entry

    @property
    def nbytes(self) -> int:
        """Bytes of an entry."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def id_dtype(self) -> np.dtype:
        """Type in which token ids are kept."""
        return self.dtype if self.content else _INT64

    def array(self, name: str, values: Any) -> np.ndarray:
        """Return entries (n, *shape), once they are checked."""
        return ragged.entries(name, values, self.dtype, self.shape)

    def ids(self, name: str, values: Any, blocks: Any = False) -> np.ndarray:
        """Return token ids (n,), once they are checked; content ids, which are int64, if `blocks`."""
        return ragged.entries(name, values, _INT64 if blocks else self.id_dtype, ())


def new(settings: dict[int, int]) -> Arrays:
    """Return the arrays of an empty cache. `settings`: by their names in `kv_cache.layout`, MAX_PAGES to POLICY."""
    size = settings[layout.MAX_PAGES] * settings[layout.PAGE_SIZE] * settings[layout.ENTRY_BYTES]
    # zeros that nobody has touched take no memory yet: the operating system provides it when they are written
    store = np.zeros(size if settings[layout.STORED] else 0, np.uint8)
    seqs, tables = sequences.new(16)
    return Arrays(new_pool(settings), seqs, tables, np.zeros(0, np.uint8), store)


def new_pool(settings: dict[int, int]) -> np.ndarray:
    """Return a pool of blank pages, see `new`."""
    max_pages, policy, n = settings[layout.MAX_PAGES], settings[layout.POLICY], settings[layout.EVENTS]
    head = np.zeros(layout.MEMORY + 1, np.int64)
    for setting, value in settings.items():
        head[setting] = value
    head[layout.MEMORY] = policies.policy(policy).size(max_pages) + events.EVENT * n
    pool = files.aligned(8 * int(layout.size(max_pages, head[layout.MEMORY]))).view(np.int64)
    layout.fill(pool, head)
    dispatch.bind(pool)
    dispatch.prepare(pool)
    return pool


def resized(arrays: Arrays, rows: int, slots: int) -> Arrays:
    """Return the arrays with room for `rows` sequences and `slots` pages of them; the old `seqs` is retired."""
    seqs, tables = sequences.resized(arrays.seqs, arrays.tables, rows, slots)
    return arrays._replace(seqs=seqs, tables=tables)


def with_room(arrays: Arrays) -> Arrays:
    """Return the arrays with the room that a kernel lacked and left in `seqs`; the old `seqs` is retired."""
    seqs, slots = arrays.seqs, len(arrays.tables)
    capacity, rows = int(seqs[table.CAPACITY]), int(seqs[table.COUNT] + seqs[sequences.WANTED_ROWS])
    needed = int(seqs[sequences.LIVE] + seqs[sequences.WANTED_SLOTS])
    if max(rows, needed) > MAX_PAGES:
        raise ValueError(f"at most 2**31-1 sequences and page references, {max(rows, needed)} would be needed")
    # half of the slots must be free after they are collected, or they would be collected again too soon
    return resized(
        arrays,
        capacity if rows <= capacity else max(2 * capacity, rows),
        slots if 2 * needed <= slots else max(2 * slots, 2 * needed),
    )


def with_ids(arrays: Arrays, beside: bool) -> Arrays:
    """Return the arrays with room for token ids: `beside` entries in `ids`, else in `store`, which keeps nothing else.

    The old `seqs` is retired.
    """
    name = "ids" if beside else "store"
    if len(getattr(arrays, name)):
        return arrays
    pool = arrays.pool
    size = int(pool[layout.MAX_PAGES] * pool[layout.PAGE_SIZE] * pool[layout.ID_BYTES])
    room = {name: np.zeros(size, np.uint8)}
    prepared = resized(arrays._replace(**room), int(arrays.seqs[table.CAPACITY]), len(arrays.tables))
    if not beside:  # only now: every kernel that gets the old arrays finds them retired
        pool[layout.STORED] = 1
    return prepared


def counts(arrays: Arrays) -> dict[str, int]:
    """Return what `KVCache.stats` returns. O(1)."""
    head = arrays.pool[: layout.HEAD].tolist()
    free = head[layout.BLANKS] + head[layout.CACHED]
    return {
        "total_sequences": int(arrays.seqs[table.COUNT]),
        "total_pages": head[layout.MAX_PAGES],
        "allocated_pages": head[layout.MAX_PAGES] - free,
        "free_pages": free,
        "cached_pages": head[layout.CACHED],
        "pinned_pages": head[layout.PINNED],
        "prefix_shares": head[layout.SHARES],
        "prefix_map_size": head[layout.FINDABLE],
        "shared_pages_count": head[layout.SHARED],
        "total_page_refs": head[layout.TOTAL_REFS],
        "cow_copies": head[layout.COPIES],
        "evictions": head[layout.EVICTIONS],
        "hit_tokens": head[layout.HITS],
        "lookup_tokens": head[layout.LOOKUPS],
    }


def setting(name: int, convert: Callable, doc: str) -> property:
    """Return a property that reads a setting, by its name in `kv_cache.layout`, from an object's `arrays`."""
    return property(lambda owner: convert(owner.arrays.pool[name]), doc=doc)


def policy_name(number: int) -> str:
    """Return the name of an eviction policy."""
    return POLICIES[number]


def refusal(answer: tuple, max_pages: int, seq_ids: Sequence[int] | np.ndarray | None) -> Exception:
    """Return the exception for a kernel's (code, a, b); a may be an index of `seq_ids`, if given."""
    code, a, b = answer
    if code == sequences.ABSENT:
        return KeyError(a if seq_ids is None else int(seq_ids[a]))
    if code == sequences.NO_PAGES:
        return OutOfPagesError(f"{a} pages are needed, {b} of {max_pages} are free")
    if code == sequences.TWICE:
        return ValueError(f"seq_ids must be distinct, seq_ids[{a}] occurs twice")
    return AssertionError(f"a kernel returned the unexpected code {code}")


def fault(arrays: Arrays) -> str | None:
    """Return the first invariant that does not hold, in words; None if all hold. O(all arrays)."""
    try:
        address = dispatch.address_of(int(arrays.pool[layout.POLICY]))
    except ValueError as error:
        return str(error)
    if arrays.pool[layout.FUNCTIONS] != address:
        return "the functions of the eviction policy are not those of this process"
    return check.FAULTS[check.first_fault(*arrays)] or None
