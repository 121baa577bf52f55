"""When the blocks of a trace are used again: from this follow the hit rates of caches, without simulating each of them.

Requests are rows of `indptr` int64 (n + 1,): request r has the blocks indptr[r]..indptr[r + 1]-1, from its first to its
last. `nodes` int32 (blocks,) says which blocks are the same: one node a distinct prefix, numbered 0, 1, 2, ... in
order of appearance (`number` finds them), so the blocks before a repeated block in its request are repeated
too. All arrays belong to the caller, who calls each kernel for runs of requests, in order, so that none runs long.

A cache holds so many blocks. A request finds its leading blocks that are cached, up to the first that is not; then all
of its blocks are cached, and those of others evicted where room is lacking. A request longer than the cache
is refused.
"""

import numpy as np

from .. import bitset, simd
from ..compiling import njit_no_nrt
from ..hashing import mix

LIVE, DEAD = 0, 1
_ONE = np.uint64(1)
_SPREAD = np.int64(-7046029254386353131)  # 2**64 over the golden ratio, as a signed number


@njit_no_nrt(cache=True, nogil=True)
def number(block_ids, indptr, first, stop, head, buckets, ids, parents, nodes):
    """Fill `nodes` for requests first..stop-1. O(their blocks).

    Two blocks have one node if their ids are equal and so are all ids before them in their requests.

    block_ids int64 (blocks,); head int64 (1,): how many nodes there are, 0 to begin with; buckets int32 (a power of 2,
    twice the blocks or more), -1 to begin with; ids int64 and parents int32, (blocks,) each: what node v stands for,
    its id after the prefix parents[v], -1 where it is the first.
    """
    mask = buckets.shape[0] - 1
    for request in range(first, stop):
        parent = np.int64(-1)
        for block in range(indptr[request], indptr[request + 1]):
            block_id = block_ids[block]
            bucket = np.int64(mix(block_id + parent * _SPREAD)) & mask
            while True:
                node = np.int64(buckets[bucket])
                if node < 0:
                    node = head[0]
                    head[0] += 1
                    buckets[bucket], ids[node], parents[node] = node, block_id, parent
                    break
                if ids[node] == block_id and parents[node] == parent:
                    break
                bucket = (bucket + 1) & mask
            nodes[block] = node
            parent = node


@njit_no_nrt(cache=True, nogil=True)
def distances(nodes, indptr, first, stop, head, slots, words, tree, out):
    """Fill `out` int64 (blocks,) with the place of each block in the list by recency, just before its request.

    The most recent is 1, a block that was not there before 0. O(blocks * log blocks), in practice a small part of that.

    All blocks of a request are as recent as it, the first the most, so a least-recently-used cache of c blocks that
    took every request before finds a block if its place is c or less (Mattson et al. 1970): those before it in the
    request are more recent.

    head int64 (1,): distinct blocks so far, 0 to begin with; slots int64 (nodes,), -1 to begin with: when a block was
    last used, on a clock that gives every block of the trace a tick, those of one request in reverse order; words
    uint64 (blocks // 64 + 1,), zeros to begin with: a bit for each tick that is some block's last; tree int64, as
    words: how many there are, as Fenwick (1994) adds them up.
    """
    for request in range(first, stop):
        start, end = indptr[request], indptr[request + 1]
        found, above = start, np.int64(-2)
        while found < end:
            slot = slots[nodes[found]]
            if slot < 0:
                break
            # neighbours in a request that were used together are neighbours in the list
            out[found] = out[found - 1] + 1 if slot == above - 1 else head[0] - _count_before(words, tree, slot)
            above = slot
            found += 1
        word, leaving = np.int64(-1), np.int64(0)
        for block in range(start, found):
            slot = slots[nodes[block]]
            if slot >> 6 != word:
                _add(tree, word, -leaving)
                word, leaving = slot >> 6, np.int64(0)
            words[word] ^= _ONE << np.uint64(slot & 63)
            leaving += 1
        _add(tree, word, -leaving)
        for block in range(found, end):
            out[block] = 0
        head[0] += end - found
        word, coming = np.int64(-1), np.int64(0)
        for block in range(start, end):
            slot = start + end - 1 - block
            slots[nodes[block]] = slot
            if slot >> 6 != word:
                _add(tree, word, coming)
                word, coming = slot >> 6, np.int64(0)
            words[word] |= _ONE << np.uint64(slot & 63)
            coming += 1
        _add(tree, word, coming)


@njit_no_nrt(cache=True)
def _count_before(words, tree, slot):
    """Return how many bits are set below `slot`."""
    word = slot >> 6
    count = np.int64(simd.count_bits(words[word] & ((_ONE << np.uint64(slot & 63)) - _ONE)))
    while word > 0:
        count += tree[word - 1]
        word &= word - 1
    return count


@njit_no_nrt(cache=True)
def _add(tree, word, count):
    """Add `count` bits (or take some away, if negative) to the sums of a word."""
    if count != 0:
        at = word + 1
        while at <= tree.shape[0]:
            tree[at - 1] += count
            at += at & -at


@njit_no_nrt(cache=True, nogil=True)
def next_uses(nodes, indptr, longest, first, stop, following, out):
    """Fill `out` int32 (blocks,) with where each block is used next in `nodes`, -1 where it never is. O(blocks).

    Requests of more than `longest` blocks do not count. Call it for the LAST run of requests first; following int32
    (nodes,), -1 to begin with: where each block is first used in the runs so far.
    """
    for request in range(stop - 1, first - 1, -1):
        start, end = indptr[request], indptr[request + 1]
        if end - start <= longest:
            for block in range(start, end):
                node = nodes[block]
                out[block] = following[node]
                following[node] = block


@njit_no_nrt(cache=True, nogil=True)
def optimum(uses, indptr, capacity, first, stop, head, bits, starts, found):
    """Fill `found` int64 (n,) with how many blocks each request finds in a cache of `capacity` blocks, at best.

    Of a cache that knows the future: the block that is not needed for the longest time is evicted (Belady 1966), and no
    other choice lets all requests together find more. O(blocks * log blocks). uses int32 (blocks,): from `next_uses`
    with `capacity` as the longest. A request that is refused gets 0.

    head int64 (2,), zeros to begin with: how many cached blocks are used again, LIVE, and how many are not, DEAD, which
    leave first; (bits, starts): a `bitset` of as many numbers as there are blocks, empty to begin with: where the
    cached blocks are used next, counted from the end of the trace.
    """
    last = uses.shape[0] - 1
    for request in range(first, stop):
        start, end = indptr[request], indptr[request + 1]
        found[request] = 0
        if end - start > capacity:
            continue
        block = start
        while block < end and bitset.has(bits, last - block):
            bitset.drop(bits, starts, last - block)
            block += 1
        found[request] = block - start
        head[LIVE] -= block - start
        surplus = head[LIVE] + head[DEAD] + (end - start) - capacity
        if surplus > 0:
            dead = min(surplus, head[DEAD])
            head[DEAD] -= dead
            for _ in range(surplus - dead):
                bitset.drop(bits, starts, bitset.smallest(bits, starts))
            head[LIVE] -= surplus - dead
        for block in range(start, end):
            if uses[block] >= 0:
                bitset.put(bits, starts, last - np.int64(uses[block]))
                head[LIVE] += 1
            else:
                head[DEAD] += 1
