"""Files: what is written is what is read, whatever happens meanwhile, and nothing else is believed."""

import io
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

from llmds import storage
from llmds.storage import Damaged, Structure

ARRAYS = {
    "numbers": np.arange(7),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20, dtype=np.int32)[::3],
    "nothing": np.empty((0, 5), np.float32),
    "scalar": np.array(2.5),
    "bytes": np.arange(130, dtype=np.uint8),
    "größe.东京": np.array([1, 2]),
}


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
    found = storage.read(path, "Thing", 3)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_what_is_read_can_be_handed_to_kernels(tmp_path):
    for name, array in storage.read(written(tmp_path / "file.npz"), "Thing", 3).items():
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned, name
        assert array.dtype.isnative and array.shape == ARRAYS[name].shape


def test_arrays_of_the_other_byte_order_become_native(tmp_path):
    swapped = np.arange(5).astype(np.dtype(np.int64).newbyteorder("S"))
    found = storage.read(written(tmp_path / "file.npz", {"a": swapped}), "Thing", 3)["a"]
    assert found.dtype.isnative and found.tolist() == [0, 1, 2, 3, 4] and found.flags.writeable


def test_numpy_reads_the_files(tmp_path):
    with np.load(written(tmp_path / "file.npz"), allow_pickle=False) as members:
        assert set(members.files) == {"format", *ARRAYS} and str(members["format"]) == "llmds Thing 3"
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(members[name], array)


def test_numpy_may_have_written_the_file(tmp_path):
    np.savez(tmp_path / "file.npz", format=np.array("llmds Thing 1"), a=np.arange(3))
    assert storage.read(tmp_path / "file.npz", "Thing", 3)["a"].tolist() == [0, 1, 2]


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


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "none" / "file.npz")
    with pytest.raises(FileNotFoundError):
        storage.read(tmp_path / "none.npz", "Thing", 3)


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
def test_older_versions_are_read(tmp_path, version, found):
    written(tmp_path / "file.npz", version=found)
    assert storage.read(tmp_path / "file.npz", "Thing", version).keys() == ARRAYS.keys()


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
def test_other_formats_are_refused(tmp_path, mark, match):
    members = {"a": np.arange(3)} if mark is None else {"a": np.arange(3), "format": np.array(mark)}
    np.savez(tmp_path / "file.npz", **members)
    with pytest.raises(Damaged, match=match):
        storage.read(tmp_path / "file.npz", "Thing", 3)


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


def test_the_hand_made_member_would_be_read_if_nothing_were_wrong(tmp_path):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))])
    assert storage.read(path, "Thing", 1)["a"].tolist() == [0, 1, 2]


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
def test_a_member_that_is_not_what_was_written_is_refused(tmp_path, data):
    path = archived(tmp_path / "file.npz", [("a.npy", data)])
    with pytest.raises(Damaged, match="damaged"):
        storage.read(path, "Thing", 1)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path, compression):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))], compression=compression)
    with pytest.raises(Damaged, match="compressed"):
        storage.read(path, "Thing", 1)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    path = archived(tmp_path / "file.npz", [("a.npy", member(header(), NUMBERS))] * 2)
    with pytest.raises(Damaged, match="one name"):
        storage.read(path, "Thing", 1)


def test_members_that_share_their_bytes_are_refused(tmp_path):
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
        storage.read(path, "Thing", 1)


def test_no_prefix_of_a_file_is_read(tmp_path):
    data = written(tmp_path / "file.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(Damaged):
            storage.read(cut, "Thing", 3)


def test_a_flipped_bit_of_data_is_noticed(tmp_path):
    path = written(tmp_path / "file.npz", {"bytes": np.arange(200, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    at = data.index(bytes(range(100, 150)))
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="CRC"):
        storage.read(path, "Thing", 3)


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
