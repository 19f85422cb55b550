"""A vault meta that has a store of its own is backed up with the records, in one file in which it opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver, dump

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for
from kvseal.errors import Conflict, VaultExistsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SECRET = Secret(b"the secret of the vault")


class Stores:
    """A store of records, and the store of their vault meta."""

    def __init__(self) -> None:
        self.data, self.metas = MemoryStore(), MemoryStore()

    async def opened(self) -> tuple[Vault, EnvelopeEncryptionWrapper]:
        """Return the vault, and a wrapper with it."""
        vault = await Vault.open(self.data, secret=SECRET, meta_store=self.metas)
        return vault, EnvelopeEncryptionWrapper(self.data, vault=vault)


@pytest.fixture
async def stores(cheap: Argon2idParams) -> Stores:
    """Return two stores with a vault and a record under each of two DEKs."""
    stores = Stores()
    vault = await Vault.create(stores.data, secret=SECRET, kdf=cheap, meta_store=stores.metas)
    kv = EnvelopeEncryptionWrapper(stores.data, vault=vault)
    await kv.put("one", {"v": 1})
    await vault.rotate_dek()
    await kv.put("two", {"v": 2})
    return stores


async def test_both_in_one_file(stores: Stores, tmp_path: Path) -> None:
    """One backup has both, and restores each to its own store."""
    report = await backup(stores.data, tmp_path / "file", meta_store=stores.metas)
    new = Stores()

    restored = await restore(tmp_path / "file", new.data, meta_store=new.metas)

    assert (3, True, 0) == (report.saved, report.has_vault_meta, report.sealed_alone)
    assert (3, 0, 0) == (restored.restored, restored.failed, restored.unchecked)
    assert (1, 2) == (len(dump(new.metas)), len(dump(new.data)))
    assert [{"v": 1}, {"v": 2}] == await (await new.opened())[1].get_many(["one", "two"])


async def test_one_file_for_one_store(stores: Stores, tmp_path: Path) -> None:
    """Without a store of its own to go to, the vault meta is restored beside the records."""
    await backup(stores.data, tmp_path / "file", meta_store=stores.metas)
    one = MemoryStore()

    await restore(tmp_path / "file", one)

    kv = EnvelopeEncryptionWrapper(one, vault=await Vault.open(one, secret=SECRET))
    assert [{"v": 1}, {"v": 2}] == await kv.get_many(["one", "two"])


async def test_a_rotation_meanwhile(stores: Stores, tmp_path: Path) -> None:
    """Where the vault meta changes while the records are read, there is no file."""
    vault, kv = await stores.opened()

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        result = await operation()
        if name == "scan":
            await vault.rotate_dek()
            await kv.put("three", {"v": 3})
        return result

    with pytest.raises(Conflict, match="the vault meta was changed during the backup"):
        await backup(
            HookedDriver(driver_for(stores.data), around), tmp_path / "file", meta_store=stores.metas
        )
    assert not (tmp_path / "file").exists()


async def test_two_backups_do_not_belong_together(stores: Stores, tmp_path: Path) -> None:
    """The meta backed up, the DEK rotated, the records backed up: what the meta does not open is named."""
    await backup(stores.metas, tmp_path / "metas")
    vault, kv = await stores.opened()
    await vault.rotate_dek()
    await kv.put("three", {"v": 3})
    report = await backup(stores.data, tmp_path / "data")
    new = Stores()
    await restore(tmp_path / "metas", new.metas)

    restored = await restore(tmp_path / "data", new.data, meta_store=new.metas)

    assert (False, 3) == (report.has_vault_meta, report.sealed_alone)
    assert (2, 1) == (restored.restored, restored.failed)
    assert "needs a DEK 3 that this vault has retired or never had" in restored.failures[0].reason
    assert None is await driver_for(new.data).get("default_collection", "three")


async def test_records_that_nothing_is_held_against(stores: Stores, tmp_path: Path) -> None:
    """A restore that sees no vault meta says of how many records it cannot know whether they open."""
    await backup(stores.data, tmp_path / "data")

    restored = await restore(tmp_path / "data", MemoryStore())

    assert (2, 2) == (restored.restored, restored.unchecked)


async def test_another_vault_in_the_meta_store(stores: Stores, tmp_path: Path, cheap: Argon2idParams) -> None:
    """A different vault meta there ends the restore before the first write to either store."""
    await backup(stores.data, tmp_path / "file", meta_store=stores.metas)
    new = Stores()
    await Vault.create(new.data, secret=SECRET, kdf=cheap, meta_store=new.metas)
    before = dump(new.metas)

    with pytest.raises(VaultExistsError, match="holds a different vault meta"):
        await restore(tmp_path / "file", new.data, meta_store=new.metas)

    assert (before, {}) == (dump(new.metas), dump(new.data))
