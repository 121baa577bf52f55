"""Kernels of HNSW, imported when they are first used."""

from .._lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
