"""Token ids as bytes: hashed into the names of pages, and compared.

The key of a page, by which it is looked for, is its name where that is a chained hash; else the chained hash of the
content ids up to it.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..hashing import hash_bytes, mix
from ..simd import hash_lines
from . import layout as kv

LINE = 64


@njit_no_nrt(cache=True)
def root_name(salt):
    """Key and name of what stands before the first page of a sequence, int64."""
    return np.int64(mix(salt ^ 0x2545F4914F6CDD1D))


@njit_no_nrt(cache=True)
def page_name(data, start, count, before):
    """The chained hash of data[start:start + count] (uint8) after a page named `before`, int64. O(count).

    Two pages of one name hold the same bytes after the same pages, as far as 64 bits can tell.
    """
    lines = count // LINE
    h = np.uint64(before) * np.uint64(0x9FB21C651E98DF25) + np.uint64(count)
    if lines > 0:
        h ^= hash_lines(data, start, lines)
    done = start + LINE * lines
    if done < start + count:
        return np.int64(hash_bytes(data, done, start + count, h))
    return np.int64(mix(np.int64(h)))


@njit_no_nrt(cache=True)
def block_key(before, content):
    """By what the page of a content id is looked for below one whose key is `before`, int64: one id has many places."""
    return np.int64(mix(before ^ content))


@njit_no_nrt(cache=True)
def content_hash(names, page):
    """64 bits that a page has again when it comes again under its salt after it was forgotten, uint64."""
    return mix(names[page, kv.NAME] ^ np.int64(mix(names[page, kv.SALT] ^ 0x9E3779B97F4A7C)))


@njit_no_nrt(cache=True)
def same_bytes(left, at, right, start, count):
    """Whether left[at:at + count] and right[start:start + count], uint8, are the same. O(count)."""
    different = np.uint8(0)
    for byte in range(np.uint64(count)):  # without a branch it is done 32 bytes at a time
        different |= left[np.uint64(at) + byte] ^ right[np.uint64(start) + byte]
    return different == 0


@njit_no_nrt(cache=True)
def same_ids(head, rows, ids, store, origin, prefix, entries, page, own, at, count):
    """Whether the token ids in a page are those from byte `at` on of `prefix` (if `own`) or of `entries`. O(count).

    `count`: bytes. `origin` as in `kv_cache`.
    """
    start = page * head[kv.PAGE_SIZE] * head[kv.ID_BYTES]
    waiting = origin.shape[0] > 0 and origin[page, 1] >= 0
    theirs = ids if rows[page, kv.STATE] & kv.OWN else store
    if waiting and rows[page, kv.STATE] & kv.OWN:
        theirs, start = prefix, origin[page, 0]
    elif waiting:
        theirs, start = entries, origin[page, 1] * head[kv.ENTRY_BYTES]
    return same_bytes(theirs, start, prefix if own else entries, at, count)
