"""The table of eviction policies: others are refused, and those that are not used are not compiled."""

import os
import pickle
import subprocess
import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest

from llmds.kernels.compiling import njit_no_nrt
from llmds.kernels.kv_cache import change, layout
from llmds.kernels.kv_cache.eviction import chains, dispatch, lru, table, unused
from llmds.kv_cache import cache as cache_module
from llmds.kv_cache import state
from llmds.kv_cache.cache import KVCache

UNKNOWN = [len(table.POLICIES), 99, -1, 2**40]


def attached(policy, **options):
    cache = KVCache(2, 8, eviction=policy, **options)
    cache.attach_blocks(1, [1, 2, 3]), cache.attach_blocks(2, [1, 2, 4]), cache.detach(1)
    return cache


@pytest.mark.parametrize("number", range(len(table.POLICIES)))
def test_every_policy_has_every_function(number):
    policy = table.policy(number)
    assert policy.size(8) > 0 and all(callable(getattr(policy, name)) for name in dispatch.SIGNATURES)


@pytest.mark.parametrize("number", UNKNOWN)
def test_an_unknown_number_is_refused(number):
    cache = attached("lru")
    arrays = cache._to_arrays()
    cache.arrays.pool[layout.POLICY] = arrays["pool"][layout.POLICY] = number
    for call in (lambda: table.policy(number), lambda: dispatch.bind(cache.arrays.pool)):
        with pytest.raises(ValueError, match=f"no eviction policy has the number {number}"):
            call()
    with pytest.raises(AssertionError, match=f"number {number}"):
        cache.check()
    with pytest.raises(ValueError, match=f"number {number}"):
        KVCache._restored(arrays, "arrays")
    with pytest.raises(ValueError, match="eviction must be one of"):
        KVCache(2, 8, eviction=number)


@pytest.mark.parametrize("name", ["", "mru", "chains", "dispatch", "LRU", None])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="eviction must be one of 'lru'"):
        KVCache(2, 8, eviction=name)


@pytest.mark.parametrize("policy", table.POLICIES)
def test_a_pool_works_only_with_the_functions_of_its_own_policy(policy):
    cache = attached(policy)
    other = attached("lfu" if policy == "lru" else "lru").arrays.pool[layout.POLICY]
    cache.arrays.pool[layout.POLICY] = other
    with pytest.raises(AssertionError, match="functions of the eviction policy"):
        cache.check()
    with pytest.raises(ValueError, match="do not add up"):
        KVCache._restored(cache._to_arrays(), "arrays")


def test_a_pool_that_is_not_bound_is_refused_where_its_policy_is_needed():
    cache = attached("lfu")
    cache.arrays.pool[layout.FUNCTIONS] = 0
    with pytest.raises(ValueError, match="no eviction policy is bound"):
        change.detach(*cache.arrays, 2)


def test_threads_that_bind_a_policy_for_the_first_time_get_one_array_that_stays(monkeypatch):
    module, barrier = ModuleType("policy"), threading.Barrier(4)
    for name in dispatch.SIGNATURES:
        setattr(module, name, None)
    addresses = iter(range(10**6))
    monkeypatch.setattr(dispatch, "_address", lambda *_: (time.sleep(0.001), next(addresses))[1])
    found = []

    def bind():
        barrier.wait()
        found.append(dispatch.functions(module))

    threads = [threading.Thread(target=bind) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(array is dispatch.functions(module) for array in found)


def in_another_process(code, *arguments):
    run = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ).stdout.split()


def test_policies_that_are_not_used_are_not_compiled():
    code = (
        "import sys\nfrom llmds.kv_cache import KVCache\n"
        "cache = KVCache(2, 8, eviction=sys.argv[1])\n"
        "cache.attach(1, [1, 2, 3]), cache.detach(1), cache.check()\n"
        "from llmds.kernels.kv_cache.eviction.table import POLICIES\n"
        "print(*(name for name in POLICIES if f'llmds.kernels.kv_cache.eviction.{name}' in sys.modules))\n"
    )
    assert in_another_process(code, "lru") == ["lru"]
    assert in_another_process(code, "slru") == ["lru", "slru"]


@pytest.mark.parametrize("policy", table.POLICIES)
def test_a_pickle_holds_no_address(policy):
    cache = KVCache(2, 4, eviction=policy)
    pool = cache.__getstate__()["_arrays"].pool
    assert pool[layout.FUNCTIONS] == 0 and (cache.arrays.pool[layout.FUNCTIONS] == 0) == (policy == "lru")
    assert pickle.loads(pickle.dumps(cache)).arrays.pool.tolist() == cache.arrays.pool.tolist()


@pytest.mark.parametrize("policy", ["lru", "lhd"])
def test_a_pickle_works_in_another_process(policy, tmp_path):
    cache = attached(policy)
    (tmp_path / "pickle").write_bytes(pickle.dumps(cache))
    code = (
        "import pickle, sys\ncache = pickle.load(open(sys.argv[1], 'rb'))\ncache.check()\n"
        "for seq in range(9): cache.attach_blocks(3, [seq, 2, 3]), cache.detach(3)\n"
        "cache.check(), print(cache.eviction, cache.stats()['evictions'])\n"
    )
    for seq in range(9):
        cache.attach_blocks(3, [seq, 2, 3]), cache.detach(3)
    assert in_another_process(code, tmp_path / "pickle") == [policy, str(cache.stats()["evictions"])]


# A policy added by the recipe: a module with the functions of the interface, and its name in the table.


def size(max_pages):
    return chains.LIST


@njit_no_nrt
def victim(pages):
    return chains.lowest(pages.rows, pages.memory, np.int64(0), pages.memory[chains.NEWEST])


@pytest.fixture
def mru(monkeypatch):
    """The page that was used last is evicted first."""
    module = ModuleType("llmds.kernels.kv_cache.eviction.mru")
    functions = {name: getattr(unused, name, getattr(lru, name)) for name in dispatch.SIGNATURES}
    vars(module).update(functions, size=size, victim=victim)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    policies = (*table.POLICIES, "mru")
    for place in (table, state, cache_module):
        monkeypatch.setattr(place, "POLICIES", policies)


def test_a_new_policy_is_one_module_and_one_name_in_the_table(mru):
    cache = KVCache(1, 4, eviction="mru")
    assert cache.eviction == "mru" and cache.arrays.pool[layout.POLICY] == len(table.POLICIES) - 1
    for seq, blocks in enumerate(([1, 2], [3], [4], [5])):
        cache.attach_blocks(seq, blocks), cache.detach(seq)
        cache.check()
    assert [cache.match_prefix(blocks, blocks=True) for blocks in ([1, 2], [3], [4], [5])] == [2, 1, 0, 1]
    copy = pickle.loads(pickle.dumps(cache))
    copy.check()
    assert copy.eviction == "mru"


def test_a_function_of_another_type_is_refused(mru):
    module = sys.modules["llmds.kernels.kv_cache.eviction.mru"]
    module.fault = unused.begin
    with pytest.raises(TypeError, match="begin must return bool, not none"):
        KVCache(1, 4, eviction="mru")
