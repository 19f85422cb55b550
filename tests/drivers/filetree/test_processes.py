"""Several processes on one file tree, and processes that die."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from tests.drivers.entries import SMALL, entry, fetched, numbers, scanned
from tests.drivers.filetree.trees import ended, put_raw, python, temporaries, value_of

from kvseal.drivers.base import Replacement
from kvseal.drivers.filetree import swaps

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.filetree import (
        FileTreeStore,
    )

    from kvseal.drivers.filetree.driver import FileTreeDriver


@pytest.mark.processes
class TestProcesses:
    """Other processes: some write without end, some die."""

    async def test_live_writers(
        self,
        store: FileTreeStore,
        driver: FileTreeDriver,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of 5,100 writes of three processes, the last one of each key is there, however much is replaced meanwhile."""
        script = """
import asyncio, os, sys
from key_value.aio.stores.filetree import FileTreeStore, store as upstream
directory, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.fsync = lambda _: None
if name != "real":
    from tests.drivers.filetree.trees import trust, write_in_one_thread
    upstream.write_file_atomic, upstream.validate_path_within_directory = write_in_one_thread, trust

async def main():
    store = FileTreeStore(data_directory=directory)
    for n in range(count):
        await store.put(f"{name}-{n % 3}", {"n": n}, collection="coll")

asyncio.run(main())
"""
        monkeypatch.setattr(os, "fsync", lambda _: None)
        await store.put("first", SMALL, collection="coll")
        counts = {"real": 300, "one": 2400, "two": 2400}
        writers = [python(script, directory, name, count) for name, count in counts.items()]
        swapped = conflicts = 0
        while None in {writer.poll() for writer in writers}:
            async for page in driver.scan():
                batch = [Replacement(e, {**(e.value or {}), "seen": True}) for e in page.entries]
                done = await driver.replace_many(batch)
                swapped += sum(done)
                conflicts += len(done) - sum(done)

        assert [("", 0)] * 3 == [ended(writer) for writer in writers]
        for name, count in counts.items():
            for n in range(count - 3, count):
                assert n == value_of(directory, f"{name}-{n % 3}")["n"]
        assert min(swapped, conflicts) > 100
        assert [] == temporaries(directory)

    async def test_live_writer_at_every_exchange(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer whose every write falls between compare and exchange loses none, nor reads one lost for good."""
        await driver.put_if_absent(entry())
        written, stop, exchange = [0], threading.Event(), swaps.exchange

        def write() -> None:
            while not stop.is_set():
                put_raw(directory, written[0] + 1)
                written[0] += 1

        def exchange_behind_a_write(folder: int, one: str, other: str) -> None:
            before = written[0]
            while written[0] == before and writer.is_alive():
                os.sched_yield()
            exchange(folder, one, other)

        assert driver.capabilities.atomic_replace
        monkeypatch.setattr(swaps, "exchange", exchange_behind_a_write)
        monkeypatch.setattr(os, "fsync", lambda _: None)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(100):
                found = await fetched(driver)
                await driver.replace_many([Replacement(found, {"n": -1})])
        finally:
            stop.set()
            writer.join()

        found = await fetched(driver)
        assert found.value in ({"n": written[0]}, {"n": -1})
        assert found.created_at is not None
        assert written[0] % 1_000_000 == found.created_at.microsecond
        assert written[0] > 100

    async def test_swappers_take_turns(self, driver: FileTreeDriver, directory: Path) -> None:
        """Of processes and threads that count one entry up, each success is counted."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Replacement

os.fsync = lambda _: None

async def main():
    driver, done = await driver_from_url("filetree:" + sys.argv[1]), 0
    while done < 50:
        entry = await driver.get("coll", "key")
        done += sum(await driver.replace_many([Replacement(entry, {"n": entry.value["n"] + 1})]))

asyncio.run(main())
"""
        await driver.put_if_absent(entry())
        counters = [python(script, directory) for _ in range(3)]

        assert [("", 0)] * 3 == [ended(counter) for counter in counters]
        assert {"n": 150} == value_of(directory)

    async def test_kill_in_the_middle_of_replace_many(self, driver: FileTreeDriver, directory: Path) -> None:
        """However a process dies, each entry is old or new and readable, and the next run finishes and cleans up."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.filetree import folders, swaps
from kvseal.drivers.base import Replacement

name, at = sys.argv[2], int(sys.argv[3])
module = folders if name == "write_temporary" else swaps
function, calls = getattr(module, name), 0

def die_late(*args, **kwargs):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), 9)
    return function(*args, **kwargs)

async def main():
    driver = await driver_from_url("filetree:" + sys.argv[1])
    assert driver.capabilities.atomic_replace
    setattr(module, name, die_late)
    async for page in driver.scan():
        await driver.replace_many([Replacement(e, {**e.value, "by": name}) for e in page.entries])

asyncio.run(main())
"""
        count = 12
        for n in range(count):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}))
        for name, at, new in (
            ("write_temporary", 3, 0),
            ("exchange", 5, 4),
            ("read", 19, 3),
            ("remove", 2, 12),
        ):
            killed = python(script, directory, name, at)

            assert ("", -9) == ended(killed), name
            found = await scanned(driver)
            assert dict.fromkeys(range(count), 1) == numbers(found)
            assert new == sum((e.value or {}).get("by") == name for e in found)
            assert [] == temporaries(directory)

    async def test_put_if_absent_race(
        self, driver: FileTreeDriver, store: FileTreeStore, directory: Path
    ) -> None:
        """Of several processes that put the same name at once, exactly one succeeds, for every name."""
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Entry

async def main():
    driver = await driver_from_url("filetree:" + sys.argv[1], create=True)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(30):
        if await driver.put_if_absent(Entry("coll", f"key{n}", {"by": sys.argv[2]})):
            print(n, flush=True)

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
        won = [{int(n) for n in ended(racer)[0].split()} for racer in racers]

        assert set(range(30)) == won[0] | won[1]
        assert set() == won[0] & won[1]
        for name, mine in zip(("a", "b"), won, strict=True):
            assert all([(await store.get(f"key{n}", collection="coll")) == {"by": name} for n in mine])
