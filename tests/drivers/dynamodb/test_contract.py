"""The DynamoDB driver: the contract, however the driver was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiobotocore.session import get_session
from key_value.aio.stores.dynamodb import DynamoDBStore
from tests.drivers.contract import DriverContract
from tests.drivers.dynamodb.tables import BulkStore, raw_writer
from tests.drivers.entries import Backend, entry, scanned

from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.dynamodb.items import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.dynamodb.server import Server

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning"),
]


class DynamoDBContract(DriverContract):
    """The contract, with as many keys as a slow store puts in a moment."""

    many = 3 * PAGE_SIZE
    store_clock = "server's"
    largest_body = ITEM_BYTES
    # The server removes what has expired, when it finds the time: see `test_scan_of_what_has_expired`.
    keeps_expired = False


class TestFromURL(DynamoDBContract):
    """Every promise of a driver, found from the URL."""

    @pytest.fixture
    async def backend(self, shared_dynamodb: Server, table: str) -> AsyncIterator[Backend]:
        """Yield an empty store and its driver."""
        driver = await driver_from_url(shared_dynamodb.url(table))
        async with BulkStore(table_name=table, **shared_dynamodb.settings()) as store:
            yield Backend(store, driver, raw_writer(shared_dynamodb, table))
        await driver.close()


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
