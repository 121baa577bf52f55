"""Display of the progress of long work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = bool | Callable[[int, int], object]


@contextmanager
def bar(progress: Progress, total: int, what: str, unit: str = "it") -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of items just done, and shows the progress of the block.

    `progress`: False shows nothing; True draws a tqdm bar on standard error (a plain percentage where
    tqdm is not installed); a callable is called with (done, total).
    """
    if callable(progress):
        yield _Calls(progress, total)
    elif not isinstance(progress, bool):
        raise TypeError(f"progress must be a bool or a callable, got {progress!r}")
    elif not progress:
        yield lambda count: None
    else:
        display: Any
        try:
            from tqdm.auto import tqdm

            display = tqdm(total=total, desc=what, unit=unit, unit_scale=True)
        except ImportError:
            display = _Percentage(total, what)
        try:
            yield display.update
        finally:
            display.close()


class _Calls:
    def __init__(self, function: Callable[[int, int], object], total: int):
        self.function, self.total, self.done = function, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.function(self.done, self.total)


class _Percentage:
    """A replacement for tqdm: one line on standard error, rewritten at most ten times a second."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.done, self.shown = total, what, 0, 0.0
        self.update(0)

    def update(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.shown > 0.1 or self.done >= self.total:
            self.shown = time.monotonic()
            sys.stderr.write(f"\r{self.what}: {100 * self.done // max(self.total, 1)}%")
            sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\n")
