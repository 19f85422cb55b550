"""The trial with a real FastMCP server; it builds an environment, which needs a package index and minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = Path(__file__).parents[2] / "scripts" / "try_fastmcp.py"


@pytest.mark.long
@pytest.mark.processes
def test_a_real_server(tmp_path: Path) -> None:
    """Logins, refreshes and a client with a URL survive the migration, and then the rotation of every key."""
    command = [sys.executable, TRIAL, "--fastmcp", "==4.2.3", tmp_path]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "ok: all is rotated, and nothing failed or stayed behind" in done.stdout
