"""Errors of what walks a whole store, and of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode

if TYPE_CHECKING:
    from datetime import datetime


class RecodeError(KvsealError):
    """A recode cannot run."""


class WrongLegacyKeyError(RecodeError):
    """None of the legacy keys opens any of the sampled legacy records."""


class PlaintextFoundError(RecodeError):
    """The store holds plaintext, and the plan is to refuse it."""


class LeaseHeldError(RecodeError):
    """
    Another run works on this vault's records, or has taken this one's part over.

    `until` is when its lease ends unless it is renewed; `None` where that is not known.
    """

    exit_code = ExitCode.LEASE_HELD
    until: datetime | None

    def __init__(self, message: str, *, hint: str = "", until: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.until = until


class BackupError(KvsealError):
    """A backup cannot be taken, or cannot be restored."""


class BackupFileError(BackupError):
    """The file cannot be opened, read or written, or there is one of that name already."""

    exit_code = ExitCode.USAGE


class MalformedBackupError(BackupError):
    """The file is no backup, or a damaged one; nothing of it is believed."""


class UnknownBackupVersionError(MalformedBackupError):
    """The backup is of a format version that this kvseal does not read."""


class TruncatedBackupError(MalformedBackupError):
    """The end of the backup is missing."""


class UsageError(KvsealError):
    """The command was called in a way that cannot work."""

    exit_code = ExitCode.USAGE
