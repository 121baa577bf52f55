"""The harness times in turn, and tells what it measured; neighbours are counted right."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import ann_data, harness
from benchmarks.__main__ import _benchmarks, main
from benchmarks.ann_bench import LARGEST_EF, smallest_ef
from benchmarks.ann_peers import CONTENDERS, installed


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_contenders_are_called_in_turn_and_told_as_ratios(tmp_path, capsys):
    calls = []
    contest = harness.Contest("test", {"seed": 1})
    contest.race(
        "counting",
        {"llmds": calls.append, "peer": lambda: calls.append("peer")},
        operations=2,
        rounds=3,
        setup={"llmds": lambda: "fresh"},
        extra={"peer": {"recall": 0.5}},
    )
    assert calls == ["fresh", "peer"] * 4
    contest.note("size", "llmds", bytes=12)
    record = json.loads(contest.finish(tmp_path / "out.json").read_text())
    ours, peer, size = record["results"]
    assert len(ours["seconds"]) == 3 and ours["ours_over_this"] == pytest.approx(1.0)
    assert peer["ours_over_this"] == pytest.approx(peer["median_seconds"] / ours["median_seconds"])
    assert peer["recall"] == 0.5 and size["bytes"] == 12 and record["parameters"] == {"seed": 1}
    assert record["machine"]["cores"] >= 1 and record["versions"]["numpy"]
    assert "recall 0.5" in capsys.readouterr().out


def test_every_benchmark_has_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("structures", "bm25", "hnsw"))


def test_what_only_helps_is_no_benchmark():
    assert [name for name, _ in _benchmarks()] == ["bm25", "hnsw", "structures"]


def test_a_missing_data_folder_is_told(tmp_path):
    with pytest.raises(SystemExit, match="LLMDS_DATA"):
        harness.data_folder("x", tmp_path / "none")


def test_recall_counts_what_is_as_near_and_counts_it_once(rng):
    vectors = ann_data.unit(rng.standard_normal((50, 8)))
    vectors[7] = vectors[3]
    queries = ann_data.unit(rng.standard_normal((20, 8)))
    nearest = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :4]
    truth = ann_data.Truth(vectors, queries, 4)
    assert truth.recall(nearest) == 1.0
    assert truth.recall(np.where(np.arange(4) < 3, nearest, -1)) == 0.75
    assert truth.recall(np.repeat(nearest[:, :1], 4, axis=1)) == 0.25
    one = ann_data.Truth(vectors, vectors[[3]], 1)
    assert one.recall(np.array([[3]])) == one.recall(np.array([[7]])) == 1.0
    assert one.recall(np.array([[8]])) == 0.0


def test_recall_among_the_allowed(rng):
    vectors, allowed = ann_data.unit(rng.standard_normal((50, 8))), np.array([4, 9, 30])
    queries = vectors[:5]
    truth = ann_data.Truth(vectors, queries, 10, allowed)
    assert truth.k == 3
    assert truth.recall(np.tile(np.array([4, 9, 30, -1]), (5, 1))) == 1.0
    assert truth.recall(np.tile(np.array([4, 9, 31, -1]), (5, 1))) == pytest.approx(2 / 3)
    assert truth.recall(np.argsort(-(queries @ vectors.T), axis=1)) == 1.0
    assert truth.recall(np.arange(5)[:, None]) == pytest.approx(1 / 15)  # of the nearest of all, 4 alone is allowed


def test_the_smallest_ef_is_found():
    asked = []

    def recall(ef):
        asked.append(ef)
        return min(ef / 1000, 0.9)

    assert smallest_ef(recall, 0.137) == (137, 0.137)
    assert len(set(asked)) < 20
    assert smallest_ef(recall, 0.001) == (10, 0.01)
    assert smallest_ef(recall, 0.95) == (LARGEST_EF, 0.9)


def test_a_folder_of_texts_is_encoded_and_one_of_vectors_read(tmp_path, rng):
    words = np.array(["heap", "graph", "cache", "page", "token", "queue"])
    lines = [{"title": str(rng.choice(words)), "text": " ".join(rng.choice(words, 5))} for _ in range(40)]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*lines, {"title": "", "text": "nobody"}])
    vectors, queries = ann_data.encoded(tmp_path / "corpus.jsonl.gz", held_out=10)
    assert vectors.shape == (30, 256) and queries.shape == (10, 256)
    np.save(tmp_path / "corpus_emb.npy", vectors[:20].astype(np.float16))
    np.save(tmp_path / "query_emb.npy", queries)
    data = ann_data.load(str(tmp_path), limit=15)
    assert data.name == f"{tmp_path.name}-15" and data.vectors.shape == (15, 256) and data.queries.shape == (10, 256)
    assert data.vectors.dtype == np.float32 and np.linalg.norm(data.vectors, axis=1) == pytest.approx(1.0)


def test_ours_is_always_there():
    assert all(installed(name) for name in CONTENDERS if name.startswith("llmds"))


def test_plots_are_drawn_from_the_json(tmp_path):
    plots = pytest.importorskip("benchmarks.plots")

    def row(task, contender, **values):
        return {
            "task": task,
            "contender": contender,
            "operations": 10,
            "seconds": [1.0],
            "median_seconds": 1.0,
            **values,
        }

    rows = [row("curve", f"{name}, ef {ef}", index=name, ef=ef, recall=1 - 1 / ef) for name in ("llmds", "hnswlib")
            for ef in (10, 20)]  # fmt: skip
    rows += [row("build", name) for name in ("llmds", "SVS f16")]
    rows += [row("filter far 0.5", "llmds", kind="far", fraction=0.5)]
    rows += [{"task": "filter far 0.5", "contender": "faiss", "kind": "far", "fraction": 0.5, "reached": False}]
    rows += [row("churn, round 0", "llmds", round=0, recall=0.9, bytes=100)]
    rows += [row(f"scaling, n = {n}", "llmds", n=n, build_seconds=n / 100) for n in (100, 1000)]
    path = tmp_path / "hnsw-x.json"
    path.write_text(json.dumps({"parameters": {"data": "x", "vectors": 10, "dim": 4}, "results": rows}))
    drawn = plots.draw(path)
    assert [picture.name for picture in drawn] == [
        f"hnsw-x-{name}.png" for name in ("curves", "build", "filter", "churn", "scaling")
    ]
    assert all(picture.stat().st_size > 1000 for picture in drawn)
    path.write_text(json.dumps({"parameters": {}, "results": []}))
    assert plots.draw(path) == []
