"""An error of the operating system in words: a reason that is never empty, and the next step."""

from __future__ import annotations

import errno
from typing import Final

_NEXT_STEPS: Final = {
    errno.ENOSPC: "free space on that file system, and try again",
    errno.EDQUOT: "free space within the quota, and try again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), and try again",
    errno.EROFS: "it is mounted read-only: name a place that can be written",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def reason_of(error: BaseException) -> str:
    """Return why *error* was raised: its text, or where it has none, its name."""
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


def next_step(error: BaseException, default: str = "check the path, and who may read and write there") -> str:
    """Return what to do about *error*, or *default* where its number says nothing."""
    return _NEXT_STEPS.get(error.errno or 0, default) if isinstance(error, OSError) else default
