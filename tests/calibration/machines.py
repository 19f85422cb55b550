"""Machines to calibrate for: what a derivation takes on each is a formula, so no test looks at a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvseal.calibration.measurement import Measurement

if TYPE_CHECKING:
    from kvseal.envelope.kdf import Argon2idParams

BASE = 12 * 2**20
"""What a Python holds before it derives."""


@dataclass
class Machine:
    """
    Time is passes x memory x `rate` over the lanes that have a CPU, and `bend` more for each doubling.

    `memory` KiB can be had.  `noise` is what each next measurement of one cost is multiplied by.
    """

    rate: float
    cpus: int = 4
    overhead: float = 0.0
    bend: float = 0.0
    memory: int = 2**40
    noise: tuple[float, ...] = (1.0,)
    stops_at: int | None = None
    asked: list[Argon2idParams] = field(default_factory=list)

    def takes(self, params: Argon2idParams) -> float:
        """Return the milliseconds of *params* without noise."""
        doublings = max(0.0, math.log2(params.memory_cost / 8))
        work = params.time_cost * params.memory_cost * self.rate * (1 + self.bend * doublings)
        return self.overhead + work / min(params.parallelism, self.cpus)

    def __call__(self, params: Argon2idParams, *, runs: int = 5, enough_ms: float = math.inf) -> Measurement:
        """Measure *params*."""
        self.asked.append(params)
        if len(self.asked) == self.stops_at:
            raise KeyboardInterrupt
        if params.memory_cost > self.memory:
            return Measurement(params, failure="Memory allocation error")
        noise = self.noise[(self.asked.count(params) - 1) % len(self.noise)]
        took = self.takes(params) * noise
        rise = params.memory_cost * 1024
        return Measurement(params, (took,) * (1 if took > enough_ms else runs), BASE + rise, rise)
