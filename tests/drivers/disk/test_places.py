# ruff: noqa: ASYNC240 - tests may block
"""Which directories are disk stores, and what goes wrong there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from key_value.aio.stores.disk import DiskStore
from tests.drivers.disk.caches import run_sql, store_over, value_files
from tests.drivers.entries import LARGE, SMALL, entry, fetched, fill, scanned

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import Count, Replacement
from kvseal.drivers.disk.database import CacheDB, _Connection
from kvseal.drivers.disk.driver import DiskDriver
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from pathlib import Path


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
