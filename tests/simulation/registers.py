"""What a key may hold: every value that was put there and that no later acknowledged write has replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.loop import Process

IN_FLIGHT = 60.0
"""Seconds for which a write that failed may still arrive."""

Value = int | None


@dataclass(slots=True, eq=False)
class Write:
    """One put or delete, from the call to its answer; a failed one may have had its effect, or have it yet."""

    key: str
    value: Value
    begun: float
    process: Process | None = None
    ttl: float | None = None
    seals_expiry: bool = True
    ended: float = inf
    latest_expiry: float = inf
    """By the wall clock of its writer."""
    is_acknowledged: bool = False

    def has_ended(self, wall: float) -> bool:
        """Whether it must not be read any more where the wall clock says *wall*."""
        return (
            self.ttl is not None
            and self.seals_expiry
            and self.is_acknowledged
            and wall > self.latest_expiry + 1
        )

    def give_up(self, now: float) -> None:
        self.ended = min(self.ended, now + IN_FLIGHT)


@dataclass(slots=True)
class Register:
    """The writes of one key that may be the last one."""

    possible: list[Write]
    ever: dict[int, Write] = field(default_factory=dict)
    all: list[Write] = field(default_factory=list)
    struck_at: float = -inf
    """When the backend last lost or changed what was there, by no fault of a client."""

    last_strike: float = -inf
    """The same, and never forgotten: what was replaced before may have come back then."""

    def strike(self, now: float) -> None:
        self.struck_at = self.last_strike = now

    @property
    def is_unsure(self) -> bool:
        return self.struck_at > -inf

    def begin(self, write: Write) -> None:
        self.possible.append(write)
        self.all.append(write)
        if write.value is not None:
            self.ever.setdefault(write.value, write)

    def acknowledge(self, write: Write, now: float) -> None:
        """Of those that ended before *write* began, none can be the last one any more."""
        write.ended, write.is_acknowledged = now, True
        self.possible = [other for other in self.possible if other.ended >= write.begun]
        if write.begun > self.struck_at:
            self.struck_at = -inf

    def gone_since(self, begun: float, now: float) -> bool:
        """Whether what lay there at *begun* or later may have been deleted, or has ended by *now*."""
        return any(
            write.ended >= begun
            if write.value is None
            else write.ttl is not None
            and now >= write.begun + write.ttl - 5
            and not self.is_replaced(write, begun)
            for write in self.all
        )

    def is_replaced(self, write: Write, begun: float) -> bool:
        """Whether a later write was acknowledged before *begun*, and nobody has put the same value since."""
        same = [other for other in self.all if other.value == write.value]
        return all(
            any(
                w.is_acknowledged and w.begun > max(other.ended, self.last_strike) and w.ended < begun
                for w in self.all
            )
            for other in same
        )

    def allows(self, value: Value, now: float, *, clocks_agree: bool) -> bool:
        """Whether *value* may be what lies there *now*."""
        if self.is_unsure:
            return value is None or value in self.ever
        if value is not None:
            return any(write.value == value for write in self.possible)
        return any(_may_be_missing(write, now, clocks_agree=clocks_agree) for write in self.possible)


def _may_be_missing(write: Write, now: float, *, clocks_agree: bool) -> bool:
    if write.value is None:
        return True
    return write.ttl is not None and (not clocks_agree or now >= write.begun + write.ttl - 5)


class Registers:
    """Every key's."""

    def __init__(self, *, clocks_agree: bool) -> None:
        self.clocks_agree = clocks_agree
        self._registers: dict[str, Register] = {}
        self._open: set[Write] = set()
        self._restores: list[dict[str, Write]] = []

    def __getitem__(self, key: str) -> Register:
        if key not in self._registers:
            self._registers[key] = Register([Write(key, None, -1.0, ended=-1.0)])
        return self._registers[key]

    def begin(self, write: Write) -> None:
        self[write.key].begin(write)
        self._open.add(write)
        if write.value is None:
            for values in self._restores:
                if write.key in values and values[write.key] not in self._open:
                    self.begin(values[write.key])

    def begin_restore(self, writes: dict[str, Write], now: float, *, overwrites: bool) -> None:
        """What a backup holds may come back: over anything, or where nothing is, now or soon."""
        self._restores.append(writes)
        for key, write in writes.items():
            if overwrites or self[key].allows(None, now + IN_FLIGHT, clocks_agree=self.clocks_agree):
                self.begin(write)

    def end_restore(self, writes: dict[str, Write], now: float) -> None:
        self._restores.remove(writes)
        for write in writes.values():
            self.fail(write, now)

    def acknowledge(self, write: Write, now: float, wall: float) -> None:
        self._open.discard(write)
        write.latest_expiry = wall + (write.ttl or 0.0)
        self[write.key].acknowledge(write, now)

    def fail(self, write: Write, now: float) -> None:
        self._open.discard(write)
        write.give_up(now)

    def killed(self, process: Process, now: float) -> None:
        self._restores = [r for r in self._restores if all(w.process is not process for w in r.values())]
        for write in [write for write in self._open if write.process is process]:
            self.fail(write, now)

    def names(self) -> list[str]:
        return sorted(self._registers)
