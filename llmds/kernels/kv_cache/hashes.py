"""Token ids as bytes: hashed into the names of pages, and compared.

A page is looked up by its key: its name where that is a chained hash of token ids, else the chained hash of the content
ids up to it.
"""

import numpy as np

from ..compiling import njit_no_nrt
from ..hashing import hash_bytes, mix
from ..simd import hash_lines
from . import layout

LINE = 64


@njit_no_nrt(cache=True)
def root_name(salt):
    """Return the key and name, int64, from which those of the first page of a sequence are made."""
    return np.int64(mix(salt ^ 0x2545F4914F6CDD1D))


@njit_no_nrt(cache=True)
def page_name(data, start, count, before):
    """Return the chained hash of data[start:start + count] (uint8) after a page named `before`, int64. O(count).

    Two pages of one name hold the same bytes after the same pages, unless two 64-bit hashes collide.
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
    """Return the key, int64, of the page of a content id below a page whose key is `before`.

    A content id is no key by itself: it may occur below many pages.
    """
    return np.int64(mix(before ^ content))


@njit_no_nrt(cache=True)
def content_hash(names, page):
    """Return 64 bits, uint64, that a page has again when it is attached again under its salt after it was forgotten."""
    return mix(names[page, layout.NAME] ^ np.int64(mix(names[page, layout.SALT] ^ 0x9E3779B97F4A7C)))


@njit_no_nrt(cache=True)
def same_bytes(left, at, right, start, count):
    """Return whether left[at:at + count] and right[start:start + count], uint8, are equal. O(count)."""
    different = np.uint8(0)
    for byte in range(np.uint64(count)):  # without a branch the compiler compares 32 bytes at a time
        different |= left[np.uint64(at) + byte] ^ right[np.uint64(start) + byte]
    return different == 0


@njit_no_nrt(cache=True)
def same_ids(head, rows, data, page, own, at, count):
    """Return whether a page holds the `count` bytes of token ids from byte `at` on of `data`. O(count).

    They lie in data.prefix (if `own`), else in data.entries.
    """
    start = page * head[layout.PAGE_SIZE] * head[layout.ID_BYTES]
    waiting = data.origin.shape[0] > 0 and data.origin[page, 1] >= 0
    theirs = data.ids if rows[page, layout.STATE] & layout.OWN else data.store
    if waiting and rows[page, layout.STATE] & layout.OWN:
        theirs, start = data.prefix, data.origin[page, 0]
    elif waiting:
        theirs, start = data.entries, data.origin[page, 1] * head[layout.ENTRY_BYTES]
    return same_bytes(theirs, start, data.prefix if own else data.entries, at, count)
