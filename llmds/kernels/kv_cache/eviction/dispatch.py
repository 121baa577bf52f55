"""The functions of a pool's eviction policy, for the other kernels of the KV cache. `kv_cache.eviction` documents them.

LRU, the default, is compiled into the kernels that call it. Every other policy is compiled when a pool with it is made
or loaded, and not before: head[FUNCTIONS] holds the address of a table of its compiled functions, which kernels call by
their position in it. So kernels are compiled once, whatever policies are used, and adding a policy changes none.
An address is good in one process only, so `bind` must be called on each pool, a copy from another process included.
"""

from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...compiling import njit, njit_no_nrt
from .. import layout
from . import lru, table

LRU = table.POLICIES.index("lru")

_INT64, _INDEX = types.int64, types.int64[::1]
_PAGES = types.NamedTuple((_INDEX, types.int32[:, ::1], types.int64[:, ::1], _INDEX, _INDEX), layout.Pages)
# what a policy's kernels return and take
SIGNATURES = {
    "prepare": types.none(_PAGES),
    "begin": types.none(_PAGES, _INT64),
    "attached": types.none(_PAGES, types.int32[::1], _INT64, _INT64, _INT64),
    "enter": types.none(_PAGES, _INT64),
    "leave": types.none(_PAGES, _INT64),
    "drop": types.none(_PAGES, _INT64),
    "victim": _INT64(_PAGES),
    "evicted": types.none(_PAGES, _INT64),
    "forgotten": types.none(_PAGES, _INT64),
    "fault": types.boolean(_PAGES, types.boolean[::1]),
}


def bind(pool: np.ndarray) -> None:
    """Let kernels call the policy that pool[POLICY] names, compiled where it was not yet. ValueError if unknown."""
    pool[layout.FUNCTIONS] = address_of(int(pool[layout.POLICY]))


def address_of(number: int) -> int:
    """Return what head[FUNCTIONS] must be for a policy: the address of its functions, 0 for LRU.

    ValueError if there is no policy of this number.
    """
    module = table.policy(number)
    return 0 if number == LRU else functions(module).ctypes.data


_functions: dict[ModuleType, np.ndarray] = {}  # of every policy bound so far; pools hold addresses of these arrays


def functions(module: ModuleType) -> np.ndarray:
    """Return the addresses of a policy's functions, in the order of SIGNATURES; always the same array."""
    if module not in _functions:
        made = np.array([_address(getattr(module, name), signature) for name, signature in SIGNATURES.items()])
        _functions.setdefault(module, made)  # not in place of an array that another thread has made and bound meanwhile
    return _functions[module]


def _address(kernel: Any, signature: Any) -> int:
    """Return the address of a kernel compiled for a signature. TypeError if it returns another type."""
    kernel.compile(signature.args)
    compiled = kernel.overloads[signature.args]
    if compiled.signature.return_type != signature.return_type:
        name = f"{kernel.py_func.__module__}.{kernel.__name__}"
        raise TypeError(f"{name} must return {signature.return_type}, not {compiled.signature.return_type}")
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def _indirect(name: str) -> Any:
    """Return f(address, arguments), for kernels: a call of function `name` of the table at `address`."""
    position, signature = list(SIGNATURES).index(name), SIGNATURES[name]
    tuple_type = types.BaseTuple.from_types(signature.args)

    def call(typingctx, address, arguments):
        def codegen(context, builder, _, given):
            convention = context.call_conv
            function_type = convention.get_function_type(signature.return_type, signature.args)
            bound = cgutils.is_not_null(builder, given[0])
            with cgutils.if_unlikely(builder, builder.not_(bound)):
                convention.return_user_exc(builder, ValueError, ("no eviction policy is bound to this pool",))
            entries = builder.inttoptr(given[0], ir.IntType(64).as_pointer())
            entry = builder.load(builder.gep(entries, [ir.Constant(ir.IntType(64), position)]))
            function = builder.inttoptr(entry, function_type.as_pointer())
            values = cgutils.unpack_tuple(builder, given[1])
            status, result = convention.call_function(builder, function, signature.return_type, signature.args, values)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return result

        return signature.return_type(_INT64, tuple_type), codegen

    return intrinsic(call)


_prepare, _begin, _attached, _enter, _leave = map(_indirect, ("prepare", "begin", "attached", "enter", "leave"))
_drop, _victim, _evicted, _forgotten, _fault = map(_indirect, ("drop", "victim", "evicted", "forgotten", "fault"))


@njit(cache=True)
def prepare(pool):
    """Prepare the memory of the policy of a pool that was just filled and bound."""
    pages = layout.parts(pool)
    if pages.head[layout.POLICY] == LRU:
        lru.prepare(pages)
    else:
        _prepare(pages.head[layout.FUNCTIONS], (pages,))


@njit_no_nrt(cache=True)
def begin(pages, page):
    """Note that a referenced page has become findable."""
    if pages.head[layout.POLICY] != LRU:
        _begin(pages.head[layout.FUNCTIONS], (pages, page))


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Note that the pages tables[start:start + findable] were attached; the first `found` were findable before."""
    if pages.head[layout.POLICY] != LRU:
        _attached(pages.head[layout.FUNCTIONS], (pages, tables, start, found, findable))


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Count a page that can be found and has no reference any more as cached."""
    pages.head[layout.CACHED] += 1
    if pages.head[layout.POLICY] == LRU:
        lru.enter(pages, page)
    else:
        _enter(pages.head[layout.FUNCTIONS], (pages, page))


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Count a cached page that is referenced again, or about to be forgotten, as cached no longer."""
    pages.head[layout.CACHED] -= 1
    if pages.head[layout.POLICY] == LRU:
        lru.leave(pages, page)
    else:
        _leave(pages.head[layout.FUNCTIONS], (pages, page))


@njit_no_nrt(cache=True)
def drop(pages, page):
    """Note that a referenced page is about to be forgotten."""
    if pages.head[layout.POLICY] != LRU:
        _drop(pages.head[layout.FUNCTIONS], (pages, page))


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the cached page to evict; there must be one."""
    if pages.head[layout.POLICY] == LRU:
        return lru.victim(pages)
    return _victim(pages.head[layout.FUNCTIONS], (pages,))


@njit_no_nrt(cache=True)
def evicted(pages, page):
    """Note that a page is evicted because its room is needed."""
    if pages.head[layout.POLICY] != LRU:
        _evicted(pages.head[layout.FUNCTIONS], (pages, page))


@njit_no_nrt(cache=True)
def forgotten(pages, parent):
    """Note that a page below `parent` has been forgotten."""
    if pages.head[layout.POLICY] != LRU:
        _forgotten(pages.head[layout.FUNCTIONS], (pages, parent))


@njit_no_nrt(cache=True)
def first_fault(pages, cached):
    """Return whether what the policy keeps is wrong. `cached` bool (max_pages,), overwritten: which pages are cached.

    Safe on any contents of arrays of the right size in a bound pool.
    """
    if pages.head[layout.POLICY] == LRU:
        bad = lru.fault(pages, cached)
    else:
        bad = _fault(pages.head[layout.FUNCTIONS], (pages, cached))
    left = False
    for page in range(cached.shape[0]):
        left |= cached[page]
    return bad or left
