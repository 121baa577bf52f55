"""What paged and cascade attention read through the block table is what was put in."""

import numpy as np
import pytest

from llmds.kv_cache.cache import KVCache
from tests.kv_cache.cases import agrees_with_attention, filled


def test_block_tables_of_every_kind_of_sequence_gather_their_entries():
    cache = filled()
    first, second = agrees_with_attention(cache, [1, 2, 3, 4, 5, 6, 7, 8, 1])
    assert first[0].tolist() == [0, 2, 4, 4, 4, 6, 6, 6, 6, 8] and first[2].tolist() == [2, 2, 0, 0, 2, 0, 0, 0, 2]
    assert second[0].tolist() == [0, 1, 2, 4, 6, 7, 9, 11, 11, 12] and second[2].tolist() == [1, 2, 1, 2, 2, 3, 4, 0, 1]
    assert first[1][:2].tolist() == first[1][2:4].tolist() == first[1][6:].tolist()
    assert len(agrees_with_attention(cache, [3, 4, 6, 7, 8])) == 1, "none of these names a prefix"
    assert [array.tolist() for array in agrees_with_attention(cache, [])[0]] == [[0], [], []]
    with pytest.raises(KeyError, match="55"):
        cache.block_table([1, 55])


def attention(query, keys, values):
    """(softmax(keys query) values, log of the sum) for each head: query (h, d), keys and values (n, h, d)."""
    scores = np.einsum("hd,nhd->hn", query, keys, dtype=np.float64) / np.sqrt(query.shape[-1])
    top = scores.max(1, initial=-np.inf)
    weights = np.exp(scores - top[:, None])
    total = weights.sum(1)
    return np.einsum("hn,nhd->hd", weights / total[:, None], values), top + np.log(total)


def paged_attention(cache, queries, seq_ids):
    """Attention through the block tables: each page by itself, merged by the logs of the sums (as cascade attention).

    queries (n, h, d); an entry is (keys and values, h, d).
    """
    out = np.zeros(queries.shape)
    logs = np.full(queries.shape[:2], -np.inf)
    for indptr, indices, last_page_len in cache.block_table(seq_ids):
        for e, query in enumerate(queries):
            mine = indices[indptr[e] : indptr[e + 1]]
            for at, page in enumerate(mine):
                held = cache.pages[page, : last_page_len[e] if at == len(mine) - 1 else cache.page_size]
                part, log = attention(query, held[:, 0], held[:, 1])
                merged = np.logaddexp(logs[e], log)
                out[e] = out[e] * np.exp(logs[e] - merged)[:, None] + part * np.exp(log - merged)[:, None]
                logs[e] = merged
    return out


def test_attention_over_pages_is_attention_over_the_sequence():
    """Sequences that share, fork, are cut, written to and decoded, beside their keys and values in one piece."""
    chance, heads, width = np.random.default_rng(7), 2, 8
    cache = KVCache(4, 96, token_shape=(2, heads, width), dtype=np.float32)

    def fresh(n):
        return chance.standard_normal((n, 2, heads, width)).astype(np.float32)

    system, plain = fresh(11), {}
    for seq in range(4):  # one prefix of 11, which ends within a page
        plain[seq] = np.concatenate([system, fresh(3 + 5 * seq)])
        cache.attach(seq, plain[seq], range(11))
    plain[4] = np.concatenate([system[:8], fresh(6)])
    cache.attach(4, plain[4], range(8))
    plain[5] = fresh(7)
    cache.attach(5, plain[5])
    for src, dst in ((1, 6), (6, 7), (5, 8)):
        cache.fork(src, dst)
        plain[dst] = plain[src].copy()
    for seq, length in ((6, 13), (7, 9), (8, 6)):
        cache.truncate(seq, length)
        plain[seq] = plain[seq][:length]
    for seq, start, n in ((2, 9, 4), (8, 0, 3), (0, 0, 1)):
        entries = fresh(n)
        cache.write(seq, start, entries)
        plain[seq] = np.concatenate([plain[seq][:start], entries, plain[seq][start + n :]])
    levels = 0
    for _ in range(9):
        entries, queries = fresh(len(plain)), chance.standard_normal((len(plain), heads, width))
        cache.append_many(list(plain), entries)
        plain = {seq: np.concatenate([plain[seq], entries[seq : seq + 1]]) for seq in plain}
        cache.check()
        expected = [attention(query, kv[:, 0], kv[:, 1])[0] for query, kv in zip(queries, plain.values(), strict=True)]
        np.testing.assert_allclose(paged_attention(cache, queries, list(plain)), expected, atol=1e-5)
        levels = max(levels, len(cache.block_table(list(plain))))
    stats = cache.stats()
    assert levels == 2 and min(stats["shared_pages_count"], stats["cow_copies"], stats["prefix_shares"]) > 2
