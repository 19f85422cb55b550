"""One part of a recode, as one entry beside the vault meta: its holder, its progress and its counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from kvseal.expiry import LAST
from kvseal.recoding.progress.lease_holder import LeaseHolder
from kvseal.recoding.report import Tally

LONGEST: Final = 5 * 60 * 1000
"""The latest end of a lease, in milliseconds from now; it includes a small difference between clocks."""

MARKS_KEPT: Final = 256
"""Marks of sealers that a part keeps: one for each attempt and each 2^20 records."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the run *run*: its holder, the end of the lease (Unix milliseconds), and its progress."""

    run: str
    holder: LeaseHolder | None = None
    until: int = 0
    cursor: str | None = None
    """Behind which the next attempt goes on; `None` is the beginning, whatever was counted."""
    done: bool = False
    marks: tuple[str, ...] = ()
    """What the sealers of every attempt leave in their records: see `kvseal.recoding.progress.marks`."""
    tally: Tally = field(default_factory=Tally)
    """What was counted up to the cursor, and in a part that is done, the counts of its report."""

    def is_free(self, now: int) -> bool:
        """Whether no process works on it."""
        # A lease that ends later than a lease can was written with a wrong clock.
        return self.holder is None or not now < self.until <= now + LONGEST or self.holder.is_gone()

    def as_json(self) -> dict[str, Any]:
        """Return the value to seal."""
        return {
            "run": self.run,
            "holder": None if self.holder is None else self.holder.as_json(),
            "until": self.until,
            "cursor": self.cursor,
            "done": self.done,
            "marks": list(self.marks),
            "tally": self.tally.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` for anything else."""
        holder = None if value["holder"] is None else LeaseHolder.from_json(value["holder"])
        return cls(
            text(value["run"]),
            holder,
            milliseconds(value["until"]),
            None if value["cursor"] is None else text(value["cursor"]),
            value["done"] is True,
            tuple(map(text, value["marks"])),
            Tally.from_json(value["tally"]),
        )


def milliseconds(value: object) -> int:
    """Return *value* if it is a time that a clock can show; raises `TypeError` otherwise."""
    if type(value) is not int or not 0 <= value <= LAST:
        msg = "not a time"
        raise TypeError(msg)
    return value


def text(value: object) -> str:
    """Return *value* if it is text; raises `TypeError` otherwise."""
    if not isinstance(value, str):
        msg = "not a text"
        raise TypeError(msg)
    return value
