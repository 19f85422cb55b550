"""The window in which old records are read: who learns of its beginning and its end, and when."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from key_value.aio.wrappers.base import BaseWrapper
from tests.fakes import HookedDriver, rewrite_policy
from tests.processes import CHEAP, OLD
from tests.recoding.worlds import KEY, OTHER_KEY, old
from tests.wrapping import wrapped

from kvseal import EnvelopeEncryptionWrapper, Policy, Vault
from kvseal.drivers import driver_for
from kvseal.errors import LegacyRecordError, PlaintextRecordError, StoreUnreachableError, TamperedRecordError
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import AUTHSOME_FLAT, FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.records.legacy_window import MAX_AGE, LegacyWindow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from key_value.aio.stores.memory import MemoryStore

LEGACY = LegacyKey(FERNET, parse_key(KEY))
OTHER = LegacyKey(FERNET, parse_key(OTHER_KEY))


class Process:
    """A process whose wrapper was opened before anything happened; its looks at the vault meta are counted."""

    def __init__(self, store: MemoryStore) -> None:
        self.now = 100.0
        self.looks = 0
        self.is_down = False
        self.first_look = asyncio.Event()
        self._store = store

    async def started(self) -> EnvelopeEncryptionWrapper:
        """Return the wrapper."""
        driver = HookedDriver(driver_for(self._store), self._around)
        kv = EnvelopeEncryptionWrapper(self._store, secret=OLD, create=False, meta_store=driver)
        kv._reader._legacy_window = LegacyWindow(clock=lambda: self.now)
        await kv.unlock()
        self.looks = 0
        self.first_look.clear()
        return kv

    async def _around(self, _: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        self.looks += 1
        self.first_look.set()
        await asyncio.sleep(0)
        if self.is_down:
            raise StoreUnreachableError("down")
        return await operation()


@pytest.fixture
async def operator(store: MemoryStore) -> Vault:
    """Return the operator's own view of the vault."""
    return await Vault.create(store, secret=OLD, kdf=CHEAP)


async def test_the_beginning_is_noticed(store: MemoryStore, operator: Vault) -> None:
    """A wrapper that was opened before the keys were imported reads with them, without a restart."""
    process = Process(store)
    kv = await process.started()
    await old(store).put("k", {"v": 1})
    await store.put("plain", {"v": 2})

    await operator.read_legacy_with([LEGACY], plaintext=True)

    assert [{"v": 1}, {"v": 2}] == await kv.get_many(["k", "plain"])
    assert 1 == process.looks


async def test_what_was_refused_is_refused_for_a_while(store: MemoryStore, operator: Vault) -> None:
    """The vault meta is read again at most every few seconds, however many old records are met."""
    process = Process(store)
    kv = await process.started()
    await old(store).put("k", {"v": 1})

    async def refused() -> None:
        with pytest.raises(LegacyRecordError):
            await kv.get("k")

    await refused()
    await operator.read_legacy_with([LEGACY])
    process.now += MAX_AGE - 0.01
    await refused()
    assert 1 == process.looks

    process.now += 0.01
    assert {"v": 1} == await kv.get("k")
    assert 2 == process.looks


async def test_one_look_for_all_who_wait(store: MemoryStore, operator: Vault) -> None:
    """Of many readers that meet old records at once, one looks and all get its answer."""
    process = Process(store)
    kv = await process.started()
    keys = [str(number) for number in range(20)]
    for key in keys:
        await old(store).put(key, {"v": key})
    await operator.read_legacy_with([LEGACY])

    values = await asyncio.gather(*(kv.get(key) for key in keys))

    assert [{"v": key} for key in keys] == values
    assert 1 == process.looks


async def test_the_end_is_noticed(store: MemoryStore, operator: Vault) -> None:
    """A process that holds the keys stops to read with them, at the latest when its look is too old."""
    process = Process(store)
    await operator.read_legacy_with([LEGACY], plaintext=True)
    kv = await process.started()
    for key in ("1", "2", "3"):
        await old(store).put(key, {"v": 1})
        await store.put(f"plain-{key}", {"v": 1})
    assert {"v": 1} == await kv.get("1")

    await operator.end_legacy_reads()

    process.now += MAX_AGE - 0.01
    assert {"v": 1} == await kv.get("2")
    process.now += 0.01
    with pytest.raises(LegacyRecordError):
        await kv.get("3")
    with pytest.raises(PlaintextRecordError):
        await kv.get("plain-3")
    assert {"v": 1} == await kv.get("2")
    assert () == (await kv.vault()).keyring.legacy


async def test_another_key_is_noticed(store: MemoryStore, operator: Vault) -> None:
    """A key that was imported later is found by a process that knew an earlier one."""
    process = Process(store)
    await operator.read_legacy_with([LEGACY])
    kv = await process.started()
    await old(store, OTHER_KEY).put("k", {"v": 1})
    with pytest.raises(TamperedRecordError):
        await kv.get("k")

    await operator.read_legacy_with([OTHER])
    process.now += MAX_AGE

    assert {"v": 1} == await kv.get("k")


async def test_policy_decides_and_not_the_keys(store: MemoryStore, operator: Vault) -> None:
    """A vault that holds legacy keys, but whose policy is strict, reads nothing with them."""
    await operator.read_legacy_with([LEGACY])
    await rewrite_policy(operator, store, Policy())
    await old(store).put("k", {"v": 1})

    with pytest.raises(LegacyRecordError):
        await wrapped(operator).get("k")


async def test_legacy_that_looks_like_plaintext(store: MemoryStore, operator: Vault) -> None:
    """With a key that opens it, it is opened; with a wrong one it is an error; the ciphertext is no value."""
    nonce, text = bytes(12), '{"v": 1}'
    sealed = AESGCM(bytes(32)).encrypt(nonce, text.encode(), None)
    token = {"data": f"{b64encode(nonce).decode()}.{b64encode(sealed).decode()}"}
    await store.put_many(["opens", "does not"], [token, {"data": token["data"].replace(".", ".AAAA")}])
    await operator.read_legacy_with([LegacyKey(AUTHSOME_FLAT, bytes(32))], plaintext=True)
    kv = wrapped(operator)

    assert {"data": text} == await kv.get("opens")
    with pytest.raises(TamperedRecordError):
        await kv.get("does not")
    assert {"data": text} == await kv.get("opens")
    assert {"resealed": 1} == kv.resealed
    await kv.release()


async def test_a_vault_meta_that_cannot_be_read(
    store: MemoryStore, operator: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one goes on to count, for those who may read and for those who may not; it is logged."""
    process, stranger = Process(store), Process(store)
    early = await stranger.started()
    await operator.read_legacy_with([LEGACY])
    kv = await process.started()
    await old(store).put("k", {"v": 1})
    process.is_down = stranger.is_down = True

    with pytest.raises(LegacyRecordError):
        await early.get("k")
    assert {"v": 1} == await kv.get("k")

    assert (1, 1) == (process.looks, stranger.looks)
    assert 2 == sum("cannot be read again" in record.message for record in caplog.records)


async def test_a_leader_that_is_cancelled(store: MemoryStore, operator: Vault) -> None:
    """Of readers that wait for one look, the one that does it may be cancelled; the rest go on."""
    process = Process(store)
    kv = await process.started()
    await old(store).put("k", {"v": 1})
    await operator.read_legacy_with([LEGACY])
    readers = [asyncio.create_task(kv.get("k")) for _ in range(5)]
    await process.first_look.wait()
    readers[0].cancel()

    results = await asyncio.gather(*readers, return_exceptions=True)

    assert asyncio.CancelledError is type(results[0])
    assert [{"v": 1}] * 4 == results[1:]


class Stale(BaseWrapper):
    """A store from which a read takes so long that its answer is of before a migration."""

    def __init__(self, key_value: MemoryStore) -> None:
        self.key_value = key_value
        self.before: dict[str, dict[str, Any]] = {}

    async def remember(self, *keys: str) -> None:
        """Answer the next read of each key with what is there now."""
        self.before = {key: await self.key_value.get(key) or {} for key in keys}

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """Answer what was remembered, once."""
        return self.before.pop(key, None) or await self.key_value.get(key, collection=collection)

    async def get_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[dict[str, Any] | None]:
        """Answer what was remembered, once."""
        return [await self.get(key, collection=collection) for key in keys]

    async def ttl(
        self, key: str, *, collection: str | None = None
    ) -> tuple[dict[str, Any] | None, float | None]:
        """Answer what was remembered, once."""
        return await self.get(key, collection=collection), None

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        """Answer what was remembered, once."""
        return [(await self.get(key, collection=collection), None) for key in keys]


READS: dict[str, Callable[[EnvelopeEncryptionWrapper], Awaitable[Any]]] = {
    "get": lambda kv: kv.get("a"),
    "get_many": lambda kv: kv.get_many(["a", "b"]),
    "ttl": lambda kv: kv.ttl("a"),
    "ttl_many": lambda kv: kv.ttl_many(["a", "b"]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("is_plain", [False, True], ids=["fernet", "plaintext"])
async def test_a_read_that_the_end_overtakes(
    read: Callable[[EnvelopeEncryptionWrapper], Awaitable[Any]],
    is_plain: bool,
    store: MemoryStore,
    operator: Vault,
) -> None:
    """A read that has got the old record, and opens it when old reads have ended, finds the sealed one."""
    stale = Stale(store)
    kv = EnvelopeEncryptionWrapper(stale, vault=operator)
    writer = store if is_plain else old(store)
    await writer.put_many(["a", "b"], [{"v": 1}, {"v": 2}])
    await operator.read_legacy_with([LEGACY], plaintext=True)
    await stale.remember("a", "b")
    await wrapped(operator).put_many(["a", "b"], [{"v": 1}, {"v": 2}])
    await operator.end_legacy_reads()

    assert await read(wrapped(operator)) == await read(kv)


async def test_what_is_old_still_is_refused(store: MemoryStore, operator: Vault) -> None:
    """A record that is old whenever it is read is refused, and counted once."""
    kv = EnvelopeEncryptionWrapper(store, vault=operator, raise_on_decryption_error=False)
    await old(store).put("a", {"v": 1})

    assert await kv.get("a") is None
    assert {"LegacyRecordError": 1} == kv.unreadable
