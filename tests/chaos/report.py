"""What a run of chaos says: a few lines for each round, and a table of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.chaos.round import Result

_SHOWN = 12
_COLUMNS = (
    "written",
    "read",
    "failed",
    "commands",
    "killed",
    "stopped",
    "cut",
    "failed over",
    "restarted",
    "full",
    "store lost",
    "announced",
    "lost",
)


def lines(result: Result) -> Iterator[str]:
    """Yield what happened in one round."""
    yield f"{result.kind}: {_counts(result.faults)}"
    yield f"  vaultctl: {_counts(result.commands)}"
    if result.record.errors:
        yield f"  not acknowledged: {_counts(result.record.errors)}"
    if result.record.warnings:
        yield f"  warned of: {_counts(result.record.warnings)}"
    if result.verdict.by_store:
        yield f"  lost by the store itself: {_counts(result.verdict.by_store)}"
    for name, found in (
        ("LOST", result.verdict.lost),
        ("announced", result.verdict.announced),
        ("WRONG", result.complaints),
    ):
        for what in found[:_SHOWN]:
            yield f"  {name}: {what}"
        if len(found) > _SHOWN:
            yield f"  {name}: {len(found) - _SHOWN} more"


def table(results: Sequence[Result]) -> str:
    """Return the table of all rounds."""
    rows = [("backend", *_COLUMNS), *((result.kind, *map(str, _row(result))) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _row(result: Result) -> tuple[int, ...]:
    faults, verdict = result.faults, result.verdict
    return (
        result.record.writes,
        verdict.read,
        result.record.errors.total(),
        result.commands.total(),
        faults["kill"] + faults["vaultctl kill"],
        faults["pause"] + faults["vaultctl stop"] + faults["lull"],
        faults["cut before"] + faults["cut after"] + faults["darkness"],
        faults["failover"],
        faults["restart"],
        faults["full"],
        verdict.by_store.total(),
        len(verdict.announced),
        len(verdict.lost),
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "nothing"
