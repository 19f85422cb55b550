"""`rotate --dek` and `dek list|retire`: the keys that seal records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options, global_options
from kvseal.cli.output import Table
from kvseal.cli.values import Duration, contexts_option
from kvseal.cli.vault.tables import state_of
from kvseal.drivers import abilities
from kvseal.keys.stamps import time_text
from kvseal.recoding.retirement import GRACE, retire, take_needs, will_drop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.keys.wrapped_keys import WrappedDEK
    from kvseal.recoding.retirement import Needs, Retirement
    from kvseal.vault.status import VaultStatus


async def rotate_dek(output: Output, settings: Settings, *, dry_run: bool) -> None:
    """Make a new DEK the active one, and say what is left to be done."""
    async with connect.vault(settings) as (found, vault):
        if dry_run:
            output.note(f"nothing was written; DEK {len(vault.status().deks) + 1} would become active")
            output.result(_Listed(vault.status()), _table(vault.status()))
            return
        now = await vault.rotate_dek()
        count = await abilities.count(found.data)
    output.done(_Listed(now), _table(now))
    entries = max(0, count.entries - (found.meta is None))
    output.note(
        f"DEK {now.active_dek} is active; {'up to' if count.exact else 'about'} {entries:,} records still use"
        f" {_older(now)}: vaultctl reencrypt"
    )


@click.group(no_args_is_help=False)
@global_options
def dek() -> None:
    """
    List the keys that seal records, and retire those that no record needs.

    \b
    Examples:
      vaultctl rotate --dek
      vaultctl reencrypt --yes
      vaultctl dek list --count
      vaultctl dek retire 1 --yes
    """


@dek.command("list")
@click.option("--count", is_flag=True, help="Count the records of each: reads the whole store.")
@command_options
@connect.synchronous
async def list_deks(output: Output, settings: Settings, *, count: bool) -> None:
    """
    Show every DEK: its number, its state, and with --count how many records need it.

    \b
    Examples:
      vaultctl dek list
      vaultctl dek list --count --json
    """
    needs = None
    async with connect.vault(settings) as (found, vault):
        if count:
            needs = await take_needs(found.data, listener=output.event)
        now = vault.status()
    output.result(_Listed(now, needs), _table(now, needs))
    if needs is not None and needs.opaque:
        output.note(f"{needs.opaque:,} entries cannot be counted: they are not kvseal's, or damaged")


@dek.command("retire")
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--grace",
    type=Duration(zero=True),
    default=f"{GRACE.total_seconds():.0f}s",
    show_default=True,
    metavar="DURATION",
    help="How long ago the DEK must have been replaced; with 0, if every process was restarted since, it is"
    " dropped at once.",
)
@contexts_option
@click.option("--dry-run", is_flag=True, help="Check whether a record needs it, and drop nothing.")
@command_options
@connect.synchronous
async def retire_dek(
    output: Output,
    settings: Settings,
    *,
    number: int,
    grace: float,
    contexts: tuple[str, ...],
    dry_run: bool,
) -> None:
    """
    Retire a DEK that no record needs, and a week later drop it for ever.

    \b
    Examples:
      vaultctl dek retire 1 --dry-run
      vaultctl dek retire 1 --yes

    A retired DEK still opens what may have been missed, and the log and the health of each process that
    needs it say so.  The same command drops it for ever, at least seven days later, after it has looked
    again.  With --grace 0 it is dropped at once.

    Looks at every entry of the store, and refuses while one record needs the DEK.  Processes
    that seal read the vault meta again every minute, or at their own refresh_after: the
    grace has to be ten times as long as the longest of these intervals.

    Only this store is searched, not other stores that share the vault meta, caches or
    backups.  Restore an older backup into a separate place, vault meta included.
    """
    async with connect.vault(settings) as (found, vault):
        time = timedelta(seconds=grace)
        if not dry_run:
            question = _question(vault.meta.deks, number, time)
            output.confirm(
                f"{question}, if no record of {found.data.location} needs it?"
                " Records in other stores of this vault are not seen.",
                settings,
            )
        done = await retire(
            found.data,
            vault,
            number,
            grace=time,
            contexts=("", *contexts),
            dry_run=dry_run,
            listener=output.event,
        )
    output.ended(done, _retired(done))
    if done.unopened:
        output.note(f"{done.unopened:,} records did not open, so it was not seen whether records are in them")
    if dry_run and done.scanned:
        output.note(f"nothing was written; next: vaultctl dek retire {number}")
    elif done.kept_until is not None:
        output.note(
            f"next: vaultctl dek retire {number}, after {time_text(done.kept_until)}, drops it for ever"
        )
    elif done.changed:
        output.note("next: vaultctl purge, for what the store keeps of overwritten records")


def _question(deks: Sequence[WrappedDEK], number: int, grace: timedelta) -> str:
    """Say what the operator agrees to; a number that there is not is an error later."""
    drops = number <= len(deks) and will_drop(deks[number - 1], grace)
    return f"Drop DEK {number} for ever" if drops else f"Retire DEK {number}"


def _retired(done: Retirement) -> str:
    entries = f"{done.scanned:,} {'entry' if done.scanned == 1 else 'entries'}"
    if done.changed and done.dropped:
        return f"DEK {done.dek} is dropped: none of {entries} needed it"
    if done.changed:
        return f"DEK {done.dek} is retired: none of {entries} needed it; readers can still open with it"
    if done.scanned:
        return f"DEK {done.dek} is {done.state}, and none of {entries} needs it"
    return f"DEK {done.dek} was {'dropped' if done.dropped else 'retired'} before"


@dataclass(frozen=True, slots=True)
class _Listed:
    """The DEKs, and the records of each where they were counted."""

    status: VaultStatus
    needs: Needs | None = None

    def as_dict(self) -> dict[str, Any]:
        deks: list[dict[str, Any]] = self.status.as_dict()["deks"]
        if self.needs is None:
            return {"deks": deks}
        counted = [{**one, "records": self.needs.deks[one["id"]]} for one in deks]
        return {"deks": counted, "uncounted": self.needs.opaque}


def _table(now: VaultStatus, needs: Needs | None = None) -> Any:
    columns = ["number", "state", "created"]
    rows: list[list[object]] = [[d.id, state_of(d), d.created_at] for d in now.deks]
    if needs is not None:
        columns.append("records")
        rows = [[*row, f"{needs.deks[d.id]:,}"] for row, d in zip(rows, now.deks, strict=True)]
    return Table("DEKs", columns, rows)


def _older(now: VaultStatus) -> str:
    older = [str(d.id) for d in now.deks if d.state == "readable"]
    return f"DEK {older[0]}" if len(older) == 1 else f"DEKs {', '.join(older)}"
