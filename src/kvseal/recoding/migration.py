"""
The migration of an old store to sealed records: survey, vault, recode, in an order that loses nothing.

With users online it takes three steps.  `import_keys` puts the old keys into the vault, so that every
process with the new wrapper reads both old and new records.  When the wrapper is deployed everywhere,
`migrate` re-seals the records that are left.  With *finalize* it ends legacy reads as soon as its
verify pass finds no record that needs them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from kvseal.drivers.reach import reached
from kvseal.errors import RecodeError, VaultHeldError
from kvseal.keys.changes import check_written
from kvseal.keys.policy import PLAINTEXT
from kvseal.legacy import PlaintextCodec, codecs_for
from kvseal.legacy.base import merged
from kvseal.observe.events import ignore
from kvseal.recoding.engine import WHOLE, begin, begun, recode
from kvseal.recoding.formats import KVSEAL, SealedTarget
from kvseal.recoding.plan import PlaintextRule, Plan, plan_migration
from kvseal.recoding.settling import SETTLED_AFTER, check_settled, end_legacy, ended_before, refuse_blindness
from kvseal.recoding.surveying import Survey, keyless, survey
from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import timedelta
    from os import PathLike

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Unpack

    from kvseal.drivers.base import Driver
    from kvseal.drivers.reach import Places
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.keyring import LegacyKey
    from kvseal.legacy import LegacyCodec
    from kvseal.observe.events import Listener
    from kvseal.recoding.progress.checkpoint import Head
    from kvseal.recoding.report import Report
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.creation import Adoption
    from kvseal.vault.opening import OpeningOptions
    from kvseal.vault.status import VaultStatus


class Options(TypedDict, total=False):
    """How to open or create the vault: see `Vault.open_or_create`; and what to do with other records."""

    secret: Unlocker | str | None
    meta_store: AsyncKeyValue | Driver | None
    pin: str | PathLike[str] | None
    kdf: Argon2idParams
    plaintext: PlaintextRule
    """What to do with records that were never encrypted; the default is to refuse them."""
    grace: timedelta
    """To finalize: how long ago the vault was flipped, if it ever held; the default is `SETTLED_AFTER`."""
    leaves: Sequence[LegacyCodec]
    """Records that one of these recognises are not changed."""
    wait_for_lease: float
    """Seconds to wait for a part that another process works on: see `recode`."""
    adopts: Adoption | None
    """Another program's keys, for a vault that does not exist yet: see `Vault.create`."""
    before_survey: Callable[[Driver], Awaitable[None]] | None
    """Looks at what *before_writes* needs, such as the name of a backup, before hours of survey."""


@dataclass(frozen=True, slots=True)
class Migration:
    """
    The result of a migration.

    `report` is `None` if keys were imported and nothing else was done.  `vault` is `None` after a dry
    run over a store without a vault.  With `finalized` the vault reads only sealed records.
    """

    report: Report | None
    vault: VaultStatus | None
    finalized: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """The arguments of a call, without the stores."""

    legacy: Sequence[LegacyCodec]
    options: Options
    command: str
    listener: Listener
    dry_run: bool = False
    partition: tuple[int, int] = WHOLE
    rate: float | None = None
    before_writes: Callable[[Driver], Awaitable[None]] | None = None
    only_imports: bool = False
    settles_in: timedelta | None = None
    """To finalize: how long ago the vault has to have been flipped, if it ever held an old format."""

    @property
    def seals(self) -> bool:
        """Whether records in an old format are to be sealed."""
        return not (self.dry_run or self.only_imports)

    @property
    def resumes(self) -> bool:
        """Whether keys are imported and none is given: then those that have ended are meant."""
        return self.only_imports and not self.legacy

    @property
    def plaintext(self) -> PlaintextRule:
        return self.options.get("plaintext", PlaintextRule.REFUSE)

    @property
    def leaves(self) -> Sequence[LegacyCodec]:
        return self.options.get("leaves", ())


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The state before the first write of a record; `vault` is `None` in a dry run without a vault."""

    vault: Vault | None
    codecs: Sequence[LegacyCodec]
    total: int
    ended: frozenset[str]
    """To finalize: the legacy keys that this run's census may show to be needed by nothing any more."""


async def migrate(
    store: AsyncKeyValue | Driver,
    legacy: Sequence[LegacyCodec] = (),
    *,
    to: AsyncKeyValue | Driver | None = None,
    context: str = "",
    partition: tuple[int, int] = WHOLE,
    rate: float | None = None,
    finalize: bool = False,
    dry_run: bool = False,
    before_writes: Callable[[Driver], Awaitable[None]] | None = None,
    command: str = "migrate",
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> Migration:
    """
    Re-seal what *legacy* opens, in place or as copies in the store *to*; creates the vault if needed.

    Legacy keys in the vault are tried too.  `migrate` surveys the whole store before its first write,
    which may be the vault meta.  Then it awaits *before_writes*, unless this run resumes an earlier
    one or finds nothing to do.  With *finalize* legacy reads end once every record is re-sealed and the
    verify pass has found no other; where an old format was held, not before *grace* has passed since the
    flip.  The legacy keys stay wrapped until such a run has begun *grace* after that end: see `end_legacy`.

    Raises:
        WrongLegacyKeyError, PlaintextFoundError: found by the survey; nothing was written.
        VaultHeldError: the vault holds an old format, or did so until a moment ago; nothing was written.
        RecodeError: there is no key for old records; or see `recode`.
        VaultError, SecretError, StoreError: see `Vault`.
    """
    if finalize and (partition != WHOLE or to is not None):
        msg = "only a migration in place that sees the whole store can be finalized"
        raise RecodeError(msg, hint="run --finalize by itself, without --partition and without --to")
    request = _Request(
        legacy=legacy,
        options=options,
        command=command,
        listener=listener,
        dry_run=dry_run,
        partition=partition,
        rate=rate,
        before_writes=before_writes,
        settles_in=options.get("grace", SETTLED_AFTER) if finalize else None,
    )
    async with reached(store, to, writes=not dry_run) as places:
        if finalize:
            refuse_blindness(places.source)
        async with _prepared(places, request) as prepared:
            report = await _recode(places, request, prepared, context)
            return await _ended(places, request, prepared, report, finalize=finalize and not dry_run)


async def prepare(
    store: AsyncKeyValue | Driver,
    legacy: Sequence[LegacyCodec] = (),
    *,
    to: AsyncKeyValue | Driver | None = None,
    parts: int | None = None,
    before_writes: Callable[[Driver], Awaitable[None]] | None = None,
    command: str = "migrate",
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> VaultStatus:
    """
    Prepare a migration that several processes share: survey, *before_writes*, vault; raises like `migrate`.

    With *parts* it is begun: the store is split for so many, and processes that do a part survey nothing.
    """
    request = _Request(
        legacy=legacy, options=options, command=command, listener=listener, before_writes=before_writes
    )
    async with reached(store, to) as places, _prepared(places, request) as prepared:
        if prepared.vault is None:
            raise AssertionError
        if parts is not None:
            await begin(
                _plan(request, prepared.codecs, SealedTarget.of(prepared.vault), prepared.vault),
                places,
                parts,
                prepared.total,
            )
        return prepared.vault.status()


async def import_keys(
    store: AsyncKeyValue | Driver,
    keys: Sequence[LegacyKey],
    *,
    hold: bool = False,
    dry_run: bool = False,
    listener: Listener = ignore,
    **options: Unpack[Options],
) -> Migration:
    """
    Hold *keys* in the vault, so that its wrappers read old records from now on.

    As in `migrate`, a survey checks first that the keys open records, and the vault is created if
    needed.  Without *keys*, those are meant that the vault has kept since reads with them ended.  With the
    rule to seal plaintext, wrappers read plaintext too.  With *hold*, they go on writing the old format, in
    the same change: that of the first of *keys*, or plaintext.  Raises like `migrate`.
    """
    write = (keys[0].kind if keys else PLAINTEXT) if hold else None
    if write is not None:
        # Before a vault is created for it.
        check_written(write)
    codecs = codecs_for((key.kind, key.key) for key in keys)
    request = _Request(
        legacy=codecs,
        options=options,
        command="import-keys",
        listener=listener,
        dry_run=dry_run,
        only_imports=True,
    )
    async with reached(store, writes=not dry_run) as places, _prepared(places, request) as prepared:
        if prepared.vault is None:
            return Migration(None, None)
        if not dry_run:
            if request.resumes and prepared.vault.keyring.ended:
                await prepared.vault.resume_legacy_reads()
            plaintext = request.plaintext is PlaintextRule.SEAL
            await prepared.vault.read_legacy_with(keys, plaintext=plaintext, write=write)
        return Migration(None, prepared.vault.status())


@asynccontextmanager
async def _prepared(places: Places, request: _Request) -> AsyncIterator[_Prepared]:
    """Survey, back up, and create the vault if needed, before the first write of a record."""
    options = request.options
    adopts, reaches = options.get("adopts"), _opening(options)
    vault = await Vault.open_if_any(places.destination, adopts=adopts, **reaches)
    ended: frozenset[str] = frozenset()
    try:
        if vault is not None and vault.holds and request.seals:
            msg = "the vault's policy holds new values in the old format, and a migration would seal them"
            raise VaultHeldError(msg, hint="vaultctl policy seal first; nothing was changed")
        if vault is not None and request.settles_in is not None:
            await check_settled(vault, request.settles_in)
            ended = await ended_before(vault, request.settles_in)
        codecs = merged([*request.legacy, *_held(vault, ended=request.resumes)])
        look = options.get("before_survey")
        prepares = not request.dry_run and (look is not None or request.before_writes is not None)
        run = None
        if vault is not None and (prepares or request.partition != WHOLE):
            run = await begun(_plan(request, codecs, SealedTarget.of(vault), vault), places)
        if run is not None and _is_surveyed(run, request, codecs):
            yield _Prepared(vault, codecs, (run.surveyed or 0) // run.count, ended)
            return
        begins = prepares and (run is None or not run.prepared)
        if begins and look is not None:
            await look(places.source)
        found = await _surveyed(places.source, request, codecs, vault)
        is_done = found.formats.get(KVSEAL, 0) == found.total
        if begins and not is_done and request.before_writes is not None:
            await request.before_writes(places.source)
        if vault is None and not request.dry_run:
            kdf = options.get("kdf")
            vault = await Vault.open_or_create(places.destination, kdf=kdf, adopts=adopts, **reaches)
        yield _Prepared(vault, codecs, found.total, ended)
    finally:
        if vault is not None:
            await vault.close()


def _opening(options: Options) -> OpeningOptions:
    """Return the *options* that opening a vault takes."""
    return {
        "secret": options.get("secret"),
        "meta_store": options.get("meta_store"),
        "pin": options.get("pin"),
    }


async def _surveyed(
    source: Driver, request: _Request, codecs: Sequence[LegacyCodec], vault: Vault | None
) -> Survey:
    """Survey every entry, and raise if the keys open no legacy record."""
    is_keyless = not codecs and request.plaintext is not PlaintextRule.SEAL
    if is_keyless and vault is None:
        raise await keyless(source)
    found = await survey(
        source,
        codecs,
        plaintext=request.plaintext,
        leaves=request.leaves,
        partition=request.partition,
        rate=request.rate,
        listener=request.listener,
    )
    # If everything is sealed, an earlier run may have finalized, and dropped the keys, before it was killed.
    known = {KVSEAL, PlaintextCodec.format, *(one.format for one in request.leaves)}
    if is_keyless and not known.issuperset(found.formats):
        raise await keyless(source, has_ended=vault is not None and bool(vault.keyring.ended))
    return found


def _is_surveyed(run: Head, request: _Request, codecs: Sequence[LegacyCodec]) -> bool:
    """Whether *request* is a part of *run*, for all parts of which a survey was made."""
    is_part = request.seals and request.partition != WHOLE and request.partition[1] == run.count
    return is_part and run.surveyed is not None and bool(codecs or request.plaintext is PlaintextRule.SEAL)


def _plan(
    request: _Request, codecs: Sequence[LegacyCodec], target: SealedTarget, vault: Vault | None
) -> Plan:
    plan = plan_migration(
        target,
        codecs,
        command=request.command,
        plaintext=request.plaintext,
        leaves=request.leaves,
        vault=vault,
    )
    return replace(plan, prepared=request.before_writes is not None, dry_run=request.dry_run)


async def _recode(places: Places, request: _Request, prepared: _Prepared, context: str) -> Report:
    vault = prepared.vault
    target = SealedTarget.throwaway() if vault is None else SealedTarget.of(vault, context)
    report = await recode(
        places.source,
        _plan(request, prepared.codecs, target, vault),
        to=None if places.in_place else places.destination,
        partition=request.partition,
        rate=request.rate,
        total=prepared.total,
        wait_for_lease=request.options.get("wait_for_lease", 0.0),
        listener=request.listener,
    )
    return report.after_survey()


async def _ended(
    places: Places, request: _Request, prepared: _Prepared, report: Report, *, finalize: bool
) -> Migration:
    """With *finalize*, end legacy reads if no record needs them any more, and a grace later drop the keys."""
    vault = prepared.vault
    if vault is None:
        return Migration(report, None)
    finalized = finalize and _is_complete(report, request, vault)
    if finalized:
        lag = places.source.capabilities.reads_lag
        await end_legacy(vault, prepared.ended, at_once=not request.settles_in, reads_lag=lag)
    return Migration(report, vault.status(), finalized)


def _held(vault: Vault | None, *, ended: bool) -> Sequence[LegacyCodec]:
    if vault is None:
        return ()
    keys = (*vault.keyring.legacy, *(vault.keyring.ended if ended else ()))
    return codecs_for((key.kind, key.key) for key in keys)


def _is_complete(report: Report, request: _Request, vault: Vault) -> bool:
    """Whether the verify pass found only sealed records, and records that are left unchanged on purpose."""
    left = {codec.format for codec in request.leaves}
    # Wrappers that read plaintext until now could not read it any more.
    if request.plaintext is PlaintextRule.SKIP and not vault.keyring.policy.read_plaintext:
        left.add("plaintext")
    stored = {*(report.formats or {}), *(report.expired or {})}
    return not report.failed and stored <= {KVSEAL, *left}
