"""Made-up loads: what was asked for is what there is."""

import hashlib

import numpy as np
import pytest

from llmds import traces
from llmds.kernels.traces import synthesis
from llmds.traces import reuse, synthetic

QUICK = {"think_seconds": (1.0, 0.5)}  # next to the time between conversations, so that hardly any is cut off
PLAIN = {"branching": 0.0, "max_input": 2**24}


def digest(trace):
    return hashlib.sha256(b"".join(array.tobytes() for array in trace._to_arrays().values())).hexdigest()


def parents_of(trace):
    """For each request the latest before it that shares a whole block with it, and how many blocks they share."""
    found, seen = [], {}
    for request in range(len(trace)):
        best = (-1, 0)
        for at, block in enumerate(trace.blocks(request).tolist()):
            if block in seen:
                best = (seen[block], at + 1)
        found.append(best)
        seen.update(dict.fromkeys(trace.blocks(request).tolist(), request))
    return found


def test_the_same_arguments_give_the_same_trace():
    trace = synthetic(5, requests=400)
    trace.check()
    assert digest(trace) == digest(synthetic(np.int64(5), requests=400)) != digest(synthetic(6, requests=400))
    assert len(trace) == 400 and trace.arrivals[0] == 0.0


def test_more_requests_begin_with_the_same():
    """Whether all come in one kernel call or in several, with arrays that grow."""
    few, many = synthetic(5, requests=300), synthetic(5, requests=40_000)
    assert digest(many[:300]) == digest(few) and many.stats()["requests"] == 40_000
    many.check()


def test_the_defaults_resemble_a_real_trace():
    stats = synthetic(requests=12_000).stats()
    assert 3.1 < stats["requests_per_second"] < 3.6
    assert 11_000 < stats["input_mean"] < 13_000 and 6500 < stats["input_p50"] < 7500
    assert 320 < stats["output_mean"] < 360 and 0.35 < stats["seen_before"] < 0.42
    assert stats["input_max"] <= 131_072


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("branching", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 64, 512])
def test_equal_ids_are_equal_prefixes(seed, branching, size):
    """No id comes after different ones, or at different places, or twice in a request."""
    trace = synthetic(
        seed, requests=300, turns=4, branching=branching, block_size=size,
        system_tokens=(100, 0.5), opening_tokens=(200, 1), message_tokens=(150, 1), answer_tokens=(60, 1),
    )  # fmt: skip
    nodes, parents = trace.prefixes()
    names = np.full(len(parents), -1)
    names[nodes] = trace.block_ids
    assert np.array_equal(names[nodes], trace.block_ids) and len(np.unique(names)) == len(parents)


@pytest.mark.parametrize("seed", range(3))
def test_a_turn_is_all_that_was_said_and_a_message(seed):
    """With blocks of one token and no spread, every prompt is known to the token."""
    trace = synthetic(
        seed, requests=500, turns=5, system_prompts=1, block_size=1, branching=0.0, **QUICK,
        system_tokens=(7, 0), opening_tokens=(11, 0), message_tokens=(5, 0), answer_tokens=(3, 0),
    )  # fmt: skip
    assert (trace.output_lengths == 3).all()
    turns = np.zeros(len(trace), int)
    for request, (before, shared) in enumerate(parents_of(trace)):
        if before < 0 or shared == 7:  # an opening, which shares the system prompt alone
            assert trace.input_lengths[request] == 7 + 11 and shared in (0, 7)
            continue
        turns[request] = turns[before] + 1
        # the answer was in no prompt yet, so what is shared is the prompt before
        assert shared == trace.input_lengths[before] and trace.input_lengths[request] == shared + 3 + 5
    assert turns.max() > 5


def test_two_that_follow_one_answer_share_it():
    """Answers have ids of their own, so that who goes on from one finds it: edits of the turn after it do."""
    trace = synthetic(
        1, requests=2000, turns=6, branching=0.5, regenerated=0.0, system_prompts=1, block_size=1, **QUICK,
        system_tokens=(7, 0), opening_tokens=(11, 0), message_tokens=(5, 0), answer_tokens=(3, 0),
    )  # fmt: skip
    shared = {shared for _, shared in parents_of(trace)}
    assert {7, 18, 21, 26, 29} <= shared  # after the system prompt, an opening, its answer, a second turn, its answer
    assert all((tokens - 7) % 8 in (0, 3, 6) for tokens in shared - {0})
    assert set((trace.input_lengths - 18) % 8) == {0}


def test_regenerated_turns_repeat_a_prompt_whole():
    trace = synthetic(2, requests=1000, turns=8, branching=1.0, regenerated=1.0, **QUICK)
    prompts = {}
    for request in range(len(trace)):
        prompts.setdefault(tuple(trace.blocks(request).tolist()), []).append(request)
    for repeats in prompts.values():
        assert len(set(trace.input_lengths[repeats].tolist())) == 1
    assert sum(len(repeats) > 2 for repeats in prompts.values()) > 50
    assert len(prompts) == pytest.approx(1000 / 8, rel=0.25)  # openings alone are new
    assert len(set(trace.output_lengths.tolist())) > 300


def test_branching_is_as_often_as_asked():
    trace = synthetic(3, requests=20_000, turns=4, branching=0.2, regenerated=0.5, **QUICK)
    prompts = [tuple(trace.blocks(request).tolist()) for request in range(len(trace))]
    repeated = len(prompts) - len(set(prompts))
    assert repeated / len(trace) == pytest.approx(0.2 * 0.5 * 0.75, rel=0.1)  # three of four turns are no openings


def test_a_branch_goes_back_to_any_turn_alike():
    """Of one conversation: opening, a turn that goes on, and one that repeats the opening or that turn."""
    repeated = []
    for seed in range(2000):
        trace = synthetic(seed, requests=3, turns=1e9, branching=0.5, regenerated=1.0, block_size=1, **QUICK)
        opening, second, third = (tuple(trace.blocks(request).tolist()) for request in range(3))
        if opening != second and third in (opening, second):
            repeated.append(third == opening)
    assert 400 < len(repeated) < 600 and np.mean(repeated) == pytest.approx(0.5, abs=0.08)


def test_arrivals_are_a_poisson_process_of_conversations():
    trace = synthetic(4, requests=20_000, turns=1, requests_per_second=5.0)
    gaps = np.diff(trace.arrivals)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03) and gaps.std() == pytest.approx(0.2, rel=0.05)
    assert np.quantile(gaps, 0.5) == pytest.approx(0.2 * np.log(2), rel=0.05)


def test_turns_and_times_between_them():
    """The mean number of turns, and a think time that is log-normal."""
    trace = synthetic(
        5,
        requests=30_000,
        turns=3,
        think_seconds=(10.0, 0.5),
        requests_per_second=3.0,
        system_tokens=(1, 0),
        opening_tokens=(4096, 0),
        **PLAIN,
    )
    assert trace.stats()["requests_per_second"] == pytest.approx(3.0, rel=0.05)
    links = [(request, before) for request, (before, shared) in enumerate(parents_of(trace)) if shared]
    assert len(links) / len(trace) == pytest.approx(2 / 3, abs=0.01)
    pauses = np.log([trace.arrivals[request] - trace.arrivals[before] for request, before in links])
    assert np.median(pauses) == pytest.approx(np.log(10) - 0.125, abs=0.1)


@pytest.mark.parametrize("name, lengths", [("opening_tokens", "input_lengths"), ("answer_tokens", "output_lengths")])
def test_lengths_are_log_normal(name, lengths):
    given = {"system_tokens": (1, 0.0), name: (3000.0, 0.7)}
    drawn = getattr(synthetic(6, requests=20_000, turns=1, **given, **PLAIN), lengths)
    assert drawn.mean() == pytest.approx(3000, rel=0.03)
    assert np.log(drawn).std() == pytest.approx(0.7, rel=0.03)
    assert np.median(drawn) == pytest.approx(3000 * np.exp(-0.245), rel=0.03)


def test_popularity_of_system_prompts_is_zipf():
    trace = synthetic(7, requests=30_000, turns=1, system_prompts=5, zipf=1.0, system_tokens=(600, 0))
    counts = np.bincount(trace.block_ids[trace.indptr[:-1]], minlength=5)[:5]
    expected = 1 / np.arange(1, 6)
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.01)
    level = synthetic(7, requests=30_000, turns=1, system_prompts=5, zipf=0.0, system_tokens=(600, 0))
    np.testing.assert_allclose(np.bincount(level.block_ids[level.indptr[:-1]])[:5] / 30_000, 0.2, atol=0.01)


def test_no_prompt_is_longer_than_allowed():
    trace = synthetic(8, requests=2000, turns=50, max_input=20_000)
    assert trace.input_lengths.max() == 20_000 and (trace.input_lengths == 20_000).mean() < 0.5
    tiny = synthetic(8, requests=200, turns=50, max_input=2)
    assert tiny.input_lengths.max() == 2 and len(tiny) == 200


def test_extremes():
    for requests in (0, 1, 2):
        trace = synthetic(9, requests=requests)
        trace.check()
        assert len(trace) == requests
    long = synthetic(9, requests=50, opening_tokens=(1e9, 10.0), answer_tokens=(1e9, 10.0))
    long.check()
    at_once = synthetic(9, requests=50, think_seconds=(0.0, 0.0), requests_per_second=1e9, turns=1e9)
    at_once.check()
    assert reuse.lru_hits(at_once, [10**6])[0][0] > 0


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"seed": 1.0}, TypeError),
        ({"requests": -1}, ValueError),
        ({"requests": 2**31}, ValueError),
        ({"requests_per_second": 0.0}, ValueError),
        ({"requests_per_second": np.nan}, ValueError),
        ({"turns": 0.5}, ValueError),
        ({"think_seconds": 60.0}, TypeError),
        ({"think_seconds": (-1.0, 0.5)}, ValueError),
        ({"system_prompts": 0}, ValueError),
        ({"zipf": -1.0}, ValueError),
        ({"system_tokens": (0.5, 1.0)}, ValueError),
        ({"opening_tokens": (100.0,)}, TypeError),
        ({"message_tokens": (100.0, -0.1)}, ValueError),
        ({"message_tokens": (np.inf, 0.1)}, ValueError),
        ({"answer_tokens": ("a", 0.1)}, TypeError),
        ({"branching": 1.5}, ValueError),
        ({"regenerated": -0.5}, ValueError),
        ({"max_input": 1}, ValueError),
        ({"block_size": 0}, ValueError),
    ],
)
def test_what_makes_no_load_is_refused(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        synthetic(**arguments)


def test_everything_but_the_seed_goes_by_name():
    with pytest.raises(TypeError):
        synthetic(1, 100)


def test_one_compilation():
    synthetic(1, requests=2, system_prompts=3)
    assert {len(kernel.signatures) for kernel in (synthesis.make, synthesis.lengths)} == {1}
    assert traces.synthetic is synthetic
