"""The table of BM25's methods: a method without a formula is refused."""

import math

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
    assert bm25.Settings.from_numbers(settings.to_numbers()) == settings
    k1, b, _, delta = settings.to_numbers()
    with pytest.raises(ValueError, match=r"method must be the number of one of 'lucene'.*, got 99"):
        bm25.Settings.from_numbers([k1, b, 99, delta])
