"""
Key files: read only where others cannot, and written whole, durable, and never over another file.

A secret whose only copy is lost in a power failure takes every record with it, so
the file and its directory are synchronised before the caller goes on.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from kvseal.errors import ExposedSecretFileError, SecretNotFoundError

MAX_SIZE: Final = 1024 * 1024

_ROOT: Final = 0


def read_key_file(path: Path) -> bytes:
    """
    Return the content of a key file that only its owner can read.

    A file that belongs to root may also be readable by its group, as service users need it.

    Raises:
        SecretNotFoundError: there is no such file, or it cannot be read.
        ExposedSecretFileError: others can read or write it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MAX_SIZE)
    except OSError as exc:
        msg = f"the secret file {path} cannot be read: {exc.strerror}"
        raise SecretNotFoundError(msg) from exc
    allowed = 0o740 if status.st_uid == _ROOT != os.geteuid() else 0o700
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & ~allowed:
        msg = f"the secret file {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
        raise ExposedSecretFileError(
            msg, hint=f"chmod 600 {path}, and replace the secret if others may have read it"
        )
    return content


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
