"""A working directory of its own, with a secret in the environment and no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.harness import FERNET_KEY, NEW_SECRET, SECRET, Terminalless

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def vaultctl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Terminalless:
    """Return vaultctl in an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("KVSEAL_MASTER_KEY", SECRET)
    monkeypatch.setenv("NEW", NEW_SECRET)
    monkeypatch.setenv("OLD", FERNET_KEY)
    monkeypatch.setenv("VAULTCTL_STORE", "disk:kv")
    for name in ("VAULTCTL_META_STORE", "VAULTCTL_MANIFEST", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return Terminalless(work, capsys, monkeypatch)
