"""The pages of a KV cache: taken, referenced, found and forgotten. Their state: `kv_cache.layout`.

Some functions also take
    origin   int64 (max_pages, 3) or (0, 3) where the ids and entries of a page will come from that are not copied yet:
             first byte of its ids in the prefixes (where OWN), number of its first entry (-1: copied), how many
"""

import numpy as np

from ..compiling import always_inline, njit_no_nrt
from ..simd import prefetch
from . import events as kv_events
from . import layout as kv
from .eviction import dispatch as kv_eviction
from .hashes import same_bytes, same_ids

_ONE = np.int64(1)


@njit_no_nrt(cache=True)
def available(head):
    """Pages that no sequence holds."""
    return head[kv.BLANKS] + head[kv.CACHED]


@njit_no_nrt(cache=True)
def take(head, rows, names, buckets, memory):
    """A page with one reference: a blank one, else the cached one whose turn it is. There must be an `available` one.

    Expected O(1), amortised.
    """
    always_inline()
    if head[kv.BLANKS] == 0:
        least = kv_eviction.victim(head, rows, names, memory)
        later = rows[least, kv.NEWER]  # as a rule the next; the one after it will find its bucket at hand
        if later >= 0 and rows[later, kv.NEWER] >= 0:
            prefetch(buckets, np.int64(rows[rows[later, kv.NEWER], kv.BUCKET]), _ONE)
        kv_eviction.evicted(head, rows, names, memory, least)
        forget(head, rows, names, buckets, memory, least)
        head[kv.EVICTIONS] += 1
    page = head[kv.BLANK]
    head[kv.BLANK] = rows[page, kv.NEWER]
    head[kv.BLANKS] -= 1
    rows[page, kv.NEWER] = -1
    rows[page, kv.REFS] = 1
    head[kv.TOTAL_REFS] += 1
    return page


@njit_no_nrt(cache=True)
def acquire(head, rows, names, memory, page):
    """One reference more, to a page that is referenced or cached. O(1)."""
    always_inline()
    rows[page, kv.REFS] += 1
    head[kv.TOTAL_REFS] += 1
    if rows[page, kv.REFS] == 2:
        head[kv.SHARED] += 1
    elif rows[page, kv.REFS] == 1:
        kv_eviction.leave(head, rows, names, memory, page)


@njit_no_nrt(cache=True)
def release(head, rows, names, memory, page):
    """One reference less; a page without any is cached if it can be found, else blank. O(1)."""
    always_inline()
    rows[page, kv.REFS] -= 1
    head[kv.TOTAL_REFS] -= 1
    if rows[page, kv.REFS] == 1:
        head[kv.SHARED] -= 1
    elif rows[page, kv.REFS] == 0:
        if rows[page, kv.BUCKET] < 0:
            _blank(head, rows, page)
        else:
            kv_eviction.enter(head, rows, names, memory, page)


@njit_no_nrt(cache=True)
def find(head, rows, names, buckets, ids, store, origin, prefix, entries, parent, salt, key, name, own, at, count):
    """The page below `parent` whose ids begin at byte `at` of `prefix` (if `own`) or of `entries`, or -1.

    `count` ids, whose chained hash is `name`; with count = 0, the page whose content id is `name`. `key`: see
    `kv_cache.hashes`. Expected O(count).
    """
    mask, home, bucket = buckets.shape[0] - 1, _home(key), bucket_of(buckets, key)
    while True:
        word = buckets[bucket]
        if word == kv.EMPTY:
            return np.int64(-1)
        page = word & 0xFFFFFFFF
        if (
            word >> 32 == home
            and names[page, kv.NAME] == name
            and rows[page, kv.PARENT] == parent
            and names[page, kv.SALT] == salt
            and rows[page, kv.COUNT] == count
            and (
                count == 0
                or head[kv.VERIFY] == 0
                or same_ids(head, rows, ids, store, origin, prefix, entries, page, own, at, count * head[kv.ID_BYTES])
            )
        ):
            return page
        bucket = (bucket + 1) & mask


@njit_no_nrt(cache=True)
def link(head, rows, names, buckets, memory, page, parent, salt, key, name, count, full):
    """Let a page be found below `parent`, where no such page is; its ids are the caller's to store. Expected O(1)."""
    always_inline()
    names[page, kv.NAME], names[page, kv.SALT] = name, salt
    rows[page, kv.PARENT], rows[page, kv.COUNT] = parent, count
    mask, home, bucket = buckets.shape[0] - 1, _home(key), bucket_of(buckets, key)
    while buckets[bucket] != kv.EMPTY:
        bucket = (bucket + 1) & mask
    buckets[bucket] = home << 32 | page
    rows[page, kv.BUCKET] = bucket
    chain = kv.CHILD if full else kv.PART
    first = rows[parent, chain]
    rows[page, kv.NEXT], rows[page, kv.PREV] = first, -1
    if first >= 0:
        rows[first, kv.PREV] = page
    rows[parent, chain] = page
    head[kv.FINDABLE] += 1
    kv_eviction.begin(head, rows, names, memory, page)
    kv_events.tell(head, rows, names, memory, kv_events.STORED, page)


@njit_no_nrt(cache=True)
def forget(head, rows, names, buckets, memory, page):
    """Let neither this page nor those below it be found; the cached ones among them become blank.

    O(pages forgotten), each of which was once linked.
    """
    always_inline()
    at = np.int64(page)
    while True:
        while True:  # down to a page without any below it
            below = rows[at, kv.CHILD] if rows[at, kv.CHILD] >= 0 else rows[at, kv.PART]
            if below < 0:
                break
            at = np.int64(below)
        parent = np.int64(rows[at, kv.PARENT])
        kv_events.tell(head, rows, names, memory, kv_events.REMOVED, at)
        if rows[at, kv.REFS] == 0:
            kv_eviction.leave(head, rows, names, memory, at)
        else:
            kv_eviction.drop(head, rows, memory, at)
        _unlink(head, rows, buckets, at)
        if rows[at, kv.REFS] == 0:
            _blank(head, rows, at)
        kv_eviction.forgotten(head, rows, names, memory, at, parent)
        if at == page:
            break
        at = parent


@njit_no_nrt(cache=True)
def copy_entries(head, store, page, slot, source, entry, count):
    """Copy `count` entries from `source`, from its entry number `entry` on, to a page. Any two uint8 arrays."""
    width = head[kv.ENTRY_BYTES]
    copy_bytes(store, (page * head[kv.PAGE_SIZE] + slot) * width, source, entry * width, count * width)


@njit_no_nrt(cache=True)
def copy_bytes(target, to, source, start, count):
    """target[to:to + count] = source[start:start + count], uint8 arrays.

    An index without a sign needs no test for being negative: only so does the loop move more than a byte at a time.
    """
    for byte in range(np.uint64(count)):
        target[np.uint64(to) + byte] = source[np.uint64(start) + byte]


@njit_no_nrt(cache=True)
def same_entries(head, store, origin, page, entries, entry, count):
    """Whether the first `count` entries of a page are those of `entries` from number `entry` on, bit for bit."""
    width = head[kv.ENTRY_BYTES]
    if origin.shape[0] > 0 and origin[page, 1] >= 0:
        return same_bytes(entries, origin[page, 1] * width, entries, entry * width, count * width)
    return same_bytes(store, page * head[kv.PAGE_SIZE] * width, entries, entry * width, count * width)


@njit_no_nrt(cache=True, forceinline=True)
def bucket_of(buckets, key):
    """The bucket at which the search for a key begins."""
    return _home(key) & (buckets.shape[0] - 1)


@njit_no_nrt(cache=True, forceinline=True)
def _home(key):
    return np.int64(np.uint64(key) >> np.uint64(33))


@njit_no_nrt(cache=True)
def _unlink(head, rows, buckets, page):
    """Take a page without any below it out of its bucket and its parent's chain."""
    mask = buckets.shape[0] - 1
    hole = np.int64(rows[page, kv.BUCKET])
    probe = hole
    while True:  # later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R)
        probe = (probe + 1) & mask
        word = buckets[probe]
        if word == kv.EMPTY:
            break
        if ((probe - (word >> 32)) & mask) >= ((probe - hole) & mask):
            buckets[hole] = word
            rows[word & 0xFFFFFFFF, kv.BUCKET] = hole
            hole = probe
    buckets[hole] = kv.EMPTY
    before, after, parent = rows[page, kv.PREV], rows[page, kv.NEXT], rows[page, kv.PARENT]
    if before >= 0:
        rows[before, kv.NEXT] = after
    elif rows[parent, kv.CHILD] == page:
        rows[parent, kv.CHILD] = after
    else:
        rows[parent, kv.PART] = after
    if after >= 0:
        rows[after, kv.PREV] = before
    rows[page, kv.BUCKET] = rows[page, kv.PARENT] = rows[page, kv.NEXT] = rows[page, kv.PREV] = -1
    rows[page, kv.COUNT] = rows[page, kv.STATE] = 0
    head[kv.FINDABLE] -= 1


@njit_no_nrt(cache=True)
def _blank(head, rows, page):
    rows[page, kv.NEWER] = head[kv.BLANK]
    head[kv.BLANK] = page
    head[kv.BLANKS] += 1
