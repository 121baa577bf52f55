"""The table of BM25's methods: what has no formula is refused, and a new method takes two places."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmds.inverted_index import bm25
from llmds.inverted_index.index import InvertedIndex
from llmds.kernels.inverted_index import bm25 as kernels


def planned(method):
    """What the kernel returns for one query of one term, and the number of terms that have a weight."""
    data, ends, order, weights, ordered = (
        np.frombuffer(b"a".ljust(16), np.uint8).copy(), np.ones(1, np.int64), np.empty(1, np.int32),
        np.empty(1, np.float32), np.zeros(1, np.int64),
    )  # fmt: skip
    starts, stops, hashes = np.zeros(1, np.int32), np.ones(1, np.int32), np.zeros(1, np.uint32)
    dfs, factors = np.ones(1, np.int64), np.empty(0, np.float32)
    code = kernels.plan(data, starts, stops, hashes, ends, dfs, factors, 9, method, 1.2, order, weights, ordered)
    return code, int(ordered[0])


def test_every_method_of_the_table_has_a_formula():
    for method in bm25.METHODS.values():
        assert not math.isnan(kernels.idf(method.number, 9.0, 2.0, 1.2)) and planned(method.number) == (1, 1)
        assert kernels.form(method.number, 1.2, 0.75, 0.5, 7.0).shape == (kernels.FORM,)
    assert len({method.number for method in bm25.METHODS.values()}) == len(bm25.METHODS)


@pytest.mark.parametrize("number", [-1, 5, 99])
def test_a_number_without_a_formula_is_refused(number, monkeypatch):
    assert math.isnan(kernels.idf(number, 9.0, 2.0, 1.2)) and planned(number) == (-1, 0)
    with pytest.raises(ValueError, match=str(number)):
        kernels.form(number, 1.2, 0.75, 0.0, 7.0)
    monkeypatch.setitem(bm25.METHODS, "new", bm25.Method(number))
    with pytest.raises(ValueError, match=str(number)):
        InvertedIndex(method="new")
    with monkeypatch.context() as patch:  # as if `form` had a branch for it, and `idf` had none
        patch.setattr(kernels, "form", lambda *given: np.array([0.25, 0.1, 0, 1.2, 0], np.float32))
        index = InvertedIndex(method="new")
        index.add_documents([1, 2], ["a b", "a"])
        for _ in range(2):
            for search in (lambda: index.search("a"), lambda: index.search_batch(["a"]), lambda: index.explain("a", 1)):
                with pytest.raises(ValueError, match="'new'"):
                    search()
            index.shrink_to_fit()


def test_a_file_with_an_unknown_method_is_refused():
    settings = bm25.Settings.of(1.2, 0.75, "lucene", None)
    assert bm25.Settings.from_array(settings.to_array()) == settings
    array = settings.to_array()
    array[2] = 99
    with pytest.raises(ValueError, match="settings"):
        bm25.Settings.from_array(array)


RECIPE = {  # file -> what is replaced by what
    "kernels/inverted_index/bm25.py": [
        ("LUCENE, ROBERTSON, ATIRE, BM25_PLUS, BM25_L = 0, 1, 2, 3, 4\n",
         "LUCENE, ROBERTSON, ATIRE, BM25_PLUS, BM25_L, FLAT = 0, 1, 2, 3, 4, 5\n"),
        ("    return math.nan\n", "    if method == FLAT:\n        return 1.0\n    return math.nan\n"),
        ("elif method not in (LUCENE, ROBERTSON, ATIRE):",
         "elif method == FLAT:\n        q = 0.0\n    elif method not in (LUCENE, ROBERTSON, ATIRE):"),
    ],
    "inverted_index/bm25.py": [
        ('    "lucene": Method(kernels.LUCENE),\n',
         '    "lucene": Method(kernels.LUCENE),\n    "flat": Method(kernels.FLAT),\n'),
    ],
}  # fmt: skip
USE = """
from llmds.inverted_index import InvertedIndex
index = InvertedIndex(method="flat")  # the number of distinct terms that a document has
index.add_documents([1, 2, 3], ["a b", "a a a", "b c d"])
for _ in range(2):
    assert index.search("a b d") == [(1, 2.0), (3, 2.0), (2, 1.0)], index.search("a b d")
    index.shrink_to_fit()
"""


@pytest.mark.slow
def test_a_new_method_takes_two_places(tmp_path):
    shutil.copytree(Path(bm25.__file__).parents[1], tmp_path / "llmds", ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in RECIPE.items():
        path = tmp_path / "llmds" / name
        source = path.read_text()
        for old, new in changes:
            assert source.count(old) == 1
            source = source.replace(old, new)
        path.write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
