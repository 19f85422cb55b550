"""Fixtures that many tests share; nothing here is a switch in production code."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = [
    "tests.reach",
    "tests.kernel_contexts",
    "tests.servers",
    "tests.quick_vaultctl",
    "tests.drivers.redis.server",
    "tests.drivers.s3.server",
]

# The contract's assertions explain themselves, as if they stood in a test module.
pytest.register_assert_rewrite("tests.drivers.contract")

# Two fifths of the time of a test with a disk store were waits for the disk. Where the machine has a file system in
# memory with room enough, the tests' files are there; PYTEST_DEBUG_TEMPROOT=/tmp has them elsewhere.
MEMORY = Path("/dev/shm")
ENOUGH = 2 * 2**30
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# A slow machine is no wrong result.
settings.register_profile("kvseal", deadline=None)
settings.load_profile("kvseal")


def pytest_collection_finish() -> None:
    """Take what eight thousand collected tests consist of out of every later garbage collection: a tenth of the time."""
    gc.collect()
    gc.freeze()
    # How often everything is looked through depends on how much the last look found, so it has to find little.
    gc.collect()


@pytest.fixture
def cheap() -> Argon2idParams:
    """Return the least Argon2id cost there is, so that tests spend their time on something else."""
    return Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def secret() -> Secret:
    """Return a secret."""
    return Secret(b"correct horse battery staple")


@pytest.fixture
def store() -> MemoryStore:
    """Return an empty store."""
    return MemoryStore()


@pytest.fixture(params=["memory", "disk"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryStore | DiskStore]:
    """Yield an empty store of every kind that has a driver."""
    if request.param == "memory":
        yield MemoryStore()
        return
    store = DiskStore(directory=tmp_path / "store")
    yield store
    store._cache.close()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return data directories, each for one test; pytest's own numbering looks through all there are."""
    parent = tmp_path_factory.mktemp("homes")
    return (parent / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _no_secret_of_this_machine(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> None:
    """Keep every test away from the environment, the keyring and the data directory of the developer."""
    home = next(homes)
    home.mkdir()
    for name in (
        "KVSEAL_MASTER_KEY",
        "KVSEAL_MASTER_KEY_FILE",
        "VAULTCTL_STORE",
        "VAULTCTL_SECRET",
        "VAULTCTL_PIN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
