"""Backup and restore: stored entries as they are, still sealed, in one checksummed file."""

import typing

from kvseal import lazy

if typing.TYPE_CHECKING:
    from kvseal.backup.adopting import matching_backup
    from kvseal.backup.report import BackupReport, RestoreReport
    from kvseal.backup.restoring import restore
    from kvseal.backup.taking import backup
    from kvseal.observe.events import Event, Failure, Listener, Progress
else:
    __getattr__, __dir__ = lazy.names(
        __name__,
        {
            ".adopting": ("matching_backup",),
            ".report": (
                "BackupReport",
                "RestoreReport",
            ),
            ".restoring": ("restore",),
            ".taking": ("backup",),
            "kvseal.observe.events": (
                "Event",
                "Failure",
                "Listener",
                "Progress",
            ),
        },
    )

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
