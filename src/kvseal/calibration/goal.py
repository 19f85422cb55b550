"""
What a calibration is after: a band of time, a bound of memory, and a floor.

The floor is RFC 9106's second option, 64 MiB and three passes over as much, unless weak costs are
allowed; fewer passes over more memory are no less.  Lanes are no strength, for an attacker has as many,
so they bind nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, MAX_TIME_COST, Argon2idParams
from kvseal.errors import KDFParametersError

if TYPE_CHECKING:
    from kvseal.calibration.memory_limit import MemoryLimit

FLOOR: Final = Argon2idParams.RFC_9106_LOW_MEMORY
LANES: Final = FLOOR.parallelism
LOW: Final = 0.95
HIGH: Final = 1.10
INNER: Final = (HIGH - LOW) / 4
"""The greatest deviation of a time that stays in the band when it is measured again: half of the band."""

SHARE: Final = 4
"""Of what this process may use, a quarter is for one derivation."""

_MIB: Final = 1024

PROFILES: Final = {
    "rfc9106-low-memory": Argon2idParams.RFC_9106_LOW_MEMORY,
    "rfc9106-high-memory": Argon2idParams.RFC_9106_HIGH_MEMORY,
    "owasp-minimum": Argon2idParams.OWASP_MINIMUM,
}


@dataclass(frozen=True, slots=True)
class CostGoal:
    """What is looked for: a time, with at most `max_memory` KiB, which is whose limit, and so many lanes."""

    target_ms: float
    max_memory: int
    limited_by: str
    parallelism: int = LANES
    allow_weak: bool = False

    @classmethod
    def within(
        cls,
        limit: MemoryLimit,
        *,
        target_ms: float,
        max_memory: int | None = None,
        parallelism: int = LANES,
        allow_weak: bool = False,
    ) -> CostGoal:
        """
        Return the goal with at most *max_memory* KiB, by default a quarter of *limit*, never more than that.

        Raises:
            KDFParametersError: that is less than the floor, or than Argon2id needs at all.
        """
        share = limit.size // 1024 // SHARE
        bounds = [
            (DEFAULT_MEMORY_CEILING, "kvseal's own ceiling of 4 GiB"),
            (limit.size // 1024, limit.source),
            (share, f"a quarter of {limit.source}") if max_memory is None else (max_memory, "--max-memory"),
        ]
        size, source = min(bounds, key=lambda bound: bound[0])
        goal = cls(target_ms, whole(size, parallelism), source, parallelism, allow_weak)
        if goal.max_memory < goal.weakest.memory_cost:
            weak = "" if allow_weak else ", or --allow-weak"
            least = f"{goal.weakest.memory_cost:,} KiB of the least cost"
            msg = f"{source} leaves {size:,} KiB, less than the {least}"
            raise KDFParametersError(msg, hint=f"give the process or --max-memory more{weak}")
        return goal

    @property
    def band(self) -> tuple[float, float]:
        """The times in milliseconds that are accepted."""
        return LOW * self.target_ms, HIGH * self.target_ms

    @property
    def middle_ms(self) -> float:
        """The time in the middle of the band."""
        return (LOW + HIGH) / 2 * self.target_ms

    @property
    def weakest(self) -> Argon2idParams:
        """The least cost that may be chosen."""
        lanes = self.parallelism
        if self.allow_weak:
            return Argon2idParams(1, 8 * lanes, lanes)
        return Argon2idParams(FLOOR.time_cost, FLOOR.memory_cost, lanes)

    def accepts(self, milliseconds: float) -> bool:
        """Whether a time is within the band."""
        low, high = self.band
        return low <= milliseconds <= high

    def deviation(self, milliseconds: float) -> float:
        """Return how far a time is from the middle of the band, as a share of the target."""
        return abs(milliseconds - self.middle_ms) / self.target_ms

    def least_passes(self, memory: int) -> int | None:
        """Return with how many passes *memory* KiB are enough, or `None` if with none."""
        if memory > self.max_memory or memory < self.weakest.memory_cost:
            return None
        if self.allow_weak:
            return 1
        passes = -(-FLOOR.time_cost * FLOOR.memory_cost // memory)
        return passes if passes <= MAX_TIME_COST else None

    def allows(self, params: Argon2idParams) -> bool:
        """Whether *params* may be chosen."""
        passes = self.least_passes(params.memory_cost)
        return passes is not None and passes <= params.time_cost and params.parallelism == self.parallelism

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        low, high = self.band
        return {
            "target_ms": self.target_ms,
            "accepted_ms": [round(low, 3), round(high, 3)],
            "max_memory": self.max_memory,
            "max_memory_by": self.limited_by,
            "parallelism": self.parallelism,
            "allow_weak": self.allow_weak,
        }


def whole(memory: int, lanes: int) -> int:
    """Return *memory* KiB in whole MiB where that is fine enough, else in units that Argon2id itself uses."""
    unit = _MIB if memory >= 16 * _MIB else 4 * lanes
    return memory // unit * unit
