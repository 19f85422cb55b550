"""The frozen vaults open to what they hold by the words of docs/format.md alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.test_migrations import expectations
from tests.vectors import verify_legacy


@pytest.mark.exhaustive
@pytest.mark.parametrize("folder", verify_legacy.vaults(), ids=lambda path: path.name)
def test_a_frozen_vault(folder: Path) -> None:
    """An implementation that shares nothing with kvseal opens what kvseal opens, and nothing else."""
    opens = [one for one in expectations(folder.name) if one.is_sealed]

    assert len(opens) == verify_legacy.check(folder)


def test_it_shares_nothing() -> None:
    """It imports nothing of kvseal."""
    text = Path(verify_legacy.__file__).read_text(encoding="utf-8")

    assert [] == re.findall(r"^\s*(?:from|import) kvseal", text, re.MULTILINE)
