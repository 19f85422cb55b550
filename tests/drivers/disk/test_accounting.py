"""diskcache's own accounting stays right, and scans by rowid are complete."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from tests.drivers.disk.caches import NAMELESS, body, insert, run_sql, value_files
from tests.drivers.entries import FUTURE, LARGE, PAST, SMALL, entry, fetched, fill, scanned

from kvseal.drivers import base
from kvseal.drivers.base import PAGE_SIZE, Replacement
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.disk import DiskStore

    from kvseal.drivers.disk.driver import DiskDriver


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
