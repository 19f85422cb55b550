"""
How fast a migration is, beside the loop that people write today; fails where it has become slow.

Both migrate the same Fernet records of 1 KiB on a real backend, in turns, each on a fresh
copy.  Each turn gives one ratio of wall time, and the median of the ratios is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from benchmarks import backends, cores, restores, scale, shares
from benchmarks.contest import Contest
from benchmarks.machine import machine
from benchmarks.ratio import Goal, Ratio, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contest import Turn

TOLERANCE: Final = 0.15
"""How far below its bound a ratio may be: servers and disks take their own time."""


GOALS: Final = {
    name: Goal(f"recode on {name}, times as fast as the loop", factor, guard)
    for name, factor, guard in (
        ("redis", 11, 8),
        ("postgresql", 14, 7),
        ("mongodb", 5, 1.5),
        ("disk", 5, 2.5),
        ("filetree", 4, 1.5),
        ("dynamodb", 5, 3),
    )
}

_RECORDS: Final = {
    "redis": 8000,
    "postgresql": 8000,
    "disk": 8000,
    "filetree": 1000,
    "dynamodb": 2000,
    "mongodb": 1500,
}
_QUICK_RECORDS: Final = {
    "redis": 1500,
    "postgresql": 1500,
    "disk": 1500,
    "filetree": 50,
    "dynamodb": 300,
    "mongodb": 500,
}
_ROUNDS: Final = 5
_QUICK_ROUNDS: Final = 3
_RESTORED: Final = 4000
_QUICK_RESTORED: Final = 600


@dataclass(frozen=True, slots=True)
class Result:
    """The turns on one backend, and the shares of the time if they were taken."""

    backend: str
    records: int
    turns: Sequence[Turn]
    shares: dict[str, dict[str, float]]

    @property
    def ratio(self) -> Ratio:
        """How many times as fast as the loop the recode is."""
        return Ratio.of(turn.loop / turn.recode for turn in self.turns)

    @property
    def verified(self) -> Ratio:
        """The same with the verify pass, which opens every record once more."""
        return Ratio.of(turn.loop / turn.verified for turn in self.turns)

    def failures(self) -> list[str]:
        """Return in words that the ratio falls short of its guard, if it does."""
        return GOALS[self.backend].shortfall(self.ratio, TOLERANCE)

    def microseconds(self, name: str) -> float:
        """Return the median time for one record."""
        return median(getattr(turn, name) for turn in self.turns) / self.records * 1e6

    def as_json(self) -> dict[str, Any]:
        """Return what the report is made from."""
        return {
            "backend": self.backend,
            "records": self.records,
            "rounds": len(self.turns),
            "goal": GOALS[self.backend].factor,
            "ratio": self.ratio.rounded(2),
            "verified": self.verified.rounded(2),
            "microseconds": {
                name: round(self.microseconds(name), 1) for name in ("loop", "recode", "verified")
            },
            "shares": self.shares,
        }


async def measure(name: str, records: int, rounds: int, *, with_shares: bool) -> Result:
    """Let loop and recode take turns on the backend *name*."""
    opened = backends.backend(name)
    with cores.apart(opened) if name in backends.SERVERS else opened as backend:
        contest = Contest(backend, records)
        await contest.fill()
        await contest.recode(verify=False)  # Once for nothing: imports, caches, threads.
        turns = [await contest.turn() for _ in range(rounds)]
        taken = {}
        if with_shares:
            taken = {"loop": await shares.of_loop(contest), "recode": await shares.of_recode(contest)}
    return Result(name, records, turns, taken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and return the exit code."""
    options = _options(arguments)
    warnings.simplefilter("ignore")
    started, figures, failures = perf_counter(), _figures(options.json), []
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    for name in options.backend or backends.NAMES:
        records = options.records or (_QUICK_RECORDS if options.quick else _RECORDS)[name]
        try:
            measuring = partial(measure, name, records, rounds, with_shares=not options.quick)
            result, failed = judge(lambda turns=measuring: asyncio.run(turns()), Result.failures)
        except backends.MissingServerError as exc:
            print(f"{name}: left out, {exc}")
            continue
        _print(result)
        figures["backends"][name] = result.as_json()
        failures += failed
    if "disk" in (options.backend or backends.NAMES):
        restored, failed = _restore(options.records, rounds, quick=options.quick)
        figures["restore"] = restored.as_json()
        failures += failed
    if not options.quick and "redis" in (options.backend or backends.NAMES):
        figures |= _scale(million=options.million)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for failure in failures:
        print(f"too slow: {failure}", file=sys.stderr)
    print(f"{perf_counter() - started:.0f} s, with a tolerance of {TOLERANCE:.0%}")
    return 1 if failures else 0


def _restore(records: int | None, rounds: int, *, quick: bool) -> tuple[restores.Result, list[str]]:
    records = records or (_QUICK_RESTORED if quick else _RESTORED)
    measuring = partial(restores.measure, records, rounds)
    result, failed = judge(lambda: asyncio.run(measuring()), lambda one: one.failures(TOLERANCE))
    times = ", ".join(f"{name} {value:.0f}" for name, value in result.as_json()["microseconds"].items())
    print(f"{'disk':10} {'restore':20} {result.ratio.median:6.1f} times as fast   us a record: {times}")
    return result, failed


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recode", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few records, for every change")
    parser.add_argument(
        "--records", type=int, metavar="N", help="how many; by default as the backend is fast"
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=(*backends.NAMES, *backends.ON_DEMAND),
        help="only this one; repeatable",
    )
    parser.add_argument("--million", action="store_true", help="also a million records on Redis")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured into FILE")
    return parser.parse_args(arguments)


def _figures(path: Path | None) -> dict[str, Any]:
    """Return the figures so far: a run that measures a part leaves the others as they are."""
    if path is not None and path.exists():
        figures: dict[str, Any] = json.loads(path.read_text())
        return {**figures, "machine": machine()}
    return {"machine": machine(), "tolerance": TOLERANCE, "backends": {}}


def _scale(*, million: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with backends.backend("redis") as backend:
        figures["partitions"] = asyncio.run(scale.partitions(backend, _RECORDS["redis"] * 2, rounds=5))
        speedup = figures["partitions"]["speedup"]
        print(
            f"redis: two processes {speedup['median']:.2f} times as fast as one, goal >= {scale.MIN_SPEEDUP}"
        )
        if million:
            figures["scale"] = asyncio.run(scale.million(backend))
            for row in figures["scale"]["rows"]:
                growth = row["growth"] / 2**20
                cost = f"{row['microseconds']:.0f} us a record ({row['cpu microseconds']:.0f} us of CPU)"
                print(f"redis: {row['records']:,} records, {cost}, {growth:.1f} MiB more memory")
    return figures


def _print(result: Result) -> None:
    times = ", ".join(f"{name} {result.microseconds(name):.0f}" for name in ("loop", "recode", "verified"))
    for said, ratio in (("recode", result.ratio), ("with its verify pass", result.verified)):
        spread = f"{ratio.median:6.1f} times as fast ({ratio.low:.1f}-{ratio.high:.1f})"
        print(f"{result.backend:10} {said:20} {spread}   us a record: {times}")
    for name, parts in result.shares.items():
        print(f"{'':10} {name}: " + ", ".join(f"{part} {share:.0%}" for part, share in parts.items()))


if __name__ == "__main__":
    sys.exit(main())
