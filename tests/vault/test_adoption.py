"""Adoption: authsome's key record becomes a kvseal vault that holds its keys, in one write and for one of all who try."""

from __future__ import annotations

import asyncio
from copy import copy
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import Death, HookedDriver, dump, put_raw_meta, raw_meta
from tests.legacy.test_authsome import DEK, FLAT_KEY, MASTER, OLD_MASTER, VALUE, envelope, flat, key_record
from tests.processes import CHEAP, NEW, OLD
from tests.wrapping import wrapped

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.errors import (
    Conflict,
    ForeignVaultError,
    PlaintextRecordError,
    StoreError,
    VaultExistsError,
    VaultMetaError,
    VaultMetaLostError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION, META_KEY, is_vault_meta
from kvseal.legacy import AUTHSOME, AUTHSOME_FLAT
from kvseal.recoding import PlaintextRule, migrate, plan_reencryption, recode, take_over_authsome
from kvseal.vault.creation import Adoption

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kvseal.drivers.base import Driver

AnyStore = MemoryStore | DiskStore

HELD = [(AUTHSOME, DEK), (AUTHSOME_FLAT, FLAT_KEY)]
STEPS = ["get", "scan", "replace_many", "get"]


def adoption(record: dict[str, Any] | None = None) -> Adoption:
    """Return the adoption of *record*, by default that of `filled`."""
    return Adoption(record or key_record(), tuple(LegacyKey(*held) for held in HELD))


async def filled(store: AnyStore) -> AnyStore:
    """Make *store* one of authsome's, upgraded from 0.4 to 0.5: both formats, control data, a key record."""
    await put_raw_meta(store, key_record())
    await store.put("new", envelope(), collection="vault:v")
    await store.put("old", flat(), collection="vault:v")
    await store.put("__index__", {"data": '["old"]'}, collection="providers")
    await store.put("version", {"data": "1"}, collection="config")
    return store


def held_by(vault: Vault) -> list[tuple[str, bytes]]:
    """Return the legacy keys that *vault* holds."""
    return [(key.kind, key.key) for key in vault.keyring.legacy]


async def adopt(store: AnyStore | Driver) -> Vault:
    """Create the vault that adopts what `filled` made."""
    return await Vault.create(store, secret=OLD, kdf=CHEAP, adopts=adoption())


async def adopt_or_open(store: AnyStore | Driver) -> Vault:
    """Open the vault, or create it by adoption."""
    return await Vault.open_or_create(store, secret=OLD, kdf=CHEAP, adopts=adoption())


async def assert_nothing_is_lost(store: AnyStore) -> None:
    """Either authsome's record lies where it was, or a vault that holds its keys and reads its records."""
    meta = await raw_meta(store)
    if not is_vault_meta(meta):
        assert key_record() == meta
        return
    vault = await Vault.open(store, secret=OLD)
    assert HELD == held_by(vault)
    assert [VALUE, VALUE] == await wrapped(vault).get_many(["new", "old"], collection="vault:v")
    await vault.close()


@pytest.fixture(params=["memory", "disk"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStore]:
    """Yield a store of authsome's."""
    made = MemoryStore() if request.param == "memory" else DiskStore(directory=tmp_path)
    yield await filled(made)
    if isinstance(made, DiskStore):
        made._cache.close()


async def test_the_new_vault_holds_the_keys(store: AnyStore) -> None:
    """Adopted keys open authsome's records through the wrapper, and new records are sealed."""
    vault = await adopt(store)

    status = vault.status()
    assert ["authsome", "authsome-flat"] == [key.kind for key in status.legacy]
    assert 1 == status.revision
    assert {"read_legacy": True, "read_plaintext": False} == {
        name: status.policy[name] for name in ("read_legacy", "read_plaintext")
    }
    await assert_nothing_is_lost(store)
    kv = EnvelopeEncryptionWrapper(store, secret=OLD, create=False)
    await kv.put("sealed", {"v": 1}, collection="vault:v")
    assert [VALUE, VALUE, {"v": 1}] == await kv.get_many(["new", "old", "sealed"], collection="vault:v")
    await kv.release()
    await vault.close()


async def test_what_is_written_is_one_entry(store: AnyStore) -> None:
    """Adoption changes the key record's entry and nothing else."""
    before = dump(store)

    vault = await adopt(store)

    after = dump(store)
    if isinstance(before, dict):
        assert {(META_COLLECTION, META_KEY)} == {
            names for names in before | after if before.get(names) != after.get(names)
        }
    assert len(before) == len(after)
    await vault.close()


async def test_control_data_is_not_read_as_anything(store: AnyStore) -> None:
    """What authsome left unencrypted stays refused: policy reads legacy records, not plaintext."""
    vault = await adopt(store)

    with pytest.raises(PlaintextRecordError):
        await wrapped(vault).get("version", collection="config")
    await vault.close()


async def test_flat_records_are_never_returned_as_plaintext(store: AnyStore) -> None:
    """Where policy reads plaintext too, a flat record still reads as its value and not as its ciphertext."""
    vault = await adopt(store)
    await vault.read_legacy_with([], plaintext=True)

    assert VALUE == await wrapped(vault).get("old", collection="vault:v")
    assert {"data": "1"} == await wrapped(vault).get("version", collection="config")
    await vault.close()


async def test_one_write() -> None:
    """Adoption makes these store operations, of which one writes; for a death at each see `tests.crash`."""
    death = Death()
    made = await filled(MemoryStore())

    await adopt(HookedDriver(driver_for(made), death))

    assert STEPS == death.operations


@pytest.mark.parametrize("at", range(1, len(STEPS) + 1))
async def test_another_process_is_faster(at: int, store: AnyStore) -> None:
    """Whenever another process adopts first, this one opens the vault that it made."""
    driver, steps, others = driver_for(store), 0, []

    async def around(_: str, operation: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == at and not others:
            others.append(await adopt_or_open(store))
        return await operation()

    vault = await adopt_or_open(HookedDriver(driver, around))

    won = at > STEPS.index("replace_many") + 1
    if not won:
        assert others[0].keyring.vault_id == vault.keyring.vault_id
    assert HELD == held_by(vault)
    assert (await raw_meta(store))["vault_id"] == vault.keyring.vault_id.hex()
    for one in (vault, *others):
        await one.close()
    await driver.close()


async def test_many_at_once(store: AnyStore) -> None:
    """Of many that start at the same moment one adopts, and all have the same vault."""
    vaults = await asyncio.gather(*(adopt_or_open(store) for _ in range(8)))

    assert 1 == len({vault.keyring.vault_id for vault in vaults})
    assert all(held_by(vault) == HELD for vault in vaults)
    for vault in vaults:
        await vault.close()


@pytest.mark.parametrize("attempt", [Vault.create, Vault.open_or_create])
async def test_without_the_keys_it_is_refused(attempt: Any, store: AnyStore) -> None:
    """Whoever does not hold authsome's keys is told which command takes them, and nothing is written."""
    before = dump(store)

    with pytest.raises(ForeignVaultError) as caught:
        await attempt(store, secret=OLD, kdf=CHEAP)

    assert "vaultctl migrate-from-authsome" in caught.value.hint
    assert before == dump(store)


@pytest.mark.parametrize("attempt", [Vault.create, Vault.open_or_create])
async def test_another_record_than_the_adopted_one(attempt: Any, store: AnyStore) -> None:
    """A record whose keys were not unwrapped is never replaced."""
    before = dump(store)
    other = adoption(key_record(dek=FLAT_KEY))

    with pytest.raises(ForeignVaultError):
        await attempt(store, secret=OLD, kdf=CHEAP, adopts=other)

    assert before == dump(store)


async def test_the_record_changes_at_the_last_moment(store: AnyStore) -> None:
    """A key record that is written between look and swap is not replaced."""
    driver, theirs = driver_for(store), key_record(dek=FLAT_KEY)

    async def around(name: str, operation: Any) -> Any:
        if name == "replace_many":
            await put_raw_meta(store, theirs)
        return await operation()

    with pytest.raises(ForeignVaultError):
        await adopt(HookedDriver(driver, around))

    assert theirs == await raw_meta(store)
    await driver.close()


async def test_the_record_goes_at_the_last_moment(store: AnyStore) -> None:
    """A key record that is deleted between look and swap is not brought back in another form."""
    driver = driver_for(store)

    async def around(name: str, operation: Any) -> Any:
        if name == "replace_many":
            await store.delete(META_KEY, collection=META_COLLECTION)
        return await operation()

    with pytest.raises(Conflict, match="is gone"):
        await adopt(HookedDriver(driver, around))

    assert await store.get(META_KEY, collection=META_COLLECTION) is None
    await driver.close()


async def test_the_record_is_gone() -> None:
    """Where the record that was unwrapped has vanished, nothing is created in its place."""
    made = MemoryStore()

    with pytest.raises(Conflict, match="is gone"):
        await adopt(made)

    assert await made.get(META_KEY, collection=META_COLLECTION) is None


async def test_an_expiry_is_not_adopted() -> None:
    """A key record with an expiry is refused: the vault meta would expire with it."""
    made = MemoryStore()
    now = datetime.now(timezone.utc)
    entry = Entry(META_COLLECTION, META_KEY, key_record(), created_at=now, expires_at=now + timedelta(days=1))
    await driver_for(made).put_if_absent(entry)

    with pytest.raises(ForeignVaultError, match="expiry"):
        await adopt(made)

    assert key_record() == await raw_meta(made)


async def test_a_vault_is_not_adopted(store: AnyStore) -> None:
    """Where a vault is already there, adoption ends as creation does, and opening goes on."""
    await (await Vault.create(store, secret=OLD, kdf=CHEAP, adopts=adoption())).close()

    with pytest.raises(VaultExistsError):
        await adopt(store)

    await (await adopt_or_open(store)).close()


async def test_sealed_records_beside_the_record(store: AnyStore) -> None:
    """Sealed records beside authsome's record are of a vault whose meta was lost: that is not buried."""
    elsewhere = MemoryStore()
    vault = await Vault.create(elsewhere, secret=NEW, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    sealed = await elsewhere.get("k")
    assert sealed is not None
    await store.put("k", sealed)

    with pytest.raises(VaultMetaLostError):
        await adopt(store)

    assert key_record() == await raw_meta(store)
    await vault.close()


async def test_keys_without_a_record() -> None:
    """Of authsome 0.4, which has no key record, the flat key is held from the first write on."""
    made = MemoryStore()
    await made.put("old", flat(), collection="vault:v")

    keys = (LegacyKey(AUTHSOME_FLAT, FLAT_KEY),)
    vault = await Vault.create(made, secret=OLD, kdf=CHEAP, adopts=Adoption(None, keys))

    assert [(AUTHSOME_FLAT, FLAT_KEY)] == held_by(vault)
    assert VALUE == await wrapped(vault).get("old", collection="vault:v")
    await vault.close()


async def test_a_meta_store_of_its_own(store: AnyStore, tmp_path: Path) -> None:
    """With the vault meta elsewhere, the keys are held there and authsome's record stays where it is."""
    meta_store = DiskStore(directory=tmp_path / "meta")

    vault = await Vault.create(store, secret=OLD, kdf=CHEAP, meta_store=meta_store, adopts=adoption())

    assert HELD == held_by(vault)
    assert key_record() == await raw_meta(store)
    await vault.close()
    with pytest.raises(VaultExistsError):
        await Vault.create(
            store, secret=OLD, kdf=CHEAP, meta_store=MemoryStore(), adopts=adoption({"another": 1})
        )
    meta_store._cache.close()


@pytest.mark.parametrize("value", [None, 1])
async def test_an_unreadable_record(value: Any) -> None:
    """What cannot be read is neither adopted nor taken for nothing."""
    made = await filled(MemoryStore())
    body = made._cache[META_COLLECTION]._cache[META_KEY]
    made._cache[META_COLLECTION]._cache[META_KEY] = type(body)("{" if value is None else '{"value": 1}', None)

    for attempt in (adopt, adopt_or_open):
        with pytest.raises(VaultMetaError):
            await attempt(made)
    with pytest.raises(VaultMetaError):
        await take_over_authsome(made, [MASTER])


def test_an_adoption_is_not_shown_or_copied() -> None:
    """An adoption has no repr of its keys and is not copied."""
    assert "LegacyKey" not in repr(adoption())
    with pytest.raises(TypeError, match="not pickled"):
        copy(adoption())


async def migrated(store: AnyStore | Driver, **options: Any) -> Any:
    """Migrate as `vaultctl migrate-from-authsome` does."""
    takeover = await take_over_authsome(store, [OLD_MASTER, MASTER])
    return await migrate(
        store,
        takeover.legacy,
        leaves=takeover.leaves,
        adopts=takeover.adopts,
        secret=OLD,
        kdf=CHEAP,
        **options,
    )


async def test_migration(store: AnyStore) -> None:
    """Both formats are sealed, control data stays as it is and is counted, and a second run finds nothing to do."""
    migration = await migrated(store)

    assert (2, 2, 0) == (migration.report.changed, migration.report.skipped, migration.report.failed)
    vault = await Vault.open(store, secret=OLD)
    await vault.end_legacy_reads()
    assert [VALUE, VALUE] == await wrapped(vault).get_many(["new", "old"], collection="vault:v")
    assert {"data": "1"} == await store.get("version", collection="config")
    await vault.close()
    again = (await migrated(store)).report
    assert (0, 2, 2, 0) == (again.changed, again.already, again.skipped, again.failed)


async def test_migration_that_seals_control_data(store: AnyStore) -> None:
    """Told to seal plaintext, it seals control data, so that authsome 0.5 finds its index through the wrapper."""
    migration = await migrated(store, plaintext=PlaintextRule.SEAL)

    assert (4, 0, 0) == (migration.report.changed, migration.report.skipped, migration.report.failed)
    vault = await Vault.open(store, secret=OLD)
    assert {"data": '["old"]'} == await wrapped(vault).get("__index__", collection="providers")
    await vault.close()


async def test_dry_run(store: AnyStore) -> None:
    """A dry run opens and counts everything and leaves authsome's store as it was."""
    before = dump(store)

    migration = await migrated(store, dry_run=True)

    assert (2, 2, 0) == (migration.report.changed, migration.report.skipped, migration.report.failed)
    assert migration.vault is None
    assert before == dump(store)


async def test_an_interrupted_migration_goes_on(store: AnyStore) -> None:
    """After the vault has taken the record's place, the keys that it holds open what is left."""
    await (await adopt(store)).close()

    migration = await migrated(store)

    assert (2, 2, 0) == (migration.report.changed, migration.report.skipped, migration.report.failed)


async def test_a_migration_that_cannot_reach_the_store_to_adopt(store: AnyStore) -> None:
    """A backend that fails at the swap leaves authsome's record."""
    driver = driver_for(store)

    async def around(name: str, operation: Any) -> Any:
        if name == "replace_many":
            msg = "the network is down"
            raise StoreError(msg)
        return await operation()

    with pytest.raises(StoreError, match="network"):
        await migrated(HookedDriver(driver, around))

    assert key_record() == await raw_meta(store)
    await driver.close()


async def test_a_reencryption_leaves_what_is_not_migrated_yet(store: AnyStore) -> None:
    """Records that the held keys open are left to the migration, and are no failures of a re-encryption."""
    vault = await adopt(store)

    report = await recode(store, plan_reencryption(vault))

    assert (0, 4, 0) == (report.changed, report.skipped, report.failed)
    await vault.close()
