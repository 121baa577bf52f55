"""Real text that every Python installation has: the documentation of its standard library."""

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..base.progress import bar

_MIN_WORDS = 8
_PIECE_WORDS = 200
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "__pycache__",
    "idle_test",
    "turtledemo",
    "pydoc_data",
}


class Passage(NamedTuple):
    """One docstring: what it documents, the place of that in the source, and its text."""

    name: str
    place: str
    text: str

    @property
    def searched(self) -> str:
        """The name and the first paragraph, which describes the purpose; the rest is about details."""
        return f"{self.name}\n{self.text.partition(chr(10) * 2)[0]}"


def gather(progress: bool) -> list[Passage]:
    """Return every docstring of eight words or more, and the topics of `help()`, without repeated texts."""
    found: dict[str, Passage] = {}
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path for path in sorted(library.rglob("*.py")) if not _LEFT_OUT & set(path.relative_to(library).parts)]
    with bar(progress, len(sources), "reading the standard library", "files") as advance:
        for path in sources:
            for passage in _of_file(path, path.relative_to(library)):
                found.setdefault(passage.text, passage)
            advance(1)
    for passage in (*_of_builtins(), *_of_topics()):
        found.setdefault(passage.text, passage)
    return [passage for passage in found.values() if len(passage.text.split()) >= _MIN_WORDS]


def _of_file(path: Path, relative: Path) -> Iterator[Passage]:
    parts = [*relative.parts[:-1], *([] if relative.stem == "__init__" else [relative.stem])]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # some distributions include files for other versions
        return
    waiting: list[tuple[str, ast.AST]] = [(".".join(parts), tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if text := ast.get_docstring(node):
                yield Passage(name, f"{relative.as_posix()}:{getattr(node, 'lineno', 1)}", text)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                waiting.append((f"{name}.{child.name}", child))
            elif isinstance(child, (ast.If, ast.Try, ast.With)):
                waiting.append((name, child))


def _of_builtins() -> Iterator[Passage]:
    for module_name in sorted(set(sys.builtin_module_names) & sys.modules.keys()):
        module = sys.modules[module_name]
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and inspect.isroutine(value) | inspect.isclass(value):
                yield from _of_object(f"{module_name}.{name}", value)
                if inspect.isclass(value) and value.__module__ == module_name:
                    for inner, member in sorted(vars(value).items()):
                        if not inner.startswith("_") and inspect.isroutine(member):
                            yield from _of_object(f"{module_name}.{name}.{inner}", member)


def _of_object(name: str, value: object) -> Iterator[Passage]:
    text = inspect.getdoc(value)
    if isinstance(text, str):
        yield Passage(name, "built-in", text)


def _of_topics() -> Iterator[Passage]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions do not include it
        return
    for topic, text in topics.items():
        for passage in _in_pieces(text):
            yield Passage(f"help({topic!r})", "language reference", passage)


def _in_pieces(text: str) -> Iterator[str]:
    """Yield the pieces of a long text, cut at blank lines, about 200 words each; topics have thousands."""
    piece: list[str] = []
    words = 0
    for paragraph in text.split("\n\n"):
        piece.append(paragraph)
        words += len(paragraph.split())
        if words >= _PIECE_WORDS:
            yield "\n\n".join(piece)
            piece, words = [], 0
    if piece:
        yield "\n\n".join(piece)
