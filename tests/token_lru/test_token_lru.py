"""The cache beside a list of items that is searched from its oldest end."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from llmds.base import arena as growing
from llmds.kernels import token_lru as kernels
from llmds.token_lru import TokenLRU
from tests.token_lru.model import INT_KEYS, OTHER_KEYS, Model, Value, int_keys, keys, tokens, tokens_of


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does, and tells of the same evictions in the same order."""

    @initialize(budget=st.sampled_from([0, 1, 10, 30]))
    def start(self, budget):
        self.told = []
        self.cache = TokenLRU(budget, tokens_of, on_evict=lambda key, value: self.told.append((key, value)))
        self.model = Model(budget)

    @rule(key=keys, tokens=tokens)
    def put(self, key, tokens):
        value = Value(tokens)
        self.cache.put(key, value)
        self.model.put(key, value)

    @rule(key=keys)
    def get(self, key):
        assert self.cache.get(key) == self.model.get(key)

    @rule(key=keys)
    def pop(self, key):
        found = self.model.drop(key)
        if found:
            assert self.cache.pop(key) == found[0][1]
        else:
            assert self.cache.pop(key, "none") == "none"
            with pytest.raises(KeyError):
                self.cache.pop(key)

    @rule(items=st.lists(st.tuples(int_keys, tokens), max_size=9))
    def put_many(self, items):
        evicted = self.cache.put_many([key for key, _ in items], [tokens for _, tokens in items])
        gone = [key for item in items for key, _ in self.model.put(*item)]
        assert evicted.dtype == np.int64
        assert evicted.tolist() == [key for key in gone if isinstance(key, int)]

    @rule(wanted=st.lists(int_keys, max_size=9))
    def get_many(self, wanted):
        hits = self.cache.get_many(wanted)
        assert hits.dtype == np.bool_
        assert hits.tolist() == [self.model.get(key) is not None for key in wanted]

    @rule(left=st.integers(0, 30))
    def evict(self, left):
        assert self.cache.evict_until_budget(left) == self.model.evict(left)

    @rule(n=st.sampled_from([0, 17, 40]))
    def resize(self, n):
        self.cache.shrink_to_fit()
        assert self.cache.stats()["capacity"] == len(self.model.items)
        self.cache.reserve(n)
        assert self.cache.stats()["capacity"] >= n

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.items.clear()

    @invariant()
    def agree(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.told == self.model.evicted
        assert self.cache.items() == self.model.items
        assert len(self.cache) == self.cache.size() == len(self.model.items)
        assert self.cache.total_tokens() == self.model.total() <= self.cache.token_budget
        for key in [*INT_KEYS, *OTHER_KEYS]:
            found = [value for other, value in self.model.items if other == key]
            assert self.cache.peek(key) == (found[0] if found else None)
            assert (key in self.cache) == bool(found)


TestBesideModel = BesideModel.TestCase


@given(st.lists(st.tuples(st.integers(0, 20), tokens)), st.integers(0, 40))
def test_bulk_calls_do_what_single_calls_do(items, budget):
    single, many = TokenLRU(budget, int), TokenLRU(budget, int)
    ids, counts = [key for key, _ in items], [count for _, count in items]
    left = []
    for key, count in items:
        before = [other for other, _ in single.items()]
        single.put(key, count)
        after = {other for other, _ in single.items()}
        left += [other for other in before if other not in after]
    assert many.put_many(ids, counts).tolist() == left
    assert many.items() == single.items()
    hits = [single.get(key) is not None for key in range(25)]
    assert many.get_many(range(25)).tolist() == hits
    assert many.items() == single.items()
    shared = ("hits", "misses", "evictions", "size", "total_tokens")
    assert [many.stats()[name] for name in shared] == [single.stats()[name] for name in shared]
    many.check(), single.check()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda cache: cache.put(True, "x"), TypeError, "bool"),
        (lambda cache: cache.put(np.True_, "x"), TypeError, "bool"),
        (lambda cache: cache.get(True), TypeError, "bool"),
        (lambda cache: cache.put([1], "x"), TypeError, "hashable"),
        (lambda cache: cache.put(2**63, "x"), ValueError, "key must lie"),
        (lambda cache: cache.get(-(2**63) - 1), ValueError, "key must lie"),
        (lambda cache: cache.put(1, 5), TypeError, "len"),
        (lambda cache: cache.pop("unknown"), KeyError, "unknown"),
        (lambda cache: cache.pop(99), KeyError, "99"),
        (lambda cache: cache.evict_until_budget(-1), ValueError, "target_budget"),
        (lambda cache: cache.evict_until_budget(1.0), TypeError, "target_budget"),
        (lambda cache: cache.put_many([1, 9], [1, -1]), ValueError, "tokens"),
        (lambda cache: cache.put_many([1, 9], [1]), ValueError, "lengths"),
        (lambda cache: cache.put_many([1.0], [1]), TypeError, "keys"),
        (lambda cache: cache.put_many([1], [1.0]), TypeError, "tokens"),
        (lambda cache: cache.put_many([True], [1]), TypeError, "keys"),
        (lambda cache: cache.get_many(["a"]), TypeError, "keys"),
        (lambda cache: cache.get_many(np.array([2**63], np.uint64)), ValueError, "keys"),
        (lambda cache: cache.reserve(-1), ValueError, "n must"),
    ],
)
def test_a_refused_call_changes_nothing(call, error, message):
    cache = TokenLRU(10, len)
    cache.put(1, "one"), cache.put("b", "two"), cache.put_many([2], [4])
    before, counts = cache.items(), cache.stats()
    with pytest.raises(error, match=message):
        call(cache)
    cache.check()
    assert cache.items() == before == [(1, "one"), ("b", "two"), (2, 4)] and cache.stats() == counts


@pytest.mark.parametrize(
    "tokens, error", [(-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError), (None, TypeError)]
)
def test_a_token_count_must_be_an_int_of_0_or_more(tokens, error):
    cache = TokenLRU(10, lambda value: tokens if value == "bad" else 1)
    cache.put(1, "good"), cache.put("x", "good")
    for key in (1, "x", 2):
        with pytest.raises(error, match="token_of"):
            cache.put(key, "bad")
    assert cache.items() == [(1, "good"), ("x", "good")]
    cache.check()


@pytest.mark.parametrize(
    "arguments, error",
    [((-1, len), ValueError), ((2**62 + 1, len), ValueError), ((1.0, len), TypeError), ((1, 5), TypeError)],
)
def test_a_cache_needs_a_budget_and_a_function(arguments, error):
    with pytest.raises(error):
        TokenLRU(*arguments)
    with pytest.raises(TypeError, match="on_evict"):
        TokenLRU(1, len, on_evict=5)


def test_tokens_are_asked_for_once_for_each_put():
    asked = []
    cache = TokenLRU(10, lambda value: asked.append(value) or 4)
    cache.put(1, "a"), cache.put(2, "b"), cache.put("c", "c"), cache.get(2), cache.evict_until_budget(0)
    assert asked == ["a", "b", "c"]


def test_the_largest_counts_do_not_overflow():
    cache = TokenLRU(2**62, int)
    cache.put(1, 2**62)
    cache.put(2, 2**62)
    assert cache.items() == [(2, 2**62)] and cache.total_tokens() == 2**62
    cache.put(3, 10**40)
    assert cache.items() == [(2, 2**62)]
    assert cache.put_many([4, 5, 6], [2**63 - 1, 2**62, 2**62]).tolist() == [2, 5]
    assert cache.get(6) == 2**62 == cache.total_tokens()
    cache.check()


def test_an_item_too_large_takes_its_predecessor_along_and_nothing_else():
    told = []
    cache = TokenLRU(5, len, on_evict=lambda *item: told.append(item))
    cache.put("a", "aa"), cache.put(1, "bb")
    cache.put("a", "too large")
    cache.put("new", "too large")
    assert cache.items() == [(1, "bb")] and told == [("a", "aa")]
    cache.put(1, "too large")
    assert len(cache) == 0 and cache.total_tokens() == 0
    cache.check()


def test_numpy_integers_are_the_ints_they_equal_and_floats_are_not():
    cache = TokenLRU(10, len)
    cache.put(np.int32(1), "a")
    cache.put(1, "b")
    cache.put(1.0, "c")
    assert cache.items() == [(1, "b"), (1.0, "c")] and cache.get(np.uint8(1)) == "b"
    assert True not in cache and [1] not in cache and 2**64 not in cache


@pytest.mark.parametrize("value", [None, (1, 2), [1, 2], np.arange(3), {"a": 1}], ids=str)
def test_any_object_is_a_value(value):
    cache = TokenLRU(10, lambda value: 1)
    cache.put(1, value), cache.put("k", value)
    assert cache.get(1) is value and cache.get("k") is value and 1 in cache and "k" in cache
    assert cache.pop(1) is value and cache.evict_until_budget(0)[0][1] is value
    cache.check()


def test_more_leave_at_once_than_one_kernel_call_records():
    told = []
    cache = TokenLRU(1000, len, on_evict=lambda key, value: told.append(key))
    for key in range(1000):
        cache.put(key, "x")
    cache.put(5, "x" * 900)
    assert told == [key for key in range(900) if key != 5] and len(cache) == 101
    cache.put("large", "x" * 1000)
    assert told[899:] == [*range(900, 1000), 5] and cache.items() == [("large", "x" * 1000)]
    cache.check()
    cache.put_many(range(1000), np.ones(1000, int))
    evicted = cache.put_many([5, 7, 8], [1, 995, 800]).tolist()
    assert evicted == [*(key for key in range(1000) if key not in (5, 7)), 5, 7]
    assert cache.items() == [(8, 800)]
    cache.check()


def test_long_calls_run_in_chunks():
    n = 5 * growing.CHUNK // 2
    ids = np.random.default_rng(0).integers(0, n // 4, n)
    cache, model = TokenLRU(n // 8, len), OrderedDict()
    expected = []
    for key in ids.tolist():
        model[key] = 1
        model.move_to_end(key)
        if len(model) > n // 8:
            expected.append(model.popitem(last=False)[0])
    assert cache.put_many(ids, np.ones(n, int)).tolist() == expected
    assert [key for key, _ in cache.items()] == list(model)
    assert cache.get_many(ids).sum() == sum(key in model for key in ids.tolist())
    assert len(cache.evict_until_budget(0)) == n // 8
    cache.check()


def test_nothing_is_fine():
    cache = TokenLRU(0, len)
    assert cache.put_many([], []).tolist() == [] == cache.get_many([]).tolist() == cache.items()
    assert cache.put_many([], []).dtype == np.int64
    cache.put(1, "x"), cache.put(2, ""), cache.put_many([3], [0])
    assert cache.items() == [(2, ""), (3, 0)] and cache.get(1) is None
    cache.clear(), cache.shrink_to_fit(), cache.clear()
    cache.put(2, "")
    assert cache.get(2) == ""
    cache.check()


def test_memory_is_what_reserve_asked_for():
    cache = TokenLRU(10**6, len)
    cache.reserve(1000)
    before = cache.nbytes
    cache.put_many(np.arange(1000), np.ones(1000, int))
    assert cache.nbytes == before == cache._arena.nbytes + cache._values.nbytes + cache._left.nbytes
    cache.evict_until_budget(10)
    cache.shrink_to_fit()
    assert cache.nbytes < before / 10 and [key for key, _ in cache.items()] == list(range(990, 1000))
    cache.check()


def test_every_type_shares_one_compilation():
    cache = TokenLRU(100, int)
    cache.put(1, 2), cache.put(np.int32(2), np.int64(2)), cache.put("x", 4)
    for dtype in (np.int8, np.int32, np.uint64):
        cache.put_many(np.array([1, 2], dtype)[::-1], np.array([1, 2], dtype))
        cache.get_many(np.array([1, 2, 3], dtype)[::2])
    cache.put_many([1], [2]), cache.get(np.uint8(3)), cache.get(1), cache.evict_until_budget(np.int8(1))
    used = (kernels.put, kernels.put_many, kernels.get, kernels.get_many, kernels.put_outside, kernels.evict)
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)


def test_stats_and_repr_tell_what_happened():
    cache = TokenLRU(5, len)
    cache.put(1, "abc"), cache.put("x", "de"), cache.get(1), cache.get("x"), cache.get("y"), cache.get_many([1, 2])
    cache.put(3, "fghi")
    assert cache.stats() == {
        "size": 1, "capacity": 16, "total_tokens": 4, "token_budget": 5, "hits": 3, "misses": 2, "evictions": 2,
    }  # fmt: skip
    assert repr(cache) == "TokenLRU(token_budget=5, 1 items, 4 tokens)"


@njit
def touch(lru, keys):
    """Make each key the newest in its turn. How many were there."""
    found = 0
    for key in keys:
        found += kernels.get(lru, key) != kernels.ABSENT
    return found


def test_arrays_are_for_loops_of_ones_own():
    cache = TokenLRU(10, len)
    for key in range(5):
        cache.put(key, "xx")
    assert touch(cache.arrays.arena, np.array([1, 0, 7])) == 2
    cache.check()
    assert [key for key, _ in cache.items()] == [2, 3, 4, 1, 0]
    assert cache.stats()["hits"] == 2 and cache.stats()["misses"] == 1
    stale = cache.arrays.arena
    cache.reserve(100)
    assert kernels.get(stale, 2) == kernels.STALE
    assert np.shares_memory(cache.arrays.arena, cache._arena) and cache.arrays.arena.flags.writeable
