"""KV caches to and from arrays."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..base import files as storage
from ..kernels import table
from ..kernels.kv_cache import check as kv_faults
from ..kernels.kv_cache import layout as kv
from ..kernels.kv_cache import sequences as kv_tables
from ..kernels.kv_cache import upgrade as kv_upgrade
from ..kernels.kv_cache.eviction import dispatch as kv_eviction

if TYPE_CHECKING:
    from .state import KVArrays

Cache = TypeVar("Cache", bound="KVArrays")
SCHEMA: storage.Schema = {
    "pool": (np.int64, 1),
    "seqs": (np.int64, 1),
    "tables": (np.int32, 1),
    "ids": ((np.uint8, np.int64), 2),
    "store": (np.uint8, 2),
    "entry": (np.uint8, 1),
}


def to_arrays(cache: "KVArrays") -> storage.Arrays:
    """What `from_arrays` makes the cache of again; of the entries and ids, those of pages in use."""
    pool, seqs, tables, ids, store = cache._state
    used, own = _pages_in_use(pool)
    shape = ",".join(map(str, cache.token_shape))
    return {
        "pool": pool,
        "seqs": seqs,
        "tables": tables,
        "ids": ids.reshape(cache.max_pages, -1)[own] if len(ids) else np.zeros((0, 0), np.uint8),
        "store": store.reshape(cache.max_pages, -1)[used] if len(store) else np.zeros((0, 0), np.uint8),
        "entry": storage.text_array(f"{cache.dtype.str} {shape}"),
    }


def from_arrays(cls: type[Cache], arrays: storage.Arrays) -> Cache:
    """The cache that `to_arrays` described, its contents not yet examined. Damaged if sizes do not fit."""
    if arrays["ids"].dtype == np.int64:
        arrays = _from_version_1(arrays)
    pool, seqs, tables, ids, store = (arrays[name] for name in ("pool", "seqs", "tables", "ids", "store"))
    storage.expect(bool(kv_faults.well_formed(pool, seqs, tables)), "its pages or sequences do not add up")
    cache = cls.__new__(cls)
    try:
        dtype, _, shape = storage.text_of(arrays["entry"]).partition(" ")
        cache._set_entry(tuple(map(int, filter(None, shape.split(",")))), dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise storage.Damaged(f"damaged: entry ({error})") from error
    content = bool(pool[kv.CONTENT])
    sizes = (cache._entry_bytes, cache.dtype.itemsize if content else 8)
    storage.expect((pool[kv.ENTRY_BYTES], pool[kv.ID_BYTES]) == sizes, "entries are not of the size it says")
    storage.expect(cache._content or not content, "entries are no token ids")
    cache._content = content
    used, own = _pages_in_use(pool)
    page_size, stored = int(pool[kv.PAGE_SIZE]), bool(pool[kv.STORED])
    id_shape = (own.sum(), page_size * int(pool[kv.ID_BYTES]))
    storage.expect(ids.shape in (id_shape, (0, 0)) and (len(ids) > 0 or not own.any()), "ids do not fit")
    shape_ = (used.sum(), page_size * cache._entry_bytes) if stored else (0, 0)
    storage.expect(store.shape == shape_, "entries do not fit")
    try:
        whole = [_spread(ids, own), _spread(store, used)]
    except (MemoryError, ValueError) as error:
        raise storage.Damaged(f"damaged, or larger than memory: {error}") from error
    cache._set_state(pool, seqs, tables, *whole)
    return cache


def _from_version_1(arrays: storage.Arrays) -> storage.Arrays:
    """Arrays of version 1 as version 2 has them: nothing is found by its entries alone."""
    old, seqs, ids = arrays["pool"], arrays["seqs"], arrays["ids"]
    storage.expect(len(old) >= kv_upgrade.HEAD, "its pages do not add up")
    n, page_size, entry, sharing, stored = old[:5].tolist()
    sound = 1 <= n < 2**31 and 1 <= page_size < 2**31 and 0 <= entry < 2**31 and 0 <= sharing <= 1 and 0 <= stored <= 1
    storage.expect(sound and len(old) == kv_upgrade.old_size(n), "its pages do not add up")
    storage.expect(bool(table.well_formed(seqs, kv_upgrade.SEQ_COLUMNS)), "its sequences do not add up")
    memory = int(kv_eviction.memory_size(kv_eviction.LRU, n))
    settings = (n, page_size, entry, 8, sharing, 0, stored, stored, 1, n // 2, 0, kv_eviction.LRU, memory)
    pool = storage.aligned(8 * int(kv.size(n, memory))).view(np.int64)
    kv.fill(pool, np.array(settings))
    kv_eviction.prepare(pool)
    rows = old[kv_upgrade.HEAD :].view(np.int32)[: 2 * 6 * n].reshape(n, kv_upgrade.COLUMNS)
    named = (rows[:, 3] >= 0) & (rows[:, kv_upgrade.COUNT] > 0)
    storage.expect(ids.shape == (named.sum(), page_size) or (not named.any() and len(ids) == 0), "ids do not fit")
    data = ids.reshape(-1).view(np.uint8)
    place = np.where(named, (np.cumsum(named) - 1) * (8 * page_size), -1)
    storage.expect(bool(kv_upgrade.upgrade(old, data, place, pool)), "its pages are in disorder")
    wide = kv_upgrade.widened(seqs, kv_tables.COLUMNS)
    ids = data.reshape(-1, 8 * page_size) if len(ids) else np.zeros((0, 0), np.uint8)
    return {**arrays, "pool": pool, "seqs": wide, "ids": ids}


def _spread(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """uint8 (pages * width,) with rows (n, width) at the n pages `which`, zeros elsewhere."""
    whole = np.zeros((len(which), rows.shape[1]), np.uint8)  # untouched zeros are no memory yet
    if rows.size:
        whole[which] = rows
    return whole.reshape(-1)


def _pages_in_use(pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pages are referenced or findable, and which of them have ids of their own: bool (max_pages,) each."""
    rows = kv.parts(pool)[1][: int(pool[kv.MAX_PAGES])]
    findable = rows[:, kv.BUCKET] >= 0
    return (rows[:, kv.REFS] > 0) | findable, findable & (rows[:, kv.STATE] & kv.OWN != 0)
