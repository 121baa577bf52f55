"""What an import costs, and that every kernel compiles once and is kept."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import llmds.kernels
from tests.conftest import ROOT, kernels_digest


def run(code, **environment):
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


def test_import_loads_neither_numba_nor_numpy():
    loaded = run("import sys, llmds; print([name for name in ('numba', 'numpy', 'tqdm') if name in sys.modules])")
    assert loaded == "[]"


def test_the_command_line_answers_help_without_numba():
    code = "import sys\nfrom llmds.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    assert run(code + "print('numba' in sys.modules)").endswith("False")


def test_public_names_resolve_on_first_use():
    assert run("import llmds; print(llmds.IndexedHeap().size(), llmds.kernels.heap.OK, llmds.base.files.__name__)") == (
        "0 0 llmds.base.files"
    )


def kernels():
    for module in walk_packages(llmds.kernels.__path__, "llmds.kernels."):
        for name, value in vars(import_module(module.name)).items():
            if hasattr(value, "py_func") and value.py_func.__module__ == module.name:
                yield pytest.param(value, id=f"{module.name.removeprefix('llmds.kernels.')}.{name}")


@pytest.mark.parametrize("kernel", list(kernels()))
def test_a_kernel_is_cached_and_says_what_it_does(kernel):
    assert type(kernel._cache).__name__ != "NullCache"
    assert not kernel.targetoptions.get("parallel")
    name = kernel.py_func.__name__
    assert name.startswith("_") or (kernel.py_func.__doc__ or "").strip(), f"{name} is public and has no docstring"


def test_the_cache_of_the_tests_is_another_when_a_helper_in_a_folder_is_edited(tmp_path):
    folder = Path(shutil.copytree(Path(llmds.kernels.__file__).parent, tmp_path / "kernels"))
    before = kernels_digest(folder)
    helper = folder / "kv_cache" / "eviction" / "chains.py"
    helper.write_text(helper.read_text() + "\n")
    after = kernels_digest(folder)
    helper.rename(helper.with_name("other.py"))
    assert len({before, after, kernels_digest(folder), kernels_digest(ROOT / "llmds" / "kernels")} - {before}) == 2


@pytest.mark.slow
def test_warm_up_compiles_every_kernel_once(tmp_path):
    code = (
        "from llmds.commands import warmup\n"
        "for step in warmup.STEPS.values(): step()\n"
        "from pkgutil import walk_packages\nfrom importlib import import_module\nimport llmds.kernels\n"
        "for module in walk_packages(llmds.kernels.__path__, 'llmds.kernels.'):\n"
        "    for name, value in vars(import_module(module.name)).items():\n"
        "        own = hasattr(value, 'py_func') and value.py_func.__module__ == module.name\n"
        "        inlined = own and value.targetoptions.get('inline') == 'always'\n"
        "        n = len(value.signatures) if own and not inlined else 1\n"
        "        if n != 1: print(module.name.removeprefix('llmds.kernels.'), name, n)\n"
    )
    # What hashes a string has two: one str comes as bytes, many come in an array.
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).splitlines() == [
        "cmsketch.counters hash_string 2", "cmsketch.heavy_hitters _count_string 2",
        "cmsketch.heavy_hitters _written 2", "hashing hash_bytes 2"
    ]  # fmt: skip
