"""Rows that are hostile, damaged, or do not say whose they are."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.disk.caches import NAMELESS, body, insert, run_sql, value_files
from tests.drivers.entries import FUTURE, LARGE, PAST, SMALL, entry, fetched, scanned
from tests.fuzz.target import CORPUS

from kvseal.drivers import base, driver_from_url
from kvseal.drivers.base import Entry, Replacement
from kvseal.errors import StoreError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from key_value.aio.stores.disk import DiskStore

    from kvseal.drivers.disk.driver import DiskDriver


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


async def test_a_database_whose_error_is_no_text(tmp_path: Path) -> None:
    """A damaged file whose bytes SQLite quotes in its message, and Python cannot read there, is a damaged file."""
    (tmp_path / "cache.db").write_bytes((CORPUS / "disk-database" / "message-that-is-no-text").read_bytes())

    with pytest.raises(StoreUnreachableError, match="malformed"):
        await driver_from_url(f"disk:{tmp_path}")


async def test_a_database_whose_rows_are_not_in_order(tmp_path: Path) -> None:
    """A scan of a damaged file in which a row comes back again ends with an error, not never."""
    (tmp_path / "cache.db").write_bytes((CORPUS / "disk-database" / "rows-in-a-circle").read_bytes())
    driver = await driver_from_url(f"disk:{tmp_path}")

    with pytest.raises(StoreUnreachableError, match="not in order"):
        await scanned(driver)
