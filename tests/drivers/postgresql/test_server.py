"""A server that stops, and writers that race."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers.entries import PAST, SMALL, entry, fetched, fill, numbers, scanned
from tests.drivers.postgresql.tables import python

from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Driver, Replacement
from kvseal.errors import (
    StoreError,
    StoreUnreachableError,
)

if TYPE_CHECKING:
    import asyncpg
    from tests.drivers.postgresql.server import Server

    from kvseal.drivers.postgresql.driver import PostgreSQLDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


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
