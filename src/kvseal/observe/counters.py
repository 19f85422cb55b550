"""
The counters of this process: plain numbers, to which the code that does the work adds.

`put` and `get` take microseconds, so they add one and do nothing else; `kvseal.observe.telemetry`
reads the numbers when they are collected.  Threads that count at the same time may lose an increment:
the counters are for monitoring, not for accounting.
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

of_retired_deks: Final[defaultdict[tuple[bytes, int], Count]] = defaultdict(Count)
"""Records opened with a DEK that was retired already, by vault id and DEK."""

failures: Final[Counter[tuple[Operation, str]]] = Counter()
"""Failed operations, by the class of the error."""

derivations: Final = Count()
"""Argon2id derivations started for unlocking."""

unwrappings: Final = Count()
"""Requests to a key service, for unlocking."""

hits: Final = Count()
"""Unlockings that needed neither: the root key was held, or another caller's run was shared."""


def failed(operation: Operation, error: BaseException) -> None:
    """Count an operation that ended with *error*."""
    failures[operation, type(error).__name__] += 1
