"""The results of a backup and of a restore, as counts that add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kvseal.drivers.base import Times
from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.observe.events import Failure

FAILURES_KEPT: Final = 1000
"""The number of failures that a report keeps; the listener receives all of them."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """
    The result of a backup: `scanned` = `saved` + `failed`.

    The file keeps the stored bytes of a failed entry for an expert to examine; it cannot be restored.
    `sha256` is the checksum in the file, over its whole content.
    """

    SCHEMA: ClassVar[int] = 1

    file: Path
    scanned: int
    saved: int
    failed: int
    has_vault_meta: bool
    sha256: str
    bytes: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    sealed_alone: int = 0
    """Sealed records in a file that has no vault meta."""

    @property
    def exit_code(self) -> int:
        """0, or 3 if some entries cannot be restored from this backup."""
        return ExitCode.SOME_FAILED if self.failed else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints last."""
        return {
            "type": "summary",
            "schema": self.SCHEMA,
            "command": "backup",
            "file": str(self.file),
            "scanned": self.scanned,
            "saved": self.saved,
            "failed": self.failed,
            "vault_meta": self.has_vault_meta,
            "sealed_alone": self.sealed_alone,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """
    The result of a restore: `scanned` = `restored` + `overwritten` + `already` + `expired` + `failed`.

    With `dry_run` nothing was written; `restored` and `overwritten` count what would be.
    """

    SCHEMA: ClassVar[int] = 1
    OUTCOMES: ClassVar[tuple[str, ...]] = ("restored", "overwritten", "already", "expired", "failed")

    scanned: int
    restored: int
    overwritten: int
    already: int
    expired: int
    failed: int
    seconds: float
    dry_run: bool = False
    failures: tuple[Failure, ...] = ()
    follows: bool = False
    """The older vault meta became a revision above the one that was there: running processes follow it."""
    times: Times = Times.EXACT
    """How exactly the store keeps creation times and expiries."""
    unchecked: int = 0
    """Sealed records of which it is not known whether anything opens them, for no vault meta was seen."""

    @property
    def exit_code(self) -> int:
        """0, or 3 if some entries were not restored, or it is not known whether anything opens them."""
        return ExitCode.SOME_FAILED if self.failed or self.unchecked else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints last."""
        summary: dict[str, Any] = {
            "type": "summary",
            "schema": self.SCHEMA,
            "command": "restore",
            "scanned": self.scanned,
            **{name: getattr(self, name) for name in self.OUTCOMES},
            "seconds": round(self.seconds, 3),
        }
        if self.dry_run:
            summary["dry_run"] = True
        return summary


@dataclass(slots=True)
class Failures:
    """Counts all failures and keeps the first of them."""

    count: int = 0
    kept: list[Failure] = field(default_factory=list)

    def add(self, failure: Failure) -> None:
        """Count *failure*, and keep it if there is room."""
        self.count += 1
        if len(self.kept) < FAILURES_KEPT:
            self.kept.append(failure)
