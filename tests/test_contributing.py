"""CONTRIBUTING.md says what pyproject.toml, the Makefile, noxfile.py and CI do."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def of_noxfile(name: str) -> Any:
    """Return the literal that noxfile.py assigns to *name*."""
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]:
            return ast.literal_eval(node.value)
    pytest.fail(f"noxfile.py does not say {name}")


@pytest.mark.parametrize("number", [0, 1], ids=["layers", "inside the vault"])
def test_layers(number: int) -> None:
    """The page quotes each list of layers as the contract has it, and in this order."""
    contracts = [one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    blocks = re.findall(r"^```(\w*)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    quoted = [text.splitlines() for language, text in blocks if not language]

    assert contracts[number]["layers"] == quoted[number]


def test_places_in_the_table_of_additions() -> None:
    """Each place where the page says to register an addition exists."""
    table = PAGE[PAGE.index("| to add | write") : PAGE.index("## House style")]
    places = re.findall(r"\| `([a-z/_]+\.py)` \|$", table, re.MULTILINE)

    assert len(places) > 2
    assert [] == [place for place in places if not (ROOT / "src" / "kvseal" / place).is_file()]


def test_every_make_target_exists() -> None:
    """Each make target that the page, a hook or CI names is in the Makefile, and `make help` lists the page's."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    named = {target for text in (PAGE, hooks, ci) for target in re.findall(r"\bmake ([a-z-]+)", text)}
    on_page = set(re.findall(r"`make ([a-z-]+)`", PAGE))
    helped = set(re.findall(r'@echo "make ([a-z-]+)', MAKEFILE))

    assert set() == named - TARGETS
    assert set() == on_page - helped


def test_markers() -> None:
    """The page explains each marker of pytest's configuration."""
    markers = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]

    assert sorted(markers) == sorted(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE))


def test_what_is_quick() -> None:
    """`make check` and the sessions of noxfile.py leave out the same tests: all that have a marker."""
    (quick,) = re.findall(r"^QUICK := (.*)$", MAKEFILE, re.MULTILINE)
    markers = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}

    assert quick == of_noxfile("QUICK")
    assert markers == set(quick.replace("not ", "").split(" and "))


def test_pythons() -> None:
    """noxfile.py and CI have each Python that pyproject.toml promises, and no other."""
    promised = [
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if re.search(r":: Python :: 3\.\d+$", line)
    ]
    (matrix,) = re.findall(r"^ +python: (\[.*\])$", WORKFLOW, re.MULTILINE)

    assert promised == [*of_noxfile("PYTHONS")]
    assert promised == ast.literal_eval(matrix)


def test_stores() -> None:
    """noxfile.py and CI have the same releases of py-key-value-aio, up to the one of constraints.txt."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (newest,) = re.findall(r"^py-key-value-aio==(.*)$", constraints, re.MULTILINE)
    (matrix,) = re.findall(r"^ +store: (\[.*\])$", WORKFLOW, re.MULTILINE)
    (dependency,) = [line for line in PROJECT["project"]["dependencies"] if line.startswith("py-key-value")]
    stores = [*of_noxfile("STORES")]

    assert stores == ast.literal_eval(matrix)
    assert newest == stores[-1]
    assert f">={stores[0]}," in dependency
