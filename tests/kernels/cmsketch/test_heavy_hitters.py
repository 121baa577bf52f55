"""Which items a sketch finds frequent, beside a dict that counts exactly."""

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds import cmsketch
from llmds.base import arena as growing
from llmds.cmsketch import CountMinSketch, HeavyHitter
from llmds.kernels.cmsketch import heavy_hitters as kernels
from tests import face

MOST = 2**63 - 1
ITEMS = ["", "a", "5", "naïve", "𝒳" * 9, "\udc80", "a long item, well over sixteen bytes", 5, 0, -1, MOST, -(2**63)]
items, counts = st.sampled_from(ITEMS), st.integers(0, 5)


def promises_hold(sketch, exact, total):
    """Every count lies in its range, and nothing frequent is missing."""
    sketch.check()
    found = sketch.top_k()
    assert len({hitter.item for hitter in found}) == len(found) <= sketch.heavy_hitters
    assert [hitter.estimate for hitter in found] == sorted((hitter.estimate for hitter in found), reverse=True)
    for item, count, error in found:
        assert 0 <= count - error <= exact[item] <= count <= sketch.estimate(item)
    frequent = {item for item, count in exact.items() if count * sketch.heavy_hitters > total}
    assert frequent <= {hitter.item for hitter in found}
    for k in (0, 1, 2, 100):
        assert sketch.top_k(k) == found[:k]


class BesideCounter(RuleBasedStateMachine):
    """Whatever is added, merged and aged, the promises of Space-Saving hold."""

    @initialize(width=st.sampled_from([1, 5, 300]), depth=st.sampled_from([1, 4]), watched=st.integers(1, 6))
    def start(self, width, depth, watched):
        self.sketches = [CountMinSketch(width, depth, heavy_hitters=watched) for _ in range(2)]
        self.exact, self.totals = [Counter(), Counter()], [0, 0]

    def count(self, which, item, count):
        self.exact[which][item] += count
        self.totals[which] += count

    @rule(which=st.integers(0, 1), item=items, count=counts)
    def add(self, which, item, count):
        self.sketches[which].add(item, count)
        self.count(which, item, count)

    @rule(
        which=st.integers(0, 1), many=st.lists(st.tuples(items, counts), max_size=12), kind=st.sampled_from([int, str])
    )
    def add_many(self, which, many, kind):
        many = [(item, count) for item, count in many if isinstance(item, kind)]
        self.sketches[which].add_many([item for item, _ in many], [count for _, count in many])
        for item, count in many:
            self.count(which, item, count)

    @rule(which=st.integers(0, 1), other=st.integers(0, 1))
    def merge(self, which, other):
        self.sketches[which].merge(self.sketches[other])
        self.exact[which] = self.exact[which] + self.exact[other]
        self.totals[which] += self.totals[other]

    @rule(which=st.integers(0, 1))
    def decay(self, which):
        self.sketches[which].decay()
        self.exact[which] = Counter({item: count // 2 for item, count in self.exact[which].items()})
        self.totals[which] //= 2

    @rule(which=st.integers(0, 1))
    def reset(self, which):
        self.sketches[which].reset()
        self.exact[which], self.totals[which] = Counter(), 0

    @invariant()
    def agree(self):
        for sketch, exact, total in (
            zip(*map(self.__dict__.get, ("sketches", "exact", "totals")), strict=True)
            if (hasattr(self, "sketches"))
            else ()
        ):
            assert sketch.get_total_count() == total
            promises_hold(sketch, exact, total)


TestBesideCounter = BesideCounter.TestCase


@pytest.mark.parametrize("kind", [int, str])
def test_the_frequent_items_of_zipf_data_are_found(kind):
    ids = np.random.default_rng(3).zipf(1.2, 100_000) % 20_000
    sketch = CountMinSketch(heavy_hitters=500)
    sketch.add_many(ids if kind is int else [f"item {e}" for e in ids.tolist()])
    exact = Counter(ids.tolist() if kind is int else [f"item {e}" for e in ids.tolist()])
    promises_hold(sketch, exact, len(ids))
    top = sketch.top_k(20)
    assert [hitter.item for hitter in top] == [item for item, _ in exact.most_common(20)]
    assert all(hitter.error <= len(ids) / 500 for hitter in sketch.top_k())
    assert len(sketch.top_k()) == 500


def test_watching_changes_no_estimate():
    ids = np.random.default_rng(3).zipf(1.2, 20_000) % 2_000
    plain, watching = CountMinSketch(300, 4), CountMinSketch(300, 4, heavy_hitters=50)
    for sketch in (plain, watching):
        sketch.add_many(ids, ids % 3), sketch.add_many([f"item {e}" for e in ids.tolist()])
        sketch.add("a", 5), sketch.add(7)
    np.testing.assert_array_equal(plain._to_arrays()["sketch"], watching._to_arrays()["sketch"])


def test_texts_of_any_length_find_room():
    sketch, exact = CountMinSketch(heavy_hitters=3), Counter()
    rng = np.random.default_rng(0)
    for turn in range(300):
        texts = [chr(97 + turn % 26) * int(length) for length in rng.integers(0, 3000, 4)]
        sketch.add_many(texts)
        exact.update(texts)
        sketch.add("é" * 20_000 if turn == 150 else "z", 40)
        exact["é" * 20_000 if turn == 150 else "z"] += 40
        if turn % 50 == 0:
            promises_hold(sketch, exact, sum(exact.values()))
    promises_hold(sketch, exact, sum(exact.values()))
    assert sketch.nbytes < 1e6, "bytes of items that left are used again"


def test_tallies_saturate():
    sketch = CountMinSketch(8, 2, heavy_hitters=2)
    sketch.add("a", MOST - 1), sketch.add("a", MOST), sketch.add_many([1, 2], MOST)
    assert [hitter.estimate for hitter in sketch.top_k()] == [MOST, MOST]
    sketch.merge(sketch), sketch.check()
    sketch.decay(), sketch.check()
    assert sketch.top_k(1)[0].estimate == MOST >> 1


def test_nothing_is_fine():
    sketch = CountMinSketch(heavy_hitters=1)
    assert sketch.top_k() == sketch.top_k(0) == []
    sketch.add("a", 0), sketch.add(5, 0), sketch.add_many([]), sketch.add_many(["x"], 0), sketch.decay(), sketch.reset()
    sketch.merge(CountMinSketch(heavy_hitters=1))
    assert sketch.top_k() == [] and sketch.heavy_hitters == 1
    sketch.add(np.int8(5)), sketch.add(np.str_("b"), 4)
    assert sketch.top_k(np.int64(3)) == [HeavyHitter("b", 4, 1)] or sketch.top_k() == [HeavyHitter("b", 4, 0)]
    assert repr(sketch).startswith("CountMinSketch(width=2048, depth=4, seed=0, heavy_hitters=1, 5")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda sketch: CountMinSketch().top_k(), ValueError, "heavy_hitters"),
        (lambda sketch: CountMinSketch(heavy_hitters=-1), ValueError, "heavy_hitters"),
        (lambda sketch: CountMinSketch(heavy_hitters=1.0), TypeError, "heavy_hitters"),
        (lambda sketch: sketch.top_k(-1), ValueError, "k must"),
        (lambda sketch: sketch.top_k(1.0), TypeError, "k must"),
        (lambda sketch: sketch.add("a", -1), ValueError, "count"),
        (lambda sketch: sketch.add(None), TypeError, "item"),
        (lambda sketch: sketch.add_many(["b", 5]), TypeError, "only str"),
        (lambda sketch: sketch.add_many(["b", "c"], [1, -1]), ValueError, "counts"),
        (lambda sketch: sketch.merge(CountMinSketch(8, 2)), ValueError, "heavy_hitters"),
        (lambda sketch: sketch.merge(CountMinSketch(8, 2, heavy_hitters=4)), ValueError, "heavy_hitters"),
    ],
)
def test_a_refused_call_changes_nothing(call, error, message):
    sketch = CountMinSketch(8, 2, heavy_hitters=3)
    sketch.add("a", 3), sketch.add(9)
    before = {name: array.copy() for name, array in sketch._to_arrays().items()}
    with pytest.raises(error, match=message):
        call(sketch)
    for name, array in sketch._to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_long_calls_run_in_chunks(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 500, 2000)
    texts = [f"item {e} " + "x" * (e % 50) for e in ids.tolist()]
    whole, cut = (CountMinSketch(100, 3, heavy_hitters=40) for _ in range(2))
    whole.add_many(ids, ids), whole.add_many(texts, ids)
    monkeypatch.setattr(cmsketch, "chunks", lambda n, size=300: growing.chunks(n, size))
    monkeypatch.setattr(cmsketch, "_STRINGS", 70)
    cut.add_many(ids, ids), cut.add_many(texts, ids)
    face.same_arrays(whole, cut)


def test_threads_share_a_sketch():
    sketch = CountMinSketch(heavy_hitters=10)

    def work(name):
        for turn in range(2000):
            sketch.add(f"{name} {turn} " + "y" * (turn % 300))
            sketch.add(name)
            if turn % 500 == 0:
                sketch.top_k(), sketch.merge(CountMinSketch(heavy_hitters=10))

    threads = [threading.Thread(target=work, args=(f"thread {e}",)) for e in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    sketch.check()
    assert sketch.get_total_count() == 16_000
    assert {f"thread {e}" for e in range(4)} <= {hitter.item for hitter in sketch.top_k()}


def test_every_type_shares_one_compilation():
    sketch = CountMinSketch(heavy_hitters=2)
    sketch.add(1), sketch.add(np.uint8(1), np.int32(4)), sketch.add("abc", 4), sketch.add("é"), sketch.top_k(1)
    for dtype in (np.int8, np.uint64):
        sketch.add_many(np.array([1, 2], dtype)[::-1], np.array([1, 2], dtype)[::-1])
    sketch.add_many(["a"]), sketch.add_many(["é", "b"], [1, 2])
    used = (kernels.add_int, kernels.add_string, kernels.add_ints, kernels.add_strings, kernels.listed)
    assert [len(kernel.signatures) for kernel in used] == [1] * len(used)


def filled():
    sketch = CountMinSketch(50, 3, seed=-9, heavy_hitters=6)
    sketch.add_many(ITEMS[:7], range(7)), sketch.add_many(ITEMS[7:], range(5)), sketch.decay()
    return sketch


def test_files_and_pickles_keep_everything(tmp_path):
    sketch = filled()
    for other in face.keeps_everything(sketch, tmp_path):
        assert other.stats() == sketch.stats() and other.top_k() == sketch.top_k() and repr(other) == repr(sketch)
        other.add("more"), other.merge(sketch)
        other.check()


def test_no_damaged_file_passes_or_crashes(tmp_path):
    face.survives_damage(filled(), tmp_path, rounds=900)


def test_files_of_the_first_version_are_read(tmp_path):
    sketch = CountMinSketch(5, 3)
    sketch.add_many(["a", "b"], [3, 4])
    np.savez(tmp_path / "old.npz", format=np.array("llmds CountMinSketch 1"), sketch=sketch._to_arrays()["sketch"])
    old = CountMinSketch.load(tmp_path / "old.npz")
    face.same_arrays(old, sketch)
    assert old.heavy_hitters == 0 and old.estimate("b") == 4
    old.add("b"), old.check()
