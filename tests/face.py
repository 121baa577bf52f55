"""What every structure promises, checked the same way for all: files, pickles, damage."""

import copy
import pickle
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest


def same_arrays(a, b):
    """Two structures hold the same arrays, bit for bit."""
    left, right = a._to_arrays(), b._to_arrays()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def keeps_everything(structure, folder, **given):
    """Copies by file, pickle, copy and deepcopy are whole, equal and share nothing; they are returned."""
    path = folder / "structure.npz"
    structure.save(path)
    loaded = type(structure).load(path, **given)
    buffers = []
    pickled = pickle.dumps(structure, protocol=5, buffer_callback=buffers.append)
    from_read_only = pickle.loads(pickled, buffers=[bytes(buffer) for buffer in buffers])
    copies = [
        loaded,
        pickle.loads(pickle.dumps(structure)),
        copy.deepcopy(structure),
        copy.copy(structure),
        from_read_only,
    ]
    for other in copies:
        other.check()
        same_arrays(structure, other)
        for array in other._owned():
            assert array.flags.writeable and not any(np.shares_memory(array, own) for own in structure._owned())
    assert [entry.name for entry in folder.iterdir()] == ["structure.npz"], "no temporary file stays"
    with np.load(path, allow_pickle=False) as members:
        assert set(members.files) == {"format", *structure._to_arrays()}
    return copies


def survives_damage(structure, folder, rounds=300, seed=5, **given):
    """Whatever is wrong with the bytes, `load` raises ValueError, or gives a structure that checks."""
    whole, hurt = folder / "whole.npz", folder / "hurt.npz"
    structure.save(whole)
    data, chance = whole.read_bytes(), random.Random(seed)
    for turn in range(rounds):
        if turn % 3 == 0:
            bad = data[: chance.randrange(len(data))]
        elif turn % 3 == 1:
            bad = bytearray(data)
            for _ in range(chance.randrange(1, 4)):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
        else:
            bad = _hurt_below_the_checksums(whole, chance)
        hurt.write_bytes(bad)
        try:
            loaded = type(structure).load(hurt, **given)
        except ValueError:
            continue
        loaded.check()


def refuses_other_files(cls, folder, **given):
    """Not a file of this kind, of this version, or a file at all."""
    path = folder / "other.npz"
    np.savez(path, format=np.array("llmds Other 1"))
    with pytest.raises(ValueError, match="holds"):
        cls.load(path, **given)
    np.savez(path, format=np.array(f"llmds {cls.__name__} 99"))
    with pytest.raises(ValueError, match="version 99"):
        cls.load(path, **given)
    np.savez(path, format=np.array(f"llmds {cls.__name__} 1"), surplus=np.zeros(3))
    with pytest.raises(ValueError, match="damaged"):
        cls.load(path, **given)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        cls.load(path, **given)
    with pytest.raises(FileNotFoundError):
        cls.load(folder / "none.npz", **given)


def _hurt_below_the_checksums(path, chance):
    """A file whose checksums are right and one array of which is not: what an attacker would write."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        victim = chance.choice([member for member in members if member.filename != "format.npy"])
        offset = victim.header_offset
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", data[offset + 26 : offset + 30])
    start, stop = offset + 30 + name + extra, offset + 30 + name + extra + victim.file_size
    first = min(start + 128, stop - 1)  # past the array's own header
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(first, stop)
        data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1, chance.randrange(256)])
    checksum = struct.pack("<I", zlib.crc32(data[start:stop]))
    data[offset + 14 : offset + 18] = checksum
    central = data.rfind(b"PK\x01\x02")
    while central >= 0:
        length = struct.unpack("<H", data[central + 28 : central + 30])[0]
        if data[central + 46 : central + 46 + length] == victim.filename.encode():
            data[central + 16 : central + 20] = checksum
            break
        central = data.rfind(b"PK\x01\x02", 0, central)
    return data
