"""What can be wrong with a vault or with how it is asked for: one table for the tests that go through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests import wrapping
from tests.fakes import BareStore, flipped, put_raw_meta, raw_meta

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.errors import (
    DamagedSlotError,
    EmptySecretError,
    EvictingStoreError,
    ForeignVaultError,
    KDFParametersError,
    MistypedSecretError,
    ReservedNameError,
    SecretNotFoundError,
    SecretReferenceError,
    TamperedMetaError,
    UnknownMetaVersionError,
    UnknownSlotKindError,
    UnsupportedStoreError,
    VaultError,
    VaultExistsError,
    VaultMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY

RIGHT = Secret(b"correct horse battery staple")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
PLAINTEXT = "a plaintext that nobody may see"

# What authsome 0.5 to 0.7 keeps under the name of the vault meta.
AUTHSOME = {
    "version": 1,
    "kdf": {
        "alg": "argon2id",
        "salt": "AAAAAAAAAAAAAAAAAAAAAA==",
        "memory_cost": 65536,
        "time_cost": 3,
        "parallelism": 4,
    },
    "wrapped_dek": {"alg": "AES-256-GCM", "nonce": "AAAAAAAAAAAAAAAA", "ciphertext": "A" * 64},
}

Prepare = Callable[[Path], Awaitable[Any]]
Act = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """What there is, what is done, and which error with which exit code that gets."""

    prepare: Prepare
    act: Act
    error: type[Exception]
    exit_code: int


async def with_vault(directory: Path) -> DiskStore:
    """Return a disk store with a vault and one record."""
    store = DiskStore(directory=directory)
    vault = await Vault.create(store, secret=RIGHT, kdf=CHEAP)
    await wrapping.wrapped(vault).put("k", {"v": PLAINTEXT})
    await vault.close()
    return store


async def empty(directory: Path) -> DiskStore:
    """Return an empty disk store."""
    return DiskStore(directory=directory)


def damaged(*path: str | int) -> Prepare:
    """Return what makes a vault with one character of its meta changed at *path*."""

    async def prepare(directory: Path) -> DiskStore:
        store = await with_vault(directory)
        await flipped(store, *path)
        return store

    return prepare


def edited(edit: Callable[[dict[str, Any]], object]) -> Prepare:
    """Return what makes a vault whose meta was put through *edit*."""

    async def prepare(directory: Path) -> DiskStore:
        store = await with_vault(directory)
        meta = await raw_meta(store)
        edit(meta)
        await put_raw_meta(store, meta)
        return store

    return prepare


def holding(value: dict[str, Any]) -> Prepare:
    """Return what makes a store with *value* in the place of the vault meta."""

    async def prepare(directory: Path) -> DiskStore:
        store = DiskStore(directory=directory)
        await put_raw_meta(store, value)
        return store

    return prepare


def raw(body: str) -> Prepare:
    """Return what makes a vault the stored body of whose meta is *body*, which no store reads."""

    async def prepare(directory: Path) -> DiskStore:
        store = await with_vault(directory)
        store._cache.set(f"{META_COLLECTION}::{META_KEY}", body)
        return store

    return prepare


async def without_meta(directory: Path) -> DiskStore:
    """Return a store with a sealed record whose vault meta somebody deleted."""
    store = await with_vault(directory)
    await store.delete(META_KEY, collection=META_COLLECTION)
    return store


async def evicting_disk(directory: Path) -> DiskStore:
    """Return a disk store of limited size."""
    return DiskStore(directory=directory, max_size=1_000_000)


async def evicting_memory(_: Path) -> MemoryStore:
    """Return a memory store of limited size."""
    return MemoryStore(max_entries_per_collection=10)


async def bare(_: Path) -> BareStore:
    """Return a store for which there is no driver."""
    return BareStore()


def open_with(secret: Secret | str, **options: Any) -> Act:
    """Return: open the vault."""
    return lambda store: Vault.open(store, secret=secret, **options)


def create_with(secret: Secret | str, **options: Any) -> Act:
    """Return: create a vault."""
    return lambda store: Vault.create(store, secret=secret, kdf=CHEAP, **options)


def wrapped(secret: Secret | str = RIGHT, **options: Any) -> Act:
    """Return: read through a wrapper of its own."""

    async def act(store: Any) -> object:
        wrapper = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=CHEAP, **options)
        return await wrapper.get("k")

    return act


def _weaken(meta: dict[str, Any]) -> None:
    meta["policy"]["read_plaintext"] = True


def _cost(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta["slots"][0].__setitem__(name, value)


CASES: dict[str, Case] = {
    "no vault: open": Case(empty, open_with(RIGHT), VaultNotFoundError, 10),
    "no vault: wrapper with create=False": Case(empty, wrapped(create=False), VaultNotFoundError, 10),
    "wrong secret": Case(with_vault, open_with(Secret(b"wrong")), WrongSecretError, 12),
    "wrong secret: wrapper": Case(with_vault, wrapped(Secret(b"wrong")), WrongSecretError, 12),
    "damaged slot: wrapped key": Case(damaged("slots", 0, "wrapped"), open_with(RIGHT), DamagedSlotError, 1),
    "damaged slot: nonce": Case(damaged("slots", 0, "nonce"), open_with(RIGHT), DamagedSlotError, 1),
    "damaged slot: id": Case(
        edited(lambda meta: meta["slots"][0].__setitem__("id", "0" * 16)),
        open_with(RIGHT),
        DamagedSlotError,
        1,
    ),
    "damaged slot: wrong secret": Case(
        damaged("slots", 0, "wrapped"), open_with(Secret(b"wrong")), WrongSecretError, 12
    ),
    "damaged slot: salt": Case(damaged("slots", 0, "salt"), open_with(RIGHT), WrongSecretError, 12),
    "damaged slot: commitment": Case(
        damaged("slots", 0, "commitment"), open_with(RIGHT), WrongSecretError, 12
    ),
    "edited meta: policy": Case(edited(_weaken), open_with(RIGHT), TamperedMetaError, 1),
    "edited meta: label": Case(
        edited(lambda meta: meta["slots"][0].__setitem__("label", "other")),
        open_with(RIGHT),
        TamperedMetaError,
        1,
    ),
    "edited meta: revision": Case(
        edited(lambda meta: meta.__setitem__("revision", 7)), open_with(RIGHT), TamperedMetaError, 1
    ),
    "edited meta: DEK": Case(damaged("deks", 0, "wrapped"), open_with(RIGHT), TamperedMetaError, 1),
    "edited meta: mac": Case(damaged("mac"), open_with(RIGHT), TamperedMetaError, 1),
    "malformed meta: a field more": Case(
        edited(lambda meta: meta.__setitem__("note", "hello")), open_with(RIGHT), VaultMetaError, 1
    ),
    "malformed meta: a field less": Case(
        edited(lambda meta: meta.pop("deks")), open_with(RIGHT), VaultMetaError, 1
    ),
    "malformed meta: not believed absent": Case(
        edited(lambda meta: meta.pop("deks")), create_with(RIGHT), VaultMetaError, 1
    ),
    "malformed meta: open_or_create": Case(
        edited(lambda meta: meta.pop("deks")), wrapped(), VaultMetaError, 1
    ),
    "meta of a later version": Case(
        edited(lambda meta: meta.__setitem__("kvseal", 2)), open_with(RIGHT), UnknownMetaVersionError, 1
    ),
    "corrupt meta: not JSON": Case(raw("{"), wrapped(), VaultMetaError, 1),
    "corrupt meta: not an object": Case(raw("[]"), wrapped(), VaultMetaError, 1),
    "corrupt meta: empty": Case(raw(""), wrapped(), VaultMetaError, 1),
    "corrupt meta: no value": Case(raw('{"version": 1}'), create_with(RIGHT), VaultMetaError, 1),
    "lost meta: create": Case(without_meta, create_with(RIGHT), VaultMetaLostError, 1),
    "lost meta: wrapper": Case(without_meta, wrapped(), VaultMetaLostError, 1),
    "lost meta: open": Case(without_meta, open_with(RIGHT), VaultNotFoundError, 10),
    "lost meta: it was in a store of its own": Case(
        without_meta,
        lambda store: Vault.create(store, secret=RIGHT, kdf=CHEAP, meta_store=MemoryStore()),
        VaultMetaLostError,
        1,
    ),
    "a second vault": Case(with_vault, create_with(RIGHT), VaultExistsError, 1),
    "a second vault with another secret": Case(
        with_vault, create_with(Secret(b"other")), VaultExistsError, 1
    ),
    "a foreign record: create": Case(holding(AUTHSOME), create_with(RIGHT), ForeignVaultError, 1),
    "a foreign record: open": Case(holding(AUTHSOME), open_with(RIGHT), ForeignVaultError, 1),
    "a foreign record: wrapper": Case(holding(AUTHSOME), wrapped(), ForeignVaultError, 1),
    "KDF above the ceiling": Case(edited(_cost("m", 2**31)), open_with(RIGHT), KDFParametersError, 1),
    "KDF above a lowered ceiling": Case(
        with_vault, open_with(RIGHT, memory_ceiling=7), KDFParametersError, 1
    ),
    "KDF above the ceiling: create": Case(empty, create_with(RIGHT, memory_ceiling=7), KDFParametersError, 1),
    "label that a message cannot show": Case(empty, create_with(RIGHT, label="\x1b[2J"), VaultError, 1),
    "KDF above the ceiling: wrapper": Case(edited(_cost("m", 2**31)), wrapped(), KDFParametersError, 1),
    "KDF out of bounds: time": Case(edited(_cost("t", 65)), open_with(RIGHT), KDFParametersError, 1),
    "KDF out of bounds: lanes": Case(edited(_cost("p", 65)), open_with(RIGHT), KDFParametersError, 1),
    "KDF out of bounds: no number": Case(edited(_cost("t", True)), open_with(RIGHT), KDFParametersError, 1),
    "KDF salt of another size": Case(edited(_cost("salt", "AAAA")), open_with(RIGHT), VaultMetaError, 1),
    "KDF of another kind": Case(edited(_cost("kind", "scrypt")), open_with(RIGHT), UnknownSlotKindError, 1),
    "empty secret": Case(empty, create_with("env:KVSEAL_EMPTY"), EmptySecretError, 2),
    "blank secret": Case(with_vault, open_with("env:KVSEAL_BLANK"), EmptySecretError, 2),
    "mistyped secret": Case(with_vault, open_with("env:KVSEAL_MISTYPED"), MistypedSecretError, 2),
    "bare passphrase": Case(empty, create_with("hunter2"), SecretReferenceError, 2),
    "secret that is not there": Case(with_vault, wrapped("env:KVSEAL_NONE"), SecretNotFoundError, 2),
    "evicting disk store": Case(evicting_disk, create_with(RIGHT), EvictingStoreError, 1),
    "evicting memory store": Case(evicting_memory, create_with(RIGHT), EvictingStoreError, 1),
    "evicting store: wrapper": Case(evicting_memory, wrapped(), EvictingStoreError, 1),
    "evicting meta store": Case(
        with_vault,
        lambda store: Vault.create(
            store, secret=RIGHT, kdf=CHEAP, meta_store=MemoryStore(max_entries_per_collection=1)
        ),
        EvictingStoreError,
        1,
    ),
    "store without a driver": Case(bare, wrapped(), UnsupportedStoreError, 2),
    "reserved name": Case(
        with_vault,
        lambda store: EnvelopeEncryptionWrapper(key_value=store, secret=RIGHT).get(
            META_KEY, collection=META_COLLECTION
        ),
        ReservedNameError,
        2,
    ),
}

ENVIRONMENT = {
    "KVSEAL_EMPTY": "",
    "KVSEAL_BLANK": " \n",
    "KVSEAL_MISTYPED": "KVSEAL1-AAAAA-BBBBB-CCCCC",
}
