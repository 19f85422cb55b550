"""
The folders and files of a file tree store, reached without ever following a symbolic link.

A folder is opened component by component, each one relative to the one before, and a
file relative to its folder, so that no race between a look and a use leads out of the
store.  Paths that are stored, such as the absolute one in every info file, are never used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal import clock, exact_json
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SUFFIX: Final = ".json"
INFO_SUFFIX: Final = "-info.json"
TEMPORARY: Final = ".kvseal-"
"""How temporary files of kvseal begin; they end in `.tmp`, as the store's own do."""

_NAME_MAX: Final = 255
_WRITERS: Final = 8
"""Threads that write files of one folder at once; more gain nothing on ext4."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe that an attacker put there would wait for its other end without O_NONBLOCK.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# POSIX says ELOOP for a link that is not followed, and Linux ENOTDIR for one to a directory.
_LINKS: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})


class NotAFileError(ValueError):
    """There is something of that name, but it is no regular file; the message says so."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in one folder: entries' files, folders, links where either could be, kvseal's leftovers."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...]
    leftovers: tuple[str, ...]


class Tree:
    """The folders below *directory*, each named by its relative path.  Every method blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def opened(self, folder: str, *, create: bool = False) -> Iterator[int]:
        """
        Open *folder* for as long as the context lasts.

        Raises:
            FileNotFoundError: there is no such folder.
            NotAFileError: a symbolic link, or something that is no folder, is in the way.
        """
        # The store's own directory may be reached through links: its path comes from the operator.
        current = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folder.split("/") if folder else ():
                if create:
                    _make_folder(part, current)
                below = _open_folder(part, current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    def listing(self, folder: str) -> Listing:
        """Return what is in *folder*, sorted."""
        with self.opened(folder) as opened:
            return listing(opened)

    def walk(self) -> Iterator[tuple[str, Listing]]:
        """Yield every folder below the directory with what is in it, the directory itself first."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                found = self.listing(folder)
            except (FileNotFoundError, NotAFileError):
                continue  # It went away, or became a link, since its parent was listed.
            yield folder, found
            below = f"{folder}/" if folder else ""
            waiting += (f"{below}{name}" for name in reversed(found.folders))

    def read(self, folder: str, name: str) -> bytes:
        """Return what the file holds; raises `FileNotFoundError` and `NotAFileError`."""
        with self.opened(folder) as opened:
            return read(opened, name)


def listing(folder: int) -> Listing:
    """Return what is in the open *folder*."""
    files, folders, links, leftovers = set(), set(), set(), set()
    # Some file systems move a file to the end of the folder when it is written anew, perhaps
    # out of the way of a listing that runs: a file written once would have to be written twice.
    for _ in range(2):
        with os.scandir(folder) as found:
            for item in found:
                if item.is_symlink():
                    if item.name.endswith(SUFFIX) or item.is_dir():
                        links.add(item.name)
                elif item.is_dir(follow_symlinks=False):
                    folders.add(item.name)
                elif item.name.endswith(SUFFIX):
                    files.add(item.name)
                elif item.name.startswith(TEMPORARY):
                    leftovers.add(item.name)
    return Listing(*(tuple(sorted(names)) for names in (files, folders, links, leftovers)))


def read(folder: int, name: str) -> bytes:
    """Return what the file *name* in the open *folder* holds; raises as `Tree.read` does."""
    try:
        file = os.open(name, _READ, dir_fd=folder)
    except OSError as exc:
        if exc.errno not in _LINKS:
            raise
        msg = "it is a symbolic link, which kvseal never follows, or no file"
        raise NotAFileError(msg) from exc
    with os.fdopen(file, "rb") as reader:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            msg = "it is not a regular file"
            raise NotAFileError(msg)
        return reader.read()


def write_temporary(folder: int, content: bytes, *, like: str | None = None) -> str:
    """
    Write *content* to a new file that survives a power failure, and return its name.

    It belongs to the owner of the file *like*, or of the folder, even if root writes it, and
    is as readable; otherwise the application could not read what a migration leaves behind.
    """
    name = f"{TEMPORARY}new-{os.urandom(12).hex()}.tmp"
    file = os.open(name, _CREATE, 0o600, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as writer:
            _give_away(file, folder, like)
            writer.write(content)
            writer.flush()
            os.fsync(file)
    except BaseException:
        remove(folder, name)
        raise
    return name


def write_temporaries(folder: int, files: Sequence[tuple[bytes, str]]) -> deque[str]:
    """
    Write a file as `write_temporary` does for each content and name of the file that it is like.

    In some threads at once: a file system writes what several wait for to the disk in one go.  If one cannot
    be written, none is left.
    """
    if len(files) < 2:  # noqa: PLR2004 - nothing to do together
        return deque(write_temporary(folder, content, like=like) for content, like in files)
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="kvseal-files") as writers:
        writing = [writers.submit(write_temporary, folder, content, like=like) for content, like in files]
    try:
        return deque(one.result() for one in writing)
    except BaseException:
        for one in writing:
            if one.exception() is None:
                remove(folder, one.result())
        raise


def remove(folder: int, name: str) -> None:
    """Remove a file; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def read_info(content: bytes) -> str | None:
    """Return the collection that an info file names, or `None` if this is no info file."""
    try:
        fields = exact_json.loads(content)
    except ValueError:
        return None
    # An entry whose key happens to end in `-info` has a value, and no info file has one.
    if not isinstance(fields, dict) or "value" in fields or "directory" not in fields:
        return None
    collection = fields.get("collection")
    return collection if isinstance(collection, str) else None


def write_info(tree: Tree, folder: str, collection: str, *, data: Path) -> None:
    """Write the info file of *folder* as the store does, unless there is one."""
    parent, _, last = folder.rpartition("/")
    fields = {
        "version": 1,
        "collection": collection,
        "directory": str(data.resolve() / folder),
        "created_at": clock.utc_now().isoformat(),
    }
    with tree.opened(parent) as opened:
        name = f"{last}{INFO_SUFFIX}"
        temporary = write_temporary(opened, json.dumps(fields, sort_keys=True).encode())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, name, src_dir_fd=opened, dst_dir_fd=opened)
        finally:
            remove(opened, temporary)
        os.fsync(opened)


def refuse_path(name: str) -> None:
    """Raise `StoreError` if *name* cannot be the name of one file."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b""
    is_odd = b"/" in encoded or b"\0" in encoded or name in {".", ".."} or not is_text(name)
    if is_odd or not 0 < len(encoded) <= _NAME_MAX:
        msg = f"a file tree store cannot hold the name {name!r}"
        raise StoreError(msg, hint="give the store py-key-value's V1 sanitization strategies")


def is_text(name: str) -> bool:
    """Whether a file name is text, rather than bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as exc:
        if exc.errno not in _LINKS:
            raise
        msg = "it is reached through a symbolic link, which kvseal never follows, or is no folder"
        raise NotAFileError(msg) from exc


def _make_folder(name: str, parent: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        folder = _open_folder(name, parent)
        try:
            if os.geteuid() == 0:
                owner = os.fstat(parent)
                with contextlib.suppress(PermissionError):
                    os.fchown(folder, owner.st_uid, owner.st_gid)
        finally:
            os.close(folder)
        os.fsync(parent)


def _give_away(file: int, folder: int, like: str | None) -> None:
    model = os.fstat(folder)
    if like is not None:
        with contextlib.suppress(FileNotFoundError):
            model = os.stat(like, dir_fd=folder, follow_symlinks=False)
    # A network file system may not let root do it, and no other user may give files away.
    with contextlib.suppress(PermissionError):
        os.fchown(file, model.st_uid if os.geteuid() == 0 else -1, model.st_gid)
    if stat.S_ISREG(model.st_mode):
        os.fchmod(file, stat.S_IMODE(model.st_mode))
