"""Stores, URLs and servers; TLS, eviction, and passwords that no message shows."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING

import pytest
import redis
from key_value.aio.stores.redis import RedisStore
from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel
from tests.certificates import self_signed
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.redis.databases import PASSWORD
from tests.servers import RedisServer, free_port

from kvseal import Argon2idParams, Secret, Vault
from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.redis.address import Address
from kvseal.drivers.redis.driver import RespDriver
from kvseal.drivers.redis.server import RespServer
from kvseal.errors import EvictingStoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytest_plugins = ["tests.drivers.redis.server"]


class TestEviction:
    """Whether the server would drop the vault meta."""

    @pytest.mark.parametrize(
        ("limit", "policy", "evicts"),
        [
            ("0", "noeviction", False),
            ("0", "allkeys-lru", False),
            ("1gb", "noeviction", False),
            ("1gb", "volatile-lru", False),
            ("1gb", "volatile-ttl", False),
            ("1gb", "allkeys-lru", True),
            ("1gb", "allkeys-random", True),
        ],
    )
    @pytest.mark.parametrize("forbidden", [[], ["-info"], ["-config"]])
    async def test_policies(
        self,
        redis_server: RedisServer,
        raw: redis.Redis,
        forbidden: list[str],
        limit: str,
        policy: str,
        evicts: bool,
    ) -> None:
        """A limit and a policy `allkeys-…` drop what has no expiry; INFO or CONFIG is enough to know."""
        raw.config_set("maxmemory", limit)
        raw.config_set("maxmemory-policy", policy)
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", *forbidden])

        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))

        assert evicts == driver.capabilities.evicts
        await driver.close()
        raw.acl_deluser("limited")

    async def test_unknown_policy(self, redis_server: RedisServer, raw: redis.Redis) -> None:
        """A user who may not ask is not told that the server evicts, but that the server does not say."""
        commands = ["+@all", "-info", "-config"]
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=commands)

        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))

        assert driver.capabilities.evicts is True
        with pytest.raises(EvictingStoreError) as caught:
            await Vault.create(driver, secret=Secret(b"s"), kdf=Argon2idParams(1, 8, 1))
        assert "may run neither INFO nor CONFIG" in caught.value.message
        assert "drops entries" not in caught.value.message
        assert "+info" in caught.value.hint
        await driver.close()
        raw.acl_deluser("limited")

    async def test_known_after_the_first_operation(self, driver: RespDriver) -> None:
        """The worst is assumed until the server has been asked, which any operation does."""
        before = driver.capabilities.evicts
        await driver.get("coll", "key")

        assert (True, False) == (before, driver.capabilities.evicts)


class TestStores:
    """How a store object leads to its server."""

    async def test_own_client(self, redis_server: RedisServer) -> None:
        """A store over the application's client is served, in the same database."""
        client = Redis(port=redis_server.port, db=3, decode_responses=True)
        store = RedisStore(client=client, default_collection="own")
        driver = driver_for(store)
        await store.put("ключ", SMALL)

        assert SMALL == (await fetched(driver, "ключ", "own")).value
        assert f"redis://localhost:{redis_server.port}/3" == driver.location
        await driver.close()
        assert await client.exists("own::ключ")
        await client.aclose()

    async def test_client_that_does_not_decode(self, redis_server: RedisServer) -> None:
        """A store that reads every value as missing has no driver, and no vault is opened in it."""
        client = Redis(port=redis_server.port, db=3)
        store = RedisStore(client=client)
        await store.put("key", SMALL)
        assert await store.get("key") is None

        with pytest.raises(UnsupportedStoreError, match="decode") as caught:
            driver_for(store)

        assert "decode_responses=True" in caught.value.hint
        await client.flushdb()
        await client.aclose()

    @pytest.mark.parametrize("user", ["", "reader:s%40cret@"])
    async def test_socket_by_url(self, redis_server: RedisServer, raw: redis.Redis, user: str) -> None:
        """`unix://` leads to the database behind a socket file, and shows no password."""
        raw.acl_setuser("reader", enabled=True, passwords=["+s@cret"], keys=["*"], commands=["+@all"])
        url = f"unix://{user}{redis_server.socket_file}?db=2"

        driver = await driver_from_url(url)

        assert await driver.put_if_absent(entry())
        assert f"unix://{redis_server.socket_file}?db=2" == driver.location
        with redis.Redis(port=redis_server.port, db=2) as client:
            assert 1 == client.dbsize()
            client.flushdb()
        await driver.close()
        raw.acl_deluser("reader")

    @pytest.mark.parametrize(
        "location", ["//host/sock", "//", "/sock", "///sock?db=x", "///s?a=1", "//:pass word@x/s"]
    )
    async def test_what_is_no_socket(self, location: str) -> None:
        """A URL that would be read in another way is refused, and not quoted."""
        with pytest.raises(UnsupportedStoreError, match="unix:///path"):
            await driver_from_url(f"unix:{location}")

    async def test_socket_file(self, redis_server: RedisServer) -> None:
        """A store that is reached through a socket file is served through it."""
        client = Redis(unix_socket_path=str(redis_server.socket_file), decode_responses=True)
        store = RedisStore(client=client)
        driver = driver_for(store)
        await store.put("key", SMALL, collection="coll")

        assert SMALL == (await fetched(driver)).value
        assert f"unix://{redis_server.socket_file}?db=0" == driver.location
        await driver.close()
        await client.aclose()

    @pytest.mark.parametrize("how", ["sentinel", "own connection", "own function"])
    async def test_clients_that_connect_in_their_own_way(self, how: str) -> None:
        """A client that may lead elsewhere than to its host and port has no driver."""

        class OwnConnection(Connection):
            pass

        client = {
            "sentinel": Sentinel([("localhost", 1)]).master_for("master"),
            "own connection": Redis(connection_pool=ConnectionPool(connection_class=OwnConnection)),
            "own function": Redis(redis_connect_func=print),
        }[how]

        with pytest.raises(UnsupportedStoreError, match="no driver") as caught:
            driver_for(RedisStore(client=client))

        assert "meta_store" in caught.value.hint

    def test_several_event_loops(self, redis_server: RedisServer) -> None:
        """One driver serves one event loop after another, though the store's own client does not."""
        driver = driver_for(RedisStore(url=redis_server.url))

        assert asyncio.run(driver.put_if_absent(entry()))
        assert {"n": 0} == asyncio.run(fetched(driver)).value
        asyncio.run(driver.close())


class TestPlaces:
    """Which URLs are databases, and what happens where there is none."""

    @pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/0", "{}?"])
    async def test_spellings(self, redis_server: RedisServer, spelling: str) -> None:
        """A URL may leave out the database, which is then the first."""
        driver = await driver_from_url(spelling.format(f"redis://127.0.0.1:{redis_server.port}"))

        assert redis_server.url == driver.location
        await driver.close()

    @pytest.mark.parametrize(
        "location",
        [
            "",
            "host",
            "//host/name",
            "//host/0x1",
            "//host/-1",
            "//host/1/2",
            "//host/1#fragment",
            "//host:port/0",
            "//host/0?db=1",
            "//host/0?socket_timeout=1",
            "//host/٣",
            "//:hun/ter2@host/0",
            "//:hun@ter2@host/0",
            "//:hun?ter2@host/0",
            "//:hun#ter2@host/0",
        ],
    )
    @pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey"])
    async def test_refused_urls(self, scheme: str, location: str) -> None:
        """What would go unheeded is refused, and nothing of a badly quoted password is in the refusal."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(f"{scheme}:{location}")

        assert caught.value.hint
        assert "hun" not in f"{caught.value} {caught.value.hint}"

    def test_quoted_url(self) -> None:
        """User and password are unquoted, an IPv6 address loses its brackets, and no password is shown."""
        address = Address.of_url("redis", "//u%40:p%2Fw%3A@[::1]:7/5")

        assert ("u@", "p/w:", "::1", 7, 5) == (
            address.username,
            address.password,
            address.host,
            address.port,
            address.db,
        )
        assert "redis://[::1]:7/5" == address.location("redis")
        assert "p/w" not in repr(address)

    @pytest.mark.parametrize("create", [True, False])
    async def test_database_that_does_not_exist(self, redis_server: RedisServer, create: bool) -> None:
        """A database number that the server does not have is an error that names it, with or without `create`."""
        url = f"redis://127.0.0.1:{redis_server.port}/99"

        with pytest.raises(StoreNotFoundError, match="DB index") as caught:
            await driver_from_url(url, create=create)

        assert url in str(caught.value)
        assert 10 == caught.value.exit_code

    async def test_looking_creates_nothing(self, redis_server: RedisServer, raw: redis.Redis) -> None:
        """To open, scan and ask an empty database leaves it empty."""
        driver = await driver_from_url(f"redis://127.0.0.1:{redis_server.port}/7", create=True)
        await scanned(driver)
        await driver.get("coll", "key")
        await driver.close()

        assert {} == raw.info("keyspace")

    @pytest.mark.servers
    @pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey"])
    async def test_refused_connection(self, scheme: str) -> None:
        """A server that is not there is named, with the next step."""
        url = f"{scheme}://127.0.0.1:{free_port()}/0"

        with pytest.raises(StoreUnreachableError, match="refused") as caught:
            await driver_from_url(url)

        assert url in str(caught.value)
        assert "host and port" in caught.value.hint
        assert 10 == caught.value.exit_code

    async def test_silent_server(self, redis_server: RedisServer) -> None:
        """A server that does not answer in time is unreachable."""
        server = RespServer(
            "redis://silent/0", {"host": "127.0.0.1", "port": redis_server.port, "socket_timeout": 0.01}
        )
        with redis_server.client() as client:
            client.client_pause(100)

            with pytest.raises(StoreUnreachableError, match=r"redis://silent/0.*[Tt]imeout"):
                await RespDriver(server).put_if_absent(entry())

        server.close()

    async def test_restart_between_calls(self, own_redis: RedisServer) -> None:
        """A driver whose server was restarted goes on with the new one, after an error while it was down."""
        driver = await driver_from_url(own_redis.url)
        await driver.put_if_absent(entry())
        own_redis.restart()

        assert await driver.get("coll", "key") is None
        assert await driver.put_if_absent(entry()) is True
        own_redis.stop()
        with pytest.raises(StoreUnreachableError, match=own_redis.url):
            await driver.get("coll", "key")
        own_redis.restart()
        assert await driver.get("coll", "key") is None
        await driver.close()


@pytest.mark.servers
class TestTLS:
    """`rediss://`, and stores that connect over TLS."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """Return a certificate for this machine that signs itself, with its key beside it."""
        return self_signed(tmp_path)

    @pytest.fixture
    def tls_port(self, certificate: Path, tmp_path: Path) -> Iterator[int]:
        """Yield the port of a server that takes TLS connections alone."""
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate.with_name("key"))]
        with RedisServer(tmp_path, *files, "--tls-auth-clients", "no", tls=True) as server:
            yield server.port

    async def test_url_and_store(self, certificate: Path, tls_port: int) -> None:
        """URL and store lead to the same database, which has to prove who it is by the same certificate."""
        url = f"rediss://127.0.0.1:{tls_port}/0"
        async with RedisStore(url=url, ssl_ca_certs=str(certificate)) as store:
            by_store = driver_for(store)
            by_url = await driver_from_url(f"{url}?ssl_ca_certs={certificate}")
            await store.put("key", SMALL, collection="coll")

            assert await fetched(by_store) == await fetched(by_url)
            assert [url, url] == [by_store.location, by_url.location]
            await by_store.close()
            await by_url.close()

    async def test_certificate_of_another_host(self, certificate: Path, tls_port: int) -> None:
        """A certificate has to be for the very name that was asked for, unless the operator says otherwise."""
        url = f"rediss://localhost:{tls_port}/0?ssl_ca_certs={certificate}"

        with pytest.raises(StoreUnreachableError, match=r"[Hh]ostname mismatch|doesn't match"):
            await driver_from_url(url)
        store = RedisStore(client=Redis.from_url(url, decode_responses=True))
        with pytest.raises(StoreUnreachableError, match=r"[Hh]ostname mismatch|doesn't match"):
            await driver_for(store).get("c", "k")

        for waived in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
            await (await driver_from_url(f"{url}&{waived}")).close()

    @pytest.mark.parametrize("options", ["", "?ssl_check_hostname=false"])
    async def test_unknown_certificate(self, tls_port: int, options: str) -> None:
        """A server whose certificate nobody vouches for is not talked to."""
        with pytest.raises(StoreUnreachableError, match="certificate verify failed"):
            await driver_from_url(f"rediss://127.0.0.1:{tls_port}/0{options}")


class TestPasswords:
    """Whoever holds the password gets in, and nobody else gets to see it."""

    @pytest.fixture
    def locked(self, own_redis: RedisServer) -> RedisServer:
        """Return a server with a password."""
        own_redis.client().config_set("requirepass", PASSWORD)
        return own_redis

    @pytest.mark.parametrize("how", ["url", "store", "client"])
    async def test_right_password(self, locked: RedisServer, how: str) -> None:
        """The password gets the driver in, and neither location nor repr shows it."""
        url = locked.url.replace("//", f"//:{PASSWORD}@")
        client = Redis.from_url(url, decode_responses=True)
        driver = {
            "url": lambda: driver_from_url(url),
            "store": lambda: asyncio.to_thread(driver_for, RedisStore(url=url)),
            "client": lambda: asyncio.to_thread(driver_for, RedisStore(client=client)),
        }[how]
        driver = await driver()

        assert await driver.put_if_absent(entry())
        assert PASSWORD not in f"{driver.location} {driver!r} {vars(driver)}"
        await driver.close()

    @pytest.mark.parametrize("user", ["", ":wr0ng@", "user:wr0ng@"])
    async def test_wrong_password(self, locked: RedisServer, user: str) -> None:
        """A wrong password, or none, is an error with a hint, in which it does not appear."""
        with pytest.raises(StoreUnreachableError) as caught:
            await driver_from_url(locked.url.replace("//", f"//{user}"))

        assert "password" in caught.value.hint
        assert "wr0ng" not in "".join(traceback.format_exception(caught.value))

    async def test_errors_do_not_show_the_password(self, locked: RedisServer) -> None:
        """What goes wrong later on does not show it either, down to the first cause."""
        driver = await driver_from_url(locked.url.replace("//", f"//:{PASSWORD}@"))
        locked.stop()

        with pytest.raises(StoreUnreachableError) as caught:
            await driver.get("coll", "key")

        assert caught.value.__cause__ is not None
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))
        await driver.close()

    @pytest.mark.servers
    async def test_server_without_a_command(self, tmp_path: Path) -> None:
        """A server that lacks a command quotes its arguments; the error and its cause do not."""
        with RedisServer(tmp_path, "--rename-command", "EVALSHA", "") as server:
            driver = await driver_from_url(server.url)

            with pytest.raises(StoreUnreachableError, match="unknown command") as caught:
                await driver.put_if_absent(entry(PASSWORD, {"password": PASSWORD}))

            await driver.close()
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))
