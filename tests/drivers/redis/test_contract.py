"""The Redis driver: the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.drivers.contract import DriverContract
from tests.drivers.entries import Backend

from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.redis.driver import RespDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import redis
    from key_value.aio.stores.redis import RedisStore
    from tests.servers import RedisServer

pytest_plugins = ["tests.drivers.redis.server"]


class TestRedisDriver(DriverContract):
    """Every promise of a driver, found from the store object."""

    counts_exactly = False
    keeps_expired = False
    store_clock = "server's"

    @pytest.fixture
    async def backend(self, store: RedisStore, driver: RespDriver, raw: redis.Redis) -> Backend:
        """Return an empty Redis store."""

        async def write_raw(collection: str, key: str, body: str, expires_at: datetime | None) -> None:
            raw.set(f"{collection}::{key}", body, pxat=expires_at)

        return Backend(store, driver, write_raw)


class TestRedisDriverFromURL(TestRedisDriver):
    """Every promise of a driver, found from the URL."""

    many = 3 * PAGE_SIZE  # The other class goes past 10,000.

    @pytest.fixture
    async def driver(self, store: RedisStore, redis_server: RedisServer) -> AsyncIterator[RespDriver]:
        """Yield the driver of the database."""
        driver = await driver_from_url(redis_server.url)
        assert isinstance(driver, RespDriver)
        yield driver
        await driver.close()
