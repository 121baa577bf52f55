"""Arrays to and from one file.

A file is an uncompressed .npz that `np.load` reads: one member for each array, starting at a
multiple of 64 bytes, plus the member `format`, which names the structure and the version.
"""

import mmap as memory
import os
import secrets
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Arrays = dict[str, np.ndarray]
# name of an array -> (dtype or a tuple of the dtypes it may have, number of dimensions)
Schema = Mapping[str, tuple[Any, int]]

_ALIGNMENT = 64
_PADDING_ID = 0xD935  # the zip extra field that Android's zipalign uses for padding
_LOCAL_HEADER, _ZIP64_EXTRA = 30, 20
_CHUNK = 1 << 22  # bytes read at a time, so that Ctrl-C is seen between


class Damaged(ValueError):
    """The bytes of a file are not what this library writes."""


def write(path: str | os.PathLike, kind: str, version: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` to `path`: to a new name in the same folder first, then renamed."""
    if "format" in arrays:
        raise ValueError("arrays must not be named 'format', the member that names the structure")
    path = Path(path)
    temporary = path.with_name(f".llmds-{secrets.token_hex(8)}.part")  # short, however long the name of the file
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                _write_member(archive, file, "format", np.array(f"llmds {kind} {version}"))
                for name, array in arrays.items():
                    _write_member(archive, file, name, np.asarray(array))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike, kind: str, version: int, mmap: bool = False) -> Arrays:
    """Return the arrays that `write` wrote: native, writable, C-contiguous, each at a multiple of 64 bytes.

    Raises Damaged if the bytes are anything else. The contents are as untrusted as the file: the caller must check
    names, shapes and values.

    With `mmap` the data is neither read nor compared with its checksum; the system reads it from the file at the first
    access. The arrays are ordinary ones over a private mapping: changes to them stay in this process, and
    `write` puts them into a file, which may be the same (where the system allows a mapped file to be replaced:
    Windows does not). Data that is not aligned or not native, as other programs may write it, is read at once.
    If another program shortens a file while it is mapped, the next access ends this process (SIGBUS);
    if the file is replaced, as `write` does, the mapping keeps the old contents.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        mapping = _mapped(file) if mmap and size else None  # outside the try: a failure is not a damaged file
        try:
            with zipfile.ZipFile(file) as archive:
                starts = _starts(archive, file, size)
                arrays = {
                    member.filename.removesuffix(".npy"): _read_member(file, member, start, mapping)
                    for member, start in zip(archive.infolist(), starts, strict=True)
                }
            words = str(arrays.pop("format")).split(" ")
            found_kind, found_version = " ".join(words[:-1]), int(words[-1])
        except Exception as error:  # zip and header parsers fail in many ways on hostile bytes
            raise Damaged(f"{os.fspath(path)}: damaged, or not written by llmds ({error})") from error
    if found_kind != f"llmds {kind}":
        raise Damaged(f"{os.fspath(path)}: holds {found_kind!r}, not 'llmds {kind}'")
    if not 1 <= found_version <= version:
        raise Damaged(f"{os.fspath(path)}: format version {found_version}, this llmds reads versions 1..{version}")
    return arrays


def match_schema(arrays: Arrays, schema: Schema) -> None:
    """Raise Damaged unless `arrays` has exactly the names, dtypes and dimensions of `schema`."""
    if arrays.keys() != schema.keys():
        raise Damaged(f"damaged: arrays {sorted(arrays)}, expected {sorted(schema)}")
    for name, (allowed, dimensions) in schema.items():
        array = arrays[name]
        dtypes = [np.dtype(dtype) for dtype in (allowed if isinstance(allowed, tuple) else (allowed,))]
        if array.ndim != dimensions or array.dtype not in dtypes:
            found, wanted = f"{array.ndim}-d {array.dtype}", f"{dimensions}-d {' or '.join(map(str, dtypes))}"
            raise Damaged(f"damaged: {name} is {found}, expected {wanted}")


def expect(holds: bool, what: str) -> None:
    """Raise Damaged with the message `what` unless `holds`. For `_from_arrays`."""
    if not holds:
        raise Damaged(f"damaged: {what}")


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays of a part, with names that can be in one file with those of other parts."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def part(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays that `prefixed` was given."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + ".")}


def text_array(text: str) -> np.ndarray:
    """Return a str as a uint8 array (n,) of UTF-8, for `write`."""
    return np.frombuffer(bytearray(text, "utf-8", "surrogatepass"), np.uint8)


def text_of(array: np.ndarray) -> str:
    """Return the str that `text_array` was given. Raises Damaged if the bytes are not UTF-8."""
    try:
        return array.tobytes().decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Damaged(f"damaged: text is not UTF-8 ({error})") from error


def _write_member(archive: zipfile.ZipFile, file: BinaryIO, name: str, array: np.ndarray) -> None:
    member = zipfile.ZipInfo(f"{name}.npy")
    header = file.tell() + _LOCAL_HEADER + len(member.filename.encode()) + _ZIP64_EXTRA
    padding = -(header + 4) % _ALIGNMENT
    member.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(member, "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def _starts(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> list[int]:
    """Return where the bytes of each member begin. Raises ValueError if members overlap each other or the directory.

    Otherwise many small entries could name one large run of bytes, and an entry could contradict its header.
    """
    members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members claim more bytes than it has")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its members have one name")
    starts = [_start(archive, file, member) for member in members]
    spans = [(member.header_offset, start + member.file_size) for member, start in zip(members, starts, strict=True)]
    if any(stop > start for (_, stop), (start, _) in pairwise([*sorted(spans), (archive.start_dir, size)])):
        raise ValueError("its members overlap")
    return starts


def _start(archive: zipfile.ZipFile, file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin. Raises ValueError unless its two headers agree."""
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} is compressed")
    archive.open(member).close()  # compares the two headers, and refuses an encrypted member
    file.seek(member.header_offset + _LOCAL_HEADER - 4)
    name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + _LOCAL_HEADER + name + extra


def _read_member(file: BinaryIO, member: zipfile.ZipInfo, start: int, mapping: memory.mmap | None) -> np.ndarray:
    """Return one array. Sizes are compared before anything is allocated, so that no header can ask for terabytes."""
    file.seek(start)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename} has an unknown array header")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    items, header = int(np.prod(shape, dtype=object)), file.tell() - start
    flawed = dtype.hasobject or dtype.itemsize == 0 or fortran_order or min(shape, default=0) < 0
    if flawed or items * dtype.itemsize != member.file_size - header:
        raise ValueError(f"{member.filename} does not hold the {shape} {dtype} of its header")
    if mapping is None:
        array = np.frombuffer(_read_data(file, member, start, header), dtype, items).reshape(shape)
    else:
        array = np.frombuffer(mapping, dtype, items, start + header).reshape(shape)
    if dtype.isnative and array.ctypes.data % _ALIGNMENT == 0:
        return array
    copy = aligned(array.nbytes).view(dtype.newbyteorder("=")).reshape(shape)
    copy[...] = array
    return copy


def _read_data(file: BinaryIO, member: zipfile.ZipInfo, start: int, header: int) -> np.ndarray:
    """Return the bytes of a member after its `header` bytes, checked by the checksum of all of them."""
    file.seek(start)
    checksum = zlib.crc32(file.read(header))
    data = aligned(member.file_size - header)
    for at in range(0, len(data), _CHUNK):
        piece = data[at : at + _CHUNK].data
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
            raise ValueError(f"{member.filename} ends early")
        checksum = zlib.crc32(piece, checksum)
    if checksum != member.CRC:
        raise ValueError(f"{member.filename} does not match its CRC-32")
    return data


def _mapped(file: BinaryIO) -> memory.mmap:
    """Return the file as memory whose changes stay in this process."""
    if sys.platform != "linux":
        return memory.mmap(file.fileno(), 0, access=memory.ACCESS_COPY)
    # Without MAP_NORESERVE, Linux refuses to map a file larger than the memory that is free.
    no_reserve = getattr(memory, "MAP_NORESERVE", 0x4000)  # in the module since Python 3.13
    return memory.mmap(file.fileno(), 0, memory.MAP_PRIVATE | no_reserve, memory.PROT_READ | memory.PROT_WRITE)


def aligned(size: int) -> np.ndarray:
    """Return `size` zeros, uint8, starting at a multiple of 64 bytes."""
    room = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size]
