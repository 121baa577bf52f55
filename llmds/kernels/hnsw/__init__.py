"""Kernels of HNSW; modules load when first named."""

from .._lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
