"""The pages of a KV cache: taken, referenced, found and forgotten.

`pages`, `data`: the `Pages` and `Data` of `kv_cache.layout`.
"""

import numpy as np

from ..compiling import always_inline, njit_no_nrt
from ..simd import prefetch
from . import events, layout
from .eviction import dispatch as eviction
from .hashes import same_bytes, same_ids

_ONE = np.int64(1)


@njit_no_nrt(cache=True)
def available(head):
    """Return how many pages no sequence holds."""
    return head[layout.BLANKS] + head[layout.CACHED]


@njit_no_nrt(cache=True)
def take(pages):
    """Return a page with one reference: a blank one, else the cached one that the policy evicts.

    There must be an `available` one. Expected O(1), amortised.
    """
    always_inline()
    head, rows, buckets = pages.head, pages.rows, pages.buckets
    if head[layout.BLANKS] == 0:
        least = eviction.victim(pages)
        later = rows[least, layout.NEWER]  # often evicted next; the bucket of the one after it is fetched ahead of time
        if later >= 0 and rows[later, layout.NEWER] >= 0:
            prefetch(buckets, np.int64(rows[rows[later, layout.NEWER], layout.BUCKET]), _ONE)
        eviction.evicted(pages, least)
        forget(pages, least)
        head[layout.EVICTIONS] += 1
    page = head[layout.BLANK]
    head[layout.BLANK] = rows[page, layout.NEWER]
    head[layout.BLANKS] -= 1
    rows[page, layout.NEWER] = -1
    rows[page, layout.REFS] = 1
    head[layout.TOTAL_REFS] += 1
    return page


@njit_no_nrt(cache=True)
def acquire(pages, page):
    """Add a reference to a page that is referenced or cached. O(1)."""
    always_inline()
    head, rows = pages.head, pages.rows
    rows[page, layout.REFS] += 1
    head[layout.TOTAL_REFS] += 1
    if rows[page, layout.REFS] == 2:
        head[layout.SHARED] += 1
    elif rows[page, layout.REFS] == 1:
        eviction.leave(pages, page)


@njit_no_nrt(cache=True)
def release(pages, page):
    """Remove a reference; a page without any is cached if it can be found, else blank. O(1)."""
    always_inline()
    head, rows = pages.head, pages.rows
    rows[page, layout.REFS] -= 1
    head[layout.TOTAL_REFS] -= 1
    if rows[page, layout.REFS] == 1:
        head[layout.SHARED] -= 1
    elif rows[page, layout.REFS] == 0:
        if rows[page, layout.BUCKET] < 0:
            _blank(head, rows, page)
        else:
            eviction.enter(pages, page)


@njit_no_nrt(cache=True)
def find(pages, data, parent, salt, key, name, own, at, count):
    """Return the page below `parent` that holds the `count` ids from byte `at` on of data.prefix or data.entries.

    data.prefix if `own`; -1 if there is none. `name`: the chained hash of the ids; with count = 0, a content id.
    `key`: see `kv_cache.hashes`. Expected O(count).
    """
    head, rows, names, buckets = pages.head, pages.rows, pages.names, pages.buckets
    mask, home, bucket = buckets.shape[0] - 1, _home(key), bucket_of(buckets, key)
    while True:
        word = buckets[bucket]
        if word == layout.EMPTY:
            return np.int64(-1)
        page = word & 0xFFFFFFFF
        if (
            word >> 32 == home
            and names[page, layout.NAME] == name
            and rows[page, layout.PARENT] == parent
            and names[page, layout.SALT] == salt
            and rows[page, layout.COUNT] == count
            and (
                count == 0
                or head[layout.VERIFY] == 0
                or same_ids(head, rows, data, page, own, at, count * head[layout.ID_BYTES])
            )
        ):
            return page
        bucket = (bucket + 1) & mask


@njit_no_nrt(cache=True)
def link(pages, page, parent, salt, key, name, count, full):
    """Make a page findable below `parent`, where no such page is; the caller stores its ids. Expected O(1)."""
    always_inline()
    rows, names, buckets = pages.rows, pages.names, pages.buckets
    names[page, layout.NAME], names[page, layout.SALT] = name, salt
    rows[page, layout.PARENT], rows[page, layout.COUNT] = parent, count
    mask, home, bucket = buckets.shape[0] - 1, _home(key), bucket_of(buckets, key)
    while buckets[bucket] != layout.EMPTY:
        bucket = (bucket + 1) & mask
    buckets[bucket] = home << 32 | page
    rows[page, layout.BUCKET] = bucket
    chain = layout.CHILD if full else layout.PART
    first = rows[parent, chain]
    rows[page, layout.NEXT], rows[page, layout.PREV] = first, -1
    if first >= 0:
        rows[first, layout.PREV] = page
    rows[parent, chain] = page
    pages.head[layout.FINDABLE] += 1
    eviction.begin(pages, page)
    events.record(pages, events.STORED, page)


@njit_no_nrt(cache=True)
def forget(pages, page):
    """Make a page and all pages below it unfindable; the cached ones among them become blank.

    O(pages forgotten), each of which was once linked.
    """
    always_inline()
    head, rows = pages.head, pages.rows
    at = np.int64(page)
    while True:
        while True:  # down to a page without any below it
            below = rows[at, layout.CHILD] if rows[at, layout.CHILD] >= 0 else rows[at, layout.PART]
            if below < 0:
                break
            at = np.int64(below)
        parent = np.int64(rows[at, layout.PARENT])
        events.record(pages, events.REMOVED, at)
        if rows[at, layout.REFS] == 0:
            eviction.leave(pages, at)
        else:
            eviction.drop(pages, at)
        _unlink(head, rows, pages.buckets, at)
        if rows[at, layout.REFS] == 0:
            _blank(head, rows, at)
        eviction.forgotten(pages, parent)
        if at == page:
            break
        at = parent


@njit_no_nrt(cache=True)
def copy_entries(head, store, page, slot, source, entry, count):
    """Copy `count` entries from `source`, from its entry number `entry` on, to a page. Any two uint8 arrays."""
    width = head[layout.ENTRY_BYTES]
    copy_bytes(store, (page * head[layout.PAGE_SIZE] + slot) * width, source, entry * width, count * width)


@njit_no_nrt(cache=True)
def copy_bytes(target, to, source, start, count):
    """Copy source[start:start + count] to target[to:to + count], uint8 arrays.

    The indices are unsigned, so no test for negative ones keeps the compiler from moving many bytes at a time.
    """
    for byte in range(np.uint64(count)):
        target[np.uint64(to) + byte] = source[np.uint64(start) + byte]


@njit_no_nrt(cache=True)
def same_entries(head, data, page, entry, count):
    """Return whether a page begins with the `count` entries of data.entries from number `entry` on, bit for bit."""
    width, origin = head[layout.ENTRY_BYTES], data.origin
    if origin.shape[0] > 0 and origin[page, 1] >= 0:
        return same_bytes(data.entries, origin[page, 1] * width, data.entries, entry * width, count * width)
    start = page * head[layout.PAGE_SIZE] * width
    return same_bytes(data.store, start, data.entries, entry * width, count * width)


@njit_no_nrt(cache=True, forceinline=True)
def bucket_of(buckets, key):
    """Return the bucket at which the search for a key begins."""
    return _home(key) & (buckets.shape[0] - 1)


@njit_no_nrt(cache=True, forceinline=True)
def _home(key):
    return np.int64(np.uint64(key) >> np.uint64(33))


@njit_no_nrt(cache=True)
def _unlink(head, rows, buckets, page):
    """Remove a page without any below it from its bucket and from the chain of its parent."""
    mask = buckets.shape[0] - 1
    hole = np.int64(rows[page, layout.BUCKET])
    probe = hole
    while True:  # later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R)
        probe = (probe + 1) & mask
        word = buckets[probe]
        if word == layout.EMPTY:
            break
        if ((probe - (word >> 32)) & mask) >= ((probe - hole) & mask):
            buckets[hole] = word
            rows[word & 0xFFFFFFFF, layout.BUCKET] = hole
            hole = probe
    buckets[hole] = layout.EMPTY
    before, after, parent = rows[page, layout.PREV], rows[page, layout.NEXT], rows[page, layout.PARENT]
    if before >= 0:
        rows[before, layout.NEXT] = after
    elif rows[parent, layout.CHILD] == page:
        rows[parent, layout.CHILD] = after
    else:
        rows[parent, layout.PART] = after
    if after >= 0:
        rows[after, layout.PREV] = before
    rows[page, layout.BUCKET] = rows[page, layout.PARENT] = rows[page, layout.NEXT] = rows[page, layout.PREV] = -1
    rows[page, layout.COUNT] = rows[page, layout.STATE] = 0
    head[layout.FINDABLE] -= 1


@njit_no_nrt(cache=True)
def _blank(head, rows, page):
    rows[page, layout.NEWER] = head[layout.BLANK]
    head[layout.BLANK] = page
    head[layout.BLANKS] += 1
