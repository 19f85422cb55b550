# ruff: noqa: ASYNC240 - tests may block
"""Which directories are file tree stores, what else may be in them, and scans."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.serialization import BasicSerializationAdapter
from key_value.aio.stores.filetree import (
    FileTreeStore,
)
from tests.drivers.entries import FUTURE, SMALL, entry, fetched, numbers, scanned
from tests.drivers.filetree.trees import temporaries, v1_store, value_of

from kvseal.drivers import abilities, base, driver_for, driver_from_url
from kvseal.drivers.base import Replacement
from kvseal.errors import StoreError, StoreNotFoundError, UnsupportedStoreError

if TYPE_CHECKING:
    from kvseal.drivers.filetree.driver import FileTreeDriver


class TestPlaces:
    """Moved stores, links, and paths with no store."""

    async def test_moved_store(self, store: FileTreeStore, directory: Path, tmp_path: Path) -> None:
        """A store that was moved is read and written where it lies; the path it came from stays untouched."""
        await store.put("key", SMALL, collection="coll")
        moved = tmp_path / "moved"
        shutil.move(directory, moved)
        driver = await driver_from_url(f"filetree:{moved}")

        await base.replace(driver, await fetched(driver), {"n": 2})

        assert {"n": 2} == value_of(moved)
        assert not directory.exists()
        shutil.move(moved, directory)
        assert {"n": 2} == await FileTreeStore(data_directory=directory).get("key", collection="coll")

    async def test_metadata_elsewhere(self, directory: Path, tmp_path: Path) -> None:
        """A store with a metadata directory of its own is served, and new info files go there."""
        store = FileTreeStore(data_directory=directory, metadata_directory=tmp_path / "meta")
        await store.put("key", SMALL, collection="coll")
        driver = driver_for(store)

        assert await driver.put_if_absent(entry(collection="new"))

        assert {("coll", "key"), ("new", "key")} == {(e.collection, e.key) for e in await scanned(driver)}
        assert ["coll-info.json", "new-info.json"] == sorted(p.name for p in (tmp_path / "meta").iterdir())
        assert {"n": 0} == await FileTreeStore(
            data_directory=directory, metadata_directory=tmp_path / "meta"
        ).get("key", collection="new")

    @pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
    async def test_links_are_not_followed(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path, tmp_path: Path, kind: str
    ) -> None:
        """A link to a file, a link to a folder, and a pipe, are problems that are seen, and are never opened."""
        await store.put("key", SMALL, collection="coll")
        shutil.copytree(directory, tmp_path / "outside")
        match kind:
            case "file":
                (directory / "coll" / "link.json").symlink_to(tmp_path / "outside" / "coll" / "key.json")
            case "folder":
                (directory / "linked").symlink_to(tmp_path / "outside" / "coll")
            case "pipe":
                os.mkfifo(directory / "coll" / "pipe.json")

        (odd,) = [e for e in await scanned(driver) if e.key != "key"]

        assert odd.value is None
        assert "link" in odd.problem or "not a regular file" in odd.problem
        with pytest.raises(StoreError):
            await driver.replace_many([Replacement(odd, SMALL)])
        if kind == "folder":
            with pytest.raises(StoreError, match="symbolic link"):
                await driver.put_if_absent(entry(collection="linked"))
        assert SMALL == value_of(tmp_path / "outside")

    async def test_file_name_that_is_not_text(self, driver: FileTreeDriver, directory: Path) -> None:
        """A file name that is not UTF-8 is a problem, because no record can be bound to it."""
        await driver.put_if_absent(entry())
        shutil.copy(directory / "coll" / "key.json", os.fsencode(directory / "coll") + b"/\xff.json")

        assert ["", "not text"] == [e.problem[-8:] for e in await scanned(driver)]

    async def test_temporary_files_are_no_entries(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What a crash of the store left behind is ignored and left alone."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll" / "tmpabc.tmp").write_text("half")

        assert ["key"] == [e.key for e in await scanned(driver)]
        assert ["tmpabc.tmp"] == temporaries(directory)

    @pytest.mark.parametrize("content", [None, [], ["something"], ["config-info.json"]])
    async def test_typo_creates_nothing(self, tmp_path: Path, content: list[str] | None) -> None:
        """A path without a store is an error that names it, and the path is as it was."""
        path = tmp_path / "typo"
        if content is not None:
            path.mkdir()
        for name in content or []:
            (path / name).write_text("{}")

        with pytest.raises(StoreNotFoundError, match="typo"):
            await driver_from_url(f"filetree:{path}")

        assert (content is not None) == path.exists()
        assert (content or []) == [p.name for p in path.glob("*")]

    async def test_parent_of_a_store(self, tmp_path: Path) -> None:
        """The parent of a store's directory is not a store whose collections are one folder deeper."""
        await v1_store(tmp_path / "store").put("key", SMALL, collection="a-b")

        with pytest.raises(StoreNotFoundError):
            await driver_from_url(f"filetree:{tmp_path}")

    async def test_create(self, tmp_path: Path) -> None:
        """`create` makes a directory for its owner alone, which the store reads, and refuses one in use."""
        path = tmp_path / "new" / "store"
        driver = await driver_from_url(f"filetree:{path}", create=True)
        assert await driver.put_if_absent(entry())
        assert await (await driver_from_url(f"filetree:{path}", create=True)).put_if_absent(entry()) is False
        (tmp_path / "new" / "file").touch()

        assert 0o700 == stat.S_IMODE(path.stat().st_mode)
        assert {"n": 0} == await FileTreeStore(data_directory=path).get("key", collection="coll")
        with pytest.raises(StoreNotFoundError):
            await driver_from_url(f"filetree:{tmp_path / 'new'}", create=True)

    @pytest.mark.parametrize("url", ["filetree:", "filetree:x?names=v2"])
    async def test_wrong_url(self, url: str) -> None:
        """A URL without a path, or with an unknown rule, says what to write."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(url)

        assert caught.value.hint

    async def test_store_goes_away(self, driver: FileTreeDriver, directory: Path) -> None:
        """A store whose directory is gone is an error, not a store in which everything is missing."""
        shutil.rmtree(directory)

        with pytest.raises(StoreNotFoundError):
            await driver.get("coll", "key")
        with pytest.raises(StoreError):
            await scanned(driver)

    async def test_closed(self, driver: FileTreeDriver) -> None:
        """A closed driver says so."""
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await abilities.count(driver)

    async def test_other_adapter(self, directory: Path) -> None:
        """A store that writes other bodies has no driver."""

        class Adapter(BasicSerializationAdapter):
            pass

        with pytest.raises(UnsupportedStoreError, match="Adapter"):
            driver_for(FileTreeStore(data_directory=directory, serialization_adapter=Adapter()))


class TestScan:
    """What is particular to scans of folders."""

    @pytest.mark.exhaustive
    async def test_more_than_10_000(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """A scan of more files than any `keys()` gives back is complete."""
        await store.put("first", {"n": 0}, collection="coll")
        for n in range(1, 10_050):
            (directory / "coll" / f"{n}.json").write_text(f'{{"value": {{"n": {n}}}}}')

        assert dict.fromkeys(range(10_050), 1) == numbers(await scanned(driver))

    async def test_page_of_large_values_ends_early(
        self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pages are bounded in bytes, not only in entries."""
        monkeypatch.setattr("kvseal.drivers.base.PAGE_BYTES", 100_000)
        for n in range(5):
            await driver.put_if_absent(entry(f"key-{n}", {"large": "x" * 50_000}))

        assert [2, 2, 1] == [len(page.entries) async for page in driver.scan()]

    async def test_deleted_meanwhile(self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files and folders that go away between listing and reading are skipped."""
        for n in range(4):
            await driver.put_if_absent(entry(f"key-{n}"))
            await driver.put_if_absent(entry(collection=f"coll-{n}"))
        monkeypatch.setattr("kvseal.drivers.base.PAGE_SIZE", 1)
        scan = driver.scan()
        first = await anext(scan)
        shutil.rmtree(Path(driver.location.removeprefix("filetree:")) / "coll-2")
        (Path(driver.location.removeprefix("filetree:")) / "coll" / "key-3.json").unlink()

        rest = [e async for page in scan for e in page.entries]

        assert ["coll/key-0", "coll/key-1", "coll/key-2", "coll-0/key", "coll-1/key", "coll-3/key"] == [
            f"{e.collection}/{e.key}" for e in (*first.entries, *rest)
        ]

    async def test_body_stays_byte_for_byte(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What the store wrote around the value is unchanged to the byte, but for the names that are added."""
        await store.put("key", {"a": "old"}, collection="coll", ttl=60)
        before = (directory / "coll" / "key.json").read_text()

        await base.replace(driver, await fetched(driver), {"a": "new"})

        named = before.replace("{", '{"collection": "coll", ', 1).replace('"value"', '"key": "key", "value"')
        assert named.replace('"old"', '"new"') == (directory / "coll" / "key.json").read_text()

    async def test_deleted_is_expired(self, driver: FileTreeDriver, directory: Path) -> None:
        """A deletion leaves a body without a value that expired long ago, so the store's `cull` removes it."""
        await driver.put_if_absent(entry(value={"secret": 1}, expires_at=FUTURE))
        assert await driver.delete_if_unchanged(await fetched(driver))
        assert {} == value_of(directory)

        store = FileTreeStore(data_directory=directory)
        if hasattr(store, "cull"):  # Not before py-key-value-aio 0.5.
            await store.cull()
            assert not (directory / "coll" / "key.json").exists()

    async def test_loop_is_not_blocked(self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """No operation opens a file in the thread of the event loop."""
        users: set[int] = set()
        opened = os.open

        def note(*args: Any, **options: Any) -> int:
            users.add(threading.get_ident())
            return opened(*args, **options)

        monkeypatch.setattr(os, "open", note)
        await driver.put_if_absent(entry())
        await driver.replace_many([Replacement(await fetched(driver), SMALL)])
        await scanned(driver)
        await abilities.count(driver)
        await driver.delete_if_unchanged(await fetched(driver))

        assert users
        assert threading.get_ident() not in users
