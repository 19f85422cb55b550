"""docs/architecture.md: it quotes the import rules as they are, and its walks name functions that exist."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "kvseal"
PAGE: Final = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "tool"
]["importlinter"]["contracts"]
PLACE: Final = re.compile(r"`([\w/]+\.py):([\w.]+)`")
WALKS: Final = [
    "A value through `put` and `get`",
    "A secret through `open`",
    "A Fernet record through a migration",
]


def as_text(contract: dict[str, Any]) -> str:
    """Return *contract* as the page quotes it."""
    if contract["type"] == "layers":
        return "\n".join(contract["layers"])
    if contract["type"] == "independence":
        return "\n".join(contract["modules"])
    return "\n".join([*contract["source_modules"], "  does not import", *contract["forbidden_modules"]])


@cache
def definitions(path: str) -> frozenset[str]:
    """Return the functions and classes of the module *path*, and their methods as `Class.method`."""
    file = PACKAGE / path
    if not file.is_file():
        return frozenset()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, kinds):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in ast.walk(node) if isinstance(inner, kinds)}
    return frozenset(found)


def test_every_contract_is_quoted() -> None:
    """The page has each contract of pyproject.toml under its name, line by line, and no other one."""
    quoted = re.findall(r"^### ([^\n]*)\n\n```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)

    assert [(contract["name"], as_text(contract)) for contract in CONTRACTS] == quoted


def test_every_layer_is_in_the_diagram() -> None:
    """The diagram has a line for every package of the list of layers."""
    diagram = PAGE.split("```")[1]
    layers = re.findall(r"kvseal\.(\w+)", as_text(CONTRACTS[0]))

    assert [] == [name for name in layers if not re.search(rf"\b{name}: ", diagram)]


@pytest.mark.parametrize("heading", WALKS)
def test_a_walk_names_what_exists(heading: str) -> None:
    """Every `file:function` of the walk is a function, class or method of that file."""
    text = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    places = PLACE.findall(text)

    assert len(places) > 10
    assert [] == [f"{path}:{name}" for path, name in places if name not in definitions(path)]
