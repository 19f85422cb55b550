"""What `bench argon2` found: as tables and a chart for people, as one JSON line for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from kvseal.calibration.goal import PROFILES
from kvseal.calibration.measurement import cost_as_dict
from kvseal.cli.bench.chart import chart, memory
from kvseal.cli.output import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvseal.calibration.machine import Machine
    from kvseal.calibration.measurement import Comparison, Measurement
    from kvseal.calibration.search import Calibration
    from kvseal.envelope.kdf import Argon2idParams

_MIB = 2**20


@dataclass(slots=True)
class Bench:
    """One run: the machine, what was found, and whether it was applied."""

    machine: Machine
    found: Calibration
    comparison: Comparison | None
    starts: list[int]
    interrupted: bool
    seconds: float
    applied: bool = False

    @property
    def profiles(self) -> dict[str, Measurement]:
        """The named profiles that were measured."""
        by_params = {one.params: one for one in self.found.measurements if not one.failure}
        return {name: by_params[params] for name, params in PROFILES.items() if params in by_params}

    @property
    def command(self) -> str:
        """The command that applies the choice."""
        return (
            "" if self.found.choice is None else f"vaultctl rotate --argon2 {_flag(self.found.choice.params)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the summary that `--json` prints last."""
        choice = self.found.choice
        return {
            "type": "summary",
            "schema": 1,
            "command": "bench argon2",
            "machine": self.machine.as_dict(),
            "goal": self.found.goal.as_dict(),
            "profiles": {name: cost_as_dict(params) for name, params in PROFILES.items()},
            "choice": None if choice is None else choice.as_dict(),
            "decided_by": self.found.decided_by,
            "steady": self.found.steady,
            "interrupted": self.interrupted,
            "starts": {} if choice is None else {str(n): n * choice.rise for n in self.starts},
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "apply": self.command if self.found.steady else None,
            "applied": self.applied,
            "seconds": round(self.seconds, 3),
        }

    def tables(self) -> list[RenderableType]:
        """Return all that people are shown, from the machine to the command."""
        shown: list[RenderableType] = [self._machine(), self._measured()]
        lines = chart(self.found, self.profiles)
        if lines:
            shown.append(Group("Time over memory", *map(Text, lines)))
        if self.found.choice is not None:
            shown += [self._choice(self.found.choice), self._starts(self.found.choice)]
        return shown

    def _machine(self) -> Table:
        m = self.machine
        return Table(
            "Machine",
            ("", ""),
            [
                ("processor", m.processor),
                ("CPUs", f"{m.cpus} that this process may use"),
                ("memory", f"{m.memory.size // _MIB:,} MiB that this process may use: {m.memory.source}"),
                ("system", m.system),
                ("Python", m.python),
                ("argon2-cffi", m.argon2_cffi),
                ("cryptography", m.cryptography),
            ],
        )

    def _measured(self) -> Table:
        names = {params: name for name, params in PROFILES.items()}
        rows = [
            (
                one.params.time_cost,
                memory(one.params.memory_cost),
                one.params.parallelism,
                one.failure or f"{one.median:,.1f}",
                "" if one.failure else f"{min(one.runs):,.1f} to {max(one.runs):,.1f}",
                "" if one.failure else f"{one.peak / _MIB:,.0f} MiB",
                names.get(one.params, ""),
            )
            for one in sorted(
                self.found.measurements, key=lambda one: one.params.encode()[4:] + one.params.encode()
            )
        ]
        columns = ("passes", "memory", "lanes", "median, ms", "all runs, ms", "peak RSS", "profile")
        return Table("Measured", columns, rows)

    def _choice(self, choice: Measurement) -> Table:
        goal = self.found.goal
        low, high = goal.band
        rows = [
            ("cost", str(choice.params)),
            ("takes", f"{choice.median:,.0f} ms; accepted are {low:,.0f} to {high:,.0f} ms"),
            ("memory allowed", f"{memory(goal.max_memory)}: {goal.limited_by}"),
            ("decided by", self.found.decided_by),
        ]
        if self.comparison is not None:
            rows.append(("cryptography", _comparison(self.comparison)))
        if self.found.steady:
            rows.append(("apply it", self.command))
            return Table("Choice", ("", ""), rows)
        return Table("So far" if self.interrupted else "Not confirmed", ("", ""), rows)

    def _starts(self, choice: Measurement) -> Table:
        rows = [
            (
                f"{count:,}",
                f"{count * choice.rise / _MIB:,.0f} MiB",
                f"{100 * count * choice.rise / max(1, self.machine.memory.size):,.0f} %",
            )
            for count in self.starts
        ]
        return Table("Starts at once", ("starts", "memory", "of what may be used"), rows)


def _flag(params: Argon2idParams) -> str:
    return f"{params.time_cost},{params.memory_cost},{params.parallelism}"


def _comparison(found: Comparison) -> str:
    if found.missing:
        return f"not compared: {found.missing}"
    same = "the same output" if found.agree else "A DIFFERENT OUTPUT, which must never happen"
    return (
        f"{found.cryptography_ms:,.0f} ms, {found.ratio:.2f} times argon2-cffi's"
        f" {found.argon2_cffi_ms:,.0f} ms in the same run; {same}"
    )
