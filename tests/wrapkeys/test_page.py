"""Every block of docs/key-services.md is run, in order, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.transit_server import ROOT_TOKEN, TransitKeyRing

if TYPE_CHECKING:
    from tests.transit_server import TransitServer

PAGE = Path(__file__).parents[2] / "docs" / "key-services.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_page(transit: TransitServer, tmp_path: Path, quick_vaultctl: Path) -> None:
    """The page works as it stands, with the policy that it asks for."""
    transit.keys["transit", "kvseal"] = TransitKeyRing()
    transit.tokens["hvs.app"] = {f"transit/{verb}/kvseal": {"update"} for verb in ("encrypt", "decrypt")}
    (tmp_path / "agent-token").write_text("hvs.app\n")
    path = f"{quick_vaultctl}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    environment |= {"VAULT_ADDR": transit.url, "VAULT_TOKEN": "hvs.app"}
    printed = []
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (0, text) == (done.returncode, text), done.stderr
        printed.append(done.stdout)

    assert "{'token': '…'}\n{'token': '…'}\n" in "".join(printed)
    assert "transit transit/kvseal" in printed[-1]
    assert ROOT_TOKEN not in "".join(printed)
