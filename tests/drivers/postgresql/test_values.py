"""Values and times that PostgreSQL keeps in a way of its own."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers.entries import CREATED, PAST, SMALL, entry, fetched, scanned
from tests.drivers.postgresql.tables import TYPED, insert, pool_with_codec, row

from kvseal.drivers import base
from kvseal.drivers.base import Replacement
from kvseal.errors import (
    StoreError,
    UnsealableValueError,
)

if TYPE_CHECKING:
    import asyncpg
    from tests.drivers.postgresql.server import Server

    from kvseal.drivers.postgresql.driver import PostgreSQLDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


class TestValues:
    """JSONB keeps meanings, not texts."""

    @pytest.mark.parametrize("old", TYPED, ids=str)
    async def test_equal_is_not_unchanged(
        self, store: PostgreSQLStore, driver: PostgreSQLDriver, old: dict[str, Any]
    ) -> None:
        """A value comes back with its very type, and is replaced only while that very value is there."""
        await driver.put_if_absent(entry(value=old))
        read = await fetched(driver)
        results = []
        for other in TYPED:
            await base.replace(driver, await fetched(driver), other)
            results += await driver.replace_many([Replacement(read, {"mine": 1})])

        assert (old, type(old["n"])) == (read.value, type((read.value or {})["n"]))
        assert [repr(other) == repr(old) for other in TYPED] == results

    async def test_key_order_does_not_matter(self, driver: PostgreSQLDriver) -> None:
        """Two texts of one value are one value: a replacement compares what PostgreSQL makes of both."""
        await driver.put_if_absent(entry(value={"bb": 1, "a": {"d": 1, "c": 2}}))
        found = await fetched(driver)

        await base.replace(driver, found, {"a": {"c": 2, "d": 1}, "bb": 1})

        assert found.stored == (await fetched(driver)).stored

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param({"n": -0.0}, id="negative zero"),
            pytest.param({"n": [1e16]}, id="float without a point"),
            pytest.param({"n": {"m": -1.5e300}}, id="large float"),
            pytest.param({"n": math.nan}, id="nan"),
            pytest.param({"n": math.inf}, id="infinity"),
            pytest.param({"n": "a\0b"}, id="nul"),
            pytest.param({"a\\\0": 1}, id="nul behind a backslash in a key"),
            pytest.param({"n": "\ud800"}, id="lone surrogate"),
            pytest.param({"n": {1, 2}}, id="no json"),
        ],
    )
    async def test_what_would_change_is_refused(
        self, sql: asyncpg.Connection, driver: PostgreSQLDriver, value: dict[str, Any]
    ) -> None:
        """A value that would not come back as it is raises before anything is written, in any batch."""
        await driver.put_if_absent(entry("first"))
        await driver.put_if_absent(entry("second"))
        first, second = await fetched(driver, "first"), await fetched(driver, "second")

        with pytest.raises(UnsealableValueError):
            await driver.put_if_absent(entry(value=value))
        with pytest.raises(UnsealableValueError):
            await driver.replace_many([Replacement(first, SMALL), Replacement(second, value)])

        assert 2 == await sql.fetchval("SELECT count(*) FROM kv_store WHERE value = '{\"n\": 0}'")

    @pytest.mark.parametrize(
        "value",
        [
            {"n": [0.0, 1e15, 9007199254740993.0, 1.5e-300, 0.1]},
            {"n": "-0.0 and 1e+16"},
            {"n": "\\u0000 \\ud800"},
            {"n": "🔑"},
        ],
        ids=str,
    )
    async def test_what_only_looks_so_is_not(self, driver: PostgreSQLDriver, value: dict[str, Any]) -> None:
        """Text and floats that resemble those that are refused come back as they are."""
        await driver.put_if_absent(entry(value=value))

        assert repr(value) == repr((await fetched(driver)).value)

    @pytest.mark.parametrize(("collection", "key"), [("co\0ll", "key"), ("coll", "k\0"), ("coll", "\udc80")])
    async def test_names(self, driver: PostgreSQLDriver, collection: str, key: str) -> None:
        """A name that PostgreSQL cannot hold is refused in words."""
        with pytest.raises(StoreError, match="cannot hold the name"):
            await driver.put_if_absent(entry(key, collection=collection))
        with pytest.raises(StoreError, match="cannot hold the name"):
            await driver.get(collection, key)

    async def test_long_name(self, driver: PostgreSQLDriver) -> None:
        """A name that is too long for the primary key is refused in words."""
        key = "".join(str(n * n) for n in range(5000))

        with pytest.raises(StoreError, match="index row") as caught:
            await driver.put_if_absent(entry(key))

        assert "cannot hold" in caught.value.hint

    @pytest.mark.parametrize(
        "value", ["[1]", "7", "null", '"text"', '"[1]"', '"{\\"a\\": "', "1" * 5000], ids=lambda v: v[:12]
    )
    async def test_unreadable(self, sql: asyncpg.Connection, driver: PostgreSQLDriver, value: str) -> None:
        """A value that is no mapping is yielded with a problem, never changed, and in nobody's way."""
        await insert(sql, value)
        await insert(sql, '{"n": 1}', key="next")
        before = await row(sql)

        broken, good = await scanned(driver)

        assert (True, None, {"n": 1}) == (bool(broken.problem), broken.value, good.value)
        assert "text" not in broken.problem
        assert await driver.put_if_absent(entry()) is False
        with pytest.raises(StoreError, match="cannot be read"):
            await driver.replace_many([Replacement(good, SMALL), Replacement(broken, SMALL)])
        with pytest.raises(StoreError, match="cannot be read"):
            await driver.delete_if_unchanged(broken)
        assert (before, {"n": 1}) == (await row(sql), (await fetched(driver, "next")).value)

    @pytest.mark.parametrize(
        "times",
        [
            {"expires_at": "'infinity'"},
            {"created_at": "'-infinity'"},
            {"expires_at": "'10000-01-01 00:00:00+00'"},
            {"created_at": "'0001-01-01 00:00:00+00 BC'"},
        ],
        ids=str,
    )
    async def test_times_beyond_python(
        self, sql: asyncpg.Connection, driver: PostgreSQLDriver, times: dict[str, str]
    ) -> None:
        """A time that Python cannot hold is a problem of its row, and the scan goes on."""
        await insert(sql, "{}", **times)
        await insert(sql, "{}", key="next")

        assert [True, False] == [bool(found.problem) for found in await scanned(driver)]
        assert (await fetched(driver)).problem

    async def test_shape_is_kept(
        self, server: Server, sql: asyncpg.Connection, driver: PostgreSQLDriver
    ) -> None:
        """What a store with a JSON codec wrote as text stays text when it is replaced, and that store reads it."""
        async with await pool_with_codec(server) as pool:
            store = PostgreSQLStore(pool=pool)
            await store.put("key", {"n": "a\0b"}, collection="coll")
            found = await fetched(driver)
            new = {"n": "\0", "z": -0.0}
            await base.replace(driver, found, new)

            assert {"n": "a\0b"} == found.value
            assert repr(new) == repr(await store.get("key", collection="coll"))
            assert '"{' == (await row(sql))["value"][:2]


class TestTimes:
    """What happens to the columns beside the value."""

    async def test_replace_leaves_the_columns(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """A replacement leaves ttl, created_at and expires_at identical to the microsecond."""
        await store.put("key", SMALL, collection="coll", ttl=1234.567891)
        before = await row(sql)

        await base.replace(driver, await fetched(driver), {"new": 1})

        assert {**before, "value": '{"new": 1}'} == await row(sql)
        assert before["expires_at"].microsecond + before["created_at"].microsecond > 0

    async def test_columns_as_the_store_writes_them(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """The driver fills every column of a row, and `ttl` with the seconds that are left, as the store does."""
        expires_at = datetime.now(timezone.utc) + timedelta(days=1)
        await store.put("theirs", SMALL, collection="coll", ttl=86_400)
        await driver.put_if_absent(entry("ours", SMALL, expires_at=expires_at))
        await driver.put_if_absent(entry("replaced", SMALL))
        read = await fetched(driver, "replaced")
        await driver.replace_many([Replacement(read, SMALL, expires_at)])

        theirs, *rows = [await row(sql, key) for key in ("theirs", "ours", "replaced")]
        for ours in rows:
            assert (theirs.keys(), theirs["value"]) == (ours.keys(), ours["value"])
            assert (CREATED, expires_at) == (ours["created_at"], ours["expires_at"])
            assert 86_300 < ours["ttl"] < 86_400
        await driver.replace_many([Replacement(await fetched(driver, "replaced"), SMALL, None)])
        cleared = await row(sql, "replaced")
        assert (None, None) == (cleared["ttl"], cleared["expires_at"])

    async def test_expired_rows_are_overwritten_whole(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """An expired row, which nothing removes, leaves nothing behind in the one that takes its name."""
        await store.put("key", SMALL, collection="coll", ttl=1000)
        await driver.replace_many([Replacement(await fetched(driver), SMALL, PAST)])

        assert await driver.put_if_absent(entry())
        assert {
            "collection": "coll", "key": "key", "value": '{"n": 0}',
            "ttl": None, "created_at": CREATED, "expires_at": None,
        } == await row(sql)  # fmt: skip

    async def test_born_again_is_another(self, store: PostgreSQLStore, driver: PostgreSQLDriver) -> None:
        """A row that was deleted and put again with the same value is not the one that was read."""
        await store.put("key", SMALL, collection="coll")
        stale = await fetched(driver)
        await store.delete("key", collection="coll")
        await store.put("key", SMALL, collection="coll")

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert await driver.delete_if_unchanged(stale) is False

    async def test_rows_without_times(self, sql: asyncpg.Connection, driver: PostgreSQLDriver) -> None:
        """A row whose times are all NULL can be read, replaced and deleted."""
        await insert(sql, "{}")

        await base.replace(driver, await fetched(driver), SMALL)

        assert (SMALL, None) == ((await fetched(driver)).value, (await fetched(driver)).created_at)
        assert await driver.delete_if_unchanged(await fetched(driver))
