"""Files that this library did not write: whatever is wrong with the bytes, nothing is believed."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from llmds.base import files as storage
from llmds.base.files import Damaged
from tests.base.written_files import written


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
