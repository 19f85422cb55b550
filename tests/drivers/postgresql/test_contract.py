"""The PostgreSQL driver: the contract, however the driver was found."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.contract import DriverContract
from tests.drivers.entries import VALUES, Backend, entry
from tests.drivers.postgresql.tables import HOLDABLE, BulkStore, pool_with_codec

from kvseal.drivers import abilities, driver_for
from kvseal.drivers.base import PAGE_SIZE
from kvseal.errors import (
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg
    from key_value.aio.stores.postgresql import PostgreSQLStore
    from tests.drivers.postgresql.server import Server

    from kvseal.drivers.postgresql.driver import PostgreSQLDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


class PostgreSQLContract(DriverContract):
    """The contract, without the value that the store cannot hold either."""

    values = HOLDABLE
    splits = True
    many = 3 * PAGE_SIZE
    store_clock = "server's"

    async def test_the_server_refuses_one_of_a_batch(self, backend: Backend) -> None:
        """What only the server refuses, a name too long for its index, fails alone, and the others are stored."""
        too_long = "".join(chr(0x4E00 + n) for n in range(20_000))
        batch = [entry("a"), entry(too_long), entry("b"), entry("c")]

        puts = await abilities.put_many_if_absent(backend.driver, batch)

        assert [True, True, True] == [puts[0], *puts[2:]]
        assert isinstance(puts[1], StoreError)
        assert [{"n": 0}] * 3 == await backend.store.get_many(["a", "b", "c"], collection="coll")


class TestFromURL(PostgreSQLContract):
    """Every promise of a driver, found from the URL, beyond 10,000 keys."""

    many = DriverContract.many

    @pytest.fixture
    async def backend(self, store: PostgreSQLStore, driver: PostgreSQLDriver) -> Backend:
        """Return an empty store and its driver."""
        return Backend(store, driver)


class TestFromStore(PostgreSQLContract):
    """Every promise of a driver, found from a store object that connects by itself and is not set up yet."""

    @pytest.fixture
    async def backend(self, server: Server, sql: asyncpg.Connection) -> AsyncIterator[Backend]:
        """Yield a store without a table and its driver."""
        store = BulkStore(host="127.0.0.1", port=server.port, user="postgres", default_collection="mine")
        driver = driver_for(store)
        yield Backend(store, driver)
        await driver.close()
        await store.close()


class TestFromPool(PostgreSQLContract):
    """Every promise of a driver, found from a store over the application's pool, which has a JSON codec."""

    @pytest.fixture
    async def backend(self, server: Server, sql: asyncpg.Connection) -> AsyncIterator[Backend]:
        """Yield an empty store and its driver."""
        async with await pool_with_codec(server) as pool:
            store = BulkStore(pool=pool)
            yield Backend(store, driver_for(store))

    @pytest.mark.parametrize("value", VALUES)
    async def test_store_reads_what_the_driver_put(self, backend: Backend, value: dict[str, Any]) -> None:
        """A value that the driver stored is what the store's `get` returns, with NUL characters, too."""
        await DriverContract.test_store_reads_what_the_driver_put(self, backend, value)

    async def test_put_if_absent_race_of_threads(self, backend: Backend) -> None:
        """In another event loop the pool is refused, and good afterwards in its own."""
        with pytest.raises(StoreError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, backend.driver.put_if_absent(entry()))

        assert await backend.driver.put_if_absent(entry())
