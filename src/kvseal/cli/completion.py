"""`completion`: the script that teaches a shell vaultctl's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from kvseal.cli.options import command_options

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@command_options
def completion(output: Output, settings: Settings, *, shell: str) -> None:
    """
    Print the completion script for SHELL.

    \b
    Examples:
      eval "$(vaultctl completion zsh)"
      vaultctl completion fish > ~/.config/fish/completions/vaultctl.fish
    """
    del settings
    written_for = get_completion_class(shell)
    if written_for is None:
        raise AssertionError
    root = click.get_current_context().find_root().command
    script = written_for(root, {}, "vaultctl", "_VAULTCTL_COMPLETE").source()
    if output.as_json:
        output.json({"type": "completion", "schema": 1, "shell": shell, "script": script})
    else:
        output.text(script)
