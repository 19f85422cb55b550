"""
Compares kvseal with its peers in one process and fails where it has become slow.

A figure in microseconds says little on a shared machine, whose speed changes from
second to second.  So the peers take turns in rounds of a few milliseconds, each
round gives one ratio, and the median of the ratios is what counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from benchmarks import peers, upkeep
from benchmarks.driving import no_collection, prepare, timer
from benchmarks.machine import machine
from benchmarks.ratio import Goal, Ratio, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOLERANCE: Final = 0.05
"""How far beyond its goal a ratio may be: what two runs of the same code differ by here."""

_SLICE: Final = 0.003
"""Seconds for one turn of one peer: long beside the clock's resolution, short beside changes of speed."""
_ROUNDS: Final = 300
_QUICK_ROUNDS: Final = 40
_MAX_SECONDS: Final = 15
_CONTESTANTS: Final = (peers.kvseal, peers.floor, peers.by_hand, peers.tink_by_hand, peers.fernet)
_FACTORS: Final[Mapping[tuple[str, str, str], tuple[float, float | None]]] = {
    ("put", "1 KiB", "fernet"): (5.5, None),
    ("put", "16 KiB", "fernet"): (15, None),
    ("put", "256 KiB", "fernet"): (26, None),
    ("get", "1 KiB", "fernet"): (6.5, None),
    ("get", "16 KiB", "fernet"): (13, None),
    ("get", "256 KiB", "fernet"): (14, None),
    # At 1 KiB even kvseal's checks in one straight line, without any call between them, measured
    # 1.22 and 1.27 of the floor.
    ("put", "1 KiB", "floor"): (1.2, 1.4),
    ("get", "1 KiB", "floor"): (1.2, 1.45),
    ("put", "16 KiB", "floor"): (1.15, 1.2),
    ("get", "16 KiB", "floor"): (1.15, None),
    ("put", "256 KiB", "floor"): (1.08, None),
    ("get", "256 KiB", "floor"): (1.08, None),
}
"""By operation, size and peer: the goal, and the guard beside one that is out of reach for now."""


def goal_of(operation: str, size: str, peer: str) -> Goal | None:
    """Return what kvseal has to reach: the time of *peer* by its own, or for the floor its own by that."""
    if (operation, size, peer) not in _FACTORS:
        return None
    factor, guard = _FACTORS[operation, size, peer]
    is_floor = peer == "floor"
    relation = "of the floor's time" if is_floor else f"times as fast as {peer}"
    return Goal(f"{operation} {size}, {relation}", factor, guard, at_most=is_floor)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operation at one size: seconds per call, a row for each round and a column for each peer."""

    operation: str
    size: str
    names: tuple[str, ...]
    rounds: tuple[tuple[float, ...], ...]

    def microseconds(self, name: str) -> float:
        """Return the median time of one call of one peer."""
        column = self.names.index(name)
        return median(row[column] for row in self.rounds) * 1e6

    def ratio(self, peer: str) -> Ratio:
        """Return how many times as fast as *peer* kvseal is; of the floor, how many times its time."""
        ours, theirs = self.names.index("kvseal"), self.names.index(peer)
        if peer == "floor":
            ours, theirs = theirs, ours
        return Ratio.of(row[theirs] / row[ours] for row in self.rounds)

    def failures(self, tolerance: float) -> list[str]:
        """Return what falls short of its goal by more than *tolerance*, in words."""
        goals = {peer: goal_of(self.operation, self.size, peer) for peer in self.names}
        return [
            failure
            for peer, goal in goals.items()
            if goal is not None
            for failure in goal.shortfall(self.ratio(peer), tolerance)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what the report is made from."""
        return {
            "operation": self.operation,
            "size": self.size,
            "rounds": len(self.rounds),
            "microseconds": {name: round(self.microseconds(name), 2) for name in self.names},
            "ratios": {name: self.ratio(name).rounded() for name in self.names if name != "kvseal"},
        }


def compare(operation: str, size: str, rounds: int) -> Comparison:
    """Let all peers take turns at *operation*, for *rounds* rounds but not for many seconds."""
    value = peers.token(peers.SIZES[size])
    contestants = [contestant(peers.DictStore()) for contestant in _CONTESTANTS]
    timers = []
    for peer in contestants:
        prepare(peer, value)
        timers.append(timer(peer, operation, value))
    with no_collection():
        seconds = [min(run(3) for _ in range(3)) for run in timers]
        times = [max(1, round(_SLICE / one)) for one in seconds]
        in_all = sum(one * n for one, n in zip(seconds, times, strict=True))
        rounds = min(rounds, max(_QUICK_ROUNDS, int(_MAX_SECONDS / in_all)))
        rows = tuple(tuple(run(n) for run, n in zip(timers, times, strict=True)) for _ in range(rounds))
    return Comparison(operation, size, tuple(peer.name for peer in contestants), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for every change")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and machine facts to FILE")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    started, comparisons, failures = perf_counter(), [], []
    print(f"{'':32} {'ratio':>7}   middle half     goal")
    for operation in ("put", "get"):
        for size in peers.SIZES:
            comparison, failed = judge(
                partial(compare, operation, size, rounds), lambda one: one.failures(options.tolerance)
            )
            comparisons.append(comparison)
            failures += failed
            _print_rows(comparison)
    failures += upkeep.guard()
    if options.json is not None:
        options.json.write_text(
            json.dumps(_figures(comparisons, failures, options.tolerance), indent=2) + "\n"
        )
    for failure in failures:
        print(f"too slow: {failure}", file=sys.stderr)
    print(f"{perf_counter() - started:.0f} s, goals with a tolerance of {options.tolerance:.0%}")
    return 1 if failures else 0


def _figures(comparisons: Sequence[Comparison], failures: Sequence[str], tolerance: float) -> dict[str, Any]:
    return {
        "machine": machine(),
        "tolerance": tolerance,
        "goals": [
            {"operation": operation, "size": size, "peer": peer, "factor": factor, "guard": guard}
            for (operation, size, peer), (factor, guard) in _FACTORS.items()
        ],
        "comparisons": [one.as_json() for one in comparisons],
        "failures": list(failures),
    }


def _print_rows(comparison: Comparison) -> None:
    print(f"{comparison.operation} {comparison.size}: {comparison.microseconds('kvseal'):.1f} us")
    for name in comparison.names[1:]:
        ratio = comparison.ratio(name)
        goal = goal_of(comparison.operation, comparison.size, name)
        said = "of the floor's time" if name == "floor" else f"times as fast as {name}"
        text = "" if goal is None else goal.text
        print(f"    {said:28} {ratio.median:7.2f} {ratio.low:7.2f}-{ratio.high:<7.2f}   {text}")


if __name__ == "__main__":
    sys.exit(main())
