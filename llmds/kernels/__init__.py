"""Compiled functions over arrays and scalars: the lower floor of the library.

Each module serves one structure (or all of them: `hashing`, `table`, `strings`) and says in its
docstring what the arrays mean. They are public: call them from your own `@njit` functions.
Modules load when first named, `llmds.kernels.heap` as any other.
"""

from importlib import import_module
from pkgutil import iter_modules

_MODULES = {module.name for module in iter_modules(__path__)}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
