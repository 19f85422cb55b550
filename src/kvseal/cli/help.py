"""`help`: topics that belong to no single command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvseal.cli.options import command_options
from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


@click.command("help")
@click.argument("topic", required=False)
@command_options
def help_command(output: Output, settings: Settings, *, topic: str | None) -> None:
    """
    Show help on a command, or on a topic: exit-codes.

    \b
    Examples:
      vaultctl help exit-codes
      vaultctl help rotate
    """
    del settings
    context = click.get_current_context()
    root = context.find_root()
    if topic == "exit-codes":
        for code in ExitCode:
            if output.as_json:
                output.json({"type": "exit_code", "schema": 1, "code": code, "meaning": code.meaning})
            else:
                output.text(f"{code:>4}  {code.meaning}")
        return
    text = root.get_help() if topic is None else _help_of(topic, context)
    if output.as_json:
        output.json({"type": "help", "schema": 1, "text": text})
    else:
        output.text(text)


def _help_of(topic: str, context: click.Context) -> str:
    root = context.find_root()
    command = root.command.get_command(root, topic) if isinstance(root.command, click.Group) else None
    if command is None:
        msg = f"there is no command or topic {topic!r}"
        raise click.UsageError(msg, ctx=context)
    with click.Context(command, info_name=topic, parent=root) as shown:
        return command.get_help(shown)
