"""Scans by the primary key, and what they cost the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.entries import fill, numbers, scanned
from tests.drivers.postgresql.tables import insert, python

from kvseal.drivers.base import PAGE_SIZE, Driver, Entry
from kvseal.drivers.postgresql import scanning
from kvseal.drivers.postgresql.table import PAGE_BYTES, Table

if TYPE_CHECKING:
    import asyncpg
    from key_value.aio.stores.postgresql import PostgreSQLStore
    from tests.drivers.postgresql.server import Server

    from kvseal.drivers.postgresql.driver import PostgreSQLDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


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
        monkeypatch.setattr(scanning, "_PAGES_BEFORE_BOUND", 3)
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
