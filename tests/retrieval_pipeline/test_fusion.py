"""The table of fusion rules: what has no formula is refused."""

import numpy as np
import pytest

from llmds.kernels import fusion as kernels
from llmds.retrieval_pipeline import FUSIONS, RetrievalPipeline, fusion


def small():
    pipeline = RetrievalPipeline(embedding_dim=2, seed=0)
    pipeline.add_documents([7, 8], ["paged attention", "continuous batching"], np.eye(2))
    return pipeline


def test_every_rule_of_the_table_has_a_formula():
    assert len({rule.number for rule in FUSIONS.values()}) == len(FUSIONS)
    for name in FUSIONS:
        assert {doc_id for doc_id, _ in small().search("attention", [0.0, 1.0], fusion=name)} == {7, 8}


@pytest.mark.parametrize("needs_scores", [False, True])
def test_a_rule_without_a_formula_is_refused(needs_scores, monkeypatch):
    pipeline = small()
    with pytest.raises(ValueError, match="fusion must be one of"):
        pipeline.search("attention", [0.0, 1.0], fusion="new")
    monkeypatch.setitem(fusion.FUSIONS, "new", fusion.Rule(99, needs_scores))
    with pytest.raises(ValueError, match="'new' has no formula"):
        pipeline.search("attention", [0.0, 1.0], fusion="new")
    with pytest.raises(ValueError, match="'new' has no formula"):
        pipeline.search_batch(["attention"] * 2, np.eye(2), fusion="new")
    assert kernels.RRF_K == 60
