"""
What a start costs: CPU time of a process that imports kvseal, or runs a command, by that of `import click`.

The processes take turns, and the least time of each counts: a start is short, and a neighbour's load only
adds to it.  CPU time, of the process and of what it waits for, is that of the kernel's accounting.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.ratio import Goal, Ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CLICK: Final = "import click"
_PROGRAM: Final = "import sys; from kvseal.cli.app import main; main(sys.argv[1:])"
_SECRET: Final = "KVSEAL_BENCHMARK_SECRET"
_RUNS_OF_ONE_ROUND: Final = 3

# `import click` takes 46 ms on the machine of which the issue gives milliseconds.
GOALS: Final = {
    "import kvseal": Goal("import kvseal, of the CPU time of import click", 1.3, at_most=True),
    "--help": Goal("vaultctl --help, of the CPU time of import click", 3.2, at_most=True),
    "--version": Goal("vaultctl --version, of the CPU time of import click", 3.2, at_most=True),
    "completion bash": Goal("vaultctl completion, of the CPU time of import click", 3.2, at_most=True),
    "status": Goal("vaultctl status, of the CPU time of import click", 7.5, 13, at_most=True),
}


def measure(rounds: int) -> Mapping[Goal, Ratio]:
    """Return how many times as much CPU time as `import click` each takes, a ratio for each of *rounds*."""
    ratios: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, _SECRET: os.urandom(32).hex(), "VAULTCTL_SECRET": f"env:{_SECRET}"}
        environment["VAULTCTL_STORE"] = f"disk:{Path(folder) / 'kv'}"
        _seconds([_PROGRAM, "init", "--create-store", "--argon2", "1,8,1", "--yes"], environment)
        for _ in range(rounds):
            least = {name: _least(name, environment) for name in ("click", *GOALS)}
            for name in GOALS:
                ratios[name].append(least[name] / least["click"])
    return {GOALS[name]: Ratio.of(found) for name, found in ratios.items()}


def _least(name: str, environment: Mapping[str, str]) -> float:
    if name == "click":
        command = [_CLICK]
    elif name == "import kvseal":
        command = [name]
    else:
        command = [_PROGRAM, *name.split()]
    return min(_seconds(command, environment) for _ in range(_RUNS_OF_ONE_ROUND))


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the CPU time of a Python that runs the first of *command* with the others as its arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", *command], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
