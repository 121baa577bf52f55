"""The pages of a KV cache in one array, and the tuples that group the cache's arrays.

`pool`, one int64 array of a fixed size, is cut by `parts` into `Pages`:

    head     int64 (HEAD,)                  settings and counts, by the names below
    rows     int32 (max_pages + 1, COLUMNS) one row a page; the last row is the root, the parent of every first page
    names    int64 (max_pages + 1, COLUMNS // 2)  the same memory, for names[page, NAME] and names[page, SALT]
    buckets  int64 (power of 2)             the page found there (low half) and its hash (high half), or EMPTY; open
                                            addressing, linear probing, at most half full
    memory   int64 (head[MEMORY],)          what the eviction policy keeps, then the ring of `kv_cache.events`

    names[., NAME]  the content id, or the chained hash of the token ids (`kv_cache.hashes`)
    names[., SALT]  the salt of the page: a page is found only under the salt it was attached with
    row[REFS]     sequences that hold the page, plus its pins
    row[BUCKET]   its bucket, -1 if it cannot be found
    row[PARENT]   the page before it, or the root
    row[COUNT]    token ids in it, 1..page_size; 0 where the page is named by a content id
    row[CHILD], row[PART], row[NEXT], row[PREV]   its first full and first part-filled child, and its neighbours among
                                            the children of its parent; -1 ends a chain
    row[NEWER], row[OLDER]   belong to the eviction policy; of a blank page, NEWER links the chain of blank pages
    row[PINS]     how many of its references are pins
    row[STATE]    bit OWN: its token ids lie in `ids`, not in `store`; the higher bits belong to the eviction policy

A page is referenced, cached (no reference, found by its key, evicted by the policy) or blank (neither).
The key of a page is its salt, its parent and its ids. Pages that can be found form a tree: when one of them
is forgotten, so are all pages below it, since the page id of a parent may get another meaning.
"""

from typing import NamedTuple

import numpy as np

from ..compiling import njit

HEAD = 32
# Settings. CONTENT: entries are token ids, so full pages are found by them. STORED: entries are kept.
# VISIBLE: they may be read. VERIFY: ids are compared, not only their hashes.
MAX_PAGES, PAGE_SIZE, ENTRY_BYTES, ID_BYTES, SHARING, CONTENT, STORED, VISIBLE, VERIFY = 0, 1, 2, 3, 4, 5, 6, 7, 8
MAX_PINNED, EVENTS, POLICY, MEMORY = 9, 10, 11, 12
# Counts. RECORDED: events so far; READ: events returned or lost; ATTACHED: sequences attached so far.
BLANK, BLANKS, CACHED, FINDABLE, SHARED, TOTAL_REFS, PINNED = 13, 14, 15, 16, 17, 18, 19
SHARES, COPIES, EVICTIONS, HITS, LOOKUPS, RECORDED, READ, ATTACHED = 20, 21, 22, 23, 24, 25, 26, 27
# The address of the policy's functions in this process, see `kv_cache.eviction.dispatch`; 0 in files.
FUNCTIONS = 28

NAME, SALT = 0, 1
REFS, BUCKET, PARENT, COUNT, CHILD, PART, NEXT, PREV = 4, 5, 6, 7, 8, 9, 10, 11
NEWER, OLDER, PINS, STATE, COLUMNS = 12, 13, 14, 15, 16
OWN = 1
EMPTY = -1


class Arrays(NamedTuple):
    """The arrays of a KV cache, in the order in which the kernels over a whole cache take them.

    `pool` int64 (size,), see this module; `seqs` int64 (m,) and `tables` int32 (slots,), see `kv_cache.sequences`;
    `ids` uint8 (max_pages * page_size * id_bytes,), the token ids of OWN pages, (0,) until there are any; `store` uint8
    (max_pages * page_size * entry_bytes,), the entries, page after page, (0,) if none are kept.
    """

    pool: np.ndarray
    seqs: np.ndarray
    tables: np.ndarray
    ids: np.ndarray
    store: np.ndarray


class Pages(NamedTuple):
    """The parts of a pool, as `parts` returns them; this module says what they hold."""

    head: np.ndarray
    rows: np.ndarray
    names: np.ndarray
    buckets: np.ndarray
    memory: np.ndarray


class Data(NamedTuple):
    """Where token ids and entries lie: in the pages (`ids`, `store`) and in a call (`prefix`, `entries`), all uint8.

    `origin`, int64 (max_pages, 3) or (0, 3): of each page that is not copied into the pages yet, the first byte of its
    ids in `prefix` (where OWN), the number of its first entry in `entries` (-1: it is copied), and how many entries.
    """

    ids: np.ndarray
    store: np.ndarray
    prefix: np.ndarray
    entries: np.ndarray
    origin: np.ndarray


@njit(cache=True)
def fill(pool, settings):
    """Make zeros int64 (size,) a pool of blank pages, taken in the order 0, 1, 2, ... O(max_pages).

    `settings`: int64, head[:MEMORY + 1]. A pool is fastest where it begins at a multiple of 64 bytes: a row is then
    one cache line.
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
    """Return the buckets for that many pages: the power of two that keeps them at most half full."""
    buckets = 2
    while buckets < 2 * max_pages:
        buckets *= 2
    return buckets


@njit(cache=True)
def size(max_pages, memory):
    """Return the number of elements of a pool of `max_pages`."""
    return HEAD + (max_pages + 1) * (COLUMNS // 2) + bucket_count(max_pages) + memory


@njit(cache=True)
def parts(pool):
    """Return the `Pages` of a pool: views, not copies."""
    n, memory = pool[MAX_PAGES] + 1, pool.shape[0] - pool[MEMORY]
    stop = HEAD + n * (COLUMNS // 2)
    names = pool[HEAD:stop].reshape(n, COLUMNS // 2)
    return Pages(pool[:HEAD], names.view(np.int32), names, pool[stop:memory], pool[memory:])
