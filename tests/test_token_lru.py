"""The cache beside a list of items that is searched from its oldest end."""

import gc
import threading
import weakref
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds import token_lru
from llmds.base import arena as growing
from llmds.kernels import token_lru as kernels
from llmds.token_lru import TokenLRU
from tests import face

INT_KEYS = [-3, -1, 0, 1, 2, 3, 2**63 - 1, -(2**63)]
OTHER_KEYS = ["a", "b", (1, 2), 1.5, None, b"x"]
int_keys = st.sampled_from(INT_KEYS)
keys = int_keys | st.sampled_from(OTHER_KEYS)
tokens = st.integers(0, 12)


class Value:
    """A value with a token count, equal to itself alone."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __repr__(self):
        return f"Value({self.tokens})"


def tokens_of(value):
    return value.tokens


class Model:
    """What a TokenLRU is, in the plainest words."""

    def __init__(self, budget):
        self.budget, self.items, self.evicted = budget, [], []

    def weight(self, value):
        return value if isinstance(value, int) else value.tokens

    def total(self):
        return sum(self.weight(value) for _, value in self.items)

    def drop(self, key):
        found = [item for item in self.items if item[0] == key]
        self.items = [item for item in self.items if item[0] != key]
        return found

    def evict(self, target):
        gone = []
        while self.total() > target:
            gone.append(self.items.pop(0))
        self.evicted += gone
        return gone

    def put(self, key, value):
        old = self.drop(key)
        if self.weight(value) > self.budget:
            self.evicted += old
            return old
        gone = self.evict(self.budget - self.weight(value))
        self.items.append((key, value))
        return gone

    def get(self, key):
        found = self.drop(key)
        self.items += found
        return found[0][1] if found else None


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
    module = token_lru._direct if step in ("put", "put_outside") else kernels
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
    get, others = token_lru._direct.get, [2, 3]

    def slow(arena, key):
        found = get(arena, key)
        while others:
            cache.put(others.pop(), "xxxx")  # evicts key 1 and takes its row
        return found

    monkeypatch.setattr(token_lru._direct, "get", slow)
    assert cache.get(1) is None
    assert cache.get(2) == "xxxx"


def test_every_type_shares_one_compilation():
    cache = TokenLRU(100, int)
    cache.put(1, 2), cache.put(np.int32(2), np.int64(2)), cache.put("x", 4)
    for dtype in (np.int8, np.int32, np.uint64):
        cache.put_many(np.array([1, 2], dtype)[::-1], np.array([1, 2], dtype))
        cache.get_many(np.array([1, 2, 3], dtype)[::2])
    cache.put_many([1], [2]), cache.get(np.uint8(3)), cache.get(1), cache.evict_until_budget(np.int8(1))
    used = (kernels.put, kernels.put_many, kernels.get, kernels.get_many, kernels.put_outside, kernels.evict)
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)


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


def test_stats_and_repr_tell_what_happened():
    cache = TokenLRU(5, len)
    cache.put(1, "abc"), cache.put("x", "de"), cache.get(1), cache.get("x"), cache.get("y"), cache.get_many([1, 2])
    cache.put(3, "fghi")
    assert cache.stats() == {
        "size": 1, "capacity": 16, "total_tokens": 4, "token_budget": 5, "hits": 3, "misses": 2, "evictions": 2,
    }  # fmt: skip
    assert repr(cache) == "TokenLRU(token_budget=5, 1 items, 4 tokens)"
