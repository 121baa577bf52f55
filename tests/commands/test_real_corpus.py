"""Known-item search on real passages, from the command line: the figures an expert would expect."""

import json

import pytest

from llmds.__main__ import main


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory):
    """(options of a search) -> its measures, over one index of all passages."""
    folder, corpus = tmp_path_factory.mktemp("corpus"), data / "cppdocs"
    index, run = str(folder / "index.npz"), str(folder / "run.trec")
    embeddings = ["--embeddings", str(corpus / "corpus_emb.npy")]
    build = ["index", str(corpus / "corpus.jsonl.gz"), "-o", index, "--fields", "text", "--stop-words", "english"]
    assert main([*build, *embeddings]) == 0
    queries = ["--queries", str(corpus / "queries.jsonl.gz"), "--query-embeddings", str(corpus / "query_emb.npy")]

    def evaluate(capsys, *options):
        assert main(["search", index, *queries, "-o", run, *options]) == 0
        capsys.readouterr()
        assert main(["eval", run, str(corpus / "qrels.tsv"), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return evaluate


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, hit, reciprocal_rank",
    [
        (["--weight", "0"], 0.655, 0.389),
        (["--weight", "1"], 0.646, 0.394),
        (["--fusion", "rrf", "--depth", "100"], 0.741, 0.440),
        (["--weight", "0.5"], 0.70, 0.43),
    ],
    ids=["text", "vectors", "reciprocal ranks", "weighted"],
)
def test_known_items_are_found(evaluated, capsys, options, hit, reciprocal_rank):
    measures = evaluated(capsys, *options)
    assert measures["queries"] == 2000
    assert measures["hit@10"] >= hit and measures["MRR@10"] >= reciprocal_rank
