"""The events of long work: frozen values, passed to one listener, which must not block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Phase = Literal["survey", "recode", "verify", "backup", "check", "restore"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of *phase*; `total` is the number of entries, or `None` if it is unknown."""

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
    """One entry that cannot be opened, changed, saved or restored, and the reason.  It is not changed."""

    collection: str | None
    key: str | None
    reason: str
    unknown_dek: bool = field(default=False, repr=False, compare=False)
    """Whether a newer vault meta may hold the DEK that the entry needs."""

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        names = {"collection": self.collection, "key": self.key}
        return {"type": "failure", "schema": 1, **names, "reason": self.reason}


Event = Progress | Failure
Listener = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Ignore the event."""
