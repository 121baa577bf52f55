"""Filters and threads of the pipeline."""

import numpy as np
import pytest

from llmds.retrieval_pipeline import RetrievalPipeline
from tests.retrieval_pipeline.test_retrieval_pipeline import DIM, WORDS, agrees, bm25, cosine, filled, normalised

QUERY, EMBEDDING = "paged heap", np.array([1.0, 0.2, -0.4])


def contents(n=40):
    """What `filled` holds."""
    rng = np.random.default_rng(3)
    documents = {key: " ".join(rng.choice(WORDS, 5)) for key in range(n)}
    return documents, dict(enumerate(rng.normal(size=(n, DIM))))


def expected(allowed, weight):
    """id -> score of the allowed documents: df and lengths count all, normalisation those that may be found."""
    documents, vectors = contents()
    text = {key: bm25(documents, QUERY, key) for key in allowed}
    dense = {key: cosine(vectors[key], EMBEDDING) for key in allowed}
    if weight == 0:
        return {key: score for key, score in text.items() if score > 0}
    if weight == 1:
        return dense
    sides = normalised(dense), normalised(text)
    return {key: weight * sides[0][key] + (1 - weight) * sides[1][key] for key in allowed}


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("allowed", [[], [7], list(range(0, 40, 3)), list(range(40))])
def test_only_allowed_documents_are_found(weight, allowed):
    pipeline = filled()
    given = np.array([*allowed, *allowed, 99, -1], np.int64)  # repeats and unknown ids count nothing
    for selection in (given, given.tolist(), lambda ids: np.isin(ids, allowed)):
        found = pipeline.search(QUERY, EMBEDDING, 10, weight, filter=selection)
        agrees(found, expected(allowed, weight), 10)
        ids, scores = pipeline.search_batch([QUERY, QUERY], [EMBEDDING] * 2, 10, weight, filter=selection, threads=2)
        for row in range(2):
            held = ids[row] >= 0
            agrees(list(zip(ids[row][held].tolist(), scores[row][held].tolist(), strict=True)), dict(found), 10)


def test_reciprocal_ranks_are_those_among_allowed_documents():
    pipeline, allowed = filled(), list(range(0, 40, 3))
    sides = [[key for key, _ in pipeline.search(QUERY, EMBEDDING, 40, side, filter=allowed)] for side in (0.0, 1.0)]
    sums = {key: sum(1 / (61 + side.index(key)) for side in sides if key in side) for key in {*sides[0], *sides[1]}}
    agrees(pipeline.search(QUERY, EMBEDDING, 10, fusion="rrf", filter=allowed), sums, 10)


def test_a_function_is_asked_once_for_both_sides():
    pipeline, asked = filled(), []

    def even(ids):
        asked.append(np.sort(ids).tolist())
        return ids % 2 == 0

    assert all(key % 2 == 0 for key, _ in pipeline.search(QUERY, EMBEDDING, filter=even))
    assert asked == [list(range(40))]


def test_answers_under_different_filters_are_kept_apart():
    pipeline = filled(hot_threshold=1)
    for _ in range(2):
        for allowed in ([1, 2, 3], [4, 5, 6], None):
            found = [key for key, _ in pipeline.search(QUERY, EMBEDDING, 3, 1.0, filter=allowed)]
            assert allowed is None or sorted(found) == allowed
    assert pipeline.stats()["cache_hits"] == 3
    wanted = [1]
    for wanted[0] in (1, 2):
        found = pipeline.search(QUERY, EMBEDDING, 3, 1.0, filter=lambda ids: np.isin(ids, wanted))
        assert [key for key, _ in found] == wanted
    assert pipeline.stats()["cache_hits"] == 3, "what a function allows may change"


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        (np.ones(40, bool), TypeError),
        ([0.5], TypeError),
        (lambda ids: np.ones(3, bool), ValueError),
        (lambda ids: ids, ValueError),
    ],
)
def test_a_filter_that_is_none_is_refused(selection, error):
    pipeline = filled()
    for search in (
        lambda: pipeline.search(QUERY, EMBEDDING, filter=selection),
        lambda: pipeline.search(QUERY, filter=selection),
        lambda: pipeline.search_batch([QUERY], [EMBEDDING], filter=selection),
    ):
        with pytest.raises(error, match="filter"):
            search()
    with pytest.raises(ValueError, match="threads"):
        pipeline.search_batch([QUERY], [EMBEDDING], threads=0)


def test_nothing_of_a_text_that_is_no_utf8_is_added():
    pipeline = RetrievalPipeline(DIM)
    with pytest.raises(ValueError, match="texts must be encodable"):
        pipeline.add_documents(np.arange(3000), ["fine"] * 2999 + ["\ud800"])
    assert len(pipeline) == 0
