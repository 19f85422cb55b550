"""One server for the session, and an empty database for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.mongodb import MongoDBStore

from kvseal.drivers import driver_from_url
from kvseal.drivers.mongodb.driver import MongoDBDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pymongo.database import Database
    from tests.drivers.mongodb.server import MongoServer


@pytest.fixture
def database(shared_mongodb: MongoServer) -> Iterator[str]:
    """Yield the name of an empty database."""
    with shared_mongodb.database() as name:
        yield name


@pytest.fixture
def documents(shared_mongodb: MongoServer, database: str) -> Iterator[Database[dict[str, Any]]]:
    """Yield the database as an operator sees it."""
    with shared_mongodb.client() as client:
        yield client[database]


@pytest.fixture
def coll(documents: Database[dict[str, Any]]) -> Any:
    """Return the collection `coll` as an operator sees it."""
    return documents["coll"]


@pytest.fixture
async def store(shared_mongodb: MongoServer, database: str) -> AsyncIterator[MongoDBStore]:
    """Yield an empty store."""
    async with MongoDBStore(url=shared_mongodb.url, db_name=database) as store:
        yield store


@pytest.fixture
async def driver(shared_mongodb: MongoServer, database: str) -> AsyncIterator[MongoDBDriver]:
    """Yield the driver of the database's URL."""
    driver = await driver_from_url(f"{shared_mongodb.url}?db_name={database}", create=True)
    assert isinstance(driver, MongoDBDriver)
    yield driver
    await driver.close()
