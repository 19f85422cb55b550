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
from benchmarks.shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOORS: Final = ("floor", "packed floor")
"""Peers that are to be approached: the straight line in JSON, and in MessagePack."""

TOLERANCE: Final = 0.05
"""How far beyond its goal a ratio may be: what two runs of the same code differ by here."""

_SLICE: Final = 0.003
"""Seconds for one turn of one peer: long beside the clock's resolution, short beside changes of speed."""
_ROUNDS: Final = 100
_QUICK_ROUNDS: Final = 40
_MAX_SECONDS: Final = 15
_CONTESTANTS: Final = (
    peers.kvseal,
    peers.floor,
    peers.packed_floor,
    peers.by_hand,
    peers.tink_by_hand,
    peers.fernet,
)
_QUICK: Final = ("flat 1 KiB", "nested 1 KiB", "nested 16 KiB", "nested 256 KiB", "FastMCP UpstreamTokenSet")
"""The values that every change is measured with: what applications keep is nested."""

_Factors = dict[tuple[str, str, str], tuple[float, float | None]]


def _of_size(shape: str) -> _Factors:
    """Return the goals of a value of each size."""
    return {
        ("put", f"{shape} 1 KiB", "fernet"): (6.5, None),
        ("put", f"{shape} 16 KiB", "fernet"): (16, None),
        ("put", f"{shape} 256 KiB", "fernet"): (26, 22),
        ("get", f"{shape} 1 KiB", "fernet"): (6.5, None),
        ("get", f"{shape} 16 KiB", "fernet"): (13, None),
        ("get", f"{shape} 256 KiB", "fernet"): (14, None),
        # The second encoder takes a tenth of the floor's time at 1 KiB, as a look at the types would.
        ("put", f"{shape} 1 KiB", "floor"): (1.2, 1.4),
        ("put", f"{shape} 16 KiB", "floor"): (1.1, 1.25),
        ("put", f"{shape} 256 KiB", "floor"): (1.05, 1.1),
        ("get", f"{shape} 1 KiB", "floor"): (1.2, 1.25),
        ("get", f"{shape} 16 KiB", "floor"): (1.1, None),
        ("get", f"{shape} 256 KiB", "floor"): (1.05, None),
    }


def _of_shape(shape: str, most: float, least: float, guard: float | None) -> _Factors:
    """Return the goals of a value that has no size: against the floor and against Fernet."""
    return {("put", shape, "floor"): (most, guard), ("put", shape, "fernet"): (least, None)}


_FACTORS: Final[_Factors] = {
    **_of_size("flat"),
    **_of_size("nested"),
    **_of_shape("FastMCP UpstreamTokenSet", 1.35, 5, 1.5),
    **_of_shape("FastMCP ProxyDCRClient", 1.35, 5, 1.5),
    **_of_shape("FastMCP OAuthTransaction", 1.35, 5, 1.5),
    # Many small parts: two encoders visit each of them, the floor one.
    **_of_shape("chat of 50 messages", 1.35, 5, 1.9),
    **_of_shape("tool result", 1.35, 3, 2.1),
    **_of_shape("1,536 floats", 1.35, 5, None),
    **_of_shape("1,000 ints", 1.6, 5, 1.8),
}
"""By operation, value and peer: the goal, and the guard beside one that is out of reach for now."""


def goal_of(operation: str, value: str, peer: str) -> Goal | None:
    """Return what kvseal has to reach: the time of *peer* by its own, or for the floor its own by that."""
    if (operation, value, peer) not in _FACTORS:
        return None
    factor, guard = _FACTORS[operation, value, peer]
    is_floor = peer in FLOORS
    relation = f"of the {peer}'s time" if is_floor else f"times as fast as {peer}"
    return Goal(f"{operation} {value}, {relation}", factor, guard, at_most=is_floor)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operation on one value: seconds per call, a row for each round and a column for each peer."""

    operation: str
    value: str
    names: tuple[str, ...]
    rounds: tuple[tuple[float, ...], ...]

    def microseconds(self, name: str) -> float:
        """Return the median time of one call of one peer."""
        column = self.names.index(name)
        return median(row[column] for row in self.rounds) * 1e6

    def least(self, name: str) -> float:
        """Return the least time of one call of one peer in microseconds: what a neighbour disturbed least."""
        column = self.names.index(name)
        return min(row[column] for row in self.rounds) * 1e6

    def ratio(self, peer: str) -> Ratio:
        """Return how many times as fast as *peer* kvseal is; of a floor, how many times its time."""
        ours, theirs = self.names.index("kvseal"), self.names.index(peer)
        if peer in FLOORS:
            ours, theirs = theirs, ours
        return Ratio.of(row[theirs] / row[ours] for row in self.rounds)

    def failures(self, tolerance: float) -> list[str]:
        """Return what falls short of its goal by more than *tolerance*, in words."""
        goals = {peer: goal_of(self.operation, self.value, peer) for peer in self.names}
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
            "value": self.value,
            "rounds": len(self.rounds),
            "microseconds": {name: round(self.microseconds(name), 2) for name in self.names},
            "least": {name: round(self.least(name), 2) for name in self.names},
            "ratios": {name: self.ratio(name).rounded() for name in self.names if name != "kvseal"},
        }


def compare(operation: str, name: str, rounds: int) -> Comparison:
    """Let all peers take turns at *operation*, for *rounds* rounds but not for many seconds."""
    value = SHAPES[name]()
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
    return Comparison(operation, name, tuple(peer.name for peer in contestants), rows)


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
        for name in _QUICK if options.quick else SHAPES:
            comparison, failed = judge(
                partial(compare, operation, name, rounds), lambda one: one.failures(options.tolerance)
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
            {"operation": operation, "value": value, "peer": peer, "factor": factor, "guard": guard}
            for (operation, value, peer), (factor, guard) in _FACTORS.items()
        ],
        "comparisons": [one.as_json() for one in comparisons],
        "failures": list(failures),
    }


def _print_rows(comparison: Comparison) -> None:
    print(f"{comparison.operation} {comparison.value}: {comparison.microseconds('kvseal'):.1f} us")
    for name in comparison.names[1:]:
        ratio = comparison.ratio(name)
        goal = goal_of(comparison.operation, comparison.value, name)
        said = f"of the {name}'s time" if name in FLOORS else f"times as fast as {name}"
        text = "" if goal is None else goal.text
        print(f"    {said:28} {ratio.median:7.2f} {ratio.low:7.2f}-{ratio.high:<7.2f}   {text}")


if __name__ == "__main__":
    sys.exit(main())
