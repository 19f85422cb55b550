"""`purge`: what a store keeps of overwritten records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.streams import tell
from kvseal.drivers import purging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.purging import PurgeReport


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@command_options
@connect.synchronous
async def purge(output: Output, settings: Settings, *, dry_run: bool) -> int:
    """
    Let the store drop what it keeps of overwritten and deleted records.  Needs no secret.

    \b
    Examples:
      vaultctl purge --dry-run
      vaultctl purge --yes

    The last step after a leak: after rotate, rotate --dek, reencrypt and dek retire.  Each
    backend does what it can, and what is left to the operator is listed.  Where the store's own files
    still hold what was overwritten, the exit code is 4.

    Writers of a disk store wait until its database has been rewritten; readers and writers of
    a PostgreSQL table wait until it has been.  Other stores go on.
    """
    async with connect.stores(settings) as found:
        places = [place for place in (found.data, found.meta) if place is not None]
        plans = [await purging.purge(place, dry_run=True) for place in places]
        if dry_run:
            return _tell(output, plans)
        for halts, plan in ((plan.halts, plan) for plan in plans if plan.halts):
            output.confirm(f"Purge {plan.location}? {halts}.", settings)
        return _tell(output, [await purging.purge(place) for place in places])


def _tell(output: Output, reports: Sequence[PurgeReport]) -> int:
    for report in reports:
        _tell_one(output, report)
    summary = _Summary(tuple(reports))
    output.ended(summary, summary.text)
    if summary.dry_run:
        output.note("nothing was done; next: the same command without --dry-run")
    return summary.exit_code


def _tell_one(output: Output, report: PurgeReport) -> None:
    if output.as_json:
        output.report(report.as_dict())
        return
    tell(report.location, err=False)
    for line in report.done:
        tell(f"  {'would do' if report.dry_run else 'done'}: {line}", err=False)
    for line in report.left:
        tell(f"  left to you: {line}", err=False)


@dataclass(frozen=True, slots=True)
class _Summary:
    """The end of a purge of one place, or of two."""

    reports: tuple[PurgeReport, ...]

    @property
    def dry_run(self) -> bool:
        return any(report.dry_run for report in self.reports)

    @property
    def exit_code(self) -> int:
        return max(report.exit_code for report in self.reports)

    @property
    def text(self) -> str:
        seconds = f"{sum(report.seconds for report in self.reports):,.1f} s"
        still = ", ".join(report.location for report in self.reports if not report.complete)
        if still:
            would = "would" if self.dry_run else "MAY"
            return f"purge: overwritten records {would} STILL BE in {still}; {seconds}"
        would_be = "would be" if self.dry_run else "is"
        return f"purge: no overwritten record {would_be} left in the store's files; {seconds}"

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints last."""
        return {
            "type": "summary",
            "schema": 1,
            "command": "purge",
            "places": len(self.reports),
            "complete": all(report.complete for report in self.reports),
            "seconds": round(sum(report.seconds for report in self.reports), 3),
            **({"dry_run": True} if self.dry_run else {}),
        }
