"""The heap beside a dict that is sorted anew each time."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from llmds.base import arena as growing
from llmds.indexed_heap import IndexedHeap
from llmds.kernels import heap as kernels
from tests import face

keys = st.integers(-6, 6) | st.sampled_from([2**63 - 1, -(2**63)])
scores = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 1.0, 2.0, 5e-324, math.inf]) | st.floats(allow_nan=False)


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as a dict of key -> (score, insertion) does."""

    @initialize(max_heap=st.booleans())
    def start(self, max_heap):
        self.heap, self.model, self.sign, self.order = IndexedHeap(max_heap), {}, -1 if max_heap else 1, 0

    def top(self):
        return min(self.model, key=lambda key: (self.sign * self.model[key][0], self.model[key][1]), default=None)

    @rule(key=keys, score=scores)
    def push(self, key, score):
        if key in self.model:
            with pytest.raises(ValueError, match="already"):
                self.heap.push(key, score)
        else:
            self.heap.push(key, score)
            self.model[key] = (score, self.order)
            self.order += 1

    @rule()
    def pop(self):
        if not self.model:
            with pytest.raises(IndexError):
                self.heap.pop()
        else:
            key = self.top()
            assert self.heap.pop() == (self.model.pop(key)[0], key)

    @rule(key=keys)
    def delete(self, key):
        if key not in self.model:
            with pytest.raises(KeyError):
                self.heap.delete(key)
        else:
            assert self.heap.delete(key) == (self.model.pop(key)[0], key)

    @rule(key=keys, score=scores, name=st.sampled_from(["decrease_key", "increase_key", "update_key"]))
    def update(self, key, score, name):
        call = getattr(self.heap, name)
        if key not in self.model:
            with pytest.raises(KeyError):
                call(key, score)
            return
        old, order = self.model[key]
        if (name == "decrease_key" and score > old) or (name == "increase_key" and score < old):
            with pytest.raises(ValueError, match=name):
                call(key, score)
        else:
            call(key, score)
            self.model[key] = (score, order)

    @rule(items=st.dictionaries(keys, scores))
    def push_many(self, items):
        if items.keys() & self.model.keys():
            with pytest.raises(ValueError, match="distinct"):
                self.heap.push_many(list(items), list(items.values()))
        else:
            self.heap.push_many(list(items), list(items.values()))
            for key, score in items.items():
                self.model[key] = (score, self.order)
                self.order += 1

    @rule(k=st.integers(0, 5))
    def pop_many(self, k):
        popped_scores, popped = self.heap.pop_many(k)
        for score, key in zip(popped_scores, popped, strict=True):
            assert key == self.top() and score == self.model.pop(int(key))[0]

    @rule(items=st.dictionaries(keys, scores))
    def heapify(self, items):
        self.heap.heapify(list(items), list(items.values()))
        self.model = {key: (score, order) for order, (key, score) in enumerate(items.items())}
        self.order = len(items)

    @rule()
    def shrink(self):
        self.heap.shrink_to_fit()
        assert self.heap.stats()["capacity"] == len(self.model)

    @rule()
    def clear(self):
        self.heap.clear()
        self.model.clear()

    @invariant()
    def agree(self):
        if not hasattr(self, "heap"):
            return
        self.heap.check()
        assert len(self.heap) == self.heap.size() == len(self.model)
        assert self.heap.is_empty() == (not self.model)
        top = self.top()
        assert self.heap.peek() == (None if top is None else (self.model[top][0], top))
        for key in (-6, 0, 5, 2**63 - 1):
            assert self.heap.get_score(key) == (self.model[key][0] if key in self.model else None)
            assert self.heap.contains(key) == (key in self.heap) == (key in self.model)


TestBesideModel = BesideModel.TestCase


@given(st.lists(st.tuples(keys, scores), unique_by=lambda item: item[0]), st.booleans())
def test_every_way_of_filling_gives_one_order(items, max_heap):
    many, heaped, single = IndexedHeap(max_heap), IndexedHeap(max_heap), IndexedHeap(max_heap)
    ids, values = [key for key, _ in items], [score for _, score in items]
    many.push_many(ids, values)
    heaped.heapify(ids, values)
    for key, score in items:
        single.push(key, score)
    expected = [single.pop() for _ in items]
    for heap in (many, heaped):
        assert list(zip(*(column.tolist() for column in heap.pop_many(len(items))), strict=True)) == expected


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda heap: heap.push(1, 5.0), ValueError),
        (lambda heap: heap.push(9, math.nan), ValueError),
        (lambda heap: heap.push(2**63, 1.0), ValueError),
        (lambda heap: heap.push(1.5, 1.0), TypeError),
        (lambda heap: heap.push(True, 1.0), TypeError),
        (lambda heap: heap.push(9, "1"), TypeError),
        (lambda heap: heap.push(9, 10**400), ValueError),
        (lambda heap: heap.decrease_key(1, 9.0), ValueError),
        (lambda heap: heap.increase_key(1, 0.0), ValueError),
        (lambda heap: heap.increase_key(77, 0.0), KeyError),
        (lambda heap: heap.delete(77), KeyError),
        (lambda heap: heap.push_many([8, 9, 8], [1, 2, 3]), ValueError),
        (lambda heap: heap.push_many([8, 9, 1], [1, 2, 3]), ValueError),
        (lambda heap: heap.push_many([8, 9], [1, 2, 3]), ValueError),
        (lambda heap: heap.push_many([8, 9], [1, math.nan]), ValueError),
        (lambda heap: heap.push_many([8.0], [1]), TypeError),
        (lambda heap: heap.push_many([True], [1]), TypeError),
        (lambda heap: heap.push_many(np.array([2**63], np.uint64), [1]), ValueError),
        (lambda heap: heap.update_many([1, 77], [5, 5]), KeyError),
        (lambda heap: heap.heapify([1, 1], [5, 5]), ValueError),
        (lambda heap: heap.pop_many(-1), ValueError),
        (lambda heap: heap.reserve(-1), ValueError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    heap = IndexedHeap()
    heap.push_many([1, 2, 3], [3, 2, 1])
    with pytest.raises(error):
        call(heap)
    heap.check()
    assert heap.pop_many(9)[1].tolist() == [3, 2, 1]


def test_long_calls_run_in_chunks_and_are_all_or_nothing(monkeypatch):
    n = 3 * growing.CHUNK // 2
    heap = IndexedHeap()
    values = np.random.default_rng(0).integers(0, 1000, n)
    heap.push_many(np.arange(n), values)
    with pytest.raises(ValueError, match="distinct"):
        heap.push_many(np.append(np.arange(n, 2 * n), 0), np.zeros(n + 1))
    with pytest.raises(KeyError):
        heap.update_many(np.append(np.arange(n), n), np.zeros(n + 1))
    assert len(heap) == n
    heap.update_many(np.arange(n), -values)
    scores, order = heap.pop_many(n)
    np.testing.assert_array_equal(order, np.argsort(-values, kind="stable"))
    np.testing.assert_array_equal(scores, -values[order])
    heap.check()


def test_an_interrupted_bulk_call_loses_nothing(monkeypatch):
    n = 2 * growing.CHUNK
    heap = IndexedHeap()
    heap.push_many(np.arange(n), np.arange(n))
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pop_many(*arguments)

    pop_many = kernels.pop_many
    monkeypatch.setattr(kernels, "pop_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        heap.pop_many(n)
    heap.check()
    assert len(heap) == n and heap.pop() == (0.0, 0)


@pytest.mark.parametrize("max_heap", [False, True])
@pytest.mark.parametrize("grid", [1, 4, 1000])
def test_bulk_calls_of_every_size_beside_a_sorted_dict(max_heap, grid):
    """Few of many and many of many go different ways; a coarse grid makes ties."""
    rng, sign = np.random.default_rng(grid), -1 if max_heap else 1
    heap, model, order = IndexedHeap(max_heap), {}, 0
    special = np.array([-math.inf, -0.0, 0.0, math.inf])
    for _ in range(120):
        m = int(rng.choice([1, 3, 20, 150, 500]))
        drawn = np.where(rng.random(m) < 0.1, rng.choice(special, m), rng.integers(-grid, grid + 1, m) / 4)
        way = rng.integers(3)
        if way == 0:
            fresh = np.setdiff1d(rng.integers(-(10**6), 10**6, m), list(model))
            heap.push_many(fresh, drawn[: len(fresh)])
            for key, score in zip(fresh.tolist(), drawn.tolist(), strict=False):
                model[key], order = (score, order), order + 1
        elif way == 1 and model:
            some = rng.choice(list(model), m)  # with repeats: the last one counts
            heap.update_many(some, drawn)
            for key, score in zip(some.tolist(), drawn.tolist(), strict=True):
                model[key] = (score, model[key][1])
        else:
            best = sorted(model, key=lambda key: (sign * model[key][0], model[key][1]))[:m]
            found_scores, found_keys = heap.pop_many(m)
            assert found_keys.tolist() == best
            assert found_scores.tolist() == [model.pop(key)[0] for key in best]
        heap.check()
        assert len(heap) == len(model)


def test_kernels_refuse_what_is_no_number():
    heap = IndexedHeap()
    heap.push_many(range(50), np.ones(50))
    before, some = heap._to_arrays()["arena"].copy(), np.array([60, 61, 62])
    scores = np.array([1.0, np.nan, 2.0])
    assert kernels.push_many(heap._arena, np.arange(60, 63), scores) == (kernels.FULL, 0)
    heap.reserve(100)
    assert kernels.push_many(heap._arena, some, scores) == (kernels.NOT_A_NUMBER, 1)
    assert kernels.update_many(heap._arena, some - 30, scores) == (kernels.NOT_A_NUMBER, 1)
    assert kernels.push_many(heap._arena, np.array([60, 61, 7]), np.ones(3)) == (kernels.PRESENT, 2)
    heap.check()
    heap.shrink_to_fit()
    np.testing.assert_array_equal(heap._to_arrays()["arena"], before)


def test_bulk_scores_of_unknown_keys_are_nan():
    heap = IndexedHeap(max_heap=True)
    heap.push_many([4, 5], [1, 2])
    np.testing.assert_array_equal(heap.get_score_many([5, 6, 4]), [2, np.nan, 1])
    assert heap.get_score_many([]).shape == (0,)


def test_nothing_is_fine():
    heap = IndexedHeap()
    heap.push_many([], []), heap.update_many([], []), heap.heapify([], []), heap.shrink_to_fit()
    assert heap.peek() is None and [len(column) for column in heap.pop_many(3)] == [0, 0]
    heap.push(1, 1)
    assert heap.pop() == (1.0, 1)


def test_memory_is_what_reserve_asked_for():
    heap = IndexedHeap()
    heap.reserve(1000)
    before = heap.nbytes
    heap.push_many(np.arange(1000), np.arange(1000))
    assert heap.nbytes == before == sum(array.nbytes for array in heap._to_arrays().values())
    heap.pop_many(990)
    heap.shrink_to_fit()
    assert heap.nbytes < before / 50 and len(heap) == 10
    heap.check()


def test_threads_share_a_growing_heap():
    heap, per_thread = IndexedHeap(), 3000

    def work(base):
        for key in range(base, base + per_thread):
            heap.push(key, float(key))
            if key % 3 == 0:
                heap.delete(key)

    threads = [threading.Thread(target=work, args=(t * per_thread,)) for t in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    heap.check()
    assert heap.pop_many(10**6)[1].tolist() == [key for key in range(4 * per_thread) if key % 3]


def test_every_type_shares_one_compilation():
    heap = IndexedHeap()
    heap.push(1, 2), heap.push(np.int32(2), np.float32(2)), heap.push(np.uint8(3), 1.5)
    for dtype in (np.int8, np.int32, np.uint64):
        heap.update_many(np.array([1, 2], dtype)[::-1], np.array([1, 2], dtype))
    assert {len(kernel.signatures) for kernel in (kernels.push, kernels.update_many)} == {1}


def test_files_and_pickles_keep_everything(tmp_path):
    heap = IndexedHeap(max_heap=True)
    heap.push_many([5, -3, 2**62], [1.0, math.inf, 1.0])
    for other in face.keeps_everything(heap, tmp_path):
        assert other.stats() == heap.stats()
        assert other.pop_many(3)[1].tolist() == [-3, 5, 2**62]


def test_no_damaged_file_passes_or_crashes(tmp_path):
    heap = IndexedHeap()
    heap.push_many([5, -3, 2**62, 8], [1.0, math.inf, 1.0, -2.5])
    heap.delete(5)
    face.survives_damage(heap, tmp_path)
    face.refuses_other_files(IndexedHeap, tmp_path)


@njit
def push_squares(heap, start):
    """Push start, start + 1, ... with their squares as scores until there is no room. The key where it stopped."""
    while kernels.push(heap, start, -1.0 * start * start) == kernels.OK:
        start += 1
    return start


def test_arrays_are_for_loops_of_ones_own():
    heap = IndexedHeap()
    heap.reserve(50)
    (arena,) = arrays = heap.arrays
    assert push_squares(arrays.arena, 1) == 51
    heap.check()
    assert len(heap) == 50 and heap.peek() == (-2500.0, 50)
    heap.push(0, 0.0)
    assert push_squares(arena, 51) == 51, "the arena is stale after growth"
    heap.check()
    assert push_squares(heap.arrays.arena, 51) == heap.stats()["capacity"]
    heap.check()
