"""The harness times in turn, and tells what it measured; neighbours are counted right, and so are ranked documents."""

import gzip
import importlib.util
import json

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.__main__ import _benchmarks, main
from benchmarks.bm25 import data as text_data
from benchmarks.bm25 import peers as text_peers
from benchmarks.bm25 import quality as text_quality
from benchmarks.bm25 import tasks as text_tasks
from benchmarks.hnsw import data as ann_data
from benchmarks.hnsw.bench import LARGEST_EF, smallest_ef
from benchmarks.hnsw.peers import CONTENDERS, installed
from benchmarks.hybrid import command as hybrid
from benchmarks.hybrid import peers as hybrid_peers


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
    ratios = [theirs / mine for theirs, mine in zip(peer["seconds"], ours["seconds"], strict=True)]
    assert peer["ours_over_this"] == pytest.approx(sorted(ratios)[1])
    assert peer["recall"] == 0.5 and size["bytes"] == 12 and record["parameters"] == {"seed": 1}
    assert record["machine"]["cores"] >= 1 and record["versions"]["numpy"]
    assert "recall 0.5" in capsys.readouterr().out


def test_every_benchmark_has_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("structures", "bm25", "hnsw", "hybrid", "kvcache", "simulator"))


def test_what_only_helps_is_no_benchmark():
    assert [name for name, _ in _benchmarks()] == ["bm25", "hnsw", "hybrid", "kvcache", "simulator", "structures"]


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
    rows += [row(f"scaling at equal ef, n = {n}", "llmds", n=n, ef=64) for n in (100, 1000)]
    path = tmp_path / "hnsw-x.json"
    path.write_text(json.dumps({"parameters": {"data": "x", "vectors": 10, "dim": 4}, "results": rows}))
    drawn = plots.draw(path)
    assert [picture.name for picture in drawn] == [
        f"hnsw-x-{name}.png" for name in ("curves", "build", "filter", "churn", "scaling")
    ]
    assert all(picture.stat().st_size > 1000 for picture in drawn)
    path.write_text(json.dumps({"parameters": {}, "results": []}))
    assert plots.draw(path) == []
    path.write_text(json.dumps({"parameters": {}, "results": [row("filter odd 0.5", "llmds", kind="odd", fraction=1)]}))
    with pytest.raises(ValueError, match="filters must be of kinds random, near, far, got 'odd'"):
        plots.draw(path)


def written(folder, rng, documents=150, queries=12, dim=16):
    """A folder of texts with queries, judgements and embeddings: a query's words stand in the document it wants."""
    words = [text_data._word(number) for number in range(400)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(documents)]
    wanted = rng.permutation(documents)[:queries].tolist()
    asked = [" ".join(texts[row].split()[:3]) for row in wanted]
    for name, lines in (("corpus", texts), ("queries", asked)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"_id": f"{name}{row}", "title": text[:5], "text": text}) + "\n"
                for row, text in enumerate(lines)
            )
    lines = ["query-id\tcorpus-id\tscore", *(f"queries{q}\tcorpus{row}\t1" for q, row in enumerate(wanted))]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    vectors = ann_data.unit(rng.standard_normal((documents, dim)))
    np.save(folder / "corpus_emb.npy", vectors.astype(np.float16))
    np.save(folder / "query_emb.npy", vectors[wanted].astype(np.float16))
    return texts, asked, wanted


def ran(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, arguments)])
    main()


def test_quality_of_ranked_documents():
    ids = np.array([[5, 7, 9], [1, 2, 3], [4, 4, 4], [8, 6, 2]])
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, 0]])
    grades = [{7: 1.0}, {}, {1: 1.0}, {6: 1.0, 8: 3.0, 2: 2.0}]
    found = text_quality.quality((ids, scores), grades)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert found["hit@3"] == pytest.approx(2 / 3) and found["MRR@3"] == pytest.approx((0.5 + 0 + 1) / 3)
    graded = (3 + second) / (3 + 2 * second + third)  # the last document holds no word of the query
    assert found["nDCG@3"] == pytest.approx((second + 0 + graded) / 3)


def test_agreement_forgives_what_scores_the_same():
    ours = np.array([[1, 2, -1]]), np.array([[2.0, 1.0, -np.inf]])
    assert text_quality.agreement(ours, (np.array([[1, 3, 9]]), np.array([[2.0, 1.000001, 0.5]]))) == 1.0
    assert text_quality.agreement(ours, (np.array([[1, 3, 9]]), np.array([[2.0, 1.1, 0.5]]))) == 0.5


def test_synthetic_documents_are_seeded_and_the_first_of_more(monkeypatch):
    monkeypatch.setattr(text_data, "CHUNK", 50)
    few, more = text_data.Synthetic(70, 30, seed=3), text_data.Synthetic(120, 30, seed=3)
    assert len(few.texts()) == len(few) == 70 and few.texts() == more.texts(70) and few.queries == more.queries
    assert more.texts() != text_data.Synthetic(120, 30, seed=4).texts()
    assert all(text_data.cut(more.tokenizer, chunk.texts) == chunk.terms for chunk in more.chunks())
    assert 40 < np.mean([len(text.split()) for text in more.texts()]) < 80
    frequent = {text_data._word(number) for number in range(100)}
    assert all(2 <= len(terms) <= 6 and not frequent & set(terms) for terms in more.queries.terms)
    words = [text_data._word(number) for number in range(10_000)]
    assert len(set(words)) == len(words)
    assert len(text_data.Tokenizer(stop_words="english").tokenize(" ".join(words))) == len(words)


def test_queries_are_made_where_there_are_none(tmp_path):
    titles, texts = ["Re: The heap of pages", "Re:"], ["", "a graph walks to its queue and to the cache of tokens"]
    made = text_data.made_queries(titles, texts, 10)
    assert made == text_data.made_queries(titles, texts, 10) and len(made) == 10
    words = "graph walks queue cache tokens"
    assert set(made[::2]) == {"heap pages"} and all(query in words for query in made[1::2])
    lines = [{"title": title, "text": text} for title, text in zip(titles, texts, strict=True)]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    read = text_data.load(str(tmp_path))
    assert read.texts() == texts and len(read.queries.texts) == 2_000 and not read.queries.judged


def test_every_engine_finds_the_same(tmp_path, rng):
    _, asked, wanted = written(tmp_path, rng)
    read = text_data.load(str(tmp_path))
    assert [list(grades) for grades in read.queries.grades] == [[row] for row in wanted]
    queries = text_data.Queries([*asked, "zzz"], [*read.queries.terms, ["zzz"]], [*read.queries.grades, {}])
    results = {}
    for name in filter(text_peers.installed, ("llmds", "bm25s numpy", "tantivy", "rank_bm25")):
        engine = text_peers.CONTENDERS[name]()
        engine.build(read)
        results[name] = ids, scores = engine.ranked(queries, 10)
        assert ids.shape == scores.shape == (len(asked) + 1, 10)
        assert (ids[:-1, 0] == wanted).all()
        assert len(engine.single(engine.prepare(queries), 10)) == len(asked) + 1
        sizes = engine.bytes()
        assert sizes is None or 0 < sizes.get("postings", 1) <= sizes["total"]
        engine.index_texts(read.texts(), "english")
    for name in set(results) - {"rank_bm25"}:  # tantivy rounds lengths, but not these
        assert text_quality.agreement(results["llmds"], results[name]) == 1.0, name
        assert (results[name][0][-1] == -1).all()


def test_the_bm25_benchmark_runs_and_is_drawn(tmp_path, rng, monkeypatch, capsys):
    written(tmp_path, rng)
    monkeypatch.setattr(text_tasks, "JUDGED", ("none",))
    monkeypatch.setattr(text_peers.Tantivy, "package", "surely_not_installed")
    out = tmp_path / "bm25.json"
    given = ("--rounds", 1, "--contenders", "llmds", "tantivy", "--out", out)
    ran(monkeypatch, "bm25", "--data", tmp_path, "--stream", 300, *given)
    told = capsys.readouterr().out
    assert "not installed, left out: tantivy" in told and "no none here" in told
    record = json.loads(out.read_text())
    rows = {row["task"]: row for row in record["results"]}
    assert rows["search"]["MRR@10"] > 0.9 and rows["effectiveness: " + tmp_path.name]["hit@10"] == 1.0
    assert {"single", "index", "memory", "update"} <= set(rows) and rows["memory"]["total"] > 0
    assert rows["stream"]["equal_rows"] == 1.0 and rows["stream, in all"]["documents"] == 300
    ran(monkeypatch, "bm25", "--tasks", "growth", "--sizes", 200, 400, *given)
    grown = json.loads(out.read_text())["results"]
    assert [row["n"] for row in grown] == [200, 400] and grown[0]["bytes"] < grown[1]["bytes"]
    ran(monkeypatch, "bm25", "--data", "synthetic", "--documents", 300, *given)
    assert {row["task"] for row in json.loads(out.read_text())["results"]} == {"search", "single", "memory"}
    if can_draw():
        assert (tmp_path / "bm25-speeds.png").exists() and (tmp_path / "bm25-growth.png").exists()


def test_the_benchmark_of_the_structures_runs_and_is_drawn(tmp_path, monkeypatch):
    for peer in ("cachetools", "datasketches", "heapdict"):
        pytest.importorskip(peer)
    out = tmp_path / "structures.json"
    ran(monkeypatch, "structures", "--items", 400, "--rounds", 1, "--tenants", 5, "--out", out)
    tasks = {row["task"] for row in json.loads(out.read_text())["results"] if row["contender"] == "llmds"}
    assert {"heap pop, bulk", "cache get, single", "sketch add str, bulk"} <= tasks
    assert {"admission of 1 key, whole trace", "admission of 5 tenants, single"} <= tasks
    assert can_draw() == (tmp_path / "structures-ratios.png").exists()


def can_draw():
    return importlib.util.find_spec("matplotlib") is not None


def test_the_hybrid_benchmark_runs_and_is_drawn(tmp_path, rng, monkeypatch):
    written(tmp_path, rng)
    monkeypatch.setattr(hybrid, "_LEAST_QUERIES", 1)
    out = tmp_path / "hybrid.json"
    ran(monkeypatch, "hybrid", "--data", tmp_path, "--rounds", 1, "--out", out)
    rows = json.loads(out.read_text())["results"]
    quality = {row["contender"]: row for row in rows if row["task"].startswith("quality")}
    sides = ("text alone", "dense alone", "weighted", "rrf")
    assert all(quality[f"llmds, {side}"]["nDCG@10"] > 0.9 for side in sides)
    assert all(row["recall"] >= 0.95 for row in rows if row["task"].startswith(("batch", "single")))
    assert can_draw() == (tmp_path / "hybrid-hybrid.png").exists()


def test_fusion_by_hand_sums_what_both_sides_found(rng):
    ids = np.stack([rng.permutation(40)[:20] for _ in range(6)])
    ids = np.concatenate([ids, np.stack([rng.permutation(40)[:20] for _ in range(6)])], axis=1)
    shares = rng.random(ids.shape).round(2)
    found = hybrid_peers.best(ids, shares, 5)
    for row in range(6):
        sums = {}
        for document, share in zip(ids[row].tolist(), shares[row].tolist(), strict=True):
            sums[document] = sums.get(document, 0.0) + share
        wanted = sorted(sums.items(), key=lambda pair: (-round(pair[1], 6), pair[0]))[:5]
        assert [round(share, 6) for _, share in wanted] == pytest.approx(found[1][row].tolist())
        pairs = hybrid_peers.best_of_one(ids[row].copy(), shares[row].copy(), 5)
        assert pairs == list(zip(found[0][row].tolist(), found[1][row].tolist(), strict=True))
    low, flat = hybrid_peers.normalised(np.array([[4.0, 3.0, 2.0], [1.0, 1.0, 1.0]]))
    assert low.tolist() == [1.0, 0.5, 0.0] and flat.tolist() == [0.0, 0.0, 0.0]
