"""Keys and bodies that do not agree, and expiries."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from tests.drivers.entries import FUTURE, LARGE, PAST, SMALL, entry, fetched, scanned
from tests.drivers.redis.databases import NAMELESS

from kvseal.drivers import base
from kvseal.drivers.base import Replacement
from kvseal.drivers.redis import driver as driver_module
from kvseal.errors import StoreError

if TYPE_CHECKING:
    import redis
    from key_value.aio.stores.redis import RedisStore

    from kvseal.drivers.redis.driver import RespDriver

pytest_plugins = ["tests.drivers.redis.server"]


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

    async def test_settled_names_are_written_down(self, driver: RespDriver, raw: redis.Redis) -> None:
        """What replaces a nameless body says the names by which it was found, and a scan gives them back."""
        raw.set("a::b::c", NAMELESS)

        await base.replace(driver, await fetched(driver, "b::c", "a"), {"n": 2})

        assert [("a", "b::c", {"n": 2})] == [(e.collection, e.key, e.value) for e in await scanned(driver)]

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

    async def test_a_batch_over_expired_bodies(
        self, store: RedisStore, driver: RespDriver, raw: redis.Redis
    ) -> None:
        """In a batch, too, such entries give way, and a key of another type is not overwritten."""
        for n in range(100):
            expired = {"collection": "coll", "key": f"key-{n}", "expires_at": PAST.isoformat()}
            raw.set(f"coll::key-{n}", json.dumps(json.loads(NAMELESS) | expired))
        raw.lpush("coll::list", "job")
        batch = [entry("list"), *(entry(f"key-{n}", {"n": n}, expires_at=FUTURE) for n in range(100))]

        assert [False, *[True] * 100] == list(await driver.put_many_if_absent(batch))

        assert {"n": 99} == await store.get("key-99", collection="coll")
        assert 4102362123457 == raw.pexpiretime("coll::key-99")
        assert [b"job"] == raw.lrange("coll::list", 0, -1)

    async def test_expiry_passes_before_the_write(
        self, driver: RespDriver, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Entries that have expired by the time of the write stay as they are, and the others are written."""
        for n in range(3):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}, expires_at=FUTURE if n == 1 else None))
        stale = [await fetched(driver, f"key-{n}") for n in range(3)]
        monkeypatch.setattr(driver_module, "has_expired", lambda expires_at: expires_at is not None)

        assert [True, False, True] == list(
            await driver.replace_many([Replacement(found, SMALL) for found in stale])
        )
        assert await driver.delete_if_unchanged(stale[1]) is False
        monkeypatch.undo()
        assert [SMALL, {"n": 1}, SMALL] == [(await fetched(driver, f"key-{n}")).value for n in range(3)]
