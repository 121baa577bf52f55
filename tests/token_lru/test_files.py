"""Files and pickles of a TokenLRU."""

import numpy as np
import pytest

from llmds.token_lru import TokenLRU
from tests import face
from tests.token_lru.model import tokens_of


def test_files_and_pickles_keep_everything(tmp_path):
    cache = TokenLRU(1000, len)
    text = "naïve 𝒳 \udc80"
    for key, value in [(5, "five"), (-3, text), (2**62, ""), (6, "gone")]:
        cache.put(key, value)
    cache.put_many([8, 9], [3, 0])
    cache.pop(6), cache.get(5)
    cache.shrink_to_fit()
    for other in face.keeps_everything(cache, tmp_path, token_of=len):
        assert other.items() == cache.items() == [(-3, text), (2**62, ""), (8, 3), (9, 0), (5, "five")]
        assert other.stats() == cache.stats() and other.token_budget == 1000
        other.put("new", "value")
        assert other.get("new") == "value"
        other.check()


def test_numbers_are_saved_whole(tmp_path):
    cache = TokenLRU(100, lambda value: 1, on_evict=print)
    values = [2**63 - 1, -(2**63), 0.1, float("inf"), -0.0, np.int8(-4), np.float32(0.5)]
    for key, value in enumerate(values):
        cache.put(key, value)
    cache.save(tmp_path / "cache.npz")
    told = []
    loaded = TokenLRU.load(tmp_path / "cache.npz", tokens_of, on_evict=lambda *item: told.append(item))
    assert loaded.items() == list(enumerate(values)) and loaded.token_of is tokens_of
    assert [type(value) for _, value in loaded.items()] == [int, int, float, float, float, int, float]
    loaded.evict_until_budget(6)
    assert told == [(0, 2**63 - 1)]


@pytest.mark.parametrize("key, value", [("a", 1), (1, None), (1, True), (1, [1]), (1, 2**63), (1, 1j), (None, 1)])
def test_what_a_file_cannot_hold_is_refused(tmp_path, key, value):
    cache = TokenLRU(10, lambda value: 1)
    cache.put(key, value)
    with pytest.raises(TypeError, match="can be saved"):
        cache.save(tmp_path / "cache.npz")
    assert not list(tmp_path.iterdir())


def test_keys_of_every_kind_are_pickled(tmp_path):
    import pickle

    cache = TokenLRU(100, len)
    cache.put("a", [1, 2]), cache.put((1, "b"), "value"), cache.put(7, "seven")
    other = pickle.loads(pickle.dumps(cache))
    other.check()
    assert other.items() == cache.items() and other.get((1, "b")) == "value"


def test_no_damaged_file_passes_or_crashes(tmp_path):
    cache = TokenLRU(100, lambda value: 3)
    for key, value in [(5, "five"), (-3, 1.5), (2**62, 7), (8, "déjà")]:
        cache.put(key, value)
    cache.put_many([1], [2])
    face.survives_damage(cache, tmp_path, token_of=len)
    face.refuses_other_files(TokenLRU, tmp_path, token_of=len)
