# ruff: noqa: ASYNC240 - tests may block
"""Manifests: which lines name an entry, which are errors, and what a driver takes from them."""

from __future__ import annotations

import json
import os
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from key_value.aio.stores.memory import MemoryStore
from tests.drivers.contract import DriverContract
from tests.drivers.entries import ODD_NAMES, SMALL, Backend, fetched, scanned

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import Driver
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.factory import OwnedStoreDriver
from kvseal.drivers.manifest import MAX_LINE, Manifest, NamedDriver
from kvseal.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    from kvseal.drivers.base import Entry

URL = "https://host/client"


class TestReading:
    """From lines to names."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Return where the manifest is to be."""
        return tmp_path / "names.jsonl"

    def test_names_in_order(self, file: Path) -> None:
        """Each line is one pair, in order, odd names included, whatever ends the lines and the file."""
        names = [("c", "k"), ("c", "k"), ("", ""), ("größe", "\ud800"), ("a\nb", 'q"\\'), ("c", "🔑")]
        lines = [json.dumps({"collection": c, "key": k}) for c, k in names]
        file.write_bytes("\r\n".join(lines).encode() + '\n{"key": "ключ", "collection": "c"}'.encode())

        assert [*names, ("c", "ключ")] == list(Manifest(file)) == list(Manifest.checked(file))

    def test_what_list_prints(self, file: Path) -> None:
        """Other fields are ignored, and lines whose names are not known name nothing."""
        file.write_text(
            '{"type": "record", "schema": 1, "collection": "c", "key": "k", "expires_at": null, "problem": ""}\n'
            '{"type": "record", "schema": 1, "collection": "c", "key": null, "problem": ""}\n'
            '{"type": "record", "schema": 1, "collection": null, "key": "k", "problem": ""}\n'
        )

        assert [("c", "k")] == list(Manifest(file))

    def test_nothing(self, file: Path) -> None:
        """An empty file names nothing."""
        file.touch()

        assert [] == list(Manifest.checked(file))

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            (b"", "is not JSON"),
            (b"hunter2", "is not JSON"),
            (b'{"collection": "c", "key": "hunter2"', "is not JSON"),
            (b'{"collection": "c", "key": "hunter2\xff"}', "is not JSON"),
            (b'["c", "hunter2"]', "is not a JSON object"),
            (b'{"collection": "hunter2"}', "has no key"),
            (b'{"key": "hunter2"}', "has no collection"),
            (b'{"collection": "hunter2", "key": 7}', "has a key that is not text"),
            (b'{"collection": ["hunter2"], "key": "k"}', "has a collection that is not text"),
            (b'{"collection": "c", "key": "k"}{"collection": "c", "key": "hunter2"}', "is not JSON"),
            (b'{"collection": "c", "key": "' + b"k" * MAX_LINE + b'"}', "is longer than"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_lines(self, file: Path, line: bytes, what: str) -> None:
        """A line without names is an error that gives its number and quotes nothing of it."""
        file.write_bytes(
            b'{"collection": "c", "key": "k"}\n' * 2 + line + b'\n{"collection": "c", "key": "z"}\n'
        )

        with pytest.raises(ManifestError, match=f"line 3 of .*names.jsonl {what}") as caught:
            Manifest.checked(file)

        assert "hunter2" not in str(caught.value)
        assert "vaultctl list --json" in caught.value.hint
        assert [("c", "k")] * 2 == list(islice(Manifest(file), 2))

    @pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
    def test_no_file(self, file: Path, kind: str) -> None:
        """A manifest that is not there, or could be read only once, is an error with the code of usage."""
        match kind:
            case "folder":
                file.mkdir()
            case "pipe":
                os.mkfifo(file)

        what = "cannot be read" if kind == "missing" else "is not a regular file"
        with pytest.raises(ManifestError, match=rf"names\.jsonl {what}") as caught:
            Manifest.checked(file)

        assert 2 == caught.value.exit_code

    def test_read_anew(self, file: Path) -> None:
        """Each iteration reads the file as it is by then, line by line."""
        file.write_text('{"collection": "c", "key": "k"}\n')
        manifest = Manifest(file)
        first = list(manifest)
        file.write_text('{"collection": "c", "key": "new"}\n')

        assert ([("c", "k")], [("c", "new")]) == (first, list(manifest))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the store is."""
    directory = tmp_path / "store"
    directory.mkdir()
    return directory


@pytest.fixture
def store(directory: Path) -> FileTreeStore:
    """Return an empty store that sanitizes names."""
    return FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
    )


class Counting(DelegatingDriver):
    """A driver that counts what it is asked about names."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.places = self.proofs = 0

    def place(self, collection: str, key: str) -> Hashable | None:
        """Count."""
        self.places += 1
        return super().place(collection, key)

    def proves(self, entry: Entry, key: str) -> bool:
        """Count."""
        self.proofs += 1
        return super().proves(entry, key)


def names(entries: list[Entry]) -> set[tuple[str | None, str | None]]:
    """Return the names of the entries."""
    return {(entry.collection, entry.key) for entry in entries}


class TestNamedMemory(DriverContract):
    """Every promise of a driver holds for one with a manifest."""

    many = 2000

    @pytest.fixture
    async def backend(self) -> Backend:
        """Return an empty memory store."""
        store = MemoryStore()
        return Backend(store, NamedDriver(driver_for(store), [("coll", "key"), ("other", "key")]))


class TestNames:
    """What a manifest can claim, and what it cannot."""

    @pytest.mark.parametrize(("collection", "key"), ODD_NAMES)
    async def test_odd_names(self, store: FileTreeStore, collection: str, key: str) -> None:
        """Names that no file name holds come from the manifest, so that a scan is as good as with a `DiskStore`."""
        await store.put(key, SMALL, collection=collection)
        driver = NamedDriver(driver_for(store), [("c", "other"), (collection, key), (collection, "x" + key)])

        (seen,) = await scanned(driver)

        assert (collection, key, "") == (seen.collection, seen.key, seen.problem)
        assert isinstance(driver, Driver)

    async def test_named_once_and_for_all(self, store: FileTreeStore, directory: Path) -> None:
        """What is replaced under a name from the manifest has it without the manifest, from then on."""
        await store.put(URL, SMALL, collection="c-1")
        driver = NamedDriver(driver_for(store), [("c-1", URL)])
        (seen,) = await scanned(driver)

        await base.replace(driver, seen, {"n": 1})

        assert {("c-1", URL)} == names(await scanned(await driver_from_url(f"filetree:{directory}")))
        assert {"n": 1} == await store.get(URL, collection="c-1")

    async def test_claims_are_not_believed(self, store: FileTreeStore) -> None:
        """A name that does not lead to the entry, in this collection, is not its name."""
        await store.put(URL, SMALL, collection="coll")
        await store.put("own", SMALL, collection="coll")
        claims = [("coll", URL + "2"), ("other", URL), ("coll", "S_own"), ("coll", "\ud800"), ("..", "own")]

        found = await scanned(NamedDriver(driver_for(store), claims))

        assert {("coll", None), ("coll", "own")} == names(found)

    async def test_two_names_for_one_place(self, store: FileTreeStore) -> None:
        """Where two names lead to one file, neither is given; a name that is there twice is one."""
        await store.put("k" * 300, SMALL, collection="coll")
        driver = driver_for(store)

        one = await scanned(NamedDriver(driver, [("coll", "k" * 300)] * 2))
        two = await scanned(NamedDriver(driver, [("coll", "k" * 300), ("coll", "k" * 301)]))

        assert ({("coll", "k" * 300)}, {("coll", None)}) == (names(one), names(two))

    async def test_a_known_collection_stays(self, store: FileTreeStore) -> None:
        """What the store says of itself is not overruled by a name that leads to the same folder."""
        await store.put(URL, SMALL, collection="c" * 300)
        driver = NamedDriver(driver_for(store), [("c" * 301, URL)])

        assert {("c" * 300, None)} == names(await scanned(driver))

    async def test_lost_info(self, store: FileTreeStore, directory: Path) -> None:
        """Where the store does not show the collection either, the manifest proves both."""
        await store.put("key", SMALL, collection="c-1")
        (info,) = directory.glob("*-info.json")
        info.unlink()
        driver = driver_for(store)

        assert {(None, "key")} == names(await scanned(driver))
        assert {("c-1", "key")} == names(await scanned(NamedDriver(driver, [("c-2", "key"), ("c-1", "key")])))

    async def test_problems_have_names(self, store: FileTreeStore, directory: Path) -> None:
        """An entry that cannot be read is reported under its name, and stays a problem."""
        await store.put(URL, SMALL, collection="coll")
        (file,) = (directory / "coll").iterdir()
        file.write_text("{")

        (broken,) = await scanned(NamedDriver(driver_for(store), [("coll", URL)]))

        assert ("coll", URL, None) == (broken.collection, broken.key, broken.value)
        assert broken.problem

    async def test_each_name_is_led_once(self, store: FileTreeStore) -> None:
        """The work is manifest plus entries, not manifest times entries, and no name is proven in vain."""
        claims = [("coll", f"https://host/{n}") for n in range(300)]
        for collection, key in claims[:30]:
            await store.put(key, SMALL, collection=collection)
        await store.put("plain", SMALL, collection="coll")
        counting = Counting(driver_for(store))
        driver = NamedDriver(counting, claims)

        for _ in range(2):
            assert {*claims[:30], ("coll", "plain")} == names(await scanned(driver))

        assert (300, 60) == (counting.places, counting.proofs)

    async def test_pages_and_parts_are_the_drivers(self, store: FileTreeStore) -> None:
        """Cursors and partitions are those of the driver below."""
        claims = [("coll", f"https://host/{n}") for n in range(20)]
        for collection, key in claims:
            await store.put(key, SMALL, collection=collection)
        driver = NamedDriver(driver_for(store), claims)

        parts = [await scanned(driver, partition=(part, 2)) for part in range(2)]
        (page,) = [page async for page in driver.scan()]

        assert set(claims) == names(parts[0] + parts[1])
        assert 20 == len(parts[0]) + len(parts[1])
        assert [] == await scanned(driver, after=page.cursor)

    async def test_manifest_is_read_only_where_it_is_needed(self) -> None:
        """A store that gives its names back needs no manifest, and its pages go through as they are."""

        class Unread:
            def __iter__(self) -> Iterator[tuple[str, str]]:
                raise AssertionError

        store = MemoryStore()
        await store.put("key", SMALL, collection="coll")

        assert {("coll", "key")} == names(await scanned(NamedDriver(driver_for(store), Unread())))

    async def test_store_of_a_factory(self, store: FileTreeStore) -> None:
        """The driver of a store that a factory made says where names lead, too."""
        await store.put(URL, SMALL, collection="coll")
        owned = OwnedStoreDriver(store, driver_for(store))

        assert {("coll", URL)} == names(await scanned(NamedDriver(owned, [("coll", URL)])))

    async def test_driver_without_hidden_names(self) -> None:
        """Problems of a store whose names come back otherwise stay without a name."""
        store = MemoryStore()
        await store.put("key", SMALL, collection="coll")

        class Nameless(DelegatingDriver):
            async def scan(self, **options: Any) -> Any:
                async for page in super().scan(**options):
                    entries = [base.Entry(None, None, None, problem="odd") for _ in page.entries]
                    yield base.Page(entries, page.cursor)

        driver = NamedDriver(Nameless(driver_for(store)), [("coll", "key")])

        assert {(None, None)} == names(await scanned(driver))
        assert SMALL == (await fetched(driver)).value
