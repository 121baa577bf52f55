"""Vectors under document ids beside a dict, through replacement, removal and rebuilding."""

import face
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmds.hnsw import HNSW
from llmds.vector_store import VectorStore

DIM = 4
documents = st.lists(st.integers(0, 9), max_size=4)


def store():
    vectors = VectorStore(HNSW(DIM, seed=0, metric="cosine"))
    vectors._MIN_REBUILD = 8
    return vectors


class BesideModel(RuleBasedStateMachine):
    """A document has the vector it was given last."""

    def __init__(self):
        super().__init__()
        self.store, self.model, self.rng = store(), {}, np.random.default_rng(0)

    @rule(documents=documents)
    def put(self, documents):
        rows = self.rng.normal(size=(len(documents), DIM)).astype(np.float32)
        present = self.rng.random(len(documents)) < 0.7
        self.store.put(np.array(documents, np.int64), rows, present)
        for document, row, there in zip(documents, rows, present, strict=True):
            self.model.pop(document, None)
            if there:
                self.model[document] = row

    @rule(documents=documents)
    def drop(self, documents):
        self.store.put(np.array(documents, np.int64), None)
        for document in documents:
            self.model.pop(document, None)

    @rule(depth=st.integers(0, 12))
    def search(self, depth):
        query = self.rng.normal(size=(1, DIM)).astype(np.float32)
        ids, scores = self.store.search_batch(query, depth)
        cosines = {key: row @ query[0] / np.linalg.norm(row) / np.linalg.norm(query) for key, row in self.model.items()}
        order = sorted(cosines, key=lambda key: -cosines[key])[:depth]
        assert ids.tolist() == [order + [-1] * (depth - len(order))]
        np.testing.assert_allclose(scores[0, : len(order)], [cosines[key] for key in order], atol=1e-5)
        given = self.store.score_many(query, np.arange(-1, 11)[None])
        np.testing.assert_allclose(given[0], [cosines.get(key, -np.inf) for key in range(-1, 11)], atol=1e-5)

    @rule()
    def shrink(self):
        self.store.shrink_to_fit()

    @invariant()
    def holds_together(self):
        self.store.check()
        assert len(self.store) == len(self.model)
        assert self.store.stats()["num_vectors"] <= max(2 * len(self.model), 8) + 4


BesideModel.TestCase.settings = settings(max_examples=40)
TestBesideModel = BesideModel.TestCase


def test_files_keep_everything_and_damage_is_seen(tmp_path):
    vectors = store()
    rows = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
    vectors.put(np.arange(6), rows), vectors.put(np.array([2, 4]), rows[:2])
    face.keeps_everything(vectors, tmp_path)
    face.survives_damage(vectors, tmp_path, rounds=200)
