"""Schedulers in files, old files, pickles, and memory."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from llmds.kernels.scheduler import batch as scheduling_batch
from llmds.kernels.scheduler import layout as scheduling_layout
from llmds.kernels.scheduler import requests as kernels
from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Request, Scheduler
from tests import face
from tests.scheduler.model import TICK, Clock, largest_first

OLD = Path(__file__).parent.parent / "data"


def test_every_type_shares_one_compilation():
    scheduler = Scheduler(np.int8(5), np.float32(1), policy="edf", aging=1, clock=lambda: 1)
    scheduler.submit(np.int32(2), 5), scheduler.submit(3, np.float32(7)), scheduler.submit(4)
    for dtype in (np.int8, np.uint64):
        scheduler.submit_many(np.array([1, 2], dtype)[::-1], np.array([3, 4], dtype))
    scheduler.update_priority(np.int16(0), np.uint8(9)), scheduler.cancel(np.int64(1))
    scheduler.get_batch(np.bool_(True)), scheduler.get_batch(True)
    scheduler.preempt(np.array([0], np.uint8)), scheduler.preempt([2], keep=np.bool_(True)), scheduler.get_batch(True)
    scheduler.continue_batch([0]), scheduler.continue_batch(np.array([2], np.int8))
    scheduler.complete_batch(np.array([0], np.uint8)), scheduler.complete_batch([2])
    scheduler.submit_many([1, 2], None, priority=np.int8(2), tenant=np.array([1, 2], np.uint8))
    for module, names in (
        (kernels, ("submit", "submit_many", "complete", "cancel", "update", "wait_again")),
        (scheduling_layout, ("new", "resized")),
        (scheduling_batch, ("take_batch",)),
    ):
        for name in names:
            assert len(getattr(module, name).signatures) <= 1, name


def test_memory_is_what_reserve_asked_for_and_shrinks():
    scheduler = Scheduler(900, clock=Clock())
    scheduler.reserve(1000)
    before = scheduler.nbytes
    scheduler.submit_many(np.arange(1000), 50)
    assert scheduler.nbytes == before == sum(array.nbytes for array in scheduler._to_arrays().values())
    scheduler.complete_batch(scheduler.get_batch())
    scheduler.shrink_to_fit()
    scheduler.check()
    assert len(scheduler) == 100 and scheduler.nbytes < before / 4
    assert scheduler.get_batch(force=True) == list(range(900, 1000))


def filled(clock):
    scheduler = Scheduler(2, 500.0, policy="edf", aging=0.5, clock=clock)
    scheduler.submit_many([5, 6, 7, 8, 9], [250, 500, math.inf, 125, 125])
    clock.now += 0.125
    scheduler.get_batch()
    scheduler.submit(3)
    scheduler.complete_batch([4])
    return scheduler


def test_files_and_pickles_keep_everything(tmp_path):
    clock = Clock(1000.0)
    scheduler = filled(clock)
    for other in face.keeps_everything(scheduler, tmp_path, clock=clock):
        assert other.stats() == scheduler.stats() and other.request(0) == scheduler.request(0)
        assert [other.get_batch(True) for _ in range(3)] == [[0, 1], [2, 5], None]


def test_saved_times_are_ages(tmp_path):
    clock = Clock(1000.0)
    scheduler = filled(clock)
    clock.now += 0.0625
    scheduler.save(tmp_path / "s.npz")
    later = Clock(-7.0)
    other = Scheduler.load(tmp_path / "s.npz", clock=later)
    assert other.request(0) == Request(0, 5, -6.9375, -7.1875, -6.9375, "waiting")
    for number in (1, 2, 5):
        other.cancel(number)
    assert other.ready_at() == -6.9375
    later.now = -6.9375 - TICK
    assert other.get_batch() is None
    later.now = -6.9375
    assert other.get_batch() == [0]
    other.check()


def test_callables_are_given_again_to_load(tmp_path):
    path = tmp_path / "s.npz"
    scheduler = Scheduler(2, priority_fn=largest_first)
    scheduler.submit_many([1, 3, 2])
    scheduler.save(path)
    with pytest.raises(ValueError, match="priority_fn"):
        Scheduler.load(path)
    assert Scheduler.load(path, priority_fn=largest_first).get_batch() == [1, 2]
    Scheduler().save(path)
    with pytest.raises(ValueError, match="priority_fn"):
        Scheduler.load(path, priority_fn=largest_first)


def shared(clock, policy):
    """One with tenants, prompts, chunks, and requests that wait again."""
    cache = KVCache(page_size=1, max_pages=50, store=False)
    cache.attach_blocks(0, [1, 2, 3])
    scheduler = Scheduler(
        3, policy=policy, aging=0.5, max_batch_tokens=9, prefill_chunk=4, cache=cache, blocks=True, clock=clock
    )
    prompts = [1, 2, 3, 1, 2, 9, 9, 1]
    scheduler.submit_many([8, 9, 7], priority=[3, 1, 2], tenant=[5, -5, 5], prompts=prompts, indptr=[0, 3, 6, 8])
    clock.now += 0.125
    scheduler.continue_batch(scheduler.get_batch())
    scheduler.submit(20, 125, tenant=7, prompt=[1, 2], salt=3), scheduler.submit(6, tenant=5)
    scheduler.preempt(scheduler.get_batch(True), keep=True)
    scheduler.get_batch(True, max_requests=1)
    return scheduler, cache


@pytest.mark.parametrize("policy", ["sjf", "priority", "lpm", "wfq"])
def test_tenants_prompts_and_chunks_are_kept(tmp_path, policy):
    clock = Clock(3.0)
    scheduler, cache = shared(clock, policy)
    if policy == "wfq":
        scheduler.set_weight(-5, 4.0)
    copies = face.keeps_everything(scheduler, tmp_path, cache=cache, clock=clock)
    expected = None
    for other in [*copies, scheduler]:
        assert other.prefill_chunk == 4 and other.policy == policy
        batches = [other.batch_tokens().tolist()]
        while batch := other.get_batch(True):
            batches.append((batch, other.batch_tokens().tolist()))
            other.continue_batch(batch)
            assert len(batches) < 99
        assert expected is None or batches == expected
        expected = batches


def test_a_cache_is_given_again_to_load(tmp_path):
    path, clock = tmp_path / "s.npz", Clock()
    scheduler, cache = shared(clock, "lpm")
    scheduler.save(path)
    with pytest.raises(ValueError, match="cache"):
        Scheduler.load(path)
    assert Scheduler.load(path, cache=cache).request(4) is not None
    Scheduler(policy="lpm", cache=KVCache(4, 9, dtype=np.int32)).save(path)
    with pytest.raises(ValueError, match="4 bytes"):
        Scheduler.load(path, cache=cache)
    Scheduler().save(path)
    with pytest.raises(ValueError, match="cache"):
        Scheduler.load(path, cache=cache)


@pytest.mark.parametrize("policy", ["edf", "lpm", "wfq"])
def test_no_damaged_file_passes_or_crashes(tmp_path, policy):
    clock = Clock(3.0)
    scheduler, cache = shared(clock, policy)
    face.survives_damage(scheduler, tmp_path, cache=cache, clock=clock)


def test_no_damaged_file_of_a_plain_one_passes_or_crashes(tmp_path):
    clock = Clock(3.0)
    face.survives_damage(filled(clock), tmp_path, clock=clock)
    face.refuses_other_files(Scheduler, tmp_path, clock=clock)


def old_file(name, folder):
    """A file that version 1 wrote, at 1000.125 to 1001.125 seconds of its clock."""
    path = folder / f"{name}.npz"
    path.write_bytes(gzip.decompress((OLD / f"scheduler_v1_{name}.npz.gz").read_bytes()))
    return path


def test_version_1_is_read(tmp_path):
    clock = Clock(50.0)
    scheduler = Scheduler.load(old_file("edf", tmp_path), clock=clock)
    scheduler.check()
    assert scheduler.request(3) == Request(3, 8, 49.0, 48.875, 49.0, "in flight", 8)
    assert scheduler.request(1) == Request(1, 11, 49.375, 48.875, 49.375, "waiting")
    assert [scheduler.get_batch(True) for _ in range(3)] == [[0, 1], [2, 5], None]
    assert scheduler.submit(1) == 6 and scheduler.stats()["batch_count"] == 3
    scheduler.preempt([3]), scheduler.check()
    assert scheduler.get_batch(True) == [3, 6]

    scheduler = Scheduler.load(old_file("sjf", tmp_path), clock=clock)
    scheduler.check()
    clock.now += 9
    assert scheduler.get_batch() == [1, 4] and scheduler.get_batch(True) == [2, 5], "the longest overdue first"
    face.keeps_everything(scheduler, tmp_path_of(tmp_path), clock=clock)


def tmp_path_of(folder):
    (folder / "new").mkdir()
    return folder / "new"


def test_version_1_with_a_priority_fn_and_an_empty_one(tmp_path):
    with pytest.raises(ValueError, match="priority_fn"):
        Scheduler.load(old_file("custom", tmp_path))
    assert Scheduler.load(old_file("custom", tmp_path), priority_fn=largest_first).get_batch() == [1, 2, 0]
    scheduler = Scheduler.load(old_file("empty", tmp_path))
    scheduler.check()
    assert len(scheduler) == 0 and scheduler.submit(1) == 0


@pytest.mark.parametrize("name", ["edf", "sjf"])
def test_no_damaged_file_of_version_1_passes_or_crashes(tmp_path, name, monkeypatch):
    path = old_file(name, tmp_path)

    class Written:
        """What `face.survives_damage` saves and loads."""

        @staticmethod
        def save(target):
            target.write_bytes(path.read_bytes())

        load = Scheduler.load

    face.survives_damage(Written(), tmp_path, clock=Clock(50.0))


def test_prompts_are_gathered_and_idle_tenants_forgotten():
    cache = KVCache(page_size=4, max_pages=9, dtype=np.int32, store=False)
    scheduler = Scheduler(2, policy="wfq", cache=cache, clock=Clock())
    for turn in range(400):
        scheduler.submit_many([4, 4], tenant=[2 * turn, 2 * turn + 1], prompts=np.arange(9), indptr=[0, 4, 9])
        scheduler.complete_batch(scheduler.get_batch())
    scheduler.check()
    assert scheduler.nbytes < 30_000
    scheduler.submit(4, prompt=range(1000))
    before = scheduler.nbytes
    scheduler.shrink_to_fit(), scheduler.check()
    assert scheduler.nbytes < before / 1.3 and scheduler.get_batch(True) == [800]
