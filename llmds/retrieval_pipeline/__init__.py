"""Hybrid retrieval by text and by vectors: `RetrievalPipeline`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .fusion import FUSIONS
    from .pipeline import RetrievalPipeline
    from .write import Encoder

__all__ = ["FUSIONS", "Encoder", "RetrievalPipeline"]

_HOME = {"FUSIONS": "fusion", "Encoder": "write", "RetrievalPipeline": "pipeline"}
__getattr__, __dir__ = exports(__name__, _HOME)
