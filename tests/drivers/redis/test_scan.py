"""The server's SCAN, and compare-and-swap by scripts."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import redis
from key_value.aio.stores.redis import RedisStore
from tests.drivers.entries import SMALL, entry, fetched, fill, numbers, scanned
from tests.drivers.redis.databases import NAMELESS, PASSWORD

from kvseal import clock
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Replacement
from kvseal.drivers.redis import driver as driver_module
from kvseal.drivers.redis.server import SWAP, _Packer
from kvseal.errors import StoreUnreachableError
from kvseal.vault.store_clock import read_clocks

if TYPE_CHECKING:
    from tests.servers import RedisServer

    from kvseal.drivers.redis.driver import RespDriver

pytest_plugins = ["tests.drivers.redis.server"]


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

    async def test_time_that_may_not_be_asked(self, redis_server: RedisServer, raw: redis.Redis) -> None:
        """A user who may not ask for the time has a vault all the same, with the clock of this host."""
        raw.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-time"])
        driver = await driver_from_url(redis_server.url.replace("//", "//limited:x@"))

        assert await driver.store_time() is None
        assert clock.utc_seconds() <= (await read_clocks(driver)).stamp <= clock.utc_seconds()
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
