"""`llmds simulate`, run as a person would."""

import json
import sys

import numpy as np
import pytest

from llmds.__main__ import main
from llmds.simulator.cost_model import CostModel, kv_pages, preset
from llmds.simulator.simulator import Replica, simulate
from llmds.traces import synthetic

PRESET = "llama-3.1-8b@h100-sxm"


@pytest.fixture(scope="module")
def trace():
    return synthetic(3, requests=300, requests_per_second=5.0, block_size=512)


@pytest.fixture
def saved(trace, tmp_path):
    trace.save(tmp_path / "trace.npz")
    return tmp_path / "trace.npz"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def told(capsys, *arguments):
    """The one object that a call with --json prints."""
    capsys.readouterr()
    assert run("simulate", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def expected(trace, name=PRESET, efficiency=(1.0, 1.0), slo_ms=None, **options):
    """What `simulate` gives, but for the time it took."""
    model, hardware, devices = preset(name)
    cost = CostModel.roofline(
        model, hardware, devices=devices, compute_efficiency=efficiency[0], bandwidth_efficiency=efficiency[1]
    )
    pages = options.pop("pages", kv_pages(model, hardware, 512, devices=devices))
    return without_wall(simulate(trace, Replica(cost, pages=pages, **options), slo_ms=slo_ms).summary())


def without_wall(found):
    return {name: value for name, value in found.items() if name != "wall_seconds"}


def test_json_is_the_summary_of_the_simulation(trace, saved, capsys):
    found = told(capsys, saved)
    assert found["wall_seconds"] > 0 and found["simulated_seconds"] > 0
    assert found["requests"] == 300 and found["finished"] + found["refused"] == 300
    assert (found.pop("preset"), found.pop("policy"), found.pop("slots")) == (PRESET, "fcfs", 256)
    assert found.pop("page_size") == 512
    assert found.pop("pages") == kv_pages(*preset(PRESET)[:2], 512)
    assert without_wall(found) == expected(trace)
    assert found["cached_tokens"] > 0


@pytest.mark.parametrize(
    "options, given",
    [
        (["--slots", 3], {"slots": 3}),
        (["--slots", 3, "--policy", "sjf"], {"slots": 3, "policy": "sjf"}),
        (["--slots", 2, "--policy", "edf", "--slo-ms", 50], {"slots": 2, "policy": "edf", "slo_ms": 50}),
        (["--preset", "llama-3.1-70b@h100-sxmx4"], {"name": "llama-3.1-70b@h100-sxmx4"}),
        (["--efficiency", 0.5], {"efficiency": (0.5, 0.5)}),
        (["--efficiency", 0.5, 0.25], {"efficiency": (0.5, 0.25)}),
        (["--pages", 300], {"pages": 300}),
        (["--pages", 300, "--eviction", "lru"], {"pages": 300, "eviction": "lru"}),
        (["--max-batch-tokens", 100, "--prefill-chunk", 60], {"max_batch_tokens": 100, "prefill_chunk": 60}),
        (["--rate", 4], {"rate": 4.0}),
    ],
)  # fmt: skip
def test_options_change_the_replica(trace, saved, capsys, options, given):
    found = told(capsys, saved, *options)
    wanted = expected(trace, **given)
    assert {name: found[name] for name in wanted} == wanted
    if "--eviction" not in options:
        assert wanted != expected(trace)


def test_the_first_seconds_alone(trace, saved, capsys):
    found = told(capsys, saved, "--limit-seconds", 9)
    assert found["requests"] == len(trace.until(9)) < 300
    none = told(capsys, saved, "--limit-seconds", 0)
    assert none["requests"] == none["finished"] == 0 and none["ttft_p50_ms"] is None


def test_a_table_for_people(trace, saved, capsys):
    assert run("simulate", saved, "--pages", 60) == 0
    out, error = capsys.readouterr()
    wanted = expected(trace, pages=60)
    lines = out.splitlines()
    assert lines[0] == f"{PRESET}, fcfs, 256 slots, 60 pages of 512 tokens" and "simulating" in error
    rows = {" ".join(line.split()[:-4]): line.split()[-4:] for line in lines if line.split()[-4:]}
    assert rows["milliseconds"] == ["mean", "p50", "p90", "p99"]
    for title, key in (("to first token", "ttft"), ("per token after it", "tpot"), ("to last token", "latency")):
        assert rows[title] == [f"{wanted[f'{key}_{column}_ms']:,.1f}" for column in ("mean", "p50", "p90", "p99")]
    assert wanted["refused"] > 0 and any(line.split() == ["refused", str(wanted["refused"])] for line in lines)
    assert run("simulate", saved, "--limit-seconds", 0) == 0
    assert capsys.readouterr().out.count("-\n") >= 2


def test_azure_s_files_are_read(tmp_path, capsys):
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,48,10\n2023-11-16 18:17:04,900,2\n"
    )
    found = told(capsys, path)
    assert found["finished"] == 2 and found["page_size"] == 16 and found["prefill_tokens"] == 948


def test_pictures_are_drawn(saved, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run("simulate", saved, "--limit-seconds", 20, "--plot", tmp_path / "out.svg") == 0
    assert {path.name for path in tmp_path.glob("*.svg")} == {"out.svg", "out-timeline.svg"}
    assert "trace.npz" in (tmp_path / "out.svg").read_text() and len((tmp_path / "out-timeline.svg").read_text()) > 9000


def test_bad_input_is_told_in_one_line(saved, tmp_path, capsys, monkeypatch):
    before = sorted(tmp_path.iterdir())
    (tmp_path / "bad.csv").write_text("x\n")
    for arguments, says in (
        ([tmp_path / "none"], ["none", "No such file"]),
        ([tmp_path / "bad.csv"], ["bad.csv"]),
        ([saved, "--preset", "gpt@h100-sxm"], ["preset", "gpt@h100-sxm", "mistral-7b"]),
        ([saved, "--preset", "llama-3.1-70b@h100-sxm"], ["devices"]),
        ([saved, "--policy", "lifo"], ["policy", "lifo"]),
        ([saved, "--slots", "0"], ["slots", "0"]),
        ([saved, "--pages", "0"], ["pages", "0"]),
        ([saved, "--prefill-chunk", "-1"], ["prefill_chunk", "-1"]),
        ([saved, "--max-batch-tokens", "0"], ["max_batch_tokens"]),
        ([saved, "--rate", "0"], ["rate"]),
        ([saved, "--slo-ms", "-1"], ["slo_ms"]),
        ([saved, "--limit-seconds", "-1"], ["seconds", "-1"]),
        ([saved, "--efficiency", "0"], ["efficiency"]),
        ([saved, "--efficiency", "1", "2"], ["bandwidth_efficiency", "2"]),
        ([saved, "--efficiency", "1", "1", "1"], ["--efficiency", "3"]),
        ([saved, "--plot", tmp_path / "x.docx"], ["x.docx", "png"]),
        ([saved, "--plot", tmp_path / "no" / "x.png"], ["no such folder"]),
    ):
        capsys.readouterr()
        assert run("simulate", *arguments) == 2, arguments
        out, error = capsys.readouterr()
        last = error.splitlines()[-1]
        assert out == "" and last.startswith("llmds simulate: ") and len(error.splitlines()) == 1, error
        assert all(part in last for part in says), error
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert run("simulate", saved, "--plot", tmp_path / "x.png") == 2
    assert "llmds[plots]" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "bad.csv"])


def test_times_are_finite_where_they_are_told(saved, capsys):
    found = told(capsys, saved, "--limit-seconds", 30)
    assert all(np.isfinite(value) for value in found.values() if isinstance(value, float))
