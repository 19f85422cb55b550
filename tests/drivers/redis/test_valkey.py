"""The Valkey driver: the contract over a store with a real GLIDE client, and how its configuration is followed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from glide import (
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClientConfiguration,
    NodeAddress,
    ServerCredentials,
)
from key_value.aio.stores.valkey import ValkeyStore
from tests.drivers.contract import DriverContract
from tests.drivers.entries import SMALL, Backend, entry, fetched
from tests.servers import valkey

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.redis.driver import RespDriver
from kvseal.errors import StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from tests.servers import RedisServer

pytestmark = pytest.mark.servers

PASSWORD = "hunter2"


class TestValkeyDriver(DriverContract):
    """Every promise of a driver, over a store on a server that speaks Valkey's protocol."""

    counts_exactly = False
    keeps_expired = False
    store_clock = "server's"

    many = 3 * PAGE_SIZE  # The store puts its keys one by one; Redis' contract goes past 10,000.

    @pytest.fixture
    async def backend(self, valkey_server: RedisServer) -> AsyncIterator[Backend]:
        """Yield an empty Valkey store."""
        raw = valkey_server.client()

        async def write_raw(collection: str, key: str, body: str, expires_at: datetime | None) -> None:
            raw.set(f"{collection}::{key}", body, pxat=expires_at)

        async with ValkeyStore(host="127.0.0.1", port=valkey_server.port) as store:
            driver = driver_for(store)
            yield Backend(store, driver, write_raw)
            await driver.close()
        raw.close()


def test_the_server(valkey_server: RedisServer) -> None:
    """Where Valkey's own server is installed, this module runs on it, and not on Redis'."""
    with valkey_server.client() as client:
        assert bool(valkey()) == (client.info("server").get("server_name") == "valkey")


async def test_replace_keeps_the_time_to_live(valkey_server: RedisServer) -> None:
    """A replacement leaves the server's expiry, which the store rounds up, as it was to the millisecond."""
    raw = valkey_server.client()
    async with ValkeyStore(host="127.0.0.1", port=valkey_server.port) as store:
        driver = driver_for(store)
        await store.put("key", SMALL, collection="coll", ttl=1234.5678)
        before = raw.pexpiretime("coll::key")

        await base.replace(driver, await fetched(driver), {"n": 1})

        assert before == raw.pexpiretime("coll::key")
        assert {"n": 1} == await store.get("key", collection="coll")
        await driver.close()
    raw.close()


@pytest.mark.parametrize("how", ["arguments", "configuration", "client"])
async def test_database_of_the_store(valkey_server: RedisServer, how: str) -> None:
    """However the store was told, the driver serves its database, with its password, and does not show that."""
    valkey_server.client().acl_setuser(
        "app", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"]
    )
    config = GlideClientConfiguration(
        [NodeAddress("127.0.0.1", valkey_server.port)],
        credentials=ServerCredentials(PASSWORD, "app"),
        database_id=5,
    )
    client = await GlideClient.create(config)
    arguments = {"host": "127.0.0.1", "port": valkey_server.port, "db": 5, "username": "app"}
    store = {
        "arguments": lambda: ValkeyStore(**arguments, password=PASSWORD),
        "configuration": lambda: ValkeyStore(config=config),
        "client": lambda: ValkeyStore(client=client),
    }[how]()
    driver = driver_for(store)

    assert await driver.put_if_absent(entry())
    assert {"n": 0} == await store.get("key", collection="coll")
    assert f"valkey://127.0.0.1:{valkey_server.port}/5" == driver.location
    assert PASSWORD not in f"{driver!r} {vars(driver)}"
    await driver.close()
    await store.close()
    await client.close()
    valkey_server.client().acl_deluser("app")


async def test_url(valkey_server: RedisServer) -> None:
    """A URL leads to the database without the store's library having a part in it."""
    driver = await driver_from_url(f"valkey://127.0.0.1:{valkey_server.port}/2")

    assert isinstance(driver, RespDriver)
    assert f"valkey://127.0.0.1:{valkey_server.port}/2" == driver.location
    await driver.close()


def test_several_event_loops(valkey_server: RedisServer) -> None:
    """One driver serves one event loop after another, though the store's own client does not."""
    driver = driver_for(ValkeyStore(host="127.0.0.1", port=valkey_server.port))

    assert asyncio.run(driver.put_if_absent(entry()))
    assert {"n": 0} == asyncio.run(fetched(driver)).value
    asyncio.run(driver.close())


NODE = NodeAddress("localhost", 1)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (GlideClusterClientConfiguration([NODE]), "GlideClusterClientConfiguration"),
        (GlideClientConfiguration([NODE, NodeAddress("localhost", 2)]), "several addresses"),
        (GlideClientConfiguration([NodeAddress(unix_socket_path="/socket")]), "socket file"),
        (GlideClientConfiguration([NODE], address_resolver=lambda host, port: (host, port)), "resolves"),
    ],
)
def test_configurations_that_lead_elsewhere(config: GlideClientConfiguration, problem: str) -> None:
    """A configuration that the driver could not follow has no driver, and the refusal says what is wrong with it."""
    with pytest.raises(UnsupportedStoreError, match=problem) as caught:
        driver_for(ValkeyStore(config=config))

    assert "meta_store" in caught.value.hint


async def test_store_whose_server_is_away() -> None:
    """A driver is had without a server; what it does without one is an error that names the place."""
    driver = driver_for(ValkeyStore(host="127.0.0.1", port=1))

    with pytest.raises(StoreUnreachableError, match=r"valkey://127\.0\.0\.1:1/0"):
        await driver.get("coll", "key")

    await driver.close()
