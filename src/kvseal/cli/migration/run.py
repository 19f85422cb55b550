"""One run of a `migrate-from` command over open stores: import keys, or prepare, share and migrate."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.migration.backing_up import backing_up
from kvseal.cli.migration.outcome import tell_imported, tell_migrated, tell_prepared
from kvseal.cli.migration.recoding import confirm, target_of
from kvseal.cli.migration.workers import refuse_one_writer, share, with_what_workers_did
from kvseal.errors import ExitCode, UsageError
from kvseal.recoding import Migration, PlaintextRule, import_keys, migrate, prepare
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvseal.cli.migration.origin import Origin
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver
    from kvseal.recoding import Report
    from kvseal.recoding.migration import Options
    from kvseal.vault.status import VaultStatus


@dataclass(frozen=True, slots=True)
class Run:
    """The stores of one migration, and what was asked for; *target* is that of `--to`."""

    output: Output
    settings: Settings
    options: Recoding
    found: connect.Stores
    target: Driver | None

    async def migrate(self, origin: Origin, how: Options) -> int:
        """Do what the options say with what opens the old records, and return the exit code."""
        if self.options.is_shared:
            refuse_one_writer(self.target or self.found.data)
        how = await self._with_the_vault(how)
        if self.options.import_keys:
            return await self._import(origin, how)
        if self.options.prepare is not None:
            await self._prepared(origin, how, self.options.prepare)
            tell_prepared(self.output, self.options.prepare)
            return ExitCode.OK
        shared = None
        if self.options.is_shared:
            prepared = await self._prepared(origin, how, self.options.workers or 1)
            shared = await share(self.output, self.settings, self.options.workers or 1)
            if shared.failed or not self.options.finalize:
                return tell_migrated(self.output, Migration(shared, prepared), self.options)
        return tell_migrated(self.output, await self._migrated(origin, how, shared), self.options)

    async def _with_the_vault(self, how: Options) -> Options:
        """Return *how* with what opens or makes the vault."""
        creates = self.options.writes and not await self._has_vault(how)
        secret = await connect.given_secret(self.settings.secret, self.settings, confirm=creates)
        named: Options = {
            **how,
            "secret": secret,
            "meta_store": self.found.meta,
            "pin": self.settings.pin,
            "wait_for_lease": self.options.wait_for_lease or 0.0,
        }
        if self.options.kdf is not None:
            named["kdf"] = self.options.kdf
        return named

    async def _has_vault(self, how: Options) -> bool:
        adopts = how.get("adopts")
        adopted = None if adopts is None or self.found.meta is not None else adopts.record
        async with MetaStore.reached(self.found.meta or self.target or self.found.data) as metastore:
            return (await metastore.find(adopted)).meta is not None

    async def _import(self, origin: Origin, how: Options) -> int:
        if not origin.keys and not (self.options.hold and how.get("plaintext") is PlaintextRule.SEAL):
            msg = "no keys to import were given"
            raise UsageError(msg, hint="name them, for example with --fernet-key REF")
        done = await import_keys(
            self.found.data,
            origin.keys,
            hold=bool(self.options.hold),
            dry_run=not self.options.writes,
            listener=self.output.event,
            **how,
        )
        tell_imported(self.output, done)
        return ExitCode.OK

    async def _prepared(self, origin: Origin, how: Options, parts: int) -> VaultStatus:
        """Do what comes before *parts* parts: survey, backup, vault, splits."""
        before = backing_up(self.output, self.options)
        if before is not None:
            how = {**how, "before_survey": before.look}
        return await prepare(
            self.found.data,
            origin.codecs,
            to=self.target,
            parts=parts,
            before_writes=None if before is None else before.take,
            command=_command(),
            listener=self.output.event,
            **how,
        )

    async def _migrated(self, origin: Origin, how: Options, shared: Report | None) -> Migration:
        """Migrate; after workers have *shared* the work, only to finalize it."""
        before = None if shared else backing_up(self.output, self.options)
        if before is not None:
            how = {**how, "before_survey": before.look}
        how = {**how, "grace": self.options.settles_in}
        done = await migrate(
            self.found.data,
            origin.codecs,
            to=self.target,
            partition=self.options.part,
            rate=self.options.rate,
            finalize=bool(self.options.finalize),
            dry_run=not self.options.writes,
            before_writes=None if before is None else before.take,
            command=_command(),
            listener=self.output.event,
            **how,
        )
        if shared is None or done.report is None:
            return done
        return replace(done, report=with_what_workers_did(done.report, shared))


@asynccontextmanager
async def opened_run(output: Output, settings: Settings, options: Recoding) -> AsyncIterator[Run]:
    """Yield the run over its open stores, once a person has agreed to what it changes."""
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(
            connect.stores(settings, create_meta=bool(options.create_store), dry_run=not options.writes)
        )
        target = await target_of(stack, found.data, options)
        if target is None and options.writes:
            connect.require_offline(found.data, settings)
        if not options.import_keys and options.worker is None:
            confirm(output, settings, options, found.data, "Re-seal every record of {} in place?")
        yield Run(output, settings, options, found, target)


def _command() -> str:
    return click.get_current_context().command.name or "migrate"
