"""What callers hand in, beside what plain Python says of it."""

import decimal
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.base import arguments
from llmds.kernels import strings

LOW, HIGH = arguments.INT64_MIN, arguments.INT64_MAX
NO_INTEGERS = [
    True,
    False,
    np.True_,
    1.0,
    np.float64(2),
    "1",
    b"1",
    None,
    [1],
    np.array(1),
    np.array([1]),
    1j,
    object(),
]
NO_NUMBERS = [True, np.False_, "1.0", None, [1.0], np.array(1.0), 1j, decimal.Decimal(1)]

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=8) | st.sampled_from(
    ["", "\ud800", "\udc00", "\ud83d", "\ude00", "\U0001f600", "a\0", "é", "東京"]
)


def kind(value):
    """A name for a case that is the same in every process."""
    return type(value).__name__


class Name(str):
    """A subclass that lies about its length."""

    def __len__(self):
        return 1000


class Items(list):
    pass


def is_kernel_ready(array, dtype):
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.c_contiguous and array.flags.behaved


@given(st.integers(-(2**70), 2**70), st.integers(-(2**65), 2**65), st.integers(-(2**65), 2**65))
def test_integers_in_the_range_pass_and_no_others(value, low, high):
    if low <= value <= high:
        assert arguments.integer("n", value, low, high) == value
    else:
        with pytest.raises(ValueError, match=r"n must lie in .*, got"):
            arguments.integer("n", value, low, high)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_every_integer_of_numpy_is_an_int(dtype):
    for value in (np.iinfo(dtype).min, 5, np.iinfo(dtype).max):
        if value <= HIGH:
            found = arguments.integer("n", dtype(value))
            assert found == value and type(found) is int
        else:
            with pytest.raises(ValueError, match="18446744073709551615"):
                arguments.integer("n", dtype(value))


def test_the_edges_of_uint64_and_int64_are_told_apart():
    assert arguments.integer("n", np.uint64(2**63 - 1)) == 2**63 - 1
    with pytest.raises(ValueError, match=r"-2\*\*63\.\.2\*\*63-1, got 9223372036854775808"):
        arguments.integer("n", np.uint64(2**63))


@pytest.mark.parametrize("value", NO_INTEGERS, ids=kind)
def test_what_is_no_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match="n must be an integer, got"):
        arguments.integer("n", value)


def test_a_huge_integer_is_told_by_its_size():
    for check in (arguments.integer, arguments.real):
        with pytest.raises(ValueError, match=r"n must .*an integer of 16610 bits"):
            check("n", 10**5000)
    with pytest.raises(ValueError, match=r"ns must .*an integer of 16610 bits"):
        arguments.integers("ns", [1, 10**5000])


@given(st.lists(st.integers(-10, 10)), st.integers(-10, 10), st.integers(-10, 10))
def test_an_array_passes_if_each_of_its_integers_does(values, low, high):
    if all(low <= value <= high for value in values):
        found = arguments.integers("ns", values, low, high)
        assert is_kernel_ready(found, np.int64) and found.tolist() == values
    else:
        with pytest.raises(ValueError, match="ns must lie in"):
            arguments.integers("ns", values, low, high)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint64])
def test_any_integer_array_becomes_int64(dtype):
    array = np.arange(10, dtype=dtype)
    locked = array.copy()
    locked.flags.writeable = False
    unaligned = np.frombuffer(bytearray(b"\0" + array.tobytes()), dtype, offset=1)
    swapped = array.astype(array.dtype.newbyteorder("S"))
    for given_, expected in [
        (array, array),
        (array[::-2], array[::-2]),
        (locked, array),
        (unaligned, array),
        (swapped, array),
        (np.broadcast_to(dtype(3), 4), [3] * 4),
        (list(array), array),
        (tuple(array), array),
        (array.view(np.matrix).A1, array),
        (np.ma.masked_array(array), array),
    ]:
        found = arguments.integers("ns", given_)
        assert is_kernel_ready(found, np.int64)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", [[], (), np.empty(0), np.empty(0, np.int32), range(0)], ids=kind)
def test_nothing_has_no_wrong_type(values):
    assert arguments.integers("ns", values).shape == (0,) and arguments.integers("ns", values).dtype == np.int64
    assert arguments.reals("xs", values).shape == (0,) and arguments.reals("xs", values).dtype == np.float64


def test_ranges_are_sequences_of_integers():
    assert arguments.integers("ns", range(3, 9, 2)).tolist() == [3, 5, 7]


@pytest.mark.parametrize(
    "values, error",
    [
        ([1.0], TypeError),
        ([True], TypeError),
        (["1"], TypeError),
        ([None], TypeError),
        ([2**63, None], TypeError),
        ([2**64, 1.5], TypeError),
        ([2**64, True], TypeError),
        ("12", TypeError),
        (5, TypeError),
        (np.array(5), TypeError),
        ([[1, 2]], TypeError),
        (np.empty((0, 2), int), TypeError),
        ({1, 2}, TypeError),
        (iter([1]), TypeError),
        (np.array([1, 2], object), TypeError),
        (np.array([1], "M8[s]"), TypeError),
        ([[1], [2, 3]], ValueError),
        ([2**63], ValueError),
        ([2**63, -1], ValueError),
        ([2**64], ValueError),
        ([-(2**63) - 1], ValueError),
        (np.array([2**63], np.uint64), ValueError),
        (np.array([2**64 - 1, 0], np.uint64), ValueError),
    ],
    ids=kind,
)
def test_what_is_no_array_of_int64_is_refused(values, error):
    with pytest.raises(error, match=r"^ns "):
        arguments.integers("ns", values)


def test_bounds_are_checked_on_either_side():
    np.testing.assert_array_equal(arguments.integers("ns", [LOW, HIGH]), [LOW, HIGH])
    for values in ([0, 5], [-1, 2], [LOW], [HIGH]):
        with pytest.raises(ValueError, match=r"ns must lie in 0\.\.4, got"):
            arguments.integers("ns", values, 0, 4)
    with pytest.raises(ValueError, match=r"0\.\.2\*\*31-1"):
        arguments.integers("ns", [2**31], 0, 2**31 - 1)


@given(st.floats() | st.integers(-(10**9), 10**9), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_numbers_in_the_range_pass_and_no_others(value, low, high):
    if low <= value <= high:
        found = arguments.real("x", value, low, high)
        assert type(found) is float and found == value
    else:
        with pytest.raises(ValueError, match="x must lie in"):
            arguments.real("x", value, low, high)


def test_every_number_of_numpy_is_a_float():
    for value in (np.float16(1.5), np.float32(1.5), np.float64(1.5), np.longdouble(1.5)):
        assert arguments.real("x", value) == 1.5 and type(arguments.real("x", value)) is float
    assert arguments.real("x", np.uint8(7)) == 7.0
    assert arguments.real("x", math.inf) == math.inf and math.copysign(1, arguments.real("x", -0.0)) == -1


@pytest.mark.parametrize("value", NO_NUMBERS, ids=kind)
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="x must be a number, got"):
        arguments.real("x", value)


@pytest.mark.parametrize(
    "value", [math.nan, np.float32("nan"), 10**400, -(10**400)], ids=["nan", "nan32", "big", "-big"]
)
def test_numbers_that_are_no_float64_are_value_errors(value):
    with pytest.raises(ValueError, match="x must"):
        arguments.real("x", value)


@given(st.lists(st.floats()), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_an_array_passes_if_each_of_its_numbers_does(values, low, high):
    if all(low <= value <= high for value in values):
        found = arguments.reals("xs", values, low, high)
        assert is_kernel_ready(found, np.float64) and found.tolist() == values
    else:
        with pytest.raises(ValueError, match="xs must lie in"):
            arguments.reals("xs", values, low, high)


def test_any_real_array_becomes_float64():
    for array in (
        np.arange(6, dtype=np.float16),
        np.arange(6)[::-1],
        np.broadcast_to(1.5, 3),
        np.arange(3, dtype="u8"),
    ):
        assert is_kernel_ready(arguments.reals("xs", array), np.float64)
        np.testing.assert_array_equal(arguments.reals("xs", array), array)


@pytest.mark.parametrize(
    "values, error",
    [
        ([True], TypeError),
        (["1"], TypeError),
        ([1j], TypeError),
        (1.0, TypeError),
        ([[1.0]], TypeError),
        ([None], TypeError),
        ([decimal.Decimal(1)], TypeError),
        ([math.nan], ValueError),
        ([0.0, math.nan, 1.0], ValueError),
        ([10**400], ValueError),
        ([1.5, 10**400], ValueError),
        ([[1.0], [1.0, 2.0]], ValueError),
    ],
)
def test_what_is_no_array_of_float64_is_refused(values, error):
    with pytest.raises(error, match=r"^xs "):
        arguments.reals("xs", values)


def test_vectors_become_float32():
    array = np.arange(12.0).reshape(3, 4)
    locked = array.astype(np.float32)
    locked.flags.writeable = False
    for values in (
        array,
        array.tolist(),
        array.astype(np.float16),
        array.astype(int),
        locked,
        np.asfortranarray(array),
    ):
        found = arguments.vectors("vecs", values, 4)
        assert is_kernel_ready(found, np.float32)
        np.testing.assert_array_equal(found, array)
        one = arguments.vector("vec", values[1], 4)
        assert is_kernel_ready(one, np.float32) and one.shape == (4,)
        np.testing.assert_array_equal(one, array[1])


def test_no_vectors_have_the_right_dimension():
    for values in ([], np.empty((0, 4)), np.empty(0)):
        assert arguments.vectors("vecs", values, 4).shape == (0, 4)


@pytest.mark.parametrize(
    "values, error, match",
    [
        ([[1, 2, 3]], ValueError, r"shape \(n, 4\), got \(1, 3\)"),
        ([1, 2, 3, 4], ValueError, r"shape \(n, 4\), got \(4,\)"),
        ([[[1, 2, 3, 4]]], ValueError, "shape"),
        (np.zeros((3, 0)), ValueError, "shape"),
        (5.0, ValueError, "shape"),
        ([[1, 2, 3, 4], [1, 2]], ValueError, "cannot be converted to an array"),
        ([[True] * 4], TypeError, "numbers, got bool"),
        ([["a"] * 4], TypeError, "numbers"),
        ([[None] * 4], TypeError, "numbers"),
        ([[1j] * 4], TypeError, "numbers"),
        ([[0] * 4, [1, 2, math.nan, 4]], ValueError, "row 1 is not"),
        ([[0] * 4, [0] * 4, [1, 2, 3, -math.inf]], ValueError, "row 2 is not"),
        ([[1e39, 0, 0, 0]], ValueError, "finite in float32"),
    ],
)
def test_what_are_no_vectors_is_refused(values, error, match):
    with pytest.raises(error, match=match) as caught:
        arguments.vectors("vecs", values, 4)
    assert str(caught.value).startswith("vecs ")


@pytest.mark.parametrize(
    "values, error",
    [
        ([1, 2, 3], ValueError),
        ([[1, 2, 3, 4]], ValueError),
        (1.0, ValueError),
        ([1, 2, 3, math.nan], ValueError),
        ([1, 2, 3, 1e300], ValueError),
        ([True] * 4, TypeError),
        (["a"] * 4, TypeError),
    ],
)
def test_what_is_no_vector_is_refused(values, error):
    with pytest.raises(error, match=r"^vec "):
        arguments.vector("vec", values, 4)


def test_a_text_is_a_str():
    assert arguments.text("text", "a") == "a" and arguments.text("text", np.str_("b")) == "b"
    for value in (b"a", None, 5, ["a"]):
        with pytest.raises(TypeError, match="text must be a str, got"):
            arguments.text("text", value)


@given(st.lists(any_text))
def test_packed_strings_are_their_encodings_end_to_end(values):
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    for given_ in (values, tuple(values), Items(values), np.array([*values, None], object)[:-1]):
        data, offsets = arguments.packed_strings("texts", given_)
        assert is_kernel_ready(data, np.uint8) and is_kernel_ready(offsets, np.int64)
        assert data.tobytes() == b"".join(encoded)
        assert offsets.tolist() == [sum(map(len, encoded[:i])) for i in range(len(values) + 1)]


def test_a_str_that_lies_about_its_length_is_packed_by_its_characters():
    data, offsets = arguments.packed_strings("texts", [Name("ab"), Name("é")])
    assert data.tobytes().decode() == "abé" and offsets.tolist() == [0, 2, 4]


def test_arrays_of_str_are_packed():
    data, offsets = arguments.packed_strings("texts", np.array(["a", "bcé"]))
    assert data.tobytes().decode() == "abcé" and offsets.tolist() == [0, 1, 5]


@pytest.mark.parametrize(
    "values",
    [
        *("abc", b"abc", ["a", 1], ["a", None], [b"a"], {"a"}, {"a": 1}, iter(["a"]), None, 5, [["a"]]),
        *(np.array("abc"), np.array([["a"]]), np.array([1]), np.array([b"a"])),
    ],
    ids=kind,
)
def test_what_is_no_sequence_of_str_is_refused(values):
    for check in (arguments.packed_strings, arguments.strings):
        with pytest.raises(TypeError, match=r"^texts must"):
            check("texts", values)


def test_strings_are_listed():
    values = ["a", np.str_("b"), Name("c")]
    for given_ in (values, tuple(values), np.array(["a", "b", "c"])):
        assert arguments.strings("texts", given_) == ["a", "b", "c"]
    assert arguments.strings("texts", values) is not values, "nobody else changes it meanwhile"
    assert arguments.strings("titles", ["a", None], optional=True) == ["a", None]
    with pytest.raises(TypeError, match="titles must hold only str, got int"):
        arguments.strings("titles", ["a", None, 3], optional=True)


def test_packing_is_compiled_once():
    arguments.packed_strings("texts", ["é"]), arguments.packed_strings("texts", np.array(["é", "ü"]))
    assert len(strings.characters_to_bytes.signatures) == 1


def test_a_choice_is_one_of_those_named():
    assert arguments.one_of("metric", "ip", ("l2", "ip")) == "ip"
    assert arguments.one_of("mode", None, (None, "int8")) is None
    for value in ("IP", "", None, 5, ["ip"], b"ip"):
        with pytest.raises(ValueError, match=r"metric must be one of 'l2', 'ip', got"):
            arguments.one_of("metric", value, ("l2", "ip"))


def test_lengths_must_match():
    arguments.same_length(), arguments.same_length(a=[1]), arguments.same_length(a=[1, 2], b=np.zeros((2, 3)), c="xy")
    with pytest.raises(ValueError, match="lengths must match, got ids of 2, texts of 3"):
        arguments.same_length(ids=[1, 2], texts=["a", "b", "c"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no limit on printed integers there")
def test_the_limit_on_printed_integers_is_not_met():
    with pytest.raises(ValueError, match="bits"):
        arguments.reals("xs", [10 ** (sys.get_int_max_str_digits() + 1)])


def test_integers_refuse_bools_even_where_there_are_none():
    for values in (np.array([], bool), np.array([True]), [True, False]):
        with pytest.raises(TypeError, match="filter must be integers of shape"):
            arguments.integers("filter", values)
    assert arguments.integers("filter", []).tolist() == []


def test_a_sequence_is_no_str_and_no_matrix():
    for values in ([], ("a",), np.array(["a"]), np.array([1])):
        arguments.sequence("texts", values)
    for values in ("a", b"a", {"a"}, 5, None, np.array([["a"]])):
        with pytest.raises(TypeError, match="texts"):
            arguments.sequence("texts", values)
    with pytest.raises(TypeError, match=r"grid\['rate'\] must be a sequence of values, got float"):
        arguments.sequence("grid['rate']", 1.0, "values")


def test_strings_refuse_lone_surrogates_where_asked_to():
    assert arguments.strings("texts", ["a", "\ud800"]) == ["a", "\ud800"]
    with pytest.raises(ValueError, match="texts must be encodable as UTF-8"):
        arguments.strings("texts", ["a", "\ud800"], utf8=True)
    assert arguments.strings("texts", ["ä", None], optional=True, utf8=True) == ["ä", None]
