"""`verify`: open every record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.values import context_option, rate_option
from kvseal.recoding.census import verify as verify_store

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


@click.command()
@context_option
@rate_option
@command_options
@connect.synchronous
async def verify(output: Output, settings: Settings, *, context: str, rate: float | None) -> int:
    """
    Open every record, count formats and DEKs, and name what fails.

    \b
    Examples:
      vaultctl verify
      vaultctl verify --rate 5000
      vaultctl verify --json | jq 'select(.type == "failure")'

    Exits with 3 if a record does not open.
    """
    async with connect.vault(settings) as (found, vault):
        report = await verify_store(found.data, vault, context=context, rate=rate, listener=output.event)
    output.summary(report)
    return report.exit_code
