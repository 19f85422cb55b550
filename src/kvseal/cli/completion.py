"""`completion`: the script that teaches a shell vaultctl's commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """
    Print the completion script for SHELL.

    \b
    Examples:
      eval "$(vaultctl completion zsh)"
      vaultctl completion fish > ~/.config/fish/completions/vaultctl.fish
    """
    script = get_completion_class(shell)
    if script is not None:
        click.echo(script(context.find_root().command, {}, "vaultctl", "_VAULTCTL_COMPLETE").source())
