"""
Compare-and-swap of one file in a folder where a live application replaces files by renaming.

The application takes no lock, so nothing can keep it from writing between a look at a file
and its replacement.  But `renameat2(RENAME_EXCHANGE)` gives back, in the same atomic step,
exactly what it replaces.  If that is not what was expected, the application was faster, and
what it wrote is put back by the same means:

    compare    the file still holds what was expected, or the swap is off
    exchange   the new file takes its name, and what had it is now under a temporary name
    verify     that is what was expected: done
    put back   it is not: exchange again; what comes out now must be our own file.  If it is
               not, the application has written once more meanwhile, and its newer file goes
               back in turn, until what comes out is what was put in.

What is guaranteed, beside any number of writers that write as the store does:

* In the end the file holds the last acknowledged write, and a deletion stays a deletion: the
  name is never vacant for a moment, so nothing that was deleted is put back.
* A swap that returns `True` was the last write up to its exchange.  One that returns `False`
  has changed nothing that lasts.
* A process that dies anywhere loses nothing.  Before each exchange the temporary file takes a
  name that says, in hashes, what is put where and what should come out of it.  The process that next
  takes the folder's lock, or scans the folder, reads from such a name how far it came and
  puts back what must be put back.
* Among processes that swap, those who swap in the same folder take turns (`flock`), so none
  of them ever sees, and builds upon, what another is about to put back.

And its limits: an application that writes within the microseconds between compare and
exchange may, until its file is put back, read what it had before, in our new form.  After a
process that died in just that moment, it may do so until the next run.  A body equal to the
last byte counts as the same write; the time of creation in it, to the microsecond, makes two
writes differ.  Where kernel or file system cannot exchange, there is a compare and then a
plain replacement, and a write in between is lost: `atomic_replace` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from kvseal import file_lock
from kvseal.drivers.filetree.folders import (
    TEMPORARY,
    NotAFileError,
    listing,
    read,
    remove,
    write_temporaries,
    write_temporary,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EXCHANGE: Final = 2
_SWAP: Final = "swap"
_BACK: Final = "back"
_MARKED: Final = re.compile(
    rf"{re.escape(TEMPORARY)}(?P<step>{_SWAP}|{_BACK})-(?P<target>[0-9a-f]{{16}})"
    r"-(?P<expected>[0-9a-f]{32})-(?P<placed>[0-9a-f]{32})\.tmp"
)
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Swap(NamedTuple):
    """A file that is to hold *content* if it holds *expected*."""

    target: str
    expected: bytes
    content: bytes

    @property
    def is_change(self) -> bool:
        """Whether there is anything to write."""
        return self.content != self.expected


class Swaps:
    """Swaps in the open *folder*, whose lock the caller holds.  Every method blocks."""

    def __init__(self, folder: int, *, atomic: bool) -> None:
        self._folder = folder
        self._atomic = atomic
        self._leftovers: list[str] = []

    def swap(self, target: str, expected: bytes, content: bytes) -> bool:
        """Let *target* hold *content*, if it holds *expected*; see the module for what that guarantees."""
        (done,) = self.swap_many([Swap(target, expected, content)])
        return done

    def swap_many(self, swaps: Sequence[Swap]) -> list[bool]:
        """Do what `swap` does for each, in order; the new files are written, and reach the disk, together."""
        held = [self._content(swap.target) == swap.expected for swap in swaps]
        fresh = [swap for swap, is_held in zip(swaps, held, strict=True) if is_held and swap.is_change]
        written = write_temporaries(self._folder, [(swap.content, swap.target) for swap in fresh])
        try:
            return [
                is_held and (not swap.is_change or self._place(written.popleft(), swap))
                for swap, is_held in zip(swaps, held, strict=True)
            ]
        finally:
            for temporary in written:
                remove(self._folder, temporary)

    def _place(self, temporary: str, swap: Swap) -> bool:
        # Writing took long, compared to what follows: look again, so that putting back stays rare.
        if self._content(swap.target) != swap.expected:
            remove(self._folder, temporary)
            return False
        if not self._atomic:
            os.replace(temporary, swap.target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            return True
        return self._exchange_or_put_back(temporary, *swap)

    def insert(self, target: str, content: bytes) -> bool:
        """Let *target* hold *content*, if there is no such file."""
        temporary = write_temporary(self._folder, content)
        self._leftovers.append(temporary)
        try:
            os.link(temporary, target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileExistsError:
            return False
        return True

    def finish(self) -> None:
        """Let what was done survive a power failure, and then remove what it replaced."""
        os.fsync(self._folder)
        while self._leftovers:
            remove(self._folder, self._leftovers.pop())

    def recover(self) -> None:
        """
        Bring to an end what a process that died had begun.

        No other process swaps while the lock is held, so every temporary file is a dead one's.
        """
        found = listing(self._folder)
        targets = {_short(name): name for name in found.files} if found.leftovers else {}
        for temporary in found.leftovers:
            marks = _MARKED.fullmatch(temporary)
            target = targets.get(marks["target"]) if marks else None
            if marks is None or target is None:
                # It was never put anywhere, or the application has deleted what it was exchanged for.
                remove(self._folder, temporary)
            else:
                self._recover(temporary, target, marks)
        if found.leftovers:
            os.fsync(self._folder)

    def _recover(self, temporary: str, target: str, marks: re.Match[str]) -> None:
        held = self._content(temporary)
        digest = _digest(held)
        was_exchanged = digest != marks["placed"]
        is_done = digest == marks["expected"] or (marks["step"] == _SWAP and not was_exchanged)
        # Until the exchange, the target should hold what will come out of it; from then on, what went in.
        should_hold = marks["placed"] if was_exchanged else marks["expected"]
        holds = self._content(target)
        if is_done or _digest(holds) != should_hold:
            remove(self._folder, temporary)
        else:
            self._put_back(temporary, target, held, holds)

    def _exchange_or_put_back(self, temporary: str, target: str, expected: bytes, content: bytes) -> bool:
        temporary = self._mark(temporary, _SWAP, target, expected, content)
        if not self._exchange(temporary, target):
            remove(self._folder, temporary)
            return False
        came_out = self._content(temporary)
        if came_out == expected:
            self._leftovers.append(temporary)
            return True
        self._put_back(temporary, target, came_out, content)
        return False

    def _put_back(self, temporary: str, target: str, held: bytes | None, placed: bytes | None) -> None:
        """Let *target*, in which *placed* was put, hold *held* again, or what has been written since."""
        while self._content(target) == placed:
            temporary = self._mark(temporary, _BACK, target, placed, held)
            if not self._exchange(temporary, target):
                break
            came_out = self._content(temporary)
            if came_out == placed:
                break
            placed, held = held, came_out
        remove(self._folder, temporary)

    def _exchange(self, temporary: str, target: str) -> bool:
        try:
            exchange(self._folder, temporary, target)
        except FileNotFoundError:
            return False  # The application has deleted it.
        return True

    def _mark(
        self, temporary: str, step: str, target: str, expected: bytes | None, placed: bytes | None
    ) -> str:
        marked = f"{TEMPORARY}{step}-{_short(target)}-{_digest(expected)}-{_digest(placed)}.tmp"
        os.replace(temporary, marked, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return marked

    def _content(self, name: str) -> bytes | None:
        try:
            return read(self._folder, name)
        except (FileNotFoundError, NotAFileError):
            return None


@contextlib.contextmanager
def locked(folder: int, *, required: bool) -> Iterator[None]:
    """
    Hold the lock of the open *folder*: other swappers on this machine wait, the application does not.

    Raises:
        OSError: the file system has no locks, and they are *required*.
    """
    try:
        file_lock.take(folder)
    except OSError as exc:
        if required or exc.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)


def recover_idle(folder: int) -> None:
    """Bring to an end what a dead process had begun in the open *folder*, unless a live one works there."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Swaps(folder, atomic=True).recover()
    except OSError as exc:
        # A process that may only read leaves it to one that may write.
        if exc.errno not in {errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EROFS, *_NO_LOCKS}:
            raise
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)


def exchange(folder: int, one: str, other: str) -> None:
    """Exchange two files of the open *folder* in one step; raises `OSError`."""
    function = getattr(_libc(), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, "no renameat2 in the C library")
    if function(folder, os.fsencode(one), folder, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one, None, other)


def can_exchange(folder: int) -> bool:
    """Try, with two empty files that are removed again, whether the file system can exchange and lock."""
    names = [f"{TEMPORARY}probe-{os.urandom(12).hex()}.tmp" for _ in range(2)]
    try:
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder))
        exchange(folder, *names)
        fcntl.flock(folder, fcntl.LOCK_SH)
    except OSError:
        return False
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)
    return True


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(b"" if content is None else content).hexdigest()[:32]


def _short(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
