"""Files: what is written is what is read, whatever happens meanwhile, and nothing else is believed."""

import os
import struct
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmds.base import files as storage
from llmds.base.files import Damaged
from tests.base.written_files import ARRAYS, fit_for_kernels, is_mapped, written


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=30).filter(lambda name: name != "format"),
        hnp.arrays(
            st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=5,
    )
)
def test_whatever_is_written_is_read(tmp_path_factory, arrays):
    path = written(tmp_path_factory.mktemp("files") / "file.npz", arrays)
    for mmap in (False, True):
        found = storage.read(path, "Thing", 3, mmap)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


def test_what_is_read_can_be_handed_to_kernels(tmp_path, mmap):
    for name, array in storage.read(written(tmp_path / "file.npz"), "Thing", 3, mmap).items():
        assert fit_for_kernels(array) and array.shape == ARRAYS[name].shape, name
        assert is_mapped(array) == mmap, name


def test_arrays_of_the_other_byte_order_become_native(tmp_path, mmap):
    swapped = np.arange(5).astype(np.dtype(np.int64).newbyteorder("S"))
    found = storage.read(written(tmp_path / "file.npz", {"a": swapped}), "Thing", 3, mmap)["a"]
    assert fit_for_kernels(found) and found.tolist() == [0, 1, 2, 3, 4] and not is_mapped(found)


def test_numpy_reads_the_files(tmp_path):
    with np.load(written(tmp_path / "file.npz"), allow_pickle=False) as members:
        assert set(members.files) == {"format", *ARRAYS} and str(members["format"]) == "llmds Thing 3"
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(members[name], array)


def test_numpy_may_have_written_the_file(tmp_path, mmap):
    arrays = {name: array for name, array in ARRAYS.items() if array.flags.c_contiguous}
    np.savez(tmp_path / "file.npz", format=np.array("llmds Thing 1"), **arrays)
    found = storage.read(tmp_path / "file.npz", "Thing", 3, mmap)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert fit_for_kernels(found[name]), name
    assert not all(map(is_mapped, found.values())), "NumPy does not align what it writes"


def test_members_start_at_multiples_of_64_bytes_and_so_does_their_data(tmp_path):
    path = written(tmp_path / "file.npz")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and len(archive.infolist()) == len(ARRAYS) + 1
        for member in archive.infolist():
            name, extra = struct.unpack("<HH", data[member.header_offset + 26 : member.header_offset + 30])
            start = member.header_offset + 30 + name + extra
            assert start % 64 == 0 and data[start : start + 6] == b"\x93NUMPY", member.filename
            header = struct.unpack("<H", data[start + 8 : start + 10])[0]
            assert (10 + header) % 64 == 0, "NumPy pads its headers so that the data is aligned too"
            assert member.compress_type == zipfile.ZIP_STORED


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    assert written(tmp_path / "a.npz").read_bytes() == written(tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("name", ["größe 东京.npz", "no suffix", "x" * 250, ".hidden"])
def test_any_file_name_will_do(tmp_path, name):
    path = written(tmp_path / name)
    assert storage.read(str(path), "Thing", 3).keys() == ARRAYS.keys()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_relative_paths_lead_to_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write("file.npz", "Thing", 3, ARRAYS)
    assert (tmp_path / "file.npz").exists() and storage.read("file.npz", "Thing", 3).keys() == ARRAYS.keys()


class Full(OSError):
    pass


def fails(*arguments, **named):
    raise Full


def fails_late():
    """A stand-in for write_array that fails at the third array."""
    calls, write_array = [], np.lib.format.write_array

    def replacement(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise Full
        return write_array(*arguments, **named)

    return replacement


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("where", ["fsync", "replace", "write_array"])
@pytest.mark.parametrize("error", [Full, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, old, where, error):
    path = tmp_path / "file.npz"
    if old:
        written(path, {"old": np.arange(3)})
    monkeypatch.setattr(sys.modules[__name__], "Full", error)
    if where == "write_array":
        monkeypatch.setattr(np.lib.format, "write_array", fails_late())
    else:
        monkeypatch.setattr(os, where, fails)
    with pytest.raises(error):
        written(path)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.npz"] * old
    if old:
        assert storage.read(path, "Thing", 3)["old"].tolist() == [0, 1, 2]


def test_the_file_is_replaced_only_when_it_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path, order = tmp_path / "file.npz", []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        order.append("fsync")
        fsync(handle)

    def replaced(source, target):
        assert zipfile.ZipFile(source).testzip() is None and os.path.dirname(source) == str(tmp_path)
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced), monkeypatch.setattr(os, "replace", replaced)
    written(path)
    assert order == ["fsync", "replace"]


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        written(tmp_path / "file.npz", {"a": np.arange(3), "objects": np.array([None, {}], object)})
    with pytest.raises(ValueError, match="format"):
        written(tmp_path / "file.npz", {"format": np.arange(3)})
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_os_error(tmp_path, mmap):
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "none" / "file.npz")
    with pytest.raises(FileNotFoundError):
        storage.read(tmp_path / "none.npz", "Thing", 3, mmap)


@pytest.mark.skipif(sys.platform == "win32", reason="no umask there")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        path = written(tmp_path / "file.npz")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("version, found", [(3, 3), (3, 2), (3, 1)])
def test_older_versions_are_read(tmp_path, version, found, mmap):
    written(tmp_path / "file.npz", version=found)
    assert storage.read(tmp_path / "file.npz", "Thing", version, mmap).keys() == ARRAYS.keys()


def test_what_is_mapped_is_changed_in_private(tmp_path):
    path = written(tmp_path / "file.npz")
    before = path.read_bytes()
    found, other = (storage.read(path, "Thing", 3, mmap=True) for _ in range(2))
    for array in found.values():
        array[...] = 1
    assert path.read_bytes() == before
    for name, array in other.items():
        np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
def test_a_mapped_file_can_be_replaced_by_what_was_mapped(tmp_path):
    path = written(tmp_path / "file.npz")
    found, other = (storage.read(path, "Thing", 3, mmap=True) for _ in range(2))
    found["numbers"][0] = 99
    written(path, found)
    assert storage.read(path, "Thing", 3)["numbers"].tolist() == [99, 1, 2, 3, 4, 5, 6]
    for name, array in other.items():
        np.testing.assert_array_equal(array, ARRAYS[name], err_msg="who had it mapped keeps the old one")


@pytest.mark.skipif(sys.platform != "linux", reason="files have no holes, or memory is promised at once")
def test_a_file_larger_than_memory_can_be_mapped(tmp_path):
    small, path = written(tmp_path / "small.npz"), tmp_path / "large.npz"
    try:
        with open(path, "wb") as file:
            file.seek(4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
            file.write(small.read_bytes())
    except OSError:
        pytest.skip("this file system holds no file of that size")
    found = storage.read(path, "Thing", 3, mmap=True)
    assert found["numbers"].tolist() == list(range(7)) and fit_for_kernels(found["numbers"])


def test_a_mapping_that_the_system_refuses_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_mapped", fails)
    with pytest.raises(Full):
        storage.read(written(tmp_path / "file.npz"), "Thing", 3, mmap=True)


SCHEMA = {"a": (np.int64, 1), "b": (np.float32, 2)}


@pytest.mark.parametrize(
    "change, match",
    [
        ({"a": np.zeros(3, np.int32)}, "a is 1-d int32, expected 1-d int64"),
        ({"a": np.zeros(3)}, "a is 1-d float64"),
        ({"a": np.zeros((3, 1), np.int64)}, "a is 2-d"),
        ({"a": np.zeros((), np.int64)}, "a is 0-d"),
        ({"b": np.zeros(3, np.float32)}, "b is 1-d float32, expected 2-d float32"),
        ({"c": np.zeros(3)}, "expected"),
        ({"a": None}, "expected"),
    ],
)
def test_arrays_must_match_the_schema(change, match):
    arrays = {"a": np.zeros(3, np.int64), "b": np.zeros((2, 2), np.float32)}
    storage.match_schema(arrays, SCHEMA)
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(Damaged, match=match):
        storage.match_schema(arrays, SCHEMA)


def test_a_schema_may_allow_several_dtypes():
    schema = {"a": ((np.float32, np.float16, np.uint8), 1)}
    for dtype in (np.float32, np.float16, np.uint8):
        storage.match_schema({"a": np.zeros(3, dtype)}, schema)
    for wrong in (np.zeros(3), np.zeros((3, 1), np.uint8)):
        with pytest.raises(
            Damaged, match=f"a is {wrong.ndim}-d {wrong.dtype}, expected 1-d float32 or float16 or uint8"
        ):
            storage.match_schema({"a": wrong}, schema)


def test_parts_keep_their_names_apart():
    left, right = {"x": np.zeros(1)}, {"x": np.ones(1), "y.z": np.ones(2)}
    together = {**storage.prefixed("left", left), **storage.prefixed("leftover", right)}
    assert together.keys() == {"left.x", "leftover.x", "leftover.y.z"}
    assert storage.part("left", together).keys() == {"x"} and storage.part("left", together)["x"] is left["x"]
    assert storage.part("leftover", together).keys() == right.keys()


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_is_kept(text):
    array = storage.text_array(text)
    assert array.dtype == np.uint8 and array.flags.writeable and storage.text_of(array) == text


def test_text_that_is_no_utf8_is_refused():
    with pytest.raises(Damaged, match="UTF-8"):
        storage.text_of(np.array([0xFF], np.uint8))


def test_expectations_are_told_as_damage():
    storage.expect(True, "fine")
    with pytest.raises(Damaged, match="damaged: not fine"):
        storage.expect(False, "not fine")
