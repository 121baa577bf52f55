"""Traces of requests to a language model: read from the field's files, made up by rule, run through caches."""

import os
from typing import Any

import numpy as np

from ..base import arguments
from ..kernels.traces import synthesis
from ..kernels.traces import trace as kernels
from . import files as trace_files
from . import synthesis as trace_synthesis
from .hit_rates import Replay, hit_rate_curve, replay
from .reuse import lru_hits, optimal_hits, stack_distances
from .trace import BLOCK_SIZE, Trace

__all__ = [
    "Replay", "Trace", "hit_rate_curve", "lru_hits", "optimal_hits", "read", "read_azure", "read_mooncake", "replay",
    "stack_distances", "synthetic",
]  # fmt: skip


def read(path: str | os.PathLike, *, sort: bool = False) -> Trace:
    """A trace from a file in any format known here, plain or gzip: Mooncake's JSON lines (`read_mooncake`), Azure's CSV
    (`read_azure`), or what `Trace.save` wrote. ValueError if it is in none of them, or damaged."""
    data = trace_files.content(path)
    kind = trace_files.recognised(path, data)
    if kind == trace_files.SAVED:
        return Trace.load(path)
    if kind == trace_files.MOONCAKE:
        return _checked(path, trace_files.mooncake(path, data, BLOCK_SIZE, 1000.0, sort))
    return _checked(path, trace_files.azure(path, data, sort))


def read_mooncake(
    path: str | os.PathLike, *, block_size: int = BLOCK_SIZE, ticks_per_second: float = 1000.0, sort: bool = False
) -> Trace:
    """A trace from JSON lines, plain or gzip, as the Mooncake traces (Qin et al., FAST 2025) have them.

    Every line is an object with `timestamp` (a number, `ticks_per_second` of which are a second), `input_length`,
    `output_length` (integers, tokens) and `hash_ids` (ceil(input_length / block_size) integers); other members are
    ignored. Others who publish in this form have other blocks and units, such as 16 tokens and seconds: `block_size=16,
    ticks_per_second=1`. It does not matter whether ids stand for prefixes or for the tokens of a block alone.

    ValueError names the line that is not so. Times that go back are refused as well, unless `sort`: requests are then
    put in order of arrival, those of one time in the order of their lines. About 15 microseconds a request.
    """
    block_size = arguments.integer("block_size", block_size, 1, kernels.MAX_TOKENS)
    ticks = arguments.real("ticks_per_second", ticks_per_second, 1e-9, 1e9)
    return _checked(path, trace_files.mooncake(path, trace_files.content(path), block_size, ticks, sort))


def read_azure(path: str | os.PathLike, *, sort: bool = False) -> Trace:
    """A trace without block ids from CSV, plain or gzip, as the Azure LLM inference traces have it (2023: Patel et al.,
    ISCA 2024; 2024: Stojkovic et al., HPCA 2025).

    The columns are TIMESTAMP,ContextTokens,GeneratedTokens, as the first line says. A time is "2023-11-16
    18:17:03.9799600" or "2024-05-10 00:00:00.009930+00:00": up to nine decimals or none, and a distance from UTC or
    none.

    ValueError names the line that is not so. `sort` as in `read_mooncake`. About 0.1 microseconds a request.
    """
    return _checked(path, trace_files.azure(path, trace_files.content(path), sort))


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
    """A made-up load of conversations in which each prompt is all that was said before and a new message.

    requests: how many. requests_per_second: their rate once as many conversations end as begin; the first begins at 0
    with none under way, so the rate climbs for some think times. Conversations begin as a Poisson process.
    turns: mean number of turns of a conversation, geometric, 1 or more. think_seconds: time from one turn to the next.
    system_prompts: how many there are; the i-th most popular begins conversations in proportion to 1 / i**zipf.
    system_tokens, opening_tokens, message_tokens, answer_tokens: lengths in tokens of system prompts, of the first
    message of a conversation, of later ones and of answers. These and think_seconds are log-normal, each given as its
    mean and the standard deviation of its logarithm.
    branching: probability that a turn goes back to an earlier one of its conversation, any with the same probability;
    regenerated: the share of these that ask the same again for a new answer, the others put a new message in its place.
    max_input: tokens of the longest prompt. A message is cut to it; a conversation with no room for another ends.
    block_size: tokens a block. Blocks have equal ids exactly where the prompts are equal up to their end; a
    part-filled last block has an id of its own, shared only with the same prompt asked again.

    The defaults resemble the Mooncake conversation trace, which has 3.4 requests a second of 12,035 tokens in (median
    6,909) and 343 out and .37 of its blocks seen before: with seeds 0 to 4 and 12,000 requests they gave 3.2 to 3.3,
    11,800 to 12,400 (6,900 to 7,300), 336 to 343 and .37 to .39, and least-recently-used caches of 1,000 to 100,000
    blocks find .02 to .05, .04 to .07, .20 to .23, .35 to .38 and .37 to .39 (there .04, .07, .21, .33, .36).

    The same arguments give the same trace, bit for bit (on one machine: logarithms may differ in the last bit
    elsewhere). O(blocks + requests * log requests): about 1 microsecond a request after compilation. ValueError or
    TypeError names what is wrong.

    >>> synthetic(seed=1, requests=1000).stats()["requests"]
    1000
    """
    seed = arguments.integer("seed", seed)
    requests = arguments.integer("requests", requests, 0, 2**31 - 3)
    rate = arguments.real("requests_per_second", requests_per_second, 1e-9, 1e9)
    turns = arguments.real("turns", turns, 1.0, 1e9)
    system_prompts = arguments.integer("system_prompts", system_prompts, 1, 2**24)
    settings = np.empty(synthesis.SETTINGS)
    settings[synthesis.GAP] = turns / rate
    settings[synthesis.MORE] = 1 - 1 / turns
    settings[synthesis.BRANCH] = arguments.real("branching", branching, 0.0, 1.0)
    settings[synthesis.REGENERATE] = arguments.real("regenerated", regenerated, 0.0, 1.0)
    settings[[synthesis.THINK, synthesis.THINK_SPREAD]] = _log_normal("think_seconds", think_seconds, 0.0)
    settings[[synthesis.OPENING, synthesis.OPENING_SPREAD]] = _log_normal("opening_tokens", opening_tokens)
    settings[[synthesis.MESSAGE, synthesis.MESSAGE_SPREAD]] = _log_normal("message_tokens", message_tokens)
    settings[[synthesis.ANSWER, synthesis.ANSWER_SPREAD]] = _log_normal("answer_tokens", answer_tokens)
    popularity = np.cumsum(np.arange(1.0, system_prompts + 1) ** -arguments.real("zipf", zipf, 0.0, 100.0))
    columns = trace_synthesis.columns(
        seed,
        requests,
        settings,
        popularity / popularity[-1],
        _log_normal("system_tokens", system_tokens),
        arguments.integer("block_size", block_size, 1, kernels.MAX_TOKENS),
        arguments.integer("max_input", max_input, 2, 2**24),
    )
    return Trace(**columns._asdict())


def _log_normal(name: str, value: Any, low: float = 1.0) -> tuple[float, float]:
    """A mean, and a standard deviation of the logarithm."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be (mean, standard deviation of the logarithm), got {value!r}")
    return arguments.real(f"{name}[0]", value[0], low, 1e9), arguments.real(f"{name}[1]", value[1], 0.0, 10.0)


def _checked(path: str | os.PathLike, columns: trace_files.Columns) -> Trace:
    try:
        return Trace(**columns._asdict())
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
