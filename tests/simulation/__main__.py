"""
Run the simulation.

    python -m tests.simulation FIRST COUNT [only=KIND,...] [--jobs N] [--seconds S]
    python -m tests.simulation story SEED|FILE [only=...]
    python -m tests.simulation small SEED|FILE VERDICT [only=...] [--save FILE]
    python -m tests.simulation planted [NAME ...] [--search] [--story]
    python -m tests.simulation plans
    python -m tests.simulation digests PASSES FIRST COUNT [only=...]

The first runs seeds and says what it has seen; it exits with 1 if a promise was broken.  `planted` begins
with each bug at the seed in `planted.json`, and goes on from there; with `--search` it begins at seed 0, and
writes that file anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.drawing import KINDS, plan_of
from tests.simulation.plan import Plan, smaller
from tests.simulation.planted import BUGS, Planted
from tests.simulation.world import Outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterator

clock = seams.real_clock
_STARTS = Path(__file__).with_name("planted.json")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _seeds(args: argparse.Namespace) -> int:
    if args.jobs > 1:
        return _share(args)
    begun = clock()
    seen = Tally()
    for seed in range(args.first, args.first + args.count * args.stride, args.stride):
        if args.seconds is not None and clock() - begun >= args.seconds:
            break
        seen.add(run(plan_of(seed, only=args.only)), clock() - begun)
    seen.seconds = clock() - begun
    if args.json:
        say(seen.as_json())
        return 0
    say(seen.report())
    return 1 if seen.verdicts else 0


class Tally:
    """What many runs have seen."""

    def __init__(self) -> None:
        self.seeds = 0
        self.seconds = 0.0
        self.counts: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.first: dict[str, tuple[int, float, str]] = {}

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.seeds += 1
        self.counts += outcome.counts
        self.counts["steps"] += outcome.steps
        for kind, text in outcome.verdicts:
            if kind not in self.first:
                self.first[kind] = outcome.seed, round(seconds, 1), text
        self.verdicts.update(outcome.kinds)

    def join(self, other: dict[str, Any]) -> None:
        self.seeds += other["seeds"]
        self.seconds = max(self.seconds, other["seconds"])
        self.counts += Counter(other["counts"])
        self.verdicts += Counter(other["verdicts"])
        for kind, found in other["first"].items():
            if kind not in self.first or found[0] < self.first[kind][0]:
                self.first[kind] = tuple(found)

    def as_json(self) -> str:
        fields = ("seeds", "seconds", "counts", "verdicts", "first")
        return json.dumps({name: getattr(self, name) for name in fields})

    def report(self) -> str:
        rate = self.seeds / self.seconds * 60 if self.seconds else 0.0
        counts = dict(sorted(self.counts.items()))
        lines = [
            f"{self.seeds:,} seeds in {self.seconds:.1f} s, {rate:,.0f} a minute (Python {sys.version.split()[0]})",
            ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        ]
        for kind, (seed, seconds, text) in sorted(self.first.items()):
            lines.append(
                f"BROKEN {kind}: in {self.verdicts[kind]:,} seeds, first {seed} after {seconds} s: {text}"
            )
        return "\n".join(lines if self.verdicts else [*lines, "no promise was broken"])


def _share(args: argparse.Namespace) -> int:
    """Run every n-th seed in each of n interpreters."""
    command = [sys.executable, "-m", "tests.simulation", "--json", "--stride", str(args.jobs)]
    if args.seconds is not None:
        command += ["--seconds", str(args.seconds)]
    only = [] if args.only is None else ["only=" + ",".join(sorted(args.only))]
    workers = [
        subprocess.Popen(
            [*command, str(args.first + number), str(-(-args.count // args.jobs)), *only],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(args.jobs)
    ]
    seen = Tally()
    for worker in workers:
        out, _ = worker.communicate()
        if worker.returncode:
            return worker.returncode
        seen.join(json.loads(out.splitlines()[-1]))
    say(seen.report())
    return 1 if seen.verdicts else 0


def _plan(args: argparse.Namespace) -> Plan:
    if args.what.isdecimal():
        return plan_of(int(args.what), only=args.only)
    return Plan.from_json(Path(args.what).read_text(encoding="utf-8"))


def _story(plan: Plan) -> int:
    outcome = run(plan)
    skews = ", ".join(f"{host} {skew:+.0f} s" for host, skew in plan.skews.items() if abs(skew) > 1)
    say("\n".join(outcome.story))
    say(f"seed {plan.seed}, {len(plan.events)} events, clocks: {skews or 'right'}; {outcome.digest}")
    for kind, text in outcome.verdicts:
        say(f"BROKEN {kind}: {text}")
    return 1 if outcome.verdicts else 0


def _small(args: argparse.Namespace) -> int:
    plan, begun = _plan(args), clock()
    less, used = smaller(plan, lambda one: args.verdict in run(one).kinds)
    say(f"{len(plan.events)} -> {len(less.events)} events in {used} runs, {clock() - begun:.1f} s")
    if args.save:
        Path(args.save).write_text(less.as_json(), encoding="utf-8")
    return _story(less)


def _planted(args: argparse.Namespace) -> int:
    """Look for planted bugs, all of them where none is named, and say where each was caught."""
    starts: dict[str, int] = json.loads(_STARTS.read_text(encoding="utf-8"))
    found = {}
    for name in args.names or BUGS:
        found[name] = _caught(BUGS[name], 0 if args.search else starts.get(name, 0), story=args.story)
        if args.search and found[name]["caught"]:
            starts[name] = found[name]["seed"]
    if args.search:
        table = {name: starts[name] for name in sorted(BUGS) if name in starts}
        _STARTS.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(found))
    return 0 if all(one["caught"] for one in found.values()) else 1


def _caught(bug: Planted, first: int, *, story: bool) -> dict[str, Any]:
    begun = time.process_time()
    for seed in range(first, first + bug.seeds):
        plan = plan_of(seed, only=bug.faults)
        outcome = _with(bug, plan)
        if outcome.kinds & bug.verdicts and not run(plan).kinds & bug.verdicts:
            verdict = next(text for kind, text in outcome.verdicts if kind in bug.verdicts)
            seconds = round(time.process_time() - begun, 1)
            said = {"caught": True, "seed": seed, "seconds": seconds, "verdict": verdict}
            if story:
                less, _ = smaller(plan, lambda one: bool(_with(bug, one).kinds & bug.verdicts))
                said |= {"events": len(less.events), "story": _with(bug, less).story}
            return said
    return {"caught": False, "first": first, "seeds": bug.seeds}


def _with(bug: Planted, plan: Plan) -> Outcome:
    with bug.planted():
        return run(plan)


def _plans() -> int:
    """Run every plan that is kept, and say which promises each one breaks."""
    plans = sorted((Path(__file__).parent / "plans").glob("*.json"))
    found = {path.stem: run(Plan.from_json(path.read_text(encoding="utf-8"))) for path in plans}
    say(json.dumps({name: {"kinds": sorted(one.kinds), "story": one.story} for name, one in found.items()}))
    return 0


def _digests(args: argparse.Namespace) -> int:
    """Print what every seed comes to, in each of so many passes."""
    seeds = range(args.first, args.first + args.count)
    passes = [{seed: run(plan_of(seed, only=args.only)).digest for seed in seeds} for _ in range(args.passes)]
    say(json.dumps(passes))
    return 0


def _only(words: list[str]) -> Iterator[tuple[str, Any]]:
    for word in words:
        if word.startswith("only="):
            kinds = frozenset(word[5:].split(",")) - {""}
            if kinds - set(KINDS):
                sys.exit(
                    f"no such kinds of fault: {', '.join(sorted(kinds - set(KINDS)))}; there are {', '.join(KINDS)}"
                )
            yield "only", kinds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("words", nargs="+")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save")
    parser.add_argument("--story", action="store_true")
    parser.add_argument("--search", action="store_true")
    return parser


def main() -> int:
    args = _parser().parse_args()
    words = [word for word in args.words if not word.startswith("only=")]
    args.only = dict(_only(args.words)).get("only")
    seams.settled()
    command, *rest = words
    if command in {"story", "small"}:
        args.what, args.verdict = rest[0], rest[-1]
        return _story(_plan(args)) if command == "story" else _small(args)
    if command == "planted":
        args.names = rest
        return _planted(args)
    if command == "plans":
        return _plans()
    if command == "digests":
        args.passes = int(rest[0])
    args.first, args.count = map(int, words[-2:])
    return _digests(args) if command == "digests" else _seeds(args)


if __name__ == "__main__":
    sys.exit(main())
