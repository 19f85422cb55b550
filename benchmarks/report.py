"""
Writes the pages' figures from the committed results, so that no number in them was typed.

`--check` writes nothing and fails if a page is not what the figures say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import beside, migration, profile_table, suite
from benchmarks.gate import FLOORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Figures = Mapping[str, Any]

RESULTS: Final = Path(__file__).parent / "results"
PAGE: Final = RESULTS / "README.md"
BENCHMARKS_PAGE: Final = RESULTS.parent / "README.md"
PROJECT_PAGE: Final = RESULTS.parent.parent / "README.md"
START: Final = "<!-- numbers from benchmarks/results: python -m benchmarks.report -->\n"
END: Final = "<!-- end of numbers -->\n"

_FILES: Final = ("gate", "suite", "recode", "profile")
_PEERS: Final = {
    "fernet": "Fernet",
    "by hand": "by hand",
    "tink": "Tink by hand",
    "floor": "floor",
    "packed floor": "floor in MessagePack",
}

_HEAD: Final = """# Results

Written by `python -m benchmarks.report` from `gate.json`, `suite.json` and `recode.json`; how they
came about, and where the time goes, is in [the page above](../README.md).
"""


def render(figures: Figures) -> str:
    """Return the page for the figures of the gate, of the pytest-benchmark suite and of the migration."""
    gate = figures["gate"]
    parts = [
        _HEAD,
        *_machine(gate["machine"]),
        *_ratios(gate),
        *_times(gate),
        *_least(gate),
        *suite.render(figures["suite"]),
        *migration.render(figures["recode"]),
        *(beside.render(figures["beside"]) if "beside" in figures else ()),
    ]
    return "\n".join(parts) + "\n"


def render_benchmarks_page(text: str, figures: Figures) -> str:
    """Return the page above the results with its tables of parts replaced."""
    lines = profile_table.render(figures["profile"])
    return _between(text, profile_table.START, profile_table.END, lines)


def render_project_page(text: str, figures: Figures) -> str:
    """Return the project's README with its numbers replaced."""
    gate = figures["gate"]
    lines = [
        *_summary(gate),
        *suite.summary(figures["suite"]),
        *migration.summary(figures["recode"]),
        *(beside.summary(figures["beside"]) if "beside" in figures else ()),
        "",
        *_machine(gate["machine"]),
    ]
    return _between(text, START, END, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page differs from the figures")
    options = parser.parse_args(arguments)
    figures = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in _FILES}
    if (RESULTS / "beside.json").exists():
        figures["beside"] = json.loads((RESULTS / "beside.json").read_text())
    pages = {
        PAGE: render(figures),
        BENCHMARKS_PAGE: render_benchmarks_page(BENCHMARKS_PAGE.read_text(), figures),
        PROJECT_PAGE: render_project_page(PROJECT_PAGE.read_text(), figures),
    }
    for path, text in pages.items():
        if not options.check:
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path} is not what the figures say: run python -m benchmarks.report", file=sys.stderr)
            return 1
    return 0


def _between(text: str, start: str, end: str, lines: Iterable[str]) -> str:
    before, found, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    assert found, start
    assert found_end, end
    return before + start + "\n".join(lines) + "\n" + end + after


_SUMMARY: Final = """\
How many times as fast as py-key-value's `FernetEncryptionWrapper`, and as wrappers written by hand on the
same base class; and the time beside the floor, the bare primitive calls in a straight line, which check
nothing.  Over a dict, medians:
"""
_HEADS: Final = {
    "tink": "by hand with Tink",
    "floor": "time by the floor's",
    "packed floor": "by that of the floor in MessagePack",
}
_NAMES: Final = {"fernet": "Fernet", "floor": "the floor"}
_REASONS: Final = {"floor": ": the second encoder, and lines of Python, take as long as that"}


def _summary(gate: dict[str, Any]) -> Iterator[str]:
    """Yield what the project's README says of speed."""
    peers = [peer for peer in _PEERS if peer in gate["comparisons"][0]["ratios"]]
    yield _SUMMARY
    yield f"| | {' | '.join(_HEADS.get(peer, _PEERS[peer]) for peer in peers)} |"
    yield "|---" * (len(peers) + 1) + "|"
    for row in gate["comparisons"]:
        cells = [f"{row['ratios'][peer]['median']:.{2 if peer in FLOORS else 1}f}" for peer in peers]
        yield f"| {row['operation']} {row['value']} | {' | '.join(cells)} |"
    for peer in peers:
        missed = ", ".join(_missed(gate, peer))
        if missed:
            yield ""
            yield f"The goal against {_NAMES.get(peer, peer)} is missed at {missed}{_REASONS.get(peer, '')}."


def _missed(gate: dict[str, Any], peer: str) -> Iterator[str]:
    ratios = {(row["operation"], row["value"]): row["ratios"] for row in gate["comparisons"]}
    for goal in (goal for goal in gate["goals"] if goal["peer"] == peer):
        median, factor = ratios[goal["operation"], goal["value"]][peer]["median"], goal["factor"]
        if median > factor if peer in FLOORS else median < factor:
            yield f"{goal['operation']} {goal['value']} ({median:.2f}, goal {factor:g})"


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    yield f"{machine['python']}, {machine['system']}, {cores}; {libraries}."


def _ratios(gate: dict[str, Any]) -> Iterator[str]:
    goals = {(goal["operation"], goal["value"], goal["peer"]): goal["factor"] for goal in gate["goals"]}
    peers = [peer for peer in _PEERS if peer in gate["comparisons"][0]["ratios"]]
    yield ""
    yield "## Ratios"
    yield ""
    yield "Over a dict, in turns.  Against Fernet and the wrappers written by hand: how many times as fast"
    yield "kvseal is.  Against the floor: how many times its time kvseal takes.  Medians over all rounds,"
    yield "the middle half, the goal."
    yield ""
    yield f"| | {' | '.join(_PEERS[peer] for peer in peers)} |"
    yield "|---" * (len(peers) + 1) + "|"
    for row in gate["comparisons"]:
        cells = [_cell(row, peer, goals) for peer in peers]
        yield f"| {row['operation']} {row['value']} | {' | '.join(cells)} |"


def _cell(row: dict[str, Any], peer: str, goals: Mapping[tuple[str, str, str], float]) -> str:
    ratio, factor = row["ratios"][peer], goals.get((row["operation"], row["value"], peer))
    cell = f"**{ratio['median']:.2f}** ({ratio['low']:.2f}-{ratio['high']:.2f})"
    sign = "≤" if peer in FLOORS else "≥"
    return cell if factor is None else f"{cell}, goal {sign} {factor:g}"


def _times(gate: dict[str, Any]) -> Iterator[str]:
    names = [name for name in ("kvseal", *reversed(_PEERS)) if name in gate["comparisons"][0]["microseconds"]]
    yield ""
    yield "## Microseconds"
    yield ""
    yield f"| | {' | '.join(_PEERS.get(name, name) for name in names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for row in gate["comparisons"]:
        times = [f"{row['microseconds'][name]:.2f}" for name in names]
        yield f"| {row['operation']} {row['value']} | {' | '.join(times)} |"


def _least(gate: dict[str, Any]) -> Iterator[str]:
    rows = [row for row in gate["comparisons"] if "least" in row]
    if not rows:
        return
    peers = [peer for peer in _PEERS if peer in rows[0]["least"]]
    yield ""
    yield "## By the least times"
    yield ""
    yield "The same ratios of the least times of all rounds, which a neighbour disturbs least."
    yield ""
    yield f"| | microseconds | {' | '.join(_PEERS[peer] for peer in peers)} |"
    yield "|---" * (len(peers) + 2) + "|"
    for row in rows:
        ours, times = row["least"]["kvseal"], row["least"]
        cells = [f"{(ours / times[p] if p in FLOORS else times[p] / ours):.2f}" for p in peers]
        yield f"| {row['operation']} {row['value']} | {ours:.2f} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
