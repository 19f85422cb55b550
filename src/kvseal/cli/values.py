"""The values of options that several commands take, and those options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.calibration.goal import PROFILES
from kvseal.envelope.kdf import Argon2idParams
from kvseal.errors import KDFParametersError

_LONGEST: Final = 100 * 365 * 86400.0
if TYPE_CHECKING:
    _CostType = click.ParamType[Argon2idParams]
    _DurationType = click.ParamType[float]
else:
    # Older releases of click have no generic ParamType.
    _CostType = _DurationType = click.ParamType

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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

contexts_option: Final = click.option(
    "--context",
    "contexts",
    multiple=True,
    metavar="TEXT",
    help="A context that the application gives a wrapper; repeatable. Its records are opened, too.",
)
names_inside_option: Final = click.option(
    "--names-inside", is_flag=True, help="Open the vault, for the names that records carry."
)
context_option: Final = click.option(
    "--context", default="", metavar="TEXT", help="The context that the application gives its wrapper."
)
