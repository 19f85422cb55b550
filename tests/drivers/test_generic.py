"""The driver of last resort: the contract as far as it goes, over a real store that has no driver, and its limits."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.errors import (
    DeserializationError,
    EntryTooLargeError,
    StoreConnectionError,
)
from key_value.aio.stores.simple import SimpleStore
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from tests.drivers.contract import DriverContract
from tests.drivers.entries import FUTURE, PAST, SMALL, Backend, entry, fetched, scanned
from tests.fakes import BareStore

from kvseal.drivers import driver_for, generic
from kvseal.drivers.base import PAGE_SIZE, Count, Driver, Replacement, Times, replace
from kvseal.errors import StoreUnreachableError, UnsealableValueError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kvseal.drivers.base import Entry
    from kvseal.drivers.generic import GenericDriver


class NamesOf:
    """The names that lie in a `SimpleStore` at the moment: a manifest that is never out of date."""

    def __init__(self, store: SimpleStore) -> None:
        self._store = store

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for stored in list(self._store._data.values()):
            body = json.loads(stored.json_str)
            yield body["collection"], body["key"]


class TestGenericDriver(DriverContract):
    """Every promise of a driver that the capabilities do not take back, over a `SimpleStore`."""

    times = Times.LOST
    counts_exactly = False
    keeps_expired = False
    store_clock = "unknown"

    @pytest.fixture
    async def backend(self) -> Backend:
        """Return an empty store that kvseal has no driver for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Upstream says that this store may change.
            store = SimpleStore()
        return Backend(store, generic.for_store(store, NamesOf(store)))


@pytest.fixture
def store() -> BareStore:
    """Return a store with the protocol's methods and nothing else."""
    return BareStore()


def over(store: Any, *keys: str) -> GenericDriver:
    """Return the driver of *store* with the names of *keys*."""
    return generic.for_store(store, [("coll", key) for key in keys])


class Hooked(BareStore):
    """A store that raises, or calls back, in the midst of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.raises: dict[str, Exception] = {}
        self.before_put: list[Any] = []

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Any, float | None]:
        """Read, unless that is to fail."""
        if f"ttl {key}" in self.raises:
            raise self.raises[f"ttl {key}"]
        return await super().ttl(key, collection=collection)

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: Any = None
    ) -> None:
        """Put, behind whoever is faster, unless that is to fail."""
        if f"put {key}" in self.raises:
            raise self.raises[f"put {key}"]
        for faster in self.before_put:
            self.before_put = []
            await faster()
        await asyncio.sleep(0)
        await super().put(key, value, collection=collection, ttl=ttl)


async def put_all(store: Any, keys: Sequence[str]) -> None:
    """Put numbered values."""
    for n, key in enumerate(keys):
        await store.put(key, {"n": n}, collection="coll")


def test_is_never_found_by_itself(store: BareStore) -> None:
    """A store without a driver stays without one for everybody who does not ask for this one."""
    with pytest.raises(UnsupportedStoreError):
        driver_for(store)

    assert isinstance(over(store), Driver)


def test_capabilities_are_the_worst_case(store: BareStore) -> None:
    """What nobody knows of such a store is promised to nobody."""
    capabilities = over(store).capabilities

    assert (False, True, False) == (
        capabilities.atomic_replace,
        capabilities.evicts,
        capabilities.sees_all,
    )


async def test_only_the_protocol_is_used(store: BareStore) -> None:
    """Everything goes through `ttl`, `put` and `delete`."""
    driver = over(store, "key")
    await driver.put_if_absent(entry())
    await replace(driver, await fetched(driver), SMALL)
    await scanned(driver)
    await driver.count()
    await driver.delete_if_unchanged(await fetched(driver))
    await driver.close()

    assert {"ttl", "put", "delete"} == set(store.calls)


async def test_names_at_the_base_store(store: BareStore) -> None:
    """The driver is that of the base store, so the manifest names what lies there."""
    stack = PrefixCollectionsWrapper(store, prefix="tenant")
    await stack.put("key", SMALL, collection="c")

    (found,) = await scanned(generic.for_store(stack, [("tenant__c", "key")]))

    assert ("tenant__c", "key", SMALL) == (found.collection, found.key, found.value)


async def test_order_and_gaps_of_the_manifest(store: BareStore) -> None:
    """A scan goes in the order of the manifest; what that does not name is not seen, what is gone is skipped."""
    await put_all(store, ["a", "b", "unnamed", "c"])
    driver = over(store, "c", "gone", "a", "b")

    assert ["c", "a", "b"] == [e.key for e in await scanned(driver)]
    assert Count(4, exact=False) == await driver.count()
    assert {"n": 2} == (await fetched(driver, "unnamed")).value


async def test_pages_of_large_values_end_early(store: BareStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page holds no more than `PAGE_BYTES` and what is read at once, and a resumed scan misses nothing."""
    keys = [f"key-{n}" for n in range(100)]
    await put_all(store, keys)
    monkeypatch.setattr(generic, "PAGE_BYTES", 50)
    driver = over(store, *keys)

    pages = [page async for page in driver.scan()]

    assert max(len(page.entries) for page in pages) < PAGE_SIZE // 10
    assert keys[len(pages[0].entries) :] == [e.key for e in await scanned(driver, after=pages[0].cursor)]


async def test_few_reads_at_a_time() -> None:
    """However long the manifest, a store is asked for a few entries at the same time."""
    running, most = 0, 0

    class Slow(BareStore):
        async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Any, float | None]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return await super().ttl(key, collection=collection)

    store = Slow()
    keys = [f"key-{n}" for n in range(100)]
    await put_all(store, keys)

    assert 100 == len(await scanned(over(store, *keys)))
    assert 1 < most <= 16


async def test_a_writer_in_between_is_lost() -> None:
    """What `atomic_replace=False` means: a write between the comparison and the put is overwritten."""
    store = Hooked()
    driver = over(store, "key")
    await driver.put_if_absent(entry())
    found = await fetched(driver)
    store.before_put.append(lambda: BareStore.put(store, "key", {"lost": True}, collection="coll"))

    assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
    assert SMALL == await store.get("key", collection="coll")


async def test_drivers_in_one_process_take_turns() -> None:
    """Two drivers of one store, in event loops of two threads, lose nothing to each other."""
    store = Hooked()
    await store.put("key", {"n": 0}, collection="coll")
    start = threading.Barrier(2)

    async def count_up() -> int:
        driver = over(store, "key")
        start.wait()
        successes = 0
        for _ in range(50):
            found = await fetched(driver)
            assert found.value is not None
            (done,) = await driver.replace_many([Replacement(found, {"n": found.value["n"] + 1})])
            successes += done
        return successes

    done = await asyncio.gather(*(asyncio.to_thread(asyncio.run, count_up()) for _ in range(2)))

    assert {"n": sum(done)} == await store.get("key", collection="coll")


async def test_the_lock_is_let_go() -> None:
    """Whoever fails, or is cancelled while it waits, does not keep the others waiting."""
    store = Hooked()
    driver = over(store, "key")
    store.raises["put key"] = StoreConnectionError("gone")
    with pytest.raises(StoreUnreachableError):
        await driver.put_if_absent(entry())
    assert not generic._LOCK.locked()
    with generic._LOCK:
        waiting = asyncio.create_task(driver.put_if_absent(entry("other")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    store.raises.clear()

    assert await asyncio.wait_for(driver.put_if_absent(entry()), 10)


async def test_a_replacement_takes_what_is_left_of_the_ttl() -> None:
    """The time to live is read just before the put, so that only that one call's time is lost."""
    store = Hooked()
    driver = over(store, "key")
    await store.put("key", SMALL, collection="coll", ttl=1000)
    found = await fetched(driver)
    await store.put("key", SMALL, collection="coll", ttl=999)

    await replace(driver, found, {"n": 1})

    ((value, ttl),) = store.entries.values()
    assert {"n": 1} == value
    assert ttl is not None
    assert 998 < ttl <= 999


@pytest.mark.parametrize("ttl", [None, 5, 990])
async def test_another_ttl_is_another_entry(store: BareStore, ttl: float | None) -> None:
    """The same value with a time to live that is not the same any more was put by somebody else."""
    driver = over(store, "key")
    await store.put("key", SMALL, collection="coll", ttl=1000)
    found = await fetched(driver)
    await store.put("key", SMALL, collection="coll", ttl=ttl)

    assert [False] == list(await driver.replace_many([Replacement(found, {"n": 1})]))
    assert await driver.delete_if_unchanged(found) is False


async def test_what_expired_long_ago_is_not_put(store: BareStore) -> None:
    """An entry past its expiry is no entry, whether it is put or becomes so by a replacement."""
    driver = over(store, "key")

    assert await driver.put_if_absent(entry(expires_at=PAST))
    assert {} == store.entries
    await driver.put_if_absent(entry(expires_at=FUTURE))
    assert [True] == list(await driver.replace_many([Replacement(await fetched(driver), SMALL, PAST)]))
    assert {} == store.entries


async def test_order_of_fields_is_no_change(store: BareStore) -> None:
    """A store that returns the fields of a value in another order has not changed it."""
    driver = over(store, "key")
    await store.put("key", {"a": 1, "b": 2}, collection="coll")
    found = await fetched(driver)
    await store.put("key", {"b": 2, "a": 1}, collection="coll")

    assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))


@pytest.mark.parametrize(("value", "other"), [(1, True), (1, 1.0), (None, 0)])
async def test_equal_is_not_the_same(store: BareStore, value: Any, other: Any) -> None:
    """What Python takes for equal and JSON does not is a change."""
    driver = over(store, "key")
    await store.put("key", {"a": value}, collection="coll")
    found = await fetched(driver)
    await store.put("key", {"a": other}, collection="coll")

    assert [False] == list(await driver.replace_many([Replacement(found, SMALL)]))


class TestErrors:
    """What the store says of an entry is a problem of that entry; what it says of itself ends the run."""

    @pytest.mark.parametrize(
        "error", [DeserializationError("hunter2"), UnicodeEncodeError("utf-8", "hunter2", 0, 1, "surrogate")]
    )
    async def test_entry_that_the_store_cannot_read(self, error: Exception) -> None:
        """It is yielded with a problem that quotes nothing, is in nobody's way and is never changed."""
        store = Hooked()
        await put_all(store, ["a", "b"])
        store.raises["ttl a"] = error
        driver = over(store, "a", "b")

        broken, whole = await scanned(driver)

        assert ("coll", "a", None) == (broken.collection, broken.key, broken.value)
        assert type(error).__name__ in broken.problem
        assert "hunter2" not in broken.problem
        assert "" == whole.problem
        assert await driver.put_if_absent(entry("a")) is False

    @pytest.mark.parametrize("value", [{"a": {1}}, {"a": object()}, [1], "text"])
    async def test_value_that_is_not_json(self, store: BareStore, value: Any) -> None:
        """What a store that pickles returns, and JSON cannot hold, is a problem."""
        store.entries["coll", "key"] = value, None

        assert "what JSON cannot hold" in (await fetched(over(store, "key"))).problem

    @pytest.mark.parametrize("error", [StoreConnectionError("no"), OSError("no"), RuntimeError("no")])
    async def test_store_that_fails(self, error: Exception) -> None:
        """Anything else is the store's own failure, in kvseal's words and with its cause."""
        store = Hooked()
        store.raises["ttl a"] = error

        for call in (over(store).get("coll", "a"), over(store).put_if_absent(entry("a"))):
            with pytest.raises(StoreUnreachableError, match=type(error).__name__) as caught:
                await call
            assert error is caught.value.__cause__
        with pytest.raises(StoreUnreachableError):
            await scanned(over(store, "a"))

    async def test_store_that_refuses_the_value(self) -> None:
        """A value that is too large is that record's failure, as where a body cannot hold it."""
        store = Hooked()
        store.raises["put key"] = EntryTooLargeError(size=2, max_size=1)

        with pytest.raises(UnsealableValueError, match="EntryTooLargeError"):
            await over(store).put_if_absent(entry())


async def test_expiry_is_what_is_left(store: BareStore) -> None:
    """The expiry of an entry is the time to live from now on, and its creation time is not known."""
    await store.put("key", SMALL, collection="coll", ttl=60)

    found: Entry = await fetched(over(store))

    assert found.created_at is None
    assert found.expires_at is not None
    assert timedelta(seconds=50) < found.expires_at - datetime.now(timezone.utc) <= timedelta(seconds=60)
