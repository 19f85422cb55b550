"""
The driver of `RocksDBStore`: text keys `collection::key`, and bodies that name both.

RocksDB admits one process at a time.  The driver works in the application's own process on the
store object's database, or, from a URL, on one that no other process has open.

RocksDB has no compare-and-swap, and the store takes no lock.  The driver compares and writes
without an `await` in between, under a lock that all drivers of the process share.  So it is atomic
among drivers in any threads, and against the application's own writers as long as those run in
the event loop in which the driver is used: there nothing runs in between.  What the application
writes from another thread, between the compare and the write, is lost.  So `atomic_replace` holds
only where the driver has opened the database itself and there is no application.

A database may have more in it than the store.  Keys that are not text, and text without `::`,
are another program's: the store can have written neither.  A value that is not bytes, such as a
pickle, is a problem of its entry, and never loaded.

A scan shows the store as it was when it began.  What lives throughout the scan is in it; what was
written since is never overwritten, because a replacement compares what is there by then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    FILE_SYSTEM,
    Capabilities,
    Entry,
    OnThisMachine,
    Page,
    Purged,
    Replacement,
    closed,
    content,
    has_expired,
    is_in,
    next_page,
    prepared,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.joined import JOINED, entry_of, patched, problem_entry, written
from kvseal.drivers.landing import SEPARATOR
from kvseal.drivers.rocksdb.handle import Handle, NotBytesError, close, create, open_existing
from kvseal.errors import StoreNotFoundError, StoreUnreachableError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from key_value.aio.stores.rocksdb import RocksDBStore
    from rocksdict import Rdict

    from kvseal.drivers.base import Put
    from kvseal.drivers.urls import StoreUrl

_HELD: Final = "files that an iteration or a snapshot of the application holds: end it and purge again"

_New = tuple[str, bytes, tuple[str, str]]
"""What is put: the joined key, the body, and the names."""
_LOCK: Final = threading.Lock()
"""Held over each compare and its write; one for all databases, as it is never held for long."""


class RocksDBDriver(OnThisMachine):
    """
    The entries of the store in *db*, which the driver closes only if it *owns* it.

    In RocksDB `("a", "b::c")` and `("a::b", "c")` are one key.  `get` of either answers with the
    one entry there is, under the names that it was stored with.
    """

    def __init__(self, db: Rdict, *, owns: bool) -> None:
        self.location = f"rocksdb:{db.path()}"
        self._db = db
        self.capabilities = Capabilities(atomic_replace=owns, evicts=False, one_writer=True)
        self._owns = owns
        self._handle: Handle | None = Handle(db, location=self.location)

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in the order of keys, as it was at the start; the cursor is a key."""
        entries = self._entries(after, partition, expired=expired)
        while page := await in_thread(next_page, entries):
            yield Page(page, page[-1].locator.decode())

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would fail."""
        return self._entry(JOINED.stored_key(collection, key), (collection, key))

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put *entry* if no live one has its key."""
        (done,) = await self._put_all([_new(entry)])
        return done

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Put *entries* in one batch: after a crash, all that are new are there or none."""
        puts, new = await in_thread(prepared, entries, _new)
        for number, is_done in zip(new, await self._put_all(list(new.values())), strict=True):
            puts[number] = is_done
        return puts

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Put each value whose entry is unchanged; after a crash, all of them are there or none."""
        refuse_problems(replacements)
        if not replacements:
            return []
        bodies = await in_thread(lambda: [patched(r).encode() for r in replacements])
        changes: dict[str, bytes | None] = {}
        done = []
        with _LOCK:
            for replacement, body in zip(replacements, bodies, strict=True):
                key = replacement.entry.locator.decode()
                done.append(self._is_unchanged(replacement.entry, key, changes))
                if done[-1]:
                    changes[key] = body
            self._opened().write(changes)
        await self._sync()
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the key if its entry is unchanged."""
        refuse_problem(entry)
        key = entry.locator.decode()
        with _LOCK:
            if not self._is_unchanged(entry, key, {}):
                return False
            self._opened().write({key: None})
        await self._sync()
        return True

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Write every file anew, without what was overwritten or deleted."""
        done, left = ("flush, and a compaction of every level",), (FILE_SYSTEM,)
        if dry_run or await in_thread(self._opened().compact):
            return Purged(done, left)
        return Purged(done, (_HELD, *left), complete=False)

    async def close(self) -> None:
        """Close the database if the driver has opened it; the application's stays open."""
        handle, self._handle = self._handle, None
        if self._owns and handle is not None:
            await in_thread(close, self._db)

    def _opened(self) -> Handle:
        if self._handle is None:
            raise closed(self.location)
        return self._handle

    async def _put_all(self, new: Sequence[_New]) -> list[bool]:
        changes: dict[str, bytes | None] = {}
        done = []
        with _LOCK:
            for key, body, names in new:
                done.append(key not in changes and self._entry(key, names) is None)
                if done[-1]:
                    changes[key] = body
            self._opened().write(changes)
        if changes:
            await self._sync()
        return done

    async def _sync(self) -> None:
        await in_thread(self._opened().sync)

    def _entries(self, after: str | None, partition: tuple[int, int], *, expired: bool) -> Iterator[Entry]:
        for text, stored in self._opened().entries(after):
            key = text.encode()
            if SEPARATOR not in text or not is_in(partition, key):
                continue
            if isinstance(stored, NotBytesError):
                yield problem_entry(key, str(stored))
            elif not has_expired((entry := entry_of(key, stored)).expires_at) or expired:
                yield entry

    def _entry(self, key: str, names: tuple[str, str]) -> Entry | None:
        try:
            stored = self._opened().get(key)
        except NotBytesError as exc:
            return problem_entry(key.encode(), str(exc))
        entry = None if stored is None else entry_of(key.encode(), stored, names)
        return None if entry is None or has_expired(entry.expires_at) else entry

    def _is_unchanged(self, entry: Entry, key: str, changes: dict[str, bytes | None]) -> bool:
        """Whether *entry* is live and what is stored, once these *changes* are."""
        try:
            stored = changes[key] if key in changes else self._opened().get(key)
        except NotBytesError:
            return False
        return stored == entry.stored and not has_expired(entry.expires_at)


def _new(entry: Entry) -> _New:
    key, body = written(entry)
    collection, name, _ = content(entry)
    return key, body.encode(), (collection, name)


def for_store(store: RocksDBStore) -> RocksDBDriver:
    """Return the driver of *store*, whose own database object it uses."""
    return RocksDBDriver(store._db, owns=False)  # noqa: SLF001


async def from_url(url: StoreUrl, *, create: bool) -> RocksDBDriver:
    """Return the driver of the store in the directory that *url* names; only with *create* may it be new."""
    path = url.path()
    try:
        return RocksDBDriver(await in_thread(_open, path, is_new=create), owns=True)
    except OSError as exc:
        msg = f"cannot open the RocksDB store at {path}: {reason_of(exc)}"
        if isinstance(exc, FileExistsError | NotADirectoryError):
            raise StoreNotFoundError(msg, hint="name a directory") from exc
        raise StoreUnreachableError(msg, hint="check the path and its permissions") from exc


def _open(path: Path, *, is_new: bool) -> Rdict:
    if is_new:
        create(path)
    return open_existing(path)
