"""A graph that changes: what is removed is gone, what stays is found, and no interruption leaves half of anything."""

import numpy as np
import pytest

from llmds.base import threads
from llmds.hnsw import write
from llmds.hnsw.index import HNSW
from llmds.kernels import table
from llmds.kernels.hnsw import layout as kernels
from tests import face
from tests.hnsw.model import KINDS, METRICS, all_distances, built, clustered, exact, kept, recall

FEW_KINDS = [(None, "float32"), ("int8", "float32"), ("int8", None), ("int4", "float16")]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_removed_is_never_told_again(kind):
    vectors = clustered(1200, 24, 1)
    index = built(vectors, kind=kind)
    for start in range(0, 1200, 300):
        gone = np.arange(start, start + 150)
        index.remove_many(gone)
        assert not np.isin(index.search_batch(vectors[gone], 20, ef=30)[0], gone).any()
        assert not np.isin(index.search_batch(vectors[gone], 20, ef=1200)[0], gone).any()
        assert not np.isin(index.search_batch(vectors[gone], 20, ef=30, filter=np.arange(1200))[0], gone).any()
        assert np.isposinf(index.distances(vectors[:1], gone[None])).all()
        assert start not in index and start + 150 in index
        with pytest.raises(KeyError):
            index.get_vector(start)
    index.check()
    assert len(index) == 600
    rest = np.flatnonzero(np.arange(1200) % 300 >= 150)
    assert (index.search_batch(vectors[rest], 1, ef=1200)[0][:, 0] == rest).mean() > (0.99 if kind[1] else 0.9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", FEW_KINDS)
def test_churn_costs_neither_recall_nor_memory(metric, kind):
    dim = 128 if kind[0] == "int4" else 24
    vectors, queries = clustered(6000, dim, 2), clustered(100, dim, 2)
    index, chance = built(vectors[:1000], metric, kind), np.random.default_rng(3)
    present, sizes = np.arange(1000), []
    for turn in range(5):
        gone = chance.choice(present, 500, replace=False)
        index.remove_many(gone)
        new = np.arange(1000 + 500 * turn, 1500 + 500 * turn)
        index.add_many(vectors[new], new)
        present = np.concatenate([np.setdiff1d(present, gone), new])
        index.check()
        sizes.append(index.nbytes)
    assert len(index) == 1000 and sizes[1:] == sizes[:1] * 4
    stats = index.stats()
    assert stats["unreachable"] <= 2 and stats["num_vectors"] == 1000
    fresh = built(vectors[present], metric, kind, present)
    expected = np.full((100, 6000), np.inf)
    expected[:, present] = exact(kept(vectors[present], metric, None), queries, metric)
    ours, theirs = (recall(each.search_batch(queries, 10, ef=40)[0], expected, 10) for each in (index, fresh))
    assert ours > theirs - 0.02


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("M", [1, 2, 8])
def test_everything_can_be_removed_one_by_one_and_come_back(kind, M):
    vectors = np.concatenate([clustered(140, 6, 4), np.ones((10, 6))])
    index, order = built(vectors, kind=kind, M=M, ef_construction=20), np.random.default_rng(5).permutation(150)
    for _ in range(2):
        for n, vec_id in enumerate(order.tolist()):
            index.remove(vec_id)
            index.check()
            assert len(index) == 149 - n and vec_id not in index
            if n < 149:
                left = int(order[-1])
                assert index.search(vectors[left], 1, ef=150)[0][1] == pytest.approx(
                    index.distances([vectors[left]], [[left]])[0, 0], abs=1e-6
                )
        assert index.stats()["entry_point"] is None and index.search(vectors[0], 5) == []
        index.add_many(vectors, np.arange(150))
        index.check()
        assert index._state.size == 150, "slots are used again"
        assert len(index) == 150 and index.stats()["unreachable"] == 0


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_twins_stay_findable_when_the_linked_one_goes(kind):
    vectors = np.concatenate([clustered(300, 8, 6), np.full((5, 8), 2.0)])
    index = built(vectors, kind=kind)
    same = [300, 301, 302, 303, 304]
    while same:
        assert [vec_id for vec_id, _ in index.search(vectors[300], len(same), ef=305)] == same
        linked = [vec_id for vec_id in same if index.arrays.nodes[slot_of(index, vec_id), kernels.LEVEL] >= 0]
        assert len(linked) == 1
        index.remove(linked[0])
        index.check()
        same.remove(linked[0])
    assert index.stats()["num_duplicates"] == 0


def slot_of(index, vec_id):
    return int(index._state.slots(np.array([vec_id]))[0])


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("order", ["as they came", "backwards", "shuffled"])
def test_thousands_of_twins_go_in_any_order(order, at_once):
    vectors = np.concatenate([clustered(500, 8, 7), np.ones((2000, 8)), clustered(500, 8, 8)])
    index = built(vectors, kind=(None, "float32"))
    gone = {
        "as they came": np.arange(500, 2490),
        "backwards": np.arange(2489, 499, -1),
        "shuffled": np.random.default_rng(9).permutation(np.arange(500, 2490)),
    }[order]
    for part in [gone] if at_once else np.array_split(gone, 40):
        index.remove_many(part)
        index.check()
    assert [vec_id for vec_id, _ in index.search(np.ones(8), 10)] == list(range(2490, 2500))
    assert len(index) == 1010 and index.stats()["num_duplicates"] == 9 and index.stats()["unreachable"] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_moves_a_vector(kind):
    vectors, others = clustered(400, 24, 10), clustered(400, 24, 11)
    index = built(vectors, kind=kind)
    for vec_id in range(0, 400, 2):
        index.update(vec_id, others[vec_id])
    index.check()
    now = np.where(np.arange(400)[:, None] % 2, vectors, others)
    assert len(index) == 400
    found, distances = index.search_batch(now, 1, ef=400)
    assert (found[:, 0] == np.arange(400)).mean() > (0.99 if kind[1] else 0.95)
    told = all_distances(index, now, np.arange(400), now)
    np.testing.assert_allclose(
        distances[:, 0], told[np.arange(400), found[:, 0]], atol=0.05 if kind[1] is None else 1e-4
    )


def test_an_update_to_what_is_there_changes_nothing_that_is_told():
    vectors = np.repeat(clustered(50, 6, 12), 3, axis=0)
    index, ids = built(vectors), np.arange(150)
    for vec_id in (0, 1, 2, 2, 149, 75):
        index.update(vec_id, vectors[vec_id])
        index.check()
        assert [told[0] for told in index.search(vectors[vec_id], 3)] == [vec_id // 3 * 3 + i for i in range(3)]
    assert len(index) == 150 and (index.get_vectors(ids) == vectors).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("M", [1, 2, 16])
def test_no_vector_is_cut_off(metric, M):
    chance = np.random.default_rng(30)
    apart = np.repeat(np.eye(12) * 50, 60, axis=0) + chance.standard_normal((720, 12)) * 0.01  # tight, far apart
    hub = np.concatenate([np.zeros((1, 40)) + 1e-3, np.eye(40), -np.eye(40)])  # the first is everybody's nearest
    for vectors in (apart, hub, clustered(1000, 16, 13)):
        for kind in ((None, "float32"), ("int8", "float32"), ("int4", None)):
            index = built(vectors, metric, kind, M=M, ef_construction=10)
            index.check()
            assert index.stats()["unreachable"] == 0


@pytest.mark.parametrize("M", [4, 16])
@pytest.mark.parametrize("kind", FEW_KINDS)
def test_removals_cut_nobody_off(M, kind):
    vectors = clustered(2000, 24, 14)
    index, order = built(vectors, kind=kind, M=M, ef_construction=40), np.random.default_rng(15).permutation(2000)
    for part in np.array_split(order[:1500], 5):
        index.remove_many(part)
        assert index.stats()["unreachable"] == 0
    index.check()


def test_the_entry_point_moves_to_the_highest_that_is_left():
    index = built(clustered(500, 8, 16))
    for _ in range(200):
        index.remove(index.stats()["entry_point"])
        levels = index._to_arrays()["nodes"][:, kernels.LEVEL]
        assert index.stats()["entry_level"] == levels.max()
    index.check()


def test_shrinking_after_removals_gives_their_room_back():
    vectors = clustered(1000, 24, 17)
    index = built(vectors)
    index.remove_many(np.arange(0, 1000, 2))
    before = index.search_batch(vectors, 5, ef=1000)
    index.shrink_to_fit()
    index.check()
    assert index.nbytes < 0.6 * built(vectors).nbytes and index._state.size == 500
    np.testing.assert_array_equal(index.search_batch(vectors, 5, ef=1000)[0], before[0])
    index.add_many(vectors[::2], np.arange(0, 1000, 2))
    index.check()
    assert (index.search_batch(vectors, 1)[0][:, 0] == np.arange(1000)).mean() > 0.99


def test_memory_is_counted_and_given_back():
    index = HNSW(40, seed=1)
    index.reserve(1000)
    before = index.nbytes
    index.add_many(clustered(100, 40, 17), np.arange(100))
    assert index.nbytes - before < 20 * 1000  # the upper layers alone may grow
    index.shrink_to_fit()
    assert index.nbytes < before / 8
    assert index.nbytes == sum(array.nbytes for array in index.arrays)
    index.check()
    index.add_many(clustered(100, 40, 18), np.arange(100, 200))
    index.check()


def test_codes_are_smaller_than_vectors():
    sizes = {kind: built(clustered(64, 256, 19), kind=kind).stats()["bytes"] for kind in KINDS}
    for (quantization, vectors), parts in sizes.items():
        assert parts["vectors"] == 64 * 256 * {"float32": 4, "float16": 2, None: 0}[vectors]
        assert parts["codes"] == 64 * 256 * {None: 0, "int8": 2, "int4": 1}[quantization] // 2


def changed(seed=1, how_many=None, kind=("int8", "float32"), single=0):
    """Vectors added, removed, updated and added anew."""
    vectors = clustered(1500, 24, 18)
    index = built(vectors[:0], kind=kind, seed=seed)
    for i in range(single):
        index.add(vectors[i], i)
    index.add_many(vectors[single:1000], np.arange(single, 1000), threads=how_many)
    index.remove_many(np.arange(0, 900, 3))
    index.update(1, vectors[1400])
    index.add_many(vectors[1000:], np.arange(1000, 1500), threads=how_many)
    return index


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_threads_change_nothing_but_the_time(kind):
    one = changed(how_many=1, kind=kind)
    face.same_arrays(one, changed(how_many=2, kind=kind))
    face.same_arrays(one, changed(how_many=8, kind=kind))


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("how_many", [1, 4])
def test_how_a_batch_is_cut_into_calls_changes_nothing(monkeypatch, kind, how_many):
    whole = changed(how_many=1, kind=kind)
    monkeypatch.setattr(threads, "SECONDS_A_CALL", 0.0)
    face.same_arrays(whole, changed(how_many=how_many, kind=kind))


def test_one_seed_makes_one_graph_and_another_makes_another():
    face.same_arrays(changed(1), changed(1))
    face.same_arrays(changed(1, single=100), changed(1, single=100))
    assert not np.array_equal(changed(1)._to_arrays()["nodes"], changed(2)._to_arrays()["nodes"])
    assert not np.array_equal(changed(None)._to_arrays()["nodes"], changed(None)._to_arrays()["nodes"])


def interrupts(monkeypatch, module, name, when, turn):
    """Let the turn-th call of a kernel be interrupted before it does anything, or after all."""
    warm = built(clustered(3, 6, 1), M=4, ef_construction=20)  # the first call of a kernel replaces what is patched
    warm.remove(0)
    calls, original = [], getattr(module, name)

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == turn and when == "before":
            raise KeyboardInterrupt
        result = original(*arguments)
        if len(calls) == turn:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, interrupted)


STEPS = ["prepare", "find", "find_inside", "choose", "adopt", "link_back", "finish"]


@pytest.mark.parametrize("kernel", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("turn, how_many", [(1, 1), (2, 1), (80, 1), (120, 3)])
def test_an_interrupted_bulk_add_leaves_a_whole_prefix(monkeypatch, kernel, when, turn, how_many):
    vectors = np.concatenate([clustered(560, 6, 20), np.repeat(clustered(20, 6, 21), 2, axis=0)])
    index = HNSW(6, seed=1, M=4, ef_construction=20)
    with monkeypatch.context() as patch:
        interrupts(patch, write.build, kernel, when, turn)
        with pytest.raises(KeyboardInterrupt):
            index.add_many(vectors, np.arange(600), threads=how_many)
    index.check()
    n = len(index)
    assert n < 600 and n not in index and (n == 0 or n - 1 in index) and (how_many > 1 or n >= turn - 1)
    assert index.stats()["unreachable"] == 0
    index.add_many(vectors[n:], np.arange(n, 600))
    index.check()
    assert (index.search_batch(vectors, 1, ef=600)[1] == 0).all()


@pytest.mark.parametrize("kernel", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_add_into_used_slots_that_is_interrupted_leaves_a_whole_prefix(monkeypatch, kernel, when):
    vectors = clustered(900, 6, 22)
    index = built(vectors[:600], M=4, ef_construction=20)
    index.remove_many(np.arange(200, 600))
    with monkeypatch.context() as patch:
        interrupts(patch, write.build, kernel, when, 20)
        with pytest.raises(KeyboardInterrupt):
            index.add_many(vectors[600:], np.arange(600, 900))
    index.check()
    n = len(index) - 200
    assert 0 < n < 300 and 599 + n in index and 600 + n not in index and 250 not in index
    index.add_many(vectors[600 + n :], np.arange(600 + n, 900))
    index.check()
    assert index._state.size == 600
    there = np.concatenate([np.arange(200), np.arange(600, 900)])
    assert (index.search_batch(vectors[there], 1, ef=500)[0][:, 0] == there).all()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("turn", [1, 7])
def test_an_interrupted_removal_leaves_the_rest(monkeypatch, when, turn):
    vectors = clustered(300, 6, 23)
    index = built(vectors)
    with monkeypatch.context() as patch:
        patch.setattr(threads, "SECONDS_A_CALL", 0.0)  # one by one
        interrupts(patch, write.removal, "remove", when, turn)
        with pytest.raises(KeyboardInterrupt):
            index.remove_many(np.arange(100))
    index.check()
    n = 300 - len(index)
    assert n == turn - (when == "before") and n in index and (n == 0 or n - 1 not in index)
    index.remove_many(np.arange(n, 100))
    index.check()
    assert len(index) == 200


@pytest.mark.parametrize("module, kernel", [*((write.build, kernel) for kernel in STEPS), (write.removal, "remove")])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("new", ["elsewhere", "the same"])
def test_an_interrupted_update_leaves_the_old_vector_or_the_new(monkeypatch, module, kernel, when, new):
    vectors = np.repeat(clustered(100, 6, 24), 2, axis=0)
    index = built(vectors)
    target = np.full(6, 7, np.float32) if new == "elsewhere" else vectors[5]
    with monkeypatch.context() as patch:
        interrupts(patch, module, kernel, when, 1)
        with pytest.raises(KeyboardInterrupt):
            index.update(4, target)
    index.check()
    assert len(index) == 200 and index.stats()["unreachable"] == 0
    held = index.get_vector(4)
    assert (held == vectors[4]).all() or (held == target).all()
    assert 4 in [vec_id for vec_id, _ in index.search(held, 2)]
    index.update(4, target)
    index.check()
    assert (index.get_vector(4) == target).all() and len(index) == 200
    assert (index._state.rows[: index._state.size, table.KEY] != kernels.HIDDEN).all()


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_an_emptied_index_answers_nothing_and_goes_on(quantization):
    vectors = clustered(1500, 8, 40)
    index = HNSW(8, seed=1, quantization=quantization)
    index.add_many(vectors, np.arange(1500))
    index.remove_many(np.arange(1500))
    index.check()
    assert index.search(vectors[0], 3) == [] and (index.search_batch(vectors[:40], 3)[0] == -1).all()
    assert index.search(vectors[0], 3, filter=[1, 2]) == [] and index.search(vectors[0], 3, group_by=lambda i: i) == []
    assert index.stats()["entry_point"] is None and index.tune(vectors[:5], 0.9) == index.ef_search
    index.add_many(vectors[:100], np.arange(100))
    index.check()
    assert index.search(vectors[7], 1)[0][0] == 7
