"""
The directories of a `MultiDiskStore`: one diskcache per collection, side by side below a base directory.

A directory's name is the collection's, sanitized: what a file system may refuse is left out, and
what is too long is cut.  So several collections can share a directory, and only the body of an
entry says for certain which one it is in.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathvalidate import sanitize_filename

from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.drivers.base import closed
from kvseal.drivers.disk.database import BUSY_TIMEOUT, FILE_NAME, CacheDB
from kvseal.drivers.disk.driver import DiskDriver
from kvseal.drivers.joined import encodable
from kvseal.drivers.landing import FolderPlaces
from kvseal.errors import StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from key_value.aio.stores.disk import MultiDiskStore

MAX_IDLE: Final = 16
"""Directories that stay open while no call uses them; each may hold two database connections."""


_MAKING: Final = threading.Lock()
_PATIENCE: Final = 5.0
"""Seconds to wait for another process that has begun to make a diskcache."""


@dataclass(frozen=True, slots=True)
class FolderNames:
    """The rule of `MultiDiskStore`: in the directory *folder* a row's key is an entry's key as it is."""

    folder: str

    def stored_key(self, collection: str, key: str) -> str:  # noqa: ARG002 - the collection chose the folder
        """Return *key*."""
        return encodable(key)

    def lead_to(self, stored_key: str, *, collection: str, key: str) -> bool:
        """Whether *key* is the row's and *collection* becomes the name of the directory."""
        return key == stored_key and folder_of(collection) == self.folder

    def only(self, stored_key: str) -> None:  # noqa: ARG002 - whatever the key, the collection is a guess
        """Return `None`: several collections can become the name of one directory."""
        return

    def shown(self, stored_key: str) -> tuple[str, str]:
        """Return the place of the row: the directory instead of the collection."""
        return self.folder, stored_key


def folder_of(collection: str) -> str:
    """Return the directory's name; raises `StoreError` for a collection that has none."""
    folder: str = sanitize_filename(filename=encodable(collection))
    if folder in {"", ".", ".."}:
        msg = f"a multi-disk store has no directory for a collection of the name {collection!r}"
        raise StoreError(msg)
    return folder


def landing(store: MultiDiskStore) -> FolderPlaces:  # noqa: ARG001 - every store has the same rule
    """Return where names land: in the directory of a sanitized collection, under the key as it is."""
    return FolderPlaces(folder_of)


class Folders:
    """
    The directories below *base*.  Every method blocks.

    *make* creates the diskcache of a collection as the store would.  Until it does, *base* itself
    may be missing, if it *may_be_missing*.
    """

    def __init__(self, base: Path, make: Callable[[str], None], *, may_be_missing: bool) -> None:
        self.base = base
        self._make = make
        self._may_be_missing = may_be_missing
        self._finished: set[str] = set()

    def names(self) -> list[str]:
        """
        Return the directories that hold a diskcache, sorted.

        Raises:
            StoreNotFoundError: there is no base directory.
            StoreError: a link leads out of it, so that a part of the store cannot be seen.
        """
        try:
            with os.scandir(self.base) as found:
                return sorted(item.name for item in found if self._is_diskcache(item))
        except (FileNotFoundError, NotADirectoryError) as exc:
            if self._may_be_missing:
                return []
            msg = f"no multi-disk store at {self.base}: no such directory"
            raise StoreNotFoundError(msg, hint="check the path; nothing was created") from exc

    def has(self, folder: str) -> bool:
        """Whether the directory *folder* holds a diskcache."""
        path = self.base / folder
        if path.is_symlink():
            msg = f"{path} is a symbolic link, which is not followed"
            raise StoreError(msg, hint="put the directory itself in its place")
        return (path / FILE_NAME).is_file()

    def create(self, collection: str) -> None:
        """Make the diskcache of *collection*, for the owner of the base directory, unless there is one."""
        folder = folder_of(collection)
        if folder in self._finished:
            return
        with _MAKING:
            if self.has(folder):
                _await_tables(self.base / folder)
            else:
                try:
                    self._make(collection)
                except ValueError as exc:
                    msg = f"{self.base} has no directory for the collection {collection!r}"
                    raise StoreNotFoundError(
                        msg, hint="the store is not to create one; make it first"
                    ) from exc
                self._give_to_owner(self.base / folder)
        self._finished.add(folder)

    def _is_diskcache(self, item: os.DirEntry[str]) -> bool:
        if item.is_symlink():
            # One that leads to a sibling shows nothing that is not seen under its own name.
            if (Path(item.path) / FILE_NAME).exists() and not _is_below(Path(item.path), self.base):
                self.has(item.name)
            return False
        return item.is_dir() and self.has(item.name)

    def _give_to_owner(self, folder: Path) -> None:
        if os.geteuid() == 0:
            owner = self.base.stat()
            for path in (folder, *folder.rglob("*")):
                os.lchown(path, owner.st_uid, owner.st_gid)


@dataclass(slots=True)
class _Open:
    driver: DiskDriver
    db: CacheDB
    users: int = 0


class OpenFolders:
    """A `DiskDriver` for each directory in use, and for a few that lately were."""

    def __init__(self, base: Path) -> None:
        self.busy_timeout = BUSY_TIMEOUT
        self._base = base
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @asynccontextmanager
    async def used(self, folder: str) -> AsyncIterator[DiskDriver]:
        """Yield the driver of *folder*, which stays open at least until the end."""
        held = self._take(folder)
        try:
            yield held.driver
        finally:
            for idle in self._give_back(held):
                await in_thread(idle.close)

    async def close(self) -> None:
        """Close them all."""
        with self._lock:
            self._is_closed = True
            every, self._open = list(self._open.values()), {}
        for held in every:
            await held.driver.close()

    def _take(self, folder: str) -> _Open:
        with self._lock:
            if self._is_closed:
                raise closed(str(self._base))
            # Those used last stand last.
            held = self._open.pop(folder, None) or self._opened(folder)
            self._open[folder] = held
            held.users += 1
            return held

    def _give_back(self, held: _Open) -> list[CacheDB]:
        with self._lock:
            held.users -= 1
            idle = [folder for folder, other in self._open.items() if not other.users]
            return [self._open.pop(folder).db for folder in idle[: max(0, len(idle) - MAX_IDLE)]]

    def _opened(self, folder: str) -> _Open:
        db = CacheDB(self._base / folder, busy_timeout=self.busy_timeout)
        return _Open(DiskDriver(self._base / folder, evicts=False, db=db, names=FolderNames(folder)), db)


def _await_tables(directory: Path) -> None:
    """Return when the diskcache in *directory* can be used; raises `StoreNotFoundError` if it never can."""
    deadline = clock.monotonic() + _PATIENCE
    while True:
        db = CacheDB(directory)
        try:
            db.settings()
        except StoreNotFoundError:
            # A cache.db without tables is one that another process is making in this moment.
            if clock.monotonic() > deadline:
                raise
        else:
            return
        finally:
            db.close()
        time.sleep(0.01)


def _is_below(path: Path, base: Path) -> bool:
    return path.resolve().is_relative_to(base.resolve())
