"""The result of a recode, as counts that add up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from kvseal.observe.events import Failure
    from kvseal.recoding.units import Units

FAILURES_KEPT: Final = 1000
"""The number of failures that a report keeps; the listener receives all of them."""


@dataclass(frozen=True, slots=True)
class Report:
    """
    The result of a recode: `scanned` = `changed` + `already` + `skipped` + `failed`.

    `conflicts` counts swaps that a live writer won; those entries were read and decided again.
    `formats`, `deks` and `pending` are counts of the verify pass: records by format, sealed records
    by the DEK that they need, and records that other processes wrote meanwhile and that are not
    converted yet.  `expired` counts by format what has expired by this host's clock and is still stored.
    With `dry_run` nothing was written, and `changed` counts what would be changed; `units` says what that
    takes, of a store that is paid by the request.
    """

    SCHEMA: ClassVar[int] = 1

    command: str
    scanned: int
    changed: int
    already: int
    skipped: int
    failed: int
    conflicts: int
    seconds: float
    dry_run: bool = False
    failures: tuple[Failure, ...] = ()
    formats: dict[str, int] | None = None
    deks: dict[int, int] | None = None
    pending: int = 0
    expired: dict[str, int] | None = None
    units: Units | None = None

    def after_survey(self) -> Report:
        """Return this report of a run before which a survey scanned everything once."""
        units = self.units
        return self if units is None else replace(self, units=replace(units, scans=units.scans + 1))

    @property
    def exit_code(self) -> int:
        """0, or 3 if some records failed, or 4 if some are not converted yet."""
        if self.failed:
            return ExitCode.SOME_FAILED
        return ExitCode.WORK_PENDING if self.pending else 0

    @property
    def check_exit_code(self) -> int:
        """The exit code of `--check`: 4 if work is pending, else `exit_code`."""
        return ExitCode.WORK_PENDING if self.changed else self.exit_code

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints last."""
        summary: dict[str, Any] = {
            "type": "summary",
            "schema": self.SCHEMA,
            "command": self.command,
            "scanned": self.scanned,
            "changed": self.changed,
            "already": self.already,
            "skipped": self.skipped,
            "failed": self.failed,
            "conflicts": self.conflicts,
            "seconds": round(self.seconds, 3),
        }
        if self.dry_run:
            summary["dry_run"] = True
        if self.pending:
            summary["pending"] = self.pending
        if self.expired:
            summary["expired"] = self.expired
        if self.units is not None:
            summary["units"] = self.units.as_dict()
        if self.formats is not None:
            summary["formats"] = self.formats
        if self.deks is not None:
            summary["deks"] = {str(number): count for number, count in sorted(self.deks.items())}
        return summary


def followed_by(earlier: Counted, later: Counted) -> Counted:
    """Return *later* with the changes of *earlier* to the same entries added; each entry counts once."""
    changed = earlier.changed + later.changed
    rest = later.scanned - changed - later.skipped - later.failed
    return replace(
        later,
        # Live writers may have deleted entries that were changed earlier.
        scanned=later.scanned - min(0, rest),
        changed=changed,
        already=max(0, rest),
        conflicts=earlier.conflicts + later.conflicts,
    )


@dataclass(slots=True)
class Tally:
    """The counters while a recode runs."""

    scanned: int = 0
    changed: int = 0
    already: int = 0
    skipped: int = 0
    failed: int = 0
    conflicts: int = 0
    failures: list[Failure] = field(default_factory=list, compare=False)

    def fail(self, failure: Failure) -> None:
        """Count *failure*, and keep it if there is room."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(failure)

    def add(self, other: Tally) -> None:
        """Add the counts of *other*."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures[: FAILURES_KEPT - len(self.failures)]

    def as_json(self) -> dict[str, int]:
        """Return the counters as a checkpoint stores them; only the run that met a failure names it."""
        return {name: getattr(self, name) for name in _COUNTERS}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tally:
        """Read what `as_json` wrote."""
        tally = cls()
        for name in _COUNTERS:
            if type(value[name]) is not int:
                msg = "not a count"
                raise TypeError(msg)
            setattr(tally, name, value[name])
        return tally

    def copy(self) -> Tally:
        """Return the counters as they are now."""
        return Tally.from_json(self.as_json())


Counted = TypeVar("Counted", Tally, Report)
_COUNTERS: Final = ("scanned", "changed", "already", "skipped", "failed", "conflicts")
