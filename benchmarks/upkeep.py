"""The guards of a vault's own work, a rotation, an unlocking, what both leave of the loop, and of a start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from benchmarks import backends, rotation, stall, startup, unlocking
from benchmarks.ratio import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.ratio import Goal, Ratio

    Measured = Mapping[Goal, Ratio]

TOLERANCE: Final = 0.25
"""How far beyond its goal a ratio may be: threads and servers take their own time."""

_ROTATIONS: Final = 60
_ROUNDS: Final = 5


def guard() -> list[str]:
    """Measure everything in its small form, print it, and return what is too slow."""
    failures = []
    for measure in (_rotation, _unlocking, _stall, _start):
        try:
            measured, failed = judge(measure, failures_of)
        except backends.MissingServerError as exc:
            print(f"left out: {exc}")
            continue
        failures += failed
        for goal, ratio in measured.items():
            print(f"{goal.name}: {ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})   {goal.text}")
    return failures


def failures_of(measured: Measured, tolerance: float = TOLERANCE) -> list[str]:
    """Return what falls short of its goal by more than *tolerance*, in words."""
    return [failure for goal, ratio in measured.items() for failure in goal.shortfall(ratio, tolerance)]


def _rotation() -> Measured:
    with backends.backend("redis") as backend:
        rotations = asyncio.run(rotation.measure(backend, rotation.QUICK, _ROTATIONS))
    return {rotation.GOAL: rotations.ratio}


def _unlocking() -> Measured:
    return {unlocking.GOAL: asyncio.run(unlocking.measure(_ROUNDS)).ratio}


def _stall() -> Measured:
    return {stall.GOALS[one.work]: one.ratio for one in asyncio.run(stall.of_keys(_ROUNDS))}


def _start() -> Measured:
    return startup.measure(_ROUNDS)
