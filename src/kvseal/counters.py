"""
What this process has counted: plain numbers, which whoever does the work adds to.

`put` and `get` take microseconds, so they take a step and do nothing else; `kvseal.telemetry`
reads the numbers when somebody collects them.  Some may be lost on a Python without the GIL:
they are for watching, not for accounting.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import repeat
from operator import length_hint
from typing import Final, Literal

Operation = Literal["seal", "open", "unlock"]


Steps = Iterator[None]
_MOST: Final = 2**31 - 1 if sys.maxsize < 2**62 else 2**62


def steps() -> Steps:
    """
    Return an iterator whose steps are counted; `for _ in steps: break` takes one.

    That is one step of C: no call, no new integer and, under the GIL, no step lost between threads.
    `n += 1` on an attribute makes `put` and `get` slower by more than two percent.
    """
    return repeat(None, _MOST)


def taken(counted: Steps) -> int:
    """Return how many steps were taken."""
    return _MOST - length_hint(counted)


operations: Final[defaultdict[tuple[bytes, int, Operation], Steps]] = defaultdict(steps)
"""Records sealed and opened, by vault id and DEK.  Each process has few of both."""

failures: Final[Counter[tuple[Operation, str]]] = Counter()
"""What could not be done, by the class of the error."""


def failed(operation: Operation, error: BaseException) -> None:
    """Count what ended with *error*."""
    failures[operation, type(error).__name__] += 1
