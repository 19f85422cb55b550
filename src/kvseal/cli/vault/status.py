"""`status`: what the vault says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from kvseal import clock
from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.values import Duration, rate_option
from kvseal.cli.vault.tables import count_table, tables_of
from kvseal.errors import ExitCode
from kvseal.keys.stamps import time_text
from kvseal.recoding import open_recode

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.recoding import Checkpoint
    from kvseal.recoding.census import Census
    from kvseal.vault.status import VaultStatus


@dataclass(frozen=True, slots=True)
class _Shown:
    """The vault, the recode that is open, and the records where they were counted."""

    status: VaultStatus
    recode: Checkpoint | None
    records: Census | None
    due: str | None

    def as_dict(self) -> dict[str, Any]:
        shown = {
            **self.status.as_dict(),
            "rotation_due": self.due,
            "recode": None if self.recode is None else self._recode(self.recode),
        }
        if self.records is None:
            return shown
        deks = {str(number): count for number, count in sorted(self.records.deks.items())}
        return {**shown, "records": {"formats": dict(self.records.formats), "deks": deks}}

    def _recode(self, opened: Checkpoint) -> dict[str, Any]:
        return {
            "command": opened.command,
            "started_at": _begun(opened),
            "parts": len(opened.parts),
            "done": sum(part.done for part in opened.parts),
            **opened.tally.as_json(),
            "holders": [str(holder) for holder in opened.holders(clock.wall_ms())],
        }


@click.command()
@click.option(
    "--count", is_flag=True, help="Count the records per format and per DEK: reads the whole store."
)
@click.option(
    "--max-dek-age",
    type=Duration(),
    metavar="DURATION",
    help="Ask for a rotation at this age of the active DEK instead of the policy's.",
)
@rate_option
@click.option("--check", is_flag=True, help="Exit with 4 if policy asks for a rotation of the DEK.")
@command_options
@connect.synchronous
async def status(
    output: Output,
    settings: Settings,
    *,
    count: bool,
    max_dek_age: float | None,
    rate: float | None,
    check: bool,
) -> int:
    """
    Show slots, DEKs, policy and legacy keys.

    \b
    Examples:
      vaultctl status
      vaultctl status --count --json
      vaultctl status --check
      vaultctl status --check --max-dek-age 90d

    Where the policy limits the number of records, --check counts them like --count, unless the age
    is reason enough.
    """
    async with connect.vault(settings) as (found, vault):
        now, opened, census = vault.status(), await open_recode(vault), None
        due, most = now.due(max_age=max_dek_age), now.policy.get("max_dek_records")
        if count or (check and due is None and most is not None):
            from kvseal.recoding.census import none, readers_of, take_census  # noqa: PLC0415 - counts seldom
            from kvseal.recoding.pace import Pace  # noqa: PLC0415

            census = await take_census(
                found.data, readers_of(vault), opens=none, pace=Pace(rate), listener=output.event
            )
            due = now.due(max_age=max_dek_age, records=census.deks[now.active_dek])
    if opened is not None:
        output.note(_open_text(opened))
    counted = [] if census is None else [count_table(census)]
    output.result(_Shown(now, opened, census, due), *tables_of(now), *counted)
    if due is not None:
        output.note(f"{due}; next: vaultctl rotate --dek")
    elif census is None and most is not None:
        output.note(f"the records of DEK {now.active_dek} were not counted; --count does")
    return ExitCode.WORK_PENDING if check and due is not None else 0


def _open_text(opened: Checkpoint) -> str:
    """Say that a recode has begun and not come to its end, and who works on it."""
    holders = ", ".join(map(str, opened.holders(clock.wall_ms())))
    who = f"being done by {holders}" if holders else "stopped; the same command goes on with it"
    return f"open: {opened.command}, begun {_begun(opened)}, {who}"


def _begun(opened: Checkpoint) -> str:
    return time_text(datetime.fromtimestamp(opened.started_at // 1000, timezone.utc))
