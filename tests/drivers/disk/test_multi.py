# ruff: noqa: ASYNC240 - tests may block
"""The multi-disk driver: the contract, and what several directories add to that of one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from key_value.aio.stores.disk import DiskStore, MultiDiskStore
from tests.drivers.contract import DriverContract
from tests.drivers.entries import LARGE, PAST, SMALL, Backend, entry, fetched, fill, scanned

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Count, Replacement
from kvseal.drivers.disk.multi import MultiDiskDriver
from kvseal.drivers.disk.multi_folders import MAX_IDLE
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

NAMELESS = '{"created_at": "2023-01-01T00:00:00+00:00", "value": {"n": 1}, "version": 1}'


def insert(directory: Path, key: str, text: str, expires_at: datetime | None = None) -> None:
    """Insert a row as it is, past every check."""
    expire_time = None if expires_at is None else expires_at.timestamp()
    with closing(sqlite3.connect(directory / "cache.db")) as db, db:
        db.execute(
            "INSERT INTO Cache(key, raw, store_time, expire_time, value, mode) VALUES (?, 1, 0, ?, ?, 1)",
            (key, expire_time, text),
        )


def body(collection: str, key: str, **value: Any) -> str:
    """Return the body of an entry as the store writes it."""
    return json.dumps({"collection": collection, "key": key, "value": value, "version": 1}, sort_keys=True)


def make(directory: Path) -> None:
    """Make an empty diskcache in *directory*."""
    diskcache.Cache(directory, eviction_policy="none").close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the base directory."""
    return tmp_path / "store"


@pytest.fixture
async def store(directory: Path) -> AsyncIterator[MultiDiskStore]:
    """Yield an empty store."""
    store = MultiDiskStore(base_directory=directory)
    yield store
    await store.close()


@pytest.fixture
async def driver(store: MultiDiskStore) -> AsyncIterator[MultiDiskDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, MultiDiskDriver)
    yield driver
    await driver.close()


@pytest.mark.exhaustive
class TestMultiDiskDriver(DriverContract):
    """Every promise of a driver, found from the store object."""

    @pytest.fixture
    async def backend(self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path) -> Backend:
        """Return an empty store."""

        async def write_raw(collection: str, key: str, text: str, expires_at: datetime | None) -> None:
            make(directory / collection)
            insert(directory / collection, key, text, expires_at)

        return Backend(store, driver, write_raw)


@pytest.mark.exhaustive
class TestMultiDiskDriverFromURL(TestMultiDiskDriver):
    """Every promise of a driver, found from the URL of a store with nothing in it yet."""

    many = 3 * PAGE_SIZE

    @pytest.fixture
    async def driver(self, store: MultiDiskStore, directory: Path) -> AsyncIterator[MultiDiskDriver]:
        """Yield the driver of the base directory."""
        driver = await driver_from_url(f"multidisk:{directory}", create=True)
        assert isinstance(driver, MultiDiskDriver)
        yield driver
        await driver.close()


class TestDirectories:
    """Which directories there are, and which become new."""

    async def test_scan_is_complete_across_directories(
        self, store: MultiDiskStore, driver: MultiDiskDriver
    ) -> None:
        """Every entry of more collections than stay open is scanned once, in whole and in parts."""
        names = {(f"coll-{n}", f"key-{m}") for n in range(2 * MAX_IDLE) for m in range(3)}
        for collection, key in names:
            await store.put(key, SMALL, collection=collection)

        parts = [await scanned(driver, partition=(part, 3)) for part in range(3)]

        assert sorted(names) == sorted((e.collection, e.key) for e in await scanned(driver))
        assert sorted(names) == sorted((e.collection, e.key) for part in parts for e in part)
        assert Count(len(names), exact=True) == await driver.count()
        assert MAX_IDLE == len(driver._open._open)

    async def test_open_directories_in_use_are_not_closed(
        self, store: MultiDiskStore, driver: MultiDiskDriver
    ) -> None:
        """A directory that a scan stands in stays open, however many others are used meanwhile."""
        await fill(store, PAGE_SIZE + 1)
        scan = driver.scan()
        first = await anext(scan)
        for n in range(2 * MAX_IDLE):
            await driver.put_if_absent(entry(collection=f"other-{n}"))

        rest = [found async for page in scan for found in page.entries]

        assert (PAGE_SIZE, 1) == (len(first.entries), len(rest))

    async def test_scan_resumes_in_another_directory(
        self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path
    ) -> None:
        """A scan goes on behind a cursor in whose directory there is nothing more, or which is gone."""
        for name in "abc":
            await store.put("key", SMALL, collection=name)
        cursors = [page.cursor async for page in driver.scan()]
        shutil.rmtree(directory / "b")

        assert ["c"] == [e.collection for e in await scanned(driver, after=cursors[1])]
        assert [] == await scanned(driver, after=cursors[2])

    async def test_moved_store(self, store: MultiDiskStore, directory: Path, tmp_path: Path) -> None:
        """A store that was moved is as good as before, large values and new collections included."""
        await store.put("key", LARGE, collection="coll")
        await store.close()
        moved = directory.rename(tmp_path / "moved")

        driver = await driver_from_url(f"multidisk:{moved}")
        await base.replace(driver, await fetched(driver), {**LARGE, "n": 1})
        await driver.put_if_absent(entry(collection="new"))
        await driver.close()

        other = MultiDiskStore(base_directory=moved)
        assert {**LARGE, "n": 1} == await other.get("key", collection="coll")
        assert {"n": 0} == await other.get("key", collection="new")
        assert not directory.exists()
        await other.close()

    @pytest.mark.parametrize("found_by", ["store", "URL"])
    async def test_new_directory_is_as_the_store_makes_it(self, tmp_path: Path, found_by: str) -> None:
        """The diskcache of a new collection has the name and the settings that the store would give it."""
        store = MultiDiskStore(base_directory=tmp_path)
        await store.put("key", SMALL, collection="by/store")
        driver = driver_for(store) if found_by == "store" else await driver_from_url(f"multidisk:{tmp_path}")

        await driver.put_if_absent(entry(collection="by/driver"))

        settings = []
        for folder in ("bystore", "bydriver"):
            with closing(sqlite3.connect(tmp_path / folder / "cache.db")) as db:
                rows = db.execute("SELECT * FROM Settings WHERE key NOT IN ('count', 'size')").fetchall()
                settings.append(sorted(rows))
        assert settings[0] == settings[1]
        assert ("eviction_policy", "none") in settings[0]
        await driver.close()
        await store.close()

    async def test_new_directory_keeps_the_size_limit(self, tmp_path: Path) -> None:
        """A store with a size limit evicts, and so does a collection that the driver makes for it."""
        store = MultiDiskStore(base_directory=tmp_path, max_size=10**6)
        driver = driver_for(store)
        await driver.put_if_absent(entry())
        by_url = await driver_from_url(f"multidisk:{tmp_path}")

        assert [True, True] == [driver.capabilities.evicts, by_url.capabilities.evicts]
        with diskcache.Cache(tmp_path / "coll") as cache:
            assert ("least-recently-stored", 10**6) == (cache.eviction_policy, cache.size_limit)
        await by_url.close()
        await driver.close()
        await store.close()

    async def test_store_that_must_not_create(self, tmp_path: Path) -> None:
        """Where the store would not make a collection, the driver does not either."""
        driver = driver_for(MultiDiskStore(base_directory=tmp_path, auto_create=False))

        with pytest.raises(StoreNotFoundError, match="no directory for the collection 'coll'"):
            await driver.put_if_absent(entry())

        assert [] == list(tmp_path.iterdir())

    async def test_race_for_a_new_directory(self, tmp_path: Path) -> None:
        """Of drivers that make the same collection at once, one puts its entry and none fails."""
        drivers = [driver_for(MultiDiskStore(base_directory=tmp_path)) for _ in range(6)]

        puts = [driver.put_if_absent(entry(value={"n": n})) for n, driver in enumerate(drivers)]
        done = await asyncio.gather(*(asyncio.to_thread(asyncio.run, put) for put in puts))

        assert 1 == done.count(True)
        assert [{"n": done.index(True)}] == [e.value for e in await scanned(drivers[0])]
        for driver in drivers:
            await driver.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root creates files for others")
    async def test_root_creates_for_the_owner(self, driver: MultiDiskDriver, directory: Path) -> None:
        """What root creates belongs to the owner of the base directory."""
        directory.mkdir()
        os.chown(directory, 12345, 54321)

        await driver.put_if_absent(entry())

        made = [directory / "coll", directory / "coll" / "cache.db"]
        assert [(12345, 54321)] * 2 == [(p.stat().st_uid, p.stat().st_gid) for p in made]

    async def test_other_directories_are_passed_over(
        self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path
    ) -> None:
        """A file, and a directory without a diskcache, is not a part of the store."""
        await store.put("key", SMALL, collection="coll")
        (directory / "lost+found").mkdir()
        (directory / "note").touch()

        assert ["coll"] == [e.collection for e in await scanned(driver)]

    async def test_foreign_database(
        self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path
    ) -> None:
        """A cache.db that is not diskcache's ends a scan: it may be damaged, so it is not passed over."""
        await store.put("key", SMALL, collection="coll")
        (directory / "other").mkdir()
        (directory / "other" / "cache.db").write_text("something else")

        with pytest.raises(StoreNotFoundError, match="not one of diskcache's"):
            await scanned(driver)


class TestLinks:
    """No symbolic link leads out of the store."""

    async def test_link_out_of_the_store(
        self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path, tmp_path: Path
    ) -> None:
        """A link to a diskcache elsewhere is neither read nor written, and no scan is silent about it."""
        await store.put("key", SMALL, collection="coll")
        make(tmp_path / "outside")
        insert(tmp_path / "outside", "key", body("linked", "key", stolen=1))
        (directory / "linked").symlink_to(tmp_path / "outside")

        for refused in (
            scanned(driver),
            driver.count(),
            driver.get("linked", "key"),
            driver.put_if_absent(entry("other", collection="linked")),
        ):
            with pytest.raises(StoreError, match="symbolic link"):
                await refused

    async def test_link_within_the_store(
        self, store: MultiDiskStore, driver: MultiDiskDriver, directory: Path
    ) -> None:
        """What a link shows a second time is scanned once."""
        await store.put("key", SMALL, collection="coll")
        (directory / "linked").symlink_to("coll")

        assert ["coll"] == [e.collection for e in await scanned(driver)]

    @pytest.mark.parametrize("collection", ["", "/", ".", "..", "../..", ":"])
    async def test_collections_without_a_directory(
        self, driver: MultiDiskDriver, directory: Path, tmp_path: Path, collection: str
    ) -> None:
        """A collection whose directory would be the base directory or above is refused."""
        if collection == "../..":
            collection = ".\0."

        with pytest.raises(StoreError, match="no directory"):
            await driver.get(collection, "key")
        with pytest.raises(StoreError, match="no directory"):
            await driver.put_if_absent(entry(collection=collection))
        assert not directory.exists()
        assert not (tmp_path / "cache.db").exists()


class TestNames:
    """Where the names come from."""

    async def test_collections_that_share_a_directory(
        self, store: MultiDiskStore, driver: MultiDiskDriver
    ) -> None:
        """Each entry of a shared directory has its own collection; of a shared key there is one."""
        await store.put("a", {"by": "co/l"}, collection="co/l")
        await store.put("b", {"by": "col"}, collection="col")

        found = {(e.collection, e.key): e.value for e in await scanned(driver)}
        shared = await driver.get("col", "a")

        assert {("co/l", "a"): {"by": "co/l"}, ("col", "b"): {"by": "col"}} == found
        assert shared is not None
        assert ("co/l", "a", {"by": "co/l"}) == (shared.collection, shared.key, shared.value)
        assert await driver.put_if_absent(entry("a", collection="col")) is False

    async def test_nameless_body_is_a_problem_of_a_scan(
        self, driver: MultiDiskDriver, directory: Path
    ) -> None:
        """A body without names does not prove its collection; who asks for it by name gets it, and it says so from then on."""
        make(directory / "col")
        insert(directory / "col", "key", NAMELESS)

        (unproven,) = await scanned(driver)
        found = await fetched(driver, collection="co/l")
        await base.replace(driver, found, {"n": 2})
        (proven,) = await scanned(driver)

        assert ("col", "key", None) == (unproven.collection, unproven.key, unproven.value)
        assert "no names" in unproven.problem
        assert ("co/l", "key", {"n": 1}) == (found.collection, found.key, found.value)
        assert ("co/l", "key", {"n": 2}) == (proven.collection, proven.key, proven.value)

    @pytest.mark.parametrize(("collection", "key"), [("coll", "other"), ("other", "key")])
    async def test_moved_row(
        self, driver: MultiDiskDriver, directory: Path, collection: str, key: str
    ) -> None:
        """A body that belongs to another row or another directory is a problem, though the store would read it."""
        make(directory / "coll")
        insert(directory / "coll", "key", body(collection, key, n=1))

        (found,) = await scanned(driver)

        assert f"holds the body of {collection!r}/{key!r}" in found.problem
        with pytest.raises(StoreError, match="never changed"):
            await driver.replace_many([Replacement(found, SMALL)])

    async def test_replace_across_directories(self, store: MultiDiskStore, driver: MultiDiskDriver) -> None:
        """A batch over several directories says of each entry, in order, whether it was replaced."""
        for n in range(6):
            await store.put("key", {"n": n}, collection=f"coll-{n % 3}-{n}")
        found = await scanned(driver)
        await store.put("key", {"live": 1}, collection=str(found[2].collection))
        batch = [found[5], found[2], found[0], found[4]]

        done = await driver.replace_many([Replacement(e, {**(e.value or {}), "new": 1}) for e in batch])

        assert [True, False, True, True] == list(done)
        assert 3 == sum("new" in (e.value or {}) for e in await scanned(driver))

    async def test_lone_surrogates(self, driver: MultiDiskDriver) -> None:
        """A name that SQLite cannot hold is refused."""
        for names in ({"key": "\ud800"}, {"collection": "\ud800"}):
            with pytest.raises(StoreError, match="lone surrogate"):
                await driver.put_if_absent(replace(entry(), **names))


class TestLocations:
    """`multidisk:` URLs."""

    async def test_missing(self, tmp_path: Path) -> None:
        """A path without a store is not found, and nothing is created there."""
        (tmp_path / "file").touch()
        for name in ("nothing", "file"):
            with pytest.raises(StoreNotFoundError, match="no such directory"):
                await driver_from_url(f"multidisk:{tmp_path / name}")
        with pytest.raises(StoreNotFoundError, match=r"has a cache\.db"):
            await driver_from_url(f"multidisk:{tmp_path}")

        assert [tmp_path / "file"] == list(tmp_path.iterdir())

    async def test_directory_that_vanishes(self, store: MultiDiskStore, directory: Path) -> None:
        """A base directory that is gone, unmounted perhaps, is not an empty store."""
        await store.put("key", SMALL, collection="coll")
        driver = await driver_from_url(f"multidisk:{directory}")
        shutil.rmtree(directory)

        with pytest.raises(StoreNotFoundError, match="no such directory"):
            await driver.count()
        await driver.close()

    async def test_create(self, tmp_path: Path) -> None:
        """`create` makes a base directory for its owner alone, and leaves one that exists as it is."""
        path = tmp_path / "new" / "store"
        for n in range(2):
            driver = await driver_from_url(f"multidisk:{path}", create=True)
            assert Count(n, exact=True) == await driver.count()
            await driver.put_if_absent(entry())
            await driver.close()

        assert 0o700 == stat.S_IMODE(path.stat().st_mode)
        assert driver.capabilities.evicts is False

    async def test_create_in_a_full_directory(self, tmp_path: Path) -> None:
        """`create` does not make collections in a directory that is used for something else."""
        (tmp_path / "something").touch()

        with pytest.raises(StoreNotFoundError, match="not empty"):
            await driver_from_url(f"multidisk:{tmp_path}", create=True)

    @pytest.mark.parametrize("create", [False, True])
    async def test_directory_of_a_single_store(self, tmp_path: Path, create: bool) -> None:
        """The directory of a DiskStore is pointed out, for to `multidisk:` it would look empty."""
        DiskStore(directory=tmp_path)._cache.close()

        with pytest.raises(StoreNotFoundError, match="single one") as caught:
            await driver_from_url(f"multidisk:{tmp_path}", create=create)

        assert "disk:PATH" in caught.value.hint

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may enter any directory")
    async def test_forbidden(self, store: MultiDiskStore, directory: Path) -> None:
        """A directory that cannot be looked at is unreachable, not absent."""
        await store.put("key", SMALL, collection="coll")
        directory.chmod(0)

        with pytest.raises(StoreUnreachableError, match="Permission denied"):
            await driver_from_url(f"multidisk:{directory}")
        directory.chmod(0o700)

    @pytest.mark.parametrize("url", ["multidisk:store", "multidisk:~/store", "multidisk://{here}/store"])
    async def test_spellings(
        self, tmp_path: Path, store: MultiDiskStore, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """A path may be relative, under the home directory, or absolute behind `//`."""
        await store.put("key", SMALL, collection="coll")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

        driver = await driver_from_url(url.format(here=tmp_path))

        assert f"multidisk:{tmp_path / 'store'}" == driver.location
        await driver.close()

    async def test_path_is_needed(self) -> None:
        """`multidisk:` alone is not the current directory."""
        with pytest.raises(UnsupportedStoreError, match="needs the path"):
            await driver_from_url("multidisk:")

    async def test_own_factory_is_refused(self, tmp_path: Path) -> None:
        """A store whose application makes its caches has no driver: nobody knows where they are."""
        with pytest.raises(UnsupportedStoreError, match="disk_cache_factory"):
            driver_for(MultiDiskStore(disk_cache_factory=lambda name: diskcache.Cache(tmp_path / name)))

    async def test_closed(self, driver: MultiDiskDriver) -> None:
        """A closed driver says so, and an expired entry of a store that was never used is just absent."""
        await driver.put_if_absent(entry(expires_at=PAST))
        assert await driver.get("coll", "key") is None
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await driver.count()
