"""File trees that do not give names back: their entries return to the very files they were in."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from tests.backup.made import CREATED, backup_file, entry, everything
from tests.drivers.filetree.trees import v1_store

from kvseal.backup import backup, restore
from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.abilities import KeepsPaths
from kvseal.drivers.base import Entry
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.manifest import NamedDriver
from kvseal.errors import MalformedBackupError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

URL_KEY = "https://host/path?q=1"
VALUE = {"token": "t"}


async def filled(directory: Path, collection: str = "my coll") -> FileTreeStore:
    """Return a store with V1 names, into which the application has put two entries."""
    store = v1_store(directory)
    await store.put(URL_KEY, VALUE, collection=collection, ttl=3600)
    await store.put("plain", {"n": 1}, collection=collection)
    return store


def files(directory: Path) -> list[str]:
    """Return the names of all files."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_into_another_tree(tmp_path: Path) -> None:
    """The application finds its entries by their names again, in files of the same names."""
    source = await filled(tmp_path / "old")
    report = await backup(source, tmp_path / "file")
    target = v1_store(tmp_path / "new")

    done = await restore(tmp_path / "file", target)

    assert (2, 0, 2, 0) == (report.saved, report.failed, done.restored, done.failed)
    assert [VALUE, {"n": 1}] == await target.get_many([URL_KEY, "plain"], collection="my coll")
    assert files(tmp_path / "old") == files(tmp_path / "new")
    assert await everything(driver_for(source)) == await everything(driver_for(target))
    assert 2 == (await restore(tmp_path / "file", target)).already


async def test_into_the_same_tree_through_a_url(tmp_path: Path) -> None:
    """After its folder was lost, through a URL, to an empty directory that shows no rule yet."""
    before = await everything(driver_for(await filled(tmp_path / "kv")))
    await backup(v1_store(tmp_path / "kv"), tmp_path / "file")
    shutil.rmtree(tmp_path / "kv")
    driver = await driver_from_url(f"filetree:{tmp_path}/kv?names=v1", create=True)

    done = await restore(tmp_path / "file", driver)

    assert 2 == done.restored
    assert before == await everything(driver)
    assert VALUE == await v1_store(tmp_path / "kv").get(URL_KEY, collection="my coll")


async def test_a_folder_without_its_info_file(tmp_path: Path) -> None:
    """A collection whose name is lost as well comes back to its folder, and the store finds it there."""
    source = await filled(tmp_path / "old")
    for info in (tmp_path / "old").glob("*-info.json"):
        info.unlink()
    target = v1_store(tmp_path / "new")

    report = await backup(source, tmp_path / "file")
    done = await restore(tmp_path / "file", target)

    assert (2, 2) == (report.saved, done.restored)
    assert VALUE == await target.get(URL_KEY, collection="my coll")


@pytest.mark.parametrize("overwrite", [False, True])
async def test_another_value_is_there(tmp_path: Path, overwrite: bool) -> None:
    """What has another value stays and is named, or is overwritten if that is wanted."""
    store = await filled(tmp_path / "kv")
    await backup(store, tmp_path / "file")
    await store.put(URL_KEY, {"token": "new"}, collection="my coll")

    dry = await restore(tmp_path / "file", store, overwrite=overwrite, dry_run=True)
    done = await restore(tmp_path / "file", store, overwrite=overwrite)

    assert (1, int(overwrite), int(not overwrite)) == (done.already, done.overwritten, done.failed)
    assert (done.already, done.overwritten, done.failures) == (dry.already, dry.overwritten, dry.failures)
    expected = VALUE if overwrite else {"token": "new"}
    assert expected == await store.get(URL_KEY, collection="my coll")


async def test_a_collection_of_unnamed_entries(tmp_path: Path) -> None:
    """The collection gets its name back, though no named entry leads to it."""
    source = v1_store(tmp_path / "old")
    await source.put(URL_KEY, VALUE, collection="my coll")
    await backup(source, tmp_path / "file")

    await restore(tmp_path / "file", v1_store(tmp_path / "new"))

    found = await everything(driver_for(v1_store(tmp_path / "new")))
    assert ["my coll"] == [names[0] for names in found]


@pytest.mark.parametrize("collection", ["my coll", "coll"])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_tree_that_keeps_names_in_another_way(tmp_path: Path, dry_run: bool, collection: str) -> None:
    """There the file would be another entry: it is named, and nothing is written."""
    await backup(await filled(tmp_path / "old", collection), tmp_path / "file")
    (tmp_path / "new").mkdir()
    target = FileTreeStore(data_directory=tmp_path / "new")

    done = await restore(tmp_path / "file", target, dry_run=dry_run)

    assert (1, 1) == (done.restored, done.failed)
    assert "keeps names in another way" in done.failures[0].reason
    assert [] == [name for name in files(tmp_path / "new") if "https" in name]


@pytest.mark.parametrize(
    "path",
    [
        "../evil/S_x-00000000.json",
        "/tmp/S_x-00000000.json",
        "c/../../S_x-00000000.json",
        "./S_x-00000000.json",
        "S_x-00000000.json",
        "c//S_x-00000000.json",
        "c/S_x-00000000.txt",
        "c/\0.json",
        "c/..",
        "",
    ],
)
@pytest.mark.parametrize("names", [{"collection": "c"}, {"collection": None}])
async def test_a_path_that_leads_elsewhere(tmp_path: Path, path: str, names: dict[str, Any]) -> None:
    """A backup that somebody has made up writes nothing outside of the store, or beside its entries."""
    made_up = Entry(key=None, value=VALUE, created_at=CREATED, path=path, **names)
    file = backup_file(tmp_path, made_up)
    store = v1_store(tmp_path / "kv")
    before = files(tmp_path)

    for dry_run in (True, False):
        if path == "c/S_x-00000000.txt":
            report = await restore(file, store, dry_run=dry_run)
            assert (0, 1) == (report.restored, report.failed)
        else:
            with pytest.raises(MalformedBackupError, match="path"):
                await restore(file, store, dry_run=dry_run)
    # The driver does not rely on the file.
    with pytest.raises(StoreError):
        await driver_for(store).put_if_absent(made_up)
    assert before == files(tmp_path)


@pytest.mark.parametrize(
    ("collection", "path"),
    [
        pytest.param("c", "S_d-00000000/S_x-00000000.json", id="not in the folder of its collection"),
        pytest.param(None, "c/S_x-00000000.json", id="in a folder whose name is known"),
    ],
)
async def test_a_path_in_another_collection(tmp_path: Path, collection: str | None, path: str) -> None:
    """An entry is put into its own collection alone: in another one it would be another entry."""
    file = backup_file(tmp_path, Entry(collection, None, VALUE, path=path))
    store = v1_store(tmp_path / "kv")

    report = await restore(file, store)

    assert (0, 1) == (report.restored, report.failed)
    assert [] == files(tmp_path / "kv")


async def test_a_path_through_a_link(tmp_path: Path) -> None:
    """A symbolic link in the store is not followed."""
    from kvseal.errors import StoreUnreachableError

    file = backup_file(tmp_path, Entry(None, None, VALUE, path="S_c-00000000/S_x-00000000.json"))
    store = v1_store(tmp_path / "kv")
    (tmp_path / "outside").mkdir()
    (tmp_path / "kv" / "S_c-00000000").symlink_to(tmp_path / "outside")

    with pytest.raises(StoreUnreachableError):
        await restore(file, store)
    assert [] == files(tmp_path / "outside")


async def test_names_of_a_manifest(tmp_path: Path) -> None:
    """With the names told, the same entries have names in the backup, and any kind of store can hold them."""
    driver = NamedDriver(driver_for(await filled(tmp_path / "old")), [("my coll", URL_KEY)])
    target = MemoryStore()

    await backup(driver, tmp_path / "file")
    done = await restore(tmp_path / "file", target)

    assert (2, 0) == (done.restored, done.failed)
    assert VALUE == await target.get(URL_KEY, collection="my coll")


@pytest.mark.parametrize("dry_run", [False, True])
async def test_behind_another_driver(tmp_path: Path, dry_run: bool) -> None:
    """A driver that passes calls on holds unnamed entries just where the other one does."""
    await backup(await filled(tmp_path / "old"), tmp_path / "file")
    tree = DelegatingDriver(driver_for(v1_store(tmp_path / "new")))
    memory = DelegatingDriver(driver_for(MemoryStore()))

    reports = [await restore(tmp_path / "file", driver, dry_run=dry_run) for driver in (tree, memory)]

    assert [(2, 0), (1, 1)] == [(report.restored, report.failed) for report in reports]
    assert "its name is not known" in reports[1].failures[0].reason


async def test_only_unnamed_entries_have_a_path(tmp_path: Path) -> None:
    """An entry has names or a path, and only the driver of a file tree takes one for the other."""
    driver = driver_for(await filled(tmp_path / "kv"))
    found = [e async for page in driver.scan() for e in page.entries]

    assert {None: True, "plain": False} == {e.key: e.path is not None for e in found}
    assert isinstance(driver, KeepsPaths)
    assert await driver.put_if_absent(entry("named", path="elsewhere/S_x-00000000.json"))
    assert (await driver.get("c", "named")) is not None
