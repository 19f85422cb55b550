"""
What this process has counted: plain numbers, which the code that does the work adds to.

`put` and `get` take microseconds, so they add one and do nothing else; `kvseal.observe.telemetry`
reads the numbers when they are collected.  Some may be lost between threads: they are for watching,
not for accounting.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final, Literal

Operation = Literal["seal", "open", "unlock"]


class Count:
    """A number that only grows."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


operations: Final[defaultdict[tuple[bytes, int, Operation], Count]] = defaultdict(Count)
"""Records sealed and opened, by vault id and DEK.  Each process has few of both."""

failures: Final[Counter[tuple[Operation, str]]] = Counter()
"""What could not be done, by the class of the error."""

derivations: Final = Count()
"""Argon2id derivations that were started for unlocking."""

unwrappings: Final = Count()
"""Requests to a key service, for unlocking."""

hits: Final = Count()
"""Unlockings that needed neither: the root key was held, or another caller was about to have it."""


def failed(operation: Operation, error: BaseException) -> None:
    """Count what ended with *error*."""
    failures[operation, type(error).__name__] += 1
