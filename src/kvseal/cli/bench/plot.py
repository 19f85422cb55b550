"""`--plot FILE`: time over memory as PNG or SVG, by matplotlib, which is an extra."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from kvseal.errors import UsageError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.calibration.measurement import Measurement
    from kvseal.calibration.search import Calibration

_FORMATS: Final = (".png", ".svg")


def check_plot(file: Path) -> None:
    """Raise `UsageError`, before anything is measured, if *file* cannot become a plot."""
    if file.suffix.lower() not in _FORMATS:
        msg = f"{file} is to be a plot, so its name ends with {' or '.join(_FORMATS)}"
        raise UsageError(msg)
    if not file.parent.is_dir():
        msg = f"there is no directory {file.parent}"
        raise UsageError(msg)
    if find_spec("matplotlib") is None:
        msg = "--plot needs matplotlib"
        raise UsageError(msg, hint="pip install 'kvseal[plot]'; without --plot the terminal shows a chart")


def plot(file: Path, found: Calibration, profiles: dict[str, Measurement]) -> None:
    """Write *file*, in place of one that is there."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    low, high = found.goal.band
    axes.axhspan(low, high, alpha=0.2, color="tab:green", label=f"accepted, {low:,.0f} to {high:,.0f} ms")
    axes.axvline(found.goal.max_memory / 1024, linestyle="--", color="tab:gray", label="most memory")
    for passes in sorted({one.params.time_cost for one in _own(found)}):
        line = sorted(
            (one.params.memory_cost / 1024, one.median)
            for one in _own(found)
            if one.params.time_cost == passes
        )
        axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=f"t={passes}")
    for name, one in profiles.items():
        place = (one.params.memory_cost / 1024, one.median)
        axes.plot(*place, marker="D", linestyle="", color="black")
        axes.annotate(name, place, textcoords="offset points", xytext=(6, -12), fontsize="small")
    if found.choice is not None:
        params = found.choice.params
        axes.plot(
            params.memory_cost / 1024,
            found.choice.median,
            marker="*",
            markersize=16,
            linestyle="",
            color="tab:red",
            label=f"choice: {params}",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("memory, MiB")
    axes.set_ylabel("time of one derivation, ms")
    axes.set_title(f"Argon2id with {found.goal.parallelism} lanes on this machine")
    axes.legend(fontsize="small")
    try:
        figure.savefig(file, format=file.suffix[1:].lower())
    except OSError as exc:
        msg = f"{file} cannot be written: {reason_of(exc)}"
        raise UsageError(msg) from exc


def _own(found: Calibration) -> list[Measurement]:
    lanes = found.goal.parallelism
    return [one for one in found.measurements if one.params.parallelism == lanes and not one.failure]
