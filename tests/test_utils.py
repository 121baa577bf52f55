"""Memory and time: on clocks and allocations that the tests control."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from llmds.utils import LatencyRecorder, MemoryProfiler, Timer, memory_profiler
from tests import face

MB = 1 << 20


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Process:
    """A process whose memory is what the test says."""

    def __init__(self, *sizes):
        self.sizes = list(sizes)

    def memory_info(self):
        self.rss = self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]
        return self


def profiler_of(*sizes, interval=None):
    profiler = MemoryProfiler(interval=interval)
    profiler._process = Process(*sizes)
    return profiler


def test_the_peak_is_the_largest_sample():
    profiler = profiler_of(5 * MB, 9 * MB, 7 * MB, 6 * MB, 3 * MB)
    assert profiler.get_peak_rss_bytes() == 0 and profiler.get_peak_rss_mb() == 0.0
    profiler.start()
    assert profiler.get_peak_rss_bytes() == 5 * MB
    assert [profiler.sample(), profiler.sample()] == [9 * MB, 7 * MB]
    assert profiler.get_peak_rss_bytes() == 9 * MB and profiler.get_peak_rss_mb() == 9.0
    assert profiler.get_current_rss_mb() == 6.0
    assert profiler.get_memory_delta_mb() == -2.0
    profiler.start()
    assert profiler.get_peak_rss_mb() == 3.0 and profiler.get_memory_delta_mb() == 0.0


def test_looking_at_the_present_counts_for_the_peak():
    profiler = profiler_of(MB, 4 * MB, 8 * MB, MB)
    profiler.start()
    assert profiler.get_current_rss_mb() == 4.0 and profiler.get_peak_rss_mb() == 4.0
    assert profiler.get_memory_delta_mb() == 7.0 and profiler.get_peak_rss_mb() == 8.0


def test_before_the_start_there_is_no_delta():
    assert profiler_of(3 * MB).get_memory_delta_mb() == 0.0


def test_the_background_sampler_sees_a_peak_between_two_samples():
    profiler = MemoryProfiler(interval=0.001)
    profiler.start()
    before = profiler.sample()
    block = np.ones(256 * MB, np.uint8)  # far more than is asked for: the system may take other pages back meanwhile
    deadline = time.monotonic() + 10
    while profiler.get_peak_rss_bytes() < before + 48 * MB and time.monotonic() < deadline:
        time.sleep(0.002)
    del block
    profiler.stop()
    assert profiler.get_peak_rss_bytes() >= before + 48 * MB
    assert profiler.get_peak_rss_bytes() > profiler.sample()


def test_without_an_interval_there_is_no_thread_and_stop_ends_the_thread():
    def samplers():
        return [thread for thread in threading.enumerate() if thread.name == "llmds memory profiler"]

    for interval, expected in ((None, 0), (5.0, 1)):
        profiler = MemoryProfiler(interval=interval)
        profiler.start(), profiler.start()
        assert len(samplers()) == expected
        profiler.stop(), profiler.stop()
        assert not samplers()


def test_the_context_manager_starts_samples_and_stops():
    with memory_profiler() as profiler:
        assert isinstance(profiler, MemoryProfiler) and profiler.interval == 0.01
        seen = profiler.sample()
        assert profiler._sampler.is_alive()
    assert profiler._sampler is None and profiler.get_peak_rss_bytes() >= seen > MB
    assert profiler.get_peak_rss_mb() == profiler.get_peak_rss_bytes() / MB
    with pytest.raises(ZeroDivisionError), memory_profiler(interval=0.5) as profiler:
        raise ZeroDivisionError
    assert profiler._sampler is None


@pytest.mark.parametrize(
    "interval, error",
    [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError)],
)
def test_an_interval_is_a_positive_number_of_seconds(interval, error):
    with pytest.raises(error, match="interval"):
        MemoryProfiler(interval=interval)


def test_a_timer_tells_the_time_within_and_after_its_block():
    clock = Clock()
    timer = Timer(clock)
    assert timer.seconds == 0.0
    with timer as same:
        assert same is timer
        clock.now += 2
        assert timer.seconds == 2.0
        clock.now += 1
    clock.now += 50
    assert timer.seconds == 3.0 and repr(timer) == "Timer(3.000000 seconds)"
    with pytest.raises(KeyError), timer:
        clock.now += 0.5
        raise KeyError
    assert timer.seconds == 0.5
    with pytest.raises(TypeError, match="clock"):
        Timer(5)


durations = st.lists(st.floats(0, 1e9), max_size=200)


@given(durations, durations)
def test_percentiles_are_those_of_all_samples(single, many):
    latencies = LatencyRecorder()
    for seconds in single:
        latencies.record(seconds)
    latencies.record_many(many)
    latencies.check()
    everything = single + many
    assert len(latencies) == len(everything) and latencies.samples().tolist() == everything
    stats = latencies.stats()
    assert stats["count"] == len(everything)
    if everything:
        for q, value in ((50, latencies.p50), (95, latencies.p95), (99, latencies.p99)):
            assert value == latencies.percentile(q) == stats[f"p{q}"] == np.percentile(everything, q)
        assert (stats["min"], stats["max"]) == (min(everything), max(everything))
        assert stats["mean"] == pytest.approx(np.mean(everything))
    else:
        assert math.isnan(latencies.p50) and all(math.isnan(stats[name]) for name in ("mean", "min", "p99", "max"))


def test_blocks_are_timed_unless_they_raise():
    clock, latencies = Clock(), LatencyRecorder()
    with latencies.time(clock):
        clock.now += 0.25
    with pytest.raises(KeyError), latencies.time(clock):
        raise KeyError
    assert latencies.samples().tolist() == [0.25]
    with latencies.time():
        pass
    assert 0 <= latencies.samples()[1] < 10


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda latencies: latencies.record(-1), ValueError),
        (lambda latencies: latencies.record(math.nan), ValueError),
        (lambda latencies: latencies.record(math.inf), ValueError),
        (lambda latencies: latencies.record("1"), TypeError),
        (lambda latencies: latencies.record_many([1, -1]), ValueError),
        (lambda latencies: latencies.record_many([1, math.nan]), ValueError),
        (lambda latencies: latencies.record_many([[1.0]]), TypeError),
        (lambda latencies: latencies.percentile(101), ValueError),
        (lambda latencies: latencies.percentile(-1), ValueError),
        (lambda latencies: latencies.reserve(-1), ValueError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    latencies = LatencyRecorder()
    latencies.record_many([1.0, 2.0])
    with pytest.raises(error):
        call(latencies)
    assert latencies.samples().tolist() == [1.0, 2.0]
    latencies.check()


def test_room_grows_is_reserved_and_given_back():
    latencies = LatencyRecorder()
    latencies.reserve(1000)
    assert latencies.nbytes == 8000
    latencies.record_many(np.arange(1000))
    latencies.reserve(10)
    assert latencies.nbytes == 8000
    latencies.record(1000)
    assert latencies.nbytes == 16000
    latencies.shrink_to_fit()
    assert latencies.nbytes == 8008 and latencies.p50 == 500.0 and repr(latencies) == "LatencyRecorder(1001 samples)"
    latencies.clear(), latencies.shrink_to_fit()
    latencies.record(2.0)
    assert latencies.samples().tolist() == [2.0]
    latencies.check()


def test_threads_share_a_recorder():
    latencies = LatencyRecorder()

    def work(base):
        for e in range(1000):
            latencies.record(base + e)

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert sorted(latencies.samples().tolist()) == list(range(4000))


def test_files_and_pickles_keep_everything(tmp_path):
    latencies = LatencyRecorder()
    latencies.record_many([3.0, 0.0, 2.5])
    for other in face.keeps_everything(latencies, tmp_path):
        assert other.stats() == latencies.stats()
        other.record(1.0)
        assert len(other) == 4


def test_no_damaged_file_passes_or_crashes(tmp_path):
    latencies = LatencyRecorder()
    latencies.record_many([3.0, 0.0, 2.5])
    face.survives_damage(latencies, tmp_path)
    face.refuses_other_files(LatencyRecorder, tmp_path)


@njit
def capped(arrays, limit):
    """Limit all samples; return how many were changed."""
    changed = 0
    for at in range(arrays.samples.shape[0]):
        if arrays.samples[at] > limit:
            arrays.samples[at] = limit
            changed += 1
    return changed


def test_a_loop_of_the_users_own_runs_on_the_arrays():
    latencies = LatencyRecorder()
    latencies.record_many([1.0, 5.0, 2.0, 9.0])
    assert capped(latencies.arrays, 4.0) == 2 and latencies.samples().tolist() == [1.0, 4.0, 2.0, 4.0]
    latencies.check()
