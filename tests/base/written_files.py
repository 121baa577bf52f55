"""A file to read and what the arrays of files are like."""

import mmap as mapping

import numpy as np

from llmds.base import files as storage

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
