"""
Packages that load their names when they are first asked for (PEP 562).

`import kvseal` takes a tenth of the time that way, and a process pays for what it uses.  For type checkers
such a package imports its names as any other does.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def names(
    package: str, homes: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    Return `__getattr__` and `__dir__` of *package*.

    *homes* are the modules, relative to it, with what it has from each: `{".vault.vault": ("Vault",)}`.
    Its modules are there as well, as they are in a package that imports them.
    """
    modules = {name: home for home, those in homes.items() for name in those}

    def load(name: str) -> Any:
        if name not in modules:
            return _module(package, name)
        value = getattr(import_module(modules[name], package), name)
        # From now on it is found without this function.
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return load, listed


def _module(package: str, name: str) -> Any:
    full = f"{package}.{name}"
    if not name.startswith("_"):
        try:
            return import_module(full)
        except ModuleNotFoundError as exc:
            if exc.name != full:
                raise
    msg = f"module {package!r} has no attribute {name!r}"
    raise AttributeError(msg, name=name, obj=sys.modules[package])
