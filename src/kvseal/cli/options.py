"""The global options, which mean the same before and after the name of a command."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.cli.output import Output
from kvseal.cli.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


_GLOBAL: Final[tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...]] = (
    click.option(
        "--store", metavar="URL", help="The store: disk:PATH, python:MODULE:FACTORY … [VAULTCTL_STORE]"
    ),
    click.option(
        "--meta-store", metavar="URL", help="A separate store for the vault meta. [VAULTCTL_META_STORE]"
    ),
    click.option(
        "--manifest",
        metavar="FILE",
        help="Names of entries whose names the store does not keep. [VAULTCTL_MANIFEST]",
    ),
    click.option(
        "--offline", is_flag=True, default=None, help="Promise that nothing else writes to the store."
    ),
    click.option(
        "--secret", metavar="REF", help="The master secret: env:NAME, file:PATH, prompt: … [VAULTCTL_SECRET]"
    ),
    click.option("--pin", metavar="FILE", help="Remember the newest vault meta there. [VAULTCTL_PIN]"),
    click.option("--json", "as_json", is_flag=True, default=None, help="Print JSON Lines."),
    click.option("--yes", is_flag=True, default=None, help="Do not ask for confirmation."),
    click.option("--no-input", is_flag=True, default=None, help="Never ask for anything."),
    click.option("--quiet", is_flag=True, default=None, help="Print results and errors only."),
    click.option("--debug", is_flag=True, default=None, help="Show tracebacks."),
)
_NAMES: Final = (
    "store",
    "meta_store",
    "manifest",
    "offline",
    "secret",
    "pin",
    "as_json",
    "yes",
    "no_input",
    "quiet",
    "debug",
)


def global_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the global options to a group; what they give goes into `context.obj`."""

    @click.pass_context
    @wraps(function)
    def with_settings(context: click.Context, /, **arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in _NAMES}
        context.obj = (context.obj or Settings()).overridden(**given)
        return function(**arguments)

    return _decorated(with_settings)


def command_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the global options to a command, which is called with an `Output` first and `Settings` second."""

    @click.pass_context
    @wraps(function)
    def with_output(context: click.Context, /, **arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in _NAMES}
        context.obj = (context.obj or Settings()).overridden(**given)
        settings = context.obj.completed()
        output = Output(as_json=bool(settings.as_json), quiet=bool(settings.quiet))
        return function(output, settings, **arguments)

    return _decorated(with_output)


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_GLOBAL):
        function = option(function)
    return function
