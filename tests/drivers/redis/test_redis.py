"""The Redis driver: the contract over a real server, and what is particular to one that others share."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from key_value.aio.stores.redis import RedisStore
from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel
from tests.drivers.contract import (
    FUTURE,
    LARGE,
    PAST,
    SMALL,
    Backend,
    DriverContract,
    entry,
    fetched,
    fill,
    numbers,
    scanned,
)
from tests.servers import RedisServer, free_port

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Replacement
from kvseal.drivers.redis import driver as driver_module
from kvseal.drivers.redis.address import Address
from kvseal.drivers.redis.driver import RespDriver
from kvseal.drivers.redis.server import SWAP, RespServer, _Packer
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


pytestmark = pytest.mark.servers

NAMELESS = b'{"created_at": "2023-01-01T00:00:00+00:00", "value": {"n": 1}, "version": 1}'
PASSWORD = "hunter2"


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


class TestRedisDriver(DriverContract):
    """Every promise of a driver, found from the store object."""

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


class TestNames:
    """What in a shared database is an entry, and whose."""

    async def test_foreign_keys_are_no_entries(
        self, driver: RespDriver, store: RedisStore, raw: redis.Redis
    ) -> None:
        """Keys without `::` and keys of other types belong to somebody else: no scan mentions them."""
        raw.set("session:1", "not ours")
        raw.set("plain", '{"value": {}}')
        raw.lpush("queue::a", "job")
        raw.hset("hash::b", "field", "value")
        raw.set(b"\xff", "bytes")
        await store.put("key", SMALL, collection="coll")

        assert [("coll", "key", "")] == [(e.collection, e.key, e.problem) for e in await scanned(driver)]

    async def test_name_taken_by_another_type(self, driver: RespDriver, raw: redis.Redis) -> None:
        """Asked for by name, a key of another type is a problem, and is neither absent nor overwritten."""
        raw.lpush("coll::key", "job")

        found = await fetched(driver)

        assert ("coll", "key", None) == (found.collection, found.key, found.value)
        assert "not a string" in found.problem
        assert await driver.put_if_absent(entry()) is False
        with pytest.raises(StoreError, match="never changed"):
            await driver.replace_many([Replacement(found, SMALL)])
        with pytest.raises(StoreError, match="never changed"):
            await driver.delete_if_unchanged(found)
        assert [b"job"] == raw.lrange("coll::key", 0, -1)

    async def test_type_changed_since_it_was_read(
        self, store: RedisStore, driver: RespDriver, raw: redis.Redis
    ) -> None:
        """An entry whose key became a list is a lost race like any other."""
        await store.put("key", SMALL, collection="coll")
        stale = await fetched(driver)
        raw.delete("coll::key")
        raw.lpush("coll::key", "job")

        assert [False] == list(await driver.replace_many([Replacement(stale, LARGE)]))
        assert await driver.delete_if_unchanged(stale) is False

    async def test_key_that_is_not_utf8(self, driver: RespDriver, raw: redis.Redis) -> None:
        """A string under `::` with a name that no store can ask for is a problem."""
        raw.set(b"coll::\xff", NAMELESS)

        (found,) = await scanned(driver)

        assert "not UTF-8" in found.problem

    async def test_moved_value(self, store: RedisStore, driver: RespDriver, raw: redis.Redis) -> None:
        """A value that somebody moved under another key is a problem, though the store would read it."""
        await store.put("mallory", SMALL, collection="coll")
        raw.rename("coll::mallory", "coll::alice")

        (found,) = await scanned(driver)

        assert SMALL == await store.get("alice", collection="coll")
        assert ("coll", "alice", None) == (found.collection, found.key, found.value)
        assert "holds the body of 'coll'/'mallory'" in found.problem

    async def test_nameless_body(self, driver: RespDriver, raw: redis.Redis) -> None:
        """A body from before py-key-value-aio 0.3 takes its names from a key with one separator, and keeps its form."""
        raw.set("coll::key", NAMELESS)

        (found,) = await scanned(driver)
        await base.replace(driver, found, {"n": 2})

        assert ("coll", "key", {"n": 1}, "") == (found.collection, found.key, found.value, found.problem)
        assert NAMELESS.replace(b'"n": 1', b'"n": 2') == raw.get("coll::key")

    @pytest.mark.parametrize("key", ["a::b::c", "a:::b", "::::"])
    async def test_ambiguous_names(self, driver: RespDriver, raw: redis.Redis, key: str) -> None:
        """A key that can be split in several ways is a problem rather than a guess."""
        raw.set(key, NAMELESS)

        (found,) = await scanned(driver)

        assert (None, None) == (found.collection, found.key)
        assert "split in several ways" in found.problem

    async def test_ambiguous_names_are_settled_by_the_caller(
        self, driver: RespDriver, raw: redis.Redis
    ) -> None:
        """`get` with names that lead to the key says whose entry a nameless body is."""
        raw.set("a::b::c", NAMELESS)

        found = await fetched(driver, "b::c", "a")

        assert ("a", "b::c", "") == (found.collection, found.key, found.problem)

    async def test_lone_surrogate(self, driver: RespDriver) -> None:
        """A name that the server cannot hold is refused in kvseal's own words."""
        with pytest.raises(StoreError, match="lone surrogate"):
            await driver.get("coll", "\ud800")


class TestExpiry:
    """The key's own time to live beside the expiry in the body."""

    @pytest.mark.parametrize("ttl", [None, 1234.567])
    async def test_replace_keeps_the_time_to_live(
        self, store: RedisStore, driver: RespDriver, raw: redis.Redis, ttl: float | None
    ) -> None:
        """A replacement leaves the server's expiry as it was, to the millisecond, and the body but for the value."""
        await store.put("key", {"a": "old"}, collection="coll", ttl=ttl)
        before, body = raw.pexpiretime("coll::key"), raw.get("coll::key")
        assert isinstance(body, bytes)

        await base.replace(driver, await fetched(driver), {"a": "new"})

        assert before == raw.pexpiretime("coll::key")
        assert body.replace(b'"old"', b'"new"') == raw.get("coll::key")
        assert (ttl is None) == (before == -1)

    async def test_expiry_that_only_the_server_knows(
        self, store: RedisStore, driver: RespDriver, raw: redis.Redis
    ) -> None:
        """A time to live set by hand is kept, and is not taken for the entry's expiry, as the store does not."""
        await store.put("key", SMALL, collection="coll")
        raw.pexpireat("coll::key", FUTURE)
        before = raw.pexpiretime("coll::key")

        found = await fetched(driver)
        await base.replace(driver, found, LARGE)

        assert found.expires_at is None
        assert before == raw.pexpiretime("coll::key")

    @pytest.mark.parametrize(
        ("expires_at", "milliseconds"),
        [
            (FUTURE, 4102362123457),
            (FUTURE.replace(microsecond=456000), 4102362123456),
            (FUTURE.astimezone(timezone(timedelta(hours=5))), 4102362123457),
            (None, -1),
        ],
    )
    async def test_explicit_expiry_reaches_the_server(
        self, driver: RespDriver, raw: redis.Redis, expires_at: datetime | None, milliseconds: int
    ) -> None:
        """An expiry that is put or set is the server's as well, never before that in the body; none is cleared."""
        await driver.put_if_absent(entry("put", expires_at=expires_at))
        await driver.put_if_absent(entry("set", expires_at=FUTURE + timedelta(days=1)))
        await driver.replace_many([Replacement(await fetched(driver, "set"), SMALL, expires_at)])

        assert [milliseconds] * 2 == [raw.pexpiretime("coll::put"), raw.pexpiretime("coll::set")]

    @pytest.mark.parametrize("past", [PAST, datetime(1969, 1, 1, tzinfo=timezone.utc)])
    async def test_the_past_is_not_stored(self, driver: RespDriver, raw: redis.Redis, past: datetime) -> None:
        """What has expired already leaves no key behind, put or set."""
        await driver.put_if_absent(entry("put", expires_at=past))
        await driver.put_if_absent(entry("set"))
        await driver.replace_many([Replacement(await fetched(driver, "set"), SMALL, past)])

        assert 0 == raw.dbsize()

    async def test_expired_body_that_the_server_still_holds(
        self, store: RedisStore, driver: RespDriver, raw: redis.Redis
    ) -> None:
        """An entry past the expiry in its body is missing, as it is for the store, and gives way to a new one."""
        body = json.loads(NAMELESS) | {"collection": "coll", "key": "key", "expires_at": PAST.isoformat()}
        raw.set("coll::key", json.dumps(body))

        assert await store.get("key", collection="coll") is None
        assert await driver.get("coll", "key") is None
        assert [] == await scanned(driver)
        assert await driver.put_if_absent(entry(expires_at=FUTURE)) is True
        assert {"n": 0} == await store.get("key", collection="coll")
        assert 4102362123457 == raw.pexpiretime("coll::key")

    async def test_expiry_passes_before_the_write(
        self, driver: RespDriver, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Entries that have expired by the time of the write stay as they are, and the others are written."""
        for n in range(3):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}))
        stale = [await fetched(driver, f"key-{n}") for n in range(3)]
        monkeypatch.setattr(driver_module, "has_expired", lambda found: found.key == "key-1")

        assert [True, False, True] == list(
            await driver.replace_many([Replacement(found, SMALL) for found in stale])
        )
        assert await driver.delete_if_unchanged(stale[1]) is False
        monkeypatch.undo()
        assert [SMALL, {"n": 1}, SMALL] == [(await fetched(driver, f"key-{n}")).value for n in range(3)]


class TestScan:
    """What is particular to the server's SCAN."""

    async def test_scan_while_the_table_grows(self, driver: RespDriver, raw: redis.Redis) -> None:
        """Every one of 20,000 keys is seen although the server moves them all for 20,000 more."""
        body = b'{"value": {"n": %d}}'
        raw.mset({f"coll::old-{n}": body % n for n in range(20_000)})
        seen: set[int] = set()
        pages = 0

        async for page in driver.scan():
            if pages % 10 == 3 and pages < 40:
                raw.mset({f"coll::new-{pages}-{n}": body % -1 for n in range(5_000)})
            seen |= numbers(list(page.entries)).keys()
            pages += 1

        assert 40_000 == raw.dbsize()
        assert set(range(20_000)) <= seen

    async def test_scan_while_the_table_shrinks(self, driver: RespDriver, raw: redis.Redis) -> None:
        """Every key that stays is seen although the server packs the table after most others went."""
        body = b'{"value": {"n": %d}}'
        raw.mset({f"coll::stays-{n}": body % n for n in range(500)})
        raw.mset({f"coll::goes-{n}": body % -1 for n in range(15_000)})
        seen: set[int] = set()

        async for page in driver.scan():
            seen |= numbers(list(page.entries)).keys()
            raw.delete(*(f"coll::goes-{n}" for n in range(15_000)))

        assert set(range(500)) <= seen

    async def test_pages_are_bounded_in_bytes(
        self, store: RedisStore, driver: RespDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page ends before it is too large; one entry alone may be larger."""
        monkeypatch.setattr(driver_module, "PAGE_BYTES", 100_000)
        keys = [f"key-{n}" for n in range(9)]
        values = [{"n": n, "large": "x" * 40_000} for n in range(8)] + [{"n": 8, "large": "x" * 200_000}]
        await store.put_many(keys, values, collection="coll")

        pages = [page async for page in driver.scan()]

        assert all(sum(len(e.stored) for e in p.entries) <= 100_000 or len(p.entries) == 1 for p in pages)
        assert dict.fromkeys(range(9), 1) == numbers([e for p in pages for e in p.entries])
        for done, page in enumerate(pages, 1):
            rest = await scanned(driver, after=page.cursor)
            seen = [e for p in pages[:done] for e in p.entries]

            assert set(range(9)) == numbers(seen + rest).keys()

    async def test_cursor_of_another_run(self, store: RedisStore, driver: RespDriver) -> None:
        """A cursor from before a restart, which means nothing now, leads to the beginning."""
        await fill(store, 3 * PAGE_SIZE)
        first = await anext(driver.scan())
        _, _, position = first.cursor.rpartition(":")

        rest = await scanned(driver, after=first.cursor)
        again = await scanned(driver, after=f"{'0' * 40}:{position}")

        assert 3 * PAGE_SIZE == len(again) == len(rest) + len(first.entries)

    async def test_restart_during_a_scan(self, own_redis: RedisServer) -> None:
        """A scan whose server was restarted fails, where going on would miss entries without a word."""
        async with RedisStore(url=own_redis.url) as store:
            await fill(store, 3 * PAGE_SIZE)
        driver = await driver_from_url(own_redis.url)
        scan = driver.scan()
        await anext(scan)
        own_redis.restart()

        with pytest.raises(StoreUnreachableError, match="restarted"):
            await anext(scan)

        await driver.close()

    async def test_scan_without_info(self, redis_server: RedisServer, raw: redis.Redis) -> None:
        """A user who may not ask for INFO can scan, and a resumed scan begins at the beginning."""
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))
        async with RedisStore(url=redis_server.url) as store:
            await fill(store, 2 * PAGE_SIZE)

        pages = [page async for page in driver.scan()]

        assert 2 * PAGE_SIZE == sum(len(page.entries) for page in pages)
        assert 2 * PAGE_SIZE == len(await scanned(driver, after=pages[0].cursor))
        await driver.close()
        raw.acl_deluser("limited")

    async def test_scan_without_scripts(
        self, redis_server: RedisServer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user who may read but run no script sees the same entries, in pages that are bounded as well."""
        monkeypatch.setattr(driver_module, "PAGE_BYTES", 100_000)
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
        raw.rpush("coll::list", "not a string")
        raw.set("coll::empty", "")
        driver, limited = [
            await driver_from_url(redis_server.url.replace("//", user)) for user in ("//", "//limited:x@")
        ]
        async with RedisStore(url=redis_server.url) as store:
            for n in range(9):
                await store.put(f"key-{n}", {"n": n, "large": "x" * 40_000 * (n or 4)}, collection="coll")

        pages = [page async for page in limited.scan()]

        assert all(sum(len(e.stored) for e in p.entries) <= 100_000 or len(p.entries) == 1 for p in pages)
        assert await scanned(driver) == [e for page in pages for e in page.entries]
        assert 10 == len(await scanned(driver))
        for one in (driver, limited):
            await one.close()
        raw.acl_deluser("limited")


class TestWrites:
    """Compare-and-swap by script."""

    async def test_each_of_many_swaps_is_answered(self, store: RedisStore, driver: RespDriver) -> None:
        """Of more swaps than go in one step of the server each says for itself whether it was done."""
        await fill(store, 150)
        keys = [f"key-{n}" for n in range(150)]
        found = {e.key: e for e in await scanned(driver)}
        for key in keys[::7]:
            await store.put(key, {"live": 1}, collection="coll")

        done = await driver.replace_many([Replacement(found[key], {"new": key}) for key in keys])

        assert [bool(n % 7) for n in range(150)] == list(done)
        values = await store.get_many(keys, collection="coll")
        assert [{"new": key} if n % 7 else {"live": 1} for n, key in enumerate(keys)] == values

    @pytest.mark.parametrize("parts", [("GET", b"key"), ("SET", "ключ", b"\0\r\n", "EX", 10), ("PING",)])
    def test_commands_are_packed_like_those_of_redis_py(self, parts: tuple[Any, ...]) -> None:
        """A command is the same bytes as redis-py's own packer makes, in one piece."""
        packed = redis.Connection(command_packer=_Packer()).pack_command(*parts)

        assert [b"".join(redis.Connection().pack_command(*parts))] == packed

    async def test_flushed_scripts(self, store: RedisStore, driver: RespDriver, raw: redis.Redis) -> None:
        """A server that has forgotten the scripts is given them again, and each entry is written once."""
        await fill(store, 5)
        for round_ in range(2):
            stale = [await fetched(driver, f"key-{n}") for n in range(5)]
            await store.put("key-3", {"live": round_}, collection="coll")
            raw.script_flush()

            done = await driver.replace_many([Replacement(e, {"new": round_}) for e in stale])

            assert [True, True, True, False, True] == list(done)
            assert [True] == raw.script_exists(SWAP.sha)

    async def test_live_writers_lose_nothing(self, store: RedisStore, driver: RespDriver) -> None:
        """Whatever an application wrote last is there in the end, wrapped or not, however often it was replaced."""
        keys = [f"key-{n}" for n in range(20)]
        await store.put_many(keys, [{"last": 0}] * 20, collection="coll")
        stop = asyncio.Event()
        swapped: list[bool] = []

        async def write(key: str) -> int:
            last = 0
            while not stop.is_set():
                last += 1
                await store.put(key, {"last": last}, collection="coll")
            return last

        async def wrap() -> None:
            for _ in range(30):
                entries = await scanned(driver)
                batch = [
                    Replacement(e, {"wrapped": e.value}) for e in entries if e.value and "last" in e.value
                ]
                swapped.extend(await driver.replace_many(batch))
            stop.set()

        *last, _ = await asyncio.gather(*map(write, keys), wrap())

        values = await store.get_many(keys, collection="coll")
        assert last == [value.get("wrapped", value)["last"] for value in values if value]
        assert {True, False} == set(swapped)

    async def test_keys_alone_are_compared(self, store: RedisStore, driver: RespDriver) -> None:
        """The same nameless body under another key is not the one that was read."""
        raw_body = NAMELESS.decode()
        for name in ("key", "other"):
            await asyncio.to_thread(driver._server._client.set, f"coll::{name}", raw_body)
        stale = await fetched(driver)
        await store.delete("key", collection="coll")

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert {"n": 1} == (await fetched(driver, "other")).value

    async def test_full_server(self, driver: RespDriver, raw: redis.Redis) -> None:
        """A server that is full says so, and neither message nor traceback quotes a value."""
        await driver.put_if_absent(entry())
        found = await fetched(driver)
        raw.config_set("maxmemory", 1)

        with pytest.raises(StoreUnreachableError, match="maxmemory") as caught:
            await driver.replace_many([Replacement(found, {"password": PASSWORD})])

        assert "maxmemory" in caught.value.hint
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))

    async def test_forbidden_scripts(self, redis_server: RedisServer, raw: redis.Redis) -> None:
        """A user who may not run scripts is told so before anything is written."""
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))

        with pytest.raises(StoreUnreachableError, match="permissions") as caught:
            await driver.put_if_absent(entry(value={"password": PASSWORD}))

        assert "grant" in caught.value.hint
        assert 0 == raw.dbsize()
        await driver.close()
        raw.acl_deluser("limited")


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
        """A server that tells neither is taken to evict."""
        commands = ["+@all", "-info", "-config"]
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=commands)

        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))

        assert driver.capabilities.evicts is True
        await driver.close()
        raw.acl_deluser("limited")

    async def test_known_after_the_first_operation(self, driver: RespDriver) -> None:
        """The worst is assumed until the server has been asked, which any operation does."""
        before = driver.capabilities.evicts
        await driver.get("coll", "key")

        assert (True, False) == (before, driver.capabilities.evicts)


class TestStores:
    """How a store object leads to its server."""

    @pytest.mark.parametrize("decode", [True, False])
    async def test_own_client(self, redis_server: RedisServer, decode: bool) -> None:
        """A store over the application's client is served however that decodes, in the same database."""
        client = Redis(port=redis_server.port, db=3, decode_responses=decode)
        store = RedisStore(client=client, default_collection="own")
        driver = driver_for(store)
        await store.put("ключ", SMALL)

        assert SMALL == (await fetched(driver, "ключ", "own")).value
        assert ("own", f"redis://localhost:{redis_server.port}/3") == (
            driver.default_collection,
            driver.location,
        )
        await driver.close()
        assert await client.exists("own::ключ")
        await client.aclose()

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


class TestTLS:
    """`rediss://`, and stores that connect over TLS."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """Return a certificate for this machine that signs itself, with its key beside it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        host = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
            .add_extension(host, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "certificate"
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

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

    @pytest.mark.parametrize("options", ["", "?ssl_check_hostname=false"])
    async def test_unknown_certificate(self, tls_port: int, options: str) -> None:
        """A server whose certificate nobody vouches for is not talked to."""
        with pytest.raises(StoreUnreachableError, match="certificate verify failed"):
            await driver_from_url(f"rediss://127.0.0.1:{tls_port}/0{options}")


async def test_library_that_is_not_installed() -> None:
    """Without the library, URLs and stores are refused with what to install."""
    script = """
import asyncio, sys
sys.modules["redis"] = None
from kvseal.drivers import driver_from_url
from kvseal.errors import UnsupportedStoreError
for scheme in ("redis", "rediss", "valkey"):
    try:
        asyncio.run(driver_from_url(f"{scheme}://localhost"))
    except UnsupportedStoreError as exc:
        print(exc.hint)
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "pip install 'kvseal[redis]' or 'kvseal[valkey]'\n" * 3 == done.stdout


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

    async def test_server_without_a_command(self, tmp_path: Path) -> None:
        """A server that lacks a command quotes its arguments; the error and its cause do not."""
        with RedisServer(tmp_path, "--rename-command", "EVALSHA", "") as server:
            driver = await driver_from_url(server.url)

            with pytest.raises(StoreUnreachableError, match="unknown command") as caught:
                await driver.put_if_absent(entry(PASSWORD, {"password": PASSWORD}))

            await driver.close()
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))
