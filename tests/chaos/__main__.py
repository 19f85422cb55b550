"""
`python -m tests.chaos`: real processes, real servers and real faults, and nothing acknowledged may be lost.

    python -m tests.chaos --seconds 600                     # one round on each backend, in turn
    python -m tests.chaos --seconds 120 redis --seed 7      # this backend; faults and commands can be had again
    python -m tests.chaos --seconds 90 disk --plant unchecked-retire    # a fault that has to be reported

It exits with 1 where an acknowledged write was lost without a word, or a process did what it must not; with
`--plant`, where the planted fault was not seen.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.chaos import planted
from tests.chaos.backends import BACKENDS
from tests.chaos.operators import LIBRARY
from tests.chaos.report import lines, table
from tests.chaos.round import Result, Round


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def one_round(kind: str, seconds: float, seed: int, plant: str) -> Result:
    """Run one round on a backend of *kind*, in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix=f"kvseal-chaos-{kind}-"))
    rng = random.Random(seed)
    backend = BACKENDS[kind](directory, rng)
    try:
        await backend.start()
        for missing in backend.missing:
            _say(f"{kind}: not tried: {missing}")
        tool = plant if plant == planted.UNCHECKED_RETIRE else ""
        one = Round(backend, directory, rng, writer=plant if plant != tool else "", tool=tool)
        return await one.run(seconds)
    finally:
        await backend.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run what the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for all rounds together")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--plant", choices=planted.FAULTS, default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = given.backends or list(BACKENDS)
    _say(f"seed {given.seed}")
    if LIBRARY is None:
        _say("not tried: other clocks (no libfaketime)")
    results = []
    for number, kind in enumerate(kinds):
        result = asyncio.run(one_round(kind, given.seconds / len(kinds), given.seed + number, given.plant))
        results.append(result)
        for line in lines(result):
            _say(line)
    _say(table(results))
    if given.plant:
        seen = any(result.verdict.lost for result in results)
        _say(f"the planted fault {given.plant} {'was reported' if seen else 'was NOT reported'}")
        return 0 if seen else 1
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
