"""`help`: topics that belong to no single command."""

from __future__ import annotations

import click

from kvseal.errors import EXIT_CODES


@click.command("help")
@click.argument("topic", required=False)
@click.pass_context
def help_command(context: click.Context, topic: str | None) -> None:
    """
    Show help on a command, or on a topic: exit-codes.

    \b
    Examples:
      vaultctl help exit-codes
      vaultctl help rotate
    """
    root = context.find_root()
    if topic is None:
        click.echo(root.get_help())
        return
    if topic == "exit-codes":
        for code, meaning in EXIT_CODES.items():
            click.echo(f"{code:>4}  {meaning}")
        return
    command = root.command.get_command(root, topic) if isinstance(root.command, click.Group) else None
    if command is None:
        msg = f"there is no command or topic {topic!r}"
        raise click.UsageError(msg, ctx=context)
    with click.Context(command, info_name=topic, parent=root) as shown:
        click.echo(command.get_help(shown))
