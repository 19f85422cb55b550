"""The table of backends: every row leads where it says, and every other list of stores agrees with it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.extras import EXTRAS, PYPROJECT, libraries

from kvseal.drivers.backends import BACKENDS, SCHEMES

if TYPE_CHECKING:
    from kvseal.drivers.backends import Backend

ROOT = Path(__file__).parent.parent.parent
CLASSES = {backend.store.rpartition(".")[2] for backend in BACKENDS if backend.store}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.module)
def test_rows(backend: Backend) -> None:
    """Every row names a class that exists, and a module with the functions that the row promises."""
    module, (path, _, cls) = import_module(f"kvseal.drivers.{backend.module}"), backend.store.rpartition(".")

    assert bool(backend.store) == hasattr(module, "for_store")
    assert bool(backend.schemes) == hasattr(module, "from_url")
    assert not backend.landing or import_module(f"kvseal.drivers.{backend.landing}").landing
    assert not backend.store or getattr(import_module(path), cls).__qualname__ == cls


def test_rows_are_distinct() -> None:
    """No scheme and no class leads to two backends."""
    assert len(SCHEMES) == sum(len(backend.schemes) for backend in BACKENDS)
    assert len(CLASSES) == sum(bool(backend.store) for backend in BACKENDS)


def test_extras() -> None:
    """Every row's extra installs py-key-value's extra of the same name, and the extra `all` has it."""
    extras = {backend.extra for backend in BACKENDS if backend.extra}
    everything = set(re.findall(r"[\w-]+", EXTRAS["all"][0].partition("[")[2]))

    assert extras <= everything
    assert extras == {extra for extra in extras if f"py-key-value-aio[{extra}]" in EXTRAS[extra]}


@pytest.mark.processes
def test_libraries_that_are_not_installed(tmp_path: Path) -> None:
    """Without its library, each backend is refused with the extra that installs it, and the package loads."""
    script = f"""
import asyncio, sys
for name in {libraries(*{backend.extra for backend in BACKENDS if backend.extra})}:
    sys.modules[name] = None
from kvseal.drivers import driver_from_url
from kvseal.errors import UnsupportedStoreError
for scheme in {[scheme for scheme, backend in SCHEMES.items() if backend.extra]}:
    try:
        asyncio.run(driver_from_url(f"{{scheme}}://{tmp_path}/{{scheme}}", create=True))
    except UnsupportedStoreError as exc:
        print(exc.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert [
        f"pip install 'kvseal[{backend.extra}]'" for backend in SCHEMES.values() if backend.extra
    ] == done.stdout.splitlines()


def test_readme() -> None:
    """The README lists every store that has a driver, and no other."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"It has drivers for(.*?)\. ", text, re.DOTALL)

    assert sorted(CLASSES) == sorted(re.findall(r"`(\w+)`", listed))


def test_operations() -> None:
    """The operations page lists every URL with its store, and no other."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\n## Stores\n\n((?:\|.*\n)+)", text)
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    listed = {
        (frozenset(re.findall(r"`([\w+]+):", urls)), frozenset(re.findall(r"\w+Store", stores)))
        for urls, stores in rows
    }
    schemes = {scheme for urls, _ in listed for scheme in urls}

    assert set(SCHEMES) - {"postgres"} == schemes
    assert CLASSES - {"MemoryStore"} == {store for _, stores in listed for store in stores}
    for urls, stores in listed:
        assert {SCHEMES[scheme].store.rpartition(".")[2] for scheme in urls} - {""} == set(stores)


def test_import_contract() -> None:
    """The rule that no backend imports another one names every backend."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = [one["layers"] for one in contracts if one.get("containers") == ["kvseal.drivers"]]
    modules = {backend.module.partition(".")[0] for backend in BACKENDS if backend.store}

    assert [" | ".join(sorted(modules))] == [layer for layer in layers if "disk" in layer]
