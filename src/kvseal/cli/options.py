"""The global options, which mean the same before and after the name of a command, and values in options."""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.calibration.goal import PROFILES
from kvseal.cli.output import Output
from kvseal.cli.settings import Settings
from kvseal.envelope.kdf import Argon2idParams
from kvseal.errors import KDFParametersError

if TYPE_CHECKING:
    from collections.abc import Callable


_LONGEST: Final = 100 * 365 * 86400.0
if TYPE_CHECKING:
    _CostType = click.ParamType[Argon2idParams]
    _DurationType = click.ParamType[float]
else:
    # Older releases of click have no generic ParamType.
    _CostType = _DurationType = click.ParamType

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
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


class Argon2Cost(_CostType):
    """`t,m,p` with m in KiB, or the name of a profile."""

    name = "t,m,p"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Argon2idParams:
        """Return the parameters, or fail with what is wrong."""
        if isinstance(value, Argon2idParams):
            return value
        if value in PROFILES:
            return PROFILES[value]
        if not re.fullmatch(r"\d{1,10},\d{1,10},\d{1,10}", value):
            self.fail(f"{value!r} is neither t,m,p (m in KiB) nor one of {', '.join(PROFILES)}", param, ctx)
        try:
            return Argon2idParams(*map(int, value.split(",")))
        except KDFParametersError as exc:
            self.fail(str(exc), param, ctx)


class Duration(_DurationType):
    """Seconds, or a number with s, m, h or d; none at all only where *zero* makes sense."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__()
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, or fail."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([smhd]?)", value)
        seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
        if match is None or not (seconds or self._zero):
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 24h or 30d", param, ctx)
        if seconds > _LONGEST:
            self.fail(f"{value!r} is longer than a hundred years", param, ctx)
        return seconds


argon2_option: Final = click.option(
    "--argon2",
    "kdf",
    type=Argon2Cost(),
    metavar="T,M,P",
    help=f"Argon2id cost: passes, KiB, lanes; or {', '.join(PROFILES)}.",
)

context_option: Final = click.option(
    "--context", default="", metavar="TEXT", help="The context that the application gives its wrapper."
)
