"""`reencrypt`: every record on the active DEK."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.migration.backing_up import backing_up
from kvseal.cli.migration.recoding import LEFT_OVER, Recoding, exit_code, recode_options
from kvseal.cli.migration.workers import begun, refuse_one_writer, share
from kvseal.cli.options import command_options
from kvseal.cli.values import context_option
from kvseal.recoding import is_prepared, plan_reencryption, recode
from kvseal.recoding.engine import WHOLE

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.recoding import Report
    from kvseal.vault.status import VaultStatus
    from kvseal.vault.vault import Vault


@click.command()
@recode_options(
    "backup", "no_backup", "partition", "workers", "worker", "rate", "wait_for_lease", "dry_run", "check"
)
@context_option
@command_options
@connect.synchronous
async def reencrypt(output: Output, settings: Settings, *, options: Recoding, context: str) -> int:
    """
    Re-seal every record that an older DEK sealed, while the application goes on.

    \b
    Examples:
      vaultctl rotate --dek
      vaultctl reencrypt --rate 2000 --yes
      vaultctl reencrypt --workers 4 --no-backup --yes
      vaultctl reencrypt --check

    Names, creation times and expiries stay as they are.  A record that the application
    changes meanwhile is read again.  A record that does not open stays as it is and is named
    (exit code 3).  Run it again to resume.  Records of a wrapper with a context need --context,
    in a run of their own.
    """
    options, settings = begun(options, settings)
    async with connect.vault(settings) as (found, vault):
        if options.is_shared:
            refuse_one_writer(found.data)
        if options.writes:
            connect.require_offline(found.data, settings)
            if options.worker is None:
                output.confirm(f"Re-seal the older records of {found.data.location} in place?", settings)
        back_up = backing_up(output, options)
        if back_up is not None and not await is_prepared(
            plan_reencryption(vault, context=context), found.data
        ):
            await back_up.look_and_take(found.data)
        report = await _recoded(output, settings, options, found, vault, context)
        await vault.refresh()
        now = vault.status()
    output.summary(report)
    _tell(output, report, options, now)
    return exit_code(report, options)


async def _recoded(
    output: Output,
    settings: Settings,
    options: Recoding,
    found: connect.Stores,
    vault: Vault,
    context: str,
) -> Report:
    if options.is_shared:
        return await share(output, settings, options.workers or 1)
    return await recode(
        found.data,
        replace(
            plan_reencryption(vault, context=context, dry_run=not options.writes),
            prepared=options.writes and not options.no_backup,
        ),
        partition=options.part,
        rate=options.rate,
        wait_for_lease=options.wait_for_lease or 0.0,
        listener=output.event,
    )


def _tell(output: Output, report: Report, options: Recoding, now: VaultStatus) -> None:
    older = [one.id for one in now.deks if one.state == "readable"]
    if report.dry_run:
        next_step = "the same command without --dry-run or --check" if report.changed else "vaultctl dek list"
        output.note(f"nothing was written; next: {next_step}")
    elif report.failed:
        output.note("records that failed are unchanged and need their DEK: vaultctl verify names them")
    elif report.pending:
        output.note(LEFT_OVER)
    elif options.part == WHOLE and older and not set(report.deks or {}) & set(older):
        what = f"DEK {older[0]}" if len(older) == 1 else f"DEKs {', '.join(map(str, older))}"
        output.note(f"no record of this store needs {what}; next: vaultctl dek retire {older[0]}")
