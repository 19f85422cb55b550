"""The public API as its users write it: type-checked by mypy, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, KvsealError, Policy, RecordError, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import UnreadableRecordsError
from kvseal.wrapkeys import AwsKmsKey, TransitKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from key_value.aio.stores.memory import MemoryStore

    from kvseal.drivers.base import Driver
    from kvseal.vault.status import VaultStatus


async def as_a_store(store: AsyncKeyValue) -> None:
    """Most users: a drop-in `AsyncKeyValue`."""
    kv: AsyncKeyValue = EnvelopeEncryptionWrapper(key_value=store)
    kv = EnvelopeEncryptionWrapper(store, secret="env:KVSEAL_MASTER_KEY", create=False)
    await kv.put("user:1", {"name": "Ada"}, collection="sessions", ttl=60)
    value: dict[str, Any] | None = await kv.get("user:1", collection="sessions")
    values: list[dict[str, Any] | None] = await kv.get_many(["a", "b"])
    with_ttl: tuple[dict[str, Any] | None, float | None] = await kv.ttl("user:1")
    deleted: bool = await kv.delete("user:1")
    _ = value, values, with_ttl, deleted


async def every_option(store: MemoryStore, meta_store: AsyncKeyValue) -> None:
    """The wrapper with all of its options."""
    kv = EnvelopeEncryptionWrapper(
        key_value=store,
        secret=Secret(b"..."),
        create=True,
        meta_store=meta_store,
        kdf=Argon2idParams.RFC_9106_HIGH_MEMORY,
        memory_ceiling=8 * 1024 * 1024,
        context="tenant-7",
        raise_on_decryption_error=False,
        refresh_after=15,
    )
    below: AsyncKeyValue = kv.key_value
    unreadable: int = kv.unreadable["TamperedRecordError"]
    await kv.unlock()
    vault: Vault = await kv.vault()
    await kv.release()
    _ = below, unreadable, vault


async def as_an_operator(store: AsyncKeyValue) -> VaultStatus:
    """Operators and tools: the vault itself."""
    vault = await Vault.create(
        store,
        secret=Secret(b"..."),
        kdf=Argon2idParams(time_cost=3, memory_cost=65536, parallelism=4),
        policy=Policy(read_legacy=True),
        label="primary",
    )
    vault = await Vault.open(store, secret="env:KVSEAL_MASTER_KEY")
    vault = await Vault.open_or_create(store)
    vault = await Vault.open(store, secret=TransitKey("kvseal"))
    await vault.slots.add(AwsKmsKey("alias/kvseal"), label="kms")
    kv: AsyncKeyValue = EnvelopeEncryptionWrapper(store, vault=vault)
    kv = wrapped(vault, context="tenant-7")
    status: VaultStatus = await vault.rotate(new_secret="file:new.key")
    status = await vault.rotate(kdf=Argon2idParams.RFC_9106_LOW_MEMORY)
    status = (await vault.rotate_root(["file:recovery.key"], drop_slots=["laptop"])).status
    status = await vault.rotate_dek()
    printed: dict[str, Any] = status.as_dict()
    changed: bool = await vault.refresh()
    await vault.lock()
    await vault.close()
    _ = kv, printed, changed
    return vault.status()


async def with_a_driver(store: AsyncKeyValue) -> Vault:
    """Wherever a store is taken, a driver serves."""
    driver: Driver = driver_for(store)
    return await Vault.open(driver, secret="prompt:", meta_store=driver)


async def errors(kv: EnvelopeEncryptionWrapper) -> Mapping[str, Any] | None:
    """Errors carry what a handler needs."""
    try:
        return await kv.get("user:1")
    except UnreadableRecordsError as exc:
        names: list[tuple[str | None, str | None]] = [(one.collection, one.key) for one in exc.errors]
        raise KvsealError(str(names), hint=exc.hint) from exc
    except RecordError as exc:
        key: str | None = exc.key
        code: int = exc.exit_code
        raise SystemExit(code) from KeyError(key)
    except KvsealError as exc:
        hint: str = exc.hint
        raise SystemExit(hint) from exc
