"""The arguments of a KV cache's methods, checked and converted to the types that its kernels are compiled for."""

from typing import Any

import numpy as np

from ..base import arguments
from ..kernels.kv_cache import attach

MAX_ID = 2**63 - 1


def seq_id(name: str, value: Any) -> int:
    """Return the id of a sequence, 0 to 2**63-1."""
    if type(value) is int and 0 <= value <= MAX_ID:  # the common case, without a call
        return value
    return arguments.integer(name, value, 0, MAX_ID)


def flag(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {value!r}")


def indptr(name: str, values: Any, n: int | None, total: int) -> np.ndarray:
    """Return where each of n ragged items begins and ends among `total`, int64 (n + 1,)."""
    array = arguments.integers(name, values, 0)
    if len(array) == 0 or (n is not None and len(array) != n + 1):
        raise ValueError(f"{name} must have one entry more than there are items, got {len(array)}")
    if array[0] != 0 or array[-1] != total or (np.diff(array) < 0).any():
        raise ValueError(f"{name} must rise from 0 to {total}, got {array[0]}..{array[-1]}")
    return array


def salts(values: Any, n: int) -> np.ndarray:
    """Return one salt for each of n, int64 (n,), from an int or an array (n,)."""
    if isinstance(values, (int, np.integer)):
        return np.full(n, arguments.integer("salt", values))
    array = arguments.integers("salt", values)
    if len(array) != n:
        raise ValueError(f"salt must be an integer or have one for each of {n}, got {len(array)}")
    return array


def request(seq: int, salt: Any, entries: int, named: int) -> np.ndarray:
    """Return one sequence as `requests` returns several: all `entries` and all ids `named` are its own."""
    row = np.zeros((1, attach.REQUEST), np.int64)
    row[0, attach.SEQ], row[0, attach.SALT] = seq, arguments.integer("salt", salt)
    row[0, attach.LENGTH], row[0, attach.NAMED] = entries, named
    return row


def requests(
    seq_ids: Any, starts: Any, total: int, id_starts: Any | None, ids: int, salt: Any, blocks: bool = False
) -> np.ndarray:
    """Return n sequences as the kernel `kv_cache.attach.attach` takes them, int64 (n, REQUEST).

    Their entries begin and end at `starts` among `total`, the ids that name them at `id_starts` among `ids`.
    """
    seqs = arguments.integers("seq_ids", seq_ids, 0)
    n = len(seqs)
    starts = np.zeros(n + 1, np.int64) if blocks else indptr("indptr", starts, n, total)
    if id_starts is None:
        id_starts = np.zeros(n + 1, np.int64)
    id_starts = indptr("indptr" if blocks else "prefix_indptr", id_starts, n, ids)
    lengths, named = np.diff(starts), np.diff(id_starts)
    if not blocks and (named > lengths).any():
        at = (named > lengths).argmax()
        raise ValueError(f"prefix_tokens must be no longer than kv_tokens, those of seq_ids[{at}] are")
    return np.stack((seqs, salts(salt, n), starts[:-1], lengths, id_starts[:-1], named), axis=1)


def named_entries(array: np.ndarray, prefix: np.ndarray, requests_: np.ndarray) -> np.ndarray:
    """Return entries with the ids of the prefixes in the place of their first ones: for a cache that keeps only ids."""
    array, named = array.copy(), requests_[:, attach.NAMED]
    shift = requests_[:, attach.FIRST] - requests_[:, attach.FIRST_ID]
    array[np.arange(len(prefix)) + np.repeat(shift, named)] = prefix
    return array


def entries(name: str, values: Any, dtype: np.dtype, token_shape: tuple[int, ...]) -> np.ndarray:
    """Return a C-contiguous, writable array (n, *token_shape) of `dtype`; values that do not fit it are refused."""
    if dtype == np.int64 and not token_shape:
        return arguments.integers(name, values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} cannot be converted to an array: {error}") from error
    if array.size == 0 and array.shape[:1] == (0,):
        array = np.empty((0, *token_shape), dtype)
    if array.shape[1:] != token_shape or array.ndim == 0:
        raise ValueError(f"{name} must have shape (n, {', '.join(map(str, token_shape))}), got {array.shape}")
    if array.dtype != dtype:
        whole = array.dtype.kind in "iu" and dtype.kind in "iu"  # whether the values fit is checked below
        same_kind = whole or np.can_cast(array.dtype, dtype, "same_kind")
        if (array.dtype.kind == "b") != (dtype.kind == "b") or not same_kind:
            raise TypeError(f"{name} must be {dtype}, got {array.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused below
            cast = array.astype(dtype)
        if dtype.kind in "iu" and not (cast == array).all():
            raise ValueError(f"{name} must fit {dtype}, got {array.min()}..{array.max()}")
        if dtype.kind in "fc" and (np.isfinite(array) & ~np.isfinite(cast)).any():
            raise ValueError(f"{name} must fit {dtype}, some are too large")
        array = cast
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()
