"""
What a backup or a restore tells while it runs: frozen events to one listener, which must not block.

They have the shape of a recode's, so that scripts read one kind of line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Phase = Literal["backup", "check", "restore"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far *phase* has come; `changed` entries were written, into the file or into the store."""

    phase: Phase
    scanned: int
    total: int | None
    changed: int
    failed: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        return {"type": "progress", "schema": 1, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Failure:
    """One entry that cannot be kept or restored as it is, and why."""

    collection: str | None
    key: str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        return {"type": "failure", "schema": 1, **asdict(self)}


Event = Progress | Failure
Listener = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Listen to nothing."""
