"""The error of a command whose product could not be printed; apart, because errors take long to load."""

from __future__ import annotations

from kvseal.errors import KvsealError
from kvseal.errors.operating_system import reason_of


class UnwrittenOutputError(KvsealError):
    """What a command was to print could not be printed."""


def unwritten(error: Exception) -> UnwrittenOutputError:
    """Return what is raised in place of *error*."""
    reason = reason_of(error) if isinstance(error, OSError) else type(error).__name__
    msg = f"the output cannot be written: {reason}"
    return UnwrittenOutputError(msg, hint="check where stdout goes to, and run the command again")
