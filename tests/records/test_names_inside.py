"""Records that an earlier kvseal sealed without their names, in a store that loses names, are sealed anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.losing import (
    CHEAP,
    SECRET,
    URL,
    OverLosingStore,
    bodies,
    entries_of,
    put_without_names,
    stored_of,
)

from kvseal import EnvelopeEncryptionWrapper, Policy, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.drivers.manifest import NamedDriver
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, has_names_inside
from kvseal.recoding import plan_reencryption, recode, verify

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.filetree import FileTreeStore


class TestEarlierRecords(OverLosingStore):
    """Records that a kvseal before names inside has sealed, in a store that loses names."""

    NAMES = ("c", URL)

    @pytest.mark.parametrize("expires_at", [None, 4_102_444_800_123])
    async def test_sealed_anew_when_read(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, expires_at: int | None
    ) -> None:
        """A read by name seals it anew with its names; the sealed expiry stays, the store's is not taken over."""
        before = await put_without_names(vault, store, self.NAMES, {"a": 1}, expires_at)
        (entry,) = await entries_of(store)

        value = await kv.get(URL, collection="c")

        assert {"a": 1} == value
        after = await stored_of(store, self.NAMES)
        headers = [Header.parse(from_stored(one)) for one in (before, after)]
        assert [False, True] == [header.names_inside for header in headers]
        assert [expires_at] * 2 == [header.expires_at for header in headers]
        (now,) = await entries_of(store)
        assert (entry.created_at, entry.expires_at) == (now.created_at, now.expires_at)
        assert {"resealed": 1} == dict(kv.resealed)
        assert 0 == (await verify(store, vault)).exit_code

    @pytest.mark.parametrize("how", ["get_many", "ttl", "ttl_many"])
    async def test_every_way_to_read(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, how: str
    ) -> None:
        """So does each of the other reads."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})

        asked: Any = URL if how == "ttl" else [URL]
        found: Any = await getattr(kv, how)(asked, collection="c")

        assert {"a": 1} == {"get_many": lambda: found[0], "ttl": lambda: found[0]}.get(
            how, lambda: found[0][0]
        )()
        assert has_names_inside(await stored_of(store, self.NAMES))

    async def test_a_record_with_names_is_left(self, kv: EnvelopeEncryptionWrapper, store: Any) -> None:
        """Reading a record that has its names writes nothing."""
        await kv.put(URL, {"a": 1}, collection="c")
        before = await stored_of(store, self.NAMES)

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert ({"a": 1}, None) == await kv.ttl(URL, collection="c")
        assert [{"a": 1}] == await kv.get_many([URL], collection="c")
        assert (before, {}) == (await stored_of(store, self.NAMES), dict(kv.resealed))

    async def test_never_under_hold(self, store: FileTreeStore) -> None:
        """While the policy holds an old format no read seals anything, names or not."""
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, policy=Policy(read_plaintext=True))
        before = await put_without_names(vault, store, self.NAMES, {"a": 1})
        await vault.write_as("plaintext")
        kv = EnvelopeEncryptionWrapper(store, vault=vault)

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert (before, {}) == (await stored_of(store, self.NAMES), dict(kv.resealed))
        await vault.close()

    async def test_another_writer_is_faster(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore
    ) -> None:
        """What another process wrote between the read and the swap stays."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})
        get, newer = store.get, vault.codecs[""].seal({"a": 2}, *self.NAMES)

        async def get_and_be_overtaken(key: str, *, collection: str | None = None) -> Any:
            found = await get(key, collection=collection)
            await store.put(key, newer, collection=collection)
            return found

        store.get = get_and_be_overtaken  # type: ignore[method-assign]

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert newer == await get(URL, collection="c")
        assert {"changed": 1} == dict(kv.resealed)

    async def test_by_manifest(self, vault: Vault, store: FileTreeStore, tmp_path: Path) -> None:
        """With names from a manifest a re-encryption seals them anew, though their DEK is the active one."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})
        without = await recode(store, plan_reencryption(vault))

        done = await recode(NamedDriver(driver_for(store), [self.NAMES]), plan_reencryption(vault))

        assert [(0, 1), (1, 0)] == [(one.changed, one.failed) for one in (without, done)]
        (body,) = bodies(tmp_path / "home")
        assert has_names_inside(body["value"])
        assert "key" not in body
        assert 0 == (await verify(store, vault)).exit_code

    async def test_a_read_removes_names_beside(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, tmp_path: Path
    ) -> None:
        """A record that is sealed anew when it is read has no names beside it any more, whatever it had."""
        stored = vault.codecs[""].seal({"a": 1}, *self.NAMES)
        await driver_for(store).put_if_absent(Entry(*self.NAMES, stored))

        await kv.get(URL, collection="c")

        (body,) = bodies(tmp_path / "home")
        assert has_names_inside(body["value"])
        assert not {"collection", "key"} & set(body)

    async def test_names_beside_are_removed(self, vault: Vault, store: FileTreeStore, tmp_path: Path) -> None:
        """The names that an earlier kvseal wrote beside a record serve once more, and are gone."""
        stored = vault.codecs[""].seal({"a": 1}, *self.NAMES)
        await driver_for(store).put_if_absent(Entry(*self.NAMES, stored))
        (body,) = bodies(tmp_path / "home")
        assert self.NAMES == (body["collection"], body["key"])

        done = await recode(store, plan_reencryption(vault))

        assert (1, 0) == (done.changed, done.failed)
        (body,) = bodies(tmp_path / "home")
        assert not {"collection", "key"} & set(body)
        assert 0 == (await verify(store, vault)).exit_code
