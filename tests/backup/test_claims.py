# ruff: noqa: ASYNC240 - tests may block
"""A backup of a store that loses names, and a restore into a store of another kind."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.sanitization import AlwaysHashStrategy
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from tests.backup.made import backup_file, entry
from tests.drivers.filetree.trees import v1_store
from tests.losing import (
    CHEAP,
    SECRET,
    OverLosingStore,
    bodies,
    entries_of,
    put_without_names,
)

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.errors import WrongSecretError
from kvseal.keys.keyring import WithNames
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.recoding import plan_reencryption, recode, verify

if TYPE_CHECKING:
    from pathlib import Path


class TestRestore(OverLosingStore):
    """A backup without a secret, and a restore into a store of another kind with it."""

    @pytest.fixture
    async def file(self, kv: EnvelopeEncryptionWrapper, store: FileTreeStore, tmp_path: Path) -> Path:
        """Return a backup of three records, of which the store gives two names back in part alone."""
        for key in ("plain", "https://a/one", "https://a/two"):
            await kv.put(key, {"key": key}, collection="c-d")
        await backup(store, tmp_path / "backup")
        return tmp_path / "backup"

    async def test_another_kind_of_store(self, file: Path) -> None:
        """With the secret every record is put under its names, opens there, and is done when the restore runs again."""
        store = MemoryStore()

        without = await restore(file, store)
        report = await restore(file, store, secret=SECRET, names_inside=True)
        again = await restore(file, store, secret=SECRET, names_inside=True)

        assert (2, 2, 3) == (without.restored, without.failed, without.exit_code)
        assert (2, 2, 0) == (report.restored, report.already, report.exit_code)
        assert (4, 0) == (again.already, again.failed)
        async with AsyncExitStack() as stack:
            vault = await Vault.open(store, secret=SECRET)
            stack.push_async_callback(vault.close)
            kv = EnvelopeEncryptionWrapper(store, vault=vault)
            for key in ("plain", "https://a/one", "https://a/two"):
                assert {"key": key} == await kv.get(key, collection="c-d")
            assert 0 == (await verify(store, vault)).exit_code

    async def test_the_secret_of_now(self, file: Path) -> None:
        """Where the secret was rotated since the backup, the vault meta in the store opens the records."""
        store, now = MemoryStore(), Secret(b"another battery")
        await restore(file, store)
        vault = await Vault.open(store, secret=SECRET)
        await vault.rotate(new_secret=now)
        await vault.close()

        report = await restore(file, store, secret=now, names_inside=True)

        assert (2, 2, 0) == (report.restored, report.already, report.failed)

    async def test_dry_run(self, file: Path) -> None:
        """A dry run says the same and writes nothing."""
        store = MemoryStore()

        report = await restore(file, store, secret=SECRET, names_inside=True, dry_run=True)

        assert (4, 0) == (report.restored, report.failed)
        assert [] == await entries_of(store)

    async def test_a_tree_of_another_rule(self, file: Path, tmp_path: Path) -> None:
        """A file tree that hashes its names takes them, too, and has none in clear beside a record."""
        store = FileTreeStore(
            data_directory=tmp_path / "other", key_sanitization_strategy=AlwaysHashStrategy()
        )
        report = await restore(file, store, secret=SECRET, names_inside=True, meta_store=MemoryStore())

        assert (4, 0) == (report.restored, report.failed)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]
        assert {"key"} == set(
            await EnvelopeEncryptionWrapper(
                store, vault=await Vault.open(v1_store(tmp_path / "home"), secret=SECRET)
            ).get("https://a/one", collection="c-d")
            or {}
        )

    async def test_the_same_kind_needs_no_secret(self, file: Path, tmp_path: Path) -> None:
        """Into a store of the same kind the files go by their places, without names beside them."""
        report = await restore(file, v1_store(tmp_path / "other"))

        assert (4, 0) == (report.restored, report.failed)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]

    async def test_overwritten(self, file: Path, tmp_path: Path) -> None:
        """What takes the place of an entry with names beside it has none."""
        store = v1_store(tmp_path / "other")
        await driver_for(store).put_if_absent(Entry("c-d", "https://a/one", {"plain": 1}))

        report = await restore(file, store, secret=SECRET, names_inside=True, overwrite=True)

        assert (3, 1) == (report.restored, report.overwritten)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]

    async def test_wrong_secret(self, file: Path) -> None:
        """A secret that opens no vault meta ends the restore before the first write."""
        store = MemoryStore()

        with pytest.raises(WrongSecretError):
            await restore(file, store, secret=Secret(b"wrong"), names_inside=True)
        assert [] == await entries_of(store)

    async def test_moved(self, kv: Any, store: FileTreeStore, tmp_path: Path) -> None:
        """A record that lay where its names do not lead is not restored by them."""
        for key in ("https://a/one", "https://a/two", "https://a/gone"):
            await kv.put(key, {"key": key}, collection="c")
        gone, two = (
            tmp_path / "home" / (driver_for(store).place("c", key)).path  # type: ignore[attr-defined]
            for key in ("https://a/gone", "https://a/two")
        )
        gone.replace(two)
        await backup(store, tmp_path / "backup")
        other = MemoryStore()

        report = await restore(tmp_path / "backup", other, secret=SECRET, names_inside=True)

        assert (2, 1) == (report.restored, report.failed)
        assert "another name" in report.failures[0].reason
        assert "gone" not in report.failures[0].reason
        assert {"https://a/one"} == {entry.key for entry in await entries_of(other)}

    async def test_copied(self, kv: Any, store: FileTreeStore, tmp_path: Path) -> None:
        """Where the place proves one of two, that one is restored: copying a file does not suppress a record."""
        for key in ("https://a/one", "https://a/two"):
            await kv.put(key, {"key": key}, collection="c")
        one, two = (
            tmp_path / "home" / (driver_for(store).place("c", key)).path  # type: ignore[attr-defined]
            for key in ("https://a/one", "https://a/two")
        )
        two.write_bytes(one.read_bytes())
        await backup(store, tmp_path / "backup")
        other = MemoryStore()

        report = await restore(tmp_path / "backup", other, secret=SECRET, names_inside=True)

        assert (2, 1) == (report.restored, report.failed)
        assert two.name in report.failures[0].reason
        assert {"https://a/one"} == {entry.key for entry in await entries_of(other)}

    @pytest.mark.parametrize("named_first", [False, True])
    async def test_names_that_another_entry_has(self, tmp_path: Path, *, named_first: bool) -> None:
        """A record that claims the names of an entry which has them replaces nothing, in whatever order they are."""
        memory = MemoryStore()
        vault = await Vault.create(memory, secret=SECRET, kdf=CHEAP)
        meta = await vault.metastore.driver.get(META_COLLECTION, META_KEY)
        assert meta is not None
        codec = vault.codecs[WithNames("")]
        named = entry("k", codec.seal({"n": 1}, "c", "k"))
        claiming = Entry(None, None, codec.seal({"n": 2}, "c", "k"), path="x/y.json")
        entries = (named, claiming) if named_first else (claiming, named)
        other = MemoryStore()

        report = await restore(
            backup_file(tmp_path, meta, *entries), other, secret=SECRET, names_inside=True, overwrite=True
        )

        assert (2, 1) == (report.restored, report.failed)
        (found,) = await entries_of(other)
        assert named.value == found.value
        await vault.close()

    async def test_changed_during_the_backup(self, tmp_path: Path) -> None:
        """An entry that is in the backup twice, in one place, claims its names once; the later one is the last."""
        memory = MemoryStore()
        vault = await Vault.create(memory, secret=SECRET, kdf=CHEAP)
        meta = await vault.metastore.driver.get(META_COLLECTION, META_KEY)
        assert meta is not None
        codec = vault.codecs[WithNames("")]
        twice = [Entry(None, None, codec.seal({"n": n}, "c", "k"), path="x/y.json") for n in (1, 2)]
        other = MemoryStore()

        report = await restore(
            backup_file(tmp_path, meta, *twice), other, secret=SECRET, names_inside=True, overwrite=True
        )

        assert (2, 1, 0) == (report.restored, report.overwritten, report.failed)
        (found,) = await entries_of(other)
        assert twice[1].value == found.value
        await vault.close()

    async def test_claimed_twice(self, tmp_path: Path) -> None:
        """Where the rule of the store is not known, two entries that claim one name are both refused."""
        store = FileTreeStore(
            data_directory=tmp_path / "home", key_sanitization_strategy=AlwaysHashStrategy()
        )
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, meta_store=v1_store(tmp_path / "meta"))
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        for key in ("one", "two", "three"):
            await kv.put(key, {"key": key}, collection="c")
        one, two = (
            tmp_path / "home" / (driver_for(store).place("c", key)).path  # type: ignore[attr-defined]
            for key in ("one", "two")
        )
        two.write_bytes(one.read_bytes())
        await backup(store, tmp_path / "backup", meta_store=vault.metastore.driver)
        other = MemoryStore()

        report = await restore(tmp_path / "backup", other, secret=SECRET, names_inside=True)

        assert (2, 2) == (report.restored, report.failed)
        assert 2 == sum("claims" in failure.reason for failure in report.failures)
        assert {"three"} == {entry.key for entry in await entries_of(other)}
        await vault.close()

    async def test_unreadable_record(self, file: Path) -> None:
        """A record of another context, whose names cannot be read, fails as it does without the secret."""
        report = await restore(file, MemoryStore(), secret=SECRET, names_inside=True, contexts=["other"])

        assert (2, 2) == (report.restored, report.failed)
        assert {True} == {"its name is not known" in failure.reason for failure in report.failures}


async def test_no_name_in_any_file(tmp_path: Path) -> None:
    """Nothing that kvseal writes into such a store has a name in clear that the store would not have."""
    mark = f"marked-{os.urandom(8).hex()}"
    store = v1_store(tmp_path / "home")
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    await kv.put(mark, {"a": 1}, collection="c")
    await put_without_names(vault, store, ("c", f"{mark}/2"), {"a": 2})
    await kv.get(f"{mark}/2", collection="c")
    await vault.rotate_dek()
    await recode(store, plan_reencryption(vault))
    await backup(store, tmp_path / "backup")

    found = [path for path in tmp_path.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]

    assert [] == found
    await vault.close()
