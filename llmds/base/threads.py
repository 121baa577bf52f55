"""Kernel calls over ranges, on several threads.

The threads are those of one pool, and of whoever calls: kernels release the GIL (`nogil=True`), so they run side
by side. A call that waits for a thread of the pool would deadlock when all of them wait; none does, because the
calling thread works itself, and what a thread of the pool starts too late finds nothing left to do.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import arguments

SECONDS_A_CALL = 0.04  # what a kernel call aims at, so that none exceeds the 0.1 after which Ctrl-C seems ignored
_GROWTH = 8


def count(threads: int | None) -> int:
    """The argument `threads` of a public method, checked; None is all cores that this process may use."""
    if threads is not None:
        return arguments.integer("threads", threads, 1, 1024)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_pieces(n: int, call: Callable[[slice], object], threads: int = 1, smallest: int = 1) -> None:
    """call(slice) for runs of 0..n, taken in order by up to `threads` threads, the calling one among them.

    The first runs are `smallest` items long, later ones as many as take SECONDS_A_CALL. They are shorter than
    `smallest` only at the end, and where that many took too long. With one thread, everything happens in
    the calling one, in order.

    If a call raises, or Ctrl-C comes, no run is begun any more, those under way are finished, and then the first
    exception is raised: all runs before the last that was begun are done, except those that raised.
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
            del failure  # it holds this frame, which would hold it: the arrays would outlive the call


class _Runs:
    """What the threads of one `in_pieces` share."""

    def __init__(self, n: int, call: Callable[[slice], object], threads: int, smallest: int):
        self.call, self.threads, self.smallest = call, threads, smallest
        self.next, self.end, self.helping = 0, n, 0
        self.error: BaseException | None = None
        self.lock = threading.Lock()
        self.helped = threading.Lock()  # somebody's as long as `helping` is not 0

    def take(self, size: int, floor: int) -> slice | None:
        """The next run, None if there is none. Near the end all threads get a share of what is left."""
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
        """What a thread of the pool does: `work`, or nothing if that is over."""
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
        """Let nobody take another run, not even who comes when the error has been raised."""
        self.end = 0
        if self.error is None:
            self.error = error

    def wait_for_helpers(self) -> None:
        """Return when no call is under way, however often Ctrl-C comes meanwhile. Nothing must be left to take."""
        while True:
            try:
                with self.helped:
                    return
            except BaseException as error:
                self.fail(error)


class _Pool:
    """Threads that are kept for the next call: as many as one call ever asked for."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as the child of a fork must: it has none of the threads, and maybe a lock that stays locked."""
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0

    def summon(self, work: Callable[[], object], threads: int) -> None:
        """Have up to that many threads call `work`, soon, later or never."""
        with self.lock:
            if self.executor is None or self.size < threads:
                if self.executor is not None:
                    self.executor.shutdown(wait=False)  # what it was given is still done
                self.executor, self.size = ThreadPoolExecutor(threads, "llmds"), threads
            try:
                for _ in range(threads):
                    self.executor.submit(work)
            except RuntimeError:
                pass  # the system has no more threads, or Python is ending: those that there are will do


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
