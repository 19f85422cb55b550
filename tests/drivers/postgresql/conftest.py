"""One server for the session, and an empty table for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest
from tests.drivers.postgresql.server import Server, running

from kvseal.drivers import driver_from_url
from kvseal.drivers.postgresql.driver import PostgreSQLDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers.postgresql.tables import BulkStore


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield a server for all tests of this process."""
    with running() as server:
        yield server


@pytest.fixture
async def sql(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection from outside, to a database in which the store has no table yet."""
    con = await asyncpg.connect(server.url())
    await con.execute("DROP TABLE IF EXISTS kv_store")
    yield con
    await con.close()


@pytest.fixture
async def pool(server: Server, sql: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    """Yield an application's pool."""
    async with asyncpg.create_pool(server.url(), min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
async def store(pool: asyncpg.Pool) -> PostgreSQLStore:
    """Return an empty store, set up."""
    store = BulkStore(pool=pool)
    await store.setup()
    return store


@pytest.fixture
async def driver(server: Server, store: PostgreSQLStore) -> AsyncIterator[PostgreSQLDriver]:
    """Yield the driver of the store's URL."""
    driver = await driver_from_url(server.url())
    assert isinstance(driver, PostgreSQLDriver)
    yield driver
    await driver.close()
