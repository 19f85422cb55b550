"""
A core for the server and another one for who uses it, as if the server were on a machine of its own.

Without that, a scheduler may put both on one core, because each wakes the other.  Then a client that
works while the server does gains nothing by it, and the loop, which waits for every answer, loses nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")


@contextmanager
def apart(server: AbstractContextManager[T]) -> Iterator[T]:
    """Start *server* on the last core that this process may use, and stay on the others meanwhile."""
    cores = os.sched_getaffinity(0)
    last = {max(cores)}
    try:
        # What is started now inherits it.
        os.sched_setaffinity(0, last if len(cores) > 1 else cores)
        with server as started:
            os.sched_setaffinity(0, cores - last or cores)
            yield started
    finally:
        os.sched_setaffinity(0, cores)
