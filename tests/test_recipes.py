"""The recipes of CONTRIBUTING.md, followed step by step in a copy of the library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Copy:
    """A copy of the library, to be edited and then used by a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree(ROOT / "llmds", folder / "llmds", ignore=shutil.ignore_patterns("__pycache__"))

    def replace(self, path, old, new):
        """Put `new` in the place of `old`, which is there once."""
        file = self.folder / path
        source = file.read_text()
        assert source.count(old) == 1, f"{path} has {old!r} {source.count(old)} times"
        file.write_text(source.replace(old, new))

    def run(self, code):
        """Return what a fresh interpreter prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "NUMBA_CACHE_DIR": str(self.folder / "cache")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


MRU = '''"""MRU: the page that lost its last reference last is evicted first."""

from ...compiling import njit_no_nrt
from .chains import NEWEST, lowest
from .lru import attached, begin, drop, enter, evicted, fault, forgotten, leave, prepare, size


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the newest page, or the last of those below it."""
    return lowest(pages.rows, pages.memory, 0, pages.memory[NEWEST])
'''


@pytest.mark.slow
def test_an_eviction_policy_is_a_file_and_a_line(copy):
    eviction = "llmds/kernels/kv_cache/eviction"
    (copy.folder / eviction / "mru.py").write_text(MRU)
    copy.replace(f"{eviction}/table.py", '"lhd")', '"lhd", "mru")')
    used = """
from llmds import KVCache
for policy in ("lru", "mru"):
    cache = KVCache(page_size=1, max_pages=3, eviction=policy)
    for seq_id in range(3):
        cache.attach(seq_id, [10 + seq_id, 20])
        cache.detach(seq_id)
        cache.check()
    cache.save(policy)
    print([KVCache.load(policy).match_prefix([10 + seq_id, 20]) for seq_id in range(3)])
"""
    assert copy.run(used).splitlines() == ["[0, 1, 2]", "[1, 0, 2]"]


@pytest.mark.slow
def test_a_bm25_method_is_a_formula_and_a_line(copy):
    kernels = "llmds/kernels/inverted_index/bm25.py"
    copy.replace(kernels, "BM25_PLUS, BM25_L = 0, 1, 2, 3, 4", "BM25_PLUS, BM25_L, CONSTANT = 0, 1, 2, 3, 4, 5")
    copy.replace(kernels, "not in (LUCENE, ROBERTSON, ATIRE)", "not in (LUCENE, ROBERTSON, ATIRE, CONSTANT)")
    copy.replace(
        kernels, "    return math.nan\n", "    if method == CONSTANT:\n        return 2.0\n    return math.nan\n"
    )
    table = '    "bm25l": Method(kernels.BM25_L, delta=0.5),\n'
    copy.replace("llmds/inverted_index/bm25.py", table, table + '    "constant": Method(kernels.CONSTANT),\n')
    used = """
from llmds import InvertedIndex
index = InvertedIndex(method="constant", b=0.0, k1=1.0)
index.add_documents([1, 2], ["a b", "a a"])
index.save("index.npz")
print(index.search("a"), InvertedIndex.load("index.npz").search("b"))
"""
    found = re.findall(r"\((\d), ([\d.]+)\)", copy.run(used))
    assert [(int(doc_id), round(float(score), 5)) for doc_id, score in found] == [(2, 1.33333), (1, 1.0), (1, 1.0)]


def test_the_recipes_name_files_that_are_there():
    recipes = (ROOT / "CONTRIBUTING.md").read_text().split("## Recipes")[1].split("\n## ")[0]
    named = re.findall(r"`((?:llmds|tests)/[\w/]+\.py)`", recipes)
    assert len(named) > 10
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
