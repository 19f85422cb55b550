"""
Key files: read only where others cannot, and written whole, durable, and never over another file.

A secret whose only copy is lost in a power failure takes every record with it, so
the file and its directory are synchronised before the caller goes on.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from kvseal.errors import ExposedSecretFileError, SecretNotFoundError, UsageError
from kvseal.errors.operating_system import next_step, reason_of
from kvseal.secrets.mounts import is_secret_mount

MAX_SIZE: Final = 1024 * 1024
TRUST_VARIABLE: Final = "KVSEAL_TRUST_SECRET_MOUNTS"
"""Set to 1, it lets every user of the machine, or container, read a file on a secret mount."""

_ROOT: Final = 0
_KEY_FILE_NAME: Final = re.compile(r"[\w.-]{1,64}\.(key|txt|secret|token|pem)")


def read_key_file(path: Path) -> bytes:
    """
    Return the content of a key file that only its owner can read, and for root's, the process's group.

    On a read-only or tmpfs mount, where an orchestrator sets the modes, every user may be able to read it
    if `KVSEAL_TRUST_SECRET_MOUNTS` is 1.

    Raises:
        SecretNotFoundError: there is no such file, or it cannot be read.
        ExposedSecretFileError: others can read or write it.
    """
    try:
        with path.open("rb") as file:
            _refuse_exposed(path, file.fileno())
            return file.read(MAX_SIZE)
    except (OSError, ValueError) as exc:
        # A path with a NUL is a ValueError.
        msg = f"the secret file{_shown(path)} cannot be read: {reason_of(exc)}"
        raise SecretNotFoundError(msg, hint=next_step(exc)) from None


def write_key_file(path: Path, content: bytes) -> None:
    """
    Write *content* to the new file *path*, readable by its owner alone.

    A crash leaves all of it or nothing; on a file system without hard links, at worst an empty file.

    Raises:
        UsageError: there is a file of that name, which stays as it is, or it cannot be written.
    """
    try:
        _write_new(path, content)
    except FileExistsError:
        msg = f"{path} exists already"
        raise UsageError(msg, hint="a key file is never overwritten: choose another name") from None
    except (OSError, ValueError) as exc:
        msg = f"{path} cannot be created: {reason_of(exc)}"
        raise UsageError(msg, hint=next_step(exc)) from None


def expanded(path: str) -> Path:
    """
    Return *path* with the home directory in place of `~`.

    Raises:
        SecretNotFoundError: this user has no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        msg = "the path of the secret file starts with ~, and this user has no home directory"
        raise SecretNotFoundError(msg, hint="give an absolute path, or set HOME") from None


def publish(beside: Path, path: Path) -> None:
    """
    Give the file *beside* the name *path* too, durably, and never in place of another file.

    Raises:
        OSError: see `os.link`; `FileExistsError` where there is a file of that name.
    """
    try:
        # A link, unlike a rename, never replaces what is there.
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:
        # SMB, exFAT and some FUSE have no links: the name is claimed, and then renamed over.
        path.touch(mode=0o600, exist_ok=False)
        beside.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, content: bytes) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        publish(Path(beside), path)
    finally:
        with suppress(FileNotFoundError):
            Path(beside).unlink()


def _refuse_exposed(path: Path, descriptor: int) -> None:
    """Raise `ExposedSecretFileError` where another user can read or change the open file."""
    status = os.fstat(descriptor)
    if os.name != "posix":
        return
    mode = stat.S_IMODE(status.st_mode)
    exposed = mode & ~(0o740 if _is_of_own_group(status) else 0o700)
    if not exposed:
        return
    msg = f"the secret file {path} is open to others (mode {mode:04o})"
    readable_only = not exposed & ~0o444 and status.st_uid in {_ROOT, os.geteuid()}
    if not (readable_only and is_secret_mount(descriptor)):
        raise ExposedSecretFileError(
            msg, hint=f"chmod 600 {path}, and replace the secret if others may have read it"
        )
    if os.environ.get(TRUST_VARIABLE) != "1":
        raise ExposedSecretFileError(
            msg,
            hint=f"mount it with mode 0400, or 0440 and the group of this process; or, where every user here"
            f" may read it, set {TRUST_VARIABLE}=1",
        )


def _is_of_own_group(status: os.stat_result) -> bool:
    """Whether the file is root's, and its group, if it may read, is one of this process."""
    if status.st_uid != _ROOT:
        return False
    # A process of another user that has read it is in the group, or named in an ACL, as by systemd.
    return os.geteuid() != _ROOT or status.st_gid in {os.getegid(), *os.getgroups()}


def _shown(path: Path) -> str:
    """Return *path* for a message, unless it may be a secret that was pasted in place of a path."""
    with suppress(OSError, ValueError):
        # Of an absolute path, the first directory is there; base64 may begin with a slash, too.
        first = Path(*path.parts[: 2 if path.is_absolute() else 1])
        if os.path.lexists(path) or (len(path.parts) > 1 and first.is_dir()):
            return f" {path}"
        if _KEY_FILE_NAME.fullmatch(path.name) and len(path.parts) == 1:
            return f" {path}"
    return " that the reference names"
