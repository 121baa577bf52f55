"""The commands, run as a person would."""

import gzip
import io
import json
import sys

import numpy as np
import pytest

from llmds.__main__ import main
from llmds.commands import warmup
from llmds.commands.chat_load import make_load, serve
from llmds.commands.collection import Collection, encoder_of
from llmds.commands.corpus import read_corpus, read_judgements, read_run
from llmds.commands.search import strictly_falling

DOCUMENTS = [
    {"_id": "a", "title": "Pages", "text": "A paged cache keeps keys and values in pages of tokens."},
    {"_id": "b", "title": "Heaps", "text": "A heap gives the smallest item first, and the others later."},
    {"_id": "c", "title": "Sketches", "text": "A sketch counts items in little memory, a bit too high at times."},
    {"_id": "d", "title": "Graphs", "text": "A navigable graph finds neighbours of a vector in few steps."},
]
EMBEDDINGS = np.eye(4, 3, dtype=np.float16) + np.float16(0.1)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return path


@pytest.fixture
def index(corpus, tmp_path, capsys):
    np.save(tmp_path / "e.npy", EMBEDDINGS)
    path = tmp_path / "index.npz"
    assert run("index", corpus, "-o", path, "--embeddings", tmp_path / "e.npy", "--stop-words", "english") == 0
    capsys.readouterr()
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments, says):
    """Exit code 2 and one line that says what and where."""
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"llmds {arguments[0]}: ") and "Traceback" not in error
    for part in [says] if isinstance(says, str) else says:
        assert str(part) in error, error


def results(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_index_answers_in_words_and_in_json(index, capsys):
    assert run("search", index, "smallest item", "--top-k", "2") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("smallest item\n   1. b  ") and "Heaps" in shown
    first, second = results(capsys, "search", index, "smallest item", "keys and values", "--json")
    assert first["query"] == "smallest item" and second["results"][0]["id"] == "a"
    assert first["results"][0] == {
        "id": "b",
        "score": pytest.approx(1.9, abs=1),
        "title": "Heaps",
        "text": DOCUMENTS[1]["text"],
    }


def test_nothing_found_is_said(index, capsys):
    assert run("search", index, "zebra") == 0
    assert "no results" in capsys.readouterr().out


def test_embeddings_and_weight_decide_who_answers(index, tmp_path, capsys):
    np.save(tmp_path / "q.npy", EMBEDDINGS[2:3].astype(np.float32))
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "smallest item"}\n')
    bulk = ("search", index, "--queries", tmp_path / "q.jsonl", "--query-embeddings", tmp_path / "q.npy", "--json")
    assert [row["results"][0]["id"] for row in results(capsys, *bulk, "--weight", "1")] == ["c"]
    assert [row["results"][0]["id"] for row in results(capsys, *bulk, "--weight", "0")] == ["b"]
    fused = results(capsys, *bulk, "--fusion", "rrf", "--depth", "50", "--top-k", "3")[0]["results"]
    assert len(fused) == 3 and fused[0]["id"] in {"b", "c"}


@pytest.mark.parametrize("encoder", ["lsa:2", "none"])
def test_an_index_encodes_its_queries_as_its_documents(corpus, tmp_path, capsys, encoder):
    path = tmp_path / "i.npz"
    assert run("index", corpus, "-o", path, "--encoder", encoder, "--fields", "text") == 0
    (row,) = results(capsys, "search", path, "neighbours of a vector", "--json")
    assert row["results"][0]["id"] == "d"
    (told,) = results(capsys, "info", path, "--json")
    assert told["documents"] == 4 and told["encoder"] == encoder
    assert told["vectors"]["num_vectors"] == (0 if encoder == "none" else 4)


@pytest.mark.parametrize(
    "fields, found", [("title", ["c"]), ("text", []), ("title,text", ["c"]), ("text,title", ["c"])]
)
def test_fields_decide_what_is_searched(corpus, tmp_path, capsys, fields, found):
    path = tmp_path / "i.npz"
    assert run("index", corpus, "-o", path, "--encoder", "none", "--fields", fields) == 0
    assert [result["id"] for result in results(capsys, "search", path, "sketches", "--json")[0]["results"]] == found


def test_stop_words_are_not_indexed(index, corpus, tmp_path, capsys):
    assert results(capsys, "search", index, "the", "--json")[0]["results"] == []
    run("index", corpus, "-o", tmp_path / "i.npz", "--encoder", "none")
    assert len(results(capsys, "search", tmp_path / "i.npz", "the", "--json")[0]["results"]) == 1


def test_a_corpus_comes_in_many_shapes(tmp_path, monkeypatch):
    lines = "".join(json.dumps(document) + "\n\n" for document in DOCUMENTS).encode()
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    zipped = read_corpus(str(tmp_path / "c.jsonl.gz"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + lines)))
    assert read_corpus("-") == zipped and zipped.ids == list("abcd")
    folder = tmp_path / "folder" / "deeper"
    folder.mkdir(parents=True)
    (folder / "one.md").write_text("# A title\n\nBody\n"), (folder.parent / "two.txt").write_text("plain")
    (folder / "three.bin").write_bytes(b"\xff")
    corpus = read_corpus(str(tmp_path / "folder"))
    assert corpus.ids == ["deeper/one.md", "two.txt"] and corpus.titles == ["A title", "plain"]


def test_a_run_is_written_and_scored(index, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"_id": "q1", "text": "pages of tokens"}\n{"_id": "q2", "text": "graph"}\n')
    run_file, qrels = tmp_path / "run.trec", tmp_path / "qrels.tsv"
    assert run("search", index, "--queries", tmp_path / "q.jsonl", "-o", run_file) == 0
    assert run_file.read_text().startswith("q1 Q0 a 1 ")
    assert read_run(str(run_file))["q2"].keys() == {"d"}
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq2\tb\t1\nq3\tc\t1\n")
    (told,) = results(capsys, "eval", run_file, qrels, "--json")
    assert told == {"queries": 3, **dict.fromkeys(["nDCG@10", "MRR@10", "recall@100", "hit@10"], pytest.approx(1 / 3))}
    qrels.write_text("q1 0 a 1\nq2 0 d 2\n")
    assert read_judgements(str(qrels)) == {"q1": {"a": 1}, "q2": {"d": 2}}
    assert run("eval", run_file, qrels) == 0
    assert "1.0000" in capsys.readouterr().out


def test_equal_scores_keep_their_order_in_a_run():
    scores = np.array([[2, 1, 1, 1, 0, 0, -1, -1], [0.5, 0.5, 0, 0, 0, -0.0, -3, -np.inf]], np.float32)
    fallen = strictly_falling(scores)
    assert (np.diff(fallen[:, :-1].astype(np.float64)) < 0).all() and fallen.dtype == np.float32
    np.testing.assert_allclose(fallen, scores, rtol=1e-6, atol=1e-40)


def test_bad_input_is_told_in_one_line_and_leaves_nothing(corpus, index, tmp_path, capsys):
    out, bad = tmp_path / "new.npz", tmp_path / "bad.jsonl"
    before = sorted(tmp_path.iterdir())
    refused(capsys, "index", tmp_path / "none.jsonl", "-o", out, says=["none.jsonl", "No such file"])
    refused(capsys, "index", corpus, "-o", tmp_path / "no" / "where.npz", says=["where.npz", "folder"])
    refused(capsys, "index", corpus, "-o", out, "--fields", "body", says=["--fields", "body"])
    refused(capsys, "index", corpus, "-o", out, "--encoder", "word2vec", says="word2vec")
    refused(capsys, "index", corpus, "-o", out, "--encoder", "lsa:0", says="dim")
    refused(capsys, "index", corpus, "-o", out, "--seed", "-1", says="seed")
    refused(capsys, "index", corpus, "-o", out, "--embeddings", corpus, says=["corpus.jsonl", ".npy"])
    refused(capsys, "search", index, says="queries")
    refused(capsys, "search", index, "x", "--top-k", "-1", says=["top_k", "-1"])
    refused(capsys, "search", index, "x", "--weight", "2", says=["weight", "2"])
    refused(capsys, "search", tmp_path / "none.npz", "x", says="none.npz")
    refused(capsys, "search", corpus, "x", says=["corpus.jsonl", "damaged"])
    refused(capsys, "search", index, "x", "-o", tmp_path / "run", says="--queries")
    refused(capsys, "info", corpus, says="damaged")
    refused(capsys, "eval", corpus, corpus, says=["corpus.jsonl", "line 1"])
    assert sorted(tmp_path.iterdir()) == before
    lines = corpus.read_text().splitlines()
    for wrong, says in [
        ('{"_id": "z", "text": ', "JSON"),
        ('{"_id": "z"}', "text"),
        ('{"text": "z"}', "_id"),
        ('["z"]', "list"),
        ('{"_id": "a", "text": "z"}', "'a' occurs twice"),
    ]:
        bad.write_text("\n".join([*lines, "", wrong]))
        refused(capsys, "index", bad, "-o", out, says=["bad.jsonl, line 6", says])
    bad.write_bytes(b'{"_id": "z", "text": "\xff"}')
    refused(capsys, "index", bad, "-o", out, says=["bad.jsonl, line 1", "UTF-8"])
    bad.write_bytes(gzip.compress(corpus.read_bytes())[:-9])
    refused(capsys, "index", bad, "-o", out, says=["bad.jsonl", "gzip"])
    bad.write_text("")
    refused(capsys, "index", bad, "-o", out, says="no documents")
    assert not out.exists()


@pytest.mark.parametrize("spec", ["", "LSA", "lsa:x", "lsa:-1", "sentence-transformers", "word2vec:x", "none"])
def test_an_encoder_of_an_unknown_name_is_refused(spec):
    with pytest.raises(ValueError, match="encoder must be lsa, lsa:DIM, sentence-transformers:NAME or none, got "):
        encoder_of(spec)


def test_stop_words_of_an_unknown_name_in_a_file_are_refused(index):
    collection = Collection.load(index)
    collection.stop_words = "klingon"
    collection.save(index)
    with pytest.raises(ValueError, match="unknown stop words 'klingon'"):
        Collection.load(index)


def test_embeddings_of_another_length_are_refused(corpus, index, tmp_path, capsys):
    np.save(tmp_path / "e.npy", EMBEDDINGS[:3])
    refused(
        capsys, "index", corpus, "-o", tmp_path / "x.npz", "--embeddings", tmp_path / "e.npy", says="3 embeddings for 4"
    )
    np.save(tmp_path / "e.npy", np.ones((1, 7), np.float32))
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "x"}\n')
    bulk = ("search", index, "--queries", tmp_path / "q.jsonl", "--query-embeddings", tmp_path / "e.npy")
    refused(capsys, *bulk, says=["(n, 3)", "7"])
    np.save(tmp_path / "e.npy", np.array([{}], object), allow_pickle=True)
    refused(capsys, *bulk, says="e.npy")


def test_a_damaged_index_is_refused_and_a_good_one_is_not_lost(corpus, index, tmp_path, capsys):
    whole = index.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:2000] + b"\0" * 64 + whole[2064:], b""):
        index.write_bytes(damaged)
        refused(capsys, "search", index, "x", says=["index.npz", "damaged"])
    index.write_bytes(whole)
    refused(capsys, "index", tmp_path / "none", "-o", index, says="none")
    assert index.read_bytes() == whole


def test_ids_with_spaces_do_not_fit_a_run(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text('{"_id": "a b", "text": "word"}\n')
    run("index", tmp_path / "c.jsonl", "-o", tmp_path / "i.npz", "--encoder", "none")
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "word"}\n')
    refused(capsys, "search", tmp_path / "i.npz", "--queries", tmp_path / "q.jsonl", "-o", tmp_path / "r", says="'a b'")
    assert not (tmp_path / "r").exists()


def test_one_seed_gives_one_file(corpus, tmp_path):
    for name in ("x", "y"):
        assert run("index", corpus, "-o", tmp_path / name, "--encoder", "lsa:2", "--seed", "7") == 0
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.slow
def test_the_demo_answers_a_question_and_serves_a_load(capsys):
    assert run("demo", "how do I copy a file tree", "--top-k", "2") == 0
    out = capsys.readouterr().out
    assert "shutil.copytree" in out and "fused" in out and "BM25" in out and "prompt tokens computed" in out


def test_a_load_is_served_whole_and_sharing_saves_work():
    load = make_load(conversations=25, seed=3)
    assert (np.diff(load.arrival) >= 0).all()
    shared, apart = serve(load, True), serve(load, False)
    for outcome in (shared, apart):
        assert outcome.served + outcome.rejected == len(load.arrival)
        assert len(outcome.first_token_seconds) == outcome.served and min(outcome.first_token_seconds) > 0
        assert outcome.kv["total_sequences"] == outcome.kv["allocated_pages"] == 0
    assert apart.computed_tokens == apart.prompt_tokens
    assert shared.computed_tokens < 0.5 * shared.prompt_tokens


def test_warm_up_shows_what_it_compiled(capsys):
    assert run("warmup", "--quiet") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(warmup.STEPS) + 1


@pytest.mark.parametrize("command", ["demo", "index", "search", "eval", "info", "replay", "simulate", "warmup"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0 and "usage: llmds" in capsys.readouterr().out


def test_a_usage_error_has_exit_code_2(capsys):
    for arguments in ([], ["fly"], ["index"], ["search", "x", "--fusion", "sum"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
