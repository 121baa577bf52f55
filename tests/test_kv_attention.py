"""What paged and cascade attention read through the block table is what was put in."""

import numpy as np
import pytest
from kv_cases import agrees_with_attention, filled

from llmds.kv_cache import KVCache


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
