"""The imports of the library, read from its source: `python -m tests.imports` draws them into the docs folder."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted((root / "llmds").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path = ROOT) -> Graph:
    """Module -> the modules of the package that it imports, anywhere in its source, for types alone or not."""
    known, graph = modules(root), {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {
            found for node in ast.walk(ast.parse(path.read_text())) for found in _named(node, package, known)
        }
        graph[name].discard(name)
    return graph


def _named(node: ast.AST, package: str, known: Iterable[str]) -> Iterable[str]:
    """The modules that an import statement in `package` names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")
            base = ".".join([*above[: len(above) - node.level + 1], *base.split(".")]).rstrip(".")
        for alias in node.names:
            full = f"{base}.{alias.name}"
            if full in known:
                yield full
            elif base in known:
                yield base


def cycle(graph: Graph) -> list[str]:
    """The nodes of one cycle, in order; [] if there is none."""
    done: set[str] = set()
    for start in graph:
        path, stack = [], [(start, iter(sorted(graph[start])))]
        if start in done:
            continue
        path.append(start)
        while stack:
            node, rest = stack[-1]
            following = next((name for name in rest if name not in done), None)
            if following is None:
                done.add(node)
                stack.pop()
                path.pop()
            elif following in path:
                return path[path.index(following) :]
            else:
                path.append(following)
                stack.append((following, iter(sorted(graph[following]))))
    return []


def room(module: str) -> str:
    """Where a module belongs: a structure, `base`, `commands`, or the kernels of one of them; the kernels that
    several structures share are one room."""
    parts = module.split(".")
    if len(parts) == 1:
        return "llmds"
    if parts[1] != "kernels":
        return parts[1]
    return f"kernels.{parts[2]}" if len(parts) > 2 and parts[2] in STRUCTURES else "kernels"


# Every room that is not a structure or its kernels.
SHARED = {"llmds", "__main__", "base", "commands", "kernels", "utils"}
STRUCTURES = {name.split(".")[1] for name in modules() if name.count(".") > 0} - SHARED


def rooms(graph: Graph) -> Graph:
    """The same graph between rooms."""
    found: Graph = defaultdict(set)
    for module, targets in graph.items():
        found[room(module)] |= {room(target) for target in targets} - {room(module)}
    return dict(found)


def levels(graph: Graph) -> dict[str, int]:
    """The length of the longest way down from each node of a graph without cycles."""
    found: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in found:
            found[node] = 1 + max((level(target) for target in graph[node]), default=-1)
        return found[node]

    for node in graph:
        level(node)
    return found


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that a longer way replaces."""
    below: Graph = {}
    for node in sorted(graph, key=levels(graph).__getitem__):
        below[node] = set().union(*({target} | below[target] for target in graph[node]))
    return {node: {t for t in targets if not any(t in below[o] for o in targets)} for node, targets in graph.items()}


def page(graph: Graph) -> str:
    """The docs page: the rooms from the top down, and what each imports."""
    level = levels(graph)
    lines = [
        "# Imports between the parts of llmds",
        "",
        "Drawn from the source by `python -m tests.imports`; a test fails when this page is out of date or when",
        "an arrow leads up. The picture leaves out the arrows that follow from others, and `llmds` and `__main__`,",
        "which re-export from every part; the table has all of them. `kernels.NAME` are the kernels of the structure",
        "NAME, `kernels` those that several structures share.",
        "",
        "![Parts of llmds in levels; every arrow leads from an importing part down to an imported one](imports.svg)",
        "",
        "| level | part | imports |",
        "| ---: | --- | --- |",
    ]
    for node in sorted(graph, key=lambda name: (-level[name], name)):
        lines.append(f"| {level[node]} | `{node}` | {', '.join(f'`{target}`' for target in sorted(graph[node]))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and the picture."""
    graph = rooms(imports())
    (DOCS / "imports.md").write_text(page(graph))
    from tests.imports_picture import draw

    draw(graph, DOCS / "imports.svg")


if __name__ == "__main__":
    main()
