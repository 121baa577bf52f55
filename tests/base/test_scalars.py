"""Mixed values as arrays: what goes in comes out, and nothing else goes in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.base import files as storage
from llmds.base import scalars

values = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(st.characters())


@given(st.lists(values))
def test_values_come_back_as_they_were(mixed):
    arrays = scalars.to_arrays(mixed)
    storage.match_schema(arrays, scalars.SCHEMA)
    back = scalars.from_arrays(arrays).tolist()
    assert [(type(value), repr(value)) for value in back] == [(type(value), repr(value)) for value in mixed]


@pytest.mark.parametrize("value", [True, 2**63, 1j, b"x", [1], np.True_, object()])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="can be saved"):
        scalars.to_arrays(["fine", value])


@pytest.mark.parametrize(
    "name, bad",
    [
        ("kinds", np.array([4, 3], np.uint8)),
        ("numbers", np.zeros(3, np.int64)),
        ("offsets", np.array([0, 5, 4])),
        ("offsets", np.array([0, 1])),
        ("offsets", np.array([1, 1, 4])),
        ("offsets", np.array([0, -1, 4])),
        ("data", np.array([0x61, 0xFF, 0x61, 0x61], np.uint8)),
        ("data", np.zeros(9, np.uint8)),
    ],
)
def test_damaged_arrays_are_refused(name, bad):
    arrays = scalars.to_arrays([1, "four"])
    scalars.from_arrays(arrays)
    with pytest.raises(storage.Damaged):
        scalars.from_arrays({**arrays, name: bad})
