"""Time over memory as text, both on logarithmic scales: what a terminal can show of a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.calibration.measurement import Measurement
    from kvseal.calibration.search import Calibration

_WIDTH: Final = 60
_HEIGHT: Final = 14
_MANY: Final = 10
_MARKS: Final = {"rfc9106-low-memory": "L", "rfc9106-high-memory": "H", "owasp-minimum": "O"}
CHOICE: Final = "*"


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values on a logarithmic scale, as so many cells."""

    low: float
    high: float
    cells: int

    @classmethod
    def over(cls, values: Sequence[float], cells: int) -> _Axis:
        low, high = min(values), max(values)
        return cls(low, high if high > low else low * 2, cells)

    def cell(self, value: float) -> int:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(self.cells - 1, max(0, round(share * (self.cells - 1))))


def chart(found: Calibration, profiles: dict[str, Measurement]) -> list[str]:
    """
    Return the lines of a chart of what was measured, with *profiles* and the choice marked.

    The row or rows of the accepted times are dotted.  A digit is the number of passes.
    """
    shown = [one for one in found.measurements if not one.failure]
    if not shown:
        return []
    band = found.goal.band
    columns = _Axis.over([one.params.memory_cost for one in shown], _WIDTH)
    rows = _Axis.over([*(one.median for one in shown), *band], _HEIGHT)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for row in range(rows.cell(band[0]), rows.cell(band[1]) + 1):
        grid[row] = ["·"] * _WIDTH
    for one, mark in _marked(found, shown, profiles):
        grid[rows.cell(one.median)][columns.cell(one.params.memory_cost)] = mark
    labels = {rows.cell(band[0]): f"{found.goal.target_ms:,.0f} ms"}
    labels |= {0: f"{rows.low:,.3g} ms", _HEIGHT - 1: f"{rows.high:,.3g} ms"}
    lines = [f"{labels.get(row, ''):>10} │{''.join(grid[row]).rstrip()}" for row in reversed(range(_HEIGHT))]
    ends = f"{memory(columns.low)}{memory(columns.high):>{_WIDTH - len(memory(columns.low))}}"
    legend = "".join(f", {_MARKS[name]} {name}" for name in _MARKS if name in profiles)
    return [*lines, f"{'':>10} └{'─' * _WIDTH}", f"{'':>12}{ends}", f"{'':>12}1-9 passes, * choice{legend}"]


def memory(kib: float) -> str:
    """Return a memory cost as people write it."""
    return f"{kib / 1024:,.0f} MiB" if kib >= 1024 and kib % 1024 == 0 else f"{kib:,.0f} KiB"  # noqa: PLR2004


def _marked(
    found: Calibration, shown: Sequence[Measurement], profiles: dict[str, Measurement]
) -> list[tuple[Measurement, str]]:
    """Return what stands where; the later one wins a cell."""
    marks = [
        (one, str(passes) if (passes := one.params.time_cost) < _MANY else "+")
        for one in shown
        if one.params.parallelism == found.goal.parallelism
    ]
    marks += [(one, _MARKS[name]) for name, one in profiles.items()]
    return marks + ([] if found.choice is None else [(found.choice, CHOICE)])
