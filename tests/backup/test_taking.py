# ruff: noqa: ASYNC240 - tests may block
"""A backup: what goes into it, what it tells, and that it is there whole or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from tests.backup.made import CREATED, FUTURE, LARGE, PAST, entry, everything, put_all, read
from tests.fakes import Death, HookedDriver, Killed
from tests.recoding.worlds import plant

from kvseal import Argon2idParams, Secret, Vault
from kvseal.backup import Failure, Progress, backup
from kvseal.backup import taking as module
from kvseal.drivers import driver_for
from kvseal.drivers.base import PAGE_SIZE, Entry, Page
from kvseal.errors import (
    BackupFileError,
    Conflict,
    MalformedBackupError,
    StoreUnreachableError,
    UnsupportedStackError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from key_value.aio.stores.disk import DiskStore

ENTRIES = [entry("a"), entry("b", LARGE, expires_at=FUTURE), entry("c", {"n": 2**70}, created_at=None)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the backup goes, in a directory of its own."""
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "new.kvseal"


FULL = """
import asyncio, os, resource, sys
from key_value.aio.stores.memory import MemoryStore
from kvseal.backup import backup
from kvseal.errors import BackupFileError

async def main():
    store = MemoryStore()
    for number in range(int(sys.argv[2])):
        await store.put(f"{number}", {"v": os.urandom(500).hex()})
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    try:
        await backup(store, sys.argv[1])
    except BackupFileError as exc:
        print(exc)

asyncio.run(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize(("entries", "room"), [(2, 100), (20, 8192), (200, 8192)])
def test_a_disk_that_is_full(path: Path, entries: int, room: int) -> None:
    """
    That the file cannot be written is said as that, and nothing is left of it.

    With few entries the last flush is what fails, and closing the file then fails once more.
    """
    command = [sys.executable, "-c", FULL, str(path), str(entries), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert f"{path} cannot be written" in done.stdout
    assert [] == [*path.parent.iterdir()]


class LazyDriver(HookedDriver):
    """*pages* made one by one as they are asked for, in place of those of a real store."""

    def __init__(self, pages: Any) -> None:
        async def around(_: str, operation: Any) -> Any:
            return await operation()

        super().__init__(driver_for(MemoryStore()), around)
        self._pages = pages

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the pages."""
        for page in self._pages():
            yield page


async def test_every_entry_is_in_it(any_store: MemoryStore | DiskStore, path: Path) -> None:
    """Entries with names, values and times to the microsecond; expired ones too, for this clock may be wrong."""
    driver = driver_for(any_store)
    expired = entry("gone", expires_at=PAST)
    await put_all(driver, [*ENTRIES, expired])

    report = await backup(any_store, path)

    assert sorted([*ENTRIES, expired], key=lambda e: str(e.key)) == sorted(
        read(path.read_bytes()), key=lambda e: str(e.key)
    )
    assert (4, 4, 0, False, 0) == (
        report.scanned,
        report.saved,
        report.failed,
        report.has_vault_meta,
        report.exit_code,
    )
    assert path.stat().st_size == report.bytes


async def test_the_vault_meta_comes_first(
    store: MemoryStore, path: Path, secret: Secret, cheap: Argon2idParams
) -> None:
    """The vault meta is the first entry; how far a recode came, which is kept beside it, is none."""
    driver = driver_for(store)
    await put_all(driver, [entry(collection="A"), entry(collection=META_COLLECTION, key="__recode__")])
    await (await Vault.create(store, secret=secret, kdf=cheap)).close()

    report = await backup(store, path)

    assert [(META_COLLECTION, META_KEY), ("A", "k")] == [
        (e.collection, e.key) for e in read(path.read_bytes())
    ]
    assert report.has_vault_meta


async def test_an_empty_store(store: MemoryStore, path: Path) -> None:
    """An empty store has a backup, too."""
    assert 0 == (await backup(store, path)).scanned
    assert [] == read(path.read_bytes())


async def test_what_cannot_be_read_is_kept(store: MemoryStore, path: Path) -> None:
    """An unreadable entry is kept as its bytes, told to the listener, and makes the exit code 3."""
    await put_all(driver_for(store), ENTRIES)
    plant(store, "bad", "no JSON")
    heard: list[Any] = []

    report = await backup(store, path, listener=heard.append)

    failure = Failure("c", "bad", "the body is not JSON")
    assert [failure] == [event for event in heard if isinstance(event, Failure)]
    assert ((failure,), 4, 3, 1, 3) == (
        report.failures,
        report.scanned,
        report.saved,
        report.failed,
        report.exit_code,
    )
    (kept,) = [e for e in read(path.read_bytes()) if e.problem]
    assert (b"no JSON", "the body is not JSON", "bad") == (kept.stored, kept.problem, kept.key)


async def test_summary_and_progress(store: MemoryStore, path: Path) -> None:
    """The summary is one line with every number; progress counts up to it, writing and then checking."""
    await put_all(driver_for(store), ENTRIES)
    heard: list[Any] = []

    summary = (await backup(store, path, listener=heard.append)).as_dict()

    del summary["seconds"], summary["sha256"], summary["bytes"]
    assert {
        "type": "summary",
        "schema": 1,
        "command": "backup",
        "file": str(path),
        "scanned": 3,
        "saved": 3,
        "failed": 0,
        "vault_meta": False,
        "sealed_alone": 0,
    } == summary
    phases = [(e.phase, e.scanned, e.total, e.changed) for e in heard if isinstance(e, Progress)]
    assert [("backup", 0, None, 0), ("backup", 3, None, 3), ("check", 3, 3, 3)] == phases
    assert ["type", "schema", "phase", "scanned", "total", "changed", "failed", "seconds"] == list(
        heard[0].as_dict()
    )
    assert ["type", "schema", "collection", "key", "reason"] == list(Failure("c", "k", "r").as_dict())


async def test_the_store_is_not_changed(store: MemoryStore, path: Path) -> None:
    """A backup only reads, through a read-only wrapper as well."""
    await put_all(driver_for(store), ENTRIES)
    before = await everything(driver_for(store))

    await backup(ReadOnlyWrapper(store), path)

    assert before == await everything(driver_for(store))


async def test_a_wrapper_that_hides_records_is_refused(store: MemoryStore, path: Path) -> None:
    """What would not be the stored entries is refused before there is a file."""
    with pytest.raises(UnsupportedStackError):
        await backup(CompressionWrapper(store), path)

    assert [] == list(path.parent.iterdir())


async def test_an_existing_file_stays(store: MemoryStore, path: Path) -> None:
    """A backup never replaces a file, and then does not even look at the store."""
    path.write_bytes(b"older")
    death = Death()

    with pytest.raises(BackupFileError):
        await backup(HookedDriver(driver_for(store), death), path)

    assert (b"older", []) == (path.read_bytes(), death.operations)


OPERATIONS = ["get", "scan", "get"]


async def test_the_table_is_complete(store: MemoryStore, path: Path) -> None:
    """These are the store operations of a backup."""
    death = Death()

    await backup(HookedDriver(driver_for(store), death), path)

    assert OPERATIONS == death.operations


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_killed(store: MemoryStore, path: Path, at: int, after: bool) -> None:
    """Killed around any store operation, it leaves no file, and can be taken again."""
    await put_all(driver_for(store), ENTRIES)

    with pytest.raises(Killed):
        await backup(HookedDriver(driver_for(store), Death(at, after=after)), path)

    assert [] == list(path.parent.iterdir())
    assert 3 == (await backup(store, path)).saved


async def test_interrupted_while_it_is_checked(store: MemoryStore, path: Path) -> None:
    """Ctrl-C during the last look at the file leaves no file."""
    await put_all(driver_for(store), ENTRIES)

    def interrupt(event: Any) -> None:
        if getattr(event, "phase", "") == "check":
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await backup(store, path, listener=interrupt)

    assert [] == list(path.parent.iterdir())


async def test_the_store_fails_in_the_middle(path: Path) -> None:
    """A store that fails after a page leaves no half a backup."""

    def pages() -> Any:
        yield Page(ENTRIES, "1")
        msg = "gone"
        raise StoreUnreachableError(msg)

    with pytest.raises(StoreUnreachableError):
        await backup(LazyDriver(pages), path)

    assert [] == list(path.parent.iterdir())


@pytest.mark.parametrize("change", ["created", "rotated", "lost"])
async def test_the_vault_changes_meanwhile(
    store: MemoryStore, path: Path, secret: Secret, cheap: Argon2idParams, change: str
) -> None:
    """If the vault meta changes during the scan, it may not open what is in the file: there is none."""
    vault = None if change == "created" else await Vault.create(store, secret=secret, kdf=cheap)

    async def around(name: str, operation: Any) -> Any:
        result = await operation()
        if name == "scan" and change == "created":
            await Vault.create(store, secret=secret, kdf=cheap)
        elif name == "scan" and change == "rotated":
            assert vault is not None
            await vault.rotate_dek()
        elif name == "scan":
            await store.delete(META_KEY, collection=META_COLLECTION)
        return result

    with pytest.raises(Conflict, match="vault meta was changed"):
        await backup(HookedDriver(driver_for(store), around), path)

    assert [] == list(path.parent.iterdir())


async def test_what_is_on_disk_is_read_back(
    store: MemoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup fails if the disk does not return what was written, and leaves no file."""
    await put_all(driver_for(store), ENTRIES)
    finish = module.BackupWriter.finish

    def finish_on_a_bad_disk(self: Any) -> Any:
        trailer = finish(self)
        return replace(trailer, entries=trailer.entries + 1)

    monkeypatch.setattr(module.BackupWriter, "finish", finish_on_a_bad_disk)

    with pytest.raises(MalformedBackupError, match="does not contain"):
        await backup(store, path)
    assert [] == list(path.parent.iterdir())


async def test_a_damaged_disk(store: MemoryStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that loses the end of the file."""
    await put_all(driver_for(store), ENTRIES)
    check = module._Backup._check

    async def lose_the_end(self: Any, file: Any, trailer: Any) -> None:
        file.flush()
        os.truncate(file.fileno(), file.tell() - 5)
        await check(self, file, trailer)

    monkeypatch.setattr(module._Backup, "_check", lose_the_end)

    with pytest.raises(MalformedBackupError):
        await backup(store, path)
    assert [] == list(path.parent.iterdir())


async def test_a_full_disk(store: MemoryStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system is one of the file, and leaves none."""

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.BackupWriter, "add", fail)

    with pytest.raises(BackupFileError, match="No space left"):
        await backup(store, path)
    assert [] == list(path.parent.iterdir())


class Tracked(dict[str, Any]):
    """A value that shows how long it is held."""


async def test_one_page_at_a_time(path: Path) -> None:
    """However many entries there are, no more than three pages of them are in memory at any time."""
    alive: list[weakref.ref[Tracked]] = []
    most, count = 0, 12_000 // PAGE_SIZE + 1

    def pages() -> Any:
        nonlocal most
        for page in range(count):
            entries = []
            for n in range(PAGE_SIZE):
                value = Tracked(n=n)
                alive.append(weakref.ref(value))
                entries.append(Entry("c", f"{page}-{n}", value, CREATED))
            most = max(most, sum(ref() is not None for ref in alive))
            yield Page(entries, str(page))

    report = await backup(LazyDriver(pages), path)

    assert count * PAGE_SIZE == report.saved
    assert most <= 3 * PAGE_SIZE
