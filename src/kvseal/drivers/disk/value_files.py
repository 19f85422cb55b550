"""
The files in which diskcache keeps large values, `xx/yy/….val` under the store's directory.

A file name comes out of the database, so it is as hostile as everything else that
is stored.  Only names of the form that diskcache writes are looked at: no absolute
path, no `..`, and not `cache.db` itself.  They are walked folder by folder without
following a symbolic link, each one opened relative to the one before, so that no race
between a check and a use leads out of the store either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe that an attacker put there would wait for its other end without O_NONBLOCK.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS: Final = 10
_NAME: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


class UnsafeFileNameError(ValueError):
    """The name is not one that diskcache gives, or leads through a link or to something that is no file."""


class ValueFiles:
    """The value files under *directory*.  Every method blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> bytes:
        """
        Return what the file holds.

        Raises:
            UnsafeFileNameError: the name is not one that diskcache would write.
            FileNotFoundError: the name is fine and there is no such file.
        """
        *folders, last = _parts(name)
        with _refusing_links(name), self._opened(folders) as folder:
            file = os.open(last, _READ, dir_fd=folder)
            with os.fdopen(file, "rb") as reader:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    msg = f"value file {name!r} is not a regular file"
                    raise UnsafeFileNameError(msg)
                return reader.read()

    def write(self, content: bytes) -> str:
        """
        Write *content* to a new file that survives a power failure, and return its name.

        Until a row names the file it is garbage; the caller removes it if that fails.
        """
        token = os.urandom(16).hex()
        folders, last = [token[:2], token[2:4]], f"{token[4:]}.val"
        for attempt in range(1, _ATTEMPTS + 1):
            # A process that removes its last file in a folder removes the folder, perhaps this moment.
            try:
                with self._opened(folders, create=True) as folder:
                    _write_durably(last, content, folder)
                    return "/".join((*folders, last))
            except FileNotFoundError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    def walk(self) -> Iterator[tuple[str, float]]:
        """Yield every value file, and when it was last written; whatever has another name is passed over."""
        for first, _ in self._listed([]):
            for second, _ in self._listed([first]):
                for last, written in self._listed([first, second]):
                    name = f"{first}/{second}/{last}"
                    if _NAME.fullmatch(name):
                        yield name, written

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        *folders, last = _parts(name)
        try:
            with self._opened(folders) as folder:
                os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove the file, and the folders that it leaves empty; one that is gone already is fine."""
        with contextlib.suppress(OSError, UnsafeFileNameError):
            *folders, last = _parts(name)
            with self._opened(folders) as folder:
                os.unlink(last, dir_fd=folder)
            while folders:
                last = folders.pop()
                with self._opened(folders) as folder:
                    os.rmdir(last, dir_fd=folder)

    def _listed(self, folders: list[str]) -> list[tuple[str, float]]:
        """Return what is in a folder, with times; nothing if it is none, or has gone."""
        listed = []
        try:
            with self._opened(folders) as folder, os.scandir(folder) as found:
                for item in found:
                    with contextlib.suppress(FileNotFoundError):
                        listed.append((item.name, item.stat(follow_symlinks=False).st_mtime))
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
        return listed

    @contextlib.contextmanager
    def _opened(self, folders: list[str], *, create: bool = False) -> Iterator[int]:
        # The store's own directory may be reached through links: its path comes from the operator.
        current = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                if create:
                    _make_folder(folder, current)
                below = os.open(folder, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)


def _parts(name: str) -> list[str]:
    if not _NAME.fullmatch(name):
        msg = f"value file {name!r} is not of the store's own naming"
        raise UnsafeFileNameError(msg)
    return name.split("/")


@contextlib.contextmanager
def _refusing_links(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        # POSIX says ELOOP for a link that is not followed, and Linux ENOTDIR for one to a directory.
        if exc.errno not in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            raise
        msg = f"value file {name!r} is reached through a symbolic link or is no file"
        raise UnsafeFileNameError(msg) from exc


def _make_folder(name: str, parent: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            _give_to_owner(folder, parent)
        finally:
            os.close(folder)
        os.fsync(parent)


def _write_durably(name: str, content: bytes, folder: int) -> None:
    file = os.open(name, _CREATE, 0o666, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as writer:
            _give_to_owner(file, folder)
            writer.write(content)
            writer.flush()
            os.fsync(file)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    os.fsync(folder)


def _give_to_owner(file: int, parent: int) -> None:
    """
    Make *file* belong to the owner of the folder it is in, when root has created it.

    SQLite does the same for its own files.  Otherwise a migration run by root would leave
    folders behind in which the application can no longer write.
    """
    if os.geteuid() == 0:
        owner = os.fstat(parent)
        with contextlib.suppress(PermissionError):  # A network file system may not let root do it.
            os.fchown(file, owner.st_uid, owner.st_gid)
