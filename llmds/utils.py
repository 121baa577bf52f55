"""Measurement of memory and time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import psutil

from .base import arguments, files
from .base.structure import Structure

if TYPE_CHECKING:
    from typing_extensions import Self

_MB = 1 << 20
_LONGEST = sys.float_info.max


class MemoryProfiler:
    """The peak of this process's resident set size (RSS) since `start`.

    A peak is found only if a sample is taken while it lasts: `sample` takes one, and a thread takes one every
    `interval` seconds from `start` to `stop`. Megabytes are 2**20 bytes. Before `start`, peak and delta are 0.

    Parameters
    ----------
    interval
        Seconds between two samples of the thread, more than 0; None for no thread.

    Notes
    -----
    A sample takes about 10 microseconds. The thread takes no samples while a kernel holds the GIL.

    Examples
    --------
    >>> profiler = MemoryProfiler(interval=None)
    >>> profiler.start()
    >>> profiler.sample() > 0 and profiler.get_peak_rss_mb() > 0
    True
    """

    def __init__(self, *, interval: float | None = 0.01):
        if interval is not None:
            interval = arguments.real("interval", interval)
            if interval <= 0:
                raise ValueError(f"interval must be more than 0 seconds, or None, got {interval}")
        self.interval = interval
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._initial = self._peak = 0
        self._sampler: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, or begin again: set the peak and the initial RSS to the present RSS. O(1)."""
        self.stop()
        self._initial = self._peak = self._process.memory_info().rss
        if self.interval is not None:
            self._stopped = threading.Event()
            self._sampler = threading.Thread(
                target=self._watch, args=(self._stopped, self.interval), name="llmds memory profiler", daemon=True
            )
            self._sampler.start()

    def stop(self) -> None:
        """Take a last sample and end the thread. The peak stays. Does nothing if the thread does not run."""
        if self._sampler is not None:
            self._stopped.set()
            self._sampler.join()
            self._sampler = None
            self.sample()

    def sample(self) -> int:
        """Return the present RSS in bytes, and raise the peak to it if it is higher. O(1)."""
        rss = self._process.memory_info().rss
        with self._lock:
            self._peak = max(self._peak, rss)
        return rss

    def get_peak_rss_mb(self) -> float:
        """Return the highest RSS of all samples, in megabytes. O(1)."""
        return self._peak / _MB

    def get_peak_rss_bytes(self) -> int:
        """Return the highest RSS of all samples, in bytes. O(1)."""
        return self._peak

    def get_current_rss_mb(self) -> float:
        """Take a sample; return the present RSS in megabytes. O(1)."""
        return self.sample() / _MB

    def get_memory_delta_mb(self) -> float:
        """Take a sample; return the present RSS minus that at `start`, in megabytes. O(1).

        It is negative if the process has released memory.
        """
        return (self.sample() - self._initial) / _MB if self._initial else 0.0

    def __repr__(self) -> str:
        """Return the interval and the peak as text."""
        return f"MemoryProfiler(interval={self.interval}, peak {self.get_peak_rss_mb():.1f} MB)"

    def _watch(self, stopped: threading.Event, interval: float) -> None:
        while not stopped.wait(interval):
            self.sample()


@contextmanager
def memory_profiler(*, interval: float | None = 0.01) -> Iterator[MemoryProfiler]:
    """Run a MemoryProfiler during a `with` block; its figures can be read inside the block and after it.

    Parameters
    ----------
    interval
        Seconds between two samples, as for MemoryProfiler.

    Yields
    ------
    MemoryProfiler
        The running profiler.

    Examples
    --------
    >>> with memory_profiler() as profiler:
    ...     data = bytearray(1 << 20)
    >>> profiler.get_peak_rss_bytes() > len(data)
    True
    """
    profiler = MemoryProfiler(interval=interval)
    profiler.start()
    try:
        yield profiler
    finally:
        profiler.stop()
        profiler.sample()


class Timer:
    """The time that a `with` block takes, in seconds.

    Parameters
    ----------
    clock
        A callable that returns the present time in seconds.

    Examples
    --------
    >>> with Timer() as timer:
    ...     _ = sum(range(100))
    >>> timer.seconds > 0
    True
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        if not callable(clock):
            raise TypeError(f"clock must be callable, got {clock!r}")
        self._clock = clock
        self._begun: float | None = None
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the last block, or of the running one so far; 0.0 before the first."""
        return self._seconds if self._begun is None else self._clock() - self._begun

    def __enter__(self) -> "Timer":
        """Start the clock."""
        self._begun = self._clock()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the clock."""
        assert self._begun is not None
        self._seconds, self._begun = self._clock() - self._begun, None

    def __repr__(self) -> str:
        """Return the seconds as text."""
        return f"Timer({self.seconds:.6f} seconds)"


class LatencyArrays(NamedTuple):
    """The array of a LatencyRecorder."""

    samples: np.ndarray  # float64 (n,), seconds


class LatencyRecorder(Structure):
    """Durations in seconds, and their percentiles.

    Percentiles are exact, with linear interpolation between the two nearest samples, and NaN where there are no
    samples.

    Notes
    -----
    Every sample is kept. Memory: 8 bytes for each sample of the capacity, which doubles as needed. Threads may share
    a recorder.

    Examples
    --------
    >>> latencies = LatencyRecorder()
    >>> latencies.record_many([0.010, 0.020, 0.030, 0.040, 0.100])
    >>> latencies.p50, latencies.percentile(25), len(latencies)
    (0.03, 0.02, 5)
    """

    _schema: ClassVar[files.Schema] = {"samples": (np.float64, 1)}

    def __init__(self) -> None:
        self._samples = np.empty(64)
        self._count = 0
        self._lock = threading.RLock()

    @property
    def arrays(self) -> LatencyArrays:
        """The samples recorded so far, for your own `@njit` functions: `LatencyArrays(samples)`, float64 (n,).

        The array is a writable view of the recorder's own memory, not a copy. It does not grow with the recorder:
        take it again after `record`, `record_many`, `clear`, `reserve` and `shrink_to_fit`. O(1).

        Examples
        --------
        >>> latencies = LatencyRecorder()
        >>> latencies.record_many([0.5, 1.5])
        >>> latencies.arrays.samples[0] = 2.5
        >>> latencies.samples()
        array([2.5, 1.5])
        """
        with self._lock:
            return LatencyArrays(self._samples[: self._count])

    def record(self, seconds: float) -> None:
        """Add one duration, 0 or more seconds. Amortised O(1).

        Raises
        ------
        ValueError
            If it is negative, infinite or NaN.
        """
        seconds = arguments.real("seconds", seconds, 0, _LONGEST)
        with self._lock:
            if self._count == len(self._samples):
                self._resize(2 * self._count)
            self._samples[self._count] = seconds
            self._count += 1

    def record_many(self, seconds: Any) -> None:
        """Add durations, numbers (m,) of 0 or more seconds. Amortised O(m).

        Raises
        ------
        ValueError
            If one is negative, infinite or NaN. Nothing is added then.
        """
        seconds = arguments.reals("seconds", seconds, 0, _LONGEST)
        with self._lock:
            count = self._count + len(seconds)
            if count > len(self._samples):
                self._resize(max(2 * self._count, count))
            self._samples[self._count : count] = seconds
            self._count = count

    @contextmanager
    def time(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Record the time that a `with` block takes. A block that raises is not recorded.

        Parameters
        ----------
        clock
            A callable that returns the present time in seconds.
        """
        begun = clock()
        yield
        self.record(clock() - begun)

    def percentile(self, q: float) -> float:
        """Return the duration that q percent (0..100) of the samples do not exceed, NaN without samples. O(n)."""
        q = arguments.real("q", q, 0, 100)
        samples = self.samples()
        return float(np.percentile(samples, q)) if len(samples) else float("nan")

    @property
    def p50(self) -> float:
        """The median. O(n)."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """The 95th percentile. O(n)."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """The 99th percentile. O(n)."""
        return self.percentile(99)

    def samples(self) -> np.ndarray:
        """Return a copy of all samples in the order in which they were recorded, float64 (n,). O(n)."""
        with self._lock:
            return self._samples[: self._count].copy()

    def stats(self) -> dict[str, Any]:
        """Return figures about the samples. O(n).

        Returns
        -------
        dict
            `count`, and `mean`, `min`, `p50`, `p95`, `p99` and `max` in seconds, NaN without samples.
        """
        samples = self.samples()
        if not len(samples):
            return {"count": 0, **dict.fromkeys(("mean", "min", "p50", "p95", "p99", "max"), float("nan"))}
        low, p50, p95, p99, high = np.percentile(samples, (0, 50, 95, 99, 100)).tolist()
        mean = float(samples.mean())
        return {"count": len(samples), "mean": mean, "min": low, "p50": p50, "p95": p95, "p99": p99, "max": high}

    def clear(self) -> None:
        """Remove all samples; the capacity is kept. O(1)."""
        with self._lock:
            self._count = 0

    def reserve(self, n: int) -> None:
        """Make room for n samples in all, so that nothing grows before that. O(n)."""
        n = arguments.integer("n", n, 0)
        with self._lock:
            if n > len(self._samples):
                self._resize(n)

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(n)."""
        with self._lock:
            self._resize(self._count)

    def __len__(self) -> int:
        """Return the number of samples. O(1)."""
        return self._count

    def __repr__(self) -> str:
        """Return the number of samples as text."""
        return f"LatencyRecorder({len(self)} samples)"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with a copy of the samples."""
        with self._lock:
            return {**super().__getstate__(), "_samples": self._samples.copy()}

    def _resize(self, capacity: int) -> None:
        samples = np.empty(max(capacity, 1))
        samples[: self._count] = self._samples[: self._count]
        self._samples = samples

    def _owned(self) -> Iterator[np.ndarray]:
        yield self._samples

    def _to_arrays(self) -> files.Arrays:
        return {"samples": self.samples()}

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        self = cls()
        self._samples, self._count = arrays["samples"], len(arrays["samples"])
        return self

    def _fault(self) -> str | None:
        if not 0 <= self._count <= len(self._samples):
            return f"{self._count} samples exceed the capacity of {len(self._samples)}"
        samples = self._samples[: self._count]
        if not ((samples >= 0) & (samples <= _LONGEST)).all():  # NaN fails this too
            return "a sample is negative, infinite or NaN"
        return None
