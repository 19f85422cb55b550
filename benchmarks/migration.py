"""What the report says of `recode.json`: the speed of a migration, what it is made of, and how it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 2**20


def render(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the results page."""
    yield from _ratios(figures)
    yield from _shares(figures)
    if "restore" in figures:
        yield from _restore(figures["restore"])
    if "scale" in figures:
        yield from _growth(figures["scale"])
    if "partitions" in figures:
        yield from _partitions(figures["partitions"])


def summary(figures: dict[str, Any]) -> Iterator[str]:
    """Yield what the project's README says: the ratios, and the goals that are missed."""
    ratios = ", ".join(
        f"{name} {row['ratio']['median']:.1f} (goal {row['goal']:g})"
        for name, row in figures["backends"].items()
    )
    yield ""
    yield "A migration of 1 KiB Fernet records, how many times as fast as the loop of `ttl()` and `put()`:"
    yield f"{ratios}."
    missed = ", ".join(_missed(figures))
    if missed:
        yield f"Missed on this machine: {missed}; the benchmarks' page says why."


def _missed(figures: dict[str, Any]) -> Iterator[str]:
    for name, row in figures["backends"].items():
        short = 1 - row["ratio"]["median"] / row["goal"]
        if short > 0:
            yield f"{name} by {short:.0%}"
    if "partitions" in figures:
        goal, speedup = figures["partitions"]["goal"], figures["partitions"]["speedup"]["median"]
        if speedup < goal:
            yield f"two processes on Redis by {1 - speedup / goal:.0%}"


def _ratios(figures: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Migration"
    yield ""
    yield "How many times as fast as the loop of `ttl()` and `put()`; wall time, medians, the middle half."
    missed = ", ".join(_missed(figures))
    if missed:
        yield f"The goal is missed here: {missed}."
    yield ""
    yield "| | records | recode | goal | with its verify pass | µs a record: loop | recode | with verify |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in figures["backends"].items():
        ratio, verified, times = row["ratio"], row["verified"], row["microseconds"]
        yield (
            f"| {name} | {row['records']:,}"
            f" | **{ratio['median']:.1f}** ({ratio['low']:.1f}-{ratio['high']:.1f})"
            f" | ≥ {row['goal']:g} | {verified['median']:.1f} ({verified['low']:.1f}-{verified['high']:.1f})"
            f" | {times['loop']:.0f} | {times['recode']:.0f} | {times['verified']:.0f} |"
        )


def _shares(figures: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "Where the time goes, one page at a time so that nothing overlaps:"
    yield ""
    yield "| | | backend | Fernet | sealing | rest |"
    yield "|---|---|---|---|---|---|"
    for name, row in figures["backends"].items():
        for who, parts in row["shares"].items():
            cells = " | ".join(f"{share:.0%}" for share in parts.values())
            yield f"| {name} | {who} | {cells} |"


def _restore(restore: dict[str, Any]) -> Iterator[str]:
    ratio, times = restore["ratio"], restore["microseconds"]
    yield ""
    yield f"A restore of {restore['records']:,} records of 1 KiB to disk, in turns; medians, µs a record:"
    yield ""
    yield "| | CPU | wall time |"
    yield "|---|---|---|"
    for way, title in (("single", "put one by one"), ("paged", "put by pages")):
        yield f"| {title} | {times[f'{way} cpu']:.0f} | {times[f'{way} wall']:.0f} |"
    yield ""
    spread = f"{ratio['low']:.1f}-{ratio['high']:.1f}, goal ≥ {restore['goal']:g}"
    yield f"By pages it takes **{ratio['median']:.1f}** times less CPU time ({spread})."


def _growth(scale: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "A process that migrates on Redis, from after its warm-up to its end:"
    yield ""
    yield f"| records | µs a record | of it CPU | more memory (goal < {scale['most growth'] // _MIB} MiB) |"
    yield "|---|---|---|---|"
    for row in scale["rows"]:
        yield (
            f"| {row['records']:,} | {row['microseconds']:.0f} | {row['cpu microseconds']:.0f} "
            f"| {row['growth'] / _MIB:.1f} MiB |"
        )


def _partitions(partitions: dict[str, Any]) -> Iterator[str]:
    speedup, seconds, cpu = (partitions[name] for name in ("speedup", "seconds", "cpu seconds of each"))
    yield ""
    yield (
        f"Two processes with a partition each, on Redis with {partitions['records']:,} records: "
        f"**{speedup['median']:.2f}** times as fast as one ({speedup['low']:.2f}-{speedup['high']:.2f}, "
        f"goal ≥ {partitions['goal']:g});"
    )
    yield (
        f"{seconds['1']:.2f} s against {seconds['2']:.2f} s, "
        f"of CPU {cpu['1']:.2f} s against {cpu['2']:.2f} s in each."
    )
