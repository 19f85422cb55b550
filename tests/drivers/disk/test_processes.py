# ruff: noqa: ASYNC222 - tests may block
"""Several processes on one disk store, and processes that die."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.disk import DiskStore
from tests.drivers.disk.caches import python
from tests.drivers.entries import LARGE, entry, fetched, scanned

from kvseal.drivers import driver_for

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.drivers.disk.driver import DiskDriver


@pytest.mark.processes
class TestProcesses:
    """Several processes on one directory, some of which die."""

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
