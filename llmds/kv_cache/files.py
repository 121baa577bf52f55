"""KV caches to and from the arrays of a file."""

import numpy as np

from ..base import files
from ..base.files import Damaged, expect
from ..kernels import table
from ..kernels.kv_cache import check, layout, sequences, upgrade
from ..kernels.kv_cache.eviction import dispatch
from ..kernels.kv_cache.eviction import table as policies
from ..kernels.kv_cache.layout import Arrays
from .state import Entry, new_pool

SCHEMA: files.Schema = {
    "pool": (np.int64, 1),
    "seqs": (np.int64, 1),
    "tables": (np.int32, 1),
    "ids": ((np.uint8, np.int64), 2),
    "store": (np.uint8, 2),
    "entry": (np.uint8, 1),
}
_LIMIT = 2**31


def unbound(pool: np.ndarray) -> np.ndarray:
    """Return a copy of a pool without the address of its policy's functions, which is good in this process only."""
    pool = pool.copy()
    pool[layout.FUNCTIONS] = 0
    return pool


def to_arrays(arrays: Arrays, entry: Entry) -> files.Arrays:
    """Return the arrays from which `from_arrays` makes the cache again; entries and ids only of pages in use."""
    pool = unbound(arrays.pool)
    used, own = _pages_in_use(pool)
    shape = ",".join(map(str, entry.shape))
    return {
        "pool": pool,
        "seqs": arrays.seqs,
        "tables": arrays.tables,
        "ids": _of_pages(arrays.ids, own),
        "store": _of_pages(arrays.store, used),
        "entry": files.text_array(f"{entry.dtype.str} {shape}"),
    }


def from_arrays(arrays: files.Arrays) -> tuple[Arrays, Entry]:
    """Return the cache that `to_arrays` described, its contents not yet examined. Damaged if sizes do not fit."""
    if arrays["ids"].dtype == np.int64:
        arrays = from_version_1(arrays)
    pool, seqs, tables, ids, store = (arrays[name] for name in Arrays._fields)
    expect(len(pool) >= layout.HEAD and 1 <= pool[layout.MAX_PAGES] < _LIMIT, "its pages do not add up")
    words = files.text_of(arrays["entry"])
    try:
        memory = policies.policy(int(pool[layout.POLICY])).size(int(pool[layout.MAX_PAGES]))
        kind, shape = words.split(" ")
        entry = Entry.of(tuple(map(int, filter(None, shape.split(",")))), kind)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Damaged(f"damaged: {error}") from error
    expect(bool(check.well_formed(pool, seqs, tables, memory)), "its pages or sequences do not add up")
    content, stored, page_size = bool(pool[layout.CONTENT]), bool(pool[layout.STORED]), int(pool[layout.PAGE_SIZE])
    sizes = (entry.nbytes, entry.dtype.itemsize if content else 8)
    expect((pool[layout.ENTRY_BYTES], pool[layout.ID_BYTES]) == sizes, "entries are not of the size it says")
    expect(entry.content or not content, "entries are no token ids")
    used, own = _pages_in_use(pool)
    id_shape = (own.sum(), page_size * int(pool[layout.ID_BYTES]))
    expect(ids.shape in (id_shape, (0, 0)) and (len(ids) > 0 or not own.any()), "ids do not fit")
    expect(store.shape == ((used.sum(), page_size * entry.nbytes) if stored else (0, 0)), "entries do not fit")
    try:
        ids, store = _spread(ids, own), _spread(store, used)
    except (MemoryError, ValueError) as error:
        raise Damaged(f"damaged, or larger than memory: {error}") from error
    dispatch.bind(pool)
    return Arrays(pool, seqs, tables, ids, store), entry._replace(content=content)


def from_version_1(arrays: files.Arrays) -> files.Arrays:
    """Return the arrays of a file of version 1 as version 2 has them: nothing is found by its entries alone."""
    old, seqs, ids = arrays["pool"], arrays["seqs"], arrays["ids"]
    expect(len(old) >= upgrade.HEAD, "its pages do not add up")
    names = (upgrade.MAX_PAGES, upgrade.PAGE_SIZE, upgrade.ENTRY_BYTES, upgrade.SHARING, upgrade.STORED)
    n, page_size, entry, sharing, stored = (int(old[name]) for name in names)
    sound = 1 <= n < _LIMIT and 1 <= page_size < _LIMIT and 0 <= entry < _LIMIT and {sharing, stored} <= {0, 1}
    expect(sound and len(old) == upgrade.old_size(n), "its pages do not add up")
    expect(bool(table.well_formed(seqs, upgrade.SEQ_COLUMNS)), "its sequences do not add up")
    settings = {
        layout.MAX_PAGES: n, layout.PAGE_SIZE: page_size, layout.ENTRY_BYTES: entry, layout.ID_BYTES: 8,
        layout.SHARING: sharing, layout.CONTENT: 0, layout.STORED: stored, layout.VISIBLE: stored, layout.VERIFY: 1,
        layout.MAX_PINNED: n // 2, layout.EVENTS: 0, layout.POLICY: dispatch.LRU,
    }  # fmt: skip
    pool = new_pool(settings)
    rows = old[upgrade.HEAD :].view(np.int32)[: upgrade.COLUMNS * n].reshape(n, upgrade.COLUMNS)
    named = (rows[:, upgrade.BUCKET] >= 0) & (rows[:, upgrade.COUNT] > 0)
    expect(ids.shape == (named.sum(), page_size) or (not named.any() and len(ids) == 0), "ids do not fit")
    data = ids.reshape(-1).view(np.uint8)
    place = np.where(named, (np.cumsum(named) - 1) * (8 * page_size), -1)
    expect(bool(upgrade.upgrade(old, data, place, pool)), "its pages are in disorder")
    wide = upgrade.widened(seqs, sequences.COLUMNS)
    ids = data.reshape(-1, 8 * page_size) if len(ids) else np.zeros((0, 0), np.uint8)
    return {**arrays, "pool": pool, "seqs": wide, "ids": ids}


def _of_pages(data: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the bytes of the n pages `which`, uint8 (n, width); (0, 0) where there are none of any page."""
    return data.reshape(len(which), -1)[which] if len(data) else np.zeros((0, 0), np.uint8)


def _spread(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return uint8 (pages * width,) with rows (n, width) at the n pages `which`, zeros elsewhere."""
    whole = np.zeros((len(which), rows.shape[1]), np.uint8)  # zeros that nobody has touched take no memory yet
    if rows.size:
        whole[which] = rows
    return whole.reshape(-1)


def _pages_in_use(pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pages are referenced or findable, and which of them have ids of their own: bool (max_pages,)."""
    rows = layout.parts(pool).rows[: int(pool[layout.MAX_PAGES])]
    findable = rows[:, layout.BUCKET] >= 0
    return (rows[:, layout.REFS] > 0) | findable, findable & (rows[:, layout.STATE] & layout.OWN != 0)
