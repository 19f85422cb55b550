"""
A backup that is there already: whether it is the one that a run would take now.

A run that was killed after its backup finds the file when it is started again.  The backup is adopted if it
is complete and holds exactly what the store holds: compared as two sums over all entries, of a hash that
has a new key each time, so that memory does not grow with the store and an attacker cannot aim at a sum.
"""

from __future__ import annotations

from hashlib import blake2b
from os import urandom
from pathlib import Path
from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.backup.file import BackupReader, is_meta, open_file
from kvseal.backup.lines import entry_line
from kvseal.backup.report import BackupReport
from kvseal.concurrency import in_thread
from kvseal.drivers.reach import recodable_driver
from kvseal.errors import BackupFileError, MalformedBackupError
from kvseal.keys.meta import META_COLLECTION
from kvseal.observe.events import Progress, ignore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.observe.events import Listener


async def matching_backup(
    store: AsyncKeyValue | Driver, path: Path | str, *, listener: Listener = ignore
) -> BackupReport | None:
    """
    Return the report of the backup at *path*, or `None` if *store* has changed since it was taken.

    Raises:
        BackupFileError: the file is not a finished backup of *store*, or cannot be read.
        StoreError: the backend failed.
    """
    driver = recodable_driver(store, writes=False)
    try:
        return await _Comparison(driver, Path(path), listener).run()
    finally:
        if driver is not store:
            await driver.close()


class _Comparison:
    def __init__(self, driver: Driver, path: Path, listener: Listener) -> None:
        self._driver = driver
        self._path = path
        self._listener = listener
        self._started = clock.monotonic()
        self._seen = 0

    async def run(self) -> BackupReport | None:
        key = urandom(32)
        saved, stored = _Sum(key), _Sum(key)
        with open_file(self._path) as file:
            report = await self._read(file, saved)
        async for page in self._driver.scan(expired=True):
            await in_thread(stored.add, page.entries)
            self._tell(len(page.entries))
        return report if saved == stored else None

    async def _read(self, file: BinaryIO, saved: _Sum) -> BackupReport:
        failed, has_meta = 0, False
        try:
            reader = await in_thread(BackupReader, file)
            batches = reader.batches()
            while (batch := await in_thread(next, batches, None)) is not None:
                await in_thread(saved.add, batch)
                failed += sum(bool(entry.problem) for entry in batch)
                has_meta = has_meta or any(is_meta(entry) for entry in batch)
                self._tell(len(batch))
        except MalformedBackupError:
            raise self._foreign("is no finished backup") from None
        if reader.header.store != self._driver.location or reader.trailer is None:
            raise self._foreign("is a backup of another store")
        return BackupReport(
            file=self._path,
            scanned=reader.entries,
            saved=reader.entries - failed,
            failed=failed,
            has_vault_meta=has_meta,
            sha256=reader.trailer.sha256,
            bytes=file.tell(),
            seconds=clock.monotonic() - self._started,
        )

    def _foreign(self, what: str) -> BackupFileError:
        msg = f"{self._path} exists already and {what}, and a backup never replaces a file"
        return BackupFileError(msg, hint="choose another name; nothing was written")

    def _tell(self, count: int) -> None:
        self._seen += count
        self._listener(Progress("check", self._seen, None, 0, 0, clock.monotonic() - self._started))


class _Sum:
    """A sum over entries in any order; the vault's own entries do not count, for a run writes them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sum = 0

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.collection != META_COLLECTION:
                digest = blake2b(entry_line(entry)[0], key=self._key, digest_size=32).digest()
                self._sum += int.from_bytes(digest, "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sum) and self._sum == other._sum

    __hash__ = None  # type: ignore[assignment]  # It changes with every entry.
