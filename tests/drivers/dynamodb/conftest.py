"""One server for all tests of this process, and an empty table for each."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from botocore import loaders, session
from key_value.aio.stores.dynamodb import DynamoDBStore
from tests.drivers.dynamodb.server import Server, local

from kvseal.drivers import driver_from_url
from kvseal.drivers.dynamodb.driver import DynamoDBDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="package", autouse=True)
def _one_loader() -> Iterator[None]:
    """Let all clients share the models of services, as the driver's do: each test makes some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "create_loader", cache(loaders.create_loader))
        yield


@pytest.fixture
def table(shared_dynamodb: Server) -> Iterator[str]:
    """Yield the name of an empty table, that this process reaches."""
    with local(), shared_dynamodb.table() as name:
        yield name


@pytest.fixture
async def store(shared_dynamodb: Server, table: str) -> AsyncIterator[DynamoDBStore]:
    """Yield a store over the empty table, set up."""
    async with DynamoDBStore(table_name=table, **shared_dynamodb.settings()) as store:
        yield store


@pytest.fixture
async def driver(shared_dynamodb: Server, table: str) -> AsyncIterator[DynamoDBDriver]:
    """Yield the driver of the table's URL."""
    driver = await driver_from_url(shared_dynamodb.url(table))
    assert isinstance(driver, DynamoDBDriver)
    yield driver
    await driver.close()
