"""Instructions that Numba has no words for, beside NumPy: on this machine, and compiled as for lesser ones."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import njit

from llmds.kernels import simd
from llmds.kernels.hnsw.layout import key_of

ROOT = Path(__file__).parent.parent.parent
X86 = platform.machine() in ("x86_64", "AMD64")
LARGEST = np.iinfo(np.int64).max


@njit
def int8(codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to):
    simd.estimate_int8(codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to)


@njit
def int4(codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to):
    simd.estimate_int4(codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to)


@njit
def let_in(pool, start, size, key):
    simd.insert(pool, start, size, key)


@njit
def mixed(rows, source, target, signs, part):
    simd.mix_parts(rows, source, target, signs, part)


@njit
def ask_for(array, offset, size):
    simd.prefetch(array, offset, size)


@njit
def floats(array, out):
    for i in range(out.shape[0]):
        out[i] = simd.float_at(array, 4 * i)


@njit
def halves(array, out):
    for i in range(out.shape[0]):
        out[i] = simd.half_at(array, 2 * i)


def unpacked(codes):
    """The codes of four bits in rows of bytes, in the order of the probe: in each line, low halves before high ones."""
    lines = codes.reshape(len(codes), -1, simd.LINE)
    return np.concatenate([lines & 15, lines >> 4], axis=2).reshape(len(codes), -1)


def estimates_are_those_of_numpy(kernel, meaning, codes, probe, start, slots, at, to, given=None):
    terms, own, scale, shift = given or (np.tile(np.float32([0, 1]), (len(codes), 1)), 0.0, 1.0, 0.0)
    own, scale, shift = np.float32(own), np.float32(scale), np.float32(shift)
    distances, keys = np.full(to + 9, -77, np.float32), np.full(to + 9, -77, np.int64)
    lines = codes.shape[1] // simd.LINE
    kernel(codes, probe.view(np.uint8), start, lines, slots, at, terms, own, scale, shift, distances, keys, to)
    meant, chosen = meaning(codes).astype(np.int64), slots.ravel()[at : at + 4]
    sums = (meant[chosen] @ probe.ravel()[start : start + meant.shape[1]].astype(np.int64)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (own + terms[chosen, 0]) + terms[chosen, 1] * (scale * sums - shift)
    expected[np.isnan(expected)] = np.inf
    np.testing.assert_array_equal(distances[to : to + 4].view(np.int32), expected.view(np.int32))
    np.testing.assert_array_equal(keys[to : to + 4], [key_of(*pair) for pair in zip(expected, chosen, strict=True)])
    for filled in (distances, keys):
        assert (filled[:to] == -77).all() and (filled[to + 4 :] == -77).all()


def products_of_all_bytes():
    every = np.arange(256, dtype=np.uint8)
    codes = np.repeat(every[:, None], simd.LINE, axis=1)  # one code a row
    for kernel, meaning, parts in ((int8, lambda rows: rows, 1), (int4, unpacked, 2)):
        for value in (-128, -127, -1, 0, 1, 77, 127):
            probe = np.full((1, simd.LINE * parts), value, np.int8)
            for first in range(0, 256, 4):
                estimates_are_those_of_numpy(kernel, meaning, codes, probe, 0, np.arange(first, first + 4), 0, 0)
        # Each place by itself, so that none is taken for another.
        places = np.zeros((simd.LINE, simd.LINE), np.uint8)
        np.fill_diagonal(places, np.arange(255, 255 - simd.LINE, -1))
        probe = np.arange(-64, 64, dtype=np.int8)[None, : simd.LINE * parts]
        for first in range(0, simd.LINE, 4):
            estimates_are_those_of_numpy(kernel, meaning, places, probe, 0, np.arange(first, first + 4), 0, 0)


def products_of_any_rows():
    chance = np.random.default_rng(1)
    for lines in (1, 2, 3, 7, 64):
        codes = chance.integers(0, 256, (20, lines * simd.LINE), dtype=np.uint8)
        codes[0], codes[1] = 255, 0
        for kernel, meaning, parts in ((int8, lambda rows: rows, 1), (int4, unpacked, 2)):
            width = parts * lines * simd.LINE
            probe = chance.integers(-128, 128, (5, width), dtype=np.int8)
            probe[0], probe[1] = 127, -128
            for row in range(5):
                slots = chance.integers(0, 20, (3, 7))
                slots[:, 3:5] = 0, 1
                at, to = int(chance.integers(0, 18)), int(chance.integers(0, 6))
                estimates_are_those_of_numpy(kernel, meaning, codes, probe, row * width, slots, at, to)


def estimates_of_any_numbers():
    chance = np.random.default_rng(4)
    extremes = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, 1.0])
    codes = chance.integers(0, 256, (40, simd.LINE), dtype=np.uint8)
    codes[:4] = 0  # sums of nothing, so that infinity meets zero
    for kernel, meaning, parts in ((int8, lambda rows: rows, 1), (int4, unpacked, 2)):
        probe = chance.integers(-128, 128, (1, simd.LINE * parts), dtype=np.int8)
        for _ in range(200):
            terms = chance.standard_normal((40, 2)).astype(np.float32)
            terms[chance.random((40, 2)) < 0.3] = chance.choice(extremes)
            own, scale, shift = chance.standard_normal(3) if chance.random() < 0.7 else chance.choice(extremes, 3)
            slots = chance.integers(0, 40, (1, 4))
            estimates_are_those_of_numpy(kernel, meaning, codes, probe, 0, slots, 0, 2, (terms, own, scale, shift))


def mixtures_of_parts():
    chance = np.random.default_rng(5)
    hadamard = np.ones((1, 1))
    for _ in range(3):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    for part in (8, 16, 24, 128):
        rows = chance.integers(-9, 10, (3, 8 * part)).astype(np.float32)
        signs = chance.choice(np.float32([-1, 1, 0.5]), (2, 8 * part))
        expected = hadamard @ (rows[1] * signs[1]).reshape(8, part)
        before = rows.copy()
        mixed(rows, 8 * part, 16 * part, signs, part)
        np.testing.assert_array_equal(rows[2], expected.T.ravel())
        np.testing.assert_array_equal(rows[:2], before[:2])


def insertions_at_every_place():
    for size in (8, 16, 24, 104):
        for filled in (0, 1, 7, 8, size - 1, size):
            for place in range(size + 1):
                pool = np.full(8 + size + 4, -9, np.int64)
                pool[7] = -LARGEST
                pool[8 : 8 + size] = LARGEST
                pool[8 : 8 + filled] = 10 * np.arange(filled)
                key = 10 * place - 5
                expected = np.sort(np.append(pool[8 : 8 + size], key))[:size]
                before = pool.copy()
                let_in(pool, 8, size, key)
                np.testing.assert_array_equal(pool[8 : 8 + size], expected)
                np.testing.assert_array_equal(pool[:8], before[:8])
                np.testing.assert_array_equal(pool[8 + size :], before[8 + size :])


def insertions_of_any_keys():
    chance = np.random.default_rng(2)
    pool = np.full(8 + 40, LARGEST, np.int64)
    pool[7] = -LARGEST
    keys = np.concatenate([chance.integers(-LARGEST, LARGEST, 300), [-LARGEST + 1, LARGEST - 1, 0, -1]])
    for i, key in enumerate(keys):
        let_in(pool, 8, 40, key)
        expected = np.sort(keys[: i + 1])[:40]
        np.testing.assert_array_equal(pool[8 : 8 + len(expected)], expected)
        assert (pool[8 + len(expected) :] == LARGEST).all()


def prefetches_change_nothing():
    for dtype in (np.uint8, np.int32, np.float32, np.int64):
        array = np.arange(1000).astype(dtype).reshape(10, 100)
        for offset, size in ((0, 1), (0, 1000), (990, 10), (500, 0), (10**7, 5)):  # also where there is nothing
            ask_for(array, offset, size)
        assert (array.ravel() == np.arange(1000).astype(dtype)).all()


def numbers_in_bytes():
    out = np.empty(63488, np.float32)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    assert len(every) == len(out)
    halves(every.view(np.uint8), out)
    np.testing.assert_array_equal(out.view(np.uint32), every.astype(np.float32).view(np.uint32))  # negative zero, too
    values = np.random.default_rng(3).integers(0, 2**32, 63488, dtype=np.uint32)
    values[:3] = 0, 0x80000000, 1
    floats(values.view(np.uint8), out)
    np.testing.assert_array_equal(out.view(np.uint32), values)


CHECKS = [
    products_of_all_bytes,
    products_of_any_rows,
    estimates_of_any_numbers,
    mixtures_of_parts,
    insertions_at_every_place,
    insertions_of_any_keys,
    prefetches_change_nothing,
    numbers_in_bytes,
]
MACHINES = {
    "haswell": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+avx,+fma,+sse4.2"},
    "x86-64": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_this_machine_computes_what_numpy_does(check):
    check()


def as_for(machine, code, folder):
    """What an interpreter prints that compiles for another machine."""
    environment = {**os.environ, **MACHINES[machine], "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.skipif(not X86, reason="names machines of x86")
@pytest.mark.parametrize("machine", list(MACHINES))
def test_code_for_lesser_machines_computes_what_numpy_does(machine, tmp_path):
    code = "from tests.kernels import test_simd as t\nfor check in t.CHECKS: check()\nprint(*t.instructions())"
    found = as_for(machine, code, tmp_path).split()
    assert "pmaddwd" in found and "vpdpbusd" not in found
    assert ("ymm" in found) == (machine == "haswell") and "zmm" not in found


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="names machines of x86")
@pytest.mark.parametrize("machine", list(MACHINES))
def test_indexes_of_lesser_machines_are_the_same(machine, tmp_path):
    """Sums of integers are the same on all machines, so walks by codes go the same ways."""
    code = (
        "import numpy as np\nfrom tests.hnsw.model import built, clustered\n"
        "index = built(clustered(600, 24, 1), kind=('int8', 'float16'))\nindex.check()\n"
        "print(index.search_batch(clustered(50, 24, 2), 10, ef=600)[0].tolist())"
    )
    scope = {}
    exec(code.replace("print(", "told = str("), scope)
    assert as_for(machine, code, tmp_path) == scope["told"]


def instructions():
    """Those of x86 that tell which way was taken."""
    arguments = (
        np.zeros((4, 64), np.uint8),
        np.zeros((1, 64), np.uint8),
        0,
        1,
        np.arange(4),
        0,
        np.zeros((4, 2), np.float32),
        *np.zeros(3, np.float32),
        np.zeros(4, np.float32),
        np.zeros(4, np.int64),
        0,
    )
    int8(*arguments)
    assembly = "".join(int8.inspect_asm().values())
    return sorted(set(re.findall(r"vpdpbusd|pmaddwd|[xyz]mm(?=\d)", assembly)))


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
def test_sums_are_made_by_the_instructions_meant_for_them():
    features = numba.core.codegen.get_host_cpu_features()
    expected = "vpdpbusd" if "+avx512vnni" in features.split(",") and "+avx512f" in features.split(",") else "pmaddwd"
    assert expected in instructions()


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
def test_a_key_is_let_in_by_vector_instructions():
    let_in(np.zeros(16, np.int64), 8, 8, 5)
    assembly = "".join(let_in.inspect_asm().values())
    assert re.search(r"[xyz]mm", assembly)
