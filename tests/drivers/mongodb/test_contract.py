"""The MongoDB driver: the contract, however the driver was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.mongodb import MongoDBStore
from key_value.aio.stores.mongodb.store import MongoDBV1CollectionSanitizationStrategy
from pymongo import AsyncMongoClient
from tests.drivers.contract import DriverContract
from tests.drivers.entries import LARGE, ODD_NAMES, SMALL, VALUES, Backend, fetched, scanned

from kvseal.drivers import base, driver_for, landing_of
from kvseal.drivers.base import PAGE_SIZE, Times

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.mongodb.server import MongoServer

    from kvseal.drivers.mongodb.driver import MongoDBDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

HOLDABLE = [
    pytest.param({"max": 2**63 - 1, "least": -(2**63), "tiny": 5e-324}, id="numbers")
    if value.id == "numbers"
    else value
    for value in VALUES
]
"""BSON has no integers beyond 64 bits; the store refuses them, too."""


class MongoDBContract(DriverContract):
    """The contract, without the values that the store cannot hold either."""

    values = HOLDABLE
    page = 48
    many = 5 * page
    store_clock = "server's"
    times = Times.MILLISECONDS

    @pytest.fixture(autouse=True)
    def _pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kvseal.drivers.mongodb.collections.PAGE_SIZE", self.page)


@pytest.fixture
async def over_client(shared_mongodb: MongoServer, database: str) -> AsyncIterator[Backend]:
    """Yield a store over the application's client that has not connected yet, and its driver."""
    async with AsyncMongoClient[dict[str, Any]](shared_mongodb.url) as client:
        store = MongoDBStore(
            client=client,
            db_name=database,
            default_collection="mine",
            collection_sanitization_strategy=MongoDBV1CollectionSanitizationStrategy(),
        )
        driver = driver_for(store)
        yield Backend(store, driver)
        await driver.close()


@pytest.mark.parametrize(("collection", "key"), ODD_NAMES)
async def test_odd_names_with_fastmcps_strategy(over_client: Backend, collection: str, key: str) -> None:
    """Over the application's client and with a strategy, odd names reach the same entry through store and driver."""
    await over_client.store.put(key, SMALL, collection=collection)

    found = await fetched(over_client.driver, key, collection)
    await base.replace(over_client.driver, found, LARGE)

    assert [(collection, key, LARGE)] == [
        (e.collection, e.key, e.value) for e in await scanned(over_client.driver)
    ]
    assert LARGE == await over_client.store.get(key, collection=collection)
    assert landing_of(over_client.store).place(collection, key)[0] in found.locator.collection


TOO_LONG = frozenset({("c" * 260, "key")})


class TestFromURL(MongoDBContract):
    """Every promise of a driver, found from the URL."""

    unsupported_names = TOO_LONG

    @pytest.fixture
    async def backend(self, store: MongoDBStore, driver: MongoDBDriver) -> Backend:
        """Return an empty store and its driver."""
        return Backend(store, driver)


@pytest.mark.long
class TestFromClient(MongoDBContract):
    """Every promise of a driver, found from a store over the application's client, with FastMCP's strategy."""

    @pytest.fixture
    async def backend(self, over_client: Backend) -> Backend:
        """Return a store that has not connected yet, and its driver."""
        return over_client


@pytest.mark.long
class TestFullPages(TestFromURL):
    """Every promise of a driver, found from the URL, with as many entries as other drivers are tested with."""

    page = PAGE_SIZE
    many = 4 * PAGE_SIZE
