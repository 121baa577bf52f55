"""Caches in every state, and helpers that several suites of the KV cache use."""

import numpy as np

from llmds.kv_cache.cache import KVCache


def ragged(lists):
    """(all of them end to end, where each begins and ends)."""
    flat = np.array([item for items in lists for item in items], np.int64)
    return flat, np.cumsum([0, *map(len, lists)])


def tensors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2, 3)).astype(np.float16)


def filled(**options):
    """A cache of every kind of sequence: named, plain, forked and written, cut into its prefix, blocks, cached."""
    cache = KVCache(4, 24, **options)
    prefix = [5, 6, 7, 8, 9, 10]
    for seq in (1, 2, 9):
        cache.attach(seq, [*prefix, *range(seq)], prefix)
    cache.attach(3, [1, 2, 3, 4, 5])
    cache.fork(3, 4), cache.append(4, [77]), cache.fork(2, 5), cache.write(5, 2, [70])
    cache.fork(1, 6), cache.truncate(6, 5), cache.append(6, [71, 72])
    cache.attach_blocks(7, [100, 101]), cache.detach(9)
    cache.attach(8, []), cache.attach(10, [1, 2, 3, 4], salt=1), cache.pin([1, 2, 3, 4], salt=1)
    cache.attach(11, [50, 60, 70], [1, 2])
    return cache


def agrees_with_attention(cache, seq_ids):
    """What a paged or cascade attention kernel gathers through the block table is what `get_array` gives."""
    levels = cache.block_table(seq_ids)
    pages = cache.pages
    assert pages.shape == (cache.max_pages, cache.page_size, *cache.token_shape)
    for e, seq in enumerate(seq_ids):
        parts = [np.empty((0, *cache.token_shape), cache.dtype)]
        for indptr, indices, last_page_len in levels:
            assert {array.dtype for array in (indptr, indices, last_page_len)} == {np.dtype(np.int32)}
            assert len(indptr) == len(seq_ids) + 1 and len(indices) == indptr[-1]
            mine = indices[indptr[e] : indptr[e + 1]]
            assert (last_page_len[e] > 0) == (len(mine) > 0) and last_page_len[e] <= cache.page_size
            for at, page in enumerate(mine):
                parts.append(pages[page, : last_page_len[e] if at == len(mine) - 1 else cache.page_size])
        np.testing.assert_array_equal(np.concatenate(parts), cache.get_array(seq))
    return levels
