"""A real trace, replayed beside a plain simulation of what a hit is."""

import gzip
import json

import numpy as np
import pytest

from llmds.kv_cache.cache import KVCache
from llmds.paged_allocator import OutOfPagesError
from tests.traces.model import plain_simulation


@pytest.fixture(scope="module")
def requests(data):
    with gzip.open(data / "traces" / "mooncake_conversation.jsonl.gz") as lines:
        return [json.loads(line)["hash_ids"] for line in lines]


@pytest.mark.parametrize(
    "pages, hit_rate", [(100, None), (1000, 0.0445), (3000, 0.0653), (10_000, 0.2116), (30_000, 0.3257)]
)
def test_hit_rates_of_a_conversation_trace(requests, pages, hit_rate):
    """The longest request has 247 blocks, so only the smallest pool has to refuse some."""
    cache, refused = KVCache(page_size=512, max_pages=pages, store=False), 0
    for blocks in requests:
        try:
            cache.attach_blocks(0, np.array(blocks))
        except OutOfPagesError:
            refused += 1
        cache.detach(0)
    stats = cache.stats()
    hits, total = plain_simulation(requests, pages)
    assert (stats["hit_tokens"], stats["lookup_tokens"]) == (512 * hits, 512 * total)
    assert refused == sum(len(blocks) > pages for blocks in requests) and (refused > 0) == (pages < 247)
    if hit_rate is not None:
        assert round(stats["hit_tokens"] / stats["lookup_tokens"], 4) == hit_rate
    cache.check()
