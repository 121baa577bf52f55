"""Traces of requests: reading, making, and what caches of any size find in them."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .hit_rates import Replay, hit_rate_curve, replay
    from .reuse import lru_hits, optimal_hits, stack_distances
    from .sources import read, read_azure, read_mooncake, synthetic
    from .trace import Trace

__all__ = [
    "Replay", "Trace", "hit_rate_curve", "lru_hits", "optimal_hits", "read", "read_azure", "read_mooncake", "replay",
    "stack_distances", "synthetic",
]  # fmt: skip

_HOME = {
    "Replay": "hit_rates",
    "hit_rate_curve": "hit_rates",
    "lru_hits": "reuse",
    "optimal_hits": "reuse",
    "replay": "hit_rates",
    "read": "sources",
    "read_azure": "sources",
    "read_mooncake": "sources",
    "stack_distances": "reuse",
    "synthetic": "sources",
    "Trace": "trace",
}
_MODULES = ["reuse"]
__getattr__, __dir__ = exports(__name__, _HOME, _MODULES)
