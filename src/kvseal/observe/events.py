"""What long work tells while it runs: frozen events to one listener, which must not block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Phase = Literal["survey", "recode", "verify", "backup", "check", "restore"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far *phase* has come; `total` is the number of entries, or `None` where nobody knows it."""

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
    """One entry that cannot be opened, changed, kept or restored, and why.  It is left as it is."""

    collection: str | None
    key: str | None
    reason: str
    unknown_dek: bool = field(default=False, repr=False, compare=False)
    """Whether a newer vault meta may have the DEK that it needs."""

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        names = {"collection": self.collection, "key": self.key}
        return {"type": "failure", "schema": 1, **names, "reason": self.reason}


Event = Progress | Failure
Listener = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Listen to nothing."""
