"""Why a command ended early: what vaultctl says of an error, and the exit code."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from kvseal.cli.output import json_line, printable
from kvseal.cli.streams import tell
from kvseal.errors import ExitCode, KvsealError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class _Fatal:
    """Why a command ended early."""

    code: int
    error: str
    message: str
    hint: str


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say on stderr what *error* is, as the *arguments* ask for, and return the exit code."""
    if "--debug" in arguments:
        tell("".join(traceback.format_exception(error)), nl=False)
    fatal = _explain(error)
    if "--json" in arguments:
        tell(json_line({"type": "error", "schema": 1, **asdict(fatal)}))
        return fatal.code
    tell(f"vaultctl: error: {printable(fatal.message[:1].lower() + fatal.message[1:])}")
    for line in fatal.hint.splitlines():
        tell(f"hint: {printable(line)}")
    return fatal.code


def _explain(error: BaseException) -> _Fatal:
    name = type(error).__name__
    if isinstance(error, KvsealError):
        return _Fatal(error.exit_code, name, str(error), error.hint)
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} -h shows how" if context is not None else ""
        return _Fatal(ExitCode.USAGE, name, error.format_message(), hint)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return _Fatal(ExitCode.INTERRUPTED, name, "interrupted", "run the same command again to resume")
    hint = "this is a fault of vaultctl: run it again with --debug and report what it shows"
    return _Fatal(ExitCode.FAILED, name, f"unexpected {name}", hint)
