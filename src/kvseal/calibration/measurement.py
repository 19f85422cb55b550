"""
One cost, measured: the median of several derivations in a process of their own, and their peak.

Every measurement is a fresh process, so that no earlier one has warmed its memory or raised its peak,
and so that a derivation that asks for more than there is ends that process and not its parent.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from kvseal.envelope.kdf import Argon2idParams

RUNS: Final = 5
LEAST_RUNS: Final = 3

_CHILD: Final = Path(__file__).with_name("child.py")
# Without the current directory, from which the installed program imports nothing either.
_START: Final = (
    "import runpy, sys; sys.path = [p for p in sys.path if p];"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
# What a Python needs to start as this one did.  A secret may stand under any other name.
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV"),
        *("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX"),
    }
)
_LONGEST: Final = 600.0
"""Seconds after which a process that measures is given up: the machine swaps, or worse."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Milliseconds of every run, and bytes: `peak` of the process, of which the derivation took `rise`."""

    params: Argon2idParams
    runs: tuple[float, ...] = ()
    peak: int = 0
    rise: int = 0
    failure: str = ""

    @property
    def median(self) -> float:
        """The median in milliseconds; only of a measurement that has not failed."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """The middle half of the runs, as a share of the median: how far the machine can be believed."""
        if len(self.runs) < LEAST_RUNS:
            return 0.0
        low, _, high = statistics.quantiles(self.runs, n=4, method="inclusive")
        return (high - low) / self.median

    def with_more(self, other: Measurement) -> Measurement:
        """Return both as one measurement; a failure of either is one of both."""
        return replace(
            self,
            runs=self.runs + other.runs,
            peak=max(self.peak, other.peak),
            rise=max(self.rise, other.rise),
            failure=self.failure or other.failure,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        failed = bool(self.failure)
        return {
            "type": "measurement",
            "schema": 1,
            **cost_as_dict(self.params),
            "median_ms": None if failed else round(self.median, 3),
            "runs_ms": [round(run, 3) for run in self.runs],
            "spread": None if failed else round(self.spread, 4),
            "peak_rss": self.peak,
            "rise": self.rise,
            "failure": self.failure or None,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """argon2-cffi and cryptography on the same parameters in turns; `missing` says why there is none."""

    argon2_cffi_ms: float = 0.0
    cryptography_ms: float = 0.0
    agree: bool = True
    missing: str = ""

    @property
    def ratio(self) -> float:
        """How many times as long cryptography takes."""
        return self.cryptography_ms / self.argon2_cffi_ms

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        if self.missing:
            return {"missing": self.missing}
        return {
            "argon2_cffi_ms": round(self.argon2_cffi_ms, 3),
            "cryptography_ms": round(self.cryptography_ms, 3),
            "ratio": round(self.ratio, 4),
            "agree": self.agree,
        }


Measure = Callable[["Argon2idParams"], Measurement]


def cost_as_dict(params: Argon2idParams) -> dict[str, int]:
    """Return t, m and p by these names."""
    return {"t": params.time_cost, "m": params.memory_cost, "p": params.parallelism}


def measure(params: Argon2idParams, *, runs: int = RUNS, enough_ms: float = float("inf")) -> Measurement:
    """
    Return what *params* cost: a warm-up, then the median of *runs*.  Blocks meanwhile.

    A warm-up of more than *enough_ms* is the only run.  A derivation that gets no memory, or whose process
    the kernel kills, is a measurement with a `failure`.
    """
    printed = _printed_by_child(params, runs, enough_ms, "measure")
    if "failure" in printed:
        return Measurement(params, failure=printed["failure"])
    rise = max(0, printed["peak"] - printed["before"])
    return Measurement(params, tuple(printed["runs"]), printed["peak"], rise)


def compare(params: Argon2idParams, *, runs: int = RUNS) -> Comparison:
    """Return how argon2-cffi and cryptography do the same, run by run in turns.  Blocks meanwhile."""
    printed = _printed_by_child(params, runs, 0.0, "compare")
    missing = printed.get("failure") or printed.get("missing")
    if missing:
        return Comparison(missing=missing)
    return Comparison(
        statistics.median(printed["runs"]), statistics.median(printed["others"]), printed["agree"]
    )


def child_environment() -> dict[str, str]:
    """Return what of the environment a process that measures gets: no secret, whatever its name."""
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON}


def _printed_by_child(params: Argon2idParams, runs: int, enough_ms: float, what: str) -> dict[str, Any]:
    numbers = (params.time_cost, params.memory_cost, params.parallelism, runs, enough_ms)
    try:
        done = subprocess.run(  # noqa: S603 - this very Python, with numbers
            [sys.executable, "-c", _START, str(_CHILD), *map(str, numbers), what],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST,
            check=False,
            # Ctrl-C is for the one process that a person sees, which ends this one.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"not done within {_LONGEST:.0f} s"}
    except OSError as exc:
        return {"failure": f"no process could be started: {reason_of(exc)}"}
    if done.returncode == 0:
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed
    return {"failure": _why(done.returncode, done.stderr.decode(errors="replace"))}


def _why(code: int, stderr: str) -> str:
    if code == -signal.SIGKILL:
        return "killed, as the kernel does where memory runs out"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    last = stderr.strip().rpartition("\n")[2]
    return f"the process failed: {last[:200]}"
