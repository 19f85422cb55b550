"""The memory driver: the contract, and the store's own order of eviction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.memory.store import MemoryCacheEntry
from tests.drivers.contract import DriverContract
from tests.drivers.entries import FUTURE, SMALL, Backend, entry, fetched, scanned

from kvseal.drivers import base, driver_for
from kvseal.drivers.base import Replacement
from kvseal.drivers.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime


class TestMemoryDriver(DriverContract):
    """Every promise of a driver, over a `MemoryStore`."""

    keeps_expired = False

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        """Yield an empty memory store."""
        store = MemoryStore()

        async def write_raw(collection: str, key: str, body: str, expires_at: datetime | None) -> None:
            await store.setup_collection(collection=collection)
            store._cache[collection]._cache[key] = MemoryCacheEntry(body, expires_at)

        driver = driver_for(store)
        yield Backend(store, driver, write_raw)
        await driver.close()


async def test_dispatch_by_class() -> None:
    """A memory store, and one of a class derived from it, leads to the memory driver."""

    class OwnStore(MemoryStore):
        pass

    assert MemoryDriver is type(driver_for(MemoryStore()))
    assert MemoryDriver is type(driver_for(OwnStore()))


@pytest.mark.parametrize(("limit", "evicts"), [(None, False), (5, True)])
def test_evicts(limit: int | None, evicts: bool) -> None:
    """A store with a limit of entries says that it evicts, and no store in memory outlives its process."""
    capabilities = driver_for(MemoryStore(max_entries_per_collection=limit)).capabilities

    assert (evicts, False) == (capabilities.evicts, capabilities.lasting)


@pytest.mark.parametrize("read", ["get", "scan", "count", "replace", "put_if_absent"])
async def test_driver_is_no_use_of_an_entry(read: str) -> None:
    """What the driver reads or replaces keeps its turn of eviction: the least recently used one goes first."""
    store = MemoryStore(max_entries_per_collection=2)
    driver = driver_for(store)
    await store.put("old", SMALL, collection="coll")
    await store.put("new", SMALL, collection="coll")
    match read:
        case "get":
            await driver.get("coll", "old")
        case "scan":
            await scanned(driver)
        case "count":
            await driver.count()
        case "replace":
            await base.replace(driver, await fetched(driver, "old"), {"n": 1})
        case "put_if_absent":
            await driver.put_if_absent(entry("old"))

    await store.put("third", SMALL, collection="coll")

    assert [None, SMALL, SMALL] == await store.get_many(["old", "new", "third"], collection="coll")


async def test_seeded_entries_are_scanned() -> None:
    """Seeds that the store would plant at its first use are there for the driver, too."""
    driver = driver_for(MemoryStore(seed={"coll": {"key": SMALL}}))

    assert [("coll", "key", SMALL)] == [(e.collection, e.key, e.value) for e in await scanned(driver)]


async def test_put_after_destroy_collection() -> None:
    """A collection that was destroyed is set up again; the store itself forgets to."""
    store = MemoryStore()
    await store.put("key", SMALL, collection="coll")
    await store.destroy_collection("coll")

    assert await driver_for(store).put_if_absent(entry())
    assert {"n": 0} == await store.get("key", collection="coll")


async def test_explicit_expiry_reaches_the_bookkeeping() -> None:
    """A new expiry is in the body, which the store reads, and in the object, by which it is dropped."""
    store = MemoryStore()
    driver = driver_for(store)
    await driver.put_if_absent(entry())

    await driver.replace_many([Replacement(await fetched(driver), SMALL, FUTURE)])

    assert FUTURE == store._cache["coll"]._cache["key"].expires_at
    assert FUTURE == (await fetched(driver)).expires_at
