"""Hybrid search and LLM serving structures on the command line: `python -m llmds`, installed as `llmds`."""

import argparse
import os
import sys
from importlib import import_module

from . import __version__

# command -> (its module in `commands`, one line of help)
_COMMANDS = {
    "demo": ("demo", "search the documentation of Python itself, then serve a chat load with a KV cache"),
    "index": ("index", "make an index of a corpus"),
    "search": ("search", "search an index for one query or many"),
    "eval": ("evaluate", "compare search results with relevance judgements"),
    "info": ("info", "print the contents of an index"),
    "replay": ("replay", "print the hit rates of KV caches on a trace, by size and eviction policy"),
    "simulate": ("simulate", "simulate a serving engine on a trace, and print the latencies"),
    "warmup": ("warmup", "compile all kernels now, so that later calls need not wait for it"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code.

    It is 0 for success, 1 if the reader of the output has gone, 2 for bad input (with one line on standard error that
    describes it), and 130 for Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="llmds", description=__doc__)
    parser.add_argument("--version", action="version", version=f"llmds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in argv:  # the options of other commands, and their imports, are not needed
            import_module(f".commands.{module}", __package__).arguments(command)
    options = parser.parse_args(argv)
    try:
        import_module(f".commands.{_COMMANDS[options.command][0]}", __package__).run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, ImportError) as error:
        print(f"llmds {options.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
