# ruff: noqa: ASYNC221, ASYNC240 - tests may block
"""The DuckDB driver: the contract, whose database and whose transaction it is, and what DuckDB makes of values."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.duckdb import DuckDBStore
from tests.drivers.contract import DriverContract
from tests.drivers.entries import FUTURE, SMALL, VALUES, Backend, entry, fetched, fill, scanned

from kvseal import Secret, Vault
from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Count, Replacement
from kvseal.drivers.duckdb.connections import Connections
from kvseal.drivers.duckdb.driver import DuckDBDriver
from kvseal.errors import (
    EvictingStoreError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from kvseal import Argon2idParams

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


class FilledStore(DuckDBStore):
    """A store that puts many values in one statement, because DuckDB takes milliseconds for each."""

    async def put_many(self, keys: Sequence[str], values: Sequence[Any], **options: Any) -> None:
        """Store the rows that `put` would store."""
        await self.setup()
        rows = json.dumps([{"key": k, "value": json.dumps(v)} for k, v in zip(keys, values, strict=True)])
        self._connection.execute(
            f"""INSERT OR REPLACE INTO {self._table_name}
            SELECT $collection, key, value::JSON, now(), NULL, 1 FROM (
                SELECT unnest(from_json($rows::JSON, '[{{"key": "VARCHAR", "value": "VARCHAR"}}]'),
                recursive := true))""",
            {"collection": options["collection"], "rows": rows},
        )


def raw(
    store: DuckDBStore, value: str, key: str = "key", created_at: str = "now()", expiry: str = "NULL"
) -> None:
    """Insert a row as it is, past every check."""
    sql = f"INSERT INTO {store._table_name} VALUES ('coll', $key, $value, {created_at}, {expiry}, 1)"
    store._connection.execute(sql, {"key": key, "value": value})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the database is."""
    return tmp_path / "store.duckdb"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[DuckDBStore]:
    """Yield an empty store in a file."""
    store = FilledStore(database_path=path)
    yield store
    store._connection.close()


@pytest.fixture
async def driver(store: DuckDBStore) -> AsyncIterator[DuckDBDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, DuckDBDriver)
    yield driver
    await driver.close()


@pytest.mark.exhaustive
class TestDuckDBDriver(DriverContract):
    """Every promise of a driver, over a connection of the application's own to a database in memory."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        """Yield an empty store in a table of another name and schema."""
        connection = duckdb.connect()
        connection.execute("""CREATE SCHEMA "odd's"; USE memory."odd's" """)
        store = FilledStore(connection=connection, table_name="Own_Table")
        driver = driver_for(store)
        yield Backend(store, driver)
        await driver.close()
        connection.close()

    @pytest.mark.parametrize("value", [v for v in VALUES if v.id != "nested"])
    async def test_driver_reads_what_the_store_put(self, backend: Backend, value: dict[str, Any]) -> None:
        """A value that the store put is what the driver reads, but for those that DuckDB itself refuses."""
        await super().test_driver_reads_what_the_store_put(backend, value)


class TestValues:
    """What DuckDB makes of a value is told as it lies in the table."""

    @pytest.mark.parametrize(
        ("put", "stored"),
        [
            ({"key": ["a"], "value": ["b"]}, {"a": "b"}),
            ({"a": [1, "x"]}, {"a": ["1", "x"]}),
        ],
    )
    async def test_values_that_the_store_changes(
        self, store: DuckDBStore, driver: DuckDBDriver, put: dict[str, Any], stored: dict[str, Any]
    ) -> None:
        """What the store has turned into something else is read by both as what it is now."""
        await store.put("key", put, collection="coll")

        assert stored == await store.get("key", collection="coll") == (await fetched(driver)).value

    @pytest.mark.parametrize(
        "value",
        [{"key": ["a"], "value": ["b"]}, {"a": [1, "x", {"b": None}]}, {"": 1}, {"a": -0.0, "b": 1e16}],
    )
    async def test_the_driver_changes_nothing(
        self, store: DuckDBStore, driver: DuckDBDriver, value: dict[str, Any]
    ) -> None:
        """Values that the store would change are stored by the driver as they are, put and replaced."""
        await driver.put_if_absent(entry(value=value))
        put = await store.get("key", collection="coll")
        await base.replace(driver, await fetched(driver), {**value, "new": 1})

        assert json.dumps(value, sort_keys=True) == json.dumps(put, sort_keys=True)
        assert json.dumps({**value, "new": 1}, sort_keys=True).encode() == (await fetched(driver)).stored

    async def test_lone_surrogates(self, driver: DuckDBDriver) -> None:
        """What DuckDB cannot hold is refused before anything is changed, and not quoted."""
        await driver.put_if_absent(entry())
        before = await fetched(driver)

        for change in (
            driver.put_if_absent(entry("other", value={"hunter2": "\ud800"})),
            driver.replace_many([Replacement(before, {"hunter2": "\ud800"})]),
        ):
            with pytest.raises(UnsealableValueError, match="surrogate") as caught:
                await change
            assert "hunter2" not in str(caught.value)
            assert caught.value.__cause__ is None
        for names in ({"key": "\ud800"}, {"collection": "\ud800"}):
            with pytest.raises(StoreError, match="lone surrogate"):
                await driver.put_if_absent(replace(entry(), **names))
        assert [before] == await scanned(driver)

    @pytest.mark.parametrize("value", ["[1]", '"text"', '"{\\"n\\": 1}"', "null", "7"])
    async def test_values_that_are_no_mapping(
        self, store: DuckDBStore, driver: DuckDBDriver, value: str
    ) -> None:
        """A value that the store reads as missing is a problem."""
        await store.setup()
        raw(store, value)

        assert await store.get("key", collection="coll") is None
        (found,) = await scanned(driver)
        assert "the value is not a mapping" == found.problem
        assert await driver.put_if_absent(entry()) is False
        with pytest.raises(StoreError, match="never changed"):
            await driver.replace_many([Replacement(found, SMALL)])

    @pytest.mark.parametrize("time", ["'infinity'", "'-infinity'", "'20000-01-01 00:00:00+00'"])
    async def test_odd_times(self, store: DuckDBStore, driver: DuckDBDriver, time: str) -> None:
        """A time that Python cannot hold is a problem of its row."""
        await store.setup()
        raw(store, "{}", created_at=time)
        raw(store, "{}", key="next", expiry="'infinity'")
        raw(store, "{}", key="past", expiry="'-infinity'")

        found = await scanned(driver)

        assert ["key", "next"] == [e.key for e in found]
        assert all("years 1 to 9999" in e.problem for e in found)


async def test_same_value_put_again(store: DuckDBStore, driver: DuckDBDriver) -> None:
    """The same value put again is another entry: its creation time says so."""
    await store.put("key", SMALL, collection="coll")
    stale = await fetched(driver)
    await store.put("key", SMALL, collection="coll")

    assert [False] == list(await driver.replace_many([Replacement(stale, {"lost": 1})]))
    assert await driver.delete_if_unchanged(stale) is False


class TestTransactions:
    """Beside transactions of the application."""

    async def test_driver_is_not_part_of_it(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """What the driver has acknowledged stays when the application rolls back, which it still can."""
        await store.put("theirs", SMALL, collection="coll")
        store._connection.begin()
        await store.put("theirs", {"uncommitted": 1}, collection="coll")

        await driver.put_if_absent(entry("ours"))
        seen = (await fetched(driver, "theirs")).value
        store._connection.rollback()

        assert SMALL == seen
        assert [SMALL, {"n": 0}] == await store.get_many(["theirs", "ours"], collection="coll")

    async def test_row_that_it_has_changed(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """A row that an open transaction has changed is refused in words, and the transaction goes on."""
        await store.put("key", SMALL, collection="coll")
        found = await fetched(driver)
        store._connection.begin()
        await store.put("key", {"theirs": 1}, collection="coll")

        with pytest.raises(StoreUnreachableError, match="has not ended"):
            await driver.replace_many([Replacement(found, {"ours": 1})])
        store._connection.commit()

        assert {"theirs": 1} == await store.get("key", collection="coll")
        assert [False] == list(await driver.replace_many([Replacement(found, {"ours": 1})]))

    async def test_clock_does_not_stand_still(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """What expired since the application began its transaction is expired."""
        await store.setup()
        store._connection.begin()
        store._connection.execute("SELECT now()")
        await driver.put_if_absent(entry(expires_at=datetime.now(timezone.utc)))

        assert await driver.get("coll", "key") is None
        store._connection.rollback()

    async def test_result_that_the_application_reads(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """A result that the application has not fetched to its end is not disturbed."""
        result = store._connection.execute("SELECT * FROM range(10000)")
        first = result.fetchone()

        await driver.put_if_absent(entry())
        await scanned(driver)

        assert (0,) == first
        assert 9999 == len(result.fetchall())

    async def test_writes_are_in_the_thread_of_the_loop(
        self, driver: DuckDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No write runs in another thread, where it could make one of the application's fail."""
        writers: set[int] = set()
        rows = Connections.rows

        def note(connections: Connections, sql: str, parameters: dict[str, Any]) -> list[Any]:
            if not sql.lstrip().startswith("SELECT"):
                writers.add(threading.get_ident())
            return rows(connections, sql, parameters)

        monkeypatch.setattr(Connections, "rows", note)
        await driver.put_if_absent(entry())
        await driver.replace_many([Replacement(await fetched(driver), SMALL, FUTURE)])
        await driver.delete_if_unchanged(await fetched(driver))

        assert {threading.get_ident()} == writers


class TestTables:
    """Which table, and who makes it."""

    async def test_table_that_the_store_would_make(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """Before its first use a store is empty; the table that the driver makes is the store's."""
        schema = "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_indexes() ORDER BY sql"
        assert ([], None) == (await scanned(driver), await driver.get("coll", "key"))
        assert Count(0, exact=True) == await driver.count()
        await driver.put_if_absent(entry())
        made = store._connection.execute(schema).fetchall()

        other = DuckDBStore()
        await other.setup()

        assert other._connection.execute(schema).fetchall() == made
        assert {"n": 0} == await store.get("key", collection="coll")
        other._connection.close()

    async def test_store_that_must_not_create(self, path: Path) -> None:
        """Where the store would not make its table, the driver does not either."""
        store = DuckDBStore(database_path=path, auto_create=False)
        driver = driver_for(store)

        for refused in (
            driver.put_if_absent(entry()),
            driver.get("coll", "key"),
            driver.count(),
            scanned(driver),
        ):
            with pytest.raises(StoreNotFoundError, match="no table kv_entries"):
                await refused
        store._connection.close()

    async def test_temporary_table(self) -> None:
        """A table that only the application's connection sees is refused, and not made a second time."""
        connection = duckdb.connect()
        connection.execute("CREATE TEMP TABLE kv_entries(a INT)")

        with pytest.raises(UnsupportedStoreError, match="temporary table"):
            driver_for(DuckDBStore(connection=connection))
        connection.close()

    async def test_pages_are_bounded_by_bytes(self, store: DuckDBStore, driver: DuckDBDriver) -> None:
        """A page of large values ends early, and a scan of many small ones is in order."""
        await fill(store, PAGE_SIZE + 1)
        for n in range(10):
            await driver.put_if_absent(entry(f"z{n}", value={"large": "x" * 2**20}))

        pages = [[e.key for e in page.entries] async for page in driver.scan()]

        assert sorted(key for page in pages for key in page) == [key for page in pages for key in page]
        assert [PAGE_SIZE, 9, 2] == [len(page) for page in pages]


class TestLocations:
    """`duckdb:` URLs, and who else has the database."""

    async def test_from_url(self, store: DuckDBStore, path: Path) -> None:
        """A closed store is reached by its URL, and what is written there is what the store reads."""
        await store.put("key", SMALL, collection="coll")
        store._connection.close()

        driver = await driver_from_url(f"duckdb:{path}")
        await base.replace(driver, await fetched(driver), {"new": 1})
        await driver.put_if_absent(entry("other"))
        await driver.close()
        await driver.close()

        again = DuckDBStore(database_path=path)
        assert [{"new": 1}, {"n": 0}] == await again.get_many(["key", "other"], collection="coll")
        again._connection.close()
        with pytest.raises(StoreError, match="closed"):
            await driver.count()

    @pytest.mark.processes
    async def test_open_elsewhere(self, store: DuckDBStore, path: Path) -> None:
        """A database that a process has open is unreachable by URL, which says how to go on."""
        await store.put("key", SMALL, collection="coll")
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url
from kvseal.errors import StoreUnreachableError
try:
    asyncio.run(driver_from_url("duckdb:" + sys.argv[1]))
except StoreUnreachableError as exc:
    print(exc, exc.hint)
"""
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
        )

        assert "lock" in done.stdout
        with pytest.raises(StoreUnreachableError) as caught:
            await driver_from_url(f"duckdb:{path}")
        for hint in (done.stdout, caught.value.hint):
            assert "await kvseal.recoding" in hint
            assert "stop the application" in hint

    @pytest.mark.processes
    async def test_closed_by_the_application(
        self, store: DuckDBStore, driver: DuckDBDriver, path: Path
    ) -> None:
        """Once the application has closed its connection, its driver does not keep the database open."""
        await driver.put_if_absent(entry())
        await scanned(driver)
        store._connection.close()
        script = "import duckdb, sys; print(duckdb.connect(sys.argv[1]).table('kv_entries').fetchall())"

        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
        )

        assert "coll" in done.stdout
        with pytest.raises(StoreUnreachableError, match="closed"):
            await driver.get("coll", "key")

    async def test_missing(self, tmp_path: Path, path: Path) -> None:
        """A path without a database, or a database without the table, is not found; nothing is created."""
        (tmp_path / "text").write_text("something else")
        duckdb.connect(path).close()

        for url in (
            f"{tmp_path}/nothing",
            str(tmp_path),
            f"{tmp_path}/text",
            str(path),
            f"{path}?table=other",
        ):
            with pytest.raises(StoreNotFoundError):
                await driver_from_url(f"duckdb:{url}")

        assert ["store.duckdb", "text"] == sorted(p.name for p in tmp_path.iterdir())
        assert "something else" == (tmp_path / "text").read_text()

    async def test_foreign_table(self, path: Path) -> None:
        """A table of that name with other columns is not a store's."""
        con = duckdb.connect(path)
        con.execute("CREATE TABLE kv_entries(a INT)")
        con.close()

        for create in (False, True):
            with pytest.raises(StoreNotFoundError, match="of a DuckDBStore"):
                await driver_from_url(f"duckdb:{path}", create=create)

    async def test_create(self, tmp_path: Path) -> None:
        """`create` makes a database for its owner alone, and leaves one that exists as it is."""
        path = tmp_path / "new" / "store.duckdb"
        for n in range(2):
            driver = await driver_from_url(f"duckdb:{path}?table=mine", create=True)
            assert Count(n, exact=True) == await driver.count()
            await driver.put_if_absent(entry())
            await driver.close()

        store = DuckDBStore(database_path=path, table_name="mine")
        assert {"n": 0} == await store.get("key", collection="coll")
        store._connection.close()
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    async def test_a_database_reaches_no_other_file(self, path: Path, tmp_path: Path) -> None:
        """A view that somebody planted in place of the table reads no file of this machine."""
        (tmp_path / "secret.csv").write_text("collection,key\nstolen,stolen\n")
        con = duckdb.connect(path)
        con.execute(
            f"""CREATE VIEW kv_entries AS SELECT collection, key, '{{}}'::JSON AS value, now() AS created_at,
            NULL::TIMESTAMPTZ AS expires_at, 1 AS version FROM read_csv('{tmp_path}/secret.csv')"""
        )
        con.close()

        with pytest.raises(StoreUnreachableError, match="PermissionException"):
            await driver_from_url(f"duckdb:{path}")

    @pytest.mark.parametrize(
        "url", ["duckdb:s x#%20.duckdb", "duckdb:~/s x#%20.duckdb", "duckdb://{here}/s x#%20.duckdb"]
    )
    async def test_spellings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """A path may be relative, under the home directory, or absolute behind `//`; every character is itself."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

        driver = await driver_from_url(url.format(here=tmp_path), create=True)

        assert f"duckdb:{tmp_path / 's x#%20.duckdb'}?table=kv_entries" == driver.location
        await driver.close()

    @pytest.mark.parametrize(
        "url", ["duckdb:", "duckdb:?table=x", "duckdb:p?table=", "duckdb:p?table=a;b", "duckdb::memory:"]
    )
    async def test_urls_of_no_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """What names no table is refused, and creates nothing."""
        monkeypatch.chdir(tmp_path)

        with pytest.raises(UnsupportedStoreError):
            await driver_from_url(url, create=True)
        assert [] == list(tmp_path.iterdir())

    async def test_capabilities(self, driver: DuckDBDriver) -> None:
        """A database in memory is gone with the process, one in a file is not."""
        in_memory = driver_for(DuckDBStore()).capabilities

        assert (True, False) == (driver.capabilities.lasting, in_memory.lasting)

    async def test_vault_meta_beside_records_that_last(
        self, store: DuckDBStore, tmp_path: Path, cheap: Argon2idParams
    ) -> None:
        """A vault meta may be kept in a database file, which one process has, but not in one in memory."""
        records = DiskStore(directory=tmp_path / "records")
        secret = Secret(b"correct horse battery staple")

        for data in (records, store):
            with pytest.raises(EvictingStoreError, match="gone with this process"):
                await Vault.create(data, secret=secret, kdf=cheap, meta_store=DuckDBStore())
        vault = await Vault.create(records, secret=secret, kdf=cheap, meta_store=store)

        assert 1 == (await driver_for(store).count()).entries
        await vault.close()
        records._cache.close()
