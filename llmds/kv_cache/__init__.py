"""Paged K/V storage: `KVCache`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .cache import Events, KVCache

__all__ = ["Events", "KVCache"]

_HOME = {"Events": "cache", "KVCache": "cache"}
__getattr__, __dir__ = exports(__name__, _HOME)
