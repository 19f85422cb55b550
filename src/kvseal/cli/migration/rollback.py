"""`migrate-to-fernet`: the way back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.migration.backing_up import backing_up
from kvseal.cli.migration.old_secrets import old_secret
from kvseal.cli.migration.recoding import LEFT_OVER, confirm, exit_code, recode_options, target_of
from kvseal.cli.options import command_options
from kvseal.legacy import FernetCodec
from kvseal.legacy.fernet_keys import parse_keys
from kvseal.recoding import is_prepared, plan_rollback, recode

if TYPE_CHECKING:
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


@click.command("migrate-to-fernet")
@click.option(
    "--fernet-key",
    metavar="REF",
    required=True,
    help="The Fernet key that will open the records; of several, the first.",
)
@recode_options("to", "create_store", "backup", "no_backup", "partition", "rate", "dry_run", "check")
@command_options
@connect.synchronous
async def migrate_to_fernet(output: Output, settings: Settings, *, options: Recoding, fernet_key: str) -> int:
    """
    Turn every sealed record into one of FernetEncryptionWrapper: roll a migration back, or leave.

    \b
    Examples:
      vaultctl migrate-to-fernet --fernet-key env:OLD_KEY --yes
      vaultctl migrate-to-fernet --fernet-key file:fernet.key --to disk:/var/lib/app/plain-fernet

    Stop every process that uses the vault first: its wrappers cannot read what this writes.
    Names, creation times and expiries stay as they are, but nothing binds a Fernet record to
    its name or its expiry.  The vault itself stays, for records that do not open (exit code 3).
    """
    options = options.checked()
    codec = FernetCodec(parse_keys(await old_secret(fernet_key, settings)))
    async with connect.vault(settings) as (found, vault), AsyncExitStack() as stack:
        target = await target_of(stack, found.data, options)
        if target is None and options.writes:
            connect.require_offline(found.data, settings)
        confirm(output, settings, options, found.data, "Turn every record of {} back into Fernet in place?")
        plan = plan_rollback(vault, codec, dry_run=not options.writes)
        back_up = backing_up(output, options)
        if back_up is not None and not await is_prepared(plan, found.data):
            await back_up.look_and_take(found.data)
        report = await recode(
            found.data,
            replace(plan, prepared=back_up is not None),
            to=target,
            partition=options.part,
            rate=options.rate,
            listener=output.event,
        )
    output.summary(report)
    if report.dry_run:
        output.note("nothing was written")
    elif report.failed:
        output.note("records that failed are still sealed: keep the vault and its secret")
    elif report.pending:
        output.note(LEFT_OVER)
    elif target is None:
        output.note("next: deploy FernetEncryptionWrapper; the vault meta stays, and no record needs it")
    else:
        output.note(f"next: deploy FernetEncryptionWrapper on {target.location}; the vault is as it was")
    return exit_code(report, options)
