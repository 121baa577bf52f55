"""Imports lead down: commands to structures, structures to `base` and their kernels, kernels to kernels."""

import subprocess
import sys

import pytest

from tests.imports import DOCS, STRUCTURES, cycle, imports, levels, page, reduced, room, rooms

GRAPH = imports()
ROOMS = rooms(GRAPH)
# structure -> the other structures it may know
KNOWS = {
    "encoders": {"tokenizer"},
    "inverted_index": {"tokenizer"},
    "kv_cache": {"paged_allocator"},
    "retrieval_pipeline": {"cmsketch", "encoders", "hnsw", "inverted_index", "token_lru", "tokenizer"},
    "scheduler": {"kv_cache"},
    "simulator": STRUCTURES,
    "traces": {"kv_cache"},
}


def test_no_module_imports_itself_by_way_of_others():
    assert cycle(GRAPH) == []
    assert cycle(ROOMS) == []


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_a_part_imports_only_what_is_below_it(name):
    kind, _, _ = name.partition(".")
    if kind == "kernels":
        allowed = {other for other in ROOMS if other.partition(".")[0] == "kernels"}
    elif name in ("base", "utils"):
        allowed = {"base", "kernels"}
    elif name in STRUCTURES:
        own = {f"kernels.{other}" for other in (name, *KNOWS.get(name, ()))}
        allowed = {"base", "kernels", *own, *KNOWS.get(name, ())}
    elif name == "commands":
        allowed = set(ROOMS) - {"llmds", "__main__"}
    else:
        allowed = set(ROOMS)
    assert ROOMS[name] <= allowed


def test_the_page_in_the_docs_shows_the_imports_of_today():
    assert (DOCS / "imports.md").read_text() == page(ROOMS), "run `python -m tests.imports`"


def test_packages_load_numba_when_a_name_is_used_and_not_before():
    folders = [f"llmds.{name}" for name in sorted(STRUCTURES) if f"llmds.{name}.state" in GRAPH]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print([name for name in ('numba', 'numpy') if name in sys.modules])"
    packages = [*folders, "llmds.traces", "llmds.simulator", "llmds.tokenizer", "llmds.base", "llmds.kernels"]
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and len(folders) >= 4


def test_imports_of_all_forms_are_found(tmp_path):
    sources = {
        "__init__": "", "base/__init__": "", "base/files": "import llmds.kernels.heap\n",
        "kernels/__init__": "", "kernels/heap": "from ..hnsw import HNSW\n",
        "hnsw/__init__": "if True:\n    from .index import HNSW\n",
        "hnsw/index": "def f():\n    from ..base import files\n    from . import index as me\n",
    }  # fmt: skip
    for name, source in sources.items():
        path = tmp_path / "llmds" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    graph = imports(tmp_path)
    assert graph["llmds.base.files"] == {"llmds.kernels.heap"}
    assert graph["llmds.hnsw"] == {"llmds.hnsw.index"} and graph["llmds.hnsw.index"] == {"llmds.base.files"}
    assert graph["llmds.kernels.heap"] == {"llmds.hnsw"}
    assert sorted(cycle(graph)) == ["llmds.base.files", "llmds.hnsw", "llmds.hnsw.index", "llmds.kernels.heap"]


def test_graphs_are_put_in_order():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}
    assert cycle(graph) == [] and levels(graph) == {"a": 2, "b": 1, "c": 0, "d": 0}
    assert reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": set()}
    assert cycle({**graph, "c": {"a"}}) in (["a", "b", "c"], ["a", "c"])
    assert [room(name) for name in ("llmds", "llmds.kernels.heap", "llmds.kernels.hnsw.walk", "llmds.hnsw.state")] == [
        "llmds", "kernels", "kernels.hnsw", "hnsw"
    ]  # fmt: skip
