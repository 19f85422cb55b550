"""An operator who returns to an older vault meta on purpose makes a change, which running processes follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.errors import ForkedMetaError, RolledBackMetaError, WrongSecretError
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.memory import MemoryStore

FIRST, SECOND = Secret(b"the first secret"), Secret(b"the second secret")


@pytest.fixture
async def running(store: MemoryStore, tmp_path: Path, cheap: Argon2idParams) -> Vault:
    """Return a running process, which has seen a new secret and a new DEK since the backup was taken."""
    vault = await Vault.create(store, secret=FIRST, kdf=cheap)
    await wrapped(vault).put("old", {"v": 1})
    await backup(store, tmp_path / "file")
    await vault.rotate(new_secret=SECOND, kdf=cheap)
    await vault.rotate_dek()
    await wrapped(vault).put("new", {"v": 2})
    return vault


async def simulated_restart_and_rotation(store: MemoryStore) -> None:
    """Rotate both as a process does that has not seen the later vault meta."""
    newest._newest.clear()
    vault = await Vault.open(store, secret=FIRST)
    await vault.rotate(new_secret=SECOND)
    await vault.rotate_dek()


async def test_running_processes_follow(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """Slots are the older ones, the DEKs those of both, and the revision is above what the process has seen."""
    report = await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True, secret=FIRST)

    assert (1, True) == (report.overwritten, report.follows)
    before = running.meta.revision
    assert await running.refresh()
    assert (before + 1, 2) == (running.meta.revision, running.keyring.active_dek)
    await wrapped(running).put("later", {"v": 3})
    expected = [{"v": 1}, {"v": 2}, {"v": 3}]
    again = await Vault.open(store, secret=FIRST)
    assert expected == await wrapped(again).get_many(["old", "new", "later"])
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=SECOND)


async def test_a_dropped_dek_comes_back(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """A DEK that was dropped since is readable again, and its records are."""
    late = await store.get("old")
    assert late is not None
    await running.drop_dek(1)

    await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True, secret=FIRST)

    vault = await Vault.open(store, secret=FIRST)
    assert ["readable", "active"] == [dek.state for dek in vault.status().deks]
    assert {"v": 1} == await wrapped(vault).get("old")


async def test_without_a_secret_they_refuse(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """What no holder of the root key vouches for is a rollback, to each process that has seen the later one."""
    report = await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True)

    assert (1, False) == (report.overwritten, report.follows)
    # It puts its own meta back: the older one has no key that it does not hold.
    await running.refresh()
    assert 2 == (await Vault.open(store, secret=SECOND)).keyring.active_dek


async def test_a_secret_that_does_not_open_it(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """The secret of today cannot vouch for the meta of then; nothing is changed."""
    with pytest.raises(WrongSecretError):
        await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True, secret=SECOND)

    assert not await running.refresh()


async def test_after_another_root_key(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """The old root key cannot speak for the new one: the older meta is there as it was, and is refused."""
    await running.rotate_root(drop_slots=True)

    report = await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True, secret=FIRST)

    assert (1, False) == (report.overwritten, report.follows)
    with pytest.raises(RolledBackMetaError):
        await running.refresh()


async def test_a_fork(store: MemoryStore, running: Vault, tmp_path: Path) -> None:
    """Where both have a DEK of one number, and not the same, neither is thrown away."""
    await backup(store, tmp_path / "fork")
    await restore(tmp_path / "file", store, overwrite_meta=True, only_meta=True)
    await simulated_restart_and_rotation(store)

    with pytest.raises(ForkedMetaError, match="another DEK 2 than the older one"):
        await restore(tmp_path / "fork", store, overwrite_meta=True, only_meta=True, secret=SECOND)
