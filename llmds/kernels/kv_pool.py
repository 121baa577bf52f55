"""The pages of a KV cache: who references them, which can be found, which leaves next.

State, one int64 array of a fixed size (`pool`), cut by `parts`:

    head     int64 (HEAD,)                  settings and counts, by the names below
    rows     int32 (max_pages + 1, COLUMNS) a page each; the last row is the root, above every first page
    names    int64 (max_pages + 1, COLUMNS // 2)  the same memory, for names[page, NAME]
    buckets  int32 (power of 2)             the page found there, or -1; open addressing, linear probing,
                                            at most half full

    row[REFS]     sequences that hold the page
    row[BUCKET]   its bucket, -1 if it cannot be found
    row[PARENT]   the page before it, or the root
    row[COUNT]    token ids in it, 1..page_size; 0 where the page is named by a content id
    row[CHILD], row[PART], row[NEXT], row[PREV]   the full and the part-filled pages below it, and its
                                            neighbours among those of its parent; -1 ends a chain
    row[NEWER], row[OLDER]   the chain of cached pages; NEWER is also the chain of the blank ones
    names[., NAME]   the content id, or the hash of the token ids, which lie in `ids`

A page is referenced, cached (no reference, found by its key, the oldest leaves first) or blank (neither).
The key of a page is its parent and its ids. Pages that can be found form a tree: when one of them
is forgotten, so is everything below it, since a parent's page id may get another meaning.

Beside the pool, owned by the caller as well:
    ids      int64 (max_pages, page_size)   token ids of the pages that have a COUNT; (0, page_size) until there are any
    store    uint8 (max_pages * page_size * entry_bytes,)   the entries, page after page; (0,) if none are kept
    origin   int64 (max_pages, 3) or (0, 3) where the ids and entries of a page will come from that are not copied yet:
             index of its first id, index of its first entry (-1: copied), number of entries
"""

import numpy as np

from .compiling import njit
from .hashing import mix

HEAD = 24
MAX_PAGES, PAGE_SIZE, ENTRY_BYTES, SHARING, STORED = 0, 1, 2, 3, 4
BLANK, BLANKS, OLDEST, NEWEST, CACHED = 5, 6, 7, 8, 9
FINDABLE, SHARED, TOTAL_REFS = 10, 11, 12
SHARES, COPIES, EVICTIONS, HITS, LOOKUPS = 13, 14, 15, 16, 17

NAME = 0
REFS, BUCKET, PARENT, COUNT, CHILD, PART, NEXT, PREV, NEWER, OLDER, COLUMNS = 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12


@njit(cache=True)
def new(page_size, max_pages, entry_bytes, sharing, stored):
    """A pool of blank pages; they leave in the order 0, 1, 2, ... O(max_pages)."""
    pool = np.zeros(size(max_pages), np.int64)
    pool[MAX_PAGES], pool[PAGE_SIZE], pool[ENTRY_BYTES] = max_pages, page_size, entry_bytes
    pool[SHARING], pool[STORED] = sharing, stored
    head, rows, _, buckets = parts(pool)
    head[BLANKS], head[OLDEST], head[NEWEST] = max_pages, -1, -1
    for page in range(max_pages + 1):
        for column in range(BUCKET, COLUMNS):
            rows[page, column] = -1
        rows[page, COUNT] = 0
    for page in range(max_pages - 1):
        rows[page, NEWER] = page + 1
    buckets[:] = -1
    return pool


@njit(cache=True)
def bucket_count(max_pages):
    """Buckets for that many pages: the power of two that keeps them at most half full."""
    buckets = 2
    while buckets < 2 * max_pages:
        buckets *= 2
    return buckets


@njit(cache=True)
def size(max_pages):
    """Elements of the array of a pool of `max_pages`."""
    return HEAD + (max_pages + 1) * (COLUMNS // 2) + bucket_count(max_pages) // 2


@njit(cache=True)
def parts(pool):
    """(head, rows, names, buckets), views of `pool`."""
    stop = HEAD + (pool[MAX_PAGES] + 1) * (COLUMNS // 2)
    names = pool[HEAD:stop].reshape(pool[MAX_PAGES] + 1, COLUMNS // 2)
    return pool[:HEAD], names.view(np.int32), names, pool[stop:].view(np.int32)


@njit(cache=True)
def available(head):
    """Pages that no sequence holds."""
    return head[BLANKS] + head[CACHED]


@njit(cache=True)
def take(head, rows, names, buckets):
    """A page with one reference: a blank one, else the oldest cached. There must be an `available` one.

    Expected O(1), amortised.
    """
    if head[BLANKS] == 0:
        forget(head, rows, names, buckets, head[OLDEST])
        head[EVICTIONS] += 1
    page = head[BLANK]
    head[BLANK] = rows[page, NEWER]
    head[BLANKS] -= 1
    rows[page, NEWER] = -1
    rows[page, REFS] = 1
    head[TOTAL_REFS] += 1
    return page


@njit(cache=True)
def acquire(head, rows, page):
    """One reference more, to a page that is referenced or cached. O(1)."""
    rows[page, REFS] += 1
    head[TOTAL_REFS] += 1
    if rows[page, REFS] == 2:
        head[SHARED] += 1
    elif rows[page, REFS] == 1:
        _leave_cached(head, rows, page)


@njit(cache=True)
def release(head, rows, page):
    """One reference less; a page without any is cached as the newest if it can be found, else blank. O(1)."""
    rows[page, REFS] -= 1
    head[TOTAL_REFS] -= 1
    if rows[page, REFS] == 1:
        head[SHARED] -= 1
    elif rows[page, REFS] == 0:
        if rows[page, BUCKET] < 0:
            _blank(head, rows, page)
            return
        newest = head[NEWEST]
        rows[page, OLDER], rows[page, NEWER] = newest, -1
        if newest >= 0:
            rows[newest, NEWER] = page
        else:
            head[OLDEST] = page
        head[NEWEST] = page
        head[CACHED] += 1


@njit(cache=True)
def hash_ids(tokens, start, count):
    """A 64-bit hash of tokens[start:start + count], int64. O(count).

    Four sums run side by side, since a multiplication takes longer than it keeps the processor busy.
    """
    a, b, c, d = np.uint64(count), np.uint64(1), np.uint64(2), np.uint64(3)
    factor, shift = np.uint64(0xC6A4A7935BD1E995), np.uint64(29)
    ids = tokens[start : start + count].view(np.uint64)
    fours = count // 4
    for four in range(fours):
        a = (a ^ ids[4 * four]) * factor
        b = (b ^ ids[4 * four + 1]) * factor
        c = (c ^ ids[4 * four + 2]) * factor
        d = (d ^ ids[4 * four + 3]) * factor
        a, b, c, d = a ^ (a >> shift), b ^ (b >> shift), c ^ (c >> shift), d ^ (d >> shift)
    for at in range(4 * fours, count):
        a = (a ^ ids[at]) * factor
        a ^= a >> shift
    return np.int64(mix(np.int64((((a * factor) ^ b) * factor ^ c) * factor ^ d)))


@njit(cache=True)
def find(rows, names, buckets, ids, origin, parent, name, tokens, start, count):
    """The page below `parent` whose ids are tokens[start:start + count] (hashed: `name`), or -1. Expected O(count).

    With count = 0, the page below `parent` whose content id is `name`.
    """
    mask = buckets.shape[0] - 1
    bucket = _home(parent, name, count) & mask
    while True:
        page = np.int64(buckets[bucket])
        if page < 0:
            return page
        if (
            names[page, NAME] == name
            and rows[page, PARENT] == parent
            and rows[page, COUNT] == count
            and same_ids(ids, origin, page, tokens, start, count)
        ):
            return page
        bucket = (bucket + 1) & mask


@njit(cache=True)
def same_ids(ids, origin, page, tokens, start, count):
    """Whether the first `count` ids of a page are tokens[start:start + count]. O(count)."""
    if count == 0:
        return True
    theirs, ours = ids[page, :count], tokens[start : start + count]
    if origin.shape[0] > 0 and origin[page, 1] >= 0:
        first = origin[page, 0]
        theirs = tokens[first : first + count]
    for i in range(count):
        if theirs[i] != ours[i]:
            return False
    return True


@njit(cache=True)
def link(head, rows, names, buckets, page, parent, name, count, full):
    """Let a page be found below `parent`, where no such page is; its ids are the caller's to store. Expected O(1)."""
    names[page, NAME] = name
    rows[page, PARENT], rows[page, COUNT] = parent, count
    mask = buckets.shape[0] - 1
    bucket = _home(parent, name, count) & mask
    while buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    buckets[bucket] = page
    rows[page, BUCKET] = bucket
    chain = CHILD if full else PART
    first = rows[parent, chain]
    rows[page, NEXT], rows[page, PREV] = first, -1
    if first >= 0:
        rows[first, PREV] = page
    rows[parent, chain] = page
    head[FINDABLE] += 1


@njit(cache=True)
def forget(head, rows, names, buckets, page):
    """Let neither this page nor those below it be found; the cached ones among them become blank.

    O(pages forgotten), each of which was once linked.
    """
    at = np.int64(page)
    while True:
        while True:  # down to a page without any below it
            below = rows[at, CHILD] if rows[at, CHILD] >= 0 else rows[at, PART]
            if below < 0:
                break
            at = np.int64(below)
        parent = np.int64(rows[at, PARENT])
        _unlink(head, rows, names, buckets, at)
        if rows[at, REFS] == 0:
            _leave_cached(head, rows, at)
            _blank(head, rows, at)
        if at == page:
            break
        at = parent


@njit(cache=True)
def copy_entries(head, store, page, slot, source, entry, count):
    """Copy `count` entries from `source`, from its entry number `entry` on, to a page. Any two uint8 arrays."""
    width = head[ENTRY_BYTES]
    copy_bytes(store, (page * head[PAGE_SIZE] + slot) * width, source, entry * width, count * width)


@njit(cache=True)
def copy_bytes(target, to, source, start, count):
    """target[to:to + count] = source[start:start + count], uint8 arrays.

    An index that begins at 0 needs no test for being negative: only so does the loop become a memcpy.
    """
    left, right = target[to : to + count], source[start : start + count]
    for byte in range(count):
        left[byte] = right[byte]


@njit(cache=True)
def same_entries(head, store, origin, page, entries, entry, count):
    """Whether the first `count` entries of a page are those of `entries` from number `entry` on, bit for bit."""
    width = head[ENTRY_BYTES]
    total, first, start = count * width, page * head[PAGE_SIZE] * width, entry * width
    theirs, ours = store[first : first + total], entries[start : start + total]
    if origin.shape[0] > 0 and origin[page, 1] >= 0:
        first = origin[page, 1] * width
        theirs = entries[first : first + total]
    different = np.uint8(0)
    for byte in range(total):  # without a branch it is done 32 bytes at a time
        different |= theirs[byte] ^ ours[byte]
    return different == 0


@njit(cache=True)
def _home(parent, name, count):
    return np.int64(mix(np.int64(name ^ np.int64(mix(2 * parent + (count > 0))))))


@njit(cache=True)
def _unlink(head, rows, names, buckets, page):
    """Take a page without any below it out of its bucket and its parent's chain."""
    mask = buckets.shape[0] - 1
    hole = np.int64(rows[page, BUCKET])
    probe = hole
    while True:  # later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R)
        probe = (probe + 1) & mask
        other = np.int64(buckets[probe])
        if other < 0:
            break
        home = _home(np.int64(rows[other, PARENT]), names[other, NAME], np.int64(rows[other, COUNT])) & mask
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            buckets[hole] = other
            rows[other, BUCKET] = hole
            hole = probe
    buckets[hole] = -1
    before, after, parent = rows[page, PREV], rows[page, NEXT], rows[page, PARENT]
    if before >= 0:
        rows[before, NEXT] = after
    elif rows[parent, CHILD] == page:
        rows[parent, CHILD] = after
    else:
        rows[parent, PART] = after
    if after >= 0:
        rows[after, PREV] = before
    rows[page, BUCKET] = rows[page, PARENT] = rows[page, NEXT] = rows[page, PREV] = -1
    rows[page, COUNT] = 0
    head[FINDABLE] -= 1


@njit(cache=True)
def _blank(head, rows, page):
    rows[page, NEWER] = head[BLANK]
    head[BLANK] = page
    head[BLANKS] += 1


@njit(cache=True)
def _leave_cached(head, rows, page):
    older, newer = rows[page, OLDER], rows[page, NEWER]
    if older >= 0:
        rows[older, NEWER] = newer
    else:
        head[OLDEST] = newer
    if newer >= 0:
        rows[newer, OLDER] = older
    else:
        head[NEWEST] = older
    rows[page, OLDER] = rows[page, NEWER] = -1
    head[CACHED] -= 1
