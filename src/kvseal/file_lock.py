"""
A lock on an open file or folder among the processes of this machine, with a bound on the wait.

`flock(2)` ends with the process that holds it, killed or not.  A process that was *stopped* keeps it, so
none is waited for without end.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from kvseal import clock

SECONDS: Final = 60.0
"""How long one process waits for another: far longer than any of them works under the lock."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


def take(descriptor: int) -> None:
    """
    Take the lock of the open *descriptor*; closing the descriptor gives it back.

    Where the system has no `flock`, which is Windows, there is no lock and this does nothing.

    Raises:
        OSError: `ETIMEDOUT` if another process has held it for `SECONDS`, or what the file system answers.
    """
    if os.name != "posix":
        return
    import fcntl  # noqa: PLC0415 - not on Windows

    until, pause = clock.monotonic() + SECONDS, _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic() >= until:
                msg = f"another process has held its lock for {SECONDS:g} s; it may have been stopped"
                raise OSError(errno.ETIMEDOUT, msg) from None
        else:
            return
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
