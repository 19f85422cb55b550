"""
What the commands that recode have in common: their options and their exit code.

Each command says what its old or new records are of; everything else means the same in all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.cli import connect
from kvseal.cli.migration.recipe import read_recipe
from kvseal.cli.values import Duration
from kvseal.errors import UsageError
from kvseal.recoding import PlaintextRule
from kvseal.recoding.engine import WHOLE
from kvseal.recoding.progress.checkpoint import MAX_PARTS
from kvseal.recoding.settling import SETTLED_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from kvseal.cli.migration.recipe import Recipe
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.recoding import Report

if TYPE_CHECKING:
    _PartitionType = click.ParamType[tuple[int, int]]
else:
    # Older releases of click have no generic ParamType.
    _PartitionType = click.ParamType

LEFT_OVER: Final = (
    "other processes wrote more old records meanwhile: stop them, and run the same command again"
)


class Partition(_PartitionType):
    """`i/n`, from 1/n to n/n."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the index from 0, and how many parts there are; or fail."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", value)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count <= MAX_PARTS:
            self.fail(
                f"{value!r} is not a part such as 1/4, 2/4, 3/4 or 4/4 (at most {MAX_PARTS})", param, ctx
            )
        return index - 1, count


@dataclass(frozen=True, slots=True)
class Recoding:
    """The options of one recode; a recipe fills what no flag gave."""

    to: str | None = None
    create_store: bool | None = None
    plaintext: str | None = None
    backup: Path | None = None
    no_backup: bool | None = None
    import_keys: bool | None = None
    hold: bool | None = None
    grace: float | None = None
    finalize: bool | None = None
    partition: tuple[int, int] | None = None
    workers: int | None = None
    worker: tuple[int, int] | None = None
    rate: float | None = None
    dry_run: bool = False
    check: bool = False
    kdf: Argon2idParams | None = None
    recipe: Recipe | None = None

    @property
    def writes(self) -> bool:
        """Whether anything is to be changed."""
        return not (self.dry_run or self.check)

    @property
    def is_shared(self) -> bool:
        """Whether workers do it."""
        return self.workers is not None and self.workers > 1 and self.writes

    @property
    def part(self) -> tuple[int, int]:
        """The part of the store that this process does."""
        return self.worker or self.partition or WHOLE

    @property
    def rule(self) -> PlaintextRule:
        """What becomes of plaintext."""
        return PlaintextRule(self.plaintext or PlaintextRule.REFUSE.value)

    def completed(self, settings: Settings) -> tuple[Recoding, Settings]:
        """
        Return the options and the settings, with what the recipe says where no flag did.

        Raises:
            UsageError: options contradict each other.
        """
        if self.recipe is None:
            return self.checked(), settings
        source, target, policy, run = (
            self.recipe.source,
            self.recipe.target,
            self.recipe.policy,
            self.recipe.run,
        )
        given: dict[str, Any] = {
            "to": target.store,
            "create_store": target.create,
            "plaintext": None if policy.plaintext is None else policy.plaintext.value,
            "backup": policy.backup or None,
            "no_backup": True if policy.backup is False else None,
            "finalize": policy.finalize,
            "workers": run.workers,
            "rate": run.rate,
            "kdf": target.argon2,
        }
        missing = {name: value for name, value in given.items() if getattr(self, name) is None}
        for name in _YIELDING & set(missing):
            if any(name in both and self._has(*set(both) - {name}) for both, _ in _CONTRADICTIONS):
                del missing[name]
        names = {
            "store": source.store,
            "manifest": None if source.manifest is None else str(source.manifest),
            "meta_store": target.meta_store,
            "secret": target.secret,
        }
        unset = {name: value for name, value in names.items() if name not in settings.given}
        return replace(self, **missing).checked(), settings.overridden(**unset)

    @property
    def settles_in(self) -> timedelta:
        """How long ago the vault has to have been flipped, to finalize."""
        return SETTLED_AFTER if self.grace is None else timedelta(seconds=self.grace)

    def checked(self) -> Recoding:
        """
        Return the options, of a worker those that concern its part.

        Raises:
            UsageError: they contradict each other.
        """
        if self.worker is not None:
            # It is called as the whole command is, which has taken the backup, and finalizes.
            rate = None if self.rate is None else self.rate / self.worker[1]
            return replace(self, workers=None, backup=None, no_backup=True, finalize=None, rate=rate)
        for both, reason in _CONTRADICTIONS:
            if self._has(*both):
                flags = " and ".join(f"--{name.replace('_', '-')}" for name in both)
                msg = f"{flags} cannot be used together: {reason}"
                raise UsageError(msg)
        if self.hold and not self.import_keys:
            msg = "--hold is for --import-keys"
            raise UsageError(msg, hint="to flip a vault that has the keys already: vaultctl policy hold")
        if self.partition not in {None, WHOLE} and self.writes and not self.no_backup and self.to is None:
            msg = "a part of the store is not a backup of it"
            raise UsageError(msg, hint="run vaultctl backup FILE first, then every part with --no-backup")
        return self

    def _has(self, *names: str) -> bool:
        """Whether the options *names* are all given; one worker is none."""
        return all(getattr(self, name) for name in names) and ("workers" not in names or self.workers != 1)


_CONTRADICTIONS: Final = (
    (("backup", "no_backup"), "choose one"),
    (("to", "backup"), "the old store stays as it is; there is nothing to back up"),
    (("to", "finalize"), "the old store stays as it is"),
    (("to", "import_keys"), "wrappers read old records in the store that has them"),
    (("partition", "workers"), "workers are the parts of one command"),
    (("partition", "finalize"), "to finalize, all of the store has to be seen"),
    (("import_keys", "finalize"), "the one begins what the other ends"),
    (("import_keys", "partition"), "the keys are imported once"),
    (("import_keys", "workers"), "the keys are imported once"),
)

_YIELDING: Final = frozenset({"backup", "no_backup", "finalize", "workers"})
"""What a recipe says of these means nothing beside a flag that contradicts it."""

_OPTIONS: Final[dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "recipe": click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Take the options that no flag gives from FILE.",
    ),
    "to": click.option("--to", metavar="URL", help="Put copies into this store and leave the old one alone."),
    "create_store": click.option(
        "--create-store",
        is_flag=True,
        default=None,
        help="Create the stores of --to and --meta-store.",
    ),
    "plaintext": click.option(
        "--plaintext",
        type=click.Choice([rule.value for rule in PlaintextRule]),
        help="What to do with records that were never encrypted.  [default: refuse]",
    ),
    "backup": click.option(
        "--backup",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The file for the backup before the first change.",
    ),
    "no_backup": click.option(
        "--no-backup", is_flag=True, default=None, help="Change the store without a backup of it."
    ),
    "import_keys": click.option(
        "--import-keys",
        is_flag=True,
        default=None,
        help="Hold the old keys in the vault, so that wrappers read old records; change no record yet.",
    ),
    "hold": click.option(
        "--hold",
        is_flag=True,
        default=None,
        help="With --import-keys: go on writing the old format, until vaultctl policy seal.",
    ),
    "finalize": click.option(
        "--finalize",
        is_flag=True,
        default=None,
        help="When nothing old is left, end old reads; the same again after --grace drops the old keys.",
    ),
    "grace": click.option(
        "--grace",
        type=Duration(zero=True),
        metavar="DURATION",
        help="With --finalize: how long ago the vault must have been flipped, if it ever held an old format,"
        " and how long ended keys are kept; 0 if every process was restarted since.  [default: 1h]",
    ),
    "partition": click.option("--partition", type=Partition(), help="Do one of n parts: 1/n, 2/n … n/n."),
    "workers": click.option(
        "--workers", type=click.IntRange(1, 64), metavar="N", help="Share the work among N processes."
    ),
    "worker": click.option("--worker", type=Partition(), hidden=True),
    "rate": click.option(
        "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N records a second."
    ),
    "dry_run": click.option("--dry-run", is_flag=True, help="Do everything but write."),
    "check": click.option(
        "--check", is_flag=True, help="Like --dry-run, and exit with 4 if there is work to do."
    ),
}


def recode_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options *names*, or all of them; the command gets them as `Recoding` in `options`."""
    chosen = names or tuple(_OPTIONS)
    collected = {field.name for field in fields(Recoding)}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def with_options(*arguments: Any, **given: Any) -> Any:
            mine = {name: given.pop(name) for name in collected & set(given)}
            if mine.get("recipe") is not None:
                mine["recipe"] = read_recipe(mine["recipe"])
            return function(*arguments, options=Recoding(**mine), **given)

        decorated: Callable[..., Any] = with_options
        for name in reversed(chosen):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate


async def target_of(stack: AsyncExitStack, source: Driver, options: Recoding) -> Driver | None:
    """Return the driver of `--to`, which is not the store that is read; `None` for a recode in place."""
    if options.to is None:
        return None
    target = await stack.enter_async_context(
        connect.store(options.to, create=bool(options.create_store), dry_run=not options.writes)
    )
    if _real(target.location) == _real(source.location):
        msg = f"--to names the store that is to be migrated itself, {target.location}"
        raise UsageError(msg, hint="leave --to out to migrate in place")
    return target


def confirm(output: Output, settings: Settings, options: Recoding, driver: Driver, question: str) -> None:
    """Let a person agree to a change in place."""
    if options.to is None and options.writes:
        output.confirm(question.format(driver.location), settings)


def _real(location: str) -> str:
    """Return *location* with its path, if it is one, without links and detours."""
    scheme, _, path = location.partition(":")
    return f"{scheme}:{Path(path).resolve()}" if Path(path).exists() else location


def exit_code(report: Report, options: Recoding) -> int:
    """Return what the command exits with."""
    return report.check_exit_code if options.check else report.exit_code
