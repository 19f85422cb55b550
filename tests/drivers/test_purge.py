"""Purge, seen from outside: the bytes of an overwritten value are searched for in the files of real backends."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import asyncpg
import duckdb
import pytest
from key_value.aio.stores.disk import DiskStore, MultiDiskStore
from key_value.aio.stores.duckdb import DuckDBStore
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.rocksdb import RocksDBStore
from tests.drivers.entries import entry, fetched
from tests.drivers.postgresql.server import Server, running
from tests.servers import RedisServer

from kvseal import backup
from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import GRACE
from kvseal.drivers.disk.database import CacheDB
from kvseal.drivers.disk.driver import DiskDriver
from kvseal.drivers.disk.value_files import ValueFiles
from kvseal.drivers.redis.purge import purge_server
from kvseal.errors import StoreNotFoundError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from kvseal.drivers.base import Driver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

LARGE = "x" * 40_000


def files(directory: Path, pattern: str = "*") -> list[Path]:
    """Return the files below *directory*."""
    return sorted(path for path in directory.rglob(pattern) if path.is_file())


def contents(directory: Path) -> dict[Path, bytes]:
    """Return what the files below *directory* hold, but for SQLite's shared memory."""
    return {path: path.read_bytes() for path in files(directory) if not path.name.endswith("-shm")}


def marker() -> str:
    """Return text that is nowhere else, and that nothing can compress."""
    return secrets.token_hex(24)


def holds(directory: Path, text: str) -> list[str]:
    """Return the files below *directory* in which *text* is, whatever they are."""
    found = []
    for path in directory.rglob("*"):
        # A server removes files of its own meanwhile.
        try:
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(str(path.relative_to(directory)))
        except FileNotFoundError:
            continue
    return sorted(found)


async def overwritten(driver: Driver, *, text: str = "", filling: str = "") -> str:
    """Put values with a text, replace one and delete the other, and return the text."""
    text = text or marker()
    for key in ("replaced", "deleted"):
        await driver.put_if_absent(entry(key, {"old": text, "filling": filling}))
    await base.replace(driver, await fetched(driver, "replaced"), {"new": 1})
    assert await driver.delete_if_unchanged(await fetched(driver, "deleted"))
    return text


def age(path: Path) -> None:
    """Let a file look as if it had lain there for a little longer than the grace."""
    long_ago = time.time() - GRACE - 60
    os.utime(path, (long_ago, long_ago))


class TestDisk:
    """diskcache: VACUUM, checkpoint and the value files of dead writers."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[DiskStore]:
        """Yield an open store: an application holds the database while it is purged."""
        store = DiskStore(directory=tmp_path / "kv")
        yield store
        store._cache.close()

    @pytest.fixture
    async def driver(self, store: DiskStore) -> AsyncIterator[DiskDriver]:
        """Yield its driver."""
        driver = driver_for(store)
        assert isinstance(driver, DiskDriver)
        yield driver
        await driver.close()

    async def test_old_bytes_go(self, tmp_path: Path, store: DiskStore, driver: DiskDriver) -> None:
        """Overwritten and deleted values are in the database before, and in no file afterwards."""
        text = marker()
        # Some distributions have a SQLite that erases what it frees; most have not.
        store._cache._sql("PRAGMA secure_delete = OFF")
        for key in ("replaced", "deleted"):
            await store.put(key, {"old": text}, collection="coll")
        await store.put("replaced", {"new": 1}, collection="coll")
        await store.delete("deleted", collection="coll")
        store._cache._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        assert ["kv/cache.db"] == holds(tmp_path, text)

        purged = await driver.purge()

        assert ([], True) == (holds(tmp_path, text), purged.complete)
        assert {"new": 1} == await store.get("replaced", collection="coll")

    @pytest.mark.parametrize("filling", ["", "y" * 30_000], ids=["small", "over several pages"])
    async def test_the_log_is_emptied(self, tmp_path: Path, driver: DiskDriver, filling: str) -> None:
        """Overwritten and deleted values are in the write-ahead log before, and in no file afterwards."""
        text = await overwritten(driver, filling=filling)
        assert "kv/cache.db-wal" in holds(tmp_path, text)

        purged = await driver.purge()

        assert ([], True) == (holds(tmp_path, text), purged.complete)
        assert 0 == (tmp_path / "kv" / "cache.db-wal").stat().st_size

    async def test_dry_run(self, tmp_path: Path, driver: DiskDriver) -> None:
        """A dry run names the same steps, warns whom it would keep waiting, and changes no file."""
        await overwritten(driver)
        name = ValueFiles(tmp_path / "kv").write(b"left")
        age(tmp_path / "kv" / name)
        before = contents(tmp_path)

        planned = await driver.purge(dry_run=True)

        assert before == contents(tmp_path)
        assert "Writers wait" in planned.halts
        assert planned == await driver.purge()

    async def test_files_of_dead_writers(self, tmp_path: Path, driver: DiskDriver) -> None:
        """A value file that no row names is removed once no live writer can be about to name it."""
        kept, text = ValueFiles(tmp_path / "kv"), marker()
        old, young = (kept.write(text.encode()) for _ in range(2))
        age(tmp_path / "kv" / old)

        purged = await driver.purge()

        assert ([f"kv/{young}"], False) == (holds(tmp_path, text), purged.complete)
        assert "value files that no row names yet: 1;" in purged.left[0]

    async def test_files_that_rows_name(self, tmp_path: Path, store: DiskStore, driver: DiskDriver) -> None:
        """However old the file of a live value is, it stays."""
        await store.put("key", {"large": LARGE}, collection="coll")
        (file,) = files(tmp_path, "*.val")
        age(file)

        purged = await driver.purge()

        assert ({"large": LARGE}, True) == (await store.get("key", collection="coll"), purged.complete)

    async def test_other_files(self, tmp_path: Path, driver: DiskDriver) -> None:
        """What is not named as diskcache names its files is nobody's to remove, and no link is followed."""
        elsewhere = tmp_path / "elsewhere" / "bb"
        elsewhere.mkdir(parents=True)
        theirs = [tmp_path / "kv" / "notes.val", elsewhere / f"{'c' * 28}.val"]
        for path in theirs:
            path.write_text("mine")
            age(path)
        (tmp_path / "kv" / "aa").symlink_to(tmp_path / "elsewhere")

        await driver.purge()

        assert [True, True] == [path.exists() for path in theirs]

    async def test_a_reader_in_the_way(self, tmp_path: Path, driver: DiskDriver) -> None:
        """While a reader holds on to what was there before, a purge does not pretend that it is gone."""
        await overwritten(driver)
        impatient = DiskDriver(tmp_path / "kv", evicts=False, db=CacheDB(tmp_path / "kv", busy_timeout=0.05))
        with closing(sqlite3.connect(tmp_path / "kv" / "cache.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM Cache").fetchone()
            with pytest.raises(StoreUnreachableError, match="went on reading"):
                await impatient.purge()
            reader.execute("COMMIT")
            assert (await impatient.purge()).complete
        await impatient.close()

    async def test_a_rollback_journal(self, tmp_path: Path, store: DiskStore, driver: DiskDriver) -> None:
        """A store that keeps its rollback journal for the next time does not keep what is in it."""
        store._cache.reset("sqlite_journal_mode", "persist")
        text = await overwritten(driver)
        store._cache.set("other", LARGE[:100])
        store._cache.delete("other")

        purged = await driver.purge()

        assert ([], True) == (holds(tmp_path, text), purged.complete)

    async def test_multi_disk(self, tmp_path: Path) -> None:
        """Every directory of a multi-disk store is purged."""
        store = MultiDiskStore(base_directory=tmp_path)
        driver = driver_for(store)
        texts = [marker(), marker()]
        for collection, text in zip("ab", texts, strict=True):
            await driver.put_if_absent(entry("key", {"old": text}, collection=collection))
            await base.replace(driver, await fetched(driver, "key", collection), {"new": 1})
        assert all(holds(tmp_path, text) for text in texts)

        purged = await driver.purge()

        assert ([[], []], True) == ([holds(tmp_path, text) for text in texts], purged.complete)
        assert "2 databases" in purged.done[0]
        await driver.close()
        await store.close()


class TestFileTree:
    """A file per value: nothing stays but what writers that died have left."""

    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[Driver]:
        """Yield the driver of a store with its names beside its data."""
        (tmp_path / "data").mkdir()
        (tmp_path / "names").mkdir()
        store = FileTreeStore(data_directory=tmp_path / "data", metadata_directory=tmp_path / "names")
        driver = driver_for(store)
        yield driver
        await driver.close()

    async def test_nothing_is_kept(self, tmp_path: Path, driver: Driver) -> None:
        """A value that was replaced or deleted is in no file even before a purge, which says so."""
        text = await overwritten(driver)

        assert [] == holds(tmp_path, text)
        assert ((await driver.purge()).done[0][:8], True) == ("nothing:", (await driver.purge()).complete)

    async def test_files_of_dead_writers(self, tmp_path: Path, driver: Driver) -> None:
        """Temporary files of kvseal, and old ones of the store, are removed from data and names; young ones stay."""
        text = await overwritten(driver)
        (folder,) = (path for path in (tmp_path / "data").iterdir() if path.is_dir())
        for path in (folder / ".kvseal-new-00.tmp", folder / "tmpabcd_123.tmp", folder / "mine.tmp"):
            path.write_text(text)
            age(path)
        (tmp_path / "names" / "tmpabcd_124.tmp").write_text(text)
        age(tmp_path / "names" / "tmpabcd_124.tmp")
        (folder / "tmpyoung123.tmp").write_text(text)
        (folder / "tmpyoung.tmp").write_text(text)
        (folder / "tmpyoung_.tmp").write_text(text)

        planned = await driver.purge(dry_run=True)
        assert 7 == len(holds(tmp_path, text))
        purged = await driver.purge()

        left = [f"data/{folder.name}/{name}.tmp" for name in ("mine", "tmpyoung", "tmpyoung123", "tmpyoung_")]
        assert (left, False) == (holds(tmp_path, text), purged.complete)
        assert planned.done == purged.done == ("temporary files of dead writers removed: 3",)


@pytest.mark.servers
class TestRedis:
    """The server's own files, written anew by the server."""

    async def test_append_only_file(self, tmp_path: Path) -> None:
        """The append-only file has every value that ever was, and after a purge those that are."""
        with RedisServer(tmp_path, "--appendonly", "yes") as server:
            driver = await driver_from_url(server.url)
            text = await overwritten(driver)
            assert holds(tmp_path, text)

            purged = await driver.purge()

            assert ([], True) == (holds(tmp_path, text), purged.complete)
            assert ("BGREWRITEAOF: the append-only file written anew",) == purged.done
            assert not (tmp_path / "dump.rdb").exists()
            await driver.close()

    async def test_snapshot(self, tmp_path: Path) -> None:
        """A snapshot of before is replaced by one of now."""
        with RedisServer(tmp_path, "--save", "3600 1", "--rdbcompression", "no") as server:
            driver = await driver_from_url(server.url)
            text = marker()
            await driver.put_if_absent(entry("key", {"old": text}))
            server.client().save()
            await base.replace(driver, await fetched(driver), {"new": 1})
            assert ["dump.rdb"] == holds(tmp_path, text)

            purged = await driver.purge()

            assert ([], ("BGSAVE: the snapshot written anew",)) == (holds(tmp_path, text), purged.done)
            await driver.close()

    async def test_snapshot_from_before_the_start(self, tmp_path: Path) -> None:
        """A server that was told to save nothing, but has loaded a snapshot, replaces it."""
        text = marker()
        with RedisServer(tmp_path, "--rdbcompression", "no") as server:
            driver = await driver_from_url(server.url)
            await driver.put_if_absent(entry("key", {"old": text}))
            server.client().save()
            server.restart()
            assert await driver.delete_if_unchanged(await fetched(driver))
            assert ["dump.rdb"] == holds(tmp_path, text)

            await driver.purge()

            assert [] == holds(tmp_path, text)
            await driver.close()

    async def test_no_files(self, tmp_path: Path) -> None:
        """A server that keeps nothing on its disk is not made to."""
        with RedisServer(tmp_path) as server:
            driver = await driver_from_url(server.url)
            await overwritten(driver)
            purged = await driver.purge()
            await driver.close()

            assert (("nothing",), True) == (tuple(d[:7] for d in purged.done), purged.complete)
            assert [] == files(tmp_path, "*.rdb")

    async def test_a_snapshot_under_way(self, tmp_path: Path) -> None:
        """A snapshot that was begun before the value was overwritten does not count."""
        options = ("--save", "3600 1", "--rdbcompression", "no")
        with RedisServer(tmp_path, *options) as server:
            driver, client, text = await driver_from_url(server.url), server.client(), marker()
            await driver.put_if_absent(entry("key", {"old": text}))
            client.config_set("rdb-key-save-delay", 300_000)
            client.bgsave()
            client.config_set("rdb-key-save-delay", 0)
            await base.replace(driver, await fetched(driver), {"new": 1})
            assert 1 == client.info("persistence")["rdb_bgsave_in_progress"]

            await driver.purge()

            assert [] == holds(tmp_path, text)
            assert (tmp_path / "dump.rdb").exists()
            await driver.close()

    async def test_dry_run(self, tmp_path: Path) -> None:
        """A dry run says what would be done, and lets the server do nothing."""
        with RedisServer(tmp_path, "--appendonly", "yes") as server:
            driver = await driver_from_url(server.url)
            text = await overwritten(driver)
            before = holds(tmp_path, text)

            planned = await driver.purge(dry_run=True)

            assert (before, planned.done) == (holds(tmp_path, text), (await driver.purge()).done)
            await driver.close()

    async def test_forbidden(self, tmp_path: Path) -> None:
        """Where the server does not let us, that is an error which says what to do instead."""
        with RedisServer(tmp_path, "--appendonly", "yes") as server:
            server.client().execute_command(
                *("ACL", "SETUSER", "app", "on", ">password", "~*", "+@all", "-bgrewriteaof", "-bgsave")
            )
            driver = await driver_from_url(f"redis://app:password@127.0.0.1:{server.port}/0")
            with pytest.raises(StoreUnreachableError, match=r"(?i)permissions") as raised:
                await driver.purge()
            await driver.close()

            assert "let it take a new snapshot" in raised.value.hint

    async def test_a_failure(self, tmp_path: Path) -> None:
        """A snapshot that the server could not write is not taken for one."""
        with RedisServer(tmp_path, "--save", "3600 1") as server:
            (tmp_path / "dump.rdb").mkdir()
            driver = await driver_from_url(server.url)
            with pytest.raises(StoreUnreachableError, match="snapshot could not be written anew"):
                await driver.purge()
            await driver.close()

    async def test_replicas(self) -> None:
        """Replicas have files of their own, and are named."""

        async def ask(*command: str) -> Any:
            if command[0] == "CONFIG":
                return [b"save", b""]
            return {"connected_slaves": 2, "aof_enabled": 0}

        purged = await purge_server(ask, "redis:", dry_run=True)

        assert "2 replicas" in purged.left[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a PostgreSQL server."""
    with running() as server:
        yield server


class TestPostgreSQL:
    """The table, and the samples that the statistics have of it, written anew."""

    @pytest.fixture
    async def sql(self, server: Server) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection from outside, to a database without the table."""
        con = await asyncpg.connect(server.url())
        await con.execute("DROP TABLE IF EXISTS kv_store")
        yield con
        await con.close()

    @pytest.fixture
    async def driver(self, server: Server, sql: asyncpg.Connection) -> AsyncIterator[Driver]:
        """Yield the driver of an empty table."""
        driver = await driver_from_url(server.url(), create=True)
        yield driver
        await driver.close()

    async def in_files(self, server: Server, sql: asyncpg.Connection, text: str) -> list[str]:
        """Return the files of tables in which *text* is, once the server has written all that it holds."""
        await sql.execute("CHECKPOINT")
        return holds(server._directory / "data" / "base", text)

    @pytest.mark.parametrize("filling", ["", "z" * 40_000], ids=["in the row", "beside it"])
    async def test_old_bytes_go(
        self, server: Server, sql: asyncpg.Connection, driver: Driver, filling: str
    ) -> None:
        """Overwritten values are in the table's files before, and in no table's file afterwards."""
        filling = filling and secrets.token_hex(20_000)
        text = await overwritten(driver, filling=filling)
        texts = [text, filling[20_000:20_100]] if filling else [text]
        assert any([await self.in_files(server, sql, one) for one in texts])

        purged = await driver.purge()

        assert [[] for _ in texts] == [await self.in_files(server, sql, one) for one in texts]
        assert (True, "CHECKPOINT") == (purged.complete, purged.done[-1])

    async def test_statistics(self, server: Server, sql: asyncpg.Connection, driver: Driver) -> None:
        """What ANALYZE has copied of a value goes too; VACUUM FULL of the table alone leaves it."""
        text = marker()
        for key in "ab":
            await driver.put_if_absent(entry(key, {"old": text, "key": key}))
        await sql.execute("ANALYZE kv_store")
        for key in "ab":
            await base.replace(driver, await fetched(driver, key), {"new": key})
        await sql.execute("VACUUM FULL kv_store")
        assert await self.in_files(server, sql, text)

        purged = await driver.purge()

        assert ([], True) == (await self.in_files(server, sql, text), purged.complete)

    async def test_an_open_transaction(self, server: Server, sql: asyncpg.Connection, driver: Driver) -> None:
        """Rows that an open transaction may still see stay, and the report does not say that they are gone."""
        await driver.put_if_absent(entry("key", {"old": (text := marker())}))
        reader = await asyncpg.connect(server.url())
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        await reader.fetch("SELECT 1")
        await base.replace(driver, await fetched(driver), {"new": 1})

        purged = await driver.purge()

        assert (False, True) == (purged.complete, bool(await self.in_files(server, sql, text)))
        assert "1 overwritten rows that an open transaction" in purged.left[0]
        await transaction.rollback()
        await reader.close()
        assert (await driver.purge()).complete
        assert [] == await self.in_files(server, sql, text)

    async def test_without_rights(self, server: Server, sql: asyncpg.Connection, driver: Driver) -> None:
        """PostgreSQL only warns that it skips a table that is not ours; a purge fails, and says who may."""
        await driver.put_if_absent(entry())
        await sql.execute("DROP ROLE IF EXISTS lowly; CREATE ROLE lowly LOGIN")
        await sql.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON kv_store TO lowly")
        lowly = await driver_from_url(server.url("lowly"))
        with pytest.raises(StoreUnreachableError, match="kv_store") as raised:
            await lowly.purge()
        await lowly.close()
        await sql.execute("DROP OWNED BY lowly; DROP ROLE lowly")

        assert "owner of the table" in raised.value.hint

    async def test_owner_of_the_table_alone(
        self, server: Server, sql: asyncpg.Connection, driver: Driver
    ) -> None:
        """Who owns the table and not the database purges the table, and learns what is left to others."""
        text = await overwritten(driver)
        await sql.execute("DROP ROLE IF EXISTS owner; CREATE ROLE owner LOGIN")
        await sql.execute("GRANT ALL ON SCHEMA public TO owner; ALTER TABLE kv_store OWNER TO owner")
        mine = await driver_from_url(server.url("owner"))

        purged = await mine.purge()

        await mine.close()
        assert ([], False) == (await self.in_files(server, sql, text), purged.complete)
        assert ["samples", "CHECKPOINT"] == [left.split()[0].strip(",") for left in purged.left[:2]]
        await sql.execute("REASSIGN OWNED BY owner TO postgres; DROP OWNED BY owner; DROP ROLE owner")

    async def test_a_table_in_use(
        self,
        server: Server,
        sql: asyncpg.Connection,
        driver: Driver,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Somebody who holds on to the table does not keep everybody else waiting for ever."""
        monkeypatch.setattr("kvseal.drivers.postgresql.purge.LOCK_TIMEOUT", "50ms")
        await driver.put_if_absent(entry())
        async with sql.transaction():
            await sql.fetch("SELECT * FROM kv_store")
            with pytest.raises(StoreUnreachableError, match="without a break"):
                await driver.purge()

        assert (await driver.purge()).complete

    async def test_dry_run(self, server: Server, sql: asyncpg.Connection, driver: Driver) -> None:
        """A dry run names the steps and whom they keep waiting, and leaves the table where it is."""
        await overwritten(driver)
        before = await sql.fetchval("SELECT pg_relation_filenode('kv_store')")

        planned = await driver.purge(dry_run=True)

        assert before == await sql.fetchval("SELECT pg_relation_filenode('kv_store')")
        assert "No other process can read or write" in planned.halts
        assert planned == await driver.purge()

    async def test_no_table(self, server: Server, sql: asyncpg.Connection, driver: Driver) -> None:
        """A table that the store has yet to make needs no purge; one that should be there is missed."""
        await sql.execute("DROP TABLE kv_store")
        lazy = driver_for(PostgreSQLStore(url=server.url()))
        with pytest.raises(StoreNotFoundError):
            await driver.purge()

        assert "nothing: there is no table yet" == (await lazy.purge()).done[0]
        await lazy.close()

    async def test_borrowed_pool(self, server: Server, sql: asyncpg.Connection) -> None:
        """The application's pool is lent for it, short patience and all, and comes back as it was."""
        async with asyncpg.create_pool(
            server.url(), min_size=1, max_size=1, server_settings={"statement_timeout": "60s"}
        ) as pool:
            store = PostgreSQLStore(pool=pool)
            await store.setup()
            driver = driver_for(store)
            await overwritten(driver)

            assert (await driver.purge()).complete
            assert "1min" == await pool.fetchval("SHOW statement_timeout")


class TestDuckDB:
    """A file that DuckDB never cleans: said, and true."""

    async def test_the_file_keeps_it(self, tmp_path: Path) -> None:
        """The log is emptied and the file still has the old value, so the report is not complete; a new one has not."""
        connection = duckdb.connect(str(tmp_path / "old.duckdb"))
        # Compressed, the bytes would be there as well, but not to be found by looking for them.
        connection.execute("PRAGMA force_compression = 'uncompressed'")
        store = DuckDBStore(connection=connection)
        await store.setup()
        driver = driver_for(store)
        text = await overwritten(driver)
        connection.execute("CHECKPOINT")
        await driver.put_if_absent(entry("second", {"old": (second := marker())}))
        assert ["old.duckdb.wal"] == holds(tmp_path, second)

        purged = await driver.purge()

        assert ([["old.duckdb"], ["old.duckdb"]], False) == (
            [holds(tmp_path, one) for one in (text, second)],
            purged.complete,
        )
        await backup.backup(store, tmp_path / "kept.kvseal")
        new = await driver_from_url(f"duckdb:{tmp_path / 'new.duckdb'}", create=True)
        await backup.restore(tmp_path / "kept.kvseal", new)
        await new.purge()
        assert {"new": 1} == (await fetched(new, "replaced")).value
        await new.close()
        await driver.close()
        connection.close()
        assert text.encode() not in (tmp_path / "new.duckdb").read_bytes()

    async def test_in_memory(self) -> None:
        """A database in memory has no file."""
        connection = duckdb.connect()
        driver = driver_for(DuckDBStore(connection=connection))

        assert (await driver.purge()).complete
        connection.close()


class TestRocksDB:
    """Every file written anew by a compaction."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[RocksDBStore]:
        """Yield an empty store."""
        store = RocksDBStore(path=tmp_path / "kv")
        await store.setup()
        yield store
        store._db.close()

    @pytest.fixture
    def driver(self, store: RocksDBStore) -> Driver:
        """Return the driver of the store."""
        return driver_for(store)

    @pytest.mark.parametrize("flushed", [False, True], ids=["in the log", "in a table"])
    async def test_old_bytes_go(
        self, tmp_path: Path, store: RocksDBStore, driver: Driver, flushed: bool
    ) -> None:
        """Old values are in the log or in a file of the last level before, and in none afterwards."""
        text = marker()
        await driver.put_if_absent(entry("key", {"old": text}))
        if flushed:
            store._db.flush()
            store._db.compact_range(None, None)
        await base.replace(driver, await fetched(driver), {"new": 1})
        assert holds(tmp_path, text)

        purged = await driver.purge()

        assert ([], True) == (holds(tmp_path, text), purged.complete)
        assert {"new": 1} == (await fetched(driver)).value

    async def test_another_column_family(self, tmp_path: Path, store: RocksDBStore, driver: Driver) -> None:
        """The log goes even while it is needed for another column family of the same database."""
        other = store._db.create_column_family("other")
        text = marker()
        other["theirs"] = "1"
        await driver.put_if_absent(entry("key", {"old": text}))
        await base.replace(driver, await fetched(driver), {"new": 1})

        await driver.purge()

        assert ([], "1") == (holds(tmp_path, text), other["theirs"])

    @pytest.mark.parametrize("what", ["snapshot", "iterator"])
    async def test_files_that_are_held(
        self, tmp_path: Path, store: RocksDBStore, driver: Driver, what: str
    ) -> None:
        """What a snapshot or an iterator holds stays on the disk, and the report says so."""
        text = marker()
        await driver.put_if_absent(entry("key", {"old": text}))
        store._db.flush()
        held = store._db.snapshot() if what == "snapshot" else store._db.iter()
        await base.replace(driver, await fetched(driver), {"new": 1})

        purged = await driver.purge()

        assert (True, False) == (bool(holds(tmp_path, text)), purged.complete)
        del held
        assert (await driver.purge()).complete
        assert [] == holds(tmp_path, text)


async def test_memory() -> None:
    """In memory there is no file, and nothing to do."""
    purged = await driver_for(MemoryStore()).purge()

    assert (True, ()) == (purged.complete, purged.left)
