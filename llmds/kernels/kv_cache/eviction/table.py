"""The table of eviction policies."""

from importlib import import_module
from types import ModuleType

# A policy is a module of this folder, and its number is its position here. Files hold the number: append new policies.
POLICIES = ("lru", "lfu", "slru", "tinylfu", "s3fifo", "lhd")


def policy(number: int) -> ModuleType:
    """Return the module of a policy. ValueError if there is no policy of this number."""
    if not 0 <= number < len(POLICIES):
        raise ValueError(f"no eviction policy has the number {number}, they are {', '.join(POLICIES)}")
    return import_module(f"{__package__}.{POLICIES[number]}")
