"""Take a backup: write every live entry as it is stored, the vault meta first, into one new file."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kvseal import clock
from kvseal.backup.file import BackupReader, BackupWriter, new_file, writing
from kvseal.backup.lines import Header
from kvseal.backup.report import BackupReport, Failures
from kvseal.concurrency import in_thread
from kvseal.drivers.reach import driver_of, recodable_driver
from kvseal.envelope.stored import is_sealed
from kvseal.errors import Conflict, MalformedBackupError, VaultError
from kvseal.keys.meta import META_COLLECTION, META_KEY, VaultMeta
from kvseal.observe.events import Failure, Progress, ignore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.backup.lines import Trailer
    from kvseal.drivers.base import Driver, Entry
    from kvseal.observe.events import Listener, Phase


async def backup(
    store: AsyncKeyValue | Driver,
    path: Path | str,
    *,
    meta_store: AsyncKeyValue | Driver | None = None,
    listener: Listener = ignore,
) -> BackupReport:
    """
    Write every live entry of *store* into the new file *path*, as it is stored: no secret is needed.

    The vault meta is read first, from *meta_store* where it has a store of its own, and once more at the
    end: so it opens every record in the file.  Two backups, of one store each, promise no such thing.

    When it returns, the file is complete, durable and has been read back.  Until then, and after an
    error, there is no such file.  An entry that cannot be read is kept as its stored bytes, and counts
    as a failure.  Memory use is that of one page.

    The entries are those of a scan: an entry that another process writes meanwhile may be missing, and
    one that it changes may appear twice.  Stop the writers to back up one moment.

    Raises:
        BackupFileError: *path* exists already, or the file cannot be written.
        Conflict: the vault meta was changed during the backup, so it might not open the records.
        StoreError: the backend failed.
    """
    async with AsyncExitStack() as stack:
        driver = await _entered(stack, store, recodable_driver(store, writes=False))
        metas = driver if meta_store is None else await _entered(stack, meta_store, driver_of(meta_store))
        return await _Backup(driver, metas, Path(path), listener).run()


async def _entered(stack: AsyncExitStack, store: AsyncKeyValue | Driver, driver: Driver) -> Driver:
    """Return *driver*, which *stack* closes unless the caller has brought it."""
    if driver is not store:
        stack.push_async_callback(driver.close)
    return driver


@dataclass(slots=True)
class _Backup:
    driver: Driver
    metas: Driver
    """The driver of the store that holds the vault meta."""
    path: Path
    listener: Listener
    scanned: int = 0
    sealed: int = 0
    failures: Failures = field(default_factory=Failures)
    started: float = field(default_factory=clock.monotonic)

    async def run(self) -> BackupReport:
        with new_file(self.path) as file:
            meta, trailer = await self._write(file)
            await self._check(file, trailer)
            size = file.tell()
        return BackupReport(
            file=self.path,
            scanned=self.scanned,
            saved=self.scanned - self.failures.count,
            failed=self.failures.count,
            has_vault_meta=_is_whole(meta),
            sha256=trailer.sha256,
            bytes=size,
            seconds=clock.monotonic() - self.started,
            failures=tuple(self.failures.kept),
            sealed_alone=self.sealed if meta is None else 0,
        )

    async def _write(self, file: BinaryIO) -> tuple[Entry | None, Trailer]:
        meta = await self.metas.get(META_COLLECTION, META_KEY)
        header = Header(f"kvseal {version('kvseal')}", self.driver.location, clock.utc_now())
        with writing(self.path):
            writer = BackupWriter(file, header)
        await self._add(writer, [] if meta is None else [meta])
        # Expired ones too: whether an entry has expired, the host that restores it decides.
        async for page in self.driver.scan(expired=True):
            # The other reserved entry is the checkpoint of a recode, which is valid for this store only.
            await self._add(writer, [entry for entry in page.entries if entry.collection != META_COLLECTION])
        await self._refuse_changed(meta)
        with writing(self.path):
            return meta, await in_thread(writer.finish)

    async def _add(self, writer: BackupWriter, entries: Sequence[Entry]) -> None:
        with writing(self.path):
            failed = await in_thread(writer.add, entries)
        self.scanned += len(entries)
        self.sealed += sum(entry.value is not None and is_sealed(entry.value) for entry in entries)
        for entry, problem in failed:
            failure = Failure(entry.collection, entry.key, problem)
            self.failures.add(failure)
            self.listener(failure)
        self._tell("backup", self.scanned)

    async def _refuse_changed(self, meta: Entry | None) -> None:
        """Refuse if the meta changed during the scan: records may need a DEK that the saved meta lacks."""
        now = await self.metas.get(META_COLLECTION, META_KEY)
        if (None if now is None else now.stored) != (None if meta is None else meta.stored):
            msg = "the vault meta was changed during the backup, and might not open the records in it"
            raise Conflict(msg, hint="no file was written; take the backup again")

    async def _check(self, file: BinaryIO, trailer: Trailer) -> None:
        """Read the written file back, as a restore would."""
        file.seek(0)
        reader = await in_thread(BackupReader, file)
        batches = reader.batches()
        while await in_thread(next, batches, None) is not None:
            self._tell("check", reader.entries)
        if reader.trailer != trailer:
            msg = f"{self.path} does not contain what was written"
            raise MalformedBackupError(msg, hint="no file is left; check the disk")

    def _tell(self, phase: Phase, done: int) -> None:
        total = self.scanned if phase == "check" else None
        saved = done - self.failures.count if phase == "backup" else done
        seconds = clock.monotonic() - self.started
        self.listener(Progress(phase, done, total, saved, self.failures.count, seconds))


def _is_whole(meta: Entry | None) -> bool:
    """Whether *meta* is a vault meta that a restore can put back, and no damaged one."""
    if meta is None or meta.value is None:
        return False
    try:
        VaultMeta.from_value(meta.value)
    except VaultError:
        return False
    return True
