"""What `import kvseal` gives, and what it does not need."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
from tests.extras import libraries

import kvseal

# Not extras of kvseal, but what it could have loaded by mistake.
EXTRAS = sorted({*libraries(), "botocore", "pymongo", "starlette"})

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(script: str) -> str:
    """Run *script* in a process of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert "" == done.stderr
    return done.stdout


def test_all_is_sorted_and_short() -> None:
    """`__all__` is sorted and small enough to know by heart."""
    assert sorted(kvseal.__all__) == kvseal.__all__
    assert len(kvseal.__all__) <= 12


def test_all_is_complete() -> None:
    """Every public name that is no submodule is in `__all__`, and everything in it exists."""
    public = {
        name
        for name in dir(kvseal)
        if not name.startswith("_") and not isinstance(getattr(kvseal, name), ModuleType)
    }

    assert set(kvseal.__all__) - {"annotations"} == public - {"annotations"}


@pytest.mark.parametrize("package", [kvseal, kvseal.recoding, kvseal.backup], ids=lambda one: one.__name__)
def test_lazy_names(package: ModuleType) -> None:
    """A package that loads its names late has all of them, lists them, and has no other."""
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]
    with pytest.raises(AttributeError, match="has no attribute 'Vautl'"):
        package.Vautl  # noqa: B018
    assert not hasattr(package, "__wrapped__")


@pytest.mark.processes
def test_import_is_lazy() -> None:
    """`import kvseal` loads nothing but itself; its names and its modules are there when they are asked for."""
    heavy = ["asyncio", "beartype", "cryptography", "key_value", "orjson"]
    script = f"import sys, kvseal\nprint(sorted(set(sys.modules) & set({heavy!r})))\n"
    script += "print(kvseal.Vault.__name__, kvseal.errors.KvsealError is kvseal.KvsealError)"

    assert "[]\nVault True\n" == run(script)


@pytest.mark.parametrize("name", kvseal.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Every public name has a docstring."""
    assert getattr(kvseal, name).__doc__


@pytest.mark.processes
def test_import_needs_no_extra() -> None:
    """`import kvseal` and the command's module work with none of the optional libraries installed."""
    script = BLOCKED.format(blocked=EXTRAS)

    assert "9\n" == run(script + "import kvseal, kvseal.cli.app\nprint(len(kvseal.__all__))").replace(
        str(len(kvseal.__all__)), "9"
    )


@pytest.mark.processes
def test_import_loads_no_extra() -> None:
    """`import kvseal` does not load an optional library that happens to be installed."""
    script = f"import sys, kvseal\nprint(sorted(set(sys.modules) & set({EXTRAS!r})))"

    assert "[]\n" == run(script)


@pytest.mark.processes
def test_memory_store_without_extras() -> None:
    """A value is sealed and opened where no optional library is installed."""
    script = BLOCKED.format(blocked=[name for name in EXTRAS if name != "cachetools"])
    script += """
import asyncio
from key_value.aio.stores.memory import MemoryStore
from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret

async def main():
    kv = EnvelopeEncryptionWrapper(MemoryStore(), secret=Secret(b"hunter2"), kdf=Argon2idParams(1, 8, 1))
    await kv.put("k", {"a": 1})
    print(await kv.get("k"))

asyncio.run(main())
"""

    assert "{'a': 1}\n" == run(script)


@pytest.mark.processes
def test_import_touches_nothing(tmp_path: object) -> None:
    """Importing reads no secret and writes no file: it works where no home directory is to be had."""
    script = "import os\nos.environ.clear()\nimport kvseal, threading\nprint(threading.active_count())"

    assert "1\n" == run(script)
