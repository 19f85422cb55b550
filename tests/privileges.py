"""What a test does as another user, below a limit or on a mount of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

NOBODY = 54_321
"""A uid that no system has given away, as orchestrators choose them."""

needs_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes another user")


def as_user(
    work: Callable[[], object], *, uid: int = NOBODY, gid: int = NOBODY, groups: Sequence[int] = ()
) -> str:
    """Return the text of what *work* returns, or raises, in a child process of this user and these groups."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
            text = str(work())
        except BaseException as exc:  # noqa: BLE001 - the parent looks at it
            text = f"{type(exc).__name__}: {exc} {getattr(exc, 'hint', traceback.format_exc())}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size* bytes, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def tmpfs(directory: Path, *, size: str = "1m") -> Iterator[Path]:
    """Mount a file system in memory at *directory*; skip the test where that is not allowed."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(directory)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def remount_read_only(directory: Path) -> None:
    """Let nothing be written to the mount at *directory* any more."""
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
