"""
A new key file: whole and durable before anything depends on it, and never over another.

A secret whose only copy is lost in a power failure takes every record with it, so
the file and its directory are synchronised before the caller goes on.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_key_file(path: Path, content: bytes) -> None:
    """
    Write *content* to the new file *path*, readable by its owner alone.

    A crash leaves all of it or nothing.

    Raises:
        FileExistsError: there is a file of that name; it stays as it is.
        OSError: it cannot be written.
    """
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces what is there.
        os.link(beside, path)
        sync_directory(path.parent)
    finally:
        with suppress(FileNotFoundError):
            Path(beside).unlink()


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
