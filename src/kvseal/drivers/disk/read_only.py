"""A disk store on a read-only mount, such as a snapshot: it can be read, and writing to it is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from pathlib import Path


def open_mode(path: Path, *, writes: bool) -> str:
    """
    Return how the database *path* is opened, as the query of its URI.

    Without `mode=rw` SQLite would create the file.  On a read-only mount it cannot make the files of a
    write-ahead log: where there are none, no process has the database open, and it is read as it stands.

    Raises:
        StoreUnreachableError: it *writes*, or has a log that cannot be read, on a read-only mount.
    """
    if not _is_read_only(path):
        return "mode=rw"
    if writes:
        msg = f"{path.parent} is on a file system that is mounted read-only"
        raise StoreUnreachableError(msg, hint="mount it so that it can be written, or work on a copy")
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if index.exists():
        return "mode=ro"
    if log.exists() and log.stat().st_size:
        msg = f"{log} holds writes that cannot be read on a file system that is mounted read-only"
        raise StoreUnreachableError(
            msg, hint="copy the whole store to a place that can be written, and read that"
        )
    return "mode=ro&immutable=1"


def _is_read_only(path: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        # It is gone, or out of reach: opening it says why.
        return False
