"""Fixtures that many tests share; nothing here is a switch in production code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The contract's assertions explain themselves, as if they stood in a test module.
pytest.register_assert_rewrite("tests.drivers.contract")

# A slow machine is no wrong result.
settings.register_profile("kvseal", deadline=None)
settings.load_profile("kvseal")


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


@pytest.fixture(autouse=True)
def _no_secret_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep every test away from the environment, the keyring and the data directory of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
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
