"""One record at a time, through the driver: what operators and scripts do."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver, dump
from tests.recoding.worlds import damage, fill, plant

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import (
    Conflict,
    MalformedRecordError,
    MissingRecordError,
    ReservedNameError,
    StoreError,
    TamperedRecordError,
    UnsealableValueError,
)
from kvseal.records import by_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kvseal.envelope.codec import RecordCodec

AnyStore = MemoryStore | DiskStore


async def codec_of(store: AnyStore, secret: Secret, cheap: Argon2idParams) -> RecordCodec:
    """Return the codec of a new vault in *store*."""
    return (await Vault.create(store, secret=secret, kdf=cheap)).keyring.codecs[""]


async def test_what_a_wrapper_reads(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A record that was put here is one of the application's, and the other way round."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    driver, codec, wrapper = (
        driver_for(any_store),
        vault.keyring.codecs[""],
        EnvelopeEncryptionWrapper(any_store, vault=vault),
    )

    await by_name.put_record(driver, codec, "c", "ours", {"v": 1}, ttl=100)
    await wrapper.put("theirs", {"v": 2}, collection="c")

    value, ttl = await wrapper.ttl("ours", collection="c")
    assert {"v": 1} == value
    assert 0 < (ttl or 0) <= 100
    assert {"v": 2} == await by_name.get_record(driver, codec, "c", "theirs")
    await driver.close()
    await vault.close()


async def test_replacing(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Another value replaces the record and its expiry, on the backend and under the seal."""
    codec, driver = await codec_of(any_store, secret, cheap), driver_for(any_store)

    for ttl in (100, None, 200):
        await by_name.put_record(driver, codec, "c", "k", {"ttl": ttl}, ttl=ttl)

        entry = await driver.get("c", "k")
        assert entry is not None
        assert {"ttl": ttl} == await by_name.get_record(driver, codec, "c", "k")
        sealed = codec.open(entry.value or {}, "c", "k")[1]
        assert (ttl is None, ttl is None) == (entry.expires_at is None, sealed is None)
    await driver.close()


async def test_a_sealed_expiry_counts(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A record past the expiry under its seal is missing, whatever the backend says."""
    codec, driver = await codec_of(store, secret, cheap), driver_for(store)
    past = round((datetime.now(timezone.utc) - timedelta(seconds=1)).timestamp() * 1000)
    await store.put("k", codec.seal({"v": 1}, "c", "k", expires_at=past), collection="c")

    with pytest.raises(MissingRecordError):
        await by_name.get_record(driver, codec, "c", "k")


@pytest.mark.parametrize("value", [{"v": {1}}, {1: "v"}, {"v": (1,)}], ids=["set", "number as key", "tuple"])
async def test_what_json_cannot_hold(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, value: Any
) -> None:
    """It is refused before anything is written."""
    codec, driver = await codec_of(store, secret, cheap), driver_for(store)
    before = dump(store)

    with pytest.raises(UnsealableValueError):
        await by_name.put_record(driver, codec, "c", "k", value)

    assert before == dump(store)


async def test_damage(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A record that was changed is refused, and can be found and deleted."""
    codec, driver = await codec_of(any_store, secret, cheap), driver_for(any_store)
    await by_name.put_record(driver, codec, "c", "k", {"v": 1})
    await damage(any_store, "k")

    with pytest.raises(TamperedRecordError):
        await by_name.get_record(driver, codec, "c", "k")
    assert "kvseal" == (await by_name.inspect_record(driver, "c", "k")).format
    await by_name.delete_record(driver, "c", "k")
    with pytest.raises(MissingRecordError):
        await by_name.delete_record(driver, "c", "k")
    await driver.close()


async def test_a_record_that_is_none(store: MemoryStore) -> None:
    """What claims to be sealed but is no record is told by inspect, and still found and deleted."""
    driver = driver_for(store)
    await store.put("k", {"__encrypted_data__": "?", "__encryption_version__": 2}, collection="c")

    with pytest.raises(MalformedRecordError):
        await by_name.inspect_record(driver, "c", "k")
    assert "kvseal" == (await by_name.find_record(driver, "c", "k")).format
    await by_name.delete_record(driver, "c", "k")


async def test_inspect_tells_formats_apart(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Without any key, what a record says about itself."""
    codec, driver = await codec_of(store, secret, cheap), driver_for(store)
    await by_name.put_record(driver, codec, "c", "sealed", {"v": float("nan")}, ttl=60)
    await fill(store, {"fernet": {"v": 1}})
    await store.put("plaintext", {"v": 1}, collection="c")
    await store.put("half", {"__encrypted_data__": "x"}, collection="c")
    plant(store, "torn", "{")

    names = ("sealed", "fernet", "plaintext", "half", "torn")
    infos = [await by_name.inspect_record(driver, "c", name) for name in names]

    assert ["kvseal", "fernet", "plaintext", "undecodable", "undecodable: the body is not JSON"] == [
        info.format for info in infos
    ]
    sealed = infos[0]
    assert (1, "XAES-256-GCM", 1, "MESSAGEPACK", "COLLECTION_AND_KEY") == (
        sealed.version,
        sealed.suite,
        sealed.dek,
        sealed.encoding,
        sealed.binding,
    )
    assert sealed.expires_at is not None
    assert (sealed.sealed_expires_at or "")[:19] == sealed.expires_at[:19]
    assert all(info.dek is None for info in infos[1:])


async def test_an_expiry_beyond_the_calendar(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A sealed expiry that no calendar holds is shown as a number."""
    codec = await codec_of(store, secret, cheap)
    await store.put("k", codec.seal({}, "c", "k", expires_at=2**62), collection="c")

    info = await by_name.inspect_record(driver_for(store), "c", "k")

    assert f"{2**62} ms after 1970" == info.sealed_expires_at


async def test_the_vault_meta_is_out_of_reach(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """No operation on one record touches or lists the vault meta."""
    codec, driver = await codec_of(store, secret, cheap), driver_for(store)
    before = dump(store)
    names = ("__vault_meta__", "__dek__")

    for attempt in (
        by_name.get_record(driver, codec, *names),
        by_name.put_record(driver, codec, *names, {}),
        by_name.delete_record(driver, *names),
        by_name.inspect_record(driver, *names),
        by_name.find_record(driver, *names),
    ):
        with pytest.raises(ReservedNameError):
            await attempt

    assert [] == [entry async for entry in by_name.list_records(driver)]
    assert before == dump(store)


async def test_list(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Every record of all collections, or of one; records that nobody can read are listed, too."""
    codec, driver = await codec_of(any_store, secret, cheap), driver_for(any_store)
    for collection in ("c", "d"):
        await by_name.put_record(driver, codec, collection, "k", {})

    every = [(entry.collection, entry.key) async for entry in by_name.list_records(driver)]
    one = [(entry.collection, entry.key) async for entry in by_name.list_records(driver, "d")]

    assert [("c", "k"), ("d", "k")] == sorted(every)
    assert [("d", "k")] == one
    await driver.close()


async def test_a_pickle_is_not_deleted(tmp_path: Path) -> None:
    """What kvseal cannot read it does not change, not even on demand."""
    with closing(DiskStore(directory=tmp_path)._cache) as cache:
        cache.set("c::k", {"v": 1})
        driver = driver_for(DiskStore(disk_cache=cache))

        with pytest.raises(StoreError, match="never changed"):
            await by_name.delete_record(driver, "c", "k")

        await driver.close()


class TestWriters:
    """Other writers at the same time."""

    async def between(self, store: AnyStore, operation: str, times: int) -> HookedDriver:
        """Return a driver in whose way somebody else writes, before the first *times* calls of *operation*."""
        left = times

        async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
            nonlocal left
            if name == operation and left:
                left -= 1
                await store.put("k", {"turn": left}, collection="c")
            return await do()

        return HookedDriver(driver_for(store), around)

    @pytest.mark.parametrize("operation", ["put_if_absent", "replace_many"])
    async def test_put(
        self, any_store: AnyStore, secret: Secret, cheap: Argon2idParams, operation: str
    ) -> None:
        """A put that loses a race tries again and then replaces what won."""
        codec = await codec_of(any_store, secret, cheap)
        if operation == "replace_many":
            await any_store.put("k", {"v": 0}, collection="c")
        driver = await self.between(any_store, operation, 2)

        await by_name.put_record(driver, codec, "c", "k", {"v": 1})

        assert {"v": 1} == await by_name.get_record(driver, codec, "c", "k")
        await driver.close()

    async def test_a_writer_that_never_rests(
        self, store: MemoryStore, secret: Secret, cheap: Argon2idParams
    ) -> None:
        """After many lost races a put and a delete give up, and say so."""
        codec = await codec_of(store, secret, cheap)
        await store.put("k", {"v": 0}, collection="c")

        with pytest.raises(Conflict, match="keep changing"):
            await by_name.put_record(
                await self.between(store, "replace_many", 1000), codec, "c", "k", {"v": 1}
            )
        with pytest.raises(Conflict, match="keep changing"):
            await by_name.delete_record(await self.between(store, "delete", 1000), "c", "k")
