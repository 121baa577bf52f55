"""The pages of a KV cache as one array: what stands where.

`pool`, one int64 array of a fixed size, cut by `parts`:

    head     int64 (HEAD,)                  settings and counts, by the names below
    rows     int32 (max_pages + 1, COLUMNS) a page each; the last row is the root, above every first page
    names    int64 (max_pages + 1, COLUMNS // 2)  the same memory, for names[page, NAME] and names[page, SALT]
    buckets  int64 (power of 2)             the page found there (low half) and its hash (high half), or EMPTY; open
                                            addressing, linear probing, at most half full
    memory   int64 (head[MEMORY],)          what `eviction` keeps, then the ring of `kv_cache.events`

    names[., NAME]  the content id, or the chained hash of the token ids (`kv_cache.hashes`)
    names[., SALT]  whose page it is: what one salt brought is not found under another
    row[REFS]     sequences that hold the page, and its pins
    row[BUCKET]   its bucket, -1 if it cannot be found
    row[PARENT]   the page before it, or the root
    row[COUNT]    token ids in it, 1..page_size; 0 where the page is named by a content id
    row[CHILD], row[PART], row[NEXT], row[PREV]   the full and the part-filled pages below it, and its
                                            neighbours among those of its parent; -1 ends a chain
    row[NEWER], row[OLDER]   belong to `eviction`; of a blank page, NEWER is the chain of the blank ones
    row[PINS]     how many of its references are pins
    row[STATE]    bit OWN: its token ids lie in `ids`, not in `store`; the higher ones belong to `eviction`

A page is referenced, cached (no reference, found by its key, leaves by policy) or blank (neither).
The key of a page is its salt, its parent and its ids. Pages that can be found form a tree: when one of them
is forgotten, so is everything below it, since a parent's page id may get another meaning.

Beside the pool, owned by the caller as well:

    store    uint8 (max_pages * page_size * entry_bytes,)   the entries, page after page; (0,) if none are kept
    ids      uint8 (max_pages * page_size * id_bytes,)      token ids of OWN pages; (0,) until there are any
"""

from typing import NamedTuple

import numpy as np

from ..compiling import njit

HEAD = 32
# settings. CONTENT: entries are token ids, so that full pages are found by them. STORED: entries are kept.
# VISIBLE: they may be read. VERIFY: ids are compared, not their hashes alone.
MAX_PAGES, PAGE_SIZE, ENTRY_BYTES, ID_BYTES, SHARING, CONTENT, STORED, VISIBLE, VERIFY = 0, 1, 2, 3, 4, 5, 6, 7, 8
MAX_PINNED, EVENTS, POLICY, MEMORY = 9, 10, 11, 12
BLANK, BLANKS, CACHED, FINDABLE, SHARED, TOTAL_REFS, PINNED = 13, 14, 15, 16, 17, 18, 19
SHARES, COPIES, EVICTIONS, HITS, LOOKUPS, TOLD, READ, ATTACHED = 20, 21, 22, 23, 24, 25, 26, 27

NAME, SALT = 0, 1
REFS, BUCKET, PARENT, COUNT, CHILD, PART, NEXT, PREV = 4, 5, 6, 7, 8, 9, 10, 11
NEWER, OLDER, PINS, STATE, COLUMNS = 12, 13, 14, 15, 16
OWN = 1
EMPTY = -1


class Arrays(NamedTuple):
    """The arrays of a KV cache, in the order in which the kernels over a whole cache take them."""

    pool: np.ndarray  # int64 (size,), as above
    seqs: np.ndarray  # int64 (n,), a `table` arena, see `kv_cache.sequences`
    tables: np.ndarray  # int32 (slots,), the page tables, see `kv_cache.sequences`
    ids: np.ndarray  # uint8, as above
    store: np.ndarray  # uint8, as above


@njit(cache=True)
def fill(pool, settings):
    """Make zeros int64 (size,) a pool of blank pages, which leave in the order 0, 1, 2, ... O(max_pages).

    `settings`: int64, head[:MEMORY + 1]. Fastest where it begins at a multiple of 64 bytes: a row is a cache line.
    """
    max_pages = settings[MAX_PAGES]
    for setting in range(settings.shape[0]):
        pool[setting] = settings[setting]
    head, rows, _, buckets, _ = parts(pool)
    head[BLANKS] = max_pages
    for page in range(max_pages + 1):
        for column in range(BUCKET, PINS):
            rows[page, column] = -1
        rows[page, COUNT] = 0
    for page in range(max_pages - 1):
        rows[page, NEWER] = page + 1
    buckets[:] = EMPTY


@njit(cache=True)
def bucket_count(max_pages):
    """Buckets for that many pages: the power of two that keeps them at most half full."""
    buckets = 2
    while buckets < 2 * max_pages:
        buckets *= 2
    return buckets


@njit(cache=True)
def size(max_pages, memory):
    """Elements of the array of a pool of `max_pages`."""
    return HEAD + (max_pages + 1) * (COLUMNS // 2) + bucket_count(max_pages) + memory


@njit(cache=True)
def parts(pool):
    """(head, rows, names, buckets, memory), views of `pool`."""
    n, memory = pool[MAX_PAGES] + 1, pool.shape[0] - pool[MEMORY]
    stop = HEAD + n * (COLUMNS // 2)
    names = pool[HEAD:stop].reshape(n, COLUMNS // 2)
    return pool[:HEAD], names.view(np.int32), names, pool[stop:memory], pool[memory:]
