"""`llmds warmup`: compile every kernel, by using every structure a little."""

import argparse
import time
from collections.abc import Callable

from ..progress import bar


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Compile with a progress bar; tell how long each part took."""
    took = {}
    with bar(not options.quiet, len(STEPS), "compiling", "parts") as advance:
        for step in STEPS:
            start = time.perf_counter()
            step()
            took[step.__name__.strip("_").replace("_", " ")] = time.perf_counter() - start
            advance(1)
    for name, seconds in took.items():
        print(f"{name:<24}{seconds:7.2f} s")
    print(f"{'in all':<24}{sum(took.values()):7.2f} s")


STEPS: tuple[Callable[[], None], ...] = ()
