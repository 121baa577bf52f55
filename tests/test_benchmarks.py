"""The harness times in turn, and tells what it measured."""

import json

import pytest

from benchmarks import harness
from benchmarks.__main__ import main


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


def test_a_missing_data_folder_is_told(tmp_path):
    with pytest.raises(SystemExit, match="LLMDS_DATA"):
        harness.data_folder("x", tmp_path / "none")
