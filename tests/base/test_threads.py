"""Runs on several threads: every item once, in order where order is promised, and nothing left behind by a failure."""

import gc
import itertools
import os
import signal
import sys
import threading
import time
import types
import weakref

import numpy as np
import pytest

from llmds.base import threads


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(threads, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


@pytest.fixture
def pool(monkeypatch):
    """A pool of the test's own."""
    pool = threads._Pool()
    monkeypatch.setattr(threads, "_pool", pool)
    yield pool
    if pool.executor is not None:
        pool.executor.shutdown()


def lengths(clock, n, seconds, smallest=1):
    """How long the runs of one thread are, when a call of m items takes seconds(m)."""
    parts = []

    def call(part):
        parts.append(part)
        clock.now += seconds(part.stop - part.start)

    threads.in_pieces(n, call, smallest=smallest)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == n and all(part.step is None for part in parts)
    return [part.stop - part.start for part in parts]


def test_count_checks_what_a_user_gives():
    assert [threads.count(number) for number in (1, np.int32(2), 1024)] == [1, 2, 1024]
    assert threads.count(None) >= 1
    if hasattr(os, "sched_getaffinity"):
        assert threads.count(None) == len(os.sched_getaffinity(0))
    for wrong, error in [(0, ValueError), (1025, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)]:
        with pytest.raises(error, match="threads"):
            threads.count(wrong)


def test_count_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for cores in (7, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert threads.count(None) == (cores or 1)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("smallest", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 63, 64, 65, 1000, 5003])
def test_every_item_comes_once(n, workers, smallest):
    times = np.zeros(n, np.int64)
    parts = []

    def call(part):
        times[part] += 1
        parts.append(part)

    threads.in_pieces(n, call, workers, smallest)
    assert (times == 1).all()
    assert all(0 <= part.start < part.stop <= n for part in parts)


def test_one_thread_is_the_callers_and_keeps_the_order(pool):
    parts, names = [], set()
    threads.in_pieces(1000, lambda part: (parts.append(part), names.add(threading.get_ident())))
    assert parts == sorted(parts, key=lambda part: part.start) and names == {threading.get_ident()}
    assert pool.executor is None


def test_no_thread_is_started_for_one_run(pool):
    threads.in_pieces(10, lambda part: None, 8, smallest=10)
    threads.in_pieces(0, lambda part: None, 8)
    assert pool.executor is None
    threads.in_pieces(11, lambda part: None, 8, smallest=10)
    assert pool.size == 1, "two runs are for two threads, of which the caller is one"


def test_runs_grow_at_most_eightfold_up_to_the_aim(clock):
    found = lengths(clock, 1_000_000, lambda m: m * 1e-6)
    assert found[:6] == [1, 8, 64, 512, 4096, 32768]
    assert all(m == pytest.approx(40_000, abs=1) for m in found[6:-1])


def test_runs_shrink_where_items_become_slow(clock):
    found = lengths(clock, 1000, lambda m: m * 1e-3 if clock.now < 0.3 else m * 1e-2)
    assert found[:3] == [1, 8, 40] and found[-2] == pytest.approx(4, abs=1)


def test_runs_are_not_shorter_than_the_smallest(clock):
    found = lengths(clock, 1000, lambda m: 0.02 if m <= 100 else 1.0, 100)
    assert found[:3] == [100, 200, 100] and min(found[:-1]) == 100


def test_runs_are_shorter_than_the_smallest_if_that_takes_too_long(clock):
    found = lengths(clock, 1000, lambda m: m * 1e-3, 100)
    assert found[0] == 100 and all(m == pytest.approx(40, abs=1) for m in found[1:-1])
    assert lengths(clock, 5, lambda m: 1.0, 2) == [2, 1, 1, 1], "an item is the least"


def test_calls_that_take_no_time_at_all_are_no_trouble(clock):
    assert lengths(clock, 100, lambda m: 0.0) == [1, 8, 64, 27]


def test_runs_near_the_end_leave_something_for_everybody(clock):
    runs = threads._Runs(1000, lambda part: None, 4, 10)
    sizes = []
    while (part := runs.take(10_000, 10)) is not None:
        sizes.append(part.stop - part.start)
    assert sizes[:2] == [125, 110] and sizes[-1] <= 10 and min(sizes[:-1]) == 10 and sum(sizes) == 1000
    assert sizes == sorted(sizes, reverse=True)


def test_threads_work_side_by_side(pool):
    """Nobody gets on before all have come."""
    barrier = threading.Barrier(4, timeout=30)
    names = set()

    def call(part):
        names.add(threading.get_ident())
        barrier.wait()

    threads.in_pieces(4, call, 4)
    assert len(names) == 4 and threading.get_ident() in names


def test_the_pool_grows_and_its_threads_stay(pool):
    for workers in (2, 3, 2, 5):
        barrier = threading.Barrier(workers, timeout=30)
        threads.in_pieces(workers, lambda part, barrier=barrier: barrier.wait(), workers)
    assert pool.size == 4
    before = pool.executor
    threads.in_pieces(100, lambda part: None, 5)
    assert pool.executor is before and len(before._threads) <= 4


class Expected(Exception):
    pass


@pytest.mark.parametrize("error", [Expected, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("ours", [True, False])
def test_a_failure_ends_the_work_and_is_raised_when_all_is_still(error, workers, ours):
    me, lock, over = threading.get_ident(), threading.Lock(), threading.Event()
    begun, ended, failed = [], [], []

    def call(part):
        with lock:
            begun.append(part)
            fails = len(begun) > 5 and not failed and (workers == 1 or (threading.get_ident() == me) == ours)
            failed.extend([part] * fails)
        if fails:
            over.set()
            raise error("this one")
        if len(begun) > 5:
            over.wait(30)
            time.sleep(0.005)
        ended.append(part)

    with pytest.raises(error, match="this one"):
        threads.in_pieces(1_000_000, call, workers)
    seen = len(begun)
    assert len(ended) == seen - 1, "who had begun has ended"
    time.sleep(0.01)
    assert len(begun) == seen, "nobody begins any more"
    covered = sorted((part.start, part.stop) for part in ended + failed)
    assert covered[0][0] == 0 and all(stop == start for (_, stop), (start, _) in itertools.pairwise(covered))


def test_the_first_of_several_failures_is_raised(pool):
    barrier = threading.Barrier(3, timeout=30)

    def call(part):
        barrier.wait()
        if part.start:
            time.sleep(0.02)
        raise Expected(part.start)

    with pytest.raises(Expected, match=r"^0$"):
        threads.in_pieces(3, call, 3)


def test_who_comes_after_a_failure_does_nothing(pool, monkeypatch):
    late, calls = [], []
    monkeypatch.setattr(pool, "summon", lambda work, helpers: late.extend([work] * helpers))

    def call(part):
        calls.append(part)
        raise Expected

    with pytest.raises(Expected):
        threads.in_pieces(10, call, 3)
    for work in late:
        work()
    assert len(late) == 2 and len(calls) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failure_holds_no_arrays(pool, workers):
    """What a call refers to is gone with the exception, without the garbage collector."""

    class Held:
        pass

    def attempt():
        held = Held()
        seen.append(weakref.ref(held))

        def call(part, held=held):
            raise Expected

        try:
            threads.in_pieces(10, call, workers)
        except Expected:
            return
        raise AssertionError("nothing was raised")

    seen = []
    gc.disable()
    try:
        attempt()
        until = time.monotonic() + 1
        while seen[0]() is not None and time.monotonic() < until:
            time.sleep(0.001)  # a thread of the pool may be about to forget it
        assert seen[0]() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform == "win32", reason="there, waiting for a lock is not interrupted")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="Ctrl-C comes elsewhere")
def test_ctrl_c_while_waiting_for_the_others_waits_on():
    me, ended = threading.get_ident(), []
    taken = threading.Event()

    def call(part):
        if threading.get_ident() == me:
            taken.wait(30)
            return
        taken.set()
        time.sleep(0.05)
        for _ in range(2):
            signal.pthread_kill(me, signal.SIGINT)
            time.sleep(0.05)
        ended.append(part)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts beside it ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.in_pieces(2, call, 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ended) == 1


def test_calls_may_call(pool):
    """More waiting callers than threads in the pool, at every level."""
    times = np.zeros((6, 6, 6), np.int64)

    def inner(i, j):
        def call(part):
            times[i, j, part] += 1
            time.sleep(0.0002)

        return call

    def middle(i):
        return lambda part: [threads.in_pieces(6, inner(i, j), 3) for j in range(part.start, part.stop)]

    threads.in_pieces(6, lambda part: [threads.in_pieces(6, middle(i), 3) for i in range(part.start, part.stop)], 3)
    assert (times == 1).all() and pool.size == 2


def test_many_threads_may_use_it_at_once(pool):
    times = np.zeros((12, 3000), np.int64)

    def use(row):
        for start in range(0, 3000, 300):
            some = times[row, start : start + 300]
            threads.in_pieces(300, lambda part, some=some: np.add(some[part], 1, out=some[part]), 2 + row % 4)

    users = [threading.Thread(target=use, args=(row,)) for row in range(12)]
    for user in users:
        user.start()
    for user in users:
        user.join(30)
    assert (times == 1).all() and pool.size <= 4


def test_without_more_threads_the_caller_does_it_alone(pool, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    times = np.zeros(100, np.int64)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    threads.in_pieces(100, lambda part: np.add(times[part], 1, out=times[part]), 4)
    assert (times == 1).all()
    monkeypatch.undo()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    barrier = threading.Barrier(2, timeout=30)
    threads.in_pieces(2, lambda part: barrier.wait(), 2)
    with threads._pool.lock:  # as if another thread were about to hand something to the pool
        child = os.fork()
        if child == 0:
            try:
                barrier = threading.Barrier(3, timeout=5)
                threads.in_pieces(3, lambda part: barrier.wait(), 3)
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    barrier = threading.Barrier(2, timeout=30)
    threads.in_pieces(2, lambda part: barrier.wait(), 2)
