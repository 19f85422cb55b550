"""
What time it is: the only module of kvseal that reads a clock.

Every other module calls these functions late (`clock.monotonic()`, never a copy of the function that
`time` has), so that a test or a simulation can give a process a time of its own.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

awake_or_asleep: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""
Return seconds of a clock that never goes back, and that counts while the machine is suspended.

Each `put` asks it, so there is no Python in it.  Where the system has no `CLOCK_BOOTTIME`, it is `monotonic`,
which may stand still meanwhile.
"""


def wall() -> float:
    """Return Unix seconds of the wall clock."""
    return time.time()


def wall_ms() -> int:
    """Return Unix milliseconds of the wall clock, rounded down."""
    return time.time_ns() // 1_000_000


def utc_now() -> datetime:
    """Return the wall clock's time, aware, in UTC."""
    return datetime.now(timezone.utc)


def utc_seconds() -> datetime:
    """Return the wall clock's time in UTC, in the whole seconds that a vault meta keeps."""
    return datetime.fromtimestamp(int(time.time()), timezone.utc)


def thread_cpu() -> float:
    """Return the seconds for which the calling thread has had a processor."""
    return time.thread_time()


def monotonic() -> float:
    """Return seconds of a clock that never goes back; only differences mean something."""
    return time.monotonic()
