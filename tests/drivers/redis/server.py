"""Fixtures of a Redis server, a pytest plugin: one server for all tests of a process, or one for a test alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.servers import RedisServer, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield one server for all tests of this process."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """Yield the server with nothing in it, and with the settings that it started with again afterwards."""
    client = shared_redis.client()
    client.flushall()
    settings = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
    yield shared_redis
    for name, value in settings.items():
        client.config_set(name, value)
    client.close()


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield a Valkey server for all tests of this process; where there is none, Redis', which speaks as it does."""
    with RedisServer(tmp_path_factory.mktemp("valkey"), program=valkey()) as server:
        yield server


@pytest.fixture
def valkey_server(shared_valkey: RedisServer) -> RedisServer:
    """Return the server with nothing in it."""
    with shared_valkey.client() as client:
        client.flushall()
    return shared_valkey


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a server that the test may stop, restart and lock."""
    with RedisServer(tmp_path) as server:
        yield server
