# ruff: noqa: ASYNC222, ASYNC240 - tests may block
"""The disk driver: the contract over real directories, and everything that a hostile `cache.db` may say."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from key_value.aio.stores.disk import DiskStore
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
    scanned,
)

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Count, Entry, Replacement
from kvseal.drivers.disk.database import CacheDB, _Connection
from kvseal.drivers.disk.driver import DiskDriver
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from pathlib import Path

NAMELESS = '{"created_at": "2023-01-01T00:00:00+00:00", "value": {"n": 1}, "version": 1}'


def run_sql(directory: Path, sql: str, *values: Any) -> list[Any]:
    """Run one statement on the store's database from outside."""
    con = sqlite3.connect(directory / "cache.db", isolation_level=None)
    try:
        return con.execute(sql, values).fetchall()
    finally:
        con.close()


def insert(directory: Path, key: object, value: object, **columns: Any) -> None:
    """Insert a row as it is, past every check."""
    row = {"key": key, "value": value, "raw": 1, "mode": 1, "store_time": time.time(), **columns}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    run_sql(directory, f"INSERT INTO Cache({names}) VALUES ({marks})", *row.values())


def body(collection: str = "coll", key: str = "key", **value: Any) -> str:
    """Return the body of an entry as the store writes it."""
    return json.dumps({"collection": collection, "key": key, "value": value, "version": 1}, sort_keys=True)


def value_files(directory: Path) -> list[Path]:
    """Return the value files, which are all files but the database's own."""
    return sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("cache.db"))


def python(script: str, *args: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def store_over(cache: diskcache.Cache) -> DiskStore:
    """Return a store over the caller's own cache, which py-key-value 0.4 ignores while it is empty."""
    cache["something"] = 1
    store = DiskStore(disk_cache=cache)
    del cache["something"]
    return store


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the store is."""
    return tmp_path / "store"


@pytest.fixture
async def store(directory: Path) -> AsyncIterator[DiskStore]:
    """Yield an empty store."""
    store = DiskStore(directory=directory)
    yield store
    await store.close()


@pytest.fixture
async def driver(store: DiskStore) -> AsyncIterator[DiskDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, DiskDriver)
    yield driver
    await driver.close()


class TestDiskDriver(DriverContract):
    """Every promise of a driver, found from the store object."""

    @pytest.fixture
    async def backend(self, store: DiskStore, driver: DiskDriver, directory: Path) -> Backend:
        """Yield an empty disk store."""

        async def write_raw(collection: str, key: str, text: str, expires_at: datetime | None) -> None:
            expire_time = None if expires_at is None else expires_at.timestamp()
            insert(directory, f"{collection}::{key}", text, expire_time=expire_time)

        return Backend(store, driver, write_raw)


class TestDiskDriverFromURL(TestDiskDriver):
    """Every promise of a driver, found from the URL, with every value in a file."""

    many = 3 * PAGE_SIZE  # The other class goes past 10,000; so many files would only take time.

    @pytest.fixture
    async def store(self, directory: Path) -> AsyncIterator[DiskStore]:
        """Yield a store that keeps nothing but expiries in its rows."""
        cache = diskcache.Cache(directory, eviction_policy="none", disk_min_file_size=0)
        yield store_over(cache)
        cache.close()

    @pytest.fixture
    async def driver(self, store: DiskStore, directory: Path) -> AsyncIterator[DiskDriver]:
        """Yield the driver of the directory."""
        driver = await driver_from_url(f"disk:{directory}")
        assert isinstance(driver, DiskDriver)
        yield driver
        await driver.close()


class TestHostileRows:
    """Nothing that a row says is executed, followed out of the directory, or changed."""

    @pytest.fixture
    def bomb(self, tmp_path: Path) -> bytes:
        """Return a pickle that creates a file when it is loaded."""

        class Bomb:
            def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
                return os.mkdir, (str(tmp_path / "executed"),)

        return pickle.dumps(Bomb())

    @staticmethod
    async def assert_refused(driver: DiskDriver, directory: Path, problem: str) -> Entry:
        """Assert that the one row is yielded with this problem and cannot be changed."""
        before = run_sql(directory, "SELECT * FROM Cache"), value_files(directory)
        (found,) = await scanned(driver)

        assert problem in found.problem
        assert found.value is None
        with pytest.raises(StoreError, match="never changed"):
            await driver.replace_many([Replacement(found, SMALL)])
        with pytest.raises(StoreError, match="never changed"):
            await driver.delete_if_unchanged(found)
        assert before == (run_sql(directory, "SELECT * FROM Cache"), value_files(directory))
        return found

    @pytest.mark.parametrize("part", ["key", "value", "value file"])
    async def test_pickles_are_not_loaded(
        self, driver: DiskDriver, directory: Path, tmp_path: Path, bomb: bytes, part: str
    ) -> None:
        """A pickle that would run as code is a problem, in a key, in a value and in a file."""
        match part:
            case "key":
                insert(directory, bomb, body(), raw=0)
            case "value":
                insert(directory, "coll::key", bomb, mode=4)
            case "value file":
                name = driver._files.write(bomb)
                insert(directory, "coll::key", None, mode=4, filename=name, size=len(bomb))

        await self.assert_refused(driver, directory, "a pickle, which kvseal never loads")

        assert not (tmp_path / "executed").exists()
        pickle.loads(bomb)
        assert (tmp_path / "executed").exists()  # The bomb was live.

    @pytest.mark.parametrize(
        ("key", "value", "columns", "problem"),
        [
            (b"coll::key", body(), {}, "the key is not text"),
            (7, body(), {}, "the key is not text"),
            (None, body(), {}, "the key is not text"),
            ("coll::key", body().encode(), {}, "the value is not text"),
            ("coll::key", 7, {}, "the value is not text"),
            ("coll::key", None, {}, "the value is not text"),
            ("coll::key", b"bytes", {"mode": 2}, "the value is bytes"),
            ("coll::key", None, {"mode": 0}, "the value is nothing"),
            ("coll::key", body(), {"mode": "text"}, "of an unknown kind"),
            ("coll::key", body(), {"raw": None}, "the key is a pickle"),
            ("coll::key", None, {"mode": 3}, "does not name its value file"),
            ("coll::key", None, {"mode": 3, "filename": b"\xff/\xff"}, "does not name its value file"),
            ("coll::key", body(), {"expire_time": "never"}, "expiry of the row is not a time"),
            ("coll::key", body(), {"expire_time": 1e300}, "expiry of the row is not a time"),
            ("coll::key", body(), {"expire_time": float("inf")}, "expiry of the row is not a time"),
        ],
    )
    async def test_odd_columns(
        self,
        driver: DiskDriver,
        directory: Path,
        key: object,
        value: object,
        columns: dict[str, Any],
        problem: str,
    ) -> None:
        """A column that diskcache would not have written so is a problem of its row alone."""
        insert(directory, key, value, **columns)

        await self.assert_refused(driver, directory, problem)

    @pytest.mark.parametrize("column", ["key", "value", "filename", "mode", "expire_time", "raw"])
    async def test_text_that_is_not_utf8(self, driver: DiskDriver, directory: Path, column: str) -> None:
        """Text that Python cannot decode is a problem of its row, and the scan goes on."""
        insert(directory, "coll::key", body())
        insert(directory, "coll::next", body(key="next", n=1))
        run_sql(directory, f"UPDATE Cache SET {column} = CAST(x'ff3a3aff' AS TEXT) WHERE key = 'coll::key'")

        found = await scanned(driver)

        assert [True, False] == [bool(e.problem) for e in found]

    @pytest.mark.parametrize(
        "name",
        [
            "{outside}",
            "../{outside.name}",
            "aa/bb/../../../{outside.name}",
            "aa/bb/cccccccccccccccccccccccccccc.val",
            "dd/ee/ffffffffffffffffffffffffffff.val",
            "cache.db",
            "aa/bb/\0",
            "",
        ],
    )
    async def test_file_names_out_of_the_store(
        self, driver: DiskDriver, directory: Path, tmp_path: Path, name: str
    ) -> None:
        """Absolute names, `..`, links to a file or through a folder and foreign names are never opened."""
        outside = tmp_path / "outside"
        (outside / "ee").mkdir(parents=True)
        for target in (outside / "file", outside / "ee" / f"{'f' * 28}.val"):
            target.write_text(body(stolen=1))
        (directory / "aa" / "bb").mkdir(parents=True)
        (directory / "aa" / "bb" / f"{'c' * 28}.val").symlink_to(outside / "file")
        (directory / "dd").symlink_to(outside)
        name = (
            name.format(outside=outside / "file")
            if "name}" not in name
            else name.replace("{outside.name}", "outside/file")
        )
        insert(directory, "coll::key", None, mode=3, filename=name, size=10)

        await self.assert_refused(driver, directory, "value file")
        assert (outside / "file").exists()

    async def test_pipe_instead_of_a_file(self, driver: DiskDriver, directory: Path) -> None:
        """A pipe, from which a read would never return, is a problem."""
        (directory / "aa" / "bb").mkdir(parents=True)
        os.mkfifo(directory / "aa" / "bb" / f"{'c' * 28}.val")
        insert(directory, "coll::key", None, mode=3, filename=f"aa/bb/{'c' * 28}.val", size=10)

        await self.assert_refused(driver, directory, "not a regular file")

    async def test_expired_row_does_not_delete_the_database(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """An expired row that names `cache.db` as its value file is replaced, and the database stays."""
        insert(directory, "coll::key", None, mode=3, filename="cache.db", expire_time=PAST.timestamp())

        assert await driver.put_if_absent(entry())
        assert (directory / "cache.db").exists()
        assert {"n": 0} == await store.get("key", collection="coll")

    async def test_missing_value_file(self, store: DiskStore, driver: DiskDriver, directory: Path) -> None:
        """A lost value file, which the store reads as a missing entry, is a problem and not an absence."""
        await store.put("key", LARGE, collection="coll")
        (file,) = value_files(directory)
        file.unlink()

        assert await store.get("key", collection="coll") is None
        await self.assert_refused(driver, directory, "is missing")
        found = await driver.get("coll", "key")
        assert found is not None
        assert found.problem
        assert await driver.put_if_absent(entry()) is False

    async def test_moved_row(self, store: DiskStore, driver: DiskDriver, directory: Path) -> None:
        """A row that somebody moved under another key is a problem, though the store would read it."""
        await store.put("mallory", SMALL, collection="coll")
        run_sql(directory, "UPDATE Cache SET key = 'coll::alice'")

        assert SMALL == await store.get("alice", collection="coll")
        found = await self.assert_refused(driver, directory, "holds the body of 'coll'/'mallory'")
        assert ("coll", "alice") == (found.collection, found.key)


class TestNames:
    """Where the names come from."""

    async def test_names_of_a_nameless_body(self, driver: DiskDriver, directory: Path) -> None:
        """A body from before py-key-value-aio 0.3 takes its names from a row key that has one separator."""
        insert(directory, "coll::key", NAMELESS)

        (found,) = await scanned(driver)

        assert ("coll", "key", {"n": 1}, "") == (found.collection, found.key, found.value, found.problem)
        await base.replace(driver, found, {"n": 2})
        assert NAMELESS.replace('"n": 1', '"n": 2').encode() == (await fetched(driver)).stored

    @pytest.mark.parametrize("row_key", ["a::b::c", "a:::b", "plain", "", ":", "::::"])
    async def test_ambiguous_names(self, driver: DiskDriver, directory: Path, row_key: str) -> None:
        """A row key that can be split in several ways, or in none, is a problem rather than a guess."""
        insert(directory, row_key, NAMELESS)

        (found,) = await scanned(driver)

        assert (None, None) == (found.collection, found.key)
        assert "split in several ways" in found.problem

    async def test_ambiguous_names_are_settled_by_the_caller(
        self, driver: DiskDriver, directory: Path
    ) -> None:
        """`get` with names that lead to the row says whose entry a nameless body is."""
        insert(directory, "a::b::c", NAMELESS)

        found = await fetched(driver, "b::c", "a")

        assert ("a", "b::c", "") == (found.collection, found.key, found.problem)

    @pytest.mark.parametrize("names", [("a", "b::c"), ("a::b", "c")])
    async def test_settled_names_stay(
        self, store: DiskStore, driver: DiskDriver, directory: Path, names: tuple[str, str]
    ) -> None:
        """What replaces a nameless body says the names by which it was found, and a scan gives them back."""
        insert(directory, "a::b::c", NAMELESS, expire_time=FUTURE.timestamp())
        found = await fetched(driver, names[1], names[0])

        await base.replace(driver, found, {"n": 2})

        (scanned_now,) = await scanned(driver)
        assert (*names, {"n": 2}, "") == (
            scanned_now.collection,
            scanned_now.key,
            scanned_now.value,
            scanned_now.problem,
        )
        assert (found.created_at, FUTURE) == (scanned_now.created_at, scanned_now.expires_at)
        assert await store.get(names[1], collection=names[0]) == {"n": 2}

    async def test_two_names_of_one_row(self, store: DiskStore, driver: DiskDriver) -> None:
        """Names that diskcache cannot tell apart lead to one entry, under the names it was stored with."""
        await store.put("c", SMALL, collection="a::b")

        found = await fetched(driver, "b::c", "a")

        assert ("a::b", "c", "") == (found.collection, found.key, found.problem)
        assert await driver.put_if_absent(entry("b::c", collection="a")) is False

    async def test_lone_surrogate(self, driver: DiskDriver) -> None:
        """A name that SQLite cannot hold is refused in kvseal's own words."""
        with pytest.raises(StoreError, match="lone surrogate"):
            await driver.get("coll", "\ud800")


class TestAccounting:
    """diskcache finds its own books in order after kvseal's writes."""

    async def test_check_finds_nothing(self, store: DiskStore, driver: DiskDriver, directory: Path) -> None:
        """After replacements across the size limit both ways, and deletions, files and counters agree with the rows."""
        small, large = [f"small-{n}" for n in range(6)], [f"large-{n}" for n in range(6)]
        await store.put_many(small, [SMALL] * 6, collection="coll")
        await store.put_many(large, [LARGE] * 6, collection="coll")
        for names, value in (
            (small, LARGE),
            (large, SMALL),
            (large[:3], LARGE),
            (small[:3], {**LARGE, "n": 1}),
        ):
            await driver.replace_many([Replacement(await fetched(driver, name), value) for name in names])
        await driver.delete_if_unchanged(await fetched(driver, small[0]))
        await driver.put_if_absent(entry("put", LARGE, expires_at=PAST))
        await driver.put_if_absent(entry("put", SMALL))
        stale = await fetched(driver, large[0])
        await store.put(large[0], SMALL, collection="coll")
        await driver.replace_many([Replacement(stale, LARGE)])
        await driver.put_if_absent(entry(large[0], LARGE))

        files = value_files(directory)
        settings = dict(run_sql(directory, "SELECT key, value FROM Settings"))

        assert [] == store._cache.check()
        assert 12 == settings["count"]
        assert sum(f.stat().st_size for f in files) == settings["size"]
        assert 7 == len(files)

    async def test_row_keeps_everything_else(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """A replacement leaves rowid, key, times, access counters and tag of the row, and the body's other fields."""
        text = body(n=1)[:-1] + ', "zebra": [1.50, null]}'
        insert(
            directory,
            "coll::key",
            text,
            expire_time=FUTURE.timestamp(),
            access_time=3.5,
            access_count=7,
            tag="t",
        )
        columns = (
            "rowid, key, raw, store_time, expire_time, access_time, access_count, tag, mode, filename, size"
        )
        before = run_sql(directory, f"SELECT {columns} FROM Cache")

        await base.replace(driver, await fetched(driver), {"n": 2})

        assert before == run_sql(directory, f"SELECT {columns} FROM Cache")
        found = await fetched(driver)
        assert json.loads(text) | {"value": {"n": 2}} == json.loads(found.stored)

    async def test_body_stays_byte_for_byte(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """What the store wrote around the value is unchanged to the byte."""
        await store.put("schlüssel", {"a": "old"}, collection="coll", ttl=60)
        ((before,),) = run_sql(directory, "SELECT value FROM Cache")

        await base.replace(driver, await fetched(driver, "schlüssel"), {"a": "new"})

        assert [(before.replace('"old"', '"new"'),)] == run_sql(directory, "SELECT value FROM Cache")

    async def test_expiry_of_the_row_wins(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """Where row and body disagree about the expiry, the row's counts, as it does for the store."""
        text = json.dumps(json.loads(body(n=1)) | {"expires_at": PAST.isoformat()})
        insert(directory, "coll::key", text, expire_time=FUTURE.timestamp())

        assert FUTURE == (await fetched(driver)).expires_at
        assert {"n": 1} == await store.get("key", collection="coll")

    async def test_touched_row_is_a_conflict(self, store: DiskStore, driver: DiskDriver) -> None:
        """An expiry that diskcache's `touch` moved, with the body as it was, is a change."""
        await store.put("key", SMALL, collection="coll")
        stale = await fetched(driver)
        store._cache.touch("coll::key", expire=100)

        assert [False] == list(await driver.replace_many([Replacement(stale, LARGE)]))

    async def test_value_file_edited_in_place(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """A value file with other content under the same name is a change."""
        await store.put("key", LARGE, collection="coll")
        stale = await fetched(driver)
        (file,) = value_files(directory)
        file.write_text(file.read_text().replace("xx", "yy"))

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert [file] == value_files(directory)

    async def test_rowid_given_away_again(self, driver: DiskDriver, directory: Path) -> None:
        """Another entry in a row of the same number, even with the same body, is not the one that was read."""
        insert(directory, "coll::key", NAMELESS)
        stale = await fetched(driver)
        run_sql(directory, "DELETE FROM Cache")
        insert(directory, "coll::other", NAMELESS)

        assert stale.locator.rowid == (await fetched(driver, "other")).locator.rowid
        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert await driver.delete_if_unchanged(stale) is False

    async def test_expiry_passes_before_the_write(
        self, store: DiskStore, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry that was read alive and has expired by the time of the write stays as it is."""
        await driver.put_if_absent(entry(expires_at=FUTURE))
        stale = await fetched(driver)
        monkeypatch.setattr(time, "time", FUTURE.timestamp)

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert await driver.delete_if_unchanged(stale) is False

    async def test_rolled_back_batch(self, driver: DiskDriver, directory: Path) -> None:
        """A batch that fails in its midst has changed nothing and left no file behind."""
        await driver.put_if_absent(entry("a", LARGE))
        await driver.put_if_absent(entry("b", SMALL))
        entries = [await fetched(driver, "a"), await fetched(driver, "b")]
        files = value_files(directory)
        run_sql(
            directory,
            "CREATE TRIGGER fail BEFORE UPDATE ON Cache WHEN NEW.key = 'coll::b'"
            " BEGIN SELECT RAISE(ABORT, 'no'); END",
        )

        with pytest.raises(StoreUnreachableError, match="no"):
            await driver.replace_many([Replacement(e, {**LARGE, "n": 1}) for e in entries])

        run_sql(directory, "DROP TRIGGER fail")
        assert entries == [await fetched(driver, "a"), await fetched(driver, "b")]
        assert files == value_files(directory)


class TestScan:
    """What is particular to scans of a SQLite file."""

    async def test_page_of_large_values_ends_early(
        self, store: DiskStore, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pages are bounded in bytes, not only in entries, wherever the values are kept."""
        monkeypatch.setattr("kvseal.drivers.disk.database.PAGE_BYTES", 100_000)
        keys = [f"key-{n}" for n in range(10)]
        await store.put_many(
            keys, [{"large": "x" * 50_000}] * 5 + [{"medium": "x" * 25_000}] * 5, collection="coll"
        )

        sizes = [len(page.entries) async for page in driver.scan()]

        assert [2, 2, 3, 3] == sizes

    async def test_checkpoint_between_pages(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """A scan holds no read transaction between its pages, so the log can be truncated."""
        await fill(store, PAGE_SIZE + 1)
        scan = driver.scan()
        await anext(scan)
        await store.put("key-0", SMALL, collection="coll")

        busy, *_ = run_sql(directory, "PRAGMA wal_checkpoint(TRUNCATE)")[0]

        assert 0 == busy
        await scan.aclose()

    async def test_rewritten_while_the_file_is_read(
        self, store: DiskStore, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry whose value file a writer replaced between row and file is read in its new state."""
        await store.put("key", LARGE, collection="coll")
        read = driver._files.read

        def read_late(name: str) -> bytes:
            monkeypatch.undo()
            asyncio.run(store.put("key", {**LARGE, "new": True}, collection="coll"))
            return read(name)

        monkeypatch.setattr(driver._files, "read", read_late)

        (found,) = await scanned(driver)

        assert ({**LARGE, "new": True}, "") == (found.value, found.problem)

    async def test_deleted_while_the_file_is_read(
        self, store: DiskStore, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry that a writer deleted between row and file is gone, not a problem."""
        await store.put("key", LARGE, collection="coll")
        read = driver._files.read

        def read_late(name: str) -> bytes:
            asyncio.run(store.delete("key", collection="coll"))
            return read(name)

        monkeypatch.setattr(driver._files, "read", read_late)

        assert [] == await scanned(driver)


class TestPlaces:
    """Which directories are stores, and what happens where there is none."""

    @pytest.mark.parametrize("exists", [True, False])
    async def test_typo_creates_nothing(self, tmp_path: Path, exists: bool) -> None:
        """A path without a store is an error that names it, and the path is as it was."""
        path = tmp_path / "typo"
        if exists:
            path.mkdir()

        with pytest.raises(StoreNotFoundError, match="typo"):
            await driver_from_url(f"disk:{path}")

        assert exists == path.exists()
        assert [] == list(path.glob("*"))

    async def test_lost_race_creates_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that goes away between the look at it and its opening is not created either."""
        monkeypatch.setattr("kvseal.drivers.disk.database._refuse_missing", lambda _: None)

        with pytest.raises(StoreUnreachableError, match="unable to open"):
            await driver_from_url(f"disk:{tmp_path}")

        assert [] == list(tmp_path.glob("*"))

    @pytest.mark.parametrize("content", ["", "not a database at all, but long enough to look like one" * 30])
    async def test_foreign_file(self, tmp_path: Path, content: str) -> None:
        """A cache.db that is empty or no database is not a store, not even to create one over it."""
        (tmp_path / "cache.db").write_text(content)

        for create in (False, True):
            with pytest.raises(StoreNotFoundError, match="not one of diskcache's"):
                await driver_from_url(f"disk:{tmp_path}", create=create)
        assert content == (tmp_path / "cache.db").read_text()

    @pytest.mark.parametrize(
        "schema", ["CREATE TABLE other(x)", "CREATE TABLE Cache(x); CREATE TABLE Settings(key, value)"]
    )
    async def test_foreign_database(self, tmp_path: Path, schema: str) -> None:
        """A cache.db of another program is not a store, not even to create one in it."""
        con = sqlite3.connect(tmp_path / "cache.db")
        con.executescript(schema)
        con.close()

        for create in (False, True):
            with pytest.raises(StoreNotFoundError, match="not one of diskcache's"):
                await driver_from_url(f"disk:{tmp_path}", create=create)

    async def test_create(self, tmp_path: Path) -> None:
        """`create` builds an empty store for its owner alone, and leaves one that exists as it is."""
        path = tmp_path / "new" / "store"
        for n in range(2):
            driver = await driver_from_url(f"disk:{path}", create=True)
            assert Count(n, exact=True) == await driver.count()
            await driver.put_if_absent(entry())
            await driver.close()

        store = DiskStore(directory=path)
        assert {"n": 0} == await store.get("key", collection="coll")
        await store.close()
        assert 0o700 == stat.S_IMODE(path.stat().st_mode)
        assert driver.capabilities.evicts is False

    async def test_create_in_a_full_directory(self, tmp_path: Path) -> None:
        """`create` does not drop a database into a directory that is used for something else."""
        (tmp_path / "something").touch()

        with pytest.raises(StoreNotFoundError, match="not empty"):
            await driver_from_url(f"disk:{tmp_path}", create=True)

        assert [tmp_path / "something"] == list(tmp_path.glob("*"))

    async def test_create_with_a_dollar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`create` refuses a path that diskcache would take for another one."""
        monkeypatch.setenv("ELSEWHERE", "elsewhere")

        with pytest.raises(UnsupportedStoreError, match="variable"):
            await driver_from_url(f"disk:{tmp_path}/$ELSEWHERE", create=True)

        assert [] == list(tmp_path.glob("*"))

    @pytest.mark.parametrize(
        "name", ["with space", "per%20cent", "what?", "#hash", "ключ", "a&b=c", "$HOME", "~x"]
    )
    async def test_odd_paths(self, tmp_path: Path, directory: Path, store: DiskStore, name: str) -> None:
        """Every character of a path means itself."""
        await store.put("key", LARGE, collection="coll")
        shutil.copytree(directory, tmp_path / name)

        driver = await driver_from_url(f"disk:{tmp_path / name}")

        assert LARGE == (await fetched(driver)).value
        await driver.close()

    @pytest.mark.parametrize(
        "url", ["disk:store", "disk:./store", "disk:~/store", "disk://{here}/store", "DISK:store"]
    )
    async def test_spellings(
        self, tmp_path: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """A path may be relative, under the home directory, or absolute behind `//`."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

        driver = await driver_from_url(url.format(here=tmp_path))

        assert f"disk:{tmp_path / 'store'}" == driver.location
        await driver.close()

    async def test_path_is_needed(self) -> None:
        """`disk:` alone is not the current directory."""
        with pytest.raises(UnsupportedStoreError, match="needs the path"):
            await driver_from_url("disk:")

    async def test_moved_directory(self, store: DiskStore, directory: Path, tmp_path: Path) -> None:
        """A store that was moved with its value files is as good as before."""
        await store.put("large", LARGE, collection="coll")
        await store.put("small", SMALL, collection="coll")
        await store.close()
        moved = directory.rename(tmp_path / "moved")

        driver = await driver_from_url(f"disk:{moved}")
        await base.replace(driver, await fetched(driver, "large"), {**LARGE, "n": 1})

        assert [{**LARGE, "n": 1}, SMALL] == [e.value for e in await scanned(driver)]
        await driver.close()

    @pytest.mark.parametrize(("max_size", "evicts"), [(None, False), (10**6, True)])
    async def test_evicts(self, directory: Path, max_size: int | None, evicts: bool) -> None:
        """A store with a size limit says that it evicts, whichever way the driver was found."""
        store = DiskStore(directory=directory, max_size=max_size)
        by_url = await driver_from_url(f"disk:{directory}")

        assert [evicts, evicts] == [driver_for(store).capabilities.evicts, by_url.capabilities.evicts]
        await by_url.close()
        store._cache.close()

    async def test_other_disks_are_refused(self, tmp_path: Path) -> None:
        """A cache that keeps its values in a way of its own has no driver."""
        cache = diskcache.Cache(tmp_path, disk=diskcache.JSONDisk)

        with pytest.raises(UnsupportedStoreError, match="JSONDisk"):
            driver_for(store_over(cache))
        cache.close()

    async def test_multi_disk_store_is_another(self, tmp_path: Path) -> None:
        """A sibling class with another layout is not taken for a DiskStore."""
        from key_value.aio.stores.disk import MultiDiskStore

        assert not isinstance(driver_for(MultiDiskStore(base_directory=tmp_path)), DiskDriver)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root creates files for others")
    async def test_root_creates_files_for_the_owner(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """Value files and folders that root creates belong to the owner of the store."""
        os.chown(directory, 12345, 54321)

        await driver.put_if_absent(entry(value=LARGE))

        (file,) = value_files(directory)
        assert [(12345, 54321)] * 3 == [
            (p.stat().st_uid, p.stat().st_gid) for p in (file, file.parent, file.parent.parent)
        ]


class TestErrors:
    """What goes wrong below is told in kvseal's own words."""

    async def test_locked(self, store: DiskStore, directory: Path) -> None:
        """A write lock that is not released is an unreachable store, with a hint."""
        driver = DiskDriver(directory, evicts=False, db=CacheDB(directory, busy_timeout=0))
        con = sqlite3.connect(directory / "cache.db", isolation_level=None)
        con.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreUnreachableError, match="locked") as caught:
            await driver.put_if_absent(entry(value=LARGE))

        con.close()
        assert "write lock" in caught.value.hint
        assert [] == value_files(directory)
        assert await driver.put_if_absent(entry())
        await driver.close()

    async def test_damaged(self, store: DiskStore, directory: Path) -> None:
        """A damaged database is an unreachable store, with a hint."""
        await fill(store, 500)
        run_sql(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
        await store.close()
        with (directory / "cache.db").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 100_000)

        with pytest.raises(StoreUnreachableError, match="malformed") as caught:
            await driver_from_url(f"disk:{directory}")

        assert "backup" in caught.value.hint

    async def test_no_space(self, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error of the file system is an unreachable store."""

        def fail(_: bytes) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(driver._files, "write", fail)

        with pytest.raises(StoreUnreachableError, match="No space left"):
            await driver.put_if_absent(entry(value=LARGE))

    async def test_closed(self, driver: DiskDriver) -> None:
        """A closed driver says so."""
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await driver.count()

    async def test_loop_is_not_blocked(self, driver: DiskDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """No operation touches the database from the thread of the event loop."""
        users: set[int] = set()
        used = _Connection.used

        def note(connection: _Connection) -> Any:
            users.add(threading.get_ident())
            return used(connection)

        monkeypatch.setattr(_Connection, "used", note)
        await driver.put_if_absent(entry())
        found = await fetched(driver)
        await driver.replace_many([Replacement(found, LARGE)])
        await scanned(driver)
        await driver.count()
        await driver.delete_if_unchanged(await fetched(driver))

        assert users
        assert threading.get_ident() not in users

    async def test_what_is_acknowledged_is_on_the_disk(self, driver: DiskDriver) -> None:
        """The writer's connection is synchronous=FULL (2), whatever the store's own is."""
        with driver._db.writing() as con:
            assert (2,) == con.execute("PRAGMA synchronous").fetchone()

    async def test_value_files_are_on_the_disk(
        self, driver: DiskDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A value file, and each folder that leads to it, is synced before its row is written."""
        synced: list[int] = []
        fsync = os.fsync

        def note(file: int) -> None:
            synced.append(os.fstat(file).st_ino)
            fsync(file)

        monkeypatch.setattr(os, "fsync", note)
        await driver.put_if_absent(entry(value=LARGE))

        (file,) = value_files(directory)
        assert {p.stat().st_ino for p in (file, file.parent, file.parent.parent, directory)} == set(synced)


class TestProcesses:
    """Several processes on one directory, some of which die."""

    @pytest.mark.processes
    async def test_put_if_absent_race(self, store: DiskStore, driver: DiskDriver, directory: Path) -> None:
        """Of several processes that put the same name at once, exactly one succeeds, for every name."""
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Entry

async def main():
    driver = await driver_from_url("disk:" + sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(30):
        if await driver.put_if_absent(Entry("coll", f"key-{n}", {"by": sys.argv[2]})):
            print(n, flush=True)
    await driver.close()

asyncio.run(main())
"""
        racers = [python(script, directory, name) for name in ("a", "b")]
        for racer in racers:
            assert racer.stdout is not None
            assert "ready\n" == racer.stdout.readline()
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [{int(n) for n in racer.communicate()[0].split()} for racer in racers]

        assert [0, 0] == [racer.returncode for racer in racers]
        assert set(range(30)) == won[0] | won[1]
        assert set() == won[0] & won[1]
        for name, numbers in zip(("a", "b"), won, strict=True):
            assert all([(await store.get(f"key-{n}", collection="coll")) == {"by": name} for n in numbers])

    @pytest.mark.processes
    async def test_kill_in_the_middle_of_replace_many(
        self, store: DiskStore, driver: DiskDriver, directory: Path
    ) -> None:
        """However a process dies, each entry is old or new and readable, and whole batches are one or the other."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Replacement
from kvseal.drivers.disk import driver as disk
from kvseal.drivers.disk.value_files import ValueFiles

death, write, remove, count = sys.argv[2], ValueFiles.write, ValueFiles.remove, 0

def die_late(function):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == 10:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return wrapped

if death == "writing files":
    ValueFiles.write = die_late(write)
if death == "removing files":
    ValueFiles.remove = die_late(remove)
if death == "writing rows":
    disk.update = die_late(disk.update)

async def main():
    driver = await driver_from_url("disk:" + sys.argv[1])
    async for page in driver.scan():
        batch = [Replacement(e, {**e.value, "large": "x" * 40_000, "new": True}) for e in page.entries]
        await driver.replace_many(batch)

asyncio.run(main())
"""
        count = 30
        await store.put_many(
            [f"key-{n}" for n in range(count)], [{"n": n, **LARGE} for n in range(count)], collection="coll"
        )
        for death, new in (("writing files", 0), ("writing rows", 0), ("removing files", count)):
            process = python(script, directory, death)
            process.communicate()

            assert -9 == process.returncode
            found = await scanned(driver)
            assert set(range(count)) == {e.value["n"] for e in found if e.value}
            assert new == sum("new" in e.value for e in found if e.value)
            values = await store.get_many([f"key-{n}" for n in range(count)], collection="coll")
            assert [e.value for e in found] == values

    @pytest.mark.processes
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    async def test_fork(self, driver: DiskDriver) -> None:
        """A forked child works on connections of its own, and the parent's stay good."""
        await driver.put_if_absent(entry())
        child = os.fork()
        if child == 0:  # pragma: no cover - the child's lines are not measured
            code = 1
            try:
                assert driver._db._reader._con is None
                assert 1 == driver._db.count()
                code = 0
            finally:
                os._exit(code)

        _, status = os.waitpid(child, 0)

        assert 0 == status
        assert {"n": 0} == (await fetched(driver)).value


async def test_row_that_claims_a_negative_size(tmp_path: Path) -> None:
    """One forged size does not let a page hold more of the other rows."""
    store = DiskStore(directory=tmp_path)
    await store.put("forged", {"v": "x" * 40_000})
    await store.put_many([f"k{n}" for n in range(300)], [{"v": "x" * 30_000}] * 300)
    with closing(sqlite3.connect(tmp_path / "cache.db")) as db, db:
        db.execute("UPDATE Cache SET size = -1000000000000 WHERE filename IS NOT NULL")
    driver = driver_for(store)

    pages = [len(page.entries) async for page in driver.scan()]

    assert 301 == sum(pages)
    assert len(pages) > 1
    await driver.close()
    await store.close()
