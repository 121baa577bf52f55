"""One replica of a serving engine on a trace: `simulate`, `sweep` and their cost models."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .cost_model import CostModel, kv_pages, preset
    from .results import Simulation, Sweep
    from .simulator import Replica, simulate, sweep

__all__ = ["CostModel", "Replica", "Simulation", "Sweep", "kv_pages", "preset", "simulate", "sweep"]

_HOME = {
    "CostModel": "cost_model",
    "kv_pages": "cost_model",
    "preset": "cost_model",
    "Replica": "simulator",
    "Simulation": "results",
    "Sweep": "results",
    "simulate": "simulator",
    "sweep": "simulator",
}
_MODULES = ["plots"]
__getattr__, __dir__ = exports(__name__, _HOME, _MODULES)
