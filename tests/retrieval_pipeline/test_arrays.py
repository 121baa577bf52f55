"""`RetrievalPipeline.arrays` are the arrays of its parts."""

import numpy as np

from llmds.retrieval_pipeline import RetrievalPipeline


def test_the_arrays_are_those_of_the_parts():
    pipeline = RetrievalPipeline(embedding_dim=2, seed=0)
    pipeline.add_documents([7, 8], ["paged attention", "continuous batching"], np.eye(2))
    pipeline.shrink_to_fit()
    arrays = pipeline.arrays
    assert arrays._fields == ("hnsw", "inverted_index", "cmsketch")
    assert sorted(arrays.inverted_index.segments[0].ids.tolist()) == [7, 8]
    before = pipeline.search("attention", fusion_weight=0.0)
    arrays.inverted_index.segments[0].ids[:] += 100
    assert pipeline.search("attention", fusion_weight=0.0) == [(doc_id + 100, score) for doc_id, score in before]
