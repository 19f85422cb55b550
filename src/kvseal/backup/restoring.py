"""
Restore a backup: write every missing entry exactly as it was, and leave existing entries alone.

The whole file is checked before the first write, and then read again.  The vault meta is
written first: it claims the store, so a process that starts meanwhile cannot create another
vault there, and the records that a killed restore has written can be read.  Running the same
command again finishes the restore, because entries that are there already count as done.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from kvseal import clock
from kvseal.backup.file import BackupReader, is_meta, open_file
from kvseal.backup.report import Failures, RestoreReport
from kvseal.concurrency import in_thread
from kvseal.drivers.abilities import in_place_of
from kvseal.drivers.base import Replacement, refuse_problem
from kvseal.drivers.reach import recodable_driver
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, is_sealed
from kvseal.errors import (
    BackupFileError,
    KvsealError,
    RecordError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
    VaultExistsError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY, VaultMeta, is_vault_meta
from kvseal.observe.events import Failure, Progress, ignore
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.observe.events import Listener, Phase

IN_FLIGHT: Final = 16
"""Entries that are written concurrently."""

_ATTEMPTS: Final = 16


async def restore(
    path: Path | str,
    store: AsyncKeyValue | Driver,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    overwrite_meta: bool = False,
    only_meta: bool = False,
    listener: Listener = ignore,
) -> RestoreReport:
    """
    Put each entry of the backup *path* into *store* if it is absent, with its own times.

    Entries that have expired since are left out.  If the store holds another value under the same
    names, that value stays and the entry is a failure.  With *overwrite* it is replaced by
    compare-and-swap, and the entry keeps the creation time that it has in the store.

    The vault meta has its own rule.  A later revision of the same vault stays.  Any other vault meta
    in the store ends the restore before the first write, unless *overwrite_meta* is set.  That rolls
    the vault back: secrets that it no longer accepts open it again, and records sealed since may not
    open.

    A record that needs a DEK which the vault in the store has retired, or never had, is a failure: it could
    not be opened.

    With *only_meta* only the vault meta is restored, so entries deleted since stay deleted.

    Raises:
        MalformedBackupError, BackupFileError: nothing was written.
        VaultExistsError: the store holds another vault meta; nothing was written.
        StoreError: the backend failed; run the restore again to finish it.
    """
    driver = recodable_driver(store, writes=not dry_run)
    try:
        with open_file(Path(path)) as file:
            run = _Restore(driver, listener, dry_run, overwrite, overwrite_meta, only_meta)
            return await run.all(file)
    finally:
        if driver is not store:
            await driver.close()


@dataclass(slots=True)
class _Restore:
    driver: Driver
    listener: Listener
    dry_run: bool
    overwrite: bool
    overwrite_meta: bool
    only_meta: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)
    deks: frozenset[int] | None = None
    """The DEKs that the vault of the store still has, `None` where its vault meta is elsewhere."""
    started: float = field(default_factory=clock.monotonic)

    async def all(self, file: BinaryIO) -> RestoreReport:
        total = 0
        async for batch in _batches(file):
            total += len(batch)
            self._tell("check", total, None)
        file.seek(0)
        async for batch in _batches(file):
            if not self._scanned:
                saved = batch.pop(0) if is_meta(batch[0]) else None
                if saved is not None:
                    await self._settle(saved)
                    MetaStore(self.driver).warn_of_eviction()
                self.deks = await self._deks_of_the_vault(saved)
            await self._settle_all([] if self.only_meta else batch)
            self._tell("restore", self._scanned, total)
        if self.only_meta and not self._scanned:
            msg = "there is no vault meta in the backup"
            raise BackupFileError(msg, hint="use a backup of the store that holds the vault meta")
        return RestoreReport(
            scanned=self._scanned,
            **{name: self.outcomes[name] for name in RestoreReport.OUTCOMES},
            seconds=clock.monotonic() - self.started,
            dry_run=self.dry_run,
            failures=tuple(self.failures.kept),
        )

    @property
    def _scanned(self) -> int:
        return self.outcomes.total()

    async def _settle_all(self, entries: Sequence[Entry]) -> None:
        """Settle *entries*, a few at a time; the first error stops all of them."""
        for group in _groups(entries):
            tasks = [asyncio.create_task(self._settle(entry)) for entry in group]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, entry: Entry) -> None:
        try:
            self.outcomes[await self._outcome(entry)] += 1
        except (StoreUnreachableError, StoreNotFoundError):
            raise
        except (StoreError, UnsealableValueError) as exc:
            if is_meta(entry) and not entry.problem:
                raise
            self.outcomes["failed"] += 1
            failure = Failure(entry.collection, entry.key, str(exc))
            self.failures.add(failure)
            self.listener(failure)

    async def _outcome(self, entry: Entry) -> str:
        if entry.problem:
            msg = f"it could not be read when the backup was taken: {entry.problem}"
            raise _UnrestoredError(msg)
        if is_meta(entry):
            # kvseal never gives a vault meta an expiry: one in a backup would delete the vault.
            entry = replace(entry, expires_at=None)
        if entry.expires_at is not None and entry.expires_at <= clock.utc_now():
            return "expired"
        self._refuse_unreadable(entry)
        if entry.path is not None:
            # Checked first, because its error says why a store cannot hold an entry without a name.
            await in_place_of(self.driver, entry)
        for _ in range(_ATTEMPTS):
            if not self.dry_run and await self.driver.put_if_absent(entry):
                return "restored"
            there = await in_place_of(self.driver, entry)
            outcome = await self._beside(entry, there) if there is not None else self.dry_run and "restored"
            if outcome:
                return outcome
        msg = "other processes keep changing it"
        raise _UnrestoredError(msg)

    async def _deks_of_the_vault(self, saved: Entry | None) -> frozenset[int] | None:
        """Return the DEKs in the store's vault meta or, in a dry run without one, in the *saved* one."""
        entry = await self.driver.get(META_COLLECTION, META_KEY) or saved
        if entry is None or entry.value is None or not is_vault_meta(entry.value):
            return None
        deks = VaultMeta.from_value(entry.value).deks
        return frozenset(dek.number for dek in deks if dek.wrapped is not None)

    def _refuse_unreadable(self, entry: Entry) -> None:
        """Raise for a record whose header names a DEK that no process of this vault has any more."""
        if self.deks is None or entry.value is None or not is_sealed(entry.value):
            return
        with suppress(RecordError):
            number = Header.parse(from_stored(entry.value)).dek
            if number not in self.deks:
                msg = f"it needs DEK {number}, which this vault does not have, so it could not be opened"
                raise _UnrestoredError(msg)

    async def _beside(self, entry: Entry, there: Entry) -> str | None:
        """Return the outcome for *entry*, or `None` if *there* has changed again."""
        if (there.collection, there.key) != (entry.collection, entry.key):
            msg = f"the store keeps {there.collection!r}/{there.key!r} in its place"
            raise _UnrestoredError(msg)
        if there.value is not None and _same(entry, there):
            return "already"
        if is_meta(entry):
            return await self._meta_beside(entry, there)
        if not self.overwrite:
            msg = "another value is there"
            raise _UnrestoredError(msg)
        return await self._replaced(entry, there)

    async def _meta_beside(self, entry: Entry, there: Entry) -> str | None:
        if not self.overwrite_meta:
            if _is_later(there, entry):
                return "already"
            msg = f"{self.driver.location} holds a different vault meta than the backup"
            hint = "restore into another store, or use --overwrite-vault-meta, which rolls this vault back"
            raise VaultExistsError(msg, hint=hint)
        return await self._replaced(entry, there)

    async def _replaced(self, entry: Entry, there: Entry) -> str | None:
        refuse_problem(there)
        replacement = Replacement(there, entry.value or {}, entry.expires_at)
        done = self.dry_run or (await self.driver.replace_many([replacement]))[0]
        return "overwritten" if done else None

    def _tell(self, phase: Phase, done: int, total: int | None) -> None:
        changed = self.outcomes["restored"] + self.outcomes["overwritten"]
        seconds = clock.monotonic() - self.started
        self.listener(Progress(phase, done, total, changed, self.failures.count, seconds))


class _UnrestoredError(StoreError):
    """One entry was not restored, for this reason."""


async def _batches(file: BinaryIO) -> AsyncIterator[list[Entry]]:
    reader = await in_thread(BackupReader, file)
    batches = reader.batches()
    while (batch := await in_thread(next, batches, None)) is not None:
        yield batch


def _groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Yield *entries* in order, in groups without duplicate names: of two, the later is written later."""
    group: dict[object, Entry] = {}
    for entry in entries:
        name = (entry.collection, entry.key, entry.path)
        if name in group or len(group) == IN_FLIGHT:
            yield list(group.values())
            group = {}
        group[name] = entry
    if group:
        yield list(group.values())


def _same(one: Entry, other: Entry) -> bool:
    """Whether the values are the same JSON, in any order of fields; 1 and 1.0 differ."""
    try:
        return json.dumps(one.value, sort_keys=True) == json.dumps(other.value, sort_keys=True)
    except RecursionError:
        return False


def _is_later(there: Entry, entry: Entry) -> bool:
    """Whether *there* is a later revision of the vault meta *entry*."""
    try:
        held, saved = VaultMeta.from_value(there.value or {}), VaultMeta.from_value(entry.value or {})
    except KvsealError:
        return False
    return held.vault_id == saved.vault_id and held.revision > saved.revision
