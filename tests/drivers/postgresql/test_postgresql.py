"""The PostgreSQL driver: the contract over a real server, and what is PostgreSQL's own."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import subprocess
import sys
import traceback
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers import contract
from tests.drivers.contract import (
    CREATED,
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
from tests.drivers.postgresql.server import Server, running

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Driver, Entry, Replacement
from kvseal.drivers.postgresql import driver as driver_module
from kvseal.drivers.postgresql.driver import PostgreSQLDriver
from kvseal.drivers.postgresql.table import PAGE_BYTES, Table
from kvseal.errors import (
    KvsealError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

HOLDABLE = [
    pytest.param({"ключ": "värde \u2028 🔑"}, id="unicode") if value.id == "unicode" else value
    for value in contract.VALUES
]
PASSWORD = "correct-horse-9d1f"
TYPED = [
    {"n": 1},
    {"n": 1.0},
    {"n": 2**63},
    {"n": 2**70 + 1},
    {"n": 1.5},
    {"n": 1e-7},
    {"n": "1"},
    {"n": True},
]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield a server for all tests of this process."""
    with running() as server:
        yield server


@pytest.fixture
async def sql(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection from outside, to a database in which the store has no table yet."""
    con = await asyncpg.connect(server.url())
    await con.execute("DROP TABLE IF EXISTS kv_store")
    yield con
    await con.close()


@pytest.fixture
async def pool(server: Server, sql: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    """Yield an application's pool."""
    async with asyncpg.create_pool(server.url(), min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
async def store(pool: asyncpg.Pool) -> PostgreSQLStore:
    """Return an empty store, set up."""
    store = BulkStore(pool=pool)
    await store.setup()
    return store


@pytest.fixture
async def driver(server: Server, store: PostgreSQLStore) -> AsyncIterator[PostgreSQLDriver]:
    """Yield the driver of the store's URL."""
    driver = await driver_from_url(server.url())
    assert isinstance(driver, PostgreSQLDriver)
    yield driver
    await driver.close()


async def pool_with_codec(server: Server) -> asyncpg.Pool:
    """Return an application's pool that turns JSON columns into Python objects and back."""

    async def set_codec(con: asyncpg.Connection) -> None:
        await con.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    return await asyncpg.create_pool(server.url(), min_size=1, max_size=8, init=set_codec)


class BulkStore(PostgreSQLStore):
    """The store, except that `put_many` is quick: the rows that it would write, sent at once."""

    async def _put_managed_entries(
        self, *, collection: str, keys: Any, managed_entries: Any, **_: Any
    ) -> None:
        rows = [
            (collection, key, managed.value_as_json, managed.ttl, managed.created_at, managed.expires_at)
            for key, managed in zip(keys, managed_entries, strict=True)
        ]
        await self._initialized_pool.executemany(
            "INSERT INTO kv_store (collection, key, value, ttl, created_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (collection, key) DO UPDATE"
            " SET value = EXCLUDED.value, ttl = EXCLUDED.ttl, expires_at = EXCLUDED.expires_at",
            rows,
        )


async def insert(sql: asyncpg.Connection, value: str, key: str = "key", **times: str) -> None:
    """Insert a row as it is, past every check; times are SQL."""
    names, texts = "".join(f", {name}" for name in times), "".join(f", {text}" for text in times.values())
    await sql.execute(
        f"INSERT INTO kv_store (collection, key, value{names}) VALUES ('coll', $1, $2::text::jsonb{texts})",
        key,
        value,
    )


async def row(sql: asyncpg.Connection, key: str = "key") -> dict[str, Any]:
    """Return a row as PostgreSQL has it."""
    return dict(await sql.fetchrow("SELECT *, value::text AS value FROM kv_store WHERE key = $1", key))


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


class PostgreSQLContract(DriverContract):
    """The contract, without the value that the store cannot hold either."""

    many = 3 * PAGE_SIZE

    @pytest.mark.parametrize("value", HOLDABLE)
    async def test_store_reads_what_the_driver_put(self, backend: Backend, value: dict[str, Any]) -> None:
        """A value that the driver stored is what the store's `get` returns."""
        await super().test_store_reads_what_the_driver_put(backend, value)

    @pytest.mark.parametrize("value", HOLDABLE)
    async def test_driver_reads_what_the_store_put(self, backend: Backend, value: dict[str, Any]) -> None:
        """A value that the store put comes back from the driver with its names and times."""
        await super().test_driver_reads_what_the_store_put(backend, value)


class TestFromURL(PostgreSQLContract):
    """Every promise of a driver, found from the URL, beyond 10,000 keys."""

    many = DriverContract.many

    @pytest.fixture
    async def backend(self, store: PostgreSQLStore, driver: PostgreSQLDriver) -> Backend:
        """Return an empty store and its driver."""
        return Backend(store, driver)


class TestFromStore(PostgreSQLContract):
    """Every promise of a driver, found from a store object that connects by itself and is not set up yet."""

    @pytest.fixture
    async def backend(self, server: Server, sql: asyncpg.Connection) -> AsyncIterator[Backend]:
        """Yield a store without a table and its driver."""
        store = BulkStore(host="127.0.0.1", port=server.port, user="postgres", default_collection="mine")
        driver = driver_for(store)
        yield Backend(store, driver)
        await driver.close()
        await store.close()


class TestFromPool(PostgreSQLContract):
    """Every promise of a driver, found from a store over the application's pool, which has a JSON codec."""

    @pytest.fixture
    async def backend(self, server: Server, sql: asyncpg.Connection) -> AsyncIterator[Backend]:
        """Yield an empty store and its driver."""
        async with await pool_with_codec(server) as pool:
            store = BulkStore(pool=pool)
            yield Backend(store, driver_for(store))

    @pytest.mark.parametrize("value", contract.VALUES)
    async def test_store_reads_what_the_driver_put(self, backend: Backend, value: dict[str, Any]) -> None:
        """A value that the driver stored is what the store's `get` returns, with NUL characters, too."""
        await DriverContract.test_store_reads_what_the_driver_put(self, backend, value)

    async def test_put_if_absent_race_of_threads(self, backend: Backend) -> None:
        """In another event loop the pool is refused, and good afterwards in its own."""
        with pytest.raises(StoreError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, backend.driver.put_if_absent(entry()))

        assert await backend.driver.put_if_absent(entry())


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


async def plan(sql: asyncpg.Connection, statement: str, *arguments: object) -> str:
    """Return how PostgreSQL runs a statement, whatever the arguments are."""
    await sql.execute("SET plan_cache_mode = force_generic_plan")
    await sql.execute("ANALYZE kv_store")
    return "\n".join(line for (line,) in await sql.fetch(f"EXPLAIN {statement}", *arguments))


class TestScan:
    """Pages by the primary key."""

    @pytest.fixture
    async def filled(self, sql: asyncpg.Connection, store: PostgreSQLStore) -> None:
        """Put 20,000 rows into the table."""
        await sql.execute(
            "INSERT INTO kv_store SELECT 'coll', 'key-' || n, jsonb_build_object('n', n), NULL, now(), NULL"
            " FROM generate_series(0, 19999) n"
        )

    @pytest.mark.usefixtures("filled")
    async def test_page_uses_the_primary_key(self, sql: asyncpg.Connection) -> None:
        """A page is read from its place in the primary key on, nothing else and nothing sorted."""
        seen = await plan(sql, Table("kv_store").page(is_first=False), "z", "z", None, 0, 1, "coll", "key-5")

        assert "Index Scan using kv_store_pkey" in seen
        assert "Index Cond: ((ROW(collection, key) <= ROW(" in seen
        assert "(ROW(collection, key) > ROW(" in seen
        assert "Seq Scan" not in seen

    @pytest.mark.usefixtures("filled")
    async def test_replace_uses_the_primary_key(self, sql: asyncpg.Connection) -> None:
        """A batch finds its rows by name, and renders the values of no others."""
        columns: list[list[Any]] = [[] for _ in range(10)]

        seen = await plan(sql, Table("kv_store").replace, *columns)

        assert "Index Scan using kv_store_pkey" in seen
        assert "Seq Scan" not in seen

    async def test_page_is_small(self, sql: asyncpg.Connection, driver: PostgreSQLDriver) -> None:
        """A page ends with the entry that takes it past 8 MiB of text, whether or not values compress well."""
        sizes = [PAGE_BYTES * 2 if n == 5 else 2**20 for n in range(20)]
        for n, size in enumerate(sizes):
            text = (
                "repeat('x', $2)"
                if n < 15
                else "(SELECT string_agg(sha256(n::text::bytea)::text, '') FROM generate_series(1, $2 / 66) n)"
            )
            value = f"jsonb_build_object('large', {text})"
            await sql.execute(f"INSERT INTO kv_store SELECT 'coll', $1, {value}", f"key-{n:02}", size)

        pages = [[len(e.stored) for e in page.entries] async for page in driver.scan()]

        assert 20 == sum(map(len, pages))
        assert all(sum(page[:-1]) < PAGE_BYTES for page in pages)
        assert all(sum(page) >= PAGE_BYTES for page in pages[:-1])

    @pytest.mark.usefixtures("store")
    async def test_server_reads_little_more_than_the_page(self, sql: asyncpg.Connection) -> None:
        """For one page the server itself does not read the large values that the page leaves out."""
        large = "(SELECT string_agg(sha256(n::text::bytea)::text, '') FROM generate_series(1, 16000) n)"
        await insert(sql, '{"n": 0}')
        await sql.execute(f"UPDATE kv_store SET value = jsonb_build_object('large', {large})")
        await sql.execute(
            "INSERT INTO kv_store SELECT collection, 'key-' || n, value FROM kv_store, generate_series(1, 29) n"
        )
        await sql.execute("SET plan_cache_mode = force_custom_plan")

        (explained,) = await sql.fetchrow(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {Table('kv_store').page(is_first=True)}",
            "z",
            "z",
            None,
            0,
            1,
        )

        seen = json.loads(explained)[0]["Plan"]
        stored = await sql.fetchval("SELECT sum(pg_column_size(value)) FROM kv_store") / 8192
        assert seen["Shared Hit Blocks"] + seen["Shared Read Blocks"] < stored / 1.5

    @pytest.mark.parametrize("key", ["", " ", "zz", "Z", "ä"])
    async def test_first_and_last_names(
        self, sql: asyncpg.Connection, driver: PostgreSQLDriver, key: str
    ) -> None:
        """The lowest and the highest names there can be are within the bounds of a scan."""
        await sql.execute("INSERT INTO kv_store (collection, key, value) VALUES ('', $1, '{}')", key)
        await insert(sql, "{}", key=key)

        assert [("", key), ("coll", key)] == [(e.collection, e.key) for e in await scanned(driver)]

    async def test_ends_though_writers_are_faster(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A scan ends, and misses nothing old, though more is put before it than it reads, again and again."""
        monkeypatch.setattr(driver_module, "_PAGES_BEFORE_BOUND", 3)
        await fill(store, PAGE_SIZE)
        await store.put("z", {"n": -1}, collection="coll")
        found: list[Entry] = []

        async for page in driver.scan():
            found += page.entries
            start = f"{page.entries[-1].key}!" if page.entries[-1].key != "z" else "a"
            await store.put("key-7", {"n": 7}, collection="coll")
            await sql.execute(
                "INSERT INTO kv_store SELECT 'coll', $1 || lpad(n::text, 4, '0'), '{\"n\": -2}', NULL, now()"
                " FROM generate_series(0, $2) n ON CONFLICT DO NOTHING",
                start,
                PAGE_SIZE,
            )
            assert len(found) < 10 * PAGE_SIZE

        assert {*range(PAGE_SIZE), -1} <= numbers(found).keys()

    async def test_no_transaction_between_pages(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """While a page is worked on, the driver holds no transaction, lock or snapshot."""
        await fill(store, PAGE_SIZE + 1)
        pages = driver.scan()
        await anext(pages)

        open_ones = await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL) AND state <> 'active'"
        )

        assert 0 == open_ones
        assert 1 == len((await anext(pages)).entries)

    async def test_partitions_are_the_same_everywhere(
        self, server: Server, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """Another process finds the same names in a part."""
        await fill(store, 100)
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url

async def main():
    driver = await driver_from_url(sys.argv[1])
    print(*[e.key async for page in driver.scan(partition=(1, 3)) for e in page.entries])
    await driver.close()

asyncio.run(main())
"""
        here = [e.key for e in await scanned(driver, partition=(1, 3))]

        there = python(script, server.url()).communicate()[0].split()

        assert here == there
        assert 10 < len(here) < 60


class TestPlaces:
    """Where the store is, and where none is."""

    async def test_table_in_the_url(self, server: Server, sql: asyncpg.Connection) -> None:
        """The URL names the table; creating makes it as the store does, and then it opens without."""
        await sql.execute("DROP TABLE IF EXISTS other_table")
        url = server.url(query="?table=other_table").replace("postgresql:", "postgres:")
        with pytest.raises(StoreNotFoundError, match="no table other_table"):
            await driver_from_url(url)

        made = await driver_from_url(url, create=True)
        opened = await driver_from_url(url)
        assert await made.put_if_absent(entry())
        assert {"n": 0} == (await fetched(opened)).value
        await made.close()
        await opened.close()
        columns = (
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = $1"
        )
        theirs = PostgreSQLStore(url=server.url())
        await theirs.setup()
        await theirs.close()
        assert await sql.fetch(columns, "kv_store") == await sql.fetch(columns, "other_table")
        assert server.url(query="?table=other_table") == made.location

    async def test_reading_makes_nothing(self, server: Server, sql: asyncpg.Connection) -> None:
        """A store object without its table reads as empty, and only a put makes the table."""
        store = PostgreSQLStore(url=server.url())
        driver = driver_for(store)

        seen = (await driver.get("coll", "key"), await scanned(driver), (await driver.count()).entries)

        assert (None, [], 0) == seen
        assert not await sql.fetchval("SELECT to_regclass('kv_store') IS NOT NULL")
        assert await driver.put_if_absent(entry())
        assert {"n": 0} == (await fetched(driver)).value
        await driver.close()

    async def test_store_that_makes_no_table(self, server: Server, sql: asyncpg.Connection) -> None:
        """Where the store would not make its table, neither does the driver, and it says what to do."""
        driver = driver_for(PostgreSQLStore(url=server.url(), auto_create=False))

        with pytest.raises(StoreNotFoundError, match="no table kv_store") as caught:
            await driver.put_if_absent(entry())
        with pytest.raises(StoreNotFoundError):
            await driver.get("coll", "key")

        assert "?table=" in caught.value.hint
        assert not await sql.fetchval("SELECT to_regclass('kv_store') IS NOT NULL")
        await driver.close()

    @pytest.mark.parametrize("create", [False, True])
    async def test_no_database(self, server: Server, create: bool) -> None:
        """A database that does not exist is not found, and never created."""
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            await driver_from_url(server.url(database="nowhere"), create=create)
        driver = driver_for(PostgreSQLStore(url=server.url(database="nowhere")))
        with pytest.raises(StoreNotFoundError) as caught:
            await driver.put_if_absent(entry())

        assert "never creates" in caught.value.hint
        await driver.close()

    async def test_table_of_something_else(self, sql: asyncpg.Connection, server: Server) -> None:
        """A table that is not PostgreSQLStore's is left alone, in words."""
        await sql.execute("CREATE TABLE kv_store (id int)")
        driver = await driver_from_url(server.url())

        with pytest.raises(UnsupportedStoreError) as caught:
            await driver.put_if_absent(entry())

        assert "PostgreSQLStore" in caught.value.hint
        await driver.close()

    async def test_no_permission(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, server: Server
    ) -> None:
        """A user who may read but not write is told what to grant."""
        await sql.execute(
            "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT SELECT ON kv_store TO reader"
        )
        driver = await driver_from_url(server.url("reader"))

        with pytest.raises(StoreUnreachableError, match="permission denied") as caught:
            await driver.put_if_absent(entry())

        assert "grant" in caught.value.hint
        assert await driver.get("coll", "key") is None
        await driver.close()
        await sql.execute("DROP OWNED BY reader; DROP ROLE reader")

    async def test_read_only(self, store: PostgreSQLStore, server: Server) -> None:
        """A server that takes no writes, such as a standby, says so."""
        driver = await driver_from_url(server.url(query="?default_transaction_read_only=on"))

        with pytest.raises(StoreUnreachableError, match="read-only"):
            await driver.put_if_absent(entry())
        await driver.close()

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:database",
            "postgresql:",
            "postgresql://{at}?table=",
            "postgresql://{at}?table=a&table=b",
            "postgresql://{at}?table=kv_store;drop",
            "postgresql://{at}?table=1a",
        ],
    )
    async def test_no_url_of_a_table(self, server: Server, url: str) -> None:
        """What cannot name a table is refused before anything connects."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(url.format(at=f"127.0.0.1:{server.port}/postgres"))

        assert "postgresql://USER@HOST" in caught.value.hint

    async def test_default_collection(self) -> None:
        """The driver says which collection the store takes for none."""
        store = PostgreSQLStore(url="postgresql://nowhere", default_collection="mine")

        assert "mine" == driver_for(store).default_collection

    async def test_subclass_with_its_own_connections(self, server: Server, store: PostgreSQLStore) -> None:
        """A store that connects in a way of its own is followed, not its unused parameters."""

        class Elsewhere(PostgreSQLStore):
            async def _create_pool(self) -> asyncpg.Pool:
                return await asyncpg.create_pool(server.url(), min_size=0)

        driver = driver_for(Elsewhere(host="192.0.2.1"))
        await store.put("key", SMALL, collection="coll")

        assert SMALL == (await fetched(driver)).value
        assert "Elsewhere" in driver.location
        await driver.close()

    @pytest.mark.usefixtures("sql")
    async def test_vault_in_an_empty_database(self, server: Server) -> None:
        """A vault is created in an empty database, and its records go through the application's store."""
        store = PostgreSQLStore(url=server.url())
        cheap = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
        vault = await Vault.create(store, secret=Secret(b"a long enough secret"), kdf=cheap)
        kv = EnvelopeEncryptionWrapper(key_value=store, secret=Secret(b"a long enough secret"))

        await kv.put("key", {"n": "\0"}, collection="coll")

        assert {"n": "\0"} == await kv.get("key", collection="coll")
        assert {"__encrypted_data__", "__encryption_version__"} == set(
            await store.get("key", collection="coll") or {}
        )
        await vault.close()
        await store.close()

    @pytest.mark.processes
    def test_without_asyncpg(self) -> None:
        """Without asyncpg a URL says what to install."""
        script = """
import asyncio, sys
sys.modules["asyncpg"] = None
from kvseal.drivers import driver_from_url
from kvseal.errors import UnsupportedStoreError
try:
    asyncio.run(driver_from_url("postgresql://localhost"))
except UnsupportedStoreError as exc:
    print(exc.hint)
"""
        assert "pip install 'kvseal[postgresql]'\n" == python(script).communicate()[0]


class TestPasswords:
    """Nothing that is shown has a password in it."""

    @pytest.fixture(autouse=True)
    async def _guarded(self, sql: asyncpg.Connection) -> None:
        await sql.execute(
            f"DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'"
        )

    @staticmethod
    async def shown(url: str) -> str:
        """Return all that an error about *url* shows."""
        with pytest.raises(KvsealError) as caught:
            await driver_from_url(url)
        return repr(caught.value) + caught.value.hint + "".join(traceback.format_exception(caught.value))

    @pytest.mark.usefixtures("store")
    async def test_location(self, server: Server) -> None:
        """Drivers connect with the password, and neither their location nor their repr has it."""
        url = server.url(f"guarded:{PASSWORD}")
        parameters = {"host": "127.0.0.1", "port": server.port, "user": "guarded", "password": PASSWORD}
        found = [
            await driver_from_url(url),
            await driver_from_url(server.url("guarded", query=f"?password={PASSWORD}")),
            driver_for(PostgreSQLStore(url=url)),
            driver_for(PostgreSQLStore(**parameters)),
        ]
        for driver in found:
            assert 0 == (await driver.count()).entries
            await driver.close()

        assert {server.url("guarded", query="?table=kv_store")} == {driver.location for driver in found}
        assert PASSWORD not in "".join(map(repr, found))

    @pytest.mark.parametrize(
        ("user", "query"),
        [
            (f"guarded:not-{PASSWORD}", ""),
            ("guarded", f"?password=not-{PASSWORD}"),
            (f"guarded:a/{PASSWORD}", ""),
            (f"guarded:a?{PASSWORD}", ""),
            (f"guarded:{PASSWORD}?b", ""),
            (f"guarded:a#{PASSWORD}", ""),
            (f"guarded:[{PASSWORD}", ""),
            (f"guarded:@:{PASSWORD}@", "?table=a-b"),
            (f"guarded:{PASSWORD}", "?sslmode=nonsense"),
        ],
    )
    async def test_errors(self, server: Server, user: str, query: str) -> None:
        """An error shows no password, be it wrong, odd, or quoted by asyncpg."""
        shown = await self.shown(server.url(user, query=query))

        assert PASSWORD not in shown
        assert "guarded" in shown

    async def test_wrong_password(self, server: Server) -> None:
        """A password that the server refuses is an unreachable store, with its location."""
        shown = await self.shown(server.url("guarded:wrong"))

        assert "StoreUnreachableError" in shown
        assert server.url("guarded") in shown
        assert "pg_hba.conf" in shown

    async def test_value_in_an_error(self, sql: asyncpg.Connection, driver: PostgreSQLDriver) -> None:
        """What the server says of a value that it refuses does not show the value."""
        await sql.execute(f"ALTER TABLE kv_store ADD CHECK (value->>'n' <> '{PASSWORD}')")

        with pytest.raises(StoreError) as caught:
            await driver.put_if_absent(entry(value={"n": PASSWORD}))

        assert PASSWORD not in "".join(traceback.format_exception(caught.value))


class TestServer:
    """A server that comes and goes."""

    async def test_stopped_in_the_middle(
        self, server: Server, store: PostgreSQLStore, driver: Driver
    ) -> None:
        """A scan over a server that stops raises, and with the server everything goes on behind the cursor."""
        await fill(store, 2 * PAGE_SIZE)
        from_store = driver_for(store)
        pages = driver.scan()
        first = await anext(pages)
        assert ["coll", first.entries[-1].key] == json.loads(first.cursor)
        server.stop()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnreachableError) as caught:
                    await driver.replace_many([Replacement(first.entries[0], SMALL)])
                assert driver.location in str(caught.value)
                assert caught.value.__cause__ is not None
            with pytest.raises(StoreUnreachableError):
                await anext(pages)
            with pytest.raises(StoreUnreachableError):
                await from_store.count()
        finally:
            server.start()

        rest = await scanned(driver, after=first.cursor)

        assert dict.fromkeys(range(2 * PAGE_SIZE), 1) == numbers([*first.entries, *rest])
        assert [True] == list(await driver.replace_many([Replacement(first.entries[0], SMALL)]))
        assert 2 * PAGE_SIZE == (await from_store.count()).entries

    @pytest.mark.servers
    async def test_nobody_there(self) -> None:
        """Where no server listens the store is unreachable."""
        with pytest.raises(StoreUnreachableError, match=r"127\.0\.0\.1:1/db"):
            await driver_from_url("postgresql://user@127.0.0.1:1/db")

    async def test_closed(self, driver: PostgreSQLDriver) -> None:
        """A closed driver says so, and its connections are gone."""
        await driver.count()
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await driver.count()

    async def test_closed_pool(self, pool: asyncpg.Pool, store: PostgreSQLStore) -> None:
        """A pool that the application closed is an unreachable store."""
        await pool.close()

        with pytest.raises(StoreUnreachableError, match="pool is closed"):
            await driver_for(store).count()

    async def test_connections_end_with_their_loop(
        self, sql: asyncpg.Connection, server: Server, store: PostgreSQLStore
    ) -> None:
        """One driver serves loop after loop; when a loop ends, or the driver is gone, so are its connections."""

        async def others() -> int:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
            # A session ends a moment after its client has left.
            for _ in range(10_000):
                if not (count := await sql.fetchval(query)):
                    break
            return int(count)

        driver = driver_for(PostgreSQLStore(url=server.url(query="?application_name=counted")))
        counts = [await asyncio.to_thread(asyncio.run, driver.count()) for _ in range(3)]
        assert [0, 0, 0] == [count.entries for count in counts]
        assert 0 == await others()

        await driver.count()
        assert 1 == await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
        )
        del driver
        gc.collect()
        assert 0 == await others()


class TestRaces:
    """Many at once."""

    async def test_put_if_absent_of_processes(self, server: Server, sql: asyncpg.Connection) -> None:
        """Of 8 processes that put the same names at once, with no table to begin with, one succeeds for each."""
        script = """
import asyncio, sys
from key_value.aio.stores.postgresql import PostgreSQLStore
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry

async def main():
    driver = driver_for(PostgreSQLStore(url=sys.argv[1]))
    await driver.get("coll", "key")
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(30):
        if await driver.put_if_absent(Entry("coll", f"key-{n}", {"by": sys.argv[2]})):
            print(n)
    await driver.close()

asyncio.run(main())
"""
        racers = [python(script, server.url(), n) for n in range(8)]
        assert ["ready\n"] * 8 == [racer.stdout.readline() for racer in racers if racer.stdout]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [[f"key-{n}" for n in racer.communicate()[0].split()] for racer in racers]

        assert [0] * 8 == [racer.returncode for racer in racers]
        assert 30 == len([key for keys in won for key in keys])
        rows = await sql.fetch("SELECT key, value->>'by' AS by FROM kv_store")
        assert {key: str(n) for n, keys in enumerate(won) for key in keys} == dict(rows)

    @pytest.mark.parametrize("sqlstate", ["23505", "42P07", "42710"], ids=["index", "table", "row type"])
    async def test_a_table_created_by_another_at_the_same_time(
        self, server: Server, driver: PostgreSQLDriver, sql: asyncpg.Connection, sqlstate: str
    ) -> None:
        """The server may refuse the loser at its index, its name or its row type: the put succeeds all the same."""
        await sql.execute("DROP TABLE kv_store")
        await sql.execute("CREATE SEQUENCE attempts")
        await sql.execute(
            f"""
            CREATE FUNCTION lose_once() RETURNS event_trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '{sqlstate}'; END IF;
            END $$
            """
        )
        await sql.execute(
            "CREATE EVENT TRIGGER lose_once ON ddl_command_start WHEN TAG IN ('CREATE TABLE')"
            " EXECUTE FUNCTION lose_once()"
        )
        owner = driver_for(PostgreSQLStore(url=server.url()))
        try:
            assert await owner.put_if_absent(entry())
        finally:
            await owner.close()
            await sql.execute("DROP EVENT TRIGGER lose_once")
            await sql.execute("DROP FUNCTION lose_once; DROP SEQUENCE attempts")
        assert {"n": 0} == (await fetched(driver)).value

    async def test_put_if_absent_over_an_expired_row(self, driver: PostgreSQLDriver) -> None:
        """Of many that find the same expired row, one takes its name."""
        await driver.put_if_absent(entry(expires_at=PAST))

        done = await asyncio.gather(*(driver.put_if_absent(entry(value={"n": n})) for n in range(40)))

        assert 1 == done.count(True)
        assert {"n": done.index(True)} == (await fetched(driver)).value

    async def test_no_lost_update_beside_live_writers(
        self, pool: asyncpg.Pool, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """
        Of 20,000 updates of 8 counters, while batches replace the same rows, every single one counts.

        Each writer adds one in the server.  A batch that put back an older value would take some away.
        """
        keys = [f"key-{n}" for n in range(8)]
        await store.put_many(keys, [{"n": 0}] * 8, collection="coll")
        writers_done = asyncio.Event()
        sql = "UPDATE kv_store SET value = jsonb_set(value, '{n}', to_jsonb((value->>'n')::int + 1)) WHERE key = $1"

        async def write(worker: int) -> None:
            async with pool.acquire() as con:
                statement = await con.prepare(sql)
                for turn in range(5000):
                    await statement.fetch(keys[(turn + worker) % 8])

        async def swap() -> tuple[int, int]:
            done = conflicts = 0
            while not writers_done.is_set():
                found = [await fetched(driver, key) for key in keys] if done % 2 else await scanned(driver)
                batch = [Replacement(e, {**(e.value or {}), "swapped": done}) for e in found]
                results = await driver.replace_many(batch)
                done, conflicts = done + sum(results), conflicts + results.count(False)  # type: ignore[attr-defined]
            return done, conflicts

        swapping = asyncio.gather(swap(), swap())
        await asyncio.gather(*(write(worker) for worker in range(4)))
        writers_done.set()
        (done, conflicts), _ = await swapping

        assert 20_000 == sum([found.value["n"] for found in await scanned(driver) if found.value])
        assert done > 0
        assert conflicts > 0

    async def test_batches_in_circles(self, server: Server, store: PostgreSQLStore, driver: Driver) -> None:
        """Batches over the same rows in opposite orders all end, and each row is won once per round."""
        await fill(store, 50)
        other = await driver_from_url(server.url())
        for turn in range(20):
            read = await scanned(driver)
            batches = [read, read[::-1], read[::2], read[1::2]]
            results = await asyncio.gather(*(
                swapper.replace_many([Replacement(e, {"n": turn, "by": n}) for e in batch])
                for n, (swapper, batch) in enumerate(zip([driver, other, driver, other], batches, strict=True))
            ))  # fmt: skip

            assert 50 == sum(sum(result) for result in results)
        await other.close()

    async def test_deadlock_is_tried_again(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, driver: PostgreSQLDriver
    ) -> None:
        """A batch that the server sacrifices to end a deadlock is tried again, and succeeds."""
        await fill(store, 2)
        read = await scanned(driver)
        async with sql.transaction():
            await sql.execute(
                "SET LOCAL deadlock_timeout = '10s'"
            )  # The driver's session gives way, not this one.
            await sql.execute("UPDATE kv_store SET ttl = NULL WHERE key = 'key-1'")
            swap = asyncio.create_task(driver.replace_many([Replacement(e, {"new": 1}) for e in read]))
            while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass
            await sql.execute("UPDATE kv_store SET ttl = NULL WHERE key = 'key-0'")

        assert [True, True] == list(await swap)

    async def test_serializable_sessions(self, server: Server, store: PostgreSQLStore) -> None:
        """Where sessions are serializable by default, races end as they do elsewhere."""
        driver = await driver_from_url(server.url(query="?default_transaction_isolation=serializable"))

        done = await asyncio.gather(*(driver.put_if_absent(entry(value={"n": n})) for n in range(8)))

        assert 1 == done.count(True)
        read = await fetched(driver)
        swaps = await asyncio.gather(
            *(driver.replace_many([Replacement(read, {"n": -n})]) for n in range(1, 9))
        )
        assert [1] == [sum(map(sum, swaps))]
        await driver.close()
