"""What the commands of the crash table begin with."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.fakes import Death, HookedDriver, Killed, put_raw_meta
from tests.legacy.test_authsome import VALUE, envelope, flat, key_record
from tests.processes import CHEAP, NEW, OLD, SPARE
from tests.recoding.worlds import KEY, damage, old

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.drivers import driver_for
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import import_keys, plan_reencryption, recode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


Names = tuple[str, str]

COLLECTION = "c"

RECORDS: dict[Names, dict[str, Any]] = {(COLLECTION, f"k{number}"): {"v": number} for number in range(5)}

DAMAGED = (COLLECTION, "damaged")

AUTHSOME_RECORDS: dict[Names, dict[str, Any]] = {("vault:v", "new"): VALUE, ("vault:v", "old"): VALUE}

DAY = timedelta(days=1)

TTL = 100_000.25

LEGACY = LegacyKey(FERNET, parse_key(KEY))


async def nothing(_: Any) -> None:
    """Begin with an empty store."""


async def two_deks(store: Any) -> None:
    """Begin with records under two DEKs, of which one expires."""
    vault = await Vault.create(store, secret=OLD, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    for number, ((collection, key), value) in enumerate(RECORDS.items()):
        if number == 2:
            await vault.rotate_dek()
        await kv.put(key, value, collection=collection, ttl=TTL if number == 3 else None)
    await vault.close()


async def one_dek_too_many(store: Any) -> None:
    """Begin with a DEK that nothing needs any more."""
    await two_deks(store)
    vault = await Vault.open(store, secret=OLD)
    await recode(store, plan_reencryption(vault))
    await vault.close()


async def a_retired_dek(store: Any) -> None:
    """Begin with a DEK that was retired, and is kept."""
    await one_dek_too_many(store)
    vault = await Vault.open(store, secret=OLD)
    await vault.retire_dek(1)
    await vault.close()


async def half_a_rotation(store: Any) -> None:
    """Begin with what a rotation leaves that has died between its two writes."""
    await two_deks(store)
    driver = driver_for(store)
    vault = await Vault.open(HookedDriver(driver, Death(2, of="replace_many")), secret=OLD)
    with suppress(Killed):
        await vault.rotate(new_secret=NEW)
    await driver.close()


def with_a_slot(**options: Any) -> Callable[[Any], Awaitable[None]]:
    """Begin with a slot more."""

    async def begin(store: Any) -> None:
        await two_deks(store)
        vault = await Vault.open(store, secret=OLD)
        await vault.slots.add(SPARE, label="spare", kdf=CHEAP, **options)
        await vault.close()

    return begin


async def legacy_reads(store: Any) -> None:
    """Begin with a vault that holds an old key."""
    await two_deks(store)
    vault = await Vault.open(store, secret=OLD)
    await vault.read_legacy_with([LEGACY])
    await vault.close()


async def fernet_records(store: Any) -> None:
    """Begin with the records of the old application, of which one expires."""
    for number, ((collection, key), value) in enumerate(RECORDS.items()):
        await old(store).put(key, value, collection=collection, ttl=TTL if number == 3 else None)


async def damaged_records(store: Any) -> None:
    """Begin with the records of the old application, and one that nothing opens."""
    await fernet_records(store)
    await old(store).put(DAMAGED[1], {"v": 0}, collection=COLLECTION)
    await damage(store, DAMAGED[1])


async def imported(store: Any) -> None:
    """Begin with a vault that reads old records, beside which new ones were written."""
    await fernet_records(store)
    await import_keys(store, [LEGACY], secret=OLD, kdf=CHEAP)
    vault = await Vault.open(store, secret=OLD)
    await EnvelopeEncryptionWrapper(store, vault=vault).put(
        "k0", RECORDS[COLLECTION, "k0"], collection=COLLECTION
    )
    await vault.close()


async def authsome(store: Any) -> None:
    """Begin with authsome's home, upgraded from 0.4 to 0.5: both formats, control data, a key record."""
    await put_raw_meta(store, key_record())
    await store.put("new", envelope(), collection="vault:v")
    await store.put("old", flat(), collection="vault:v")
    await store.put("version", {"data": "1"}, collection="config")
