"""What every structure inherits: files, pickles, checks."""

import copy
import pickle
import sys
import threading
from typing import NamedTuple

import numpy as np
import pytest

from llmds.base import files as storage
from llmds.base.structure import Structure
from tests.base.written_files import is_mapped


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


def test_a_structure_without_arrays_for_kernels_has_no_such_attribute():
    with pytest.raises(AttributeError, match="Pair has no arrays for kernels"):
        Pair(np.array([1]), np.array([2])).arrays  # noqa: B018
    assert not hasattr(Pair(np.array([1]), np.array([2])), "arrays")


def test_copies_share_no_array():
    pair = Pair(np.array([1, 2]), np.array([3, 4]))
    for other in (copy.copy(pair), copy.deepcopy(pair)):
        other.check()
        other.left[0], other.right[1] = 0, 9
    assert (pair.left.tolist(), pair.right.tolist()) == ([1, 2], [3, 4])


class Arrays(NamedTuple):
    left: np.ndarray
    right: np.ndarray


def test_a_pickle_whose_buffers_are_read_only_gives_writable_arrays():
    pair = Pair(np.array([1, 2]), np.array([3, 4]))
    pair.both = Arrays(pair.left, pair.right)
    buffers = []
    pickled = pickle.dumps(pair, protocol=5, buffer_callback=buffers.append)
    other = pickle.loads(pickled, buffers=[bytes(buffer) for buffer in buffers])
    arrays = other.left, other.right, *other.both
    assert all(array.flags.writeable for array in arrays)
    assert [array.tolist() for array in arrays] == 2 * [[1, 2], [3, 4]]
