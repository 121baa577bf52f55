"""Paged K/V storage: `KVCache`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from ..paged_allocator import OutOfPagesError
    from .cache import KVCache
    from .state import Events

__all__ = ["Events", "KVCache", "OutOfPagesError"]

_HOME = {"Events": "state", "KVCache": "cache", "OutOfPagesError": "cache"}
__getattr__, __dir__ = exports(__name__, _HOME)
