"""Traces read from the field's files, and what is said of files that are not as they should be."""

import csv
import datetime
import gzip
import json
import random

import numpy as np
import pytest

from llmds import traces
from llmds.kernels.traces import csv as trace_text
from llmds.traces import sources
from llmds.traces.files import Columns

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
LINE = {"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace"


def lines(*changes):
    """JSON lines like LINE with changes."""
    return "".join(json.dumps({**LINE, **change}) + "\n" for change in changes)


def test_the_mooncake_trace(data):
    file = data / "traces" / "mooncake_conversation.jsonl.gz"
    trace = traces.read(file)
    with gzip.open(file) as content:
        requests = [json.loads(line) for line in content]
    assert trace.arrivals.tolist() == [request["timestamp"] / 1000 for request in requests]
    assert trace.input_lengths.tolist() == [request["input_length"] for request in requests]
    assert trace.output_lengths.tolist() == [request["output_length"] for request in requests]
    assert trace.block_ids.tolist() == [block for request in requests for block in request["hash_ids"]]
    assert trace.indptr.tolist() == np.cumsum([0, *(len(request["hash_ids"]) for request in requests)]).tolist()
    stats = trace.stats()
    assert (stats["requests"], stats["blocks"], stats["distinct_blocks"]) == (12_031, 288_500, 182_790)
    assert (round(stats["input_mean"]), round(stats["output_mean"])) == (12_035, 343)


@pytest.mark.parametrize(
    "name, requests, means", [("code", 8819, (2048, 28)), ("conv", 19_366, (1155, 211))], ids=["code", "conv"]
)
def test_the_azure_traces(data, name, requests, means):
    file = data / "traces" / f"azure_llm_{name}_2023.csv"
    trace = traces.read(file)
    with open(file) as content:
        content.readline()
        rows = list(csv.reader(content))
    assert trace.input_lengths.tolist() == [int(row[1]) for row in rows]
    assert trace.output_lengths.tolist() == [int(row[2]) for row in rows]
    times = [datetime.datetime.fromisoformat(row[0][:-1]) for row in rows]  # without the last of seven decimals
    expected = [(time - times[0]).total_seconds() for time in times]
    np.testing.assert_allclose(trace.arrivals, expected, rtol=0, atol=1e-6)
    stats = trace.stats()
    assert (stats["requests"], round(stats["input_mean"]), round(stats["output_mean"])) == (requests, *means)
    assert stats["blocks"] == 0


def test_mooncake_lines_become_a_trace(path):
    path.write_text(lines({}, {"timestamp": 5.5, "more": [1]}, {"timestamp": 7, "input_length": 512, "hash_ids": [9]}))
    for trace in (traces.read(path), traces.read_mooncake(str(path))):
        assert trace.arrivals.tolist() == [0.0, 0.0005, 0.002] and trace.block_size == 512
        assert trace.input_lengths.tolist() == [600, 600, 512] and trace.output_lengths.tolist() == [3, 3, 3]
        assert trace.block_ids.tolist() == [1, 2, 1, 2, 9] and trace.indptr.tolist() == [0, 2, 4, 5]


def test_other_blocks_and_units(path):
    path.write_text(lines({"input_length": 32}, {"input_length": 17, "timestamp": 6.5}))
    trace = traces.read_mooncake(path, block_size=16, ticks_per_second=1)
    assert trace.arrivals.tolist() == [0.0, 1.5] and trace.block_size == 16
    for wrong, error in (
        ({"block_size": 0}, ValueError),
        ({"ticks_per_second": 0}, ValueError),
        ({"sort": 1}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            traces.read_mooncake(path, **{"block_size": 16, **wrong})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last_line_end", [False, True])
def test_line_ends_packing_and_byte_order_marks(path, packed, mark, line_end, last_line_end):
    mooncake = lines({}, {"timestamp": 6}).encode()
    azure = f"{HEADER}\n2023-11-16 18:17:03.9799600,48,10\n2023-11-16 18:17:04.0319600,31,8\n".encode()
    for content in (mooncake, azure):
        content = mark + content.replace(b"\n", line_end)
        content = content if last_line_end else content.removesuffix(line_end)
        path.write_bytes(gzip.compress(content) if packed else content)
        trace = traces.read(path)
        assert len(trace) == 2 and trace.arrivals[1] in (0.001, 0.052)


def test_a_saved_trace_is_read_too(path):
    trace = traces.synthetic(1, requests=20)
    trace.save(path)
    assert np.array_equal(traces.read(path).block_ids, trace.block_ids)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"timestamp": -1}, "timestamp must be a number of 0 or more, is -1"),
        ({"timestamp": float("nan")}, "timestamp .* is nan"),
        ({"timestamp": float("inf")}, "timestamp .* is inf"),
        ({"timestamp": 10**400}, "timestamp .* is a huge integer"),
        ({"timestamp": "5"}, "timestamp .* is '5'"),
        ({"timestamp": True}, "timestamp .* is True"),
        ({"timestamp": 4}, "its time lies before that of the line above; sort=True"),
        ({"input_length": 0, "hash_ids": []}, r"input_length must be an integer in 1\.\.2\*\*31-1, is 0"),
        ({"input_length": 600.0}, r"input_length .* is 600\.0"),
        ({"input_length": 2**31}, "input_length"),
        ({"input_length": 1025}, r"hash_ids must be ceil\(input_length / 512\) = 3 for an input_length of 1025, are 2"),
        ({"output_length": -1}, "output_length .* is -1"),
        ({"output_length": None}, "output_length .* is None"),
        ({"hash_ids": [1]}, "hash_ids must be ceil.* = 2 .*are 1"),
        ({"hash_ids": [1, 2, 3]}, "hash_ids must be .*are 3"),
        ({"hash_ids": [1, -2]}, "hash_ids must be a list of integers"),
        ({"hash_ids": [1, 2.0]}, "hash_ids must be a list of integers"),
        ({"hash_ids": [1, True]}, "hash_ids must be a list of integers"),
        ({"hash_ids": [1, 2**63]}, "hash_ids must be a list of integers"),
        ({"hash_ids": {"1": 2, "2": 3}}, "hash_ids must be a list of integers"),
        ({"hash_ids": None}, "hash_ids must be a list of integers"),
    ],
)
def test_a_wrong_mooncake_line_is_named(path, change, words):
    path.write_text(lines({}, {}, change, {"timestamp": 9}))
    for read in (traces.read, traces.read_mooncake):
        with pytest.raises(ValueError, match=f"trace, line 3: {words}"):
            read(path)


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "no JSON"),
        ('{"timestamp": 5', "no JSON"),
        ("{} {}", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "must be an object, is list"),
        ("{}", "lacks timestamp, input_length, output_length, hash_ids"),
        ('{"timestamp": 1, "hash_ids": []}', "lacks input_length, output_length"),
    ],
)
def test_a_line_that_is_none_is_named(path, line, words):
    path.write_text(lines({}) + line + "\n" + lines({}))
    with pytest.raises(ValueError, match=f"trace, line 2: {words}"):
        traces.read(path)


def test_bytes_that_are_no_text(path):
    path.write_bytes(lines({}).encode() + b'{"timestamp": "\xff\xfe"}\n')
    with pytest.raises(ValueError, match="line 2: no JSON"):
        traces.read(path)


def test_azure_times_in_all_forms(path):
    times = [
        "2024-02-28 23:59:59.9999999",
        "2024-02-28T23:59:59.999999999",
        "2024-02-29 00:00:00",
        "2024-02-29 00:00:01.5+00:00",
        "2024-02-29 01:00:02+01:00",
        "2024-02-28 18:30:03.25-05:30",
        "2024-03-01 00:00:00Z",
        "2100-03-01 00:00:00.000000001",
    ]
    path.write_text("\n".join([HEADER, *(f"{time},1,0" for time in times)]))
    days = (datetime.date(2100, 3, 1) - datetime.date(2024, 2, 29)).days
    midnight = 1e-7
    expected = [0, 0.999e-7, midnight, midnight + 1.5, midnight + 2, midnight + 3.25, midnight + 86_400, days * 86_400]
    np.testing.assert_allclose(traces.read_azure(path).arrivals, expected, rtol=1e-12, atol=2e-9)


def test_every_day_has_its_number(path):
    first = datetime.date(1970, 1, 1)
    days = [first + datetime.timedelta(day) for day in range(0, 292 * 365, 17)]
    path.write_text("\n".join([HEADER, *(f"{day} 00:00:00,1,0" for day in days)]))
    assert (traces.read(path).arrivals / 86_400).tolist() == [(day - first).days for day in days]


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "TIMESTAMP is no time"),
        ("2023-11-16", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03", "TIMESTAMP is no time"),
        (" 2023-11-16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18.17.03,1,1", "TIMESTAMP is no time"),
        ("2023/11/16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-16_18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-13-16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-00-16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-02-29 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2100-02-29 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-31 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-00 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 24:17:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:60:03,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:60,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03.,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03.0123456789,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03+0100,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03+24:00,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03+01:60,1,1", "TIMESTAMP is no time"),
        ("1969-11-16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("2262-11-16 18:17:03,1,1", "TIMESTAMP is no time"),
        ("NaN,1,1", "TIMESTAMP is no time"),
        ("2023-11-16 18:17:03,0,1", r"ContextTokens must be an integer in 1\.\.2\*\*31-1"),
        ("2023-11-16 18:17:03,-5,1", "ContextTokens"),
        ("2023-11-16 18:17:03,,1", "ContextTokens"),
        ("2023-11-16 18:17:03, 5,1", "ContextTokens"),
        ("2023-11-16 18:17:03,2147483648,1", "ContextTokens"),
        ("2023-11-16 18:17:03,99999999999999999999999,1", "ContextTokens"),
        ("2023-11-16 18:17:03,5.0,1", "there must be three columns"),
        ("2023-11-16 18:17:03,5", "there must be three columns"),
        ("2023-11-16 18:17:03,5,-1", r"GeneratedTokens must be an integer in 0\.\.2\*\*31-1"),
        ("2023-11-16 18:17:03,5,nan", "GeneratedTokens"),
        ("2023-11-16 18:17:03,5,", "GeneratedTokens"),
        ("2023-11-16 18:17:03,5,1,7", "there must be three columns"),
        ("2023-11-16 18:17:03,5,1 ", "there must be three columns"),
        ("2023-11-16 18:17:03,5,1", "its time lies before that of the line above; sort=True"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_wrong_azure_line_is_named(path, line, words, last):
    following = "" if last and line else "\n2023-11-16 18:17:05,1,1\n"
    path.write_text(f"{HEADER}\n2023-11-16 18:17:04,1,1\n{line}{following}")
    with pytest.raises(ValueError, match=f"trace, line 3: {words}"):
        traces.read(path)


@pytest.mark.parametrize("header", ["TIMESTAMP,ContextTokens", HEADER + ",Model", HEADER.lower()])
def test_other_columns_are_refused(path, header):
    path.write_text(header + "\n2023-11-16 18:17:04,1,1\n")
    with pytest.raises(ValueError, match="line 1: must be TIMESTAMP,ContextTokens,GeneratedTokens, is b"):
        traces.read_azure(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\n{}", b"[]", b"\x00" * 100])
def test_what_is_no_trace(path, content):
    path.write_bytes(content)
    words = "trace: begins with .* must begin like one of: Mooncake JSON lines .*Azure CSV .*saved trace"
    with pytest.raises(ValueError, match=words):
        traces.read(path)


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b", gzip.compress(lines({}).encode(), mtime=0)[:-9], b"\x1f\x8b\x08" + b"\xff" * 50]
)
def test_damaged_packing(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="trace: damaged gzip"):
        traces.read(path)


def test_there_is_no_such_file(path):
    for read in (traces.read, traces.read_azure, traces.read_mooncake):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_files_without_requests(path):
    path.write_text(HEADER)
    assert len(traces.read(path)) == 0
    path.write_text(HEADER + "\n")
    assert len(traces.read_azure(path)) == 0
    path.write_text("")
    assert len(traces.read_mooncake(path)) == 0


def test_sorting_keeps_the_order_of_equal_times(path):
    path.write_text(
        lines(*({"timestamp": time, "output_length": row} for row, time in enumerate((7, 5, 7, 6, 5)))).replace(
            "[1, 2]", "[3, 4]", 1
        )
    )
    trace = traces.read(path, sort=True)
    assert trace.arrivals.tolist() == [0.0, 0.0, 0.001, 0.002, 0.002]
    assert trace.output_lengths.tolist() == [1, 4, 3, 0, 2] and trace.blocks(3).tolist() == [3, 4]
    rows = [f"2023-11-16 18:17:0{second},{row},0" for row, second in ((1, 5), (2, 3), (3, 5), (4, 4))]
    path.write_text("\n".join([HEADER, *rows]))
    trace = traces.read_azure(path, sort=True)
    assert trace.arrivals.tolist() == [0.0, 1.0, 2.0, 2.0] and trace.input_lengths.tolist() == [2, 4, 1, 3]
    with pytest.raises(TypeError, match="sort"):
        traces.read(path, sort=None)


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_do_harm(path, seed):
    """Whatever is in the file, there is a trace that checks, or a ValueError that names the file."""
    chance = random.Random(seed)
    azure = HEADER + "\n" + "".join(f"2023-11-16 18:17:0{i}.12,{i + 1},3\r\n" for i in range(9))
    for whole in (azure.encode(), lines({}, {}, {}).encode()):
        for _ in range(300):
            hurt = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
            for _ in range(chance.randrange(3)):
                if hurt:
                    hurt[chance.randrange(len(hurt))] = chance.choice(b'\n\r,:-. 0129{}[]"\xff\x00a')
            path.write_bytes(hurt)
            try:
                traces.read(path).check()
            except ValueError as error:
                assert str(path) in str(error)


def test_many_rows_come_in_several_calls(path, monkeypatch):
    monkeypatch.setattr("llmds.traces.files._ROWS", 7)
    path.write_text("\n".join([HEADER, *(f"2023-11-16 18:17:{i}.5,{i},{i}" for i in range(10, 60))]))
    trace = traces.read(path)
    assert trace.input_lengths.tolist() == trace.output_lengths.tolist() == list(range(10, 60))
    assert trace.arrivals.tolist() == list(range(50))
    path.write_text(path.read_text() + "\n2023-11-16 18:17:10,1,x")
    with pytest.raises(ValueError, match="line 52: GeneratedTokens"):
        traces.read(path)
    assert len(trace_text.azure_rows.signatures) == 1


def test_a_format_is_a_reader_and_a_line_in_the_table(path, monkeypatch):
    def reader(path, data, sort):
        rows = np.array([line.split(b";") for line in data.splitlines()[1:]], np.float64)
        return Columns(rows[:, 0], rows[:, 1].astype(np.int64), rows[:, 2].astype(np.int64))

    path.write_text("#semicolons\n0;5;1\n1.5;7;0\n")
    with pytest.raises(ValueError, match="trace: begins with b'#semicolons"):
        traces.read(path)
    monkeypatch.setitem(sources.FORMATS, "semicolons", sources.Format(b"#semicolons", reader))
    trace = traces.read(path)
    assert trace.arrivals.tolist() == [0.0, 1.5] and trace.input_lengths.tolist() == [5, 7]
    path.write_text("#semicolons\n0;0;1\n")
    with pytest.raises(ValueError, match=r"trace: .*input_lengths"):
        traces.read(path)
    path.write_text("#commas\n0;0;1\n")
    with pytest.raises(ValueError, match=r"#commas.*#semicolons"):
        traces.read(path)
