"""Kernel calls over ranges of items, on several threads.

The threads are those of one pool, and the calling one. Kernels release the GIL (`nogil=True`), so they run
in parallel. If a call waited for threads of the pool, calls from within the pool could deadlock; none does, because
the calling thread works too, and a thread of the pool that starts too late finds no work left.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import arguments

SECONDS_A_CALL = 0.04  # the aim for a kernel call, so that none exceeds the 0.1 after which Ctrl-C seems ignored
_GROWTH = 8


def count(threads: int | None) -> int:
    """Return the argument `threads` of a public method, checked; None is all cores that this process may use."""
    if threads is not None:
        return arguments.integer("threads", threads, 1, 1024)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_pieces(n: int, call: Callable[[slice], object], threads: int = 1, smallest: int = 1) -> None:
    """Call call(slice) for runs of 0..n, taken in order by up to `threads` threads, the calling one among them.

    The first runs have `smallest` items, later ones as many as take SECONDS_A_CALL. They are shorter than
    `smallest` only at the end, and where that many took too long. With one thread, everything happens in
    the calling one, in order.

    If a call raises, or on Ctrl-C, no new run is started, those that are running are finished, and then the first
    exception is raised: all runs before the last one started are done, except those that raised.
    """
    if 0 < n <= smallest:
        call(slice(0, n))
        return
    runs = _Runs(n, call, min(threads, -(-n // smallest)), smallest)
    if runs.threads <= 1:
        runs.work()
        return
    try:
        _pool.summon(runs.help, runs.threads - 1)
        runs.work()
    except BaseException as error:
        runs.fail(error)
    runs.wait_for_helpers()
    failure, runs.error = runs.error, None
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # a cycle with this frame would keep the arrays alive after the call


class _Runs:
    """The state that the threads of one `in_pieces` share."""

    def __init__(self, n: int, call: Callable[[slice], object], threads: int, smallest: int):
        self.call, self.threads, self.smallest = call, threads, smallest
        self.next, self.end, self.helping = 0, n, 0
        self.error: BaseException | None = None
        self.lock = threading.Lock()
        self.helped = threading.Lock()  # held as long as `helping` is not 0

    def take(self, size: int, floor: int) -> slice | None:
        """Return the next run, None if there is none. Near the end all threads get a share of the rest."""
        with self.lock:
            left = self.end - self.next
            if left <= 0:
                return None
            if self.threads > 1:
                size = min(size, max(floor, -(-left // (2 * self.threads))))
            part = slice(self.next, self.next + min(size, left))
            self.next = part.stop
            return part

    def work(self) -> None:
        """Take runs until there is none."""
        size = floor = self.smallest
        while (part := self.take(size, floor)) is not None:
            began = time.perf_counter()
            self.call(part)
            took, length = max(time.perf_counter() - began, 1e-6), part.stop - part.start
            fitting = int(length * SECONDS_A_CALL / took)
            if took > SECONDS_A_CALL and length <= floor:
                floor = max(1, fitting)
            size = max(floor, min(fitting, _GROWTH * length))

    def help(self) -> None:
        """Do `work` in a thread of the pool, or nothing if all is done."""
        with self.lock:
            if self.helping == 0:
                self.helped.acquire()
            self.helping += 1
        try:
            self.work()
        except BaseException as error:
            self.fail(error)
        finally:
            with self.lock:
                self.helping -= 1
                if self.helping == 0:
                    self.helped.release()

    def fail(self, error: BaseException) -> None:
        """Let no thread take another run, even one that starts after the error has been raised."""
        self.end = 0
        if self.error is None:
            self.error = error

    def wait_for_helpers(self) -> None:
        """Return when no call is running, however often Ctrl-C comes meanwhile. No run must be left to take."""
        while True:
            try:
                with self.helped:
                    return
            except BaseException as error:
                self.fail(error)


class _Pool:
    """Threads that are kept for the next call: as many as one call has ever needed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start again, as the child of a fork must: it has none of the threads, and a lock may stay locked there."""
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0

    def summon(self, work: Callable[[], object], threads: int) -> None:
        """Let up to `threads` threads call `work`, soon, later or never."""
        with self.lock:
            if self.executor is None or self.size < threads:
                if self.executor is not None:
                    self.executor.shutdown(wait=False)  # its work is still done
                self.executor, self.size = ThreadPoolExecutor(threads, "llmds"), threads
            try:
                for _ in range(threads):
                    self.executor.submit(work)
            except RuntimeError:
                pass  # the system has no more threads, or Python is exiting: the others do the work


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
