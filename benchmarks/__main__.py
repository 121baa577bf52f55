"""`python -m benchmarks NAME [options]`: run one benchmark, write the results as JSON, print them as tables."""

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

from . import __path__ as _path
from . import harness


def main() -> None:
    """Parse the command line and run the benchmark that it names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, text in _benchmarks():
        command = commands.add_parser(name, description=text, help=text.split("\n")[0])
        command.add_argument("--rounds", type=int, default=7, help="how often each contender is timed (default 7)")
        command.add_argument(
            "--out", type=Path, help=f"the JSON file to write (default {harness.RESULTS.name}/NAME.json)"
        )
        command.add_argument("--pin", type=int, metavar="CORE", help="run on this core only")
        if name in sys.argv:  # the peers of other benchmarks need not be installed
            import_module(f".{name}.command", __package__).arguments(command)
    options = parser.parse_args()
    harness.pin(options.pin)
    import_module(f".{options.name}.command", __package__).run(options)


def _benchmarks() -> list[tuple[str, str]]:
    """Return the name of every benchmark and the docstring of its `command`, read without importing it."""
    commands = sorted(Path(_path[0]).glob("*/command.py"))
    return [(path.parent.name, ast.get_docstring(ast.parse(path.read_text())) or "") for path in commands]


if __name__ == "__main__":
    main()
