"""Full-text search by BM25: `InvertedIndex`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .index import InvertedIndex

__all__ = ["InvertedIndex"]

_HOME = {"InvertedIndex": "index"}
__getattr__, __dir__ = exports(__name__, _HOME)
