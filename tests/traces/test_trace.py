"""Traces of requests: what they may be, their parts, and the tokens that stand for their blocks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import llmds
from llmds.kernels.traces import trace as kernels
from llmds.traces import Trace, synthetic
from tests import face

SIZE = 4


def made(*requests, block_size=SIZE):
    """A trace of (arrival, input length, output length, ids)."""
    arrivals, inputs, outputs, ids = zip(*requests, strict=True) if requests else ((), (), (), ())
    indptr = np.cumsum([0, *map(len, ids)])
    return Trace(arrivals, inputs, outputs, [block for some in ids for block in some], indptr, block_size)


@pytest.fixture
def trace():
    return made((0.0, 8, 1, [5, 6]), (1.0, 9, 0, [5, 6, 7]), (1.0, 3, 2, [8]), (4.5, 5, 9, [5, 9]))


def rows(trace):
    columns = (trace.arrivals, trace.input_lengths, trace.output_lengths)
    return [
        (*(column[i].item() for column in columns), trace.blocks(i).tolist()) for i in range(len(trace))
    ]  # fmt: skip


def test_arrays_are_of_the_promised_types_whatever_came():
    trace = made((0, 8, 1, [5, 6]), (1, 1, 0, [7]))
    assert trace.arrivals.dtype == np.float64 and type(trace.block_size) is int
    for array in (trace.input_lengths, trace.output_lengths, trace.block_ids, trace.indptr):
        assert array.dtype == np.int64 and array.flags.c_contiguous and array.flags.writeable
    assert rows(trace) == [(0.0, 8, 1, [5, 6]), (1.0, 1, 0, [7])]


def test_block_ids_may_be_left_out():
    trace = Trace([0, 2], [100, 1], [0, 5])
    assert trace.block_ids.tolist() == [] and trace.indptr.tolist() == [0, 0, 0] and trace.block_size == 512
    assert trace.blocks(1).tolist() == [] and len(trace) == 2
    assert repr(trace) == "Trace(2 requests in 2 s, no block ids)"
    trace.check()


def test_a_trace_of_nothing():
    for empty in (Trace([], [], []), made(), made((0.0, 8, 1, [5, 6]))[1:]):
        empty.check()
        assert len(empty) == len(empty[:]) == len(empty.until(3.0)) == 0
        assert empty.stats()["requests_per_second"] == empty.stats()["input_mean"] == empty.stats()["seen_before"] == 0
        assert [array.tolist() for array in empty.tokens()] == [[], [0]]
        assert [array.tolist() for array in empty.prefixes()] == [[], []]


GOOD = {
    "arrivals": [0.0, 1.0],
    "input_lengths": [8, 5],
    "output_lengths": [1, 0],
    "block_ids": [5, 6, 5, 7],
    "indptr": [0, 2, 4],
    "block_size": 4,
}


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"arrivals": [1.0, 2.0]}, ValueError, "arrivals must begin at 0.*request 0"),
        ({"arrivals": [0.0, -1.0]}, ValueError, "never decrease, request 1"),
        ({"arrivals": [0.0, np.nan]}, ValueError, "arrivals"),
        ({"arrivals": [0.0, np.inf]}, ValueError, "finite.*request 1"),
        ({"arrivals": ["a", "b"]}, TypeError, "arrivals"),
        ({"arrivals": [0.0]}, ValueError, "lengths must match, got arrivals of 1"),
        ({"input_lengths": [8, 0], "indptr": [0, 2, 2], "block_ids": [5, 6]}, ValueError, "input_lengths.*request 1"),
        ({"input_lengths": [2**31, 5]}, ValueError, "input_lengths"),
        ({"input_lengths": [8.0, 5.0]}, TypeError, "input_lengths"),
        ({"input_lengths": [8, 5, 5]}, ValueError, "input_lengths of 3"),
        ({"output_lengths": [1, -1]}, ValueError, "output_lengths.*request 1"),
        ({"output_lengths": [1, 2**31]}, ValueError, "output_lengths"),
        ({"output_lengths": [1]}, ValueError, "output_lengths of 1"),
        ({"block_ids": [5, 6, 5, -7]}, ValueError, "block_ids must lie in 0..*request 1"),
        ({"block_ids": [5, 6, 5]}, ValueError, "indptr must have shape"),
        ({"block_ids": [5.0, 6.0, 5.0, 7.0]}, TypeError, "block_ids"),
        ({"block_ids": None}, ValueError, "come together"),
        ({"indptr": None}, ValueError, "come together"),
        ({"indptr": [0, 4]}, ValueError, r"indptr must have shape \(3,\)"),
        ({"indptr": [1, 2, 4]}, ValueError, "lead from 0"),
        ({"indptr": [0, 3, 4]}, ValueError, "ceil.*request 0"),
        ({"indptr": [0, 5, 4]}, ValueError, "ceil.*request 0"),
        ({"indptr": [0, -2, 4]}, ValueError, "ceil.*request 0"),
        ({"input_lengths": [8, 9]}, ValueError, "ceil.*request 1"),
        ({"block_size": 0}, ValueError, "block_size"),
        ({"block_size": 4.0}, TypeError, "block_size"),
        ({"block_size": True}, TypeError, "block_size"),
    ],
)
def test_what_breaks_a_rule_is_refused(change, error, words):
    Trace(**GOOD)
    with pytest.raises(error, match=words):
        Trace(**{**GOOD, **change})


def test_all_requests_have_ids_or_none_has():
    with pytest.raises(ValueError, match="or none to any, request 1"):
        Trace([0, 1], [4, 4], [1, 1], [3], [0, 1, 1], 4)


def test_a_trace_cannot_be_changed_but_varied(trace):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.arrivals = np.zeros(4)
    twice = dataclasses.replace(trace, arrivals=trace.arrivals / 2)
    assert twice.arrivals.tolist() == [0.0, 0.5, 0.5, 2.25] and twice.block_ids is trace.block_ids


@pytest.mark.parametrize(
    "which", [slice(None), slice(2), slice(1, 3), slice(-2, None), slice(0, 4, 2), slice(1, None, 3), slice(3, 1)]
)
def test_slices_begin_anew_with_their_first_request(trace, which):
    part, expected = trace[which], rows(trace)[which]
    part.check()
    assert rows(part) == [(arrival - expected[0][0], *rest) for arrival, *rest in expected]
    assert part.block_size == SIZE


@given(mask=st.lists(st.booleans(), min_size=4, max_size=4))
def test_masks_take_any_requests(mask):
    trace = made((0.0, 8, 1, [5, 6]), (1.0, 9, 0, [5, 6, 7]), (1.0, 3, 2, [8]), (4.5, 5, 9, [5, 9]))
    part = trace[np.array(mask)]
    expected = [row for row, wanted in zip(rows(trace), mask, strict=True) if wanted]
    part.check()
    assert rows(part) == [(arrival - expected[0][0], *rest) for arrival, *rest in expected]


def test_parts_of_a_trace_without_ids():
    trace = Trace([0, 1, 2], [5, 6, 7], [1, 1, 1])
    assert trace[1:].input_lengths.tolist() == trace[trace.input_lengths > 5].input_lengths.tolist() == [6, 7]


@pytest.mark.parametrize(
    "which, error",
    [(0, TypeError), ([0, 1], TypeError), (slice(None, None, -1), ValueError), (np.array([True]), ValueError)],
)
def test_other_indices_are_refused(trace, which, error):
    with pytest.raises(error):
        trace[which]


def test_until_a_time(trace):
    assert [len(trace.until(seconds)) for seconds in (0.0, 0.5, 1.0, 1.5, 4.5, 9)] == [0, 1, 1, 3, 3, 4]
    with pytest.raises(ValueError, match="seconds"):
        trace.until(-1.0)
    with pytest.raises(ValueError, match="seconds"):
        trace.until(np.nan)


def test_blocks_of_a_request(trace):
    assert trace.blocks(np.int64(3)).tolist() == [5, 9] and trace.blocks(0).base is not None
    for request in (-1, 4):
        with pytest.raises(ValueError, match=r"request must lie in 0\.\.3"):
            trace.blocks(request)


def test_prefixes_are_numbered_as_they_come(trace):
    nodes, parents = trace.prefixes()
    assert nodes.dtype == parents.dtype == np.int32
    assert nodes.tolist() == [0, 1, 0, 1, 2, 3, 0, 4] and parents.tolist() == [-1, 0, 1, -1, 0]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=20))
def test_prefixes_are_those_of_a_plain_tree(requests):
    """Ids that stand for different prefixes, or come twice in one request, are told apart by what is before them."""
    trace = made(*((0.0, SIZE * len(ids), 1, ids) for ids in requests))
    nodes, parents = trace.prefixes()
    known, above = {(): -1}, []
    expected = []
    for ids in requests:
        for end in range(1, len(ids) + 1):
            prefix = tuple(ids[:end])
            if prefix not in known:
                known[prefix] = len(known) - 1
                above.append(known[prefix[:-1]])
            expected.append(known[prefix])
    assert nodes.tolist() == expected and parents.tolist() == above


def test_a_summary(trace):
    found = trace.stats()
    assert found["requests"] == 4 and found["seconds"] == 4.5 and found["requests_per_second"] == 4 / 4.5
    assert (found["input_tokens"], found["input_mean"], found["input_p50"], found["input_max"]) == (25, 6.25, 6.5, 9)
    assert (found["output_tokens"], found["output_mean"], found["output_p50"], found["output_max"]) == (12, 3, 1.5, 9)
    assert found["input_p99"] == pytest.approx(8.97) and found["output_p99"] == pytest.approx(8.79)
    assert (found["blocks"], found["distinct_blocks"], found["longest_request"]) == (8, 5, 3)
    assert found["seen_before"] == 1 - 5 / 8
    assert repr(trace) == "Trace(4 requests in 4 s, 8 blocks of 4 tokens)"


def splitmix(value):
    """The finaliser of SplitMix64, in Python's own integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def plain_tokens(block_id, size, seed, vocabulary):
    """The tokens of one whole block."""
    state = splitmix(block_id ^ splitmix(seed % 2**64))
    halves = []
    for step in range(size):
        bits = splitmix((state + step * 0x9E3779B97F4A7C15) % 2**64)
        halves += [bits >> 32, bits % 2**32]
    return [half * vocabulary >> 32 for half in halves[:size]]


@pytest.mark.parametrize("seed, vocabulary, size", [(0, 128_000, 4), (-5, 7, 3), (2**63 - 1, 2**31 - 1, 5), (1, 1, 1)])
def test_tokens_follow_from_ids(seed, vocabulary, size):
    requests = [[5, 6], [5, 6, 2**63 - 1], [8], [5, 9]]
    lengths = [size * len(ids) - cut for ids, cut in zip(requests, (0, 1, 0, 2), strict=True)]
    if size == 1:
        lengths = [len(ids) for ids in requests]
    trace = made(*((0.0, n, 1, ids) for n, ids in zip(lengths, requests, strict=True)), block_size=size)
    tokens, starts = trace.tokens(seed, vocabulary)
    assert tokens.dtype == np.int32 and starts.dtype == np.int64 and starts.tolist() == [0, *np.cumsum(lengths)]
    for request, ids in enumerate(requests):
        expected = [token for block in ids for token in plain_tokens(block, size, seed, vocabulary)][: lengths[request]]
        assert tokens[starts[request] : starts[request + 1]].tolist() == expected
        assert trace.tokens_of(request, seed, vocabulary).tolist() == expected


def test_tokens_of_a_part_are_those_of_the_whole():
    trace = synthetic(3, requests=60)
    tokens, starts = trace.tokens(seed=9)
    part, _ = trace[20:40].tokens(seed=9)
    assert np.array_equal(part, tokens[starts[20] : starts[40]])
    assert not np.array_equal(part, trace[20:40].tokens(seed=8)[0])
    assert tokens.min() >= 0 and 120_000 < tokens.max() < 128_000 and abs(tokens.mean() / 64_000 - 1) < 0.01


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"seed": 0.5}, TypeError),
        ({"seed": 2**63}, ValueError),
        ({"vocabulary": 0}, ValueError),
        ({"vocabulary": 2**31}, ValueError),
        ({"vocabulary": "many"}, TypeError),
    ],
)
def test_tokens_of_what_seed_and_vocabulary(trace, arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        trace.tokens(**arguments)
    with pytest.raises(error, match=next(iter(arguments))):
        trace.tokens_of(0, **arguments)


def test_no_tokens_without_ids():
    trace = Trace([0, 2], [100, 1], [0, 5])
    with pytest.raises(ValueError, match="no block ids"):
        trace.tokens()
    with pytest.raises(ValueError, match="no block ids"):
        trace.tokens_of(1)


def test_files_and_pickles_keep_everything(trace, tmp_path):
    for other in face.keeps_everything(trace, tmp_path):
        assert rows(other) == rows(trace) and other.block_size == SIZE and type(other.block_size) is int
        assert other.nbytes == trace.nbytes == 8 * (4 + 4 + 4 + 8 + 5)


def test_no_damaged_file_passes_or_crashes(trace, tmp_path):
    face.survives_damage(trace, tmp_path)
    face.survives_damage(synthetic(1, requests=30), tmp_path)
    face.refuses_other_files(Trace, tmp_path)


def test_check_names_what_was_changed(trace):
    trace.indptr[2] = 10**6
    with pytest.raises(AssertionError, match="indptr"):
        trace.check()


def test_every_type_shares_one_compilation(trace):
    Trace(np.zeros(1, np.float32), np.array([4], np.uint8), [1], np.array([1], np.int32), (0, 1), np.int16(4)).tokens(
        np.int8(3), np.uint16(9)
    )
    trace.tokens_of(2)
    assert {len(kernel.signatures) for kernel in (kernels.first_fault, kernels.fill_tokens, kernels.fill_prompt)} == {1}


def test_the_module_is_found_from_the_package():
    assert llmds.traces.Trace is Trace


@njit
def blocks_of_each(arrays):
    """How many blocks each request has, and the last content id of all."""
    counts = np.empty(len(arrays.arrivals), np.int64)
    for r in range(len(counts)):
        counts[r] = arrays.indptr[r + 1] - arrays.indptr[r]
    return counts, arrays.block_ids[-1]


def test_a_compiled_loop_works_on_the_arrays_of_a_trace():
    trace = Trace([0.0, 0.5], [1000, 600], [20, 30], [7, 8, 7, 9], [0, 2, 4])
    counts, last = blocks_of_each(trace.arrays)
    assert counts.tolist() == [2, 2] and last == 9
    assert all(array is getattr(trace, name) for name, array in trace.arrays._asdict().items())
