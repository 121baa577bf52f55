"""The arguments of requests and of changes to them, checked and brought to what the kernels are compiled for."""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..kernels.scheduler import policies
from ..kernels.scheduler.layout import MOST_TOKENS
from ..kv_cache import ragged
from ..kv_cache.cache import KVCache
from .state import POLICIES

NO_LIMIT = 2**62
LARGEST = sys.float_info.max
EXACT = 2**53  # up to which every integer is a float64
NO_IDS, _NONE, _NO_TIMES = np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0)


class Columns(NamedTuple):
    """What is known of n requests that are submitted, as the kernel `submit_many` takes it."""

    tokens: np.ndarray  # int64 (n,)
    slos: np.ndarray  # float64 (n,), seconds, or (0,) if there are no deadlines
    keys: np.ndarray  # float64 (n,), priorities, or (0,) if all are 0
    tenants: np.ndarray  # int64 (n,), or (0,) if all are 0
    prompts: np.ndarray  # ids end to end, as wide as the cache keeps them
    indptr: np.ndarray  # int64 (n + 1,), where each prompt begins and ends, or (0,) if there are none
    salts: np.ndarray  # int64 (n,), or (0,) if all are 0

    def part(self, which: slice) -> "Columns":
        """Return those of a run of the requests."""
        part = self._replace(
            tokens=self.tokens[which], slos=self.slos[which], keys=self.keys[which], tenants=self.tenants[which]
        )
        if not len(self.indptr):
            return part
        starts = self.indptr[which.start : which.stop + 1]
        prompts = self.prompts[starts[0] : starts[-1]]
        return part._replace(prompts=prompts, indptr=starts - starts[0], salts=self.salts[which])

    def request(self, e: int) -> tuple[int, float, float, int, np.ndarray | None, int]:
        """Return what is known of one request: tokens, slo, key, tenant, prompt (None if there is none) and salt."""
        slo = float(self.slos[e]) if len(self.slos) else math.inf
        tenant, salt = (int(column[e]) if len(column) else 0 for column in (self.tenants, self.salts))
        prompt = self.prompts[self.indptr[e] : self.indptr[e + 1]] if len(self.indptr) else None
        return int(self.tokens[e]), slo, 0.0, tenant, prompt, salt

    @property
    def data(self) -> np.ndarray:
        """The bytes of the prompts, uint8."""
        return self.prompts.view(np.uint8)


def columns(
    tokens: Any, slo_ms: Any, priority: Any, tenant: Any, prompts: np.ndarray | None, indptr: Any, salt: Any
) -> Columns:
    """Return the arguments of `Scheduler.submit_many` as columns; `prompts` are ids of the cache's type, or None."""
    tokens = arguments.integers("tokens", tokens, 0, MOST_TOKENS)
    n = len(tokens)
    if slo_ms is None:
        slos = _NO_TIMES
    elif np.ndim(slo_ms) == 0:
        slos = np.full(n, arguments.real("slo_ms", slo_ms, 0.0))
    else:
        slos = arguments.reals("slo_ms", slo_ms, 0.0)
        arguments.same_length(tokens=tokens, slo_ms=slos)
    keys = for_each("priority", priority, n, -EXACT, EXACT).astype(np.float64)
    tenants, salts = for_each("tenant", tenant, n), for_each("salt", salt, n)
    if (prompts is None) != (indptr is None):
        raise ValueError("prompts and indptr must both be given, or neither")
    if prompts is None:
        return Columns(tokens, slos / 1000, keys, tenants, NO_IDS, _NONE, salts)
    starts = ragged.indptr("indptr", indptr, n, len(prompts))
    return Columns(tokens, slos / 1000, keys, tenants, prompts, starts, salts if len(salts) else np.zeros(n, np.int64))


def one(tokens: int, slo: float, key: float, tenant: int, prompt: np.ndarray, salt: int) -> Columns:
    """Return the columns of one request with a prompt."""
    return Columns(
        np.array((tokens,)), np.array((slo,)), np.array((key,)), np.array((tenant,)), prompt,
        np.array((0, len(prompt))), np.array((salt,)),
    )  # fmt: skip


def for_each(name: str, values: Any, n: int, low: int = arguments.INT64_MIN, high: int = arguments.INT64_MAX) -> Any:
    """Return one integer for each of n, int64 (n,), from an int or an array (n,); (0,) if it is 0 for all."""
    if np.ndim(values) == 0:
        value = arguments.integer(name, values, low, high)
        return np.full(n, value) if value else _NONE
    array = arguments.integers(name, values, low, high)
    if len(array) != n:
        raise ValueError(f"{name} must be an integer or have one for each of {n}, got {len(array)}")
    return array


def policy(name: Any, priority_fn: Any, cache: Any) -> int:
    """Return the number of the policy that the constructor's arguments give, which must go together."""
    if cache is not None and not isinstance(cache, KVCache):
        raise TypeError(f"cache must be a KVCache, got {cache!r}")
    if priority_fn is None:
        name = arguments.one_of("policy", "sjf" if name is None else name, POLICIES)
        if cache is None and name == "lpm":
            raise ValueError("policy='lpm' needs a cache to look prompts up in, got cache=None")
        return policies.POLICIES.index(name)
    if name is not None:
        raise ValueError(f"policy and priority_fn both give the key, got policy={name!r} and a priority_fn")
    if not callable(priority_fn):
        raise TypeError(f"priority_fn must be a callable that takes a Request, got {priority_fn!r}")
    return policies.CUSTOM


def id_type(cache: KVCache, blocks: bool) -> np.dtype:
    """Return the type of the ids of prompts that are looked up in `cache`."""
    return np.dtype(np.int64) if blocks else cache.id_dtype


def prompt_ids(name: str, ids: Any, cache: KVCache | None, blocks: bool) -> np.ndarray:
    """Return ids of prompts (n,) of the type in which they are looked up in `cache`."""
    if cache is None:
        raise ValueError(f"{name} needs a cache to be looked up in, this scheduler has none")
    return ragged.entries(name, ids, id_type(cache, blocks), ())


def limit(name: str, value: Any, low: int, high: int, none: int) -> int:
    """Return an integer in low..high, or `none` for None."""
    return none if value is None else arguments.integer(name, value, low, high)


def token_count(name: str, tokens: Any) -> int:
    """Return the tokens of a request, 0..2**31-1."""
    return arguments.integer(name, tokens, 0, MOST_TOKENS)


def seconds(slo_ms: Any) -> float:
    """Return a deadline in seconds."""
    if (type(slo_ms) is float or type(slo_ms) is int) and 0 <= slo_ms <= LARGEST:  # the common case, without a call
        return slo_ms / 1000
    return arguments.real("slo_ms", slo_ms, 0.0) / 1000


def flag(name: str, value: Any) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return bool(value)
