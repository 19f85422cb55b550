"""The DynamoDB driver: the contract, however the driver was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiobotocore.session import get_session
from key_value.aio.stores.dynamodb import DynamoDBStore
from tests.drivers.contract import DriverContract
from tests.drivers.dynamodb.server import local
from tests.drivers.dynamodb.tables import BulkStore, raw_writer
from tests.drivers.entries import Backend, entry, scanned

from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.dynamodb.items import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.dynamodb.server import Server

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning"),
]


class DynamoDBContract(DriverContract):
    """The contract, with pages that a slow server fills in a moment."""

    page = 48
    many = 5 * page
    store_clock = "server's"
    splits = True
    largest_body = ITEM_BYTES
    # The server removes what has expired, when it finds the time: see `test_expired` in test_scan.
    keeps_expired = False


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def bulk(shared_dynamodb: Server) -> AsyncIterator[BulkStore]:
    """Yield a store over a table, one for all tests of a class."""
    with local(), shared_dynamodb.table() as name:
        async with BulkStore(table_name=name, **shared_dynamodb.settings()) as store:
            yield store


@pytest.mark.asyncio(loop_scope="class")
class TestFromURL(DynamoDBContract):
    """Every promise of a driver, found from the URL, over one table for all."""

    @pytest_asyncio.fixture(loop_scope="class")
    async def backend(
        self, shared_dynamodb: Server, bulk: BulkStore, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Backend]:
        """Yield the store, empty, and its driver."""
        monkeypatch.setattr("kvseal.drivers.dynamodb.scanning.PAGE_SIZE", self.page)
        driver = await driver_from_url(shared_dynamodb.url(bulk._table_name))
        yield Backend(bulk, driver, raw_writer(shared_dynamodb, bulk._table_name))
        await driver.close()
        shared_dynamodb.empty(bulk._table_name)


class TestFromStore:
    """What differs where the driver is found from a store object: how it gets there, and who makes the table."""

    @pytest.fixture(params=["settings", "client"])
    async def backend(
        self, request: pytest.FixtureRequest, shared_dynamodb: Server
    ) -> AsyncIterator[Backend]:
        """Yield a store without a table, with settings or a client of the application's, and its driver."""
        name = shared_dynamodb.new_name()
        settings = shared_dynamodb.settings()
        if request.param == "settings":
            store = DynamoDBStore(table_name=name, default_collection="mine", **settings)
            yield Backend(store, driver_for(store))
            await store.close()
            return
        async with get_session().create_client("dynamodb", **settings) as client:
            store = DynamoDBStore(table_name=name, client=client)
            yield Backend(store, driver_for(store))

    async def test_reading_makes_nothing(self, backend: Backend, shared_dynamodb: Server) -> None:
        """Without its table a store reads as empty; the first put makes it, as the store would."""
        driver = backend.driver
        seen = (await driver.get("coll", "key"), await scanned(driver), (await driver.count()).entries)
        tables = shared_dynamodb.client().list_tables()["TableNames"]

        assert await driver.put_if_absent(entry())

        assert (None, [], 0) == seen
        assert backend.store._table_name not in tables
        assert {"n": 0} == await backend.store.get("key", collection="coll")
        await driver.close()
