"""Codes of vectors beside the same arithmetic in NumPy, and estimates beside true distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmds.kernels.hnsw import codes
from llmds.kernels.hnsw.layout import IP, L2, Candidates, Probes, Stored, key_of

DIMS = [1, 2, 17, 24, 63, 64, 65, 100, 128, 200, 384, 600]
LINE = {codes.INT4: 128, codes.INT8: 64}
ERROR = {codes.INT4: 0.12, codes.INT8: 0.009}  # of a length, what rounding loses of most vectors


class Coded:
    """Vectors (n, dim) and their codes."""

    def __init__(self, vectors, bits, product=False, centre=None):
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        n, self.dim = self.vectors.shape
        self.bits, self.product, self.size = bits, product, -(-self.dim // LINE[bits]) * LINE[bits]
        self.frame = codes.new_frame(self.size)
        if centre is not None:
            self.frame[0, : self.dim] = centre
        self.codes, self.terms = np.zeros((n, self.size * bits // 8), np.uint8), np.zeros((n, 2), np.float32)
        codes.encode_many(
            self.vectors, self.dim, self.frame, self.codes, self.terms, bits, IP if product else L2, np.arange(n)
        )
        self.stored = Stored(self.codes, self.codes, self.terms, bits, product)

    def rotated(self, rows):
        """The first rows of vectors, about the centre, rotated."""
        work, out = np.zeros((2, self.size), np.float32), []
        for row in range(rows):
            codes.rotated(self.vectors, np.int64(row), np.int64(self.dim), self.frame, work)
            out.append(work[0].copy())
        return np.array(out)

    def numbers(self):
        """The codes as numbers, (n, D)."""
        if self.bits == codes.INT8:
            return self.codes.astype(np.int64)
        lines = self.codes.reshape(len(self.codes), -1, 64)
        return np.concatenate([lines & 15, lines >> 4], axis=2).reshape(len(self.codes), -1).astype(np.int64)

    def decoded(self):
        """What the codes stand for, rotated and not."""
        work, out, rotated = np.zeros((2, self.size), np.float32), np.zeros((1, self.dim), np.float32), []
        for slot in range(len(self.codes)):
            codes.decoded(self.stored, np.int64(slot), work)
            turned = work[0].copy()
            codes.unrotated(self.frame, work, out, np.int64(0))
            rotated.append((turned, out[0].copy()))
        return (np.array(each) for each in zip(*rotated, strict=True))

    def estimates(self, queries=None, of_codes=False):
        """Distances from every query, or from every code, to every code."""
        n, source = len(self.codes), self.vectors if queries is None else np.ascontiguousarray(queries, np.float32)
        probes = Probes(np.zeros((1, self.size), np.uint8), np.zeros((1, codes.PARAMETERS), np.float32))
        work = np.zeros((2, self.size), np.float32)
        candidates = Candidates(np.zeros((1, n + 3), np.int64), np.zeros(n + 3, np.float32), np.zeros(n + 3, np.int64))
        candidates.slots[0, :n], zero = np.arange(n), np.int64(0)
        out = np.zeros((len(source), n), np.float32)
        for q in range(len(source)):
            if of_codes:
                codes.probe_of_codes(self.stored, np.int64(q), probes, zero)
            else:
                codes.probe(
                    source, np.int64(q), np.int64(self.dim), self.frame, self.bits, self.product, work, probes, zero
                )
            codes.estimate(self.stored, probes, zero, candidates, zero, np.int64(n))
            out[q] = candidates.distances[:n]
        return out


def truth(vectors, queries, product):
    vectors, queries = vectors.astype(np.float64), queries.astype(np.float64)
    if product:
        return -queries @ vectors.T
    return ((queries[:, None] - vectors[None]) ** 2).sum(2)


def normal(n, dim, seed):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
@pytest.mark.parametrize("dim", DIMS)
def test_the_rotation_keeps_lengths_and_angles_and_can_be_undone(dim, bits):
    vectors, centre = normal(20, dim, dim), normal(1, dim, 9)[0]
    coded = Coded(vectors, bits, centre=centre)
    rotated = coded.rotated(20)
    np.testing.assert_allclose(
        rotated @ rotated.T, (vectors - centre) @ (vectors - centre).T, rtol=1e-4, atol=1e-4 * dim
    )
    back = np.zeros((20, dim), np.float32)
    for row in range(20):
        work = np.stack([rotated[row], np.full_like(rotated[row], np.nan)])
        codes.unrotated(coded.frame, work, back, np.int64(row))
    np.testing.assert_allclose(back, vectors, atol=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256, 384, 512, 1024])
def test_the_rotation_is_a_rotation(size):
    turned = Coded(np.eye(size), codes.INT8).rotated(size)
    np.testing.assert_allclose(turned @ turned.T, np.eye(size), atol=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256, 384, 512, 768])
def test_the_rotation_spreads_every_number_over_all_or_hundreds_of_others(size):
    """Each unit vector becomes one of many numbers about as large: none stands out, and few are zero."""
    turned = np.abs(Coded(np.eye(size), codes.INT8).rotated(size))
    assert np.count_nonzero(turned > 1e-6, axis=1).min() >= 0.2 * size
    assert turned.max() <= 0.51
    np.testing.assert_array_equal(np.count_nonzero(turned > 1e-6, axis=0) >= 0.2 * size, True)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
@pytest.mark.parametrize("dim", DIMS)
def test_codes_are_what_numpy_makes_them(dim, bits, product):
    vectors = normal(30, dim, dim + 1)
    coded = Coded(vectors, bits, product)
    rotated = coded.rotated(30).astype(np.float64)
    squares = (rotated**2).sum(1)
    if bits == codes.INT8:
        middle, top, step = 128, 255, np.abs(rotated).max(1) / 127
    else:
        middle, top, step = 7.5, 15, 2.5 * np.sqrt(squares / coded.size) / 7.5
    found = coded.numbers()
    assert np.abs(found - (rotated / step[:, None] + middle).clip(0, top)).max() < 0.5001
    scale = squares / (rotated * (found - middle)).sum(1)
    np.testing.assert_allclose(coded.terms[:, codes.TIMES], -scale if product else -2 * scale, rtol=1e-4)
    np.testing.assert_allclose(coded.terms[:, codes.ADD], 0 * squares if product else squares, rtol=1e-5, atol=1e-6)
    turned, meant = coded.decoded()
    np.testing.assert_allclose(turned, scale[:, None] * (found - middle), rtol=1e-4, atol=1e-6)
    # What is decoded has, along the vector, its length.
    np.testing.assert_allclose((turned * rotated).sum(1), squares, rtol=1e-4)
    lost = np.linalg.norm(meant - vectors, axis=1) / np.linalg.norm(vectors, axis=1)
    assert np.median(lost) < ERROR[bits]


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
@pytest.mark.parametrize("dim", DIMS)
def test_estimates_are_near_the_true_distances(dim, bits, product):
    vectors, queries = normal(60, dim, dim + 2), normal(20, dim, dim + 3)
    coded = Coded(vectors, bits, product)
    error = coded.estimates(queries) - truth(vectors, queries, product)
    unit = np.linalg.norm(vectors, axis=1)[None] * np.linalg.norm(queries, axis=1)[:, None] / np.sqrt(dim)
    error /= unit * (1 if product else 2)
    # The error is what rounding lost of the vector, seen along the query: random, as much up as down.
    bound = ERROR[bits] + 0.01  # the query's own eight bits
    assert np.sqrt((error**2).mean()) < bound and np.abs(error).max() < 6 * bound and abs(error.mean()) < bound / 3


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
def test_a_centre_changes_no_distance_but_makes_estimates_better(bits, product):
    far = normal(1, 100, 4)[0] * 20
    vectors, queries = normal(50, 100, 5) + far, normal(10, 100, 6) + far
    expected = truth(vectors, queries, product)
    off = {}
    for centre in (None, far):
        off[centre is None] = np.abs(Coded(vectors, bits, product, centre).estimates(queries) - expected).mean()
    assert off[False] < off[True] / 3


def test_eight_bits_are_ten_times_as_good_as_four():
    vectors, queries = normal(100, 128, 7), normal(20, 128, 8)
    expected = truth(vectors, queries, False)
    four, eight = (
        np.sqrt(np.mean((Coded(vectors, bits).estimates(queries) - expected) ** 2)) for bits in (codes.INT4, codes.INT8)
    )
    assert eight < four / 8


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
@pytest.mark.parametrize("dim", [3, 64, 100, 600])
def test_estimates_between_codes_are_symmetric(dim, bits, product):
    vectors, centre = normal(30, dim, dim + 4), normal(1, dim, 5)[0]
    coded = Coded(vectors, bits, product, centre)
    between = coded.estimates(of_codes=True)
    scale = np.abs(between).max()
    np.testing.assert_allclose(between, between.T, atol=1e-5 * scale)
    turned, _ = (each.astype(np.float64) for each in coded.decoded())
    own = coded.terms[:, codes.ADD].astype(np.float64)
    expected = own[:, None] + own[None] - (1 if product else 2) * turned @ turned.T
    np.testing.assert_allclose(between, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
def test_along_is_the_product_with_a_code(bits):
    coded, turned = Coded(normal(20, 200, 11), bits), normal(5, 256, 12)
    middle = {codes.INT4: 7.5, codes.INT8: 128}[bits]
    for q in range(5):
        for slot in range(20):
            expected = turned[q].astype(np.float64) @ (coded.numbers()[slot] - middle)
            found = codes.along(coded.codes, np.int64(slot), bits, turned, np.int64(q))
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("m", range(1, 10))
def test_as_many_estimates_as_are_asked_for(m):
    """Four are made at a time; the rest of the room is room."""
    coded = Coded(normal(9, 64, 13), codes.INT8)
    whole = coded.estimates()[0]
    probes = Probes(np.zeros((2, 64), np.uint8), np.zeros((2, codes.PARAMETERS), np.float32))
    work = np.zeros((2, 64), np.float32)
    one = np.int64(1)
    codes.probe(coded.vectors, np.int64(0), np.int64(64), coded.frame, 8, False, work, probes, one)
    slots, keys, distances = np.full((2, 20), 10**9), np.full(20, -7), np.full(20, -7, np.float32)
    slots[1, :m] = np.arange(m)[::-1]
    codes.estimate(coded.stored, probes, one, Candidates(slots, distances, keys), one, np.int64(m))
    np.testing.assert_array_equal(distances[:m], whole[:m][::-1])
    assert keys[:m].tolist() == [key_of(*pair) for pair in zip(distances[:m], slots[1, :m], strict=True)]
    assert (slots[0] == 10**9).all() and (distances[m + 3 :] == -7).all() and (keys[m + 3 :] == -7).all()


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
def test_the_zero_vector_is_at_its_own_place(bits, product):
    vectors = np.concatenate([np.zeros((3, 50)), normal(5, 50, 14)])
    coded = Coded(vectors, bits, product)
    estimates = coded.estimates()
    assert np.isfinite(estimates).all() and (estimates[:3, :3] == 0).all()
    np.testing.assert_allclose(estimates[0, 3:], 0 if product else (vectors[3:] ** 2).sum(1), rtol=1e-5)
    _, meant = coded.decoded()
    assert (meant[:3] == 0).all()


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("bits", [codes.INT4, codes.INT8])
@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -1.0, 3e38, -3e38, 1e-38, -1e-45, 1e19, 1e-20]), min_size=5, max_size=5),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=50)
def test_no_value_makes_a_distance_that_is_no_number(rows, bits, product):
    coded = Coded(np.array(rows), bits, product)
    for estimates in (coded.estimates(), coded.estimates(of_codes=True)):
        assert not np.isnan(estimates).any()
    assert np.isfinite(coded.terms[:, codes.TIMES]).all() and not np.isnan(coded.terms).any()
    turned, meant = coded.decoded()
    assert np.isfinite(turned).all() and np.isfinite(meant).all()


def test_scaled_vectors_have_the_same_codes():
    vectors = normal(20, 60, 15)
    for bits in (codes.INT4, codes.INT8):
        one, large = Coded(vectors, bits), Coded(vectors * 1024, bits)
        np.testing.assert_array_equal(one.codes, large.codes)
        np.testing.assert_allclose(large.terms[:, codes.TIMES], one.terms[:, codes.TIMES] * 1024, rtol=1e-6)
