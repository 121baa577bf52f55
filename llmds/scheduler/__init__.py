"""Requests in batches: `Scheduler`."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .scheduler import Request, Scheduler

__all__ = ["Request", "Scheduler"]

_HOME = {"Request": "scheduler", "Scheduler": "scheduler"}
__getattr__, __dir__ = exports(__name__, _HOME)
