"""Vaults whose KEK a service holds: made, opened, rotated and shared, by both services over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import Death, HookedDriver, Killed, dump, put_raw_meta, raw_meta
from tests.wrapkeys.local_key import LocalKey
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import (
    DamagedSlotError,
    LastSlotError,
    SecretReferenceError,
    UsageError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
    WrongSecretError,
)
from kvseal.observe import counters
from kvseal.wrapkeys import AwsKmsKey, TransitKey

if TYPE_CHECKING:
    from tests.kms_server import KmsServer
    from tests.transit_server import TransitServer

CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(params=["transit", "aws-kms"])
def reference(request: pytest.FixtureRequest) -> str:
    """Return a reference to a key of each service."""
    if request.param == "transit":
        request.getfixturevalue("transit")
        return "transit:transit/kv"
    kms: KmsServer = request.getfixturevalue("kms")
    return f"aws-kms:{kms.new_key()}"


@pytest.mark.servers
async def test_a_vault_of_a_service(reference: str, store: MemoryStore) -> None:
    """It is created and opened by reference, its records are sealed, and its one slot names the key."""
    vault = await Vault.create(store, secret=reference)
    await wrapped(vault).put("k", {"v": 1})

    again = await Vault.open(store, secret=reference)

    assert {"v": 1} == await wrapped(again).get("k")
    kind, _, name = reference.partition(":")
    (slot,) = again.slots.list()
    assert (kind, name, None, None, None, True) == (slot.kind, slot.key, slot.t, slot.m, slot.p, slot.opened)
    assert "hvs." not in str(await raw_meta(store))


@pytest.mark.servers
async def test_key_objects(transit: TransitServer, kms: KmsServer, store: MemoryStore) -> None:
    """Objects serve as references do, both services side by side."""
    aws = AwsKmsKey(kms.new_key())
    vault = await Vault.create(store, secret=TransitKey("kv"))
    await vault.slots.add(aws, label="aws")

    assert "aws" == (await vault.slots.verify(aws)).label
    assert ["transit", "aws-kms"] == [slot.kind for slot in vault.slots.list()]


@pytest.mark.servers
async def test_from_a_secret_to_a_service_and_back(
    reference: str, store: MemoryStore, secret: Secret
) -> None:
    """A rotation leads from one to the other, what was rotated away opens no more, records stay."""
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})

    await vault.rotate(new_secret=reference)
    with pytest.raises(WrongSecretError, match="no keyslot for a secret"):
        await Vault.open(store, secret=secret)
    vault = await Vault.open(store, secret=reference)
    assert {"v": 1} == await wrapped(vault).get("k")

    await vault.rotate(new_secret=secret, kdf=CHEAP)
    with pytest.raises(WrongSecretError, match="no keyslot of the"):
        await Vault.open(store, secret=reference)
    assert {"v": 1} == await wrapped(await Vault.open(store, secret=secret)).get("k")


@pytest.mark.servers
async def test_a_rotation_to_the_same_key(transit: TransitServer, store: MemoryStore) -> None:
    """After the service has rotated its key, a rotation wraps under the newest version."""
    vault = await Vault.create(store, secret="transit:transit/kv")
    transit.keys["transit", "kv"].versions.append(b"2" * 32)
    assert await Vault.open(store, secret="transit:transit/kv")

    await vault.rotate(new_secret="transit:transit/kv")

    transit.keys["transit", "kv"].min_decryption_version = 2
    (slot,) = vault.slots.list()
    assert slot.id == (await vault.slots.verify("transit:transit/kv")).id


@pytest.mark.servers
async def test_both_for_a_time(reference: str, store: MemoryStore, secret: Secret) -> None:
    """`keep_old_for` lets the secret open for so long beside the service."""
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)

    await vault.rotate(new_secret=reference, keep_old_for=timedelta(hours=1))

    assert await Vault.open(store, secret=secret)
    assert await Vault.open(store, secret=reference)
    assert ["argon2id", reference.partition(":")[0]] == [slot.kind for slot in vault.slots.list()]


async def test_an_interrupted_rotation_goes_on(store: MemoryStore, secret: Secret) -> None:
    """The slot that an interrupted rotation has left is used, and the service wraps nothing again."""
    key = LocalKey()
    await Vault.create(store, secret=secret, kdf=CHEAP)
    driver = HookedDriver(driver_for(store), Death(2, of="replace_many"))
    with pytest.raises(Killed):
        await (await Vault.open(driver, secret=secret)).rotate(new_secret=key)
    assert ["argon2id", "local"] == [slot["kind"] for slot in (await raw_meta(store))["slots"]]

    vault = await Vault.open(store, secret=secret)
    await vault.rotate(new_secret=key)

    assert 1 == key.wraps
    assert [("local", "primary")] == [(slot.kind, slot.label) for slot in vault.slots.list()]


@pytest.mark.servers
async def test_once_per_process(transit: TransitServer, store: MemoryStore) -> None:
    """Fifty wrappers that start at once, and ten thousand operations, ask the service once."""
    await Vault.create(store, secret="transit:transit/kv")
    transit.requests.clear()
    unwrappings = counters.unwrappings.number

    wrappers = [EnvelopeEncryptionWrapper(store, secret="transit:transit/kv") for _ in range(50)]
    await asyncio.gather(*(kv.put(f"k{n}", {"n": n}) for n, kv in enumerate(wrappers)))
    for number in range(5000):
        kv = wrappers[number % 50]
        await kv.put(f"k{number % 50}", {"n": number})
        assert {"n": number} == await kv.get(f"k{number % 50}")

    assert ["/v1/transit/decrypt/kv"] == transit.requests
    assert 1 == counters.unwrappings.number - unwrappings


@pytest.mark.servers
async def test_the_service_goes_away(transit: TransitServer, store: MemoryStore) -> None:
    """Open vaults go on, nobody else opens one, and what was refused or away is told apart by its exit code."""
    vault = await Vault.create(store, secret="transit:transit/kv")
    await wrapped(vault).put("k", {"v": 1})
    await vault.close()
    del vault
    kv = EnvelopeEncryptionWrapper(store, secret="transit:transit/kv")
    await kv.get("k")

    transit.tokens.clear()
    assert {"v": 1} == await kv.get("k")
    vault = await Vault.open(store, secret="transit:transit/kv")
    with pytest.raises(WrapKeyRefusedError) as refused:
        await vault.slots.verify("transit:transit/kv")
    transit.broken = (503, b"{}")
    with pytest.raises(WrapKeyUnreachableError) as away:
        await vault.slots.verify("transit:transit/kv")
    assert (12, 10) == (refused.value.exit_code, away.value.exit_code)
    assert {"v": 1} == await kv.get("k")


@pytest.mark.servers
async def test_a_slot_of_another_vault(reference: str, store: MemoryStore) -> None:
    """Pasted beside its own vault's name, a slot of another vault of the same key does not unwrap."""
    other = MemoryStore()
    await Vault.create(store, secret=reference)
    await Vault.create(other, secret=reference)
    meta, theirs = await raw_meta(store), await raw_meta(other)
    await put_raw_meta(store, {**meta, "slots": theirs["slots"]})

    with pytest.raises(DamagedSlotError, match="belongs to another vault"):
        await Vault.open(store, secret=reference)


@pytest.mark.parametrize("change", ["create", "add", "rotate"])
async def test_nothing_is_written_where_the_service_fails(
    change: str, store: MemoryStore, secret: Secret
) -> None:
    """A slot that the service will not open again never reaches the store."""
    key = LocalKey()
    vault = None if change == "create" else await Vault.create(store, secret=secret, kdf=CHEAP)
    before = dump(store)
    # It unwraps nothing that is stored; what is not bound, it has to refuse as every service does.
    key.fails = lambda context: None if context["kvseal-slot"] == "00" * 8 else WrapKeyRefusedError("no")

    async def changed() -> object:
        if vault is None:
            return await Vault.create(store, secret=key)
        return await (vault.slots.add(key, label="kms") if change == "add" else vault.rotate(new_secret=key))

    with pytest.raises(WrapKeyRefusedError):
        await changed()

    assert 1 == key.wraps
    assert before == dump(store)


async def test_a_wrap_key_has_no_cost(store: MemoryStore, secret: Secret) -> None:
    """Whoever gives an Argon2id cost with a wrap key is told, before the service is asked."""
    key = LocalKey()
    with pytest.raises(UsageError, match="local key k derives nothing"):
        await Vault.create(store, secret=key, kdf=CHEAP)
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)
    with pytest.raises(UsageError):
        await vault.slots.add(key, label="kms", kdf=CHEAP)
    with pytest.raises(UsageError):
        await vault.rotate(new_secret=key, kdf=CHEAP)

    assert 0 == key.wraps


async def test_the_last_slot_stays(store: MemoryStore) -> None:
    """A slot of a service counts as a way in like any other."""
    vault = await Vault.create(store, secret=LocalKey())

    with pytest.raises(LastSlotError):
        await vault.slots.remove("primary")


async def test_a_small_memory_ceiling(store: MemoryStore) -> None:
    """A service derives nothing here, so a small machine opens and creates by it."""
    key = LocalKey()
    await Vault.create(store, secret=key, memory_ceiling=8)

    assert await Vault.open(store, secret=key, memory_ceiling=8)


async def test_a_wrapper_creates(store: MemoryStore) -> None:
    """The wrapper makes a vault with a wrap key as with a secret, and asks nobody before the first operation."""
    key = LocalKey()
    kv = EnvelopeEncryptionWrapper(store, secret=key)
    assert 0 == key.wraps

    await kv.put("k", {"v": 1})

    assert {"v": 1} == await EnvelopeEncryptionWrapper(store, secret=key, create=False).get("k")


def test_what_is_no_secret() -> None:
    """A text that is no reference, and an object that is no wrap key, are refused at once."""
    with pytest.raises(SecretReferenceError) as caught:
        EnvelopeEncryptionWrapper(MemoryStore(), secret="transit:")
    assert "transit" not in str(caught.value)
    with pytest.raises(TypeError, match="WrapKey"):
        EnvelopeEncryptionWrapper(MemoryStore(), secret=object())  # type: ignore[arg-type]


async def test_a_new_root_key(store: MemoryStore, secret: Secret) -> None:
    """A rotation of the root key makes the slots of services anew, too."""
    key, other = LocalKey(), LocalKey("other")
    vault = await Vault.create(store, secret=key)
    await vault.slots.add(secret, label="recovery", kdf=CHEAP)
    await vault.slots.add(other, label="other")
    await wrapped(vault).put("k", {"v": 1})

    await vault.rotate_root(secrets=[secret, other, key])

    for unlocker in (key, secret, other):
        assert {"v": 1} == await wrapped(await Vault.open(store, secret=unlocker)).get("k")


async def test_wrap_key_errors_are_secret_errors() -> None:
    """Whoever handles errors of secrets handles these, too."""
    from kvseal.errors import SecretError

    assert issubclass(WrapKeyError, SecretError)
