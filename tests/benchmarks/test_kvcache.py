"""The benchmark of KVCache runs tiny and is drawn; its plain Python peers find what we find."""

import importlib.util
import json
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.kvcache import engines as kv_engines
from benchmarks.kvcache import peers as kv_peers
from benchmarks.kvcache import tasks as kv_tasks
from llmds.kv_cache.cache import KVCache
from llmds.kv_cache.state import POLICIES
from llmds.traces import synthetic


@pytest.fixture
def trace():
    return synthetic(1, requests=120, opening_tokens=(1500.0, 0.5), message_tokens=(500.0, 0.5))


@pytest.mark.parametrize("page_size", [16, 512])
@pytest.mark.parametrize("pages", [40, 4000])
def test_the_plain_cache_finds_what_we_find(trace, page_size, pages):
    tokens, starts = trace.tokens()
    pages = pages * 512 // page_size
    ours, lists, arrays = KVCache(page_size, pages, store=False), *(kv_peers.PlainCache(page_size, pages) for _ in "ab")
    for a, b in pairwise(starts):
        for cache, given in ((ours, tokens[a:b]), (lists, tokens[a:b].tolist()), (arrays, tokens[a:b])):
            cache.attach(0, given)
            cache.detach(0)
        assert ours.stats()["hit_tokens"] == page_size * lists.hits == page_size * arrays.hits
    assert lists.hits > 0 and (ours.stats()["evictions"] > 0) == (pages * page_size == 40 * 512)


def test_engines_find_what_we_find_or_are_left_out(trace, capsys):
    tokens, starts = trace.tokens()
    engines = kv_engines.engines(16, 4000)
    assert len(engines) + capsys.readouterr().out.count("left out") == len(kv_engines.HASHES)
    for engine in engines.values():
        plain = kv_peers.PlainCache(16, 4000)
        for a, b in pairwise(starts):
            given = tokens[a:b].tolist() + [1] * int(
                (b - a) % 16 == 0
            )  # a last token of its own, which vLLM leaves out
            for cache in (plain, engine):
                cache.attach(0, given)
                cache.detach(0)
        assert engine.hits == plain.hits > 0


def test_a_step_of_the_plain_cache_names_full_pages():
    cache = kv_peers.PlainCache(4, 8)
    cache.start(0, [1, 2, 3])
    cache.step([0], [4])
    cache.step([0], [5])
    cache.attach(1, [1, 2, 3, 4, 9])
    assert cache.hits == 1 and cache.pages_of[1][0] == cache.pages_of[0][0] and len(cache.pages_of[0]) == 2
    with pytest.raises(MemoryError):
        cache.attach(2, list(range(100)))


def test_the_benchmark_runs_and_is_drawn(trace, tmp_path, monkeypatch, capsys):
    trace.save(tmp_path / "load.npz")
    monkeypatch.setattr(kv_tasks, "SEEDS", (1,))
    monkeypatch.setattr(kv_tasks, "DECODE_STEPS", 20)
    given = ["--rounds", 1, "--trace", tmp_path / "load.npz", "--token-requests", 30, "--python-requests", 20]
    given += ["--pages", 300, "--running", 8, "--waiting", 20, "--sizes", 50, 200, "--synthetic", 50, "--limit", 100]
    out = tmp_path / "kvcache.json"
    monkeypatch.setattr("sys.argv", ["benchmarks", "kvcache", *map(str, given), "--out", str(out)])
    main()
    record = json.loads(out.read_text())
    assert record["parameters"]["requests"] == 100 and record["parameters"]["trace"] == "load"
    rows: dict = {}
    for row in record["results"]:
        rows.setdefault(row["task"], {})[row["contender"]] = row
    replay = rows["replay"]
    assert replay["llmds"]["hit_rate"] == replay["OrderedDict"]["hit_rate"] > 0 and replay["OrderedDict"]["seconds"]
    for size in (512, 16):
        assert len([name for name in rows[f"attach, pages of {size}"] if name.startswith("llmds")]) == 4
        assert len(rows[f"attach beside Python, pages of {size}"]) >= 4
    assert all(row["over np.array"] > 0 for row in rows["lists, over arrays"].values())
    assert rows["match waiting"]["llmds"]["requests"] == 20 and "Python" in rows["decode step"]
    assert {f"llmds, {policy}" for policy in POLICIES} < set(rows["bytes a page"])
    for task in ("hits: load", "hits: synthetic 1"):
        assert [*rows[task]] == [*POLICIES, "optimal"]
        assert all(0 <= row["200"] <= rows[task]["optimal"]["200"] for row in rows[task].values())
    told = [row for row in record["results"] if row["contender"].startswith("recorded")]
    assert told and all("seconds" not in row and "ours_over_this" not in row for row in told) and record["recorded"]
    drawn = importlib.util.find_spec("matplotlib") is not None
    for name in ("hits", "serving"):
        assert (tmp_path / f"kvcache-{name}.png").exists() == drawn
    capsys.readouterr()


def test_contenders_that_differ_are_not_timed(trace, tmp_path, monkeypatch):
    trace.save(tmp_path / "load.npz")
    monkeypatch.setattr(kv_peers, "simulate", lambda requests, pages: (0, {}))
    given = ["--trace", str(tmp_path / "load.npz"), "--tasks", "replay", "--pages", "300", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["benchmarks", "kvcache", *given, "--out", str(tmp_path / "out.json")])
    with pytest.raises(AssertionError, match="hits of the replay differ"):
        main()


def test_the_simulation_matches_as_the_cache_does():
    found, cached = kv_peers.simulate([[1, 2, 3], [1, 2, 4], [9, 9, 9, 9, 9, 9]], 4)
    assert found == 2 and list(cached) == [3, 4, 2, 1]
    assert kv_peers.match_all([[1, 2, 5], [7], []], cached) == [2, 0, 0]
    assert np.sum(kv_peers.match_all([], cached)) == 0
