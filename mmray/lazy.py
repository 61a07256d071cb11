"""Names of a package that are imported at first use (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from sys import modules


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        places: the module of each name.
    """

    def find(name: str) -> object:
        if name not in places:
            known = ", ".join(places)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {known}")
        value = getattr(import_module(places[name]), name)
        setattr(modules[package], name, value)
        return value

    return find
