"""
`python -m tests.fuzz`: every target in turn, for the seconds that it is told in all.

    python -m tests.fuzz --seconds 600                 # new inputs each time
    python -m tests.fuzz --seconds 60 --seed 7 url pin # these targets, and inputs that can be had again
    python -m tests.fuzz --inputs 300 --seed 1         # so many for each target, as `make test` does

It exits with 1 where anything was found.  The inputs are in tests/fuzz/corpus then, and run first from now on.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz import campaign
from tests.fuzz.targets import TARGETS


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run what the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", default=[], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--inputs", type=int, help="for each target, in place of a time")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--keep-nothing", action="store_true", help="do not write findings into the corpus")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    found = 0
    _say(f"seed {given.seed}: {len(names)} targets")
    for name in names:
        outcome = campaign.run(
            TARGETS[name], seed=given.seed, seconds=given.seconds / len(names), inputs=given.inputs
        )
        _say(outcome)
        for finding in outcome.findings:
            _say(f"  {finding.what}: {finding.path if given.keep_nothing else finding.save()}")
        found += len(outcome.findings)
    _say(f"{found} findings" if found else "nothing but kvseal's own errors")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
