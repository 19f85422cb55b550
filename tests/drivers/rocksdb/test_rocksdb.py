# ruff: noqa: ASYNC221, ASYNC240 - tests may block
"""The RocksDB driver: the contract, whose database it is, and what else may be in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.rocksdb import RocksDBStore
from rocksdict import DbClosedError, Options, Rdict
from tests.drivers.contract import DriverContract
from tests.drivers.entries import FUTURE, LARGE, SMALL, Backend, entry, fetched, fill, scanned

from kvseal.drivers import abilities, base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Count, Replacement
from kvseal.drivers.rocksdb.driver import RocksDBDriver
from kvseal.errors import (
    Conflict,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

OPEN = "import sys; from rocksdict import Rdict; db = Rdict(sys.argv[1]); print(db.get(sys.argv[2]))"


def in_another_process(path: Path, key: str = "coll::key") -> str:
    """Return what another process reads, or the error that keeps it from opening the database."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path, key], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the database is."""
    return tmp_path / "store"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[RocksDBStore]:
    """Yield an empty store."""
    store = RocksDBStore(path=path)
    yield store
    with contextlib.suppress(DbClosedError):
        store._db.close()


@pytest.fixture
async def driver(store: RocksDBStore) -> AsyncIterator[RocksDBDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, RocksDBDriver)
    yield driver
    await driver.close()


@pytest.mark.exhaustive
class TestRocksDBDriver(DriverContract):
    """Every promise of a driver, over a store with a database of its own."""

    @pytest.fixture
    async def backend(self, store: RocksDBStore, driver: RocksDBDriver) -> Backend:
        """Return an empty store."""

        async def write_raw(collection: str, key: str, text: str, _: datetime | None) -> None:
            store._db[f"{collection}::{key}"] = text.encode()

        return Backend(store, driver, write_raw)


class TestLocations:
    """`rocksdb:` URLs, and who else has the database."""

    async def test_from_url(self, store: RocksDBStore, path: Path) -> None:
        """A closed store is reached by its URL, and what is written there is what the store reads."""
        await store.put("key", SMALL, collection="coll")
        await store.close()

        driver = await driver_from_url(f"rocksdb:{path}")
        await base.replace(driver, await fetched(driver), LARGE)
        await driver.put_if_absent(entry("other"))
        await driver.close()

        again = RocksDBStore(path=path)
        assert [LARGE, {"n": 0}] == await again.get_many(["key", "other"], collection="coll")
        await again.close()

    @pytest.mark.processes
    async def test_open_elsewhere(self, store: RocksDBStore, path: Path) -> None:
        """A database that a process has open is unreachable for another, which says how to go on."""
        await store.put("key", SMALL, collection="coll")
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url
from kvseal.errors import StoreUnreachableError
try:
    asyncio.run(driver_from_url("rocksdb:" + sys.argv[1]))
except StoreUnreachableError as exc:
    print(exc, exc.hint)
"""
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
        )

        assert "LOCK" in done.stdout
        assert "await kvseal.recoding" in done.stdout
        assert "stop the application" in done.stdout
        with pytest.raises(StoreUnreachableError, match="lock"):
            await driver_from_url(f"rocksdb:{path}")

    @pytest.mark.processes
    async def test_closed_database_is_free(self, store: RocksDBStore, path: Path) -> None:
        """Once the application has closed its store, a driver of it does not keep the database open."""
        driver = driver_for(store)
        await driver.put_if_absent(entry())
        await scanned(driver)
        store._db.close()
        gc.collect()

        assert "LOCK" not in in_another_process(path)
        with pytest.raises(StoreUnreachableError, match="has closed the database"):
            await driver.get("coll", "key")

    @pytest.mark.processes
    async def test_close_frees_the_database(self, store: RocksDBStore, path: Path) -> None:
        """A driver that was found from a URL leaves the database to others when it is closed."""
        store._db.close()
        driver = await driver_from_url(f"rocksdb:{path}")
        await driver.put_if_absent(entry())
        assert "LOCK" in in_another_process(path)

        await driver.close()
        await driver.close()

        assert "b'{" in in_another_process(path)
        with pytest.raises(StoreError, match="closed"):
            await abilities.count(driver)

    async def test_missing(self, tmp_path: Path) -> None:
        """A path without a database is not found, and nothing is created there."""
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()
        for name in ("nothing", "file", "empty"):
            with pytest.raises(StoreNotFoundError, match="no RocksDB store"):
                await driver_from_url(f"rocksdb:{tmp_path / name}")

        assert ["empty", "file"] == sorted(p.name for p in tmp_path.rglob("*"))

    async def test_create(self, tmp_path: Path) -> None:
        """`create` makes an empty database for its owner alone, and leaves one that exists as it is."""
        path = tmp_path / "new" / "store"
        for n in range(2):
            driver = await driver_from_url(f"rocksdb:{path}", create=True)
            assert Count(n, exact=True) == await abilities.count(driver)
            await driver.put_if_absent(entry())
            await driver.close()

        store = RocksDBStore(path=path)
        assert {"n": 0} == await store.get("key", collection="coll")
        await store.close()
        assert 0o700 == stat.S_IMODE(path.stat().st_mode)

    async def test_create_elsewhere(self, tmp_path: Path) -> None:
        """`create` makes no database in a directory that is used for something else, nor over a file."""
        (tmp_path / "something").touch()

        with pytest.raises(StoreNotFoundError, match="not empty"):
            await driver_from_url(f"rocksdb:{tmp_path}", create=True)
        with pytest.raises(StoreNotFoundError, match="cannot open"):
            await driver_from_url(f"rocksdb:{tmp_path / 'something'}", create=True)

    @pytest.mark.parametrize("config", ['{"raw_mode": true}', None, "not json", "[]", "{}"])
    async def test_foreign_database(self, path: Path, config: str | None) -> None:
        """A database in raw mode, or not of rocksdict's, is refused before it is opened."""
        db = Rdict(str(path), Options(raw_mode=True))
        db[b"k"] = b"v"
        db.close()
        del db
        file = path / "rocksdict-config.json"
        file.unlink() if config is None else file.write_text(config)
        before = sorted(p.name for p in path.iterdir())

        with pytest.raises(UnsupportedStoreError, match="not one that a RocksDBStore uses"):
            await driver_from_url(f"rocksdb:{path}")

        assert before == sorted(p.name for p in path.iterdir())

    async def test_raw_mode_of_the_application(self, path: Path) -> None:
        """A store over a database in raw mode, in which it cannot work itself, is refused."""
        db = Rdict(str(path), Options(raw_mode=True))

        with pytest.raises(UnsupportedStoreError, match="raw mode"):
            await driver_for(RocksDBStore(db=db)).get("coll", "key")
        db.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root creates files for others")
    async def test_root_leaves_files_to_the_owner(self, store: RocksDBStore, path: Path) -> None:
        """What root has written belongs to the owner of the directory once the driver is closed."""
        store._db.close()
        os.chown(path, 12345, 54321)
        driver = await driver_from_url(f"rocksdb:{path}")
        await driver.put_if_absent(entry())

        await driver.close()

        assert {(12345, 54321)} == {(p.stat().st_uid, p.stat().st_gid) for p in path.iterdir()}

    @pytest.mark.parametrize("url", ["rocksdb:store", "rocksdb:~/store", "rocksdb://{here}/store"])
    async def test_spellings(
        self, tmp_path: Path, store: RocksDBStore, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """A path may be relative, under the home directory, or absolute behind `//`."""
        store._db.close()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

        driver = await driver_from_url(url.format(here=tmp_path))

        assert f"rocksdb:{tmp_path / 'store'}" == driver.location
        await driver.close()

    async def test_path_is_needed(self) -> None:
        """`rocksdb:` alone is not the current directory."""
        with pytest.raises(UnsupportedStoreError, match="needs the path"):
            await driver_from_url("rocksdb:")

    async def test_capabilities(self, driver: RocksDBDriver) -> None:
        """What is in the database outlives the process, and is not evicted."""
        assert (True, False) == (driver.capabilities.lasting, driver.capabilities.evicts)

    async def test_no_compare_and_swap_beside_the_application(
        self, driver: RocksDBDriver, path: Path
    ) -> None:
        """Beside a store object, whose threads take no lock, the driver promises none; alone it does."""
        alone = await driver_from_url(f"rocksdb:{path.with_name('alone')}", create=True)

        assert (False, True) == (driver.capabilities.atomic_replace, alone.capabilities.atomic_replace)
        await alone.close()

    async def test_a_put_of_another_thread(
        self, driver: RocksDBDriver, store: RocksDBStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """This is what is not promised: a put between the compare and the write is lost."""
        await store.put("key", SMALL, collection="coll")
        stale = await fetched(driver)
        write = driver._opened().write

        def late(changes: Any) -> None:
            thread = threading.Thread(
                target=asyncio.run, args=(store.put("key", {"newer": 1}, collection="coll"),)
            )
            thread.start()
            thread.join()
            write(changes)

        monkeypatch.setattr(driver._opened(), "write", late)

        assert [True] == list(await driver.replace_many([Replacement(stale, LARGE)]))
        assert LARGE == await store.get("key", collection="coll")
        assert not driver.capabilities.atomic_replace


class TestForeignContents:
    """What the store did not write is neither executed nor changed."""

    async def test_pickles_are_not_loaded(
        self, store: RocksDBStore, driver: RocksDBDriver, tmp_path: Path
    ) -> None:
        """A pickle that would run as code is a problem, and the application's object reads as before."""

        class Bomb:
            def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
                return os.mkdir, (str(tmp_path / "executed"),)

        store._db["coll::key"] = Bomb()

        (found,) = await scanned(driver)

        assert ("coll", "key", None) == (found.collection, found.key, found.value)
        assert "a pickle, which kvseal never loads" in found.problem
        assert found == await driver.get("coll", "key")
        assert await driver.put_if_absent(entry()) is False
        assert Count(1, exact=True) == await abilities.count(driver)
        with pytest.raises(StoreError, match="never changed"):
            await driver.replace_many([Replacement(found, SMALL)])
        assert not (tmp_path / "executed").exists()
        store._db.get("coll::key")
        assert (tmp_path / "executed").exists()  # The bomb was live.

    @pytest.mark.parametrize("value", ["text", 7, 1.5, True])
    async def test_values_that_are_not_bytes(
        self, store: RocksDBStore, driver: RocksDBDriver, value: object
    ) -> None:
        """A value of another type, on which the store fails, is a problem of its entry."""
        await store.put("before", SMALL, collection="coll")
        store._db["coll::key"] = value

        assert ["", "'coll::key': the value is not bytes"] == [e.problem for e in await scanned(driver)]

    async def test_value_that_became_another_type(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """An entry whose value was replaced by something else is not what was read."""
        await store.put("key", SMALL, collection="coll")
        stale = await fetched(driver)
        store._db["coll::key"] = {"a": "pickle"}

        with pytest.raises(Conflict):
            await base.replace(driver, stale, LARGE)
        assert await driver.delete_if_unchanged(stale) is False

    async def test_unknown_types(self, path: Path) -> None:
        """Marks that rocksdict does not know are a problem in a value, and somebody else's in a key."""
        raw = Rdict(str(path), Options(raw_mode=True))
        raw[b"\x02coll::key"] = b"\x09what?"
        raw[b"\x02coll::empty"] = b""
        raw[b"\x02coll::next"] = b"\x01" + json.dumps({"value": SMALL}).encode()
        raw[b"\x02\xff::\xff"] = raw[b"\x09coll::key"] = raw[b""] = b"\x01x"
        raw[b"\x06" + pickle.dumps("coll::key")] = b"\x01x"
        raw.close()
        del raw
        store = RocksDBStore(db=Rdict(str(path), Options()))

        found = {e.key: (e.value, e.problem) for e in await scanned(driver_for(store))}

        assert {"key", "empty", "next"} == found.keys()
        assert (SMALL, "") == found["next"]
        assert "unknown kind" in found["key"][1]
        assert found["empty"][1]
        store._db.close()

    async def test_keys_of_others(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """Keys that the store cannot have written are no entries."""
        for key in (b"coll::key", 7, 1.5, True, "no separator"):
            store._db[key] = b"somebody else's"
        await store.put("key", SMALL, collection="coll")

        assert [SMALL] == [e.value for e in await scanned(driver)]
        assert Count(1, exact=True) == await abilities.count(driver)

    async def test_moved_body(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """A body that somebody moved under another key is a problem, though the store would read it."""
        await store.put("mallory", SMALL, collection="coll")
        store._db["coll::alice"] = store._db["coll::mallory"]

        assert SMALL == await store.get("alice", collection="coll")
        assert "holds the body of 'coll'/'mallory'" in (await fetched(driver, "alice")).problem

    async def test_nameless_body(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """Who knows the names of a nameless body gets it by them, and what is put in its place says them."""
        store._db["a::b::c"] = b'{"value": {"n": 1}}'

        (unproven,) = await scanned(driver)
        await base.replace(driver, await fetched(driver, "b::c", "a"), {"n": 2})
        (proven,) = await scanned(driver)

        assert "no names" in unproven.problem
        assert ("a", "b::c", {"n": 2}) == (proven.collection, proven.key, proven.value)

    async def test_lone_surrogates(self, driver: RocksDBDriver) -> None:
        """A name that RocksDB cannot hold is refused."""
        with pytest.raises(StoreError, match="lone surrogate"):
            await driver.put_if_absent(entry("\ud800"))


class TestDatabaseOfTheApplication:
    """A database that the application has opened, and uses for more than the store."""

    async def test_column_family(self, path: Path) -> None:
        """The driver reads and writes where the store's `get` and `put` do: in its own column family."""
        db = Rdict(str(path))
        db["coll::key"] = b"in the default column family"
        store = RocksDBStore(db=db.create_column_family("odd [name] **"))
        await store.put("key", SMALL, collection="coll")
        driver = driver_for(store)

        (found,) = await scanned(driver)
        await base.replace(driver, found, LARGE)
        await driver.put_if_absent(entry("other"))
        await driver.delete_if_unchanged(await fetched(driver, "other"))

        assert SMALL == found.value
        assert LARGE == await store.get("key", collection="coll")
        assert [("coll::key", b"in the default column family")] == list(db.items())
        db.close()

    async def test_stays_open(self, path: Path) -> None:
        """Closing the driver leaves the application's database, and how it reads, alone."""
        db = Rdict(str(path))
        db.set_loads(lambda _: "loaded by the application")
        db["other"] = {"a": 1}
        driver = driver_for(RocksDBStore(db=db))
        await driver.put_if_absent(entry())
        await driver.close()

        assert "loaded by the application" == db["other"]
        db.close()


class TestWriters:
    """Beside the application's own writers."""

    async def test_compare_and_write_in_one_turn(
        self, store: RocksDBStore, driver: RocksDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the comparison and the write no other task of the event loop gets its turn."""
        await fill(store, 20)
        batch = [Replacement(e, {"new": True}) for e in await scanned(driver)]
        turns: list[str] = []
        handle = driver._opened()
        get, write = handle.get, handle.write
        monkeypatch.setattr(handle, "get", lambda key: (turns.append("get"), get(key))[1])
        monkeypatch.setattr(handle, "write", lambda changes: (turns.append("write"), write(changes))[1])

        async def live() -> None:
            for n in range(200):
                await store.put("live", {"n": n}, collection="coll")
                turns.append("live")
                await asyncio.sleep(0)

        _, done = await asyncio.gather(live(), driver.replace_many(batch))

        start = turns.index("get")
        assert [True] * 20 == list(done)
        assert ["get"] * 20 + ["write"] == turns[start : start + 21]

    async def test_a_batch_is_one_write(
        self, store: RocksDBStore, driver: RocksDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch is written at once and then synced, so that after a crash it is there in whole or not."""
        await fill(store, 3)
        calls: list[str] = []
        handle = driver._opened()
        write, sync = handle.write, handle.sync
        monkeypatch.setattr(
            handle, "write", lambda changes: (calls.append(f"write {len(changes)}"), write(changes))[1]
        )
        monkeypatch.setattr(handle, "sync", lambda: (calls.append("sync"), sync())[1])

        await driver.replace_many([Replacement(e, SMALL) for e in await scanned(driver)])
        await driver.put_if_absent(entry(expires_at=FUTURE))
        await driver.delete_if_unchanged(await fetched(driver))

        assert ["write 3", "sync", "write 1", "sync", "write 1", "sync"] == calls

    @pytest.mark.processes
    async def test_killed_writer(self, path: Path) -> None:
        """What was acknowledged is there after the process was killed."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Entry

async def main():
    driver = await driver_from_url("rocksdb:" + sys.argv[1], create=True)
    await driver.put_if_absent(Entry("coll", "key", {"n": 0}))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
        done = subprocess.run([sys.executable, "-c", script, path], check=False)

        driver = await driver_from_url(f"rocksdb:{path}")
        assert -9 == done.returncode
        assert {"n": 0} == (await fetched(driver)).value
        await driver.close()

    async def test_scan_is_a_snapshot(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """A scan shows what was there when it began; a change since then is a conflict for who replaces it."""
        await fill(store, 2 * PAGE_SIZE)
        scan = driver.scan()
        await anext(scan)
        await store.put("key-999", {"n": -1}, collection="coll")

        (late,) = [e async for page in scan for e in page.entries if e.key == "key-999"]

        assert {"n": 999} == late.value
        with pytest.raises(Conflict):
            await base.replace(driver, late, SMALL)

    async def test_pages_are_bounded_by_bytes(self, store: RocksDBStore, driver: RocksDBDriver) -> None:
        """A page of large values ends early."""
        for n in range(20):
            await store.put(f"key-{n}", {"large": "x" * 2**20}, collection="coll")

        pages = [len(page.entries) async for page in driver.scan()]

        assert 20 == sum(pages)
        assert max(pages) <= 8
