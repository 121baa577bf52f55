"""The arrays of a scheduler from files, old ones brought to the present version."""

from typing import Any

import numpy as np

from ..base.files import Arrays, Schema, expect
from ..kernels import table
from ..kernels.scheduler import check, layout
from ..kernels.scheduler.policies import CUSTOM, LPM
from ..kv_cache.cache import KVCache
from .state import MAX_BATCH_SIZE
from .write import id_type

SCHEMA: Schema = {"arena": (np.int64, 1), "ledger": (np.int64, 1)}
VERSION = 2
_OLD_LEDGER = layout.LAST  # the length of a ledger of version 1


def from_arrays(arrays: Arrays, priority_fn: Any, cache: KVCache | None) -> layout.Arrays:
    """Return the arrays of a file, which `state.fault` has yet to examine.

    ValueError if they do not belong together, or if the priority_fn or the cache is missing or not needed.
    """
    arena, ledger = arrays["arena"], arrays["ledger"]
    if len(arena) >= table.HEAD and arena[table.COLUMNS] == check.OLD_WIDTH:
        done, arena = check.upgraded(arena, 0)
        expect(bool(done and len(ledger) == _OLD_LEDGER), "its requests do not add up")
        size = int(ledger[layout.MAX_SIZE])
        expect(1 <= size <= MAX_BATCH_SIZE, "its batches are of no possible size")
        ledger = np.concatenate((ledger, np.zeros(1 + size, np.int64)))
    expect(bool(check.well_formed(arena)), "its requests do not add up")
    prompts, policy = layout.parts(arena).prompts, arena[layout.POLICY]
    _match("priority_fn", policy == CUSTOM, priority_fn)
    _match("cache", prompts[layout.ID_BYTES] > 0 or policy == LPM, cache)
    if cache is not None and id_type(cache, bool(prompts[layout.BLOCKS])).itemsize != prompts[layout.ID_BYTES]:
        raise ValueError(f"cache must have ids of {prompts[layout.ID_BYTES]} bytes")
    return layout.Arrays(arena, ledger)


def _match(name: str, needed: bool, given: Any) -> None:
    if needed and given is None:
        raise ValueError(f"this scheduler needs its {name} again")
    if not needed and given is not None:
        raise ValueError(f"this scheduler takes no {name}")
