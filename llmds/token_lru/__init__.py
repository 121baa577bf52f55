"""A cache with a budget of tokens: `TokenLRU`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .cache import TokenLRU

__all__ = ["TokenLRU"]

__getattr__, __dir__ = exports(__name__, {"TokenLRU": "cache"})
