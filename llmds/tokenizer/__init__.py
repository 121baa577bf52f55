"""Terms and tokens of texts: `Tokenizer`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

__all__ = ["Tokenizer"]

_HOME = {"Tokenizer": "tokenizer"}
__getattr__, __dir__ = exports(__name__, _HOME)
