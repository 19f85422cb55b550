"""An empty database on a real server, a store and its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.redis import RedisStore

from kvseal.drivers import driver_for
from kvseal.drivers.redis.driver import RespDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import redis
    from tests.servers import RedisServer


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Yield a client that sees the server's bytes."""
    client = redis_server.client()
    yield client
    client.close()


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    """Yield an empty store."""
    async with RedisStore(url=redis_server.url) as store:
        yield store


@pytest.fixture
async def driver(store: RedisStore) -> AsyncIterator[RespDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, RespDriver)
    yield driver
    await driver.close()
