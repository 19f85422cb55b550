"""
The standard streams: reporting decides nothing.

What a command tells about its work may find a full disk, a reader that has gone or an encoding that lacks a
letter.  None of these ends the work or changes its exit code.  Only where the output is the product of a
command is an error of it an error of the command.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from typing import TextIO

_UNWRITABLE: Final = (OSError, ValueError)
"""What writing raises: `ValueError` where a stream is closed, or an encoding lacks a letter."""


def tell(text: str, *, err: bool = True, nl: bool = True) -> None:
    """Print *text* if that is possible, and go on if it is not."""
    with suppress(*_UNWRITABLE):
        click.echo(text, err=err, nl=nl)


def give(text: str) -> None:
    """
    Print *text*, the product of the command, on stdout.

    Raises:
        BrokenPipeError: the process that reads it has ended, as `head` does.
        UnwrittenOutputError: it cannot be written.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except _UNWRITABLE as exc:
        from kvseal.cli.unwritten import unwritten  # noqa: PLC0415 - errors take long to load

        raise unwritten(exc) from None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether *stream*, which may be closed or absent, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def prepare() -> None:
    """Let every text be written in some form, and let no file that is opened later take a stream's number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one: a store there would be written to as if it were a terminal.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def settle() -> None:
    """Flush both streams; drop what cannot be written, for which Python has an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except _UNWRITABLE:
            with suppress(*_UNWRITABLE):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
