"""The libraries that kvseal's extras install, read from pyproject.toml and from what is installed."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

PYPROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]


def libraries(*extras: str) -> list[str]:
    """Return the names by which the libraries of *extras* are imported; of all extras if none is named."""
    wanted = {
        name
        for extra in extras or EXTRAS
        for requirement in map(Requirement, EXTRAS[extra])
        for name in _distributions(requirement)
    }
    found = {
        module for module, of in packages_distributions().items() if wanted & {name.lower() for name in of}
    }
    return sorted(found)


def _distributions(requirement: Requirement) -> Iterator[str]:
    if requirement.name not in {"py-key-value-aio", "kvseal"}:
        yield requirement.name.lower()
    for extra in requirement.extras if requirement.name == "py-key-value-aio" else ():
        for one in map(Requirement, requires(requirement.name) or ()):
            if one.marker is not None and one.marker.evaluate({"extra": extra}):
                yield one.name.lower()
