"""The sketch beside a dict that counts exactly, and beside itself in pure Python."""

import functools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from llmds import cmsketch
from llmds.base import arena as growing
from llmds.cmsketch import CountMinSketch
from llmds.kernels import hashing
from llmds.kernels.cmsketch import counters as kernels
from llmds.kernels.cmsketch import heavy_hitters as heavy_kernels
from tests import face

MOST = 2**63 - 1
ITEMS = ["", "a", "5", "naïve", "𝒳" * 9, "\udc80", "a long item, well over sixteen bytes", 5, 0, -1, MOST, -(2**63)]
items = st.sampled_from(ITEMS)
counts = st.integers(0, 5)


@functools.cache
def places(item, width, depth, seed):
    """Where an item counts, from the hashes alone."""
    if isinstance(item, str):
        data = np.frombuffer(bytearray(item, "utf-8", "surrogatepass"), np.uint8)
        hashed = int(hashing.hash_bytes(data, 0, len(data), np.uint64(hashing.mix(seed))))
    else:
        hashed = int(hashing.mix(np.uint64(hashing.mix(item)) ^ np.uint64(hashing.mix(~seed))))
    low, high = hashed % 2**32, (hashed >> 32) | 1
    return [(low + row * high) % 2**32 * width >> 32 for row in range(depth)]


class BesideModel(RuleBasedStateMachine):
    """Counters are those of conservative update, one item after the other; estimates are never too low."""

    @initialize(width=st.integers(1, 9), depth=st.integers(1, 6), seed=st.sampled_from([0, 7, -1]))
    def start(self, width, depth, seed):
        self.sketch, self.shape = CountMinSketch(width, depth, seed=seed), (width, depth, seed)
        self.forget()

    def forget(self):
        self.exact, self.rows = Counter(), [[0] * self.shape[0] for _ in range(self.shape[1])]
        self.total = 0

    def count(self, item, count):
        self.exact[item] += count
        self.total += count
        at = places(item, *self.shape)
        raised = min(row[place] for row, place in zip(self.rows, at, strict=True)) + count
        for row, place in zip(self.rows, at, strict=True):
            row[place] = max(row[place], raised)

    @rule(item=items, count=counts)
    def add(self, item, count):
        self.sketch.add(item, count)
        self.count(item, count)

    @rule(many=st.lists(st.tuples(items, counts), max_size=9), kind=st.sampled_from([int, str]))
    def add_many(self, many, kind):
        many = [(item, count) for item, count in many if isinstance(item, kind)]
        self.sketch.add_many([item for item, _ in many], [count for _, count in many])
        for item, count in many:
            self.count(item, count)

    @rule()
    def merge_with_itself(self):
        self.sketch.merge(self.sketch)
        self.exact.update(dict(self.exact))
        self.rows = [[2 * counter for counter in row] for row in self.rows]
        self.total *= 2

    @rule()
    def decay(self):
        self.sketch.decay()
        self.exact = Counter({item: count // 2 for item, count in self.exact.items()})
        self.rows = [[counter // 2 for counter in row] for row in self.rows]
        self.total //= 2

    @rule()
    def reset(self):
        self.sketch.reset()
        self.forget()

    @invariant()
    def agree(self):
        if not hasattr(self, "sketch"):
            return
        self.sketch.check()
        assert self.sketch.get_total_count() == self.total
        assert self.sketch.get_error_bound() == pytest.approx(math.e / self.shape[0] * self.total)
        estimates = [self.sketch.estimate(item) for item in ITEMS]
        for item, estimate in zip(ITEMS, estimates, strict=True):
            expected = min(row[at] for row, at in zip(self.rows, places(item, *self.shape), strict=True))
            assert estimate == expected >= self.exact[item]
            assert self.sketch.is_hot(item, estimate) and not self.sketch.is_hot(item, estimate + 1)
        for kind in (int, str):
            some = [item for item in ITEMS if isinstance(item, kind)]
            assert self.sketch.estimate_many(some).tolist() == [self.sketch.estimate(item) for item in some]


TestBesideModel = BesideModel.TestCase


@given(st.lists(st.tuples(items, counts)), st.lists(st.tuples(items, counts)))
def test_a_merged_sketch_estimates_no_item_too_low(left, right):
    one, other, exact = CountMinSketch(5, 3), CountMinSketch(5, 3), Counter()
    for sketch, half in ((one, left), (other, right)):
        for item, count in half:
            sketch.add(item, count)
            exact[item] += count
    before = other.estimate_many([item for item in ITEMS if isinstance(item, str)]).tolist()
    one.merge(other)
    one.check()
    assert one.get_total_count() == sum(exact.values())
    assert all(one.estimate(item) >= exact[item] for item in ITEMS)
    assert other.estimate_many([item for item in ITEMS if isinstance(item, str)]).tolist() == before


def test_errors_stay_within_the_bound_as_often_as_promised():
    ids = np.random.default_rng(3).zipf(1.1, 200_000) % 50_000
    exact = np.bincount(ids, minlength=50_000)
    for depth in (1, 2, 4):
        sketch = CountMinSketch(1024, depth)
        sketch.add_many(ids)
        excess = sketch.estimate_many(np.arange(50_000)) - exact
        assert excess.min() >= 0
        assert (excess > sketch.get_error_bound()).mean() <= math.exp(-depth)


def test_what_came_lately_weighs_more_after_decay():
    sketch = CountMinSketch(256, 4)
    for day in range(10):
        sketch.add_many(np.full(1000, day))
        sketch.decay()
    estimates = sketch.estimate_many(np.arange(10)).tolist()
    assert estimates == sorted(estimates) and estimates[-1] == 500 and estimates[0] <= 2
    assert 990 <= sketch.get_total_count() <= 1000


def test_conservative_update_is_far_closer_than_plain_update():
    ids = np.random.default_rng(3).zipf(1.3, 50_000) % 10_000
    exact = np.bincount(ids, minlength=10_000)
    sketch = CountMinSketch(512, 4)
    sketch.add_many(ids)
    at = np.array([places(item, 512, 4, 0) for item in range(10_000)])
    plain = np.stack([np.bincount(at[:, row], exact, 512)[at[:, row]] for row in range(4)]).min(0)
    estimates = sketch.estimate_many(np.arange(10_000))
    assert (estimates <= plain).all() and (estimates - exact).mean() < 0.6 * (plain - exact).mean()


def test_rows_place_items_independently_enough():
    width, n = 1000, 200_000
    for make in (lambda e: e, lambda e: f"item {e}"):
        at = np.array([places(make(e), width, 3, 0) for e in range(n // 10)])
        for row in range(3):
            filled = np.bincount(at[:, row], minlength=width)
            expected = len(at) / width
            assert ((filled - expected) ** 2 / expected).sum() < width + 6 * math.sqrt(2 * width)
        pairs = len(at) * (len(at) - 1) / 2
        both = len(at) - len(np.unique(at[:, 0] * width + at[:, 1]))
        assert both < 1.3 * pairs / width**2


def test_counters_and_total_saturate():
    sketch, other = CountMinSketch(4, 2), CountMinSketch(4, 2)
    sketch.add("a", MOST - 1), sketch.add("a", MOST), sketch.add_many(["a", "b"], MOST)
    assert sketch.estimate("a") == sketch.estimate("b") == sketch.get_total_count() == MOST
    sketch.check()
    other.add(1, 5)
    other.merge(sketch), sketch.merge(sketch)
    assert other.estimate("a") == sketch.estimate("a") == other.get_total_count() == MOST
    other.check(), sketch.check()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda sketch: sketch.add("a", -1), ValueError, "count"),
        (lambda sketch: sketch.add("a", 2**63), ValueError, "count"),
        (lambda sketch: sketch.add("a", 1.0), TypeError, "count"),
        (lambda sketch: sketch.add("a", True), TypeError, "count"),
        (lambda sketch: sketch.add(b"a"), TypeError, "item"),
        (lambda sketch: sketch.add(None), TypeError, "item"),
        (lambda sketch: sketch.add(True), TypeError, "item"),
        (lambda sketch: sketch.add(2**63), ValueError, "item"),
        (lambda sketch: sketch.estimate(1.0), TypeError, "item"),
        (lambda sketch: sketch.is_hot("a", 1.5), TypeError, "threshold"),
        (lambda sketch: sketch.add_many(["a", "b"], [1]), ValueError, "lengths"),
        (lambda sketch: sketch.add_many(["a", "b"], [1, 2, 3]), ValueError, "lengths"),
        (lambda sketch: sketch.add_many(["a", "b"], [1, -1]), ValueError, "counts"),
        (lambda sketch: sketch.add_many(["a", "b"], -1), ValueError, "counts"),
        (lambda sketch: sketch.add_many(["a", "b"], True), TypeError, "counts"),
        (lambda sketch: sketch.add_many(["a", "b"], [1.0, 2.0]), TypeError, "counts"),
        (lambda sketch: sketch.add_many(["a", 5]), TypeError, "only str"),
        (lambda sketch: sketch.add_many([5, "a"]), TypeError, "items"),
        (lambda sketch: sketch.add_many([1.5]), TypeError, "items"),
        (lambda sketch: sketch.add_many(np.array([True])), TypeError, "items"),
        (lambda sketch: sketch.add_many("abc"), TypeError, "sequence of str"),
        (lambda sketch: sketch.add_many([["a"]]), TypeError, "items"),
        (lambda sketch: sketch.add_many(np.array(["a", None])), TypeError, "only str"),
        (lambda sketch: sketch.add_many(np.array([["a"]])), TypeError, "items"),
        (lambda sketch: sketch.add_many(["a"] * 5000 + [5]), TypeError, "only str"),
        (lambda sketch: sketch.add_many(5), TypeError, "items"),
        (lambda sketch: sketch.add_many({"a", "b"}), TypeError, "items"),
        (lambda sketch: sketch.estimate_many(np.array([2**63], np.uint64)), ValueError, "items"),
        (lambda sketch: sketch.merge("abc"), TypeError, "other"),
        (lambda sketch: sketch.merge(CountMinSketch(8, 2, seed=2)), ValueError, "seed"),
        (lambda sketch: sketch.merge(CountMinSketch(8, 3, seed=1)), ValueError, "depth"),
        (lambda sketch: sketch.merge(CountMinSketch(2, 8, seed=1)), ValueError, "width"),
    ],
)
def test_a_refused_call_changes_nothing(call, error, message):
    sketch = CountMinSketch(8, 2, seed=1)
    sketch.add("a", 3)
    before = sketch._to_arrays()["sketch"].copy()
    with pytest.raises(error, match=message):
        call(sketch)
    np.testing.assert_array_equal(sketch._to_arrays()["sketch"], before)


@pytest.mark.parametrize(
    "arguments, error",
    [({"width": 0}, ValueError), ({"depth": 0}, ValueError), ({"depth": 65}, ValueError), ({"width": 1.5}, TypeError),
     ({"seed": 2**63}, ValueError), ({"seed": None}, TypeError), ({"width": 2**31}, ValueError)],
)  # fmt: skip
def test_a_shape_must_make_sense(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        CountMinSketch(**arguments)


def test_long_calls_run_in_chunks(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 500, 2000)
    texts = [f"item {e} " + "x" * (e % 50) for e in ids.tolist()]
    whole, cut = CountMinSketch(100, 3), CountMinSketch(100, 3)
    whole.add_many(ids, ids), whole.add_many(texts, ids)
    monkeypatch.setattr(cmsketch, "chunks", lambda n, size=300: growing.chunks(n, size))
    monkeypatch.setattr(cmsketch, "_STRINGS", 70)
    cut.add_many(ids, ids), cut.add_many(texts, ids)
    face.same_arrays(whole, cut)
    np.testing.assert_array_equal(whole.estimate_many(texts), cut.estimate_many(texts))


def test_an_interrupted_bulk_call_keeps_a_prefix(monkeypatch):
    monkeypatch.setattr(cmsketch, "chunks", lambda n: growing.chunks(n, 10))
    sketch, expected = CountMinSketch(100, 3), CountMinSketch(100, 3)
    expected.add_many(np.arange(20))
    add_ints = kernels.add_ints

    def interrupted(arena, some, counts):
        if some[0] == 20:
            raise KeyboardInterrupt
        add_ints(arena, some, counts)

    monkeypatch.setattr(kernels, "add_ints", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sketch.add_many(np.arange(50))
    face.same_arrays(sketch, expected)


def test_one_seed_gives_one_sketch_and_another_seed_another():
    sketches = [CountMinSketch(seed=seed) for seed in (3, 3, 4)]
    for sketch in sketches:
        sketch.add_many(ITEMS[:7]), sketch.add(5)
    face.same_arrays(sketches[0], sketches[1])
    assert (sketches[0]._to_arrays()["sketch"][8:] != sketches[2]._to_arrays()["sketch"][8:]).any()


def test_hashes_are_the_same_on_every_machine():
    sketch = CountMinSketch(1000, 2, seed=11)
    sketch.add("stable"), sketch.add("naïve", 2), sketch.add(-7, 4)
    counters = sketch._to_arrays()["sketch"][kernels.HEAD :]
    assert {int(at): int(counters[at]) for at in np.flatnonzero(counters)} == STABLE


STABLE = {867: 1, 1942: 1, 801: 2, 1577: 2, 578: 4, 1588: 4}


def test_nothing_is_fine():
    sketch = CountMinSketch(1, 1)
    sketch.add_many([]), sketch.add_many([], []), sketch.add_many(np.empty(0, np.int64)), sketch.add("a", 0)
    assert sketch.estimate_many([]).dtype == np.int64 and sketch.estimate("a") == 0 == sketch.get_error_bound()
    sketch.add_many(np.array(["a", "b"])), sketch.add_many(("c", "d")), sketch.add_many(range(3), np.uint8(2))
    assert sketch.get_total_count() == 10 == sketch.estimate("anything")


def test_memory_is_allocated_once():
    sketch = CountMinSketch()
    before = sketch.nbytes
    sketch.add_many(np.arange(100_000))
    assert sketch.nbytes == before == 8 * (2048 * 4 + 8)


def test_every_type_shares_one_compilation():
    sketch = CountMinSketch()
    sketch.add(1), sketch.add(np.uint8(1), np.int32(4)), sketch.estimate(np.int64(3)), sketch.add(np.str_("abc"))
    sketch.add("abc", 4), sketch.estimate("é")
    for dtype in (np.int8, np.int32, np.uint64, np.int64):
        sketch.add_many(np.array([1, 2], dtype)[::-1], np.array([1, 2], dtype)[::-1])
        sketch.estimate_many(np.array([1, 2], dtype))
    sketch.add_many(["a"]), sketch.add_many(["é", "b"], [1, 2]), sketch.estimate_many(np.array(["é", "b"]))
    used = (
        kernels.add_int, kernels.add_string, kernels.estimate_int, kernels.estimate_string, kernels.add_ints,
        kernels.add_strings, kernels.estimate_ints, kernels.estimate_strings,
    )  # fmt: skip
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)


def test_files_and_pickles_keep_everything(tmp_path):
    sketch = CountMinSketch(50, 3, seed=-9)
    sketch.add_many(ITEMS[:7], range(7))
    for other in face.keeps_everything(sketch, tmp_path):
        assert other.stats() == sketch.stats() and repr(other) == repr(sketch)
        other.add("more"), other.merge(sketch)
        other.check()


def test_no_damaged_file_passes_or_crashes(tmp_path):
    sketch = CountMinSketch(5, 3)
    sketch.add_many(ITEMS[:7], range(7))
    face.survives_damage(sketch, tmp_path)
    face.refuses_other_files(CountMinSketch, tmp_path)


def test_stats_and_repr_tell_what_it_is():
    sketch = CountMinSketch(100, 2, seed=5)
    sketch.add("a", 50)
    assert sketch.stats() == {
        "width": 100, "depth": 2, "seed": 5, "heavy_hitters": 0, "total_count": 50,
        "error_bound": pytest.approx(math.e / 2), "error_probability": pytest.approx(math.exp(-2)),
    }  # fmt: skip
    assert repr(sketch) == "CountMinSketch(width=100, depth=2, seed=5, 50 counted)"


@njit
def count_multiples(sketch, numbers, factor):
    """Count those of the numbers that the factor divides."""
    for number in numbers:
        if number % factor == 0:
            kernels.add_int(sketch, number, np.int64(1))


@njit
def count_in(sketch, heavy, texts, item, times):
    for _ in range(times):
        heavy_kernels.add_int(sketch, heavy, texts, item, np.int64(1))


def test_arrays_are_for_loops_of_ones_own():
    sketch = CountMinSketch()
    count_multiples(sketch.arrays.sketch, np.arange(20), 5)
    sketch.check()
    assert [sketch.estimate(item) for item in (0, 5, 6)] == [1, 1, 0] and sketch.get_total_count() == 4
    sketch = CountMinSketch(heavy_hitters=3)
    sketch.add("five")
    count_in(*sketch.arrays, 5, 7)
    sketch.check()
    assert [(hitter.item, hitter.estimate) for hitter in sketch.top_k()] == [(5, 7), ("five", 1)]
