"""
The driver of `MultiDiskStore`: a diskcache for every collection, each as `DiskStore` has one.

It works on the directories, whether or not this process has the store open, and beside any
number of processes that have.  What `kvseal.drivers.disk.driver` says of rows, expiry and rowids holds
within each directory.  A row's key is the entry's key, and the body says which collection it is
in.  Where a body from before py-key-value-aio 0.3 does not, the directory does not prove it: the
entry is a problem, named by its directory, unless a caller asks for it by its names.

Collections whose sanitized names are the same share a directory.  `get` of a key of either
answers with the one entry there is, under the names that it was stored with, and
`put_if_absent` of one is refused while the other is there.

A scan goes from directory to directory in the order of their names, those that were there when
it began.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    Capabilities,
    Count,
    Entry,
    OnThisMachine,
    Page,
    content,
    on_disk,
    prepared,
    refusal,
    refuse_problem,
)
from kvseal.drivers.disk.database import FILE_NAME, CacheDB
from kvseal.drivers.disk.multi_folders import Folders, OpenFolders, folder_of
from kvseal.drivers.disk.purge import purged
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from key_value.aio.stores.disk import MultiDiskStore

    from kvseal.drivers.base import Purged, Put, Replacement
    from kvseal.drivers.urls import StoreUrl

_DEFAULT_FACTORY: Final = "MultiDiskStore.__init__.<locals>.default_disk_cache_factory"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an entry: the directory, and what its driver calls the place in it."""

    folder: str
    row: Any


class MultiDiskDriver(OnThisMachine):
    """The entries of a `MultiDiskStore`, whichever of its *folders* they are in."""

    def __init__(self, folders: Folders, *, evicts: bool) -> None:
        self.location = f"multidisk:{folders.base}"
        self.capabilities = Capabilities(
            atomic_replace=True,
            evicts=evicts,
            one_writer=True,
        )
        self._folders = folders
        self._open = OpenFolders(folders.base)

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries, directory by directory; the cursor is a directory and a rowid."""
        first, position = ("", None) if after is None else json.loads(after)
        for folder in await on_disk(self.location, self._folders.names):
            if folder < first:
                continue
            start = position if folder == first else None
            async for page in self._scan_folder(folder, start, partition, expired=expired):
                entries = [_placed(folder, entry) for entry in page.entries]
                yield Page(entries, json.dumps([folder, page.cursor]))

    def wait_at_most(self, seconds: float) -> None:
        """Wait no longer than that for another process' lock, in each directory."""
        self._open.busy_timeout = seconds

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would read nothing or fail."""
        folder = folder_of(collection)
        if not await on_disk(self.location, self._folders.has, folder):
            return None
        async with self._open.used(folder) as driver:
            entry = await driver.get(collection, key)
        return None if entry is None else _placed(folder, entry)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Store *entry* if no live row has its key, in a directory that is made if need be."""
        collection, _, _ = content(entry)
        await on_disk(self.location, self._folders.create, collection)
        async with self._open.used(folder_of(collection)) as driver:
            return await driver.put_if_absent(entry)

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Store *entries* directory by directory, those of each in one transaction."""
        puts, folders = prepared(entries, _folder)
        by_folder: dict[str, list[int]] = {}
        for number, folder in folders.items():
            by_folder.setdefault(folder, []).append(number)
        for folder, numbers in by_folder.items():
            done = await self._put_into(folder, [entries[number] for number in numbers])
            for number, put in zip(numbers, done, strict=True):
                puts[number] = put
        return puts

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Store each value whose row is unchanged; after a crash, a directory has all of its own or none."""
        by_folder: dict[str, list[int]] = {}
        for number, replacement in enumerate(replacements):
            refuse_problem(replacement.entry)
            by_folder.setdefault(replacement.entry.locator.folder, []).append(number)
        done = [False] * len(replacements)
        for folder, numbers in by_folder.items():
            batch = [
                changed(replacements[number], entry=_unplaced(replacements[number].entry))
                for number in numbers
            ]
            async with self._open.used(folder) as driver:
                for number, swapped in zip(numbers, await driver.replace_many(batch), strict=True):
                    done[number] = swapped
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the row, and its value file, if it is unchanged; the directory stays."""
        refuse_problem(entry)
        async with self._open.used(entry.locator.folder) as driver:
            return await driver.delete_if_unchanged(_unplaced(entry))

    async def count(self) -> Count:
        """Count the live rows of every directory."""
        total = 0
        for folder in await on_disk(self.location, self._folders.names):
            async with self._open.used(folder) as driver:
                total += (await driver.count()).entries
        return Count(total, exact=True)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Write every database anew, and remove value files that no row names."""
        swept = []
        for folder in await on_disk(self.location, self._folders.names):
            async with self._open.used(folder) as driver:
                swept.append(await driver.sweep(dry_run=dry_run))
        return purged(swept, dry_run=dry_run)

    async def close(self) -> None:
        """Close the driver's own connections; the store's stay open."""
        await self._open.close()

    async def _put_into(self, folder: str, entries: Sequence[Entry]) -> Sequence[Put]:
        try:
            await on_disk(self.location, self._folders.create, content(entries[0])[0])
        except StoreError as exc:
            return [refusal(exc)] * len(entries)
        async with self._open.used(folder) as driver:
            return await driver.put_many_if_absent(entries)

    async def _scan_folder(
        self, folder: str, position: str | None, partition: tuple[int, int], *, expired: bool
    ) -> AsyncIterator[Page]:
        async with self._open.used(folder) as driver:
            async for page in driver.scan(after=position, partition=partition, expired=expired):
                yield page


def for_store(store: MultiDiskStore) -> MultiDiskDriver:
    """Return the driver of *store*; it goes to the store's files on connections of its own."""
    factory: Any = store._disk_cache_factory  # noqa: SLF001
    if getattr(factory, "__qualname__", "") != _DEFAULT_FACTORY:
        msg = "no driver for a MultiDiskStore with a disk_cache_factory, which may keep a collection anywhere"
        raise UnsupportedStoreError(msg, hint="give it a base_directory, or give the vault a meta_store=")
    folders = Folders(
        store._base_directory,  # noqa: SLF001
        partial(_make, factory),
        may_be_missing=True,
    )
    # The size limit is nowhere but in the factory's closure; one that is not found there may be any.
    max_size = inspect.getclosurevars(inspect.unwrap(factory)).nonlocals.get("max_size", 1)
    return MultiDiskDriver(folders, evicts=bool(max_size))


async def from_url(url: StoreUrl, *, create: bool) -> MultiDiskDriver:
    """Return the driver of the store below the directory of *url*; only with *create* may it be new."""
    base = url.path()
    folders = Folders(base, partial(_make_below, base), may_be_missing=False)
    try:
        if create:
            await in_thread(base.mkdir, mode=0o700, parents=True, exist_ok=True)
        evicts = await in_thread(_examine, folders, create=create)
    except OSError as exc:
        msg = f"cannot look at {base}: {reason_of(exc)}"
        raise StoreUnreachableError(msg, hint="check the path and its permissions") from exc
    return MultiDiskDriver(folders, evicts=evicts)


def _examine(folders: Folders, *, create: bool) -> bool:
    """Return whether any directory evicts, or raise where there is none that holds a diskcache."""
    names = folders.names()
    if (folders.base / FILE_NAME).exists():
        msg = f"no multi-disk store at {folders.base}: this is the directory of a single one"
        raise StoreNotFoundError(msg, hint="write disk:PATH, or name the directory above it")
    if not names and not create:
        msg = f"no multi-disk store at {folders.base}: no directory in it has a {FILE_NAME}"
        raise StoreNotFoundError(msg, hint="check the path; nothing was created")
    if not names and any(folders.base.iterdir()):
        msg = f"{folders.base} is not empty and holds no multi-disk store"
        raise StoreNotFoundError(msg, hint="name an empty or a new directory")
    return any(_evicts(folders.base / name) for name in names)


def _evicts(directory: Path) -> bool:
    db = CacheDB(directory)
    try:
        return db.settings().get("eviction_policy") != "none"
    finally:
        db.close()


def _make(factory: Callable[[str], Any], collection: str) -> None:
    factory(collection).close()


def _make_below(base: Path, collection: str) -> None:
    from key_value.aio.stores.disk import MultiDiskStore  # noqa: PLC0415 - an extra, needed here alone

    _make(MultiDiskStore(base_directory=base)._disk_cache_factory, collection)  # noqa: SLF001


def _folder(entry: Entry) -> str:
    collection, _, _ = content(entry)
    return folder_of(collection)


def _placed(folder: str, entry: Entry) -> Entry:
    return changed(entry, locator=Place(folder, entry.locator))


def _unplaced(entry: Entry) -> Entry:
    return changed(entry, locator=entry.locator.row)
