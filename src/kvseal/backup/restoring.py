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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from kvseal import clock
from kvseal.backup.claims import NamesInside, marked
from kvseal.backup.file import is_meta, open_file
from kvseal.backup.needed_deks import dek_of, is_later, meta_in, usable_deks
from kvseal.backup.reading import batches, groups
from kvseal.backup.report import Failures, RestoreReport
from kvseal.drivers.abilities import in_place_of, put_many_if_absent
from kvseal.drivers.base import Replacement, failure_of, has_expired, refuse_problem
from kvseal.drivers.reach import driver_of, recodable_driver
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.envelope.stored import has_names_inside, is_sealed
from kvseal.errors import (
    BackupFileError,
    Conflict,
    KvsealError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
    VaultExistsError,
    VaultMetaError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY, VaultMeta
from kvseal.observe.events import Progress, ignore
from kvseal.vault.metastore import MetaStore
from kvseal.vault.returning import returned_to
from kvseal.vault.store_clock import check_clocks, read_clocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry, Put
    from kvseal.observe.events import Listener, Phase
    from kvseal.secrets.sources import Unlocker

IN_FLIGHT: Final = 16
"""Entries that are written concurrently, where they are not put as a batch."""

_ATTEMPTS: Final = 16


async def restore(
    path: Path | str,
    store: AsyncKeyValue | Driver,
    *,
    meta_store: AsyncKeyValue | Driver | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    overwrite_meta: bool = False,
    only_meta: bool = False,
    secret: Unlocker | None = None,
    names_inside: bool = False,
    contexts: Sequence[str] = ("",),
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
    open.  With a *secret* that opens the older one, the older one becomes a revision above the present, with
    the DEKs of both, which running processes follow; without, they refuse it.

    A record that needs a DEK which the vault in the store has retired, or never had, is a failure: it could
    not be opened, or not for long.  So is one under another DEK of the same number, by the meta in the file.
    Where no vault meta is seen, sealed records replace nothing, and those that were put back are counted.

    With *names_inside*, entries of which the file has the place alone get the names that their records carry,
    which the *secret* opens under one of *contexts*: so they fit into a store of any kind.  A record that
    was copied or moved, and records that claim the same names, are failures: see `kvseal.backup.claims`.

    With *meta_store*, the vault meta in the file goes there, and the one that is there then counts.
    With *only_meta* only the vault meta is restored, so entries deleted since stay deleted.

    Raises:
        MalformedBackupError, BackupFileError: nothing was written.
        WrongSecretError: with *names_inside*, the secret opens no vault meta; nothing was written.
        VaultExistsError: the store holds another vault meta; nothing was written.
        ClocksApartError: this host's clock is not the store's; nothing was written.
        Conflict: a DEK was retired meanwhile that records need which were put back.
        StoreError: the backend failed; run the restore again to finish it.
    """
    driver = recodable_driver(store, writes=not dry_run)
    metas = driver if meta_store is None else driver_of(meta_store)
    try:
        await check_clocks(driver, "what has expired in a backup")
        with open_file(Path(path)) as file:
            names = NamesInside(secret, contexts) if names_inside and secret is not None else None
            run = _Restore(
                driver, metas, listener, dry_run, overwrite, overwrite_meta, only_meta, secret, names
            )
            return await run.all(file)
    finally:
        for one in {driver, metas} - {store, meta_store}:
            await one.close()


@dataclass(slots=True)
class _Restore:
    driver: Driver
    metas: Driver
    """The driver of the store that holds the vault meta."""
    listener: Listener
    dry_run: bool
    overwrite: bool
    overwrite_meta: bool
    only_meta: bool
    secret: Unlocker | None = None
    names: NamesInside | None = None
    """The names that records carry, `None` where those are not to be read."""
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)
    deks: frozenset[int] | None = None
    """The DEKs that may open a record in the store, `None` where its vault meta is elsewhere."""
    unchecked: int = 0
    needs: Counter[int] = field(default_factory=Counter)
    """Sealed records by the DEK that they need."""
    follows: bool = False
    """The vault meta was returned to as a change, so running processes follow."""
    started: float = field(default_factory=clock.monotonic)

    async def all(self, file: BinaryIO) -> RestoreReport:
        total, saved = 0, None
        async for batch in batches(file):
            if self.names is not None:
                await self.names.look_at(batch, self.metas)
            total += len(batch)
            self._tell("check", total, None)
        file.seek(0)
        async for batch in batches(file):
            if not self._scanned:
                saved = batch.pop(0) if is_meta(batch[0]) else None
                if saved is not None:
                    await self._settle(saved)
                    MetaStore(self.metas).warn_of_eviction()
                self.deks = await self._deks_of_the_vault(saved)
            await self._settle_all([] if self.only_meta else await self._named(batch))
            self._tell("restore", self._scanned, total)
        await self._refuse_retired_meanwhile(saved)
        if self.only_meta and not self._scanned:
            msg = "there is no vault meta in the backup"
            raise BackupFileError(msg, hint="use a backup of the store that holds the vault meta")
        return RestoreReport(
            scanned=self._scanned,
            **{name: self.outcomes[name] for name in RestoreReport.OUTCOMES},
            seconds=clock.monotonic() - self.started,
            dry_run=self.dry_run,
            failures=tuple(self.failures.kept),
            unchecked=self.unchecked,
            times=self.driver.capabilities.times,
            follows=self.follows,
        )

    @property
    def _scanned(self) -> int:
        return self.outcomes.total()

    async def _named(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """Return *batch* with the names that its records carry; those not to be believed have failed."""
        if self.names is None:
            return batch
        believed, refused = await self.names.believed(batch)
        for entry, error in refused:
            self._fail(entry, error)
        return believed

    async def _settle_all(self, entries: Sequence[Entry]) -> None:
        """Put *entries* as batches, and settle the others a few at a time; the first error stops all."""
        for group in groups(entries):
            puts = await self._put_all(group)
            left = [(entry, puts.get(n)) for n, entry in enumerate(group) if puts.get(n) is not True]
            for start in range(0, len(left), IN_FLIGHT):
                few = left[start : start + IN_FLIGHT]
                tasks = [asyncio.create_task(self._settle(entry, put)) for entry, put in few]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _put_all(self, group: Sequence[Entry]) -> dict[int, Put]:
        """Put and count those of *group* that only have to be put; return what became of each, by number."""
        if self.dry_run:
            return {}
        numbers = [number for number, entry in enumerate(group) if self._is_plain(entry)]
        puts = await put_many_if_absent(self.driver, [marked(group[number]) for number in numbers])
        for number, put in zip(numbers, puts, strict=True):
            if put is True:
                self._count(group[number])
                self.outcomes["restored"] += 1
        return dict(zip(numbers, puts, strict=True))

    def _is_plain(self, entry: Entry) -> bool:
        """Whether nothing is to be looked at or changed before *entry* is put."""
        return not (
            entry.problem
            or _has_place_alone(entry)
            or is_meta(entry)
            or has_expired(entry.expires_at)
            or self._missing_dek(entry) is not None
        )

    async def _settle(self, entry: Entry, put: Put | None = None) -> None:
        try:
            self.outcomes[await self._outcome(entry, put)] += 1
        except (StoreUnreachableError, StoreNotFoundError):
            raise
        except (StoreError, UnsealableValueError) as exc:
            if is_meta(entry) and not entry.problem:
                raise
            self._fail(entry, exc)

    def _fail(self, entry: Entry, error: StoreError | UnsealableValueError) -> None:
        self.outcomes["failed"] += 1
        failure = failure_of(entry, str(error))
        self.failures.add(failure)
        self.listener(failure)

    async def _outcome(self, entry: Entry, put: Put | None) -> str:
        """Return the outcome for *entry*; *put* is what became of it in a batch, `None` outside of one."""
        if isinstance(put, KvsealError):
            raise put
        if entry.problem:
            msg = f"it could not be read when the backup was taken: {entry.problem}"
            raise _UnrestoredError(msg)
        if is_meta(entry):
            # kvseal never gives a vault meta an expiry: one in a backup would delete the vault.
            entry = replace(entry, expires_at=None)
        if has_expired(entry.expires_at):
            return "expired"
        self._refuse_unreadable(entry)
        driver = self._driver_of(entry)
        if _has_place_alone(entry):
            # Checked first, because its error says why a store cannot hold an entry without a name.
            await in_place_of(driver, entry)
        return await self._put(driver, entry, put)

    async def _put(self, driver: Driver, entry: Entry, put: Put | None) -> str:
        for _ in range(_ATTEMPTS):
            if put is None and not self.dry_run:
                put = await driver.put_if_absent(marked(entry))
            if put:
                return "restored"
            put = None
            there = await in_place_of(driver, entry)
            outcome = await self._beside(entry, there) if there is not None else self.dry_run and "restored"
            if outcome:
                return outcome
        msg = "other processes keep changing it"
        raise _UnrestoredError(msg)

    async def _deks_of_the_vault(self, saved: Entry | None) -> frozenset[int] | None:
        """Return the DEKs by which a record of the backup opens; *saved* is the vault meta in that."""
        present = meta_in(await self.metas.get(META_COLLECTION, META_KEY) or saved)
        return None if present is None else usable_deks(present, meta_in(saved))

    def _refuse_unreadable(self, entry: Entry) -> None:
        """Raise for a record whose header names a DEK that this vault has not, or has retired."""
        self._count(entry)
        number = self._missing_dek(entry)
        if number is not None:
            msg = f"it needs a DEK {number} that this vault has retired or never had"
            raise _UnrestoredError(msg)

    def _count(self, entry: Entry) -> None:
        """Count a sealed record by the DEK that it needs, or as one of which nothing is known."""
        if entry.value is None or not is_sealed(entry.value):
            return
        if self.deks is None:
            self.unchecked += 1
        elif (number := dek_of(entry.value)) is not None:
            self.needs[number] += 1

    def _missing_dek(self, entry: Entry) -> int | None:
        """Return the DEK of *entry* if it is a record that no process of this vault can open."""
        if self.deks is None or entry.value is None or not is_sealed(entry.value):
            return None
        number = dek_of(entry.value)
        return None if number in self.deks else number

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
        if self.deks is None and entry.value is not None and is_sealed(entry.value):
            msg = "it is sealed, and no vault meta was seen that opens it, so it replaces nothing"
            raise _UnrestoredError(msg)
        return await self._replaced(entry, there)

    async def _meta_beside(self, entry: Entry, there: Entry) -> str | None:
        if not self.overwrite_meta:
            if is_later(there, entry):
                return "already"
            msg = f"{self.metas.location} holds a different vault meta than the backup"
            hint = "restore into another store, or use --overwrite-vault-meta, which rolls this vault back"
            raise VaultExistsError(msg, hint=hint)
        return await self._replaced(await self._meant(entry, there), there)

    async def _meant(self, entry: Entry, there: Entry) -> Entry:
        """Return the vault meta *entry* as a change of *there*, if the secret can say that it is meant."""
        if self.secret is None or entry.value is None:
            return entry
        try:
            present = VaultMeta.from_value(there.value or {})
        except VaultMetaError:
            return entry  # What is there is damaged: it has nothing that could be kept.
        meta = await returned_to(
            VaultMeta.from_value(entry.value),
            present,
            self.secret,
            clocks=await read_clocks(self.metas),
            memory_ceiling=DEFAULT_MEMORY_CEILING,
        )
        self.follows = meta is not None
        return entry if meta is None else replace(entry, value=meta.as_value())

    async def _replaced(self, entry: Entry, there: Entry) -> str | None:
        refuse_problem(there)
        inside = has_names_inside(entry.value or {})
        replacement = Replacement(there, entry.value or {}, entry.expires_at, names_inside=inside)
        done = self.dry_run or (await self._driver_of(entry).replace_many([replacement]))[0]
        return "overwritten" if done else None

    async def _refuse_retired_meanwhile(self, saved: Entry | None) -> None:
        """Raise where a DEK was retired meanwhile, for records that need it may have been put back."""
        if self.dry_run or not self.needs:
            return
        now = await self._deks_of_the_vault(saved) or frozenset()
        gone = sorted(number for number in self.needs if number in (self.deks or ()) and number not in now)
        if gone:
            msg = f"DEK {gone[0]} was retired or lost during the restore, which put back records that need it"
            raise Conflict(
                msg, hint="vaultctl reencrypt now, before it is dropped; then run the restore again"
            )

    def _driver_of(self, entry: Entry) -> Driver:
        return self.metas if is_meta(entry) else self.driver

    def _tell(self, phase: Phase, done: int, total: int | None) -> None:
        changed = self.outcomes["restored"] + self.outcomes["overwritten"]
        seconds = clock.monotonic() - self.started
        self.listener(Progress(phase, done, total, changed, self.failures.count, seconds))


def _has_place_alone(entry: Entry) -> bool:
    return entry.collection is None or entry.key is None


class _UnrestoredError(StoreError):
    """One entry was not restored, for this reason."""


def _same(one: Entry, other: Entry) -> bool:
    """Whether the values are the same JSON, in any order of fields; 1 and 1.0 differ."""
    try:
        return json.dumps(one.value, sort_keys=True) == json.dumps(other.value, sort_keys=True)
    except RecursionError:
        return False
