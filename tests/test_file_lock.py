"""A lock among processes: what waits for one that was stopped ends, with an error that says so."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, Secret, Vault, file_lock
from kvseal.drivers import driver_for
from kvseal.drivers.base import Replacement
from kvseal.errors import PinNotWrittenError, SecretNotFoundError, StoreError
from kvseal.secrets.defaults import default_key_file
from kvseal.secrets.generation import generate_default_secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOPPED = "it may have been stopped"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of *path* as another process would: the kernel compares descriptors, and not processes."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for a lock for longer than a moment."""
    monkeypatch.setattr(file_lock, "SECONDS", 0.02)


def test_taken_and_given_back(tmp_path: Path) -> None:
    """A lock keeps others out until its descriptor is closed."""
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    file_lock.take(descriptor)

    other = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    os.close(descriptor)
    file_lock.take(other)
    os.close(other)


@pytest.mark.usefixtures("impatient")
def test_the_wait_ends(tmp_path: Path) -> None:
    """A lock that is not given back is waited for within the bound."""
    path = tmp_path / "lock"
    with held(path), path.open("r+") as file, pytest.raises(OSError, match=STOPPED) as caught:
        file_lock.take(file.fileno())

    assert errno.ETIMEDOUT == caught.value.errno


@pytest.mark.usefixtures("impatient")
async def test_a_pin(tmp_path: Path, cheap: Argon2idParams) -> None:
    """A vault that cannot pin because another process has the pin's lock says so, and does not hang."""
    pin = tmp_path / "vault.pin"
    with held(tmp_path / ".vault.pin.lock"), pytest.raises(PinNotWrittenError, match=STOPPED):
        await Vault.create(MemoryStore(), secret=Secret(b"a secret"), kdf=cheap, pin=pin)


@pytest.mark.usefixtures("impatient")
def test_a_generated_secret() -> None:
    """A process that is to generate the secret does not wait without end for one that was stopped meanwhile."""
    directory = default_key_file().parent
    directory.mkdir(parents=True, exist_ok=True)

    with held(directory / "generate.lock"), pytest.raises(SecretNotFoundError, match=STOPPED):
        generate_default_secret()

    assert not default_key_file().exists()


@pytest.mark.usefixtures("impatient")
async def test_a_swap_of_files(tmp_path: Path) -> None:
    """A swap in a folder whose lock another process has is an error, and changes nothing."""
    store = FileTreeStore(data_directory=tmp_path)
    await store.put("key", {"n": 1}, collection="coll")
    driver = driver_for(store)
    entry = await driver.get("coll", "key")
    assert entry is not None

    with held(tmp_path / "coll"), pytest.raises(StoreError, match=STOPPED):
        await driver.replace_many([Replacement(entry, {"n": 2})])

    assert {"n": 1} == await store.get("key", collection="coll")
    await driver.close()
