"""Files: what is written is what is read, whatever happens meanwhile, and nothing else is believed."""

import copy
import io
import mmap as mapping
import os
import pickle
import struct
import sys
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmds.base import files as storage
from llmds.base.files import Damaged
from llmds.base.structure import Structure

ARRAYS = {
    "numbers": np.arange(7),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20, dtype=np.int32)[::3],
    "nothing": np.empty((0, 5), np.float32),
    "scalar": np.array(2.5),
    "bytes": np.arange(130, dtype=np.uint8),
    "größe.东京": np.array([1, 2]),
}


@pytest.fixture(params=[False, True], ids=["read", "mmap"])
def mmap(request):
    """Both ways of reading."""
    return request.param


def written(path, arrays=ARRAYS, kind="Thing", version=3):
    storage.write(path, kind, version, arrays)
    return path


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


def fit_for_kernels(array):
    """What a kernel is compiled for, and what vector instructions like."""
    flags = array.flags
    address = array.__array_interface__["data"][0] if array.size else 0
    fit = flags.c_contiguous and flags.writeable and flags.aligned and array.dtype.isnative and address % 64 == 0
    return fit and type(array) is np.ndarray


def is_mapped(array):
    owner = array
    while not isinstance(owner, (mapping.mmap, type(None))):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner is not None


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


@pytest.mark.parametrize(
    "mark, match",
    [
        ("llmds Thing 4", "version 4"),
        ("llmds Thing 0", "version 0"),
        ("llmds Thing -1", "version -1"),
        ("llmds Other 1", "holds 'llmds Other'"),
        ("llmds  Thing 1", "holds"),
        ("Thing 1", "holds 'Thing'"),
        ("llmds Thing", "damaged"),
        ("llmds Thing x", "damaged"),
        ("", "damaged"),
        (None, "damaged"),
    ],
)
def test_other_formats_are_refused(tmp_path, mark, match, mmap):
    members = {"a": np.arange(3)} if mark is None else {"a": np.arange(3), "format": np.array(mark)}
    np.savez(tmp_path / "file.npz", **members)
    with pytest.raises(Damaged, match=match):
        storage.read(tmp_path / "file.npz", "Thing", 3, mmap)


def member(header, data=b"", version=(1, 0), magic=b"\x93NUMPY"):
    """The bytes of an .npy file with any header."""
    text = header.encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return magic + bytes(version) + struct.pack("<H", len(text)) + text + data


def archived(path, members, **options):
    """A zip of named bytes beside a right `format`."""
    mark = io.BytesIO()
    np.lib.format.write_array(mark, np.array("llmds Thing 1"))
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("format.npy", mark.getvalue())
        for name, data in members:
            archive.writestr(name, data)
    return path


def header(descr="'<i8'", order=False, shape="(3,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


NUMBERS = np.arange(3).tobytes()


def test_the_hand_made_member_would_be_read_if_nothing_were_wrong(tmp_path, mmap):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))])
    assert storage.read(path, "Thing", 1, mmap)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "data",
    [
        member(header("'|O'"), NUMBERS),
        member(header("[('x', '|O')]"), NUMBERS),
        member(header("'|O'", shape="(1,)"), pickle.dumps([print])),
        member(header(order=True, shape="(3, 1)"), NUMBERS),
        member(header(shape="(1000000000000,)"), NUMBERS),
        member(header(shape="(1000000000000, 1000000000000, 1000000000000)"), NUMBERS),
        member(header(shape="(18446744073709551619,)"), NUMBERS),
        member(header(shape="(4294967296, 4294967296)"), b""),
        member(header(shape="(-3,)"), NUMBERS),
        member(header(shape="(-1, -3)"), NUMBERS),
        member(header(shape="(-1,)")),
        member(header(shape="(3.0,)"), NUMBERS),
        member(header(shape="'3'"), NUMBERS),
        member(header(shape="(2,)"), NUMBERS),
        member(header(shape="(4,)"), NUMBERS),
        member(header(shape="(0,)"), NUMBERS),
        member(header("'<U0'", shape="(1000000000000,)")),
        member(header("'|V0'", shape="(1000000000000,)")),
        member(header("'nonsense'"), NUMBERS),
        member("{'descr': '<i8', 'shape': (3,)}", NUMBERS),
        member("print('run')", NUMBERS),
        member("(" * 5000, NUMBERS),
        member(header() + " " * 20000, NUMBERS),
        member(header(), NUMBERS, version=(2, 0)),
        member(header(), NUMBERS, version=(9, 9)),
        member(header(), NUMBERS, magic=b"\x93NUMPX"),
        member(header(), NUMBERS)[:30],
        b"\x93NUMPY",
        b"",
    ],
)
def test_a_member_that_is_not_what_was_written_is_refused(tmp_path, data, mmap):
    path = archived(tmp_path / "file.npz", [("a.npy", data)])
    with pytest.raises(Damaged, match="damaged"):
        storage.read(path, "Thing", 1, mmap)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path, compression, mmap):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))], compression=compression)
    with pytest.raises(Damaged, match="compressed"):
        storage.read(path, "Thing", 1, mmap)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path, mmap):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))] * 2)
    with pytest.raises(Damaged, match="one name"):
        storage.read(path, "Thing", 1, mmap)


def test_members_that_share_their_bytes_are_refused(tmp_path, mmap):
    """A few bytes of directory each, and every one announces the same large run."""
    path = tmp_path / "file.npz"
    archived(path, [("a.npy", member(header(shape="(1000,)"), bytes(8000)))])
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    last = data.rfind(b"PK\x01\x02")
    entry = bytes(data[last:end])
    entries = b"".join(entry.replace(b"a.npy", b"%c.npy" % letter) for letter in b"bcdefgh")
    data[end:end] = entries
    end += len(entries)
    count, size = 9, struct.unpack("<I", data[end + 12 : end + 16])[0] + len(entries)
    data[end + 8 : end + 16] = struct.pack("<HHI", count, count, size)
    path.write_bytes(data)
    assert len(zipfile.ZipFile(path).infolist()) == 9
    with pytest.raises(Damaged, match="more bytes"):
        storage.read(path, "Thing", 1, mmap)


def test_no_prefix_of_a_file_is_read(tmp_path, mmap):
    data = written(tmp_path / "file.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(Damaged):
            storage.read(cut, "Thing", 3, mmap)


def test_a_flipped_bit_of_data_is_noticed(tmp_path):
    path = written(tmp_path / "file.npz", {"bytes": np.arange(200, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    at = data.index(bytes(range(100, 150)))
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="CRC"):
        storage.read(path, "Thing", 3)
    assert storage.read(path, "Thing", 3, mmap=True)["bytes"][100] == 101, "what is mapped is not read"


def test_a_flipped_bit_of_the_padding_of_an_array_header_is_noticed(tmp_path):
    path = written(tmp_path / "file.npz", {"bytes": np.arange(200, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(100))) - 2] = 9  # a tab for a space
    path.write_bytes(data)
    with pytest.raises(Damaged):
        storage.read(path, "Thing", 3)


def local_header(data, name):
    """Where the header in front of a member is; not the one that may be hidden in the data of another member."""
    return data.rindex(b"PK\x03\x04", 0, data.rindex(name, 0, data.index(b"PK\x01\x02")))


def directory_entry(data, name):
    """Where the entry of a member in the directory is."""
    return data.rindex(name) - 46


def at_local(offset, *values):
    """Overwrites bytes of the header in front of member b."""

    def change(data):
        at = local_header(data, b"b.npy") + offset
        data[at : at + len(values)] = bytes(values)

    return change


def at_directory(offset, layout, value):
    """Overwrites a field of b's entry in the directory; `value` is a number, or what makes it of the present one."""

    def change(data):
        at = directory_entry(data, b"b.npy") + offset
        (old,) = struct.unpack_from(layout, data, at)
        struct.pack_into(layout, data, at, value(old) if callable(value) else value)

    return change


def two_in_one(data):
    """b's entry leads to a header that lies in the data of a, where a whole member is hidden."""
    struct.pack_into("<I", data, directory_entry(data, b"b.npy") + 42, data.index(b"PK\x03\x04", data.index(b"a.npy")))


HOSTILE = {
    "signature": at_local(0, 0),
    "another name": at_local(30, ord("c")),
    "a shorter name": at_local(26, 4),
    "a longer name": at_local(26, 255, 255),
    "a longer extra field": at_local(28, 255, 255),
    "data a little later": at_local(28, 1),
    "header in nowhere": at_directory(42, "<I", 0x7FFFFFFF),
    "header at the end": at_directory(42, "<I", lambda old: old + 10000),
    "header of another member": at_directory(42, "<I", 0),
    "header between": at_directory(42, "<I", lambda old: old + 1),
    "header at 2**32 - 1, where a longer one is missing": at_directory(42, "<I", 0xFFFFFFFF),
    "sizes that differ": at_directory(20, "<I", lambda old: old + 64),
    "other sizes that differ": at_directory(24, "<I", lambda old: old - 64),
    "encrypted": at_directory(8, "<H", lambda old: old | 1),
    "patched": at_directory(8, "<H", lambda old: old | 32),
    "two in one": two_in_one,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_offsets_and_headers_are_not_believed(tmp_path, mmap, change):
    inner, path = io.BytesIO(), tmp_path / "file.npz"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("b.npy", member(header(), NUMBERS))
    hidden = inner.getvalue()[: inner.getvalue().index(b"PK\x01\x02")]
    around = member(header("'|u1'", shape=f"({len(hidden)},)"), hidden)
    archived(path, [("a.npy", around), ("b.npy", member(header(), NUMBERS))])
    data = bytearray(path.read_bytes())
    assert storage.read(path, "Thing", 1, mmap)["b"].tolist() == [0, 1, 2]
    change(data)
    assert data != path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(Damaged, match="damaged"):
        storage.read(path, "Thing", 1, mmap)


def test_data_behind_the_directory_is_refused(tmp_path, mmap):
    """The member's header is the last thing before the directory, and the directory would be its data."""
    path = archived(tmp_path / "file.npz", [("b.npy", member(header(), NUMBERS))])
    data = bytearray(path.read_bytes())
    start = local_header(data, b"b.npy")
    extra = len(member(header(), NUMBERS)) - 40
    data[start + 28 : start + 30] = struct.pack("<H", extra)
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"[Oo]verlap"):
        storage.read(path, "Thing", 1, mmap)


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


class Pair(Structure):
    """The least a structure can be."""

    _schema = {"left": (np.int64, 1), "right": (np.int64, 1)}  # noqa: RUF012
    _version = 2

    def __init__(self, left, right):
        self.left, self.right, self._lock = left, right, threading.RLock()

    def _to_arrays(self):
        return {"left": self.left, "right": self.right}

    @classmethod
    def _from_arrays(cls, arrays, **given):
        storage.expect(len(arrays["left"]) == len(arrays["right"]), "left and right differ in length")
        return cls(arrays["left"], arrays["right"])

    def _fault(self):
        return None if (self.left <= self.right).all() else "left is not below right"


def test_a_structure_gets_its_face_from_four_lines(tmp_path):
    pair = Pair(np.array([1, 2]), np.array([3, 4]))
    assert pair.nbytes == 32
    pair.check()
    pair.save(tmp_path / "pair.npz")
    for other in (Pair.load(tmp_path / "pair.npz"), pickle.loads(pickle.dumps(pair))):
        assert other.left.tolist() == [1, 2] and other.right.tolist() == [3, 4]
        with other._lock:
            pass


@pytest.mark.parametrize(
    "left, right, match",
    [([1], [2, 3], "differ in length"), ([5], [2], "left is not below right"), ([[1]], [[2]], "left is 2-d")],
)
def test_load_tells_the_file_and_what_is_wrong_with_it(tmp_path, left, right, match):
    path = tmp_path / "pair.npz"
    storage.write(path, "Pair", 1, {"left": np.array(left), "right": np.array(right)})
    with pytest.raises(ValueError, match=match) as caught:
        Pair.load(path)
    assert str(path) in str(caught.value)


def test_check_raises_what_load_refuses():
    with pytest.raises(AssertionError, match="left is not below right"):
        Pair(np.array([5]), np.array([2])).check()


def test_a_structure_that_says_nothing_of_files_refuses_them(tmp_path):
    class Silent(Structure):
        _schema = {}  # noqa: RUF012

    with pytest.raises(TypeError, match="Silent cannot be saved"):
        Silent().save(tmp_path / "file.npz")
    storage.write(tmp_path / "file.npz", "Silent", 1, {})
    with pytest.raises(TypeError, match="Silent cannot be loaded"):
        Silent.load(tmp_path / "file.npz")


class Mapped(Pair):
    """A structure that can do without knowing what is in one of its arrays."""

    @classmethod
    def load(cls, path, *, mmap=False):
        return cls._load(path, mmap)

    def _mapped_fault(self):
        return "left is negative" if (self.left < 0).any() else None


def test_a_structure_says_what_it_must_know_of_a_mapped_file(tmp_path):
    path = tmp_path / "file.npz"
    storage.write(path, "Mapped", 1, {"left": np.array([5]), "right": np.array([2])})
    with pytest.raises(ValueError, match="left is not below right"):
        Mapped.load(path)
    assert Mapped.load(path, mmap=True).left.tolist() == [5]
    storage.write(path, "Mapped", 1, {"left": np.array([-5]), "right": np.array([2])})
    with pytest.raises(ValueError, match="left is negative"):
        Mapped.load(path, mmap=True)
    storage.write(path, "Mapped", 1, {"left": np.array([5]), "right": np.array([2, 3])})
    with pytest.raises(ValueError, match="differ in length"):
        Mapped.load(path, mmap=True)


def test_a_structure_that_says_nothing_of_mapping_is_examined_wholly(tmp_path):
    storage.write(tmp_path / "file.npz", "Pair", 1, {"left": np.array([5]), "right": np.array([2])})
    with pytest.raises(ValueError, match="left is not below right"):
        Pair._load(tmp_path / "file.npz", mmap=True)


def test_a_mapped_structure_is_as_any_other(tmp_path):
    path = tmp_path / "file.npz"
    Mapped(np.array([1, 2]), np.array([3, 4])).save(path)
    pair = Mapped.load(path, mmap=True)
    assert is_mapped(pair.left) and is_mapped(pair.right)
    for other in (pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair)):
        assert other.left.tolist() == [1, 2] and not is_mapped(other.left)
        other.left[0] = 0
    assert pair.left.tolist() == [1, 2] and pair.nbytes == 32
    if sys.platform != "win32":
        pair.left[0] = -7
        pair.save(path)
        assert Mapped.load(path).left.tolist() == [-7, 2]
