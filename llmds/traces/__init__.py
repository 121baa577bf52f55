"""Traces of requests: reading, making, and what caches of any size find in them."""

from typing import TYPE_CHECKING

from ..kernels._lazy import exports

if TYPE_CHECKING:
    from .hit_rates import Replay, hit_rate_curve, replay
    from .sources import read, read_azure, read_mooncake, synthetic
    from .trace import Trace

__all__ = ["Replay", "Trace", "hit_rate_curve", "read", "read_azure", "read_mooncake", "replay", "synthetic"]

_HOME = {
    "Replay": "hit_rates",
    "hit_rate_curve": "hit_rates",
    "replay": "hit_rates",
    "read": "sources",
    "read_azure": "sources",
    "read_mooncake": "sources",
    "synthetic": "sources",
    "Trace": "trace",
}
_MODULES = ["reuse"]
__getattr__, __dir__ = exports(__name__, _HOME, _MODULES)
