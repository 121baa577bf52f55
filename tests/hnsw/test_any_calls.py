"""Any sequence of calls beside a dict of vectors, searched whole by NumPy."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llmds.hnsw.index import HNSW
from tests.hnsw.model import KINDS, METRICS, agrees, coded, exact, kept

# Few values, so that equal vectors and equal distances are the rule; whole numbers, so that distances are exact.
grid = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
some_ids = st.integers(0, 30) | st.sampled_from([2**63 - 1, 2**40])
WIDE = 10**4
met = Counter()


def happened(what):
    met[what] += 1
    event(what)


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as a dict of id -> vector searched whole does."""

    @initialize(
        metric=st.sampled_from(METRICS), kind=st.sampled_from(KINDS), M=st.integers(1, 4), seed=st.integers(0, 3),
        crowd=st.sampled_from([0, 0, 150]),
    )  # fmt: skip
    def start(self, metric, kind, M, seed, crowd):
        self.metric, self.kind = metric, kind
        self.index = HNSW(
            3, M, ef_construction=8, ef_search=WIDE, seed=seed, metric=metric, quantization=kind[0], vectors=kind[1]
        )
        self.model, self.meant = {}, {}  # what was added; what codes alone stand for
        self.atol = 1e-5 if kind[1] or metric != "l2" else 5e-3  # the root of a difference of rounded numbers
        if crowd:  # so many that whole batches are added
            vectors = np.random.default_rng(seed).integers(1, 4, (crowd, 3))
            self.add_to_both(dict(zip(range(100, 100 + crowd), vectors.tolist(), strict=True)))

    def add_to_both(self, items):
        used = self.index._state.size
        vectors = np.array(list(items.values())).reshape(-1, 3)
        self.index.add_many(vectors, list(items))
        self.model.update(items)
        self.learn(items)
        if items and self.index._state.size < used + len(items):
            happened("a slot was used again")

    def learn(self, ids):
        if self.kind[1] is None and len(ids):
            for vec_id, own in zip(ids, self.index.get_vectors(list(ids)).tolist(), strict=True):
                self.meant[vec_id] = own

    def distances(self, query, ids):
        if not ids:
            return []
        vectors = kept([self.model[vec_id] for vec_id in ids], self.metric, self.kind[1])
        if self.kind[1] is None:
            return coded(vectors, [self.meant[vec_id] for vec_id in ids], [query], self.metric)[0]
        return exact(vectors, query, self.metric)[0]

    def forget(self, vec_id):
        if self.index.stats()["entry_point"] == vec_id:
            happened("the entry point was removed")

    @rule(vector=grid, vec_id=some_ids)
    def add(self, vector, vec_id):
        if vec_id in self.model:
            with pytest.raises(ValueError, match="distinct"):
                self.index.add(vector, vec_id)
        else:
            used = self.index._state.size
            self.index.add(vector, vec_id)
            self.model[vec_id] = vector
            self.learn([vec_id])
            if self.index._state.size == used:
                happened("a slot was used again")

    @rule(items=st.dictionaries(some_ids, grid))
    def add_many(self, items):
        if items.keys() & self.model.keys():
            with pytest.raises(ValueError, match="distinct"):
                self.index.add_many(np.array(list(items.values())), list(items))
        else:
            self.add_to_both(items)

    @rule(data=st.data())
    def remove(self, data):
        vec_id = data.draw(some_ids | st.sampled_from([*self.model, 0]))
        if vec_id in self.model:
            self.forget(vec_id)
            self.index.remove(vec_id)
            del self.model[vec_id]
        else:
            with pytest.raises(KeyError, match=str(vec_id)):
                self.index.remove(vec_id)

    @rule(data=st.data())
    def remove_many(self, data):
        ids = data.draw(st.lists(st.sampled_from([*self.model, 31]), max_size=20))
        if 31 in ids or len(set(ids)) < len(ids):
            with pytest.raises(KeyError if 31 in ids else ValueError):
                self.index.remove_many(np.array(ids))
        else:
            for vec_id in ids:
                self.forget(vec_id)
                del self.model[vec_id]
            self.index.remove_many(np.array(ids, np.int64))

    @rule(data=st.data(), vector=grid)
    def update(self, data, vector):
        vec_id = data.draw(some_ids | st.sampled_from([*self.model, 0]))
        if vec_id in self.model:
            self.forget(vec_id)
            self.index.update(vec_id, vector)
            self.model[vec_id] = vector
            self.learn([vec_id])
        else:
            with pytest.raises(KeyError, match=str(vec_id)):
                self.index.update(vec_id, vector)

    @rule(query=grid, k=st.integers(0, 40))
    def search(self, query, k):
        result, ids = self.index.search(query, k), list(self.model)
        distances = self.distances(query, ids)
        agrees(result, ids, distances, k, self.atol)
        if self.metric != "cosine" and self.kind[1] is not None:
            expected = sorted(zip(np.asarray(distances, np.float32).tolist(), ids, strict=True))[:k]
            assert [vec_id for vec_id, _ in result] == [vec_id for _, vec_id in expected]

    @rule(query=grid, ef=st.integers(1, 9))
    def search_narrowly(self, query, ef):
        result = self.index.search(query, 1, ef=ef)
        assert len(result) == min(1, len(self.model))
        for vec_id, distance in result:
            assert distance == pytest.approx(self.distances(query, [vec_id])[0], abs=self.atol)
            assert self.index.distances([query], [[vec_id]])[0, 0] == pytest.approx(distance, abs=self.atol)

    @rule(
        query=grid,
        k=st.integers(0, 9),
        ids=st.lists(some_ids | st.integers(100, 250), max_size=30),
        asked=st.booleans(),
    )
    def search_filtered(self, query, k, ids, asked):
        def allows(all_ids):
            assert np.array_equal(np.sort(all_ids), sorted(self.model)) and all_ids.dtype == np.int64
            return np.isin(all_ids, ids)

        result = self.index.search(query, k, filter=allows if asked else np.array(ids, np.int64))
        allowed = [vec_id for vec_id in self.model if vec_id in ids]
        agrees(result, allowed, self.distances(query, allowed), k, self.atol)

    @rule(query=grid, k=st.integers(0, 9), groups=st.integers(1, 5), asked=st.booleans())
    def search_grouped(self, query, k, groups, asked):
        ids = list(self.model)
        if asked or max(ids, default=0) > 1000:
            grouping = lambda all_ids: all_ids % groups  # noqa: E731
        else:
            grouping = np.arange(max(ids, default=0) + 1) % groups
        distances, nearest = self.distances(query, ids), {}
        for vec_id, distance in zip(ids, distances, strict=True):
            nearest[vec_id % groups] = min(nearest.get(vec_id % groups, math.inf), distance)
        result = self.index.search(query, k, group_by=grouping)
        told = [distance for _, distance in result]
        np.testing.assert_allclose(told, sorted(nearest.values())[:k], atol=self.atol)
        assert len({vec_id % groups for vec_id, _ in result}) == len(result) == min(k, len(nearest))
        own = dict(zip(ids, distances, strict=True))
        np.testing.assert_allclose(told, [own[vec_id] for vec_id, _ in result], atol=self.atol)

    @rule()
    def shrink(self):
        self.index.shrink_to_fit()
        assert self.index._state.size == len(self.model)

    @rule(n=st.integers(0, 50))
    def reserve(self, n):
        self.index.reserve(n)

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        path = self.folder / "index.npz"
        self.index.save(path)
        self.index = HNSW.load(path, mmap=mmap)

    @invariant()
    def agree(self):
        if not hasattr(self, "index"):
            return
        self.index.check()
        stats = self.index.stats()
        assert len(self.index) == len(self.model) == stats["num_vectors"]
        for vec_id in (0, 7, 31, 2**40):
            assert (vec_id in self.index) == (vec_id in self.model)
        if stats["num_duplicates"]:
            happened("equal vectors were in")
        if self.kind[1] is None and self.meant.keys() & self.model.keys():
            ids = list(self.model)
            np.testing.assert_array_equal(
                self.index.get_vectors(ids), np.array([self.meant[vec_id] for vec_id in ids], np.float32)
            )


def test_any_calls_answer_as_the_model_does(tmp_path_factory):
    met.clear()
    BesideModel.folder = tmp_path_factory.mktemp("model")
    wanted = {"a slot was used again", "the entry point was removed", "equal vectors were in"}
    for _ in range(8):  # the calls are drawn at random, so once in a while one round does not meet all
        run_state_machine_as_test(BesideModel, settings=settings(max_examples=60, stateful_step_count=25))
        if met.keys() >= wanted:
            break
    assert met.keys() >= wanted, dict(met)
