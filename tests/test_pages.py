"""The pages name only modules, functions and files that exist, and the decisions have an index."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvseal.observe import audit, telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "kvseal"
PAGES: Final = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("migrations/**/README.md"),
        *ROOT.glob("benchmarks/**/*.md"),
    ]
)

DOTTED: Final = re.compile(r"(?<![\w./-])kvseal(?:\.[A-Za-z_]\w*)+")
FILE: Final = re.compile(r"(?<![\w./-])(?:[\w-]+/)+[\w-]+\.(?:py|toml|md)\b")

ATTRIBUTES: Final = {"kvseal.operation", "kvseal.dek", "kvseal.vault.id", "kvseal.cache"}
"""Attributes of OpenTelemetry's counters."""
ELSEWHERE: Final = {audit.LOGGER.name, *telemetry._INSTRUMENTS, *ATTRIBUTES}
"""Names of a logger and of counters, which are not modules."""

RECORD: Final = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n\n"
    r"Status: (?P<status>proposed|accepted|superseded by \d+), (?P<date>\d{4}-\d\d-\d\d)\."
)
ROW: Final = re.compile(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| (.+) \| (.+) \|$", re.MULTILINE)

WORDS: Final = {
    *("master secret", "KEK", "keyslot", "root key", "DEK", "keyring", "vault meta", "record"),
    *("seal", "open", "wrap", "unwrap", "recode", "driver", "checkpoint", "census", "legacy"),
}


@cache
def is_there(name: str) -> bool:
    """Whether *name* is a module or something that can be reached from one by its attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def mentions(pattern: re.Pattern[str], files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield everything in *files* that *pattern* finds, with the file in which it stands."""
    for path in files:
        for name in pattern.findall(path.read_text(encoding="utf-8")):
            yield path, name


def test_every_dotted_name_can_be_imported() -> None:
    """Every `kvseal.…` in a page, a docstring or a comment is a name that Python finds."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in mentions(DOTTED, [*PAGES, *sorted(PACKAGE.rglob("*.py"))])
        if name not in ELSEWHERE and not is_there(name)
    ]

    assert [] == wrong


def test_every_file_that_a_page_names_exists() -> None:
    """Every file that a page names by its path is there, from the root, the package or the page on."""
    wrong = [
        f"{page.relative_to(ROOT)}: {name}"
        for page, name in mentions(FILE, PAGES)
        if page.name != "CONTRIBUTING.md"  # It names files that are yet to be written.
        and "NAME" not in name  # What the reader's own backend is called.
        and not any((base / name).exists() for base in (ROOT, PACKAGE, page.parent))
    ]

    assert [] == wrong


def test_every_decision_is_in_the_index() -> None:
    """The index of the decisions has each record with the title, status and date that it starts with."""
    folder = ROOT / "docs" / "decisions"
    records = {
        path.name: RECORD.match(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("0*.md"))
    }
    rows = ROW.findall((folder / "README.md").read_text(encoding="utf-8"))

    assert [] == [name for name, head in records.items() if head is None]
    assert [
        (head["number"], head["title"], name, head["status"], head["date"])
        for name, head in records.items()
        if head is not None
    ] == rows
    assert [f"{int(number):04}" for number, *_ in rows] == [name[:4] for name in records]


def test_the_glossary_has_every_word() -> None:
    """The glossary explains every word of the design, and the README links it."""
    words = re.findall(r"\*\*([\w ]+)\*\*", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))

    assert set() == WORDS - set(words)
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
