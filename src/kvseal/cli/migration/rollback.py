"""`migrate-to-fernet`: the way back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.migration.backing_up import backing_up
from kvseal.cli.migration.old_secrets import old_secret
from kvseal.cli.migration.recoding import LEFT_OVER, confirm, exit_code, recode_options, target_of
from kvseal.cli.options import command_options
from kvseal.keys.stamps import time_text
from kvseal.legacy import FernetCodec
from kvseal.legacy.fernet_keys import parse_keys
from kvseal.recoding import is_prepared, plan_rollback, recode
from kvseal.recoding.settling import settles_at

if TYPE_CHECKING:
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver
    from kvseal.legacy import SealingCodec
    from kvseal.recoding import Report
    from kvseal.vault.vault import Vault


@click.command("migrate-to-fernet")
@click.option(
    "--fernet-key",
    metavar="REF",
    required=True,
    help="The Fernet key that will open the records; of several, the first.",
)
@recode_options(
    "to", "create_store", "backup", "no_backup", "partition", "rate", "wait_for_lease", "dry_run", "check"
)
@command_options
@connect.synchronous
async def migrate_to_fernet(output: Output, settings: Settings, *, options: Recoding, fernet_key: str) -> int:
    """
    Turn every sealed record into one of FernetEncryptionWrapper: roll a migration back, or leave.

    \b
    Examples:
      vaultctl migrate-to-fernet --fernet-key env:OLD_KEY --yes
      vaultctl migrate-to-fernet --fernet-key file:fernet.key --to disk:/var/lib/app/plain-fernet

    With users online, vaultctl policy hold first: every process then writes the old format, and reads both.
    Without the key of that format in the vault, stop every process that uses it: its wrappers could not read
    what this writes. An old release may be deployed once a run, after the grace of the change of policy,
    met nothing sealed: the last line says so.

    Names, creation times and expiries stay as they are, but nothing binds a Fernet record to
    its name or its expiry.  The vault itself stays, for records that do not open (exit code 3).
    """
    codec = FernetCodec(parse_keys(await old_secret(fernet_key, settings)))
    return await rolled_back(
        output, settings, options.checked(), codec, Way("Fernet", "FernetEncryptionWrapper")
    )


@dataclass(frozen=True, slots=True)
class Way:
    """Where a rollback leads, in words: the format, and what reads it."""

    format: str
    reader: str


async def rolled_back(
    output: Output, settings: Settings, options: Recoding, codec: SealingCodec, way: Way
) -> int:
    """Turn every sealed record into one that *codec* writes, and return the exit code."""
    async with connect.vault(settings) as (found, vault), AsyncExitStack() as stack:
        target = await target_of(stack, found.data, options)
        if target is None and options.writes:
            connect.require_offline(found.data, settings)
        question = f"Turn every record of {{}} back into {way.format} in place?"
        confirm(output, settings, options, found.data, question)
        command = click.get_current_context().command.name or "migrate-back"
        plan = plan_rollback(vault, codec, command=command, dry_run=not options.writes)
        back_up = backing_up(output, options)
        if back_up is not None and not await is_prepared(plan, found.data):
            await back_up.look_and_take(found.data)
        report = await recode(
            found.data,
            replace(plan, prepared=back_up is not None),
            to=target,
            partition=options.part,
            rate=options.rate,
            wait_for_lease=options.wait_for_lease or 0.0,
            listener=output.event,
        )
        left = await _left_to_do(vault, report, way, target)
    output.summary(report)
    if report.dry_run:
        output.note("nothing was written")
    elif report.failed:
        output.note("records that failed are still sealed: keep the vault and its secret")
    elif report.pending:
        output.note(LEFT_OVER)
    else:
        output.note(left)
    return exit_code(report, options)


async def _left_to_do(vault: Vault, report: Report, way: Way, target: Driver | None) -> str:
    """Say what comes next; under hold that depends on when every process follows."""
    if target is not None:
        return f"next: deploy {way.reader} on {target.location}; the vault is as it was"
    ends_at = await settles_at(vault) if vault.meta.policy.holds else None
    if ends_at is not None:
        return f"next: run this again after {time_text(ends_at)}; until then a process may still seal"
    if vault.meta.policy.holds and report.changed:
        return "next: run this again, until it meets nothing sealed"
    return f"next: deploy {way.reader}; the vault meta stays, and no record needs it"
