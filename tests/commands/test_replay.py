"""`llmds replay`, run as a person would."""

import json
import sys

import numpy as np
import pytest

from llmds.__main__ import main
from llmds.kv_cache.state import POLICIES
from llmds.traces import synthetic
from llmds.traces.hit_rates import OPTIMAL, hit_rate_curve
from llmds.traces.trace import Trace


@pytest.fixture(scope="module")
def trace():
    return synthetic(3, requests=400, block_size=512)


@pytest.fixture
def saved(trace, tmp_path):
    trace.save(tmp_path / "trace.npz")
    return tmp_path / "trace.npz"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments, says):
    """Exit code 2 and one line that says what and where."""
    capsys.readouterr()
    assert run("replay", *arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("llmds replay: ") and len(error.splitlines()) == 1
    for part in [says] if isinstance(says, str) else says:
        assert str(part) in error, error


def test_json_has_every_policy_and_size(trace, saved, capsys):
    assert run("replay", saved, "--pages", 400, 2000, "--json") == 0
    out, error = capsys.readouterr()
    rows = json.loads(out)
    assert [(row["policy"], row["pages"]) for row in rows] == [
        (policy, pages) for policy in (*POLICIES, OPTIMAL) for pages in (400, 2000)
    ]
    for row in rows:
        assert list(row) == ["policy", "pages", "hit_rate", "requests_per_second"]
        assert row["hit_rate"] == hit_rate_curve(trace, [row["pages"]], row["policy"])[0]
        assert row["requests_per_second"] is None if row["policy"] == OPTIMAL else row["requests_per_second"] > 0
    assert "replaying" in error


def test_four_sizes_and_all_policies_unless_told(saved, capsys):
    assert run("replay", saved, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["pages"] for row in rows] == [1000, 3000, 10_000, 30_000] * (len(POLICIES) + 1)


def test_a_table_for_people(trace, saved, capsys):
    assert run("replay", saved, "--pages", 2000, 300, "--policy", "optimal", "lru") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"400 requests, {len(trace.block_ids):,} blocks of 512 tokens, ")
    assert lines[2].split() == ["hit", "rate", "2,000", "300", "pages"]
    for line, policy in zip(lines[3:5], ("optimal", "lru"), strict=True):
        assert line.split() == [policy, *(f"{rate:.4f}" for rate in hit_rate_curve(trace, [2000, 300], policy))]
    assert lines[6].split()[:3] == ["requests/s", "2,000", "300"] and lines[7].split() == ["optimal", "-", "-"]
    assert len(lines) == 9


def test_what_does_not_fit_is_told(trace, saved, capsys):
    longest = int(np.diff(trace.indptr).max())
    assert run("replay", saved, "--pages", longest - 1, "--policy", "lru") == 0
    assert "1 requests have more blocks than" in capsys.readouterr().out


def test_sizes_and_policies_that_come_twice_count_once(saved, capsys):
    assert run("replay", saved, "--pages", 9, 9, "--policy", "lru", "lru", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_cache_larger_than_the_trace_needs_no_more_memory_than_it(trace, saved, capsys):
    assert run("replay", saved, "--pages", 2**31 - 1, "--policy", *POLICIES, "--json") == 0
    rates = {row["hit_rate"] for row in json.loads(capsys.readouterr().out)}
    assert len(rates) == 1 and rates.pop() == pytest.approx(trace.stats()["seen_before"])


def test_a_mooncake_file_is_read(tmp_path, capsys):
    lines = [{"timestamp": t, "input_length": 1000, "output_length": 1, "hash_ids": [1, t]} for t in range(3)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("replay", tmp_path / "t.jsonl", "--pages", 2, "--policy", "lru", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["hit_rate"] == pytest.approx(2 / 6)


def test_an_empty_trace_finds_nothing(tmp_path, capsys):
    Trace([], [], []).save(tmp_path / "empty")
    assert run("replay", tmp_path / "empty", "--json") == 0
    assert {row["hit_rate"] for row in json.loads(capsys.readouterr().out)} == {0.0}
    assert run("replay", tmp_path / "empty") == 0


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(saved, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    assert run("replay", saved, "--pages", 400, 2000, "--plot", tmp_path / f"p.{suffix}", "--json") == 0
    assert (tmp_path / f"p.{suffix}").stat().st_size > 1000


def test_what_a_picture_needs_is_looked_at_before_the_work(saved, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    refused(capsys, saved, "--plot", tmp_path / "p.docx", says=["p.docx", "png"])
    refused(capsys, saved, "--plot", tmp_path / "none" / "p.png", says="no such folder")
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    refused(capsys, saved, "--plot", tmp_path / "p.png", says="llmds[plots]")


def test_bad_input_is_told_in_one_line(saved, tmp_path, capsys):
    refused(capsys, tmp_path / "none", says="none: No such file")
    (tmp_path / "noise").write_text("noise")
    refused(capsys, tmp_path / "noise", says=["noise", "must begin like one of"])
    Trace([0.0], [5], [5]).save(tmp_path / "lengths")
    refused(capsys, tmp_path / "lengths", says=["lengths", "block ids"])
    for pages in (0, -1, 2**31):
        refused(capsys, saved, "--pages", 5, pages, says=["--pages", pages])
    for wrong in (["--policy", "random"], ["--pages", "many"], ["--pages"]):
        with pytest.raises(SystemExit) as stop:
            run("replay", saved, *wrong)
        assert stop.value.code == 2


def test_an_interruption_has_its_exit_code(saved, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("llmds.commands.replay.replay", interrupted)
    assert run("replay", saved) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        run("replay", "--help")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and all(policy in out for policy in (*POLICIES, OPTIMAL))
