"""
From an old vault to a sealed one: survey, vault, recode, in the order in which nothing can be lost.

With users online it takes three steps.  `import_keys` puts the old keys into the vault, so
that every process with the new wrapper reads old records and new ones.  Once it is deployed
everywhere, `migrate` re-seals what is left, and with *finalize* it ends the old reads as soon
as its verify pass finds nothing that needs them.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from kvseal.drivers.base import Driver
from kvseal.envelope.aead import KEY_SIZE
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.errors import RecodeError
from kvseal.events import ignore
from kvseal.legacy import PlaintextCodec, codecs_for
from kvseal.legacy.merged import merged
from kvseal.metastore import MetaStore, recodable_driver
from kvseal.recode.codecs import KVSEAL, SealedTarget
from kvseal.recode.engine import is_prepared, recode
from kvseal.recode.plan import PlaintextRule, Plan, migration
from kvseal.recode.survey import Survey, survey
from kvseal.vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from os import PathLike

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Unpack

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.events import Listener
    from kvseal.keys.adoption import Adoption
    from kvseal.keys.keyring import LegacyKey
    from kvseal.keys.unlocker import Unlocker
    from kvseal.legacy import LegacyCodec
    from kvseal.recode.report import Report
    from kvseal.status import VaultStatus


class Options(TypedDict, total=False):
    """How the vault is reached, or made: see `Vault.open_or_create`; and what is not legacy."""

    secret: Unlocker | str | None
    meta_store: AsyncKeyValue | Driver | None
    pin: str | PathLike[str] | None
    kdf: Argon2idParams
    plaintext: PlaintextRule
    """What becomes of records that nobody encrypted; by default they are refused."""
    leaves: Sequence[LegacyCodec]
    """What these recognise is left as it is."""
    adopts: Adoption | None
    """Another program's keys, for a vault that is yet to be made: see `Vault.create`."""


@dataclass(frozen=True, slots=True)
class Migration:
    """
    What a migration did.

    `report` is `None` where keys were imported and nothing else; `vault` after a dry run over a store
    that has no vault yet.  `finalized` says that the vault reads sealed records alone.
    """

    report: Report | None
    vault: VaultStatus | None
    finalized: bool = False


async def migrate(
    store: AsyncKeyValue | Driver,
    legacy: Sequence[LegacyCodec] = (),
    *,
    to: AsyncKeyValue | Driver | None = None,
    context: str = "",
    partition: tuple[int, int] = (0, 1),
    rate: float | None = None,
    finalize: bool = False,
    dry_run: bool = False,
    before_writes: Callable[[Driver], Awaitable[None]] | None = None,
    command: str = "migrate",
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> Migration:
    """
    Re-seal what *legacy* opens, in place or as copies in the store *to*; the vault is created if need be.

    Legacy keys that the vault holds are tried, too.  The whole store is surveyed before the first
    write, the vault included, and then *before_writes* is awaited, unless this run goes on where
    another one stopped, or finds nothing to do.  With *finalize* legacy reads end, and the legacy
    keys are dropped, once everything is re-sealed and the verify pass has found nothing else.

    Raises:
        WrongLegacyKeyError, PlaintextFoundError: found by the survey; nothing was written.
        RecodeError: there is nothing to open old records with; or see `recode`.
        VaultError, SecretError, StoreError: see `Vault`.
    """
    if finalize and (partition != (0, 1) or to is not None):
        msg = "only a migration in place that sees the whole store can be finalized"
        raise RecodeError(msg, hint="run --finalize by itself, without --partition and without --to")
    if finalize:
        _refuse_blindness(store)
    work = _Work(legacy, to or store, options, command=command, dry_run=dry_run, listener=listener)
    async with work.prepared(store, partition, before_writes, rate) as (source, vault, total):
        target = _throwaway_target() if vault is None else SealedTarget.of(vault, context)
        plan = replace(work.plan(target, vault), prepared=before_writes is not None, dry_run=dry_run)
        report = await recode(
            source, plan, to=to, partition=partition, rate=rate, total=total, listener=listener
        )
        if vault is None:
            return Migration(report, None)
        finalized = finalize and not dry_run and _is_complete(report, work, vault)
        if finalized and (vault.keyring.policy.read_legacy or vault.keyring.policy.read_plaintext):
            await vault.end_legacy_reads()
        return Migration(report, vault.status(), finalized)


async def prepare(
    store: AsyncKeyValue | Driver,
    legacy: Sequence[LegacyCodec] = (),
    *,
    to: AsyncKeyValue | Driver | None = None,
    before_writes: Callable[[Driver], Awaitable[None]] | None = None,
    command: str = "migrate",
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> VaultStatus:
    """
    Do what comes before a migration that several processes share: survey, *before_writes*, vault.

    Raises like `migrate`.
    """
    work = _Work(legacy, to or store, options, command=command, dry_run=False, listener=listener)
    async with work.prepared(store, (0, 1), before_writes) as (_, vault, _):
        if vault is None:
            raise AssertionError
        return vault.status()


async def import_keys(
    store: AsyncKeyValue | Driver,
    keys: Sequence[LegacyKey],
    *,
    dry_run: bool = False,
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> Migration:
    """
    Hold *keys* in the vault, so that its wrappers read old records from now on.

    That the keys fit is found out first, as by `migrate`, and the vault is created if need be.  With the
    rule to seal plaintext, wrappers read plaintext, too.  Raises like `migrate`.
    """
    codecs = codecs_for((key.kind, key.key) for key in keys)
    work = _Work(codecs, store, options, command="import-keys", dry_run=dry_run, listener=listener)
    async with work.prepared(store, (0, 1), None) as (_, vault, _):
        if vault is None:
            return Migration(None, None)
        if not dry_run:
            await vault.read_legacy_with(keys, plaintext=work.plaintext is PlaintextRule.SEAL)
        return Migration(None, vault.status())


class _Work:
    """What both steps do before their first write."""

    def __init__(
        self,
        legacy: Sequence[LegacyCodec],
        home: AsyncKeyValue | Driver,
        options: Options,
        *,
        command: str,
        dry_run: bool,
        listener: Listener,
    ) -> None:
        self._command = command
        self._in_place = True
        self.codecs = list(legacy)
        self.plaintext = options.get("plaintext", PlaintextRule.REFUSE)
        self.leaves = options.get("leaves", ())
        self._home = home
        self._secret = options.get("secret")
        self._meta_store = options.get("meta_store")
        self._pin = options.get("pin")
        self._kdf = options.get("kdf")
        self._adopts = options.get("adopts")
        self._dry_run = dry_run
        self._listener = listener

    @asynccontextmanager
    async def prepared(
        self,
        store: AsyncKeyValue | Driver,
        partition: tuple[int, int],
        before_writes: Callable[[Driver], Awaitable[None]] | None,
        rate: float | None = None,
    ) -> AsyncIterator[tuple[Driver, Vault | None, int]]:
        """Yield the driver of *store*, the vault (or `None` in a dry run) and the number of entries."""
        self._in_place = self._home is store
        source = recodable_driver(store, writes=self._in_place and not self._dry_run)
        if not self._in_place:
            await _check_destination(self._home, writes=not self._dry_run)
        vault: Vault | None = None
        try:
            vault = await self._existing()
            self.codecs = merged([*self.codecs, *_held(vault)])
            if vault is None:
                self._refuse_keyless()
            found = await survey(
                source,
                self.codecs,
                plaintext=self.plaintext,
                leaves=self.leaves,
                partition=partition,
                rate=rate,
                listener=self._listener,
            )
            # Where everything is sealed, the keys are gone with a run that has finalized and was not heard.
            if set(found.formats) - {KVSEAL, PlaintextCodec.format, *(one.format for one in self.leaves)}:
                self._refuse_keyless()
            if before_writes is not None and not self._dry_run and await self._begins(source, found, vault):
                await before_writes(source)
            if vault is None and not self._dry_run:
                vault = await Vault.open_or_create(
                    self._home,
                    secret=self._secret,
                    kdf=self._kdf,
                    meta_store=self._meta_store,
                    pin=self._pin,
                    adopts=self._adopts,
                )
            yield source, vault, found.total
        finally:
            if vault is not None:
                await vault.close()
            if source is not store:
                await source.close()

    def _refuse_keyless(self) -> None:
        if not self.codecs and self.plaintext is not PlaintextRule.SEAL:
            msg = "no key for old records was given, and the vault holds none"
            raise RecodeError(msg, hint="name the old key, such as with --fernet-key REF")

    def plan(self, target: SealedTarget, vault: Vault | None) -> Plan:
        """Return the plan of what was prepared."""
        return migration(
            target,
            self.codecs,
            command=self._command,
            plaintext=self.plaintext,
            leaves=self.leaves,
            vault=vault,
        )

    async def _begins(self, source: Driver, found: Survey, vault: Vault | None) -> bool:
        """Whether there is something to change, and no run that was stopped has prepared for it."""
        is_done = found.formats.get(KVSEAL, 0) == found.total
        if is_done or vault is None:
            return not is_done
        to = None if self._in_place else self._home
        return not await is_prepared(self.plan(SealedTarget.of(vault), vault), source, to)

    async def _existing(self) -> Vault | None:
        adopted = None if self._adopts is None or self._meta_store is not None else self._adopts.record
        async with MetaStore.reached(self._meta_store or self._home) as metastore:
            exists = await metastore.has_vault(adopted)
            await metastore.close()
        if not exists:
            return None
        return await Vault.open(self._home, secret=self._secret, meta_store=self._meta_store, pin=self._pin)


async def _check_destination(store: AsyncKeyValue | Driver, *, writes: bool) -> None:
    """Raise before the first write, which creates the vault there, what `recode` would raise later."""
    driver = recodable_driver(store, writes=writes)
    if driver is not store:
        await driver.close()


def _held(vault: Vault | None) -> Sequence[LegacyCodec]:
    if vault is None:
        return ()
    return codecs_for((key.kind, key.key) for key in vault.keyring.legacy)


def _refuse_blindness(store: AsyncKeyValue | Driver) -> None:
    """Raise where a scan does not see every record: one that it misses may need the old keys."""
    if isinstance(store, Driver) and not store.capabilities.sees_all:
        msg = f"of {store.location} no more is seen than a manifest names, so nothing can be finalized"
        raise RecodeError(msg, hint="finalize it where the whole store can be walked")


def _is_complete(report: Report, work: _Work, vault: Vault) -> bool:
    """Whether the verify pass has found sealed records alone, and what is left as it is on purpose."""
    left = {codec.format for codec in work.leaves}
    # Plaintext that wrappers read until now would be lost to them.
    if work.plaintext is PlaintextRule.SKIP and not vault.keyring.policy.read_plaintext:
        left.add("plaintext")
    return not report.failed and set(report.formats or {}) <= {KVSEAL, *left}


def _throwaway_target() -> SealedTarget:
    """Return a target whose keys nobody keeps, so that a dry run without a vault seals like a real one."""
    associations = Associations(os.urandom(VAULT_ID_SIZE))
    codec = RecordCodec(Sealer(os.urandom(KEY_SIZE), 1, associations), Opener({}, associations))
    return SealedTarget(lambda: codec)
