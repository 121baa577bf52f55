"""Modules and names of a package, imported when they are first used."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

Access = tuple[Callable[[str], Any], Callable[[], list[str]]]


def submodules(package: str, path: Iterable[str]) -> Access:
    """Return `__getattr__` and `__dir__` of a package whose attributes are its modules."""
    names = {module.name for module in iter_modules(path)}

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f".{name}", package)

    return load, lambda: sorted(names)


def exports(package: str, home: Mapping[str, str], modules: Iterable[str] = ()) -> Access:
    """Return `__getattr__` and `__dir__` of a package that re-exports names.

    `home` maps a name to the module of the package that defines it; `modules` are attributes themselves.
    """
    modules = set(modules)

    def load(name: str) -> Any:
        if name in home:
            value = getattr(import_module(f".{home[name]}", package), name)
            setattr(sys.modules[package], name, value)  # found without this function from now on
            return value
        if name in modules:
            return import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted({*vars(sys.modules[package]), *home, *modules})
