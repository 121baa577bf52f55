"""Traces of requests to a language model: read from files in the field's formats, or synthetic."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..kernels.traces import synthesis as kernels
from ..kernels.traces.trace import MAX_TOKENS
from . import files, synthesis
from .files import Columns
from .hit_rates import Replay, hit_rate_curve, replay
from .reuse import lru_hits, optimal_hits, stack_distances
from .trace import BLOCK_SIZE, Trace

__all__ = [
    "Replay", "Trace", "hit_rate_curve", "lru_hits", "optimal_hits", "read", "read_azure", "read_mooncake", "replay",
    "stack_distances", "synthetic",
]  # fmt: skip


class Format(NamedTuple):
    """A format of traces, which `read` recognises by how a file's content begins."""

    begins: bytes
    reader: Callable[[str | os.PathLike, bytes, bool], Columns | Trace]


# Every format that `read` accepts; the first that matches is used. To add one: a reader in `traces.files`, a line here.
FORMATS = {
    "Mooncake JSON lines": Format(b"{", files.mooncake),
    "Azure CSV": Format(files.AZURE_HEADER, files.azure),
    "saved trace": Format(b"PK", lambda path, data, sort: Trace.load(path)),
}


def read(path: str | os.PathLike, *, sort: bool = False) -> Trace:
    """Return a trace from a file in any format known here, plain or gzip.

    Mooncake's JSON lines (`read_mooncake`), Azure's CSV (`read_azure`), or what `Trace.save` wrote. `sort` as in
    `read_mooncake`. ValueError if the content begins like none of them, or is damaged.
    """
    data = files.content(path)
    for known in FORMATS.values():
        if data.startswith(known.begins):
            found = known.reader(path, data, sort)
            return found if isinstance(found, Trace) else _checked(path, found)
    allowed = ", ".join(f"{name} ({known.begins.decode()!r})" for name, known in FORMATS.items())
    raise ValueError(f"{os.fspath(path)}: begins with {data[:40]!r}, must begin like one of: {allowed}")


def read_mooncake(
    path: str | os.PathLike, *, block_size: int = BLOCK_SIZE, ticks_per_second: float = 1000.0, sort: bool = False
) -> Trace:
    """Return a trace from JSON lines, plain or gzip, in the format of the Mooncake traces (Qin et al., FAST 2025).

    Every line is an object with `timestamp` (a number), `input_length`, `output_length` (integers, tokens) and
    `hash_ids` (ceil(input_length / block_size) integers); other members are ignored. An id may stand for a prefix or
    for the tokens of a block only.

    Parameters
    ----------
    path : path-like
        The file.
    block_size : int
        Tokens of a block.
    ticks_per_second : float
        How many units of `timestamp` are a second. Other traces in this format have other blocks and units, such as 16
        tokens and seconds: `block_size=16, ticks_per_second=1`.
    sort : bool
        Whether to put requests in order of arrival, those of one time in the order of their lines.

    Raises
    ------
    ValueError
        Names the line that is wrong, also one whose time is before that of the line above, unless `sort`.

    Notes
    -----
    About 15 microseconds a request.
    """
    block_size = arguments.integer("block_size", block_size, 1, MAX_TOKENS)
    ticks = arguments.real("ticks_per_second", ticks_per_second, 1e-9, 1e9)
    return _checked(path, files.mooncake(path, files.content(path), sort, block_size, ticks))


def read_azure(path: str | os.PathLike, *, sort: bool = False) -> Trace:
    """Return a trace without block ids from CSV, plain or gzip, in the format of the Azure LLM inference traces.

    They are those of 2023 (Patel et al., ISCA 2024) and 2024 (Stojkovic et al., HPCA 2025). The columns are
    TIMESTAMP,ContextTokens,GeneratedTokens, as the first line must say. A time is "2023-11-16 18:17:03.9799600" or
    "2024-05-10 00:00:00.009930+00:00": up to nine decimals or none, and an offset from UTC or none.

    ValueError names the line that is wrong. `sort` as in `read_mooncake`. About 0.1 microseconds a request.
    """
    return _checked(path, files.azure(path, files.content(path), sort))


def synthetic(
    seed: int = 0,
    *,
    requests: int = 10_000,
    requests_per_second: float = 3.4,
    turns: float = 1.7,
    think_seconds: tuple[float, float] = (200.0, 0.8),
    system_prompts: int = 50,
    zipf: float = 1.2,
    system_tokens: tuple[float, float] = (1000.0, 0.7),
    opening_tokens: tuple[float, float] = (9000.0, 1.2),
    message_tokens: tuple[float, float] = (4000.0, 1.2),
    answer_tokens: tuple[float, float] = (340.0, 0.8),
    branching: float = 0.1,
    regenerated: float = 0.5,
    max_input: int = 131_072,
    block_size: int = BLOCK_SIZE,
) -> Trace:
    """Return a synthetic load of conversations: each prompt is the whole conversation before it and a new message.

    Lengths and times given as a pair are log-normal: the mean, and the standard deviation of the logarithm.

    Parameters
    ----------
    seed : int
        The same arguments give the same trace, bit for bit (on one machine: logarithms may differ in the last bit
        elsewhere).
    requests : int
        How many.
    requests_per_second : float
        Their rate once as many conversations end as begin; the first begins at 0 with none under way, so the rate
        climbs for some think times. Conversations begin as a Poisson process.
    turns : float
        Mean number of turns of a conversation, geometric, 1 or more.
    think_seconds : (float, float)
        Time from one turn to the next.
    system_prompts, zipf : int, float
        How many system prompts there are; the i-th most popular begins conversations in proportion to 1 / i**zipf.
    system_tokens, opening_tokens, message_tokens, answer_tokens : (float, float)
        Tokens of system prompts, of the first message of a conversation, of later ones and of answers.
    branching, regenerated : float
        Probability that a turn goes back to an earlier one of its conversation, any with the same probability; and the
        share of these that ask the same again for a new answer, while the others replace the message.
    max_input : int
        Tokens of the longest prompt. A message is cut to it; a conversation with no room for another ends.
    block_size : int
        Tokens of a block. Blocks have equal ids exactly where the prompts are equal up to their end; a part-filled last
        block has an id of its own, shared only with the same prompt asked again.

    Returns
    -------
    Trace
        With block ids.

    Notes
    -----
    The defaults resemble the Mooncake conversation trace, which has 3.4 requests a second of 12,035 tokens in (median
    6,909) and 343 out and .37 of its blocks seen before: with seeds 0 to 4 and 12,000 requests they gave 3.2 to 3.3,
    11,800 to 12,400 (6,900 to 7,300), 336 to 343 and .37 to .39, and least-recently-used caches of 1,000 to 100,000
    blocks find .02 to .05, .04 to .07, .20 to .23, .35 to .38 and .37 to .39 (there .04, .07, .21, .33, .36).
    O(blocks + requests * log requests): about 1 microsecond a request after compilation.

    Examples
    --------
    >>> synthetic(seed=1, requests=1000).stats()["requests"]
    1000
    """
    seed = arguments.integer("seed", seed)
    requests = arguments.integer("requests", requests, 0, 2**31 - 3)
    rate = arguments.real("requests_per_second", requests_per_second, 1e-9, 1e9)
    turns = arguments.real("turns", turns, 1.0, 1e9)
    system_prompts = arguments.integer("system_prompts", system_prompts, 1, 2**24)
    settings = np.empty(kernels.SETTINGS)
    settings[kernels.GAP] = turns / rate
    settings[kernels.MORE] = 1 - 1 / turns
    settings[kernels.BRANCH] = arguments.real("branching", branching, 0.0, 1.0)
    settings[kernels.REGENERATE] = arguments.real("regenerated", regenerated, 0.0, 1.0)
    settings[[kernels.THINK, kernels.THINK_SPREAD]] = _log_normal("think_seconds", think_seconds, 0.0)
    settings[[kernels.OPENING, kernels.OPENING_SPREAD]] = _log_normal("opening_tokens", opening_tokens)
    settings[[kernels.MESSAGE, kernels.MESSAGE_SPREAD]] = _log_normal("message_tokens", message_tokens)
    settings[[kernels.ANSWER, kernels.ANSWER_SPREAD]] = _log_normal("answer_tokens", answer_tokens)
    popularity = np.cumsum(np.arange(1.0, system_prompts + 1) ** -arguments.real("zipf", zipf, 0.0, 100.0))
    columns = synthesis.columns(
        seed,
        requests,
        settings,
        popularity / popularity[-1],
        _log_normal("system_tokens", system_tokens),
        arguments.integer("block_size", block_size, 1, MAX_TOKENS),
        arguments.integer("max_input", max_input, 2, 2**24),
    )
    return Trace(**columns._asdict())


def _log_normal(name: str, value: Any, low: float = 1.0) -> tuple[float, float]:
    """Return a mean and a standard deviation of the logarithm, checked."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be (mean, standard deviation of the logarithm), got {value!r}")
    return arguments.real(f"{name}[0]", value[0], low, 1e9), arguments.real(f"{name}[1]", value[1], 0.0, 10.0)


def _checked(path: str | os.PathLike, columns: Columns) -> Trace:
    """Return the trace of columns from a file; ValueError names the file."""
    try:
        return Trace(**columns._asdict())
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
