"""The columns of a trace from the files in which the field publishes them. Files are never trusted.

A reader is `reader(path, data, sort)`, which returns `Columns`, or raises a ValueError that names the file and what is
wrong; `data` is the whole content, unpacked. The table of formats is `FORMATS` in `traces.sources`.
"""

import gzip
import json
import math
import os
import zlib
from typing import Any, NamedTuple

import numpy as np

from ..kernels.traces import csv as kernels
from ..kernels.traces.trace import MAX_TOKENS

AZURE_HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ROWS = 1 << 18  # of one kernel call, about 30 ms
_WHY = {
    kernels.TIME: "TIMESTAMP is no time such as 2023-11-16 18:17:03.9799600",
    kernels.INPUT: "ContextTokens must be an integer in 1..2**31-1",
    kernels.OUTPUT: "GeneratedTokens must be an integer in 0..2**31-1",
    kernels.COLUMNS: "there must be three columns",
}


class Columns(NamedTuple):
    """The arguments of `traces.Trace`, in its order."""

    arrivals: np.ndarray
    input_lengths: np.ndarray
    output_lengths: np.ndarray
    block_ids: np.ndarray | None = None
    indptr: np.ndarray | None = None
    block_size: int = 512


def content(path: str | os.PathLike) -> bytes:
    """Return the bytes of a file, unpacked if they are gzip, without a byte order mark; ValueError for damaged gzip."""
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{os.fspath(path)}: damaged gzip ({error})") from error
    return data.removeprefix(_BYTE_ORDER_MARK)


def mooncake(
    path: str | os.PathLike, data: bytes, sort: bool, block_size: int = 512, ticks_per_second: float = 1000.0
) -> Columns:
    """Return the columns of Mooncake's JSON lines; ValueError names what is wrong, and where."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    times, ids = np.empty(len(lines)), []
    inputs, outputs = np.empty(len(lines), np.int64), np.empty(len(lines), np.int64)
    for row, line in enumerate(lines):
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
            raise ValueError(f"{_where(path, row)}: no JSON ({error})") from error
        fault = _mooncake_fault(request, block_size)
        if fault:
            raise ValueError(f"{_where(path, row)}: {fault}")
        times[row] = request["timestamp"]
        inputs[row], outputs[row] = request["input_length"], request["output_length"]
        ids.append(np.array(request["hash_ids"], np.int64))
    order = _order(path, times, 0, sort)
    counts = np.array([len(some) for some in ids], np.int64)[order]
    return Columns(
        arrivals=(times[order] - times[order][:1]) / ticks_per_second,
        input_lengths=inputs[order],
        output_lengths=outputs[order],
        block_ids=np.concatenate([np.empty(0, np.int64), *(ids[row] for row in order)]),
        indptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        block_size=block_size,
    )


def _mooncake_fault(request: Any, block_size: int) -> str | None:
    """Return what is wrong with the content of a line, None if nothing is."""
    if type(request) is not dict:
        return f"must be an object, is {type(request).__name__}"
    missing = [name for name in ("timestamp", "input_length", "output_length", "hash_ids") if name not in request]
    if missing:
        return f"lacks {', '.join(missing)}"
    time, ids = request["timestamp"], request["hash_ids"]
    if type(time) not in (int, float) or not 0 <= time < 2**63:  # NaN fails this too
        return f"timestamp must be a number of 0 or more, is {_shown(time)}"
    for name, low in (("input_length", 1), ("output_length", 0)):
        if type(request[name]) is not int or not low <= request[name] <= MAX_TOKENS:
            return f"{name} must be an integer in {low}..2**31-1, is {_shown(request[name])}"
    if type(ids) is not list or not set(map(type, ids)) <= {int} or (ids and not 0 <= min(ids) <= max(ids) < 2**63):
        return "hash_ids must be a list of integers in 0..2**63-1"
    wanted = -(-request["input_length"] // block_size)
    if len(ids) != wanted:
        return (
            f"hash_ids must be ceil(input_length / {block_size}) = {wanted} for an input_length of "
            f"{request['input_length']}, are {len(ids)}"
        )
    return None


def azure(path: str | os.PathLike, data: bytes, sort: bool) -> Columns:
    """Return the columns of Azure's CSV, which has no block ids; ValueError names what is wrong, and where."""
    head = data.split(b"\n", 1)[0]
    if head.rstrip(b"\r") != AZURE_HEADER:
        raise ValueError(f"{_where(path, 0)}: must be {AZURE_HEADER.decode()}, is {_shown(head)}")
    text = np.frombuffer(bytearray(data), np.uint8)
    at = min(len(head) + 1, len(data))
    rows = np.count_nonzero(text[at:] == 10) + int(at < len(data) and data[-1] != 10)
    nanoseconds, inputs, outputs = (np.empty(rows, np.int64) for _ in range(3))
    done = 0
    while done < rows:
        stop = min(done + _ROWS, rows)
        code, at, done = kernels.azure_rows(text, at, done, stop, nanoseconds, inputs, outputs)
        if code != kernels.OK:
            line = data[at : at + 100].split(b"\n")[0]
            raise ValueError(f"{_where(path, done + 1)}: {_WHY[code]}, the line is {_shown(line)}")
    order = _order(path, nanoseconds, 1, sort)
    nanoseconds = nanoseconds[order]
    return Columns((nanoseconds - nanoseconds[:1]) / 1e9, inputs[order], outputs[order])


def _order(path: str | os.PathLike, times: np.ndarray, header: int, sort: bool) -> np.ndarray:
    """Return the rows in order of their times; ValueError if that is not the order of the lines, unless `sort`."""
    if type(sort) is not bool:
        raise TypeError(f"sort must be a bool, got {sort!r}")
    if sort:
        return np.argsort(times, kind="stable")
    back = np.flatnonzero(times[1:] < times[:-1])
    if back.size:
        raise ValueError(
            f"{_where(path, int(back[0]) + 1 + header)}: its time is before that of the line above; "
            "sort=True puts the requests in order"
        )
    return np.arange(len(times))


def _where(path: str | os.PathLike, row: int) -> str:
    """Return the name of a file and the line of a row."""
    return f"{os.fspath(path)}, line {row + 1}"


def _shown(value: Any) -> str:
    """Return a value of a file as text, cut if it is long."""
    if type(value) is int and not math.log2(abs(value) + 1) < 128:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
