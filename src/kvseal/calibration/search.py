"""
The highest Argon2id cost that this machine pays within a given time and memory.

Memory first, as RFC 9106, section 4, has it, then passes: of all costs whose time is within the band
around the target, the one with the most memory.  Time grows with passes times memory, and a little
differently at every size, so each guess is measured and the next one starts from what was found nearest
to it.  What is chosen has been measured again in another process, and is within the band by both.

The decision asks for measurements and looks at no clock, so a test can give it any machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from kvseal.calibration import measurement
from kvseal.calibration.goal import FLOOR, HIGH, INNER, LANES, LOW, PROFILES, CostGoal, whole
from kvseal.calibration.machine import usable_cpus
from kvseal.calibration.memory_limit import memory_limit
from kvseal.envelope.kdf import MAX_TIME_COST, Argon2idParams
from kvseal.errors import KDFParametersError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvseal.calibration.measurement import Measure, Measurement

TARGET_MS: Final = 500.0

_STEPS: Final = 12
_ATTEMPTS: Final = 3
_ENOUGH: Final = 3
"""A run that takes so many times the target is not repeated."""

_FAR: Final = 1.5
"""A point of the grid that would take so many times the target is left out."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is measured next, how many were, and about how many there will be."""

    params: Argon2idParams
    done: int
    expected: int


Listener = Callable[["Step | Measurement"], None]
"""Called with what is measured next, and with what was: of a cost that is measured again, all its runs."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    What was measured, and the choice with the limit that decided it.

    `steady` is whether two measurements of the choice agreed; what a noisy machine says is no calibration.
    """

    goal: CostGoal
    measurements: tuple[Measurement, ...]
    choice: Measurement | None
    decided_by: str
    steady: bool


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What to measure next; outside of the band, it is the nearest to it that the limits allow."""

    params: Argon2idParams
    within_band: bool


class Search:
    """One calibration; a caller that interrupts `run` can still read the `result` of what was measured."""

    def __init__(
        self, goal: CostGoal, measure: Measure, *, cpus: int = 1, listener: Listener | None = None
    ) -> None:
        self.goal = goal
        self._measure = measure
        self._cpus = cpus
        self._listener = listener
        self._measured: dict[Argon2idParams, Measurement] = {}
        self._done = 0
        self._cap = goal.max_memory
        self._cap_by = goal.limited_by
        self._choice: Measurement | None = None
        self._steady = False

    @classmethod
    def here(
        cls,
        goal: CostGoal,
        *,
        cpus: int | None = None,
        runs: int = measurement.RUNS,
        listener: Listener | None = None,
    ) -> Search:
        """Return the search that measures this very machine, of which this process may use so many *cpus*."""
        enough = _ENOUGH * goal.target_ms
        measure = partial(measurement.measure, runs=runs, enough_ms=enough)
        return cls(goal, measure, cpus=cpus or usable_cpus(), listener=listener)

    def run(self) -> Calibration:
        """
        Measure the grid, then close in on the target.

        Raises:
            KDFParametersError: not even the least cost can be measured here.
        """
        first = self._first_measurement()
        for params in self._grid(first):
            self._take(params)
        self._decide()
        return self.result()

    def result(self) -> Calibration:
        """Return what is known by now."""
        choice = self._choice or self._nearest()
        decided_by = "nothing was decided" if choice is None else self._decided_by(choice)
        steady = self._steady and choice is not None and choice.spread <= HIGH - LOW
        return Calibration(self.goal, tuple(self._measured.values()), choice, decided_by, steady)

    def _first_measurement(self) -> Measurement:
        memory = min(FLOOR.memory_cost, self._cap)
        while True:
            found = self._take(Argon2idParams(1, memory, self.goal.parallelism))
            if not found.failure:
                return found
            memory = whole(memory // 2, self.goal.parallelism)
            if memory < self.goal.weakest.memory_cost:
                msg = f"not even {found.params} can be measured here: {found.failure}"
                raise KDFParametersError(msg, hint="give this process more memory")

    def _grid(self, first: Measurement) -> Iterator[Argon2idParams]:
        """Yield memory, passes and lanes around the *first* point, then the profiles, if near the target."""
        lanes, memory = self.goal.parallelism, first.params.memory_cost
        planned = []
        while (memory := memory * 2) <= self._cap:
            planned.append(Argon2idParams(1, memory, lanes))
        small = first.params.memory_cost
        planned += [Argon2idParams(passes, small, lanes) for passes in (2, 3)]
        counts = {1, 2, LANES, min(64, self._cpus)} - {lanes}
        planned += [Argon2idParams(1, small, count) for count in sorted(counts) if small >= 8 * count]
        planned += PROFILES.values()
        for params in planned:
            # Lanes beyond the CPUs gain nothing, and one lane may take as long as all of them in turns.
            slower = min(lanes, self._cpus) / min(params.parallelism, self._cpus)
            expected = self._rate(params.memory_cost) * params.time_cost * params.memory_cost * slower
            if params.memory_cost <= self._cap and expected <= _FAR * self.goal.target_ms:
                yield params
        # All the memory there is comes first, so how long it takes is not left to a guess from other sizes.
        least, pass_ = self.goal.least_passes(self._cap), self._rate(self._cap) * self._cap
        passes = min(MAX_TIME_COST, max(least or 1, round(self.goal.middle_ms / pass_)))
        if passes * pass_ <= _FAR * self.goal.target_ms:
            yield Argon2idParams(passes, self._cap, lanes)

    def _decide(self) -> None:
        for _ in range(_ATTEMPTS):
            found = self._approach()
            if found is None:
                return
            confirmed = self._take(found.params, again=True)
            nearest = _Proposal(found.params, within_band=False)
            if not confirmed.failure and (self._agree(found, confirmed) or self._proposal() == nearest):
                self._choice, self._steady = confirmed, True
                return

    def _agree(self, found: Measurement, confirmed: Measurement) -> bool:
        """Whether the second measurement is within the band, and so are both together."""
        second = statistics.median(confirmed.runs[len(found.runs) :])
        return self.goal.accepts(second) and self.goal.accepts(confirmed.median)

    def _approach(self) -> Measurement | None:
        """Return a measurement in the middle of the band, or the best that the limits allow."""
        for _ in range(_STEPS):
            proposal = self._proposal()
            if proposal is None:
                return None
            if proposal.params in self._measured:
                return self._measured[proposal.params]
            found = self._take(proposal.params)
            if not found.failure and self.goal.deviation(found.median) <= INNER:
                return found
        return None

    def _proposal(self) -> _Proposal | None:
        """
        Return the cost with the most memory whose time should be within the band.

        Where no allowed cost is within the band, the one that comes nearest to it; `None` where no cost
        is allowed at all.
        """
        limit = self._limit_outside_band()
        if limit is not None:
            return _Proposal(limit, within_band=False)
        known = [(memory, self._rate(memory)) for memory in self._memories()]
        for tolerance in (INNER, (HIGH - LOW) / 2):
            for memory, rate in known:
                passes = self._passes(memory, rate)
                if passes is not None and self.goal.deviation(passes * rate * memory) <= tolerance:
                    # All the memory there is stays all of it.  Less of it is fitted to the time.
                    fixed = Argon2idParams(passes, memory, self.goal.parallelism)
                    params = fixed if memory == self._cap else self._fitted(passes, rate)
                    return _Proposal(params, within_band=True)
        nearest = self._nearest_to_band(known)
        return None if nearest is None else _Proposal(nearest, within_band=False)

    def _limit_outside_band(self) -> Argon2idParams | None:
        """
        Return the weakest or the strongest cost if its measured time shows that no cost reaches the band.

        The strongest cost may be too fast, or the weakest too slow.
        """
        strongest = Argon2idParams(MAX_TIME_COST, self._cap, self.goal.parallelism)
        low, high = self.goal.band
        for params, misses in ((strongest, low.__gt__), (self.goal.weakest, high.__lt__)):
            known = self._measured.get(params)
            if known is not None and not known.failure and misses(known.median):
                return params
        return None

    def _fitted(self, passes: int, rate: float) -> Argon2idParams:
        """Return *passes* over as much memory as should take the middle of the band."""
        lanes = self.goal.parallelism
        memory = min(self._cap, whole(int(self.goal.middle_ms / (rate * passes)), lanes))
        fitted = Argon2idParams(passes, max(memory, 8 * lanes), lanes)
        return fitted if self.goal.allows(fitted) else Argon2idParams(passes, self._smallest(passes), lanes)

    def _smallest(self, passes: int) -> int:
        return next(
            m for m in reversed(self._memories()) if (self.goal.least_passes(m) or math.inf) <= passes
        )

    def _nearest_to_band(self, known: list[tuple[int, float]]) -> Argon2idParams | None:
        """Return the slowest cost that is not above the band, or else the weakest one."""
        high = self.goal.band[1]
        best: tuple[float, int, int] | None = None
        for memory, rate in known:
            least = self.goal.least_passes(memory)
            passes = min(MAX_TIME_COST, int(high / (rate * memory)))
            if least is not None and passes >= least:
                best = max(best or (0.0, 0, 0), (passes * rate * memory, memory, passes))
        if best is not None:
            return Argon2idParams(best[2], best[1], self.goal.parallelism)
        return self.goal.weakest if self.goal.weakest.memory_cost <= self._cap else None

    def _passes(self, memory: int, rate: float) -> int | None:
        least = self.goal.least_passes(memory)
        if least is None:
            return None
        passes = max(least, round(self.goal.middle_ms / (rate * memory)))
        return passes if passes <= MAX_TIME_COST else None

    def _memories(self) -> list[int]:
        """Return the memory costs to choose from, falling, in steps that are small beside the band."""
        sizes, size = [], self._cap
        least = max(self.goal.weakest.memory_cost, 8 * self.goal.parallelism)
        while size >= least:
            sizes.append(size)
            size = whole(min(size - size // 64, size - 4 * self.goal.parallelism), self.goal.parallelism)
        return sizes

    def _rate(self, memory: int) -> float:
        """Return the milliseconds for each pass over a KiB, by what is nearest in size and to the target."""
        nearest = min(self._with_these_lanes(), key=lambda one: self._distance(one, memory))
        return nearest.median / (nearest.params.time_cost * nearest.params.memory_cost)

    def _distance(self, one: Measurement, memory: int) -> float:
        size, time = one.params.memory_cost / memory, one.median / self.goal.middle_ms
        return abs(math.log(size)) + abs(math.log(time))

    def _with_these_lanes(self) -> list[Measurement]:
        lanes = self.goal.parallelism
        return [m for m in self._measured.values() if m.params.parallelism == lanes and not m.failure]

    def _take(self, params: Argon2idParams, *, again: bool = False) -> Measurement:
        known = self._measured.get(params)
        if known is not None and not again:
            return known
        if self._listener is not None:
            self._listener(Step(params, self._done, max(self._done + 1, self._expected())))
        found = self._measure(params)
        self._done += 1
        if known is not None:
            found = known.with_more(found)
        self._measured[params] = found
        if self._listener is not None:
            self._listener(found)
        if found.failure and params.parallelism == self.goal.parallelism:
            self._lower_cap(found)
        return found

    def _expected(self) -> int:
        doublings = max(0, int(math.log2(max(1, self._cap / FLOOR.memory_cost))))
        return min(doublings, 4) + 12

    def _lower_cap(self, failed: Measurement) -> None:
        """Believe a machine that cannot give so much memory, whatever its limits say."""
        half = whole(failed.params.memory_cost // 2, self.goal.parallelism)
        if half < self._cap:
            self._cap = half
            self._cap_by = f"what the machine gave: {failed.params} failed ({failed.failure})"

    def _nearest(self) -> Measurement | None:
        """Return what comes nearest to the target of all that was measured and may be chosen."""
        may = [m for m in self._measured.values() if not m.failure and self.goal.allows(m.params)]
        within = [m for m in may if m.median <= self.goal.band[1]]
        return min(within or may, key=lambda m: self.goal.deviation(m.median), default=None)

    def _decided_by(self, choice: Measurement) -> str:
        low, high = self.goal.band
        if choice.median > high and choice.params == self.goal.weakest:
            return (
                "the least cost there is" if self.goal.allow_weak else "the floor, RFC 9106's second option"
            )
        if choice.params.memory_cost < self._cap:
            return "the target time"
        if choice.median < low:
            return f"kvseal's ceiling of {MAX_TIME_COST} passes, and {self._cap_by}"
        return self._cap_by


def calibrate(
    *,
    target_ms: float = TARGET_MS,
    max_memory: int | None = None,
    parallelism: int = LANES,
    allow_weak: bool = False,
    runs: int = measurement.RUNS,
    listener: Listener | None = None,
) -> Calibration:
    """
    Measure this machine and return the cost for it.  Blocks, for about half a minute with the default target.

    *max_memory* is in KiB, by default a quarter of what this process may use.

    Raises:
        KDFParametersError: there is not enough memory for the least cost.
    """
    goal = CostGoal.within(
        memory_limit(),
        target_ms=target_ms,
        max_memory=max_memory,
        parallelism=parallelism,
        allow_weak=allow_weak,
    )
    return Search.here(goal, runs=runs, listener=listener).run()
