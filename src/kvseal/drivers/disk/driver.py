"""
The driver of `DiskStore`: diskcache's `cache.db` and the value files beside it.

It works on a directory, whether or not this process has the store open, and beside
any number of processes that have.  A row is `collection::key` and a body that names
both; the two must agree, because a row that an attacker moved under another key would
otherwise be taken for what it is not.  Where they disagree, or where a body from
before py-key-value-aio 0.3 has no names and the row key can be split in several ways,
the entry is a problem and stays as it is.  Who knows the names still gets it by them, and
what is written in its place says them.

What is live is what diskcache takes for live: a row whose expiry column is empty or
is in the future.

A scan goes by rowid, up to the highest that there was when it began.  diskcache keeps
the rowid of an entry that is written again, and gives the highest one away a second
time after that entry was deleted.  So a resumed scan can miss an entry that was written
into such a gap between two scans; a run that must see every record ends with a scan
from the beginning.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    PAGE_SIZE,
    Capabilities,
    Count,
    Entry,
    OnThisMachine,
    Page,
    Replacement,
    on_disk,
    prepared,
    refuse_problem,
    refuse_problems,
    void_bounds,
)
from kvseal.drivers.disk.database import FILE_NAME, CacheDB
from kvseal.drivers.disk.purge import purged, sweep
from kvseal.drivers.disk.rows import TEXT_FILE_MODE, Row, entry_of, problem_entry, row_problem
from kvseal.drivers.disk.value_files import UnsafeFileNameError, ValueFiles
from kvseal.drivers.disk.writes import Placed, delete, insert, update
from kvseal.drivers.joined import JOINED, NameRule, patched, written
from kvseal.errors import StoreNotFoundError, UnsupportedStoreError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Sequence

    from key_value.aio.stores.disk import DiskStore

    from kvseal.drivers.base import Purged, Put
    from kvseal.drivers.disk.purge import Swept
    from kvseal.drivers.urls import StoreUrl

_New = tuple[str, str, float | None]
"""A row to put: its key, its body and its expiry."""

_RANGE: Final = re.compile(r"([0-9]{0,19}):([0-9]{0,19})", re.ASCII)
_MIN_FILE_SIZE: Final = 2**15
"""diskcache's own default for `disk_min_file_size`, in characters."""


class DiskDriver(OnThisMachine):
    """
    The entries of a `DiskStore` in *directory*.

    In diskcache `("a", "b::c")` and `("a::b", "c")` are one key.  `get` of either answers with the
    one entry there is, under the names that it was stored with, and `put_if_absent` of one is
    refused while the other is there.
    """

    def __init__(
        self,
        directory: Path,
        *,
        evicts: bool,
        db: CacheDB | None = None,
        names: NameRule = JOINED,
    ) -> None:
        directory = directory.absolute()
        self.location = f"disk:{directory}"
        self.capabilities = Capabilities(
            atomic_replace=True,
            evicts=evicts,
            one_writer=True,
        )
        self._db = db or CacheDB(directory)
        self._names = names
        self._files = ValueFiles(directory)

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in pages, in rowid order; the cursor is a rowid."""
        last = await on_disk(self.location, self._db.last_rowid)
        async for page in self._pages(
            None if after is None else int(after), last, partition, expired=expired
        ):
            yield page

    async def split(self, parts: int) -> Sequence[str] | None:
        """Return ranges of rowids, of which the first and the last are open."""
        last = await on_disk(self.location, self._db.last_rowid)
        if last is None or last < parts:
            return None
        edges = ["", *(str(last * number // parts) for number in range(1, parts)), ""]
        return [f"{lower}:{upper}" for lower, upper in pairwise(edges)]

    async def is_split_so(self, bounds: str) -> bool:
        """Whether *bounds* are a range of rowids; an entry keeps its rowid as long as it is there."""
        return _range_of(bounds) is not None

    async def scan_within(
        self, bounds: str, *, after: str | None = None, expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries behind the lower and up to the upper rowid, in rowid order."""
        found = _range_of(bounds)
        if found is None:
            raise void_bounds(self.location)
        lower, upper = found
        last = await on_disk(self.location, self._db.last_rowid) if upper is None else upper
        async for page in self._pages(lower if after is None else int(after), last, (0, 1), expired=expired):
            yield page

    async def _pages(
        self, position: int | None, last: int | None, partition: tuple[int, int], *, expired: bool
    ) -> AsyncIterator[Page]:
        """Yield the entries behind the rowid *position* and up to *last*."""
        while last is not None:
            page = await on_disk(self.location, self._page, position, last, partition, expired=expired)
            if page is None:
                return
            position = int(page.cursor)
            if page.entries:
                yield page

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would read nothing or fail."""
        return await on_disk(self.location, self._get, collection, key)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Store *entry* in a row of its own, if no live row has its key."""
        new = self._new(entry)
        (done,) = await on_disk(self.location, self._put_all, [new])
        return done

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Store *entries* in one transaction: after a crash, all that are new are there or none."""
        puts, new = await on_disk(self.location, prepared, entries, self._new)
        done = await on_disk(self.location, self._put_all, list(new.values()))
        for number, is_done in zip(new, done, strict=True):
            puts[number] = is_done
        return puts

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Store each value whose row is unchanged; after a crash, all of them are there or none."""
        refuse_problems(replacements)
        return await on_disk(self.location, self._replace_many, replacements) if replacements else []

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the row, and its value file, if it is unchanged."""
        refuse_problem(entry)
        return await on_disk(self.location, self._delete, entry)

    async def count(self) -> Count:
        """Count the live rows."""
        return Count(await on_disk(self.location, self._db.count), exact=True)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Write the database anew, and remove value files that no row names."""
        return purged([await self.sweep(dry_run=dry_run)], dry_run=dry_run)

    async def sweep(self, *, dry_run: bool) -> Swept:
        """Purge the directory, and return what was found in it."""
        return await on_disk(self.location, sweep, self._db, self._files, dry_run=dry_run)

    def wait_at_most(self, seconds: float) -> None:
        """Wait no longer than that for another process' lock."""
        self._db.wait_at_most(seconds)

    async def close(self) -> None:
        """Close the driver's own connections; the store's stay open."""
        await in_thread(self._db.close)

    def _get(self, collection: str, key: str) -> Entry | None:
        row = self._db.row_of_key(self._names.stored_key(collection, key))
        return None if row is None else self._entry(row, (collection, key))

    def _page(
        self, after: int | None, last: int, partition: tuple[int, int], *, expired: bool
    ) -> Page | None:
        rows = self._db.page(after=after, last=last, partition=partition, limit=PAGE_SIZE, expired=expired)
        found = (self._entry(row, expired=expired) for row in rows)
        entries = [entry for entry in found if entry is not None]
        return Page(entries, str(rows[-1].rowid)) if rows else None

    def _entry(
        self, row: Row, names: tuple[str, str] | None = None, *, expired: bool = False
    ) -> Entry | None:
        """Read what *row* says, or what it says by now; `None` if it is gone."""
        while True:
            if problem := row_problem(row):
                return problem_entry(row, problem, rule=self._names)
            try:
                return entry_of(row, self._stored(row), names, rule=self._names)
            except UnsafeFileNameError as exc:
                return problem_entry(row, str(exc), rule=self._names)
            except FileNotFoundError:
                # A writer removes the old file after its commit, so the row may name another by now.
                current = self._db.row(row.rowid, expired=expired)
            if current == row:
                return problem_entry(row, f"value file {row.value_file!r} is missing", rule=self._names)
            if current is None or current.key != row.key:
                return None
            row = current

    def _stored(self, row: Row) -> bytes:
        return self._files.read(row.value_file) if row.value_file else row.value or b""

    def _new(self, entry: Entry) -> _New:
        return (*written(entry, self._names), _epoch(entry.expires_at))

    def _put_all(self, new: Sequence[_New]) -> list[bool]:
        min_file_size = self._min_file_size()
        unnamed: list[str | None] = []
        done = []
        with contextlib.ExitStack() as undo:
            placed = [self._place(body, min_file_size, undo) for _, body, _ in new]
            with self._db.writing() as con:
                for (key, _, expire_time), body in zip(new, placed, strict=True):
                    is_new = insert(con, key, body, expire_time=expire_time)
                    if not is_new and (old := self._expired(con, key)) is not None:
                        con.execute("DELETE FROM Cache WHERE rowid = ?", (old.rowid,))
                        is_new = insert(con, key, body, expire_time=expire_time)
                        unnamed.append(old.value_file)
                    done.append(is_new)
            undo.pop_all()
        unnamed += [body.filename for body, is_new in zip(placed, done, strict=True) if not is_new]
        for name in unnamed:
            self._remove(name)
        return done

    def _expired(self, con: sqlite3.Connection, key: str) -> Row | None:
        """Return the row with this *key* if it has expired and may be overwritten."""
        row = self._db.any_row_of_key(con, key)
        return row if row is not None and row.has_expired(clock.wall()) else None

    def _replace_many(self, replacements: Sequence[Replacement]) -> list[bool]:
        min_file_size = self._min_file_size()
        with contextlib.ExitStack() as undo:
            bodies = [patched(replacement, self._names) for replacement in replacements]
            placed = [self._place(body, min_file_size, undo) for body in bodies]
            with self._db.writing() as con:
                done = [
                    self._is_unchanged_file(r.entry)
                    and update(con, r.entry.locator, new, expire_time=_expire_time(r))
                    for r, new in zip(replacements, placed, strict=True)
                ]
            undo.pop_all()
        for replacement, new, swapped in zip(replacements, placed, done, strict=True):
            self._remove(replacement.entry.locator.value_file if swapped else new.filename)
        return done

    def _delete(self, entry: Entry) -> bool:
        with self._db.writing() as con:
            done = self._is_unchanged_file(entry) and delete(con, entry.locator)
        if done:
            self._remove(entry.locator.value_file)
        return done

    def _is_unchanged_file(self, entry: Entry) -> bool:
        """Whether the value file of *entry*, if it has one, holds what was read."""
        name = entry.locator.value_file
        try:
            return name is None or self._files.read(name) == entry.stored
        except (FileNotFoundError, UnsafeFileNameError):
            return False

    def _min_file_size(self) -> int:
        size = self._db.settings().get("disk_min_file_size")
        return size if isinstance(size, int) else _MIN_FILE_SIZE

    def _place(self, body: str, min_file_size: int, undo: contextlib.ExitStack) -> Placed:
        """Place *body* where diskcache would; *undo* removes the file if no row comes to name it."""
        if len(body) < min_file_size:
            return Placed(body)
        content = body.encode()
        name = self._files.write(content)
        undo.callback(self._files.remove, name)
        return Placed(None, TEXT_FILE_MODE, name, len(content))

    def _remove(self, name: str | None) -> None:
        if name is not None:
            self._files.remove(name)


def for_store(store: DiskStore) -> DiskDriver:
    """Return the driver of an open store; it goes to the store's files on connections of its own."""
    cache: Any = store._cache  # noqa: SLF001
    disk = type(cache.disk)
    if f"{disk.__module__}.{disk.__qualname__}" != "diskcache.core.Disk":
        msg = f"no driver for a DiskStore whose cache keeps its values with {disk.__qualname__}"
        raise UnsupportedStoreError(msg, hint="use diskcache's default Disk, or give the vault a meta_store=")
    return DiskDriver(
        Path(cache.directory),
        evicts=cache.eviction_policy != "none",
    )


async def from_url(url: StoreUrl, *, create: bool) -> DiskDriver:
    """Return the driver of the store in the directory that *url* names; only with *create* may it be new."""
    directory = url.path()
    if create:
        await in_thread(_create, directory)
    db = CacheDB(directory)
    settings = await in_thread(db.settings)
    return DiskDriver(directory, evicts=settings.get("eviction_policy") != "none", db=db)


def _create(directory: Path) -> None:
    """Build an empty store with DiskStore itself, which its owner alone can enter."""
    if (directory / FILE_NAME).exists():
        return
    if directory.is_dir() and any(directory.iterdir()):
        msg = f"{directory} is not empty and holds no disk store"
        raise StoreNotFoundError(msg, hint="name an empty or a new directory")
    if os.path.expandvars(directory) != str(directory):
        msg = f"diskcache takes the $ in {directory} for a variable"
        raise UnsupportedStoreError(msg, hint="name a directory without $")
    from key_value.aio.stores.disk import DiskStore  # noqa: PLC0415 - an extra, needed here alone

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        msg = f"a disk store cannot be created at {directory}: {reason_of(exc)}"
        raise StoreNotFoundError(msg, hint="name a directory that can be made") from exc
    store = DiskStore(directory=directory)
    store._cache.close()  # noqa: SLF001 - DiskStore.close() closes nothing before its first use


def _range_of(bounds: str) -> tuple[int | None, int | None] | None:
    """Return the rowids of a range, `None` where it is open; `None` if *bounds* are none."""
    found = _RANGE.fullmatch(bounds)
    if found is None:
        return None
    lower, upper = found.groups()
    return int(lower) if lower else None, int(upper) if upper else None


def _expire_time(replacement: Replacement) -> float | None:
    expires_at = replacement.expires_at
    if expires_at is None or isinstance(expires_at, datetime):
        return _epoch(expires_at)
    kept: float | None = replacement.entry.locator.expire_time
    return kept


def _epoch(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
