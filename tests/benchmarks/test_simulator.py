"""`python -m benchmarks simulator` on a trace of a minute."""

import json

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.simulator import command as simulator
from benchmarks.simulator import plain_simulation


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    times = np.sort(rng.uniform(0, 60, 120))
    rows = [
        f"2023-11-16 18:15:{time:010.7f},{rng.integers(1, 900)},{rng.integers(1, 90)}" for time in times if time < 60
    ]
    (tmp_path / simulator.TRACE).write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return tmp_path


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["benchmarks", "simulator", *map(str, options)])
    main()


def test_every_task_is_done_told_and_drawn(folder, monkeypatch, capsys):
    out = folder / "out.json"
    run(monkeypatch, "--data", folder, "--out", out, "--rounds", 1, "--seconds", 20)
    record = json.loads(out.read_text())
    rows = {(row["task"], row["contender"]): row for row in record["results"]}
    one = rows["a replica, simulated seconds", "llmds"]
    assert one["finished"] == 120 and 59 <= one["operations"] <= 62 and 0 < one["utilisation"] <= 1
    for rate in (1, 4):
        task = f"beside plain Python at {rate} times the rate, simulated seconds"
        assert rows[task, "plain Python"]["ours_over_this"] > 0 and rows[task, "llmds"]["slots_used"] > 0
    swept = rows["sweep of 20 s, configurations", "llmds"]
    assert swept["operations"] == 1000 and swept["threads"] >= 1 and swept["requests"] < 120
    goodputs = [row for row in record["results"] if row["task"] == "goodput"]
    assert len(goodputs) == 50 and all(0 <= row["goodput"] <= row["load"] * 1.1 for row in goodputs)
    assert record["parameters"]["limits"] == "TTFT <= 500 ms, TPOT <= 50 ms"
    if pytest.importorskip("matplotlib"):
        assert (folder / "out-goodput.png").stat().st_size > 9000
        (folder / "out-goodput.png").unlink()
        run(monkeypatch, "--plot-only", out)
        assert (folder / "out-goodput.png").exists()


def test_what_differs_is_not_timed(folder, monkeypatch):
    plain = plain_simulation.plain_simulation

    def wrong(*given, **options):
        told = plain(*given, **options)
        told[3]["finished"] += 1e-9
        return told

    monkeypatch.setattr(simulator, "plain_simulation", wrong)
    with pytest.raises(SystemExit, match="differ"):
        run(monkeypatch, "--data", folder, "--out", folder / "out.json", "--rounds", 1, "--tasks", "python")
    assert not (folder / "out.json").exists()
