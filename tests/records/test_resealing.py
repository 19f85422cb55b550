"""Records in an old format, sealed as they are read: what stays, what wins, and what is left alone."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.base import BaseWrapper
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.single_collection import SingleCollectionWrapper
from tests.backends import KINDS, UNSTABLE, Place, place
from tests.fakes import BareStore, HookedDriver, dump
from tests.processes import CHEAP, OLD
from tests.recoding.worlds import KEY, entries_of, formats_of, old, plant, times_of
from tests.wrapping import wrapped

from kvseal import EnvelopeEncryptionWrapper, Vault, expiry
from kvseal.drivers import driver_for
from kvseal.drivers.chain import Chain
from kvseal.drivers.disk.driver import DiskDriver
from kvseal.errors import LegacyRecordError, StoreUnreachableError, UnreadableRecordsError
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.records.resealing import BATCH, PAUSE, Resealer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

LEGACY = LegacyKey(FERNET, parse_key(KEY))


@pytest.fixture(params=KINDS)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield an empty store on every backend."""
    yield from place(request.param, request, tmp_path)


@asynccontextmanager
async def migrating(store: Any, *, meta_store: Any = None) -> AsyncIterator[EnvelopeEncryptionWrapper]:
    """Yield the new application's view of *store*, whose vault reads legacy records and plaintext."""
    vault = await Vault.create(store, secret=OLD, kdf=CHEAP, meta_store=meta_store)
    await vault.read_legacy_with([LEGACY], plaintext=True)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    yield kv
    await kv.release()
    await vault.close()


def hooked(
    monkeypatch: pytest.MonkeyPatch, around: Callable[[str, Callable[[], Awaitable[Any]]], Any]
) -> list[HookedDriver]:
    """Let every driver that re-seals go through *around*, and return the list of them."""
    made: list[HookedDriver] = []

    def make(store: Any) -> HookedDriver:
        made.append(HookedDriver(driver_for(store), around))
        return made[-1]

    monkeypatch.setattr("kvseal.records.resealing.driver_for", make)
    return made


async def sealed_expiry(kv: EnvelopeEncryptionWrapper, store: Any, key: str) -> int | None:
    """Return the expiry that is sealed in the record at *key*."""
    stored = await store.get(key, collection="c")
    return (await kv.vault()).codecs[""].open(stored, "c", key)[1]


READS: dict[str, Callable[[Any, list[str]], Awaitable[Any]]] = {
    "get": lambda kv, keys: asyncio.gather(*(kv.get(key, collection="c") for key in keys)),
    "ttl": lambda kv, keys: asyncio.gather(*(kv.ttl(key, collection="c") for key in keys)),
    "get_many": lambda kv, keys: kv.get_many(keys, collection="c"),
    "ttl_many": lambda kv, keys: kv.ttl_many(keys, collection="c"),
}


@pytest.mark.parametrize("name", READS)
async def test_what_is_read_is_sealed(name: str, anywhere: Place) -> None:
    """Every way of reading seals what it has read, on every backend; all times stay, the expiry is sealed."""
    async with anywhere.opened() as store:
        await old(store).put("kept", {"v": 1}, collection="c")
        await old(store).put("ends", {"v": 2}, collection="c", ttl=1234.5)
        await store.put("plain", {"v": 3.0}, collection="c", ttl=99)
        async with migrating(store) as kv:
            times, native = await times_of(store), await anywhere.native_times()

            await READS[name](kv, ["kept", "ends", "plain", "missing"])

            assert {"resealed": 3} == kv.resealed
            assert {2} == await formats_of(store)
            assert times == await times_of(store)
            assert native == await anywhere.native_times()
            assert None is await sealed_expiry(kv, store, "kept")
            for key in ("ends", "plain"):
                _, expires_at = times["c", key]
                assert expires_at is not None
                assert expiry.milliseconds(expires_at) == await sealed_expiry(kv, store, key)
            assert [{"v": 1}, {"v": 2}, {"v": 3.0}] == await kv.get_many(
                ["kept", "ends", "plain"], collection="c"
            )
            assert {"resealed": 3} == kv.resealed


def test_a_sealed_expiry_is_never_earlier() -> None:
    """The backend's microseconds are rounded up to the milliseconds that are sealed."""
    start = datetime(2030, 1, 1, tzinfo=timezone.utc)
    milliseconds = expiry.milliseconds(start)

    moments = [start + timedelta(microseconds=n) for n in (1, 999, 1000, 1001, 999_999)]
    assert [1, 1, 1, 2, 1000] == [expiry.milliseconds(moment) - milliseconds for moment in moments]


async def test_sanitised_file_names(tmp_path: Path) -> None:
    """A file tree cannot give these names back, but whoever reads knows them."""
    store = FileTreeStore(
        data_directory=tmp_path,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(tmp_path),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(tmp_path),
    )
    key = "https://host/path?q=1#f"
    await old(store).put(key, {"v": 1}, collection="mcp-upstream-tokens")
    async with migrating(store) as kv:
        assert {"v": 1} == await kv.get(key, collection="mcp-upstream-tokens")
        assert {"resealed": 1} == kv.resealed
        assert {"v": 1} == await kv.get(key, collection="mcp-upstream-tokens")
    assert {2} == await formats_of(driver_for(store))


RENAMERS: dict[str, Callable[[Any], Any]] = {
    "prefixed collections": lambda store: PrefixCollectionsWrapper(key_value=store, prefix="p"),
    "prefixed keys": lambda store: PrefixKeysWrapper(key_value=store, prefix="p"),
    "one collection": lambda store: SingleCollectionWrapper(key_value=store, single_collection="one"),
}


@pytest.mark.parametrize("wrapped", RENAMERS.values(), ids=RENAMERS)
async def test_renaming_wrappers_below(wrapped: Callable[[Any], Any], store: MemoryStore) -> None:
    """The record is found, and bound, under its names at the base store."""
    below = wrapped(store)
    await old(below).put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:
        above = EnvelopeEncryptionWrapper(below, vault=await kv.vault())

        assert [{"v": 1}] * 2 == [await above.get("k", collection="c") for _ in range(2)]
        assert {"resealed": 1} == above.resealed


Writer = Callable[[Any], Awaitable[Any]]

WINNERS: dict[str, tuple[Writer, Any]] = {
    "the new wrapper": (lambda kv: kv.put("k", {"v": "newer"}, collection="c"), {"v": "newer"}),
    "the old wrapper": (
        lambda kv: old(kv.key_value).put("k", {"v": "newer"}, collection="c"),
        {"v": "newer"},
    ),
    "the same value": (lambda kv: old(kv.key_value).put("k", {"v": 1}, collection="c"), {"v": 1}),
    "plaintext": (lambda kv: kv.key_value.put("k", {"v": "newer"}, collection="c"), {"v": "newer"}),
    "a deletion": (lambda kv: kv.delete("k", collection="c"), None),
}


@pytest.mark.parametrize("before", ["get", "replace_many"])
@pytest.mark.parametrize(("write", "expected"), WINNERS.values(), ids=WINNERS)
async def test_whoever_writes_meanwhile_wins(
    before: str, write: Writer, expected: Any, any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read returns what it has read, and what was written or deleted before the swap is what stays."""
    await old(any_store).put("k", {"v": 1}, collection="c")
    async with migrating(any_store) as kv:
        after: dict[Any, Any] = {}

        async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            if name == before and not after:
                await write(kv)
                after.update(await entries_of(any_store))
                after["written"] = True
            return await operation()

        hooked(monkeypatch, around)

        assert {"v": 1} == await kv.get("k", collection="c")
        assert {"changed": 1} == kv.resealed
        assert after == {**await entries_of(any_store), "written": True}
        assert expected == await kv.get("k", collection="c")


async def test_values_that_are_equal_but_not_the_same(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`True` in place of `1` is a write like any other."""
    await store.put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:

        async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            if name == "get":
                await store.put("k", {"v": True}, collection="c")
            return await operation()

        hooked(monkeypatch, around)
        await kv.get("k", collection="c")

        assert {"changed": 1} == kv.resealed
        assert True is ((await store.get("k", collection="c")) or {})["v"]


async def test_nan_is_itself(store: MemoryStore) -> None:
    """Plaintext that is not equal to itself is sealed like any other."""
    await store.put("k", {"v": float("nan")}, collection="c")
    async with migrating(store) as kv:
        await kv.get("k", collection="c")

        assert {"resealed": 1} == kv.resealed


async def test_an_entry_of_other_names(tmp_path: Path) -> None:
    """Where the backend takes two names for one, a record stays with the names that it was stored under."""
    store = DiskStore(directory=tmp_path)
    await old(store).put("c", {"v": 1}, collection="a::b")
    async with migrating(store) as kv:
        assert {"v": 1} == await kv.get("b::c", collection="a")
        assert {"changed": 1} == kv.resealed
        assert {"v": 1} == await kv.get("c", collection="a::b")
        assert {"changed": 1, "resealed": 1} == kv.resealed
    store._cache.close()


class Shuffling(BaseWrapper):
    """A wrapper that kvseal does not know, and that stores something else than it was given."""

    def __init__(self, key_value: Any) -> None:
        self.key_value = key_value
        super().__init__()

    async def get(self, key: str, *, collection: str | None = None) -> Any:
        """Return what is stored, wrapped in another object."""
        value = await self.key_value.get(key, collection=collection)
        return None if value is None else {"v": value}


LEFT_ALONE: dict[str, Callable[[Any], Any]] = {
    "compression": lambda store: CompressionWrapper(key_value=store),
    "encryption": old,
    "read-only": lambda store: ReadOnlyWrapper(key_value=store),
    "unknown": Shuffling,
}


@pytest.mark.parametrize("wrapped", LEFT_ALONE.values(), ids=LEFT_ALONE)
async def test_wrappers_in_between(wrapped: Callable[[Any], Any], store: MemoryStore) -> None:
    """Where one forbids writing or changes what is stored, reads are all that happens."""
    below = wrapped(store)
    await (store if isinstance(below, (ReadOnlyWrapper, Shuffling)) else below).put(
        "k", {"v": 1}, collection="c"
    )
    async with migrating(store) as kv:
        before = dump(store)
        above = EnvelopeEncryptionWrapper(below, vault=await kv.vault())
        assert await above.get("k", collection="c") is not None

        assert before == dump(store)
        assert ({"changed": 1} if wrapped is Shuffling else {}) == above.resealed


async def test_a_store_without_a_driver(tmp_path: Path) -> None:
    """It has no compare-and-swap, so nothing is written, and no failure is counted either."""
    bare, meta_store = BareStore(), DiskStore(directory=tmp_path)
    await bare.put("k", {"v": 1})
    async with migrating(bare, meta_store=meta_store) as kv:
        assert [{"v": 1}] * 2 == [await kv.get("k") for _ in range(2)]
        assert {} == kv.resealed
        assert ["put", "get", "get"] == bare.calls
    meta_store._cache.close()


async def test_a_driver_without_atomic_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a write in between would be lost, nothing is written."""
    monkeypatch.setattr("kvseal.drivers.filetree.driver.can_exchange", lambda _: False)
    store = FileTreeStore(data_directory=tmp_path)
    await old(store).put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:
        assert [{"v": 1}] * 2 == [await kv.get("k", collection="c") for _ in range(2)]
        assert {} == kv.resealed
    assert {1} == await formats_of(driver_for(store))


async def test_a_store_that_evicts() -> None:
    """An entry is sealed there as well, and keeps its turn of eviction."""
    store, meta_store = MemoryStore(max_entries_per_collection=3), MemoryStore()
    for key in ("first", "second", "third"):
        await old(store).put(key, {"v": key}, collection="c")
    async with migrating(store, meta_store=meta_store) as kv:
        for key in ("third", "second", "first"):
            await kv.get(key, collection="c")
        assert {"resealed": 3} == kv.resealed


class Time:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


async def test_a_store_that_fails(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads go on; it is counted, warned of once, and not tried again for a while."""
    await old(store).put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:
        clock, calls, is_down = Time(), [], True

        async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            calls.append(name)
            if is_down:
                raise [StoreUnreachableError("down"), OSError("down")][len(calls) % 2]
            return await operation()

        hooked(monkeypatch, around)
        kv._resealer = kv._reader._resealer = Resealer(Chain.of(store), clock=clock)
        for _ in range(3):
            assert {"v": 1} == await kv.get("k", collection="c")
        clock.now = PAUSE
        assert {"v": 1} == await kv.get("k", collection="c")

        assert ["get", "get"] == calls
        assert {"failed": 2} == kv._resealer.outcomes
        assert [logging.WARNING] == [r.levelno for r in caplog.records if "not sealed" in r.message]

        is_down, clock.now = False, 2 * PAUSE
        await kv.get("k", collection="c")
        assert {"failed": 2, "resealed": 1} == kv._resealer.outcomes
        await kv._resealer.close()


async def test_a_store_that_does_not_answer(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read waits for a swap for so long and no longer, and then gives the swap up."""
    for key in "ab":
        await old(store).put(key, {"v": key}, collection="c")
    async with migrating(store) as kv:
        never, ended = asyncio.Event(), asyncio.Event()
        is_down = False

        async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            if not is_down:
                return await operation()
            try:
                await never.wait()
            finally:
                ended.set()

        hooked(monkeypatch, around)
        assert {"v": "a"} == await kv.get("a", collection="c")
        is_down, kv._resealer._patience = True, 0.01

        assert {"v": "b"} == await kv.get("b", collection="c")
        assert {"resealed": 1, "failed": 1} == kv.resealed
        await ended.wait()


async def test_a_reader_that_is_cancelled(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled at once, and takes the swap with it."""
    await old(store).put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:
        waits, never = asyncio.Event(), asyncio.Event()

        async def around(_: str, __: Callable[[], Awaitable[Any]]) -> Any:
            waits.set()
            await never.wait()

        hooked(monkeypatch, around)
        reader = asyncio.create_task(kv.get("k", collection="c"))
        await waits.wait()
        reader.cancel()

        with pytest.raises(asyncio.CancelledError):
            await reader
        assert {} == kv.resealed


async def test_a_batch(any_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are sealed by one swap; what is too much for one is left for the next read."""
    keys = [str(number) for number in range(BATCH + 10)]
    for key in keys:
        await old(any_store).put(key, {"v": key}, collection="c")
    async with migrating(any_store) as kv:
        swaps = []

        async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            swaps.append(name)
            return await operation()

        hooked(monkeypatch, around)
        for resealed in (BATCH, BATCH + 10, BATCH + 10):
            values = await kv.get_many([*keys, *keys], collection="c")
            assert [{"v": key} for key in [*keys, *keys]] == values
            assert {"resealed": resealed} == kv.resealed
        assert 2 == swaps.count("replace_many")


async def test_one_that_fails_beside_others(store: MemoryStore) -> None:
    """What does not open fails the call as ever, and what does is sealed."""
    await old(store).put("k", {"v": 1}, collection="c")
    plant(
        store, "damaged", (await entries_of(store))["c", "k"].stored.decode().replace("Z0FBQUFB", "Z0FBQUFC")
    )
    async with migrating(store) as kv:
        with pytest.raises(UnreadableRecordsError):
            await kv.get_many(["k", "damaged"], collection="c")

        assert {"resealed": 1} == kv.resealed


async def test_what_policy_refuses_is_not_sealed(store: MemoryStore) -> None:
    """Without legacy keys an old record is neither read nor touched."""
    await old(store).put("k", {"v": 1}, collection="c")
    async with migrating(store) as kv:
        await (await kv.vault()).end_legacy_reads()
        before = dump(store)
        with pytest.raises(LegacyRecordError):
            await kv.get("k", collection="c")

        assert before == dump(store)


async def test_one_driver_that_is_closed_with_the_wrapper(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver of the first record serves all others; `release` closes it, and the next opens another."""
    for key in "abc":
        await old(store).put(key, {"v": 1}, collection="c")
    closed = []
    monkeypatch.setattr(HookedDriver, "close", lambda driver: asyncio.sleep(0, closed.append(driver)))

    async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        return await operation()

    async with migrating(store) as kv:
        made = hooked(monkeypatch, around)
        await kv.get("a", collection="c")
        await kv.get("b", collection="c")
        assert (1, []) == (len(made), closed)

        await kv.release()
        assert made == closed
        await kv.get("c", collection="c")
        assert 2 == len(made)
    assert made == closed


async def test_nothing_is_opened_for_sealed_records(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads what is sealed never comes near a driver, nor near the vault meta."""
    monkeypatch.setattr("kvseal.records.resealing.driver_for", None)
    async with migrating(store) as kv:
        monkeypatch.setattr(Vault, "refresh", None)
        await kv.put("k", {"v": 1}, collection="c")
        for read in READS.values():
            await read(kv, ["k", "missing"])
        assert {} == kv.resealed


def test_threads_and_event_loops(tmp_path: Path) -> None:
    """Many threads with a loop each read the same old records through one wrapper; each is sealed once."""
    keys = [str(number) for number in range(20)]
    store = DiskStore(directory=tmp_path)

    async def prepare() -> EnvelopeEncryptionWrapper:
        for key in keys:
            await old(store).put(key, {"v": key}, collection="c")
        vault = await Vault.create(store, secret=OLD, kdf=CHEAP)
        await vault.read_legacy_with([LEGACY])
        return wrapped(vault)

    kv = asyncio.run(prepare())
    results: list[Any] = []

    def read() -> None:
        results.append(asyncio.run(kv.get_many(keys, collection="c")))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [[{"v": key} for key in keys]] * 6 == results
    assert {2} == asyncio.run(formats_of(store))
    assert 0 == kv.resealed["failed"]
    asyncio.run(kv.release())
    store._cache.close()


async def test_a_locked_database_keeps_no_thread_of_the_application(tmp_path: Path) -> None:
    """What kvseal gave up waiting for holds up neither the loop's own threads nor, for long, kvseal's."""
    store = DiskStore(directory=tmp_path)
    vault = await Vault.create(MemoryStore(), secret=OLD, kdf=CHEAP, meta_store=MemoryStore())
    await vault.read_legacy_with([LEGACY], plaintext=True)
    await store.put("k", {"v": 1})
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    kv._resealer._patience = 0.2
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        assert {"v": 1} == await kv.get("k")
        assert 5 == await asyncio.wait_for(asyncio.to_thread(lambda: 5), 30)
        assert {"failed": 1} == dict(kv.resealed)
        # kvseal's own comes back by itself, while the database is still locked.
        driver = next(iter(kv._resealer._drivers.values()))
        assert isinstance(driver, DiskDriver)
        assert driver._db._writer._lock.acquire(timeout=30)
        driver._db._writer._lock.release()
