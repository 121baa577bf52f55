"""Callbacks, finalisers, threads and interruptions in the middle of a change."""

import gc
import threading
import weakref

import numpy as np
import pytest

from llmds.base import arena as growing
from llmds.kernels import token_lru as kernels
from llmds.token_lru import TokenLRU
from llmds.token_lru import cache as token_lru_cache
from tests.token_lru.model import Value, tokens_of


def test_on_evict_finds_the_cache_whole_and_may_change_it():
    seen = []

    def on_evict(key, value):
        cache.check()
        seen.append((key, cache.total_tokens(), [other for other, _ in cache.items()]))
        if key == 1:
            cache.put("saved", value)

    cache = TokenLRU(6, len, on_evict=on_evict)
    for key in (1, 2, 3):
        cache.put(key, "xx")
    cache.put(4, "xxxx")
    assert seen == [(1, 6, [3, 4]), (3, 6, [4, "saved"]), (2, 6, [4, "saved"])]


def test_an_on_evict_that_raises_leaves_the_put_done():
    def on_evict(key, value):
        raise RuntimeError("full disk")

    cache = TokenLRU(2, len, on_evict=on_evict)
    cache.put(1, "xx")
    with pytest.raises(RuntimeError, match="full disk"):
        cache.put(2, "yy")
    assert cache.items() == [(2, "yy")]
    cache.check()


@pytest.mark.parametrize("key", [7, "seven"])
def test_what_leaves_is_let_go_at_once(key):
    def put_other():
        cache.put("other" if key == 7 else 5, Value(8))

    ways = [
        lambda: cache.put(key, Value(1)),
        lambda: cache.put(key, Value(99)),
        put_other,
        lambda: cache.pop(key),
        lambda: cache.evict_until_budget(0),
        lambda: [cache.clear()],
        lambda: cache.put_many([3], [9]),
        *([lambda: cache.put_many([key], [1])] if key == 7 else []),
    ]
    for way in ways:
        cache = TokenLRU(10, tokens_of)
        value = Value(4)
        cache.put(key, value)
        watch = weakref.ref(value)
        del value
        way()
        gc.collect()
        assert watch() is None


def test_a_finaliser_may_use_the_cache():
    class Nosy(Value):
        def __del__(self):
            found.append(cache.get(2) is not None)
            cache.put("from finaliser", Value(1))

    found = []
    cache = TokenLRU(10, tokens_of)
    cache.put(1, Nosy(8))
    cache.put(2, Value(5))
    cache.check()
    assert found == [True] and [key for key, _ in cache.items()] == [2, "from finaliser"]


def test_a_change_from_inside_a_change_is_refused():
    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            if armed:
                cache.put(5, "five")
            return self is other

    armed = []
    cache = TokenLRU(10, len)
    cache.put(Key(), "a")
    armed.append(1)
    with pytest.raises(RuntimeError, match="inside"):
        cache.put(Key(), "b")
    armed.clear()
    cache.check()
    assert [value for _, value in cache.items()] == ["a"]


@pytest.mark.parametrize("step", ["put", "put_outside", "put_many", "evict", "take"])
def test_an_interruption_just_after_a_kernel_leaves_the_cache_whole(monkeypatch, step):
    cache = TokenLRU(10, len)
    cache.put(1, "111"), cache.put("a", "aaa"), cache.put("b", "bbb")
    module = token_lru_cache._direct if step in ("put", "put_outside") else kernels
    whole = getattr(module, step)

    def interrupted(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, interrupted)
    calls = {
        "put": lambda: cache.put(2, "22222"),
        "put_outside": lambda: cache.put("c", "ccccc"),
        "put_many": lambda: cache.put_many([3, 4], [4, 4]),
        "evict": lambda: cache.evict_until_budget(3),
        "take": lambda: cache.pop("a"),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[step]()
    monkeypatch.undo()
    cache.check()
    assert all(cache.get(key) == value and value in ("22222", "ccccc", "bbb", "111", 4) for key, value in cache.items())
    cache.put("b", "new"), cache.put(9, "nine")
    assert cache.get("b") == "new" and cache.get(9) == "nine"
    cache.check()


def test_an_interrupted_growth_can_be_repeated(monkeypatch):
    cache = TokenLRU(1000, len)
    cache.put_many(range(16), np.ones(16, int))
    resized = growing.Growing._resized

    def interrupted(*arguments):
        resized(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(growing.Growing, "_resized", staticmethod(interrupted))
    for call in (lambda: cache.put(99, "x"), lambda: cache.reserve(50)):
        with pytest.raises(KeyboardInterrupt):
            call()
    monkeypatch.undo()
    cache.check()
    assert cache.get(3) == 1 and cache.get_many([3, 99]).tolist() == [True, False]
    cache.put(99, "x")
    assert len(cache) == 17


def test_an_interrupted_bulk_call_keeps_a_prefix(monkeypatch):
    n = 2 * growing.CHUNK
    cache, calls = TokenLRU(n, len), []
    put_many = kernels.put_many

    def interrupted(lru, keys, tokens, start, left):
        if keys[0]:
            raise KeyboardInterrupt
        return put_many(lru, keys, tokens, start, left)

    monkeypatch.setattr(kernels, "put_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.put_many(np.arange(n), np.ones(n, int))
    assert len(cache) == growing.CHUNK and not calls
    cache.check()


def test_threads_share_a_cache_and_no_key_gets_anothers_value():
    cache, wrong, per_thread = TokenLRU(400, lambda value: 4), [], 4000

    def work(seed):
        rng = np.random.default_rng(seed)
        for key in rng.integers(0, 150, per_thread).tolist():
            for name in (key, f"key {key}"):
                value = cache.get(name)
                if value is None:
                    cache.put(name, ("value of", name))
                elif value != ("value of", name):
                    wrong.append((name, value))
            if key % 50 == 0:
                cache.pop(key, None)
            if key == 75:
                cache.shrink_to_fit()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not wrong
    cache.check()
    assert cache.total_tokens() <= 400


def test_get_asks_again_where_a_put_came_between(monkeypatch):
    cache = TokenLRU(4, len)
    cache.put(1, "1111")
    get, others = token_lru_cache._direct.get, [2, 3]

    def slow(arena, key):
        found = get(arena, key)
        while others:
            cache.put(others.pop(), "xxxx")  # evicts key 1 and takes its row
        return found

    monkeypatch.setattr(token_lru_cache._direct, "get", slow)
    assert cache.get(1) is None
    assert cache.get(2) == "xxxx"
