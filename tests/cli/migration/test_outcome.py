"""What a migration says at its end: counts that an operator can act on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvseal.cli.migration import outcome


class Notes:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, line: str) -> None:
        """Keep *line*."""
        self.said.append(line)


@pytest.mark.parametrize(
    ("kinds", "count"),
    [(["fernet"], "1 old key,"), (["fernet", "kvseal-dek", "fernet"], "2 old keys,")],
    ids=["one", "beside a DEK"],
)
def test_held_keys_are_counted(kinds: list[str], count: str) -> None:
    """A DEK that lost its number is held too, and is no old key; nor is one with which reads have ended."""
    held = [SimpleNamespace(kind=kind, ended_at=None) for kind in kinds]
    held.append(SimpleNamespace(kind="fernet", ended_at="2026-01-02T03:04:05Z"))
    vault = SimpleNamespace(legacy=held, policy={"read_legacy": True})
    output: Any = Notes()

    outcome.tell_imported(output, SimpleNamespace(vault=vault))  # type: ignore[arg-type]

    assert f"the vault holds {count}" in output.said[0]
