"""An empty bucket on a real server, a store and its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.s3 import S3Store

from kvseal.drivers import driver_for
from kvseal.drivers.s3.driver import S3Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.s3.server import S3Server


@pytest.fixture
async def store(s3_server: S3Server, s3_bucket: str) -> AsyncIterator[S3Store]:
    """Yield an empty store."""
    async with S3Store(bucket_name=s3_bucket, **s3_server.settings()) as store:
        yield store


@pytest.fixture
async def driver(store: S3Store) -> AsyncIterator[S3Driver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, S3Driver)
    yield driver
    await driver.close()
