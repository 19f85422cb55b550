"""Backup and restore: stored entries as they are, still sealed, in one checksummed file."""

from kvseal.backup.adopting import matching_backup
from kvseal.backup.report import BackupReport, RestoreReport
from kvseal.backup.restoring import restore
from kvseal.backup.taking import backup
from kvseal.observe.events import Event, Failure, Listener, Progress

__all__ = [
    "BackupReport",
    "Event",
    "Failure",
    "Listener",
    "Progress",
    "RestoreReport",
    "backup",
    "matching_backup",
    "restore",
]
