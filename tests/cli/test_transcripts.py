"""
What a person sees, command by command.

A transcript is a file: `$ vaultctl …` is typed, lines behind it are stdout, `! ` marks
stderr, and `(exit N)` any code but 0.  Ids, times and secrets are replaced by their kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.harness import Terminalless, old_store, with_store
from tests.recoding.worlds import damage

if TYPE_CHECKING:
    from collections.abc import Callable

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def nothing(_: Path) -> None:
    """Leave the directory empty."""


def an_old_vault(directory: Path) -> None:
    """Put three old records into the store."""
    old_store(directory / "kv", {"a": {"v": 1}, "b": {"v": 2}, "large": {"v": "x" * 40_000}})


def a_damaged_vault(directory: Path) -> None:
    """Put a good record, a damaged one, a pickle and plaintext into the store."""
    old_store(directory / "kv", {"a": {"v": 1}, "damaged": {"v": 2}})

    async def harm(store: Any) -> None:
        await damage(store, "damaged")
        await store.put("open", {"v": 1}, collection="c")
        store._cache.set("c::pickled", {"v": 1})

    with_store(directory / "kv", harm)


def three_entries(directory: Path) -> None:
    """Put an old record, plaintext and one that nobody can read into the store."""
    old_store(directory / "kv", {"a": {"v": 1}})

    async def add(store: Any) -> None:
        await store.put("open", {"v": 1}, collection="c")
        store._cache.set("c::pickled", {"v": 1})

    with_store(directory / "kv", add)
    (directory / "garbage").write_text("no backup")


def a_file_without_a_row(directory: Path) -> None:
    """Put a value file beside a database that does not name it, as a writer does, or one that died does."""
    old_store(directory / "other", {"a": {"v": 1}})
    (directory / "other" / "ab" / "cd").mkdir(parents=True)
    (directory / "other" / "ab" / "cd" / f"{'e' * 28}.val").write_text("{}")


BEFORE: dict[str, Callable[[Path], None]] = {
    "migrate": an_old_vault,
    "three-steps-and-back": an_old_vault,
    "damage": a_damaged_vault,
    "backup": three_entries,
    "init-and-rotate": nothing,
    "deks": nothing,
    "purge": a_file_without_a_row,
    "root": nothing,
    "policy": nothing,
    "records": nothing,
    "slots": nothing,
    "bench": nothing,
    "help": nothing,
}


@pytest.mark.parametrize("name", BEFORE)
def test_transcript(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every line of the transcript is what vaultctl says today."""
    monkeypatch.setenv("WRONG", "YW5vdGhlciBhcHBsaWNhdGlvbidzIEZlcm5ldCBrZXk=")
    BEFORE[name](vaultctl.directory)
    expected = (TRANSCRIPTS / f"{name}.txt").read_text()

    assert expected == vaultctl.transcript(expected)


def test_every_transcript_is_run() -> None:
    """No transcript lies there untested."""
    assert sorted(BEFORE) == sorted(path.stem for path in TRANSCRIPTS.iterdir())
