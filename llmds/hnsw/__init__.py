"""Approximate nearest neighbours: `HNSW`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .index import HNSW

__all__ = ["HNSW"]

_HOME = {"HNSW": "index"}
__getattr__, __dir__ = exports(__name__, _HOME)
