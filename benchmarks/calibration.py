"""
Whether a calibration holds: what `vaultctl bench argon2` chooses, measured ten times more.

Each time is a process of its own, as a start of an application is.  The choice holds if every median is
within the band that was accepted, 95 to 110 percent of the target.  Run it on a quiet machine: on a busy
one it says what the machine was doing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.machine import machine
from kvseal.calibration.measurement import compare, measure
from kvseal.calibration.search import TARGET_MS, calibrate

if TYPE_CHECKING:
    from kvseal.calibration.search import Calibration

TIMES: Final = 10


def main(arguments: list[str] | None = None) -> int:
    """Calibrate, measure again, print and write; exit with 1 if one median is outside of the band."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target-ms", type=float, default=TARGET_MS)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    load = os.getloadavg()
    found = calibrate(target_ms=options.target_ms)
    if found.choice is None:
        print(f"nothing could be chosen: {found.decided_by}")
        return 1
    again = [measure(found.choice.params) for _ in range(options.times)]
    medians = [one.median for one in again if not one.failure]
    within = sum(found.goal.accepts(took) for took in medians)
    low, high = found.goal.band
    print(f"{found.choice.params}: {found.choice.median:.0f} ms, decided by {found.decided_by}")
    print(f"again: {', '.join(f'{took:.0f}' for took in medians)} ms")
    print(f"{within} of {options.times} are within {low:.0f} to {high:.0f} ms; load before {load[0]:.1f}")
    if options.json is not None:
        facts = _facts(found, medians, within, load)
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if within == options.times and found.steady else 1


def _facts(
    found: Calibration, medians: list[float], within: int, load: tuple[float, float, float]
) -> dict[str, Any]:
    if found.choice is None:
        raise AssertionError
    return {
        "machine": machine(),
        "load before": load,
        "goal": found.goal.as_dict(),
        "choice": found.choice.as_dict(),
        "decided_by": found.decided_by,
        "steady": found.steady,
        "medians again, ms": [round(took, 3) for took in medians],
        "within the band": within,
        "cryptography": compare(found.choice.params).as_dict(),
        "measurements": [one.as_dict() for one in found.measurements],
    }


if __name__ == "__main__":
    sys.exit(main())
