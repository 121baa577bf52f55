"""Readers beside a writer: every answer is one that was right at a moment while it was asked."""

import random
import sys
import threading
import time

import numpy as np
import pytest

from llmds.hnsw.index import HNSW
from tests.hnsw.model import built, clustered

# Ids in three groups: never touched; updated, but in all the time; added and removed.
CALM, MOVING, COMING = range(0, 150), range(150, 200), range(200, 900)
VERSIONS, DIM, NEAR = 4, 16, 1e-3


@pytest.fixture
def restless():
    """Threads take turns so often that they meet in the middle of everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


class Scene:
    """An index that changes all the time, and what each of its ids has ever stood for."""

    def __init__(self, kind, M=8):
        n = len(COMING) + len(MOVING) + len(CALM)
        self.versions = clustered(n * VERSIONS, DIM, 21).reshape(n, VERSIONS, DIM)
        self.versions[CALM] = self.versions[CALM, :1]
        # Some stand for the same as one that is never touched: twins come and go.
        twins = np.random.default_rng(1).choice(COMING, 200, replace=False)
        self.versions[twins, 1] = self.versions[twins % len(CALM), 0]
        self.kind, self.faults, self.rounds, self.writes = kind, [], 0, 0
        self.narrow = np.zeros(2, int)  # asked narrowly for what is in; not found
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.present = set([*CALM, *MOVING, *COMING[::2]])
        ids = np.array(sorted(self.present))
        self.index = built(self.versions[ids, 0], kind=kind, ids=ids, M=M, ef_construction=30)

    def write(self, chance):
        """One change."""
        index, what = self.index, chance.random()
        inside = [vec_id for vec_id in COMING if vec_id in self.present]
        outside = [vec_id for vec_id in COMING if vec_id not in self.present]
        some = chance.choice([1, 2, 40])
        if what < 0.3 and len(inside) > some:
            gone = chance.sample(inside, some)
            index.remove_many(gone)
            self.present -= set(gone)
        elif what < 0.6 and len(outside) > some:
            new = chance.sample(outside, some)
            version = [chance.randrange(VERSIONS) for _ in new]
            index.add_many(self.versions[new, version], new, threads=chance.choice([1, 2]))
            self.present |= set(new)
        elif what < 0.95:
            vec_id = chance.choice(MOVING if chance.random() < 0.5 or not inside else inside)
            index.update(vec_id, self.versions[vec_id, chance.randrange(VERSIONS)])
        elif what < 0.97:
            index.shrink_to_fit()
        else:
            index.reserve(len(index.arrays.nodes) + 10)
        self.writes += 1

    def expect(self, holds, what):
        if not holds:
            self.faults.append(what)

    def could_be(self, query, ids, distances):
        """Whether each id may have had each distance."""
        own = np.linalg.norm(self.versions[ids] - query, axis=2)
        return bool((np.abs(own - distances[:, None]).min(axis=1) < NEAR).all())

    def read(self, chance):
        """One of every question."""
        index = self.index
        calm = np.array(chance.sample(CALM, 5))
        queries = self.versions[calm, 0]
        for ef in (20, 10**4):
            found, distances = index.search_batch(queries, 12, ef=ef, threads=1)
            self.expect((found >= 0).all(), f"ids that cannot be, ef={ef}: {found.min()}")
            for query, ids, told in zip(queries, found, distances, strict=True):
                self.expect(len(set(ids.tolist())) == len(ids), f"an id twice, ef={ef}")
                self.expect(
                    self.could_be(query, ids.clip(0, len(self.versions) - 1), told), f"others' distances, ef={ef}"
                )
            lost = (found != calm[:, None]).all(axis=1)
            self.expect(not lost.any() or ef == 20, "one that was in was not found")
            with self.lock:
                self.narrow += np.array([len(lost), lost.sum()]) if ef == 20 else 0
        moving = chance.choice(MOVING)
        for name, options in (
            ("array", {"filter": [moving]}),
            ("function", {"filter": lambda ids: ids == moving}),
        ):
            answer = index.search(queries[0], 3, **options)
            self.expect(
                [vec_id for vec_id, _ in answer] == [moving],
                f"one that moves is not found by a filter ({name}): {answer}",
            )
            self.expect(
                self.could_be(queries[0], np.array([moving]), np.array([answer[0][1] if answer else 0])), "moves"
            )
        answer = index.search(queries[1], 5, ef=200, group_by=lambda ids: ids % 10)
        self.expect(len({vec_id % 10 for vec_id, _ in answer}) == 5 == len(answer), "groups")
        told = index.distances(queries, np.broadcast_to(calm, (5, 5)))
        self.expect((np.abs(np.diag(told)) < NEAR).all(), "distances of what never changed")
        self.expect(not np.isinf(index.distances(queries[:1], [[moving]])).any(), "the distance of one that moves")
        coming = np.array(chance.sample(COMING, 20))
        told = index.distances(queries[:1], coming[None])[0]
        there = np.isfinite(told)
        self.expect(self.could_be(queries[0], coming[there], told[there]), "distances of what comes and goes")
        for vec_id in (moving, *coming[:5].tolist()):
            try:
                own = index.get_vector(vec_id)
            except KeyError:
                self.expect(vec_id != moving, "the vector of one that moves")
                continue
            self.expect((self.versions[vec_id] == own).all(axis=1).any(), f"a vector of nobody's: {vec_id}")
        self.expect((index.get_vectors(calm) == queries).all(), "vectors of what never changed")
        self.expect(all(vec_id in index for vec_id in calm.tolist()) and moving in index, "in")
        self.expect(200 <= len(index) <= 900 and index.stats()["num_vectors"] >= 200, "len")
        with self.lock:
            self.rounds += 1

    def play(self, seconds, readers=3):
        def read(seed):
            chance = random.Random(seed)
            try:
                while not self.stop.is_set() and not self.faults:
                    self.read(chance)
            except BaseException as error:
                self.faults.append(repr(error))
                raise

        threads, chance = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)], random.Random(9)
        for _ in range(30):  # everything is compiled when time begins to count
            self.write(chance)
        self.read(chance)
        [thread.start() for thread in threads]
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not self.faults:
                self.write(chance)
                if self.writes % 50 == 0:
                    self.index.check()
        finally:
            self.stop.set()
            [thread.join() for thread in threads]
        self.index.check()
        assert not self.faults, self.faults[:3]
        assert len(self.index) == len(self.present)
        assert self.rounds > 3 * seconds and self.writes > 20 * seconds
        assert self.narrow[1] < 0.05 * self.narrow[0]
        # Most of what was added took the place of what was removed, or the arrays would have grown far.
        assert self.index._state.size < 2 * 900


KINDS = [(None, "float32"), ("int8", "float32"), ("int4", "float32")]


@pytest.mark.parametrize("kind", KINDS)
def test_readers_beside_a_writer_see_whole_answers(restless, kind):
    Scene(kind).play(1.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_readers_beside_a_writer_see_whole_answers_for_long(restless, kind):
    Scene(kind).play(20)


@pytest.mark.parametrize("M", [2, 4, 8])
def test_the_graph_stays_whole_however_long_readers_stay(M):
    """Slots are used again in any order, with old links to them still about."""
    scene, chance, inside = Scene((None, "float32"), M), random.Random(14), []
    readers = scene.index._readers
    for _ in range(1500):
        what = chance.random()
        if what < 0.3:
            inside.append(readers.enter(scene.index._state.clock))
        elif what < 0.6 and inside:
            readers.leave(inside.pop(chance.randrange(len(inside))))
        elif what < 0.62:
            while inside:
                readers.leave(inside.pop())
        scene.write(chance)
        scene.index.check()
    assert len(scene.index) == len(scene.present)


def test_what_is_being_added_is_in_when_it_can_be_found(restless):
    """len, `in`, get_vector and distances know nothing of what is not linked yet."""
    vectors = clustered(4000, 16, 22)
    index, faults, stop = built(vectors[:0], ef_construction=40), [], threading.Event()
    index.add_many(vectors[:200], np.arange(200))

    def read():
        while not stop.is_set():
            n = len(index)
            found, distances = index.search_batch(vectors[n - 20 : n], 1, ef=10**4, threads=1)
            if (found[:, 0] != np.arange(n - 20, n)).any() or (distances != 0).any():
                faults.append("those that are counted are not found")
            if n - 1 not in index or np.isinf(index.distances(vectors[:1], [[n - 1]])).any():
                faults.append("the last that is counted is not in")
            for vec_id in range(n, min(n + 300, 4000), 50):  # now and then it has come meanwhile
                told = index.distances(vectors[vec_id][None], [[vec_id]])[0, 0]
                if not (told == 0 or np.isinf(told)):
                    faults.append("another's distance")
                try:
                    if (index.get_vector(vec_id) != vectors[vec_id]).any():
                        faults.append("another's vector")
                except KeyError:
                    pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        index.add_many(vectors[200:2500], np.arange(200, 2500))
        for i in range(2500, 2600):
            index.add(vectors[i], i)
        index.add_many(vectors[2600:], np.arange(2600, 4000), threads=2)
    finally:
        stop.set()
        reader.join()
    index.check()
    assert not faults, faults[:3]


def test_slots_wait_for_the_readers_that_may_see_them():
    vectors = clustered(300, 8, 23)
    index, entered, leave = built(vectors), threading.Event(), threading.Event()

    def allows(ids):
        entered.set()
        assert leave.wait(10)
        return np.ones(len(ids), bool)

    answers = []
    reader = threading.Thread(target=lambda: answers.append(index.search(vectors[7], 300, ef=300, filter=allows)))
    reader.start()
    assert entered.wait(10)
    index.remove_many(np.arange(100))
    index.add_many(vectors[100:200] + 50, np.arange(1000, 1100))
    assert index._state.size == 400, "the removed are still being read"
    leave.set()
    reader.join()
    told = dict(answers[0])
    assert told.keys() == set(range(300)) and told[7] == 0, "as it was when the search began"
    index.add_many(vectors[:100] + 90, np.arange(2000, 2100))
    assert index._state.size == 400, "now they are used again"
    index.check()


def test_writers_wait_for_one_another():
    vectors = clustered(1200, 8, 24)
    index = HNSW(8, ef_construction=20, seed=1)

    def write(start):
        ids = np.arange(start, start + 400)
        index.add_many(vectors[ids], ids, threads=2)
        index.remove_many(ids[::4])
        for vec_id in ids[1::40].tolist():
            index.update(vec_id, vectors[vec_id])
        index.add_many(vectors[ids[::4]], ids[::4])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 400, 800)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    index.check()
    assert len(index) == 1200 and index.search(vectors[777], 1) == [(777, 0.0)]
    assert (index.get_vectors(np.arange(1200)) == vectors).all()
