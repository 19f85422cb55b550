# ruff: noqa: ASYNC240 - tests may block
"""Names that come back from file names, and names in bodies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.sanitization import AlwaysHashStrategy
from key_value.aio.stores.filetree import (
    FileTreeStore,
)
from tests.drivers.entries import ODD_NAMES, PAST, SMALL, entry, fetched, scanned
from tests.drivers.filetree.trees import v1_store

from kvseal.drivers import abilities, base, driver_for, driver_from_url, landing_of
from kvseal.drivers.base import Replacement
from kvseal.errors import StoreError, UnsupportedStoreError

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.drivers.filetree.driver import FileTreeDriver


class TestNames:
    """Which names come back, and which can only be proven."""

    @pytest.mark.parametrize(("collection", "key"), ODD_NAMES)
    @pytest.mark.parametrize("by_url", [False, True])
    async def test_odd_names_in_v1(self, directory: Path, collection: str, key: str, by_url: bool) -> None:
        """Odd names reach the same entry both ways; a scan gives back only what V1 left alone; all can be proven."""
        store = v1_store(directory)
        await store.put(key, {"by": "store"}, collection=collection)
        driver: Any = await driver_from_url(f"filetree:{directory}?names=v1") if by_url else driver_for(store)

        (seen,) = await scanned(driver)

        assert (collection, {"by": "store"}, "") == (seen.collection, seen.value, seen.problem)
        assert seen.key == (key if key.isalnum() and key.isascii() and len(key) < 250 else None)
        assert [True, True] == [
            abilities.proves(driver, seen, key),
            abilities.proves(driver, replace(seen, collection=None), key),
        ]
        assert [False, False] == [
            abilities.proves(driver, seen, "x" + key[1:] + "y"),
            abilities.proves(driver, replace(seen, collection="x"), key),
        ]
        await base.replace(driver, seen, {"by": "replace"})
        assert {"by": "replace"} == await store.get(key, collection=collection)
        found = await fetched(driver, key, collection)
        assert (collection, key) == (found.collection, found.key)
        assert await driver.delete_if_unchanged(found)
        assert await store.get(key, collection=collection) is None
        assert await driver.put_if_absent(replace(found, value={"by": "driver"}))
        assert {"by": "driver"} == await store.get(key, collection=collection)

    @pytest.mark.parametrize("loses", [False, True])
    async def test_loses_names(self, directory: Path, *, loses: bool) -> None:
        """A store that sanitizes names loses them, whatever is in it; one that keeps them does not."""
        store = v1_store(directory) if loses else FileTreeStore(data_directory=directory)
        driver = await driver_from_url(
            f"filetree:{directory}?names={'v1' if loses else 'plain'}", create=True
        )

        assert [loses] * 3 == [
            landing_of(store).loses_names,
            abilities.loses_names(driver_for(store)),
            abilities.loses_names(driver),
        ]

    async def test_undecided_loses_names(self, directory: Path) -> None:
        """Where nothing shows the rule, names may get lost."""
        await FileTreeStore(data_directory=directory).put("key", SMALL, collection="coll")

        assert abilities.loses_names(await driver_from_url(f"filetree:{directory}"))

    async def test_prefix_of_v1(self, directory: Path) -> None:
        """A key that looks like a sanitized one is not given back, because another may have become it."""
        store = v1_store(directory)
        await store.put("S_key", SMALL, collection="coll")

        (seen,) = await scanned(driver_for(store))

        assert (None, "") == (seen.key, seen.problem)

    async def test_unknown_strategy(self, directory: Path) -> None:
        """Of a strategy that cannot be undone no name is given back, though `get` finds the entry."""
        store = FileTreeStore(data_directory=directory, key_sanitization_strategy=AlwaysHashStrategy())
        await store.put("key", SMALL, collection="coll")
        driver: Any = driver_for(store)

        (seen,) = await scanned(driver)

        assert ("coll", None) == (seen.collection, seen.key)
        assert [True, False] == [
            abilities.proves(driver, seen, "key"),
            abilities.proves(driver, seen, "other"),
        ]
        assert SMALL == (await fetched(driver)).value

    @pytest.mark.parametrize("names", ["plain", "v1"])
    async def test_rule_is_detected(self, directory: Path, names: str) -> None:
        """What lies in the store shows its rule, for the names of both kinds."""
        store = v1_store(directory) if names == "v1" else FileTreeStore(data_directory=directory)
        await store.put("with-dash", SMALL, collection="a-b")
        driver = await driver_from_url(f"filetree:{directory}")

        await driver.put_if_absent(entry("other-key", collection="other-coll"))

        assert {"n": 0} == await store.get("other-key", collection="other-coll")
        assert SMALL == (await fetched(driver, "with-dash", "a-b")).value

    async def test_nothing_shows_the_rule(self, store: FileTreeStore, directory: Path) -> None:
        """Where nothing shows the rule, names that it matters for are refused, and the others work."""
        await store.put("key", SMALL, collection="coll")
        driver = await driver_from_url(f"filetree:{directory}")

        assert await driver.put_if_absent(entry("__dek__", collection="__vault_meta__"))
        with pytest.raises(StoreError, match="nothing in the store shows") as caught:
            await driver.put_if_absent(entry("with-dash"))
        assert "?names=" in caught.value.hint
        assert ["__dek__", "key"] == [e.key for e in await scanned(driver)]

    async def test_both_rules_at_once(self, store: FileTreeStore, directory: Path) -> None:
        """Sanitized names beside others are refused rather than guessed at, until the URL says which."""
        await store.put("with-dash", SMALL, collection="coll")
        await store.put("S_a_b-01234567", SMALL, collection="coll")

        with pytest.raises(UnsupportedStoreError, match="some keys"):
            await driver_from_url(f"filetree:{directory}")

        driver = await driver_from_url(f"filetree:{directory}?names=plain")
        assert ["S_a_b-01234567", "with-dash"] == [e.key for e in await scanned(driver)]

    async def test_nested_collections(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """Collections with a slash are folders in folders, and their info files are no entries."""
        for n, collection in enumerate(["tools", "tools/list", "tools/list/all"]):
            await store.put("key", {"n": n}, collection=collection)

        found = await scanned(driver)

        assert [("tools", 0), ("tools/list", 1), ("tools/list/all", 2)] == [
            (e.collection, e.value["n"]) for e in found if e.value
        ]
        assert 3 == len(found) == (await abilities.count(driver)).entries

    async def test_folder_without_info(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """Entries of a folder whose info file is lost are found, under the name that the folder proves."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll-info.json").unlink()

        assert [("coll", "key", "")] == [(e.collection, e.key, e.problem) for e in await scanned(driver)]

    @pytest.mark.parametrize("info", ['{"collection": "other", "directory": "/"}', "{", '{"directory": "/"}'])
    async def test_pasted_info(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path, info: str
    ) -> None:
        """An info file that names another collection, or none, is a problem of each entry, not their new name."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll-info.json").write_text(info)

        (found,) = await scanned(driver)

        assert (None, None) == (found.collection, found.value)
        assert "info file" in found.problem
        with pytest.raises(StoreError, match="info file"):
            await driver.put_if_absent(entry("new"))

    async def test_colliding_collections(self, directory: Path) -> None:
        """Collections that V1 cannot tell apart: the folder is the first one's, and the second puts nothing there."""
        store = v1_store(directory)
        await store.put("key", SMALL, collection="c" * 300)
        driver = driver_for(store)

        assert "c" * 300 == (await fetched(driver, "key", "c" * 301)).collection
        with pytest.raises(StoreError, match="is that of"):
            await driver.put_if_absent(entry("new", collection="c" * 301))

    @pytest.mark.parametrize("key", ["a/b", "a\0b", "k" * 251, "\ud800"])
    async def test_impossible_key(self, driver: FileTreeDriver, key: str) -> None:
        """A key that is no file name is refused in kvseal's own words, and never leads elsewhere."""
        for call in (driver.get("coll", key), driver.put_if_absent(entry(key))):
            with pytest.raises(StoreError, match="cannot hold"):
                await call

    @pytest.mark.parametrize("collection", ["..", "../x", "/etc", "a//b", "."])
    async def test_impossible_collection(
        self, driver: FileTreeDriver, directory: Path, collection: str
    ) -> None:
        """A collection that would lead out of the store is refused, and nothing is created."""
        with pytest.raises(StoreError, match="cannot hold"):
            await driver.put_if_absent(entry(collection=collection))

        assert [] == list(directory.iterdir())


class TestNamesInBodies:
    """Names that kvseal writes into the bodies, and who may not say them."""

    KEY = "https://host/path"

    @pytest.fixture
    def store(self, directory: Path) -> FileTreeStore:
        """Return an empty store that sanitizes names."""
        return v1_store(directory)

    async def test_put_names_its_entry(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """What the driver put comes back from a scan with names that no file name holds; the store reads it."""
        await driver.put_if_absent(entry(self.KEY, collection="c-1"))

        assert [("c-1", self.KEY, "")] == [(e.collection, e.key, e.problem) for e in await scanned(driver)]
        assert {"n": 0} == await store.get(self.KEY, collection="c-1")

    async def test_proven_key_in_a_replacement(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """An entry without a key is replaced under one that its caller has proven, which then comes back."""
        await store.put(self.KEY, SMALL, collection="c-1", ttl=1000)
        (seen,) = await scanned(driver)
        files = sorted(directory.rglob("*.json"))
        assert (None, True) == (seen.key, abilities.proves(driver, seen, self.KEY))

        await base.replace(driver, replace(seen, key=self.KEY), {"n": 1})

        (found,) = await scanned(await driver_from_url(f"filetree:{directory}"))
        assert ("c-1", self.KEY, {"n": 1}) == (found.collection, found.key, found.value)
        assert (seen.created_at, seen.expires_at) == (found.created_at, found.expires_at)
        assert files == sorted(directory.rglob("*.json"))
        assert {"n": 1} == await store.get(self.KEY, collection="c-1")

    async def test_unknown_key_stays_unknown(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """A replacement by somebody who does not know the key writes no names."""
        await store.put(self.KEY, SMALL, collection="coll")
        (seen,) = await scanned(driver)

        await base.replace(driver, seen, {"n": 1})

        (found,) = await scanned(driver)
        assert (None, {"n": 1}) == (found.key, found.value)
        assert b"collection" not in found.stored

    async def test_wrong_key_in_a_replacement(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """A key that is not stored there is refused, and so is all that is to be written with it."""
        await store.put("key", SMALL, collection="coll")
        await store.put(self.KEY, SMALL, collection="coll")
        seen = sorted(await scanned(driver), key=lambda e: e.key is None)
        wrong = replace(seen[1], key="another")

        with pytest.raises(StoreError, match="is not stored in"):
            await driver.replace_many([Replacement(seen[0], {"n": 1}), Replacement(wrong, {"n": 1})])

        assert [SMALL, SMALL] == await store.get_many(["key", self.KEY], collection="coll")

    async def test_the_store_takes_the_names_away(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """What the application writes over the file has no names, as nothing in it has."""
        await driver.put_if_absent(entry(self.KEY))

        await store.put(self.KEY, SMALL, collection="coll")

        assert [(None, SMALL)] == [(e.key, e.value) for e in await scanned(driver)]

    @pytest.mark.parametrize(("collection", "file"), [("coll", "other"), ("other", None), ("c-2", None)])
    async def test_copied_file(
        self, driver: FileTreeDriver, directory: Path, collection: str, file: str | None
    ) -> None:
        """A copy in another file, or in another collection, is a problem of its entry, and takes no name."""
        await driver.put_if_absent(entry(self.KEY))
        await driver.put_if_absent(entry("own", collection=collection))
        (original,) = [e for e in await scanned(driver) if e.key == self.KEY]
        (own,) = [e for e in await scanned(driver) if (e.collection, e.key) == (collection, "own")]
        copy = directory / own.locator.folder / (f"{file}.json" if file else original.locator.file)
        shutil.copy(directory / "coll" / original.locator.file, copy)

        (odd,) = [e for e in await scanned(driver) if e.problem]

        assert (collection, file, None) == (odd.collection, odd.key, odd.value)
        assert f"it holds the body of 'coll'/'{self.KEY}'" in odd.problem
        got = await fetched(driver, file or self.KEY, collection)
        assert (odd.problem, file or self.KEY) == (got.problem, got.key)
        assert await driver.put_if_absent(entry(file or self.KEY, collection=collection)) is False
        with pytest.raises(StoreError, match="cannot be read"):
            await base.replace(driver, odd, SMALL)

    async def test_claim_that_nothing_shows(self, store: FileTreeStore, directory: Path) -> None:
        """Where nothing shows the rule, a name that it matters for is neither believed nor held against a file."""
        await store.put("key", SMALL, collection="coll")
        undecided = await driver_from_url(f"filetree:{directory}")
        await driver_for(store).put_if_absent(entry(self.KEY))

        found = {e.key: e for e in await scanned(undecided)}

        assert {"key": "", None: ""} == {key: e.problem for key, e in found.items()}
        assert undecided.proves(found[None], self.KEY) is False
        assert {"key", self.KEY} == {
            e.key for e in await scanned(await driver_from_url(f"filetree:{directory}"))
        }

    async def test_body_names_the_collection(self, driver: FileTreeDriver, directory: Path) -> None:
        """Where the info file is lost, a body still proves a collection that the folder's name does not hold."""
        await driver.put_if_absent(entry("key", collection="c-1"))
        (info,) = directory.glob("*-info.json")
        info.unlink()

        assert [("c-1", "key")] == [(e.collection, e.key) for e in await scanned(driver)]

    async def test_expired_copy(self, driver: FileTreeDriver, directory: Path) -> None:
        """An expired file is absent, whatever it says."""
        await driver.put_if_absent(entry(expires_at=PAST))
        shutil.copy(directory / "coll" / "key.json", directory / "coll" / "other.json")

        assert [] == await scanned(driver)
        assert await driver.put_if_absent(entry("other"))

    async def test_colliding_keys(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """Keys that V1 cannot tell apart: whichever is asked for, the entry has the name it was stored with."""
        await driver.put_if_absent(entry("k" * 300))

        assert "k" * 300 == (await fetched(driver, "k" * 301)).key

    async def test_deletion_adds_no_names(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What is left of a deleted entry says nothing that was not there before."""
        await store.put("key", SMALL, collection="coll")

        assert await driver.delete_if_unchanged(await fetched(driver))
        assert {"created_at", "expires_at", "value", "version"} == set(
            json.loads((directory / "coll" / "key.json").read_text())
        )
