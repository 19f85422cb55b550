"""
Writes `results/README.md` from the committed figures, so that no number in it was typed.

`--check` writes nothing and fails if the page is not what the figures say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS: Final = Path(__file__).parent / "results"
PAGE: Final = RESULTS / "README.md"
PROJECT_PAGE: Final = RESULTS.parent.parent / "README.md"
START: Final = "<!-- numbers from benchmarks/results: python -m benchmarks.report -->\n"
END: Final = "<!-- end of numbers -->\n"

_PARTS: Final = {
    "put": {
        "encode": ("orjson.dumps",),
        "Sealer.seal": ("urandom", "AES-GCM encrypt"),
        "to_stored": ("base64 encode",),
    },
    "get": {
        "from_stored": ("base64 decode",),
        "Opener.open": ("AES-GCM decrypt",),
        "decode": ("orjson.loads",),
    },
}
"""What each operation consists of, and which primitives each part calls."""

_HEAD: Final = """# Results

Written by `python -m benchmarks.report` from `gate.json`, `suite.json` and `recode.json`; how they
came about is in [the page above](../README.md).
"""


def render(gate: dict[str, Any], suite: dict[str, Any], recode: dict[str, Any]) -> str:
    """Return the page for the figures of the gate, of the pytest-benchmark suite and of the migration."""
    parts = [
        _HEAD,
        *_machine(gate["machine"]),
        *_ratios(gate),
        *_times(gate),
        *_parts(gate["parts"]),
        *_constants(suite),
        *migration.render(recode),
    ]
    return "\n".join(parts) + "\n"


def render_project_page(text: str, gate: dict[str, Any], recode: dict[str, Any]) -> str:
    """Return the project's README with its numbers replaced by those of the gate and the migration."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n".join([*_summary(gate), *migration.summary(recode)]) + "\n" + END + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page differs from the figures")
    options = parser.parse_args(arguments)
    gate, suite, recode = (
        json.loads((RESULTS / name).read_text()) for name in ("gate.json", "suite.json", "recode.json")
    )
    pages = {
        PAGE: render(gate, suite, recode),
        PROJECT_PAGE: render_project_page(PROJECT_PAGE.read_text(), gate, recode),
    }
    for path, text in pages.items():
        if not options.check:
            path.write_text(text)
        elif path.read_text() != text:
            print(
                f"{path.name} is not what the figures say: run python -m benchmarks.report", file=sys.stderr
            )
            return 1
    return 0


_SUMMARY: Final = """\
How many times as fast as py-key-value's `FernetEncryptionWrapper`, and as an AES-GCM wrapper written by
hand on the same base class; and the time beside the floor, the bare primitive calls in a straight line,
which check nothing.  Medians:

| | Fernet | by hand | time by the floor's |
|---|---|---|---|
"""


def _summary(gate: dict[str, Any]) -> Iterator[str]:
    """Yield what the project's README says of speed."""
    yield _SUMMARY.rstrip("\n")
    for row in gate["comparisons"]:
        ratios = [f"{row['ratios'][peer]['median']:.1f}" for peer in ("fernet", "by hand")]
        floor = f"{row['ratios']['floor']['median']:.2f}"
        yield f"| {row['operation']} {row['size']} | {' | '.join(ratios)} | {floor} |"
    missed = list(_missed(gate))
    if missed:
        yield ""
        yield "The goal against the floor is missed at " + ", ".join(missed) + ":"
        yield "at these sizes the checks in Python take as long as that."


def _missed(gate: dict[str, Any]) -> Iterator[str]:
    ratios = {(row["operation"], row["size"]): row["ratios"] for row in gate["comparisons"]}
    for goal in gate["goals"]:
        median = ratios[goal["operation"], goal["size"]][goal["peer"]]["median"]
        if goal["peer"] == "floor" and median > goal["factor"]:
            yield f"{goal['operation']} {goal['size']} ({median:.2f}, goal {goal['factor']:g})"


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    yield f"{machine['python']}, {machine['system']}, {cores}; {libraries}."


def _ratios(gate: dict[str, Any]) -> Iterator[str]:
    goals = {(goal["operation"], goal["size"], goal["peer"]): goal["factor"] for goal in gate["goals"]}
    yield ""
    yield "## Ratios"
    yield ""
    yield "Against Fernet and the wrapper written by hand: how many times as fast kvseal is.  Against the"
    yield "floor: how many times its time kvseal takes.  Medians over all rounds, the middle half, the goal."
    yield ""
    yield "| | Fernet | by hand | floor |"
    yield "|---|---|---|---|"
    for row in gate["comparisons"]:
        cells = []
        for peer in ("fernet", "by hand", "floor"):
            ratio = row["ratios"][peer]
            cell = f"**{ratio['median']:.2f}** ({ratio['low']:.2f}-{ratio['high']:.2f})"
            factor = goals.get((row["operation"], row["size"], peer))
            sign = "≤" if peer == "floor" else "≥"
            cells.append(cell if factor is None else f"{cell}, goal {sign} {factor:g}")
        yield f"| {row['operation']} {row['size']} | {' | '.join(cells)} |"


def _times(gate: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Microseconds"
    yield ""
    yield "| | kvseal | floor | by hand | Fernet |"
    yield "|---|---|---|---|---|"
    for row in gate["comparisons"]:
        times = [f"{row['microseconds'][peer]:.2f}" for peer in ("kvseal", "floor", "by hand", "fernet")]
        yield f"| {row['operation']} {row['size']} | {' | '.join(times)} |"


def _parts(parts: dict[str, float]) -> Iterator[str]:
    yield ""
    yield "## Where the time goes"
    yield ""
    yield "Nanoseconds at 1 KiB, each part timed alone.  The primitive is what the floor pays too; around"
    yield "it are the checks, the associated data and the calls that kvseal adds.  A part that runs alone"
    yield "finds every cache warm, so the rest is more than the lines of code that it stands for."
    yield ""
    yield "| operation | part | whole | of it the primitive | around it |"
    yield "|---|---|---|---|---|"
    for operation, rows in _PARTS.items():
        for part, primitives in rows.items():
            inner = sum(parts[name] for name in primitives)
            yield (
                f"| {operation} | {part} | {parts[part]:.0f} | {', '.join(primitives)}: {inner:.0f} "
                f"| {parts[part] - inner:.0f} |"
            )
        known = sum(parts[name] for name in rows)
        rest = parts[operation] - known - parts[f"store.{operation}"]
        yield f"| {operation} | the store's own {operation} | {parts[f'store.{operation}']:.0f} | | |"
        yield f"| {operation} | the rest: names, vault, keyring, coroutine, colder caches | {rest:.0f} | | |"
        yield f"| {operation} | **all** | **{parts[operation]:.0f}** | | |"


def _constants(suite: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## What does not grow"
    yield ""
    yield "| | records | figure |"
    yield "|---|---|---|"
    for row in suite["benchmarks"]:
        if row["group"] == "rotate":
            facts = row["extra_info"]
            took = row["stats"]["median"] * 1000
            yield (
                f"| rotate to another secret, Argon2id at its least cost | {facts['entries'] - 1:,} "
                f"| {took:.1f} ms; {facts['changed']} of {facts['entries']:,} entries changed |"
            )
        if row["group"] == "scan":
            for records, peak in row["extra_info"]["peak bytes"].items():
                yield f"| peak memory of a scan of a disk store | {int(records):,} | {peak / 2**20:.2f} MiB |"


if __name__ == "__main__":
    sys.exit(main())
